//! Makes histories: clients at random against the model, with made-up times.
//!
//! Each client has at most one operation under way. A step either calls, takes effect, or
//! answers; effects happen one after the other on the model, between call and answer. Unknown
//! outcomes lose the answer; their effect comes in time, long after, or never. Leases end by
//! themselves, revisions are compacted, and watchers come late, go, resume, and are canceled when
//! what they need is gone.
//!
//! A correct store makes lawful histories. A store with a [`Bug`] does one thing wrong, once.

use super::feed::Feed;
use crate::check::data::Data;
use crate::check::history::History;
use crate::check::op::*;
use crate::check::store::{Changes, Store};
use crate::types::{LeaseId, Revision};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

pub const MILLISECOND: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Default)]
pub struct Shape {
    pub operations: usize,
    pub clients: u64,
    pub keys: u32,
    /// One in so many loses its answer; 0: none.
    pub unknown_one_in: u32,
    pub watches: usize,
    pub leases: bool,
    pub compaction: bool,
    pub bug: Option<Bug>,
}

/// What a store does wrong, once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Bug {
    /// An answered put did nothing.
    LostWrite,
    /// A write was done twice.
    WriteTwice,
    /// Half of a transaction was done.
    TornTransaction,
    /// A linearizable read of old state, which says so.
    StaleRead,
    /// A read of old state with the newest revision.
    StaleContent,
    /// A comparison that did not hold was taken to hold.
    WrongCompare,
    DeleteCount,
    RangeMissesKey,
    WrongCount,
    WrongVersion,
    WrongCreateRevision,
    WrongPrevKv,
    /// A write is given the revision of the one before it.
    RevisionBack,
    /// A read of a revision that was compacted.
    CompactedRead,
    /// A lease's keys are deleted a second too early.
    LeaseEarly,
    /// A lease that ends leaves one of its keys.
    LeaseLeavesKey,
    /// A lease never ends.
    LeaseForever,
    EventMissing,
    EventTwice,
    EventsSwapped,
    EventOfRevisionMissing,
    EventValue,
    EventPrevKv,
    ProgressAhead,
    /// The deletion in the compacted revision itself is not told.
    TombstoneMissing,
    /// A watcher is canceled although what it needs is there.
    CanceledEarly,
}

struct Running {
    operation: Operation,
    effect: Option<Response>,
    lost: bool,
}

#[derive(Clone, Copy)]
struct Lease {
    ttl: u64,
    /// In nanoseconds.
    ends: u64,
}

/// The store and what is left to chance.
pub struct World {
    pub random: StdRng,
    pub store: Store,
    pub compacted: Revision,
    pub now: u64,
    leases: BTreeMap<LeaseId, Lease>,
    /// How much faster the server's clock runs, in millionths.
    drift_ppm: u64,
    bug: Option<Bug>,
    /// Opportunities for the bug that are passed over.
    chances: u32,
    pub fired: bool,
}

impl World {
    /// Whether the bug strikes here.
    pub fn strikes(&mut self, bug: Bug) -> bool {
        if self.bug != Some(bug) || self.fired {
            return false;
        }
        self.fired = self.chances == 0;
        self.chances = self.chances.saturating_sub(1);
        self.fired
    }

    fn old(&mut self) -> Revision {
        Revision(self.random.random_range(self.compacted.0.max(1)..=self.store.revision().0))
    }

    fn renewed(&self, ttl: u64) -> u64 {
        self.now + ttl * 1_000_000 / (1_000_000 + self.drift_ppm)
    }
}

/// A history of a correct store.
pub fn execution(seed: u64, shape: &Shape) -> History {
    faulty_execution(seed, shape).0
}

/// A history, and whether the store's bug struck.
pub fn faulty_execution(seed: u64, shape: &Shape) -> (History, bool) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut history = History::default();
    let drift_ppm = if random.random_bool(0.5) { 0 } else { 50_000 };
    history.start.clock_drift_ppm = u32::try_from(drift_ppm).unwrap();
    history.start.lease_late_max_ns = Some(SECOND);
    let mut world = World {
        store: Store::new(&history.start),
        compacted: Revision(0),
        now: 0,
        leases: BTreeMap::new(),
        drift_ppm,
        bug: shape.bug,
        chances: match shape.bug {
            // Rare enough.
            Some(Bug::TombstoneMissing) => 0,
            _ => random.random_range(0..3),
        },
        fired: false,
        random,
    };
    let mut clients: Vec<Option<Running>> = (0..shape.clients).map(|_| None).collect();
    let mut views: BTreeMap<(u64, u64), Revision> = BTreeMap::new();
    let mut feeds: Vec<Feed> = Vec::new();
    // Writes of unknown outcome that are still on their way, with the time of their arrival.
    let mut delayed: Vec<(u64, Request)> = Vec::new();
    let mut called = 0;
    while called < shape.operations || clients.iter().any(Option::is_some) {
        world.now += world.random.random_range(1..12) * MILLISECOND;
        world.end_leases();
        let arrived: Vec<_> = delayed.extract_if(.., |(at, _)| *at <= world.now).collect();
        for (_, request) in arrived {
            let _ = world.execute(&request);
        }
        let place = world.random.random_range(0..clients.len());
        match clients[place].take() {
            None if called < shape.operations => {
                let request = world.request(shape, called);
                let lost = shape.unknown_one_in > 0
                    && world.random.random_range(0..shape.unknown_one_in) == 0;
                let member = format!("m{}", world.random.random_range(0..3));
                let (process, invoke) = (place as u64, world.now);
                let outcome = Outcome::Unknown("timeout".into());
                let (session, returned) = (0, None);
                let operation =
                    Operation { process, member, session, invoke, returned, request, outcome };
                clients[place] = Some(Running { operation, effect: None, lost });
                called += 1;
            }
            None => {}
            Some(running) if running.effect.is_none() && running.lost => {
                let request = running.operation.request.clone();
                match world.random.random_range(0..4) {
                    0 | 1 => {
                        let _ = world.execute(&request);
                    }
                    2 => {
                        let later = world.random.random_range(1..2_000) * MILLISECOND;
                        delayed.push((world.now + later, request));
                    }
                    _ => {} // it never happens
                }
                finish(&mut history, running, world.now);
            }
            Some(mut running) if running.effect.is_none() => {
                let done = match &running.operation.request {
                    Request::Range(range) if range.serializable => {
                        let member = running.operation.member[1..].parse().unwrap();
                        let view = views.entry((running.operation.process, member)).or_default();
                        let low = view.0.max(world.store.revision().0 - 3).max(1);
                        *view = Revision(world.random.random_range(low..=world.store.revision().0));
                        world.read_at(range, *view)
                    }
                    request => world.execute(request),
                };
                match done {
                    Some(response) => running.effect = Some(response),
                    None => {
                        running.operation.outcome = Outcome::Failed("refused".into());
                        running.operation.returned = Some(world.now);
                        history.operations.push(running.operation);
                        continue;
                    }
                }
                clients[place] = Some(running);
            }
            Some(running) => finish(&mut history, running, world.now),
        }
        if feeds.len() < shape.watches && world.random.random_range(0..20) == 0 {
            feeds.push(Feed::new(&mut world, shape));
        }
        for feed in &mut feeds {
            if world.random.random_range(0..8) == 0 {
                world.now += MILLISECOND;
                feed.feed(&mut world, &mut history);
            }
        }
    }
    last_words(&mut world, &mut history);
    for feed in feeds {
        world.now += MILLISECOND;
        feed.finish(&mut world, &mut history);
    }
    (history, world.fired)
}

/// After a while, a write and a read of everything.
fn last_words(world: &mut World, history: &mut History) {
    for _ in 0..500 {
        world.now += 20 * MILLISECOND;
        world.end_leases();
    }
    let all =
        RangeRequest { key: Data::from("\0"), range_end: Data::from("\0"), ..Default::default() };
    let put = PutRequest { key: "last".into(), value: "word".into(), ..Default::default() };
    for request in [Request::Put(put), Request::Range(all)] {
        let response = world.execute(&request).expect("nothing refuses it");
        world.now += MILLISECOND;
        history.operations.push(Operation {
            process: 999,
            member: "m0".into(),
            session: 0,
            invoke: world.now - 1,
            returned: Some(world.now),
            request,
            outcome: Outcome::Ok(response),
        });
    }
}

fn finish(history: &mut History, running: Running, now: u64) {
    let mut operation = running.operation;
    operation.returned = Some(now);
    if let (false, Some(response)) = (running.lost, running.effect) {
        operation.outcome = Outcome::Ok(response);
    }
    history.operations.push(operation);
}

impl World {
    /// Ends the leases whose time is over, or that a bug ends too early.
    fn end_leases(&mut self) {
        let ids: Vec<LeaseId> = self.leases.keys().copied().collect();
        for id in ids {
            let lease = self.leases[&id];
            let soon = lease.ends > self.now + SECOND / 2 && !self.store.attached(id).is_empty();
            let early = soon && self.random.random_bool(0.05) && self.strikes(Bug::LeaseEarly);
            if !early && (lease.ends > self.now || self.random.random_bool(0.5)) {
                continue;
            }
            if !early && !self.store.attached(id).is_empty() && self.strikes(Bug::LeaseForever) {
                self.leases.insert(id, Lease { ends: u64::MAX, ..lease });
                continue;
            }
            self.revoke(id);
        }
    }

    fn revoke(&mut self, id: LeaseId) {
        self.leases.remove(&id);
        let mut changes = self.store.attached(id);
        if changes.len() > 1 && self.strikes(Bug::LeaseLeavesKey) {
            changes.pop_first();
        }
        if !changes.is_empty() {
            self.store.push(changes);
        }
    }

    /// A read at a revision, with that revision in the header.
    fn read_at(&self, range: &RangeRequest, revision: Revision) -> Option<Response> {
        let past = RangeRequest { revision, serializable: false, ..range.clone() };
        let (mut response, _) = self.store.evaluate(&Request::Range(past)).ok()?;
        let Response::Range(told) = &mut response else { unreachable!() };
        told.revision = revision;
        Some(response)
    }

    /// Carries out a request; none if it is refused.
    fn execute(&mut self, request: &Request) -> Option<Response> {
        let revision = self.store.revision();
        match request {
            Request::Compact(compact) => {
                if compact.revision <= self.compacted || compact.revision > revision {
                    return None;
                }
                self.compacted = compact.revision;
                return Some(Response::Compact(HeaderResponse { revision }));
            }
            Request::LeaseGrant(grant) => {
                let id = match grant.id {
                    LeaseId(0) => LeaseId(self.random.random_range(1_000..1_000_000)),
                    id => id,
                };
                if self.leases.contains_key(&id) {
                    return None;
                }
                let ttl_seconds = grant.ttl_seconds.max(2);
                let ends = self.renewed(ttl_seconds * SECOND);
                self.leases.insert(id, Lease { ttl: ttl_seconds, ends });
                return Some(Response::LeaseGrant(LeaseGrantResponse {
                    revision,
                    id,
                    ttl_seconds,
                }));
            }
            Request::LeaseKeepAlive(lease) => {
                let revision = Revision(self.random.random_range(1..=revision.0));
                let ttl_seconds = self.leases.get(&lease.id).map_or(0, |lease| lease.ttl);
                let ends = self.renewed(ttl_seconds * SECOND);
                if let Some(lease) = self.leases.get_mut(&lease.id) {
                    lease.ends = lease.ends.max(ends);
                }
                return Some(Response::LeaseKeepAlive(LeaseKeepAliveResponse {
                    revision,
                    ttl_seconds,
                }));
            }
            Request::LeaseRevoke(lease) => {
                self.leases.contains_key(&lease.id).then_some(())?;
                self.revoke(lease.id);
                let revision = self.store.revision();
                return Some(Response::LeaseRevoke(HeaderResponse { revision }));
            }
            Request::Range(range)
                if range.revision.0 > 0
                    && range.revision < self.compacted
                    && !self.strikes(Bug::CompactedRead) =>
            {
                return None;
            }
            _ => {}
        }
        let (mut response, mut changes) = self.store.evaluate(request).ok()?;
        let free = |kv: &KeyValue| kv.lease.0 != 0 && !self.leases.contains_key(&kv.lease);
        if changes.values().flatten().any(free) {
            return None;
        }
        self.spoil(request, &mut response, &mut changes);
        if !changes.is_empty() {
            self.store.push(changes);
        }
        Some(response)
    }

    /// Does one thing wrong, if it is time for that.
    fn spoil(&mut self, request: &Request, response: &mut Response, changes: &mut Changes) {
        let Some(bug) = self.bug.filter(|_| !self.fired) else { return };
        let newest = self.store.revision();
        match (bug, request, response) {
            (Bug::LostWrite, Request::Put(_), _) if self.strikes(bug) => changes.clear(),
            (Bug::WriteTwice, Request::Put(_), _) if self.strikes(bug) => {
                self.store.push(changes.clone());
                let again = self.store.evaluate(request).expect("as before");
                *changes = again.1;
            }
            (Bug::TornTransaction, Request::Txn(_), _)
                if changes.len() > 1 && self.strikes(bug) =>
            {
                changes.pop_last();
            }
            (Bug::StaleRead | Bug::StaleContent, Request::Range(range), Response::Range(told))
                if range.revision.0 == 0 =>
            {
                let old = self.old();
                let Some(Response::Range(mut past)) = self.read_at(range, old) else { return };
                let differs = past.kvs != told.kvs || past.count != told.count;
                if differs && self.strikes(bug) {
                    if bug == Bug::StaleContent {
                        past.revision = newest;
                    }
                    *told = past;
                }
            }
            (Bug::WrongCompare, Request::Txn(txn), Response::Txn(told)) => {
                let always = TxnRequest { compare: Vec::new(), ..txn.clone() };
                if let (false, Ok((Response::Txn(wrong), wrongly))) =
                    (told.succeeded, self.store.evaluate(&Request::Txn(always)))
                    && !wrongly.values().flatten().any(|kv| kv.lease.0 != 0)
                    && self.strikes(bug)
                {
                    (*told, *changes) = (wrong, wrongly);
                }
            }
            (Bug::DeleteCount, _, Response::DeleteRange(told)) if told.deleted > 0 => {
                told.deleted += i64::from(self.strikes(bug));
            }
            (Bug::RangeMissesKey, Request::Range(range), Response::Range(told))
                if range.limit == 0 && !told.kvs.is_empty() && self.strikes(bug) =>
            {
                told.kvs.pop();
                told.count -= 1;
            }
            (Bug::WrongCount, _, Response::Range(told)) if self.strikes(bug) => told.count += 1,
            (Bug::WrongVersion, _, Response::Range(told)) if !told.kvs.is_empty() => {
                told.kvs[0].version += i64::from(self.strikes(bug));
            }
            (Bug::WrongCreateRevision, _, Response::Range(told)) if !told.kvs.is_empty() => {
                told.kvs[0].create_revision.0 -= i64::from(self.strikes(bug));
            }
            (Bug::WrongPrevKv, _, Response::Put(PutResponse { prev_kv: Some(kv), .. }))
                if self.strikes(bug) =>
            {
                kv.value = Data::from("never written");
            }
            (Bug::RevisionBack, Request::Put(_), Response::Put(told)) if newest.0 > 1 => {
                told.revision.0 -= i64::from(self.strikes(bug));
            }
            _ => {}
        }
    }

    fn request(&mut self, shape: &Shape, number: usize) -> Request {
        let leases = if shape.leases { 25 } else { 0 };
        let compaction = if shape.compaction { 8 } else { 0 };
        match self.random.random_range(0..100 + leases + compaction) {
            0..35 => Request::Put(self.put(shape, number)),
            35..65 => {
                let (key, range_end) = range(&mut self.random, shape);
                let past = self.random.random_bool(0.15);
                let random = &mut self.random;
                Request::Range(RangeRequest {
                    key,
                    range_end,
                    limit: if random.random_bool(0.2) { 2 } else { 0 },
                    // At times a revision that is gone, or still to come.
                    revision: match past {
                        true => Revision(random.random_range(1..=self.store.revision().0 + 1)),
                        false => Revision(0),
                    },
                    serializable: !past && random.random_bool(0.3),
                    keys_only: random.random_bool(0.1),
                    count_only: random.random_bool(0.1),
                })
            }
            65..75 => {
                let prev_kv = self.random.random_bool(0.5);
                // Mostly one key, so that something is left to see.
                let key = key(&mut self.random, shape);
                let wide = self.random.random_bool(0.2);
                let range_end = if wide { Data::from("l") } else { Data::default() };
                Request::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv })
            }
            75..100 => self.txn(shape, number),
            number if number < 100 + leases => self.lease_request(),
            _ => {
                let newest = self.store.revision().0;
                let low = (newest - 20).max(1);
                let revision = Revision(self.random.random_range(low..=newest));
                Request::Compact(CompactRequest { revision })
            }
        }
    }

    fn lease_request(&mut self) -> Request {
        let id = LeaseId(self.random.random_range(1..6));
        match self.random.random_range(0..10) {
            0..5 => {
                let ttl_seconds = self.random.random_range(1..4);
                let id = if self.random.random_bool(0.2) { LeaseId(0) } else { id };
                Request::LeaseGrant(LeaseGrantRequest { id, ttl_seconds })
            }
            5..8 => Request::LeaseKeepAlive(LeaseRequest { id }),
            _ => Request::LeaseRevoke(LeaseRequest { id }),
        }
    }

    fn txn(&mut self, shape: &Shape, number: usize) -> Request {
        let compared = key(&mut self.random, shape);
        let stored = self.store.current(&compared).cloned().unwrap_or_default();
        let target = match self.random.random_range(0..4) {
            0 => CompareTarget::Version(stored.version),
            1 => CompareTarget::ModRevision(stored.mod_revision),
            2 => CompareTarget::CreateRevision(stored.create_revision),
            _ => CompareTarget::Value(stored.value),
        };
        let result = match self.random.random_range(0..4) {
            0 => CompareResult::NotEqual,
            1 => CompareResult::Greater,
            _ => CompareResult::Equal,
        };
        let range_end = Data::default();
        let compare = vec![Compare { key: compared, range_end, result, target }];
        let (one, mut other) = (self.put(shape, number), self.put(shape, number));
        if other.key == one.key {
            other.key = Data::from("kz");
        }
        let read = Request::Range(RangeRequest {
            key: one.key.clone(),
            range_end: Data::from("l"),
            keys_only: self.random.random_bool(0.1),
            ..RangeRequest::default()
        });
        let nested = TxnRequest {
            compare: compare.clone(),
            success: vec![Request::Put(other.clone())],
            failure: vec![read.clone()],
        };
        let success = match self.random.random_bool(0.3) {
            true => vec![Request::Put(one), Request::Txn(nested)],
            false => vec![Request::Put(one), Request::Put(other), read.clone()],
        };
        Request::Txn(TxnRequest { compare, success, failure: vec![read] })
    }

    fn put(&mut self, shape: &Shape, number: usize) -> PutRequest {
        let leased = shape.leases && self.random.random_bool(0.3);
        let known: Vec<LeaseId> = self.leases.keys().copied().filter(|_| leased).collect();
        let lease = match known.is_empty() {
            true => LeaseId(0),
            false => known[self.random.random_range(0..known.len())],
        };
        PutRequest {
            key: key(&mut self.random, shape),
            value: Data::from(format!("v{number}")),
            lease,
            prev_kv: self.random.random_bool(0.3),
            ignore_value: self.random.random_bool(0.05),
            ignore_lease: lease.0 == 0 && self.random.random_bool(0.05),
        }
    }
}

pub fn key(random: &mut StdRng, shape: &Shape) -> Data {
    Data::from(format!("k{:03}", random.random_range(0..shape.keys)))
}

pub fn range(random: &mut StdRng, shape: &Shape) -> (Data, Data) {
    let start = key(random, shape);
    match random.random_range(0..3) {
        0 => (start, Data::default()),
        1 => (start, Data::from("l")),
        _ => {
            let end = key(random, shape);
            // An empty end is a single key; a lower one an empty range.
            (start, end)
        }
    }
}
