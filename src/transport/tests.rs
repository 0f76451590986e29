//! Whole transports on loopback, in real time. Each test waits for a state, with a deadline.

// Tests are the other end of the sockets, and watch the clock from outside the environment.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use super::handshake::{Answer, PROTOCOL_VERSION, Preface, Purpose};
use super::*;
use crate::env::Listener;
use crate::env::real::Real;
use crate::types::limits::{PEER_FRAME_BYTES_MAX, PEER_HANDSHAKES_MAX, PEER_QUEUE_BYTES_MAX};
use frame::{HEADER_BYTES, Kind};
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tracing::subscriber::DefaultGuard;

const DEADLINE: Duration = Duration::from_secs(30);
const ONE: MemberId = MemberId(0x11);
const TWO: MemberId = MemberId(0x22);
const THREE: MemberId = MemberId(0x33);
const CLUSTER: ClusterId = ClusterId(0xc1);

/// What `work` gives, within the deadline of every test.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("it should have happened by now")
}

/// Waits until `condition` holds. Polls, because it looks at what has no signal of its own.
async fn until(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Times short enough to see silence detected.
fn impatient() -> Options {
    Options {
        connect_timeout: Duration::from_millis(500),
        ping_interval: Duration::from_millis(100),
        idle_timeout: Duration::from_millis(1000),
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(50),
        snapshot_stall: Duration::from_millis(1500),
        snapshot_install_timeout: Duration::from_secs(3),
    }
}

struct Node {
    handle: TransportHandle,
    inbound: mpsc::Receiver<Inbound>,
    address: String,
}

struct Setup {
    identity: Identity,
    address: String,
    queue: usize,
    options: Options,
}

impl Setup {
    fn new(member: MemberId) -> Setup {
        Setup {
            identity: Identity { cluster: CLUSTER, member },
            address: "127.0.0.1:0".into(),
            queue: 1024,
            options: impatient(),
        }
    }

    async fn start(self) -> Node {
        let env = Real::new();
        let listener = env.network().bind(&self.address).await.unwrap();
        let address = listener.address().unwrap();
        let (inbound_in, inbound) = mpsc::channel(self.queue);
        let handle = Transport::start(env, self.identity, vec![listener], inbound_in, self.options);
        Node { handle, inbound, address }
    }
}

impl Node {
    async fn new(member: MemberId) -> Node {
        Setup::new(member).start().await
    }

    fn knows(&self, peers: &[(MemberId, &str)]) {
        let peers = peers.iter().map(|(id, address)| (*id, vec![address.to_string()]));
        self.handle.set_peers(peers.collect());
    }

    async fn next(&mut self) -> Inbound {
        soon(self.inbound.recv()).await.unwrap()
    }

    /// Waits for a notification of this kind, passing over everything else.
    async fn sees(&mut self, wanted: impl Fn(&Inbound) -> bool) -> Inbound {
        loop {
            let inbound = self.next().await;
            if wanted(&inbound) {
                return inbound;
            }
        }
    }

    async fn reaches(&mut self, wanted: MemberId) {
        self.sees(|inbound| matches!(inbound, Inbound::Reachable { peer } if *peer == wanted))
            .await;
    }

    async fn loses(&mut self, wanted: MemberId) {
        self.sees(|inbound| matches!(inbound, Inbound::Unreachable { peer } if *peer == wanted))
            .await;
    }

    async fn message(&mut self) -> (MemberId, Bytes) {
        match self.sees(|inbound| matches!(inbound, Inbound::Message { .. })).await {
            Inbound::Message { from, payload } => (from, payload),
            other => panic!("{other:?}"),
        }
    }

    async fn snapshot(&mut self) -> (MemberId, IncomingSnapshot) {
        match self.sees(|inbound| matches!(inbound, Inbound::Snapshot { .. })).await {
            Inbound::Snapshot { from, incoming } => (from, incoming),
            other => panic!("{other:?}"),
        }
    }

    fn status(&self, peer: MemberId) -> PeerStatus {
        self.handle.peers().into_iter().find(|status| status.id == peer).unwrap()
    }
}

/// Two that are connected in both directions.
async fn pair() -> (Node, Node) {
    let (mut one, mut two) = (Node::new(ONE).await, Node::new(TWO).await);
    one.knows(&[(TWO, &two.address)]);
    two.knows(&[(ONE, &one.address)]);
    one.reaches(TWO).await;
    two.reaches(ONE).await;
    (one, two)
}

/// A connection made by hand, past the handshake.
async fn connect_as(from: MemberId, to: MemberId, address: &str, purpose: Purpose) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let preface = Preface { purpose, cluster: CLUSTER, from, to };
    let answer = soon(handshake::offer(&mut stream, &preface)).await.unwrap();
    assert_eq!(answer.refusal, None);
    stream
}

/// Accepts one connection by hand and says yes to it.
async fn accept_as(member: MemberId, listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    let preface = soon(handshake::listen(&mut stream)).await.unwrap();
    assert_eq!(preface.to, member);
    let answer = Answer { refusal: None, version: PROTOCOL_VERSION, cluster: CLUSTER, member };
    handshake::answer(&mut stream, &answer).await.unwrap();
    stream
}

async fn is_closed(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    // Pings may come before the end.
    soon(async { while matches!(stream.read(&mut buffer).await, Ok(1..)) {} }).await;
}

fn frame_bytes(kind: Kind, id: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame::header(kind, id, payload).to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// The log lines of this test's thread, which is where all its tasks run.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn start() -> (Log, DefaultGuard) {
        use tracing_subscriber::layer::SubscriberExt;
        let log = Log::default();
        let guard = tracing_subscriber::registry().with(log.clone());
        (log, tracing::subscriber::set_default(guard))
    }

    fn count(&self, words: &[&str]) -> usize {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                write!(self.0, " {}={value:?}", field.name()).unwrap();
            }
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
}

#[tokio::test]
async fn messages_arrive_in_order_both_ways() {
    let (mut one, mut two) = pair().await;
    let payload = |number: u64| {
        let length = if number.is_multiple_of(100) { 200_000 } else { number as usize % 300 };
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(8 + length, number as u8);
        Bytes::from(bytes)
    };
    let send = |handle: TransportHandle, to: MemberId| async move {
        for number in 0..5000u64 {
            while !handle.send(to, payload(number)) {
                tokio::task::yield_now().await;
            }
        }
    };
    let take = async |node: &mut Node, from: MemberId| {
        for number in 0..5000u64 {
            assert_eq!(node.message().await, (from, payload(number)));
        }
    };
    let (handle_one, handle_two) = (one.handle.clone(), two.handle.clone());
    tokio::join!(
        send(handle_one, TWO),
        send(handle_two, ONE),
        take(&mut two, ONE),
        take(&mut one, TWO)
    );
    let status = one.status(TWO);
    assert_eq!((status.queue_len, status.queue_bytes, status.disconnects), (0, 0, 0));
    assert!(status.sent_bytes > 50 * 200_000 && status.received_bytes > 50 * 200_000);
    until(|| one.status(TWO).round_trip.is_some()).await;
    assert!(status.connected_since <= status.last_seen);
    assert_eq!(status.address.as_ref(), Some(&two.address));
}

#[tokio::test]
async fn three_members_talk_to_each_other() {
    let ids = [ONE, TWO, THREE];
    let mut nodes = Vec::new();
    for id in ids {
        nodes.push(Node::new(id).await);
    }
    let all: Vec<(MemberId, String)> =
        ids.into_iter().zip(nodes.iter().map(|node| node.address.clone())).collect();
    let all: Vec<(MemberId, &str)> = all.iter().map(|(id, at)| (*id, at.as_str())).collect();
    for node in &nodes {
        // The list has the member itself in it, which is passed over.
        node.knows(&all);
    }
    for (node, id) in nodes.iter().zip(ids) {
        until(|| node.handle.peers().iter().all(|peer| peer.connected_since.is_some())).await;
        let peers: Vec<MemberId> = node.handle.peers().iter().map(|peer| peer.id).collect();
        assert_eq!(peers, ids.into_iter().filter(|peer| *peer != id).collect::<Vec<_>>());
        for peer in peers {
            assert!(node.handle.send(peer, Bytes::from(format!("{id} to {peer}"))));
        }
    }
    for (node, id) in nodes.iter_mut().zip(ids) {
        let mut heard = BTreeSet::new();
        for _ in 0..2 {
            let (from, payload) = node.message().await;
            assert_eq!(payload, format!("{from} to {id}"));
            heard.insert(from);
        }
        assert_eq!(heard.len(), 2);
    }
}

#[tokio::test]
async fn a_peer_that_restarts_is_found_again() {
    let (mut one, two) = pair().await;
    let address = two.address.clone();
    soon(two.handle.stop()).await;
    one.loses(TWO).await;
    assert!(!one.handle.send(TWO, Bytes::from_static(b"lost")), "nobody is there");
    assert_eq!(one.status(TWO).connected_since, None);
    let mut two = Setup { address, ..Setup::new(TWO) }.start().await;
    one.reaches(TWO).await;
    assert!(one.handle.send(TWO, Bytes::from_static(b"found")));
    assert_eq!(two.message().await, (ONE, Bytes::from_static(b"found")));
    let status = one.status(TWO);
    assert_eq!((status.disconnects, status.drops), (1, 1));
}

#[tokio::test]
async fn another_cluster_is_refused_and_both_sides_log_it_once() {
    let (log, _guard) = Log::start();
    let two = Node::new(TWO).await;
    let identity = Identity { cluster: ClusterId(0xbad), member: ONE };
    let mut one = Setup { identity, ..Setup::new(ONE) }.start().await;
    one.knows(&[(TWO, &two.address)]);
    let refused = one.sees(|inbound| matches!(inbound, Inbound::Refused { .. })).await;
    let expected = Inbound::Refused { peer: TWO, refusal: Refusal::ClusterMismatch };
    assert_eq!(format!("{refused:?}"), format!("{expected:?}"));
    // Several retries later there is still one line on each side.
    until(|| log.count(&["remote peer still cannot be reached"]) >= 3).await;
    let refused = ["WARN", "connection refused by remote peer", "cluster ID mismatch"];
    assert_eq!(log.count(&refused), 1);
    assert_eq!(log.count(&[&refused[..], &["=11", "=22", "=bad", "=c1"]].concat()), 1);
    let rejected = ["WARN", "rejected connection from remote peer", "cluster ID mismatch"];
    assert_eq!(log.count(&rejected), 1);
    assert_eq!(log.count(&[&rejected[..], &["=11", "=22", "=bad", "=c1"]].concat()), 1);
    assert!(!one.handle.send(TWO, Bytes::new()));
}

#[tokio::test]
async fn an_address_that_leads_to_another_member_is_refused() {
    let three = Node::new(THREE).await;
    let mut one = Node::new(ONE).await;
    one.knows(&[(TWO, &three.address)]);
    let refused = one.sees(|inbound| matches!(inbound, Inbound::Refused { .. })).await;
    assert!(
        matches!(refused, Inbound::Refused { peer: TWO, refusal: Refusal::MemberMismatch }),
        "{refused:?}"
    );
    // Dialing ourselves under another name is the same mistake.
    let own = one.address.clone();
    one.knows(&[(THREE, &own)]);
    let refused = one.sees(|inbound| matches!(inbound, Inbound::Refused { .. })).await;
    assert!(
        matches!(refused, Inbound::Refused { peer: THREE, refusal: Refusal::MemberMismatch }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_removed_member_is_disconnected_and_not_let_in_again() {
    let (mut one, two) = pair().await;
    two.handle.set_removed(BTreeSet::from([ONE]));
    one.loses(TWO).await;
    let refused = one.sees(|inbound| matches!(inbound, Inbound::Refused { .. })).await;
    assert!(
        matches!(refused, Inbound::Refused { peer: TWO, refusal: Refusal::SenderRemoved }),
        "{refused:?}"
    );
    two.handle.set_removed(BTreeSet::new());
    one.reaches(TWO).await;
}

#[tokio::test]
async fn a_member_nobody_knows_yet_may_speak() {
    let mut two = Node::new(TWO).await;
    let mut three = Node::new(THREE).await;
    three.knows(&[(TWO, &two.address)]);
    three.reaches(TWO).await;
    assert!(three.handle.send(TWO, Bytes::from_static(b"let me in")));
    assert_eq!(two.message().await, (THREE, Bytes::from_static(b"let me in")));
}

#[tokio::test]
async fn another_protocol_version_gets_an_answer() {
    let (log, _guard) = Log::start();
    let two = Node::new(TWO).await;
    let mut stream = TcpStream::connect(&two.address).await.unwrap();
    // A longer preface, as a later version might have.
    let mut preface = [7; 100];
    preface[..8].copy_from_slice(b"\xf1Quorate");
    preface[8..10].copy_from_slice(&9u16.to_le_bytes());
    stream.write_all(&preface).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer.len(), 32);
    assert_eq!(answer[8..11], [1, 0, 5]);
    drop(stream);
    assert_eq!(log.count(&["WARN", "rejected connection", "version unsupported", "=9"]), 1);
}

#[tokio::test]
async fn strangers_are_closed_at_once_with_a_clear_line() {
    let (log, _guard) = Log::start();
    // So patient that closing cannot come from a timeout.
    let options = Options { connect_timeout: 10 * DEADLINE, ..impatient() };
    let two = Setup { options, ..Setup::new(TWO) }.start().await;
    for (bytes, words) in [
        (&b"GET /health HTTP/1.1\r\n\r\n"[..], "HTTP"),
        (b"\x16\x03\x01\x00\xf1\x01\x00\x00\xed\x03\x03", "TLS"),
        (b"\x00\x01\x02\x03", "unknown protocol"),
        (b"\xf1Quorate\x01\x00 and then nothing that makes sense ....", "damaged"),
    ] {
        let mut stream = TcpStream::connect(&two.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        is_closed(&mut stream).await;
        let line = ["WARN", "not from a peer", words, "remote-address=\"127.0.0.1:"];
        assert_eq!(log.count(&line), 1, "{words}: {:?}", log.0.lock().unwrap());
    }
    assert_eq!(two.inbound.len(), 0);
}

#[tokio::test]
async fn damaged_frames_end_the_connection() {
    let (log, _guard) = Log::start();
    let mut two = Node::new(TWO).await;
    let mut damaged = frame_bytes(Kind::Message, 0, b"payload");
    *damaged.last_mut().unwrap() ^= 1;
    let mut damaged_header = frame_bytes(Kind::Message, 0, b"payload");
    damaged_header[0] ^= 1;
    // A header that is whole and claims 4 GiB.
    let mut oversized = frame::header(Kind::Message, 0, b"");
    oversized[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let checksum = crc32c::crc32c(&oversized[..HEADER_BYTES - 4]);
    oversized[HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
    for (bytes, words) in [
        (&damaged[..], "Message frame of 7 bytes does not match its checksum"),
        (&damaged_header[..], "frame header does not match"),
        (&oversized[..], "frame of 4294967295 bytes exceeds the limit"),
        (&frame_bytes(Kind::SnapshotEnd, 0, b"")[..], "SnapshotEnd frame does not belong here"),
    ] {
        let mut stream = connect_as(ONE, TWO, &two.address, Purpose::Messages).await;
        stream.write_all(&frame_bytes(Kind::Message, 0, b"good")).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        is_closed(&mut stream).await;
        assert_eq!(log.count(&["local-member-id=22", "remote-peer-id=11", words]), 1, "{words}");
        assert_eq!(two.message().await, (ONE, Bytes::from_static(b"good")));
    }
    assert!(two.inbound.try_recv().is_err(), "nothing damaged was delivered");
}

#[tokio::test]
async fn requests_are_answered_each_on_its_own() {
    let (one, mut two) = pair().await;
    let ask = |text: &'static str| one.handle.request(TWO, Bytes::from(text), DEADLINE);
    let answers = async {
        let mut waiting = Vec::new();
        for _ in 0..3 {
            let request = two.sees(|inbound| matches!(inbound, Inbound::Request { .. })).await;
            let Inbound::Request { from: ONE, payload, reply } = request else { panic!() };
            waiting.push((payload, reply));
        }
        // In the opposite order, and one not at all.
        for (payload, reply) in waiting.into_iter().rev() {
            if payload != "b" {
                reply.send(Bytes::from([&payload[..], b"!"].concat())).unwrap();
            }
        }
    };
    let (a, b, c, ()) = soon(async { tokio::join!(ask("a"), ask("b"), ask("c"), answers) }).await;
    assert_eq!(a, Ok(Bytes::from_static(b"a!")));
    assert_eq!(b, Err(RequestError::Refused));
    assert_eq!(c, Ok(Bytes::from_static(b"c!")));
}

#[tokio::test]
async fn a_request_without_an_answer_ends() {
    let (one, mut two) = pair().await;
    let nobody = one.handle.request(THREE, Bytes::new(), DEADLINE).await;
    assert_eq!(nobody, Err(RequestError::NoConnection));
    // Held and never answered.
    let timeout = Duration::from_millis(50);
    let late = one.handle.request(TWO, Bytes::from_static(b"late"), timeout).await;
    assert_eq!(late, Err(RequestError::Timeout));
    let held = two.sees(|inbound| matches!(inbound, Inbound::Request { .. })).await;
    // The connection breaks while one waits.
    let handle = one.handle.clone();
    let (broken, ()) = tokio::join!(
        soon(handle.request(TWO, Bytes::from_static(b"broken"), 10 * DEADLINE)),
        async {
            let request = two.sees(|inbound| matches!(inbound, Inbound::Request { .. })).await;
            soon(two.handle.stop()).await;
            drop(request);
        }
    );
    assert_eq!(broken, Err(RequestError::NoConnection));
    drop(held);
}

/// Feeds a snapshot of `length` bytes into a channel, counting what was taken from us.
fn produce(
    length: usize,
    chunk: usize,
    end: bool,
) -> (mpsc::Receiver<SnapshotPiece>, Arc<AtomicU64>) {
    let (pieces, source) = mpsc::channel(2);
    let produced = Arc::new(AtomicU64::new(0));
    let count = produced.clone();
    tokio::spawn(async move {
        let mut offset = 0;
        while offset < length {
            let size = chunk.min(length - offset);
            let data: Bytes = (offset..offset + size).map(|at| (at / 251) as u8).collect();
            if pieces.send(SnapshotPiece::Data(data)).await.is_err() {
                return;
            }
            offset += size;
            count.store(offset as u64, Ordering::Relaxed);
        }
        if end {
            let _ = pieces.send(SnapshotPiece::End).await;
        }
    });
    (source, produced)
}

#[tokio::test]
async fn a_large_snapshot_arrives_with_little_of_it_under_way() {
    const LENGTH: usize = 50 * 1024 * 1024;
    let (one, mut two) = pair().await;
    let (source, produced) = produce(LENGTH, 100_000, true);
    let header = Bytes::from_static(b"at index 7");
    let take = async {
        let (from, mut incoming) = two.snapshot().await;
        assert_eq!((from, &incoming.header()[..]), (ONE, &b"at index 7"[..]));
        // Until we take something the sender comes to a halt. It got as far as buffers go.
        let halted = async {
            let mut last = u64::MAX;
            while last != produced.load(Ordering::Relaxed) {
                last = produced.load(Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        soon(halted).await;
        let (mut received, mut under_way_max) = (0, 0);
        while let Some(chunk) = incoming.next().await.unwrap() {
            let under_way = produced.load(Ordering::Relaxed) - received as u64;
            under_way_max = under_way_max.max(under_way);
            for (at, byte) in chunk.iter().enumerate().step_by(997) {
                assert_eq!(*byte, ((received + at) / 251) as u8);
            }
            received += chunk.len();
        }
        assert_eq!(received, LENGTH);
        // Socket buffers of the system hold a few megabytes by themselves.
        assert!(under_way_max < LENGTH as u64 / 3, "{under_way_max} bytes were under way");
        incoming.accept();
    };
    let handle = one.handle.clone();
    let (sent, ()) = tokio::join!(soon(handle.send_snapshot(TWO, header, source)), take);
    assert_eq!(sent, Ok(()));
    assert_eq!(one.status(TWO).disconnects, 0);
}

#[tokio::test]
async fn a_snapshot_whose_source_dies_is_broken_on_both_sides() {
    let (one, mut two) = pair().await;
    let (source, _) = produce(3_000_000, 10_000, false);
    let take = async {
        let (_, mut incoming) = two.snapshot().await;
        loop {
            match incoming.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("half a snapshot passed for a whole one"),
                Err(error) => return error,
            }
        }
    };
    let (sent, taken) = tokio::join!(one.handle.send_snapshot(TWO, Bytes::new(), source), take);
    assert_eq!(sent, Err(SnapshotError::SourceFailed));
    assert!(matches!(taken, SnapshotError::Broken(_)), "{taken:?}");
}

#[tokio::test]
async fn a_sender_that_vanishes_breaks_the_snapshot() {
    let (one, mut two) = pair().await;
    let (source, _) = produce(50_000_000, 100_000, true);
    let handle = one.handle.clone();
    let (gone, broken_off) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            biased;
            _ = broken_off => {}
            sent = handle.send_snapshot(TWO, Bytes::new(), source) => panic!("{sent:?}"),
        }
    });
    let (_, mut incoming) = two.snapshot().await;
    assert!(incoming.next().await.unwrap().is_some());
    gone.send(()).unwrap();
    let error = soon(async {
        loop {
            match incoming.next().await {
                Ok(chunk) => assert!(chunk.is_some()),
                Err(error) => return error,
            }
        }
    });
    assert!(matches!(error.await, SnapshotError::Broken(_)));
}

#[tokio::test]
async fn a_receiver_that_gives_up_tells_the_sender_at_once() {
    let (one, mut two) = pair().await;
    for drops in [true, false] {
        let (source, produced) = produce(50_000_000, 100_000, true);
        let take = async {
            let (_, mut incoming) = two.snapshot().await;
            assert!(incoming.next().await.unwrap().is_some());
            if drops { drop(incoming) } else { incoming.fail("no space left") }
        };
        let handle = one.handle.clone();
        let (sent, ()) = tokio::join!(soon(handle.send_snapshot(TWO, Bytes::new(), source)), take);
        let reason = if drops { "the receiver dropped it" } else { "no space left" };
        assert_eq!(sent, Err(SnapshotError::Rejected(reason.to_owned())));
        assert!(produced.load(Ordering::Relaxed) < 50_000_000);
    }
    assert_eq!(one.status(TWO).disconnects, 0, "the message connection is another one");
}

#[tokio::test]
async fn a_snapshot_without_progress_ends() {
    let (one, mut two) = pair().await;
    // The source says nothing more.
    let (pieces, source) = mpsc::channel(1);
    pieces.try_send(SnapshotPiece::Data(Bytes::from_static(b"begin"))).unwrap();
    let handle = one.handle.clone();
    let take = async {
        let (_, mut incoming) = two.snapshot().await;
        assert_eq!(incoming.next().await, Ok(Some(Bytes::from_static(b"begin"))));
        incoming.next().await
    };
    let (sent, taken) =
        soon(async { tokio::join!(handle.send_snapshot(TWO, Bytes::new(), source), take) }).await;
    assert!(
        matches!(&sent, Err(SnapshotError::Stalled))
            || matches!(&sent, Err(SnapshotError::Broken(_))),
        "{sent:?}"
    );
    assert!(matches!(taken, Err(SnapshotError::Broken(_))), "{taken:?}");
    drop(pieces);
    // The receiver takes nothing.
    let (source, _) = produce(50_000_000, 100_000, true);
    let hold = async {
        let (_, mut incoming) = two.snapshot().await;
        assert!(incoming.next().await.unwrap().is_some());
        incoming
    };
    let (sent, incoming) =
        soon(async { tokio::join!(handle.send_snapshot(TWO, Bytes::new(), source), hold) }).await;
    assert!(
        matches!(&sent, Err(SnapshotError::Rejected(reason)) if reason.contains("no progress"))
            || matches!(&sent, Err(SnapshotError::Stalled)),
        "{sent:?}"
    );
    drop(incoming);
}

#[tokio::test]
async fn a_receiver_that_works_on_a_complete_snapshot_is_waited_for() {
    // Longer than the idle timeout and the stall limit, shorter than the time to install.
    let work = Duration::from_millis(2000);
    let (one, mut two) = pair().await;
    assert!(work > impatient().snapshot_stall && work < impatient().snapshot_install_timeout);
    let (source, _) = produce(100, 10, true);
    let take = async {
        let (_, mut incoming) = two.snapshot().await;
        while incoming.next().await.unwrap().is_some() {}
        tokio::time::sleep(work).await;
        incoming.accept();
    };
    let handle = one.handle.clone();
    let (sent, ()) = tokio::join!(soon(handle.send_snapshot(TWO, Bytes::new(), source)), take);
    assert_eq!(sent, Ok(()));
}

#[tokio::test]
async fn a_snapshot_that_does_not_add_up_is_broken() {
    let mut two = Node::new(TWO).await;
    let checksum = crc32c::crc32c(b"abcdef").to_le_bytes();
    let cases: [(&[Vec<u8>], &str); 4] = [
        (&[frame_bytes(Kind::SnapshotChunk, 4, b"ef")], "follow"),
        (&[frame_bytes(Kind::SnapshotEnd, 3, &checksum)], "checksum"),
        (&[frame_bytes(Kind::SnapshotEnd, 7, &checksum)], "checksum"),
        (
            &[
                frame_bytes(Kind::SnapshotChunk, 3, b"dxf"),
                frame_bytes(Kind::SnapshotEnd, 6, &checksum),
            ],
            "checksum",
        ),
    ];
    for (frames, words) in cases {
        let mut stream = connect_as(ONE, TWO, &two.address, Purpose::Snapshot).await;
        stream.write_all(&frame_bytes(Kind::SnapshotHeader, 0, b"")).await.unwrap();
        stream.write_all(&frame_bytes(Kind::SnapshotChunk, 0, b"abc")).await.unwrap();
        for frame in frames {
            stream.write_all(frame).await.unwrap();
        }
        let (_, mut incoming) = two.snapshot().await;
        let error = soon(async {
            loop {
                match incoming.next().await {
                    Ok(chunk) => assert!(chunk.is_some(), "passed for a whole one"),
                    Err(error) => return error.to_string(),
                }
            }
        })
        .await;
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_snapshot_for_a_peer_that_refuses_or_is_not_there_fails() {
    let (one, two) = pair().await;
    let (source, _) = produce(10, 10, true);
    let sent = one.handle.send_snapshot(THREE, Bytes::new(), source).await;
    assert_eq!(sent, Err(SnapshotError::UnknownPeer));
    two.handle.set_removed(BTreeSet::from([ONE]));
    let (source, _) = produce(10, 10, true);
    let sent = soon(one.handle.send_snapshot(TWO, Bytes::new(), source)).await;
    assert_eq!(sent, Err(SnapshotError::Refused(Refusal::SenderRemoved)));
    soon(two.handle.stop()).await;
    let (source, _) = produce(10, 10, true);
    let sent = soon(one.handle.send_snapshot(TWO, Bytes::new(), source)).await;
    assert!(matches!(sent, Err(SnapshotError::Unreachable(_))), "{sent:?}");
    soon(one.handle.stop()).await;
    let (source, _) = produce(10, 10, true);
    let sent = soon(one.handle.send_snapshot(TWO, Bytes::new(), source)).await;
    assert_eq!(sent, Err(SnapshotError::Stopped));
}

#[tokio::test]
async fn an_address_that_never_answers_is_passed_over() {
    let (log, _guard) = Log::start();
    // The system accepts for us; nobody ever reads.
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hole_address = hole.local_addr().unwrap().to_string();
    let mut two = Node::new(TWO).await;
    let mut one = Node::new(ONE).await;
    one.knows(&[(TWO, &hole_address)]);
    until(|| log.count(&["WARN", "failed to dial remote peer", "no answer in time"]) == 1).await;
    assert!(!one.handle.send(TWO, Bytes::new()));
    // With a second address the peer is found there.
    one.handle.set_peers(BTreeMap::from([(TWO, vec![hole_address, two.address.clone()])]));
    one.reaches(TWO).await;
    assert!(one.handle.send(TWO, Bytes::from_static(b"here")));
    assert_eq!(two.message().await, (ONE, Bytes::from_static(b"here")));
    assert_eq!(one.status(TWO).address, Some(two.address.clone()));
}

/// Forwards connections to `target` until told that no more bytes pass, without closing anything.
async fn wire(target: String) -> (String, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (cut, is_cut) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let target = target.clone();
            let mut is_cut = is_cut.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(target).await.unwrap();
                tokio::select! {
                    biased;
                    () = stopped(&mut is_cut) => {
                        // Both sockets stay open, and silent, until the test is over.
                        std::future::pending::<()>().await;
                    }
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                }
            });
        }
    });
    (address, cut)
}

#[tokio::test]
async fn a_connection_gone_silent_is_given_up_by_both_and_replaced() {
    let (log, _guard) = Log::start();
    let mut two = Node::new(TWO).await;
    let mut one = Node::new(ONE).await;
    let (address, cut) = wire(two.address.clone()).await;
    one.knows(&[(TWO, &address)]);
    one.reaches(TWO).await;
    assert!(one.handle.send(TWO, Bytes::from_static(b"before")));
    assert_eq!(two.message().await.1, "before");
    cut.send(true).unwrap();
    one.loses(TWO).await;
    assert_eq!(log.count(&["peer became inactive", "nothing received for 1s"]), 1);
    until(|| log.count(&["closed connection from remote peer", "nothing received for 1s"]) == 1)
        .await;
    cut.send(false).unwrap();
    one.reaches(TWO).await;
    assert!(one.handle.send(TWO, Bytes::from_static(b"after")));
    assert_eq!(two.message().await.1, "after");
}

#[tokio::test]
async fn a_quiet_connection_is_kept() {
    let (mut one, two) = pair().await;
    let before = one.status(TWO);
    // Several idle timeouts without a message: pings and pongs are all there is.
    until(|| {
        one.status(TWO).last_seen > before.last_seen.map(|at| at + 3 * impatient().idle_timeout)
    })
    .await;
    assert_eq!(one.status(TWO).connected_since, before.connected_since);
    assert_eq!(two.status(ONE).disconnects, 0);
    assert!(one.status(TWO).round_trip.unwrap() < impatient().idle_timeout);
    assert!(one.inbound.try_recv().is_err());
}

#[tokio::test]
async fn a_server_that_takes_nothing_holds_messages_back_but_keeps_the_connection() {
    let mut two = Setup { queue: 1, ..Setup::new(TWO) }.start().await;
    let mut one = Node::new(ONE).await;
    one.knows(&[(TWO, &two.address)]);
    one.reaches(TWO).await;
    for number in 0..100u8 {
        assert!(one.handle.send(TWO, Bytes::copy_from_slice(&[number])));
    }
    let before = one.status(TWO);
    until(|| {
        one.status(TWO).last_seen > before.last_seen.map(|at| at + 3 * impatient().idle_timeout)
    })
    .await;
    assert_eq!(one.status(TWO).connected_since, before.connected_since);
    for number in 0..100u8 {
        assert_eq!(two.message().await.1[..], [number]);
    }
}

#[tokio::test]
async fn a_full_queue_drops_and_says_so() {
    // A peer that pings but never reads.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut one = Node::new(ONE).await;
    one.knows(&[(TWO, &address)]);
    let mut stream = accept_as(TWO, &listener).await;
    let pings = tokio::spawn(async move {
        while stream.write_all(&frame_bytes(Kind::Ping, 0, b"")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    one.reaches(TWO).await;
    let megabyte = Bytes::from(vec![1; 1_000_000]);
    // The task that writes gets its turn between messages, until the socket takes no more.
    let fill = async {
        loop {
            while one.handle.send(TWO, megabyte.clone()) {
                tokio::task::yield_now().await;
            }
            let full = one.status(TWO).queue_bytes;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if one.status(TWO).queue_bytes == full {
                return full;
            }
        }
    };
    let full = soon(fill).await;
    assert!(full <= PEER_QUEUE_BYTES_MAX && full > PEER_QUEUE_BYTES_MAX - 2 * megabyte.len());
    let before = one.status(TWO);
    assert!(!one.handle.send(TWO, megabyte.clone()));
    assert_eq!(one.status(TWO).drops, before.drops + 1);
    assert_eq!(one.status(TWO).queue_bytes, before.queue_bytes);
    let refused = one.handle.request(TWO, megabyte.clone(), DEADLINE).await;
    assert_eq!(refused, Err(RequestError::Refused));
    // Small messages still fit, until there are too many.
    while one.handle.send(TWO, Bytes::from_static(b"x")) {}
    assert!(one.status(TWO).queue_bytes < PEER_QUEUE_BYTES_MAX);
    assert_eq!(one.status(TWO).queue_len, PEER_QUEUE_MAX);
    // When the connection breaks, what waited is thrown away.
    pings.abort();
    one.loses(TWO).await;
    until(|| one.status(TWO).queue_len == 0 && one.status(TWO).queue_bytes == 0).await;
}

#[tokio::test]
async fn a_message_longer_than_a_frame_is_never_queued() {
    let (log, _guard) = Log::start();
    let (one, mut two) = pair().await;
    let longest = Bytes::from(vec![7; PEER_FRAME_BYTES_MAX]);
    assert!(one.handle.send(TWO, longest.clone()));
    assert_eq!(two.message().await.1.len(), longest.len());
    assert!(!one.handle.send(TWO, Bytes::from(vec![7; PEER_FRAME_BYTES_MAX + 1])));
    assert_eq!(log.count(&["ERROR", "exceeds the frame limit"]), 1);
}

#[tokio::test]
async fn a_newer_connection_of_a_peer_replaces_the_older() {
    let mut two = Node::new(TWO).await;
    let mut old = connect_as(ONE, TWO, &two.address, Purpose::Messages).await;
    let mut new = connect_as(ONE, TWO, &two.address, Purpose::Messages).await;
    is_closed(&mut old).await;
    new.write_all(&frame_bytes(Kind::Message, 0, b"new")).await.unwrap();
    assert_eq!(two.message().await, (ONE, Bytes::from_static(b"new")));
}

#[tokio::test]
async fn a_crowd_that_says_nothing_keeps_no_peer_out() {
    let options = Options { connect_timeout: DEADLINE, ..impatient() };
    let two = Setup { options, ..Setup::new(TWO) }.start().await;
    let mut crowd = Vec::new();
    for _ in 0..2 * PEER_HANDSHAKES_MAX {
        crowd.push(TcpStream::connect(&two.address).await.unwrap());
    }
    let mut one = Node::new(ONE).await;
    one.knows(&[(TWO, &two.address)]);
    one.reaches(TWO).await;
    // The oldest had to go.
    is_closed(&mut crowd[0]).await;
}

#[tokio::test]
async fn forgotten_peers_are_left_and_moved_peers_followed() {
    let (mut one, mut two) = pair().await;
    let old = two.address.clone();
    // A second way to the same member.
    let (new, _cut) = wire(old.clone()).await;
    one.knows(&[(TWO, &new)]);
    one.loses(TWO).await;
    one.reaches(TWO).await;
    assert_eq!(one.status(TWO).address.as_ref(), Some(&new));
    // Another candidate more is no reason to reconnect.
    let since = one.status(TWO).connected_since;
    one.handle.set_peers(BTreeMap::from([(TWO, vec![old, new])]));
    assert!(one.handle.send(TWO, Bytes::from_static(b"still here")));
    assert_eq!(two.message().await.1, "still here");
    assert_eq!(one.status(TWO).connected_since, since);
    one.knows(&[]);
    assert!(!one.handle.send(TWO, Bytes::new()));
    assert_eq!(one.handle.peers(), []);
}

#[tokio::test]
async fn stopping_ends_every_task_and_closes_the_port() {
    let (one, mut two) = pair().await;
    let mut raw = connect_as(THREE, ONE, &one.address, Purpose::Messages).await;
    soon(one.handle.stop()).await;
    assert_eq!(one.handle.owner.context.stop.receiver_count(), 0, "each task holds one");
    is_closed(&mut raw).await;
    assert!(TcpStream::connect(&one.address).await.is_err());
    two.loses(ONE).await;
    assert!(!one.handle.send(TWO, Bytes::new()));
    // Once more does no harm, nor do new peers come to life.
    one.knows(&[(THREE, &two.address)]);
    soon(one.handle.stop()).await;
}

#[tokio::test]
async fn dropping_the_last_handle_stops() {
    let (mut one, mut two) = pair().await;
    let clone = one.handle.clone();
    drop(one.handle);
    assert!(clone.send(TWO, Bytes::from_static(b"one is left")));
    assert_eq!(two.message().await.1, "one is left");
    drop(clone);
    soon(async { while one.inbound.recv().await.is_some() {} }).await;
    two.loses(ONE).await;
}
