//! Where two runs of one plan part: their traces, side by side.

use super::child::ChildArgs;
use super::process::{self, Heard, Outcome};
use crate::plan::Plan;
use crate::report::{Failure, Report};
use std::fmt::Write;

/// The rule that two runs of a plan broke that are not the same.
pub const RULE: &str = "not deterministic";
/// Lines shown before the first that differs.
const BEFORE: usize = 8;

/// Whether two runs of a plan are the same in all but what they cost; if not, in what.
pub fn compare(one: &Report, other: &Report) -> Option<Failure> {
    let counts = |report: &Report| {
        // What the process costs is not what happens in it.
        let free = Report { real_ms: 0, cpu_ms: 0, peak_bytes: 0, ..report.clone() };
        serde_json::to_value(free).expect("a report is plain data")
    };
    let (one, other) = (counts(one), counts(other));
    let names = one.as_object().expect("a struct is an object").keys();
    let differing: Vec<String> = names
        .filter(|name| one[name.as_str()] != other[name.as_str()])
        .map(|name| format!("{name} is {} and {}", one[name.as_str()], other[name.as_str()]))
        .collect();
    (!differing.is_empty()).then(|| {
        let text = format!("two runs of this seed differ: {}", differing.join(", "));
        Failure { rule: RULE.into(), text }
    })
}

/// Runs a plan twice more and tells the first line of their traces that differs.
pub fn explain(plan: &Plan) -> String {
    let (one, other) = (trace(plan), trace(plan));
    let reports = compare(&one.1.report, &other.1.report);
    first_difference(&one.0, &other.0, reports.is_some())
}

fn trace(plan: &Plan) -> (Vec<String>, Outcome) {
    let asked = ChildArgs { trace: true, ..ChildArgs::default() };
    let mut lines = Vec::new();
    let outcome = process::run(plan, &asked, &mut |heard| {
        if let Heard::Line(line) = heard {
            lines.push(line.to_owned());
        }
    });
    (lines, outcome)
}

fn first_difference(one: &[String], other: &[String], reports_differ: bool) -> String {
    let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    if same == one.len() && same == other.len() {
        return match reports_differ {
            true => format!(
                "all {same} lines of their traces are the same: they differ in what has no line, \
                 such as the bytes of a delivery\n"
            ),
            false => "two more runs are the same: the difference comes and goes\n".into(),
        };
    }
    let mut text = format!("line {} of their traces differs:\n", same + 1);
    // Writing to a string cannot fail.
    for line in &one[same.saturating_sub(BEFORE)..same] {
        let _ = writeln!(text, "    {line}");
    }
    let end = "(the trace ends)".to_owned();
    let _ = writeln!(text, "  1 {}", one.get(same).unwrap_or(&end));
    let _ = writeln!(text, "  2 {}", other.get(same).unwrap_or(&end));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn costs_are_no_difference_and_all_else_is() {
        let report = Report { seed: 1, trace: 5, events: 9, ..Report::default() };
        let costly = Report { real_ms: 77, cpu_ms: 70, peak_bytes: 9, ..report.clone() };
        assert_eq!(compare(&report, &costly), None);
        let other = Report { trace: 6, events: 8, ..report.clone() };
        let found = compare(&report, &other).expect("they differ");
        assert_eq!(found.text, "two runs of this seed differ: events is 9 and 8, trace is 5 and 6");
    }

    #[test]
    fn the_first_line_that_differs_is_shown_after_some_that_do_not() {
        let text = first_difference(&lines("a b c d"), &lines("a b x d"), true);
        assert_eq!(text, "line 3 of their traces differs:\n    a\n    b\n  1 c\n  2 x\n");
        let text = first_difference(&lines("a b"), &lines("a"), true);
        assert_eq!(text, "line 2 of their traces differs:\n    a\n  1 b\n  2 (the trace ends)\n");
        assert!(first_difference(&lines("a"), &lines("a"), true).contains("no line"));
        assert!(first_difference(&lines("a"), &lines("a"), false).contains("comes and goes"));
    }
}
