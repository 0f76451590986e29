//! Random decisions that a seed makes, the same on every machine and in every version of Rust.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
//! generators", 2014): one addition and a hash. A die is cheap to make, so every decision that
//! should not hang on how many were made before gets a die of its own, named by numbers.

/// A source of random decisions.
#[derive(Clone, Debug)]
pub struct Dice(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dice {
    /// The die of a name: the same numbers give the same die, others another.
    pub fn new(name: &[u64]) -> Dice {
        let mut dice = Dice(STEP);
        for part in name {
            dice.0 = dice.next().wrapping_add(*part);
        }
        dice
    }

    /// 64 random bits.
    #[expect(clippy::should_implement_trait, reason = "no iterator: it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `end`, which is above 0. The bias of a remainder is far below what a test
    /// could notice.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "nothing lies below 0");
        self.next() % end
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        assert!(from <= to, "from {from} to {to}");
        from + self.below(to - from + 1)
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of them; there is at least one.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let length = u64::try_from(from.len()).expect("a length fits");
        &from[usize::try_from(self.below(length)).expect("below a length")]
    }

    /// One of them by their weights, which are not all 0.
    pub fn weighted<T: Copy>(&mut self, from: &[(u64, T)]) -> T {
        let mut left = self.below(from.iter().map(|(weight, _)| weight).sum());
        for (weight, what) in from {
            match left.checked_sub(*weight) {
                Some(less) => left = less,
                None => return *what,
            }
        }
        unreachable!("the number lies below the sum of the weights")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_the_same_numbers_and_another_name_others() {
        let draw = |name: &[u64]| {
            let mut dice = Dice::new(name);
            (0..8).map(|_| dice.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(&[1, 2]), draw(&[1, 2]));
        for other in [&[2, 1][..], &[1], &[1, 2, 0], &[1, 3]] {
            assert_ne!(draw(&[1, 2]), draw(other), "{other:?}");
        }
    }

    #[test]
    fn weights_are_kept() {
        let mut dice = Dice::new(&[7]);
        let mut counts = [0_u32; 3];
        for _ in 0..4_000 {
            counts[dice.weighted(&[(1, 0), (0, 1), (3, 2)])] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((800..1_200).contains(&counts[0]), "{counts:?}");
    }
}
