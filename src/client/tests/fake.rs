//! A server in this process that does what a test tells it to: answer, refuse, hang, or cut its
//! connections in the middle of something.

use super::super::world::{BoxFuture, Tasks};
use crate::env::real::Real;
use crate::env::{Env, Listener, Network};
use crate::proto::etcdserverpb::kv_server::{Kv, KvServer};
use crate::proto::etcdserverpb::lease_server::{Lease, LeaseServer};
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::watch_server::{Watch, WatchServer};
use crate::proto::etcdserverpb::*;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::sync::{mpsc, watch};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// How a request is answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Good,
    Refuse(Status),
    /// Never.
    Hang,
    /// By cutting all connections.
    Cut,
}

/// What a watch stream does, step by step; after the last it stays silent.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Send(WatchResponse),
    Fail(Status),
    Cut,
    /// Ends the stream as if all were well.
    End,
}

type WatchScript = Box<dyn FnMut(&WatchCreateRequest) -> Vec<Step> + Send>;

/// A fake and what it has seen. Stops when dropped.
#[derive(Clone)]
pub(super) struct Fake {
    pub address: String,
    state: Arc<State>,
}

struct State {
    answers: Mutex<VecDeque<Answer>>,
    calls: Mutex<Vec<&'static str>>,
    watch_script: Mutex<WatchScript>,
    /// The start revisions of the watches that were opened.
    watches: Mutex<Vec<i64>>,
    /// TTLs to answer renewals with; `None` cuts instead.
    renewals: Mutex<VecDeque<Option<i64>>>,
    /// Counts cuts; connections end when it changes.
    cuts: watch::Sender<u64>,
    spawn: Box<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>,
}

impl Fake {
    /// Starts a fake that answers the next unary calls as told, then all with [`Answer::Good`].
    pub(super) async fn start(answers: impl IntoIterator<Item = Answer>) -> Fake {
        Fake::start_in(&Real::new(), "127.0.0.1:0", answers).await
    }

    pub(super) async fn start_in<E: Env>(
        env: &E,
        address: &str,
        answers: impl IntoIterator<Item = Answer>,
    ) -> Fake {
        let env = env.clone();
        let mut listener = env.network().bind(address).await.unwrap();
        let spawner = env.clone();
        let state = Arc::new(State {
            answers: Mutex::new(answers.into_iter().collect()),
            calls: Mutex::default(),
            watch_script: Mutex::new(Box::new(|_| Vec::new())),
            watches: Mutex::default(),
            renewals: Mutex::default(),
            cuts: watch::Sender::new(0),
            spawn: Box::new(move |task| spawner.spawn(task)),
        });
        let fake = Fake { address: listener.address().unwrap(), state };
        let routes = Routes::new(KvServer::new(fake.clone()))
            .add_service(WatchServer::new(fake.clone()))
            .add_service(LeaseServer::new(fake.clone()))
            .prepare();
        let state = fake.state.clone();
        env.clone().spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(routes.clone());
                let mut cuts = state.cuts.subscribe();
                let tasks = Tasks(Arc::new(env.clone()));
                env.spawn(async move {
                    let builder = auto::Builder::new(tasks);
                    let serve = builder.serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        biased;
                        _ = cuts.changed() => {}
                        _ = serve => {}
                    }
                });
            }
        });
        fake
    }

    pub(super) fn on_watch(
        &self,
        script: impl FnMut(&WatchCreateRequest) -> Vec<Step> + Send + 'static,
    ) {
        *self.state.watch_script.lock().unwrap() = Box::new(script);
    }

    pub(super) fn renew_with(&self, ttls: impl IntoIterator<Item = Option<i64>>) {
        *self.state.renewals.lock().unwrap() = ttls.into_iter().collect();
    }

    pub(super) fn calls(&self) -> Vec<&'static str> {
        self.state.calls.lock().unwrap().clone()
    }

    pub(super) fn watches(&self) -> Vec<i64> {
        self.state.watches.lock().unwrap().clone()
    }

    pub(super) fn cut(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }

    async fn answer<R: Default>(&self, call: &'static str) -> Result<Response<R>, Status> {
        self.state.calls.lock().unwrap().push(call);
        let answer = self.state.answers.lock().unwrap().pop_front();
        match answer {
            None | Some(Answer::Good) => Ok(Response::new(R::default())),
            Some(Answer::Refuse(status)) => Err(status),
            Some(Answer::Hang) => std::future::pending().await,
            Some(Answer::Cut) => {
                self.cut();
                std::future::pending().await
            }
        }
    }
}

/// A stream of what is sent to a channel.
pub(super) struct Feed<T>(mpsc::UnboundedReceiver<Result<T, Status>>);

impl<T> futures_core::Stream for Feed<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

#[tonic::async_trait]
impl Kv for Fake {
    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.answer("range").await
    }

    type RangeStreamStream = Feed<RangeStreamResponse>;

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.answer("put").await
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        self.answer("delete").await
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.answer("txn").await
    }

    async fn compact(
        &self,
        _: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        self.answer("compact").await
    }
}

#[tonic::async_trait]
impl Watch for Fake {
    type WatchStream = Feed<WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|request| request.request_union);
        let Some(RequestUnion::CreateRequest(create)) = first else {
            return Err(Status::invalid_argument("the first request must create a watch"));
        };
        self.state.watches.lock().unwrap().push(create.start_revision);
        let steps = (self.state.watch_script.lock().unwrap())(&create);
        let (feed, receiver) = mpsc::unbounded_channel();
        let fake = self.clone();
        (self.state.spawn)(Box::pin(async move {
            for step in steps {
                match step {
                    Step::Send(response) => feed.send(Ok(response)).unwrap_or(()),
                    Step::Fail(status) => feed.send(Err(status)).unwrap_or(()),
                    Step::End => return,
                    Step::Cut => {
                        // What was sent before is given the time to leave; a test must hold
                        // either way.
                        for _ in 0..10 {
                            tokio::task::yield_now().await;
                        }
                        fake.cut();
                    }
                }
            }
            while let Ok(Some(_)) = requests.message().await {}
        }));
        Ok(Response::new(Feed(receiver)))
    }
}

#[tonic::async_trait]
impl Lease for Fake {
    async fn lease_grant(
        &self,
        _: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        self.answer("grant").await
    }

    async fn lease_revoke(
        &self,
        _: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.answer("revoke").await
    }

    type LeaseKeepAliveStream = Feed<LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let mut requests = request.into_inner();
        let (feed, receiver) = mpsc::unbounded_channel();
        let fake = self.clone();
        (self.state.spawn)(Box::pin(async move {
            while let Ok(Some(request)) = requests.message().await {
                fake.state.calls.lock().unwrap().push("renew");
                let ttl = fake.state.renewals.lock().unwrap().pop_front().unwrap_or(Some(1));
                match ttl {
                    Some(ttl) => {
                        let response = LeaseKeepAliveResponse { header: None, id: request.id, ttl };
                        feed.send(Ok(response)).unwrap_or(());
                    }
                    None => fake.cut(),
                }
            }
        }));
        Ok(Response::new(Feed(receiver)))
    }

    async fn lease_time_to_live(
        &self,
        _: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        self.answer("ttl").await
    }

    async fn lease_leases(
        &self,
        _: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.answer("leases").await
    }
}
