//! What members say to each other: Raft messages, and snapshots for followers that are too far
//! behind for entries.

use super::{NodeLoop, OutgoingSnapshot};
use crate::env::Env;
use crate::raft::{Message, MessageType};
use crate::server::apply_loop::ApplyInput;
use crate::types::{Index, MemberId, limits};
use bytes::Bytes;
use protobuf::Message as _;

/// Whether a follower passes it on to whom it takes for the leader, in its first sender's name:
/// it only asks for something, and says nothing about the sender.
fn may_be_relayed(message: &Message) -> bool {
    matches!(message.get_msg_type(), MessageType::MsgPropose | MessageType::MsgReadIndex)
}

impl<E: Env> NodeLoop<E> {
    pub(super) fn take_message(&mut self, from: MemberId, payload: &Bytes) {
        let message = match Message::parse_from_carllerche_bytes(payload) {
            Ok(message) if message.to == self.id.0 && message.from == from.0 => message,
            Ok(message) if message.to == self.id.0 && may_be_relayed(&message) => {
                self.env.mark("raft: a message relayed by a follower");
                message
            }
            Ok(message) => {
                tracing::warn!(
                    "remote-peer-id" = %from, "claimed-from" = message.from, "claimed-to" = message.to,
                    "dropped a Raft message whose sender or receiver is not who it says"
                );
                self.env.mark("raft: a message meant for another");
                return;
            }
            Err(error) => {
                tracing::warn!("remote-peer-id" = %from, %error, "dropped a Raft message that cannot be read");
                return;
            }
        };
        if message.get_msg_type() == MessageType::MsgPropose {
            return self.take_forwarded(message);
        }
        let appends = message.get_msg_type() == MessageType::MsgAppend;
        let backlog = self.to_apply.len() > limits::APPLY_QUEUE_MAX;
        if appends && (backlog || self.to_write.bytes > limits::LOG_BATCH_BYTES_MAX) {
            // As if the network had lost it: the leader sends it again when we have caught up.
            self.env.mark("raft: an append dropped for want of room");
            return;
        }
        if self.node.has_lost(&message) {
            // A damaged end of the log looks like a write that a crash interrupted, and was cut.
            self.lost_entries = Some(format!(
                "the log is damaged: entry {} was acknowledged to the leader {from}, but the log \
                 ends before it; remove this member and add it again, with an empty data \
                 directory, so that it is rebuilt from its peers",
                message.commit
            ));
            return;
        }
        self.node.step(message);
    }

    pub(super) fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            self.observe_sent(&message);
            let to = MemberId(message.to);
            let payload = match message.write_to_bytes() {
                Ok(bytes) => Bytes::from(bytes),
                Err(error) => unreachable!("a message in memory can be encoded: {error}"),
            };
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.send_snapshot(to, payload);
            } else if !self.transport.send(to, payload) {
                self.env.mark("raft: a message to a peer dropped");
                self.node.unreachable(to);
            }
        }
    }

    /// Proposals of a member that took us for the leader. While leadership moves they are held:
    /// were they dropped, their clients would wait until they give up.
    fn take_forwarded(&mut self, message: Message) {
        let Some(message) = self.node.step_proposals(message) else { return };
        if self.forwarded.len() < limits::FORWARDED_HELD_MAX {
            self.env.mark("proposal: a forwarded one held");
            self.forwarded.push_back(message);
        } else {
            self.env.mark("proposal: a forwarded one dropped");
        }
    }

    /// Passes on what was held, if there is a leader to take it.
    pub(super) fn release_forwarded(&mut self) {
        while let Some(message) = self.forwarded.pop_front() {
            if let Some(message) = self.node.step_proposals(message) {
                self.forwarded.push_front(message);
                return;
            }
        }
    }

    // ---- snapshots for followers ----

    pub(super) fn prepare_snapshot(&mut self) {
        let Some(to) = self.node.log().take_snapshot_wanted().map(MemberId) else { return };
        if self.snapshots_out.contains_key(&to) {
            return;
        }
        self.env.mark("snapshot: wanted by a follower");
        self.snapshots_out.insert(to, self.applied);
        self.hand_to_apply(ApplyInput::PrepareSnapshot { to });
    }

    pub(super) fn send_snapshot(&mut self, to: MemberId, header: Bytes) {
        let Some((_, source)) = self.prepared_snapshots.remove(&to) else {
            self.env.mark("snapshot: announced but not there");
            self.node.snapshot_sent(to, false);
            return;
        };
        let outgoing = OutgoingSnapshot { to, header, source };
        if self.snapshots.try_send(outgoing).is_err() {
            self.env.mark("snapshot: too many to send");
            self.snapshots_out.remove(&to);
            self.node.snapshot_sent(to, false);
        }
    }

    /// Forgets entries no follower should need, but for those a snapshot on its way relies on.
    pub(super) fn compact_log(&mut self) {
        let keep = self.snapshots_out.values().min().copied().unwrap_or(self.applied);
        let by_count = Index(self.applied.0.saturating_sub(self.catchup_entries));
        if keep < by_count {
            self.env.mark("log: kept for a snapshot on its way");
        }
        let before = self.node.log().before();
        self.node.log().compact(by_count.min(keep));
        if self.node.log().before() != before {
            self.env.mark("log: compacted in memory");
        }
        let relied_on = !self.snapshots_out.is_empty();
        let bytes_max = limits::LOG_MEMORY_BYTES_MAX * if relied_on { 8 } else { 1 };
        while self.node.log().bytes() > bytes_max {
            let (before, _) = self.node.log().before();
            if before >= self.applied {
                break;
            }
            self.env.mark("log: compacted for its size");
            self.node.log().compact(Index(before.0 + 1));
        }
    }
}
