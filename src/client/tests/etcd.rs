//! The client against a real etcd. `QUORATE_ETCD` names the binary; without it these tests say so
//! and pass.

#![allow(clippy::disallowed_methods, reason = "a test starts processes and reads sockets")]

use super::*;
use crate::env::{Env, Listener, Network};
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use sha2::{Digest, Sha256};
use std::process::{Child, Command, Stdio};

const VARIABLE: &str = "QUORATE_ETCD";

/// An etcd of one member. Killed when dropped.
struct Etcd {
    binary: String,
    directory: tempfile::TempDir,
    client_port: String,
    peer_port: String,
    process: Child,
}

impl Etcd {
    /// Starts one, or says that none was named.
    async fn start() -> Option<Etcd> {
        let Ok(binary) = std::env::var(VARIABLE) else {
            eprintln!("SKIPPED: set {VARIABLE} to the path of an etcd binary to run this test");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let (client_port, peer_port) = (free_port().await, free_port().await);
        let process = spawn(&binary, &directory, &client_port, &peer_port);
        Some(Etcd { binary, directory, client_port, peer_port, process })
    }

    fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(&self.binary, &self.directory, &self.client_port, &self.peer_port);
    }

    fn client(&self) -> Client {
        client([&*format!("127.0.0.1:{}", self.client_port)])
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

async fn free_port() -> String {
    let listener = Real::new().network().bind("127.0.0.1:0").await.unwrap();
    listener.address().unwrap().rsplit_once(':').unwrap().1.to_owned()
}

fn spawn(binary: &str, directory: &tempfile::TempDir, client: &str, peer: &str) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    Command::new(binary)
        .arg("--data-dir")
        .arg(directory.path())
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn keys_transactions_and_compaction() {
    run(async {
        let Some(etcd) = Etcd::start().await else { return };
        let client = etcd.client();
        let first = client.put(Put::new("a", "1").prev_kv()).await.unwrap();
        assert_eq!(first.prev_kv, None);
        let second = client.put(Put::new("a", "2").prev_kv()).await.unwrap();
        assert_eq!(second.prev_kv.unwrap().value, "1");
        let reply = client.get(Get::prefix("a")).await.unwrap();
        assert_eq!((&*reply.kvs[0].value, reply.kvs[0].version, reply.count), (&b"2"[..], 2, 1));

        let txn = Txn::new()
            .when([compare::value("a", compare::Equal, "2")])
            .then(Put::new("b", vec![7; 500_000]))
            .then(Get::key("b"))
            .then(Txn::new().then(Delete::key("a").prev_kv()))
            .otherwise(Get::all());
        let reply = client.txn(txn.clone()).await.unwrap();
        assert!(reply.succeeded);
        let [OpReply::Put(_), OpReply::Get(get), OpReply::Txn(inner)] = &reply.ops[..] else {
            panic!("{:?}", reply.ops)
        };
        assert_eq!(get.kvs[0].value.len(), 500_000);
        let [OpReply::Delete(delete)] = &inner.ops[..] else { panic!("{:?}", inner.ops) };
        assert_eq!(delete.prev_kvs[0].value, "2");
        let reply = client.txn(txn).await.unwrap();
        assert!(
            !reply.succeeded && matches!(&reply.ops[..], [OpReply::Get(all)] if all.count == 1)
        );

        let revision = reply.header.revision;
        client.compact(revision, true).await.unwrap();
        let error = client.get(Get::key("a").at(revision - 1)).await.unwrap_err();
        assert_eq!(error.code(), Code::OutOfRange);
        assert_eq!(error.to_string(), "etcdserver: mvcc: required revision has been compacted");
        let mut watcher = client.watch(Watch::key("a").from(1));
        assert!(matches!(watcher.next().await, Ok(WatchUpdate::Created { .. })));
        let compacted = Error::Compacted { compact_revision: revision };
        assert_eq!(watcher.next().await, Err(compacted));
    });
}

#[test]
fn a_watch_and_acknowledged_writes_survive_kills() {
    run(async {
        let Some(mut etcd) = Etcd::start().await else { return };
        let client = etcd.client();
        let mut watcher = client.watch(Watch::prefix("k"));
        assert!(matches!(watcher.next().await, Ok(WatchUpdate::Created { .. })));
        let mut written = Vec::new();
        for round in 0..3 {
            for number in 0..20 {
                let key = format!("k{round}-{number:02}");
                written.push(client.put(Put::new(key, "x")).await.unwrap().header.revision);
            }
            etcd.restart();
            // A read finds its way to the new process; a write on the dead connection would
            // leave doubt, rightly.
            client.get(Get::key("k")).await.unwrap();
        }
        let mut seen = Vec::new();
        while seen.len() < written.len() {
            seen.extend(revisions(&mut watcher).await.unwrap());
        }
        assert_eq!(seen, written);
        watcher.request_progress().await;
        match watcher.next().await.unwrap() {
            WatchUpdate::Created { .. } | WatchUpdate::Progress { .. } => {}
            WatchUpdate::Events { events, .. } => panic!("delivered twice: {events:?}"),
        }
    });
}

#[test]
fn leases() {
    run(async {
        let Some(etcd) = Etcd::start().await else { return };
        let client = etcd.client();
        let lease = client.lease_grant(60, 77).await.unwrap();
        assert_eq!((lease.id, lease.ttl), (77, 60));
        client.put(Put::new("leased", "x").lease(77)).await.unwrap();
        assert_eq!(client.lease_keep_alive_once(77).await.unwrap().ttl, 60);
        assert_eq!(client.lease_time_to_live(77, true).await.unwrap().keys, ["leased"]);
        assert_eq!(client.leases().await.unwrap().leases.len(), 1);
        client.lease_revoke(77).await.unwrap();
        assert_eq!(client.get(Get::key("leased")).await.unwrap().count, 0);
        let gone = client.lease_keep_alive_once(77).await.unwrap_err();
        let refused = client.lease_revoke(77).await.unwrap_err();
        assert_eq!(gone, refused, "ours is etcd's own error");
    });
}

#[test]
fn maintenance() {
    run(async {
        let Some(etcd) = Etcd::start().await else { return };
        let client = etcd.client();
        client.put(Put::new("a", vec![1; 100_000])).await.unwrap();
        let status = client.status().await.unwrap();
        let member = status.header.unwrap().member_id;
        assert_eq!(status.leader, member);
        assert_eq!(client.member_list(true).await.unwrap().members[0].id, member);
        assert!(client.hash_kv(0).await.unwrap().hash != 0);
        client.alarm(AlarmAction::Activate, member, AlarmType::Nospace).await.unwrap();
        assert_eq!(client.alarms().await.unwrap().alarms.len(), 1);
        let full = client.put(Put::new("a", "b")).await.unwrap_err();
        assert_eq!(full.to_string(), "etcdserver: mvcc: database space exceeded");
        client.alarm(AlarmAction::Deactivate, member, AlarmType::Nospace).await.unwrap();
        client.defragment().await.unwrap();
        let error = client.move_leader(1).await.unwrap_err();
        assert_eq!(error.to_string(), "etcdserver: bad leader transferee");

        let mut snapshot = client.snapshot().await.unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = snapshot.next().await.unwrap() {
            bytes.extend_from_slice(&piece.blob);
        }
        let (database, digest) = bytes.split_at(bytes.len() - 32);
        assert_eq!(Sha256::digest(database)[..], digest[..]);
    });
}
