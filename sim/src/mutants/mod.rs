//! Who tests the tester: bugs planted in a copy of the product, each to be found by the simulator.
//!
//! A simulator that finds nothing proves nothing until it is known what it would find. So the
//! folder `sim/mutants` holds bugs that have really happened, to etcd and its kin and to us, as
//! small patches. This command makes a scratch copy of the work tree with all of them in it, each
//! behind the name that the environment variable `QUORATE_MUTANT` chooses, builds it once, and
//! runs seed after seed for each bug until one is red.
//!
//! ```text
//! work tree + patches ─▶ copy ─▶ one build ─▶ green without a bug?
//!                                              └─▶ per bug: seeds 1.. until red ─▶ table
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `patch` | a bug as a file: header and diff, and how it is applied |
//! | `copy` | the scratch copy and its build |
//! | `hunt` | which seed next, and when a bug is found |
//! | `quick` | the few bugs for every check of a change |
//! | `verdict` | the table |
//!
//! - The product's own source holds neither a planted bug nor a switch for one: the switch is the
//!   first patch.
//! - Plans are drawn by this program, from the same sources as the copy, and handed to the copy's
//!   program as to any child.
//! - A red seed counts only if the same plan is green without the bug. One that is not is a
//!   finding of its own: in the product, or in the simulator.

mod copy;
mod hunt;
mod patch;
mod quick;
mod verdict;

use crate::command::meter::Meter;
use crate::command::{ChildArgs, process, source};
use crate::plan::{Overrides, Plan};
use clap::{Args, value_parser};
use hunt::{Cost, Find, Hunt};
use patch::{NONE, Patch};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use verdict::Hunted;

/// Seeds that must be green without a bug before any is hunted.
const GREEN_SEEDS: u64 = 4;
/// The variable that chooses.
const VARIABLE: &str = "QUORATE_MUTANT";

/// Plants bugs in a copy of the product and looks whether the simulation finds them.
#[derive(Args, Debug)]
pub struct MutantsArgs {
    /// Only this bug; may be given more than once
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only those of sim/mutants/quick.txt, with the few seeds given there
    #[arg(long, conflicts_with_all = ["seeds", "time"])]
    quick: bool,
    /// Seeds for each bug at most
    #[arg(long, value_name = "N", default_value = "200", value_parser = value_parser!(u64).range(1..))]
    seeds: u64,
    /// Simulated seconds of faults for each seed
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = value_parser!(u64).range(1..=86_400))]
    time: u64,
    /// Seeds at a time [default: one for each core]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..=256))]
    jobs: Option<u64>,
    /// Print an object for each bug and one for all, a line each, and nothing else
    #[arg(long)]
    json: bool,
    /// Tell which bugs there are, and run nothing
    #[arg(long)]
    list: bool,
}

/// Runs the command.
pub fn main(arguments: &MutantsArgs) -> ExitCode {
    match run(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all that were hunted were found.
fn run(arguments: &MutantsArgs) -> Result<bool, String> {
    let patches = copy::patches()?;
    let chosen = choose(&patches, arguments)?;
    if arguments.list {
        print(&list(&chosen));
        return Ok(true);
    }
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/sim/mutants/tree");
    copy::update(&patches, &tree)?;
    eprintln!("building a copy with {} planted bugs", patches.len() - 1);
    let site = Site {
        program: copy::build(&tree)?,
        time_ms: arguments.time * 1_000,
        jobs: arguments.jobs.map_or_else(cores, |jobs| usize::try_from(jobs).expect("at most 256")),
    };
    site.must_be_green()?;
    let names = chosen.iter().map(|(patch, _)| patch.name.as_str()).collect();
    let hunts = chosen.iter().map(|(_, budget)| Hunt::new(*budget)).collect();
    let hunts = site.hunt("hunting", names, hunts);
    let hunted: Vec<Hunted<'_>> =
        chosen.iter().zip(&hunts).map(|((patch, _), hunt)| Hunted { patch, hunt }).collect();
    if arguments.json {
        hunted.iter().for_each(|one| print(&format!("{}\n", verdict::object(one))));
        print(&format!("{}\n", verdict::summary(&hunted)));
    } else {
        print(&verdict::text(&hunted));
    }
    Ok(verdict::all_found(&hunted))
}

/// The bugs to hunt, each with the seeds it may take.
fn choose<'a>(
    patches: &'a [Patch],
    arguments: &MutantsArgs,
) -> Result<Vec<(&'a Patch, u64)>, String> {
    let mut bugs: Vec<&Patch> = patches.iter().filter(|patch| patch.name != NONE).collect();
    let unknown = |name: &String| !bugs.iter().any(|patch| patch.name == *name);
    if let Some(name) = arguments.only.iter().find(|name| unknown(name)) {
        let names: Vec<&str> = bugs.iter().map(|patch| patch.name.as_str()).collect();
        return Err(format!("there is no planted bug {name}; there are {}", names.join(", ")));
    }
    let budgets = if arguments.quick { quick_budgets()? } else { BTreeMap::new() };
    if let Some(name) = budgets.keys().find(|name| unknown(name)) {
        return Err(format!("quick.txt: there is no planted bug {name}"));
    }
    if !arguments.only.is_empty() {
        bugs.retain(|patch| arguments.only.contains(&patch.name));
    }
    if arguments.quick {
        bugs.retain(|patch| budgets.contains_key(&patch.name));
    }
    let budget = |patch: &Patch| budgets.get(&patch.name).copied().unwrap_or(arguments.seeds);
    Ok(bugs.into_iter().map(|patch| (patch, budget(patch))).collect())
}

#[expect(clippy::disallowed_methods, reason = "outside the simulation: a file of the work tree")]
fn quick_budgets() -> Result<BTreeMap<String, u64>, String> {
    let file = copy::folder().join("quick.txt");
    let place = file.display();
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{place}: {error}"))?;
    quick::parse(&text).map_err(|error| format!("{place}: {error}"))
}

fn list(chosen: &[(&Patch, u64)]) -> String {
    let width = chosen.iter().map(|(patch, _)| patch.name.len()).max().unwrap_or(0);
    let origins = chosen.iter().map(|(patch, _)| patch.origin.chars().count()).max().unwrap_or(0);
    let line = |(patch, _): &(&Patch, u64)| {
        format!(
            "{:width$}  {:origins$}  {}\n",
            patch.name,
            patch.origin,
            first_sentence(&patch.bug)
        )
    };
    chosen.iter().map(line).collect()
}

fn first_sentence(text: &str) -> &str {
    text.find(". ").map_or(text, |end| &text[..=end])
}

/// Prints to the standard output. That nobody reads it changes nothing about the outcome.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn cores() -> usize {
    #[expect(clippy::disallowed_types, reason = "outside the simulation")]
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Where the hunt takes place.
struct Site {
    program: PathBuf,
    time_ms: u64,
    jobs: usize,
}

/// What a run came to.
struct Run {
    find: Option<Find>,
    cost: Cost,
}

impl Site {
    /// With nothing chosen the copy is the product, and must pass.
    fn must_be_green(&self) -> Result<(), String> {
        let hunts = self.hunt("without a bug", vec![NONE], vec![Hunt::new(GREEN_SEEDS)]);
        match hunts[0].found() {
            None => Ok(()),
            Some((seed, Find { rule, text, .. })) => {
                Err(format!("seed {seed} is red without a planted bug: {rule}: {text}"))
            }
        }
    }

    /// Hunts for bugs until each is found or its budget spent.
    fn hunt(&self, title: &'static str, names: Vec<&str>, hunts: Vec<Hunt>) -> Vec<Hunt> {
        let total = hunts.len() as u64;
        let shared = Mutex::new((hunts, Meter::new(title, total)));
        let lock = || shared.lock().expect("no holder panics");
        #[expect(clippy::disallowed_methods, reason = "outside the simulation: threads that wait")]
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    loop {
                        let Some((number, seed)) = hunt::next(&mut lock().0) else { return };
                        let run = self.run(names[number], seed);
                        // A plan that is red by itself shows nothing about the bug.
                        let disputed = run.find.is_some()
                            && names[number] != NONE
                            && self.run(NONE, seed).find.is_some();
                        let (hunts, meter) = &mut *lock();
                        let hunt = &mut hunts[number];
                        hunt.disputed.extend(disputed.then_some(seed));
                        hunt.end(seed, run.find.filter(|_| !disputed), run.cost);
                        let done = hunts.iter().filter(|hunt| hunt.is_over()).count() as u64;
                        meter.show(done, || format!("{} seed {seed}", names[number]));
                    }
                });
            }
        });
        let (hunts, meter) = shared.into_inner().expect("no holder panics");
        meter.finish();
        hunts
    }

    fn run(&self, name: &str, seed: u64) -> Run {
        let plan = self.plan(seed);
        let mut command = std::process::Command::new(&self.program);
        command.env(VARIABLE, name);
        let outcome = process::run_in(command, &plan, &ChildArgs::default(), &mut |_| ());
        let report = outcome.report;
        let find = report.failures.first().map(|failure| Find {
            rule: failure.rule.clone(),
            text: failure.text.clone(),
            scenario: report.scenario.clone(),
            profile: report.profile.clone(),
        });
        Run { find, cost: Cost::of(&report) }
    }

    fn plan(&self, seed: u64) -> Plan {
        let overrides = Overrides { time_ms: Some(self.time_ms), ..Overrides::default() };
        source::plan(source::DEFAULT, seed, &overrides).expect("the default is a scenario")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(name: &str) -> Patch {
        let (origin, bug) = ("etcd #1".to_owned(), "It is wrong. It always was.".to_owned());
        Patch { file: format!("{name}.patch"), name: name.into(), origin, bug, changes: Vec::new() }
    }

    fn arguments(only: &[&str]) -> MutantsArgs {
        let only = only.iter().map(|name| (*name).to_owned()).collect();
        MutantsArgs { only, quick: false, seeds: 7, time: 60, jobs: None, json: false, list: true }
    }

    #[test]
    fn the_selector_is_no_bug_and_a_name_must_exist() {
        let patches = [patch(NONE), patch("a"), patch("b")];
        let chosen = choose(&patches, &arguments(&[])).expect("all");
        assert_eq!(chosen.iter().map(|(bug, _)| &bug.name[..]).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(choose(&patches, &arguments(&["b"])).expect("one")[0].1, 7);
        let error = choose(&patches, &arguments(&["c"])).expect_err("none");
        assert_eq!(error, "there is no planted bug c; there are a, b");
        assert_eq!(list(&chosen[..1]), "a  etcd #1  It is wrong.\n");
    }

    #[test]
    fn the_quick_table_names_bugs_that_exist() {
        let patches = copy::patches().expect("they can be read");
        let quick = MutantsArgs { quick: true, ..arguments(&[]) };
        assert!(!choose(&patches, &quick).expect("it fits").is_empty());
    }
}
