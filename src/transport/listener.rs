//! The accepting side: hears who calls, and serves the ones who belong here.
//!
//! - Until it has said who it is a caller gets a deadline and a place among at most
//!   `PEER_HANDSHAKES_MAX`; when more come, the oldest goes. A real peer says it at once, so
//!   idle connections cannot keep it out.
//! - On a message connection, messages and requests go to the server in the order they came, with
//!   back-pressure: while the server does not take them we do not read, the peer's queue fills,
//!   and what is too much is dropped there. Our pings meanwhile keep the connection.
//! - Each request is answered in its own time by a small task that ends with the connection.

use super::Inbound;
use super::connection::{Broken, Reader, Writer, within};
use super::directory::{Context, Meter, Seat, stopped};
use super::frame::Kind;
use super::handshake::{self, Answer, HandshakeError, PROTOCOL_VERSION, Preface, Purpose, Refusal};
use super::snapshot;
use crate::env::{Clock, Env, Listener, Network};
use crate::types::MemberId;
use crate::types::limits::{
    PEER_FRAME_BYTES_MAX, PEER_HANDSHAKES_MAX, PEER_REPLY_QUEUE_MAX, PEER_REQUESTS_MAX,
    PEER_WRITE_BATCH_BYTES,
};
use bytes::Bytes;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tracing::{debug, error, info, warn};

/// Accepts connections until the transport stops.
pub(super) async fn accept<E: Env>(
    env: E,
    context: Arc<Context>,
    mut listener: <E::Network as Network>::Listener,
    places: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
) {
    // Those who have not introduced themselves, oldest first. Dropping an entry closes it.
    let mut strangers: VecDeque<oneshot::Sender<Infallible>> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            // Stopping first: who calls while we stop is not served any more.
            biased;
            () = stopped(&mut stop) => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: trying again at once would only spin.
                complain(&env, &context, format!("accept {}", error.kind()), |suppressed| {
                    error!("local-member-id" = %context.identity.member, %error, suppressed,
                        "failed to accept a peer connection");
                });
                tokio::select! {
                    // Stopping first, as above.
                    biased;
                    () = stopped(&mut stop) => return,
                    () = env.clock().sleep(context.options.backoff_max) => continue,
                }
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            complain(&env, &context, "places".to_owned(), |suppressed| {
                warn!("local-member-id" = %context.identity.member, "remote-address" = address,
                    suppressed, "too many peer connections, closed a new one");
            });
            continue;
        };
        strangers.retain(|stranger| !stranger.is_closed());
        if strangers.len() == PEER_HANDSHAKES_MAX {
            strangers.pop_front();
        }
        let (keep, evicted) = oneshot::channel();
        strangers.push_back(keep);
        let caller = Caller { env: env.clone(), context: context.clone(), address };
        let stop = stop.clone();
        env.spawn(caller.serve(stream, evicted, place, stop));
    }
}

/// Logs through `log` unless the same was logged lately.
fn complain<E: Env>(env: &E, context: &Context, about: String, log: impl FnOnce(u64)) {
    if let Some(suppressed) = context.complaint(env.clock().now(), about) {
        log(suppressed);
    }
}

/// One accepted connection.
struct Caller<E> {
    env: E,
    context: Arc<Context>,
    /// Where it comes from.
    address: String,
}

impl<E: Env> Caller<E> {
    async fn serve(
        self,
        mut stream: <E::Network as Network>::Stream,
        evicted: oneshot::Receiver<Infallible>,
        _place: OwnedSemaphorePermit,
        mut stop: watch::Receiver<bool>,
    ) {
        let admitted = tokio::select! {
            // The ends first, so that they are not put off by a caller who keeps talking.
            biased;
            () = stopped(&mut stop) => return,
            _ = evicted => {
                self.complain("crowd".to_owned(), |suppressed| {
                    warn!("local-member-id" = %self.context.identity.member,
                        "remote-address" = self.address, suppressed,
                        "closed a peer connection that had not introduced itself to make room");
                });
                return;
            }
            admitted = self.admit(&mut stream) => admitted,
        };
        let Some((preface, mut seat)) = admitted else { return };
        if let Some(link) = self.context.link(preface.from) {
            link.wake.notify_one();
        }
        let requests_stop = stop.clone();
        tokio::select! {
            // The ends first: nothing may be delivered after a newer connection took over.
            biased;
            () = stopped(&mut stop) => {}
            () = seat.lost() => {
                self.env.mark("transport: a connection was replaced");
                info!("local-member-id" = %self.context.identity.member,
                    "remote-peer-id" = %preface.from, "remote-address" = self.address,
                    "closed connection from remote peer, which was replaced or removed");
            }
            () = self.attend(stream, &preface, requests_stop) => {}
        }
        // The stream is closed by now; only then may the next connection be served.
        drop(seat);
    }

    /// Hears who calls and answers. `None` when that was all.
    async fn admit(&self, stream: &mut <E::Network as Network>::Stream) -> Option<(Preface, Seat)> {
        let options = &self.context.options;
        let clock = self.env.clock();
        let heard = within(clock, options.connect_timeout, handshake::listen(stream)).await;
        let (preface, seat) = match heard {
            Some(Ok(preface)) => (Some(preface), self.context.take_seat(&preface).await),
            Some(Err(HandshakeError::Version(version))) => {
                self.refused_version(version);
                (None, Err(Refusal::VersionUnsupported))
            }
            Some(Err(error)) => {
                self.turned_away(&error);
                return None;
            }
            None => {
                self.env.mark("transport: a caller did not say who it is");
                self.complain(format!("mute {}", self.host()), |suppressed| {
                    warn!("local-member-id" = %self.context.identity.member,
                        "remote-address" = self.address, suppressed,
                        "closed a peer connection that did not introduce itself in time");
                });
                return None;
            }
        };
        let answer = Answer {
            refusal: seat.as_ref().err().copied(),
            version: PROTOCOL_VERSION,
            cluster: self.context.identity.cluster,
            member: self.context.identity.member,
        };
        let told = within(clock, options.connect_timeout, handshake::answer(stream, &answer));
        let told = matches!(told.await, Some(Ok(())));
        match (preface, seat) {
            (Some(preface), Ok(seat)) => told.then_some((preface, seat)),
            (Some(preface), Err(refusal)) => {
                self.refused(&preface, refusal);
                None
            }
            (None, _) => {
                within(clock, options.connect_timeout, handshake::linger(stream)).await;
                None
            }
        }
    }

    fn complain(&self, about: String, log: impl FnOnce(u64)) {
        complain(&self.env, &self.context, about, log);
    }

    /// The address without the port, which differs from call to call.
    fn host(&self) -> &str {
        self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host)
    }

    fn refused(&self, preface: &Preface, refusal: Refusal) {
        let local = self.context.identity;
        self.complain(format!("{refusal:?} {} {}", preface.from, self.host()), |suppressed| {
            warn!("local-member-id" = %local.member, "local-member-cluster-id" = %local.cluster,
                "remote-peer-id" = %preface.from, "remote-peer-cluster-id" = %preface.cluster,
                "requested-member-id" = %preface.to, "remote-address" = self.address,
                error = %refusal, suppressed, "rejected connection from remote peer");
        });
    }

    fn refused_version(&self, version: u16) {
        self.complain(format!("version {version} {}", self.host()), |suppressed| {
            warn!("local-member-id" = %self.context.identity.member,
                "local-protocol-version" = PROTOCOL_VERSION,
                "remote-peer-protocol-version" = version, "remote-address" = self.address,
                error = %Refusal::VersionUnsupported, suppressed,
                "rejected connection from remote peer");
        });
    }

    /// Not one of us.
    fn turned_away(&self, error: &HandshakeError) {
        let local = self.context.identity.member;
        if let HandshakeError::Silent = error {
            // Load balancers and port checks do this all day.
            debug!("local-member-id" = %local, "remote-address" = self.address, %error,
                "peer connection closed");
            return;
        }
        self.complain(format!("foreign {error} {}", self.host()), |suppressed| {
            warn!("local-member-id" = %local, "remote-address" = self.address, %error, suppressed,
                "closed a connection to the peer port that is not from a peer");
        });
    }

    /// Serves an admitted connection until it breaks.
    async fn attend(
        &self,
        stream: <E::Network as Network>::Stream,
        preface: &Preface,
        stop: watch::Receiver<bool>,
    ) {
        let local = self.context.identity.member;
        let peer = preface.from;
        let meter = Meter { context: self.context.clone(), peer };
        debug!("local-member-id" = %local, "remote-peer-id" = %peer, purpose = ?preface.purpose,
            "remote-address" = self.address, "accepted connection from remote peer");
        let broken = match preface.purpose {
            Purpose::Messages => self.converse(stream, peer, meter, stop).await,
            Purpose::Snapshot => {
                let clock = self.env.clock();
                match snapshot::receive(clock, &self.context, peer, stream, meter).await {
                    Ok(()) => return,
                    Err(broken) => broken,
                }
            }
        };
        match &broken {
            Broken::Frame(_) | Broken::Incoherent(_) => {
                self.env.mark("transport: damaged data was received");
                error!("local-member-id" = %local, "remote-peer-id" = %peer,
                    "remote-address" = self.address, error = %broken,
                    "received damaged data from remote peer, closed the connection");
            }
            Broken::Unexpected(_) | Broken::Idle(_) | Broken::Stalled => {
                warn!("local-member-id" = %local, "remote-peer-id" = %peer,
                    "remote-address" = self.address, error = %broken,
                    "closed connection from remote peer");
            }
            Broken::Closed | Broken::Io(_) | Broken::Moved | Broken::Unwanted => {
                info!("local-member-id" = %local, "remote-peer-id" = %peer,
                    "remote-address" = self.address, error = %broken,
                    "lost connection from remote peer");
            }
        }
    }

    async fn converse(
        &self,
        stream: <E::Network as Network>::Stream,
        from: MemberId,
        meter: Meter,
        stop: watch::Receiver<bool>,
    ) -> Broken {
        let (read, write) = tokio::io::split(stream);
        let reader = Reader::new(read, PEER_FRAME_BYTES_MAX, meter.clone());
        let writer = Writer::new(write, meter);
        let (replies, reply_queue) = mpsc::channel(PEER_REPLY_QUEUE_MAX);
        tokio::select! {
            // The writer first: it is seldom busy on this side, and a flood of messages must
            // not keep the pongs back.
            biased;
            broken = self.write(writer, reply_queue) => broken,
            broken = self.read(reader, from, replies, stop) => broken,
        }
    }

    async fn read(
        &self,
        mut reader: Reader<impl AsyncRead + Unpin>,
        from: MemberId,
        replies: mpsc::Sender<Reply>,
        stop: watch::Receiver<bool>,
    ) -> Broken {
        let working = Arc::new(Semaphore::new(PEER_REQUESTS_MAX));
        loop {
            let frame = match reader.next(self.env.clock()).await {
                Ok(frame) => frame,
                Err(broken) => return broken,
            };
            let inbound = match frame.kind {
                Kind::Ping => {
                    // With so many replies waiting the connection is known to be alive.
                    let _ = replies.try_send(Reply {
                        kind: Kind::Pong,
                        id: frame.id,
                        payload: Bytes::new(),
                    });
                    continue;
                }
                Kind::Pong => continue,
                Kind::Message => Inbound::Message { from, payload: frame.payload },
                Kind::Request => {
                    let Ok(permit) = working.clone().try_acquire_owned() else {
                        let _ = replies.send(Reply::unavailable(frame.id)).await;
                        continue;
                    };
                    let (reply, answer) = oneshot::channel();
                    let waiter = Waiter { id: frame.id, answer, replies: replies.clone(), permit };
                    self.env.spawn(waiter.run(stop.clone()));
                    Inbound::Request { from, payload: frame.payload, reply }
                }
                Kind::Response
                | Kind::Unavailable
                | Kind::SnapshotHeader
                | Kind::SnapshotChunk
                | Kind::SnapshotEnd
                | Kind::SnapshotAccepted
                | Kind::SnapshotFailed => return Broken::Unexpected(frame.kind),
            };
            if self.context.inbound.send(inbound).await.is_err() {
                return Broken::Unwanted;
            }
        }
    }

    async fn write(
        &self,
        mut writer: Writer<impl AsyncWrite + Unpin>,
        mut replies: mpsc::Receiver<Reply>,
    ) -> Broken {
        let interval = self.context.options.ping_interval;
        let clock = self.env.clock();
        let mut ping = pin!(clock.sleep(interval));
        loop {
            let mut next = tokio::select! {
                // The ping first; it is little and rare, and answers may come without a break.
                biased;
                () = &mut ping => {
                    ping.set(clock.sleep(interval));
                    Some(Reply { kind: Kind::Ping, id: 0, payload: Bytes::new() })
                }
                Some(reply) = replies.recv() => Some(reply),
            };
            let mut batch = 0;
            while let Some(Reply { kind, id, payload }) = next {
                match writer.write(kind, id, payload).await {
                    Ok(length) => batch += length,
                    Err(error) => return Broken::Io(error),
                }
                let more = batch < PEER_WRITE_BATCH_BYTES;
                next = if more { replies.try_recv().ok() } else { None };
            }
            if let Err(error) = writer.flush().await {
                return Broken::Io(error);
            }
        }
    }
}

/// Something to write on an accepted connection.
struct Reply {
    kind: Kind,
    id: u64,
    payload: Bytes,
}

impl Reply {
    fn unavailable(id: u64) -> Reply {
        Reply { kind: Kind::Unavailable, id, payload: Bytes::new() }
    }
}

/// Carries the server's answer to a request back to the connection it came on.
struct Waiter {
    id: u64,
    answer: oneshot::Receiver<Bytes>,
    replies: mpsc::Sender<Reply>,
    permit: OwnedSemaphorePermit,
}

impl Waiter {
    async fn run(self, mut stop: watch::Receiver<bool>) {
        let Waiter { id, answer, replies, permit } = self;
        let reply = tokio::select! {
            // The ends first: without a connection the answer is of no use.
            biased;
            () = stopped(&mut stop) => return,
            () = replies.closed() => return,
            answer = answer => match answer {
                Ok(payload) if payload.len() <= PEER_FRAME_BYTES_MAX => {
                    Reply { kind: Kind::Response, id, payload }
                }
                Ok(payload) => {
                    error!(length = payload.len(), "an answer to a peer exceeds the frame limit");
                    Reply::unavailable(id)
                }
                Err(_) => Reply::unavailable(id),
            },
        };
        let _ = replies.send(reply).await;
        drop(permit);
    }
}
