//! redb on an [`env::File`](crate::env::File).
//!
//! redb brings its own file backend on std; ours goes through the seam, so that simulation decides
//! what the disk does. redb doubles a file that is too small, up to 4 GiB; that much is not
//! reserved but merely promised, and whoever flushes sees to it that there is room for what a
//! flush really writes (a failed write would make redb useless until it is opened again). The
//! process lock stands elsewhere (the data directory's), so redb's own locking is left out.
//!
//! redb writes already when it opens a file: marks it as in use, repairs it. A member that then
//! finds damage, here or in its log, must leave its files as they were. So what an opened file is
//! told is held back, in order, until the first transaction begins ([`Gate::open`]). Should it
//! never begin, nothing was changed. Only a large repair is let through earlier.

use crate::env::File;
use redb::StorageBackend;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Changes held back at most; looked through by each read meanwhile.
const HELD_MAX: usize = 1_024;

/// Something the file was told.
#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

/// The file, and what it has not been told yet.
#[derive(Debug)]
struct Content<F> {
    file: F,
    held: Mutex<Vec<Change>>,
    /// Nothing is held, now and in future.
    is_open: AtomicBool,
    /// Letting go has failed.
    has_failed: AtomicBool,
}

impl<F: File> Content<F> {
    fn held(&self) -> MutexGuard<'_, Vec<Change>> {
        self.held.lock().expect("nobody panics holding it")
    }

    fn change(&self, change: Change) -> io::Result<()> {
        if !self.is_open.load(Ordering::Acquire) {
            let mut held = self.held();
            // It may have been opened before we got the lock.
            let failed = self.has_failed.load(Ordering::Acquire);
            if !self.is_open.load(Ordering::Acquire) && held.len() < HELD_MAX && !failed {
                held.push(change);
                return Ok(());
            }
            self.let_go(&mut held)?;
        }
        self.carry_out(&change)
    }

    /// Stays shut for ever when that fails: redb does not know that it did, and must not go on.
    fn let_go(&self, held: &mut Vec<Change>) -> io::Result<()> {
        if self.has_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier change of the file failed"));
        }
        for change in held.drain(..) {
            let done = self.carry_out(&change);
            done.inspect_err(|_| self.has_failed.store(true, Ordering::Release))?;
        }
        self.is_open.store(true, Ordering::Release);
        Ok(())
    }

    fn carry_out(&self, change: &Change) -> io::Result<()> {
        match change {
            Change::Write(offset, data) => self.file.write_at(*offset, data),
            Change::SetLen(len) => self.file.set_len(*len),
            Change::Sync => self.file.sync_data(),
        }
    }
}

/// Lets through what was held back, and from then on everything.
pub(super) trait Gate: Send + Sync + std::fmt::Debug {
    fn open(&self) -> io::Result<()>;
}

impl<F: File> Gate for Content<F> {
    fn open(&self) -> io::Result<()> {
        if self.is_open.load(Ordering::Acquire) {
            return Ok(());
        }
        self.let_go(&mut self.held())
    }
}

/// The file for redb, its length and its gate for the store.
pub(super) type Opened<F> = (Backend<F>, Arc<AtomicU64>, Arc<dyn Gate>);

/// The file as redb wants it, its length readable from outside.
#[derive(Debug)]
pub(super) struct Backend<F> {
    content: Arc<Content<F>>,
    /// Bytes in the file, as far as redb knows.
    len: Arc<AtomicU64>,
}

impl<F: File> Backend<F> {
    pub(super) fn new(file: F) -> io::Result<Opened<F>> {
        let len = Arc::new(AtomicU64::new(file.len()?));
        let (held, is_open) = (Mutex::default(), AtomicBool::new(false));
        let has_failed = AtomicBool::new(false);
        let content = Arc::new(Content { file, held, is_open, has_failed });
        Ok((Backend { content: content.clone(), len: Arc::clone(&len) }, len, content))
    }
}

impl<F: File> StorageBackend for Backend<F> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len.load(Ordering::Acquire))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = &*self.content;
        if content.is_open.load(Ordering::Acquire) {
            return content.file.read_at(offset, out);
        }
        let held = content.held();
        read_through(&content.file, &held, offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.content.change(Change::SetLen(len))?;
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.content.is_open.load(Ordering::Acquire) {
            true => self.content.file.sync_data(),
            false => self.content.change(Change::Sync),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self.content.is_open.load(Ordering::Acquire) {
            true => self.content.file.write_at(offset, data),
            false => self.content.change(Change::Write(offset, data.to_vec())),
        }
    }
}

/// Reads what the file will hold once it has been told everything.
fn read_through<F: File>(file: &F, held: &[Change], offset: u64, out: &mut [u8]) -> io::Result<()> {
    let end = offset + out.len() as u64;
    let mut len = file.len()?;
    let there = end.min(len).saturating_sub(offset) as usize;
    if there > 0 {
        file.read_at(offset, &mut out[..there])?;
    }
    out[there..].fill(0);
    for change in held {
        match change {
            Change::Write(at, data) => {
                let (from, to) = (offset.max(*at), end.min(at + data.len() as u64));
                if from < to {
                    let source = &data[(from - at) as usize..(to - at) as usize];
                    out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
                }
                len = len.max(at + data.len() as u64);
            }
            Change::SetLen(new) => {
                // What is cut off reads as zero when the file grows again.
                let cut = new.clamp(&offset, &end);
                out[(cut - offset) as usize..].fill(0);
                len = *new;
            }
            Change::Sync => {}
        }
    }
    if end > len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::memory_file::MemoryFile;
    use super::*;

    fn bytes(backend: &Backend<MemoryFile>, offset: u64, count: usize) -> Vec<u8> {
        let mut out = vec![0xee; count];
        backend.read(offset, &mut out).expect("there are so many");
        out
    }

    #[test]
    fn what_is_held_back_is_read_but_not_in_the_file_until_the_gate_opens() {
        let file = MemoryFile::default();
        file.write_at(0, b"abcdef").expect("written");
        let (backend, len, gate) = Backend::new(file.clone()).expect("a file");
        backend.write(2, b"XY").expect("held");
        backend.set_len(4).expect("held");
        backend.set_len(8).expect("held");
        backend.sync_data().expect("held");
        backend.write(7, b"Z").expect("held");
        assert_eq!(bytes(&backend, 0, 8), b"abXY\0\0\0Z");
        assert_eq!(bytes(&backend, 3, 2), b"Y\0");
        assert!(backend.read(7, &mut [0; 2]).is_err(), "behind the end");
        assert_eq!(len.load(Ordering::Relaxed), 8);
        let mut now = [0; 6];
        file.read_at(0, &mut now).expect("as before");
        assert_eq!((&now, file.len().expect("a length")), (b"abcdef", 6));
        gate.open().expect("a file");
        assert_eq!(file.len().expect("a length"), 8);
        assert_eq!(bytes(&backend, 0, 8), b"abXY\0\0\0Z");
        backend.write(0, b"Q").expect("written");
        assert_eq!(bytes(&backend, 0, 2), b"Qb");
    }

    #[test]
    fn more_than_is_worth_holding_goes_through_in_order() {
        let file = MemoryFile::default();
        let (backend, _, _gate) = Backend::new(file.clone()).expect("a file");
        backend.set_len(1).expect("held");
        for round in 0..=HELD_MAX {
            backend.write(0, &[(round % 251) as u8]).expect("taken");
        }
        assert_eq!(bytes(&backend, 0, 1), [(HELD_MAX % 251) as u8]);
        assert_eq!(file.len().expect("a length"), 1);
    }
}
