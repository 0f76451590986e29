//! How members talk to each other.
//!
//! Bytes in, bytes out: this module knows members and connections, not Raft and not the store. A
//! Raft message, a question and a snapshot are opaque here.
//!
//! ```text
//!   member 1                                           member 2
//!   peer (dials) ══ messages, requests ══════════════▶ listener ──▶ Inbound
//!                ◀═ pongs, answers ══════════════════
//!   Inbound ◀── listener ◀═ messages, requests ═══════ peer (dials)
//!                          ═ pongs, answers ═════════▶
//!   send_snapshot ─── a connection for each snapshot ─▶ listener ──▶ Inbound
//! ```
//!
//! Each member dials each other one, and says what it has to say on the connection it made
//! (`peer`); what the others say arrives on the connections they made (`listener`). So no two
//! members must agree on who dials, and a link that works in one direction only is used in that
//! direction. Every connection begins with a handshake in which both sides say who they are
//! (`handshake`); after it there are only frames (`frame`). A snapshot gets a connection of
//! its own (`snapshot`).
//!
//! What holds:
//! - Messages to one peer arrive in the order they were sent, each at most once. They may be
//!   lost, at any moment and without notice; Raft repeats what matters.
//! - Sending never waits. Without a connection, or when the queue is full, the message is
//!   dropped and the caller told.
//! - Everything is bounded, in number and in bytes, by names in `types::limits`, and nothing is
//!   allocated because somebody claims a length.
//! - A connection on which nothing arrives for `idle_timeout` is dead, whatever TCP thinks.
//! - Every task ends when the transport is stopped or its last handle dropped.
//!
//! What it leaves out: encryption and authentication. Everything works on any stream of bytes,
//! so TLS goes around the stream; the handshake then runs inside.

mod connection;
mod directory;
mod frame;
mod handshake;
mod listener;
mod peer;
mod snapshot;
#[cfg(test)]
mod tests;

pub use handshake::Refusal;
pub use snapshot::{IncomingSnapshot, SnapshotError, SnapshotPiece};

use crate::env::{Clock, Env, Network};
use crate::types::limits::{PEER_CONNECTIONS_MAX, PEER_QUEUE_MAX};
use crate::types::{ClusterId, MemberId};
use bytes::Bytes;
use directory::{Context, Link, OfferError};
use peer::Outgoing;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tracing::error;

/// Who we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub cluster: ClusterId,
    pub member: MemberId,
}

/// What comes in, through a channel of the server's choosing. The channel need not be long: while
/// it is full the peers' messages wait at the peers. What it holds may be as large as frames get.
#[derive(Debug)]
pub enum Inbound {
    /// A Raft message.
    Message { from: MemberId, payload: Bytes },
    /// A question. Dropping `reply` tells the peer that there is no answer.
    Request { from: MemberId, payload: Bytes, reply: oneshot::Sender<Bytes> },
    /// A snapshot, to be pulled.
    Snapshot { from: MemberId, incoming: IncomingSnapshot },
    /// A connection to the peer stands.
    Reachable { peer: MemberId },
    /// The connection to the peer broke. Each `Reachable` is followed by one, unless the peer is
    /// forgotten; one may come without it when the connection broke before that was taken.
    Unreachable { peer: MemberId },
    /// The peer will not talk to us. Each reason is told once until the peer has been reached
    /// again; we keep trying.
    Refused { peer: MemberId, refusal: Refusal },
}

/// Times to be chosen; the defaults suit a local network.
#[derive(Clone, Debug)]
pub struct Options {
    /// For an address to be connected to and to answer the handshake.
    pub connect_timeout: Duration,
    /// Between pings. Well below `idle_timeout`.
    pub ping_interval: Duration,
    /// Silence after which a connection is dead (etcd: ConnReadTimeout).
    pub idle_timeout: Duration,
    /// First and longest wait between attempts to dial.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// How long one step of a snapshot's transfer may take.
    pub snapshot_stall: Duration,
    /// How long the receiver of a complete snapshot may take to accept it.
    pub snapshot_install_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connect_timeout: Duration::from_secs(3),
            ping_interval: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            snapshot_stall: Duration::from_secs(30),
            snapshot_install_timeout: Duration::from_secs(300),
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestError {
    /// Not one of our peers, not connected, or the connection broke while we waited. In the last
    /// case the peer may have acted on the request.
    NoConnection,
    /// No answer in time; one that comes later is thrown away.
    Timeout,
    /// The peer has no answer, or too much is waiting already on one of the sides.
    Refused,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RequestError::NoConnection => "no connection to the peer",
            RequestError::Timeout => "the peer did not answer in time",
            RequestError::Refused => "the peer has no answer",
        })
    }
}

impl std::error::Error for RequestError {}

/// What is known about a peer. Times are the environment's clock; counts begin when the peer
/// became one of ours and cover connections in both directions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    pub id: MemberId,
    /// Where the present connection goes.
    pub address: Option<String>,
    /// When the present connection to the peer was made; `None` without one.
    pub connected_since: Option<Duration>,
    /// When a byte last came from it.
    pub last_seen: Option<Duration>,
    /// Smoothed time a ping takes to come back, on the present connection.
    pub round_trip: Option<Duration>,
    /// Messages and requests that wait to be written, and their bytes.
    pub queue_len: usize,
    pub queue_bytes: usize,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Messages and requests that were not, or no longer, queued.
    pub drops: u64,
    /// How often an established connection to the peer was lost.
    pub disconnects: u64,
}

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the handle needs of the environment, with its type forgotten.
struct Rim {
    spawn_peer: Box<dyn Fn(peer::Task) + Send + Sync>,
    spawn_snapshot: Box<dyn Fn(snapshot::Upload) + Send + Sync>,
    sleep: Box<dyn Fn(Duration) -> BoxFuture + Send + Sync>,
}

/// Starts transports.
pub struct Transport;

impl Transport {
    /// Begins to accept on `listeners`. Peers are dialed once [`TransportHandle::set_peers`]
    /// names them. What comes in goes to `inbound`; while that is full, nothing more is read.
    pub fn start<E: Env>(
        env: E,
        identity: Identity,
        listeners: Vec<<E::Network as Network>::Listener>,
        inbound: mpsc::Sender<Inbound>,
        options: Options,
    ) -> TransportHandle {
        assert!(options.ping_interval < options.idle_timeout, "pings must outrun the idle timeout");
        assert!(options.backoff_min <= options.backoff_max);
        let context = Arc::new(Context::new(identity, options, inbound));
        let places = Arc::new(Semaphore::new(PEER_CONNECTIONS_MAX));
        for listener in listeners {
            let stop = context.stop.subscribe();
            let places = places.clone();
            env.spawn(listener::accept(env.clone(), context.clone(), listener, places, stop));
        }
        let (spawner, sender, sleeper) = (env.clone(), env.clone(), env);
        let rim = Rim {
            spawn_peer: Box::new(move |task| spawner.spawn(peer::run(spawner.clone(), task))),
            spawn_snapshot: Box::new(move |upload| {
                sender.spawn(snapshot::send(sender.clone(), upload));
            }),
            sleep: Box::new(move |duration| Box::pin(sleeper.clock().sleep(duration))),
        };
        TransportHandle { owner: Arc::new(Owner { context, rim }) }
    }
}

/// The transport, for those who use it. Clones are the same transport; it stops with the last.
#[derive(Clone)]
pub struct TransportHandle {
    owner: Arc<Owner>,
}

struct Owner {
    context: Arc<Context>,
    rim: Rim,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.context.stop.send_replace(true);
    }
}

impl TransportHandle {
    /// Makes these the peers, each with the `host:port` candidates to reach it: dials new ones,
    /// drops the connections to those no longer named, and redials where the address in use is
    /// gone from the list. An entry for ourselves is passed over.
    pub fn set_peers(&self, mut peers: BTreeMap<MemberId, Vec<String>>) {
        let context = &self.owner.context;
        peers.remove(&context.identity.member);
        context.set_links(peers, |id, addresses| {
            let (queue_in, queue) = mpsc::channel(PEER_QUEUE_MAX);
            let (addresses_in, addresses) = watch::channel(addresses);
            let (keep, forgotten) = oneshot::channel();
            let link = Arc::new(Link::new(id, queue_in, addresses_in));
            (self.owner.rim.spawn_peer)(peer::Task {
                context: context.clone(),
                link: link.clone(),
                queue,
                addresses,
                forgotten,
                stop: context.stop.subscribe(),
            });
            (link, keep)
        });
    }

    /// Makes these the members that may not connect, because they were removed from the cluster,
    /// and closes the connections they have. All others may: a member that joins knows us before
    /// we know it.
    pub fn set_removed(&self, removed: BTreeSet<MemberId>) {
        self.owner.context.set_removed(removed);
    }

    /// Queues a message. Never waits; `false` when it was dropped: no such peer, no connection,
    /// or the queue is full.
    pub fn send(&self, to: MemberId, payload: Bytes) -> bool {
        let Some(link) = self.owner.context.link(to) else { return false };
        let length = payload.len();
        match link.offer(Outgoing::Message(payload)) {
            Ok(()) => true,
            Err(OfferError::NotConnected | OfferError::Full) => false,
            Err(OfferError::TooLong) => {
                error!("local-member-id" = %self.owner.context.identity.member,
                    "remote-peer-id" = %to, length, "a message to a peer exceeds the frame limit");
                false
            }
        }
    }

    /// Asks a peer and waits for its answer.
    pub async fn request(
        &self,
        to: MemberId,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        let link = self.owner.context.link(to).ok_or(RequestError::NoConnection)?;
        let (reply, answer) = oneshot::channel();
        link.offer(Outgoing::Request { payload, reply }).map_err(|error| match error {
            OfferError::NotConnected => RequestError::NoConnection,
            OfferError::Full | OfferError::TooLong => RequestError::Refused,
        })?;
        drop(link);
        tokio::select! {
            // The answer first: one that is there counts, even if we come late to see it.
            biased;
            answer = answer => answer.unwrap_or(Err(RequestError::NoConnection)),
            () = (self.owner.rim.sleep)(timeout) => Err(RequestError::Timeout),
        }
    }

    /// Sends a snapshot, pulling it from `source`, and waits until the receiver has confirmed it.
    /// Takes long; dropping the future breaks it off. `source` bounds what is read ahead.
    pub async fn send_snapshot(
        &self,
        to: MemberId,
        header: Bytes,
        source: mpsc::Receiver<SnapshotPiece>,
    ) -> Result<(), SnapshotError> {
        let context = self.owner.context.clone();
        let link = context.link(to).ok_or(SnapshotError::UnknownPeer)?;
        let stop = context.stop.subscribe();
        let (reply, sent) = oneshot::channel();
        let upload = snapshot::Upload { context, link, header, source, reply, stop };
        (self.owner.rim.spawn_snapshot)(upload);
        // Without a word it was cut short together with everything else.
        sent.await.unwrap_or(Err(SnapshotError::Stopped))
    }

    /// What is known about each peer, by id.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.owner.context.links().iter().map(|link| link.status()).collect()
    }

    /// Stops, and returns when every task has ended and every connection and listener is closed.
    pub async fn stop(&self) {
        self.owner.context.stop.send_replace(true);
        self.owner.context.stop.closed().await;
    }
}
