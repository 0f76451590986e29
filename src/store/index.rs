//! Every key with its versions since the compaction: where each stands, not what it says.
//!
//! One entry of the [`Tree`] holds a key's newest version in place. Only a key that needs more,
//! older versions or a lease, has a box beside it. The newest version's record may hang on the
//! entry too: that is the value cache.
//!
//! **The cache** has a budget in bytes. When it is exceeded a hand moves over the leaves: a record
//! that was read since the hand last came by loses its mark, one that was not is dropped. A record
//! not yet in the file stays readable when dropped here, the batch that will be flushed has it.
//!
//! Invariants:
//! - Places of one key's versions ascend: `past` from front to back, then `latest`.
//! - The version number is 0 for a tombstone and only for it.
//! - A cached record is the latest version's.
//! - `cache.used` is the sum of what the cached records weigh.

use super::record::Place;
use super::tree::{Key, Live, Tree};
use crate::types::{KeyRange, LeaseId, limits};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

/// One version of a key, without its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Point {
    pub(super) main: i64,
    /// Main revision in which this life of the key began; 0 for a tombstone.
    pub(super) create: i64,
    /// Puts since then; 0 for a tombstone.
    pub(super) version: i64,
    pub(super) sub: u32,
    /// Length of the encoded record.
    pub(super) bytes: u32,
}

impl Point {
    pub(super) fn place(&self) -> Place {
        Place { main: self.main, sub: self.sub }
    }

    pub(super) fn is_tombstone(&self) -> bool {
        self.version == 0
    }
}

/// A key's versions.
#[derive(Debug)]
pub(super) struct KeyState {
    pub(super) latest: Point,
    extra: Option<Box<Extra>>,
    cached: Option<Box<Cached>>,
}

/// What few keys have.
#[derive(Debug, Default)]
struct Extra {
    /// The lease of the latest version.
    lease: LeaseId,
    /// Older versions, oldest first.
    past: VecDeque<Point>,
}

#[derive(Debug)]
struct Cached {
    record: Bytes,
    /// Read since the hand last came by.
    read: AtomicBool,
}

impl Live for KeyState {
    fn is_live(&self) -> bool {
        !self.latest.is_tombstone()
    }
}

impl KeyState {
    /// The version a reader at `revision` sees; none if the key was not there.
    pub(super) fn at(&self, revision: i64) -> Option<&Point> {
        self.newest(revision).filter(|point| !point.is_tombstone())
    }

    /// The newest version not after `revision`, be it a tombstone.
    pub(super) fn newest(&self, revision: i64) -> Option<&Point> {
        if self.latest.main <= revision {
            return Some(&self.latest);
        }
        let past = &self.extra.as_ref()?.past;
        let behind = past.partition_point(|point| point.main <= revision);
        past.get(behind.checked_sub(1)?)
    }

    /// The lease the latest version hangs on; 0 = none.
    pub(super) fn lease(&self) -> LeaseId {
        self.extra.as_ref().map_or(LeaseId(0), |extra| extra.lease)
    }

    /// The latest version's record if it is at hand, marked as read.
    pub(super) fn cached(&self) -> Option<&Bytes> {
        let cached = self.cached.as_ref()?;
        if !cached.read.load(Ordering::Relaxed) {
            cached.read.store(true, Ordering::Relaxed);
        }
        Some(&cached.record)
    }

    fn push(&mut self, point: Point, lease: LeaseId) {
        debug_assert!(self.latest.place() < point.place());
        let extra = self.extra.get_or_insert_default();
        if extra.past.capacity() == 0 {
            extra.past.reserve_exact(1);
        }
        extra.past.push_back(std::mem::replace(&mut self.latest, point));
        extra.lease = lease;
    }

    /// Takes up to `most` versions out that no reader at `compacted` or later can see, oldest
    /// first. True once there are none left. The latest version stays.
    fn trim(&mut self, compacted: i64, most: usize, removed: &mut Vec<Point>) -> bool {
        let Some(extra) = &mut self.extra else { return true };
        let mut taken = 0;
        while let Some(&first) = extra.past.front() {
            let next = extra.past.get(1).unwrap_or(&self.latest);
            if !superseded(&first, next, compacted) {
                break;
            }
            if taken == most {
                return false;
            }
            removed.push(first);
            extra.past.pop_front();
            taken += 1;
        }
        if extra.past.is_empty() {
            extra.past = VecDeque::new();
            if extra.lease == LeaseId(0) {
                self.extra = None;
            }
        }
        true
    }

    /// Whether the latest version is a tombstone that a compaction drops.
    fn is_dead(&self, compacted: i64) -> bool {
        self.latest.is_tombstone() && self.latest.main < compacted
    }

    fn has_past(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| !extra.past.is_empty())
    }
}

/// Whether a compaction drops a version that another one follows. What changed in the compacted
/// revision itself stays, tombstones too: a watcher may start there.
fn superseded(point: &Point, next: &Point, compacted: i64) -> bool {
    point.main < compacted && (next.main <= compacted || point.is_tombstone())
}

#[derive(Debug)]
struct Cache {
    budget: usize,
    used: usize,
    /// The leaf the hand looks at next.
    hand: usize,
}

/// What a record costs in the cache.
fn weight(record: &Bytes) -> usize {
    record.len() + limits::STORE_CACHED_RECORD_OVERHEAD_BYTES
}

/// All keys.
#[derive(Debug)]
pub(super) struct Index {
    tree: Tree<KeyState>,
    cache: Cache,
}

/// What a version replaced.
pub(super) struct Replaced {
    /// The version before, if the key was there.
    pub(super) point: Option<Point>,
    pub(super) lease: LeaseId,
}

impl Index {
    pub(super) fn new(cache_bytes: usize) -> Index {
        Index { tree: Tree::new(), cache: Cache { budget: cache_bytes, used: 0, hand: 0 } }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&KeyState> {
        self.tree.get(key)
    }

    /// Keys that are there now.
    pub(super) fn live(&self) -> u64 {
        self.tree.live()
    }

    /// Adds a put. `encode` makes the record from create revision and version.
    pub(super) fn put(
        &mut self,
        key: &[u8],
        place: Place,
        lease: LeaseId,
        encode: impl Fn(i64, i64) -> Bytes,
    ) -> (Bytes, Replaced) {
        let fits = |record: &Bytes| weight(record) <= self.cache.budget / 4;
        let point = |create, version| {
            let record = encode(create, version);
            let bytes = u32::try_from(record.len()).expect("a record is shorter than 4 GiB");
            let point = Point { main: place.main, create, version, sub: place.sub, bytes };
            let cached = fits(&record)
                .then(|| Box::new(Cached { record: record.clone(), read: AtomicBool::new(false) }));
            (point, record, cached)
        };
        let mut released = 0;
        let (record, replaced) = self.tree.upsert(
            key,
            |state| {
                let old = state.latest;
                let replaced = Replaced {
                    point: Some(old).filter(|old| !old.is_tombstone()),
                    lease: state.lease(),
                };
                let (new, record, cached) = if old.is_tombstone() {
                    point(place.main, 1)
                } else {
                    point(old.create, old.version + 1)
                };
                state.push(new, lease);
                released = state.cached.take().map_or(0, |cached| weight(&cached.record));
                state.cached = cached;
                (record, replaced)
            },
            || {
                let (latest, record, cached) = point(place.main, 1);
                let state = KeyState { latest, extra: leased(lease), cached };
                (state, (record, Replaced { point: None, lease: LeaseId(0) }))
            },
        );
        self.cache.used -= released;
        if weight(&record) <= self.cache.budget / 4 {
            self.cache.used += weight(&record);
            self.evict();
        }
        (record, replaced)
    }

    /// Adds a tombstone to a key that is there.
    pub(super) fn delete(&mut self, key: &[u8], place: Place, bytes: usize) -> Replaced {
        let bytes = u32::try_from(bytes).expect("a record is shorter than 4 GiB");
        let (replaced, released) = self
            .tree
            .update(key, |state| {
                assert!(!state.latest.is_tombstone(), "only a key that is there is deleted");
                let replaced = Replaced { point: Some(state.latest), lease: state.lease() };
                let tombstone =
                    Point { main: place.main, create: 0, version: 0, sub: place.sub, bytes };
                state.push(tombstone, LeaseId(0));
                (replaced, state.cached.take().map_or(0, |cached| weight(&cached.record)))
            })
            .expect("only a key that is there is deleted");
        self.cache.used -= released;
        replaced
    }

    /// Adds a version read back from the file; versions of one key come in order.
    fn restore(&mut self, key: &[u8], point: Point, lease: LeaseId) {
        self.tree.upsert(
            key,
            |state| state.push(point, lease),
            || (KeyState { latest: point, extra: leased(lease), cached: None }, ()),
        );
    }

    /// Hangs a record read from the file on its key, if it is still the latest version's.
    pub(super) fn keep(&mut self, key: &[u8], place: Place, record: Bytes) {
        let weight = weight(&record);
        if weight > self.cache.budget / 4 {
            return;
        }
        let kept = self.tree.update(key, |state| {
            let fresh = state.latest.place() == place && state.cached.is_none();
            if fresh {
                state.cached = Some(Box::new(Cached { record, read: AtomicBool::new(false) }));
            }
            fresh
        });
        if kept == Some(true) {
            self.cache.used += weight;
            self.evict();
        }
    }

    /// Bytes the cached records weigh.
    pub(super) fn cached_bytes(&self) -> usize {
        self.cache.used
    }

    /// Bytes the tree's nodes take.
    pub(super) fn node_bytes(&self) -> usize {
        self.tree.node_bytes()
    }

    fn evict(&mut self) {
        while self.cache.used > self.cache.budget {
            if self.cache.hand >= self.tree.leaf_slots() {
                self.cache.hand = 0;
            }
            for state in self.tree.leaf_values(self.cache.hand) {
                let Some(cached) = &mut state.cached else { continue };
                if std::mem::take(cached.read.get_mut()) {
                    continue;
                }
                self.cache.used -= weight(&cached.record);
                state.cached = None;
                if self.cache.used <= self.cache.budget {
                    return;
                }
            }
            self.cache.hand += 1;
        }
    }

    /// How many keys of a range are there now.
    pub(super) fn count(&self, keys: &KeyRange) -> u64 {
        if keys.is_single() {
            return u64::from(self.get(&keys.start).is_some_and(Live::is_live));
        }
        if keys.is_empty() {
            return 0;
        }
        self.rank_end(keys) - self.tree.count_below(&keys.start)
    }

    /// How many live keys lie before the range's end.
    fn rank_end(&self, keys: &KeyRange) -> u64 {
        keys.upper().map_or(self.tree.live(), |upper| self.tree.count_below(upper))
    }

    /// The first of the last `most` live keys of a range.
    pub(super) fn start_of_last(&self, keys: &KeyRange, most: u64) -> Option<Bytes> {
        let end = self.rank_end(keys);
        let rank = end.saturating_sub(most).max(self.tree.count_below(&keys.start));
        self.tree.key_at(self.tree.select(rank)).map(Bytes::copy_from_slice)
    }

    /// Entries in key order from the first key not below `from`.
    pub(super) fn iter_from(&self, from: &[u8]) -> impl Iterator<Item = (&[u8], &KeyState)> {
        self.tree.iter_from(self.tree.seek(from))
    }

    /// Every entry in key order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &KeyState)> {
        self.tree.iter()
    }

    /// One bounded step of a compaction's walk over all keys, from the first key not below `from`.
    /// `removed` gets the versions dropped. Returns the key to go on at, `None` at the end.
    pub(super) fn compact_step(
        &mut self,
        compacted: i64,
        from: &[u8],
        most: usize,
        removed: &mut Vec<Point>,
    ) -> Option<Vec<u8>> {
        let mut visited = 0;
        let mut dead = Vec::new();
        let stop = self.tree.walk_mut(self.tree.seek(from), |key, state| {
            if visited + removed.len() >= most {
                return false;
            }
            visited += 1;
            let budget = most - removed.len();
            if !state.trim(compacted, budget, removed) {
                return false;
            }
            if state.is_dead(compacted) && !state.has_past() {
                dead.push(key.to_vec());
                removed.push(state.latest);
            }
            true
        });
        let next =
            stop.map(|stop| self.tree.key_at(stop).expect("a walk stops at an entry").to_vec());
        for key in dead {
            self.tree.remove(&key).expect("the walk has just seen it");
        }
        next
    }
}

fn leased(lease: LeaseId) -> Option<Box<Extra>> {
    (lease != LeaseId(0)).then(|| Box::new(Extra { lease, past: VecDeque::new() }))
}

/// Fills an index with the versions of the file. They come in the order they were made; sorted by
/// key in large batches, they go into the tree several times faster.
pub(super) struct Loader<'i> {
    index: &'i mut Index,
    batch: Vec<(Key, Point, LeaseId)>,
}

impl<'i> Loader<'i> {
    pub(super) fn new(index: &'i mut Index) -> Loader<'i> {
        Loader { index, batch: Vec::new() }
    }

    pub(super) fn add(&mut self, key: &[u8], point: Point, lease: LeaseId) {
        self.batch.push((Key::new(key), point, lease));
        if self.batch.len() == limits::STORE_LOAD_BATCH_ROWS {
            self.write();
        }
    }

    pub(super) fn finish(mut self) {
        self.write();
    }

    fn write(&mut self) {
        // Stable: versions of one key stay in order.
        self.batch.sort_by(|(a, ..), (b, ..)| a.bytes().cmp(b.bytes()));
        for (key, point, lease) in self.batch.drain(..) {
            self.index.restore(key.bytes(), point, lease);
        }
    }
}
