//! What the writer and its readers share, under one lock.
//!
//! The writer takes the lock to change, readers to look around for a bounded number of keys; both
//! for microseconds. Records that are only in the file are fetched after the lock is released,
//! from the [`View`] that was current while it was held.
//!
//! Invariants, whenever the lock is free:
//! - `index` holds every version up to `revision` and none after it.
//! - Each put in `index` has its record in the file as `view` shows it, in `in_flight` or in
//!   `pending`: in exactly one of them.
//! - `finished <= compacted <= revision`.
//! - `retained` is the weight of all versions in `index`.

use super::engine::View;
use super::error::{ReadError, StoreError};
use super::hash::HashKv;
use super::index::{Index, KeyState, Point};
use super::pending::Batch;
use super::record::{Place, Record, RowKey};
use crate::types::{Error, limits};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(super) struct Shared {
    pub(super) index: Index,
    pub(super) pending: Batch,
    pub(super) in_flight: Option<Arc<Batch>>,
    pub(super) view: Arc<View>,
    pub(super) revision: i64,
    /// Reads below it are refused; -1 before the first compaction.
    pub(super) compacted: i64,
    /// The last compaction that has dropped all it can drop.
    pub(super) finished: i64,
    /// Bytes of all versions kept: keys, values and a fixed sum for each.
    pub(super) retained: u64,
    /// Bytes the file takes, as of the last flush.
    pub(super) file_bytes: u64,
    /// Checksums made by the last compactions, oldest first.
    pub(super) compaction_hashes: VecDeque<HashKv>,
    /// A request was left half done: nothing here may be believed any more.
    pub(super) broken: bool,
}

/// What one version weighs for the quota.
pub(super) fn weight(record_bytes: usize) -> u64 {
    (record_bytes + limits::STORE_RECORD_OVERHEAD_BYTES) as u64
}

/// Where a record was found, or where to fetch it once the lock is released.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Here(Bytes),
    InFile(Place),
}

impl Found {
    /// The record, which must have been fetched if it was in the file.
    pub(super) fn fetched(self) -> Bytes {
        match self {
            Found::Here(record) => record,
            Found::InFile(_) => unreachable!("records are fetched before they are used"),
        }
    }
}

impl Shared {
    /// Finds the record of a version of a key.
    pub(super) fn find(&self, state: &KeyState, point: &Point) -> Found {
        let place = point.place();
        if place == state.latest.place()
            && let Some(record) = state.cached()
        {
            return Found::Here(record.clone());
        }
        let in_flight = || self.in_flight.as_ref().and_then(|batch| batch.get(place));
        match self.pending.get(place).or_else(in_flight) {
            Some(record) => Found::Here(record.clone()),
            None => Found::InFile(place),
        }
    }

    /// Refuses a revision whose versions are not all here.
    pub(super) fn check_revision(&self, revision: i64) -> Result<(), Error> {
        if revision < self.compacted {
            return Err(Error::Compacted);
        }
        Ok(())
    }

    /// Takes a dropped version out of the rows.
    pub(super) fn drop_row(&mut self, point: &Point) {
        self.retained -= weight(point.bytes as usize);
        self.pending.delete(RowKey { place: point.place(), tombstone: point.is_tombstone() });
    }
}

/// The lock. A state left half changed is refused to everybody.
pub(super) struct Lock(RwLock<Shared>);

impl Lock {
    pub(super) fn new(shared: Shared) -> Lock {
        Lock(RwLock::new(shared))
    }

    pub(super) fn into_inner(self) -> Result<Shared, StoreError> {
        self.0.into_inner().map_err(|_| StoreError::Broken)
    }

    pub(super) fn read(&self) -> Result<RwLockReadGuard<'_, Shared>, StoreError> {
        let shared = self.0.read().map_err(|_| StoreError::Broken)?;
        if shared.broken { Err(StoreError::Broken) } else { Ok(shared) }
    }

    pub(super) fn write(&self) -> Result<RwLockWriteGuard<'_, Shared>, StoreError> {
        let shared = self.0.write().map_err(|_| StoreError::Broken)?;
        if shared.broken { Err(StoreError::Broken) } else { Ok(shared) }
    }

    /// The lock for writing, if nobody has it just now.
    fn try_write(&self) -> Option<RwLockWriteGuard<'_, Shared>> {
        self.0.try_write().ok().filter(|shared| !shared.broken)
    }

    /// Hangs fetched records on their keys, unless somebody has the lock: it is not worth waiting
    /// for, whoever comes next fetches them again.
    pub(super) fn keep(&self, fetched: &[(Place, Bytes)]) {
        if fetched.is_empty() {
            return;
        }
        let Some(mut shared) = self.try_write() else { return };
        for (place, record) in fetched.iter().take(limits::RANGE_CHUNK_KEYS) {
            shared.index.keep(&Record::key_of(record), *place, record.clone());
        }
    }
}

/// Somebody who may look at the shared state, at one moment or another.
pub(super) trait Source {
    /// The revision "latest" means to this one.
    fn latest(&self, shared: &Shared) -> i64;

    /// The revision of the newest version in the index.
    fn newest(&self, shared: &Shared) -> i64;

    /// Looks, holding the lock no longer than `look` takes.
    fn with<R>(&self, look: impl FnOnce(&Shared) -> R) -> Result<R, StoreError>;

    /// Takes back records fetched from the file, which may serve the next reader.
    fn keep(&self, fetched: &[(Place, Bytes)]);
}

/// Fetches a record that may be in the file.
pub(super) fn fetch(
    source: &impl Source,
    found: Found,
    view: Option<Arc<View>>,
) -> Result<Bytes, ReadError> {
    match found {
        Found::Here(record) => Ok(record),
        Found::InFile(place) => {
            let record = view.expect("the view is taken with the place").get(place)?;
            source.keep(&[(place, record.clone())]);
            Ok(record)
        }
    }
}
