//! The accept loop, and the way of a request to its service.

use super::grpc::{self, Services};
use super::plain;
use crate::env::{Env, Listener, Network};
use crate::server::{Handle, stopped};
use crate::types::{Error, MemberId};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service as _;

use crate::proto::etcdserverpb::{
    cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
    maintenance_server::MaintenanceServer, watch_server::WatchServer,
};
use crate::proto::health::health_server::HealthServer;

/// Bytes a client may send on one stream before we grant more.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes a client may send on one connection before we grant more.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes buffered for one stream whose client does not read.
const STREAM_SEND_BUFFER_BYTES: usize = 256 * 1024;

/// How to serve.
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    /// Streams a client may have open on one connection.
    pub max_concurrent_streams: u32,
    /// Largest message a client may send, framing included.
    pub message_bytes_max: usize,
}

/// Runs hyper's tasks on the environment.
#[derive(Clone)]
struct Executor<E>(E);

impl<E: Env, F> hyper::rt::Executor<F> for Executor<E>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(async move {
            future.await;
        });
    }
}

/// Accepts connections until `stopping`; then lets open ones finish what they do. `busy` is held
/// until the last of them has.
pub async fn serve<E: Env>(
    env: E,
    mut listener: <E::Network as Network>::Listener,
    handle: Handle,
    options: ServeOptions,
    mut stopping: watch::Receiver<bool>,
    busy: mpsc::Sender<()>,
) {
    let service = ClientService::new(handle, stopping.clone(), options.message_bytes_max);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut stopping) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = serve_connection(
                    env.clone(),
                    stream,
                    service.clone(),
                    options,
                    stopping.clone(),
                );
                let busy = busy.clone();
                env.spawn(async move {
                    connection.await;
                    drop(busy);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: pause rather than spin.
                tracing::warn!(%error, "failed to accept a client connection");
                let pause = std::time::Duration::from_millis(100);
                crate::env::Clock::sleep(env.clock(), pause).await;
            }
        }
    }
}

async fn serve_connection<E: Env>(
    env: E,
    stream: <E::Network as Network>::Stream,
    service: ClientService,
    options: ServeOptions,
    mut stopping: watch::Receiver<bool>,
) {
    let mut builder = auto::Builder::new(Executor(env));
    builder
        .http2()
        .max_concurrent_streams(options.max_concurrent_streams)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(STREAM_SEND_BUFFER_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        // A connection that breaks is the client's affair.
        _ = connection.as_mut() => return,
        () = stopped(&mut stopping) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// Finds the service for a request.
#[derive(Clone)]
struct ClientService {
    handle: Handle,
    kv: KvServer<Services>,
    watch: WatchServer<Services>,
    lease: LeaseServer<Services>,
    cluster: ClusterServer<Services>,
    maintenance: MaintenanceServer<Services>,
    health: HealthServer<Services>,
}

impl ClientService {
    fn new(handle: Handle, stopping: watch::Receiver<bool>, bytes_max: usize) -> ClientService {
        let services = std::sync::Arc::new(Services::new(handle.clone(), stopping));
        macro_rules! server {
            ($server:ident) => {
                $server::from_arc(services.clone())
                    .max_decoding_message_size(bytes_max)
                    .max_encoding_message_size(usize::MAX)
            };
        }
        ClientService {
            handle,
            kv: server!(KvServer),
            watch: server!(WatchServer),
            lease: server!(LeaseServer),
            cluster: server!(ClusterServer),
            maintenance: server!(MaintenanceServer),
            health: server!(HealthServer),
        }
    }

    fn refuse(&self, request: &Request<Incoming>) -> Option<Status> {
        let wants_leader = request.headers().get("hasleader").is_some_and(|value| value == "true");
        let leaderless = self.handle.status().leadership().leader == MemberId(0);
        (wants_leader && leaderless).then(|| super::status(Error::NoLeader))
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl hyper::service::Service<Request<Incoming>> for ClientService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let Some((service, _)) = service.filter(|_| is_grpc(&request)) else {
            let answer = plain::answer(&self.handle, request.method(), path);
            return Box::pin(answer);
        };
        if let Some(status) = self.refuse(&request) {
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        let answer = match service {
            KvServer::<Services>::NAME => self.kv.clone().call(request),
            WatchServer::<Services>::NAME => self.watch.clone().call(request),
            LeaseServer::<Services>::NAME => self.lease.clone().call(request),
            ClusterServer::<Services>::NAME => self.cluster.clone().call(request),
            MaintenanceServer::<Services>::NAME => self.maintenance.clone().call(request),
            HealthServer::<Services>::NAME => self.health.clone().call(request),
            unknown => {
                let status = Status::unimplemented(format!("unknown service {unknown}"));
                return Box::pin(std::future::ready(Ok(status.into_http())));
            }
        };
        Box::pin(async move { answer.await.map(reword_too_large) })
    }
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    let content_type = request.headers().get(http::header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// tonic refuses a message over the limit with a code and text of its own; clients know the ones
/// of grpc-go.
fn reword_too_large(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    if headers.get("grpc-status").is_none_or(|code| code != "11") {
        return response;
    }
    let text = headers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or("");
    if let Some(status) = grpc::message_too_large(&text.replace("%20", " ")) {
        let text = status.message().replace(' ', "%20");
        headers.insert("grpc-status", HeaderValue::from_static("8"));
        if let Ok(text) = HeaderValue::from_str(&text) {
            headers.insert("grpc-message", text);
        }
    }
    response
}
