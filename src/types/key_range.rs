//! Which keys a request speaks of, in etcd's encoding of two byte strings.

use bytes::Bytes;

/// A set of neighbouring keys. The rules are etcd's (v3 API, "key range convention"):
///
/// | `range_end` | keys |
/// |---|---|
/// | empty | exactly `key` |
/// | one zero byte | all from `key` on |
/// | else | `key <= k < range_end`; none when `range_end <= key`, which is no error |
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KeyRange {
    /// First key of the range.
    pub start: Bytes,
    /// What follows it, as sent.
    pub end: Bytes,
}

impl KeyRange {
    /// The range a request names.
    pub fn new(key: Bytes, range_end: Bytes) -> KeyRange {
        KeyRange { start: key, end: range_end }
    }

    /// Just one key.
    pub fn single(key: Bytes) -> KeyRange {
        KeyRange { start: key, end: Bytes::new() }
    }

    /// Every key there can be.
    pub fn all() -> KeyRange {
        KeyRange { start: Bytes::from_static(&[0]), end: Bytes::from_static(&[0]) }
    }

    /// Whether it names one key rather than an interval.
    pub fn is_single(&self) -> bool {
        self.end.is_empty()
    }

    /// Whether it reaches to the end of the keyspace.
    pub fn is_open(&self) -> bool {
        self.end.as_ref() == [0]
    }

    /// Whether no key can be in it.
    pub fn is_empty(&self) -> bool {
        !self.is_single() && !self.is_open() && self.end <= self.start
    }

    /// The first key behind the range; `None` for a single key or an open range.
    pub fn upper(&self) -> Option<&[u8]> {
        if self.is_single() || self.is_open() { None } else { Some(&self.end) }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.is_single() {
            return key == self.start;
        }
        key >= self.start.as_ref() && (self.is_open() || key < self.end.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &'static [u8], end: &'static [u8]) -> KeyRange {
        KeyRange::new(Bytes::from_static(start), Bytes::from_static(end))
    }

    #[test]
    fn each_form_holds_its_keys_and_no_others() {
        assert!(range(b"a", b"").contains(b"a"));
        assert!(!range(b"a", b"").contains(b"ab"));
        assert!(range(b"a", b"c").contains(b"bzz"));
        assert!(!range(b"a", b"c").contains(b"c"));
        assert!(range(b"b", b"\0").contains(b"\xff"));
        assert!(!range(b"b", b"\0").contains(b"a"));
        assert!(range(b"b", b"a").is_empty());
        assert!(range(b"a", b"a").is_empty());
        assert!(!range(b"a", b"\0").is_empty());
        assert!(KeyRange::all().contains(b"\0"));
    }
}
