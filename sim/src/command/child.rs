//! The inside of a child process: one plan, one run.
//!
//! The plan comes as JSON on the standard input, messages and lines to look at go to the standard
//! output. Two threads beside the run's own keep the starter informed: nothing of theirs reaches
//! the simulation, whose world is that of one thread.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "outside the simulation: files, threads and real time"
)]

use super::message::{Message, Panic};
use super::source;
use crate::plan::Plan;
use crate::trace;
use clap::Args;
use std::backtrace::Backtrace;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// How often the simulated time is told, in real time.
const TELL_INTERVAL: Duration = Duration::from_millis(500);
/// Of the thread that runs the simulation.
const STACK_BYTES: usize = 16 << 20;

/// What a child is asked for beside the plan.
#[derive(Args, Clone, Default, Debug)]
pub struct ChildArgs {
    /// Print faults, calls and outcomes as they come
    #[arg(long)]
    pub trace: bool,
    /// Print the log of the members
    #[arg(long)]
    pub log: bool,
    /// Write the log of the members to a file
    #[arg(long, conflicts_with = "log")]
    pub log_file: Option<PathBuf>,
    /// Write the history to a file
    #[arg(long)]
    pub history: Option<PathBuf>,
}

impl ChildArgs {
    /// As words of a command line.
    pub fn words(&self) -> Vec<std::ffi::OsString> {
        let ChildArgs { trace, log, log_file, history } = self;
        let mut words = Vec::new();
        words.extend(trace.then(|| "--trace".into()));
        words.extend(log.then(|| "--log".into()));
        for (name, file) in [("--log-file", log_file), ("--history", history)] {
            words.extend(file.iter().flat_map(|file| [name.into(), file.into()]));
        }
        words
    }
}

/// Runs the plan that is on the standard input.
pub fn main(arguments: ChildArgs) -> ExitCode {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text).map_err(|error| error.to_string());
    let plan: Plan = match read.and_then(|_| source::parse(&text)) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("error: the plan on the standard input: {error}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = start_log(&arguments) {
        eprintln!("error: the log file: {error}");
        return ExitCode::from(2);
    }
    tell_panics();
    tell_time();
    let started = Instant::now();
    // A fresh thread: the hash keys of std's maps are drawn once per thread, from the seed.
    let running = std::thread::Builder::new().stack_size(STACK_BYTES);
    let running = running.spawn(move || source::play(&plan, arguments.trace));
    let Ok((mut report, history)) = running.expect("a thread can be had").join() else {
        return ExitCode::FAILURE;
    };
    report.real_ms = u64::try_from(started.elapsed().as_millis()).expect("runs end");
    report.cpu_ms = cpu_ms().unwrap_or(report.real_ms);
    if let Some(file) = arguments.history
        && let Err(error) = File::create(&file).and_then(|file| history.write(BufWriter::new(file)))
    {
        eprintln!("error: {}: {error}", file.display());
        return ExitCode::from(2);
    }
    tell(&Message::Report(Box::new(report)));
    ExitCode::SUCCESS
}

/// Time this process has spent on cores, in its own code and in the kernel's; none where there is
/// no `/proc`.
fn cpu_ms() -> Option<u64> {
    /// The kernel counts in hundredths of a second, whatever its own clock does.
    const TICK_MS: u64 = 10;
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, in brackets, may hold anything; user and system time are the 12th and
    // the 13th word after it.
    let (_, words) = text.rsplit_once(')')?;
    let ticks = words.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Some(ticks.sum::<Result<u64, _>>().ok()? * TICK_MS)
}

/// Writes a message. A child whose starter is gone has nothing left to do.
fn tell(message: &Message) {
    if writeln!(std::io::stdout(), "{}", message.line()).is_err() {
        std::process::exit(1);
    }
}

/// Has the first panic told at once: what comes after it may never return.
fn tell_panics() {
    let first = Mutex::new(true);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // What damaged files do to the storage engine; the member says so in words.
        if quorate::store::is_guarded() {
            return;
        }
        usual(info);
        let Ok(mut first) = first.lock() else { return };
        if std::mem::take(&mut *first) {
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let exact = info.location().map(|place| format!("{}:{}", place.file(), place.line()));
            let exact = exact.unwrap_or_else(|| "an unknown place".into());
            tell(&Message::Panic(Panic {
                message: text.unwrap_or("no message").to_owned(),
                location: match exact.starts_with('/') {
                    // In somebody else's crate; what matters is who called it.
                    true => caller(&Backtrace::force_capture().to_string()).unwrap_or(exact),
                    false => exact,
                },
            }));
        }
    }));
}

/// File and line of the first call in a backtrace that is of this repository's code.
fn caller(backtrace: &str) -> Option<String> {
    let places = backtrace.lines().filter_map(|line| line.trim().strip_prefix("at ./"));
    let place = places.into_iter().find(|place| !place.contains("src/command/"))?;
    // Without the column.
    place.rsplit_once(':').map(|(place, _)| place.to_owned())
}

/// Has the simulated time told while it passes.
fn tell_time() {
    std::thread::spawn(|| {
        let mut told = None;
        loop {
            std::thread::sleep(TELL_INTERVAL);
            let simulated_us = trace::REACHED_NS.load(Ordering::Relaxed) / 1_000;
            if told != Some(simulated_us) {
                tell(&Message::Reached { simulated_us });
                told = Some(simulated_us);
            }
        }
    });
}

fn start_log(arguments: &ChildArgs) -> std::io::Result<()> {
    let ours = Targets::new().with_target("quorate", tracing::Level::DEBUG);
    let lines = tracing_subscriber::fmt::layer().with_timer(SimTime).with_ansi(false);
    let registry = tracing_subscriber::registry();
    if let Some(file) = &arguments.log_file {
        // Without a buffer, so that a panic loses nothing.
        let file = Mutex::new(File::create(file)?);
        registry.with(lines.with_writer(file).with_filter(ours)).init();
    } else if arguments.log {
        registry.with(lines.with_filter(ours)).init();
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time_on_a_core() {
        let before = cpu_ms().expect("tests run where there is a /proc");
        let started = Instant::now();
        let mut spent = before;
        while spent == before && started.elapsed() < Duration::from_secs(60) {
            spent = cpu_ms().expect("it is still there");
        }
        assert!((10..=1_000).contains(&(spent - before)), "{before} to {spent}");
    }

    #[test]
    fn a_panic_elsewhere_is_told_by_who_called() {
        let backtrace = "   0: core::option::expect_failed
             at /rustc/59807616/library/core/src/option.rs:2245:5
   1: {closure#0}
             at ./sim/src/command/child.rs:120:9
   2: sleep
             at /root/.cargo/registry/src/madsim-0.2.34/src/sim/time/mod.rs:112:26
   3: after
             at ./sim/src/env/alarm.rs:48:29
   4: sleep
             at ./sim/src/env/clock.rs:122:20";
        assert_eq!(caller(backtrace).as_deref(), Some("sim/src/env/alarm.rs:48"));
        assert_eq!(caller("no frames"), None);
    }
}
