//! Space set aside on the store's disk, so that a flush that has begun can end.
//!
//! A write that finds the disk full in the middle of a commit leaves the storage engine useless,
//! and the node would have to stop. Asking how much is free before each flush is not enough: what
//! was free may be somebody else's a moment later. So a file beside the store holds the space a
//! flush needs at most. It is filled before the flush; without it the flush does not begin. A
//! write that finds the disk full empties it and is made again.
//!
//! - Nothing is created before the first flush: a member that refuses to start changes nothing.
//! - What the file holds means nothing; it may be removed at any time.

use crate::env::{Disk, File};
use crate::types::limits::STORE_SPARE_BYTES;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// See the module.
pub(super) struct Spare<D: Disk> {
    disk: D,
    path: PathBuf,
    file: Mutex<Option<D::File>>,
}

impl<D: Disk> Spare<D> {
    /// Space on the disk of this store.
    pub(super) fn beside(disk: D, store: &Path) -> Arc<Spare<D>> {
        let path = store.with_extension("spare");
        Arc::new(Spare { disk, path, file: Mutex::new(None) })
    }

    /// Opens a file whose writes may use the space.
    pub(super) fn open(self: &Arc<Self>, path: &Path) -> io::Result<Relieved<D>> {
        Ok(Relieved { file: self.disk.open(path)?, spare: Arc::clone(self) })
    }

    fn file(&self) -> MutexGuard<'_, Option<D::File>> {
        self.file.lock().expect("nobody panics holding it")
    }

    /// Sets aside so many bytes; `false` if there are not so many.
    pub(super) fn fill(&self, bytes: u64) -> bool {
        let mut file = self.file();
        if file.is_none() {
            *file = self.disk.create(&self.path).ok();
        }
        let Some(file) = &*file else { return false };
        let before = file.len().unwrap_or(0);
        if before >= bytes || file.reserve(bytes).is_ok() {
            return true;
        }
        // Some file systems keep what they found before they found too little.
        let _ = file.set_len(before);
        false
    }

    /// Gives back what a large flush needed beyond the usual.
    pub(super) fn shrink(&self) {
        if let Some(file) = &*self.file()
            && file.len().is_ok_and(|len| len > STORE_SPARE_BYTES)
        {
            let _ = file.set_len(STORE_SPARE_BYTES);
        }
    }

    /// Lets go of everything; `false` if there was nothing.
    fn release(&self) -> bool {
        let file = self.file();
        let Some(file) = &*file else { return false };
        file.len().is_ok_and(|len| len > 0) && file.set_len(0).is_ok()
    }
}

/// A file whose writes take the spare space rather than fail.
pub(super) struct Relieved<D: Disk> {
    file: D::File,
    spare: Arc<Spare<D>>,
}

impl<D: Disk> fmt::Debug for Relieved<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl<D: Disk> Relieved<D> {
    fn relieved(&self, work: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let result = work();
        let full = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        match &result {
            Err(error) if full(error) && self.spare.release() => work(),
            Ok(()) | Err(_) => result,
        }
    }
}

impl<D: Disk> File for Relieved<D> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.relieved(|| self.file.write_at(offset, data))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.relieved(|| self.file.set_len(len))
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.relieved(|| self.file.reserve(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        // Not made again: after a failed sync nothing is known about what is durable.
        self.file.sync_data()
    }
}
