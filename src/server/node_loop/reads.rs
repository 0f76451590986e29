//! Linearizable reads: rounds that ask Raft what is committed, then wait until that is applied.
//!
//! One round is under way at a time; who comes meanwhile joins the next. A round is asked again
//! when there is no answer in time, when another leader comes up, and when a new leader has
//! committed its first entry: an answer to any of its questions will do, since all who wait in it
//! were there before the first.

use super::NodeLoop;
use crate::env::Env;
use crate::raft::Read;
use crate::types::Result;
use std::time::Duration;
use tokio::sync::oneshot;

pub(super) struct ReadWaiter {
    pub(super) reply: oneshot::Sender<Result<()>>,
    pub(super) deadline: Duration,
}

/// A read round under way.
pub(super) struct Round {
    /// The contexts it was asked with; a repeat gets a new one, any answer counts.
    pub(super) contexts: Vec<u64>,
    pub(super) asked: Duration,
    pub(super) waiters: Vec<ReadWaiter>,
}

impl<E: Env> NodeLoop<E> {
    pub(super) fn start_round(&mut self) {
        if self.round.is_some() || self.new_reads.is_empty() {
            return;
        }
        let waiters = std::mem::take(&mut self.new_reads);
        self.round = Some(Round { contexts: Vec::new(), asked: Duration::ZERO, waiters });
        self.ask_round();
    }

    pub(super) fn ask_round(&mut self) {
        let now = self.now();
        let Some(round) = &mut self.round else { return };
        self.next_context = self.next_context.wrapping_add(1);
        round.contexts.push(self.next_context);
        round.asked = now;
        // The member's id makes it unique in the cluster.
        let mut context = self.next_context.to_le_bytes().to_vec();
        context.extend(self.id.0.to_le_bytes());
        self.node.read(context);
    }

    pub(super) fn confirm_read(&mut self, read: &Read) {
        let Some(context) = read.context.get(..8).and_then(|bytes| bytes.try_into().ok()) else {
            return;
        };
        let context = u64::from_le_bytes(context);
        if let Some(round) = self.round.take_if(|round| round.contexts.contains(&context)) {
            if round.contexts.last() != Some(&context) {
                self.env.mark("read: confirmed by an earlier question");
            }
            if read.index > self.applied {
                self.env.mark("read: waits until it is applied");
            }
            self.confirmed_reads.push_back((read.index, round.waiters));
            self.release_reads();
            self.start_round();
        }
    }

    pub(super) fn release_reads(&mut self) {
        while self.confirmed_reads.front().is_some_and(|(index, _)| *index <= self.applied) {
            let (_, waiters) = self.confirmed_reads.pop_front().expect("it was looked at");
            for waiter in waiters {
                let _ = waiter.reply.send(Ok(()));
            }
        }
    }
}
