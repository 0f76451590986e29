//! A follower that was away longer than the leader's log reaches back.

use super::load::{PREFIX, Writers, assert_holds, collect, finished, read_all};
use super::process::{Cluster, until};
use quorate::client::Put;

const END: &str = "load/end";

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_behind_the_log_catches_up_by_snapshot_and_its_watchers_miss_nothing() {
    let flags = ["--snapshot-count", "100", "--snapshot-catchup-entries", "50"];
    let mut cluster = Cluster::start(3, &flags).await;
    let follower = cluster.follower().await;
    let leader = cluster.leader().await;
    // It stays with its one endpoint, so it waits for the follower to come back.
    let before = collect(cluster.members[follower].client(), PREFIX, 1, END);
    let load = Writers::start(&cluster.endpoints(), 16, 100);
    load.progress(200).await;
    cluster.members[follower].kill();
    load.progress(1_000).await;
    cluster.members[follower].start_ready().await;
    let line = "received database snapshot";
    until("it catches up by snapshot", async || {
        (!cluster.members[follower].log_lines(line).is_empty()).then_some(())
    })
    .await;
    let sent = cluster.members[leader].log_lines("sent database snapshot");
    assert!(!sent.is_empty(), "{}", cluster.members[leader].log_tail());
    let after = collect(cluster.members[follower].client(), PREFIX, 1, END);
    load.progress(200).await;
    let acknowledged = load.stop().await;
    cluster.client().put(Put::new(END, "")).await.expect("the cluster serves");

    let mut found = read_all(&cluster.members[follower].client(), PREFIX).await;
    found.remove(END.as_bytes());
    assert_holds(&found, &acknowledged);
    assert_eq!(finished("the watcher from before", before).await, found);
    assert_eq!(finished("the watcher from after", after).await, found);
    cluster.assert_same_hash().await;
    // The snapshot is on its disk too.
    cluster.members[follower].kill();
    cluster.members[follower].start_ready().await;
    cluster.assert_same_hash().await;
}
