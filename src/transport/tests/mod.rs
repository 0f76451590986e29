//! Whole transports on loopback, in real time. Each test waits for a state, with a deadline.

// Tests are the other end of the sockets, and watch the clock from outside the environment.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod admission;
mod liveness;
mod messages;
mod snapshots;

use super::handshake::{Answer, PROTOCOL_VERSION, Preface, Purpose};
use super::*;
use crate::env::Listener;
use crate::env::real::Real;
use crate::types::limits::{PEER_FRAME_BYTES_MAX, PEER_HANDSHAKES_MAX, PEER_QUEUE_BYTES_MAX};
use frame::{HEADER_BYTES, Kind};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
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
        use tracing::Dispatch;
        use tracing_subscriber::layer::SubscriberExt;
        // With a single subscriber alive, tracing asks only the thread that first comes to a log
        // statement whether anybody wants it, and remembers a no for all threads. Two more that
        // want everything make it ask them all.
        static OTHERS: OnceLock<[Dispatch; 2]> = OnceLock::new();
        OTHERS.get_or_init(|| [(); 2].map(|()| Dispatch::new(tracing_subscriber::registry())));
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
