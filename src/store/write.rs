//! One applied request.
//!
//! A [`Write`] makes at most one revision, the current one plus 1, with a sub revision for each
//! key changed. It sees its own changes. Until its first change it takes the lock as any reader
//! does; from then on it holds it, so readers see all of it or nothing.
//!
//! [`Write::finish`] ends it and makes the revision public. One that is dropped after a change and
//! before that, because a read inside it failed, leaves the store refusing every further call:
//! there is no way back to the state before, and the node must stop.

use super::error::{ReadError, StoreError};
use super::read::{Change, ChangeKind};
use super::record::{Place, Record, RowKey, deletion, tombstone};
use super::shared::{Lock, Shared, Source, weight};
use crate::types::{KeyRange, LeaseId, Revision};
use bytes::Bytes;
use std::sync::RwLockWriteGuard;

/// A request being applied.
pub struct Write<'s> {
    lock: &'s Lock,
    /// Held from the first change on.
    held: Option<RwLockWriteGuard<'s, Shared>>,
    /// The revision before.
    begin: i64,
    changes: Vec<Change>,
}

/// What a put replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replaced {
    /// Whether the key was there.
    pub existed: bool,
    /// The lease it hung on, 0 if none.
    pub lease: LeaseId,
}

/// A key that was deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deleted {
    pub key: Bytes,
    /// The lease it hung on, 0 if none.
    pub lease: LeaseId,
    /// What it was, encoded, if asked for.
    pub previous: Option<Bytes>,
}

/// What a request did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finished {
    /// The store's revision now.
    pub revision: Revision,
    /// What was changed, in order; empty if the revision is the one before.
    pub changes: Vec<Change>,
}

impl<'s> Write<'s> {
    pub(super) fn begin(lock: &'s Lock) -> Result<Write<'s>, StoreError> {
        let begin = lock.read()?.revision;
        Ok(Write { lock, held: None, begin, changes: Vec::new() })
    }

    /// Writes a key.
    pub fn put(
        &mut self,
        key: &[u8],
        value: &[u8],
        lease: LeaseId,
    ) -> Result<Replaced, StoreError> {
        assert!(!key.is_empty(), "an empty key is refused before it comes here");
        let place = self.next_place();
        let shared = self.hold()?;
        let (record, replaced) = shared.index.put(key, place, lease, |create_revision, version| {
            let mod_revision = place.main;
            let lease = lease.0;
            Record { key, create_revision, mod_revision, version, value, lease }.encode()
        });
        shared.retained += weight(record.len());
        shared.pending.push(RowKey { place, tombstone: false }, record.clone());
        let existed = replaced.point.is_some();
        let key = Record::key_of(&record);
        self.changes.push(Change { key, kind: ChangeKind::Put, record, create: !existed });
        Ok(Replaced { existed, lease: replaced.lease })
    }

    /// Deletes every key of a range; returns them in key order.
    pub fn delete_range(
        &mut self,
        keys: &KeyRange,
        want_previous: bool,
    ) -> Result<Vec<Deleted>, ReadError> {
        let mut deleted = self.live_keys(keys)?;
        if deleted.is_empty() {
            return Ok(deleted);
        }
        for deletion in &mut deleted {
            if want_previous {
                deletion.previous = super::read::KeyValueRead::record(self, &deletion.key)?;
            }
        }
        for deletion in &deleted {
            self.delete(&deletion.key)?;
        }
        Ok(deleted)
    }

    fn live_keys(&self, keys: &KeyRange) -> Result<Vec<Deleted>, ReadError> {
        let mut live = Vec::new();
        super::read::KeyValueRead::metas(self, keys, &mut |key, meta| {
            let key = Bytes::copy_from_slice(key);
            live.push(Deleted { key, lease: meta.lease, previous: None });
            true
        })?;
        Ok(live)
    }

    fn delete(&mut self, key: &Bytes) -> Result<(), StoreError> {
        let place = self.next_place();
        let shared = self.hold()?;
        let record = tombstone(key);
        shared.index.delete(key, place, record.len());
        shared.retained += weight(record.len());
        shared.pending.push(RowKey { place, tombstone: true }, record);
        let record = deletion(key, place.main);
        let key = Record::key_of(&record);
        self.changes.push(Change { key, kind: ChangeKind::Delete, record, create: false });
        Ok(())
    }

    /// Whether anything was changed so far.
    pub fn has_changed(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Ends the request and makes what it did public.
    pub fn finish(mut self) -> Finished {
        if let Some(shared) = &mut self.held {
            shared.revision = self.begin + i64::from(!self.changes.is_empty());
        }
        self.held = None;
        let revision = Revision(self.begin + i64::from(!self.changes.is_empty()));
        Finished { revision, changes: std::mem::take(&mut self.changes) }
    }

    fn next_place(&self) -> Place {
        let sub = u32::try_from(self.changes.len()).expect("a request changes fewer keys");
        Place { main: self.begin + 1, sub }
    }

    fn hold(&mut self) -> Result<&mut Shared, StoreError> {
        if self.held.is_none() {
            self.held = Some(self.lock.write()?);
        }
        Ok(self.held.as_mut().expect("it was just taken"))
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        if let Some(shared) = &mut self.held
            && !self.changes.is_empty()
        {
            shared.broken = true;
        }
    }
}

impl Source for Write<'_> {
    fn latest(&self, _shared: &Shared) -> i64 {
        self.begin + i64::from(!self.changes.is_empty())
    }

    fn newest(&self, shared: &Shared) -> i64 {
        self.latest(shared)
    }

    fn with<R>(&self, look: impl FnOnce(&Shared) -> R) -> Result<R, StoreError> {
        match &self.held {
            Some(shared) => Ok(look(shared)),
            None => Ok(look(&*self.lock.read()?)),
        }
    }

    fn keep(&self, fetched: &[(Place, Bytes)]) {
        if self.held.is_none() {
            self.lock.keep(fetched);
        }
    }
}
