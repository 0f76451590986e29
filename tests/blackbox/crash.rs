//! Crashes: processes ended by the signal nothing can catch, in the middle of load.

use super::load::{PREFIX, Writers, assert_holds, collect, finished, read_all};
use super::process::{Cluster, until};
use quorate::client::{Get, Put};
use quorate::proto::etcdserverpb::AlarmType;
use quorate::proto::etcdserverpb::alarm_request::AlarmAction;
use tonic::Code;

/// Ends a watch: a key in the prefix that no writer writes.
const END: &str = "load/end";

async fn leaders_die(rounds: usize, writers: usize) {
    let mut cluster = Cluster::start(3, &[]).await;
    let endpoints = cluster.endpoints();
    let watch = collect(cluster.client(), PREFIX, 1, END);
    let load = Writers::start(&endpoints, writers, 100);
    for _ in 0..rounds {
        load.progress(300).await;
        let leader = cluster.leader().await;
        cluster.members[leader].kill();
        // The two others go on.
        load.progress(300).await;
        cluster.members[leader].start_ready().await;
    }
    load.progress(300).await;
    let acknowledged = load.stop().await;
    let client = cluster.client();
    client.put(Put::new(END, "")).await.expect("the cluster serves");
    let seen = finished("the watch sees everything", watch).await;
    let mut found = read_all(&client, PREFIX).await;
    found.remove(END.as_bytes());
    assert_holds(&found, &acknowledged);
    // Each key was put at most once, so a missed event would be missing here.
    assert_eq!(seen, found, "the watch and the keys tell the same");
    for member in &cluster.members {
        let mut own = read_all(&member.client(), PREFIX).await;
        own.remove(END.as_bytes());
        assert_eq!(own, found, "{}", member.name);
    }
    cluster.assert_same_hash().await;
    println!(
        "{rounds} leaders killed, {} puts acknowledged, {} done",
        acknowledged.len(),
        found.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_put_or_event_is_lost_when_leaders_are_killed() {
    leaders_die(3, 64).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "longer: the same with more kills"]
async fn heavy_no_acknowledged_put_or_event_is_lost_when_five_leaders_are_killed() {
    leaders_die(5, 64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_killed_under_load_comes_back_with_all_it_acknowledged() {
    let mut cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    let endpoints = cluster.endpoints();
    for round in 0..3 {
        // Other writers than last time, on the same keys: their puts are new versions.
        let load = Writers::start(&endpoints, 32, 200);
        load.progress(500).await;
        let lease = client.lease_grant(3_600, 1_000 + round).await.expect("a lease").id;
        for key in 0..10 {
            let put = Put::new(format!("leased/{round}/{key}"), "x").lease(lease);
            client.put(put).await.expect("a put");
        }
        let compacted = client.get(Get::key("x")).await.expect("an answer").header.revision;
        client.compact(compacted, false).await.expect("a compaction");
        let before = client.get(Get::prefix(PREFIX).at(compacted)).await.expect("an answer");
        load.progress(500).await;
        cluster.members[0].kill();
        let acknowledged = load.stop().await;
        cluster.members[0].start_ready().await;

        let found = read_all(&client, PREFIX).await;
        assert_holds(&found, &acknowledged);
        let now = client.get(Get::key("x")).await.expect("an answer").header.revision;
        let newest = acknowledged.values().max().expect("some");
        assert!(now >= *newest, "revision {now} after {newest}");
        for id in 1_000..=1_000 + round {
            let lease = client.lease_time_to_live(id, true).await.expect("an answer");
            assert_eq!(lease.granted_ttl, 3_600);
            assert!(lease.ttl > 3_400, "{}", lease.ttl);
            assert_eq!(lease.keys.len(), 10, "keys of lease {id}");
        }
        let old = client.get(Get::key("x").at(compacted - 1)).await.expect_err("compacted");
        assert_eq!(old.code(), Code::OutOfRange);
        assert!(old.to_string().contains("required revision has been compacted"), "{old}");
        let after = client.get(Get::prefix(PREFIX).at(compacted)).await.expect("an answer");
        assert_eq!(after.kvs, before.kvs, "keys as of the compaction");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_survives_a_crash_until_it_is_disarmed() {
    let mut cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    let id = client.status().await.expect("a status").header.expect("a header").member_id;
    client.alarm(AlarmAction::Activate, id, AlarmType::Nospace).await.expect("raised");
    for _ in 0..2 {
        let refused = client.put(Put::new("a", "b")).await.expect_err("no space");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        cluster.members[0].kill();
        cluster.members[0].start_ready().await;
        let alarms = client.alarms().await.expect("an answer").alarms;
        let alarms: Vec<_> = alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect();
        assert_eq!(alarms, [(id, AlarmType::Nospace as i32)]);
    }
    client.alarm(AlarmAction::Deactivate, id, AlarmType::Nospace).await.expect("disarmed");
    cluster.members[0].kill();
    cluster.members[0].start_ready().await;
    assert!(client.alarms().await.expect("an answer").alarms.is_empty());
    until("a put succeeds", async || client.put(Put::new("a", "b")).await.ok()).await;
}
