//! The loop that feeds the watch hub: changes from the apply loop and requests from clients come
//! in by one queue, so a watch created after a write was acknowledged is created after its event.

use super::history::StoreHistory;
use super::stopped;
use crate::env::{Clock, Env};
use crate::proto::etcdserverpb::WatchRequest;
use crate::store::StoreError;
use crate::types::Revision;
use crate::watch::{Hub, HubOptions, RevisionEvents, StreamId, StreamQueue};
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
        Ok(HubLoop { env, hub, history, inputs, progress_interval, stopping })
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
        }
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
