//! An orderly end: the leader hands over, clients are let go, nothing is lost.

use super::load::{PREFIX, Writers, assert_holds, read_all};
use super::process::{Cluster, until};
use quorate::client::{Put, Watch};
use rustix::process::Signal;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_told_to_stop_hands_over_and_exits_with_0_in_time() {
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let others: Vec<String> = (cluster.endpoints().into_iter().enumerate())
        .filter_map(|(i, endpoint)| (i != leader).then_some(endpoint))
        .collect();
    // Streams that nobody ends.
    let own = cluster.members[leader].client();
    let mut watchers = Vec::new();
    for _ in 0..20 {
        let mut watcher = own.watch(Watch::prefix("nothing"));
        watcher.next().await.expect("taken up");
        watchers.push(watcher);
    }
    let lease = own.lease_grant(60, 0).await.expect("a lease");
    let mut renewals = own.keep_alive(lease.id);
    renewals.next().await.expect("renewed");
    let load = Writers::start(&cluster.endpoints(), 16, 100);
    load.progress(300).await;
    let term = own.status().await.expect("a status").raft_term;

    let started = Instant::now();
    cluster.members[leader].signal(Signal::TERM);
    let other = super::process::connect(&others);
    let next = until("another member leads", async || {
        let status = other.status().await.ok()?;
        (status.raft_term > term && status.leader != 0).then_some(status)
    });
    let (status, next) =
        tokio::join!(cluster.members[leader].wait_for_exit(Duration::from_secs(5)), async {
            (next.await, started.elapsed())
        });
    let ended = started.elapsed();
    assert_eq!(status.code(), Some(0));
    assert!(ended < Duration::from_secs(5), "{ended:?}");
    let (new, elected) = next;
    // No time-out was waited for: that takes a second at least, and a higher term if it fails.
    println!("another leader after {elected:?}, the process ended after {ended:?}");
    let log = &cluster.members[leader];
    for line in
        ["leadership transfer starting", "leadership transfer finished", "closed etcd server"]
    {
        assert_eq!(log.log_lines(line).len(), 1, "{line}: {}", log.log_tail());
    }
    assert_eq!(new.raft_term, term + 1, "one election");

    load.progress(300).await;
    let acknowledged = load.stop().await;
    drop((watchers, renewals));
    cluster.members[leader].start_ready().await;
    assert_holds(&read_all(&cluster.client(), PREFIX).await, &acknowledged);
    cluster.assert_same_hash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_told_to_stop_under_load_loses_nothing() {
    let mut cluster = Cluster::start(1, &[]).await;
    let load = Writers::start(&cluster.endpoints(), 32, 100);
    load.progress(500).await;
    let started = Instant::now();
    cluster.members[0].signal(Signal::TERM);
    let status = cluster.members[0].wait_for_exit(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(0));
    println!("ended after {:?}", started.elapsed());
    let acknowledged = load.stop().await;
    cluster.members[0].start_ready().await;
    assert_holds(&read_all(&cluster.client(), PREFIX).await, &acknowledged);
    cluster.client().put(Put::new("after", "it")).await.expect("it serves");
}
