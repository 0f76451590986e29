//! What members' stores hold after each entry.
//!
//! The oracle keeps a model of its own: after each entry, which keys and leases there are, as one
//! number that changes with every change and that can be made anew from a store that was opened.
//!
//! - In a boot, entries are applied once each, in order.
//! - An entry has one outcome: the same answer, changes and revision on every member and in every
//!   boot.
//! - A store that says "I am at entry N" when it is opened holds what the entries up to N made,
//!   whoever applied them: the applied index and the data are one transaction.
//! - It is never behind what was flushed.
//! - Members' own checksums of the whole state agree wherever two were made at the same entry.

use super::Violations;
use super::digest::Digest;
use quorate::types::{Index, LeaseId, Revision, Term};
use std::collections::{BTreeMap, HashMap};
use std::fmt::{Debug, Write};

/// After one entry.
#[derive(Clone, Copy)]
struct State {
    outcome: u64,
    revision: i64,
    /// Keys and leases there are then.
    content: u64,
}

/// What an entry changed, or a store holds.
#[derive(Default)]
struct Told {
    digest: Digest,
    /// Keys and leases, with the digest of what they are now.
    things: Vec<(Thing, Option<u64>)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Thing {
    Key(Box<[u8]>),
    Lease(i64),
}

#[derive(Default)]
struct Member {
    told: Told,
    applied: u64,
    flushed: u64,
}

#[derive(Default)]
pub struct States {
    members: BTreeMap<u8, Member>,
    /// After each entry, from 1 on.
    states: Vec<State>,
    /// Keys and leases after the last of these. Looked up, never walked.
    things: HashMap<Thing, u64>,
    /// Members' checksums.
    hashes: BTreeMap<u64, (u8, u32)>,
}

/// What a new cluster's store is at.
const FIRST: State = State { outcome: 0, revision: 1, content: 0 };

impl States {
    pub fn key(&mut self, machine: u8, key: &[u8], record: Option<&[u8]>) {
        let told = &mut self.members.entry(machine).or_default().told;
        let thing = Thing::Key(key.into());
        told.add(thing, |digest| {
            digest.bytes(key);
            record.inspect(|record| digest.bytes(record)).is_some()
        });
    }

    pub fn lease(&mut self, machine: u8, id: LeaseId, ttls: Option<(i64, i64)>) {
        let told = &mut self.members.entry(machine).or_default().told;
        told.add(Thing::Lease(id.0), |digest| {
            digest.number(id.0 as u64);
            let ttls = ttls.inspect(|&(granted, left)| {
                digest.number(granted as u64);
                digest.number(left as u64);
            });
            ttls.is_some()
        });
    }

    /// A store was opened that holds what was told before.
    pub fn opened(
        &mut self,
        machine: u8,
        applied: Index,
        revision: Revision,
        damaged: bool,
        out: &mut Violations,
    ) {
        let member = self.members.entry(machine).or_default();
        let told = std::mem::take(&mut member.told);
        let content = told.things.iter().filter_map(|(_, digest)| *digest).fold(0, |a, b| a ^ b);
        if applied.0 < member.flushed && !damaged {
            let flushed = member.flushed;
            out.add(
                "flushed state lost",
                format!("n{machine} had flushed {flushed}, its store is at {applied}"),
            );
        }
        member.applied = applied.0;
        // What is seen need not be durable: a flush that a kill interrupted may be seen, and lost
        // with the power.
        member.flushed = member.flushed.min(applied.0);
        let Some(state) = self.after(applied.0) else {
            return out.add(
                "applied what nobody applied",
                format!("n{machine} opens a store at {applied}"),
            );
        };
        if state.revision != revision.0 {
            out.add(
                "applied index and data differ",
                format!(
                    "n{machine} opens a store at {applied} and revision {revision}; that entry led to {}",
                    state.revision
                ),
            );
        } else if state.content != content {
            out.add(
                "applied index and data differ",
                format!("n{machine} opens a store at {applied} with other keys or leases than that entry led to"),
            );
        }
    }

    /// An entry was applied, with what was told before.
    pub fn applied(
        &mut self,
        machine: u8,
        index: Index,
        term: Term,
        revision: Revision,
        reply: &dyn Debug,
        out: &mut Violations,
    ) {
        let member = self.members.entry(machine).or_default();
        let Told { mut digest, things } = std::mem::take(&mut member.told);
        if index.0 != member.applied + 1 {
            let last = member.applied;
            out.add("applied out of order", format!("n{machine} applies {index} after {last}"));
        }
        member.applied = index.0;
        digest.number(term.0);
        digest.number(revision.0 as u64);
        write!(digest, "{reply:?}").expect("a digest takes everything");
        let outcome = digest.value();
        let last = self.states.len() as u64;
        if index.0 == last + 1 {
            let content = self.change(things);
            self.states.push(State { outcome, revision: revision.0, content });
            return;
        }
        let Some(state) = self.after(index.0) else {
            return out.add(
                "applied out of order",
                format!("n{machine} applies {index}, others came to {last}"),
            );
        };
        if state.outcome != outcome {
            out.add(
                "members apply differently",
                format!(
                    "n{machine} at {index}: revision {revision}, others {}; the answer was {reply:?}",
                    state.revision
                ),
            );
        }
    }

    /// A checksum of the whole state after an entry.
    pub fn hashed(&mut self, machine: u8, index: Index, hash: u32, out: &mut Violations) {
        let (first, expected) = *self.hashes.entry(index.0).or_insert((machine, hash));
        if expected != hash {
            out.add(
                "states differ",
                format!("n{machine} has {hash:08x} after {index}, n{first} had {expected:08x}"),
            );
        }
    }

    /// The store's file holds what entries up to `applied` made.
    pub fn flushed(&mut self, machine: u8, applied: Index, out: &mut Violations) {
        let member = self.members.entry(machine).or_default();
        member.flushed = member.flushed.max(applied.0);
        if applied.0 > member.applied {
            let known = member.applied;
            out.add(
                "flushed what is not applied",
                format!("n{machine} flushed {applied} and applied {known}"),
            );
        }
    }

    fn after(&self, index: u64) -> Option<State> {
        match index.checked_sub(1) {
            None => Some(FIRST),
            Some(place) => self.states.get(place as usize).copied(),
        }
    }

    /// The content after these changes.
    fn change(&mut self, things: Vec<(Thing, Option<u64>)>) -> u64 {
        let mut content = self.states.last().map_or(FIRST.content, |state| state.content);
        for (thing, digest) in things {
            let before = match digest {
                Some(digest) => {
                    content ^= digest;
                    self.things.insert(thing, digest)
                }
                None => self.things.remove(&thing),
            };
            content ^= before.unwrap_or(0);
        }
        content
    }
}

impl Told {
    /// `fill` tells whether the thing is there.
    fn add(&mut self, thing: Thing, fill: impl FnOnce(&mut Digest) -> bool) {
        let mut digest = Digest::default();
        let is_there = fill(&mut digest);
        self.digest.number(u64::from(is_there));
        self.digest.number(digest.value());
        self.things.push((thing, is_there.then_some(digest.value())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Lab {
        states: States,
        out: Violations,
    }

    impl Lab {
        fn put(&mut self, machine: u8, index: u64, key: &str, value: &str) {
            self.states.key(machine, key.as_bytes(), Some(value.as_bytes()));
            self.apply(machine, index, index as i64 + 1);
        }

        fn apply(&mut self, machine: u8, index: u64, revision: i64) {
            let (index, revision) = (Index(index), Revision(revision));
            self.states.applied(machine, index, Term(1), revision, &"done", &mut self.out);
        }

        fn open(&mut self, machine: u8, applied: u64, content: &[(&str, &str)]) {
            for (key, value) in content {
                self.states.key(machine, key.as_bytes(), Some(value.as_bytes()));
            }
            let revision = Revision(applied as i64 + 1);
            self.states.opened(machine, Index(applied), revision, false, &mut self.out);
        }

        #[track_caller]
        fn expect(&self, rules: &[&str]) {
            assert_eq!(self.out.rules(), rules);
        }
    }

    #[test]
    fn a_store_holds_what_its_entries_made() {
        let mut lab = Lab::default();
        lab.open(1, 0, &[]);
        lab.put(1, 1, "a", "1");
        lab.put(1, 2, "b", "1");
        lab.put(1, 3, "a", "2");
        lab.states.key(1, b"b", None);
        lab.apply(1, 4, 5);
        lab.open(2, 3, &[("a", "2"), ("b", "1")]);
        lab.open(3, 4, &[("a", "2")]);
        lab.expect(&[]);
        lab.open(1, 2, &[("a", "2"), ("b", "1")]);
        lab.expect(&["applied index and data differ"]);
    }

    #[test]
    fn a_lease_belongs_to_the_state() {
        let mut lab = Lab::default();
        lab.open(1, 0, &[]);
        lab.states.lease(1, LeaseId(7), Some((10, 0)));
        lab.apply(1, 1, 1);
        lab.states.lease(1, LeaseId(7), Some((10, 4)));
        lab.apply(1, 2, 1);
        for (left, rules) in [(4, &[][..]), (0, &["applied index and data differ"])] {
            let (mut states, mut out) = (std::mem::take(&mut lab.states), Violations::default());
            states.lease(2, LeaseId(7), Some((10, left)));
            states.opened(2, Index(2), Revision(1), false, &mut out);
            assert_eq!(out.rules(), rules);
            lab.states = states;
        }
    }

    #[test]
    fn entries_are_applied_once_and_in_order() {
        let mut lab = Lab::default();
        lab.open(1, 0, &[]);
        lab.put(1, 1, "a", "1");
        lab.put(1, 1, "a", "1");
        lab.expect(&["applied out of order"]);
    }

    #[test]
    fn an_entry_has_one_outcome() {
        let mut lab = Lab::default();
        (1..=3).for_each(|machine| lab.open(machine, 0, &[]));
        lab.put(1, 1, "a", "1");
        lab.put(2, 1, "a", "1");
        lab.expect(&[]);
        lab.put(3, 1, "a", "2");
        lab.expect(&["members apply differently"]);
    }

    #[test]
    fn what_was_flushed_is_there() {
        let mut lab = Lab::default();
        lab.open(1, 0, &[]);
        lab.put(1, 1, "a", "1");
        lab.states.flushed(1, Index(1), &mut lab.out);
        lab.expect(&[]);
        lab.open(1, 0, &[]);
        lab.states.flushed(1, Index(1), &mut lab.out);
        lab.expect(&["flushed state lost", "flushed what is not applied"]);
    }

    #[test]
    fn checksums_agree() {
        let mut lab = Lab::default();
        lab.states.hashed(1, Index(4), 7, &mut lab.out);
        lab.states.hashed(2, Index(5), 8, &mut lab.out);
        lab.expect(&[]);
        lab.states.hashed(2, Index(4), 8, &mut lab.out);
        lab.expect(&["states differ"]);
    }
}
