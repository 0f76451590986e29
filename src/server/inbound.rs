//! Sorts what other members send: Raft messages to the node loop, snapshots to whoever receives
//! them, questions to the front.

use super::handle::Handle;
use super::{node_loop, peer_calls};
use crate::env::Env;
use crate::transport::{Inbound, IncomingSnapshot};
use crate::types::MemberId;
use tokio::sync::mpsc;

/// Sorts what peers send.
pub(super) async fn sort<E: Env>(
    env: E,
    mut inbound: mpsc::Receiver<Inbound>,
    node: mpsc::Sender<node_loop::Input>,
    snapshots: mpsc::Sender<(MemberId, IncomingSnapshot)>,
    handle: Handle,
) {
    while let Some(input) = inbound.recv().await {
        let input = match input {
            Inbound::Message { from, payload } => node_loop::Input::Message { from, payload },
            Inbound::Unreachable { peer } => node_loop::Input::Unreachable(peer),
            Inbound::Reachable { .. } => continue,
            Inbound::Refused { peer, refusal } => {
                tracing::warn!("remote-peer-id" = %peer, %refusal, "a peer refuses to talk to this member");
                continue;
            }
            Inbound::Request { payload, reply, .. } => {
                let handle = handle.clone();
                env.spawn(async move {
                    let _ = reply.send(peer_calls::answer(&handle, payload).await);
                });
                continue;
            }
            Inbound::Snapshot { from, incoming } => {
                if let Err(refused) = snapshots.try_send((from, incoming)) {
                    env.mark("snapshot: another one is being received");
                    let (_, incoming) = refused.into_inner();
                    incoming.fail("another snapshot is being received");
                }
                continue;
            }
        };
        if node.send(input).await.is_err() {
            return;
        }
    }
}
