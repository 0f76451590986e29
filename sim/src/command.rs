//! The command line: `cargo sim -- run --seed 7`, or `--seeds 1..100`.
//!
//! Every seed runs in a process of its own, so that nothing one run leaves behind (statics, hash
//! keys, a hang) touches another, and so that two runs of a seed (`--twice`) share nothing.

#![expect(
    clippy::disallowed_methods,
    reason = "outside the simulation: processes and real time to run it in"
)]

use crate::plan::Overrides;
use crate::report::Report;
use crate::scenario;
use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

const USAGE: &str = "usage: cargo sim -- run (--seed N | --seeds A..B) [--nodes N] [--time SECONDS]
           [--twice] [--jobs N] [--log] [--trace]

  --seed N       one seed
  --seeds A..B   from A to before B
  --nodes N      members of the cluster (3)
  --time S       simulated seconds of faults (60)
  --twice        run each seed twice and compare the traces
  --jobs N       seeds at a time (2)
  --log          print the log of the members
  --trace        print faults, calls and their outcomes as they come";

/// Real time after which a seed counts as hanging.
const SEED_TIMEOUT: Duration = Duration::from_secs(600);

/// What was asked for.
#[derive(Debug)]
struct Request {
    first: u64,
    end: u64,
    nodes: Option<u8>,
    seconds: Option<u64>,
    scenario: String,
    plan: bool,
    twice: bool,
    jobs: usize,
    log: bool,
    trace: bool,
    /// In a child: the one seed, in this very process.
    here: bool,
}

pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let request = match parse(&arguments) {
        Ok(request) => request,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let passed = match request.here {
        true => run_here(&request),
        false => run_all(&request),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut words = arguments.iter().map(String::as_str);
    if words.next() != Some("run") {
        return Err("the one command is `run`".into());
    }
    let mut seeds = None;
    let (mut nodes, mut seconds, mut jobs) = (None, None, 2);
    let (mut scenario, mut plan) = ("nightly".to_owned(), false);
    let (mut twice, mut log, mut trace, mut here) = (false, false, false, false);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word {
            "--seed" => {
                let seed: u64 = number(value()?)?;
                seeds = Some((seed, seed + 1));
            }
            "--seeds" => {
                let range = value()?;
                let (first, end) = range.split_once("..").ok_or("--seeds takes A..B")?;
                seeds = Some((number(first)?, number(end)?));
            }
            "--nodes" => nodes = Some(number(value()?)?),
            "--time" => seconds = Some(number(value()?)?),
            "--scenario" => scenario = value()?.to_owned(),
            "--plan" => plan = true,
            "--jobs" => jobs = number(value()?)?,
            "--twice" => twice = true,
            "--log" => log = true,
            "--trace" => trace = true,
            "--here" => here = true,
            _ => return Err(format!("unknown: {word}")),
        }
    }
    let (first, end) = seeds.ok_or("which seeds?")?;
    if first >= end || nodes.is_some_and(|nodes| !(1..=9).contains(&nodes)) || jobs == 0 {
        return Err("at least one seed, 1 to 9 nodes, at least one job".into());
    }
    Ok(Request { first, end, nodes, seconds, scenario, plan, twice, jobs, log, trace, here })
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

/// One seed, in this process.
fn run_here(request: &Request) -> bool {
    if request.log {
        let ours = Targets::new().with_target("quorate", tracing::Level::DEBUG);
        let lines = tracing_subscriber::fmt::layer().with_timer(SimTime).with_ansi(false);
        tracing_subscriber::registry().with(lines).with(ours).init();
    }
    let overrides = Overrides {
        nodes: request.nodes,
        time_ms: request.seconds.map(|seconds| seconds * 1_000),
        profile: None,
    };
    let plan = scenario::named(&request.scenario, request.first, &overrides);
    let plan = plan.expect("a scenario");
    if request.plan {
        println!("{}", serde_json::to_string_pretty(&plan).expect("data"));
    }
    let print_trace = request.trace;
    let started = Instant::now();
    // A fresh thread: the hash keys of std's maps are drawn once per thread, from the seed.
    let running = std::thread::Builder::new().stack_size(16 << 20);
    let running =
        running.spawn(move || scenario::run(&plan, print_trace)).expect("a thread can be had");
    let Ok((report, _)) = running.join() else {
        println!("seed {} FAILED: panic, see above", request.first);
        return false;
    };
    let Report { trace, events, calls, answered, revisions, syncs, failures, .. } = &report;
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "seed {} {verdict} trace {trace:016x} events {events} calls {calls} answered {answered} \
         unknown {} revisions {revisions} syncs {syncs} simulated {:.1} s real {:.1} s {} n{} \
         undecided {:?} {:?}",
        request.first,
        report.unknown,
        report.simulated_ms as f64 / 1e3,
        started.elapsed().as_secs_f64(),
        report.profile,
        report.nodes,
        report.undecided,
        report.faults,
    );
    for failure in failures.iter().take(10) {
        println!("  {}: {}", failure.rule, failure.text);
    }
    failures.is_empty()
}

/// Simulated time for the log; the machine is in madsim's span.
struct SimTime;

impl tracing_subscriber::fmt::time::FormatTime for SimTime {
    fn format_time(
        &self,
        out: &mut tracing_subscriber::fmt::format::Writer<'_>,
    ) -> std::fmt::Result {
        let elapsed = madsim::time::TimeHandle::try_current().map(|time| time.elapsed());
        write!(out, "{:>12.6}", elapsed.unwrap_or_default().as_secs_f64())
    }
}

/// A seed in a process of its own, once or twice.
struct Job {
    seed: u64,
    children: Vec<Child>,
    started: Instant,
}

impl Job {
    fn start(request: &Request, seed: u64) -> Job {
        let count = if request.twice { 2 } else { 1 };
        let children = (0..count).map(|_| {
            Command::new(std::env::current_exe().expect("we run from a file"))
                .args(arguments(request, seed))
                .arg("--here")
                .stdout(if request.log || request.trace {
                    Stdio::inherit()
                } else {
                    Stdio::piped()
                })
                .stderr(if request.log || request.trace {
                    Stdio::inherit()
                } else {
                    Stdio::piped()
                })
                .spawn()
                .expect("a process can be started")
        });
        Job { seed, children: children.collect(), started: Instant::now() }
    }

    /// Whether it passed, once it is over.
    fn poll(&mut self, request: &Request) -> Option<bool> {
        let hangs = self.started.elapsed() > SEED_TIMEOUT;
        for child in &mut self.children {
            match child.try_wait().expect("our own child") {
                Some(_) => {}
                None if hangs => child.kill().expect("our own child"),
                None => return None,
            }
        }
        let mut outputs = Vec::new();
        let mut passed = !hangs;
        for child in &mut self.children {
            passed &= child.wait().expect("our own child").success();
            let mut output = String::new();
            if let Some(stdout) = &mut child.stdout {
                stdout.read_to_string(&mut output).expect("we print text");
            }
            if let Some(stderr) = &mut child.stderr {
                stderr.read_to_string(&mut output).expect("we print text");
            }
            outputs.push(output);
        }
        print!("{}", outputs[0]);
        let same = outputs.iter().all(|output| summary(output) == summary(&outputs[0]));
        if !same {
            println!("seed {} FAILED: two runs differ; the other:\n{}", self.seed, outputs[1]);
        }
        if hangs {
            println!("seed {} FAILED: not over after {SEED_TIMEOUT:?}", self.seed);
        }
        if !(passed && same) {
            println!("  replay: cargo sim -- {}", arguments(request, self.seed).join(" "));
        }
        Some(passed && same)
    }
}

/// A run's line without the real time.
fn summary(output: &str) -> &str {
    output.split(" real ").next().unwrap_or_default()
}

fn arguments(request: &Request, seed: u64) -> Vec<String> {
    let mut arguments: Vec<String> = ["run".into(), "--seed".into(), seed.to_string()].into();
    arguments.extend(["--scenario".into(), request.scenario.clone()]);
    arguments.extend(
        request
            .nodes
            .map(|nodes| format!("--nodes {nodes}"))
            .iter()
            .flat_map(|text| text.split(' ').map(str::to_owned)),
    );
    arguments.extend(
        request
            .seconds
            .map(|time| format!("--time {time}"))
            .iter()
            .flat_map(|text| text.split(' ').map(str::to_owned)),
    );
    arguments.extend(request.log.then(|| "--log".to_owned()));
    arguments.extend(request.trace.then(|| "--trace".to_owned()));
    arguments
}

fn run_all(request: &Request) -> bool {
    let started = Instant::now();
    let mut seeds = request.first..request.end;
    let mut jobs: Vec<Job> = Vec::new();
    let mut failed = Vec::new();
    loop {
        while jobs.len() < request.jobs
            && let Some(seed) = seeds.next()
        {
            jobs.push(Job::start(request, seed));
        }
        if jobs.is_empty() {
            break;
        }
        jobs.retain_mut(|job| match job.poll(request) {
            None => true,
            Some(true) => false,
            Some(false) => {
                failed.push(job.seed);
                false
            }
        });
        std::thread::sleep(Duration::from_millis(10));
    }
    let count = request.end - request.first;
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    println!(
        "{count} seeds, {} failed {failed:?}, {:.1} seeds a minute",
        failed.len(),
        count as f64 / minutes
    );
    failed.is_empty()
}
