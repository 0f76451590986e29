//! Many runs, side by side, and what is told about each.
//!
//! Workers take plans from a queue, each worker one at a time, and send what came of them to the
//! one thread that prints. Failures are told at once and followed up when all runs are over, so
//! that making plans small does not compete with running more of them.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "outside the simulation: threads and real time"
)]

use super::arguments::{Task, Work};
use super::child::ChildArgs;
use super::meter::Meter;
use super::process::{self, CRASH_RULE, Heard, Outcome};
use super::summary::{Summary, Verdict};
use super::table::{count, duration, grouped};
use super::{difference, failed};
use crate::report::{Failure, Report};
use serde::Serialize;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Failures that are followed up; the others have their replay commands.
const FOLLOWED_MAX: usize = 3;
/// Broken rules of one run that are told.
const TOLD_MAX: usize = 5;
/// What is told of one broken rule, in characters; the report has it all.
const RULE_CHARS_MAX: usize = 700;
/// Lines of the standard error that are told.
const COMPLAINTS_TOLD_MAX: usize = 20;
/// How often the meter is looked after.
const SHOW_INTERVAL: Duration = Duration::from_millis(200);

/// A run that failed.
pub struct Failed {
    pub task: Task,
    pub report: Report,
    /// Its two runs differed; there is no saying which one is right.
    pub differs: bool,
}

/// Makes the runs and gives the exit code.
pub fn run(mut work: Work) -> ExitCode {
    let started = Instant::now();
    let mut printer = Printer {
        meter: (!work.trace && !work.log).then(|| Meter::new("run", work.count)),
        json: work.campaign.json,
        single: work.single,
    };
    let (summary, failures) = make_runs(&mut work, &mut printer);
    if let Some(meter) = printer.meter.take() {
        meter.finish();
    }
    let mut records = Vec::new();
    for failure in failures.iter().take(FOLLOWED_MAX) {
        records.push(failed::follow(failure, &work));
    }
    let (runs, failures) = (summary.runs(), failures.len());
    if work.campaign.json {
        let all = Total { summary: &summary, asked: work.count, failures: &records };
        let json = serde_json::to_string(&all).expect("sums are plain data");
        super::print(&format!("{{\"summary\":{json}}}\n"));
    } else {
        let mut text = format!("\n{}", summary.text(started.elapsed()));
        if failures > FOLLOWED_MAX {
            let more = count(failures - FOLLOWED_MAX, "more failure");
            text.push_str(&format!("{more}, with nothing but the replay commands above\n"));
        }
        if runs < work.count {
            text.push_str(&format!(
                "{} of {} were run: no more after {} (--keep-going runs all)\n",
                grouped(runs),
                grouped(work.count),
                count(failures, "failure")
            ));
        }
        super::print(&text);
    }
    match (summary.failed, summary.undecided) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    }
}

/// What is told of all runs together.
#[derive(Serialize)]
struct Total<'a> {
    /// Runs asked for; fewer were made if too many failed.
    asked: u64,
    #[serde(flatten)]
    summary: &'a Summary,
    failures: &'a [failed::Record],
}

/// What came of a task: one outcome, or two.
struct Done {
    task: Task,
    outcomes: Vec<Outcome>,
}

fn make_runs(work: &mut Work, printer: &mut Printer) -> (Summary, Vec<Failed>) {
    let jobs = if work.trace || work.log { 1 } else { work.campaign.jobs() };
    let runs = if work.campaign.twice { 2 } else { 1 };
    let asked = ChildArgs { trace: work.trace, log: work.log, ..ChildArgs::default() };
    let tasks = Mutex::new(&mut work.tasks);
    let enough = AtomicBool::new(false);
    // Simulated time of the runs that are not over, for each worker.
    let reached: Vec<AtomicU64> = (0..jobs).map(|_| AtomicU64::new(0)).collect();
    let (sender, results) = channel();
    let worker = |number: usize| {
        while !enough.load(Ordering::Relaxed) {
            let Some(task) = tasks.lock().expect("no holder panics").next() else { return };
            let mut outcomes: Vec<Outcome> = Vec::new();
            for _ in 0..runs {
                let before: u64 = outcomes.iter().map(|outcome| outcome.report.simulated_ms).sum();
                let mut hear = |heard: Heard<'_>| match heard {
                    Heard::Line(line) => super::print(&format!("{line}\n")),
                    Heard::Reached(time) => {
                        let millis = u64::try_from(time.as_millis()).expect("hours at most");
                        reached[number].store(before + millis, Ordering::Relaxed);
                    }
                };
                outcomes.push(process::run(&task.plan, &asked, &mut hear));
            }
            reached[number].store(0, Ordering::Relaxed);
            if sender.clone().send(Done { task, outcomes }).is_err() {
                return;
            }
        }
    };
    let mut summary = Summary::default();
    let mut failures = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..jobs).map(|number| scope.spawn(move_in(&worker, number))).collect();
        loop {
            match results.recv_timeout(SHOW_INTERVAL) {
                Ok(done) => {
                    let verdict = settle(done, &mut summary, printer);
                    failures.extend(verdict);
                    if summary.failed >= work.campaign.failures_max() {
                        enough.store(true, Ordering::Relaxed);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if workers.iter().all(|worker| worker.is_finished()) {
                        break;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let running = reached.iter().map(|time| time.load(Ordering::Relaxed)).sum();
            printer.show(&summary, running);
        }
    });
    (summary, failures)
}

/// A worker's work, with its number.
fn move_in<'a>(worker: &'a (impl Fn(usize) + Sync), number: usize) -> impl FnOnce() + Send + 'a {
    move || worker(number)
}

/// Judges a run, adds it up and tells about it.
fn settle(done: Done, summary: &mut Summary, printer: &Printer) -> Option<Failed> {
    let Done { task, mut outcomes } = done;
    let difference = match &outcomes[..] {
        [one, other] => difference::compare(&one.report, &other.report),
        _ => None,
    };
    let differs = difference.is_some();
    outcomes[0].report.failures.splice(0..0, difference);
    let verdict = Verdict::of(&outcomes[0].report);
    let reports: Vec<&Report> = outcomes.iter().map(|outcome| &outcome.report).collect();
    summary.add(&task.plan, &reports, verdict);
    let outcome = outcomes.swap_remove(0);
    printer.tell(&task, &outcome, verdict);
    let Outcome { report, .. } = outcome;
    (verdict == Verdict::Failed).then_some(Failed { task, report, differs })
}

/// Tells people, or programs, how it goes.
struct Printer {
    meter: Option<Meter>,
    json: bool,
    single: bool,
}

/// What programs are told of a run.
#[derive(Serialize)]
struct RunLine<'a> {
    verdict: Verdict,
    #[serde(flatten)]
    report: &'a Report,
    replay: String,
    /// The end of the process's standard error.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stderr: &'a [String],
}

impl Printer {
    fn show(&mut self, summary: &Summary, running_ms: u64) {
        let Some(meter) = &mut self.meter else { return };
        let left = meter
            .left(summary.runs())
            .map_or(String::new(), |left| format!(", {} left", duration(left)));
        meter.show(summary.runs(), || format!("{}{left}", summary.line(running_ms)));
    }

    fn tell(&self, task: &Task, outcome: &Outcome, verdict: Verdict) {
        let text = match (self.json, verdict) {
            (true, _) => json(task, outcome, verdict),
            (false, Verdict::Passed) if !self.single => return,
            (false, _) => text(task, outcome, verdict),
        };
        match &self.meter {
            Some(meter) => meter.print(&text),
            None => super::print(&text),
        }
    }
}

fn json(task: &Task, Outcome { report, complaints }: &Outcome, verdict: Verdict) -> String {
    let replay = replay(task);
    let line = RunLine { verdict, report, replay, stderr: complaints };
    let json = serde_json::to_string(&line).expect("a report is plain data");
    format!("{json}\n")
}

fn text(task: &Task, Outcome { report, complaints }: &Outcome, verdict: Verdict) -> String {
    let word = match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::Undecided => "is undecided",
    };
    let faults: u64 = report.faults.values().sum();
    let mut text = format!(
        "seed {} {word}: {}, {}, profile {}, {} simulated in {}, {} operations, {} faults, trace \
         {:016x}\n",
        report.seed,
        report.scenario,
        count(report.nodes.into(), "node"),
        report.profile,
        duration(Duration::from_millis(report.simulated_ms)),
        duration(Duration::from_millis(report.real_ms)),
        grouped(report.calls),
        grouped(faults),
        report.trace
    );
    if verdict == Verdict::Passed {
        return text;
    }
    for failure in report.failures.iter().take(TOLD_MAX) {
        text.push_str(&indented(&rule(failure), "  "));
    }
    if report.failures.len() > TOLD_MAX {
        let more = count(report.failures.len() - TOLD_MAX, "more broken rule");
        text.push_str(&format!("  and {more}\n"));
    }
    if let Some(why) = &report.undecided {
        text.push_str(&indented(&format!("not all could be checked: {why}"), "  "));
    }
    // A panic is told already, and its backtrace is long; the files have it.
    if report.failures.iter().any(|failure| failure.rule == CRASH_RULE) && !complaints.is_empty() {
        let last = &complaints[complaints.len().saturating_sub(COMPLAINTS_TOLD_MAX)..];
        text.push_str("  its standard error ends with\n");
        text.push_str(&indented(&last.join("\n"), "    "));
    }
    text.push_str(&format!("  replay: {}\n", replay(task)));
    text
}

/// A broken rule in words, as long as fits a terminal.
pub fn rule(failure: &Failure) -> String {
    // Some texts begin with their rule.
    let text = match failure.text.starts_with(&failure.rule) {
        true => failure.text.clone(),
        false => format!("{}: {}", failure.rule, failure.text),
    };
    match text.char_indices().nth(RULE_CHARS_MAX) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text,
    }
}

/// The command that makes a run again.
pub fn replay(task: &Task) -> String {
    format!("cargo sim -- {}", task.replay.join(" "))
}

/// Lines with something before each.
pub fn indented(text: &str, indent: &str) -> String {
    text.lines().map(|line| format!("{indent}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    fn task() -> Task {
        let plan: Plan = super::super::tests::plan();
        Task { plan, name: "seed-7".into(), replay: vec!["run".into(), "--seed 7".into()] }
    }

    fn outcome(failures: usize) -> Outcome {
        let failure = Failure { rule: "stale read".into(), text: "one line\nanother".into() };
        let report = Report {
            seed: 7,
            scenario: "nightly".into(),
            profile: "bank".into(),
            nodes: 3,
            trace: 0xab,
            simulated_ms: 61_234,
            real_ms: 512,
            calls: 1_204,
            faults: [("kill".into(), 30)].into(),
            failures: vec![failure; failures],
            ..Report::default()
        };
        Outcome { report, complaints: Vec::new() }
    }

    const LINE: &str = "nightly, 3 nodes, profile bank, 61 s simulated in 0.5 s, 1,204 operations, \
                        30 faults, trace 00000000000000ab\n";

    #[test]
    fn a_run_that_passed_is_one_line() {
        let text = text(&task(), &outcome(0), Verdict::Passed);
        assert_eq!(text, format!("seed 7 passed: {LINE}"));
    }

    #[test]
    fn a_failure_tells_the_rules_and_how_to_see_it_again() {
        let told = text(&task(), &outcome(1), Verdict::Failed);
        let rules = "  stale read: one line\n  another\n  replay: cargo sim -- run --seed 7\n";
        assert_eq!(told, format!("seed 7 FAILED: {LINE}{rules}"));
        let twice = Failure { rule: "stale read".into(), text: "stale read: of x".into() };
        assert_eq!(rule(&twice), "stale read: of x");
        let told = text(&task(), &outcome(7), Verdict::Failed);
        assert_eq!(told.matches("stale read").count(), 5);
        assert!(told.contains("  and 2 more broken rules\n"), "{told}");
    }

    #[test]
    fn a_program_gets_the_whole_report_and_the_verdict() {
        let told = json(&task(), &outcome(1), Verdict::Failed);
        let value: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!(value["verdict"], "failed");
        assert_eq!(value["seed"], 7);
        assert_eq!(value["failures"][0]["rule"], "stale read");
        assert_eq!(value["replay"], "cargo sim -- run --seed 7");
        let report: Report = serde_json::from_str(&told).unwrap();
        assert_eq!(report.calls, 1_204);
    }
}
