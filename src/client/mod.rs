//! Our own client of etcd's v3 API.
//!
//! It exists beside the many others because it must run wherever the server runs: in production
//! and inside deterministic simulation, over [`Env`](crate::env::Env). So it speaks HTTP/2
//! through hyper's connection API and keeps its own deadlines, and nothing in it reads a clock,
//! opens a socket or starts a task but through the world it was given.
//!
//! | file | idea |
//! |---|---|
//! | `wire` | a gRPC call and a gRPC stream on one HTTP/2 connection |
//! | `endpoints` | which of several servers to talk to, and when to try a dead one again |
//! | `method` | the table of calls and which of them only read |
//! | `error` | what went wrong, and whether a write may have happened all the same |
//! | `kv`, `watch`, `lease`, `maintenance` | the API in words a caller likes |
//!
//! What a caller may rely on:
//!
//! - A call ends by its deadline, whatever the network does.
//! - A write is executed at most once per call: it is sent again only when it is certain that it
//!   was not executed. Reads are sent again, to the next endpoint, until they succeed.
//! - [`Error::maybe_executed`] being false is a promise; a checker of histories may use it.
//! - A [`Watcher`] delivers each revision of its range once and in order across any number of
//!   lost connections, or ends with an error that says why it cannot.
//! - Dropping a call, watcher or stream cancels it; dropping the client closes its connections.
//!
//! It talks to one endpoint at a time and stays with it while it works, so that calls made one
//! after the other see one server's state; it does not spread load. TLS and tokens of etcd's auth
//! are not here: the server has neither yet.

mod endpoints;
mod error;
mod kv;
mod lease;
mod maintenance;
pub mod method;
mod watch;
mod wire;
mod world;

pub use error::{Error, Result};
pub use kv::{
    Delete, DeleteReply, Get, GetReply, Op, OpReply, Put, PutReply, Txn, TxnReply, compare,
    prefix_end,
};
pub use lease::KeepAlive;
pub use method::Method;
pub use watch::{Watch, WatchUpdate, Watcher};
pub use wire::{Requests, Responses};

use crate::env::Env;
use bytes::Bytes;
use endpoints::Endpoints;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use wire::Channel;
use world::{EnvWorld, World};

/// Times a call is sent at most (clientv3: `defaultUnaryMaxRetries`).
const ATTEMPTS_MAX: u32 = 100;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a call may take with all its repetitions. `None`: for ever. The default, 10 s, is
    /// longer than the 7 s after which etcd itself gives up, so the server's reason arrives.
    pub deadline: Option<Duration>,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// First pause before something that failed is tried again; it doubles with each failure.
    pub backoff_min: Duration,
    /// Longest such pause.
    pub backoff_max: Duration,
    /// A connection that was silent this long while something is open on it is asked for a sign
    /// of life; `None`: never. etcd closes connections that ask more often than every 5 s.
    pub keep_alive_interval: Option<Duration>,
    /// How long it may take to answer.
    pub keep_alive_timeout: Duration,
    /// Ask servers to refuse calls, and end streams, while they know of no leader. Without it a
    /// watch on a member cut off from the others hangs silently.
    pub require_leader: bool,
    /// Bytes of one stream a server may send ahead of its reader, at most 2 GiB.
    pub stream_window_bytes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            deadline: Some(Duration::from_secs(10)),
            connect_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(25),
            backoff_max: Duration::from_secs(2),
            keep_alive_interval: Some(Duration::from_secs(10)),
            keep_alive_timeout: Duration::from_secs(5),
            require_leader: false,
            stream_window_bytes: wire::STREAM_WINDOW_BYTES,
        }
    }
}

/// A client of one cluster. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    deadline: Option<Duration>,
}

struct Shared {
    world: Box<dyn World>,
    options: Options,
    endpoints: Endpoints,
}

/// What is known of a call when its deadline passes.
struct Progress {
    /// Whether a server may have got the request and not yet said no.
    sent: AtomicBool,
    /// The endpoint it went to last.
    endpoint: AtomicUsize,
}

impl Client {
    /// A client of the servers at `endpoints` (`host:port` or `http://host:port`), tried in that
    /// order. Returns at once: it connects when there is something to send.
    pub fn connect<E: Env>(
        env: &E,
        endpoints: impl IntoIterator<Item = impl AsRef<str>>,
        options: Options,
    ) -> Result<Client> {
        let endpoints = Endpoints::parse(endpoints)?;
        let deadline = options.deadline;
        let world = Box::new(EnvWorld(env.clone()));
        Ok(Client { shared: Arc::new(Shared { world, options, endpoints }), deadline })
    }

    /// The same client with another deadline for its calls.
    pub fn with_deadline(&self, deadline: Option<Duration>) -> Client {
        Client { shared: self.shared.clone(), deadline }
    }

    /// How many connections it has made so far. Who gave it one endpoint and makes one call at a
    /// time learns from this whether an answer came over a new connection.
    pub fn connections(&self) -> u64 {
        self.shared.endpoints.connections()
    }

    /// Any unary call, with etcd's own messages.
    pub async fn call<Q: Message, R: Message + Default>(
        &self,
        method: &Method<Q, R>,
        request: &Q,
    ) -> Result<R> {
        let answer = self.send(method.path, method.repeatable, wire::frame(request)).await?;
        wire::decode(answer)
    }

    async fn send(&self, path: &'static str, repeatable: bool, message: Bytes) -> Result<Bytes> {
        let progress =
            Progress { sent: AtomicBool::new(false), endpoint: AtomicUsize::new(usize::MAX) };
        let attempts = self.attempt(path, repeatable, message, &progress);
        let Some(deadline) = self.deadline else { return attempts.await };
        tokio::select! {
            // An answer that is there counts, even in the last moment.
            biased;
            outcome = attempts => outcome,
            () = self.shared.world.sleep(deadline) => Err(self.late(&progress)),
        }
    }

    /// Sends until it succeeds or must not be sent again.
    async fn attempt(
        &self,
        path: &'static str,
        repeatable: bool,
        message: Bytes,
        progress: &Progress,
    ) -> Result<Bytes> {
        let Shared { world, options, endpoints } = &*self.shared;
        let mut failures = 0;
        loop {
            let mut channel = endpoints.channel(&**world, options).await;
            progress.sent.store(true, Ordering::Relaxed);
            progress.endpoint.store(channel.endpoint, Ordering::Relaxed);
            let error = match channel.unary(path, message.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !error.maybe_executed() {
                progress.sent.store(false, Ordering::Relaxed);
            }
            if error.code() == tonic::Code::Unavailable {
                endpoints.leave(channel.endpoint, &error.to_string());
            }
            failures += 1;
            if failures == ATTEMPTS_MAX || !error.is_retryable(repeatable) {
                return Err(error);
            }
            // The others are asked at once; a pause comes when all of them have failed.
            let count = u32::try_from(endpoints.len()).expect("nobody has four billion endpoints");
            if failures.is_multiple_of(count) {
                let rounds = failures / count - 1;
                world.sleep(backoff(&**world, options, rounds)).await;
            }
        }
    }

    /// A connection for a stream, within the deadline.
    async fn channel(&self) -> Result<Channel> {
        let Shared { world, options, endpoints } = &*self.shared;
        let connected = endpoints.channel(&**world, options);
        let Some(deadline) = self.deadline else { return Ok(connected.await) };
        tokio::select! {
            // A connection that is there counts, even in the last moment.
            biased;
            channel = connected => Ok(channel),
            () = world.sleep(deadline) => {
                Err(Error::Deadline { sent: false, reason: endpoints.last_error() })
            }
        }
    }

    /// The error of a call whose deadline has passed. Its endpoint is left, for it may be cut off.
    fn late(&self, progress: &Progress) -> Error {
        let sent = progress.sent.load(Ordering::Relaxed);
        let endpoints = &self.shared.endpoints;
        if sent {
            endpoints.leave(progress.endpoint.load(Ordering::Relaxed), "no answer in time");
            return Error::Deadline { sent, reason: String::new() };
        }
        Error::Deadline { sent, reason: endpoints.last_error() }
    }
}

/// A pause that doubles with each failure, half of it random so that clients do not come back in
/// step.
fn backoff(world: &dyn World, options: &Options, failures: u32) -> Duration {
    let full = options.backoff_min.saturating_mul(1 << failures.min(20)).min(options.backoff_max);
    let nanos = u64::try_from(full.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanos / 2 + world.random() % (nanos / 2 + 1))
}

#[cfg(test)]
mod tests;
