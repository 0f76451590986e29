//! What follows a failure: a smaller plan that fails the same way, and files about it.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "outside the simulation: threads and real time"
)]

use super::arguments::Work;
use super::campaign::{Failed, indented, replay, rule};
use super::child::ChildArgs;
use super::message::Panic;
use super::meter::Meter;
use super::process::{self, HANG_RULE, Outcome};
use super::table::{count, duration};
use super::{difference, words};
use crate::artifacts;
use crate::plan::Plan;
use crate::report::{Failure, Report};
use crate::shrink::{Found, shrink};
use quorate::check::Verdict;
use serde::Serialize;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Runs made to make one plan smaller, whatever time is left.
const TRIALS_MAX: usize = 2_000;
/// A candidate that passes is tried with so many other seeds: what was taken away has moved
/// everything after it, and a race that was lost by a hair is won now.
const OTHER_SEEDS: u64 = 2;
/// Of so many candidates at a time, most of which take away a single fault, one will do.
const CANDIDATES_FEW: usize = 8;
/// A trial that stands still so long does not fail the way we look for.
const TRIAL_HANG: Duration = Duration::from_secs(20);

/// What became of a failure, for programs.
#[derive(Debug, Serialize)]
pub struct Record {
    pub seed: u64,
    pub rule: String,
    pub text: String,
    pub replay: String,
    /// The folder with the files about it; none if they cannot be written.
    pub folder: Option<String>,
    /// None: the plan was not made smaller.
    pub shrunk: Option<ShrunkRecord>,
}

#[derive(Debug, Serialize)]
pub struct ShrunkRecord {
    pub replay: String,
    pub steps_before: usize,
    pub steps: usize,
    pub time_ms: u64,
    pub trials: usize,
    pub real_ms: u64,
}

/// Makes the plan of a failure smaller, as far as that was asked for, and writes files about it.
pub fn follow(failed: &Failed, work: &Work) -> Record {
    let Failed { task, report, differs } = failed;
    let tell = |text: &str| {
        if !work.campaign.json {
            super::print(text);
        }
    };
    tell(&format!("\nseed {}\n", report.seed));
    if *differs {
        tell(&indented(&difference::explain(&task.plan), "  "));
    }
    let failure = report.failures.first().expect("it failed");
    let shrinking = work.shrink_time.filter(|_| failure.rule != HANG_RULE);
    if shrinking.is_none() && failure.rule == HANG_RULE {
        tell("  a run that hangs is not made smaller: every trial would hang as long\n");
    }
    let smaller = shrinking.map(|time| {
        let mut trials = Trials::new(failure, work, time);
        let found = shrink(task.plan.clone(), report.clone(), &mut |plans| trials.first(plans));
        let (made, took) = trials.finish();
        tell(&summary(&task.plan, &found.plan, made, took));
        (found, made, took)
    });
    let smallest = smaller.as_ref().map_or(&task.plan, |(found, _, _)| &found.plan);
    let original = (*smallest != task.plan).then_some(&task.plan);
    let folder = work.campaign.out.join(&task.name);
    let replay_smallest = format!(
        "cargo sim -- run --plan {}",
        words::path(&match original {
            Some(_) => artifacts::shrunk_plan(&folder),
            None => artifacts::plan(&folder),
        })
    );
    let written = artifacts::write(&folder, smallest, original);
    match &written {
        Ok(written) => tell(&described(written, failure, &folder, &replay_smallest)),
        Err(error) => eprintln!("error: {}: {error}", folder.display()),
    }
    Record {
        seed: report.seed,
        rule: failure.rule.clone(),
        text: failure.text.clone(),
        replay: replay(task),
        folder: written.is_ok().then(|| folder.display().to_string()),
        shrunk: smaller.map(|(found, trials, took)| ShrunkRecord {
            replay: replay_smallest,
            steps_before: task.plan.steps.len(),
            steps: found.plan.steps.len(),
            time_ms: found.plan.time_ms,
            trials,
            real_ms: u64::try_from(took.as_millis()).expect("a budget of seconds"),
        }),
    }
}

/// What was taken away, and what is left in words.
fn summary(before: &Plan, after: &Plan, trials: usize, took: Duration) -> String {
    let steps = |plan: &Plan| count(plan.steps.len(), "fault");
    format!(
        "  made smaller in {}, {}: from {} in {} to {} in {}\n{}",
        count(trials, "trial"),
        duration(took),
        steps(before),
        words::seconds(before.time_ms),
        steps(after),
        words::seconds(after.time_ms),
        indented(&words::plan(after), "    ")
    )
}

/// Which files there are, and what they agree on.
fn described(
    written: &artifacts::Written,
    failure: &Failure,
    folder: &Path,
    replay: &str,
) -> String {
    let report = &written.outcome.report;
    let mut text = match report.failures.iter().find(|found| same(found, failure)) {
        Some(found) => indented(&rule(found), "  "),
        None => "  the run that was recorded did not fail the same way: runs of one plan differ\n"
            .to_owned(),
    };
    text.push_str(&format!("  replay: {replay}\n  files in {}\n", folder.display()));
    for (name, about) in &written.files {
        text.push_str(&format!("    {name:<14} {about}\n"));
    }
    let check = format!("quorate check {}", words::path(&artifacts::history(folder)));
    text.push_str(&match written.verdict {
        Some(Verdict::Unlawful) => format!("  {check}: unlawful, as the run says\n"),
        Some(Verdict::Unknown) => format!("  {check}: cannot tell\n"),
        Some(Verdict::Lawful) => {
            format!("  {check}: lawful; what is wrong was seen inside, not by clients\n")
        }
        None => "  it ended too soon to leave a history\n".to_owned(),
    });
    text
}

/// Whether two broken rules are the same one. Panics are the same if they are in the same place.
fn same(one: &Failure, other: &Failure) -> bool {
    let place = |failure: &Failure| {
        let place = failure.text.rsplit_once(" at ").map(|(_, place)| place.to_owned());
        place.filter(|_| failure.rule == Panic::RULE)
    };
    one.rule == other.rule && place(one) == place(other)
}

/// Tries plans, several at a time, until the budget is used up.
struct Trials<'a> {
    failure: &'a Failure,
    jobs: usize,
    /// The rule is about two runs, so a trial takes two.
    twice: bool,
    end: Instant,
    made: AtomicUsize,
    meter: Mutex<Meter>,
    steps: usize,
}

impl<'a> Trials<'a> {
    fn new(failure: &'a Failure, work: &Work, time: Duration) -> Trials<'a> {
        Trials {
            failure,
            jobs: work.campaign.jobs(),
            twice: failure.rule == difference::RULE,
            end: Instant::now() + time,
            made: AtomicUsize::new(0),
            meter: Mutex::new(Meter::new("make smaller", time.as_secs())),
            steps: 0,
        }
    }

    /// Takes the meter away; how many trials were made, and in what time.
    fn finish(self) -> (usize, Duration) {
        let meter = self.meter.into_inner().expect("no holder panics");
        let took = meter.elapsed();
        meter.finish();
        (self.made.into_inner(), took)
    }

    /// The first of the plans that fails, with its own seed or with another one.
    fn first(&mut self, plans: &[Plan]) -> Option<Found> {
        self.steps = plans.iter().map(|plan| plan.steps.len()).max().unwrap_or(0);
        let others = if plans.len() <= CANDIDATES_FEW { OTHER_SEEDS } else { 0 };
        let attempts: Vec<(usize, Plan)> = plans
            .iter()
            .enumerate()
            .flat_map(|(place, plan)| {
                let seeds = (0..=others).map(|number| other_seed(plan.seed, number));
                seeds.map(move |seed| (place, Plan { seed, ..plan.clone() }))
            })
            .collect();
        let next = AtomicUsize::new(0);
        let found: Mutex<Option<(usize, Found)>> = Mutex::new(None);
        let is_before = |number: usize| {
            let found = found.lock().expect("no holder panics");
            found.as_ref().is_none_or(|(best, _)| number < *best)
        };
        let worker = || loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((place, plan)) = attempts.get(number) else { return };
            if !is_before(number) || !self.is_in_budget() {
                return;
            }
            if let Some(report) = self.fails(plan)
                && is_before(number)
            {
                let result = Found { place: *place, plan: plan.clone(), report };
                *found.lock().expect("no holder panics") = Some((number, result));
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.min(attempts.len()) {
                scope.spawn(worker);
            }
        });
        found.into_inner().expect("no holder panics").map(|(_, found)| found)
    }

    fn is_in_budget(&self) -> bool {
        Instant::now() < self.end && self.made.load(Ordering::Relaxed) < TRIALS_MAX
    }

    /// The report of a run that breaks the same rule.
    fn fails(&self, plan: &Plan) -> Option<Report> {
        let run = || process::run_within(plan, &ChildArgs::default(), TRIAL_HANG, &mut |_| {});
        let Outcome { mut report, .. } = run();
        if self.twice {
            report.failures.extend(difference::compare(&report, &run().report));
        }
        self.made.fetch_add(1, Ordering::Relaxed);
        self.show();
        let again = report.failures.iter().any(|failure| same(failure, self.failure));
        again.then_some(report)
    }

    fn show(&self) {
        let mut meter = self.meter.lock().expect("no holder panics");
        let made = self.made.load(Ordering::Relaxed);
        let seconds = meter.elapsed().as_secs();
        meter.show(seconds, || {
            format!("s, {}, {} at most", count(made, "trial"), count(self.steps, "fault"))
        });
    }
}

/// Seeds made of a seed; the first is itself.
fn other_seed(seed: u64, number: u64) -> u64 {
    if number == 0 {
        return seed;
    }
    let mut hasher = DefaultHasher::new();
    (seed, number).hash(&mut hasher);
    // Short enough to be read out.
    hasher.finish() % 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(rule: &str, text: &str) -> Failure {
        Failure { rule: rule.into(), text: text.into() }
    }

    #[test]
    fn the_rule_makes_the_failure_and_of_a_panic_its_place() {
        let stale = failure("stale read", "of x at 5");
        assert!(same(&stale, &failure("stale read", "of y at 6")));
        assert!(!same(&stale, &failure("not linearizable", "of x at 5")));
        let panic = failure("panic", "index 3 at src/a.rs:10");
        assert!(same(&panic, &failure("panic", "index 4 at src/a.rs:10")));
        assert!(!same(&panic, &failure("panic", "index 3 at src/a.rs:11")));
    }

    #[test]
    fn other_seeds_are_others_and_always_the_same() {
        assert_eq!(other_seed(7, 0), 7);
        let seeds = [other_seed(7, 1), other_seed(7, 2), other_seed(8, 1)];
        assert!(seeds.iter().all(|seed| ![7, 8].contains(seed)), "{seeds:?}");
        assert!(seeds[0] != seeds[1] && seeds[0] != seeds[2], "{seeds:?}");
        assert_eq!(seeds[0], other_seed(7, 1));
    }
}
