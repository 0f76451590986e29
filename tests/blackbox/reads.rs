//! Linearizable reads while leadership moves: what one client was told, no other client may be
//! told less of later.

use super::load::{PREFIX, Writers, assert_holds, read_all};
use super::process::{Cluster, connect};
use quorate::client::{Client, Get, Put, Txn, compare};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

/// Reads a counter again and again; counts the reads that succeeded.
async fn read_counter(client: Client, written: Arc<AtomicI64>, stop: Arc<AtomicBool>) -> u64 {
    let (mut newest, mut newest_revision, mut reads) = (0, 0, 0);
    while !stop.load(Ordering::SeqCst) {
        // Everything acknowledged by now must be in what is read from now on.
        let acknowledged = written.load(Ordering::SeqCst);
        let Ok(reply) = client.get(Get::key("counter")).await else { continue };
        let value = reply.kvs.first().map_or(0, |kv| {
            std::str::from_utf8(&kv.value).expect("text").parse().expect("a number")
        });
        assert!(value >= acknowledged, "read {value} after {acknowledged} was acknowledged");
        assert!(value >= newest, "read {value} after {newest}");
        let revision = reply.header.revision;
        assert!(revision >= newest_revision, "revision {revision} after {newest_revision}");
        (newest, newest_revision, reads) = (value, revision, reads + 1);
    }
    reads
}

/// Counts on, each step only from the step before: what is executed late changes nothing.
async fn write_counter(client: Client, written: Arc<AtomicI64>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::SeqCst) {
        let Ok(now) = client.get(Get::key("counter")).await else { continue };
        let (value, revision) = now.kvs.first().map_or((0, 0), |kv| {
            let text = std::str::from_utf8(&kv.value).expect("text");
            (text.parse::<i64>().expect("a number"), kv.mod_revision)
        });
        let step = Txn::new()
            .when([compare::mod_revision("counter", compare::Equal, revision)])
            .then(Put::new("counter", (value + 1).to_string()));
        if client.txn(step).await.is_ok_and(|reply| reply.succeeded) {
            written.store(value + 1, Ordering::SeqCst);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn linearizable_reads_never_go_back_while_leadership_moves_under_load() {
    const MOVES: usize = 8;
    let mut cluster = Cluster::start(3, &[]).await;
    let load = Writers::start(&cluster.endpoints(), 16, 100);
    let (written, stop) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
    let readers: Vec<_> = (cluster.members.iter())
        .map(|member| {
            let client = member.client().with_deadline(Some(Duration::from_secs(3)));
            tokio::spawn(read_counter(client, written.clone(), stop.clone()))
        })
        .collect();
    let client = connect(&cluster.endpoints()[..1]).with_deadline(Some(Duration::from_secs(3)));
    let writer = tokio::spawn(write_counter(client, written.clone(), stop.clone()));
    let ids: Vec<u64> = {
        let mut ids = Vec::new();
        for member in &cluster.members {
            let status = member.client().status().await.expect("a status");
            ids.push(status.header.expect("a header").member_id);
        }
        ids
    };
    let mut moved = 0;
    // On a machine that has much else to do, it takes more moves to see the counter move.
    while moved < MOVES || written.load(Ordering::SeqCst) <= 20 {
        load.progress(50).await;
        let leader = cluster.leader().await;
        let target = ids[(leader + 1) % 3];
        // It may fail when leadership was just moving; then it is tried again.
        if cluster.members[leader].client().move_leader(target).await.is_ok() {
            moved += 1;
        }
    }
    load.progress(50).await;
    stop.store(true, Ordering::SeqCst);
    writer.await.expect("the writer does not fail");
    let mut reads = Vec::new();
    for reader in readers {
        reads.push(reader.await.expect("reads never go back"));
    }
    assert!(reads.iter().all(|&reads| reads > 20), "{reads:?}");
    assert!(written.load(Ordering::SeqCst) > 20, "the counter moved all the time");
    let acknowledged = load.stop().await;
    assert_holds(&read_all(&cluster.client(), PREFIX).await, &acknowledged);
    cluster.assert_same_hash().await;
    println!(
        "{MOVES} moves, counter at {}, reads {reads:?}, {} puts",
        written.load(Ordering::SeqCst),
        acknowledged.len()
    );
}
