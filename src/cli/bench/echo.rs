//! A server that answers at once and keeps nothing.
//!
//! It shows what the machine, the kernel and gRPC cost by themselves: no server behind the same
//! kind of accept loop can be cheaper, so the difference to it is what a server's own work costs.

use super::fail;
use crate::env::real::Real;
use crate::env::{Env, Listener, Network};
use crate::proto::etcdserverpb::kv_server::{Kv, KvServer};
use crate::proto::etcdserverpb::*;
use crate::proto::mvccpb::KeyValue;
use bytes::Bytes;
use clap::Args;
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use prost::Message;
use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// Pause after the system refused to accept: most often it has no file descriptors left, and
/// trying again at once would only burn the CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Args, Debug)]
pub(super) struct EchoArgs {
    /// Where to listen; port 0 lets the system choose
    #[arg(long, default_value = "127.0.0.1:23790")]
    listen: String,
    /// Bytes of the value in answers to reads
    #[arg(long, default_value_t = 256)]
    val_size: usize,
    /// Threads
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
}

/// Serves until it is killed.
pub(super) fn run(args: EchoArgs) -> ExitCode {
    let serve = async {
        let env = Real::new();
        let mut listener = env
            .network()
            .bind(&args.listen)
            .await
            .map_err(|error| format!("{}: {error}", args.listen))?;
        let address = listener.address().map_err(|error| error.to_string())?;
        println!("listening on {address}, process {}", std::process::id());
        serve(&env, &mut listener, args.val_size).await
    };
    match super::on_threads(args.threads, serve) {
        Ok(never) => match never {},
        Err(reason) => fail(&reason),
    }
}

/// Answers everyone who connects.
pub(super) async fn serve<E: Env>(
    env: &E,
    listener: &mut <E::Network as Network>::Listener,
    value_bytes: usize,
) -> Result<std::convert::Infallible, String> {
    use crate::env::Clock;
    let routes = Routes::new(KvServer::new(Echo::new(value_bytes))).prepare();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            env.clock().sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let service = TowerToHyperService::new(routes.clone());
        let tasks = Tasks(env.clone());
        env.spawn(async move {
            let builder = auto::Builder::new(tasks);
            // How a connection ends is its client's business.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// hyper's executor on `env.spawn`.
#[derive(Clone)]
struct Tasks<E>(E);

impl<E, F> Executor<F> for Tasks<E>
where
    E: Env,
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.0.spawn(async move {
            future.await;
        });
    }
}

/// Answers of the right kind and size.
struct Echo {
    pair: Bytes,
}

impl Echo {
    fn new(value_bytes: usize) -> Echo {
        let pair = KeyValue {
            key: Bytes::from_static(b"0000000000000000"),
            create_revision: 2,
            mod_revision: 2,
            version: 1,
            value: vec![b'x'; value_bytes].into(),
            lease: 0,
        };
        Echo { pair: pair.encode_to_vec().into() }
    }
}

fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader { cluster_id: 1, member_id: 1, revision: 2, raft_term: 1 })
}

/// A stream that has nothing to say.
struct Nothing;

impl futures_core::Stream for Nothing {
    type Item = Result<RangeStreamResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(None)
    }
}

#[tonic::async_trait]
impl Kv for Echo {
    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let kvs = vec![self.pair.clone()];
        Ok(Response::new(RangeResponse { header: header(), kvs, more: false, count: 1 }))
    }

    type RangeStreamStream = Nothing;

    async fn range_stream(&self, _: Request<RangeRequest>) -> Result<Response<Nothing>, Status> {
        Ok(Response::new(Nothing))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        Ok(Response::new(PutResponse { header: header(), ..Default::default() }))
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        Ok(Response::new(DeleteRangeResponse { header: header(), ..Default::default() }))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let header = header();
        Ok(Response::new(TxnResponse { header, succeeded: true, ..Default::default() }))
    }

    async fn compact(
        &self,
        _: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        Ok(Response::new(CompactionResponse { header: header() }))
    }
}
