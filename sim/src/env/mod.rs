//! The simulated machine a member or client runs on: [`SimEnv`] is the product's
//! [`Env`](quorate::env::Env) over simulated time.
//!
//! - Time is madsim's: it passes only while every task waits. A machine's own [`clock`] may run
//!   faster or slower and have another idea of the date.
//! - Randomness comes in [streams](random) that do not disturb each other.
//! - The [`network`] and the [`disk`] are our own; madsim's are too kind.
//! - Disk work runs at one moment somewhere inside the time it takes, as a storage thread's would:
//!   what other tasks see meanwhile may be from before or after.
//! - Once a machine has lost power nothing it does reaches anybody: its disk answers with errors,
//!   disk work under way never ends, and its packets go nowhere.

#![allow(dead_code, reason = "a mechanism is there before the first plan uses it")]

mod alarm;
pub mod clock;
pub mod disk;
mod image;
pub mod network;
pub mod random;

pub use clock::SimClock;
pub use disk::SimDisk;
pub use network::SimNetwork;
pub use random::Streams;

use crate::oracle::Observer;
use crate::trace::Trace;
use madsim::rand::{Rng, RngCore};
use quorate::env::{Env, Observation};
use random::Random;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a storage thread may take to get to its work.
const THREAD_DELAY_MAX: Duration = Duration::from_micros(200);

/// One boot of one machine.
#[derive(Clone)]
pub struct SimEnv {
    clock: SimClock,
    network: SimNetwork,
    disk: SimDisk,
    trace: Trace,
    random: Arc<Mutex<Random>>,
    /// Who is told of this member's inside; nobody, for a client.
    observer: Option<Observer>,
}

impl SimEnv {
    /// The machine of this disk, whose clock it uses.
    pub fn new(trace: Trace, network: SimNetwork, disk: SimDisk) -> SimEnv {
        let random = Arc::new(Mutex::new(disk.random()));
        SimEnv { clock: disk.clock().of_process(), network, disk, trace, random, observer: None }
    }

    /// The same for a member whose inside is watched.
    pub fn observed(self, observer: Observer) -> SimEnv {
        SimEnv { observer: Some(observer), ..self }
    }
}

impl Env for SimEnv {
    type Clock = SimClock;
    type Network = SimNetwork;
    type Disk = SimDisk;

    const OBSERVED: bool = true;

    fn clock(&self) -> &SimClock {
        &self.clock
    }

    fn network(&self) -> &SimNetwork {
        &self.network
    }

    fn disk(&self) -> &SimDisk {
        &self.disk
    }

    fn random(&self) -> u64 {
        self.random.lock().expect("no holder panics").next_u64()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        madsim::task::spawn(task);
    }

    fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> impl Future<Output = R> + Send + 'static {
        let disk = self.disk.clone();
        // As on a thread: it runs whether or not anybody waits for it.
        let job = madsim::task::spawn(async move {
            madsim::time::sleep(disk.below(THREAD_DELAY_MAX)).await;
            let result = work();
            madsim::time::sleep(disk.take_cost()).await;
            if !disk.has_power() {
                std::future::pending::<()>().await;
            }
            result
        });
        async move {
            match job.await {
                Ok(result) => result,
                // The machine was killed; so is the one who waits, at its next step.
                Err(_) => std::future::pending().await,
            }
        }
    }

    fn trace(&self, event: &dyn Debug) {
        self.trace.event(format_args!("{event:?}"));
    }

    fn observe(&self, fact: Observation<'_>) {
        if let Some(observer) = &self.observer {
            observer.observe(&fact);
        }
    }

    fn mark(&self, place: &'static str) {
        if let Some(observer) = &self.observer {
            observer.mark(place);
        }
    }
}

/// A random duration up to `limit`.
pub fn below(limit: Duration) -> Duration {
    let nanos = u64::try_from(limit.as_nanos()).expect("faults last hours at most");
    Duration::from_nanos(madsim::rand::thread_rng().gen_range(0..=nanos))
}

/// For the tests of the machines.
#[cfg(test)]
pub mod test {
    use crate::plan::NetworkKnobs;
    use std::future::Future;

    /// A good network.
    pub const NETWORK: NetworkKnobs = NetworkKnobs {
        latency_us: 1_000,
        tail_one_in: 0,
        tail_us: 0,
        write_bytes_max: 0,
        pipe_bytes_max: 0,
    };

    /// Runs a test in simulated time.
    pub fn simulated<T>(seed: u64, test: impl Future<Output = T>) -> T {
        madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default())
            .block_on(test)
    }
}
