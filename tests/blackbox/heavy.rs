//! Large stores and many watchers. Ignored by default; figures are printed.

use super::load::{finished, read_all};
use super::process::{Cluster, PATIENCE, connect};
use prost::Message;
use quorate::client::{Client, Get, Put, Txn};
use quorate::proto::etcdserverpb::watch_request::RequestUnion;
use quorate::proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use quorate::proto::mvccpb::Event;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

const MIB: u64 = 1 << 20;

/// Puts `keys` pairs in transactions of 100, by 16 clients.
async fn fill(cluster: &Cluster, keys: usize, value_bytes: usize) {
    const OPS: usize = 100;
    const CLIENTS: usize = 16;
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|task| {
            let client = connect(&cluster.endpoints()).with_deadline(Some(PATIENCE));
            tokio::spawn(async move {
                for batch in (0..keys / OPS).filter(|batch| batch % CLIENTS == task) {
                    let txn = (0..OPS).fold(Txn::new(), |txn, op| {
                        let key = format!("key/{:09}", batch * OPS + op);
                        txn.then(Put::new(key, vec![b'v'; value_bytes]))
                    });
                    client.txn(txn).await.expect("a transaction");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("filled");
    }
}

/// Lists a prefix in pages of 500 at the revision of the first page; returns keys and pages.
async fn list_in_pages(client: &Client, prefix: &str) -> (Vec<Vec<u8>>, usize, i64) {
    let whole = Get::prefix(prefix.to_owned());
    let (mut from, end) = (whole.0.key.clone(), whole.0.range_end.clone());
    let (mut keys, mut pages, mut revision, mut count) = (Vec::new(), 0, 0, 0);
    loop {
        let page = Get::range(from, end.clone()).limit(500).at(revision);
        let page = client.get(page).await.expect("a page");
        if revision == 0 {
            (revision, count) = (page.header.revision, page.count);
        }
        pages += 1;
        assert!(page.kvs.iter().all(|kv| kv.mod_revision <= revision), "newer than the list");
        assert_eq!(page.count as usize + keys.len(), count as usize, "the count of one revision");
        let last = page.kvs.last().map(|kv| kv.key.clone());
        keys.extend(page.kvs.into_iter().map(|kv| kv.key.to_vec()));
        match last.filter(|_| page.more) {
            Some(last) => from = [&last[..], b"\0"].concat().into(),
            None => {
                assert_eq!(keys.len(), count as usize);
                return (keys, pages, revision);
            }
        }
    }
}

async fn lists_are_of_one_revision(cluster: &Cluster, keys: usize) {
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|task| {
            let (client, stop) = (connect(&cluster.endpoints()), stop.clone());
            tokio::spawn(async move {
                let mut puts = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    // New keys between the old ones, and new values of old ones.
                    let spot = (puts * 7_919 + task * 13) % keys as u64;
                    let key = match puts % 2 {
                        0 => format!("key/{spot:09}/new{task}-{puts}"),
                        _ => format!("key/{spot:09}"),
                    };
                    client.put(Put::new(key, "new")).await.expect("a put");
                    puts += 1;
                }
                puts
            })
        })
        .collect();
    let client = cluster.client().with_deadline(Some(PATIENCE));
    let started = Instant::now();
    let (listed, pages, revision) = list_in_pages(&client, "key/").await;
    let took = started.elapsed();
    stop.store(true, Ordering::Relaxed);
    let mut puts = 0;
    for writer in writers {
        puts += writer.await.expect("writes go on");
    }
    assert!(listed.is_sorted(), "in order");
    let distinct: BTreeSet<_> = listed.iter().collect();
    assert_eq!(distinct.len(), listed.len(), "each key once");
    // The same revision in one piece tells the same.
    let once = client.get(Get::prefix("key/").at(revision).count_only()).await.expect("a count");
    assert_eq!(once.count as usize, listed.len());
    println!("{} keys listed in {pages} pages in {took:?} while {puts} puts ran", listed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_in_pages_is_of_one_revision_while_others_write() {
    let cluster = Cluster::start(1, &[]).await;
    fill(&cluster, 5_000, 32).await;
    lists_are_of_one_revision(&cluster, 5_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy: a million keys"]
async fn heavy_a_million_keys_are_back_after_a_kill() {
    const KEYS: usize = 1_000_000;
    let mut cluster = Cluster::start(1, &[]).await;
    let empty = cluster.members[0].resident_bytes();
    let started = Instant::now();
    fill(&cluster, KEYS, 256).await;
    let filled = started.elapsed();
    let loaded = cluster.members[0].resident_bytes();
    let file = std::fs::metadata(cluster.members[0].data.join("member/store/quorate.redb"));
    cluster.members[0].kill();
    let started = Instant::now();
    cluster.members[0].start_ready().await;
    let first_answer = started.elapsed();
    let restarted = cluster.members[0].resident_bytes();
    let found = read_all(&cluster.client(), "key/").await;
    assert_eq!(found.len(), KEYS);
    println!(
        "{KEYS} keys of 256 bytes: filled in {filled:?}; resident {} MiB empty, {} MiB filled; file \
         {} MiB; after the kill the first answer took {first_answer:?}, resident {} MiB then, {} MiB \
         after all keys were read",
        empty / MIB,
        loaded / MIB,
        file.map_or(0, |file| file.len()) / MIB,
        restarted / MIB,
        cluster.members[0].resident_bytes() / MIB,
    );
    lists_are_of_one_revision(&cluster, KEYS).await;
}

/// Watches `keys` keys by `watchers` watchers on `streams` streams, and puts so often.
async fn deliver(streams: usize, watchers: usize, keys: usize, puts: usize) {
    const CONNECTIONS: usize = 20;
    let cluster = Cluster::start(1, &[]).await;
    let member = &cluster.members[0];
    let per_stream = watchers / streams;
    let before_bytes = member.resident_bytes();
    let started = Instant::now();
    let clients: Vec<Client> = (0..CONNECTIONS).map(|_| connect(&cluster.endpoints())).collect();
    let delivered = Arc::new(AtomicU64::new(0));
    let mut readers = Vec::new();
    // Each key is watched by equally many watchers, so each put is delivered that often.
    let each_put = watchers / keys;
    for stream in 0..streams {
        let client = &clients[stream % CONNECTIONS];
        let (requests, mut responses) = client.watch_stream().await.expect("a stream");
        for number in 0..per_stream {
            let key = (stream * per_stream + number) % keys;
            let create = WatchCreateRequest {
                key: format!("key/{key:09}").into(),
                watch_id: number as i64 + 1,
                ..WatchCreateRequest::default()
            };
            let union = Some(RequestUnion::CreateRequest(create));
            let sent = requests.send(&WatchRequest { request_union: union }).await;
            sent.expect("the stream is open");
            let created = responses.next().await.expect("an answer").expect("a confirmation");
            assert!(created.created && created.watch_id == number as i64 + 1, "{created:?}");
        }
        let expected = (per_stream * (puts / keys)) as u64;
        let delivered = delivered.clone();
        readers.push(tokio::spawn(async move {
            let _open = requests;
            let mut newest = vec![0; per_stream + 1];
            let mut seen = 0;
            while seen < expected {
                let response = responses.next().await.expect("the stream goes on").expect("more");
                assert!(!response.canceled, "{}", response.cancel_reason);
                for event in &response.events {
                    let event = Event::decode(event.clone()).expect("an event");
                    let kv = event.kv.expect("a key");
                    let newest = &mut newest[response.watch_id as usize];
                    // Each put is a version of its key: none is left out, none comes twice.
                    assert_eq!(kv.version, *newest + 1, "of {}", kv.key.escape_ascii());
                    *newest = kv.version;
                    let number = (stream * per_stream + response.watch_id as usize - 1) % keys;
                    assert_eq!(kv.key, format!("key/{number:09}"));
                    seen += 1;
                }
                delivered.fetch_add(response.events.len() as u64, Ordering::Relaxed);
            }
        }));
    }
    let opened = started.elapsed();
    let with_watchers = member.resident_bytes();
    let started = Instant::now();
    let tasks: Vec<_> = (0..32)
        .map(|task| {
            let client = connect(&cluster.endpoints()).with_deadline(Some(PATIENCE));
            tokio::spawn(async move {
                // A key belongs to one task, so its versions are put in order.
                for number in (0..puts).filter(|number| (number % keys) % 32 == task) {
                    let key = format!("key/{:09}", number % keys);
                    client.put(Put::new(key, "value")).await.expect("a put");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("puts go on");
    }
    let put = started.elapsed();
    let peak = member.resident_bytes();
    for reader in readers {
        finished("all events arrive", reader).await;
    }
    let arrived = started.elapsed();
    let total = delivered.load(Ordering::Relaxed);
    assert_eq!(total, (puts * each_put) as u64);
    let growth = with_watchers.saturating_sub(before_bytes);
    println!(
        "{watchers} watchers on {streams} streams over {keys} keys, opened in {opened:?}: {} bytes \
         each (resident {} MiB before, {} MiB with them, {} MiB after the puts); {puts} puts in \
         {put:?}, {total} events delivered in {arrived:?}: {:.0} events/s",
        growth / watchers as u64,
        before_bytes / MIB,
        with_watchers / MIB,
        peak / MIB,
        total as f64 / arrived.as_secs_f64(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watchers_get_each_event_once_and_in_order() {
    deliver(50, 2_000, 200, 2_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy: 100,000 watchers, a million deliveries"]
async fn heavy_a_hundred_thousand_watchers_get_a_million_events_once_and_in_order() {
    deliver(1_000, 100_000, 10_000, 100_000).await;
}
