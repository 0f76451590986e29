//! What is left of a failure: a folder that can be looked at, sent to somebody, and replayed.
//!
//! | file | what it is |
//! |---|---|
//! | `page.html` | the history as a page; open this first |
//! | `trace.txt` | faults, calls and their outcomes, in order |
//! | `log.txt` | the log of all members |
//! | `history.jsonl` | what clients were told, for `quorate check` |
//! | `history.edn` | its registers or lists for Jepsen's checkers |
//! | `plan.json` | the plan that failed first |
//! | `shrunk.json` | the smallest plan that fails the same way |
//!
//! All but `plan.json` are of the smallest plan that is known, run once more. A run that panics
//! leaves no history, and so no page.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a person's files, outside the simulation"
)]

use crate::command::ChildArgs;
use crate::command::process::{self, Heard, Outcome};
use crate::plan::Plan;
use quorate::check::{self, History, Limits, Verdict, edn, page};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

const PAGE: &str = "page.html";
const TRACE: &str = "trace.txt";
const LOG: &str = "log.txt";
const HISTORY: &str = "history.jsonl";
const EDN: &str = "history.edn";
const PLAN: &str = "plan.json";
const SHRUNK: &str = "shrunk.json";

/// What was written about a failure.
pub struct Written {
    /// Names and what they are; the first is the one to open first.
    pub files: Vec<(&'static str, &'static str)>,
    /// What `quorate check` says of the history; none if there is none.
    pub verdict: Option<Verdict>,
    /// The run that was recorded.
    pub outcome: Outcome,
}

/// Fills a folder. `smallest` is the plan that is run and recorded, `original` where it comes
/// from, if that is another one.
///
/// # Errors
/// What cannot be written.
pub fn write(folder: &Path, smallest: &Plan, original: Option<&Plan>) -> io::Result<Written> {
    std::fs::create_dir_all(folder)?;
    // What an earlier failure left here would be taken for this one's.
    for name in [PAGE, TRACE, LOG, HISTORY, EDN, PLAN, SHRUNK] {
        match std::fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    write_plan(&folder.join(PLAN), original.unwrap_or(smallest))?;
    let mut files = vec![
        (TRACE, "faults, calls and their outcomes in order"),
        (LOG, "the log of all members"),
        (PLAN, "the plan that failed"),
    ];
    if original.is_some() {
        write_plan(&shrunk_plan(folder), smallest)?;
        files.push((SHRUNK, "the smallest plan that fails the same way; the files are of its run"));
    }
    let outcome = record(folder, smallest)?;
    let place = folder.join(HISTORY);
    if !place.exists() {
        return Ok(Written { files, verdict: None, outcome });
    }
    let history = File::open(&place).map(BufReader::new).map(History::read)?;
    let history = history.map_err(|error| io::Error::other(error.to_string()))?;
    let report = check::check(&history, Limits::default());
    std::fs::write(folder.join(PAGE), page::page(&history, &report))?;
    edn::write(&history, BufWriter::new(File::create(folder.join(EDN))?))?;
    files.insert(0, (PAGE, "the history as a page: open this first"));
    files.insert(3, (HISTORY, "what clients were told, for `quorate check`"));
    files.insert(4, (EDN, "its registers or lists for Jepsen's checkers"));
    Ok(Written { files, verdict: Some(report.verdict), outcome })
}

/// Where the smallest plan is.
pub fn shrunk_plan(folder: &Path) -> PathBuf {
    folder.join(SHRUNK)
}

/// Where the plan that failed is.
pub fn plan(folder: &Path) -> PathBuf {
    folder.join(PLAN)
}

/// Where the history is.
pub fn history(folder: &Path) -> PathBuf {
    folder.join(HISTORY)
}

fn write_plan(file: &Path, plan: &Plan) -> io::Result<()> {
    let json = serde_json::to_string_pretty(plan).expect("a plan is plain data");
    std::fs::write(file, json + "\n")
}

/// Runs the plan with everything written down.
fn record(folder: &Path, plan: &Plan) -> io::Result<Outcome> {
    let asked = ChildArgs {
        trace: true,
        log: false,
        log_file: Some(folder.join(LOG)),
        history: Some(folder.join(HISTORY)),
    };
    let mut trace = BufWriter::new(File::create(folder.join(TRACE))?);
    let mut written = Ok(());
    let outcome = process::run(plan, &asked, &mut |heard| {
        if let (Heard::Line(line), Ok(())) = (heard, &written) {
            written = writeln!(trace, "{line}");
        }
    });
    written?;
    for line in &outcome.complaints {
        writeln!(trace, "standard error: {line}")?;
    }
    trace.flush()?;
    Ok(outcome)
}
