//! Progress: telling a client how far it has seen everything although nothing happened.
//!
//! A client may take "progress at R" as "you have every event up to R". So it is only ever said
//! when every watcher it speaks for is synced: then each of its events up to the hub's revision is
//! in the stream's queue already, before this response. A watcher that lags or waits for a revision
//! still to come makes the whole stream keep silent (etcd issue 15220 is what happens otherwise).

use super::hub::Hub;
use super::queue::StreamId;
use super::stream::Progress;
use crate::proto::etcdserverpb::WatchResponse;
use std::time::Duration;

impl Hub {
    /// Time has come to `now`: sends the progress notifications that are due. Watchers that got
    /// events since the last tick, that lag, or whose stream is full are left out.
    pub fn tick(&mut self, now: Duration) {
        while let Some(&(due, id)) = self.ticks.first()
            && due <= now
        {
            self.ticks.remove(&(due, id));
            let slot = self.stream_slots[&id];
            let stream = &mut self.streams[slot];
            // A late tick is not made up for.
            let late = due + stream.progress_interval <= now;
            stream.next_tick = if late { now } else { due } + stream.progress_interval;
            self.ticks.insert((stream.next_tick, id));
            self.notify(slot);
        }
    }

    /// When `tick` should be called next; `None` without streams.
    pub fn next_tick(&self) -> Option<Duration> {
        self.ticks.first().map(|(due, _)| *due)
    }

    fn notify(&mut self, slot: u32) {
        let stream = &mut self.streams[slot];
        if stream.notified == 0 {
            return;
        }
        for number in stream.watchers.values().copied().collect::<Vec<u32>>() {
            let watcher = &mut self.watchers[number];
            let synced = !watcher.lagging && watcher.next <= self.revision;
            match watcher.progress {
                Progress::Off => {}
                Progress::Fed => watcher.progress = Progress::Quiet,
                Progress::Quiet if synced && stream.has_room(&self.queue_limits) => {
                    let watch_id = watcher.watch_id;
                    let progress = WatchResponse { watch_id, ..Default::default() };
                    stream.send(&mut self.touched, self.revision, progress);
                }
                Progress::Quiet => self.seldom.progress_left_out += 1,
            }
        }
    }

    /// A client asks for the progress of a whole stream. If some watcher still lags, the question
    /// waits for the end of the turn, which may change that, and no longer.
    pub(super) fn progress_requested(&mut self, slot: u32) {
        let stream = &self.streams[slot];
        if stream.lagging.is_empty() {
            self.answer_progress(slot);
        } else if !self.questions.contains(&stream.id) {
            self.questions.push(stream.id);
            self.seldom.progress_waited += 1;
        }
    }

    /// Answers or drops the questions that waited.
    pub(super) fn answer_questions(&mut self) {
        for id in std::mem::take(&mut self.questions) {
            if let Some(&slot) = self.stream_slots.get(&id) {
                self.answer_progress(slot);
            }
        }
    }

    fn answer_progress(&mut self, slot: u32) {
        let stream = &self.streams[slot];
        if stream.watchers.is_empty() || !stream.lagging.is_empty() {
            self.seldom.progress_withheld += 1;
            return;
        }
        // Looking at each watcher is needed only if one ever asked for a revision still to come.
        let some_wait = stream.latest_start > self.revision
            && stream.watchers.values().any(|number| self.watchers[*number].next > self.revision);
        if some_wait {
            self.seldom.progress_withheld += 1;
            return;
        }
        let progress = WatchResponse { watch_id: PROGRESS_ID, ..Default::default() };
        self.streams[slot].send(&mut self.touched, self.revision, progress);
    }

    /// Streams that rang, in a fixed order.
    pub(super) fn wake_stalled(&mut self, mut rung: Vec<StreamId>) {
        rung.sort_unstable();
        for id in rung {
            if let Some(&slot) = self.stream_slots.get(&id) {
                self.streams[slot].stalled = false;
                self.run(slot);
            }
        }
    }
}

/// The watch id of a response that speaks for all watchers of a stream.
const PROGRESS_ID: i64 = -1;
