//! Snapshots: a connection of their own, so that gigabytes never delay a heartbeat.
//!
//! ```text
//! sender                                    receiver
//!   preface (snapshot)  ─────────────────▶
//!                       ◀─────────────────  ok
//!   header              ─────────────────▶  Inbound::Snapshot
//!   chunk, chunk, ...   ─────────────────▶  IncomingSnapshot::next
//!   end (length, crc)   ─────────────────▶  next gives None: complete
//!                       ◀─────────────────  accepted, or failed and why (at any moment)
//!         both ping all the while
//! ```
//!
//! - Back-pressure from end to end: the sender's source is a bounded channel, the receiver reads
//!   on only when a piece was taken. What is under way is a few pieces and the system's socket
//!   buffers, whatever the snapshot's size.
//! - A source that ends without saying so has died: the end is a piece of its own, never the
//!   mere closing of a channel. So is the receiver's: complete and broken are different answers.
//! - Each chunk has a checksum and must begin where the last one ended; the end carries the
//!   length and a checksum of everything.
//! - Silence ends it, as on every connection; so does a side that lives but makes no progress
//!   for `snapshot_stall`. There is no resuming: the caller starts again, with a newer snapshot
//!   if it has one.

use super::Inbound;
use super::connection::{Broken, Reader, Writer, within};
use super::directory::{Context, Link, Meter, stopped};
use super::frame::{Frame, Kind};
use super::handshake::{Purpose, Refusal};
use super::peer::{DialError, dial};
use crate::env::{Clock, Env};
use crate::types::MemberId;
use crate::types::limits::{SNAPSHOT_FRAME_BYTES_MAX, SNAPSHOT_PIECES_IN_FLIGHT_MAX};
use bytes::Bytes;
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

/// What a receiver may say about its refusal, in bytes.
const REASON_BYTES_MAX: usize = 1024;
/// Stands for a length that is not known yet.
const UNKNOWN: u64 = u64::MAX;

/// What a snapshot to be sent is made of.
#[derive(Clone, Debug)]
pub enum SnapshotPiece {
    /// The next bytes, of any length.
    Data(Bytes),
    /// All was sent. A source that closes without this has failed.
    End,
}

/// Why a snapshot did not arrive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotError {
    /// Not one of our peers.
    UnknownPeer,
    /// The header is longer than a frame may be.
    HeaderTooLong,
    /// The peer could not be reached; why.
    Unreachable(String),
    /// The peer does not talk to us.
    Refused(Refusal),
    /// The source closed before its end.
    SourceFailed,
    /// Source, connection or receiver made no progress for too long.
    Stalled,
    /// The connection broke; how.
    Broken(String),
    /// The receiver did not want it; why.
    Rejected(String),
    /// The transport was stopped.
    Stopped,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotError::UnknownPeer => write!(f, "unknown peer"),
            SnapshotError::HeaderTooLong => write!(f, "snapshot header too long"),
            SnapshotError::Unreachable(error) => write!(f, "{error}"),
            SnapshotError::Refused(refusal) => write!(f, "{refusal}"),
            SnapshotError::SourceFailed => write!(f, "the source ended before the snapshot"),
            SnapshotError::Stalled => write!(f, "no progress for too long"),
            SnapshotError::Broken(error) => write!(f, "connection broken: {error}"),
            SnapshotError::Rejected(reason) => write!(f, "rejected by the receiver: {reason}"),
            SnapshotError::Stopped => write!(f, "stopped"),
        }
    }
}

impl std::error::Error for SnapshotError {}

impl From<Broken> for SnapshotError {
    fn from(broken: Broken) -> Self {
        SnapshotError::Broken(broken.to_string())
    }
}

impl From<io::Error> for SnapshotError {
    fn from(error: io::Error) -> Self {
        SnapshotError::Broken(error.to_string())
    }
}

/// A snapshot to be sent.
pub(super) struct Upload {
    pub(super) context: Arc<Context>,
    pub(super) link: Arc<Link>,
    pub(super) header: Bytes,
    pub(super) source: mpsc::Receiver<SnapshotPiece>,
    /// Who waits for it; it is broken off when nobody does.
    pub(super) reply: oneshot::Sender<Result<(), SnapshotError>>,
    pub(super) stop: watch::Receiver<bool>,
}

/// Sends a snapshot and waits for the receiver's word. A task of its own, so that it ends when
/// the transport stops even if whoever waits for it does not look.
pub(super) async fn send<E: Env>(env: E, upload: Upload) {
    let Upload { context, link, header, source, mut reply, mut stop } = upload;
    let peer = link.state.id;
    let started = env.clock().now();
    let sent = tokio::select! {
        // The ends first: nothing more may be sent then.
        biased;
        () = stopped(&mut stop) => Err(SnapshotError::Stopped),
        () = reply.closed() => Err(SnapshotError::Broken("given up on our side".to_owned())),
        sent = send_to_end(&env, &context, &link, header, source) => sent,
    };
    let took = env.clock().now() - started;
    match &sent {
        Ok(bytes) => {
            info!("local-member-id" = %context.identity.member, "remote-peer-id" = %peer, bytes,
                ?took, "sent database snapshot to remote peer");
        }
        Err(error) => {
            warn!("local-member-id" = %context.identity.member, "remote-peer-id" = %peer, %error,
                ?took, "failed to send database snapshot to remote peer");
        }
    }
    let _ = reply.send(sent.map(|_| ()));
}

/// Returns the length.
async fn send_to_end<E: Env>(
    env: &E,
    context: &Arc<Context>,
    link: &Link,
    header: Bytes,
    source: mpsc::Receiver<SnapshotPiece>,
) -> Result<u64, SnapshotError> {
    if header.len() > SNAPSHOT_FRAME_BYTES_MAX {
        return Err(SnapshotError::HeaderTooLong);
    }
    let peer = link.state.id;
    let (addresses, first) = link.addresses();
    let (stream, _) = dial(env, context, peer, &addresses, Purpose::Snapshot, first)
        .await
        .map_err(|error| match error {
            DialError::Refused { refusal, .. } => SnapshotError::Refused(refusal),
            unreachable => SnapshotError::Unreachable(unreachable.to_string()),
        })?;
    let (read, write) = tokio::io::split(stream);
    let meter = Meter { context: context.clone(), peer };
    let reader = Reader::new(read, SNAPSHOT_FRAME_BYTES_MAX, meter.clone());
    let sender = Sender { clock: env.clock(), context, length: AtomicU64::new(UNKNOWN) };
    let mut verdict = pin!(sender.verdict(reader));
    let failure = tokio::select! {
        // The receiver's word first: when it has given up, the rest need not be sent.
        biased;
        verdict = &mut verdict => return verdict,
        failure = sender.write(Writer::new(write, meter), header, source) => failure,
    };
    // A receiver that gives up says why and closes. The closing may be noticed before the words.
    if let SnapshotError::Broken(_) = failure
        && let Some(Err(rejected @ SnapshotError::Rejected(_))) =
            within(env.clock(), context.options.ping_interval, verdict).await
    {
        return Err(rejected);
    }
    Err(failure)
}

struct Sender<'a, C> {
    clock: &'a C,
    context: &'a Context,
    /// The snapshot's length, once its end was written.
    length: AtomicU64,
}

impl<C: Clock> Sender<'_, C> {
    /// Writes everything, then pings until the receiver has had time enough. Returns only when
    /// it failed; success is the receiver's to tell.
    async fn write(
        &self,
        mut writer: Writer<impl AsyncWrite + Unpin>,
        header: Bytes,
        source: mpsc::Receiver<SnapshotPiece>,
    ) -> SnapshotError {
        if let Err(error) = self.write_all(&mut writer, header, source).await {
            return error;
        }
        let patience = self.context.options.snapshot_install_timeout;
        match within(self.clock, patience, writer.keep_alive(self.clock)).await {
            Some(error) => error.into(),
            None => SnapshotError::Stalled,
        }
    }

    async fn write_all(
        &self,
        writer: &mut Writer<impl AsyncWrite + Unpin>,
        header: Bytes,
        mut source: mpsc::Receiver<SnapshotPiece>,
    ) -> Result<(), SnapshotError> {
        let clock = self.clock;
        let stall = self.context.options.snapshot_stall;
        self.write_one(writer, Kind::SnapshotHeader, 0, header).await?;
        let (mut offset, mut checksum) = (0u64, 0u32);
        loop {
            if source.is_empty() {
                within(clock, stall, writer.flush()).await.ok_or(SnapshotError::Stalled)??;
            }
            let next = writer.keep_alive_while(clock, source.recv());
            let piece = within(clock, stall, next).await.ok_or(SnapshotError::Stalled)??;
            let mut data = match piece.ok_or(SnapshotError::SourceFailed)? {
                SnapshotPiece::Data(data) => data,
                SnapshotPiece::End => break,
            };
            checksum = crc32c::crc32c_append(checksum, &data);
            while !data.is_empty() {
                let chunk = data.split_to(data.len().min(SNAPSHOT_FRAME_BYTES_MAX));
                let length = chunk.len() as u64;
                self.write_one(writer, Kind::SnapshotChunk, offset, chunk).await?;
                offset += length;
            }
        }
        // Before the end is written: the receiver may answer faster than we get to run again.
        self.length.store(offset, Ordering::Release);
        let checksum = Bytes::copy_from_slice(&checksum.to_le_bytes());
        self.write_one(writer, Kind::SnapshotEnd, offset, checksum).await?;
        within(clock, stall, writer.flush()).await.ok_or(SnapshotError::Stalled)??;
        Ok(())
    }

    async fn write_one(
        &self,
        writer: &mut Writer<impl AsyncWrite + Unpin>,
        kind: Kind,
        id: u64,
        payload: Bytes,
    ) -> Result<(), SnapshotError> {
        let stall = self.context.options.snapshot_stall;
        let written = within(self.clock, stall, writer.write(kind, id, payload)).await;
        written.ok_or(SnapshotError::Stalled)??;
        Ok(())
    }

    /// What the receiver makes of it.
    async fn verdict(
        &self,
        mut reader: Reader<impl AsyncRead + Unpin>,
    ) -> Result<u64, SnapshotError> {
        loop {
            let frame = reader.next(self.clock).await?;
            match frame.kind {
                Kind::Ping => {}
                Kind::SnapshotAccepted if frame.id == self.length.load(Ordering::Acquire) => {
                    return Ok(frame.id);
                }
                Kind::SnapshotFailed => {
                    let reason = String::from_utf8_lossy(&frame.payload).into_owned();
                    return Err(SnapshotError::Rejected(reason));
                }
                Kind::SnapshotAccepted
                | Kind::Pong
                | Kind::Message
                | Kind::Request
                | Kind::Response
                | Kind::Unavailable
                | Kind::SnapshotHeader
                | Kind::SnapshotChunk
                | Kind::SnapshotEnd => return Err(Broken::Unexpected(frame.kind).into()),
            }
        }
    }
}

/// What goes from the connection to the one who takes the snapshot.
#[derive(Debug)]
enum Received {
    Chunk(Bytes),
    End,
}

/// `Err` says why not.
type Verdict = Result<(), String>;

/// A snapshot on its way to us. Pull it with [`IncomingSnapshot::next`], then say what became of
/// it; the sender waits for that. Dropping it tells the sender that it failed.
#[derive(Debug)]
pub struct IncomingSnapshot {
    header: Bytes,
    pieces: mpsc::Receiver<Received>,
    /// Why `pieces` closed without an end.
    broken: oneshot::Receiver<String>,
    verdict: oneshot::Sender<Verdict>,
    complete: bool,
}

impl IncomingSnapshot {
    /// What the sender said about it.
    pub fn header(&self) -> &Bytes {
        &self.header
    }

    /// The next bytes; `None` when it is complete and everything matched its checksum. The sender
    /// sends more only when what it sent is taken; who takes nothing for the `snapshot_stall`
    /// of the options loses the connection. Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        if self.complete {
            return Ok(None);
        }
        match self.pieces.recv().await {
            Some(Received::Chunk(chunk)) => Ok(Some(chunk)),
            Some(Received::End) => {
                self.complete = true;
                Ok(None)
            }
            None => {
                let reason = self.broken.try_recv();
                let reason = reason.unwrap_or_else(|_| "given up on our side".to_owned());
                Err(SnapshotError::Broken(reason))
            }
        }
    }

    /// Tells the sender that we have it, durably.
    ///
    /// # Panics
    /// When [`IncomingSnapshot::next`] has not said that it is complete.
    pub fn accept(self) {
        assert!(self.complete, "accepted a snapshot before its end");
        // When the sender is gone, so be it: Raft will find out what we have.
        let _ = self.verdict.send(Ok(()));
    }

    /// Tells the sender why we do not take it.
    pub fn fail(self, reason: impl Into<String>) {
        let _ = self.verdict.send(Err(reason.into()));
    }
}

/// Receives the snapshot a caller announced, up to the answer.
pub(super) async fn receive(
    clock: &impl Clock,
    context: &Context,
    from: MemberId,
    stream: impl AsyncRead + AsyncWrite,
    meter: Meter,
) -> Result<(), Broken> {
    let (read, write) = tokio::io::split(stream);
    let mut reader = Reader::new(read, SNAPSHOT_FRAME_BYTES_MAX, meter.clone());
    let mut writer = Writer::new(write, meter);
    let header = next_but_ping(clock, &mut reader).await?;
    if header.kind != Kind::SnapshotHeader {
        return Err(Broken::Unexpected(header.kind));
    }
    let (pieces_in, pieces) = mpsc::channel(SNAPSHOT_PIECES_IN_FLIGHT_MAX);
    let (broken_in, broken) = oneshot::channel();
    let (verdict_in, verdict) = oneshot::channel();
    let incoming = IncomingSnapshot {
        header: header.payload,
        pieces,
        broken,
        verdict: verdict_in,
        complete: false,
    };
    let local = context.identity.member;
    info!("local-member-id" = %local, "remote-peer-id" = %from,
        "receiving database snapshot from remote peer");
    let announced = context.inbound.send(Inbound::Snapshot { from, incoming });
    if writer.keep_alive_while(clock, announced).await?.is_err() {
        return Err(Broken::Unwanted);
    }
    let mut receiver =
        Receiver { clock, context, reader, pieces: pieces_in, verdict, length: 0, checksum: 0 };
    let verdict = match writer.keep_alive_while(clock, receiver.take()).await? {
        Ok(verdict) => verdict,
        Err(broken) => {
            // The reason first, so that it is there when the channel is seen closed.
            let _ = broken_in.send(broken.to_string());
            return Err(broken);
        }
    };
    drop(broken_in);
    match verdict {
        Ok(()) => {
            info!("local-member-id" = %local, "remote-peer-id" = %from, bytes = receiver.length,
                "received and saved database snapshot");
            writer.push(Kind::SnapshotAccepted, receiver.length, &[]);
        }
        Err(reason) => {
            warn!("local-member-id" = %local, "remote-peer-id" = %from,
                bytes = receiver.length, error = reason,
                "failed to save database snapshot from remote peer");
            let length = reason.len().min(REASON_BYTES_MAX);
            writer.push(Kind::SnapshotFailed, 0, &reason.as_bytes()[..length]);
        }
    }
    let patience = context.options.idle_timeout;
    within(clock, patience, writer.flush()).await.ok_or(Broken::Idle(patience))??;
    // The sender closes when it has read our word. Closing before, with some of the snapshot
    // unread, would reset the connection, and our word might get lost with it.
    let mut reader = receiver.reader;
    let _ = within(clock, patience, async { while reader.next(clock).await.is_ok() {} }).await;
    Ok(())
}

async fn next_but_ping(
    clock: &impl Clock,
    reader: &mut Reader<impl AsyncRead + Unpin>,
) -> Result<Frame, Broken> {
    loop {
        let frame = reader.next(clock).await?;
        if frame.kind != Kind::Ping {
            return Ok(frame);
        }
    }
}

struct Receiver<'a, C, R> {
    clock: &'a C,
    context: &'a Context,
    reader: Reader<R>,
    pieces: mpsc::Sender<Received>,
    verdict: oneshot::Receiver<Verdict>,
    /// Bytes received, and their checksum.
    length: u64,
    checksum: u32,
}

impl<C: Clock, R: AsyncRead + Unpin> Receiver<'_, C, R> {
    /// Hands on what comes until the taker has decided.
    async fn take(&mut self) -> Result<Verdict, Broken> {
        let stall = self.context.options.snapshot_stall;
        loop {
            let next = within(self.clock, stall, next_but_ping(self.clock, &mut self.reader));
            let frame = tokio::select! {
                // The decision first: whoever has given up wants no more.
                biased;
                verdict = &mut self.verdict => return Ok(decided(verdict)),
                next = next => next.ok_or(Broken::Stalled)??,
            };
            let received = match frame.kind {
                Kind::SnapshotChunk => {
                    if frame.id != self.length || frame.payload.is_empty() {
                        return Err(Broken::Incoherent("snapshot chunks do not follow each other"));
                    }
                    self.length += frame.payload.len() as u64;
                    self.checksum = crc32c::crc32c_append(self.checksum, &frame.payload);
                    Received::Chunk(frame.payload)
                }
                Kind::SnapshotEnd => {
                    if frame.id != self.length || frame.payload[..] != self.checksum.to_le_bytes() {
                        return Err(Broken::Incoherent("snapshot does not match its checksum"));
                    }
                    Received::End
                }
                Kind::Ping
                | Kind::Pong
                | Kind::Message
                | Kind::Request
                | Kind::Response
                | Kind::Unavailable
                | Kind::SnapshotHeader
                | Kind::SnapshotAccepted
                | Kind::SnapshotFailed => return Err(Broken::Unexpected(frame.kind)),
            };
            let is_end = matches!(received, Received::End);
            match within(self.clock, stall, self.pieces.send(received)).await {
                None => return Ok(Err("the receiver made no progress for too long".to_owned())),
                Some(Err(_)) => return Ok(decided((&mut self.verdict).await)),
                Some(Ok(())) if is_end => return self.decide().await,
                Some(Ok(())) => {}
            }
        }
    }

    /// Waits for the decision on a complete snapshot.
    async fn decide(&mut self) -> Result<Verdict, Broken> {
        let patience = self.context.options.snapshot_install_timeout;
        let decision = async {
            tokio::select! {
                // The decision first: a sender that is gone no longer matters then.
                biased;
                verdict = &mut self.verdict => Ok(decided(verdict)),
                frame = next_but_ping(self.clock, &mut self.reader) => match frame {
                    Ok(frame) => Err(Broken::Unexpected(frame.kind)),
                    Err(broken) => Err(broken),
                },
            }
        };
        let late = || Ok(Err("the receiver did not decide in time".to_owned()));
        within(self.clock, patience, decision).await.unwrap_or_else(late)
    }
}

fn decided(verdict: Result<Verdict, oneshot::error::RecvError>) -> Verdict {
    verdict.unwrap_or_else(|_| Err("the receiver dropped it".to_owned()))
}
