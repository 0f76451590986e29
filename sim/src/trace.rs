//! Everything that happens, in order, as one hash.
//!
//! Two runs of a seed are the same run if their traces are. What goes in: each delivery on the
//! network with its bytes, each sync of a disk, each fault, each call of a client and its outcome,
//! all with the simulated time. Only the hash and a count are kept; with `--trace` the lines that
//! are not mere deliveries are printed as they come.
//!
//! The hash is of our own making, for speed: nobody tries to deceive it.

use madsim::time::TimeHandle;
use std::fmt::{Arguments, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Simulated time of the last event of this process's run, in nanoseconds: for those outside the
/// simulation who wait for it.
pub static REACHED_NS: AtomicU64 = AtomicU64::new(0);

/// The trace of one run. Clones share it.
#[derive(Clone)]
pub struct Trace {
    time: TimeHandle,
    origin: Duration,
    print: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    hash: Hash,
    events: u64,
    /// Of the event at hand; kept for its memory.
    text: String,
}

impl State {
    fn begin(&mut self, now: Duration) {
        let nanos = u64::try_from(now.as_nanos()).expect("nothing lasts centuries");
        REACHED_NS.store(nanos, Ordering::Relaxed);
        self.events += 1;
        self.hash.word(nanos);
    }
}

impl Trace {
    pub fn new(print: bool) -> Trace {
        let time = TimeHandle::current();
        Trace { origin: time.elapsed(), time, print, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Simulated time since the run began: true time, whatever the machines' clocks show.
    pub fn now(&self) -> Duration {
        self.time.elapsed() - self.origin
    }

    /// What tells the time.
    pub fn time(&self) -> &TimeHandle {
        &self.time
    }

    /// Something worth a line.
    pub fn event(&self, event: Arguments<'_>) {
        let now = self.now();
        if self.print {
            println!("{:>12.6} {event}", now.as_secs_f64());
        }
        let mut state = self.state();
        state.begin(now);
        let State { hash, text, .. } = &mut *state;
        text.clear();
        // Whole, since it comes in many small pieces.
        text.write_fmt(event).expect("a string takes all");
        hash.bytes(text.as_bytes());
    }

    /// Something too frequent for a line.
    pub fn bytes(&self, kind: u64, bytes: &[u8]) {
        let now = self.now();
        let mut state = self.state();
        state.begin(now);
        state.hash.word(kind);
        state.hash.bytes(bytes);
    }

    /// The hash so far and the number of events.
    pub fn summary(&self) -> (u64, u64) {
        let state = self.state();
        (state.hash.0, state.events)
    }
}

/// Words, one after the other, folded into one: the product of two of them, both halves.
#[derive(Clone, Copy)]
struct Hash(u64);

impl Default for Hash {
    fn default() -> Hash {
        Hash(0x243f_6a88_85a3_08d3)
    }
}

impl Hash {
    fn word(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        // Turned, so that a word and the state cannot cancel out for ever.
        self.0 = ((product >> 64) as u64 ^ product as u64).rotate_left(23) ^ word;
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.word(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        }
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        self.word(u64::from_le_bytes(last));
        self.word(bytes.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(parts: &[&[u8]]) -> u64 {
        let mut hash = Hash::default();
        parts.iter().for_each(|part| hash.bytes(part));
        hash.0
    }

    #[test]
    fn every_byte_and_every_border_counts() {
        let all = [
            hash(&[b""]),
            hash(&[b"", b""]),
            hash(&[b"\0"]),
            hash(&[b"\0\0"]),
            hash(&[b"abcdefgh"]),
            hash(&[b"abcdefgi"]),
            hash(&[b"abcd", b"efgh"]),
            hash(&[b"abcdefgh", b"abcdefgh"]),
        ];
        for (place, one) in all.iter().enumerate() {
            assert!(!all[..place].contains(one), "{place}");
        }
    }
}
