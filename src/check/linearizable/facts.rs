//! What answers and watchers show of the keys, gathered before the walk.
//!
//! A kv in an answer says more than its value: that the key was written in the revision
//! `mod_revision`, was created in `create_revision`, was written `version` times since, and did
//! not change until the revision that the answer is of. Such *sightings*, put side by side, say
//! where writes of unknown outcome can have happened:
//!
//! | fact | says |
//! |---|---|
//! | sight | what a revision did to a key |
//! | zone | between two sightings of a key's life exactly so many writes are missing: the difference of versions, less the writes that were answered; and no deletion |
//! | value | the lowest revision in which a key had a value |
//!
//! ```text
//! revision   5        7        9       12       20
//! x          v3 seen, until 9          v5 seen  (answered writes of x between: none)
//!            |--- zone: 0 missing --|--- zone: 1 missing ---|
//! ```
//!
//! - Facts follow from answers alone. If the history is lawful, they hold of the real execution;
//!   so what they exclude need not be tried.
//! - Answers that contradict each other are a violation by themselves (`dispute`), whatever the
//!   writes of unknown outcome did. No zone is made of them.
//! - Hash maps are asked, never iterated.

use super::revisions::{Claims, name};
use crate::check::clock::Teller;
use crate::check::data::Data;
use crate::check::history::History;
use crate::check::op::{Event, EventKind, KeyValue, Request, Response};
use crate::check::violation::{Rule, Violation, kv_text};
use crate::types::Revision;
use std::collections::HashMap;

/// What a revision did to a key, as far as someone saw it.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    pub revision: Revision,
    pub key: &'a Data,
    pub what: Seen<'a>,
    pub by: Teller,
}

/// How much was seen.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    Put(&'a KeyValue),
    /// All but value and lease.
    Outline(&'a KeyValue),
    /// The key came to be, with whatever value.
    Created,
    Deleted,
}

/// Revisions `after < r <= upto` in which a key was written a known number of times by writes of
/// unknown outcome, and was not deleted.
#[derive(Clone, Copy, Debug)]
pub struct Zone {
    pub after: Revision,
    pub upto: Revision,
    /// How many writes are missing.
    pub missing: u32,
    /// A number of its own.
    pub id: usize,
}

/// All that was seen.
#[derive(Debug, Default)]
pub struct Facts<'a> {
    keys: HashMap<&'a Data, usize>,
    /// By revision.
    sights: Vec<Sight<'a>>,
    /// By key and by revision.
    zones: Vec<Vec<Zone>>,
    zones_count: usize,
    values: HashMap<(usize, &'a Data), Revision>,
    /// Two answers that cannot both be right.
    pub dispute: Option<Box<Violation>>,
}

impl Seen<'_> {
    /// Whether a change of the key is what was seen.
    pub fn is(&self, kv: Option<&KeyValue>) -> bool {
        match (self, kv) {
            (Seen::Put(seen), Some(kv)) => *seen == kv,
            (Seen::Outline(seen), Some(kv)) => life(seen) == life(kv),
            (Seen::Created, Some(kv)) => kv.version == 1,
            (Seen::Deleted, None) => true,
            (Seen::Put(_) | Seen::Outline(_) | Seen::Created, None) | (Seen::Deleted, Some(_)) => {
                false
            }
        }
    }

    fn kv(&self) -> Option<&KeyValue> {
        match self {
            Seen::Put(kv) | Seen::Outline(kv) => Some(kv),
            Seen::Created | Seen::Deleted => None,
        }
    }

    /// In a sentence.
    pub fn text(&self, key: &Data) -> String {
        match self {
            Seen::Put(kv) => kv_text(Some(kv)),
            Seen::Outline(kv) => format!("{} (its value was not asked for)", kv_text(Some(kv))),
            Seen::Created => format!("{key} created"),
            Seen::Deleted => format!("{key} deleted"),
        }
    }
}

fn life(kv: &KeyValue) -> (Revision, Revision, i64) {
    (kv.create_revision, kv.mod_revision, kv.version)
}

impl<'a> Facts<'a> {
    /// Gathers what the answers and watchers of a history show.
    pub fn new(history: &'a History, claims: &Claims) -> Facts<'a> {
        let mut gather = Gather::new(history, claims);
        for (place, operation) in history.operations.iter().enumerate() {
            if let Some(response) = operation.response() {
                gather.response(place, &operation.request, response);
            }
        }
        for (place, watch) in history.watches.iter().enumerate() {
            for event in watch.responses.iter().flat_map(|message| &message.events) {
                gather.event(event, Teller::Watch(place));
            }
        }
        gather.answered_writes();
        gather.finish()
    }

    /// What was seen of a revision.
    pub fn at(&self, revision: Revision) -> &[Sight<'a>] {
        let from = self.sights.partition_point(|sight| sight.revision < revision);
        let count = self.sights[from..].partition_point(|sight| sight.revision == revision);
        &self.sights[from..from + count]
    }

    /// The zone of a key that a revision lies in.
    pub fn zone(&self, key: &Data, revision: Revision) -> Option<Zone> {
        let zones = &self.zones[*self.keys.get(key)?];
        let zone = zones.get(zones.partition_point(|zone| zone.upto < revision))?;
        (zone.after < revision).then_some(*zone)
    }

    /// How many zones there are: their ids are below that.
    pub fn zones_count(&self) -> usize {
        self.zones_count
    }

    /// The lowest revision in which a key was seen with a value.
    pub fn value_seen(&self, key: &Data, value: &Data) -> Option<Revision> {
        let key = *self.keys.get(key)?;
        self.values.get(&(key, value)).copied()
    }
}

/// A sighting while they are gathered.
#[derive(Debug)]
struct Entry<'a> {
    key: usize,
    sight: Sight<'a>,
    /// The key did not change from the sight's revision to this one, and who saw that.
    until: Revision,
    until_by: Teller,
}

struct Gather<'a, 'b> {
    history: &'a History,
    facts: Facts<'a>,
    entries: Vec<Entry<'a>>,
    places: HashMap<(usize, Revision), usize>,
    /// The answered puts by key, by rising revision.
    answered: HashMap<usize, Vec<(Revision, usize)>>,
    /// The revision in hand is the operation's own: what it reads is from before.
    own: Option<Revision>,
    claims: &'b Claims,
}

impl<'a, 'b> Gather<'a, 'b> {
    fn new(history: &'a History, claims: &'b Claims) -> Gather<'a, 'b> {
        Gather {
            history,
            facts: Facts::default(),
            entries: Vec::new(),
            places: HashMap::new(),
            answered: HashMap::new(),
            own: None,
            claims,
        }
    }

    fn key(&mut self, key: &'a Data) -> usize {
        let next = self.facts.keys.len();
        *self.facts.keys.entry(key).or_insert(next)
    }

    fn add(
        &mut self,
        key: &'a Data,
        revision: Revision,
        what: Seen<'a>,
        until: Revision,
        by: Teller,
    ) {
        let number = self.key(key);
        let until = until.max(revision);
        let next = self.entries.len();
        let place = *self.places.entry((number, revision)).or_insert(next);
        if place == next {
            self.value(number, revision, what);
            let sight = Sight { revision, key, what, by };
            self.entries.push(Entry { key: number, sight, until, until_by: by });
            return;
        }
        if let (Seen::Outline(_), Seen::Put(_)) = (self.entries[place].sight.what, what) {
            self.value(number, revision, what);
        }
        let entry = &mut self.entries[place];
        if until > entry.until {
            (entry.until, entry.until_by) = (until, by);
        }
        let same = match (&entry.sight.what, &what) {
            (Seen::Put(one), Seen::Put(other)) => std::ptr::eq(*one, *other) || one == other,
            (Seen::Outline(one), Seen::Put(other)) => {
                let same = life(one) == life(other);
                entry.sight.what = what;
                same
            }
            (Seen::Put(one) | Seen::Outline(one), Seen::Outline(other)) => life(one) == life(other),
            (Seen::Deleted, Seen::Deleted) => true,
            _ => false,
        };
        if !same {
            let (mut one, mut other) = (entry.sight, Sight { revision, key, what, by });
            // If it is known what was written, the one that shows something else is wrong.
            let writer = self.claims.writes.get(&revision);
            let wrote =
                writer.and_then(|place| put_value(&self.history.operations[*place].request, key));
            if let (Some(value), Some(kv)) = (wrote, one.what.kv())
                && matches!(one.what, Seen::Put(_))
                && kv.value != *value
            {
                std::mem::swap(&mut one, &mut other);
            }
            let text = format!(
                "{} shows what revision {revision} did to {key} as {}, but {} shows it as {}.",
                teller(self.history, other.by),
                other.what.text(key),
                teller(self.history, one.by),
                one.what.text(key)
            );
            let got = other.what.text(key);
            self.dispute((other.by, one.by), revision, text, (one.what.text(key), got));
        }
    }

    fn value(&mut self, key: usize, revision: Revision, what: Seen<'a>) {
        if let Seen::Put(kv) = what
            && revision > self.history.start.revision
        {
            let first = self.facts.values.entry((key, &kv.value)).or_insert(revision);
            *first = revision.min(*first);
        }
    }

    /// Notes that two tellers contradict each other; the first is the one more likely wrong.
    fn dispute(
        &mut self,
        (one, other): (Teller, Teller),
        revision: Revision,
        text: String,
        (expected, got): (String, String),
    ) {
        if self.facts.dispute.is_some() {
            return;
        }
        let rule = match one {
            Teller::Watch(_) => Rule::WatchContent,
            Teller::Operation(place) if self.history.operations[place].is_serializable() => {
                Rule::SerializableAnswer
            }
            Teller::Operation(_) => Rule::Answer,
        };
        let mut violation = Violation::new(rule, text).between(expected, got).at(revision);
        for teller in [one, other] {
            match teller {
                Teller::Operation(place) if violation.operations.contains(&place) => {}
                Teller::Operation(place) => violation.operations.push(place),
                Teller::Watch(watch) if violation.watches.contains(&watch) => {}
                Teller::Watch(watch) => violation.watches.push(watch),
            }
        }
        self.facts.dispute = Some(Box::new(violation));
    }

    fn response(&mut self, place: usize, request: &'a Request, response: &'a Response) {
        self.own = response.changed().then(|| response.revision());
        self.part(place, request, response, response.revision());
    }

    /// Notes what an answer, or a part of one, shows; `header` is the revision of the whole.
    fn part(
        &mut self,
        place: usize,
        request: &'a Request,
        response: &'a Response,
        header: Revision,
    ) {
        let by = Teller::Operation(place);
        // What a write shows is the state before it, but for what it did itself.
        let now = self.own.map_or(header, |own| Revision(own.0 - 1));
        match (request, response) {
            (Request::Range(range), Response::Range(told)) => {
                let until = if range.revision.0 > 0 { now.min(range.revision) } else { now };
                for kv in &told.kvs {
                    let what = if range.keys_only { Seen::Outline(kv) } else { Seen::Put(kv) };
                    self.add(&kv.key, kv.mod_revision, what, until, by);
                }
            }
            (Request::Put(_), Response::Put(told)) => {
                if let Some(kv) = &told.prev_kv {
                    self.add(&kv.key, kv.mod_revision, Seen::Put(kv), now, by);
                }
            }
            (Request::DeleteRange(_), Response::DeleteRange(told)) => {
                for kv in &told.prev_kvs {
                    self.add(&kv.key, kv.mod_revision, Seen::Put(kv), now, by);
                }
            }
            (Request::Txn(txn), Response::Txn(told)) => {
                let branch = if told.succeeded { &txn.success } else { &txn.failure };
                for (part, told) in branch.iter().zip(&told.responses) {
                    self.part(place, part, told, header);
                }
            }
            _ => {}
        }
    }

    fn event(&mut self, event: &'a Event, by: Teller) {
        let revision = event.kv.mod_revision;
        let what = match event.kind {
            EventKind::Put => Seen::Put(&event.kv),
            EventKind::Delete => Seen::Deleted,
        };
        self.add(&event.kv.key, revision, what, revision, by);
        if let Some(previous) = &event.prev_kv {
            let until = Revision(revision.0 - 1);
            self.add(&previous.key, previous.mod_revision, Seen::Put(previous), until, by);
        }
    }

    /// Gathers which answered writes surely put which keys.
    fn answered_writes(&mut self) {
        for (revision, place) in &self.claims.writes {
            let operation = &self.history.operations[*place];
            if let Some(response) = operation.response() {
                self.puts(&operation.request, response, (*revision, *place));
            }
        }
    }

    fn puts(&mut self, request: &'a Request, response: &Response, write: (Revision, usize)) {
        match (request, response) {
            (Request::Put(put), _) => {
                if let Some(key) = self.facts.keys.get(&put.key) {
                    let revisions = self.answered.entry(*key).or_default();
                    if revisions.last() != Some(&write) {
                        revisions.push(write);
                    }
                }
            }
            (Request::Txn(txn), Response::Txn(told)) => {
                let branch = if told.succeeded { &txn.success } else { &txn.failure };
                let parts = branch.iter().zip(&told.responses);
                parts.for_each(|(part, told)| self.puts(part, told, write));
            }
            _ => {}
        }
    }

    /// Makes facts of the entries.
    fn finish(mut self) -> Facts<'a> {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_by_key(|entry| (entry.key, entry.sight.revision));
        self.facts.zones = vec![Vec::new(); self.facts.keys.len()];
        let mut created = Vec::new();
        for lives in entries.chunk_by(|one, other| one.key == other.key) {
            for (place, entry) in lives.iter().enumerate() {
                let before = place.checked_sub(1).map(|place| &lives[place]);
                self.between(before, entry, &mut created);
                self.zone(entry, entry.sight.revision, entry.until, 0);
            }
        }
        let mut sights: Vec<Sight<'a>> = entries.into_iter().map(|entry| entry.sight).collect();
        sights.extend(created);
        sights.sort_by(|one, other| (one.revision, one.key).cmp(&(other.revision, other.key)));
        self.facts.sights = sights;
        if self.facts.dispute.is_some() {
            // Nothing can be concluded from a contradiction.
            self.facts.zones.iter_mut().for_each(Vec::clear);
        }
        self.facts
    }

    /// Concludes from two sightings of a key with none in between.
    fn between(
        &mut self,
        before: Option<&Entry<'a>>,
        entry: &Entry<'a>,
        created: &mut Vec<Sight<'a>>,
    ) {
        let Sight { revision, key, what, by } = entry.sight;
        if let Some(before) = before
            && before.until >= revision
        {
            let text = format!(
                "{} shows {key} at revision {} as it was modified at {}, but {} shows that \
                 revision {revision} changed it: {}.",
                teller(self.history, before.until_by),
                before.until,
                before.sight.revision,
                teller(self.history, by),
                what.text(key)
            );
            let got = before.sight.what.text(key);
            let who = (before.until_by, by);
            return self.dispute(who, before.until, text, (what.text(key), got));
        }
        let Some(kv) = what.kv() else { return };
        let (create, version) = (kv.create_revision, kv.version);
        let known = before.and_then(|before| Some((before, before.sight.what.kv()?)));
        if let Some((before, earlier)) = known
            && earlier.create_revision == create
        {
            let steps = version - earlier.version;
            let room = revision.0 - before.until.0;
            if steps < 1 || steps > room {
                let text = format!(
                    "{} shows {} and {} shows {}: the version rises by one with each write.",
                    teller(self.history, by),
                    what.text(key),
                    teller(self.history, before.sight.by),
                    before.sight.what.text(key)
                );
                let expected = format!("a version after {}", earlier.version);
                return self.dispute(
                    (by, before.sight.by),
                    revision,
                    text,
                    (expected, version.to_string()),
                );
            }
            self.zone(entry, before.until, Revision(revision.0 - 1), steps - 1);
            return;
        }
        let floor = before.map_or(self.history.start.revision, |before| before.until);
        if create <= floor || create > revision || version < 1 {
            // Another life than the one before must have begun after it. (Of the time before the
            // history nothing is known.)
            if let Some(before) = before.filter(|_| create.0 > 0 && create <= floor) {
                let text = format!(
                    "{} shows {}, but at revision {floor} {} shows {}.",
                    teller(self.history, by),
                    what.text(key),
                    teller(self.history, before.until_by),
                    before.sight.what.text(key)
                );
                let expected = format!("created after revision {floor}");
                let who = (by, before.sight.by);
                self.dispute(who, revision, text, (expected, what.text(key)));
            }
            return;
        }
        if create < revision {
            created.push(Sight { revision: create, key, what: Seen::Created, by });
            self.zone(entry, create, Revision(revision.0 - 1), version - 2);
        }
    }

    /// Notes that in `after < r <= upto` the entry's key was written so many times, answered
    /// writes included.
    fn zone(&mut self, entry: &Entry<'a>, after: Revision, upto: Revision, writes: i64) {
        if upto <= after {
            return;
        }
        let answered = self.answered.get(&entry.key).map_or(&[][..], Vec::as_slice);
        let count = |upto: Revision| answered.partition_point(|(revision, _)| *revision <= upto);
        let known = count(after)..count(upto);
        let missing = writes - i64::try_from(known.len()).expect("a count fits");
        if missing < 0 {
            let (revision, writer) = answered[known.start];
            let by = if writes == 0 { entry.until_by } else { entry.sight.by };
            let key = entry.sight.key;
            let text = format!(
                "{} shows that {key} was written {writes} times after revision {after} and up to \
                 {upto}, but that does not leave room for {} in revision {revision}.",
                teller(self.history, by),
                name(self.history, writer)
            );
            let expected = format!("{key} as revision {revision} left it, or later");
            let got = entry.sight.what.text(key);
            let who = (by, Teller::Operation(writer));
            return self.dispute(who, revision, text, (expected, got));
        }
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        let id = self.facts.zones_count;
        self.facts.zones_count += 1;
        self.facts.zones[entry.key].push(Zone { after, upto, missing, id });
    }
}

/// The value that a request puts at a key, if there is only one that it can.
fn put_value<'a>(request: &'a Request, key: &Data) -> Option<&'a Data> {
    match request {
        Request::Put(put) => (put.key == *key && !put.ignore_value).then_some(&put.value),
        Request::Txn(txn) => {
            let mut values =
                txn.success.iter().chain(&txn.failure).filter_map(|part| put_value(part, key));
            let first = values.next()?;
            values.all(|value| value == first).then_some(first)
        }
        Request::Range(_)
        | Request::DeleteRange(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_) => None,
    }
}

/// Who saw it, in a sentence.
pub(super) fn teller(history: &History, teller: Teller) -> String {
    match teller {
        Teller::Operation(place) => name(history, place),
        Teller::Watch(watch) => format!("watcher {watch}"),
    }
}
