//! The hub's side of a stream, and what it knows of a watcher.

use super::event::View;
use super::queue::{Events, Item, QueueLimits, StreamId, StreamQueue, Weighed};
use crate::proto::etcdserverpb::{ResponseHeader, WatchResponse};
use crate::types::Revision;
use bytes::Bytes;
use prost::encoding::encoded_len_varint;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// One watch. Kept small: there may be hundreds of thousands.
#[derive(Debug)]
pub(super) struct Watcher {
    /// Its stream's number.
    pub stream: u32,
    /// Its group's number: the keys it watches.
    pub group: u32,
    /// Where it stands among the group's members; meaningless while it lags.
    pub position: u32,
    /// The client's name for it, unique in its stream.
    pub watch_id: i64,
    /// While it lags, its cursor: the first revision it has not been given, at most the hub's
    /// current one. While it is synced, the revision it asked to start from if that is still to
    /// come or came while it waited, else 0: earlier events are not for it.
    pub next: Revision,
    pub view: View,
    /// Whether its responses may be split.
    pub fragment: bool,
    /// Whether it reads the past by its cursor, or (synced) is a member of its group.
    pub lagging: bool,
    pub progress: Progress,
}

/// Whether a watcher wants to hear from us when nothing happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// It does not.
    Off,
    /// It does, and got no events since the last tick.
    Quiet,
    /// It does, and got events since the last tick: the next tick is skipped.
    Fed,
}

/// Encoded events and their total size.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub events: Events,
    pub bytes: usize,
}

impl Batch {
    /// `None` for no events.
    pub fn new(mut events: Vec<Bytes>) -> Option<Batch> {
        let bytes = events.iter().map(Bytes::len).sum();
        let events = match events.len() {
            0 => return None,
            1 => Events::One(events.pop().expect("there is one")),
            _ => Events::Many(Arc::from(events)),
        };
        Some(Batch { events, bytes })
    }
}

/// A stream: its queue, what is to be put there, and its watchers.
///
/// A stream with lagging watchers is `runnable` (in the hub's round of catching up) or `stalled`
/// (the bell will ring), or both for the moment until the round finds it stalled.
pub(super) struct Stream {
    pub id: StreamId,
    pub queue: Arc<StreamQueue>,
    /// Its own number.
    slot: u32,
    /// What this turn adds to the queue, in order.
    pending: Vec<Weighed>,
    pending_bytes: usize,
    /// Upper bounds of what waits in the queue: true when last looked at, less by what was taken
    /// since.
    waiting: usize,
    waiting_bytes: usize,
    /// Whether it is among the hub's touched streams.
    touched: bool,
    /// The queue was full when last looked at, and the bell has not rung since.
    pub stalled: bool,
    /// Whether it is in the hub's round.
    pub runnable: bool,
    /// Watchers by the client's names.
    pub watchers: BTreeMap<i64, u32>,
    /// The next name to give to a watcher that asks for one.
    pub next_id: i64,
    /// Watchers that read the past, next one first.
    pub lagging: VecDeque<u32>,
    /// The latest revision any of its watchers, present or gone, asked to start from.
    pub latest_start: Revision,
    /// How many of its watchers want progress notifications.
    pub notified: usize,
    /// Time between them.
    pub progress_interval: Duration,
    /// When they are due; the hub's `ticks` says the same.
    pub next_tick: Duration,
}

impl Stream {
    pub fn new(queue: Arc<StreamQueue>, now: Duration, progress_interval: Duration) -> Stream {
        Stream {
            id: queue.id(),
            queue,
            slot: 0,
            pending: Vec::new(),
            pending_bytes: 0,
            waiting: 0,
            waiting_bytes: 0,
            touched: false,
            stalled: false,
            runnable: false,
            watchers: BTreeMap::new(),
            next_id: 0,
            lagging: VecDeque::new(),
            latest_start: Revision(0),
            notified: 0,
            progress_interval,
            next_tick: now + progress_interval,
        }
    }

    pub fn place(&mut self, slot: u32) {
        self.slot = slot;
    }

    /// Whether another response of events may be queued. When not, the stream is stalled from now
    /// on, and the bell will ring. A response is let in whole if there is any room, so a queue
    /// exceeds its bounds by one response at most (and by answers, which are bounded by requests).
    pub fn has_room(&mut self, limits: &QueueLimits) -> bool {
        if self.stalled {
            return false;
        }
        if self.fits(limits) {
            return true;
        }
        let pending = (self.pending.len(), self.pending_bytes);
        (self.waiting, self.waiting_bytes) = self.queue.look(pending);
        self.stalled = !self.fits(limits);
        !self.stalled
    }

    fn fits(&self, limits: &QueueLimits) -> bool {
        self.waiting + self.pending.len() < limits.responses_max
            && self.waiting_bytes + self.pending_bytes < limits.bytes_max
    }

    /// Queues the events of one response, in pieces if `watcher` allows and they are big.
    pub fn send_events(
        &mut self,
        touched: &mut Vec<u32>,
        watcher: &mut Watcher,
        revision: Revision,
        batch: &Batch,
        fragment_bytes: usize,
    ) -> u64 {
        if watcher.progress == Progress::Quiet {
            watcher.progress = Progress::Fed;
        }
        let watch_id = watcher.watch_id;
        let count = batch.events.as_slice().len();
        if watcher.fragment && count > 1 && response_bytes(batch) >= fragment_bytes {
            let pieces = split(batch.events.as_slice(), fragment_bytes);
            let last = pieces.len() - 1;
            for (number, Batch { events, bytes }) in pieces.into_iter().enumerate() {
                let fragment = number < last;
                self.push(touched, Item::Events { watch_id, revision, events, fragment }, bytes);
            }
            return 1;
        }
        let events = batch.events.clone();
        self.push(
            touched,
            Item::Events { watch_id, revision, events, fragment: false },
            batch.bytes,
        );
        0
    }

    /// Queues an answer; there is always room for it.
    pub fn send(&mut self, touched: &mut Vec<u32>, revision: Revision, response: WatchResponse) {
        let header = Some(ResponseHeader { revision: revision.0, ..Default::default() });
        self.push(touched, Item::Control(Box::new(WatchResponse { header, ..response })), 0);
    }

    fn push(&mut self, touched: &mut Vec<u32>, item: Item, event_bytes: usize) {
        let weighed = Weighed::new(item, event_bytes);
        self.pending_bytes += weighed.bytes;
        self.pending.push(weighed);
        if !self.touched {
            self.touched = true;
            touched.push(self.slot);
        }
    }

    /// Hands what is pending to the sender.
    pub fn flush(&mut self) {
        self.touched = false;
        if self.pending.is_empty() {
            return;
        }
        (self.waiting, self.waiting_bytes) = self.queue.append(&mut self.pending);
        self.pending_bytes = 0;
        if self.pending.capacity() > PENDING_KEPT {
            self.pending = Vec::new();
        }
    }
}

/// Room for pending items kept from turn to turn; more is given back.
const PENDING_KEPT: usize = 32;

/// What a response has beside its events: header, id, flags. About what etcd's have, so that
/// fragments end where etcd's do.
const RESPONSE_FRAME_BYTES: usize = 32;

fn framed(event: &Bytes) -> usize {
    1 + encoded_len_varint(event.len() as u64) + event.len()
}

fn response_bytes(batch: &Batch) -> usize {
    RESPONSE_FRAME_BYTES + batch.events.as_slice().iter().map(framed).sum::<usize>()
}

/// Splits events so that each piece encodes to less than `fragment_bytes` or is a single event.
fn split(events: &[Bytes], fragment_bytes: usize) -> Vec<Batch> {
    let mut pieces = Vec::new();
    let mut piece: Vec<Bytes> = Vec::new();
    let mut bytes = RESPONSE_FRAME_BYTES;
    for event in events {
        if !piece.is_empty() && bytes + framed(event) >= fragment_bytes {
            pieces.extend(Batch::new(std::mem::take(&mut piece)));
            bytes = RESPONSE_FRAME_BYTES;
        }
        bytes += framed(event);
        piece.push(event.clone());
    }
    pieces.extend(Batch::new(piece));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_stay_below_the_limit_and_keep_the_order() {
        let events: Vec<Bytes> = (1..20u8).map(|n| Bytes::from(vec![n; usize::from(n)])).collect();
        let pieces = split(&events, RESPONSE_FRAME_BYTES + 40);
        let joined: Vec<Bytes> =
            pieces.iter().flat_map(|piece| piece.events.as_slice().to_vec()).collect();
        assert_eq!(joined, events);
        for piece in &pieces {
            assert!(response_bytes(piece) < RESPONSE_FRAME_BYTES + 40);
        }
        let alone = split(&events, 1);
        assert_eq!(alone.len(), events.len());
    }
}
