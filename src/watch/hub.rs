//! The hub: watchers, streams and the recent log, and what each input does to them.

use super::event::{History, LoggedRevision, Past, RevisionEvents};
use super::index::{End, WatcherIndex};
use super::queue::{Bell, QueueLimits, StreamId, StreamQueue};
use super::recent::RecentLog;
use super::slab::Slab;
use super::stream::{Batch, Progress, Stream, Watcher};
use super::{event::View, reason};
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use crate::types::{Error, Result, Revision, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::collections::{VecDeque, btree_map::Entry};
use std::sync::Arc;
use std::time::Duration;

/// The bounds a hub works with; `default()` is what a server uses.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Encoded size from which a response is split for watchers that allow it:
    /// max-request-bytes and the overhead on top.
    pub fragment_bytes: usize,
    /// Streams open at once.
    pub streams_max: usize,
    /// Watchers on one stream.
    pub stream_watchers_max: usize,
    /// Watchers on all streams.
    pub watchers_max: usize,
    /// Responses waiting in one stream's queue.
    pub queue_responses_max: usize,
    /// Bytes waiting in one stream's queue.
    pub queue_bytes_max: usize,
    /// Events in the recent log.
    pub recent_events_max: usize,
    /// Bytes in the recent log.
    pub recent_bytes_max: usize,
    /// Revisions merged in one response to a watcher that catches up.
    pub batch_revisions_max: usize,
    /// Bytes from which such a response takes in no further revision.
    pub batch_bytes_max: usize,
}

impl Default for HubOptions {
    fn default() -> HubOptions {
        HubOptions {
            fragment_bytes: limits::REQUEST_BYTES_MAX + limits::REQUEST_OVERHEAD_BYTES,
            streams_max: limits::WATCH_STREAMS_MAX,
            stream_watchers_max: limits::WATCH_STREAM_WATCHERS_MAX,
            watchers_max: limits::WATCHERS_MAX,
            queue_responses_max: limits::WATCH_STREAM_QUEUE_MAX,
            queue_bytes_max: limits::WATCH_STREAM_QUEUE_BYTES_MAX,
            recent_events_max: limits::WATCH_RECENT_EVENTS_MAX,
            recent_bytes_max: limits::WATCH_RECENT_BYTES_MAX,
            batch_revisions_max: limits::WATCH_BATCH_REVISIONS_MAX,
            batch_bytes_max: limits::WATCH_BATCH_BYTES_MAX,
        }
    }
}

/// How often what is seldom has happened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Seldom {
    /// A synced watcher's stream was full: it reads on later.
    pub slowed: u64,
    /// A leader's snapshot left a watcher behind.
    pub overtaken: u64,
    /// A watch began at a revision still to come.
    pub future: u64,
    /// A round read the store's history, or the recent log.
    pub read_store: u64,
    pub read_recent: u64,
    /// A lagging watcher is synced.
    pub caught_up: u64,
    /// What a watcher wanted was compacted.
    pub canceled: u64,
    /// A response was sent in fragments.
    pub fragmented: u64,
    /// A question for progress waited, or was not answered.
    pub progress_waited: u64,
    pub progress_withheld: u64,
    /// A notification was not sent, for its watcher lagged or its stream was full.
    pub progress_left_out: u64,
}

/// How many there are, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HubCounts {
    /// Open streams.
    pub streams: usize,
    /// Watchers on them.
    pub watchers: usize,
    /// Of those, the ones that read the past.
    pub lagging: usize,
}

/// Who gets which event. See the module's documentation.
pub struct Hub {
    pub(super) options: HubOptions,
    pub(super) queue_limits: QueueLimits,
    /// The last revision applied; every synced watcher was given everything up to it.
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
    pub(super) index: WatcherIndex,
    pub(super) watchers: Slab<Watcher>,
    /// How many of `watchers` lag.
    pub(super) lagging: usize,
    pub(super) streams: Slab<Stream>,
    pub(super) stream_slots: BTreeMap<StreamId, u32>,
    /// The newest revisions up to `revision`, without holes.
    pub(super) recent: RecentLog,
    /// Streams with lagging watchers, next one first; each at most once.
    pub(super) round: VecDeque<u32>,
    /// Streams with pending responses, each at most once (a closed one may stay until the flush).
    pub(super) touched: Vec<u32>,
    /// Streams whose progress request waits for the end of this turn.
    pub(super) questions: Vec<StreamId>,
    /// When each stream's progress notifications are due.
    pub(super) ticks: BTreeSet<(Duration, StreamId)>,
    /// Who watches the keys of a revision: (group, event). Kept for its memory.
    pub(super) hits: Vec<(u32, u32)>,
    pub(super) seldom: Seldom,
    bell: Arc<Bell>,
}

impl Hub {
    /// A hub beside a store that stands at `revision`.
    pub fn new(revision: Revision, compacted: Revision, options: HubOptions) -> Hub {
        assert!(compacted <= revision, "compacted {compacted} > current {revision}");
        Hub {
            queue_limits: QueueLimits {
                responses_max: options.queue_responses_max,
                bytes_max: options.queue_bytes_max,
            },
            revision,
            compacted,
            index: WatcherIndex::new(),
            watchers: Slab::new(),
            lagging: 0,
            streams: Slab::new(),
            stream_slots: BTreeMap::new(),
            recent: RecentLog::new(options.recent_events_max, options.recent_bytes_max),
            round: VecDeque::new(),
            touched: Vec::new(),
            questions: Vec::new(),
            ticks: BTreeSet::new(),
            hits: Vec::new(),
            seldom: Seldom::default(),
            bell: Arc::default(),
            options,
        }
    }

    /// The last revision applied.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What the hub's loop listens to beside its inputs: when it rings, `catch_up` has work.
    pub fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    /// How often what is seldom has happened so far.
    pub fn seldom(&self) -> Seldom {
        self.seldom
    }

    /// How many streams and watchers there are.
    pub fn counts(&self) -> HubCounts {
        HubCounts {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            lagging: self.lagging,
        }
    }

    /// A client opened a stream. `progress_interval` is the time between its progress
    /// notifications, the random part included. Fails when there are too many streams.
    pub fn open_stream(
        &mut self,
        id: StreamId,
        now: Duration,
        progress_interval: Duration,
    ) -> Result<Arc<StreamQueue>> {
        assert!(!progress_interval.is_zero(), "ticks need time between them");
        assert!(!self.stream_slots.contains_key(&id), "stream {id:?} is open");
        if self.streams.len() >= self.options.streams_max {
            return Err(Error::TooManyRequests);
        }
        let queue = Arc::new(StreamQueue::new(id, self.queue_limits, self.bell.clone()));
        let slot = self.streams.insert(Stream::new(queue.clone(), now, progress_interval));
        self.streams[slot].place(slot);
        self.stream_slots.insert(id, slot);
        self.ticks.insert((self.streams[slot].next_tick, id));
        Ok(queue)
    }

    /// The stream is over: its watchers end, its queue ends after what is in it. Closing an
    /// unknown stream does nothing.
    pub fn close_stream(&mut self, id: StreamId) {
        let Some(slot) = self.stream_slots.remove(&id) else { return };
        let mut stream = self.streams.remove(slot);
        stream.flush();
        stream.queue.close();
        for watcher in std::mem::take(&mut stream.watchers).into_values() {
            self.forget(watcher);
        }
        if stream.runnable {
            self.round.retain(|other| *other != slot);
        }
        self.ticks.remove(&(stream.next_tick, id));
    }

    /// A client's message. One that holds nothing we know is ignored, as is one for a stream that
    /// was closed meanwhile.
    pub fn request(&mut self, id: StreamId, request: WatchRequest) {
        let Some(&slot) = self.stream_slots.get(&id) else { return };
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(slot, &create),
            Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })) => {
                self.cancel(slot, watch_id);
            }
            Some(RequestUnion::ProgressRequest(WatchProgressRequest {})) => {
                self.progress_requested(slot);
            }
            None => {}
        }
    }

    /// Answers a create request that must not be served, in its place in the order of requests:
    /// `reason` is the full text, for instance of a denied permission.
    pub fn refuse(&mut self, id: StreamId, reason: &str) {
        if let Some(&slot) = self.stream_slots.get(&id) {
            self.answer_refused(slot, reason);
        }
    }

    /// The next main revision. `history` must hold it and is asked for previous pairs only.
    pub fn apply<H: History>(&mut self, batch: Arc<RevisionEvents>, history: &H) {
        assert_eq!(batch.revision.0, self.revision.0 + 1, "a revision is missing or repeated");
        self.revision = batch.revision;
        let mut entry = LoggedRevision::new(&batch);
        let mut hits = std::mem::take(&mut self.hits);
        for (number, event) in (0u32..).zip(&entry.events) {
            self.index.watching(event.key(), |group| hits.push((group, number)));
        }
        hits.sort_unstable();
        for hits in hits.chunk_by(|one, other| one.0 == other.0) {
            self.deliver(hits, &mut entry, history);
        }
        hits.clear();
        self.hits = hits;
        self.recent.push(entry);
    }

    /// The store was compacted at `revision`. Synced watchers do not notice; those whose cursor
    /// is below end when their turn comes.
    pub fn compacted(&mut self, revision: Revision) {
        assert!(revision <= self.revision, "compacted {revision} > current {}", self.revision);
        self.compacted = self.compacted.max(revision);
    }

    /// The store was replaced as a whole, by a leader's snapshot: all watchers read what they
    /// have not been given from the new history.
    pub fn restored(&mut self, revision: Revision, compacted: Revision) {
        assert!(revision >= self.revision, "restored {revision} < current {}", self.revision);
        assert!(compacted <= revision, "compacted {compacted} > current {revision}");
        let first_missed = Revision(self.revision.0 + 1);
        self.revision = revision;
        self.compacted = self.compacted.max(compacted);
        if first_missed > revision {
            return;
        }
        self.recent.clear();
        for group in self.index.groups_mut() {
            let mut at = 0;
            while at < group.members.len() {
                let slot = group.members[at];
                let watcher = &mut self.watchers[slot];
                let next = watcher.next.max(first_missed);
                if next > revision {
                    watcher.position = at as u32;
                    at += 1;
                    continue;
                }
                group.members.swap_remove(at);
                watcher.next = next;
                watcher.lagging = true;
                self.seldom.overtaken += 1;
                self.lagging += 1;
                let (number, stream) = (watcher.stream, &mut self.streams[watcher.stream]);
                stream.lagging.push_back(slot);
                if !stream.runnable {
                    stream.runnable = true;
                    self.round.push_back(number);
                }
            }
        }
    }

    /// Hands everything queued in this turn to the senders: one wake-up for each stream.
    /// `catch_up` ends with it.
    pub fn flush(&mut self) {
        for slot in std::mem::take(&mut self.touched) {
            if let Some(stream) = self.streams.get_mut(slot) {
                stream.flush();
            }
        }
    }

    /// Gives the events `hits` of one group to its members, or makes those lag whose stream is
    /// full.
    fn deliver<H: History>(
        &mut self,
        hits: &[(u32, u32)],
        entry: &mut LoggedRevision,
        history: &H,
    ) {
        let past = Past { history, compacted: self.compacted };
        let revision = entry.revision;
        let members = &mut self.index.group_mut(hits[0].0).members;
        let mut batches: [Option<Option<Batch>>; View::COUNT] = Default::default();
        let mut at = 0;
        while at < members.len() {
            let slot = members[at];
            let watcher = &mut self.watchers[slot];
            if watcher.next > revision {
                at += 1;
                continue;
            }
            let view = watcher.view;
            let batch = batches[view.index()].get_or_insert_with(|| {
                let events = hits.iter().map(|hit| entry.encoded(hit.1 as usize, view, &past));
                Batch::new(events.flatten().collect())
            });
            let Some(batch) = batch else {
                at += 1;
                continue;
            };
            let stream = &mut self.streams[watcher.stream];
            if stream.has_room(&self.queue_limits) {
                let fragment_bytes = self.options.fragment_bytes;
                self.seldom.fragmented +=
                    stream.send_events(&mut self.touched, watcher, revision, batch, fragment_bytes);
                at += 1;
                continue;
            }
            watcher.next = revision;
            watcher.lagging = true;
            self.lagging += 1;
            self.seldom.slowed += 1;
            stream.lagging.push_back(slot);
            members.swap_remove(at);
            if let Some(moved) = members.get(at) {
                self.watchers[*moved].position = at as u32;
            }
        }
    }

    fn create(&mut self, slot: u32, request: &WatchCreateRequest) {
        let (key, range_end) = (&request.key[..], &request.range_end[..]);
        let key = if key.is_empty() { &[0][..] } else { key };
        let end = match range_end {
            [] => None,
            [0] => Some(End::Open),
            end => Some(End::Before(Arc::from(end))),
        };
        if request.start_revision < 0 {
            return self.answer_refused(slot, reason::COMPACTED);
        }
        if matches!(&end, Some(End::Before(end)) if **end <= *key) {
            return self.answer_refused(slot, reason::EMPTY_RANGE);
        }
        let stream = &mut self.streams[slot];
        if stream.watchers.len() >= self.options.stream_watchers_max {
            return self.answer_refused(slot, reason::TOO_MANY_ON_STREAM);
        }
        if self.watchers.len() >= self.options.watchers_max {
            return self.answer_refused(slot, reason::TOO_MANY);
        }
        let watch_id = if request.watch_id == 0 {
            while stream.watchers.contains_key(&stream.next_id) {
                stream.next_id += 1;
            }
            stream.next_id += 1;
            stream.next_id - 1
        } else {
            request.watch_id
        };
        let Entry::Vacant(name) = stream.watchers.entry(watch_id) else {
            return self.answer_refused(slot, reason::DUPLICATE_ID);
        };
        let start = Revision(request.start_revision);
        stream.latest_start = stream.latest_start.max(start);
        let has = |filter: FilterType| request.filters.contains(&i32::from(filter));
        let watcher = self.watchers.insert(Watcher {
            stream: slot,
            group: self.index.join(key, end),
            position: 0,
            watch_id,
            next: start,
            view: View {
                prev_kv: request.prev_kv,
                no_put: has(FilterType::Noput),
                no_delete: has(FilterType::Nodelete),
            },
            fragment: request.fragment,
            lagging: false,
            progress: if request.progress_notify { Progress::Quiet } else { Progress::Off },
        });
        name.insert(watcher);
        stream.notified += usize::from(request.progress_notify);
        let created = WatchResponse { watch_id, created: true, ..Default::default() };
        stream.send(&mut self.touched, self.revision, created);
        if start == Revision(0) || start > self.revision {
            self.seldom.future += u64::from(start > self.revision);
            self.become_member(watcher);
        } else {
            self.fall_behind(watcher);
        }
    }

    fn answer_refused(&mut self, slot: u32, reason: &str) {
        let refused = WatchResponse {
            watch_id: -1,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..Default::default()
        };
        self.streams[slot].send(&mut self.touched, self.revision, refused);
    }

    fn cancel(&mut self, slot: u32, watch_id: i64) {
        let stream = &mut self.streams[slot];
        let Some(&watcher) = stream.watchers.get(&watch_id) else { return };
        let canceled = WatchResponse { watch_id, canceled: true, ..Default::default() };
        stream.send(&mut self.touched, self.revision, canceled);
        if self.watchers[watcher].lagging {
            let place = stream.lagging.iter().position(|other| *other == watcher);
            stream.lagging.remove(place.expect("a lagging watcher is in its stream's list"));
        }
        self.end(watcher);
    }

    /// Ends a watcher that is in no list of lagging ones any more.
    pub(super) fn end(&mut self, watcher: u32) {
        let ending = &self.watchers[watcher];
        let stream = &mut self.streams[ending.stream];
        stream.watchers.remove(&ending.watch_id);
        stream.notified -= usize::from(ending.progress != Progress::Off);
        self.forget(watcher);
    }

    /// Removes a watcher from where the hub itself knows it.
    fn forget(&mut self, watcher: u32) {
        let gone = self.watchers.remove(watcher);
        if gone.lagging {
            self.lagging -= 1;
        } else {
            let members = &mut self.index.group_mut(gone.group).members;
            let removed = members.swap_remove(gone.position as usize);
            assert_eq!(removed, watcher, "a member stands at its position");
            if let Some(moved) = members.get(gone.position as usize) {
                self.watchers[*moved].position = gone.position;
            }
        }
        self.index.leave(gone.group);
    }

    /// From now on the watcher is given new events at once.
    pub(super) fn become_member(&mut self, slot: u32) {
        let watcher = &mut self.watchers[slot];
        let members = &mut self.index.group_mut(watcher.group).members;
        watcher.position = members.len() as u32;
        members.push(slot);
    }

    /// From now on the watcher reads the past from its cursor on.
    fn fall_behind(&mut self, slot: u32) {
        let watcher = &mut self.watchers[slot];
        watcher.lagging = true;
        self.lagging += 1;
        let number = watcher.stream;
        self.streams[number].lagging.push_back(slot);
        self.run(number);
    }

    /// Makes sure that a stream with lagging watchers is in the round.
    pub(super) fn run(&mut self, slot: u32) {
        let stream = &mut self.streams[slot];
        if !stream.runnable && !stream.stalled && !stream.lagging.is_empty() {
            stream.runnable = true;
            self.round.push_back(slot);
        }
    }
}
