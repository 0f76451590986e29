//! Keeps a log storm from filling the disk.
//!
//! Of one message (same level, same text) the first 100 lines of a second are written, then
//! every 100th, as etcd does. Fields do not count: it is the message that repeats.
//!
//! - Memory is fixed: messages share 4,096 counters by hash, so two that collide are sampled as
//!   one. That loses lines only while both storm at once.
//! - Lines of level panic and fatal are never dropped: each is the last of its process.

use super::Level;
use std::time::{Duration, SystemTime};

const COUNTERS: usize = 4_096;
const FIRST: u64 = 100;
const THEREAFTER: u64 = 100;
const WINDOW: Duration = Duration::from_secs(1);

/// Counts messages and says which to write.
pub struct Sampler {
    /// Always [`COUNTERS`] long.
    counters: Vec<Counter>,
}

#[derive(Clone)]
struct Counter {
    /// Start of the window the count belongs to; `None` before the first message.
    since: Option<SystemTime>,
    /// Messages seen in that window.
    count: u64,
}

impl Sampler {
    /// A sampler that has seen nothing.
    pub fn new() -> Sampler {
        Sampler { counters: vec![Counter { since: None, count: 0 }; COUNTERS] }
    }

    /// Whether to write this message now.
    pub fn admit(&mut self, now: SystemTime, level: Level, message: &str) -> bool {
        match level {
            Level::Panic | Level::Fatal => return true,
            Level::Debug | Level::Info | Level::Warn | Level::Error => {}
        }
        let counter = &mut self.counters[slot(level, message)];
        // A clock that jumped back also starts a new window: silence until it catches up would
        // be worse than a few lines more.
        let same_window = counter
            .since
            .and_then(|since| now.duration_since(since).ok())
            .is_some_and(|elapsed| elapsed < WINDOW);
        if !same_window {
            *counter = Counter { since: Some(now), count: 0 };
        }
        counter.count += 1;
        counter.count <= FIRST || (counter.count - FIRST).is_multiple_of(THEREAFTER)
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler::new()
    }
}

/// FNV-1a: the same on every run, unlike the standard hasher, so that a test can rely on it.
fn slot(level: Level, message: &str) -> usize {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in std::iter::once(level as u8).chain(message.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    usize::try_from(hash % COUNTERS as u64).expect("below the number of counters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn admitted(sampler: &mut Sampler, now: SystemTime, level: Level, lines: usize) -> usize {
        (0..lines).filter(|_| sampler.admit(now, level, "slow fdatasync")).count()
    }

    #[test]
    fn a_storm_is_thinned_and_the_next_second_starts_afresh() {
        let mut sampler = Sampler::new();
        assert_eq!(admitted(&mut sampler, UNIX_EPOCH, Level::Warn, 100), 100);
        assert_eq!(admitted(&mut sampler, UNIX_EPOCH, Level::Warn, 99), 0);
        assert_eq!(admitted(&mut sampler, UNIX_EPOCH, Level::Warn, 1), 1);
        assert_eq!(admitted(&mut sampler, UNIX_EPOCH, Level::Warn, 10_000), 100);
        let later = UNIX_EPOCH + WINDOW;
        assert_eq!(admitted(&mut sampler, later, Level::Warn, 100), 100);
        assert_eq!(admitted(&mut sampler, UNIX_EPOCH, Level::Warn, 1), 1, "the clock went back");
    }

    #[test]
    fn messages_and_levels_are_counted_apart() {
        let mut sampler = Sampler::new();
        admitted(&mut sampler, UNIX_EPOCH, Level::Warn, 1_000);
        assert!(sampler.admit(UNIX_EPOCH, Level::Warn, "another message"));
        assert!(sampler.admit(UNIX_EPOCH, Level::Error, "slow fdatasync"));
    }

    #[test]
    fn last_words_are_never_dropped() {
        let mut sampler = Sampler::new();
        assert_eq!(admitted(&mut sampler, UNIX_EPOCH, Level::Panic, 1_000), 1_000);
        assert_eq!(admitted(&mut sampler, UNIX_EPOCH, Level::Fatal, 1_000), 1_000);
    }
}
