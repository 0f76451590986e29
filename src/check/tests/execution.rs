//! Makes lawful histories: clients at random against the model, with made-up times.
//!
//! Each client has at most one operation under way. A step either calls, takes effect, or
//! answers; effects happen one after the other on the model, between call and answer. Unknown
//! outcomes lose the answer, and half of them the effect. Watchers are fed from the model's log.

use crate::check::data::Data;
use crate::check::history::History;
use crate::check::op::*;
use crate::check::store::{Changes, Store};
use crate::types::{LeaseId, Revision};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub struct Shape {
    pub operations: usize,
    pub clients: u64,
    pub keys: u32,
    /// One in so many loses its answer; 0: none.
    pub unknown_one_in: u32,
    pub watches: usize,
}

struct Running {
    operation: Operation,
    effect: Option<Response>,
    lost: bool,
}

pub fn execution(seed: u64, shape: &Shape) -> History {
    let mut random = StdRng::seed_from_u64(seed);
    let mut history = History::default();
    let mut store = Store::new(&history.start);
    let mut clients: Vec<Option<Running>> = (0..shape.clients).map(|_| None).collect();
    let mut views: std::collections::BTreeMap<(u64, u64), Revision> = Default::default();
    let mut watches: Vec<Feed> = Vec::new();
    let mut now = 0;
    let mut called = 0;
    while called < shape.operations || clients.iter().any(Option::is_some) {
        now += random.random_range(1..20);
        let place = random.random_range(0..clients.len());
        match clients[place].take() {
            None if called < shape.operations => {
                let request = request(&mut random, shape, &store, called);
                let lost =
                    shape.unknown_one_in > 0 && random.random_range(0..shape.unknown_one_in) == 0;
                let member = format!("m{}", random.random_range(0..3));
                let (process, invoke) = (place as u64, now);
                let outcome = Outcome::Unknown("timeout".into());
                let (session, returned) = (0, None);
                let operation =
                    Operation { process, member, session, invoke, returned, request, outcome };
                clients[place] = Some(Running { operation, effect: None, lost });
                called += 1;
            }
            None => {}
            Some(mut running) if running.effect.is_none() => {
                if running.lost && random.random_bool(0.5) {
                    finish(&mut history, running, now); // never happens
                    continue;
                }
                let request = &running.operation.request;
                running.effect = Some(match request {
                    Request::Range(range) if range.serializable => {
                        let member = running.operation.member[1..].parse().unwrap();
                        let view = views.entry((running.operation.process, member)).or_default();
                        let low = view.0.max(store.revision().0 - 3).max(1);
                        *view = Revision(random.random_range(low..=store.revision().0));
                        let past = RangeRequest { revision: *view, ..range.clone() };
                        let (mut response, _) = store.evaluate(&Request::Range(past)).unwrap();
                        let Response::Range(told) = &mut response else { unreachable!() };
                        told.revision = *view;
                        response
                    }
                    _ => match store.evaluate(request) {
                        Ok((response, changes)) => {
                            if !changes.is_empty() {
                                store.push(changes);
                            }
                            response
                        }
                        Err(_) => {
                            running.operation.outcome = Outcome::Failed("refused".into());
                            running.operation.returned = Some(now);
                            history.operations.push(running.operation);
                            continue;
                        }
                    },
                });
                clients[place] = Some(running);
            }
            Some(running) => finish(&mut history, running, now),
        }
        if watches.len() < shape.watches && random.random_range(0..20) == 0 {
            watches.push(Feed::new(&mut random, shape, &store, now));
        }
        for feed in &mut watches {
            if random.random_range(0..8) == 0 {
                now += 1;
                feed.feed(&mut random, &store, now);
            }
        }
    }
    for mut feed in watches {
        feed.feed(&mut random, &store, now + 1);
        history.watches.push(feed.watch);
    }
    history
}

fn finish(history: &mut History, running: Running, now: u64) {
    let mut operation = running.operation;
    operation.returned = Some(now);
    if let (false, Some(response)) = (running.lost, running.effect) {
        operation.outcome = Outcome::Ok(response);
    }
    history.operations.push(operation);
}

fn key(random: &mut StdRng, shape: &Shape) -> Data {
    Data::from(format!("k{:03}", random.random_range(0..shape.keys)))
}

fn range(random: &mut StdRng, shape: &Shape) -> (Data, Data) {
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

fn request(random: &mut StdRng, shape: &Shape, store: &Store, number: usize) -> Request {
    match random.random_range(0..100) {
        0..35 => Request::Put(put(random, shape, number)),
        35..65 => {
            let (key, range_end) = range(random, shape);
            let past = random.random_bool(0.15);
            Request::Range(RangeRequest {
                key,
                range_end,
                limit: if random.random_bool(0.2) { 2 } else { 0 },
                revision: match past {
                    true => Revision(random.random_range(1..=store.revision().0)),
                    false => Revision(0),
                },
                serializable: !past && random.random_bool(0.3),
                keys_only: random.random_bool(0.1),
                count_only: random.random_bool(0.1),
            })
        }
        65..75 => {
            let prev_kv = random.random_bool(0.5);
            // Mostly one key, so that something is left to see.
            let key = key(random, shape);
            let range_end = if random.random_bool(0.2) { Data::from("l") } else { Data::default() };
            Request::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv })
        }
        75..97 => {
            let compared = key(random, shape);
            let stored = store.get(&compared, store.revision()).cloned().unwrap_or_default();
            let target = match random.random_range(0..4) {
                0 => CompareTarget::Version(stored.version),
                1 => CompareTarget::ModRevision(stored.mod_revision),
                2 => CompareTarget::CreateRevision(stored.create_revision),
                _ => CompareTarget::Value(stored.value),
            };
            let result = match random.random_range(0..4) {
                0 => CompareResult::NotEqual,
                1 => CompareResult::Greater,
                _ => CompareResult::Equal,
            };
            let range_end = Data::default();
            let compare = vec![Compare { key: compared, range_end, result, target }];
            let (one, mut other) = (put(random, shape, number), put(random, shape, number));
            if other.key == one.key {
                other.key = Data::from("kz");
            }
            let read = RangeRequest {
                key: one.key.clone(),
                range_end: Data::from("l"),
                ..RangeRequest::default()
            };
            let read = Request::Range(read);
            let nested = TxnRequest {
                compare: compare.clone(),
                success: vec![Request::Put(other.clone())],
                failure: vec![read.clone()],
            };
            let success = match random.random_bool(0.3) {
                true => vec![Request::Put(one), Request::Txn(nested)],
                false => vec![Request::Put(one), Request::Put(other), read.clone()],
            };
            Request::Txn(TxnRequest { compare, success, failure: vec![read] })
        }
        _ => Request::Compact(CompactRequest { revision: Revision(1) }),
    }
}

fn put(random: &mut StdRng, shape: &Shape, number: usize) -> PutRequest {
    PutRequest {
        key: key(random, shape),
        value: Data::from(format!("v{number}")),
        lease: LeaseId(0),
        prev_kv: random.random_bool(0.3),
        ignore_value: random.random_bool(0.05),
        ignore_lease: false,
    }
}

/// A watcher on its way through the log.
struct Feed {
    watch: Watch,
    next: Revision,
}

impl Feed {
    fn new(random: &mut StdRng, shape: &Shape, store: &Store, now: u64) -> Feed {
        let (key, range_end) = range(random, shape);
        let start_revision = match random.random_bool(0.5) {
            true => Revision(0),
            false => Revision(random.random_range(1..=store.revision().0)),
        };
        let created = WatchResponse {
            at: now,
            revision: store.revision(),
            created: true,
            ..Default::default()
        };
        let watch = Watch {
            process: 1000,
            invoke: now,
            key,
            range_end,
            start_revision,
            prev_kv: random.random_bool(0.5),
            no_put: random.random_bool(0.1),
            no_delete: random.random_bool(0.1),
            responses: vec![created],
            ..Default::default()
        };
        let next = match start_revision.0 {
            0 => Revision(store.revision().0 + 1),
            _ => start_revision.max(Revision(2)),
        };
        Feed { watch, next }
    }

    fn feed(&mut self, random: &mut StdRng, store: &Store, now: u64) {
        let end = store.revision().0.min(self.next.0 + random.random_range(0..5));
        let mut response =
            WatchResponse { at: now, revision: store.revision(), ..Default::default() };
        for revision in self.next.0..=end {
            let nothing = Changes::new();
            let changes = store.changes(Revision(revision)).unwrap_or(&nothing);
            for (key, kv) in changes {
                let hidden = if kv.is_some() { self.watch.no_put } else { self.watch.no_delete };
                if hidden || !keys(&self.watch.key, &self.watch.range_end).contains(&key.0) {
                    continue;
                }
                let deleted = KeyValue {
                    key: key.clone(),
                    mod_revision: Revision(revision),
                    ..Default::default()
                };
                let previous = store.get(key, Revision(revision - 1)).cloned();
                response.events.push(Event {
                    kind: if kv.is_some() { EventKind::Put } else { EventKind::Delete },
                    kv: kv.clone().unwrap_or(deleted),
                    prev_kv: previous.filter(|_| self.watch.prev_kv),
                });
            }
        }
        self.next = Revision(self.next.0.max(end + 1));
        if response.events.is_empty() {
            if random.random_bool(0.7) || self.next.0 < 2 {
                return;
            }
            response.revision = Revision(self.next.0 - 1);
        }
        self.watch.responses.push(response);
    }
}
