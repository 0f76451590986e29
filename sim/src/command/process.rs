//! The outside of a child process: starts it, listens, and knows what its silence means.
//!
//! - A run always has a report: a child that panics, crashes or hangs is given one that says so.
//! - A hang is simulated time that stands still for [`HANG`] of real time, however long the run.
//! - A child whose starter dies notices when it next wants to tell it something, and ends.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "outside the simulation: processes, threads and real time"
)]

use super::child::ChildArgs;
use super::message::{Message, Panic};
use crate::plan::Plan;
use crate::report::{Failure, Report};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Real time without any simulated time passing.
pub const HANG: Duration = Duration::from_secs(120);
/// Broken rules that the outside finds.
pub const HANG_RULE: &str = "hang";
pub const CRASH_RULE: &str = "crash";
/// What is kept of a child's standard error.
const COMPLAINTS_MAX: usize = 200;
/// Lines that wait to be looked at.
const QUEUE_MAX: usize = 1024;

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub report: Report,
    /// The last lines of the child's standard error.
    pub complaints: Vec<String>,
}

/// What comes from a child while it runs.
pub enum Heard<'a> {
    /// The simulated time it has come to.
    Reached(Duration),
    /// A line of the trace or the log.
    Line(&'a str),
}

/// Runs a plan in a process of its own.
pub fn run(plan: &Plan, asked: &ChildArgs, hear: &mut dyn FnMut(Heard<'_>)) -> Outcome {
    run_within(plan, asked, HANG, hear)
}

/// [`run`], with another patience.
pub fn run_within(
    plan: &Plan,
    asked: &ChildArgs,
    hang: Duration,
    hear: &mut dyn FnMut(Heard<'_>),
) -> Outcome {
    run_program(own_program(), plan, asked, hang, hear)
}

/// Runs a plan in another build of this program, or with another environment.
pub fn run_in(
    program: Command,
    plan: &Plan,
    asked: &ChildArgs,
    hear: &mut dyn FnMut(Heard<'_>),
) -> Outcome {
    run_program(program, plan, asked, HANG, hear)
}

fn run_program(
    mut command: Command,
    plan: &Plan,
    asked: &ChildArgs,
    hang: Duration,
    hear: &mut dyn FnMut(Heard<'_>),
) -> Outcome {
    command.arg("child").args(asked.words());
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        command.env("RUST_BACKTRACE", "1");
    }
    let json = serde_json::to_string(plan).expect("a plan is plain data");
    let empty = Report {
        seed: plan.seed,
        scenario: plan.scenario.clone(),
        profile: plan.profile.clone(),
        nodes: plan.nodes,
        ..Report::default()
    };
    supervise(command, &json, empty, hang, hear)
}

/// This very program, even if its file was replaced by a new build meanwhile: all seeds of a
/// call are of one commit.
fn own_program() -> Command {
    if cfg!(target_os = "linux") {
        return Command::new("/proc/self/exe");
    }
    Command::new(std::env::current_exe().expect("we run from a file"))
}

/// Starts a child, gives it its input and listens until it ends or hangs. `report` is what is
/// known about the run beforehand.
fn supervise(
    mut command: Command,
    input: &str,
    mut report: Report,
    hang: Duration,
    hear: &mut dyn FnMut(Heard<'_>),
) -> Outcome {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let text = format!("a process cannot be started: {error}");
            report.failures = vec![Failure { rule: CRASH_RULE.into(), text }];
            return Outcome { report, complaints: Vec::new() };
        }
    };
    let mut stdin = child.stdin.take().expect("piped");
    // A child that ends without reading tells why by its other streams.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let (sender, lines) = sync_channel(QUEUE_MAX);
    let stdout = child.stdout.take().expect("piped");
    let listening = std::thread::spawn(move || forward(stdout, &sender));
    let stderr = child.stderr.take().expect("piped");
    let complaining = std::thread::spawn(move || tail(stderr));

    let mut ending = Ending::default();
    let (mut reached, mut moved) = (None, Instant::now());
    loop {
        let left = hang.saturating_sub(moved.elapsed());
        // A child that talks without end must not talk itself out of it.
        let next = match left.is_zero() {
            true => Err(RecvTimeoutError::Timeout),
            false => lines.recv_timeout(left),
        };
        match next {
            Ok(line) => match Message::read(&line) {
                Some(Message::Reached { simulated_us }) => {
                    if reached != Some(simulated_us) {
                        (reached, moved) = (Some(simulated_us), Instant::now());
                    }
                    hear(Heard::Reached(Duration::from_micros(simulated_us)));
                }
                Some(Message::Panic(panic)) => ending.panic = Some(panic),
                Some(Message::Report(report)) => ending.report = Some(*report),
                None => hear(Heard::Line(&line)),
            },
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                ending.hangs = Some(hang);
                child.kill().expect("our own child, not waited for yet");
                break;
            }
        }
    }
    drop(lines);
    let status = child.wait().expect("our own child");
    listening.join().expect("reading does not panic");
    let complaints = complaining.join().expect("reading does not panic");
    report.simulated_ms = reached.unwrap_or(0) / 1_000;
    report.real_ms = u64::try_from(started.elapsed().as_millis()).expect("runs end");
    Outcome { report: ending.judge(status, report), complaints }
}

/// Passes lines on until the stream ends or nobody listens.
fn forward(stream: impl Read, sender: &SyncSender<String>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        if sender.send(text.trim_end_matches('\n').to_owned()).is_err() {
            return;
        }
        line.clear();
    }
}

/// The last lines of a stream.
fn tail(stream: impl Read) -> Vec<String> {
    let mut last = VecDeque::new();
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        if last.len() == COMPLAINTS_MAX {
            last.pop_front();
        }
        last.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
    last.into()
}

/// How a child ended.
#[derive(Default)]
struct Ending {
    report: Option<Report>,
    panic: Option<Panic>,
    /// How long it had stood still.
    hangs: Option<Duration>,
}

impl Ending {
    /// The report, with what only the outside can know.
    fn judge(self, status: ExitStatus, known: Report) -> Report {
        let whole = self.report.is_some();
        let mut report = self.report.unwrap_or(known);
        let mut found = Vec::new();
        if let Some(panic) = &self.panic {
            found.push(panic.failure());
        }
        if let Some(hang) = self.hangs {
            let text = format!(
                "no simulated time has passed for {} s of real time, at {:.3} s",
                hang.as_secs(),
                report.simulated_ms as f64 / 1e3
            );
            found.push(Failure { rule: HANG_RULE.into(), text });
        }
        let explained = !found.is_empty();
        if !explained && (!whole || !status.success()) {
            let text = format!("the process ended without a report: {status}");
            found.push(Failure { rule: CRASH_RULE.into(), text });
        }
        report.failures.splice(0..0, found);
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Report {
        Report { seed: 7, nodes: 3, ..Report::default() }
    }

    fn shell(script: &str, input: &str, hang: Duration) -> (Outcome, Vec<String>) {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        let mut lines = Vec::new();
        let outcome = supervise(command, input, known(), hang, &mut |heard| {
            if let Heard::Line(line) = heard {
                lines.push(line.to_owned());
            }
        });
        (outcome, lines)
    }

    fn rules(outcome: &Outcome) -> Vec<&str> {
        outcome.report.failures.iter().map(|failure| failure.rule.as_str()).collect()
    }

    #[test]
    fn a_report_is_told_apart_from_the_lines_around_it() {
        let report = Report { seed: 7, calls: 12, ..Report::default() };
        let input = Message::Report(Box::new(report)).line();
        let (outcome, lines) = shell("echo one; cat; echo; echo two", &input, HANG);
        assert_eq!(outcome.report.calls, 12);
        assert_eq!(rules(&outcome), [""; 0]);
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn a_process_that_says_nothing_has_crashed() {
        let (outcome, _) = shell("echo why >&2; kill -9 $$", "", HANG);
        assert_eq!(rules(&outcome), [CRASH_RULE]);
        assert!(outcome.report.failures[0].text.contains("signal: 9"), "{outcome:?}");
        assert_eq!(outcome.complaints, ["why"]);
        assert_eq!(outcome.report.seed, 7);
    }

    #[test]
    fn a_panic_is_a_failure_with_or_without_a_report() {
        let panic = Panic { message: "it must not be".into(), location: "a.rs:3".into() };
        let input = Message::Panic(panic).line();
        for script in ["cat; exit 101", "cat"] {
            let (outcome, _) = shell(script, &input, HANG);
            assert_eq!(rules(&outcome), [Panic::RULE]);
            assert_eq!(outcome.report.failures[0].text, "it must not be at a.rs:3");
        }
        let report = Message::Report(Box::new(known())).line();
        let (outcome, _) = shell("cat", &format!("{input}\n{report}\n"), HANG);
        assert_eq!(rules(&outcome), [Panic::RULE]);
    }

    #[test]
    fn time_that_stands_still_is_a_hang_however_much_is_said() {
        let input = Message::Reached { simulated_us: 2_500_000 }.line();
        let script = "read line; while echo \"$line\"; do sleep 0.05; done";
        let (outcome, _) = shell(script, &format!("{input}\n"), Duration::from_millis(400));
        assert_eq!(rules(&outcome), [HANG_RULE]);
        assert_eq!(outcome.report.simulated_ms, 2_500);
    }
}
