//! Random clients, some slow, against what a plain list of all events says they must get.
//!
//! Each run draws its bounds (tiny, so that every path is taken), then mixes writes, transactions,
//! compactions, snapshots, store running ahead of the hub, requests, reads of a few responses,
//! closed and resumed streams, and catching up on small budgets. A client checks each response
//! against the model as it reads it:
//!
//! - ordered, unique, complete, atomic: the events of a response that ends at revision R are
//!   exactly what the model has for this watch between the last revision seen and R;
//! - progress at R: nothing up to R is missing, nothing up to R comes later;
//! - previous pairs are right, and absent only for creates or compacted revisions;
//! - a watch ends by compaction only if what it needed is compacted.
//!
//! At the end everybody reads on, and nobody may be left behind.

use super::{Change, Model};
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use crate::proto::mvccpb;
use crate::types::Revision;
use crate::watch::{Event, EventKind, Hub, HubOptions, RevisionEvents, StreamId, StreamQueue};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// What reaches the hub later than the store.
enum Input {
    Events(Arc<RevisionEvents>),
    Compacted(i64),
}

/// A client's knowledge of one watch.
#[derive(Clone)]
struct Watch {
    request: WatchCreateRequest,
    /// It has all its events up to here.
    seen: i64,
    /// Events of a response whose last piece is still to come.
    pieces: Vec<mvccpb::Event>,
    /// The client asked to end it.
    canceling: bool,
}

struct Client {
    queue: Arc<StreamQueue>,
    /// Requests answered by `created`, oldest first.
    asked: VecDeque<WatchCreateRequest>,
    watches: BTreeMap<i64, Watch>,
}

struct World {
    random: StdRng,
    model: Model,
    hub: Hub,
    backlog: VecDeque<Input>,
    clients: BTreeMap<StreamId, Client>,
    streams_opened: u64,
    now: Duration,
    trace: DefaultHasher,
    counts: Counts,
}

/// What happened, to be sure that something did.
#[derive(Default, Debug, Clone, Copy)]
struct Counts {
    events: u64,
    merged: u64,
    fragments: u64,
    progress: u64,
    notified: u64,
    compacted: u64,
    previous: u64,
    restored: u64,
    resumed: u64,
    canceled: u64,
}

fn key(number: u32) -> Vec<u8> {
    format!("k{number}").into_bytes()
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = StdRng::seed_from_u64(seed);
        let options = HubOptions {
            fragment_bytes: random.random_range(60..400),
            streams_max: 6,
            stream_watchers_max: 6,
            watchers_max: 20,
            queue_responses_max: random.random_range(1..8),
            queue_bytes_max: random.random_range(1..2_000),
            recent_events_max: random.random_range(0..20),
            recent_bytes_max: random.random_range(0..3_000),
            batch_revisions_max: random.random_range(1..6),
            batch_bytes_max: random.random_range(1..2_000),
        };
        World {
            random,
            model: Model::new(),
            hub: Hub::new(Revision(1), Revision(-1), options),
            backlog: VecDeque::new(),
            clients: BTreeMap::new(),
            streams_opened: 0,
            now: Duration::ZERO,
            trace: DefaultHasher::new(),
            counts: Counts::default(),
        }
    }

    fn run(mut self, steps: usize) -> (u64, Counts) {
        for _ in 0..steps {
            self.step();
        }
        self.settle();
        (self.trace.finish(), self.counts)
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..30 => self.write(),
            30..50 => self.feed(),
            50..65 => {
                let budget = self.random.random_range(0..30);
                self.hub.catch_up(&self.model, budget);
            }
            65..80 => self.read_some(),
            80..86 => self.create(),
            86..88 => self.cancel(),
            88..91 => self.ask_progress(),
            91..93 => drop(self.open()),
            93..94 => self.resume(),
            94..96 => self.compact(),
            96..97 => self.restore(),
            97..100 => {
                self.now += Duration::from_millis(self.random.random_range(50..500));
                self.hub.tick(self.now);
                assert!(self.hub.next_tick().is_none_or(|due| due > self.now));
            }
            _ => unreachable!("below 100"),
        }
    }

    fn write(&mut self) {
        let count = if self.random.random_bool(0.7) { 1 } else { self.random.random_range(1..5) };
        let mut numbers: Vec<u32> = (0..count).map(|_| self.random.random_range(0..8)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let changes: Vec<Change> = numbers
            .into_iter()
            .map(|number| {
                let key = key(number);
                if self.random.random_bool(0.3) {
                    return Change::Delete { key };
                }
                let value = vec![b'v'; self.random.random_range(0..60)];
                Change::Put { key, value, lease: 0 }
            })
            .collect();
        self.backlog.extend(self.model.change(&changes).map(Input::Events));
    }

    fn feed(&mut self) {
        for _ in 0..self.random.random_range(1..6) {
            match self.backlog.pop_front() {
                Some(Input::Events(batch)) => self.hub.apply(batch, &self.model),
                Some(Input::Compacted(revision)) => self.hub.compacted(Revision(revision)),
                None => return,
            }
        }
    }

    fn compact(&mut self) {
        let revision = self.random.random_range(self.model.compacted..=self.model.revision);
        if revision > self.model.compacted {
            self.model.compacted = revision;
            self.backlog.push_back(Input::Compacted(revision));
        }
    }

    /// The store is replaced: what it had not told the hub yet will never be told.
    fn restore(&mut self) {
        for _ in 0..self.random.random_range(0..10) {
            self.write();
        }
        self.backlog.clear();
        self.hub.restored(Revision(self.model.revision), Revision(self.model.compacted));
        self.counts.restored += 1;
    }

    fn pick(&mut self) -> Option<StreamId> {
        let at = self.random.random_range(0..self.clients.len().max(1));
        self.clients.keys().nth(at).copied()
    }

    fn open(&mut self) -> Option<StreamId> {
        let id = StreamId(self.streams_opened);
        let interval = Duration::from_millis(self.random.random_range(100..400));
        let Ok(queue) = self.hub.open_stream(id, self.now, interval) else {
            assert_eq!(self.clients.len(), 6);
            return None;
        };
        self.streams_opened += 1;
        let client = Client { queue, asked: VecDeque::new(), watches: BTreeMap::new() };
        self.clients.insert(id, client);
        Some(id)
    }

    fn send(&mut self, id: StreamId, union: RequestUnion) {
        self.hub.request(id, WatchRequest { request_union: Some(union) });
    }

    fn create(&mut self) {
        let Some(id) = self.pick() else { return };
        // Few different ranges, so that watchers of several streams share one.
        let from = self.random.random_range(0..4);
        let range_end = match self.random.random_range(0..4) {
            0 => Vec::new(),
            1 => vec![0],
            _ => key(self.random.random_range(0..4) * 2),
        };
        let hub_revision = self.hub.revision().0;
        let filter_or_none = self.random.random_range(0..8);
        let request = WatchCreateRequest {
            key: key(from).into(),
            range_end: range_end.into(),
            start_revision: match self.random.random_range(0..10) {
                0..4 => 0,
                4..9 => self.random.random_range(1..=hub_revision),
                _ => hub_revision + self.random.random_range(-2..8),
            },
            progress_notify: self.random.random_bool(0.4),
            filters: if filter_or_none < 2 { vec![filter_or_none] } else { vec![] },
            prev_kv: self.random.random_bool(0.4),
            watch_id: if self.random.random_bool(0.7) {
                0
            } else {
                self.random.random_range(-2..4)
            },
            fragment: self.random.random_bool(0.4),
        };
        self.ask(id, request);
    }

    fn ask(&mut self, id: StreamId, mut request: WatchCreateRequest) {
        let union = RequestUnion::CreateRequest(request.clone());
        // "From now on" is from the hub's revision on; the header of `created` says which.
        request.watch_id = 0;
        self.clients.get_mut(&id).expect("open").asked.push_back(request);
        self.send(id, union);
    }

    fn cancel(&mut self) {
        let Some(id) = self.pick() else { return };
        let watch_id = self.random.random_range(-2..6);
        if let Some(watch) = self.clients.get_mut(&id).expect("open").watches.get_mut(&watch_id) {
            watch.canceling = true;
        }
        self.send(id, RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    fn ask_progress(&mut self) {
        let Some(id) = self.pick() else { return };
        self.send(id, RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }

    /// A client loses its stream and goes on where it was on another.
    fn resume(&mut self) {
        let Some(id) = self.pick() else { return };
        self.hub.close_stream(id);
        let client = self.clients.remove(&id).expect("open");
        assert!(client.queue.is_closed());
        let new = self.open().expect("there is room for one that left");
        for watch in client.watches.into_values() {
            let start_revision = watch.seen + 1;
            self.ask(new, WatchCreateRequest { start_revision, ..watch.request });
            self.counts.resumed += 1;
        }
    }

    fn read_some(&mut self) {
        let Some(id) = self.pick() else { return };
        let count = self.random.random_range(1..6);
        self.read(id, count);
    }

    fn read(&mut self, id: StreamId, count: usize) {
        let mut client = self.clients.remove(&id).expect("open");
        let mut responses = Vec::new();
        client.queue.pull(&mut responses, count);
        for response in responses {
            id.0.hash(&mut self.trace);
            response.encode_to_vec().hash(&mut self.trace);
            self.check(&mut client, response);
        }
        self.clients.insert(id, client);
    }

    fn check(&mut self, client: &mut Client, response: WatchResponse) {
        let revision = response.header.expect("set").revision;
        assert!(revision <= self.hub.revision().0);
        if response.created {
            return self.check_created(client, &response, revision);
        }
        if response.events.is_empty() && !response.canceled {
            return self.check_progress(client, response.watch_id, revision);
        }
        let watch = client.watches.get_mut(&response.watch_id).expect("created before and alive");
        if response.canceled {
            if response.compact_revision != 0 {
                assert_eq!(revision, 0);
                assert!(watch.seen + 1 < response.compact_revision);
                assert!(response.compact_revision <= self.model.compacted);
                self.counts.compacted += 1;
            } else {
                self.counts.canceled += 1;
            }
            assert!(watch.pieces.is_empty(), "the last piece comes");
            client.watches.remove(&response.watch_id);
            return;
        }
        assert!(watch.request.fragment || !response.fragment);
        self.counts.fragments += u64::from(response.fragment);
        let events = response.events.into_iter();
        watch.pieces.extend(events.map(|event| mvccpb::Event::decode(event).expect("lawful")));
        if !response.fragment {
            let events = std::mem::take(&mut watch.pieces);
            check_events(&self.model, &mut self.counts, watch, &events, revision);
        }
    }

    fn check_created(&mut self, client: &mut Client, response: &WatchResponse, revision: i64) {
        let request = client.asked.pop_front().expect("asked for");
        if response.canceled {
            assert_eq!(response.watch_id, -1);
            let empty = "mvcc: watcher range is empty";
            let range_empty = request.range_end.len() > 1 && request.range_end <= request.key;
            assert_eq!(response.cancel_reason == empty, range_empty && request.start_revision >= 0);
            return;
        }
        let seen = match request.start_revision {
            0 => revision,
            start => start - 1,
        };
        let watch = Watch { request, seen, pieces: Vec::new(), canceling: false };
        assert!(client.watches.insert(response.watch_id, watch).is_none(), "ids are unique");
    }

    fn check_progress(&mut self, client: &mut Client, watch_id: i64, revision: i64) {
        let for_all = watch_id == -1
            && !client.watches.get(&-1).is_some_and(|watch| watch.request.progress_notify);
        for (id, watch) in &mut client.watches {
            if !for_all && *id != watch_id {
                continue;
            }
            assert!(revision > watch.seen || watch.seen >= watch.request.start_revision - 1);
            let missing = expected(&self.model, watch, revision);
            assert!(missing.is_empty(), "progress at {revision} ahead of {missing:?}");
            assert!(watch.pieces.is_empty());
            watch.seen = watch.seen.max(revision);
        }
        if for_all {
            self.counts.progress += 1;
        } else {
            assert!(client.watches[&watch_id].request.progress_notify || watch_id == -1);
            self.counts.notified += 1;
        }
    }

    /// Everybody reads until nothing comes, then nobody misses anything.
    fn settle(&mut self) {
        while !self.backlog.is_empty() {
            self.feed();
        }
        loop {
            let budget = self.random.random_range(1..30);
            let more = self.hub.catch_up(&self.model, budget);
            let mut idle = true;
            for id in self.clients.keys().copied().collect::<Vec<_>>() {
                let before = self.trace.finish();
                let count = self.random.random_range(1..6);
                self.read(id, count);
                idle &= before == self.trace.finish();
            }
            if idle && !more {
                break;
            }
        }
        assert_eq!(self.hub.counts().lagging, 0, "all have caught up");
        let mut watchers = 0;
        for client in self.clients.values() {
            assert!(client.asked.is_empty());
            for watch in client.watches.values() {
                let missing = expected(&self.model, watch, self.hub.revision().0);
                assert!(missing.is_empty(), "never came: {missing:?}");
            }
            watchers += client.watches.len();
        }
        assert_eq!(self.hub.counts().watchers, watchers);
    }
}

/// What the model has for `watch` after what it has seen and up to `through`.
fn expected(model: &Model, watch: &Watch, through: i64) -> Vec<(i64, Event)> {
    let request = &watch.request;
    let wanted = |event: &Event| {
        let filter = i32::from(event.kind == EventKind::Delete);
        let in_range = match &request.range_end[..] {
            [] => event.key == request.key,
            [0] => event.key >= request.key,
            end => event.key >= request.key && event.key < *end,
        };
        in_range && !request.filters.contains(&filter)
    };
    let first = (watch.seen + 1).max(2);
    let mut list = Vec::new();
    for revision in first..=through.min(model.revision) {
        let batch = &model.revisions[(revision - 2) as usize];
        assert_eq!(batch.revision.0, revision);
        let events = batch.events.iter().filter(|event| wanted(event));
        list.extend(events.map(|event| (revision, event.clone())));
    }
    list
}

fn check_events(
    model: &Model,
    counts: &mut Counts,
    watch: &mut Watch,
    events: &[mvccpb::Event],
    revision: i64,
) {
    let pair = |event: &mvccpb::Event| event.kv.clone().expect("set");
    let last = pair(events.last().expect("not empty")).mod_revision;
    let first = pair(&events[0]).mod_revision;
    assert!(last <= revision, "the header is not behind the events");
    let expected = expected(model, watch, last);
    assert_eq!(events.len(), expected.len(), "{events:?} against {expected:?}");
    for (event, (revision, expected)) in events.iter().zip(&expected) {
        assert_eq!(pair(event).encode_to_vec(), expected.record);
        assert_eq!(event.r#type, i32::from(expected.kind == EventKind::Delete));
        let before = model.at(&expected.key, revision - 1);
        match &event.prev_kv {
            Some(previous) => {
                assert!(watch.request.prev_kv);
                assert_eq!(Some(previous), before);
                counts.previous += 1;
            }
            None => {
                let compacted = revision - 1 < model.compacted;
                assert!(!watch.request.prev_kv || before.is_none() || compacted);
            }
        }
    }
    counts.events += events.len() as u64;
    counts.merged += u64::from(first != last);
    watch.seen = last;
}

/// Shown for many seeds; each runs twice and must leave the same trace.
#[test]
fn clients_get_exactly_their_events() {
    let seeds: u64 = std::env::var("QUORATE_WATCH_SEEDS")
        .map_or(300, |text| text.parse().expect("QUORATE_WATCH_SEEDS is a number"));
    let mut all = Vec::new();
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| World::new(seed).run(600));
        let (trace, counts) = result.unwrap_or_else(|_| panic!("seed {seed}"));
        if seed % 10 == 0 {
            assert_eq!(trace, World::new(seed).run(600).0, "seed {seed} is not repeatable");
        }
        all.push(counts);
    }
    let parts = [
        ("events", all.iter().map(|counts| counts.events).sum::<u64>()),
        ("merged", all.iter().map(|counts| counts.merged).sum()),
        ("fragments", all.iter().map(|counts| counts.fragments).sum()),
        ("progress", all.iter().map(|counts| counts.progress).sum()),
        ("notified", all.iter().map(|counts| counts.notified).sum()),
        ("compacted", all.iter().map(|counts| counts.compacted).sum()),
        ("previous", all.iter().map(|counts| counts.previous).sum()),
        ("restored", all.iter().map(|counts| counts.restored).sum()),
        ("resumed", all.iter().map(|counts| counts.resumed).sum()),
        ("canceled", all.iter().map(|counts| counts.canceled).sum()),
    ];
    for (name, sum) in parts {
        eprintln!("{name}: {sum}");
        assert!(sum >= seeds, "hardly any {name}");
    }
}
