//! The seam: the only door to time, network, disk, randomness and tasks.
//!
//! The server is generic over [`Env`] and reaches the machine through nothing else, so that the
//! very same code runs in production (`env::real`, tokio and std) and in deterministic
//! simulation, where one seed decides every delay, fault and random number. `clippy.toml` holds
//! the fence: the clock, socket, file, thread and entropy calls of std and tokio are lint errors
//! outside `env/real`. `tokio::sync` and a `biased` `tokio::select!` touch none of these and are
//! fine anywhere.
//!
//! - Pure modules take values or a [`File`], never an `Env`.
//! - Disk calls are synchronous, the shape redb wants. The loops call them inside
//!   [`Env::blocking`]: a storage thread in production, inline plus simulated disk time in
//!   simulation.
//! - Addresses are `host:port` text: production resolves names, simulation maps them.

pub mod marks;
mod observation;
pub mod real;

pub use observation::{Hard, Observation, Promise, Role, STATE_HASH_INTERVAL};

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};

/// A world to run in. Cheap to clone.
pub trait Env: Clone + Send + Sync + 'static {
    type Clock: Clock;
    type Network: Network;
    type Disk: Disk;

    /// Whether anybody listens to [`Env::observe`]. Who would have to gather what to tell asks
    /// this first, and is compiled out in production.
    const OBSERVED: bool = false;

    fn clock(&self) -> &Self::Clock;
    fn network(&self) -> &Self::Network;
    fn disk(&self) -> &Self::Disk;

    /// 64 random bits; not for secrets.
    fn random(&self) -> u64;

    /// Runs a task on its own until it ends. The caller arranges for it to end.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);

    /// Runs code that waits for the disk, off the threads that serve.
    fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> impl Future<Output = R> + Send + 'static;

    /// Adds to the run's event trace, which simulation hashes; nothing in production.
    fn trace(&self, _event: &dyn Debug) {}

    /// Tells a fact of this member's inside to simulation's oracles; nothing in production.
    fn observe(&self, _fact: Observation<'_>) {}

    /// Marks a rare place of [`marks::ALL`] as reached, for simulation's coverage table; nothing in
    /// production.
    fn mark(&self, _place: &'static str) {}
}

/// Time.
pub trait Clock: Clone + Send + Sync + 'static {
    /// Time since some fixed moment; never goes back. Everything that measures uses this.
    fn now(&self) -> Duration;
    /// The calendar; may jump. Only for ids and logs.
    fn wall(&self) -> SystemTime;
    /// Ends `duration` later.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static;
}

/// Streams of bytes to other processes.
pub trait Network: Clone + Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    type Listener: Listener<Stream = Self::Stream>;

    /// Listens at `host:port`.
    fn bind(&self, address: &str) -> impl Future<Output = io::Result<Self::Listener>> + Send;
    /// Connects to `host:port`.
    fn connect(&self, address: &str) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// A bound address.
pub trait Listener: Send + 'static {
    type Stream;
    /// The next connection and who opened it.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, String)>> + Send;
    /// Where it listens, with the port the system chose when asked for port 0.
    fn address(&self) -> io::Result<String>;
}

/// A file system. Nothing is durable before it is synced: not a file's bytes before
/// [`File::sync_data`], not a name before [`Disk::sync_directory`].
pub trait Disk: Clone + Send + Sync + 'static {
    type File: File;
    /// Released when dropped.
    type Lock: Send + 'static;

    /// Opens for reading and writing; `NotFound` if it is not there.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Creates empty, replacing what was there, and opens for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    fn exists(&self, path: &Path) -> io::Result<bool>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names in a directory, sorted.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Creates a directory (mode 0700) and its parents.
    fn create_directory(&self, directory: &Path) -> io::Result<()>;
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// Takes the exclusive lock on a file, creating it; `WouldBlock` if another process has it.
    fn lock(&self, path: &Path) -> io::Result<Self::Lock>;
    /// Bytes that can still be written on the file system a path lies on.
    fn available(&self, path: &Path) -> io::Result<u64>;
}

/// An open file.
pub trait File: Debug + Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `out`, or fails with `UnexpectedEof`.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all, growing the file if needed.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Cuts or grows; new bytes are zero.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Grows to `len` (new bytes zero) with the space reserved, so that writes below it
    /// cannot run out of disk.
    fn reserve(&self, len: u64) -> io::Result<()>;
    /// Returns once all that was written is durable. After an error nothing is known about
    /// what is durable: never retry, stop the node.
    fn sync_data(&self) -> io::Result<()>;
}
