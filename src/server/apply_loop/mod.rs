//! The loop that owns the replicated state and applies committed entries to it, in order.
//!
//! ```text
//!   committed entries ─▶ State::apply ─▶ events ─▶ watch hub        (first: who is told of a
//!                             │     └──▶ leases ─▶ lease loop        write finds its event
//!                             │     └──▶ replies ─▶ waiting clients  already queued)
//!                             └─ pending ─▶ flush (storage thread) ─▶ redb, one transaction
//! ```
//!
//! Replies never wait for redb. What was applied is readable at once from memory; a flush moves
//! it to redb in the background, together with the applied index. After a crash the log is
//! replayed from the flushed index, so losing what was not flushed loses nothing.
//!
//! Space of compacted revisions is freed in small steps between batches, paced by
//! `--compaction-batch-limit` and `--compaction-sleep-interval`; nobody waits for it but who
//! asked for a physical compaction.

mod compaction;
mod defragment;
mod flush;
mod install;

pub(super) use defragment::defragment_path;

use compaction::Hashing;
use defragment::Defragmenting;
use flush::{Flush, Flushed};

use super::history;
use super::hub_loop::HubInput;
use super::lease_loop::LeaseInput;
use super::node_loop::{Fatal, Input, ORIGIN_BYTES, poll_job};
use super::observed;
use super::spare::Spare;
use super::status::Status;
use super::stopped;
use crate::apply::{Reply, State};
use crate::env::{Clock, Env, Observation};
use crate::lease::Lease;
use crate::proto::log::Command;
use crate::store::{self, FlushJob, SnapshotSource};
use crate::types::{Index, LeaseId, MemberId, Result, Revision, Term};
use bytes::Bytes;
use prost::Message as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Unflushed bytes that start a flush.
const FLUSH_BYTES: usize = 8 * 1024 * 1024;
/// Unflushed bytes at which applying waits for the flush under way.
const UNFLUSHED_BYTES_MAX: usize = 8 * FLUSH_BYTES;
/// Longest time an applied entry stays unflushed.
const FLUSH_AGE: Duration = Duration::from_secs(2);
/// How often a flush that found no room on the disk looks again.
const ROOM_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// What a client that waits for an entry gets.
pub(super) type Answer = Reply;

/// A committed entry and who waits for it here.
pub(super) struct Committed {
    pub index: Index,
    pub term: Term,
    pub data: Bytes,
    pub reply: Option<oneshot::Sender<Result<Answer>>>,
}

/// What the node loop hands over, in log order.
pub(super) enum ApplyInput {
    Entries(Vec<Committed>),
    /// A follower needs a snapshot of what is applied.
    PrepareSnapshot {
        to: MemberId,
    },
    /// Put the received snapshot in the store's place.
    Install,
}

/// Questions only the owner of the state can answer.
pub(crate) enum Query {
    Lease(LeaseId, oneshot::Sender<Option<Lease>>),
    /// Answered once the space of this compaction is freed and that is on disk.
    PhysicalCompaction(Revision, oneshot::Sender<()>),
    /// A snapshot of what is applied now.
    Snapshot(oneshot::Sender<SnapshotSource>),
    /// Answered when no compaction's checksum is being computed.
    Hashed(oneshot::Sender<()>),
    /// Give free space in the store's file back, while serving; answered with whether it worked.
    Defragment(oneshot::Sender<bool>),
}

pub(super) struct Parts<E: Env> {
    pub env: E,
    pub state: State,
    /// Space for flushes on the store's disk.
    pub spare: Arc<Spare<E::Disk>>,
    pub store_path: PathBuf,
    pub incoming_path: PathBuf,
    pub store_options: store::Options,
    pub inputs: mpsc::Receiver<ApplyInput>,
    pub queries: mpsc::Receiver<Query>,
    pub node: mpsc::Sender<Input>,
    pub hub: mpsc::Sender<HubInput>,
    pub leases: mpsc::Sender<LeaseInput>,
    pub status: Arc<Status>,
    pub stopping: watch::Receiver<bool>,
    pub flush_entries: u64,
    pub compaction_batch: usize,
    pub compaction_sleep: Duration,
    pub warning_duration: Duration,
}

/// What the store's disk did to us: this node must not go on.
fn fatal(error: impl std::fmt::Display) -> Fatal {
    format!("the store failed: {error}")
}

/// See the module.
pub(super) struct ApplyLoop<E: Env> {
    parts: Parts<E>,
    flush: Option<Flush>,
    /// A flush that found no room on the disk, and when to try it again.
    waiting_flush: Option<(FlushJob, Duration)>,
    hash: Option<Hashing>,
    hash_waiters: Vec<oneshot::Sender<()>>,
    /// When the oldest unflushed entry was applied.
    unflushed_since: Option<Duration>,
    /// Somebody waits for a flush.
    flush_wanted: bool,
    compacting: bool,
    snapshots_for: Vec<MemberId>,
    snapshot_queries: Vec<oneshot::Sender<SnapshotSource>>,
    /// `(revision, applied index once freed, waiter)`.
    physical: Vec<(Revision, oneshot::Sender<()>)>,
    defragment_waiters: Vec<oneshot::Sender<bool>>,
    defragment: Option<Defragmenting>,
}

impl<E: Env> ApplyLoop<E> {
    pub(super) fn new(parts: Parts<E>) -> ApplyLoop<E> {
        ApplyLoop {
            compacting: parts.state.store.is_compacting(),
            parts,
            flush: None,
            waiting_flush: None,
            hash: None,
            hash_waiters: Vec::new(),
            unflushed_since: None,
            flush_wanted: false,
            snapshots_for: Vec::new(),
            snapshot_queries: Vec::new(),
            physical: Vec::new(),
            defragment_waiters: Vec::new(),
            defragment: None,
        }
    }

    /// Runs until told to stop (`Ok`) or until this node must not go on.
    pub(super) async fn run(mut self) -> std::result::Result<(), Fatal> {
        let env = self.parts.env.clone();
        let mut pace = Box::pin(env.clock().sleep(self.parts.compaction_sleep));
        let mut age = Box::pin(env.clock().sleep(FLUSH_AGE));
        loop {
            self.start_defragment()?;
            self.start_flush().await?;
            let unflushed = self.parts.state.store.pending().map_err(fatal)?;
            let has_room = unflushed.bytes < UNFLUSHED_BYTES_MAX;
            if !has_room {
                self.parts.env.mark("apply: waits for a flush");
            }
            tokio::select! {
                biased;
                // Entries not applied now are applied at the next start.
                () = stopped(&mut self.parts.stopping) => break,
                // Frees memory, and snapshots wait for it.
                flushed = poll_job(&mut self.flush) => self.finish_flush(flushed).await?,
                copy = poll_job(&mut self.defragment) => self.finish_defragment(copy)?,
                // Comparing members wait for it.
                hash = poll_job(&mut self.hash) => self.finish_hash(hash)?,
                // Clients wait for these.
                input = self.parts.inputs.recv(), if has_room => match input {
                    Some(input) => self.input(input).await?,
                    None => break,
                },
                query = self.parts.queries.recv() => match query {
                    Some(query) => self.query(query),
                    None => break,
                },
                () = &mut age => {
                    let pause = self.waiting_flush.as_ref().map_or(FLUSH_AGE, |_| ROOM_CHECK_INTERVAL);
                    age = Box::pin(env.clock().sleep(pause));
                }
                () = &mut pace, if self.compacting => {
                    self.compact_step()?;
                    pace = Box::pin(env.clock().sleep(self.parts.compaction_sleep));
                }
            }
        }
        self.close().await
    }

    /// A last flush makes the next start quick; without it nothing is lost.
    async fn close(mut self) -> std::result::Result<(), Fatal> {
        if self.finish_flush_under_way().await?.is_some() {
            return Ok(());
        }
        if let Some(job) = self.parts.state.store.begin_flush().map_err(fatal)?
            && let Flushed::Done(outcome) = self.run_flush(job).await
        {
            self.parts.state.store.finish_flush(*outcome).map_err(fatal)?;
        }
        Ok(())
    }

    /// Gives the flush back when the disk has no room for it.
    async fn finish_flush_under_way(&mut self) -> std::result::Result<Option<FlushJob>, Fatal> {
        if let Some(copy) = self.defragment.take() {
            self.finish_defragment(copy.await)?;
        }
        if let Some((job, _)) = self.waiting_flush.take() {
            self.flush = Some(self.run_flush(job));
        }
        let Some(flush) = self.flush.take() else { return Ok(None) };
        match flush.await {
            Flushed::Done(outcome) => {
                self.parts.state.store.finish_flush(*outcome).map_err(fatal)?;
                Ok(None)
            }
            Flushed::NoRoom(job) => Ok(Some(job)),
        }
    }

    async fn input(&mut self, input: ApplyInput) -> std::result::Result<(), Fatal> {
        match input {
            ApplyInput::Entries(entries) => self.apply(entries).await,
            ApplyInput::PrepareSnapshot { to } => {
                self.snapshots_for.push(to);
                self.flush_wanted = true;
                Ok(())
            }
            ApplyInput::Install => self.install().await,
        }
    }

    async fn apply(&mut self, entries: Vec<Committed>) -> std::result::Result<(), Fatal> {
        let started = self.parts.env.clock().now();
        let (mut for_hub, mut for_leases, mut replies) = (Vec::new(), Vec::new(), Vec::new());
        let mut members_changed = false;
        let (count, last) = (entries.len(), entries.last().map(|entry| entry.index));
        for entry in entries {
            let command = decode(&entry)?;
            if command.is_none() {
                for_leases.push(LeaseInput::Term(entry.term));
            }
            observed::mark_command(&self.parts.env, entry.term, command.as_ref());
            let applied = self.parts.state.apply(entry.index, entry.term, command);
            let outcome = applied.map_err(fatal)?;
            let at = (entry.index, entry.term);
            observed::applied(&self.parts.env, &self.parts.state, at, &outcome);
            let events = outcome.finished.into_iter().map(history::finished);
            for_hub.extend(events.map(|events| HubInput::Changed(Arc::new(events))));
            for_leases.extend(outcome.leases.into_iter().map(LeaseInput::Changed));
            members_changed |= outcome.members_changed;
            if let Some((revision, hash)) = outcome.compacted {
                for_hub.push(HubInput::Compacted(revision));
                if self.compacting {
                    self.parts.env.mark("compaction: another one before the end");
                }
                self.compacting = true;
                self.start_hash(hash);
            }
            if let Some(reply) = entry.reply {
                replies.push((entry.index, reply, outcome.reply));
            }
        }
        let Some(last) = last else { return Ok(()) };
        self.unflushed_since.get_or_insert(started);
        self.publish(members_changed);
        if !for_hub.is_empty() {
            let _ = self.parts.hub.send(HubInput::Batch(for_hub)).await;
        }
        if !for_leases.is_empty() {
            let _ = self.parts.leases.send(LeaseInput::Batch(for_leases)).await;
        }
        self.parts.status.set_applied(last);
        for (index, reply, answer) in replies {
            self.parts.env.observe(Observation::Answered { index });
            let _ = reply.send(answer);
        }
        let _ = self.parts.node.send(Input::Applied(last)).await;
        self.warn_if_slow(started, count);
        Ok(())
    }

    fn publish(&self, members_changed: bool) {
        let status = &self.parts.status;
        let state = &self.parts.state;
        status.set_alarms(&state.alarms);
        if members_changed {
            status.set_members(&state.members);
        }
        status.set_cluster_version(&state.cluster_version);
    }

    fn warn_if_slow(&self, started: Duration, count: usize) {
        let took = self.parts.env.clock().now() - started;
        if took > self.parts.warning_duration {
            tracing::warn!(
                took = %crate::logging::go_duration(took),
                "expected-duration" = %crate::logging::go_duration(self.parts.warning_duration),
                requests = count,
                "apply request took too long"
            );
        }
    }

    fn query(&mut self, query: Query) {
        match query {
            Query::Lease(id, reply) => {
                let _ = reply.send(self.parts.state.lessor.get(id).cloned());
            }
            Query::PhysicalCompaction(revision, reply) => {
                self.physical.push((revision, reply));
                self.flush_wanted |= !self.compacting;
            }
            Query::Snapshot(reply) => {
                self.snapshot_queries.push(reply);
                self.flush_wanted = true;
            }
            Query::Hashed(reply) => match self.hash {
                Some(_) => self.hash_waiters.push(reply),
                None => {
                    let _ = reply.send(());
                }
            },
            Query::Defragment(reply) => self.defragment_waiters.push(reply),
        }
    }
}

/// The command of an entry, `None` for a leader's no-op.
fn decode(entry: &Committed) -> std::result::Result<Option<Command>, Fatal> {
    if entry.data.is_empty() {
        return Ok(None);
    }
    let unreadable = |what: &dyn std::fmt::Display| {
        format!("log entry {} cannot be read by this version: {what}", entry.index)
    };
    if entry.data.len() < ORIGIN_BYTES {
        return Err(unreadable(&"too short"));
    }
    let command = Command::decode(entry.data.slice(ORIGIN_BYTES..)).map_err(|e| unreadable(&e))?;
    if command.request.is_none() {
        return Err(unreadable(&"an unknown command"));
    }
    Ok(Some(command))
}
