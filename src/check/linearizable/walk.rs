//! One walk along the revisions, with ways back.
//!
//! Revision by revision the walk carries out the write that claims it and compares what was
//! answered, what others saw of that revision, what watchers were told of it, and what reads at it
//! were answered. A revision that nobody claims is a *gap*: a write of unknown outcome, or the end
//! of a lease, must have made it. A candidate is one that
//!
//! - was called before the revision was told, and is used once;
//! - does, in the state before, exactly what was seen of the revision, and nothing that a watcher
//!   should have been told of and was not;
//! - changes no key in a zone (`facts`) that has no write missing.
//!
//! Where several remain, the walk takes the likeliest, and on a contradiction goes back to the
//! latest gap that can have to do with the keys in question (conflict-directed backjumping): to
//! one whose write touches them, or where another write that touches them could stand. What a gap
//! leaves to its elders is the set of keys that its candidates could read or change, so nothing is
//! skipped that could help. A contradiction that hangs on no key at all refutes every choice.
//! After a limit of steps the answer is "unknown", never a guess.

use super::explain;
use super::facts::{Facts, Sight};
use super::revisions::{Answer, Claims, Timeline};
use super::unknown::Unknown;
use crate::check::clock::Told;
use crate::check::data::Data;
use crate::check::history::History;
use crate::check::leases::{Attachment, Leases};
use crate::check::op::{self, KeyValue, RangeRequest, Request, Response};
use crate::check::store::{Changes, Store};
use crate::check::violation::{Rule, Violation, difference};
use crate::check::watch::{Mismatch, Watchers};
use crate::types::{KeyRange, LeaseId, Revision};
use std::collections::BTreeMap;

/// What can have made a gap.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Maker {
    /// A write of unknown outcome, by its place in `Unknown`.
    Write(usize),
    LeaseEnd(LeaseId),
}

/// A gap that was filled, and what else could be tried.
struct Frame {
    revision: Revision,
    chosen: Maker,
    rest: Rest,
    /// The keys of contradictions that led back here.
    conflict: Vec<KeyRange>,
}

/// Candidates that were not tried.
struct Rest {
    /// Best last.
    ready: Vec<(Maker, Changes)>,
    /// The writes below this place were not looked at, if nothing was seen of the revision.
    unread: usize,
}

/// Writes are looked at so many at a time where any could be meant.
const READ_AT_ONCE: usize = 48;

/// A contradiction and the keys it hangs on.
pub(super) struct Contradiction {
    /// Told only when it lies further than all before it: telling takes longer than finding.
    pub violation: Option<Box<Violation>>,
    pub keys: Vec<KeyRange>,
}

/// The walk and where it is.
pub(super) struct Walk<'a> {
    pub history: &'a History,
    pub told: &'a Told,
    pub claims: Claims,
    pub leases: Leases,
    pub facts: Facts<'a>,
    pub unknown: Unknown<'a>,
    watchers: &'a Watchers<'a>,
    /// Rising revisions, each with the last call among the answers up to there: it was made then
    /// or later.
    called: Vec<(Revision, u64)>,
    pub store: Store,
    /// The operations that made the revisions so far.
    pub makers: BTreeMap<Revision, usize>,
    /// The writes of unknown outcome that are in use.
    used: Vec<bool>,
    /// How many of the missing writes of each zone were placed.
    placed: Vec<u32>,
    frames: Vec<Frame>,
    /// Whether there ever was a choice.
    has_guessed: bool,
    /// How far contradictions were met; each of them is a reason to go back from there.
    deepest: Option<Revision>,
    steps_left: u64,
}

impl<'a> Walk<'a> {
    pub fn new(
        history: &'a History,
        told: &'a Told,
        claims: Claims,
        watchers: &'a Watchers<'a>,
        steps_max: u64,
    ) -> Walk<'a> {
        // With every revision claimed, nothing need be guessed, and nothing gathered for that.
        let span = claims.last.0 - history.start.revision.0;
        let facts = match i64::try_from(claims.writes.len()) == Ok(span) {
            true => Facts::default(),
            false => Facts::new(history, &claims),
        };
        let unknown = Unknown::new(history, told, &facts);
        Walk {
            history,
            told,
            leases: Leases::new(history),
            used: vec![false; unknown.writes.len()],
            placed: vec![0; facts.zones_count()],
            facts,
            unknown,
            watchers,
            called: calls(history, &claims),
            store: Store::new(&history.start),
            makers: BTreeMap::new(),
            frames: Vec::new(),
            has_guessed: false,
            deepest: None,
            steps_left: steps_max,
            claims,
        }
    }

    /// Walks to the end, or until there is no way left.
    pub fn run(mut self) -> Answer {
        let mut deepest: Option<Box<Violation>> = None;
        let mut found = self.reads(self.store.revision());
        loop {
            if let Err(contradiction) = found {
                if let Some(violation) = contradiction.violation {
                    self.deepest = violation.revision;
                    deepest = Some(violation);
                }
                if !self.back(contradiction.keys) {
                    let violation = deepest.expect("the first contradiction is the furthest");
                    return Answer::Unlawful(self.clearest(violation));
                }
                found = self.reads(self.store.revision());
                continue;
            }
            if self.store.revision() == self.claims.last {
                return match self.facts.dispute {
                    Some(dispute) => Answer::Unlawful(dispute),
                    None => Answer::Lawful(Timeline { store: self.store, makers: self.makers }),
                };
            }
            if self.steps_left == 0 {
                if let Some(dispute) = self.facts.dispute {
                    return Answer::Unlawful(dispute);
                }
                let suspect = deepest.map_or(String::new(), |violation| {
                    format!(" The furthest contradiction met: {}", violation.text)
                });
                return Answer::Unknown(format!(
                    "too many ways to place the writes of unknown outcome; given up at revision \
                     {}.{suspect}",
                    self.store.revision()
                ));
            }
            found = self.step();
        }
    }

    /// Of a contradiction that was walked into and one that needed no walk, the clearer.
    fn clearest(&mut self, walked: Box<Violation>) -> Box<Violation> {
        let doubtful = self.has_guessed || walked.rule == Rule::PhantomRevision;
        match self.facts.dispute.take() {
            Some(dispute) if doubtful => dispute,
            _ => walked,
        }
    }

    /// Makes the next revision and checks all that was told of it.
    fn step(&mut self) -> Result<(), Contradiction> {
        let revision = Revision(self.store.revision().0 + 1);
        // The straight way costs nothing; what is limited is what follows a contradiction.
        self.charge(1);
        match self.claims.writes.get(&revision) {
            Some(place) => self.write(*place, revision)?,
            None => self.gap(revision)?,
        }
        self.watched(revision)?;
        self.reads(revision)
    }

    fn charge(&mut self, steps: usize) {
        if self.deepest.is_some() {
            let steps = u64::try_from(steps).expect("a count fits");
            self.steps_left = self.steps_left.saturating_sub(steps);
        }
    }

    /// Carries out an answered write.
    fn write(&mut self, place: usize, revision: Revision) -> Result<(), Contradiction> {
        let changes = self.compare(place, revision)?;
        assert!(!changes.is_empty(), "an answer that tells of changes differs from one without");
        let unlike = |sight: &&Sight<'_>| match changes.get(sight.key) {
            Some(kv) => !sight.what.is(kv.as_ref()),
            None => true,
        };
        if let Some(sight) = self.facts.at(revision).iter().find(unlike).copied() {
            let mut keys = Vec::new();
            self.history.operations[place].request.footprint(&mut keys);
            // What a write does not touch it has not changed, whatever came before.
            keys.retain(|range| range.contains(&sight.key.0));
            keys.truncate(1);
            let violation = self.is_deepest(revision) || keys.is_empty();
            let violation =
                violation.then(|| Box::new(explain::sight(self, &sight, place, &changes)));
            return Err(Contradiction { violation, keys });
        }
        self.store.push(changes);
        self.makers.insert(revision, place);
        Ok(())
    }

    /// Checks what watchers were told of the current revision.
    fn watched(&self, revision: Revision) -> Result<(), Contradiction> {
        let maker = self.makers.get(&revision).copied();
        let claimed = self.claims.writes.contains_key(&revision);
        let mismatch = match self.watchers.check(&self.store, revision, maker) {
            Ok(()) => return Ok(()),
            Err(mismatch) => mismatch,
        };
        let Mismatch { key, violation } = *mismatch;
        let hangs = match maker.map(|place| &self.history.operations[place]) {
            // Seen by others, so it happened, whoever made it.
            _ if self.facts.at(revision).iter().any(|sight| *sight.key == key)
                && violation.rule != Rule::WatchContent =>
            {
                false
            }
            Some(operation) if claimed => {
                let told = operation.response().expect("a claim is an answer");
                !surely_puts(&operation.request, told, &key) || violation.rule == Rule::WatchContent
            }
            _ => true,
        };
        let keys = if hangs { vec![KeyRange::single(key.0.clone())] } else { Vec::new() };
        let told = self.is_deepest(revision) || keys.is_empty();
        let violation = told.then(|| {
            let mut violation = violation;
            violation.states = explain::states(self, &[KeyRange::single(key.0.clone())]);
            Box::new(violation)
        });
        Err(Contradiction { violation, keys })
    }

    /// Checks the answers that were given at the current revision and changed nothing.
    fn reads(&self, revision: Revision) -> Result<(), Contradiction> {
        let places = self.claims.reads.get(&revision);
        for place in places.into_iter().flatten() {
            let changes = self.compare(*place, revision)?;
            if let Request::LeaseRevoke(lease) = &self.history.operations[*place].request {
                self.revoked(*place, lease.id, &changes)?;
            }
        }
        Ok(())
    }

    /// Whether nothing hangs on a lease at the revision of its revoke's answer.
    fn revoked(&self, place: usize, id: LeaseId, held: &Changes) -> Result<(), Contradiction> {
        let called = self.told.floor(self.history.operations[place].invoke);
        // The answer's revision may be later than the revoke's, and the id granted again between.
        let strict = self.leases.is_granted_once(id);
        let left = held.keys().find(|key| {
            let kv = self.store.current(key);
            strict || kv.is_some_and(|kv| kv.mod_revision <= called)
        });
        let Some(left) = left else { return Ok(()) };
        let revision = self.store.revision();
        let told = self.is_deepest(revision);
        let violation = told.then(|| Box::new(explain::revoked(self, place, left)));
        let key = vec![KeyRange::single(left.0.clone())];
        Err(Contradiction { violation, keys: key })
    }

    /// Compares an answer with that of the model at its current state.
    fn compare(&self, place: usize, revision: Revision) -> Result<Changes, Contradiction> {
        let operation = &self.history.operations[place];
        let got = operation.response().expect("only answered operations are placed");
        if let (Request::Range(range), Response::Range(got)) = (&operation.request, got)
            && self.store.answers(range, got)
        {
            return Ok(Changes::new());
        }
        let difference = match self.store.evaluate(&operation.request) {
            Ok((expected, changes)) => match difference(&operation.request, &expected, got) {
                None => return Ok(changes),
                Some(difference) => Some((difference, expected)),
            },
            Err(refusal) => {
                let keys = self.footprint(place);
                let told = self.is_deepest(revision);
                let expected = format!("an error: {}", refusal.text());
                let pair = (expected, "an answer".into());
                let violation = told.then(|| Box::new(explain::answer(self, place, pair, &keys)));
                return Err(Contradiction { violation, keys });
            }
        };
        let (pair, expected) = difference.expect("it was just found");
        let mut keys = Vec::new();
        differing(&operation.request, &expected, got, &mut keys);
        let told = self.is_deepest(revision);
        let violation = told.then(|| Box::new(explain::answer(self, place, pair, &keys)));
        Err(Contradiction { violation, keys })
    }

    fn footprint(&self, place: usize) -> Vec<KeyRange> {
        let mut keys = Vec::new();
        self.history.operations[place].request.footprint(&mut keys);
        keys
    }

    /// Fills a revision that no answered write claims.
    fn gap(&mut self, revision: Revision) -> Result<(), Contradiction> {
        let mut rest = self.candidates(revision);
        let Some((chosen, changes)) = self.next(revision, &mut rest, None) else {
            let told = self.is_deepest(revision);
            let violation = told.then(|| Box::new(explain::phantom(self, revision)));
            let mut keys = Vec::new();
            self.potential(revision, None, &mut keys);
            return Err(Contradiction { violation, keys });
        };
        let conflict = Vec::new();
        self.has_guessed = true;
        self.frames.push(Frame { revision, chosen, rest, conflict });
        self.fill(revision, chosen, changes);
        Ok(())
    }

    fn fill(&mut self, revision: Revision, maker: Maker, changes: Changes) {
        for key in changes.iter().filter(|(_, kv)| kv.is_some()).map(|(key, _)| key) {
            if let Some(zone) = self.facts.zone(key, revision) {
                self.placed[zone.id] += 1;
            }
        }
        self.store.push(changes);
        if let Maker::Write(place) = maker {
            self.used[place] = true;
            self.makers.insert(revision, self.unknown.writes[place].operation);
        }
    }

    /// Takes all revisions from a gap's on back.
    fn undo(&mut self, revision: Revision, maker: Maker) {
        while self.store.revision() > revision {
            self.makers.remove(&self.store.revision());
            self.store.pop();
        }
        assert_eq!(
            self.store.revision(),
            revision,
            "what came after a gap is taken back before it"
        );
        let changes = self.store.changes(revision).expect("the gap was filled");
        for key in changes.iter().filter(|(_, kv)| kv.is_some()).map(|(key, _)| key) {
            if let Some(zone) = self.facts.zone(key, revision) {
                self.placed[zone.id] -= 1;
            }
        }
        self.makers.remove(&revision);
        self.store.pop();
        if let Maker::Write(place) = maker {
            self.used[place] = false;
        }
    }

    /// Whether a contradiction at a revision is the furthest so far.
    fn is_deepest(&self, revision: Revision) -> bool {
        self.deepest.is_none_or(|deepest| deepest < revision)
    }

    /// The candidates for a revision; those that must be looked for among all writes are not
    /// looked for yet.
    fn candidates(&mut self, revision: Revision) -> Rest {
        let callable = self.unknown.callable(revision);
        let matching = self.unknown.matching(self.facts.at(revision));
        let mut rest = Rest { ready: Vec::new(), unread: 0 };
        match matching {
            None => rest.unread = callable,
            Some(places) => {
                let called = places.partition_point(|place| *place < callable);
                self.read(revision, places[..called].iter().copied(), &mut rest);
            }
        }
        let mut ended = Vec::new();
        for lease in self.store.leases() {
            if self.may_have_ended(lease, revision) {
                ended.push((Maker::LeaseEnd(lease), self.store.attached(lease)));
            }
        }
        ended.retain(|(_, changes)| self.rank(changes, revision, true).is_some());
        rest.ready.extend(ended);
        rest
    }

    /// Evaluates writes, and puts those that fit before what is ready.
    fn read(&mut self, revision: Revision, places: impl Iterator<Item = usize>, rest: &mut Rest) {
        let since = self.since(revision);
        let mut found: Vec<(i8, Maker, Changes)> = Vec::new();
        let (mut tried, mut evaluated) = (0, 0);
        for place in places {
            tried += 1;
            let write = &self.unknown.writes[place];
            if self.used[place] || write.lowest > revision || write.highest < revision {
                continue;
            }
            evaluated += 1;
            let operation = &self.history.operations[write.operation];
            if let Ok((_, changes)) = self.store.evaluate(&operation.request) {
                let is_open = operation.returned.is_none_or(|returned| returned >= since);
                if let Some(rank) = self.rank(&changes, revision, is_open) {
                    found.push((rank, Maker::Write(place), changes));
                }
            }
        }
        self.charge(evaluated + tried / 8);
        // Stable, so that among equals the one that came first stays first, and is tried last.
        found.sort_by_key(|(rank, _, _)| *rank);
        rest.ready.extend(found.into_iter().map(|(_, maker, changes)| (maker, changes)));
    }

    /// How well changes fit a revision, higher being better; none if they do not.
    fn rank(&self, changes: &Changes, revision: Revision, is_open: bool) -> Option<i8> {
        let seen = self.facts.at(revision);
        let fits = |sight: &Sight<'_>| match changes.get(sight.key) {
            Some(kv) => sight.what.is(kv.as_ref()),
            None => false,
        };
        if changes.is_empty() || !seen.iter().all(fits) {
            return None;
        }
        let mut rank = i8::from(is_open);
        for (key, kv) in changes {
            if seen.iter().any(|sight| sight.key == key) {
                continue;
            }
            if let Some(zone) = self.facts.zone(key, revision) {
                if kv.is_none() || self.placed[zone.id] >= zone.missing {
                    return None;
                }
                rank += 2;
            }
            if self.watchers.expect(key, kv.is_some(), revision) {
                return None;
            }
            if let Some(kv) = kv
                && self.facts.value_seen(key, &kv.value).is_some()
            {
                rank -= 4;
            }
        }
        Some(rank)
    }

    /// When a revision was made at the earliest.
    fn since(&self, revision: Revision) -> u64 {
        let count = self.called.partition_point(|(made, _)| *made < revision);
        self.called[..count].last().map_or(0, |(_, called)| *called)
    }

    /// Whether a lease that holds keys now can have ended in a revision.
    fn may_have_ended(&self, lease: LeaseId, revision: Revision) -> bool {
        let told_at = self.told.first_at(revision).unwrap_or(u64::MAX);
        self.leases.may_have_ended(lease, self.attachment(lease), told_at)
    }

    /// The last write that hung one of its keys on a lease.
    pub fn attachment(&self, lease: LeaseId) -> Attachment {
        let held = self.store.attached(lease);
        let made = held.keys().filter_map(|key| self.store.current(key));
        let last = made.map(|kv| kv.mod_revision).max().unwrap_or_default();
        let invoke = self.makers.get(&last).map(|place| self.history.operations[*place].invoke);
        Attachment {
            told_at: self.told.first_at(last).unwrap_or(u64::MAX),
            invoke: invoke.unwrap_or(0),
        }
    }

    /// The next candidate to try; of those that touch some keys only, if asked.
    fn next(
        &mut self,
        revision: Revision,
        rest: &mut Rest,
        touching: Option<&[KeyRange]>,
    ) -> Option<(Maker, Changes)> {
        loop {
            while let Some((maker, changes)) = rest.ready.pop() {
                if touching.is_none_or(|keys| touch(self.keys_of(maker), keys)) {
                    return Some((maker, changes));
                }
            }
            if rest.unread == 0 {
                return None;
            }
            // Those called last first: mostly a write happens soon or never.
            let from = rest.unread.saturating_sub(READ_AT_ONCE);
            let places = from..rest.unread;
            rest.unread = from;
            self.read(revision, places, rest);
        }
    }

    fn keys_of(&self, maker: Maker) -> &[KeyRange] {
        match maker {
            Maker::Write(place) => &self.unknown.writes[place].footprint,
            Maker::LeaseEnd(lease) => self.unknown.of_lease(lease),
        }
    }

    /// Adds the keys of all that could make a revision in some state; of those that touch some
    /// keys only, if asked.
    fn potential(
        &mut self,
        revision: Revision,
        touching: Option<&[KeyRange]>,
        keys: &mut Vec<KeyRange>,
    ) {
        let callable = self.unknown.callable(revision);
        let seen = self.facts.at(revision);
        let matching = self.unknown.matching(seen);
        let mut add = |footprint: &[KeyRange]| {
            if touching.is_none_or(|touching| touch(footprint, touching)) {
                merge(keys, footprint);
            }
        };
        let mut tried = 0;
        let mut write = |place: usize| {
            tried += 1;
            let write = &self.unknown.writes[place];
            if write.lowest <= revision && revision <= write.highest {
                add(&write.footprint);
            }
        };
        match &matching {
            None => (0..callable).for_each(&mut write),
            Some(places) => {
                places
                    .iter()
                    .take_while(|place| **place < callable)
                    .for_each(|place| write(*place));
            }
        }
        let deleted = seen.iter().find(|sight| sight.what.is(None)).map(|sight| sight.key);
        if seen.is_empty() || deleted.is_some() {
            for footprint in self.unknown.leases() {
                let holds = |key: &Data| footprint.iter().any(|range| range.contains(&key.0));
                if deleted.is_none_or(holds) {
                    add(footprint);
                }
            }
        }
        self.charge(tried / 8);
    }

    /// Goes back to the latest gap that can have to do with the keys, and tries what is next
    /// there. False if there is none: then nothing helps.
    fn back(&mut self, mut keys: Vec<KeyRange>) -> bool {
        while !keys.is_empty()
            && let Some(mut frame) = self.frames.pop()
        {
            self.charge(1);
            self.undo(frame.revision, frame.chosen);
            // If what stood there has nothing to do with it, only what has can help.
            let touched = touch(self.keys_of(frame.chosen), &keys);
            let touching = (!touched).then_some(&keys[..]);
            let next = self.next(frame.revision, &mut frame.rest, touching);
            merge(&mut frame.conflict, &keys);
            if let Some((chosen, changes)) = next {
                let revision = frame.revision;
                frame.chosen = chosen;
                self.frames.push(frame);
                self.fill(revision, chosen, changes);
                return true;
            }
            let conflict = frame.conflict;
            keys = conflict.clone();
            self.potential(frame.revision, Some(&conflict), &mut keys);
        }
        false
    }
}

/// Rising revisions with the last call among the answers up to there.
fn calls(history: &History, claims: &Claims) -> Vec<(Revision, u64)> {
    let operations = &history.operations;
    let writes = claims.writes.iter().map(|(revision, place)| (*revision, *place));
    let reads = claims.reads.iter();
    let reads =
        reads.flat_map(|(revision, places)| places.iter().map(move |place| (*revision, *place)));
    let mut called: Vec<(Revision, u64)> = writes
        .chain(reads)
        .filter(|(_, place)| !operations[*place].is_serializable())
        .map(|(revision, place)| (revision, operations[place].invoke))
        .collect();
    called.sort_unstable();
    for place in 1..called.len() {
        called[place].1 = called[place].1.max(called[place - 1].1);
    }
    called
}

/// Whether an answered request put a key, whatever the state was.
fn surely_puts(request: &Request, told: &Response, key: &Data) -> bool {
    match (request, told) {
        (Request::Put(put), _) => put.key == *key,
        (Request::Txn(txn), Response::Txn(told)) => {
            let branch = if told.succeeded { &txn.success } else { &txn.failure };
            branch.iter().zip(&told.responses).any(|(part, told)| surely_puts(part, told, key))
        }
        _ => false,
    }
}

/// The keys whose state makes the first difference between two answers to a request.
fn differing(request: &Request, expected: &Response, got: &Response, keys: &mut Vec<KeyRange>) {
    match (request, expected, got) {
        (Request::Range(range), Response::Range(expected), Response::Range(got)) => {
            match first_difference(range, &expected.kvs, &got.kvs) {
                Some(key) => keys.push(KeyRange::single(key.0)),
                None => request.footprint(keys),
            }
        }
        (Request::Txn(txn), Response::Txn(expected), Response::Txn(got)) => {
            if expected.succeeded != got.succeeded {
                keys.extend(txn.compare.iter().map(|one| op::keys(&one.key, &one.range_end)));
                return;
            }
            let branch = if expected.succeeded { &txn.success } else { &txn.failure };
            let told = expected.responses.iter().zip(&got.responses);
            for (part, (expected, got)) in branch.iter().zip(told) {
                if difference(part, expected, got).is_some() {
                    return differing(part, expected, got, keys);
                }
            }
            request.footprint(keys);
        }
        _ => request.footprint(keys),
    }
}

/// The first key on which two answers to a range differ; none if that hangs on others as well.
fn first_difference(range: &RangeRequest, expected: &[KeyValue], got: &[KeyValue]) -> Option<Data> {
    if range.limit > 0 || range.count_only {
        return None;
    }
    let life = |kv: &KeyValue| (kv.create_revision, kv.mod_revision, kv.version);
    let same = |one: &KeyValue, other: &KeyValue| match range.keys_only {
        true => one.key == other.key && life(one) == life(other),
        false => one == other,
    };
    let place = expected.iter().zip(got).take_while(|(one, other)| same(one, other)).count();
    match (expected.get(place), got.get(place)) {
        (Some(one), Some(other)) => Some(one.key.clone().min(other.key.clone())),
        (Some(only), None) | (None, Some(only)) => Some(only.key.clone()),
        (None, None) => None,
    }
}

/// More ranges than this are taken for the whole keyspace.
const RANGES_MAX: usize = 64;

/// Adds ranges to a set of them.
fn merge(ranges: &mut Vec<KeyRange>, more: &[KeyRange]) {
    for range in more {
        if ranges.len() >= RANGES_MAX {
            *ranges = vec![KeyRange::all()];
        }
        if ranges.first() != Some(&KeyRange::all()) && !ranges.contains(range) {
            ranges.push(range.clone());
        }
    }
}

/// Whether some key can be in both sets.
fn touch(ones: &[KeyRange], others: &[KeyRange]) -> bool {
    let meet = |one: &KeyRange, other: &KeyRange| match (one.is_single(), other.is_single()) {
        (true, _) => other.contains(&one.start),
        (_, true) => one.contains(&other.start),
        _ => {
            let below = |one: &KeyRange, other: &KeyRange| {
                one.upper().is_none_or(|upper| other.start.as_ref() < upper)
            };
            !one.is_empty() && !other.is_empty() && below(one, other) && below(other, one)
        }
    };
    ones.iter().any(|one| others.iter().any(|other| meet(one, other)))
}
