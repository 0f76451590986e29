//! Leases in real time: they end when they should, neither early nor much too late, whoever
//! leads.

use super::process::{Cluster, PATIENCE, until, until_within};
use quorate::client::{Client, Get, Put, Watch, WatchUpdate};
use quorate::proto::mvccpb::event::EventType;
use std::time::{Duration, Instant};

/// The servers' default.
const ELECTION: Duration = Duration::from_secs(1);
/// How much later than promised something may happen on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// Waits for the deletion of a key, with a watch that begins behind `revision`.
async fn deleted(client: &Client, key: &str, revision: i64) -> Instant {
    let mut watcher = client.watch(Watch::key(key.to_owned()).from(revision + 1));
    let deletion = async {
        loop {
            let update = watcher.next().await.expect("the watch goes on");
            let WatchUpdate::Events { events, .. } = update else { continue };
            if events.iter().any(|event| event.r#type == EventType::Delete as i32) {
                return Instant::now();
            }
        }
    };
    tokio::time::timeout(PATIENCE, deletion).await.expect("the key goes away")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_when_its_time_is_up_and_takes_its_keys_along() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    let before = Instant::now();
    let lease = client.lease_grant(3, 0).await.expect("a lease");
    let granted = Instant::now();
    let put = client.put(Put::new("leased", "x").lease(lease.id)).await.expect("a put");
    let ended = deleted(&client, "leased", put.header.revision).await;
    assert!(ended - before >= Duration::from_secs(3), "after {:?}", ended - before);
    assert!(ended - granted <= Duration::from_secs(3) + SLACK, "after {:?}", ended - granted);
    let gone = client.lease_time_to_live(lease.id, false).await.expect("an answer");
    assert_eq!(gone.ttl, -1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_leader_dies_ends_neither_early_nor_later_than_twice_its_time() {
    let ttl = Duration::from_secs(5);
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let client = cluster.client();
    let before = Instant::now();
    let lease = client.lease_grant(5, 0).await.expect("a lease");
    let put = client.put(Put::new("leased", "x").lease(lease.id)).await.expect("a put");
    // In the middle of its time.
    tokio::time::sleep((before + ttl / 2).saturating_duration_since(Instant::now())).await;
    cluster.members[leader].kill();
    let killed = Instant::now();
    let ended = deleted(&client, "leased", put.header.revision).await;
    assert!(ended - before >= ttl, "after {:?}", ended - before);
    let latest = 2 * ttl + 2 * ELECTION + SLACK;
    assert!(ended - before <= latest, "after {:?}", ended - before);
    println!("ended {:?} after the grant, {:?} after the kill", ended - before, ended - killed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_renewed_through_a_follower_stays() {
    let mut cluster = Cluster::start(3, &[]).await;
    let follower = cluster.follower().await;
    let client = cluster.members[follower].client();
    let lease = client.lease_grant(3, 0).await.expect("a lease");
    client.put(Put::new("leased", "x").lease(lease.id)).await.expect("a put");
    let mut renewals = client.keep_alive(lease.id);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(8) {
        let renewal = renewals.next().await.expect("it is renewed");
        assert_eq!(renewal.ttl, 3);
        let found = client.get(Get::key("leased")).await.expect("an answer");
        assert_eq!(found.kvs.len(), 1, "after {:?}", started.elapsed());
    }
    drop(renewals);
    until_within(Duration::from_secs(3) + SLACK, "the key goes once nobody renews", async || {
        client.get(Get::key("leased")).await.expect("an answer").kvs.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_leases_that_end_at_once_go_out_in_batches_with_their_keys() {
    const LEASES: i64 = 5_000;
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    let granting = (0..50).map(|task| {
        let client = client.clone();
        tokio::spawn(async move {
            for id in (1..=LEASES).filter(|id| id % 50 == task) {
                client.lease_grant(20, id).await.expect("a lease");
                client.put(Put::new(format!("leased/{id}"), "x").lease(id)).await.expect("a put");
            }
        })
    });
    for task in granting.collect::<Vec<_>>() {
        task.await.expect("all granted");
    }
    assert_eq!(client.leases().await.expect("an answer").leases.len() as i64, LEASES);
    // After a restart all of them have their whole time before them and end at one moment.
    let mut cluster = cluster;
    cluster.members[0].kill();
    cluster.members[0].start_ready().await;
    let before = client.status().await.expect("a status").raft_index;
    let count = async || {
        let get = Get::prefix("leased/").count_only();
        client.get(get).await.expect("an answer").count
    };
    assert_eq!(count().await, LEASES);
    until_within(Duration::from_secs(90), "all keys are gone", async || {
        (count().await == 0).then_some(())
    })
    .await;
    until("all leases are gone", async || {
        client.leases().await.expect("an answer").leases.is_empty().then_some(())
    })
    .await;
    let entries = client.status().await.expect("a status").raft_index - before;
    assert!(entries <= 100, "{entries} log entries for {LEASES} leases");
    println!("{LEASES} leases ended in {entries} log entries");
}
