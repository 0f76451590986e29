//! Single scenes that show one rule each.

use super::*;
use crate::types::{Error, Revision, limits};
use std::sync::atomic::{AtomicBool, Ordering};

fn values(result: &RangeResult) -> Vec<String> {
    let value = |kv: &Bytes| Record::decode(kv).unwrap().value.to_vec();
    result.kvs.iter().map(|kv| String::from_utf8(value(kv)).unwrap()).collect()
}

#[test]
fn a_compaction_of_an_empty_store_to_revision_0_succeeds_once() {
    let (mut store, _) = new_store();
    assert_eq!(store.compact(Revision(0)).unwrap(), Ok(()));
    assert_eq!(store.compact(Revision(0)).unwrap(), Err(Error::Compacted));
    assert_eq!(store.compact(Revision(1)).unwrap(), Ok(()));
    assert_eq!(store.compact(Revision(2)).unwrap(), Err(Error::FutureRevision));
}

#[test]
fn a_compaction_goes_on_after_a_restart() {
    let (mut store, file) = new_store();
    for i in 0..300 {
        put(&mut store, &format!("k{}", i % 50), "v");
    }
    store.compact(Revision(301)).unwrap().unwrap();
    store.compact_step(20).unwrap();
    store.flush().unwrap();
    let (mut store, _) = Store::open(file.crash(|_| false), tight()).unwrap();
    assert!(store.is_compacting());
    compact_fully(&mut store);
    store.flush().unwrap();
    let sizes = store.reader().sizes().unwrap();
    let (store, restored) = Store::open(MemoryFile::from_bytes(file_of(&store)), tight()).unwrap();
    assert!(!store.is_compacting());
    assert_eq!(restored.compacted, Revision(301));
    assert_eq!(store.reader().sizes().unwrap().retained_bytes, sizes.retained_bytes);
    assert_eq!(store.reader().sizes().unwrap().keys, 50);
}

/// The store's rows in a file of their own.
fn file_of(store: &Store) -> Vec<u8> {
    let (_, _, file) = load(&dump(store), 10_000).unwrap();
    file.bytes()
}

#[test]
fn frequent_compactions_do_not_keep_each_other_from_finishing() {
    let (mut store, _) = new_store();
    let mut finished = Vec::new();
    for i in 0..600 {
        put(&mut store, &format!("k{}", i % 60), "v");
        let revision = store.reader().revision().unwrap();
        store.compact(revision).unwrap().unwrap();
        store.compact_step(4).unwrap();
        finished.push(store.reader().finished().unwrap());
    }
    assert!(finished.last().unwrap().0 > 400, "{:?}", finished.last());
}

#[test]
fn a_key_with_very_many_versions_is_compacted_in_steps() {
    let (mut store, _) = new_store();
    for _ in 0..1_000 {
        put(&mut store, "k", "v");
    }
    store.compact(Revision(1_000)).unwrap().unwrap();
    let mut steps = 0;
    loop {
        let progress = store.compact_step(100).unwrap();
        assert!(progress.removed <= 101);
        steps += 1;
        if progress.done {
            break;
        }
    }
    assert!(steps >= 10);
    assert_eq!(
        store.pending().unwrap().bytes,
        store.reader().sizes().unwrap().retained_bytes as usize
            + 998 * limits::STORE_RECORD_OVERHEAD_BYTES
    );
}

#[test]
fn a_limit_without_an_order_cuts_by_key_before_it_sorts() {
    let (mut store, _) = new_store();
    for (key, value) in [("a", "3"), ("b", "2"), ("c", "1")] {
        put(&mut store, key, value);
    }
    let reader = store.reader();
    let query =
        RangeQuery { limit: 1, target: SortTarget::Value, ..RangeQuery::new(KeyRange::all()) };
    assert_eq!(values(&reader.range(&query).unwrap()), ["2"]);
    let query = RangeQuery { order: SortOrder::Ascend, ..query };
    assert_eq!(values(&reader.range(&query).unwrap()), ["1"]);
}

#[test]
fn long_ranges_are_answered_in_chunks_in_every_order() {
    let (mut store, _) = new_store();
    let many = limits::RANGE_CHUNK_KEYS * 2 + 17;
    let mut write = store.write().unwrap();
    for i in 0..many {
        write
            .put(format!("k{i:06}").as_bytes(), format!("{}", many - i).as_bytes(), LeaseId(0))
            .unwrap();
    }
    write.finish();
    store.flush().unwrap();
    put(&mut store, "k000000", "new");
    let reader = store.reader();
    for revision in [0, 2] {
        let all =
            reader.range(&RangeQuery { revision, ..RangeQuery::new(KeyRange::all()) }).unwrap();
        assert_eq!((all.kvs.len(), all.count, all.more), (many, many as i64, false));
        assert!(all.kvs.windows(2).all(|w| Record::key_of(&w[0]) < Record::key_of(&w[1])));
        let last = RangeQuery {
            revision,
            limit: 1_500,
            order: SortOrder::Descend,
            ..RangeQuery::new(KeyRange::all())
        };
        let last = reader.range(&last).unwrap();
        assert_eq!((last.kvs.len(), last.count, last.more), (1_500, many as i64, true));
        let expected: Vec<_> = all.kvs.iter().rev().take(1_500).cloned().collect();
        assert_eq!(last.kvs, expected);
    }
}

#[test]
fn a_stream_stays_at_its_revision_until_a_compaction_passes_it() {
    let (mut store, _) = new_store();
    for i in 0..30 {
        put(&mut store, &format!("k{i:02}"), "old");
    }
    let mut stream = store.reader().stream(RangeQuery::new(KeyRange::all())).unwrap();
    assert_eq!(stream.next(10).unwrap().unwrap().kvs.len(), 10);
    for i in 0..40 {
        put(&mut store, &format!("k{i:02}"), "new");
    }
    store.compact(Revision(31)).unwrap().unwrap();
    compact_fully(&mut store);
    let chunk = stream.next(10).unwrap().unwrap();
    assert!(chunk.kvs.iter().all(|kv| Record::decode(kv).unwrap().value == b"old"));
    store.compact(Revision(32)).unwrap().unwrap();
    assert!(matches!(stream.next(10), Err(ReadError::Refused(Error::Compacted))));
}

#[test]
fn reads_of_one_read_see_one_revision() {
    let (mut store, _) = new_store();
    put(&mut store, "a", "1");
    let reader = store.reader();
    let read = reader.read();
    assert_eq!(read.revision().unwrap(), Revision(2));
    put(&mut store, "a", "2");
    put(&mut store, "b", "3");
    assert_eq!(values(&read.range(&RangeQuery::new(KeyRange::all())).unwrap()), ["1"]);
    assert_eq!(read.meta(b"b").unwrap(), None);
    assert_eq!(read.meta(b"a").unwrap().unwrap().version, 1);
}

#[test]
fn the_cache_holds_no_more_than_its_budget_and_what_is_read_again() {
    let file = MemoryFile::default();
    let options = Options { cache_bytes: 100_000, page_cache_bytes: 1 << 20 };
    let mut store = Store::create(file, options).unwrap();
    let reader = store.reader();
    for i in 0..2_000 {
        put(&mut store, &format!("k{i:04}"), &"v".repeat(100));
        reader.get(b"k0000").unwrap();
        assert!(reader.sizes().unwrap().cached_bytes <= 100_000);
    }
    assert!(reader.sizes().unwrap().cached_bytes > 90_000);
    let shared = reader.lock.read().unwrap();
    assert!(shared.index.get(b"k0000").unwrap().cached().is_some());
}

/// Readers run against a writer and a flusher: each answer must be one whole revision.
#[test]
#[allow(clippy::disallowed_methods, reason = "threads are what is tested")]
fn readers_on_other_threads_see_whole_revisions() {
    let (mut store, _) = new_store();
    let done = AtomicBool::new(false);
    let reader = store.reader();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let all = reader.range(&RangeQuery::new(KeyRange::all())).unwrap();
                    assert!(all.revision.0 >= last);
                    last = all.revision.0;
                    // Every request writes the same value to all keys.
                    let mut values = values(&all);
                    values.dedup();
                    assert!(values.len() <= 1, "{values:?}");
                    if last > 1 {
                        assert_eq!(values[0], (last - 1).to_string());
                        assert_eq!(all.count, 20);
                    }
                }
            });
        }
        for i in 1..400 {
            let mut write = store.write().unwrap();
            for key in 0..20 {
                write.put(&[b'k', key], i.to_string().as_bytes(), LeaseId(0)).unwrap();
            }
            write.finish();
            match i % 10 {
                0 => store.flush().unwrap(),
                5 => {
                    let revision = Revision(store.reader().revision().unwrap().0 - 3);
                    store.compact(revision).unwrap().unwrap();
                    compact_fully(&mut store);
                }
                _ => {}
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}
