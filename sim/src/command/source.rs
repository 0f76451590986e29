//! Where plans come from and what runs them: all that the command line needs of the simulation.

use crate::plan::{Overrides, Plan};
use crate::report::Report;
use crate::scenario;
use quorate::check::History;
use quorate::workload;

/// The scenario of who names none: the seed draws everything.
pub const DEFAULT: &str = "nightly";

/// Names of scenarios with a line each.
pub fn scenarios() -> &'static [(&'static str, &'static str)] {
    scenario::names()
}

/// Names of profiles with a line each.
pub fn profiles() -> Vec<(&'static str, &'static str)> {
    workload::profiles().iter().map(|profile| (profile.name, profile.summary)).collect()
}

/// The plan of a seed, if there is such a scenario.
pub fn plan(name: &str, seed: u64, overrides: &Overrides) -> Option<Plan> {
    scenario::named(name, seed, overrides)
}

/// Reads a plan.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(text: &str) -> Result<Plan, String> {
    let plan: Plan = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if !profiles().iter().any(|(name, _)| *name == plan.profile) {
        return Err(format!("there is no profile `{}`", plan.profile));
    }
    if !(1..=9).contains(&plan.nodes) {
        return Err(format!("{} nodes are not 1 to 9", plan.nodes));
    }
    Ok(plan)
}

/// Runs a plan in this process.
pub fn play(plan: &Plan, print_trace: bool) -> (Report, History) {
    scenario::run(plan, print_trace)
}
