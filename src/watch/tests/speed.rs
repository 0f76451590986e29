//! What a delivery costs. Run with
//! `cargo test --release --lib watch::tests::speed -- --ignored --nocapture --test-threads 1`.
//!
//! The hub and the senders take turns on one thread, so the figures are CPU time: "hub" is
//! matching, queueing and flushing, "pull" is taking the items and building the responses.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "measures real time")]

use super::{Change, Model};
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use crate::types::Revision;
use crate::watch::{Hub, HubOptions, RevisionEvents, StreamId, StreamQueue};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

/// Resident memory in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).expect("the second field");
    pages.parse::<usize>().expect("a number") * 4096
}

/// The streams whose senders were woken.
#[derive(Default)]
struct Woken(Mutex<Vec<usize>>);

/// A sender asleep.
struct Sender {
    stream: usize,
    woken: Arc<Woken>,
}

impl Wake for Sender {
    fn wake(self: Arc<Self>) {
        self.woken.0.lock().expect("well").push(self.stream);
    }
}

struct Bench {
    model: Model,
    hub: Hub,
    queues: Vec<Arc<StreamQueue>>,
    senders: Vec<Waker>,
    woken: Arc<Woken>,
    hub_time: Duration,
    pull_time: Duration,
    delivered: usize,
}

impl Bench {
    fn new(streams: u64) -> Bench {
        let mut hub = Hub::new(Revision(1), Revision(-1), HubOptions::default());
        let open = |id| hub.open_stream(StreamId(id), Duration::ZERO, Duration::from_secs(600));
        let queues = (0..streams).map(open).collect::<Result<_, _>>().expect("room");
        let woken = Arc::new(Woken((0..streams as usize).collect::<Vec<_>>().into()));
        let sender = |stream| Waker::from(Arc::new(Sender { stream, woken: woken.clone() }));
        let senders = (0..streams as usize).map(sender).collect();
        Bench {
            model: Model::new(),
            hub,
            queues,
            senders,
            woken,
            hub_time: Duration::ZERO,
            pull_time: Duration::ZERO,
            delivered: 0,
        }
    }

    fn watch(&mut self, stream: u64, key: &str, range_end: &'static [u8]) {
        let create = WatchCreateRequest {
            key: key.as_bytes().to_vec().into(),
            range_end: range_end.into(),
            ..Default::default()
        };
        let request_union = Some(RequestUnion::CreateRequest(create));
        self.hub.request(StreamId(stream), WatchRequest { request_union });
    }

    fn put(&mut self, key: &str) -> Arc<RevisionEvents> {
        let change = Change::Put { key: key.into(), value: vec![b'v'; 256], lease: 0 };
        self.model.change(&[change]).expect("a change")
    }

    /// One turn of the hub with these batches, then the senders it woke.
    fn turn(&mut self, batches: Vec<Arc<RevisionEvents>>) {
        let start = Instant::now();
        for batch in batches {
            self.hub.apply(batch, &self.model);
        }
        while self.hub.catch_up(&self.model, 10_000) {}
        let between = Instant::now();
        let mut responses = Vec::new();
        for stream in std::mem::take(&mut *self.woken.0.lock().expect("well")) {
            let mut context = Context::from_waker(&self.senders[stream]);
            let queue = &self.queues[stream];
            while queue.poll_pull(&mut context, &mut responses, 128).is_ready() {
                let count = |response: &WatchResponse| response.events.len();
                self.delivered +=
                    responses.drain(..).map(|response| count(&response)).sum::<usize>();
            }
        }
        self.hub_time += between - start;
        self.pull_time += between.elapsed();
    }

    fn report(&self, what: &str) {
        let each = |time: Duration| time.as_nanos() as f64 / self.delivered as f64;
        eprintln!(
            "{what}: {} events, hub {:.0} ns, pull {:.0} ns an event",
            self.delivered,
            each(self.hub_time),
            each(self.pull_time)
        );
    }
}

#[test]
#[ignore = "a measurement"]
fn a_thousand_watchers_of_one_key() {
    for (streams, batch) in [(1, 1), (100, 1), (1_000, 1), (100, 10), (1_000, 10)] {
        let mut bench = Bench::new(streams);
        (0..1_000).for_each(|number| bench.watch(number % streams, "key", b""));
        bench.turn(vec![]);
        for _ in 0..2_000 / batch {
            let batches = (0..batch).map(|_| bench.put("key")).collect();
            bench.turn(batches);
        }
        bench.turn(vec![]);
        assert_eq!(bench.delivered, 2_000 * 1_000);
        bench.report(&format!("1,000 watchers, {streams} streams, {batch} revisions a turn"));
    }
}

/// Memory is right only for the first measurement of a process: later ones reuse freed memory.
fn a_hundred_thousand_watchers(watchers_per_key: u64) {
    let before = resident();
    let mut bench = Bench::new(1_000);
    let streams = resident();
    let keys = 100_000 / watchers_per_key;
    let key = |number: u64| format!("/registry/things/{:05}", number % keys);
    let start = Instant::now();
    for number in 0..100_000 {
        bench.watch(number % 1_000, &key(number), b"");
        if number % 100 == 99 {
            bench.turn(vec![]);
        }
    }
    let created = start.elapsed();
    eprintln!(
        "100,000 watchers of {keys} keys: {} bytes each, created in {} ns each; {} a stream",
        (resident() - streams) / 100_000,
        created.as_nanos() / 100_000,
        (streams - before) / 1_000,
    );
    bench.hub_time = Duration::ZERO;
    bench.pull_time = Duration::ZERO;
    for number in 0..10_000u64 {
        let batches = (0..10).map(|more| bench.put(&key(number * 7919 + more))).collect();
        bench.turn(batches);
    }
    assert_eq!(bench.delivered as u64, 100_000 * watchers_per_key);
    bench.report("100,000 puts, 10 a turn");
}

#[test]
#[ignore = "a measurement"]
fn ten_thousand_keys_with_ten_watchers_each() {
    a_hundred_thousand_watchers(10);
}

#[test]
#[ignore = "a measurement"]
fn a_hundred_thousand_keys_with_one_watcher_each() {
    a_hundred_thousand_watchers(1);
}

#[test]
#[ignore = "a measurement"]
fn ten_thousand_prefixes_and_a_way_back() {
    let mut bench = Bench::new(100);
    for number in 0..10_000 {
        let key = format!("/registry/{:03}/", number % 1_000);
        bench.watch(number % 100, &key, b"/registry/999z");
    }
    bench.turn(vec![]);
    bench.hub_time = Duration::ZERO;
    for number in 0..200 {
        let batch = bench.put(&format!("/registry/{:03}/x", number % 1_000));
        bench.turn(vec![batch]);
    }
    bench.report("10,000 watchers of 1,000 nested ranges");

    let mut bench = Bench::new(100);
    for number in 0..10_000u64 {
        let batch = bench.put(&format!("key{:03}", number % 1_000));
        bench.hub.apply(batch, &bench.model);
    }
    for number in 0..10_000 {
        let create = WatchCreateRequest {
            key: format!("key{:03}", number % 1_000).into(),
            start_revision: 1,
            ..Default::default()
        };
        let request_union = Some(RequestUnion::CreateRequest(create));
        bench.hub.request(StreamId(number % 100), WatchRequest { request_union });
    }
    while bench.hub.counts().lagging > 0 {
        bench.turn(vec![]);
    }
    assert_eq!(bench.delivered, 100_000);
    bench.report("10,000 watchers read 10,000 revisions back");
}
