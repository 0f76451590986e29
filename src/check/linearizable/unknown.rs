//! The writes that may have happened: who can have made a revision that nobody claims.
//!
//! Of a write of unknown outcome it is known when it was called, so from which revision on it can
//! have happened, and what it would do. Most are soon found: a value that was seen at a key leads
//! to the few writes of that value, a deletion to those that can delete the key. Only a revision
//! of which nothing was seen must be tried against all of them.
//!
//! - An answered revoke of a lease stands here as well: whether it deleted anything is not told,
//!   only that it was done by the revision of its answer.
//! - A write whose value was seen at its key, and that nobody else wrote there, happened at the
//!   lowest revision of that value, or before it if writes that keep a key's value (`ignore_value`)
//!   may have carried it on; nowhere else.
//! - Places are of this list, not of the history, unless said.

use super::facts::{Facts, Seen, Sight};
use crate::check::clock::Told;
use crate::check::data::Data;
use crate::check::history::History;
use crate::check::op::{Outcome, Request};
use crate::types::{KeyRange, LeaseId, Revision};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A write that may have happened.
#[derive(Debug)]
pub struct Write {
    /// Its place in the history.
    pub operation: usize,
    /// The first revision after those that were told before its call.
    pub called: Revision,
    /// The revisions that it can have made, `lowest` being `called` or later.
    pub lowest: Revision,
    pub highest: Revision,
    /// All keys that its effect can hang on.
    pub footprint: Vec<KeyRange>,
}

/// All of them.
#[derive(Debug)]
pub struct Unknown<'a> {
    /// In the order of `called`.
    pub writes: Vec<Write>,
    /// Writes that may put a value at a key.
    values: HashMap<(&'a Data, &'a Data), Vec<usize>>,
    /// Writes that may put a key and keep its value.
    touches: HashMap<&'a Data, Vec<usize>>,
    /// Writes that name a key.
    keys: HashMap<&'a Data, Vec<usize>>,
    /// Writes that may change keys which they do not name.
    wide: Vec<usize>,
    /// The keys that were ever hung on a lease.
    leased: BTreeMap<LeaseId, Vec<KeyRange>>,
}

impl<'a> Unknown<'a> {
    /// Gathers them.
    pub fn new(history: &'a History, told: &Told, facts: &Facts<'_>) -> Unknown<'a> {
        let mut unknown = Unknown {
            writes: Vec::new(),
            values: HashMap::new(),
            touches: HashMap::new(),
            keys: HashMap::new(),
            wide: Vec::new(),
            leased: leased(history),
        };
        for (operation, one) in history.operations.iter().enumerate() {
            let highest = match (&one.request, &one.outcome) {
                (request, Outcome::Unknown(_)) if request.may_write() => Revision(i64::MAX),
                (Request::LeaseRevoke(_), Outcome::Ok(response)) => response.revision(),
                _ => continue,
            };
            let called = Revision(told.floor(one.invoke).0 + 1);
            let footprint = unknown.footprint(&one.request);
            unknown.writes.push(Write { operation, called, lowest: called, highest, footprint });
        }
        unknown.writes.sort_by_key(|write| (write.called, write.operation));
        for place in 0..unknown.writes.len() {
            let request = &history.operations[unknown.writes[place].operation].request;
            unknown.index(place, request);
        }
        unknown.reserve(history, facts);
        unknown
    }

    fn footprint(&self, request: &Request) -> Vec<KeyRange> {
        if let Request::LeaseRevoke(lease) = request {
            return self.of_lease(lease.id).to_vec();
        }
        let mut ranges = Vec::new();
        request.footprint(&mut ranges);
        ranges
    }

    /// The keys that the end of a lease can change.
    pub fn of_lease(&self, lease: LeaseId) -> &[KeyRange] {
        self.leased.get(&lease).map_or(&[], Vec::as_slice)
    }

    /// The keys of each lease.
    pub fn leases(&self) -> impl Iterator<Item = &[KeyRange]> {
        self.leased.values().map(Vec::as_slice)
    }

    fn index(&mut self, place: usize, request: &'a Request) {
        let add = |places: &mut Vec<usize>| {
            if places.last() != Some(&place) {
                places.push(place);
            }
        };
        match request {
            Request::Put(put) => {
                add(self.keys.entry(&put.key).or_default());
                match put.ignore_value {
                    true => add(self.touches.entry(&put.key).or_default()),
                    false => add(self.values.entry((&put.key, &put.value)).or_default()),
                }
            }
            Request::DeleteRange(delete) if delete.range_end.is_empty() => {
                add(self.keys.entry(&delete.key).or_default());
            }
            Request::DeleteRange(_) | Request::LeaseRevoke(_) => add(&mut self.wide),
            Request::Txn(txn) => {
                txn.success.iter().chain(&txn.failure).for_each(|part| self.index(place, part));
            }
            Request::Range(_)
            | Request::Compact(_)
            | Request::LeaseGrant(_)
            | Request::LeaseKeepAlive(_) => {}
        }
    }

    /// Binds each write whose value was seen, and which alone can have written it, to where.
    fn reserve(&mut self, history: &History, facts: &Facts<'_>) {
        // How many operations can have put a value at a key, of those that unknown ones put.
        let mut writers: HashMap<(&Data, &Data), usize> = HashMap::new();
        let mut touched: BTreeSet<&Data> = BTreeSet::new();
        for operation in &history.operations {
            if matches!(operation.outcome, Outcome::Failed(_)) {
                continue;
            }
            let mut puts = Vec::new();
            self::puts(&operation.request, &mut puts);
            puts.sort();
            puts.dedup();
            for (key, value) in puts {
                match value {
                    Some(value) if self.values.contains_key(&(key, value)) => {
                        *writers.entry((key, value)).or_default() += 1;
                    }
                    Some(_) => {}
                    None => {
                        touched.insert(key);
                    }
                }
            }
        }
        let start = &history.start.kvs;
        let from_start: BTreeSet<_> = start.iter().map(|kv| (&kv.key, &kv.value)).collect();
        for write in &mut self.writes {
            let mut puts = Vec::new();
            self::puts(&history.operations[write.operation].request, &mut puts);
            for (key, value) in puts {
                let Some(value) = value else { continue };
                if writers.get(&(key, value)) != Some(&1) || from_start.contains(&(key, value)) {
                    continue;
                }
                if let Some(seen) = facts.value_seen(key, value) {
                    write.highest = write.highest.min(seen);
                    if !touched.contains(key) {
                        write.lowest = write.lowest.max(seen);
                    }
                }
            }
        }
    }

    /// How many of the first writes can have been called when a revision was made.
    pub fn callable(&self, revision: Revision) -> usize {
        self.writes.partition_point(|write| write.called <= revision)
    }

    /// The writes that can have done what was seen of a revision; all, if it is none.
    pub fn matching(&self, seen: &[Sight<'_>]) -> Option<Vec<usize>> {
        let put = seen.iter().find_map(|sight| match sight.what {
            Seen::Put(kv) => Some((sight.key, &kv.value)),
            Seen::Outline(_) | Seen::Created | Seen::Deleted => None,
        });
        let mut places: Vec<usize> = Vec::new();
        match (put, seen.first()) {
            (Some((key, value)), _) => {
                places.extend(self.values.get(&(key, value)).into_iter().flatten());
                places.extend(self.touches.get(key).into_iter().flatten());
            }
            (None, Some(sight)) => {
                places.extend(self.keys.get(sight.key).into_iter().flatten());
                if matches!(sight.what, Seen::Deleted) {
                    places.extend(&self.wide);
                }
            }
            (None, None) => return None,
        }
        places.sort_unstable();
        places.dedup();
        Some(places)
    }
}

/// The keys that a request may put, each with the value, or none if it keeps the value.
fn puts<'a>(request: &'a Request, out: &mut Vec<(&'a Data, Option<&'a Data>)>) {
    match request {
        Request::Put(put) => out.push((&put.key, (!put.ignore_value).then_some(&put.value))),
        Request::Txn(txn) => {
            txn.success.iter().chain(&txn.failure).for_each(|part| puts(part, out));
        }
        Request::Range(_)
        | Request::DeleteRange(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_) => {}
    }
}

/// The keys that requests, or the start, hang on each lease.
fn leased(history: &History) -> BTreeMap<LeaseId, Vec<KeyRange>> {
    let mut keys: BTreeSet<(LeaseId, &Data)> = BTreeSet::new();
    let start = history.start.kvs.iter();
    keys.extend(start.filter(|kv| kv.lease.0 != 0).map(|kv| (kv.lease, &kv.key)));
    for operation in &history.operations {
        hung(&operation.request, &mut keys);
    }
    let mut leased: BTreeMap<LeaseId, Vec<KeyRange>> = BTreeMap::new();
    for (lease, key) in keys {
        leased.entry(lease).or_default().push(KeyRange::single(key.0.clone()));
    }
    leased
}

fn hung<'a>(request: &'a Request, keys: &mut BTreeSet<(LeaseId, &'a Data)>) {
    match request {
        Request::Put(put) if put.lease.0 != 0 => {
            keys.insert((put.lease, &put.key));
        }
        Request::Txn(txn) => {
            txn.success.iter().chain(&txn.failure).for_each(|part| hung(part, keys));
        }
        Request::Put(_)
        | Request::Range(_)
        | Request::DeleteRange(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_) => {}
    }
}
