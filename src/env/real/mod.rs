//! Production: tokio for time, sockets and tasks, std for files. The only place allowed to use
//! them; the lints that ban them elsewhere are lifted here and nowhere else.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod disk;

pub use disk::{RealDisk, RealFile};

use super::{Clock, Env, Listener, Network};
use socket2::{SockRef, TcpKeepalive};
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use std::{collections::hash_map::RandomState, hash::BuildHasher};

/// Silence on a connection after which the system asks the other side whether it is there, how
/// often it repeats that, and how many times.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_RETRIES: u32 = 3;

/// The machine we run on.
#[derive(Clone)]
pub struct Real {
    clock: RealClock,
    network: RealNetwork,
    disk: RealDisk,
}

impl Real {
    pub fn new() -> Real {
        Real { clock: RealClock { origin: Instant::now() }, network: RealNetwork, disk: RealDisk }
    }

    /// Runs `main` on a runtime with a worker for each core.
    pub fn run<T>(main: impl Future<Output = T>) -> io::Result<T> {
        Real::run_to_end(tokio::runtime::Builder::new_multi_thread(), main)
    }

    /// Runs `main` on so many threads, at least one; with one, that of the caller.
    pub fn run_on<T>(threads: usize, main: impl Future<Output = T>) -> io::Result<T> {
        let mut builder = match threads {
            0 | 1 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        builder.worker_threads(threads.max(1));
        Real::run_to_end(builder, main)
    }

    fn run_to_end<T>(
        mut builder: tokio::runtime::Builder,
        main: impl Future<Output = T>,
    ) -> io::Result<T> {
        let runtime = builder.enable_all().build()?;
        let result = runtime.block_on(main);
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(result)
    }
}

impl Default for Real {
    fn default() -> Self {
        Real::new()
    }
}

impl Env for Real {
    type Clock = RealClock;
    type Network = RealNetwork;
    type Disk = RealDisk;

    fn clock(&self) -> &RealClock {
        &self.clock
    }

    fn network(&self) -> &RealNetwork {
        &self.network
    }

    fn disk(&self) -> &RealDisk {
        &self.disk
    }

    fn random(&self) -> u64 {
        // RandomState draws its key from the system's entropy once per thread and steps it.
        static CALLS: AtomicU64 = AtomicU64::new(0);
        RandomState::new().hash_one(CALLS.fetch_add(1, Ordering::Relaxed))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> impl Future<Output = R> + Send + 'static {
        let handle = tokio::task::spawn_blocking(work);
        async move {
            match handle.await {
                Ok(result) => result,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // Only at shutdown: the runtime is going away and nobody needs the result.
                Err(_) => std::future::pending().await,
            }
        }
    }
}

/// The system's clocks.
#[derive(Clone)]
pub struct RealClock {
    origin: Instant,
}

impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        tokio::time::sleep(duration)
    }
}

/// TCP.
#[derive(Clone)]
pub struct RealNetwork;

impl Network for RealNetwork {
    type Stream = tokio::net::TcpStream;
    type Listener = RealListener;

    async fn bind(&self, address: &str) -> io::Result<RealListener> {
        Ok(RealListener(tokio::net::TcpListener::bind(address).await?))
    }

    async fn connect(&self, address: &str) -> io::Result<tokio::net::TcpStream> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A bound TCP port.
pub struct RealListener(tokio::net::TcpListener);

impl Listener for RealListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&mut self) -> io::Result<(tokio::net::TcpStream, String)> {
        let (stream, peer) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        // A client whose machine is gone says nothing; the system finds out in about two minutes.
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_TIME)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok((stream, peer.to_string()))
    }

    fn address(&self) -> io::Result<String> {
        Ok(self.0.local_addr()?.to_string())
    }
}
