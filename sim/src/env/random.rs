//! Randomness in independent streams.
//!
//! Everybody who draws has a generator of his own, made from the run's seed and a name: the
//! network one, each disk one, each boot of each machine one, the faults one. So when a fault is
//! taken out of a plan, what the others draw stays the same for as long as it can, and a shrunk
//! run is still about the run that failed. madsim's own generator is left to its executor.

use madsim::rand::{Error, RngCore};
use std::time::Duration;

/// All streams of a run.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    seed: u64,
}

impl Streams {
    pub fn new(seed: u64) -> Streams {
        Streams { seed }
    }

    /// The stream of this name, from its beginning.
    pub fn stream(&self, name: &str) -> Random {
        // FNV-1a, then mixed with the seed.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Random::new(mix(self.seed.wrapping_add(GAMMA)) ^ hash)
    }
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of `SplitMix64`: every bit of the input changes half of the output.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A generator (`SplitMix64`): small, fast, and good enough to break things with.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random { state: mix(seed.wrapping_add(GAMMA)) }
    }

    /// A number from 0 to before `end`, which is not 0.
    pub fn number(&mut self, end: u64) -> u64 {
        assert!(end > 0, "there is a number below the end");
        // The high word of the product: as even as 64 bits allow, without a division.
        let product = u128::from(self.next_u64()) * u128::from(end);
        u64::try_from(product >> 64).expect("the high word is a word")
    }

    /// True once in `n` times; never if `n` is 0.
    pub fn one_in(&mut self, n: u32) -> bool {
        n > 0 && self.number(n.into()) == 0
    }

    /// A duration from zero to `limit`.
    pub fn below(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).expect("nothing lasts centuries");
        Duration::from_nanos(self.number(nanos + 1))
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        // 53 bits, what a double holds.
        let unit = (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        unit < probability
    }
}

impl RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(seed: u64, name: &str) -> Vec<u64> {
        let mut random = Streams::new(seed).stream(name);
        (0..4).map(|_| random.next_u64()).collect()
    }

    #[test]
    fn a_stream_is_its_seed_and_its_name() {
        assert_eq!(first(7, "network"), first(7, "network"));
        assert_ne!(first(7, "network"), first(8, "network"));
        assert_ne!(first(7, "disk of m1"), first(7, "disk of m2"));
    }

    #[test]
    fn numbers_are_even_and_within_bounds() {
        let mut random = Streams::new(1).stream("test");
        let mut counts = [0; 5];
        for _ in 0..50_000 {
            counts[random.number(5) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        assert!(!random.one_in(0));
        assert!(random.one_in(1));
        assert!(random.below(Duration::from_secs(3)) <= Duration::from_secs(3));
        assert!(!random.chance(0.0) && random.chance(1.0));
    }
}
