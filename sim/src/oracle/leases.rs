//! What is left of leases, as the log tells it.
//!
//! A leader checkpoints how much is left of a lease that nobody renews, so that the next one goes
//! on from there instead of granting all of it anew; else a lease could outlive its time for ever
//! while leadership changes hands. So:
//!
//! - A leader that has not renewed a lease (a renewal clears the checkpoint through the log first)
//!   counts from what its predecessor's checkpoint said, and an election timeout on top. What it
//!   checkpoints itself, after half the time to live, is less by that.
//!
//! How late a lease ends on its member's clock is judged elsewhere, from what clients see, where
//! nothing but the lease decides it.

use super::Violations;
use quorate::types::{Index, LeaseId, Term};
use std::collections::BTreeMap;
use std::time::Duration;

/// Seconds that rounding and clocks may add.
const SLACK_SECONDS: i64 = 1;

/// A lease's times, in seconds.
#[derive(Clone, Copy)]
struct Checkpoint {
    term: Term,
    granted: i64,
    /// 0: nothing was checkpointed since the last renewal.
    left: i64,
}

/// Leases that entries changed, with what was granted and what is left; none: gone.
type Changes = Vec<(LeaseId, Option<(i64, i64)>)>;

#[derive(Default)]
pub struct Leases {
    /// What a new leader may add, in seconds.
    extension: i64,
    /// The last entry that any member applied.
    newest: u64,
    checkpoints: BTreeMap<LeaseId, Checkpoint>,
    /// Told by members about the entry they are applying.
    told: BTreeMap<u8, Changes>,
}

impl Leases {
    /// The longest election timeout of any member.
    pub fn elections_take(&mut self, timeout: Duration) {
        let seconds = timeout.as_millis().div_ceil(1_000);
        self.extension = i64::try_from(seconds).expect("elections take seconds");
    }

    pub fn lease(&mut self, machine: u8, id: LeaseId, ttls: Option<(i64, i64)>) {
        self.told.entry(machine).or_default().push((id, ttls));
    }

    /// What was told was what a store held when it was opened.
    pub fn opened(&mut self, machine: u8) {
        self.told.remove(&machine);
    }

    /// An entry was applied, with what was told before. Whoever applies it first tells all.
    pub fn applied(&mut self, machine: u8, index: Index, term: Term, out: &mut Violations) {
        let changes = self.told.remove(&machine).unwrap_or_default();
        if index.0 <= self.newest {
            return;
        }
        self.newest = index.0;
        for (id, ttls) in changes {
            let Some((granted, left)) = ttls else {
                self.checkpoints.remove(&id);
                continue;
            };
            let before = self.checkpoints.insert(id, Checkpoint { term, granted, left });
            let Some(before) = before.filter(|before| {
                before.left > 0 && left > 0 && before.term != term && before.granted == granted
            }) else {
                continue;
            };
            let most = before.left + self.extension - granted / 2 + SLACK_SECONDS;
            if left > most {
                out.add(
                    "a lease's time came back",
                    format!(
                        "of lease {:x} for {granted} s, {} s were left in term {}; nobody renewed it, \
                         and in term {term}, half its time later, entry {index} says {left} s",
                        id.0, before.left, before.term
                    ),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries in order, each a term and what is left of a lease of 10 s, applied by one member.
    fn judged(entries: &[(u64, i64)]) -> Vec<String> {
        let (mut leases, mut out) = (Leases::default(), Violations::default());
        leases.elections_take(Duration::from_millis(900));
        for (index, (term, left)) in (1..).zip(entries) {
            leases.lease(1, LeaseId(7), Some((10, *left)));
            leases.applied(1, Index(index), Term(*term), &mut out);
        }
        out.rules().into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn a_leader_counts_on_from_the_checkpoint() {
        assert!(judged(&[(1, 0), (1, 5), (1, 4), (2, 1)]).is_empty());
        assert!(judged(&[(1, 0), (1, 5), (2, 2)]).is_empty(), "within the slack");
        assert_eq!(judged(&[(1, 0), (1, 5), (2, 5)]), ["a lease's time came back"]);
        assert_eq!(judged(&[(1, 0), (1, 2), (3, 4)]), ["a lease's time came back"]);
    }

    #[test]
    fn a_renewal_brings_the_time_back_lawfully() {
        assert!(judged(&[(1, 5), (2, 0), (2, 5), (3, 0), (3, 5)]).is_empty());
        assert!(judged(&[(1, 4), (1, 5)]).is_empty(), "its own leader may know better");
    }

    #[test]
    fn an_entry_is_judged_once() {
        let (mut leases, mut out) = (Leases::default(), Violations::default());
        leases.elections_take(Duration::from_secs(1));
        let mut apply = |leases: &mut Leases, machine, index, term, left| {
            leases.lease(machine, LeaseId(7), Some((10, left)));
            leases.applied(machine, Index(index), Term(term), &mut out);
        };
        apply(&mut leases, 1, 1, 1, 2);
        apply(&mut leases, 1, 2, 2, 1);
        // A store that is opened tells what it holds; what follows is old.
        leases.lease(2, LeaseId(7), Some((10, 5)));
        leases.opened(2);
        apply(&mut leases, 2, 1, 3, 9);
        leases.lease(1, LeaseId(7), None);
        leases.applied(1, Index(3), Term(3), &mut out);
        apply(&mut leases, 1, 4, 4, 9);
        assert!(out.rules().is_empty());
    }
}
