//! A file in memory that knows what a crash would leave of it.

use crate::env::File;
use std::io;
use std::sync::{Arc, Mutex};

#[derive(Clone, Debug)]
enum Unsynced {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Default, Debug)]
struct Inner {
    /// What readers see.
    live: Vec<u8>,
    /// What is durable, and what came since.
    synced: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// Writes and syncs that may still succeed; none = all.
    budget: Option<u64>,
    /// A crash happened: late writers are talking to nobody.
    dead: bool,
}

/// A handle; clones are the same file.
#[derive(Clone, Default, Debug)]
pub(in super::super) struct MemoryFile(Arc<Mutex<Inner>>);

impl Inner {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.budget {
            Some(0) => Err(io::Error::other("the disk failed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Unsynced) {
    match change {
        Unsynced::SetLen(len) => bytes.resize(*len as usize, 0),
        Unsynced::Write(offset, data) => {
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(data);
        }
    }
}

impl MemoryFile {
    pub(super) fn from_bytes(bytes: Vec<u8>) -> MemoryFile {
        let inner = Inner { live: bytes.clone(), synced: bytes, ..Inner::default() };
        MemoryFile(Arc::new(Mutex::new(inner)))
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().live.clone()
    }

    /// The power fails: of the writes not yet synced those survive that `survives` picks. This
    /// handle and its clones no longer reach the disk; the result is the disk afterwards.
    pub(super) fn crash(&self, mut survives: impl FnMut(usize) -> bool) -> MemoryFile {
        let mut inner = self.0.lock().unwrap();
        inner.dead = true;
        let mut bytes = inner.synced.clone();
        for (number, change) in inner.unsynced.iter().enumerate() {
            if survives(number) {
                apply(&mut bytes, change);
            }
        }
        MemoryFile::from_bytes(bytes)
    }

    /// Lets so many more writes and syncs succeed.
    pub(super) fn fail_after(&self, operations: u64) {
        self.0.lock().unwrap().budget = Some(operations);
    }

    fn change(&self, change: Unsynced) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        if inner.dead {
            return Ok(());
        }
        inner.spend()?;
        apply(&mut inner.live, &change);
        inner.unsynced.push(change);
        Ok(())
    }
}

impl File for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().live.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.0.lock().unwrap();
        let bytes = inner
            .live
            .get(offset as usize..offset as usize + out.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Unsynced::Write(offset, data.to_vec()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Unsynced::SetLen(len))
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.change(Unsynced::SetLen(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        if inner.dead {
            return Ok(());
        }
        inner.spend()?;
        for change in std::mem::take(&mut inner.unsynced) {
            apply(&mut inner.synced, &change);
        }
        Ok(())
    }
}
