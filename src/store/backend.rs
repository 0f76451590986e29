//! redb on an [`env::File`](crate::env::File).
//!
//! redb brings its own file backend on std; ours goes through the seam, so that simulation decides
//! what the disk does. redb doubles its file when it is full; the new half is left a hole, so the
//! disk holds only what was written. The process lock stands elsewhere (the data directory's), so
//! redb's own locking is left out.

use crate::env::File;
use redb::StorageBackend;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The file as redb wants it, its length readable from outside.
#[derive(Debug)]
pub(super) struct Backend<F> {
    file: F,
    /// Bytes in the file.
    len: Arc<AtomicU64>,
}

impl<F: File> Backend<F> {
    pub(super) fn new(file: F) -> io::Result<(Backend<F>, Arc<AtomicU64>)> {
        let len = Arc::new(AtomicU64::new(file.len()?));
        Ok((Backend { file, len: Arc::clone(&len) }, len))
    }
}

impl<F: File> StorageBackend for Backend<F> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.len.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)
    }
}
