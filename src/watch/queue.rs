//! The way out of the hub: one queue per stream, shared with the task that sends.
//!
//! ```text
//! hub ── flush: one lock, one wake-up per turn ──▶ StreamQueue ── poll_pull ──▶ sending task
//!  ▲                                                    │
//!  └────────── Bell: "stream X has room again" ◀────────┘ rung by the pull that makes the room
//! ```
//!
//! An item is small: numbers and a reference to bytes shared with every other watcher of the same
//! keys. The response itself is built by the sender, on its own time.
//!
//! No wake-up is lost in either direction, because each side looks and leaves its mark under the
//! same lock: the sender finds the queue empty and leaves its waker; the hub finds the queue full
//! and leaves `hub_waits`, and the first pull that leaves it at most half full rings the bell. The
//! bell keeps who rang until the hub asks, whether or not anybody listened at the time.

use crate::proto::etcdserverpb::{ResponseHeader, WatchResponse};
use crate::types::Revision;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// Names a stream: chosen by whoever opens it, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

/// What an item weighs beside its events.
const ITEM_BYTES: usize = 64;

/// How much may wait in a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    pub responses_max: usize,
    pub bytes_max: usize,
}

/// The events of one response, encoded and shared.
#[derive(Clone, Debug)]
pub(super) enum Events {
    One(Bytes),
    Many(Arc<[Bytes]>),
}

impl Events {
    pub fn as_slice(&self) -> &[Bytes] {
        match self {
            Events::One(event) => std::slice::from_ref(event),
            Events::Many(events) => events,
        }
    }
}

/// A response to be built by the sender.
#[derive(Debug)]
pub(super) enum Item {
    Events { watch_id: i64, revision: Revision, events: Events, fragment: bool },
    Control(Box<WatchResponse>),
}

impl Item {
    fn into_response(self) -> WatchResponse {
        match self {
            Item::Control(response) => *response,
            Item::Events { watch_id, revision, events, fragment } => WatchResponse {
                header: Some(ResponseHeader { revision: revision.0, ..Default::default() }),
                watch_id,
                fragment,
                events: match events {
                    Events::One(event) => vec![event],
                    Events::Many(events) => events.to_vec(),
                },
                ..Default::default()
            },
        }
    }
}

/// An item and what it weighs.
pub(super) struct Weighed {
    pub item: Item,
    pub bytes: usize,
}

impl Weighed {
    pub fn new(item: Item, event_bytes: usize) -> Weighed {
        Weighed { item, bytes: event_bytes + ITEM_BYTES }
    }
}

/// Responses on their way to one client.
///
/// Of each header only `revision` is set; the sender fills in the rest and leaves a revision of 0
/// alone (etcd answers a watch of compacted revisions so).
pub struct StreamQueue {
    id: StreamId,
    limits: QueueLimits,
    bell: Arc<Bell>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    items: VecDeque<Weighed>,
    /// Sum of their weights.
    bytes: usize,
    /// The hub found no room and wants the bell rung.
    hub_waits: bool,
    /// Nothing will be added any more.
    closed: bool,
    /// The sending task, when it found nothing.
    sender: Option<Waker>,
    /// The task that reads the client's requests, when it found no room for answers.
    reader: Option<Waker>,
}

impl StreamQueue {
    pub(super) fn new(id: StreamId, limits: QueueLimits, bell: Arc<Bell>) -> StreamQueue {
        StreamQueue { id, limits, bell, state: Mutex::default() }
    }

    /// The stream it belongs to.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Takes up to `responses_max` responses without waiting and appends them to `responses`;
    /// says how many.
    pub fn pull(&self, responses: &mut Vec<WatchResponse>, responses_max: usize) -> usize {
        let state = self.lock();
        self.take(state, responses, responses_max)
    }

    /// Takes up to `responses_max` responses, at least one, or waits for one. `Ready(false)` means
    /// that the stream is closed and everything was taken. For one task: the last to ask is woken.
    pub fn poll_pull(
        &self,
        context: &mut Context<'_>,
        responses: &mut Vec<WatchResponse>,
        responses_max: usize,
    ) -> Poll<bool> {
        assert!(responses_max > 0, "a pull of nothing would wait for ever");
        let mut state = self.lock();
        if state.items.is_empty() {
            if state.closed {
                return Poll::Ready(false);
            }
            state.sender = Some(context.waker().clone());
            return Poll::Pending;
        }
        self.take(state, responses, responses_max);
        Poll::Ready(true)
    }

    /// Waits until there is room for the answer to another request. The task that reads the
    /// client's requests asks before each, so a client that asks and does not listen is read no
    /// further, and answers stay bounded like events.
    pub fn poll_accepting(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.closed || self.has_room(&state) {
            return Poll::Ready(());
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Whether the hub has closed the stream.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Appends everything in `pending` and wakes the sender; returns what waits now.
    pub(super) fn append(&self, pending: &mut Vec<Weighed>) -> (usize, usize) {
        let mut state = self.lock();
        assert!(!state.closed, "a closed stream gets nothing");
        state.bytes += pending.iter().map(|weighed| weighed.bytes).sum::<usize>();
        state.items.extend(pending.drain(..));
        let waiting = (state.items.len(), state.bytes);
        let sender = state.sender.take();
        drop(state);
        wake(sender);
        waiting
    }

    /// What waits now. If that and `pending` leave no room, the bell will ring once there is room.
    pub(super) fn look(&self, pending: (usize, usize)) -> (usize, usize) {
        let mut state = self.lock();
        let waiting = (state.items.len(), state.bytes);
        let full = waiting.0 + pending.0 >= self.limits.responses_max
            || waiting.1 + pending.1 >= self.limits.bytes_max;
        if full {
            state.hub_waits = true;
        }
        waiting
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let (sender, reader) = (state.sender.take(), state.reader.take());
        drop(state);
        wake(sender);
        wake(reader);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    fn has_room(&self, state: &State) -> bool {
        state.items.len() < self.limits.responses_max && state.bytes < self.limits.bytes_max
    }

    fn take(
        &self,
        mut state: MutexGuard<'_, State>,
        responses: &mut Vec<WatchResponse>,
        responses_max: usize,
    ) -> usize {
        let taken = if state.items.len() <= responses_max {
            std::mem::take(&mut state.items)
        } else {
            state.items.drain(..responses_max).collect()
        };
        state.bytes -= taken.iter().map(|weighed| weighed.bytes).sum::<usize>();
        let half_empty = state.items.len() <= self.limits.responses_max / 2
            && state.bytes <= self.limits.bytes_max / 2;
        let ring = state.hub_waits && half_empty;
        if ring {
            state.hub_waits = false;
        }
        let reader = if self.has_room(&state) { state.reader.take() } else { None };
        drop(state);
        if ring {
            self.bell.ring(self.id);
        }
        wake(reader);
        let count = taken.len();
        responses.extend(taken.into_iter().map(|weighed| weighed.item.into_response()));
        count
    }
}

/// How senders tell the hub's loop that there is room again in queues it found full.
#[derive(Default)]
pub struct Bell {
    state: Mutex<BellState>,
}

#[derive(Default)]
struct BellState {
    rung: Vec<StreamId>,
    listener: Option<Waker>,
}

impl Bell {
    /// Ready when some stream has room again; then `Hub::catch_up` has work. For the hub's loop.
    pub fn poll_rung(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if !state.rung.is_empty() {
            return Poll::Ready(());
        }
        state.listener = Some(context.waker().clone());
        Poll::Pending
    }

    /// Who rang since the last time.
    pub(super) fn answer(&self) -> Vec<StreamId> {
        std::mem::take(&mut self.lock().rung)
    }

    fn ring(&self, id: StreamId) {
        let mut state = self.lock();
        state.rung.push(id);
        let listener = state.listener.take();
        drop(state);
        wake(listener);
    }

    fn lock(&self) -> MutexGuard<'_, BellState> {
        self.state.lock().expect("nobody panics while holding it")
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn item() -> Weighed {
        Weighed::new(Item::Control(Box::default()), 0)
    }

    fn queue(responses_max: usize) -> (StreamQueue, Arc<Bell>) {
        let bell = Arc::new(Bell::default());
        let limits = QueueLimits { responses_max, bytes_max: 1_000_000 };
        (StreamQueue::new(StreamId(7), limits, bell.clone()), bell)
    }

    #[test]
    fn a_waiting_sender_is_woken_once_per_append_and_at_the_end() {
        let (queue, _) = queue(10);
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut context = Context::from_waker(&waker);
        let mut out = Vec::new();
        assert!(queue.poll_pull(&mut context, &mut out, 8).is_pending());
        assert_eq!(queue.append(&mut vec![item(), item()]).0, 2);
        queue.append(&mut vec![item()]);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(queue.poll_pull(&mut context, &mut out, 2), Poll::Ready(true));
        assert_eq!(out.len(), 2);
        queue.close();
        assert_eq!(queue.poll_pull(&mut context, &mut out, 2), Poll::Ready(true));
        assert_eq!(queue.poll_pull(&mut context, &mut out, 2), Poll::Ready(false));
        assert_eq!(out.len(), 3);
    }

    #[test]
    fn the_bell_rings_once_when_a_full_queue_is_half_empty() {
        let (queue, bell) = queue(4);
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut context = Context::from_waker(&waker);
        queue.append(&mut (0..4).map(|_| item()).collect());
        assert!(queue.poll_accepting(&mut context).is_pending());
        assert!(bell.poll_rung(&mut context).is_pending());
        assert_eq!(queue.look((0, 0)).0, 4);
        let mut out = Vec::new();
        queue.pull(&mut out, 1);
        assert!(bell.answer().is_empty());
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "the reader may go on");
        queue.pull(&mut out, 1);
        assert!(bell.poll_rung(&mut context).is_ready());
        assert_eq!(bell.answer(), [StreamId(7)]);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        queue.pull(&mut out, 2);
        assert!(bell.answer().is_empty());
    }

    #[test]
    fn a_pull_before_the_hub_looks_leaves_room_and_needs_no_bell() {
        let (queue, bell) = queue(4);
        queue.append(&mut (0..4).map(|_| item()).collect());
        let mut out = Vec::new();
        queue.pull(&mut out, 4);
        assert_eq!(queue.look((0, 0)), (0, 0));
        queue.append(&mut vec![item()]);
        queue.pull(&mut out, 4);
        assert!(bell.answer().is_empty());
    }
}
