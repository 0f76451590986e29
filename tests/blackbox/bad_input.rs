//! Wrong command lines, wrong data, wrong neighbours, wrong requests, rude clients: each gets a
//! clear answer, and nobody else notices.

use super::process::{Cluster, Member, PATIENCE, connect, free_address, quorate, until};
use quorate::client::{Client, Delete, Get, Put, Watch, method};
use quorate::proto::etcdserverpb::watch_request::RequestUnion;
use quorate::proto::etcdserverpb::{PutRequest, WatchCreateRequest, WatchRequest};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

const EXIT_TIMEOUT: Duration = Duration::from_secs(20);
/// A real etcd, if the machine has one here.
const ETCD: &str = "/work/ref/etcd-3.5.1";

fn fails(arguments: &[&str]) -> (Option<i32>, String) {
    let output = quorate().arg("server").args(arguments).output().expect("the binary runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn an_unknown_flag_exits_with_2_and_names_the_nearest() {
    for (given, meant) in [
        ("--data-dri", "--data-dir"),
        ("--initial-clutser", "--initial-cluster"),
        ("--heartbeat-intervall", "--heartbeat-interval"),
    ] {
        let (code, text) = fails(&[given, "x"]);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(&format!("not defined: {given}")), "{text}");
        assert!(text.contains(&format!("did you mean {meant} ")), "{text}");
    }
}

#[test]
fn contradictory_flags_are_refused_with_the_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let data = data.to_str().expect("text");
    for (arguments, reason) in [
        (vec!["--heartbeat-interval", "500"], "at least as 5 times as"),
        (
            vec!["--initial-cluster", "a=http://127.0.0.1:1", "--name", "b"],
            "couldn't find local name",
        ),
        (
            vec![
                "--name",
                "a",
                "--initial-cluster",
                "a=http://127.0.0.1:1",
                "--initial-advertise-peer-urls",
                "http://127.0.0.1:2",
            ],
            "127.0.0.1:2",
        ),
    ] {
        let (code, text) = fails(&[&["--data-dir", data], &arguments[..]].concat());
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(reason), "{reason}: {text}");
        assert!(!Path::new(data).exists(), "nothing was made for {arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_is_refused_and_its_user_goes_on() {
    let cluster = Cluster::start(1, &[]).await;
    let mut second = Member::new(cluster.path(), "second", &[]);
    second.data = cluster.members[0].data.clone();
    second.start();
    let status = second.wait_for_exit(EXIT_TIMEOUT).await;
    assert_eq!(status.code(), Some(1));
    assert!(second.log().contains("is in use by another process"), "{}", second.log_tail());
    cluster.client().put(Put::new("a", "b")).await.expect("the first goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_etcd_is_refused_untouched() {
    if !Path::new(ETCD).exists() {
        eprintln!("SKIPPED: no {ETCD}");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut member = Member::new(directory.path(), "m0", &[]);
    let etcd = |member: &Member| {
        let (client, peer) = (
            format!("http://{}", member.client_address),
            format!("http://{}", member.peer_address),
        );
        let child = Command::new(ETCD)
            .args(["--name", "m0", "--data-dir"])
            .arg(&member.data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &member.initial_cluster])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        Child(child.expect("etcd runs"))
    };
    let first = etcd(&member);
    let client = member.client();
    until("etcd serves", async || client.put(Put::new("from", "etcd")).await.ok()).await;
    drop(first);
    member.start();
    let status = member.wait_for_exit(EXIT_TIMEOUT).await;
    assert_eq!(status.code(), Some(1));
    let last = member.log().lines().last().expect("a line").to_owned();
    assert!(last.contains("etcd") && last.contains("hint"), "{last}");
    let _again = etcd(&member);
    until("etcd goes on with it", async || {
        let found = client.get(Get::key("from")).await.ok()?;
        found.kvs.first().filter(|kv| kv.value == "etcd").map(drop)
    })
    .await;
}

/// A process that ends with this value.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_another_cluster_at_a_members_address_is_kept_out() {
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let victim = (leader + 1) % 3;
    cluster.members[victim].kill();
    let client = cluster.client();
    let term = cluster.members[leader].client().status().await.expect("a status").raft_term;
    // The same name, addresses and members, but another token makes another cluster.
    let flags = ["--initial-cluster-token", "another"];
    let mut stranger = Member::new(cluster.path(), "stranger", &flags);
    let member = &cluster.members[victim];
    stranger.name.clone_from(&member.name);
    stranger.peer_address.clone_from(&member.peer_address);
    stranger.initial_cluster.clone_from(&member.initial_cluster);
    stranger.start();
    until("a member complains about the other cluster", async || {
        let complains = |log: String| log.to_lowercase().contains("cluster id mismatch");
        (complains(cluster.members[leader].log()) || complains(stranger.log())).then_some(())
    })
    .await;
    for round in 0..20 {
        client.put(Put::new(format!("k{round}"), "v")).await.expect("the cluster goes on");
    }
    let status = cluster.members[leader].client().status().await.expect("a status");
    assert_eq!(status.raft_term, term, "nobody called an election");
    let alone = stranger.client().with_deadline(Some(Duration::from_secs(2)));
    alone.get(Get::key("k0")).await.expect_err("the stranger serves nothing");
    stranger.kill();
    cluster.members[victim].start_ready().await;
    cluster.assert_same_hash().await;
}

fn assert_refused<T: std::fmt::Debug>(
    outcome: quorate::client::Result<T>,
    code: Code,
    message: &str,
) {
    match outcome {
        Err(quorate::client::Error::Server { code: got, message: text }) => {
            assert_eq!((got, text.as_str()), (code, message));
        }
        other => panic!("{other:?} instead of {message}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unlawful_requests_get_etcds_codes_and_texts() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    let no_key = "etcdserver: key is not provided";
    assert_refused(client.put(Put::new("", "v")).await, Code::InvalidArgument, no_key);
    assert_refused(client.get(Get::key("")).await, Code::InvalidArgument, no_key);
    assert_refused(client.delete(Delete::key("")).await, Code::InvalidArgument, no_key);
    let future = "etcdserver: mvcc: required revision is a future revision";
    assert_refused(client.get(Get::key("a").at(1_000)).await, Code::OutOfRange, future);
    assert_refused(client.compact(1_000, false).await, Code::OutOfRange, future);
    for _ in 0..10 {
        client.put(Put::new("a", "b")).await.expect("a put");
    }
    let now = client.get(Get::key("a")).await.expect("an answer").header.revision;
    client.compact(now - 2, true).await.expect("compacted");
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_refused(client.get(Get::key("a").at(now - 3)).await, Code::OutOfRange, compacted);
    assert_refused(client.compact(now - 2, false).await, Code::OutOfRange, compacted);
    client.get(Get::key("a").at(now - 2)).await.expect("the compacted revision itself is there");
    let mut watcher = client.watch(Watch::key("a").from(now - 3));
    let ended = loop {
        match watcher.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(ended, quorate::client::Error::Compacted { compact_revision: now - 2 });
    let no_lease = "etcdserver: requested lease not found";
    assert_refused(client.put(Put::new("a", "b").lease(77)).await, Code::NotFound, no_lease);
    assert_refused(client.lease_revoke(77).await, Code::NotFound, no_lease);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_the_limits_are_refused_and_leave_the_connection_usable() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    // Over --max-request-bytes, under what gRPC takes.
    let large = client.put(Put::new("a", vec![0; 1_600_000])).await;
    assert_refused(large, Code::InvalidArgument, "etcdserver: request is too large");
    // Over both: refused before it is read.
    let request =
        PutRequest { key: "a".into(), value: vec![0; 3_000_000].into(), ..Default::default() };
    let huge = client.call(&method::PUT, &request).await.expect_err("too large");
    assert_eq!(huge.code(), Code::ResourceExhausted, "{huge}");
    assert!(huge.to_string().contains("received message larger than max"), "{huge}");
    client.put(Put::new("a", vec![0; 1_500_000])).await.expect("as large as allowed");
    assert!(!client.get(Get::key("a")).await.expect("an answer").kvs.is_empty());
}

/// Passes bytes on until told to withhold those to the client: a client that never reads.
async fn one_way(target: SocketAddr, withhold: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(target).await else { return };
            let withhold = withhold.clone();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            tokio::spawn(async move {
                let mut buffer = vec![0; 16 * 1024];
                loop {
                    if withhold.load(Ordering::Relaxed) {
                        // For good: what arrives now stays in the server and the sockets.
                        std::future::pending::<()>().await;
                    }
                    match from_server.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(count) => {
                            if to_client.write_all(&buffer[..count]).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            });
        }
    });
    address
}

/// Opens streams that watch everything; each is confirmed before this returns.
async fn open_watches(client: &Client, count: usize) -> Vec<impl Sized + use<>> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let (requests, mut responses) = client.watch_stream().await.expect("a stream");
        let create = WatchCreateRequest {
            key: "k".into(),
            range_end: "l".into(),
            ..WatchCreateRequest::default()
        };
        let union = Some(RequestUnion::CreateRequest(create));
        let sent = requests.send(&WatchRequest { request_union: union }).await;
        sent.expect("the stream is open");
        responses.next().await.expect("an answer").expect("a confirmation");
        streams.push((requests, responses));
    }
    streams
}

async fn rude_watchers(streams: usize, puts: usize, growth_max: u64) {
    const CONNECTIONS: usize = 10;
    let cluster = Cluster::start(1, &[]).await;
    let member = &cluster.members[0];
    let withhold = Arc::new(AtomicBool::new(false));
    let target = member.client_address.parse().expect("an address");
    let mut rude = Vec::new();
    for _ in 0..CONNECTIONS {
        let address = one_way(target, withhold.clone()).await;
        let client = connect(&[address.to_string()]);
        let streams = open_watches(&client, streams / CONNECTIONS).await;
        rude.push((client, streams));
    }
    let polite = super::load::collect(cluster.client(), "k", 1, "k/end");
    withhold.store(true, Ordering::Relaxed);
    let before = member.resident_bytes();
    let started = Instant::now();
    let mut peak = before;
    let tasks: Vec<_> = (0..32)
        .map(|task| {
            let client = cluster.client().with_deadline(Some(PATIENCE));
            tokio::spawn(async move {
                let mut slowest = Duration::ZERO;
                for number in (0..puts).filter(|number| number % 32 == task) {
                    let sent = Instant::now();
                    let put = Put::new(format!("k/{number}"), vec![b'v'; 1_024]);
                    client.put(put).await.expect("other clients are unaffected");
                    slowest = slowest.max(sent.elapsed());
                }
                slowest
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for task in tasks {
        slowest = slowest.max(task.await.expect("puts go on"));
        peak = peak.max(member.resident_bytes());
    }
    let took = started.elapsed();
    cluster.client().put(Put::new("k/end", "")).await.expect("a put");
    let seen = super::load::finished("the polite watcher sees everything", polite).await;
    assert_eq!(seen.len(), puts);
    peak = peak.max(member.resident_bytes());
    println!(
        "{streams} streams that never read, {puts} puts of 1 KiB in {took:?} (slowest {slowest:?}): \
         resident {} MiB before, {} MiB at most, {} MiB after",
        before >> 20,
        peak >> 20,
        member.resident_bytes() >> 20
    );
    assert!(peak - before < growth_max, "grew by {} MiB", (peak - before) >> 20);
    drop(rude);
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_never_read_cost_bounded_memory_and_disturb_nobody() {
    rude_watchers(200, 4_000, 400 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy: 1,000 streams, 20,000 puts"]
async fn heavy_a_thousand_watch_streams_that_never_read_cost_bounded_memory() {
    rude_watchers(1_000, 20_000, 1_024 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_refused_with_the_address_and_a_hint() {
    let taken = free_address();
    let _listener = std::net::TcpListener::bind(&taken).expect("it was free");
    let directory = tempfile::tempdir().expect("a directory");
    let mut member = Member::new(directory.path(), "m0", &[]);
    member.client_address.clone_from(&taken);
    member.start();
    assert_eq!(member.wait_for_exit(EXIT_TIMEOUT).await.code(), Some(1));
    let last = member.log().lines().last().expect("a line").to_owned();
    assert!(last.contains(&taken) && last.contains("--listen-client-urls"), "{last}");
}
