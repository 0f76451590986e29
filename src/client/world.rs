//! The client's door to time, network and randomness, with the type of the [`Env`] forgotten.
//!
//! Generics stop here: [`Client`](super::Client) is one plain type that servers, tools and tests
//! pass around, whatever world it runs in. The price is a boxed future per sleep and connect.
//!
//! HTTP/2 runs on hyper's connection API with our own executor and timer, because the ready-made
//! gRPC transports start tasks and timers of tokio, which simulation does not have.
//!
//! - Windows are large and fixed: a stream may hold 4 MiB, unless the options say less, that its
//!   reader has not taken, the
//!   connection as good as any amount, so that a reader who sleeps never stops the calls of
//!   others on the same connection. Adaptive windows would cost pings, which etcd's server
//!   counts and punishes.
//! - Pings go out only while a call or stream is open and no more often than etcd allows (5 s),
//!   and find connections whose other end is gone without a word.

use super::wire::RequestBody;
use super::{Options, wire};
use crate::env::{Clock, Env, Network};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::{Executor, Sleep, Timer};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the client asks of the world it runs in.
pub(super) trait World: Send + Sync {
    fn now(&self) -> Duration;
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
    fn random(&self) -> u64;
    /// Opens an HTTP/2 connection and lets it run until the last sender is dropped.
    fn connect<'a>(
        &'a self,
        address: &'a str,
        options: &'a Options,
    ) -> BoxFuture<'a, Result<SendRequest<RequestBody>, String>>;
}

/// A [`World`] made of an [`Env`].
pub(super) struct EnvWorld<E>(pub(super) E);

impl<E: Env> World for EnvWorld<E> {
    fn now(&self) -> Duration {
        self.0.clock().now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(self.0.clock().sleep(duration))
    }

    fn random(&self) -> u64 {
        self.0.random()
    }

    fn connect<'a>(
        &'a self,
        address: &'a str,
        options: &'a Options,
    ) -> BoxFuture<'a, Result<SendRequest<RequestBody>, String>> {
        Box::pin(async move {
            tokio::select! {
                // A connection that is ready at the last moment is still welcome.
                biased;
                connected = open(&self.0, address, options) => connected,
                () = self.0.clock().sleep(options.connect_timeout) => {
                    Err(format!("{address}: no connection within {:?}", options.connect_timeout))
                }
            }
        })
    }
}

async fn open<E: Env>(
    env: &E,
    address: &str,
    options: &Options,
) -> Result<SendRequest<RequestBody>, String> {
    let stream =
        env.network().connect(address).await.map_err(|error| format!("{address}: {error}"))?;
    let mut builder = Builder::new(Tasks(Arc::new(env.clone())));
    builder
        .initial_stream_window_size(options.stream_window_bytes)
        .initial_connection_window_size(wire::CONNECTION_WINDOW_BYTES)
        .max_frame_size(wire::FRAME_BYTES_MAX);
    if let Some(interval) = options.keep_alive_interval {
        builder
            .timer(EnvTimer::new(env.clone()))
            .keep_alive_interval(interval)
            .keep_alive_timeout(options.keep_alive_timeout)
            .keep_alive_while_idle(false);
    }
    let (sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("{address}: {error}"))?;
    // Ends when the last sender is dropped or the connection breaks; callers learn of a break
    // through their own calls.
    env.spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// hyper's executor on `env.spawn`. The `Arc` makes it `Unpin` whatever the world is.
pub(super) struct Tasks<E>(pub(super) Arc<E>);

impl<E> Clone for Tasks<E> {
    fn clone(&self) -> Self {
        Tasks(self.0.clone())
    }
}

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

/// hyper's timer on `env.clock`. hyper speaks of moments as `Instant`, ours are durations since
/// some start: an arbitrary `Instant` taken once stands for that start, and no other is read.
#[expect(clippy::disallowed_types, reason = "hyper's trait names Instant")]
struct EnvTimer<E> {
    env: E,
    origin: std::time::Instant,
}

#[expect(clippy::disallowed_types, reason = "hyper's trait names Instant")]
impl<E: Env> EnvTimer<E> {
    #[expect(clippy::disallowed_methods, reason = "an origin, only ever added to")]
    fn new(env: E) -> EnvTimer<E> {
        EnvTimer { env, origin: std::time::Instant::now() }
    }
}

#[expect(clippy::disallowed_types, reason = "hyper's trait names Instant")]
impl<E: Env> Timer for EnvTimer<E> {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(EnvSleep(Mutex::new(Box::pin(self.env.clock().sleep(duration)))))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    fn now(&self) -> std::time::Instant {
        self.origin + self.env.clock().now()
    }
}

/// hyper wants its sleeps `Sync`; the mutex gives that and is never contended, since polling
/// goes through `&mut`.
struct EnvSleep(Mutex<BoxFuture<'static, ()>>);

impl Future for EnvSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_mut().expect("nobody locks it, so nobody can poison it");
        sleep.as_mut().poll(context)
    }
}

impl Sleep for EnvSleep {}
