//! Keys and values.
//!
//! A key is its number in decimal, padded with zeros to its size, so that keys sort as their
//! numbers do and a range of keys is a range of numbers. Values are pieces of one pool of random
//! bytes: no two alike, not compressible, and free to make.

use bytes::Bytes;

/// Random bytes to cut values from, beyond the size of one value.
const POOL_BYTES: usize = 64 * 1024;
/// The largest value: etcd's limit for a request is far below.
const VALUE_BYTES_MAX: usize = 1 << 30;

/// What keys and values look like.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub key_bytes: usize,
    pub value_bytes: usize,
    pub key_space: u64,
    pub sequential: bool,
    /// Where random choices begin; drawn when absent.
    pub seed: Option<u64>,
}

impl Shape {
    pub(super) fn check(&self) -> Result<(), String> {
        let digits = self.key_space.saturating_sub(1).max(1).to_string().len();
        if self.key_bytes < digits {
            return Err(format!("--key-space {} needs --key-size {digits}", self.key_space));
        }
        if self.key_bytes > u16::MAX.into() || self.value_bytes > VALUE_BYTES_MAX {
            return Err("--key-size or --val-size is too large".into());
        }
        Ok(())
    }

    /// The key with a number below the key space.
    pub(super) fn key(&self, number: u64) -> Bytes {
        let mut key = vec![b'0'; self.key_bytes];
        let mut rest = number;
        for digit in key.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        key.into()
    }

    /// What sorts behind the key with this number and before the next; ends a range including it.
    pub(super) fn after(&self, number: u64) -> Bytes {
        let mut key = self.key(number).to_vec();
        key.push(0);
        key.into()
    }
}

/// A small generator of random numbers (SplitMix64, Steele et al. 2014): fast, and the same on
/// every machine for the same seed.
#[derive(Clone, Debug)]
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0. Multiplying instead of dividing (Lemire) favours
    /// some numbers by less than one part in 2^40 for the bounds used here.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// One client's source of keys and values.
#[derive(Clone)]
pub(super) struct Source {
    shape: Shape,
    random: Random,
    pool: Bytes,
    /// The next number, when keys are taken in order.
    next: u64,
    /// How far apart this client's numbers are: with `step` clients each takes its own.
    step: u64,
}

impl Source {
    /// A source for each of `count` clients.
    pub(super) fn many(shape: &Shape, seed: u64, count: u64) -> Vec<Source> {
        let mut random = Random(seed);
        let words = (POOL_BYTES + shape.value_bytes).div_ceil(8);
        let pool: Vec<u8> = (0..words).flat_map(|_| random.next().to_le_bytes()).collect();
        let pool = Bytes::from(pool);
        (0..count)
            .map(|client| Source {
                shape: shape.clone(),
                random: Random(random.next()),
                pool: pool.clone(),
                next: client,
                step: count,
            })
            .collect()
    }

    pub(super) fn key(&mut self) -> Bytes {
        let number = if self.shape.sequential {
            let number = self.next % self.shape.key_space;
            self.next = self.next.wrapping_add(self.step);
            number
        } else {
            self.random.below(self.shape.key_space)
        };
        self.shape.key(number)
    }

    /// First key and end of a range of `count` neighbouring keys.
    pub(super) fn range(&mut self, count: u64) -> (Bytes, Bytes) {
        let first = self.random.below(self.shape.key_space - count + 1);
        (self.shape.key(first), self.shape.after(first + count - 1))
    }

    pub(super) fn value(&mut self) -> Bytes {
        let offset = self.random.below((self.pool.len() - self.shape.value_bytes + 1) as u64);
        self.pool.slice(offset as usize..offset as usize + self.shape.value_bytes)
    }

    /// Whether to do what should happen in so many of 100 cases.
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sequential: bool) -> Shape {
        Shape { key_bytes: 8, value_bytes: 100, key_space: 1000, sequential, seed: None }
    }

    #[test]
    fn keys_sort_as_their_numbers() {
        let shape = shape(false);
        assert_eq!(shape.key(7), "00000007");
        assert_eq!(shape.key(0), "00000000");
        assert!(shape.key(99) < shape.key(100) && shape.key(999) < shape.after(999));
        assert!(shape.after(99) < shape.key(100));
    }

    #[test]
    fn a_key_space_that_does_not_fit_is_refused() {
        assert!(shape(false).check().is_ok());
        assert!(Shape { key_bytes: 3, ..shape(false) }.check().is_ok());
        assert!(Shape { key_bytes: 2, ..shape(false) }.check().is_err());
        assert!(Shape { key_bytes: 0, key_space: 1, ..shape(false) }.check().is_err());
    }

    #[test]
    fn clients_in_order_share_the_keys_without_overlap() {
        let mut sources = Source::many(&shape(true), 1, 4);
        let mut keys = Vec::new();
        for _ in 0..250 {
            keys.extend(sources.iter_mut().map(Source::key));
        }
        let expected: Vec<_> = (0..1000).map(|number| shape(true).key(number)).collect();
        assert_eq!(keys, expected);
    }

    #[test]
    fn random_choices_repeat_with_the_seed_and_stay_in_bounds() {
        let draw = |seed| {
            let mut source = Source::many(&shape(false), seed, 2).remove(1);
            (0..1000).map(|_| (source.key(), source.value(), source.range(10))).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
        for (key, value, (first, end)) in draw(7) {
            assert!(key <= shape(false).key(999) && value.len() == 100);
            assert!(first < end && end <= shape(false).after(999));
        }
    }
}
