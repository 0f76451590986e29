//! What came of many runs, added up.

use super::list;
use super::table::{Table, count, duration, grouped};
use crate::plan::Plan;
use crate::report::Report;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a run proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Passed,
    Failed,
    /// No rule was seen broken, but not all could be checked.
    Undecided,
}

impl Verdict {
    pub fn of(report: &Report) -> Verdict {
        match (report.failures.is_empty(), &report.undecided) {
            (false, _) => Verdict::Failed,
            (true, Some(_)) => Verdict::Undecided,
            (true, None) => Verdict::Passed,
        }
    }
}

/// How often something came to pass.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Occurrences {
    /// Steps of plans; of marks nothing is planned.
    pub planned: u64,
    pub times: u64,
    /// Runs in which it did.
    pub runs: u64,
}

/// The sums. Simulated and real time are those of all processes, so of two for each run that
/// was made twice; the other figures count it once.
#[derive(Default, Debug, Serialize)]
pub struct Summary {
    pub passed: u64,
    pub failed: u64,
    pub undecided: u64,
    pub simulated_ms: u64,
    pub real_ms: u64,
    /// Time on cores.
    pub cpu_ms: u64,
    pub operations: u64,
    pub answered: u64,
    pub unknown: u64,
    pub revisions: u64,
    pub syncs: u64,
    pub events: u64,
    pub faults: BTreeMap<String, Occurrences>,
    pub marks: BTreeMap<String, Occurrences>,
}

impl Summary {
    /// Adds a run, made once or more often.
    pub fn add(&mut self, plan: &Plan, reports: &[&Report], verdict: Verdict) {
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Failed => self.failed += 1,
            Verdict::Undecided => self.undecided += 1,
        }
        for report in reports {
            self.simulated_ms += report.simulated_ms;
            self.real_ms += report.real_ms;
            self.cpu_ms += report.cpu_ms;
        }
        let report = reports.first().expect("a run was made");
        self.operations += report.calls;
        self.answered += report.answered;
        self.unknown += report.unknown;
        self.revisions += report.revisions;
        self.syncs += report.syncs;
        self.events += report.events;
        for step in &plan.steps {
            self.faults.entry(step.fault.name().into()).or_default().planned += 1;
        }
        for (sums, counts) in [(&mut self.faults, &report.faults), (&mut self.marks, &report.marks)]
        {
            for (name, times) in counts {
                let sum = sums.entry(name.clone()).or_default();
                sum.times += times;
                sum.runs += u64::from(*times > 0);
            }
        }
    }

    pub fn runs(&self) -> u64 {
        self.passed + self.failed + self.undecided
    }

    /// Faults that came to pass.
    pub fn fired(&self) -> u64 {
        self.faults.values().map(|fault| fault.times).sum()
    }

    /// Simulated seconds per second of a core. Where a core has other things to do as well, they
    /// do not count.
    pub fn speed(&self) -> f64 {
        self.simulated_ms as f64 / self.cpu_ms.max(1) as f64
    }

    /// One line while it grows; `running_ms` of simulated time are in runs that are not over.
    pub fn line(&self, running_ms: u64) -> String {
        format!(
            "{} simulated, {} operations, {} faults, {} failed, {:.0} s/s per core",
            duration(Duration::from_millis(self.simulated_ms + running_ms)),
            grouped(self.operations),
            grouped(self.fired()),
            grouped(self.failed),
            self.speed()
        )
    }

    /// All of it, for a terminal, after so much real time. What one run did not reach says
    /// little; what many did not reach stands in the table.
    pub fn text(&self, elapsed: Duration) -> String {
        let tables = [self.faults_text(), self.marks_text(self.runs() > 1)].concat();
        let runs = usize::try_from(self.runs()).expect("runs were made one by one");
        format!(
            "{tables}{} in {}: {} passed, {} failed, {} undecided\n\
             {} operations ({} answered, {} of unknown outcome), {} revisions, {} syncs\n\
             {} simulated: {:.0} seconds per second of a core, {:.0} per second of real time\n",
            count(runs, "run"),
            duration(elapsed),
            grouped(self.passed),
            grouped(self.failed),
            grouped(self.undecided),
            grouped(self.operations),
            grouped(self.answered),
            grouped(self.unknown),
            grouped(self.revisions),
            grouped(self.syncs),
            duration(Duration::from_millis(self.simulated_ms)),
            self.speed(),
            self.simulated_ms as f64 / 1e3 / elapsed.as_secs_f64().max(1e-3),
        )
    }

    fn faults_text(&self) -> String {
        let mut table = Table::new(&["fault", "planned", "fired", "runs", ""]);
        for (name, fault) in &self.faults {
            let remark = if fault.times == 0 { "never" } else { "" };
            let numbers = [fault.planned, fault.times, fault.runs].map(grouped);
            let [planned, times, runs] = numbers;
            table.row(vec![name.clone(), planned, times, runs, remark.into()]);
        }
        let mut text = if table.is_empty() { String::new() } else { table.text() };
        let missing: Vec<&str> = list::fault_names()
            .into_iter()
            .filter(|name| !self.faults.contains_key(*name))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        if !missing.is_empty() && !text.is_empty() {
            text.push_str(&wrapped("in no plan: ", &missing));
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }

    fn marks_text(&self, all: bool) -> String {
        let mut table = Table::new(&["place reached", "times", "runs", ""]);
        let mut missed = 0;
        for (name, mark) in &self.marks {
            let remark = if mark.times == 0 { "never" } else { "" };
            match mark.times == 0 && !all {
                true => missed += 1,
                false => table.row(vec![
                    name.clone(),
                    grouped(mark.times),
                    grouped(mark.runs),
                    remark.into(),
                ]),
            }
        }
        let mut text = if table.is_empty() { String::new() } else { table.text() };
        if missed > 0 {
            text.push_str(&format!("{} not reached\n", count(missed, "place")));
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }
}

/// A list in lines of a terminal's width.
fn wrapped(title: &str, words: &[&str]) -> String {
    let indent = " ".repeat(title.len());
    let mut text = title.to_owned();
    let mut width = title.len();
    for (place, word) in words.iter().enumerate() {
        let end = if place + 1 < words.len() { "," } else { "" };
        if place > 0 && width + word.len() > 90 {
            text = format!("{}\n{indent}", text.trim_end());
            width = indent.len();
        }
        text.push_str(&format!("{word}{end} "));
        width += word.len() + 2;
    }
    format!("{}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Fault, Step};

    fn report() -> Report {
        Report {
            simulated_ms: 70_000,
            real_ms: 800,
            cpu_ms: 500,
            calls: 1_200,
            answered: 1_100,
            unknown: 40,
            revisions: 800,
            syncs: 3_000,
            faults: [("kill".into(), 2), ("pause".into(), 1)].into(),
            marks: [("snapshot sent".into(), 4), ("log cut".into(), 0)].into(),
            ..Report::default()
        }
    }

    fn plan() -> Plan {
        let kill = |at_ms| Step { at_ms, fault: Fault::Kill { machine: 1, down_ms: 5 } };
        let jump = Step { at_ms: 9, fault: Fault::ClockJump { machine: 1, by_ms: 5 } };
        Plan { steps: vec![kill(1), kill(2), kill(3), jump], ..super::super::tests::plan() }
    }

    #[test]
    fn the_end_tells_what_ran_and_what_never_happened() {
        let mut summary = Summary::default();
        summary.add(&plan(), &[&report(), &report()], Verdict::Passed);
        summary.add(&plan(), &[&report(), &report()], Verdict::Failed);
        let text = summary.text(Duration::from_secs(2));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..4],
            [
                "fault       planned  fired  runs",
                "clock jump        2      0     0  never",
                "kill              6      4     2",
                "pause             0      2     2",
            ]
        );
        assert!(lines[4].starts_with("in no plan: "), "{text}");
        assert!(text.contains("bit flip, ") && !lines[4..].join(" ").contains("pause"), "{text}");
        let places = lines.iter().position(|line| line.starts_with("place reached")).unwrap();
        assert_eq!(
            lines[places..],
            [
                "place reached  times  runs",
                "log cut            0     0  never",
                "snapshot sent      8     2",
                "",
                "2 runs in 2.0 s: 1 passed, 1 failed, 0 undecided",
                "2,400 operations (2,200 answered, 80 of unknown outcome), 1,600 revisions, 6,000 \
                 syncs",
                "4 min 40 s simulated: 140 seconds per second of a core, 140 per second of real time",
            ]
        );
    }

    #[test]
    fn of_a_single_run_only_what_it_reached_is_listed() {
        let mut summary = Summary::default();
        summary.add(&plan(), &[&report()], Verdict::Passed);
        let text = summary.text(Duration::from_secs(2));
        assert!(text.contains("snapshot sent      4     1\n1 place not reached\n"), "{text}");
        assert!(!text.contains("log cut"), "{text}");
    }

    #[test]
    fn a_broken_rule_weighs_more_than_an_open_question() {
        let failure = crate::report::Failure { rule: "r".into(), text: "t".into() };
        let open = Report { undecided: Some("why".into()), ..Report::default() };
        assert_eq!(Verdict::of(&Report::default()), Verdict::Passed);
        assert_eq!(Verdict::of(&open), Verdict::Undecided);
        assert_eq!(Verdict::of(&Report { failures: vec![failure], ..open }), Verdict::Failed);
    }

    #[test]
    fn long_lists_are_wrapped() {
        let words = ["some words"; 12];
        let text = wrapped("all: ", &words);
        assert!(text.lines().all(|line| line.len() <= 95), "{text}");
        assert_eq!(text.matches("some words").count(), 12);
        assert!(text.lines().skip(1).all(|line| line.starts_with("     some")), "{text}");
    }
}
