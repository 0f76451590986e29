//! What came of the hunts: a table, and the same for programs.

use super::hunt::Hunt;
use super::patch::Patch;
use crate::command::table::{Table, count, duration};
use serde_json::{Value, json};
use std::time::Duration;

/// A bug and the hunt for it.
pub struct Hunted<'a> {
    pub patch: &'a Patch,
    pub hunt: &'a Hunt,
}

/// Whether all were found.
pub fn all_found(hunted: &[Hunted<'_>]) -> bool {
    hunted.iter().all(|one| one.hunt.found().is_some())
}

/// Seeds needed by the bug in the middle; those not found count as more than any.
pub fn median(hunted: &[Hunted<'_>]) -> Option<u64> {
    let mut seeds: Vec<u64> =
        hunted.iter().map(|one| one.hunt.found().map_or(u64::MAX, |(seed, _)| seed)).collect();
    seeds.sort_unstable();
    seeds.get(seeds.len().checked_sub(1)? / 2).copied().filter(|seeds| *seeds < u64::MAX)
}

/// The table, and a line about all.
pub fn text(hunted: &[Hunted<'_>]) -> String {
    let mut table = Table::new(&["bug", "origin", "seeds", "simulated", "wall", ""]);
    for Hunted { patch, hunt } in hunted {
        let cost = hunt.cost();
        let remark = match hunt.found() {
            Some((_, find)) => find.rule.clone(),
            None => format!("NOT FOUND in {}", count(hunt.seeds() as usize, "seed")),
        };
        table.row(vec![
            patch.name.clone(),
            patch.origin.clone(),
            hunt.found().map_or("-".into(), |(seed, _)| seed.to_string()),
            duration(Duration::from_millis(cost.simulated_ms)),
            duration(Duration::from_millis(cost.real_ms)),
            remark,
        ]);
    }
    let found = hunted.iter().filter(|one| one.hunt.found().is_some()).count();
    let middle = median(hunted).map_or("none".into(), |seeds| seeds.to_string());
    let mut text = table.text();
    text.push_str(&format!("{found} of {} found; median {middle}\n", count(hunted.len(), "bug")));
    for Hunted { patch, hunt } in hunted.iter().filter(|one| !one.hunt.disputed.is_empty()) {
        text.push_str(&format!(
            "{}: red without the bug as well, so not counted: seeds {:?}\n",
            patch.name, hunt.disputed
        ));
    }
    text
}

/// One bug as an object.
pub fn object(one: &Hunted<'_>) -> Value {
    let Hunted { patch, hunt } = one;
    let cost = hunt.cost();
    let found = hunt.found();
    json!({
        "bug": patch.name,
        "origin": patch.origin,
        "found": found.is_some(),
        "seeds": hunt.seeds(),
        "budget": hunt.budget,
        "simulated_ms": cost.simulated_ms,
        "real_ms": cost.real_ms,
        "find": found.map(|(_, find)| find),
        "disputed": hunt.disputed,
    })
}

/// All together as an object.
pub fn summary(hunted: &[Hunted<'_>]) -> Value {
    let found = hunted.iter().filter(|one| one.hunt.found().is_some()).count();
    json!({ "bugs": hunted.len(), "found": found, "median_seeds": median(hunted) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::hunt::{self, Cost, Find};

    fn patch(name: &str) -> Patch {
        Patch {
            file: format!("10-{name}.patch"),
            name: name.into(),
            origin: "etcd #1".into(),
            bug: "it is wrong".into(),
            changes: Vec::new(),
        }
    }

    /// A hunt whose seed `red` is red, if it is within the budget.
    fn hunt(red: u64, budget: u64) -> Hunt {
        let mut hunts = vec![Hunt::new(budget)];
        while let Some((_, seed)) = hunt::next(&mut hunts) {
            let find = (seed == red).then(|| Find {
                rule: "stale read".into(),
                text: "saw 1".into(),
                scenario: "swarm".into(),
                profile: "mixed".into(),
            });
            hunts[0].end(seed, find, Cost { simulated_ms: 60_000, real_ms: 500 });
        }
        hunts.remove(0)
    }

    #[test]
    fn a_bug_not_found_is_told_and_counts_as_the_worst() {
        let (a, b, c) = (patch("a"), patch("b"), patch("c"));
        let (first, second, third) = (hunt(4, 9), hunt(2, 9), hunt(7, 5));
        let hunted = [
            Hunted { patch: &a, hunt: &first },
            Hunted { patch: &b, hunt: &second },
            Hunted { patch: &c, hunt: &third },
        ];
        assert!(!all_found(&hunted));
        assert_eq!(median(&hunted), Some(4));
        assert_eq!(median(&hunted[2..]), None);
        assert!(all_found(&hunted[..2]));
        let lines = [
            "bug   origin  seeds    simulated   wall",
            "a    etcd #1      4  4 min 0 s  2.0 s  stale read",
            "b    etcd #1      2  2 min 0 s  1.0 s  stale read",
            "c    etcd #1      -  5 min 0 s  2.5 s  NOT FOUND in 5 seeds",
            "2 of 3 bugs found; median 4",
        ];
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&text(&hunted)), squeeze(&lines.join("\n")));
        assert_eq!(object(&hunted[2])["find"], Value::Null);
        assert_eq!(summary(&hunted)["found"], 2);
    }
}
