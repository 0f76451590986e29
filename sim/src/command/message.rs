//! What a child process tells the one that started it.
//!
//! A child writes messages to its standard output, one JSON object per line after a record
//! separator (RFC 7464), so that they are told apart from the lines of a trace or a log that come
//! the same way. The report is the last one; a child that ends without it has crashed.

use crate::report::{Failure, Report};
use serde::{Deserialize, Serialize};

/// Stands before each message; no line of a trace or a log begins with it.
const SEPARATOR: char = '\u{1e}';

/// One message.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The run has come to this simulated time. Sent every so often while it does.
    Reached { simulated_us: u64 },
    /// Something panicked. The report may still follow.
    Panic(Panic),
    /// The run is over.
    Report(Box<Report>),
}

/// A panic in the simulated world.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Panic {
    pub message: String,
    /// File and line.
    pub location: String,
}

impl Panic {
    pub const RULE: &str = "panic";

    /// The panic as a broken rule.
    pub fn failure(&self) -> Failure {
        let text = format!("{} at {}", self.message, self.location);
        Failure { rule: Panic::RULE.into(), text }
    }
}

impl Message {
    /// The message as a line, without its end.
    pub fn line(&self) -> String {
        let json = serde_json::to_string(self).expect("messages are plain data");
        format!("{SEPARATOR}{json}")
    }

    /// Reads a line; none: it is no message but something to look at.
    pub fn read(line: &str) -> Option<Message> {
        serde_json::from_str(line.strip_prefix(SEPARATOR)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_through_as_it_was() {
        let failure = Failure { rule: "stale read".into(), text: "with \"quotes\"\nlines".into() };
        let report = Report {
            seed: u64::MAX,
            scenario: "nightly".into(),
            trace: 0xfedc_ba98_7654_3210,
            faults: [("kill".into(), 3)].into(),
            undecided: Some("too many orders".into()),
            failures: vec![failure],
            ..Report::default()
        };
        let line = Message::Report(Box::new(report.clone())).line();
        assert_eq!(line.lines().count(), 1, "{line}");
        let Some(Message::Report(read)) = Message::read(&line) else { panic!("{line}") };
        assert_eq!(format!("{read:?}"), format!("{report:?}"));
    }

    #[test]
    fn lines_of_a_trace_are_no_messages() {
        for line in ["    1.000000 m1 starts", "", "{\"reached\":{\"simulated_us\":1}}"] {
            assert!(Message::read(line).is_none(), "{line}");
        }
    }
}
