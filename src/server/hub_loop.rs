//! The loop that feeds the watch hub: changes from the apply loop and requests from clients come
//! in by one queue, so a watch created after a write was acknowledged is created after its event.

use super::history::StoreHistory;
use super::stopped;
use crate::env::{Clock, Env};
use crate::proto::etcdserverpb::WatchRequest;
use crate::store::StoreError;
use crate::types::Revision;
use crate::watch::{Hub, HubOptions, RevisionEvents, Seldom, StreamId, StreamQueue};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Inputs taken before lagging watchers get a turn.
const TURN_INPUTS_MAX: usize = 256;
/// Events looked at or delivered to lagging watchers in a turn.
const CATCH_UP_BUDGET: usize = 10_000;

/// What the loop is told.
pub(crate) enum HubInput {
    Batch(Vec<HubInput>),
    /// A revision changed keys.
    Changed(Arc<RevisionEvents>),
    Compacted(Revision),
    /// A leader's snapshot replaced the store.
    Restored {
        revision: Revision,
        compacted: Revision,
    },
    /// A client opened a stream; `None` when there are too many.
    Open(StreamId, oneshot::Sender<Option<Arc<StreamQueue>>>),
    Request(StreamId, WatchRequest),
    Close(StreamId),
}

pub(super) struct HubLoop<E: Env> {
    pub env: E,
    pub hub: Hub,
    pub history: StoreHistory,
    pub inputs: mpsc::Receiver<HubInput>,
    pub progress_interval: Duration,
    pub stopping: watch::Receiver<bool>,
    /// What is marked already.
    marked: Seldom,
}

impl<E: Env> HubLoop<E> {
    pub(super) fn new(
        env: E,
        history: StoreHistory,
        inputs: mpsc::Receiver<HubInput>,
        progress_interval: Duration,
        fragment_bytes: usize,
        stopping: watch::Receiver<bool>,
    ) -> Result<HubLoop<E>, StoreError> {
        let options = HubOptions { fragment_bytes, ..HubOptions::default() };
        let (revision, compacted) = (history.reader.revision()?, history.reader.compacted()?);
        let hub = Hub::new(revision, compacted, options);
        let marked = Seldom::default();
        Ok(HubLoop { env, hub, history, inputs, progress_interval, stopping, marked })
    }

    pub(super) async fn run(mut self) {
        let bell = self.hub.bell();
        let mut more = false;
        loop {
            let wake = self.hub.next_tick();
            let clock = self.env.clock();
            let tick = wake.map(|wake| clock.sleep(wake.saturating_sub(clock.now())));
            tokio::select! {
                biased;
                () = stopped(&mut self.stopping) => return,
                // What happened comes before reading what happened long ago.
                input = self.inputs.recv() => {
                    let Some(input) = input else { return };
                    self.take(input);
                    for _ in 1..TURN_INPUTS_MAX {
                        let Ok(input) = self.inputs.try_recv() else { break };
                        self.take(input);
                    }
                }
                () = std::future::poll_fn(|context| bell.poll_rung(context)) => {}
                () = sleep_or_never(tick) => {
                    let now = self.env.clock().now();
                    self.hub.tick(now);
                }
                () = std::future::ready(()), if more => {}
            }
            more = self.hub.catch_up(&self.history, CATCH_UP_BUDGET);
            self.mark();
        }
    }

    /// The hub only counts; it knows no world to tell.
    fn mark(&mut self) {
        if !E::OBSERVED {
            return;
        }
        let (before, now) = (self.marked, self.hub.seldom());
        self.marked = now;
        let mark = |place, before: u64, now: u64| {
            if now > before {
                self.env.mark(place);
            }
        };
        mark("watch: a slow stream falls behind", before.slowed, now.slowed);
        mark("watch: overtaken by a snapshot", before.overtaken, now.overtaken);
        mark("watch: begins in the future", before.future, now.future);
        mark("watch: reads the store's history", before.read_store, now.read_store);
        mark("watch: reads recent events", before.read_recent, now.read_recent);
        mark("watch: caught up", before.caught_up, now.caught_up);
        mark("watch: canceled by a compaction", before.canceled, now.canceled);
        mark("watch: a response in fragments", before.fragmented, now.fragmented);
        mark("watch: progress waits for the turn", before.progress_waited, now.progress_waited);
        mark("watch: progress withheld", before.progress_withheld, now.progress_withheld);
        mark("watch: no notification yet", before.progress_left_out, now.progress_left_out);
    }

    fn take(&mut self, input: HubInput) {
        match input {
            HubInput::Batch(inputs) => inputs.into_iter().for_each(|input| self.take(input)),
            HubInput::Changed(changes) => self.hub.apply(changes, &self.history),
            HubInput::Compacted(revision) => self.hub.compacted(revision),
            HubInput::Restored { revision, compacted } => self.hub.restored(revision, compacted),
            HubInput::Open(id, reply) => {
                // Up to a tenth longer, so that streams opened together do not tick together.
                let jitter = self.progress_interval / 10 / 100 * (self.env.random() % 100) as u32;
                let interval = self.progress_interval + jitter;
                let queue = self.hub.open_stream(id, self.env.clock().now(), interval).ok();
                if queue.is_none() {
                    self.env.mark("watch: too many streams");
                }
                if reply.send(queue).is_err() {
                    // The client went away meanwhile.
                    self.hub.close_stream(id);
                }
            }
            HubInput::Request(id, request) => self.hub.request(id, request),
            HubInput::Close(id) => self.hub.close_stream(id),
        }
    }
}

async fn sleep_or_never(sleep: Option<impl Future<Output = ()>>) {
    match sleep {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}
