//! Commands on their way into the log, and back as committed entries to whoever waits for them.

use super::{Committed, NodeLoop, ORIGIN_BYTES, Proposal, ReadWaiter};
use crate::env::{Env, Observation};
use crate::raft::Entry;
use crate::server::apply_loop::ApplyInput;
use crate::types::{Error, Index, MemberId, Term, limits};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;

/// Who waits for a proposal here, if it is one of ours.
fn own_id(data: &Bytes, member: MemberId) -> Option<u64> {
    let origin = u64::from_le_bytes(data.get(..8)?.try_into().ok()?);
    let id = u64::from_le_bytes(data.get(8..ORIGIN_BYTES)?.try_into().ok()?);
    (origin == member.0).then_some(id)
}

impl<E: Env> NodeLoop<E> {
    pub(super) fn take_proposal(&mut self, proposal: Proposal) {
        let behind = self.node.committed().0.saturating_sub(self.applied.0);
        if behind > limits::APPLY_BACKLOG_ENTRIES_MAX
            || self.proposals.len() >= limits::NODE_QUEUE_MAX
        {
            self.env.mark("proposal: refused for the backlog");
            let _ = proposal.reply.send(Err(Error::TooManyRequests));
            return;
        }
        self.proposals.push_back(proposal);
    }

    /// Proposes what waits, as few messages as limits allow.
    pub(super) fn propose(&mut self) {
        while !self.proposals.is_empty() && self.to_write.bytes < limits::LOG_BATCH_BYTES_MAX {
            let mut bytes = 0;
            let count = (self.proposals.iter())
                .take_while(|proposal| {
                    bytes += proposal.data.len();
                    bytes <= limits::RAFT_MESSAGE_BYTES_MAX as usize
                })
                .count()
                .max(1);
            let batch = self.proposals.iter().take(count);
            if !self.node.propose(batch.map(|proposal| (Bytes::new(), proposal.data.clone()))) {
                self.env.mark("proposal: waits for a leader");
                return;
            }
            for proposal in self.proposals.drain(..count) {
                self.deadlines.push_back((proposal.deadline, proposal.id));
                self.waiters.insert(proposal.id, proposal.reply);
            }
            // Turn entries into work at once, so that `to_write.bytes` tells the truth.
            while let Some(effects) = self.node.effects() {
                self.carry_out(effects);
            }
        }
    }

    pub(super) fn commit(&mut self, entries: Vec<Entry>) {
        if let Some(last) = entries.last() {
            let (index, entry_term) = (Index(last.index), Term(last.term));
            let term = self.node.leadership().term;
            self.env.observe(Observation::Committed { index, entry_term, term });
        }
        let mut committed = Vec::with_capacity(entries.len());
        for entry in entries {
            let reply = own_id(&entry.data, self.id).and_then(|id| self.waiters.remove(&id));
            committed.push(Committed {
                index: Index(entry.index),
                term: Term(entry.term),
                data: entry.data,
                reply,
            });
        }
        self.status.set_committed(self.node.committed());
        self.hand_to_apply(ApplyInput::Entries(committed));
    }

    pub(super) fn hand_to_apply(&mut self, input: ApplyInput) {
        if !self.to_apply.is_empty() {
            self.to_apply.push_back(input);
            return;
        }
        match self.apply.try_send(input) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(input)) => {
                self.env.mark("apply: its queue was full");
                self.to_apply.push_back(input);
            }
            // The apply loop ended: so do we, with its reason.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    pub(super) fn expire(&mut self, now: Duration) {
        let error = self.timeout_error(now);
        while let Some(&(deadline, id)) = self.deadlines.front() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_front();
            if let Some(waiter) = self.waiters.remove(&id) {
                self.env.mark("proposal: outcome unknown in time");
                let _ = waiter.send(Err(error));
            }
        }
        while self.proposals.front().is_some_and(|proposal| proposal.deadline <= now) {
            let proposal = self.proposals.pop_front().expect("it was looked at");
            self.env.mark("proposal: never proposed in time");
            let _ = proposal.reply.send(Err(error));
        }
        let late = |waiter: &mut ReadWaiter| waiter.deadline <= now;
        let round = self.round.iter_mut().flat_map(|round| round.waiters.extract_if(.., late));
        let confirmed =
            self.confirmed_reads.iter_mut().flat_map(|(_, waiters)| waiters.extract_if(.., late));
        for waiter in self.new_reads.extract_if(.., late).chain(round).chain(confirmed) {
            self.env.mark("read: not confirmed in time");
            let _ = waiter.reply.send(Err(Error::Timeout));
        }
    }

    /// The words etcd has for a write that got no answer: was it the old leader's death, the
    /// way to the leader, or neither?
    pub(super) fn timeout_error(&self, now: Duration) -> Error {
        let started = now.saturating_sub(self.timeout);
        if self.leader_since > started {
            return Error::TimeoutLeaderFailed;
        }
        let leader = self.published.leader;
        if leader == MemberId(0) || leader == self.id {
            return Error::Timeout;
        }
        let peers = self.transport.peers();
        let connected = peers.iter().find(|peer| peer.id == leader).and_then(|p| p.connected_since);
        if connected.is_none_or(|since| since > started) {
            return Error::TimeoutConnectionLost;
        }
        Error::Timeout
    }
}
