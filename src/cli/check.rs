//! `quorate check`: whether a recorded history is lawful.
//!
//! Exit codes: 0 lawful, 1 unlawful, 2 the history or the command line cannot be read, or the
//! page cannot be written, 3 unknown (the search was given up).

// The files of a person's terminal, not of a server.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::check::history::ReadError;
use crate::check::{Limits, Recorded, Report, Verdict, page};
use clap::{Args, ValueEnum};
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Check whether a recorded history of a store is lawful.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The history: JSON lines, or Jepsen's EDN; - reads the standard input
    history: PathBuf,
    /// Write a page that shows the history and what was found
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Form of the report
    #[arg(short = 'w', long, value_enum, default_value = "simple")]
    write_out: Form,
    /// Steps of a search before it is given up
    #[arg(long, value_name = "N", default_value_t = Limits::default().steps_max)]
    steps: u64,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum Form {
    Simple,
    Json,
}

/// Reads, checks and reports.
pub fn run(arguments: CheckArgs) -> ExitCode {
    let recorded = match read(&arguments) {
        Ok(recorded) => recorded,
        Err(error) => {
            return unusable(&format!("{}: {error}", arguments.history.display()));
        }
    };
    let (history, report) = recorded.check(Limits { steps_max: arguments.steps });
    if let Some(file) = &arguments.html
        && let Err(error) = std::fs::write(file, page::page(&history, &report))
    {
        return unusable(&format!("{}: cannot write the page: {error}", file.display()));
    }
    let text = match arguments.write_out {
        Form::Simple => report.text(&history),
        Form::Json => json(&report),
    };
    // Who closes the stream knows the verdict by the exit code alone.
    let _ = std::io::stdout().write_all(text.as_bytes());
    match report.verdict {
        Verdict::Lawful => ExitCode::SUCCESS,
        Verdict::Unlawful => ExitCode::from(1),
        Verdict::Unknown => ExitCode::from(3),
    }
}

fn read(arguments: &CheckArgs) -> Result<Recorded, ReadError> {
    if arguments.history.as_os_str() == "-" {
        return Recorded::read(std::io::stdin().lock());
    }
    let file = File::open(&arguments.history).map_err(ReadError::Io)?;
    Recorded::read(BufReader::new(file))
}

fn json(report: &Report) -> String {
    let text = serde_json::to_string(report).expect("a report is plain data with string keys");
    format!("{text}\n")
}

fn unusable(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(2)
}
