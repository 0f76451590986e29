//! Consensus as we use it: raft-rs behind a small, pure face.
//!
//! [`Node`] wraps raft-rs's `RawNode`: inputs go in (a tick, a message, proposals, a read), then
//! [`Node::effects`] tells what to do: messages to send, what to persist, what is committed,
//! which reads are confirmed. It does no I/O and knows no clock; the node loop in `server/`
//! carries the effects out. [`Log`] is the part of the log that is kept in memory.
//!
//! Invariants:
//! - Nothing that depends on durability (a vote, a follower's ack) is sent before what it
//!   depends on is persisted: such messages travel inside [`Persist`].
//! - Entries are handed out as committed only once they are persisted here too (raft-rs holds
//!   them back), so the store never runs ahead of the local log.
//! - Election timeouts are drawn from a seed the environment gives, never from the thread's own
//!   random numbers: ours is set over raft-rs's after every call.

#[cfg(test)]
mod batch_append_test;
mod log;
mod logger;
mod node;

pub use log::Log;
pub use node::{Effects, Leadership, Node, Options, Persist, Read};
pub use raft::StateRole;
pub use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};
