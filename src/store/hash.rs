//! Checksums over the state, by which members find out that one of them is wrong.
//!
//! **HashKV** is etcd's: CRC-32C over the word `key` and then key and value of every row up to a
//! revision, in order. Two members with the same history and compaction agree, whichever of the
//! two programs they run. Which rows at or below the compacted revision count is etcd's rule too:
//!
//! - only those that are a key's newest version at the hash's revision (not at the compacted one),
//! - no tombstone of the compacted revision itself, which old versions of etcd had deleted,
//! - but if no key at all is left at that revision, everything the compaction keeps.
//!
//! So it does not matter how far dropping the compacted versions has come.

use super::engine::Side;
use super::error::{ReadError, StoreError};
use super::owner::{Store, side_rows};
use super::read::{Capture, Reader};
use super::record::{Place, RowKey};
use super::shared::Shared;
use crate::types::{Error, Revision, limits};

/// A checksum of the keys at one revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashKv {
    pub hash: u32,
    /// The compacted revision it was made under.
    pub compact_revision: Revision,
    /// The revision it covers.
    pub hash_revision: Revision,
}

/// The rows a compaction leaves that a hash still counts.
#[derive(Default)]
struct Kept {
    /// Newest versions at the hash's revision that are not newer than the compacted one.
    at_revision: Vec<Place>,
    /// Newest versions at the compacted revision.
    at_compacted: Vec<Place>,
    /// Whether any key is there at the hash's revision.
    any: bool,
}

impl Reader {
    /// The checksum at a revision, 0 for the current one. One remembered from a compaction to that
    /// very revision is given as it was.
    pub fn hash_kv(&self, revision: Revision) -> Result<HashKv, ReadError> {
        loop {
            let (capture, compacted, at) = {
                let shared = self.lock.read()?;
                // Also 0: a first compaction to revision 0 leaves a hash that etcd gives for
                // "now" from then on, and so do we (recorded as `random 107` in tests/vectors).
                let remembered = |hash: &&HashKv| hash.hash_revision == revision;
                if let Some(hash) = shared.compaction_hashes.iter().find(remembered) {
                    return Ok(*hash);
                }
                if revision.0 > 0 {
                    shared.check_revision(revision.0)?;
                    if revision.0 > shared.revision {
                        return Err(Error::FutureRevision.into());
                    }
                }
                let at = if revision.0 == 0 { shared.revision } else { revision.0 };
                (Capture::new(&shared, at), shared.compacted, at)
            };
            if let Some(hash) = self.hash_rows(&capture, compacted, at)? {
                return Ok(HashKv {
                    hash,
                    compact_revision: Revision(compacted),
                    hash_revision: Revision(at),
                });
            }
        }
    }

    /// The checksum of captured rows; none if a compaction got in between.
    fn hash_rows(
        &self,
        capture: &Capture,
        compacted: i64,
        at: i64,
    ) -> Result<Option<u32>, StoreError> {
        let Some(kept) = self.kept(compacted, at)? else { return Ok(None) };
        let places = if kept.any { &kept.at_revision } else { &kept.at_compacted };
        let mut hash = crc32c::crc32c(b"key");
        capture.scan(at, |row, record| {
            if counts(row, compacted, places) {
                hash = crc32c::crc32c_append(hash, row.bytes().as_slice());
                hash = crc32c::crc32c_append(hash, record);
            }
        })?;
        Ok(Some(hash))
    }

    /// Which rows at or below the compacted revision count; none if that has changed.
    fn kept(&self, compacted: i64, at: i64) -> Result<Option<Kept>, StoreError> {
        let mut kept = Kept::default();
        let mut next = Some(Vec::new());
        while let Some(from) = next.take() {
            let shared = self.lock.read()?;
            if shared.compacted != compacted {
                return Ok(None);
            }
            next = kept.gather(&shared, &from, compacted, at);
        }
        kept.at_revision.sort_unstable();
        kept.at_compacted.sort_unstable();
        Ok(Some(kept))
    }

    /// A checksum of the whole state: keys, compacted revision and side tables, without what is
    /// this member's alone. Members that applied the same entries agree, however much of it each
    /// has flushed or dropped.
    pub fn hash(&self) -> Result<u32, ReadError> {
        loop {
            let (capture, compacted, at) = {
                let shared = self.lock.read()?;
                (Capture::new(&shared, shared.revision), shared.compacted, shared.revision)
            };
            let Some(mut hash) = self.hash_rows(&capture, compacted, at)? else { continue };
            hash = crc32c::crc32c_append(hash, &at.to_be_bytes());
            hash = crc32c::crc32c_append(hash, &compacted.to_be_bytes());
            for side in Side::ALL.into_iter().filter(|&side| side != Side::Local) {
                for (key, value) in side_rows(&self.lock, side)? {
                    let head = [side as u64, key.len() as u64, value.len() as u64];
                    for number in head {
                        hash = crc32c::crc32c_append(hash, &number.to_be_bytes());
                    }
                    hash = crc32c::crc32c_append(hash, &key);
                    hash = crc32c::crc32c_append(hash, &value);
                }
            }
            return Ok(hash);
        }
    }
}

/// Whether a hash counts a row; `places` are the kept ones, sorted. They are puts only, which
/// leaves out the tombstones of the compacted revision.
fn counts(row: RowKey, compacted: i64, places: &[Place]) -> bool {
    row.place.main > compacted || places.binary_search(&row.place).is_ok()
}

impl Kept {
    fn gather(&mut self, shared: &Shared, from: &[u8], compacted: i64, at: i64) -> Option<Vec<u8>> {
        for (visited, (key, state)) in shared.index.iter_from(from).enumerate() {
            if visited == limits::RANGE_CHUNK_KEYS {
                return Some(key.to_vec());
            }
            if let Some(point) = state.at(at) {
                self.any = true;
                if point.main <= compacted {
                    self.at_revision.push(point.place());
                }
            }
            if let Some(point) = state.at(compacted) {
                self.at_compacted.push(point.place());
            }
        }
        None
    }
}

/// A checksum to be made of what a compaction is about to drop.
pub struct CompactionHash {
    reader: Reader,
    capture: Capture,
    compacted: i64,
    at: i64,
}

impl CompactionHash {
    /// Reads every row up to the revision; none if another compaction got in between. The result
    /// goes to [`Store::remember_hash`].
    pub fn run(self) -> Result<Option<HashKv>, StoreError> {
        let CompactionHash { reader, capture, compacted, at } = self;
        let kept = {
            let mut kept = Kept::default();
            let mut next = Some(Vec::new());
            while let Some(from) = next.take() {
                let shared = reader.lock.read()?;
                if shared.compacted > at {
                    return Ok(None);
                }
                next = kept.gather(&shared, &from, compacted, at);
            }
            kept.at_revision.sort_unstable();
            kept
        };
        let mut hash = crc32c::crc32c(b"key");
        capture.scan(at, |row, record| {
            if counts(row, compacted, &kept.at_revision) {
                hash = crc32c::crc32c_append(hash, row.bytes().as_slice());
                hash = crc32c::crc32c_append(hash, record);
            }
        })?;
        Ok(Some(HashKv {
            hash,
            compact_revision: Revision(compacted),
            hash_revision: Revision(at),
        }))
    }
}

impl Store {
    /// Prepares the checksum that goes with a compaction to `revision`; call it just before
    /// [`Store::compact`] and run it afterwards. It reads the whole file once, so it is for those
    /// who compare members' hashes.
    pub fn compaction_hash(&self, revision: Revision) -> Result<CompactionHash, StoreError> {
        let shared = self.lock.read()?;
        Ok(CompactionHash {
            reader: self.reader(),
            capture: Capture::new(&shared, revision.0),
            compacted: shared.compacted,
            at: revision.0,
        })
    }

    /// Remembers a compaction's checksum for [`Reader::hash_kv`], the last few of them.
    pub fn remember_hash(&mut self, hash: HashKv) -> Result<(), StoreError> {
        let mut shared = self.lock.write()?;
        if shared.compaction_hashes.len() == limits::STORE_COMPACTION_HASHES_MAX {
            shared.compaction_hashes.pop_front();
        }
        shared.compaction_hashes.push_back(hash);
        Ok(())
    }
}
