//! The loop that owns the Raft node and the log on disk.
//!
//! Inputs queue up; each turn takes a batch of them, steps the node, and carries out what it
//! says: messages leave, committed entries go to the apply loop, entries and votes go to the log.
//!
//! ```text
//!   proposals, reads, messages, ticks ──▶ Node ──▶ messages ──▶ peers
//!                                          │ ├───▶ committed ─▶ apply loop ──▶ Applied ─┐
//!                                          │ └───▶ reads ────▶ wait for applied ◀───────┘
//!                                          └─────▶ Persist ──▶ one write + one fdatasync
//! ```
//!
//! - **Group commit**: one write is in flight at a time. What the node produces meanwhile is
//!   gathered and becomes the next write, so one fdatasync serves everybody who waited for it.
//! - The loop never waits for the disk: the write runs on a storage thread while the loop goes on
//!   with heartbeats, messages and reads.
//! - **Reads** ask in rounds: whoever comes while a round is under way joins the next one.
//! - A proposal without a leader waits until there is one, or its time is up.
//!
//! The loop alone knows who waits for which proposal. A waiter travels with its committed entry
//! to the apply loop, which answers it.

mod disk;
mod messages;
mod observed;
mod proposals;
mod reads;

use disk::{Finished, ToWrite};
use reads::{ReadWaiter, Round};

use super::apply_loop::{Answer, ApplyInput, Committed};
use super::status::Status;
use super::stopped;
use crate::env::{Clock, Env};
use crate::raft::{Effects, Leadership, Message, Node};
use crate::store::SnapshotSource;
use crate::transport::TransportHandle;
use crate::types::{Error, Index, MemberId, Result, Term, limits};
use crate::wal::Wal;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Bytes in front of the command in an entry: who waits for it.
pub(super) const ORIGIN_BYTES: usize = 16;

/// A command on its way into the log.
pub(super) struct Proposal {
    /// Unique at this member since it started.
    pub id: u64,
    /// Origin, id, encoded command: the entry's data.
    pub data: Bytes,
    pub reply: oneshot::Sender<Result<Answer>>,
    /// When it is no longer worth proposing.
    pub deadline: Duration,
}

/// A job on its way to its end.
type Running<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the loop is told.
pub(super) enum Input {
    Propose(Proposal),
    /// Answered once the store holds all that was committed when this was asked.
    Read(oneshot::Sender<Result<()>>),
    Message {
        from: MemberId,
        payload: Bytes,
    },
    Unreachable(MemberId),
    /// The store holds everything up to this index.
    Applied(Index),
    /// Everything up to this index is durable in the store.
    Flushed(Index),
    /// Hand leadership over.
    Transfer {
        target: MemberId,
        reply: oneshot::Sender<Result<()>>,
    },
    /// A snapshot for `to` can be streamed.
    SnapshotPrepared {
        to: MemberId,
        at: (Index, Term),
        source: Box<SnapshotSource>,
    },
    /// It was taken by `to`, or was not.
    SnapshotSent {
        to: MemberId,
        taken: bool,
    },
    /// A snapshot arrived whole and lies beside the store.
    SnapshotReceived {
        message: Box<Message>,
        /// Whether Raft wanted it and it is installed.
        done: oneshot::Sender<bool>,
    },
    /// The apply loop put a received snapshot in the store's place.
    SnapshotInstalled,
}

/// What [`NodeLoop::run`] starts from.
pub(super) struct Parts<E: Env> {
    pub env: E,
    pub id: MemberId,
    pub node: Node,
    pub wal: Wal<E::Disk>,
    pub applied: Index,
    pub inputs: mpsc::Receiver<Input>,
    pub apply: mpsc::Sender<ApplyInput>,
    pub transport: TransportHandle,
    pub status: Arc<Status>,
    pub leadership: watch::Sender<Leadership>,
    pub snapshots: mpsc::Sender<OutgoingSnapshot>,
    pub stopping: watch::Receiver<bool>,
    pub tick: Duration,
    pub election: Duration,
    pub catchup_entries: u64,
    /// The only voter: nobody to wait for.
    pub alone: bool,
    /// Begin close to the end of the first election timeout.
    pub hasten: bool,
}

/// A snapshot to be streamed to a follower.
pub(super) struct OutgoingSnapshot {
    pub to: MemberId,
    /// The encoded Raft message that announces it.
    pub header: Bytes,
    pub source: SnapshotSource,
}

/// Why a node stops: for the log and the exit message.
pub(super) type Fatal = String;

/// A hand-over of leadership under way.
struct Transfer {
    target: MemberId,
    reply: oneshot::Sender<Result<()>>,
    deadline: Duration,
}

/// See the module.
pub(super) struct NodeLoop<E: Env> {
    env: E,
    id: MemberId,
    node: Node,
    inputs: mpsc::Receiver<Input>,
    apply: mpsc::Sender<ApplyInput>,
    transport: TransportHandle,
    status: Arc<Status>,
    leadership: watch::Sender<Leadership>,
    snapshots: mpsc::Sender<OutgoingSnapshot>,
    stopping: watch::Receiver<bool>,
    tick: Duration,
    timeout: Duration,
    catchup_entries: u64,

    /// Leadership as last published, and when a leader last came up.
    published: Leadership,
    leader_since: Duration,
    reads_possible: bool,

    /// The log; away while a job runs.
    wal: Option<Wal<E::Disk>>,
    job: Option<Running<Finished<E::Disk>>>,
    to_write: ToWrite,
    release: Option<Index>,
    prepare: bool,
    /// When to repeat a write that found the disk full.
    retry_at: Option<Duration>,

    proposals: VecDeque<Proposal>,
    /// Messages with other members' proposals that cannot be taken while leadership moves.
    forwarded: VecDeque<Message>,
    /// Our log has forgotten what it had acknowledged.
    lost_entries: Option<Fatal>,
    waiters: HashMap<u64, oneshot::Sender<Result<Answer>>>,
    /// `(deadline, id)`, oldest first: all wait equally long.
    deadlines: VecDeque<(Duration, u64)>,

    new_reads: Vec<ReadWaiter>,
    round: Option<Round>,
    next_context: u64,
    /// Confirmed reads that wait for the store to get there.
    confirmed_reads: VecDeque<(Index, Vec<ReadWaiter>)>,

    applied: Index,
    /// What the apply loop had no room for yet.
    to_apply: VecDeque<ApplyInput>,

    transfer: Option<Transfer>,
    prepared_snapshots: BTreeMap<MemberId, (Index, SnapshotSource)>,
    /// Snapshots being made or sent, with the index their followers continue after: the log
    /// keeps what stands behind.
    snapshots_out: BTreeMap<MemberId, Index>,
    installing: Option<oneshot::Sender<bool>>,
}

impl<E: Env> NodeLoop<E> {
    pub(super) fn new(parts: Parts<E>) -> NodeLoop<E> {
        let mut node = parts.node;
        if parts.alone {
            node.campaign();
        } else if parts.hasten {
            node.hasten_election();
        }
        NodeLoop {
            id: parts.id,
            node,
            inputs: parts.inputs,
            apply: parts.apply,
            transport: parts.transport,
            status: parts.status,
            leadership: parts.leadership,
            snapshots: parts.snapshots,
            stopping: parts.stopping,
            tick: parts.tick,
            timeout: limits::request_timeout(parts.election),
            catchup_entries: parts.catchup_entries,
            published: Leadership::default(),
            leader_since: Duration::ZERO,
            reads_possible: false,
            wal: Some(parts.wal),
            job: None,
            to_write: ToWrite::default(),
            release: None,
            prepare: false,
            retry_at: None,
            proposals: VecDeque::new(),
            forwarded: VecDeque::new(),
            lost_entries: None,
            waiters: HashMap::new(),
            deadlines: VecDeque::new(),
            new_reads: Vec::new(),
            round: None,
            next_context: parts.env.random(),
            confirmed_reads: VecDeque::new(),
            applied: parts.applied,
            to_apply: VecDeque::new(),
            transfer: None,
            prepared_snapshots: BTreeMap::new(),
            snapshots_out: BTreeMap::new(),
            installing: None,
            env: parts.env,
        }
    }

    /// Runs until told to stop (`Ok`) or until this node must not go on.
    pub(super) async fn run(mut self) -> std::result::Result<(), Fatal> {
        let apply = self.apply.clone();
        let mut tick = Box::pin(self.env.clock().sleep(self.tick));
        loop {
            self.turn();
            tokio::select! {
                biased;
                // Stopping outranks work that will not be finished.
                () = stopped(&mut self.stopping) => break,
                // Others wait for what was just written.
                finished = poll_job(&mut self.job) => self.finish_job(finished)?,
                // Before the queue, so that load cannot hold up heartbeats and timeouts.
                () = &mut tick => {
                    tick = Box::pin(self.env.clock().sleep(self.tick));
                    self.tick();
                }
                permit = apply.reserve(), if !self.to_apply.is_empty() => {
                    let Ok(permit) = permit else { break };
                    permit.send(self.to_apply.pop_front().expect("the branch is guarded"));
                }
                input = self.inputs.recv() => {
                    let Some(input) = input else { break };
                    self.input(input);
                    for _ in 1..limits::NODE_BATCH_MAX {
                        let Ok(input) = self.inputs.try_recv() else { break };
                        self.input(input);
                    }
                    if let Some(reason) = self.lost_entries.take() {
                        return Err(reason);
                    }
                }
            }
        }
        // Let a write under way end: the file must not be written to after we said "closed".
        if let Some(job) = self.job.take() {
            let _ = job.await;
        }
        for (_, waiter) in self.waiters.drain() {
            let _ = waiter.send(Err(Error::Stopped));
        }
        Ok(())
    }

    fn now(&self) -> Duration {
        self.env.clock().now()
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Propose(proposal) => self.take_proposal(proposal),
            Input::Read(reply) => {
                let deadline = self.now() + self.timeout;
                self.new_reads.push(ReadWaiter { reply, deadline });
            }
            Input::Message { from, payload } => self.take_message(from, &payload),
            Input::Unreachable(peer) => self.node.unreachable(peer),
            Input::Applied(index) => {
                self.applied = index;
                self.node.applied(index);
                self.release_reads();
                self.compact_log();
            }
            Input::Flushed(index) => self.release = Some(index),
            Input::Transfer { target, reply } => self.start_transfer(target, reply),
            Input::SnapshotPrepared { to, at, source } => {
                self.snapshots_out.insert(to, at.0);
                self.prepared_snapshots.insert(to, (at.0, *source));
                self.node.log().offer_snapshot(to.0, at);
            }
            Input::SnapshotSent { to, taken } => {
                self.snapshots_out.remove(&to);
                self.node.snapshot_sent(to, taken);
            }
            Input::SnapshotReceived { message, done } => {
                self.installing = Some(done);
                self.node.step(*message);
            }
            Input::SnapshotInstalled => {
                if let Some(done) = self.installing.take() {
                    let _ = done.send(true);
                }
                self.applied = self.node.log().before().0;
                self.status.set_applied(self.applied);
                self.release_reads();
            }
        }
    }

    /// Everything that follows from the inputs taken.
    fn turn(&mut self) {
        self.release_forwarded();
        self.propose();
        self.start_round();
        while let Some(effects) = self.node.effects() {
            self.carry_out(effects);
        }
        if let Some(done) = self.installing.take_if(|_| self.to_write.reset.is_none()) {
            self.env.mark("snapshot: received in vain");
            // Raft had no use for the snapshot that was offered.
            let _ = done.send(false);
        }
        self.observe_turn();
        self.publish();
        self.prepare_snapshot();
        self.start_job();
    }

    fn carry_out(&mut self, effects: Effects) {
        self.observe_log(&effects.persist);
        self.send(effects.messages);
        for read in effects.reads {
            self.confirm_read(&read);
        }
        if !effects.committed.is_empty() {
            self.commit(effects.committed);
        }
        if let Some(at) = effects.persist.snapshot {
            tracing::info!(index = at.0.0, term = at.1.0, "applying snapshot from leader");
            self.hand_to_apply(ApplyInput::Install);
        }
        self.to_write.add(effects.persist);
    }

    // ---- time and leadership ----

    fn tick(&mut self) {
        let now = self.now();
        self.node.tick();
        self.status.set_ticked(now);
        self.expire(now);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.env.mark("wal: written again after a full disk");
        }
        if self.round.as_ref().is_some_and(|r| now >= r.asked + limits::READ_INDEX_RETRY) {
            self.env.mark("read: asked again after silence");
            self.ask_round();
        }
        if let Some(transfer) = self.transfer.take_if(|transfer| transfer.deadline <= now) {
            self.env.mark("transfer: timed out");
            let _ = transfer.reply.send(Err(Error::TimeoutLeaderTransfer));
        }
    }

    fn start_transfer(&mut self, target: MemberId, reply: oneshot::Sender<Result<()>>) {
        if !self.published.leading {
            self.env.mark("transfer: asked of a follower");
            let _ = reply.send(Err(Error::NotLeader));
        } else if target == self.id {
            let _ = reply.send(Ok(()));
        } else if !self.node.conf_state().voters.contains(&target.0) {
            let _ = reply.send(Err(Error::BadLeaderTransferee));
        } else {
            tracing::info!("current-leader-member-id" = %self.id, "transferee-member-id" = %target, "leadership transfer starting");
            self.node.transfer_leader(target);
            let deadline = self.now() + self.timeout;
            self.transfer = Some(Transfer { target, reply, deadline });
        }
    }

    /// Tells the rest of the server who leads, when that changed.
    fn publish(&mut self) {
        let leadership = self.node.leadership();
        let reads_possible = self.node.committed_in_term();
        if reads_possible && !self.reads_possible && leadership.leading {
            // Reads asked before were dropped: a leader without an entry of its term cannot
            // know what is committed.
            if self.round.is_some() {
                self.env.mark("read: asked again by a new leader");
            }
            self.ask_round();
        }
        self.reads_possible = reads_possible;
        if leadership == self.published {
            return;
        }
        let previous = std::mem::replace(&mut self.published, leadership);
        self.mark_leadership(previous, leadership);
        self.status.set_leadership(leadership);
        if leadership.leader != previous.leader {
            self.log_leader(previous, leadership);
            if leadership.leader != MemberId(0) {
                self.leader_since = self.now();
                self.status.count_leader_change();
                self.ask_round();
            }
            if let Some(transfer) = self.transfer.take_if(|t| t.target == leadership.leader) {
                tracing::info!("transferee-member-id" = %transfer.target, "leadership transfer finished");
                self.env.mark("transfer: done");
                let _ = transfer.reply.send(Ok(()));
            }
        }
        self.leadership.send_replace(leadership);
    }

    fn log_leader(&self, previous: Leadership, now: Leadership) {
        let (id, term) = (self.id, now.term);
        match (previous.leader, now.leader) {
            (MemberId(0), new) => {
                tracing::info!(
                    logger = "raft",
                    "raft.node: {id} elected leader {new} at term {term}"
                );
            }
            (old, MemberId(0)) => {
                tracing::info!(logger = "raft", "raft.node: {id} lost leader {old} at term {term}");
            }
            (old, new) => {
                tracing::info!(
                    logger = "raft",
                    "raft.node: {id} changed leader from {old} to {new} at term {term}"
                );
            }
        }
    }
}

/// The end of a job under way; never, while there is none.
pub(super) async fn poll_job<T>(job: &mut Option<Running<T>>) -> T {
    match job {
        Some(future) => {
            let result = future.await;
            *job = None;
            result
        }
        None => std::future::pending().await,
    }
}
