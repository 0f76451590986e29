//! Carries out a plan's steps.
//!
//! Each step is a task of its own: it begins at its time, does its harm, and mends it when its own
//! time is over or the time of faults is. Steps overlap where their times do.
//!
//! - What makes no sense when its time comes is passed over: hitting what is down, giving
//!   leadership to whom has it, damaging one disk too many. It is counted only if it came to pass.
//! - Who ends a member starts it again; whom nobody owns is started when all is mended.
//! - A quorum keeps good data: bits flip and writes go astray only on members that a majority of
//!   sound members can do without ([`Cluster::may_be_damaged`]), those included that another step
//!   is just about to damage.
//! - Chance is drawn from the seed and the time of the step, so that a step that is taken out
//!   leaves the others as they are.
//!
//! | file | idea |
//! |---|---|
//! | `links` | links with several faults at a time |
//! | `targets` | who is meant by "the leader" and "a follower" |
//! | `operator` | what operators do, at bad moments |
//! | this one | machines, disks and clocks |

mod links;
mod operator;
mod targets;

use crate::cluster::{Cluster, STEP};
use crate::env::network::{Machine, Switch};
use crate::plan::{DiskErrorKind, Fault, Plan, Step};
use crate::trace::Trace;
use links::{Links, Trouble};
use quorate::workload::{Dice, Recorder};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// How long a fault waits for the operation it is meant for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a member may go on after its disk has failed in what it cannot do without.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// What breaks things. Clones are the same.
#[derive(Clone)]
pub struct Nemesis {
    cluster: Cluster,
    switch: Switch,
    trace: Trace,
    recorder: Recorder,
    plan: Arc<Plan>,
    links: Links,
    shared: Arc<Shared>,
    /// Turns true when all is to be mended.
    over: watch::Receiver<bool>,
}

#[derive(Default)]
struct Shared {
    /// How often each kind of fault came to pass.
    counts: Mutex<BTreeMap<String, u64>>,
    /// Disks that a step is busy with.
    busy: Mutex<BTreeSet<Machine>>,
}

/// Carries out all steps; ends when everything they did is mended. Gives how often each kind of
/// fault came to pass.
pub async fn rage(
    cluster: &Cluster,
    switch: &Switch,
    trace: &Trace,
    recorder: &Recorder,
    plan: &Plan,
) -> BTreeMap<String, u64> {
    let (end, over) = watch::channel(false);
    let nemesis = Nemesis {
        cluster: cluster.clone(),
        switch: switch.clone(),
        trace: trace.clone(),
        recorder: recorder.clone(),
        plan: Arc::new(plan.clone()),
        links: Links::new(switch.clone()),
        shared: Arc::default(),
        over,
    };
    let steps = (0..plan.steps.len()).map(|number| {
        let nemesis = nemesis.clone();
        madsim::task::spawn(async move { nemesis.take(number).await })
    });
    let steps: Vec<_> = steps.collect();
    let length = Duration::from_millis(plan.time_ms);
    madsim::time::sleep(length.saturating_sub(trace.now())).await;
    end.send_replace(true);
    for step in steps {
        step.await.expect("steps do not panic");
    }
    std::mem::take(&mut *nemesis.shared.counts.lock().expect("no holder panics"))
}

impl Nemesis {
    /// Waits for a step's time and carries it out.
    async fn take(&self, number: usize) {
        let Step { at_ms, fault } = &self.plan.steps[number];
        let wait = Duration::from_millis(*at_ms).saturating_sub(self.trace.now());
        self.sleep(wait).await;
        if self.is_over() {
            return;
        }
        let dice = Dice::new(&[self.plan.seed, *at_ms, 1]);
        let fault = self.resolve(fault.clone(), dice);
        let from = self.recorder.now();
        let came_to_pass = self.carry_out(number, &fault).await;
        if came_to_pass {
            let mut counts = self.shared.counts.lock().expect("no holder panics");
            *counts.entry(fault.name().to_owned()).or_default() += 1;
            drop(counts);
            self.recorder.fault(from, Some(self.recorder.now()), describe(&fault));
        }
    }

    fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Sleeps, but not beyond the time of faults.
    async fn sleep(&self, duration: Duration) {
        let mut over = self.over.clone();
        tokio::select! {
            biased;
            // The sender lives until all steps have ended.
            _ = over.wait_for(|over| *over) => {}
            () = madsim::time::sleep(duration) => {}
        }
    }

    async fn sleep_ms(&self, duration_ms: u64) {
        self.sleep(Duration::from_millis(duration_ms)).await;
    }

    /// Waits until something has come true, but not for ever and not beyond the time of faults.
    async fn wait_for(&self, patience: Duration, condition: impl Fn() -> bool) -> bool {
        let mut waited = Duration::ZERO;
        while !condition() && waited < patience && !self.is_over() {
            self.sleep(STEP).await;
            waited += STEP;
        }
        condition()
    }

    /// Whether it came to pass.
    async fn carry_out(&self, number: usize, fault: &Fault) -> bool {
        self.trace.event(format_args!("step {number}: {}", describe(fault)));
        let cluster = &self.cluster;
        match fault {
            Fault::Kill { machine, down_ms } => {
                self.fell(&[Machine(*machine)], *down_ms, |it| cluster.kill(it)).await
            }
            Fault::KillAll { down_ms } => {
                self.fell(&cluster.machines(), *down_ms, |it| cluster.kill(it)).await
            }
            Fault::PowerCut { machine, down_ms } => {
                self.fell(&[Machine(*machine)], *down_ms, |it| cluster.cut_power(it)).await
            }
            Fault::PowerCutAll { down_ms } => {
                self.fell(&cluster.machines(), *down_ms, |it| cluster.cut_power(it)).await
            }
            Fault::PowerCutAt { machine, operations, down_ms } => {
                self.cut_power_at(Machine(*machine), *operations, *down_ms).await
            }
            Fault::Stop { machine, down_ms } => {
                let machine = Machine(*machine);
                if !cluster.is_running(machine) {
                    return false;
                }
                cluster.stop(machine).await;
                self.sleep_ms(*down_ms).await;
                cluster.start(machine);
                true
            }
            Fault::RollingRestart { flags, pause_ms } => {
                self.restart_all(flags, *pause_ms).await;
                true
            }
            Fault::Pause { machine, for_ms } => {
                let machine = Machine(*machine);
                let Some(boot) = cluster.boot(machine) else { return false };
                cluster.pause(machine);
                self.sleep_ms(*for_ms).await;
                cluster.resume(machine, boot);
                true
            }
            Fault::Cut { links, for_ms } => {
                self.trouble(number, links, Trouble::Down, *for_ms).await
            }
            Fault::Lose { links, percent, for_ms } => {
                self.trouble(number, links, Trouble::Loss(*percent), *for_ms).await
            }
            Fault::Delay { links, delay_ms, for_ms } => {
                let trouble = Trouble::Delay(Duration::from_millis(*delay_ms));
                self.trouble(number, links, trouble, *for_ms).await
            }
            Fault::Throttle { links, bytes_per_second, for_ms } => {
                self.trouble(number, links, Trouble::Rate(*bytes_per_second), *for_ms).await
            }
            Fault::Reset { one, other } => {
                one != other && self.switch.reset_between(Machine(*one), Machine(*other)) > 0
            }
            Fault::ClockJump { machine, by_ms } => {
                cluster.host(Machine(*machine)).clock().jump_wall(*by_ms);
                true
            }
            Fault::ClockDrift { machine, ppm } => {
                cluster.host(Machine(*machine)).clock().set_drift(*ppm);
                true
            }
            Fault::DiskError { machine, .. }
            | Fault::DiskFull { machine, .. }
            | Fault::DiskSlow { machine, .. }
            | Fault::BitFlip { machine, .. }
            | Fault::MisdirectedWrite { machine, .. } => {
                let machine = Machine(*machine);
                if !self.shared.busy.lock().expect("no holder panics").insert(machine) {
                    return false;
                }
                let came_to_pass = self.break_disk(machine, fault).await;
                self.shared.busy.lock().expect("no holder panics").remove(&machine);
                came_to_pass
            }
            Fault::MoveLeader { to } => self.move_leader(Machine(*to)).await,
            Fault::Compact { keep, physical } => self.compact(*keep, *physical).await,
            Fault::Defragment { machine } => self.defragment(Machine(*machine)).await,
            Fault::ClearAlarms => self.clear_alarms().await,
            Fault::Snapshot { machine } => self.read_snapshot(Machine(*machine)).await,
        }
    }

    /// Ends machines that run, and starts them again.
    async fn fell(&self, machines: &[Machine], down_ms: u64, end: impl Fn(Machine)) -> bool {
        let running = machines.iter().filter(|&&machine| self.cluster.is_running(machine));
        let running: Vec<Machine> = running.copied().collect();
        running.iter().for_each(|&machine| end(machine));
        self.sleep_ms(down_ms).await;
        running.iter().for_each(|&machine| self.cluster.start(machine));
        !running.is_empty()
    }

    async fn cut_power_at(&self, machine: Machine, operations: u64, down_ms: u64) -> bool {
        let cluster = &self.cluster;
        let Some(boot) = cluster.boot(machine) else { return false };
        cluster.host(machine).cut_power_after(operations);
        let gone = || cluster.boot(machine) != Some(boot) || !cluster.host(machine).has_power();
        self.wait_for(PATIENCE, gone).await;
        if cluster.boot(machine) != Some(boot) {
            // Somebody else was faster.
            return false;
        }
        // A machine that does not write goes dark all the same.
        cluster.cut_power(machine);
        self.sleep_ms(down_ms).await;
        cluster.start(machine);
        true
    }

    async fn restart_all(&self, flags: &[String], pause_ms: u64) {
        for machine in self.cluster.machines() {
            self.cluster.set_flags(machine, flags);
            if self.cluster.is_running(machine) && !self.is_over() {
                self.cluster.stop(machine).await;
                self.cluster.start(machine);
                self.sleep_ms(pause_ms).await;
            }
        }
    }

    async fn trouble(
        &self,
        number: usize,
        links: &[(u8, u8)],
        trouble: Trouble,
        for_ms: u64,
    ) -> bool {
        let links = links.iter().filter(|(from, to)| from != to);
        let links: Vec<_> = links.map(|&(from, to)| (Machine(from), Machine(to))).collect();
        self.links.trouble(number, &links, trouble);
        self.sleep_ms(for_ms).await;
        self.links.mend(number, &links);
        !links.is_empty()
    }

    /// Whether one more disk may be damaged, with those that steps under way may damage.
    fn may_damage(&self, machine: Machine) -> bool {
        let busy = self.shared.busy.lock().expect("no holder panics");
        let cluster = &self.cluster;
        let others = busy.iter().filter(|&&other| other != machine && !cluster.is_damaged(other));
        others.count() == 0 && cluster.may_be_damaged(machine)
    }

    async fn break_disk(&self, machine: Machine, fault: &Fault) -> bool {
        let cluster = &self.cluster;
        let host = cluster.host(machine);
        match *fault {
            Fault::DiskError { kind, operations, count, down_ms, .. } => {
                let came_to_pass = self.fail_disk(machine, kind, operations, count).await;
                self.sleep_ms(down_ms).await;
                host.stop_failing();
                cluster.start(machine);
                came_to_pass
            }
            Fault::DiskFull { left_bytes, for_ms, .. } => {
                host.set_left(Some(left_bytes));
                self.sleep_ms(for_ms).await;
                host.set_left(None);
                cluster.start(machine);
                true
            }
            Fault::DiskSlow { access_us, sync_us, for_ms, .. } => {
                let (access, sync) =
                    (Duration::from_micros(access_us), Duration::from_micros(sync_us));
                host.set_speed(access, sync);
                self.sleep_ms(for_ms).await;
                let knobs = self.plan.disk;
                host.set_speed(
                    Duration::from_micros(knobs.access_us),
                    Duration::from_micros(knobs.sync_us),
                );
                true
            }
            Fault::BitFlip { place, down_ms, .. } => {
                if !self.may_damage(machine) {
                    return false;
                }
                if cluster.is_running(machine) {
                    cluster.kill(machine);
                }
                let flipped = host.flip(place);
                self.sleep_ms(down_ms).await;
                cluster.start(machine);
                flipped.is_some()
            }
            Fault::MisdirectedWrite { operations, place, down_ms, .. } => {
                let Some(boot) = cluster.boot(machine).filter(|_| self.may_damage(machine)) else {
                    return false;
                };
                host.misdirect(operations, place);
                let same_boot = || cluster.boot(machine) == Some(boot);
                self.wait_for(PATIENCE, || !host.is_misdirecting() || !same_boot()).await;
                if !same_boot() {
                    return host.damaged();
                }
                let came_to_pass = host.stop_misdirecting();
                if came_to_pass {
                    cluster.kill(machine);
                    self.sleep_ms(down_ms).await;
                    cluster.start(machine);
                }
                came_to_pass
            }
            _ => unreachable!("not a fault of a disk: {fault:?}"),
        }
    }

    /// Lets operations fail; a member that cannot do without what failed must end.
    async fn fail_disk(
        &self,
        machine: Machine,
        kind: DiskErrorKind,
        operations: u64,
        count: u64,
    ) -> bool {
        let cluster = &self.cluster;
        let host = cluster.host(machine);
        if !cluster.is_running(machine) {
            return false;
        }
        let reads = matches!(kind, DiskErrorKind::Read | DiskErrorKind::ShortRead);
        if reads {
            // A member that runs has nearly all in memory: it reads when it starts.
            cluster.kill(machine);
        }
        host.fail(kind, operations, count);
        if reads {
            cluster.start(machine);
        }
        let Some(boot) = cluster.boot(machine) else { return false };
        let gone = || cluster.boot(machine) != Some(boot);
        self.wait_for(PATIENCE, || host.has_failed() || gone()).await;
        if gone() || !host.has_failed() {
            return host.has_failed();
        }
        let is_vital = || host.failed_files().iter().any(|file| is_vital(file));
        // Not cut short by the end of the time of faults: it is a promise that is watched here.
        let mut waited = Duration::ZERO;
        while !gone() && waited < END_TIMEOUT {
            if !is_vital() && self.is_over() {
                break;
            }
            madsim::time::sleep(STEP).await;
            if !cluster.is_paused(machine) {
                waited += STEP;
            }
        }
        if !gone() && is_vital() {
            let text = format!(
                "{machine} still runs {END_TIMEOUT:?} after its log or store could not be used \
                 ({})",
                host.failed_files().join(", ")
            );
            cluster.fail("lives on a broken disk", text);
        }
        true
    }
}

/// Whether a member cannot do without a file: its log, or its store. What lies beside the store (a
/// snapshot on its way in, a defragmented copy, set aside space) may fail.
fn is_vital(file: &str) -> bool {
    file.contains("/wal/") || file.ends_with(".redb")
}

/// A fault in words for people: its kind and its parameters.
fn describe(fault: &Fault) -> String {
    let json = serde_json::to_value(fault).expect("faults are data");
    let parameters = json.as_object().and_then(|object| object.values().next());
    let words = parameters.and_then(|parameters| parameters.as_object()).map(|parameters| {
        let word = |(name, value): (&String, &serde_json::Value)| match name.as_str() {
            "machine" | "to" | "one" | "other" => format!(" m{value}"),
            _ => format!(" {name} {value}"),
        };
        parameters.iter().map(word).collect::<String>()
    });
    format!("{}{}", fault.name(), words.unwrap_or_default())
}
