//! A history of either kind, from a file of either form.
//!
//! JSON lines are histories of a store; EDN is Jepsen's, of a register or of transactions on
//! lists. Which form it is shows in the first characters: a line of JSON is an object with a name
//! in quotes.

use super::edn;
use super::history::{History, ReadError};
use super::lists::{self, ListTransaction};
use super::op::Fault;
use super::report::Report;
use super::{Limits, check};
use std::io::BufRead;

/// What was recorded.
#[derive(Clone, PartialEq, Debug)]
pub enum Recorded {
    /// Operations of a key-value store.
    Store(History),
    /// Transactions on lists.
    Lists { transactions: Vec<ListTransaction>, faults: Vec<Fault> },
}

impl Recorded {
    /// Reads JSON lines or EDN.
    ///
    /// # Errors
    /// The line that cannot be read, and why.
    pub fn read(mut input: impl BufRead) -> Result<Recorded, ReadError> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes).map_err(ReadError::Io)?;
        if !is_edn(&bytes) {
            let history = History::read(&bytes[..])?;
            let empty = history == History::default();
            if empty && bytes.iter().all(u8::is_ascii_whitespace) {
                let problem = "the file is empty".to_owned();
                return Err(ReadError::Line { line: 1, field: String::new(), problem });
            }
            return Ok(Recorded::Store(history));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count();
            ReadError::Line { line, field: String::new(), problem: "not UTF-8".into() }
        })?;
        edn::read(&text)
    }

    /// Checks it; returns the history to show with the report.
    pub fn check(self, limits: Limits) -> (History, Report) {
        match self {
            Recorded::Store(history) => {
                let report = check(&history, limits);
                (history, report)
            }
            Recorded::Lists { transactions, faults } => {
                let history = edn::register_history(&transactions, &faults);
                let violations = lists::check(&transactions);
                let report = Report::new(&history, None, violations, None);
                (history, report)
            }
        }
    }
}

/// Whether bytes begin as EDN does, and JSON lines do not.
fn is_edn(bytes: &[u8]) -> bool {
    let mut rest = bytes.iter().filter(|byte| !byte.is_ascii_whitespace());
    match rest.next() {
        Some(b'{') => matches!(rest.next(), Some(b':')),
        Some(b'[' | b'(' | b';' | b'#') => true,
        _ => false,
    }
}
