//! Damage is named, never believed.

use super::*;
use crate::types::{Index, Revision, Term};

/// A store whose file holds some keys, and the file's bytes.
fn filled() -> (Store, Vec<u8>) {
    let (mut store, file) = new_store();
    for i in 0..200 {
        put(&mut store, &format!("key{i:03}"), &format!("needle{i:03}{}", "x".repeat(50)));
    }
    store.side_put(Side::Lease, b"lease", b"sideneedle").unwrap();
    store.set_applied(Index(200), Term(1));
    store.flush().unwrap();
    let bytes = file.bytes();
    (store, bytes)
}

fn flip(bytes: &[u8], needle: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> = bytes
        .windows(needle.len())
        .enumerate()
        .filter(|(_, window)| *window == needle)
        .map(|(place, _)| place)
        .collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place] ^= 0x10;
    }
    bytes
}

#[test]
fn opening_names_the_revision_that_is_damaged() {
    let (_, bytes) = filled();
    let damaged = MemoryFile::from_bytes(flip(&bytes, b"needle117"));
    match Store::open(damaged, tight()).map(|_| ()) {
        Err(StoreError::Corrupt { what, place }) => {
            assert_eq!(what, "wrong checksum");
            assert_eq!(place, "table revisions, revision 119.0");
        }
        other => panic!("{other:?}"),
    }
}

/// A file whose bytes change under the running store.
#[test]
fn reading_finds_damage_that_came_after_opening() {
    let (_, bytes) = filled();
    let file = MemoryFile::from_bytes(bytes.clone());
    let options = Options { cache_bytes: 0, page_cache_bytes: 0 };
    let (store, _) = Store::open(file.clone(), options).unwrap();
    let reader = store.reader();
    assert!(reader.get(b"key117").unwrap().is_some());
    let damaged = flip(&bytes, b"needle117");
    crate::env::File::write_at(&file, 0, &damaged).unwrap();
    let failed = |error: Result<(), ReadError>| {
        assert!(matches!(error, Err(ReadError::Failed(StoreError::Corrupt { .. }))));
    };
    failed(reader.get(b"key117").map(|_| ()));
    failed(reader.range(&RangeQuery::new(KeyRange::all())).map(|_| ()));
    failed(reader.changes(Revision(100), Revision(200), 500, 1 << 20).map(|_| ()));
    failed(reader.hash_kv(Revision(0)).map(|_| ()));
    assert!(reader.get(b"key118").unwrap().is_some());
    let mut source = store.snapshot_source().unwrap();
    assert!(matches!(source.next_chunk(), Err(StoreError::Corrupt { .. })));
}

#[test]
fn damaged_side_rows_and_marks_are_found() {
    let (_, bytes) = filled();
    let damaged = MemoryFile::from_bytes(flip(&bytes, b"sideneedle"));
    let (store, _) = Store::open(damaged, tight()).unwrap();
    assert!(matches!(store.side_scan(Side::Lease), Err(StoreError::Corrupt { .. })));

    let applied = [&Index(200).0.to_le_bytes()[..], &Term(1).0.to_le_bytes()].concat();
    let damaged = MemoryFile::from_bytes(flip(&bytes, &applied));
    let opened = Store::open(damaged, tight()).map(|_| ());
    assert!(matches!(opened, Err(StoreError::Corrupt { .. })), "{opened:?}");
}

#[test]
fn a_damaged_or_cut_snapshot_is_refused() {
    let (store, _) = filled();
    let snapshot = dump(&store);
    assert!(load(&snapshot, 1000).is_ok());
    for place in (0..snapshot.len()).step_by(97) {
        let mut damaged = snapshot.clone();
        damaged[place] ^= 1;
        assert!(load(&damaged, 4096).is_err(), "byte {place} is not looked at");
    }
    for len in [0, 50, 100, 5000, snapshot.len() - 33, snapshot.len() - 1] {
        let refused = load(&snapshot[..len], 4096).map(|_| ());
        assert!(matches!(refused, Err(StoreError::Snapshot(_))), "{len}: {refused:?}");
    }
    let longer = [&snapshot[..], b"x"].concat();
    assert!(load(&longer, 4096).is_err());
}

#[test]
fn an_unfinished_file_is_no_store() {
    let (store, _) = filled();
    let snapshot = dump(&store);
    let file = MemoryFile::default();
    let mut sink = SnapshotSink::create(file.clone(), tight()).unwrap();
    sink.push(&snapshot).unwrap();
    drop(sink);
    let opened = Store::open(MemoryFile::from_bytes(file.bytes()), tight()).map(|_| ());
    assert!(matches!(opened, Err(StoreError::Unfinished)), "{opened:?}");
}

/// Wherever in a flush the disk fails, the flush says so and the file still holds one of the two
/// states.
#[test]
fn a_disk_that_fails_anywhere_in_a_flush_loses_nothing_flushed() {
    let mut finished = false;
    for operations in 0..200 {
        let (mut store, file) = new_store();
        put(&mut store, "a", "1");
        store.set_applied(Index(1), Term(1));
        store.flush().unwrap();
        put(&mut store, "a", "2");
        put(&mut store, "b", &"3".repeat(9000));
        store.set_applied(Index(2), Term(1));
        file.fail_after(operations);
        let flushed = store.flush();
        let (reopened, restored) = Store::open(file.crash(|n| n % 3 == 0), tight()).unwrap();
        let count = reopened.reader().range(&RangeQuery::new(KeyRange::all())).unwrap().count;
        match restored.applied {
            Index(1) => assert_eq!((count, restored.revision), (1, Revision(2))),
            Index(2) => assert_eq!((count, restored.revision), (2, Revision(4))),
            other => panic!("applied {other}"),
        }
        if flushed.is_ok() {
            assert_eq!(restored.applied, Index(2));
            finished = true;
            break;
        }
    }
    assert!(finished, "a flush takes fewer operations");
}

#[test]
fn a_request_left_half_done_closes_the_store() {
    let (mut store, _) = new_store();
    put(&mut store, "a", "1");
    let reader = store.reader();
    let mut write = store.write().unwrap();
    write.put(b"a", b"2", LeaseId(0)).unwrap();
    drop(write);
    assert!(matches!(reader.get(b"a"), Err(ReadError::Failed(StoreError::Broken))));
    assert!(matches!(store.begin_flush().map(|_| ()), Err(StoreError::Broken)));
}
