//! Which seed is run for which bug next, and when a bug counts as found.
//!
//! A bug is hunted with seeds from 1 on until one is red. Several runs are under way at a time:
//! first one for each bug, in order; when there are more workers than bugs left, further seeds of
//! the same bug. What counts is the lowest red seed, whichever run ends first, so the outcome does
//! not depend on the number of workers.

use crate::report::Report;
use serde::Serialize;
use std::collections::BTreeMap;

/// A run that showed the bug.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Find {
    /// The rule that was broken, and how.
    pub rule: String,
    pub text: String,
    pub scenario: String,
    pub profile: String,
}

/// What a run cost.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Cost {
    pub simulated_ms: u64,
    pub real_ms: u64,
}

impl Cost {
    pub fn of(report: &Report) -> Cost {
        Cost { simulated_ms: report.simulated_ms, real_ms: report.real_ms }
    }
}

/// The search for one bug.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// Seeds to run at most.
    pub budget: u64,
    /// The next seed.
    next: u64,
    /// Seeds under way.
    running: usize,
    /// What came of each seed, and what it cost.
    ended: BTreeMap<u64, (Option<Find>, Cost)>,
    /// Lowest seed that was red.
    red: Option<u64>,
    /// Seeds that were red without the bug as well.
    pub disputed: Vec<u64>,
}

impl Hunt {
    pub fn new(budget: u64) -> Hunt {
        let (next, running, ended, red) = (1, 0, BTreeMap::new(), None);
        Hunt { budget, next, running, ended, red, disputed: Vec::new() }
    }

    /// Whether another seed is worth running.
    fn wants_more(&self) -> bool {
        self.red.is_none() && self.next <= self.budget
    }

    /// A seed is over: its find, if it was red.
    pub fn end(&mut self, seed: u64, find: Option<Find>, cost: Cost) {
        self.running -= 1;
        if find.is_some() {
            self.red = Some(self.red.map_or(seed, |red| red.min(seed)));
        }
        let before = self.ended.insert(seed, (find, cost));
        assert!(before.is_none(), "seed {seed} was run twice");
    }

    /// Nothing more will come of it.
    pub fn is_over(&self) -> bool {
        self.running == 0 && !self.wants_more()
    }

    /// The first red seed and what it showed.
    pub fn found(&self) -> Option<(u64, &Find)> {
        let red = self.red?;
        let (find, _) = self.ended.get(&red)?;
        Some((red, find.as_ref().expect("red seeds have a find")))
    }

    /// Seeds that had to be run, one after the other, until the bug showed or the budget ended.
    pub fn seeds(&self) -> u64 {
        self.red.unwrap_or(self.ended.len() as u64)
    }

    /// What these cost together.
    pub fn cost(&self) -> Cost {
        let mut sum = Cost::default();
        for (_, cost) in self.ended.range(..=self.red.unwrap_or(u64::MAX)).map(|(_, ended)| ended) {
            sum.simulated_ms += cost.simulated_ms;
            sum.real_ms += cost.real_ms;
        }
        sum
    }
}

/// The next seed to run, and for which hunt: the least busy one, and of those the first.
pub fn next(hunts: &mut [Hunt]) -> Option<(usize, u64)> {
    let wanting = hunts.iter().enumerate().filter(|(_, hunt)| hunt.wants_more());
    let (number, _) = wanting.min_by_key(|(number, hunt)| (hunt.running, *number))?;
    let hunt = &mut hunts[number];
    let seed = hunt.next;
    hunt.next += 1;
    hunt.running += 1;
    Some((number, seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost { simulated_ms: 60_000, real_ms: 500 };

    fn find() -> Option<Find> {
        let word = || "x".to_owned();
        Some(Find { rule: word(), text: word(), scenario: word(), profile: word() })
    }

    #[test]
    fn each_bug_gets_a_run_before_any_gets_two() {
        let mut hunts = vec![Hunt::new(3), Hunt::new(3)];
        let order: Vec<_> = std::iter::from_fn(|| next(&mut hunts)).collect();
        assert_eq!(order, [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)]);
    }

    #[test]
    fn the_lowest_red_seed_counts_whichever_ends_first() {
        let mut hunts = vec![Hunt::new(9)];
        for seed in 1..=3 {
            assert_eq!(next(&mut hunts), Some((0, seed)));
        }
        hunts[0].end(3, find(), COST);
        assert_eq!(next(&mut hunts), None, "a higher seed would not count");
        assert!(!hunts[0].is_over(), "a lower one might");
        hunts[0].end(2, find(), COST);
        hunts[0].end(1, None, COST);
        assert!(hunts[0].is_over());
        assert_eq!(hunts[0].found().map(|(seed, _)| seed), Some(2));
        assert_eq!(hunts[0].seeds(), 2);
        assert_eq!(hunts[0].cost(), Cost { simulated_ms: 120_000, real_ms: 1_000 });
    }

    #[test]
    fn a_budget_ends_a_hunt_without_a_find() {
        let mut hunts = vec![Hunt::new(2)];
        while let Some((number, seed)) = next(&mut hunts) {
            hunts[number].end(seed, None, COST);
        }
        assert!(hunts[0].is_over());
        assert_eq!((hunts[0].found(), hunts[0].seeds()), (None, 2));
    }
}
