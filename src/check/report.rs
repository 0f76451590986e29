//! The verdict on a history, in words and as JSON.

use super::history::History;
use super::linearizable::revisions::name;
use super::op::Outcome;
use super::violation::Violation;
use crate::types::Revision;
use serde::Serialize;
use std::fmt::Write;

/// Whether a history is lawful.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Lawful,
    Unlawful,
    /// Nothing unlawful was found, but not all could be checked.
    Unknown,
}

/// What was checked and what was found.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    pub verdict: Verdict,
    /// The first is the one to look at first.
    pub violations: Vec<Violation>,
    /// Why something could not be checked.
    pub unknown: Option<String>,
    pub operations: usize,
    /// Operations by outcome.
    pub ok: usize,
    pub failed: usize,
    pub outcome_unknown: usize,
    pub watches: usize,
    pub events: usize,
    /// The store's last revision, if its history could be resolved.
    pub revision: Option<Revision>,
}

impl Report {
    pub(super) fn new(
        history: &History,
        revision: Option<Revision>,
        violations: Vec<Violation>,
        unknown: Option<String>,
    ) -> Report {
        let count = |is: fn(&Outcome) -> bool| {
            history.operations.iter().filter(|operation| is(&operation.outcome)).count()
        };
        let responses = history.watches.iter().flat_map(|watch| &watch.responses);
        Report {
            verdict: match (violations.is_empty(), &unknown) {
                (false, _) => Verdict::Unlawful,
                (true, Some(_)) => Verdict::Unknown,
                (true, None) => Verdict::Lawful,
            },
            violations,
            unknown,
            operations: history.operations.len(),
            ok: count(|outcome| matches!(outcome, Outcome::Ok(_))),
            failed: count(|outcome| matches!(outcome, Outcome::Failed(_))),
            outcome_unknown: count(|outcome| matches!(outcome, Outcome::Unknown(_))),
            watches: history.watches.len(),
            events: responses.map(|response| response.events.len()).sum(),
            revision,
        }
    }

    /// The verdict with its reasons, for a terminal.
    pub fn text(&self, history: &History) -> String {
        let mut text = format!("{}\n", self.summary());
        for violation in &self.violations {
            text.push_str(&explain(violation, history));
        }
        if let Some(why) = &self.unknown {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\nNot all was checked: {why}");
        }
        text
    }

    /// One line: the verdict and what it covers.
    pub fn summary(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Lawful => "lawful",
            Verdict::Unlawful => "UNLAWFUL",
            Verdict::Unknown => "unknown",
        };
        let revision =
            self.revision.map_or(String::new(), |revision| format!(", revision {revision}"));
        format!(
            "{verdict}: {} operations ({} ok, {} failed, {} unknown), {} watchers with {} \
             events{revision}",
            self.operations, self.ok, self.failed, self.outcome_unknown, self.watches, self.events
        )
    }
}

/// A violation with the operations concerned.
fn explain(violation: &Violation, history: &History) -> String {
    let mut text = format!("\n{}\n  {}\n", violation.rule.title(), violation.text);
    if !violation.expected.is_empty() || !violation.got.is_empty() {
        let _ = writeln!(text, "  expected: {}", violation.expected);
        let _ = writeln!(text, "  got:      {}", violation.got);
    }
    for place in &violation.operations {
        let operation = &history.operations[*place];
        let returned =
            operation.returned.map_or("no answer".into(), |returned| format!("{returned} ns"));
        let json = serde_json::to_string(operation).unwrap_or_default();
        let _ = writeln!(
            text,
            "  {}, {} ns to {returned}:\n    {json}",
            name(history, *place),
            operation.invoke
        );
    }
    text
}
