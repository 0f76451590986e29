//! Where plans come from and what runs them: all that the command line needs of the simulation.

use crate::plan::{Overrides, Plan};
use crate::report::{Failure, Report};
use crate::scenario;
use quorate::check::History;
use std::time::Duration;

/// The scenario that a seed draws everything of.
pub const SWARM: &str = "swarm";

/// Names of scenarios with a line each.
pub fn scenarios() -> Vec<(&'static str, &'static str)> {
    vec![(SWARM, "everything drawn from the seed")]
}

/// Names of profiles with a line each.
pub fn profiles() -> Vec<(&'static str, &'static str)> {
    vec![("mixed", "a bit of everything")]
}

/// The plan of a seed, if there is such a scenario.
pub fn plan(name: &str, seed: u64, overrides: &Overrides) -> Option<Plan> {
    (name == SWARM).then(|| Plan {
        seed,
        scenario: SWARM.into(),
        profile: "mixed".into(),
        nodes: overrides.nodes.unwrap_or(3),
        time_ms: overrides.time_ms.unwrap_or(60_000),
        clients: 6,
        watchers: 2,
        calls_max: None,
        flags: vec![],
        member_flags: Default::default(),
        network: crate::plan::NetworkKnobs {
            latency_us: 1000,
            tail_one_in: 0,
            tail_us: 0,
            write_bytes_max: 0,
            pipe_bytes_max: 65536,
        },
        disk: crate::plan::DiskKnobs { access_us: 10, sync_us: 1000, capacity_bytes: 1 << 30 },
        clocks: vec![],
        steps: vec![],
    })
}

/// Reads a plan.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(text: &str) -> Result<Plan, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// Runs a plan in this process.
pub fn play(plan: &Plan, print_trace: bool) -> (Report, History) {
    let report = scenario::run(scenario::Plan {
        seed: plan.seed,
        nodes: plan.nodes,
        time: Duration::from_millis(plan.time_ms),
        print_trace,
    });
    let failures = report.failures.into_iter().map(|text| Failure { rule: "x".into(), text });
    let report = Report {
        seed: plan.seed,
        scenario: plan.scenario.clone(),
        profile: plan.profile.clone(),
        nodes: plan.nodes,
        trace: report.hash,
        events: report.events,
        simulated_ms: report.simulated.as_millis() as u64,
        calls: report.calls as u64,
        answered: report.answered as u64,
        revisions: report.revisions as u64,
        syncs: report.syncs,
        failures: failures.collect(),
        ..Report::default()
    };
    (report, History::default())
}
