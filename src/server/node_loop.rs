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

use super::apply_loop::{Answer, ApplyInput, Committed};
use super::status::Status;
use super::stopped;
use crate::env::{Clock, Env};
use crate::raft::{Effects, Entry, Leadership, Message, MessageType, Node, Persist, Read};
use crate::store::SnapshotSource;
use crate::transport::TransportHandle;
use crate::types::{Error, Index, MemberId, Result, Term, limits};
use crate::wal::{self, Wal, WalError};
use bytes::Bytes;
use protobuf::Message as _;
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
        source: SnapshotSource,
    },
    /// It was taken by `to`, or was not.
    SnapshotSent {
        to: MemberId,
        taken: bool,
    },
    /// A snapshot arrived whole and lies beside the store.
    SnapshotReceived {
        message: Message,
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

/// The log comes back from the storage thread with what became of the job.
type Finished<D> = (Wal<D>, std::result::Result<(), WalError>, Job);

/// Work of the storage thread.
enum Job {
    Write(ToWrite),
    /// Drop segments that hold nothing younger than this.
    Release(Index),
    /// Have the next segment ready before it is needed.
    Prepare,
}

/// The next write to the log, gathered from one or more [`Persist`]s.
#[derive(Default)]
struct ToWrite {
    batch: wal::Batch,
    bytes: usize,
    reset: Option<(Index, Term)>,
    /// The [`Persist::number`] that is reached with it; 0 = nothing gathered.
    number: u64,
    messages: Vec<Message>,
}

impl ToWrite {
    /// Whether anything in it has to reach the disk for its own sake. A new commit index alone
    /// does not: it is learned again.
    fn is_due(&self) -> bool {
        !self.batch.entries.is_empty() || self.batch.sync || self.reset.is_some()
    }

    fn add(&mut self, persist: Persist) {
        self.number = persist.number;
        self.reset = persist.snapshot.or(self.reset);
        self.batch.sync |= persist.sync;
        if let Some(hard_state) = persist.hard_state {
            self.batch.hard_state = Some(wal::HardState {
                term: Term(hard_state.term),
                vote: MemberId(hard_state.vote),
                commit: Index(hard_state.commit),
            });
        }
        if let Some(first) = persist.entries.first() {
            // A new leader's entries may replace what was gathered but not written yet.
            while self.batch.entries.last().is_some_and(|last| last.index.0 >= first.index) {
                self.batch.entries.pop();
            }
        }
        self.bytes += persist.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
        self.batch.entries.extend(persist.entries.into_iter().map(to_log_entry));
        self.messages.extend(persist.messages);
    }
}

fn to_log_entry(entry: Entry) -> wal::LogEntry {
    wal::LogEntry {
        index: Index(entry.index),
        term: Term(entry.term),
        kind: entry.entry_type as u8,
        data: entry.data,
    }
}

/// Who waits for a proposal here, if it is one of ours.
fn own_id(data: &Bytes, member: MemberId) -> Option<u64> {
    let origin = u64::from_le_bytes(data.get(..8)?.try_into().ok()?);
    let id = u64::from_le_bytes(data.get(8..ORIGIN_BYTES)?.try_into().ok()?);
    (origin == member.0).then_some(id)
}

struct ReadWaiter {
    reply: oneshot::Sender<Result<()>>,
    deadline: Duration,
}

/// A read round under way.
struct Round {
    /// The contexts it was asked with; a repeat gets a new one, any answer counts.
    contexts: Vec<u64>,
    asked: Duration,
    waiters: Vec<ReadWaiter>,
}

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
    job: Option<Pin<Box<dyn Future<Output = Finished<E::Disk>> + Send>>>,
    to_write: ToWrite,
    release: Option<Index>,
    prepare: bool,
    /// When to repeat a write that found the disk full.
    retry_at: Option<Duration>,

    proposals: VecDeque<Proposal>,
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
                self.prepared_snapshots.insert(to, (at.0, source));
                self.node.log().offer_snapshot(to.0, at);
            }
            Input::SnapshotSent { to, taken } => {
                self.snapshots_out.remove(&to);
                self.node.snapshot_sent(to, taken);
            }
            Input::SnapshotReceived { message, done } => {
                self.installing = Some(done);
                self.node.step(message);
            }
            Input::SnapshotInstalled => {
                if let Some(done) = self.installing.take() {
                    let _ = done.send(true);
                }
                self.applied = self.node.log().before().0;
                self.status.set_applied(self.applied);
                self.start_job();
            }
        }
    }

    /// Everything that follows from the inputs taken.
    fn turn(&mut self) {
        self.propose();
        self.start_round();
        while let Some(effects) = self.node.effects() {
            self.carry_out(effects);
        }
        if let Some(done) = self.installing.take_if(|_| self.to_write.reset.is_none()) {
            // Raft had no use for the snapshot that was offered.
            let _ = done.send(false);
        }
        self.publish();
        self.prepare_snapshot();
        self.start_job();
    }

    fn carry_out(&mut self, effects: Effects) {
        self.send(effects.messages);
        for read in effects.reads {
            self.confirm_read(&read);
        }
        if !effects.committed.is_empty() {
            self.commit(effects.committed);
        }
        if let Some(at) = effects.persist.snapshot {
            tracing::info!(index = at.0.0, term = at.1.0, "applying snapshot from leader");
            self.to_apply(ApplyInput::Install);
        }
        self.to_write.add(effects.persist);
    }

    // ---- proposals ----

    fn take_proposal(&mut self, proposal: Proposal) {
        let behind = self.node.committed().0.saturating_sub(self.applied.0);
        if behind > limits::APPLY_BACKLOG_ENTRIES_MAX
            || self.proposals.len() >= limits::NODE_QUEUE_MAX
        {
            let _ = proposal.reply.send(Err(Error::TooManyRequests));
            return;
        }
        self.proposals.push_back(proposal);
    }

    /// Proposes what waits, as few messages as limits allow.
    fn propose(&mut self) {
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

    fn commit(&mut self, entries: Vec<Entry>) {
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
        self.to_apply(ApplyInput::Entries(committed));
    }

    fn to_apply(&mut self, input: ApplyInput) {
        if !self.to_apply.is_empty() {
            self.to_apply.push_back(input);
            return;
        }
        match self.apply.try_send(input) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(input)) => self.to_apply.push_back(input),
            // The apply loop ended: so do we, with its reason.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    fn expire(&mut self, now: Duration) {
        let error = self.timeout_error(now);
        while let Some(&(deadline, id)) = self.deadlines.front() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_front();
            if let Some(waiter) = self.waiters.remove(&id) {
                let _ = waiter.send(Err(error));
            }
        }
        while self.proposals.front().is_some_and(|proposal| proposal.deadline <= now) {
            let proposal = self.proposals.pop_front().expect("it was looked at");
            let _ = proposal.reply.send(Err(error));
        }
        let late = |waiter: &mut ReadWaiter| waiter.deadline <= now;
        let round = self.round.iter_mut().flat_map(|round| round.waiters.extract_if(.., late));
        let confirmed =
            self.confirmed_reads.iter_mut().flat_map(|(_, waiters)| waiters.extract_if(.., late));
        for waiter in self.new_reads.extract_if(.., late).chain(round).chain(confirmed) {
            let _ = waiter.reply.send(Err(Error::Timeout));
        }
    }

    /// The words etcd has for a write that got no answer: was it the old leader's death, the
    /// way to the leader, or neither?
    fn timeout_error(&self, now: Duration) -> Error {
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

    // ---- reads ----

    fn start_round(&mut self) {
        if self.round.is_some() || self.new_reads.is_empty() {
            return;
        }
        let waiters = std::mem::take(&mut self.new_reads);
        self.round = Some(Round { contexts: Vec::new(), asked: Duration::ZERO, waiters });
        self.ask_round();
    }

    fn ask_round(&mut self) {
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

    fn confirm_read(&mut self, read: &Read) {
        let Some(context) = read.context.get(..8).and_then(|bytes| bytes.try_into().ok()) else {
            return;
        };
        let context = u64::from_le_bytes(context);
        if let Some(round) = self.round.take_if(|round| round.contexts.contains(&context)) {
            self.confirmed_reads.push_back((read.index, round.waiters));
            self.release_reads();
            self.start_round();
        }
    }

    fn release_reads(&mut self) {
        while self.confirmed_reads.front().is_some_and(|(index, _)| *index <= self.applied) {
            let (_, waiters) = self.confirmed_reads.pop_front().expect("it was looked at");
            for waiter in waiters {
                let _ = waiter.reply.send(Ok(()));
            }
        }
    }

    // ---- messages ----

    fn take_message(&mut self, from: MemberId, payload: &Bytes) {
        let message = match Message::parse_from_carllerche_bytes(payload) {
            Ok(message) if message.from == from.0 && message.to == self.id.0 => message,
            Ok(message) => {
                tracing::warn!(
                    "remote-peer-id" = %from, "claimed-from" = message.from, "claimed-to" = message.to,
                    "dropped a Raft message whose sender or receiver is not who it says"
                );
                return;
            }
            Err(error) => {
                tracing::warn!("remote-peer-id" = %from, %error, "dropped a Raft message that cannot be read");
                return;
            }
        };
        let appends = message.get_msg_type() == MessageType::MsgAppend;
        let backlog = self.to_apply.len() > limits::APPLY_QUEUE_MAX;
        if appends && (backlog || self.to_write.bytes > limits::LOG_BATCH_BYTES_MAX) {
            // As if the network had lost it: the leader sends it again when we have caught up.
            return;
        }
        self.node.step(message);
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let to = MemberId(message.to);
            let payload = match message.write_to_bytes() {
                Ok(bytes) => Bytes::from(bytes),
                Err(error) => unreachable!("a message in memory can be encoded: {error}"),
            };
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.send_snapshot(to, payload);
            } else if !self.transport.send(to, payload) {
                self.node.unreachable(to);
            }
        }
    }

    // ---- snapshots for followers ----

    fn prepare_snapshot(&mut self) {
        let Some(to) = self.node.log().take_snapshot_wanted().map(MemberId) else { return };
        if self.snapshots_out.contains_key(&to) {
            return;
        }
        self.snapshots_out.insert(to, self.applied);
        self.to_apply(ApplyInput::PrepareSnapshot { to });
    }

    fn send_snapshot(&mut self, to: MemberId, header: Bytes) {
        let Some((_, source)) = self.prepared_snapshots.remove(&to) else {
            self.node.snapshot_sent(to, false);
            return;
        };
        let outgoing = OutgoingSnapshot { to, header, source };
        if self.snapshots.try_send(outgoing).is_err() {
            self.snapshots_out.remove(&to);
            self.node.snapshot_sent(to, false);
        }
    }

    /// Forgets entries no follower should need, but for those a snapshot on its way relies on.
    fn compact_log(&mut self) {
        let keep = self.snapshots_out.values().min().copied().unwrap_or(self.applied);
        let by_count = Index(self.applied.0.saturating_sub(self.catchup_entries));
        self.node.log().compact(by_count.min(keep));
        let relied_on = !self.snapshots_out.is_empty();
        let bytes_max = limits::LOG_MEMORY_BYTES_MAX * if relied_on { 8 } else { 1 };
        while self.node.log().bytes() > bytes_max {
            let (before, _) = self.node.log().before();
            if before >= self.applied {
                break;
            }
            self.node.log().compact(Index(before.0 + 1));
        }
    }

    // ---- the log on disk ----

    fn start_job(&mut self) {
        if self.job.is_some() || self.retry_at.is_some() || self.installing_snapshot() {
            return;
        }
        while !self.to_write.is_due() && self.to_write.number != 0 {
            self.settle();
        }
        let job = if self.to_write.is_due() {
            Job::Write(std::mem::take(&mut self.to_write))
        } else if let Some(index) = self.release.take() {
            Job::Release(index)
        } else if std::mem::take(&mut self.prepare) {
            Job::Prepare
        } else {
            return;
        };
        let mut wal = self.wal.take().expect("the log is here while no job runs");
        self.job = Some(Box::pin(self.env.blocking(move || {
            let result = match &job {
                Job::Write(write) => (write.reset)
                    .map_or(Ok(()), |(index, term)| wal.reset(index, term))
                    .and_then(|()| wal.append(&write.batch).map(drop)),
                Job::Release(index) => wal.release(*index).map(drop),
                Job::Prepare => wal.prepare(),
            };
            (wal, result, job)
        })));
    }

    /// Whether the next write must wait for the apply loop to put a snapshot in place.
    fn installing_snapshot(&self) -> bool {
        self.installing.is_some() && self.to_write.reset.is_some()
    }

    /// With no write under way and nothing that must be written, what was gathered counts as
    /// persisted; a changed commit index goes along with the next write.
    fn settle(&mut self) {
        let number = std::mem::take(&mut self.to_write.number);
        let messages = std::mem::take(&mut self.to_write.messages);
        self.node.persisted(number);
        self.send(messages);
        while let Some(effects) = self.node.effects() {
            self.carry_out(effects);
        }
    }

    fn finish_job(&mut self, finished: Finished<E::Disk>) -> std::result::Result<(), Fatal> {
        let (wal, result, job) = finished;
        let poisoned = wal.is_poisoned();
        self.prepare = wal.wants_prepare();
        self.wal = Some(wal);
        match (job, result) {
            (Job::Write(write), Ok(())) => {
                self.node.persisted(write.number);
                self.send(write.messages);
            }
            (Job::Write(write), Err(WalError::NoSpace { .. })) if !poisoned => {
                self.wait_for_space(write);
            }
            (Job::Prepare | Job::Release(_), Err(WalError::NoSpace { .. })) if !poisoned => {}
            (Job::Prepare | Job::Release(_), Ok(())) => {}
            (_, Err(error)) => return Err(format!("the log cannot be written: {error}")),
        }
        Ok(())
    }

    /// Nothing of the write happened. Clients are refused until there is room; the write is
    /// repeated, in front of what came after it.
    fn wait_for_space(&mut self, mut write: ToWrite) {
        if !self.status.disk_is_full() {
            tracing::error!(
                "no space left on the disk of the log; writes are refused until there is some: \
                 free space in the data directory's file system, nothing else is needed"
            );
        }
        self.status.set_disk_full(true);
        self.retry_at = Some(self.now() + Duration::from_secs(1));
        let after = std::mem::take(&mut self.to_write);
        if after.reset.is_some() {
            // What could not be written is void now.
            write.batch.entries.clear();
        }
        if let Some(first) = after.batch.entries.first() {
            write.batch.entries.retain(|entry| entry.index < first.index);
        }
        write.reset = after.reset.or(write.reset);
        write.batch.entries.extend(after.batch.entries);
        write.batch.hard_state = after.batch.hard_state.or(write.batch.hard_state);
        write.batch.sync |= after.batch.sync;
        write.bytes += after.bytes;
        write.number = write.number.max(after.number);
        write.messages.extend(after.messages);
        self.to_write = write;
    }

    // ---- time and leadership ----

    fn tick(&mut self) {
        let now = self.now();
        self.node.tick();
        self.status.set_ticked(now);
        self.expire(now);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        if self.round.as_ref().is_some_and(|r| now >= r.asked + limits::READ_INDEX_RETRY) {
            self.ask_round();
        }
        if let Some(transfer) = self.transfer.take_if(|transfer| transfer.deadline <= now) {
            let _ = transfer.reply.send(Err(Error::TimeoutLeaderTransfer));
        }
    }

    fn start_transfer(&mut self, target: MemberId, reply: oneshot::Sender<Result<()>>) {
        if !self.published.leading {
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
            self.ask_round();
        }
        self.reads_possible = reads_possible;
        if leadership == self.published {
            return;
        }
        let previous = std::mem::replace(&mut self.published, leadership);
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
pub(super) async fn poll_job<T>(job: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match job {
        Some(future) => {
            let result = future.await;
            *job = None;
            result
        }
        None => std::future::pending().await,
    }
}
