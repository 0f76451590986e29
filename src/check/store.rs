//! A store with all its past, as etcd's rules make it: what an answer is measured against.
//!
//! It keeps every version of every key, so that the state at any revision can be asked for, and
//! the last revision can be taken back, which a search needs. It is plain on purpose: a second,
//! simpler telling of the rules than the one it judges.
//!
//! - `evaluate` changes nothing; it says what a request would answer and change. `push` makes the
//!   change the next revision and `pop` takes the last one back.
//! - A key changes at most once in a revision (etcd refuses transactions that would do more).
//! - `live` is what `keys` has at the latest revision, and `leases` says which of those keys hang
//!   on a lease; both follow every push and pop, since most questions are about now.
//! - The state before the first revision of the history is given, and cannot be looked behind.

use super::data::Data;
use super::op::{
    Compare, CompareResult, CompareTarget, DeleteRangeResponse, HeaderResponse, KeyValue,
    PutRequest, PutResponse, RangeRequest, RangeResponse, Request, Response, Start, TxnRequest,
    TxnResponse, keys,
};
use crate::types::{KeyRange, LeaseId, Revision};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// What a revision did to keys: the new value, or none where it deleted.
pub type Changes = BTreeMap<Data, Option<KeyValue>>;

/// A store and its past.
#[derive(Clone, Debug)]
pub struct Store {
    /// Versions by key, oldest first; none is a deletion.
    keys: BTreeMap<Data, Vec<(Revision, Option<KeyValue>)>>,
    /// The keys that exist at the latest revision.
    live: BTreeMap<Data, KeyValue>,
    /// Leases with the keys that they hold at the latest revision; none is empty.
    leases: BTreeMap<LeaseId, BTreeSet<Data>>,
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
        let mut store = Store {
            keys: start.kvs.iter().map(version).collect(),
            live: BTreeMap::new(),
            leases: BTreeMap::new(),
            log: Vec::new(),
            first: start.revision,
            revision: start.revision,
        };
        start.kvs.iter().for_each(|kv| store.set_live(&kv.key, Some(kv.clone())));
        store
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

    /// A key now.
    pub fn current(&self, key: &Data) -> Option<&KeyValue> {
        self.live.get(key)
    }

    /// All versions of a key, oldest first; none is a deletion.
    pub fn versions(&self, key: &Data) -> &[(Revision, Option<KeyValue>)] {
        self.keys.get(key).map_or(&[], Vec::as_slice)
    }

    /// All keys that ever were, with their versions.
    pub fn all_versions(&self) -> impl Iterator<Item = (&Data, &[(Revision, Option<KeyValue>)])> {
        self.keys.iter().map(|(key, versions)| (key, versions.as_slice()))
    }

    /// The leases that hold keys now.
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.leases.keys().copied()
    }

    /// What the end of a lease changes: the keys it holds now are deleted.
    pub fn attached(&self, lease: LeaseId) -> Changes {
        let held = self.leases.get(&lease).into_iter().flatten();
        held.map(|key| (key.clone(), None)).collect()
    }

    /// Makes the changes the next revision.
    pub fn push(&mut self, changes: Changes) {
        self.revision.0 += 1;
        for (key, kv) in &changes {
            let versions = self.keys.entry(key.clone()).or_default();
            versions.push((self.revision, kv.clone()));
            self.set_live(key, kv.clone());
        }
        self.log.push(changes);
    }

    /// Takes the latest revision back.
    pub fn pop(&mut self) {
        let changes = self.log.pop().expect("more is never taken back than was pushed");
        for key in changes.keys() {
            let versions = self.keys.get_mut(key).expect("a changed key has versions");
            versions.pop();
            let before = versions.last().and_then(|(_, kv)| kv.clone());
            if versions.is_empty() {
                self.keys.remove(key);
            }
            self.set_live(key, before);
        }
        self.revision.0 -= 1;
    }

    fn set_live(&mut self, key: &Data, kv: Option<KeyValue>) {
        let lease = kv.as_ref().map_or(LeaseId(0), |kv| kv.lease);
        let before = match kv {
            Some(kv) => self.live.insert(key.clone(), kv),
            None => self.live.remove(key),
        };
        let before = before.map_or(LeaseId(0), |kv| kv.lease);
        if before == lease {
            return;
        }
        if let Some(held) = self.leases.get_mut(&before) {
            held.remove(key);
            if held.is_empty() {
                self.leases.remove(&before);
            }
        }
        if lease != LeaseId(0) {
            self.leases.entry(lease).or_default().insert(key.clone());
        }
    }

    /// The keys of a range in order, as of a revision, or now.
    fn kvs(&self, range: &KeyRange, at: Option<Revision>) -> Vec<&KeyValue> {
        let Some(at) = at else {
            return match range.is_single() {
                true => self.live.get(&range.start[..]).into_iter().collect(),
                false => within(&self.live, range).map(|(_, kv)| kv).collect(),
            };
        };
        within(&self.keys, range).filter_map(|(_, versions)| newest(versions, at)).collect()
    }

    /// The past revision that a range asks for; none if it asks for the latest.
    fn past(&self, request: &RangeRequest, changed: bool) -> Result<Option<Revision>, Refusal> {
        let at = request.revision;
        if at.0 > self.revision.0 + i64::from(changed) {
            return Err(Refusal::FutureRevision);
        }
        if at.0 > 0 && at < self.first {
            return Err(Refusal::BeforeStart);
        }
        let past = at.0 > 0 && at <= self.revision && (changed || at < self.revision);
        Ok(past.then_some(at))
    }

    /// Whether a range that comes next is answered like this: quicker than `evaluate`, for the
    /// many answers that are right.
    pub fn answers(&self, request: &RangeRequest, got: &RangeResponse) -> bool {
        let Ok(past) = self.past(request, false) else { return false };
        let kvs = self.kvs(&keys(&request.key, &request.range_end), past);
        let (shown, more) = page(request, kvs.len());
        let same = |(kv, got): (&&KeyValue, &KeyValue)| match request.keys_only {
            true => {
                let life = |kv: &KeyValue| (kv.create_revision, kv.mod_revision, kv.version);
                kv.key == got.key && life(kv) == life(got) && got.value.is_empty()
            }
            false => **kv == *got,
        };
        got.count == count(kvs.len())
            && got.more == more
            && got.kvs.len() == shown
            && kvs.iter().zip(&got.kvs).all(same)
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
                // No lease has the id 0; it is that of keys without one.
                self.changes.extend(self.store.attached(lease.id));
                Response::LeaseRevoke(HeaderResponse::default())
            }
            Request::LeaseKeepAlive(_) => Response::LeaseKeepAlive(Default::default()),
        })
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
        let past = self.store.past(request, !self.changes.is_empty())?;
        let kvs = self.live(&keys(&request.key, &request.range_end), past);
        let total = kvs.len();
        let (shown, more) = page(request, total);
        let mut kvs: Vec<KeyValue> = kvs.into_iter().take(shown).collect();
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
            None => self.store.current(key),
        }
    }

    /// The keys of a range in order, as of a revision, or now with the changes so far.
    fn live(&self, range: &KeyRange, at: Option<Revision>) -> Vec<KeyValue> {
        if at.is_some() || self.changes.is_empty() {
            return self.store.kvs(range, at).into_iter().cloned().collect();
        }
        if range.is_single() {
            return self.get(&Data(range.start.clone())).cloned().into_iter().collect();
        }
        let untouched = within(&self.store.live, range)
            .filter(|(key, _)| !self.changes.contains_key(*key))
            .map(|(_, kv)| kv.clone());
        let mut found: Vec<KeyValue> = untouched.collect();
        found.extend(within(&self.changes, range).filter_map(|(_, kv)| kv.clone()));
        found.sort_by(|one, other| one.key.cmp(&other.key));
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

/// How many of so many keys a range shows, and whether it says that there are more.
fn page(request: &RangeRequest, total: usize) -> (usize, bool) {
    let limit = usize::try_from(request.limit).unwrap_or(0);
    match request.count_only {
        true => (0, false),
        false if limit > 0 && total > limit => (limit, true),
        false => (total, false),
    }
}

fn count(length: usize) -> i64 {
    i64::try_from(length).expect("a list is shorter than 2^63")
}

fn holds(store: &Store, compare: &Compare) -> bool {
    let range = keys(&compare.key, &compare.range_end);
    let mut kvs = store.kvs(&range, None).into_iter().peekable();
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
