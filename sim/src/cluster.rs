//! Members one can do things to.
//!
//! A member is a machine with a disk on which [`quorate::member::run`] runs. A supervisor in the
//! shape of systemd is left out: who ends a member also starts it again. A member that ends by
//! itself while its machine is well is a failure of the run.

use crate::env::disk::Host;
use crate::env::network::{Machine, Switch};
use crate::env::{SimEnv, Streams, below};
use crate::plan::{DiskErrorKind, DiskKnobs};
use crate::trace::Trace;
use madsim::runtime::{Handle, NodeHandle};
use madsim::task::NodeId;
use quorate::config::{Config, Request};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a member that was asked to stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A good disk.
pub const DISK: DiskKnobs = DiskKnobs { access_us: 2, sync_us: 700, capacity_bytes: 1 << 40 };

/// Things that must not happen and did.
pub type Failures = Arc<Mutex<Vec<String>>>;

struct Member {
    machine: Machine,
    host: Host,
    node: NodeId,
    config: Config,
    running: Mutex<Option<Running>>,
}

struct Running {
    shutdown: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<()>,
}

/// A cluster and the network around it.
#[derive(Clone)]
pub struct Cluster {
    trace: Trace,
    switch: Switch,
    streams: Streams,
    members: Arc<Vec<Member>>,
    failures: Failures,
}

impl Cluster {
    /// Machines for `count` members, not started. `flags` are given to each.
    pub fn new(
        trace: Trace,
        switch: Switch,
        streams: Streams,
        count: u8,
        flags: &[String],
        failures: Failures,
    ) -> Cluster {
        let machines: Vec<Machine> = (1..=count).map(Machine).collect();
        let list: Vec<String> = machines
            .iter()
            .map(|machine| format!("{machine}=http://{}:2380", machine.host()))
            .collect();
        let members = machines
            .into_iter()
            .map(|machine| Member {
                machine,
                host: host(machine, &switch, &trace, streams, &failures),
                node: Handle::current().create_node().name(machine.to_string()).build().id(),
                config: config(machine, &list.join(","), flags),
                running: Mutex::new(None),
            })
            .collect();
        Cluster { trace, switch, streams, members: Arc::new(members), failures }
    }

    pub fn machines(&self) -> Vec<Machine> {
        self.members.iter().map(|member| member.machine).collect()
    }

    /// Where clients find the members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("{}:2379", member.machine.host())).collect()
    }

    /// A machine for a client.
    pub fn client_machine(&self, number: u8) -> (NodeHandle, SimEnv) {
        let machine = Machine(100 + number);
        let node = Handle::current().create_node().name(machine.to_string()).build();
        let host = host(machine, &self.switch, &self.trace, self.streams, &self.failures);
        let network = self.switch.boot(machine);
        (node, SimEnv::new(self.trace.clone(), network, host.mount()))
    }

    fn member(&self, machine: Machine) -> &Member {
        self.members.iter().find(|member| member.machine == machine).expect("it is a member")
    }

    /// Starts a member, unless it runs.
    pub fn start(&self, machine: Machine) {
        let member = self.member(machine);
        let mut running = member.running.lock().expect("no holder panics");
        if running.is_some() {
            return;
        }
        self.trace.event(format_args!("{machine} starts"));
        let env = SimEnv::new(self.trace.clone(), self.switch.boot(machine), member.host.mount());
        let (shutdown, asked) = oneshot::channel::<()>();
        let (ending, ended) = oneshot::channel();
        *running = Some(Running { shutdown: Some(shutdown), ended });
        drop(running);
        // madsim's way to make a node usable after a kill; handles from before are not.
        Handle::current().restart(member.node);
        let node = Handle::current().get_node(member.node).expect("it was created");
        let (config, trace, failures) =
            (member.config.clone(), self.trace.clone(), self.failures.clone());
        let host = member.host.clone();
        node.spawn(async move {
            let asked = async {
                if asked.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let outcome = quorate::member::run(env, &config, asked).await;
            trace.event(format_args!("{machine} ended: {outcome:?}"));
            if let Err(error) = outcome
                && !host.has_failed()
            {
                let failure = format!("{machine} ended by itself: {error}");
                failures.lock().expect("no holder panics").push(failure);
            }
            let _ = ending.send(());
        });
    }

    /// Kills the process. The machine lives on and closes its connections.
    pub fn kill(&self, machine: Machine) {
        self.trace.event(format_args!("{machine} is killed"));
        let member = self.member(machine);
        member.host.fence();
        self.switch.close_all(machine);
        self.end(member);
    }

    /// Cuts the power.
    pub fn cut_power(&self, machine: Machine) {
        let member = self.member(machine);
        if member.host.has_power() {
            member.host.cut_power();
        }
        self.end(member);
    }

    /// Cuts the power at the n-th write or sync from now; waits until then, but not for ever.
    pub async fn cut_power_at(&self, machine: Machine, operations: u64) {
        let member = self.member(machine);
        self.trace.event(format_args!("{machine} will lose power after {operations} operations"));
        member.host.cut_power_after(operations);
        for _ in 0..200 {
            if !member.host.has_power() {
                break;
            }
            madsim::time::sleep(Duration::from_millis(10)).await;
        }
        self.cut_power(machine);
    }

    /// Lets the disk fail at the n-th write or sync from now; a member whose disk has failed is
    /// given time to end by itself. Then the machine is switched off. It need not end: when only
    /// the side file of a leader's snapshot could not be written, the snapshot is refused.
    pub async fn break_disk_at(&self, machine: Machine, operations: u64) {
        let member = self.member(machine);
        self.trace
            .event(format_args!("disk of {machine} will break after {operations} operations"));
        member.host.fail(DiskErrorKind::Write, operations, u64::MAX);
        member.host.fail(DiskErrorKind::Sync, operations, u64::MAX);
        let step = Duration::from_millis(10);
        for _ in 0..200 {
            if member.host.has_failed() {
                break;
            }
            madsim::time::sleep(step).await;
        }
        let mut patience = if member.host.has_failed() { STOP_TIMEOUT } else { Duration::ZERO };
        while !self.has_ended(member) && !patience.is_zero() {
            madsim::time::sleep(step).await;
            patience = patience.saturating_sub(step);
        }
        member.host.stop_failing();
        self.cut_power(machine);
    }

    fn has_ended(&self, member: &Member) -> bool {
        let mut running = member.running.lock().expect("no holder panics");
        running.as_mut().is_none_or(|running| {
            running.ended.try_recv() != Err(oneshot::error::TryRecvError::Empty)
        })
    }

    fn fail(&self, failure: String) {
        self.failures.lock().expect("no holder panics").push(failure);
    }

    fn end(&self, member: &Member) {
        Handle::current().kill(member.node);
        *member.running.lock().expect("no holder panics") = None;
    }

    /// Asks the process to stop and waits for it.
    pub async fn stop(&self, machine: Machine) {
        self.trace.event(format_args!("{machine} is asked to stop"));
        let member = self.member(machine);
        let running = member.running.lock().expect("no holder panics").take();
        let Some(Running { shutdown, ended }) = running else { return };
        if let Some(shutdown) = shutdown {
            let _ = shutdown.send(());
        }
        tokio::select! {
            biased;
            _ = ended => {}
            () = madsim::time::sleep(STOP_TIMEOUT) => {
                self.fail(format!("{machine} did not stop within {STOP_TIMEOUT:?}"));
            }
        }
        self.kill(machine);
    }

    /// Stops the process for a while, as SIGSTOP does.
    pub async fn pause(&self, machine: Machine, duration: Duration) {
        self.trace.event(format_args!("{machine} pauses for {duration:?}"));
        let node = self.member(machine).node;
        Handle::current().pause(node);
        madsim::time::sleep(duration).await;
        self.trace.event(format_args!("{machine} goes on"));
        Handle::current().resume(node);
    }

    /// Cuts or mends links, each from one machine to another.
    pub fn set_links(&self, links: &[(Machine, Machine)], up: bool) {
        let words: Vec<String> = links.iter().map(|(from, to)| format!("{from}>{to}")).collect();
        self.trace.event(format_args!(
            "links {}: {}",
            if up { "up" } else { "down" },
            words.join(" ")
        ));
        for &(from, to) in links {
            self.switch.set_link(from, to, up);
        }
    }

    /// Makes all links of a machine slow, or, with zero, normal.
    pub fn set_delay(&self, machine: Machine, delay: Duration) {
        self.trace.event(format_args!("packets of {machine} take {delay:?} longer"));
        for other in self.machines() {
            self.switch.set_delay(machine, other, delay);
            self.switch.set_delay(other, machine, delay);
        }
    }

    pub fn set_disk_speed(&self, machine: Machine, access: Duration, sync: Duration) {
        self.trace.event(format_args!("disk of {machine}: access {access:?} sync {sync:?}"));
        self.member(machine).host.set_speed(access, sync);
    }

    /// Ends all faults of network and disks, and starts whoever is not running.
    pub async fn heal(&self) {
        let machines = self.machines();
        self.switch.heal();
        for member in self.members.iter() {
            member.host.heal();
        }
        for machine in machines {
            if !self.member(machine).host.has_power() {
                self.cut_power(machine);
            }
            madsim::time::sleep(below(Duration::from_millis(50))).await;
            self.start(machine);
        }
    }

    /// Syncs of all members' disks.
    pub fn syncs(&self) -> u64 {
        self.members.iter().map(|member| member.host.syncs()).sum()
    }
}

fn host(
    machine: Machine,
    switch: &Switch,
    trace: &Trace,
    streams: Streams,
    failures: &Failures,
) -> Host {
    let failures = failures.clone();
    let on_failure = move |failure| failures.lock().expect("no holder panics").push(failure);
    Host::new(machine, switch.clone(), trace.clone(), streams, DISK, on_failure)
}

fn config(machine: Machine, initial_cluster: &str, flags: &[String]) -> Config {
    let host = machine.host();
    let mut arguments: Vec<String> = [
        format!("--name={machine}"),
        "--data-dir=/data".to_owned(),
        format!("--listen-client-urls=http://{host}:2379"),
        format!("--advertise-client-urls=http://{host}:2379"),
        format!("--listen-peer-urls=http://{host}:2380"),
        format!("--initial-advertise-peer-urls=http://{host}:2380"),
        format!("--initial-cluster={initial_cluster}"),
    ]
    .into();
    arguments.extend_from_slice(flags);
    match Config::read(&arguments, &BTreeMap::new()) {
        Ok(Request::Run(config, _)) => *config,
        other => panic!("the flags are those of a server: {other:?}"),
    }
}
