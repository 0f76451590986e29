//! What can be asked for, and what is wrong with what was.
//!
//! Names are checked while the line is read, so a misspelt one is answered with the nearest there
//! is and the list of all. A plan's file is read before anything runs.

use super::source::{self, DEFAULT};
use super::{regressions, words};
use crate::plan::{Overrides, Plan};
use clap::builder::PossibleValuesParser;
use clap::{Args, value_parser};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs seeds, each in a process of its own.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// One seed
    #[arg(long, value_name = "N", required_unless_present_any = ["seeds", "plan"])]
    seed: Option<u64>,
    /// Seeds from A to before B
    #[arg(long, value_name = "A..B", conflicts_with = "seed", value_parser = seeds)]
    seeds: Option<Seeds>,
    /// What happens; `list` tells the scenarios
    #[arg(long, value_name = "NAME", default_value = DEFAULT, value_parser = scenario_names())]
    scenario: String,
    /// What clients do, instead of what the seed draws
    #[arg(long, value_name = "NAME", value_parser = profile_names())]
    profile: Option<String>,
    /// Members, instead of as many as the seed draws
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(1..=9))]
    nodes: Option<u8>,
    /// Simulated seconds of faults
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..=86_400))]
    time: Option<u64>,
    /// A plan from a file, with its own seed or with others
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scenario", "profile", "nodes", "time"])]
    plan: Option<PathBuf>,
    /// Print faults, calls and their outcomes as they come; one seed at a time, nothing is shrunk
    #[arg(long, conflicts_with_all = ["json", "twice"])]
    trace: bool,
    /// Print the log of the members; one seed at a time, nothing is shrunk
    #[arg(long, conflicts_with_all = ["json", "twice"])]
    log: bool,
    #[command(flatten)]
    campaign: CampaignArgs,
}

/// Runs what found something once.
#[derive(Args, Debug)]
pub struct RegressionsArgs {
    /// Lines of `seed scenario nodes seconds # what it found`
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    campaign: CampaignArgs,
}

/// How many runs are made and what becomes of their outcomes.
#[derive(Args, Clone, Debug)]
pub struct CampaignArgs {
    /// Run each seed twice and compare all that happened
    #[arg(long)]
    pub twice: bool,
    /// Seeds at a time [default: one for each core]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..=256))]
    jobs: Option<u64>,
    /// Print an object for each seed and one for all, a line each, and nothing else
    #[arg(long)]
    pub json: bool,
    /// Run all seeds, however many fail
    #[arg(long, conflicts_with = "max_failures")]
    keep_going: bool,
    /// Begin no further seed after so many failed
    #[arg(long, value_name = "N", default_value = "1", value_parser = value_parser!(u64).range(1..))]
    max_failures: u64,
    /// Where what is left of failures goes, in a folder for each
    #[arg(long, value_name = "DIR", default_value = "target/sim")]
    pub out: PathBuf,
    /// Do not make failing plans smaller
    #[arg(long, conflicts_with = "shrink_time")]
    no_shrink: bool,
    /// Seconds to spend on making a failing plan smaller [default: 60; for a plan from a file: 0]
    #[arg(long, value_name = "SECONDS")]
    shrink_time: Option<u64>,
}

impl CampaignArgs {
    pub fn jobs(&self) -> usize {
        let jobs = self.jobs.map(|jobs| usize::try_from(jobs).expect("at most 256"));
        jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    pub fn failures_max(&self) -> u64 {
        if self.keep_going { u64::MAX } else { self.max_failures }
    }

    /// How long a plan may be made smaller; none: not at all. A plan from a file was made small
    /// already, more often than not.
    fn shrink_time(&self, from_file: bool) -> Option<Duration> {
        let usual = if from_file { 0 } else { 60 };
        let seconds = if self.no_shrink { 0 } else { self.shrink_time.unwrap_or(usual) };
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }
}

/// What a call is to do.
pub struct Work {
    pub tasks: Box<dyn Iterator<Item = Task> + Send>,
    pub count: u64,
    /// One seed by itself is told about even if it passes.
    pub single: bool,
    pub trace: bool,
    pub log: bool,
    /// How long a failing plan may be made smaller; none: not at all.
    pub shrink_time: Option<Duration>,
    pub campaign: CampaignArgs,
}

/// A run to be made.
#[derive(Clone, Debug)]
pub struct Task {
    pub plan: Plan,
    /// What its folder is called.
    pub name: String,
    /// What makes it again, after `cargo sim --`.
    pub replay: Vec<String>,
}

/// What is asked for beside the seed.
#[derive(Clone, Debug)]
pub struct Request {
    pub scenario: String,
    pub overrides: Overrides,
}

impl Request {
    /// The run of a seed.
    pub fn task(&self, seed: u64) -> Task {
        let Request { scenario, overrides } = self;
        let plan =
            source::plan(scenario, seed, overrides).expect("the scenario's name was checked");
        let mut replay = vec!["run".to_owned(), format!("--seed {seed}")];
        replay.extend((scenario != DEFAULT).then(|| format!("--scenario {scenario}")));
        let Overrides { nodes, time_ms, profile } = overrides;
        replay.extend(profile.as_ref().map(|profile| format!("--profile {profile}")));
        replay.extend(nodes.map(|nodes| format!("--nodes {nodes}")));
        replay.extend(time_ms.map(|time| format!("--time {}", time / 1_000)));
        let name = match scenario.as_str() {
            DEFAULT => format!("seed-{seed}"),
            name => format!("{name}-seed-{seed}"),
        };
        Task { plan, name, replay }
    }
}

impl RunArgs {
    /// What this asks for.
    ///
    /// # Errors
    /// Why it cannot be done, in words.
    pub fn work(self) -> Result<Work, String> {
        let RunArgs { seed, seeds, scenario, profile, nodes, time, plan, trace, log, campaign } =
            self;
        let from_file = plan.is_some();
        let asked = seeds.or(seed.map(|seed| Seeds { first: seed, count: 1 }));
        let (seeds, tasks): (Seeds, Box<dyn Iterator<Item = Task> + Send>) = match plan {
            Some(file) => {
                let plan = read_plan(&file)?;
                let own = Seeds { first: plan.seed, count: 1 };
                let seeds = asked.unwrap_or(own);
                let task = move |seed| planned(&plan, seed, &file, seeds != own);
                (seeds, Box::new(seeds.iter().map(task)))
            }
            None => {
                let time_ms = time.map(|seconds| seconds * 1_000);
                let request =
                    Request { scenario, overrides: Overrides { nodes, time_ms, profile } };
                let seeds = asked.expect("clap requires one of them");
                (seeds, Box::new(seeds.iter().map(move |seed| request.task(seed))))
            }
        };
        // Who looks on has no use for what comes after.
        let shrink_time = campaign.shrink_time(from_file).filter(|_| !(trace || log));
        let (count, single) = (seeds.count, seeds.count == 1);
        Ok(Work { tasks, count, single, trace, log, shrink_time, campaign })
    }
}

impl RegressionsArgs {
    /// What this asks for.
    ///
    /// # Errors
    /// Why it cannot be done, in words.
    pub fn work(self) -> Result<Work, String> {
        let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions.txt");
        let file = self.file.unwrap_or_else(usual);
        let place = file.display();
        let runs =
            regressions::parse(&read(&file)?).map_err(|error| format!("{place}: {error}"))?;
        let count = runs.len() as u64;
        let tasks = Box::new(runs.into_iter().map(|(seed, request)| request.task(seed)));
        let campaign = self.campaign;
        let shrink_time = campaign.shrink_time(false);
        Ok(Work { tasks, count, single: false, trace: false, log: false, shrink_time, campaign })
    }
}

/// The run of a plan from a file, with another seed perhaps.
fn planned(plan: &Plan, seed: u64, file: &Path, other_seed: bool) -> Task {
    let mut replay = vec!["run".to_owned(), format!("--plan {}", words::path(file))];
    replay.extend(other_seed.then(|| format!("--seed {seed}")));
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    // Beside the folder that the plan may come from, not over it.
    let name = format!("{stem}-seed-{seed}");
    Task { plan: Plan { seed, ..plan.clone() }, name, replay }
}

fn read_plan(file: &Path) -> Result<Plan, String> {
    let text = read(file)?;
    source::parse(&text).map_err(|error| format!("{}: no plan: {error}", file.display()))
}

#[expect(clippy::disallowed_methods, reason = "a person's file, outside the simulation")]
fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

/// Seeds one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seeds {
    first: u64,
    count: u64,
}

impl Seeds {
    fn iter(self) -> impl Iterator<Item = u64> + Send + 'static {
        (0..self.count).map(move |more| self.first + more)
    }
}

fn seeds(text: &str) -> Result<Seeds, String> {
    let form = "a range of seeds is A..B: from A to before B";
    let (first, end) = text.split_once("..").ok_or(form)?;
    let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is no seed; {form}"));
    let (first, end): (u64, u64) = (number(first)?, number(end)?);
    match end.checked_sub(first) {
        Some(count) if count > 0 => Ok(Seeds { first, count }),
        _ => Err(format!("there is no seed in it; {form}")),
    }
}

fn scenario_names() -> PossibleValuesParser {
    PossibleValuesParser::new(source::scenarios().iter().map(|(name, _)| *name))
}

fn profile_names() -> PossibleValuesParser {
    PossibleValuesParser::new(source::profiles().into_iter().map(|(name, _)| name))
}
