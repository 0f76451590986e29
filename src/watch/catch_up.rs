//! Watchers that lag read the past, in rounds.
//!
//! A round begins with the stream that waits longest and its first lagging watcher, the *anchor*.
//! It reads one window of history from the anchor's cursor on: from the recent log if that reaches
//! back far enough, else from the store. Other lagging watchers whose cursors lie in the window
//! come along, from this stream and from those next in line, so that many watchers behind by the
//! same revisions cost one reading. Watchers of the same keys, view and cursor (a *cohort*) even
//! share their responses' lists of events.
//!
//! Then the streams of the round go to the end of the line. So every round brings the one who
//! waited longest forward, and nobody can keep others from their turn.
//!
//! Whoever reaches the hub's revision is synced in the same step: between reading and becoming a
//! member of its group nothing can be applied, so no event falls in between or comes twice.

use super::event::{Compacted, History, LoggedRevision, Past, View};
use super::hub::Hub;
use super::index::WatcherIndex;
use super::stream::Batch;
use crate::proto::etcdserverpb::WatchResponse;
use crate::types::{Revision, limits};
use bytes::Bytes;

/// What decides which events a watcher gets: its keys, its view and its cursor.
type CohortKey = (u32, View, Revision);

/// Watchers that get the same events, and what they get: all of a window, cut into responses.
struct Cohort {
    key: CohortKey,
    /// Finished responses, each with its first revision.
    responses: Vec<(Revision, Batch)>,
    /// The response that is being filled.
    events: Vec<Bytes>,
    bytes: usize,
    /// Different revisions in `events`.
    revisions: usize,
    first: Revision,
    last: Revision,
}

/// Who is served by a round.
struct Chosen {
    /// Streams, in line order; not in the line while the round lasts.
    streams: Vec<u32>,
    /// Watchers in the order in which they waited, by number, with their cohort's position.
    watchers: Vec<(u32, usize)>,
    /// Ordered by key.
    cohorts: Vec<Cohort>,
}

/// The part of history a round reads.
enum Window {
    /// Positions in the recent log.
    Recent { start: usize, revisions: usize },
    /// Read from the store.
    Fetched(Vec<LoggedRevision>),
}

/// How much one response may hold.
struct BatchLimits {
    revisions_max: usize,
    bytes_max: usize,
}

impl Hub {
    /// Lets watchers that lag read on, until about `budget` events have been looked at or
    /// delivered, and hands everything queued in this turn to the senders. Says whether there is
    /// more to do now; call it then again soon, after looking at other inputs.
    ///
    /// The hub's loop calls it at the end of each turn and when the bell rings.
    pub fn catch_up<H: History>(&mut self, history: &H, budget: usize) -> bool {
        let rung = self.bell().answer();
        self.wake_stalled(rung);
        let mut left = budget;
        while left > 0 {
            match self.round(history) {
                Some(work) => left = left.saturating_sub(work),
                None => break,
            }
        }
        self.answer_questions();
        self.flush();
        !self.round.is_empty()
    }

    /// One round; returns the work done, `None` when nobody can be served.
    fn round<H: History>(&mut self, history: &H) -> Option<usize> {
        let from = self.find_anchor()?;
        if from < self.compacted {
            self.cancel_anchor();
            return Some(1);
        }
        let (mut window, through) = match self.read(from, history) {
            Ok(read) => read,
            Err(Compacted(revision)) => {
                // The store is ahead of us and has compacted what the anchor wants.
                assert!(revision > from, "revision {from} is not below {revision}");
                self.compacted = self.compacted.max(revision);
                self.cancel_anchor();
                return Some(1);
            }
        };
        let mut chosen = self.choose(from, through);
        let past = Past { history, compacted: self.compacted };
        let limits = BatchLimits {
            revisions_max: self.options.batch_revisions_max,
            bytes_max: self.options.batch_bytes_max,
        };
        let cohorts = &mut chosen.cohorts;
        let scanned = match &mut window {
            Window::Fetched(list) => scan(list.iter_mut(), &self.index, cohorts, &past, &limits),
            Window::Recent { start, revisions } => {
                let list = self.recent.range_mut(*start, *revisions);
                scan(list, &self.index, cohorts, &past, &limits)
            }
        };
        let delivered = self.hand_out(&chosen, through);
        for slot in chosen.streams {
            self.streams[slot].runnable = false;
            self.run(slot);
        }
        Some(scanned + delivered)
    }

    /// The cursor of the first lagging watcher of the first stream in line that has room. Streams
    /// without either leave the line.
    fn find_anchor(&mut self) -> Option<Revision> {
        loop {
            let slot = *self.round.front()?;
            let stream = &mut self.streams[slot];
            if let Some(&watcher) = stream.lagging.front()
                && stream.has_room(&self.queue_limits)
            {
                let next = self.watchers[watcher].next;
                assert!(next <= self.revision, "a watcher without a past is synced");
                return Some(next);
            }
            stream.runnable = false;
            self.round.pop_front();
        }
    }

    /// The anchor wants what is compacted: tells it so and ends it.
    fn cancel_anchor(&mut self) {
        self.seldom.canceled += 1;
        let slot = self.round.pop_front().expect("the anchor's stream is first in line");
        let stream = &mut self.streams[slot];
        stream.runnable = false;
        let watcher = stream.lagging.pop_front().expect("the anchor is first in its stream");
        let canceled = WatchResponse {
            watch_id: self.watchers[watcher].watch_id,
            canceled: true,
            compact_revision: self.compacted.0,
            ..Default::default()
        };
        stream.send(&mut self.touched, Revision(0), canceled);
        self.end(watcher);
        self.run(slot);
    }

    /// Reads a window that begins at `from`; also returns the revision up to which it is complete.
    fn read<H: History>(
        &mut self,
        from: Revision,
        history: &H,
    ) -> Result<(Window, Revision), Compacted> {
        if let Some(start) = self.recent.position(from) {
            self.seldom.read_recent += 1;
            let revisions = self.recent.window(start, limits::WATCH_WINDOW_REVISIONS_MAX);
            let through = Revision(from.0 + revisions as i64 - 1);
            return Ok((Window::Recent { start, revisions }, through));
        }
        self.seldom.read_store += 1;
        let list = history.changes(
            from,
            self.revision,
            limits::WATCH_WINDOW_REVISIONS_MAX,
            self.options.batch_bytes_max,
        )?;
        let mut through = Revision(from.0 - 1);
        for changes in &list {
            assert!(changes.revision > through, "history is in order");
            through = changes.revision;
        }
        assert!(through <= self.revision, "history ends where it was asked to");
        if list.is_empty() {
            through = self.revision;
        }
        let list = list.iter().map(|changes| LoggedRevision::new(changes)).collect();
        Ok((Window::Fetched(list), through))
    }

    /// Takes the watchers of this round out of their streams' lists: those with a cursor in
    /// `from..=through`, from the streams first in line.
    fn choose(&mut self, from: Revision, through: Revision) -> Chosen {
        let mut streams = Vec::new();
        let mut watchers: Vec<(u32, CohortKey)> = Vec::new();
        while watchers.len() < limits::WATCH_ROUND_WATCHERS_MAX
            && streams.len() < limits::WATCH_ROUND_STREAMS_MAX
            && let Some(slot) = self.round.pop_front()
        {
            streams.push(slot);
            let stream = &mut self.streams[slot];
            if !stream.has_room(&self.queue_limits) {
                continue;
            }
            for _ in 0..stream.lagging.len().min(limits::WATCH_ROUND_STREAM_WATCHERS_MAX) {
                let number = stream.lagging.pop_front().expect("counted");
                let watcher = &self.watchers[number];
                if (from..=through).contains(&watcher.next) {
                    watchers.push((number, (watcher.group, watcher.view, watcher.next)));
                } else {
                    stream.lagging.push_back(number);
                }
            }
        }
        let mut keys: Vec<CohortKey> = watchers.iter().map(|(_, key)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        let cohort_of = |key| keys.binary_search(&key).expect("every key is among them");
        let watchers = watchers.into_iter().map(|(number, key)| (number, cohort_of(key)));
        let watchers = watchers.collect();
        Chosen { streams, watchers, cohorts: keys.into_iter().map(Cohort::new).collect() }
    }

    /// Queues what the chosen watchers get and moves their cursors; where a stream gets full, a
    /// cursor stays at the first revision that was not queued. Returns how much was queued.
    ///
    /// In the order in which they waited: when there is not room for all of a stream's watchers,
    /// those who go without are the first next time, before those who got a part.
    fn hand_out(&mut self, chosen: &Chosen, through: Revision) -> usize {
        let mut delivered = chosen.watchers.len();
        let mut refused = Vec::new();
        for &(slot, cohort) in &chosen.watchers {
            let watcher = &mut self.watchers[slot];
            let stream = &mut self.streams[watcher.stream];
            let mut next = Revision(through.0 + 1);
            let mut served = false;
            for (first, batch) in &chosen.cohorts[cohort].responses {
                if !stream.has_room(&self.queue_limits) {
                    next = *first;
                    break;
                }
                let (fragment_bytes, revision) = (self.options.fragment_bytes, self.revision);
                self.seldom.fragmented +=
                    stream.send_events(&mut self.touched, watcher, revision, batch, fragment_bytes);
                delivered += batch.events.as_slice().len();
                served = true;
            }
            if next > self.revision {
                watcher.next = Revision(0);
                watcher.lagging = false;
                self.lagging -= 1;
                self.seldom.caught_up += 1;
                self.become_member(slot);
                continue;
            }
            watcher.next = next;
            if next <= through && !served {
                refused.push(slot);
            } else {
                stream.lagging.push_back(slot);
            }
        }
        for slot in refused.into_iter().rev() {
            let stream = self.watchers[slot].stream;
            self.streams[stream].lagging.push_front(slot);
        }
        delivered
    }
}

/// Finds what each cohort gets out of `list`; returns the work done.
fn scan<'a, H: History>(
    list: impl Iterator<Item = &'a mut LoggedRevision>,
    index: &WatcherIndex,
    cohorts: &mut [Cohort],
    past: &Past<'_, H>,
    limits: &BatchLimits,
) -> usize {
    let mut work = 0;
    let direct = cohorts.len() <= DIRECT_COHORTS_MAX;
    let mut groups = Vec::new();
    for entry in list {
        for at in 0..entry.events.len() {
            work += 1;
            if direct {
                for cohort in cohorts.iter_mut() {
                    if index.group(cohort.key.0).keys.contains(entry.events[at].key()) {
                        cohort.add(entry, at, past, limits);
                    }
                }
                continue;
            }
            index.watching(entry.events[at].key(), |group| groups.push(group));
            for group in groups.drain(..) {
                let first = cohorts.partition_point(|cohort| cohort.key.0 < group);
                let of_group = cohorts[first..].iter_mut();
                for cohort in of_group.take_while(|cohort| cohort.key.0 == group) {
                    cohort.add(entry, at, past, limits);
                }
            }
        }
    }
    for cohort in cohorts {
        cohort.finish_response();
    }
    work
}

/// Up to here asking each cohort is cheaper than asking the index who watches a key.
const DIRECT_COHORTS_MAX: usize = 4;

impl Cohort {
    fn new(key: CohortKey) -> Cohort {
        Cohort {
            key,
            responses: Vec::new(),
            events: Vec::new(),
            bytes: 0,
            revisions: 0,
            first: Revision(0),
            last: Revision(0),
        }
    }

    /// Takes in event `at` of `entry`. A response ends only between revisions.
    fn add<H: History>(
        &mut self,
        entry: &mut LoggedRevision,
        at: usize,
        past: &Past<'_, H>,
        limits: &BatchLimits,
    ) {
        let (_, view, next) = self.key;
        let revision = entry.revision;
        if revision < next {
            return;
        }
        let Some(event) = entry.encoded(at, view, past) else { return };
        if revision > self.last {
            if self.revisions >= limits.revisions_max || self.bytes >= limits.bytes_max {
                self.finish_response();
            }
            if self.revisions == 0 {
                self.first = revision;
            }
            self.last = revision;
            self.revisions += 1;
        }
        self.bytes += event.len();
        self.events.push(event);
    }

    fn finish_response(&mut self) {
        if let Some(batch) = Batch::new(std::mem::take(&mut self.events)) {
            self.responses.push((self.first, batch));
        }
        self.bytes = 0;
        self.revisions = 0;
    }
}
