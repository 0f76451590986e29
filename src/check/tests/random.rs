//! What a correct store did is lawful; with one thing changed it is not.

use super::execution::{Bug, Shape, execution, faulty_execution};
use crate::check::data::Data;
use crate::check::history::History;
use crate::check::op::*;
use crate::check::{Limits, Rule, Verdict, check};
use crate::types::Revision;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

fn shape(unknown_one_in: u32) -> impl Strategy<Value = Shape> {
    (1..150_usize, 1..8_u64, 1..12_u32, 0..4_usize, any::<(bool, bool)>()).prop_map(
        move |(operations, clients, keys, watches, (leases, compaction))| Shape {
            operations,
            clients,
            keys,
            unknown_one_in,
            watches,
            leases,
            compaction,
            bug: None,
        },
    )
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shape { operations, clients, keys, unknown_one_in, watches, .. } = self;
        let Shape { leases, compaction, bug, .. } = self;
        write!(
            f,
            "{operations} {clients} {keys} {unknown_one_in} {watches} {leases} {compaction} {bug:?}"
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_correct_store_is_lawful(seed: u64, shape in shape(0)) {
        let history = execution(seed, &shape);
        let report = check(&history, Limits::default());
        prop_assert_eq!(report.verdict, Verdict::Lawful, "{}", report.text(&history));
    }

    #[test]
    fn a_correct_store_is_lawful_with_lost_answers(seed: u64, shape in shape(6)) {
        let history = execution(seed, &shape);
        let report = check(&history, Limits::default());
        prop_assert_eq!(report.verdict, Verdict::Lawful, "{}", report.text(&history));
    }

    #[test]
    fn a_history_reads_back_as_written(seed: u64, shape in shape(6)) {
        let history = execution(seed, &shape);
        let mut written = Vec::new();
        history.write(&mut written).unwrap();
        prop_assert_eq!(History::read(&written[..]).unwrap(), history);
    }

    #[test]
    fn one_change_is_found(seed: u64, shape in shape(0)) {
        // The ends of two leases could change places.
        let shape = Shape { leases: false, ..shape };
        let mut history = execution(seed, &shape);
        let mut random = StdRng::seed_from_u64(seed);
        let Some(what) = mutate(&mut random, &mut history) else { return Ok(()) };
        let report = check(&history, Limits::default());
        prop_assert_eq!(report.verdict, Verdict::Unlawful, "{}", what);
        // Every explanation can be drawn.
        let page = crate::check::page::page(&history, &report);
        prop_assert!(page.contains("class=\"violation\""));
    }
}

/// Each bug, the rules that may name it, and in how many of a hundred runs it has to be found at
/// least: what nobody happens to look at cannot be.
const BUGS: [(Bug, u32, &[Rule]); 26] = {
    use Rule::*;
    [
        (
            Bug::LostWrite,
            90,
            &[RevisionUnique, PhantomRevision, Answer, WriteOrder, StaleAnswer, WatchContent],
        ),
        (Bug::WriteTwice, 90, &[PhantomRevision, Answer]),
        (
            Bug::TornTransaction,
            80,
            &[Answer, SerializableAnswer, WatchAtomic, WatchReliable, WatchContent],
        ),
        (Bug::StaleRead, 60, &[StaleAnswer]),
        (Bug::StaleContent, 99, &[Answer, PhantomRevision]),
        (Bug::WrongCompare, 99, &[Answer]),
        (Bug::DeleteCount, 99, &[Answer]),
        (Bug::RangeMissesKey, 99, &[Answer]),
        (Bug::WrongCount, 99, &[Answer]),
        // Of two that contradict each other, one is named.
        (Bug::WrongVersion, 99, &[Answer, SerializableAnswer, WatchContent]),
        (Bug::WrongCreateRevision, 99, &[Answer, SerializableAnswer, WatchContent]),
        (Bug::WrongPrevKv, 99, &[Answer]),
        (Bug::RevisionBack, 99, &[RevisionUnique, WriteOrder]),
        (Bug::CompactedRead, 60, &[Compaction]),
        // If nobody saw what was deleted.
        (Bug::LeaseEarly, 90, &[LeaseEarly, PhantomRevision]),
        (Bug::LeaseLeavesKey, 90, &[Answer, LeaseEarly, PhantomRevision]),
        (Bug::LeaseForever, 50, &[LeaseLate]),
        (Bug::EventMissing, 99, &[WatchReliable, PhantomRevision, LeaseEarly]),
        // The second may be lost with a stream that breaks.
        (Bug::EventTwice, 95, &[WatchUnique]),
        (Bug::EventsSwapped, 99, &[WatchOrder, WatchReliable]),
        (Bug::EventOfRevisionMissing, 99, &[WatchAtomic, LeaseEarly, PhantomRevision]),
        (Bug::EventValue, 99, &[WatchContent, Answer]),
        (Bug::EventPrevKv, 99, &[WatchContent, Answer, SerializableAnswer]),
        (Bug::ProgressAhead, 90, &[WatchBookmark, WatchReliable, WatchStream]),
        (Bug::TombstoneMissing, 90, &[WatchReliable, PhantomRevision]),
        (Bug::CanceledEarly, 60, &[WatchStream]),
    ]
};

/// Runs each bug often, with unknown outcomes or without; tells what was found how often.
fn bugs(unknown_one_in: u32, named: bool) {
    let mut failures = Vec::new();
    for (bug, least, rules) in BUGS {
        let (mut fired, mut found, mut misnamed) = (0, 0, std::collections::BTreeMap::new());
        for seed in 0..150 {
            let shape = Shape {
                operations: 200,
                clients: 4,
                keys: 5,
                unknown_one_in,
                watches: 3,
                leases: true,
                compaction: true,
                bug: Some(bug),
            };
            let (history, has_fired) = faulty_execution(seed, &shape);
            if !has_fired {
                continue;
            }
            fired += 1;
            let report = check(&history, Limits::default());
            found += u32::from(report.verdict == Verdict::Unlawful);
            if let Some(violation) = report.violations.first()
                && !rules.contains(&violation.rule)
            {
                misnamed.entry(violation.rule).or_insert_with(Vec::new).push(seed);
            }
        }
        println!("{bug:?}: struck {fired}, found {found}, other names {misnamed:?}");
        let least = if named { least } else { least - 20 };
        if fired < 5 || found * 100 < fired * least || (named && !misnamed.is_empty()) {
            failures.push(bug);
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn each_bug_is_found_and_named() {
    bugs(0, true);
}

#[test]
fn each_bug_is_found_among_unknown_outcomes() {
    bugs(12, false);
}

/// Changes one thing so that the history cannot be lawful any more; none if there is nothing to.
fn mutate(random: &mut StdRng, history: &mut History) -> Option<String> {
    match random.random_range(0..8) {
        0 => {
            let kv = seen(history).choose_mut_of(random)?;
            kv.value = Data::from("never written");
            Some("value read".into())
        }
        1 => {
            let kv = seen(history).choose_mut_of(random)?;
            kv.version += 1;
            Some("version read".into())
        }
        2 => {
            let kv = seen(history).choose_mut_of(random)?;
            kv.create_revision.0 -= 1;
            Some("create revision read".into())
        }
        3 => {
            let events: Vec<(usize, usize, usize)> = events(history);
            let (watch, response, event) = *events.choose(random)?;
            let (_, to) = crate::check::watch::span(&history.watches[watch]);
            let batch = &mut history.watches[watch].responses[response];
            let last = batch.events[event].kv.mod_revision == to;
            let alone =
                batch.events.iter().filter(|other| other.kv.mod_revision == to).count() == 1;
            // Nothing says that the last event seen was not the last told.
            if last && alone {
                return None;
            }
            batch.events.remove(event);
            Some(format!("event dropped from watch {watch}"))
        }
        4 => {
            let events = events(history);
            let (watch, response, event) = *events.choose(random)?;
            let batch = &mut history.watches[watch].responses[response];
            let again = batch.events[event].clone();
            batch.events.insert(event, again);
            Some(format!("event doubled in watch {watch}"))
        }
        5 => {
            let events = events(history);
            let (watch, response, event) = *events.choose(random)?;
            let event = &mut history.watches[watch].responses[response].events[event];
            event.kv.mod_revision.0 += 1;
            Some(format!("event's revision shifted in watch {watch}"))
        }
        6 => {
            let places: Vec<usize> = (0..history.operations.len())
                .filter(|place| {
                    history.operations[*place].response().is_some_and(|told| told.changed())
                })
                .collect();
            let place = *places.choose(random)?;
            let Outcome::Ok(response) = &mut history.operations[place].outcome else {
                unreachable!()
            };
            let by = if random.random_bool(0.5) { 1 } else { -1 };
            match response {
                Response::Put(told) => told.revision.0 += by,
                Response::DeleteRange(told) => told.revision.0 += by,
                Response::Txn(told) => told.revision.0 += by,
                _ => unreachable!("changes nothing"),
            }
            Some(format!("write {place} shifted by {by}"))
        }
        _ => {
            // An answered write that never happened, if anyone noticed; its revision is a gap.
            let last = history.operations.iter().filter_map(|operation| operation.response());
            let last = last.map(Response::revision).max()?;
            let place = history.operations.iter().position(|operation| {
                operation.response().is_some_and(|told| told.changed() && told.revision() < last)
            })?;
            history.operations[place].outcome = Outcome::Failed("said to have failed".into());
            Some(format!("write {place} called failed"))
        }
    }
}

/// All keys with values that ranges showed.
fn seen(history: &mut History) -> Vec<&mut KeyValue> {
    let responses = history.operations.iter_mut().filter_map(|operation| {
        match (&operation.request, &mut operation.outcome) {
            (Request::Range(_), Outcome::Ok(Response::Range(told))) => Some(&mut told.kvs),
            _ => None,
        }
    });
    responses.flatten().collect()
}

fn events(history: &History) -> Vec<(usize, usize, usize)> {
    let mut places = Vec::new();
    for (watch, one) in history.watches.iter().enumerate() {
        for (response, batch) in one.responses.iter().enumerate() {
            places.extend((0..batch.events.len()).map(|event| (watch, response, event)));
        }
    }
    places
}

trait ChooseMut<'a> {
    fn choose_mut_of(self, random: &mut StdRng) -> Option<&'a mut KeyValue>;
}

impl<'a> ChooseMut<'a> for Vec<&'a mut KeyValue> {
    fn choose_mut_of(mut self, random: &mut StdRng) -> Option<&'a mut KeyValue> {
        if self.is_empty() {
            return None;
        }
        let place = random.random_range(0..self.len());
        Some(self.swap_remove(place))
    }
}

#[test]
fn a_revision_from_nowhere_is_found_at_once() {
    let shape = Shape {
        operations: 50,
        clients: 3,
        keys: 4,
        unknown_one_in: 0,
        watches: 0,
        ..Shape::default()
    };
    let mut history = execution(7, &shape);
    let read =
        history.operations.iter_mut().rev().find_map(|operation| match &mut operation.outcome {
            Outcome::Ok(Response::Range(told)) => Some(told),
            _ => None,
        });
    read.unwrap().revision = Revision(1 << 60);
    assert_eq!(check(&history, Limits::default()).verdict, Verdict::Unlawful);
}
