//! A store with all its past, as etcd's rules make it: what an answer is measured against.
//!
//! It keeps every version of every key, so that the state at any revision can be asked for, and
//! the last revision can be taken back, which a search needs. It is plain on purpose: a second,
//! simpler telling of the rules than the one it judges.
//!
//! - `evaluate` changes nothing; it says what a request would answer and change. `push` makes the
//!   change the next revision and `pop` takes the last one back.
//! - A key changes at most once in a revision (etcd refuses transactions that would do more).
//! - The state before the first revision of the history is given, and cannot be looked behind.

use super::data::Data;
use super::op::{
    Compare, CompareResult, CompareTarget, DeleteRangeResponse, HeaderResponse, KeyValue,
    PutRequest, PutResponse, RangeRequest, RangeResponse, Request, Response, Start, TxnRequest,
    TxnResponse, keys,
};
use crate::types::{KeyRange, LeaseId, Revision};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

/// What a revision did to keys: the new value, or none where it deleted.
pub type Changes = BTreeMap<Data, Option<KeyValue>>;

/// A store and its past.
#[derive(Clone, Debug)]
pub struct Store {
    /// Versions by key, oldest first; none is a deletion.
    keys: BTreeMap<Data, Vec<(Revision, Option<KeyValue>)>>,
    /// The changes of each revision after the first; the last is `revision`.
    log: Vec<Changes>,
    first: Revision,
    revision: Revision,
}

/// Why a request cannot have succeeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    FutureRevision,
    KeyNotFound,
    /// The revision lies before the history began.
    BeforeStart,
}

impl Refusal {
    /// As in "it should have failed: ...".
    pub fn text(self) -> &'static str {
        match self {
            Refusal::FutureRevision => "it reads a revision that was still to come",
            Refusal::KeyNotFound => "the key whose value or lease it keeps does not exist",
            Refusal::BeforeStart => "it reads a revision before the start of the history",
        }
    }
}

impl Store {
    /// The store as a history finds it.
    pub fn new(start: &Start) -> Store {
        let version = |kv: &KeyValue| (kv.key.clone(), vec![(start.revision, Some(kv.clone()))]);
        Store {
            keys: start.kvs.iter().map(version).collect(),
            log: Vec::new(),
            first: start.revision,
            revision: start.revision,
        }
    }

    /// The latest revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The revision before all changes.
    pub fn first(&self) -> Revision {
        self.first
    }

    /// What a revision changed; none if it is not in the history.
    pub fn changes(&self, revision: Revision) -> Option<&Changes> {
        let place = usize::try_from(revision.0 - self.first.0 - 1).ok()?;
        self.log.get(place)
    }

    /// A key as of a revision.
    pub fn get(&self, key: &Data, revision: Revision) -> Option<&KeyValue> {
        self.keys.get(key).and_then(|versions| newest(versions, revision))
    }

    /// The keys that the lease holds now.
    pub fn attached(&self, lease: LeaseId) -> Changes {
        let held = |(key, versions): (&Data, &Vec<(Revision, Option<KeyValue>)>)| {
            let kv = newest(versions, self.revision)?;
            (kv.lease == lease).then(|| (key.clone(), None))
        };
        self.keys.iter().filter_map(held).collect()
    }

    /// Makes the changes the next revision.
    pub fn push(&mut self, changes: Changes) {
        self.revision.0 += 1;
        for (key, kv) in &changes {
            let versions = self.keys.entry(key.clone()).or_default();
            versions.push((self.revision, kv.clone()));
        }
        self.log.push(changes);
    }

    /// Takes the latest revision back.
    pub fn pop(&mut self) {
        let changes = self.log.pop().expect("more is never taken back than was pushed");
        for key in changes.keys() {
            let versions = self.keys.get_mut(key).expect("a changed key has versions");
            versions.pop();
            if versions.is_empty() {
                self.keys.remove(key);
            }
        }
        self.revision.0 -= 1;
    }

    /// What the request answers and changes if it comes next.
    pub fn evaluate(&self, request: &Request) -> Result<(Response, Changes), Refusal> {
        let mut view = View { store: self, changes: Changes::new() };
        let mut response = view.apply(request)?;
        let revision = match view.changes.is_empty() {
            true => self.revision,
            false => Revision(self.revision.0 + 1),
        };
        set_revision(&mut response, revision);
        Ok((response, view.changes))
    }
}

fn newest(versions: &[(Revision, Option<KeyValue>)], at: Revision) -> Option<&KeyValue> {
    // Mostly the last is asked for.
    match versions.last() {
        Some((revision, kv)) if *revision <= at => return kv.as_ref(),
        _ => {}
    }
    let count = versions.partition_point(|(revision, _)| *revision <= at);
    versions[..count].last().and_then(|(_, kv)| kv.as_ref())
}

fn set_revision(response: &mut Response, to: Revision) {
    match response {
        Response::Range(response) => response.revision = to,
        Response::Put(response) => response.revision = to,
        Response::DeleteRange(response) => response.revision = to,
        Response::Txn(response) => response.revision = to,
        Response::Compact(response) | Response::LeaseRevoke(response) => response.revision = to,
        Response::LeaseGrant(response) => response.revision = to,
        Response::LeaseKeepAlive(response) => response.revision = to,
    }
}

/// The store as a transaction sees it: with its own changes so far.
struct View<'a> {
    store: &'a Store,
    changes: Changes,
}

impl View<'_> {
    fn apply(&mut self, request: &Request) -> Result<Response, Refusal> {
        Ok(match request {
            Request::Range(range) => Response::Range(self.range(range)?),
            Request::Put(put) => Response::Put(self.put(put)?),
            Request::DeleteRange(delete) => {
                let prev_kvs = self.live(&keys(&delete.key, &delete.range_end), None);
                for kv in &prev_kvs {
                    self.changes.insert(kv.key.clone(), None);
                }
                Response::DeleteRange(DeleteRangeResponse {
                    revision: Revision(0),
                    deleted: count(prev_kvs.len()),
                    prev_kvs: if delete.prev_kv { prev_kvs } else { Vec::new() },
                })
            }
            Request::Txn(txn) => Response::Txn(self.txn(txn)?),
            Request::Compact(_) => Response::Compact(HeaderResponse::default()),
            Request::LeaseGrant(_) => Response::LeaseGrant(Default::default()),
            Request::LeaseRevoke(lease) => {
                self.changes.extend(self.store.attached(lease.id));
                Response::LeaseRevoke(HeaderResponse::default())
            }
            Request::LeaseKeepAlive(_) => Response::LeaseKeepAlive(Default::default()),
        })
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
        let now = self.store.revision.0 + i64::from(!self.changes.is_empty());
        let at = request.revision;
        if at.0 > now {
            return Err(Refusal::FutureRevision);
        }
        if at.0 > 0 && at < self.store.first {
            return Err(Refusal::BeforeStart);
        }
        let past = at.0 > 0 && at <= self.store.revision;
        let kvs = self.live(&keys(&request.key, &request.range_end), past.then_some(at));
        let total = kvs.len();
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let more = limit > 0 && total > limit && !request.count_only;
        let mut kvs: Vec<KeyValue> = match request.count_only {
            true => Vec::new(),
            false => kvs.into_iter().take(if more { limit } else { total }).collect(),
        };
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Data::default());
        }
        Ok(RangeResponse { revision: Revision(0), kvs, more, count: count(total) })
    }

    fn put(&mut self, put: &PutRequest) -> Result<PutResponse, Refusal> {
        let next = Revision(self.store.revision.0 + 1);
        let previous = self.get(&put.key).cloned();
        if previous.is_none() && (put.ignore_value || put.ignore_lease) {
            return Err(Refusal::KeyNotFound);
        }
        let old = previous.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            value: if put.ignore_value { old.value } else { put.value.clone() },
            create_revision: if previous.is_some() { old.create_revision } else { next },
            mod_revision: next,
            version: old.version + 1,
            lease: if put.ignore_lease { old.lease } else { put.lease },
        };
        self.changes.insert(put.key.clone(), Some(kv));
        Ok(PutResponse { revision: Revision(0), prev_kv: previous.filter(|_| put.prev_kv) })
    }

    fn txn(&mut self, txn: &TxnRequest) -> Result<TxnResponse, Refusal> {
        // Conditions look at the state before the whole transaction, nested ones too.
        let succeeded = txn.compare.iter().all(|compare| holds(self.store, compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let responses = branch.iter().map(|part| self.apply(part)).collect::<Result<_, _>>()?;
        Ok(TxnResponse { revision: Revision(0), succeeded, responses })
    }

    fn get(&self, key: &Data) -> Option<&KeyValue> {
        match self.changes.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.store.get(key, self.store.revision),
        }
    }

    /// The keys of a range in order, as of a revision, or now with the changes so far.
    fn live(&self, range: &KeyRange, at: Option<Revision>) -> Vec<KeyValue> {
        let (store, revision) = (self.store, at.unwrap_or(self.store.revision));
        if range.is_single() {
            let key = Data(range.start.clone());
            let kv = if at.is_some() { store.get(&key, revision) } else { self.get(&key) };
            return kv.cloned().into_iter().collect();
        }
        let mut found: Vec<KeyValue> = Vec::new();
        for (key, versions) in within(&store.keys, range) {
            if at.is_some() || !self.changes.contains_key(key) {
                found.extend(newest(versions, revision).cloned());
            }
        }
        if at.is_none() && !self.changes.is_empty() {
            found.extend(within(&self.changes, range).filter_map(|(_, kv)| kv.clone()));
            found.sort_by(|one, other| one.key.cmp(&other.key));
        }
        found
    }
}

/// The entries of a map whose keys lie in a range.
pub(super) fn within<'a, T>(
    map: &'a BTreeMap<Data, T>,
    range: &KeyRange,
) -> impl Iterator<Item = (&'a Data, &'a T)> + use<'a, T> {
    let start = Data(range.start.clone());
    let end = match range.upper() {
        _ if range.is_single() => Bound::Included(start.clone()),
        // An empty range must not turn its bounds around.
        _ if range.is_empty() => Bound::Excluded(start.clone()),
        Some(_) => Bound::Excluded(Data(range.end.clone())),
        None => Bound::Unbounded,
    };
    map.range((Bound::Included(start), end))
}

fn count(length: usize) -> i64 {
    i64::try_from(length).expect("a list is shorter than 2^63")
}

fn holds(store: &Store, compare: &Compare) -> bool {
    let range = keys(&compare.key, &compare.range_end);
    let mut kvs = within(&store.keys, &range)
        .filter_map(|(_, versions)| newest(versions, store.revision))
        .peekable();
    if kvs.peek().is_none() {
        let absent = KeyValue { key: compare.key.clone(), ..KeyValue::default() };
        // An absent key has no value to compare, not even an unequal one.
        return !matches!(compare.target, CompareTarget::Value(_)) && holds_for(&absent, compare);
    }
    kvs.all(|kv| holds_for(kv, compare))
}

fn holds_for(kv: &KeyValue, compare: &Compare) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(version) => kv.version.cmp(version),
        CompareTarget::CreateRevision(revision) => kv.create_revision.cmp(revision),
        CompareTarget::ModRevision(revision) => kv.mod_revision.cmp(revision),
        CompareTarget::Value(value) => kv.value.cmp(value),
        CompareTarget::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.result {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::NotEqual => order != Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
    }
}
