//! The store against a model that keeps everything, and against damage.
//!
//! The tests inside the modules check their parts; these go through the store's public door.

mod etcd;
mod faults;
pub(super) mod memory_file;
mod model;
mod random;
mod scenes;

use super::*;
use crate::types::{KeyRange, LeaseId};
use bytes::Bytes;
use memory_file::MemoryFile;

/// Little memory, so that the cache is always full and evicting.
fn tight() -> Options {
    Options { cache_bytes: 2_000, page_cache_bytes: 1024 * 1024 }
}

fn new_store() -> (Store, MemoryFile) {
    let file = MemoryFile::default();
    let store = Store::create(file.clone(), tight()).unwrap();
    (store, file)
}

fn put(store: &mut Store, key: &str, value: &str) -> Finished {
    let mut write = store.write().unwrap();
    write.put(key.as_bytes(), value.as_bytes(), LeaseId(0)).unwrap();
    write.finish()
}

fn delete(store: &mut Store, keys: &KeyRange) -> Finished {
    let mut write = store.write().unwrap();
    write.delete_range(keys, false).unwrap();
    write.finish()
}

fn keys(start: &str, end: &str) -> KeyRange {
    KeyRange::new(Bytes::copy_from_slice(start.as_bytes()), Bytes::copy_from_slice(end.as_bytes()))
}

/// Steps a compaction to its end.
fn compact_fully(store: &mut Store) {
    while !store.compact_step(7).unwrap().done {}
}

/// A whole snapshot.
fn dump(store: &Store) -> Vec<u8> {
    let mut source = store.snapshot_source().unwrap();
    let total = source.total_bytes();
    let mut bytes = Vec::new();
    while let Some(chunk) = source.next_chunk().unwrap() {
        bytes.extend_from_slice(&chunk);
        assert_eq!(source.remaining_bytes() + bytes.len() as u64, total);
    }
    assert_eq!(source.remaining_bytes(), 0);
    assert_eq!(bytes.len() % 512, 32);
    bytes
}

/// A store made from a snapshot that came in pieces of some size.
fn load(snapshot: &[u8], piece: usize) -> Result<(Store, Restored, MemoryFile), StoreError> {
    let file = MemoryFile::default();
    let mut sink = SnapshotSink::create(file.clone(), tight())?;
    for piece in snapshot.chunks(piece) {
        sink.push(piece)?;
    }
    let meta = sink.finish()?;
    let (store, restored) = Store::open(file.clone(), tight())?;
    assert_eq!((meta.applied, meta.revision), (restored.applied, restored.revision));
    Ok((store, restored, file))
}
