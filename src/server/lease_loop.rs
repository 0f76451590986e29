//! The loop that owns the leases' clock: renewals, remaining times, expiry.
//!
//! It acts only while this member leads, and only once the leader's first entry of the term is
//! applied: from then on it knows all leases the old leader granted. What it decides goes
//! through the log: revocations in batches, one batch at a time, fenced by the term; checkpoints
//! likewise.

use super::handle::Handle;
use super::stopped;
use crate::apply::LeaseChange;
use crate::env::{Clock, Env};
use crate::lease::{Deadlines, Renewal};
use crate::proto::etcdserverpb::{LeaseCheckpoint, LeaseCheckpointRequest};
use crate::proto::log::{LeaseRevoke, command::Request};
use crate::raft::Leadership;
use crate::types::{Error, LeaseId, Result, Term, limits};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// What the loop is told.
pub(super) enum LeaseInput {
    Batch(Vec<LeaseInput>),
    Changed(LeaseChange),
    /// The first entry of this term is applied.
    Term(Term),
    /// The store was replaced: these leases exist, as `(id, TTL, checkpointed TTL)`.
    Restored(Vec<(LeaseId, i64, i64)>),
    /// Renew; answered with the TTL, 0 if there is no such lease.
    KeepAlive(LeaseId, oneshot::Sender<Result<i64>>),
    /// Seconds left and seconds granted.
    TimeToLive(LeaseId, oneshot::Sender<Result<Option<(i64, i64)>>>),
    /// All ids.
    List(oneshot::Sender<Vec<LeaseId>>),
    /// A checkpoint of this lease is cleared: answer its renewal.
    Cleared(LeaseId, i64, oneshot::Sender<Result<i64>>),
    /// The batch of revocations and checkpoints under way is done.
    Proposed,
}

/// See the module.
pub(super) struct LeaseLoop<E: Env> {
    env: E,
    handle: Handle,
    inputs: mpsc::Receiver<LeaseInput>,
    own: mpsc::Sender<LeaseInput>,
    leadership: watch::Receiver<Leadership>,
    stopping: watch::Receiver<bool>,
    election: Duration,
    deadlines: Deadlines,
    /// Newest term whose first entry is applied.
    applied_term: Term,
    /// The term we lead and act in.
    acting: Option<Term>,
    /// A batch is on its way through the log.
    proposing: bool,
    /// Renewals of leases that have ended, answered once they are gone.
    expiring: BTreeMap<LeaseId, Vec<oneshot::Sender<Result<i64>>>>,
}

impl<E: Env> LeaseLoop<E> {
    #[expect(clippy::too_many_arguments, reason = "called once, by the composition root")]
    pub(super) fn new(
        env: E,
        handle: Handle,
        inputs: mpsc::Receiver<LeaseInput>,
        own: mpsc::Sender<LeaseInput>,
        leadership: watch::Receiver<Leadership>,
        stopping: watch::Receiver<bool>,
        election: Duration,
        deadlines: Deadlines,
    ) -> LeaseLoop<E> {
        LeaseLoop {
            env,
            handle,
            inputs,
            own,
            leadership,
            stopping,
            election,
            deadlines,
            applied_term: Term(0),
            acting: None,
            proposing: false,
            expiring: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            self.follow_leadership();
            self.propose_due();
            let wake = self.deadlines.next_wake().filter(|_| !self.proposing);
            let sleep = self.sleep_until(wake);
            tokio::select! {
                biased;
                () = stopped(&mut self.stopping) => return,
                // A deposed leader must stop before it looks at its clock again.
                changed = self.leadership.changed() => if changed.is_err() { return },
                input = self.inputs.recv() => {
                    let Some(input) = input else { return };
                    self.input(input);
                    while let Ok(input) = self.inputs.try_recv() {
                        self.input(input);
                    }
                }
                () = sleep => {}
            }
        }
    }

    fn now(&self) -> Duration {
        self.env.clock().now()
    }

    fn sleep_until(&self, wake: Option<Duration>) -> impl Future<Output = ()> + Send + 'static {
        let sleep = wake.map(|wake| self.env.clock().sleep(wake.saturating_sub(self.now())));
        async move {
            match sleep {
                Some(sleep) => sleep.await,
                None => std::future::pending().await,
            }
        }
    }

    fn follow_leadership(&mut self) {
        let leadership = *self.leadership.borrow_and_update();
        let lead =
            (leadership.leading && leadership.term == self.applied_term).then_some(leadership.term);
        if lead == self.acting {
            return;
        }
        self.acting = lead;
        self.deadlines.demote();
        if lead.is_some() {
            let now = self.now();
            if !self.deadlines.is_empty() {
                self.env.mark("lease: a new leader extends leases");
            }
            self.deadlines.promote(now, self.election);
        } else {
            for waiter in std::mem::take(&mut self.expiring).into_values().flatten() {
                self.env.mark("lease: deposed while a renewal waited");
                let _ = waiter.send(Err(Error::NotLeader));
            }
        }
    }

    fn input(&mut self, input: LeaseInput) {
        let now = self.now();
        match input {
            LeaseInput::Batch(inputs) => inputs.into_iter().for_each(|input| self.input(input)),
            LeaseInput::Changed(change) => self.changed(change, now),
            LeaseInput::Term(term) => self.applied_term = self.applied_term.max(term),
            LeaseInput::Restored(leases) => {
                self.acting = None;
                self.deadlines = Deadlines::default();
                for (id, ttl, checkpointed) in leases {
                    self.deadlines.granted(id, ttl, checkpointed, now);
                }
            }
            LeaseInput::KeepAlive(id, reply) => self.keep_alive(id, reply, now),
            LeaseInput::TimeToLive(id, reply) => {
                let answer = match self.acting {
                    Some(_) => Ok(self.deadlines.time_to_live(id, now)),
                    None => Err(Error::NotLeader),
                };
                let _ = reply.send(answer);
            }
            LeaseInput::List(reply) => {
                let _ = reply.send(self.deadlines.ids());
            }
            LeaseInput::Cleared(id, ttl, reply) => {
                let gone = !self.deadlines.contains(id);
                let _ = reply.send(Ok(if gone { 0 } else { ttl }));
            }
            LeaseInput::Proposed => self.proposing = false,
        }
    }

    fn changed(&mut self, change: LeaseChange, now: Duration) {
        match change {
            LeaseChange::Granted { id, ttl } => self.deadlines.granted(id, ttl, 0, now),
            LeaseChange::Revoked(id) => {
                self.deadlines.revoked(id);
                for waiter in self.expiring.remove(&id).into_iter().flatten() {
                    let _ = waiter.send(Ok(0));
                }
            }
            LeaseChange::Checkpointed { id, remaining_ttl } => {
                self.deadlines.checkpointed(id, remaining_ttl);
            }
        }
    }

    fn keep_alive(&mut self, id: LeaseId, reply: oneshot::Sender<Result<i64>>, now: Duration) {
        if self.acting.is_none() {
            self.env.mark("lease: renewal refused by a non-leader");
            let _ = reply.send(Err(Error::NotLeader));
            return;
        }
        match self.deadlines.renew(id, now) {
            Renewal::Renewed(ttl) => {
                let _ = reply.send(Ok(ttl));
            }
            Renewal::RenewedAfterCheckpoint(ttl) => {
                self.env.mark("lease: renewed after a checkpoint");
                self.clear_checkpoint(id, ttl, reply);
            }
            Renewal::Expiring => {
                self.env.mark("lease: renewed too late");
                self.expiring.entry(id).or_default().push(reply);
            }
            Renewal::Unknown => {
                self.env.mark("lease: renewal of an unknown one");
                let _ = reply.send(Ok(0));
            }
        }
    }

    fn clear_checkpoint(&self, id: LeaseId, ttl: i64, reply: oneshot::Sender<Result<i64>>) {
        let (handle, own) = (self.handle.clone(), self.own.clone());
        self.env.spawn(async move {
            match handle.propose(checkpoint(vec![(id, 0)])).await {
                Ok(_) => {
                    let _ = own.send(LeaseInput::Cleared(id, ttl, reply)).await;
                }
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
            }
        });
    }

    /// Proposes what is due now: one batch at a time, so that a mass expiry neither floods the
    /// log nor holds up clients' requests.
    fn propose_due(&mut self) {
        let Some(term) = self.acting.filter(|_| !self.proposing) else { return };
        let (expired, checkpoints) = self.deadlines.due(
            self.now(),
            limits::LEASE_REVOKE_BATCH_MAX,
            limits::LEASE_CHECKPOINT_BATCH_MAX,
        );
        if expired.is_empty() && checkpoints.is_empty() {
            return;
        }
        self.proposing = true;
        let (handle, own) = (self.handle.clone(), self.own.clone());
        let env = self.env.clone();
        self.env.spawn(async move {
            if !expired.is_empty() {
                let ids = expired.iter().map(|id| id.0).collect();
                let revoke = LeaseRevoke { ids, expired_in_term: term.0 };
                if let Err(error) = handle.propose(Request::LeaseRevoke(revoke)).await
                    && error != Error::LeaseNotFound
                {
                    env.mark("lease: revoke not agreed on");
                    tracing::warn!(leases = expired.len(), %error, "failed to revoke expired leases; will retry");
                }
            }
            if !checkpoints.is_empty()
                && let Err(error) = handle.propose(checkpoint(checkpoints)).await
            {
                tracing::warn!(%error, "failed to checkpoint leases");
            }
            let _ = own.send(LeaseInput::Proposed).await;
        });
    }
}

fn checkpoint(leases: Vec<(LeaseId, i64)>) -> Request {
    let checkpoints = leases
        .into_iter()
        .map(|(id, remaining_ttl)| LeaseCheckpoint { id: id.0, remaining_ttl })
        .collect();
    Request::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints })
}
