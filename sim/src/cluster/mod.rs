//! Members one can do things to.
//!
//! A member is a machine with a disk, clocks and flags on which [`quorate::member::run`] runs.
//! There is no supervisor: who ends a member also starts it again.
//!
//! A member may end by itself only for a reason that its operator would accept, and then it stays
//! down until somebody starts it. The reasons are:
//!
//! - its disk made an error (after one on its log or store it *must* end, which the nemesis
//!   watches);
//! - what it read is damaged, the damage is real, and its last words name it. Such a member is
//!   out: it is never started again, and a person would rebuild it from its peers;
//! - it could not start on a full disk. One that runs when the disk fills up must not end.
//!
//! | file | idea |
//! |---|---|
//! | `warden` | what is asked of members as any client may ask |
//! | this one | machines to start, kill, cut the power of, pause |
//!
//! A damaged member is started only when all that the others acknowledged is safe without it
//! ([`Cluster::start`]): a log that lost its end to a damaged sector looks like one that was never
//! synced, so such a member may forget entries and votes, and Raft promises nothing about members
//! that forget. Once every undamaged member has answered a linearizable read while it was down,
//! they hold its entries and know its term, and nothing hangs on it any more.

mod warden;

pub use warden::is_out_of_range;

use crate::env::disk::Host;
use crate::env::network::{Machine, Switch};
use crate::env::{SimEnv, Streams};
use crate::oracle::Oracle;
use crate::plan::{DiskKnobs, Plan};
use crate::report::Failure;
use crate::trace::Trace;
use madsim::runtime::{Handle, NodeHandle};
use madsim::task::NodeId;
use quorate::config::{Config, Request};
use quorate::member::MemberError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a member that was asked to stop may take, pauses left out.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// The machine from which the cluster looks after its members.
const WARDEN: u8 = 241;
/// How often is looked whether something has come true.
pub const STEP: Duration = Duration::from_millis(10);

/// Things that must not happen and did.
#[derive(Clone, Default)]
pub struct Failures(Arc<Mutex<Vec<Failure>>>);

impl Failures {
    pub fn add(&self, rule: &str, text: impl Into<String>) {
        let failure = Failure { rule: rule.to_owned(), text: text.into() };
        self.0.lock().expect("no holder panics").push(failure);
    }

    pub fn take(&self) -> Vec<Failure> {
        std::mem::take(&mut self.0.lock().expect("no holder panics"))
    }
}

struct Member {
    machine: Machine,
    host: Host,
    node: NodeId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    flags: Vec<String>,
    /// Once it has told it.
    member_id: Option<u64>,
    /// Counts starts.
    boot: u64,
    running: Option<Running>,
    /// Pauses under way; it runs when there is none.
    pauses: u32,
    /// Somebody waits for the moment at which it can be started.
    is_awaited: bool,
    /// It has ended because its disk is damaged.
    is_out: bool,
}

struct Running {
    /// Taken when it is asked to stop.
    shutdown: Option<oneshot::Sender<()>>,
}

/// A cluster and the network around it. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    trace: Trace,
    switch: Switch,
    streams: Streams,
    members: Arc<Vec<Member>>,
    warden: Arc<(NodeHandle, SimEnv)>,
    failures: Failures,
    oracle: Oracle,
    /// Which processes ended when.
    downs: Arc<Mutex<Vec<(Machine, Duration)>>>,
}

impl Cluster {
    /// The machines of a plan's members, not started.
    pub fn new(trace: Trace, switch: Switch, plan: &Plan, failures: Failures) -> Cluster {
        let streams = Streams::new(plan.seed);
        let member = |number: u8| {
            let machine = Machine(number);
            let on_failure = failures.clone();
            let host = Host::new(
                machine,
                switch.clone(),
                trace.clone(),
                streams,
                plan.disk,
                move |text| on_failure.add("used a file whose sync had failed", text),
            );
            if let Some(clock) = plan.clocks.get(usize::from(number) - 1) {
                host.clock().set_drift(clock.drift_ppm);
                host.clock().jump_wall(clock.wall_offset_ms);
            }
            let mut flags = plan.flags.clone();
            flags.extend(plan.member_flags.get(&number).cloned().unwrap_or_default());
            Member {
                machine,
                host,
                node: Handle::current().create_node().name(machine.to_string()).build().id(),
                state: Mutex::new(State { flags, ..State::default() }),
            }
        };
        let members = Arc::new((1..=plan.nodes).map(member).collect());
        let warden = Arc::new(client_machine(&trace, &switch, streams, WARDEN));
        let oracle = Oracle::new(trace.clone());
        oracle.elections_take(plan.election_timeout_max());
        Cluster { trace, switch, streams, members, warden, failures, oracle, downs: Arc::default() }
    }

    /// Who looks into the members.
    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    pub fn machines(&self) -> Vec<Machine> {
        self.members.iter().map(|member| member.machine).collect()
    }

    /// Where clients find a member.
    pub fn endpoint(machine: Machine) -> String {
        format!("{}:2379", machine.host())
    }

    /// Where clients find the members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| Cluster::endpoint(member.machine)).collect()
    }

    /// A machine for a client.
    pub fn client_machine(&self, number: u8) -> (NodeHandle, SimEnv) {
        client_machine(&self.trace, &self.switch, self.streams, number)
    }

    fn member(&self, machine: Machine) -> &Member {
        self.members.iter().find(|member| member.machine == machine).expect("it is a member")
    }

    fn state(&self, machine: Machine) -> MutexGuard<'_, State> {
        self.member(machine).state.lock().expect("no holder panics")
    }

    pub fn host(&self, machine: Machine) -> &Host {
        &self.member(machine).host
    }

    /// The number of the boot that is running, if one is.
    pub fn boot(&self, machine: Machine) -> Option<u64> {
        let state = self.state(machine);
        state.running.as_ref().map(|_| state.boot)
    }

    pub fn is_running(&self, machine: Machine) -> bool {
        self.boot(machine).is_some()
    }

    pub fn is_paused(&self, machine: Machine) -> bool {
        self.state(machine).pauses > 0
    }

    /// Whether its disk holds what was never written to it.
    pub fn is_damaged(&self, machine: Machine) -> bool {
        self.member(machine).host.damaged()
    }

    /// The members that are all they should be, running or not.
    pub fn undamaged(&self) -> Vec<Machine> {
        self.machines().into_iter().filter(|&machine| !self.is_damaged(machine)).collect()
    }

    /// Whether one more member may be damaged: a quorum must keep good data.
    pub fn may_be_damaged(&self, machine: Machine) -> bool {
        let damaged = self.members.len() - self.undamaged().len();
        self.is_damaged(machine) || damaged < (self.members.len() - 1) / 2
    }

    /// Starts a member, unless it runs or is out; a damaged one once nothing hangs on it.
    pub fn start(&self, machine: Machine) {
        if !self.is_damaged(machine) {
            return self.start_now(machine);
        }
        let mut state = self.state(machine);
        if state.running.is_some() || state.is_out || state.is_awaited {
            return;
        }
        state.is_awaited = true;
        drop(state);
        let cluster = self.clone();
        madsim::task::spawn(async move {
            while !cluster.manages_without(machine).await {
                madsim::time::sleep(STEP * 10).await;
            }
            cluster.state(machine).is_awaited = false;
            cluster.start_now(machine);
        });
    }

    fn start_now(&self, machine: Machine) {
        let member = self.member(machine);
        let mut state = self.state(machine);
        if state.running.is_some() || state.is_out {
            return;
        }
        let initial: Vec<String> = self
            .machines()
            .iter()
            .map(|machine| format!("{machine}=http://{}:2380", machine.host()))
            .collect();
        let config = config(machine, &initial.join(","), &state.flags);
        state.boot += 1;
        state.pauses = 0;
        let boot = state.boot;
        self.trace.event(format_args!("{machine} starts {:?}", state.flags));
        let env = SimEnv::new(self.trace.clone(), self.switch.boot(machine), member.host.mount());
        if member.host.damaged() {
            self.oracle.damaged(machine.0);
        }
        let env = env.observed(self.oracle.boot(machine.0));
        let (shutdown, asked) = oneshot::channel::<()>();
        let (ending, ended) = oneshot::channel();
        state.running = Some(Running { shutdown: Some(shutdown) });
        drop(state);
        // madsim's way to make a node usable after a kill; handles from before are not.
        Handle::current().restart(member.node);
        let node = Handle::current().get_node(member.node).expect("it was created");
        node.spawn(async move {
            let asked = async {
                if asked.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let outcome = quorate::member::run(env, &config, asked).await;
            let _ = ending.send(outcome);
        });
        let cluster = self.clone();
        // Outside of the node, which ends with its process.
        madsim::task::spawn(async move {
            // An error: it was killed.
            if let Ok(outcome) = ended.await {
                cluster.ended(machine, boot, &outcome);
            }
        });
    }

    /// A member's process has ended by itself, or because it was asked to.
    fn ended(&self, machine: Machine, boot: u64, outcome: &Result<(), MemberError>) {
        if self.boot(machine) != Some(boot) || !self.host(machine).has_power() {
            return;
        }
        self.trace.event(format_args!("{machine} ended: {outcome:?}"));
        let mut state = self.state(machine);
        let asked = state.running.as_ref().is_some_and(|running| running.shutdown.is_none());
        let host = self.host(machine);
        match outcome {
            Ok(()) if asked => {}
            Ok(()) => self.failures.add("ended by itself", format!("{machine}: without a reason")),
            Err(error) => {
                let words = error.to_string();
                let names_damage = DAMAGE.iter().any(|word| words.contains(word));
                let starting = matches!(error, MemberError::Start(_));
                if host.damaged() && names_damage {
                    state.is_out = true;
                } else if host.has_failed() {
                    // Whatever it says: it cannot be expected to go on.
                } else if host.damaged() {
                    let text = format!("{machine}: {words}");
                    self.failures.add("ended by damage without naming it", text);
                } else if host.has_been_full() && !starting {
                    let text = format!("{machine}: {words}");
                    self.failures.add("ended on a full disk", text);
                } else if !host.has_been_full() {
                    self.failures.add("ended by itself", format!("{machine}: {words}"));
                }
            }
        }
        drop(state);
        self.kill(machine);
    }

    /// Kills the process. The machine lives on and closes its connections.
    pub fn kill(&self, machine: Machine) {
        self.trace.event(format_args!("{machine} is killed"));
        self.host(machine).fence();
        self.switch.close_all(machine);
        self.end(machine);
    }

    /// Cuts the power, or cleans up when it is gone already.
    pub fn cut_power(&self, machine: Machine) {
        if self.host(machine).has_power() {
            self.host(machine).cut_power();
        }
        self.end(machine);
    }

    fn end(&self, machine: Machine) {
        Handle::current().kill(self.member(machine).node);
        let mut state = self.state(machine);
        if state.running.take().is_some() {
            let down = (machine, self.trace.now());
            self.downs.lock().expect("no holder panics").push(down);
        }
        state.pauses = 0;
    }

    /// Asks the process to stop and waits for it.
    pub async fn stop(&self, machine: Machine) {
        self.trace.event(format_args!("{machine} is asked to stop"));
        let (boot, shutdown) = {
            let mut state = self.state(machine);
            let boot = state.boot;
            let Some(running) = &mut state.running else { return };
            (boot, running.shutdown.take())
        };
        if let Some(shutdown) = shutdown {
            let _ = shutdown.send(());
        }
        let mut waited = Duration::ZERO;
        while self.boot(machine) == Some(boot) {
            if waited > STOP_TIMEOUT {
                let text = format!("{machine} runs {STOP_TIMEOUT:?} after it was asked to stop");
                self.failures.add("does not stop", text);
                return self.kill(machine);
            }
            madsim::time::sleep(STEP).await;
            if !self.is_paused(machine) {
                waited += STEP;
            }
        }
    }

    /// Stops the process as SIGSTOP does, until as many have resumed it as have paused it.
    pub fn pause(&self, machine: Machine) {
        let mut state = self.state(machine);
        state.pauses += 1;
        if state.pauses == 1 {
            self.trace.event(format_args!("{machine} pauses"));
            Handle::current().pause(self.member(machine).node);
        }
    }

    /// Ends a pause that a boot was given, if it is still running.
    pub fn resume(&self, machine: Machine, boot: u64) {
        let mut state = self.state(machine);
        if state.running.is_none() || state.boot != boot || state.pauses == 0 {
            return;
        }
        state.pauses -= 1;
        if state.pauses == 0 {
            self.trace.event(format_args!("{machine} goes on"));
            Handle::current().resume(self.member(machine).node);
        }
    }

    /// Which processes ended when, in the order of time.
    pub fn downs(&self) -> Vec<(Machine, Duration)> {
        self.downs.lock().expect("no holder panics").clone()
    }

    /// What a member is started with from its next start on.
    pub fn set_flags(&self, machine: Machine, flags: &[String]) {
        self.state(machine).flags = flags.to_vec();
    }

    /// Something must not have happened.
    pub fn fail(&self, rule: &str, text: impl Into<String>) {
        self.failures.add(rule, text);
    }

    /// Syncs of all members' disks.
    pub fn syncs(&self) -> u64 {
        self.members.iter().map(|member| member.host.syncs()).sum()
    }
}

/// What the last words of a member that reads damaged data hold; one of them.
const DAMAGE: [&str; 4] = ["damaged", "orrupt", "entries are missing", "Quorate's: it holds"];

fn client_machine(
    trace: &Trace,
    switch: &Switch,
    streams: Streams,
    number: u8,
) -> (NodeHandle, SimEnv) {
    let machine = Machine(number);
    let node = Handle::current().create_node().name(machine.to_string()).build();
    // Clients write nothing.
    let knobs = DiskKnobs { access_us: 1, sync_us: 1, capacity_bytes: 0 };
    let host = Host::new(machine, switch.clone(), trace.clone(), streams, knobs, |_| {});
    let env = SimEnv::new(trace.clone(), switch.boot(machine), host.mount());
    (node, env)
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

/// Panics if a server would not take these flags.
#[cfg(test)]
pub fn check_flags(flags: &[String], more: Option<&Vec<String>>) {
    let mut flags = flags.to_vec();
    flags.extend(more.cloned().unwrap_or_default());
    config(Machine(1), "m1=http://10.0.0.1:2380", &flags);
}
