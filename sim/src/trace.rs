//! Everything that happens, in order, as one hash.
//!
//! Two runs of a seed are the same run if their traces are. What goes in: each delivery on the
//! network with its bytes, each sync of a disk, each fault, each call of a client and its outcome,
//! all with the simulated time. Only the hash and a count are kept; with `--trace` the lines that
//! are not mere deliveries are printed as they come.

use madsim::time::Instant;
use std::fmt::Arguments;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Simulated time of the last event of this process's run, in microseconds: for those outside
/// the simulation who wait for it.
pub static REACHED_US: AtomicU64 = AtomicU64::new(0);

/// The trace of one run. Clones share it.
#[derive(Clone)]
pub struct Trace {
    origin: Instant,
    print: bool,
    state: Arc<Mutex<State>>,
}

struct State {
    hasher: DefaultHasher,
    events: u64,
}

impl Trace {
    pub fn new(print: bool) -> Trace {
        let state = State { hasher: DefaultHasher::new(), events: 0 };
        Trace { origin: Instant::now(), print, state: Arc::new(Mutex::new(state)) }
    }

    /// Simulated time since the run began.
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Something worth a line.
    pub fn event(&self, event: Arguments<'_>) {
        let (now, text) = (self.now(), event.to_string());
        if self.print {
            println!("{:>12.6} {text}", now.as_secs_f64());
        }
        self.add(now, text.as_bytes());
    }

    /// Something too frequent for a line.
    pub fn bytes(&self, kind: u64, bytes: &[u8]) {
        let mut state = self.state.lock().expect("no holder panics");
        kind.hash(&mut state.hasher);
        drop(state);
        self.add(self.now(), bytes);
    }

    fn add(&self, now: Duration, bytes: &[u8]) {
        let mut state = self.state.lock().expect("no holder panics");
        (now, bytes).hash(&mut state.hasher);
        state.events += 1;
        let reached = u64::try_from(now.as_micros()).expect("simulated time is hours at most");
        REACHED_US.store(reached, Ordering::Relaxed);
    }

    /// The hash so far and the number of events.
    pub fn summary(&self) -> (u64, u64) {
        let state = self.state.lock().expect("no holder panics");
        (state.hasher.finish(), state.events)
    }
}
