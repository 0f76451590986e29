//! Watch: requests go to the hub, responses come from the stream's queue.

use super::{Services, Stream, sign};
use crate::api::status;
use crate::proto::etcdserverpb::{WatchRequest, WatchResponse, watch_server::Watch};
use crate::server::{Handle, HubInput, StreamId, StreamQueue, stopped};
use crate::types::{Error, MemberId};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tonic::{Request, Response, Status, Streaming};

/// Responses taken from the queue at a time.
const PULL_MAX: usize = 128;
/// Elections a stream that asked for a leader goes without one before it is cut.
const LEADERLESS_ELECTIONS_MAX: u32 = 3;

#[tonic::async_trait]
impl Watch for Services {
    type WatchStream = Stream<WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let needs_leader = request.metadata().get("hasleader").is_some_and(|value| value == "true");
        let id = StreamId(self.handle.next_stream_id());
        let (reply, opened) = tokio::sync::oneshot::channel();
        self.handle.tell_hub(HubInput::Open(id, reply)).await.map_err(status)?;
        let opened = opened.await.map_err(|_| status(Error::Stopped))?;
        let queue = opened.ok_or_else(|| status(Error::TooManyRequests))?;
        let end = Arc::new(End::default());
        let (alive, gone) = tokio::sync::oneshot::channel();
        let reader = read_requests(
            self.handle.clone(),
            queue.clone(),
            request.into_inner(),
            end.clone(),
            gone,
            needs_leader,
            self.stopping.clone(),
        );
        self.handle.spawn(Box::pin(reader));
        let responses = Responses {
            handle: self.handle.clone(),
            queue,
            pulled: Vec::new(),
            ready: VecDeque::new(),
            end,
            ended: false,
            _alive: alive,
        };
        Ok(Response::new(Box::pin(responses)))
    }
}

/// How the stream ends once the queue is empty: `None` = without an error.
#[derive(Default)]
struct End(Mutex<Option<Status>>);

impl End {
    fn set(&self, status: Status) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }

    fn take(&self) -> Option<Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Hands the client's requests to the hub until the stream ends, then closes it there.
async fn read_requests(
    handle: Handle,
    queue: Arc<StreamQueue>,
    mut requests: Streaming<WatchRequest>,
    end: Arc<End>,
    mut gone: tokio::sync::oneshot::Receiver<()>,
    needs_leader: bool,
    mut stopping: tokio::sync::watch::Receiver<bool>,
) {
    let id = queue.id();
    loop {
        // A client that asks but does not listen is read no further.
        std::future::poll_fn(|context| queue.poll_accepting(context)).await;
        if queue.is_closed() {
            break;
        }
        tokio::select! {
            biased;
            () = stopped(&mut stopping) => break,
            () = without_leader(&handle), if needs_leader => {
                end.set(status(Error::NoLeader));
                break;
            }
            _ = &mut gone => break,
            request = requests.message() => match request {
                Ok(Some(request)) => {
                    if handle.tell_hub(HubInput::Request(id, request)).await.is_err() {
                        break;
                    }
                }
                // The client has said all it wants to say, and still listens.
                Ok(None) => {
                    tokio::select! {
                        biased;
                        () = stopped(&mut stopping) => {}
                        () = without_leader(&handle), if needs_leader => {
                            end.set(status(Error::NoLeader));
                        }
                        _ = &mut gone => {}
                    }
                    break;
                }
                Err(error) => {
                    end.set(error);
                    break;
                }
            }
        }
    }
    let _ = handle.tell_hub(HubInput::Close(id)).await;
}

/// Ends when there was no leader for some elections in a row.
async fn without_leader(handle: &Handle) {
    let mut missed = 0;
    while missed < LEADERLESS_ELECTIONS_MAX {
        handle.sleep(handle.settings().election).await;
        let leaderless = handle.status().leadership().leader == MemberId(0);
        missed = if leaderless { missed + 1 } else { 0 };
    }
}

/// The responses of one stream, taken from its queue in batches.
struct Responses {
    handle: Handle,
    queue: Arc<StreamQueue>,
    pulled: Vec<WatchResponse>,
    ready: VecDeque<WatchResponse>,
    end: Arc<End>,
    ended: bool,
    /// Tells the task that reads requests when this is dropped.
    _alive: tokio::sync::oneshot::Sender<()>,
}

impl futures_core::Stream for Responses {
    type Item = Result<WatchResponse, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<WatchResponse, Status>>> {
        let this = &mut *self;
        loop {
            if let Some(mut response) = this.ready.pop_front() {
                let revision = response.header.as_ref().map_or(0, |header| header.revision);
                response.header = Some(sign(&this.handle, revision));
                return Poll::Ready(Some(Ok(response)));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match this.queue.poll_pull(context, &mut this.pulled, PULL_MAX) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(true) => this.ready.extend(this.pulled.drain(..)),
                Poll::Ready(false) => {
                    this.ended = true;
                    if let Some(status) = this.end.take() {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
            }
        }
    }
}

impl Drop for Responses {
    /// The client went away: the hub must forget its watchers.
    fn drop(&mut self) {
        let (handle, id) = (self.handle.clone(), self.queue.id());
        if !handle.try_tell_hub(HubInput::Close(id)) {
            let later = handle.clone();
            handle.spawn(Box::pin(async move {
                let _ = later.tell_hub(HubInput::Close(id)).await;
            }));
        }
    }
}
