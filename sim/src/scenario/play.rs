//! One run, from empty disks to a verdict.
//!
//! 1. **Start.** Members start; clients and watchers begin at once.
//! 2. **Faults.** The nemesis carries out the plan's steps. Safety must hold; nothing else is
//!    asked.
//! 3. **Recovery.** Everything is mended, and the cluster must serve again within stated times
//!    ([`recovery`]).
//! 4. **Verdict.** The history is judged by the same checkers that judge everybody's.
//!
//! Times in the history are true times. The checkers are told how far the members' clocks may be
//! off, since a lease lives for its time on the clock of the member that counts it. That leases
//! end in time is asked only of plans without faults: who comes to lead starts their time anew.

use super::recovery;
use crate::cluster::{Cluster, Failures};
use crate::env::Streams;
use crate::env::network::{Machine, Switch};
use crate::nemesis;
use crate::oracle::{RoleChange, memory};
use crate::plan::{FIRST_CLIENT, FIRST_WATCHER, Fault, Plan};
use crate::report::{Failure, Report};
use crate::trace::Trace;
use quorate::check::op::Node;
use quorate::check::{self, History, Limits, Verdict};
use quorate::env::Role;
use quorate::workload::{self, Profile, Recorder, Settings};
use std::time::Duration;

/// How long after its time a lease of a plan without faults may end.
const LEASE_LATE_MAX_NS: u64 = 10_000_000_000;
/// What stays of a violation's text in a report; the history has it all.
const TEXT_BYTES_MAX: usize = 4_000;

/// Runs a plan. Nothing but the plan has an influence.
///
/// # Panics
/// If the plan names no kind of work; and if the server panics.
pub fn run(plan: &Plan, print_trace: bool) -> (Report, History) {
    let config = madsim::Config::default();
    let runtime = madsim::runtime::Runtime::with_seed_and_config(plan.seed, config);
    let (mut report, mut history) = runtime.block_on(play(plan, print_trace));
    history.start.clock_drift_ppm = drift_ppm(plan);
    history.start.lease_late_max_ns = plan.steps.is_empty().then_some(LEASE_LATE_MAX_NS);
    judge(&history, &mut report);
    (report, history)
}

async fn play(plan: &Plan, print_trace: bool) -> (Report, History) {
    let trace = Trace::new(print_trace);
    let failures = Failures::default();
    let switch = Switch::new(trace.clone(), Streams::new(plan.seed), plan.network);
    madsim::task::spawn(switch.clone().pump());
    let words = serde_json::to_string(&Plan { steps: Vec::new(), ..plan.clone() });
    trace.event(format_args!("plan {}", words.expect("plans are data")));
    let cluster = Cluster::new(trace.clone(), switch.clone(), plan, failures.clone());
    cluster.machines().into_iter().for_each(|machine| cluster.start(machine));

    let recorder = {
        let (clock, lines) = (trace.clone(), trace.clone());
        Recorder::new(
            move || nanoseconds(clock.now()),
            move |line| lines.event(format_args!("{line:?}")),
        )
    };
    let profile = Profile::named(&plan.profile).expect("plans name a kind of work that is there");
    let settings = Settings {
        clients: plan.clients,
        watchers: plan.watchers,
        calls_max: plan.calls_max,
        pause_max: Duration::from_millis(plan.pause_max_ms),
        ..Settings::new(profile, plan.seed)
    };
    let clients = (0..plan.clients).map(|number| {
        let (node, env) = cluster.client_machine(FIRST_CLIENT + number);
        let (endpoints, settings, recorder) =
            (cluster.endpoints(), settings.clone(), recorder.clone());
        node.spawn(workload::client(env, endpoints, number, settings, recorder))
    });
    let clients: Vec<_> = clients.collect();
    for number in 0..plan.watchers {
        let (node, env) = cluster.client_machine(FIRST_WATCHER + number);
        let (endpoints, settings, recorder) =
            (cluster.endpoints(), settings.clone(), recorder.clone());
        node.spawn(workload::watcher(env, endpoints, number, settings, recorder));
    }
    let faults = nemesis::rage(&cluster, &switch, &trace, &recorder, plan).await;

    trace.event(format_args!("all is mended"));
    let recovered =
        recovery::recover(&cluster, &switch, &trace, &recorder, &settings, clients).await;
    let mut found = failures.take();
    found.extend(recovered.err());
    found.extend(recorder.complaints().into_iter().map(|text| failure("odd answer", text)));
    found.extend(cluster.oracle().failures());
    let (peak_bytes, bytes_max) = (memory::bytes().1, memory::limit(plan.nodes, recorder.calls()));
    if peak_bytes > bytes_max {
        let text = format!("the run took {peak_bytes} bytes, at most {bytes_max} are fine");
        found.push(failure("too much memory", text));
    }
    let (hash, events) = trace.summary();
    let report = Report {
        seed: plan.seed,
        scenario: plan.scenario.clone(),
        profile: plan.profile.clone(),
        nodes: plan.nodes,
        trace: hash,
        events,
        simulated_ms: u64::try_from(trace.now().as_millis()).expect("not centuries"),
        calls: recorder.calls(),
        answered: recorder.answered(),
        unknown: recorder.unknown(),
        revisions: u64::try_from(recorder.revision().0).unwrap_or(0),
        syncs: cluster.syncs(),
        peak_bytes: peak_bytes as u64,
        faults,
        marks: cluster.oracle().marks(),
        failures: found,
        ..Report::default()
    };
    let mut history = recorder.history();
    history.nodes = roles(&cluster);
    (report, history)
}

fn failure(rule: &str, text: String) -> Failure {
    Failure { rule: rule.to_owned(), text }
}

/// Adds what the checkers find.
fn judge(history: &History, report: &mut Report) {
    let verdict = check::check(history, Limits::default());
    report.undecided = match verdict.verdict {
        Verdict::Unknown => verdict.unknown,
        Verdict::Lawful | Verdict::Unlawful => None,
    };
    for violation in verdict.violations {
        let mut text = violation.to_string();
        if !violation.expected.is_empty() || !violation.got.is_empty() {
            text = format!("{text}; expected {}, got {}", violation.expected, violation.got);
        }
        if let Some(end) = text.char_indices().map(|(at, _)| at).find(|&at| at >= TEXT_BYTES_MAX) {
            text.truncate(end);
        }
        report.failures.push(failure(violation.rule.title(), text));
    }
}

/// By how many millionths the clocks of a plan are fast or slow at most.
fn drift_ppm(plan: &Plan) -> u32 {
    let from_start = plan.clocks.iter().map(|clock| clock.drift_ppm);
    let later = plan.steps.iter().filter_map(|step| match step.fault {
        Fault::ClockDrift { ppm, .. } => Some(ppm),
        _ => None,
    });
    from_start.chain(later).map(i32::unsigned_abs).max().unwrap_or(0)
}

/// The members' roles, for the picture.
fn roles(cluster: &Cluster) -> Vec<Node> {
    let node = |change: RoleChange| {
        let state = match change.role {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::PreCandidate | Role::Candidate => "candidate",
        };
        Node {
            member: Cluster::endpoint(Machine(change.machine)),
            at: nanoseconds(change.at),
            state: state.to_owned(),
            term: change.term.0,
        }
    };
    let down = cluster.downs().into_iter().map(|(machine, at)| Node {
        member: Cluster::endpoint(machine),
        at: nanoseconds(at),
        state: "down".to_owned(),
        term: 0,
    });
    let mut nodes: Vec<Node> = cluster.oracle().roles().into_iter().map(node).chain(down).collect();
    nodes.sort_by_key(|node| node.at);
    nodes
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("not centuries")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Overrides;
    use crate::swarm;

    #[test]
    fn the_drift_of_a_plan_is_that_of_its_worst_clock_at_any_time() {
        let mut plan = swarm::calm(1, "test", &Overrides::default());
        plan.clocks.iter_mut().for_each(|clock| clock.drift_ppm = -7);
        assert_eq!(drift_ppm(&plan), 7);
        let fault = Fault::ClockDrift { machine: 1, ppm: 20_000 };
        plan.steps.push(crate::plan::Step { at_ms: 1, fault });
        assert_eq!(drift_ppm(&plan), 20_000);
    }
}
