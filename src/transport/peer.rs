//! The dialing side: one task per peer that keeps a connection to it and writes what is queued.
//!
//! ```text
//!            ┌──── every address refused, unreachable or silent ────┐
//!            ▼                                                      │
//!   wait (jittered, 50 ms .. 1 s) ──▶ dial each address ──▶ handshake ──▶ converse
//!            ▲      cut short by: the peer calling us,                      │
//!            │      new addresses                                           │
//!            └───────────────── broken, silent for too long ────────────────┘
//! ```
//!
//! Raft messages and requests go out on this connection; what comes back on it is pongs and the
//! answers to our requests. What the peer has to say on its own account it says on the connection
//! it makes to us.
//!
//! - What is queued was queued for the connection that is up. When it breaks the queue is thrown
//!   away: Raft repeats what still matters, and stale heartbeats help nobody.
//! - A request is answered once: with the peer's answer, or with `NoConnection` when the
//!   connection breaks. The peer may have acted on it all the same.
//! - A change is logged, not a state: one line when the peer becomes active, one when it becomes
//!   inactive, one for each new reason why it cannot be reached.

use super::connection::{Broken, Reader, Writer, within};
use super::directory::{Context, Link, Meter, stopped};
use super::frame::Kind;
use super::handshake::{self, Answer, HandshakeError, Preface, Purpose, Refusal};
use super::{Inbound, RequestError};
use crate::env::{Clock, Env, Network};
use crate::types::MemberId;
use crate::types::limits::{
    PEER_FRAME_BYTES_MAX, PEER_REPLY_QUEUE_MAX, PEER_REQUESTS_MAX, PEER_WRITE_BATCH_BYTES,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

/// Something for the peer.
pub(super) enum Outgoing {
    Message(Bytes),
    Request { payload: Bytes, reply: Reply },
}

type Reply = oneshot::Sender<Result<Bytes, RequestError>>;

impl Outgoing {
    pub(super) fn len(&self) -> usize {
        match self {
            Outgoing::Message(payload) | Outgoing::Request { payload, .. } => payload.len(),
        }
    }
}

/// What a peer's task is made of.
pub(super) struct Task {
    pub(super) context: Arc<Context>,
    pub(super) link: Arc<Link>,
    pub(super) queue: mpsc::Receiver<Outgoing>,
    pub(super) addresses: watch::Receiver<Vec<String>>,
    /// Ends when the peer is no longer one of ours.
    pub(super) forgotten: oneshot::Receiver<Infallible>,
    pub(super) stop: watch::Receiver<bool>,
}

/// Keeps connected to a peer until the peer is forgotten or the transport stops.
pub(super) async fn run<E: Env>(env: E, task: Task) {
    let Task { context, link, mut queue, addresses, forgotten, mut stop } = task;
    let backoff = Backoff::new(context.options.backoff_min, context.options.backoff_max);
    let mut dialer = Dialer {
        env,
        context,
        link: link.clone(),
        queue: &mut queue,
        addresses,
        backoff,
        preferred: 0,
        complaints: BTreeSet::new(),
    };
    tokio::select! {
        // The ends first: a stopped transport makes no further attempt.
        biased;
        () = stopped(&mut stop) => {}
        _ = forgotten => {}
        () = dialer.drive() => {}
    }
    link.state.set_disconnected();
    queue.close();
    throw_away(&mut queue, &link);
}

/// Empties the queue. Requests end with `NoConnection` since nobody is left to answer them.
fn throw_away(queue: &mut mpsc::Receiver<Outgoing>, link: &Link) {
    while let Ok(outgoing) = queue.try_recv() {
        link.state.queue_bytes.fetch_sub(outgoing.len(), Ordering::AcqRel);
        link.state.drops.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why a peer could not be reached.
#[derive(Debug)]
pub(super) enum DialError {
    NoAddress,
    Connect { address: String, error: io::Error },
    TimedOut { address: String },
    Handshake { address: String, error: HandshakeError },
    Refused { address: String, refusal: Refusal, answer: Answer },
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::NoAddress => write!(f, "no address known"),
            DialError::Connect { address, error } => write!(f, "dial {address}: {error}"),
            DialError::TimedOut { address } => write!(f, "dial {address}: no answer in time"),
            DialError::Handshake { address, error } => write!(f, "{address}: {error}"),
            DialError::Refused { address, refusal, .. } => write!(f, "{address}: {refusal}"),
        }
    }
}

/// Dials the addresses in turn, beginning with `first`, and introduces us. Returns the stream
/// and which address it was. When none works, a refusal is told rather than a dead address.
pub(super) async fn dial<E: Env>(
    env: &E,
    context: &Context,
    to: MemberId,
    addresses: &[String],
    purpose: Purpose,
    first: usize,
) -> Result<(<E::Network as Network>::Stream, usize), DialError> {
    let identity = context.identity;
    let preface = Preface { purpose, cluster: identity.cluster, from: identity.member, to };
    let mut failure = DialError::NoAddress;
    for turn in 0..addresses.len() {
        let at = (first + turn) % addresses.len();
        match dial_one(env, context, &addresses[at], &preface).await {
            Ok(stream) => return Ok((stream, at)),
            Err(error) if matches!(failure, DialError::Refused { .. }) => {
                debug!("local-member-id" = %identity.member, "remote-peer-id" = %to, %error,
                    "failed to dial another address of remote peer");
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn dial_one<E: Env>(
    env: &E,
    context: &Context,
    address: &str,
    preface: &Preface,
) -> Result<<E::Network as Network>::Stream, DialError> {
    let attempt = async {
        let mut stream = env
            .network()
            .connect(address)
            .await
            .map_err(|error| DialError::Connect { address: address.to_owned(), error })?;
        let answer = handshake::offer(&mut stream, preface)
            .await
            .map_err(|error| DialError::Handshake { address: address.to_owned(), error })?;
        Ok((stream, answer))
    };
    let (stream, answer) = within(env.clock(), context.options.connect_timeout, attempt)
        .await
        .unwrap_or_else(|| Err(DialError::TimedOut { address: address.to_owned() }))?;
    let refusal = match answer.refusal {
        Some(refusal) => refusal,
        // The acceptor has checked this; we do not take its word for it.
        None if answer.cluster != preface.cluster => Refusal::ClusterMismatch,
        None if answer.member != preface.to => Refusal::MemberMismatch,
        None => return Ok(stream),
    };
    Err(DialError::Refused { address: address.to_owned(), refusal, answer })
}

/// Grows the time between attempts, and spreads it so that members that lost each other at once
/// do not come back at once.
struct Backoff {
    min: Duration,
    max: Duration,
    current: Duration,
}

impl Backoff {
    fn new(min: Duration, max: Duration) -> Backoff {
        assert!(min <= max);
        Backoff { min, max, current: min }
    }

    fn reset(&mut self) {
        self.current = self.min;
    }

    /// The next wait: between half and all of a time that doubles.
    fn next(&mut self, random: u64) -> Duration {
        let half = self.current / 2;
        self.current = (self.current * 2).min(self.max);
        half + half.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// Why a peer could not be reached, as far as it makes a difference for the log.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Complaint {
    Unreachable(io::ErrorKind),
    Silent,
    NoAddress,
    Foreign,
    Refused(Refusal),
}

struct Dialer<'a, E> {
    env: E,
    context: Arc<Context>,
    link: Arc<Link>,
    queue: &'a mut mpsc::Receiver<Outgoing>,
    addresses: watch::Receiver<Vec<String>>,
    backoff: Backoff,
    /// The address that worked last, as a position in the list.
    preferred: usize,
    /// What was logged since the peer was last reached, so that no retry repeats it.
    complaints: BTreeSet<Complaint>,
}

impl<E: Env> Dialer<'_, E> {
    async fn drive(&mut self) {
        loop {
            let addresses = self.addresses.borrow_and_update().clone();
            let to = self.link.state.id;
            let dialed =
                dial(&self.env, &self.context, to, &addresses, Purpose::Messages, self.preferred);
            match dialed.await {
                Ok((stream, at)) => {
                    self.preferred = at;
                    self.complaints.clear();
                    self.attend(stream, &addresses[at]).await;
                }
                Err(error) => self.complain(error).await,
            }
            self.pause().await;
        }
    }

    /// Waits before the next attempt.
    async fn pause(&mut self) {
        let delay = self.backoff.next(self.env.random());
        tokio::select! {
            // News first: they make the wait pointless.
            biased;
            Ok(()) = self.addresses.changed() => self.backoff.reset(),
            // The peer has just called us, so it is there.
            () = self.link.wake.notified() => self.backoff.reset(),
            () = self.env.clock().sleep(delay) => {}
        }
    }

    /// Serves a new connection until it breaks.
    async fn attend(&mut self, stream: <E::Network as Network>::Stream, address: &str) {
        let local = self.context.identity.member;
        let peer = self.link.state.id;
        let clock = self.env.clock().clone();
        throw_away(self.queue, &self.link);
        let since = clock.now();
        self.link.state.set_connected(since, address);
        info!("local-member-id" = %local, "remote-peer-id" = %peer, "remote-address" = address,
            "peer became active");
        let broken = {
            let context = self.context.clone();
            let announce = async move {
                // A closed channel is noticed by those who have something to deliver.
                let _ = context.inbound.send(Inbound::Reachable { peer }).await;
                pending::<Infallible>().await
            };
            tokio::select! {
                // The announcement first: what the conversation brings about comes after it. It
                // does not hold the conversation up when the server is slow to take it.
                biased;
                never = announce => match never {},
                broken = self.converse(stream, address) => broken,
            }
        };
        self.link.state.set_disconnected();
        throw_away(self.queue, &self.link);
        warn!("local-member-id" = %local, "remote-peer-id" = %peer, "remote-address" = address,
            error = %broken, "peer became inactive (message send to peer failed)");
        if matches!(broken, Broken::Idle(_)) {
            self.env.mark("transport: a silent connection was given up");
        }
        if matches!(broken, Broken::Stalled) {
            self.env.mark("transport: a stalled connection was given up");
        }
        let _ = self.context.inbound.send(Inbound::Unreachable { peer }).await;
        // One that breaks as soon as it stands counts as a failed attempt.
        if clock.now() - since >= self.context.options.backoff_max {
            self.backoff.reset();
        }
    }

    async fn converse(&mut self, stream: <E::Network as Network>::Stream, address: &str) -> Broken {
        let (read, write) = tokio::io::split(stream);
        let meter = Meter { context: self.context.clone(), peer: self.link.state.id };
        let reader = Reader::new(read, PEER_FRAME_BYTES_MAX, meter.clone());
        let writer = Writer::new(write, meter);
        let (pongs, pong_queue) = mpsc::channel(PEER_REPLY_QUEUE_MAX);
        let conversation = Conversation {
            clock: self.env.clock(),
            link: &self.link,
            ping_interval: self.context.options.ping_interval,
            book: Mutex::default(),
        };
        tokio::select! {
            // A wrong address first, since nothing more should be said there. Then the reader:
            // it is seldom busy on this side, and answers make room for further requests.
            biased;
            () = moved(&mut self.addresses, address) => Broken::Moved,
            broken = conversation.read(reader, pongs) => broken,
            broken = conversation.write(writer, pong_queue, self.queue) => broken,
        }
    }

    /// Logs why the peer cannot be reached, unless that is known, and reports a new refusal.
    async fn complain(&mut self, error: DialError) {
        let complaint = match &error {
            DialError::NoAddress => Complaint::NoAddress,
            DialError::Connect { error, .. } => Complaint::Unreachable(error.kind()),
            DialError::TimedOut { .. } => Complaint::Silent,
            DialError::Handshake { error: HandshakeError::Io(error), .. } => {
                Complaint::Unreachable(error.kind())
            }
            DialError::Handshake { .. } => Complaint::Foreign,
            DialError::Refused { refusal, .. } => Complaint::Refused(*refusal),
        };
        let known = !self.complaints.insert(complaint);
        let local = self.context.identity;
        let peer = self.link.state.id;
        if known {
            debug!("local-member-id" = %local.member, "remote-peer-id" = %peer, %error,
                "remote peer still cannot be reached");
            return;
        }
        let DialError::Refused { refusal, answer, address } = &error else {
            warn!("local-member-id" = %local.member, "remote-peer-id" = %peer, %error,
                "failed to dial remote peer");
            return;
        };
        warn!("local-member-id" = %local.member, "local-member-cluster-id" = %local.cluster,
            "remote-peer-id" = %peer, "remote-address" = address,
            "remote-answers-as" = %answer.member, "remote-peer-cluster-id" = %answer.cluster,
            "remote-peer-protocol-version" = answer.version, error = %refusal,
            "connection refused by remote peer");
        let refusal = *refusal;
        self.env.mark("transport: refused by a peer");
        let _ = self.context.inbound.send(Inbound::Refused { peer, refusal }).await;
    }
}

/// Ends when `address` is no longer one of `addresses`.
async fn moved(addresses: &mut watch::Receiver<Vec<String>>, address: &str) {
    let still = |addresses: &Vec<String>| addresses.iter().any(|known| known == address);
    if addresses.wait_for(|addresses| !still(addresses)).await.is_err() {
        // The peer is being forgotten, which ends this task elsewhere.
        pending::<()>().await;
    }
}

/// What the reading and the writing half of a connection share.
#[derive(Default)]
struct Book {
    /// Requests sent and not answered.
    waiting: BTreeMap<u64, Reply>,
    /// The latest ping and when it was written.
    ping: Option<(u64, Duration)>,
}

struct Conversation<'a, C> {
    clock: &'a C,
    link: &'a Link,
    ping_interval: Duration,
    book: Mutex<Book>,
}

impl<C: Clock> Conversation<'_, C> {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().expect("nothing panics while it holds the book")
    }

    async fn read(
        &self,
        mut reader: Reader<impl AsyncRead + Unpin>,
        pongs: mpsc::Sender<u64>,
    ) -> Broken {
        loop {
            let frame = match reader.next(self.clock).await {
                Ok(frame) => frame,
                Err(broken) => return broken,
            };
            match frame.kind {
                Kind::Ping => {
                    // With so many pongs waiting one more or less tells the peer nothing.
                    let _ = pongs.try_send(frame.id);
                }
                Kind::Pong => self.pong(frame.id),
                Kind::Response => self.answer(frame.id, Ok(frame.payload)),
                Kind::Unavailable => self.answer(frame.id, Err(RequestError::Refused)),
                Kind::Message
                | Kind::Request
                | Kind::SnapshotHeader
                | Kind::SnapshotChunk
                | Kind::SnapshotEnd
                | Kind::SnapshotAccepted
                | Kind::SnapshotFailed => return Broken::Unexpected(frame.kind),
            }
        }
    }

    fn pong(&self, id: u64) {
        let ping = self.book().ping;
        if let Some((latest, sent_at)) = ping
            && latest == id
        {
            self.link.state.measured(self.clock.now().saturating_sub(sent_at));
        }
    }

    fn answer(&self, id: u64, answer: Result<Bytes, RequestError>) {
        let reply = self.book().waiting.remove(&id);
        if let Some(reply) = reply {
            // One who no longer waits has been told that it took too long.
            let _ = reply.send(answer);
        }
    }

    async fn write(
        &self,
        mut writer: Writer<impl AsyncWrite + Unpin>,
        mut pongs: mpsc::Receiver<u64>,
        queue: &mut mpsc::Receiver<Outgoing>,
    ) -> Broken {
        let mut next_id = 0u64;
        let mut ping_now = pin!(self.clock.sleep(Duration::ZERO));
        loop {
            let mut batch = 0;
            tokio::select! {
                // What keeps the connection alive first; it is little and rare.
                biased;
                Some(id) = pongs.recv() => writer.push(Kind::Pong, id, &[]),
                () = &mut ping_now => {
                    next_id += 1;
                    self.book().ping = Some((next_id, self.clock.now()));
                    writer.push(Kind::Ping, next_id, &[]);
                    ping_now.set(self.clock.sleep(self.ping_interval));
                }
                Some(outgoing) = queue.recv() => {
                    match self.write_one(&mut writer, outgoing, &mut next_id).await {
                        Ok(length) => batch += length,
                        Err(error) => return Broken::Io(error),
                    }
                }
            }
            // Everything that waits goes into the same write, up to a bound that keeps pings and
            // pongs coming.
            while batch < PEER_WRITE_BATCH_BYTES
                && let Ok(outgoing) = queue.try_recv()
            {
                match self.write_one(&mut writer, outgoing, &mut next_id).await {
                    Ok(length) => batch += length,
                    Err(error) => return Broken::Io(error),
                }
            }
            if let Err(error) = writer.flush().await {
                return Broken::Io(error);
            }
        }
    }

    async fn write_one(
        &self,
        writer: &mut Writer<impl AsyncWrite + Unpin>,
        outgoing: Outgoing,
        next_id: &mut u64,
    ) -> io::Result<usize> {
        self.link.state.queue_bytes.fetch_sub(outgoing.len(), Ordering::AcqRel);
        match outgoing {
            Outgoing::Message(payload) => writer.write(Kind::Message, 0, payload).await,
            Outgoing::Request { reply, .. } if reply.is_closed() => Ok(0),
            Outgoing::Request { payload, reply } => {
                *next_id += 1;
                if !self.wait(*next_id, reply) {
                    return Ok(0);
                }
                writer.write(Kind::Request, *next_id, payload).await
            }
        }
    }

    /// Notes who waits for the answer to a request; refuses when too many do.
    fn wait(&self, id: u64, reply: Reply) -> bool {
        let mut book = self.book();
        if book.waiting.len() >= PEER_REQUESTS_MAX {
            book.waiting.retain(|_, reply| !reply.is_closed());
        }
        if book.waiting.len() >= PEER_REQUESTS_MAX {
            drop(book);
            let _ = reply.send(Err(RequestError::Refused));
            return false;
        }
        let former = book.waiting.insert(id, reply);
        assert!(former.is_none(), "request ids of a connection never repeat");
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_within_its_bounds_and_is_spread() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max);
        let mut whole = min;
        for turn in 0..20u64 {
            let random = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let delay = backoff.next(random);
            assert!(delay >= whole / 2 && delay <= whole, "{delay:?} of {whole:?}");
            whole = (whole * 2).min(max);
        }
        assert_eq!(whole, max);
        backoff.reset();
        assert_eq!(backoff.next(0), min / 2);
        backoff.reset();
        assert!(backoff.next(u64::MAX) > min * 9 / 10);
    }
}
