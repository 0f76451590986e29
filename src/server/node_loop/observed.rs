//! What the node loop tells of consensus when it is watched; nothing in production.

use super::NodeLoop;
use super::disk::ToWrite;
use crate::env::{Env, Hard, Observation, Promise, Role};
use crate::raft::{Leadership, Message, MessageType, Persist, StateRole};
use crate::types::{Index, MemberId, Term, limits};

impl<E: Env> NodeLoop<E> {
    /// The log in memory has changed.
    pub(super) fn observe_log(&self, persist: &Persist) {
        if !E::OBSERVED {
            return;
        }
        if let Some((index, term)) = persist.snapshot {
            self.env.observe(Observation::Reset { index, term });
        }
        for entry in &persist.entries {
            let (index, term) = (Index(entry.index), Term(entry.term));
            self.env.observe(Observation::Appended { index, term, data: &entry.data });
        }
    }

    /// A write to the disk begins.
    pub(super) fn observe_write(&self, write: &ToWrite) {
        if !E::OBSERVED {
            return;
        }
        let entries = &write.batch.entries;
        let entries =
            entries.first().zip(entries.last()).map(|(one, other)| (one.index, other.index));
        let hard = write.batch.hard_state.map(|hard| Hard {
            term: hard.term,
            vote: hard.vote,
            commit: hard.commit,
        });
        self.env.observe(Observation::Writing { reset: write.reset, entries, hard });
    }

    /// A message leaves.
    pub(super) fn observe_sent(&self, message: &Message) {
        if !E::OBSERVED {
            return;
        }
        let promise = match message.get_msg_type() {
            MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse => {
                Promise::Nothing
            }
            MessageType::MsgRequestVoteResponse if !message.reject => Promise::Vote,
            MessageType::MsgAppendResponse if !message.reject => Promise::Log(Index(message.index)),
            _ => Promise::Term,
        };
        let (to, term) = (MemberId(message.to), Term(message.term));
        self.env.observe(Observation::Sent { to, term, promise });
    }

    /// Elections and their ends, as far as they are seldom.
    pub(super) fn mark_leadership(&self, before: Leadership, now: Leadership) {
        let nobody = MemberId(0);
        if before.leading && !now.leading {
            self.env.mark("election: a leader stepped down");
        }
        if now.leading && before.leader != nobody {
            self.env.mark("election: won against a leader");
        }
        if before.leader == nobody && now.leader == nobody && before.term < now.term {
            self.env.mark("election: ended without a leader");
        }
        if before.leader != nobody && now.leader == nobody {
            self.env.mark("election: the leader was lost");
        }
        if before.leading && now.leader != nobody && !now.leading {
            self.env.mark("election: a leader met another");
        }
    }

    /// Role and term, and how full what is bounded is.
    pub(super) fn observe_turn(&mut self) {
        if !E::OBSERVED {
            return;
        }
        let leadership = self.node.leadership();
        let (term, leader) = (leadership.term, leadership.leader);
        let role = match self.node.role() {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        };
        self.env.observe(Observation::Role { role, term, leader });
        let log_bytes_max = 8 * limits::LOG_MEMORY_BYTES_MAX + 2 * limits::LOG_BATCH_BYTES_MAX;
        for (what, amount, limit) in [
            ("proposals", self.proposals.len(), limits::NODE_QUEUE_MAX),
            ("forwarded proposals", self.forwarded.len(), limits::FORWARDED_HELD_MAX),
            ("bytes to log", self.to_write.bytes, 2 * limits::LOG_BATCH_BYTES_MAX),
            ("bytes of the log in memory", self.node.log().bytes(), log_bytes_max),
            ("batches to apply", self.to_apply.len(), limits::APPLY_BACKLOG_ENTRIES_MAX as usize),
        ] {
            self.env.observe(Observation::Load { what, amount, limit });
        }
    }
}
