//! Whole states on their way between members.
//!
//! ```text
//!   leader:   store (a read transaction) ─ chunks ─▶ transport ─▶ follower
//!   follower: transport ─ chunks ─▶ SnapshotSink ─▶ a file beside the store
//!             complete and verified ─▶ Raft ─▶ apply loop puts it in the store's place
//! ```
//!
//! A state is never in memory as a whole: a few chunks are in flight, and both sides stop reading
//! when the other stops taking. A transfer that breaks is begun again by Raft; what had arrived
//! is thrown away.

use super::node_loop::{Input, OutgoingSnapshot};
use crate::env::{Disk, Env};
use crate::raft::Message;
use crate::store::{Options, SnapshotSink, SnapshotSource};
use crate::transport::{IncomingSnapshot, SnapshotPiece, TransportHandle};
use crate::types::MemberId;
use bytes::Bytes;
use protobuf::Message as _;
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, oneshot};

/// Chunks read ahead of the network, and received ahead of the disk.
const CHUNKS_AHEAD: usize = 4;

/// A piece of a snapshot and how much follows.
pub(crate) struct Chunk {
    pub bytes: Bytes,
    /// Bytes still to come.
    pub remaining_bytes: u64,
}

/// Reads a snapshot on storage threads, as fast as the receiver takes it.
pub(crate) fn read<E: Env>(
    env: &E,
    source: SnapshotSource,
) -> mpsc::Receiver<Result<Chunk, String>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let task_env = env.clone();
    env.spawn(async move {
        let mut source = source;
        loop {
            let (back, chunk) = task_env
                .blocking(move || {
                    let chunk = source.next_chunk();
                    (source, chunk)
                })
                .await;
            source = back;
            let message = match chunk {
                Ok(Some(bytes)) => Ok(Chunk { bytes, remaining_bytes: source.remaining_bytes() }),
                Ok(None) => return,
                Err(error) => Err(error.to_string()),
            };
            let failed = message.is_err();
            if sender.send(message).await.is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Streams prepared snapshots to followers, each in a task of its own.
pub(super) async fn send_all<E: Env>(
    env: E,
    mut outgoing: mpsc::Receiver<OutgoingSnapshot>,
    transport: TransportHandle,
    node: mpsc::Sender<Input>,
) {
    while let Some(snapshot) = outgoing.recv().await {
        let (task_env, transport, node) = (env.clone(), transport.clone(), node.clone());
        env.spawn(async move {
            let to = snapshot.to;
            let total = snapshot.source.total_bytes();
            tracing::info!("remote-peer-id" = %to, "total-bytes" = total, "sending database snapshot");
            let result = send_one(&task_env, snapshot, &transport).await;
            match &result {
                Ok(()) => {
                    task_env.mark("snapshot: sent");
                    tracing::info!("remote-peer-id" = %to, "sent database snapshot");
                }
                Err(error) => {
                    task_env.mark("snapshot: not sent");
                    tracing::warn!("remote-peer-id" = %to, %error, "failed to send database snapshot");
                }
            }
            let _ = node.send(Input::SnapshotSent { to, taken: result.is_ok() }).await;
        });
    }
}

async fn send_one<E: Env>(
    env: &E,
    snapshot: OutgoingSnapshot,
    transport: &TransportHandle,
) -> Result<(), String> {
    let mut chunks = read(env, snapshot.source);
    let (pieces, source) = mpsc::channel(CHUNKS_AHEAD);
    env.spawn(async move {
        while let Some(chunk) = chunks.recv().await {
            // A source that closes without its end has failed, which is what we want here.
            let Ok(chunk) = chunk else { return };
            if pieces.send(SnapshotPiece::Data(chunk.bytes)).await.is_err() {
                return;
            }
        }
        let _ = pieces.send(SnapshotPiece::End).await;
    });
    let sent = transport.send_snapshot(snapshot.to, snapshot.header, source).await;
    sent.map_err(|error| error.to_string())
}

/// Receives snapshots, one at a time: a second sender waits for the first to end.
pub(super) async fn receive_all<E: Env>(
    env: E,
    mut incoming: mpsc::Receiver<(MemberId, IncomingSnapshot)>,
    path: PathBuf,
    options: Options,
    node: mpsc::Sender<Input>,
) {
    while let Some((from, mut snapshot)) = incoming.recv().await {
        match receive_one(&env, from, &mut snapshot, &path, options, &node).await {
            Ok(installed) => {
                env.mark("snapshot: received");
                tracing::info!("remote-peer-id" = %from, installed, "received database snapshot");
                snapshot.accept();
            }
            Err(error) => {
                env.mark("snapshot: refused");
                tracing::warn!("remote-peer-id" = %from, %error, "failed to receive database snapshot");
                snapshot.fail(error);
            }
        }
    }
}

/// `Ok(false)`: it is complete, but Raft had caught up meanwhile.
async fn receive_one<E: Env>(
    env: &E,
    from: MemberId,
    snapshot: &mut IncomingSnapshot,
    path: &Path,
    options: Options,
    node: &mpsc::Sender<Input>,
) -> Result<bool, String> {
    let message = Message::parse_from_carllerche_bytes(snapshot.header())
        .map_err(|error| format!("its header cannot be read: {error}"))?;
    if message.from != from.0 {
        return Err("its header names another sender".to_owned());
    }
    let (disk, file) = (env.disk().clone(), path.to_owned());
    let created = env.blocking(move || {
        let file = disk.create(&file).map_err(|error| error.to_string())?;
        SnapshotSink::create(file, options).map_err(|error| error.to_string())
    });
    let mut sink = created.await?;
    while let Some(chunk) = snapshot.next().await.map_err(|error| error.to_string())? {
        let (back, written) = env
            .blocking(move || {
                let written = sink.push(&chunk);
                (sink, written)
            })
            .await;
        written.map_err(|error| error.to_string())?;
        sink = back;
    }
    env.blocking(move || sink.finish()).await.map_err(|error| error.to_string())?;
    let (done, installed) = oneshot::channel();
    let input = Input::SnapshotReceived { message: Box::new(message), done };
    node.send(input).await.map_err(|_| "the server stops".to_owned())?;
    installed.await.map_err(|_| "the server stops".to_owned())
}
