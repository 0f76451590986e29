//! What the store costs: single thread, real file, plain timing.
//!
//! `cargo bench --bench store [-- <keys>]`. Each line says what was done and what one cost.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "it measures real time")]

use bytes::Bytes;
use quorate::env::Disk;
use quorate::env::real::RealDisk;
use quorate::store::{Options, RangeQuery, Reader, SortOrder, SortTarget, Store};
use quorate::types::{Index, KeyRange, LeaseId, Revision, Term};
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

/// Records flushed at once.
const FLUSH_RECORDS: usize = 10_000;
const VALUE: [u8; 256] = [b'v'; 256];

fn key(i: usize) -> [u8; 16] {
    let mut key = *b"key-000000000000";
    let digits = format!("{i:012}");
    key[4..].copy_from_slice(digits.as_bytes());
    key
}

/// Spreads numbers over a range without repeating until all were named.
fn spread(i: usize, range: usize) -> usize {
    (i * 7_368_787) % range
}

fn time(what: &str, count: usize, work: impl FnOnce()) {
    let (start, busy) = (Instant::now(), on_cpu());
    work();
    let each = |nanoseconds: f64| nanoseconds / count as f64;
    let wall = each(start.elapsed().as_nanos() as f64);
    let cpu = each(on_cpu() - busy);
    println!("{what:<50} {count:>8} x {wall:>11.0} ns, {cpu:>11.0} ns of CPU");
}

fn proc_self(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/self/{name}")).expect("linux")
}

/// Nanoseconds this process has run: on a busy machine the steadier figure.
fn on_cpu() -> f64 {
    let text = proc_self("schedstat");
    text.split(' ').next().and_then(|number| number.parse().ok()).expect("linux")
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let text = proc_self("statm");
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("linux") * 4096
}

fn put_all(store: &mut Store, keys: impl Iterator<Item = usize>, flush: bool) {
    for (number, i) in keys.enumerate() {
        let mut write = store.write().expect("open");
        write.put(&key(i), &VALUE, LeaseId(0)).expect("open");
        black_box(write.finish());
        if flush && number % FLUSH_RECORDS == FLUSH_RECORDS - 1 {
            store.set_applied(Index(store.applied().0.0 + 1), Term(1));
            store.flush().expect("disk");
        }
    }
}

fn gets(what: &str, reader: &Reader, count: usize, keys: usize) {
    time(what, count, || {
        for i in 0..count {
            black_box(reader.get(&key(spread(i, keys))).expect("open"));
        }
    });
}

fn range(first: usize, count: usize) -> RangeQuery {
    let (start, end) = (key(first), key(first + count));
    RangeQuery::new(KeyRange::new(Bytes::copy_from_slice(&start), Bytes::copy_from_slice(&end)))
}

fn ranges(what: &str, reader: &Reader, query: &RangeQuery, count: usize) {
    time(what, count, || {
        for _ in 0..count {
            black_box(reader.range(query).expect("open"));
        }
    });
}

fn main() {
    let argument = std::env::args().skip(1).find_map(|text| text.parse().ok());
    let keys: usize = argument.unwrap_or(1_000_000);
    let directory = std::env::temp_dir().join(format!("quorate-bench-{}", std::process::id()));
    RealDisk.create_directory(&directory).expect("a place for files");
    large(&directory, keys);
    small(&directory);
    std::fs::remove_dir_all(&directory).expect("it was made above");
}

/// All values cached.
fn small(directory: &Path) {
    let keys = 100_000;
    println!("{keys} keys of 16 bytes, values of 256, cached");
    let file = RealDisk.create(&directory.join("small")).expect("a file");
    let mut store = Store::create(file, Options::default()).expect("empty");
    let reader = store.reader();
    let memory = resident();
    time("put, new keys in order", keys, || put_all(&mut store, 0..keys, false));
    println!("memory {} bytes a key", (resident() - memory) / keys);
    time("flush, a record", keys, || store.flush().expect("disk"));
    println!("memory {} bytes a key after the flush", (resident() - memory) / keys);
    time("put, old keys at random", keys, || {
        put_all(&mut store, (0..keys).map(|i| spread(i, keys)), false);
    });
    time("flush, a record", keys, || store.flush().expect("disk"));
    gets("get, at random", &reader, 1_000_000, keys);
    gets("get, 100 keys", &reader, 1_000_000, 100);
    ranges("range of 1,000", &reader, &range(5_000, 1_000), 1_000);
    let only = RangeQuery { keys_only: true, ..range(5_000, 1_000) };
    ranges("range of 1,000, keys only", &reader, &only, 1_000);
    let count = RangeQuery { count_only: true, ..RangeQuery::new(KeyRange::all()) };
    ranges("count of all", &reader, &count, 100_000);
    let last =
        RangeQuery { order: SortOrder::Descend, limit: 10, ..RangeQuery::new(KeyRange::all()) };
    ranges("last 10 by key", &reader, &last, 100_000);
    let newest = RangeQuery {
        target: SortTarget::Mod,
        order: SortOrder::Descend,
        limit: 1,
        ..range(5_000, 1_000)
    };
    ranges("newest of 1,000", &reader, &newest, 1_000);
    time("compact, a version", keys, || {
        store.compact(reader.revision().expect("open")).expect("open").expect("in range");
        while !store.compact_step(1_000).expect("open").done {}
    });
    time("flush, a deletion", keys, || store.flush().expect("disk"));
    println!("{:?}", reader.sizes().expect("open"));
    time("hash, a key", keys, || {
        black_box(reader.hash_kv(Revision(0)).expect("open"));
    });
    let copy = RealDisk.create(&directory.join("copy")).expect("a file");
    time("defragment, a key", keys, || {
        let job = store.begin_defragment(copy).expect("open").expect("idle");
        let copy = job.run().expect("disk");
        store.finish_defragment(copy).expect("open");
    });
    println!("{:?}", reader.sizes().expect("open"));
}

/// More values than the cache holds.
fn large(directory: &Path, keys: usize) {
    println!("\n{keys} keys");
    let path = directory.join("large");
    let memory = resident();
    let mut store =
        Store::create(RealDisk.create(&path).expect("a file"), Options::default()).expect("empty");
    time("put in order and flush", keys, || put_all(&mut store, 0..keys, true));
    time("put a tenth at random and flush", keys / 10, || {
        put_all(&mut store, (0..keys / 10).map(|i| spread(i, keys)), true);
    });
    store.flush().expect("disk");
    println!("memory {} MB, {:?}", (resident() - memory) >> 20, store.reader().sizes());
    drop(store);
    let mut opened = None;
    time("open", 1, || {
        let file = RealDisk.open(&path).expect("just written");
        opened = Some(Store::open(file, Options::default()).expect("sound"));
    });
    let (store, _) = opened.expect("just opened");
    let reader = store.reader();
    println!("memory {} MB", (resident() - memory) >> 20);
    ranges("range of 1,000, cold", &reader, &range(keys / 2, 1_000), 1);
    ranges("range of 1,000, warm", &reader, &range(keys / 2, 1_000), 1_000);
    gets("get, at random, mostly from the file", &reader, 200_000, keys);
    time("snapshot, a key", keys, || {
        let mut source = store.snapshot_source().expect("open");
        while let Some(chunk) = source.next_chunk().expect("sound") {
            black_box(chunk);
        }
    });
}
