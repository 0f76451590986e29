//! Moving what was applied to redb, in the background and never for a request's sake.
//!
//! A flush begins when enough waits, when the oldest waits long enough, or when somebody needs
//! one: a snapshot, or a physical compaction. It begins only when the disk has room for all of
//! it: a commit that runs out of disk in the middle would end the node.

use super::{ApplyLoop, FLUSH_AGE, FLUSH_BYTES, Fatal, ROOM_CHECK_INTERVAL, fatal};
use crate::env::{Clock, Env, Observation};
use crate::server::node_loop::Input;
use crate::store::{FlushJob, FlushOutcome, SnapshotSource, Store};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub(super) type Flush = Pin<Box<dyn Future<Output = Flushed> + Send>>;

/// What became of a flush.
pub(super) enum Flushed {
    Done(Box<FlushOutcome>),
    /// There is no room for it on the disk: nothing was written.
    NoRoom(FlushJob),
}

impl<E: Env> ApplyLoop<E> {
    pub(super) async fn start_flush(&mut self) -> std::result::Result<(), Fatal> {
        if self.flush.is_some() || self.defragment.is_some() {
            return Ok(());
        }
        let now = self.parts.env.clock().now();
        if let Some((_, at)) = &self.waiting_flush {
            if *at <= now {
                let (job, _) = self.waiting_flush.take().expect("it was looked at");
                self.flush = Some(self.run_flush(job));
            }
            return Ok(());
        }
        let store = &mut self.parts.state.store;
        let old = self.unflushed_since.is_some_and(|since| now >= since + FLUSH_AGE);
        let unflushed = store.pending().map_err(fatal)?;
        let large =
            unflushed.bytes >= FLUSH_BYTES || unflushed.entries as u64 >= self.parts.flush_entries;
        if !(self.flush_wanted || old || large) {
            return Ok(());
        }
        let Some(job) = store.begin_flush().map_err(fatal)? else {
            // Nothing to flush: whoever waits for one has it.
            self.flush_wanted = false;
            self.unflushed_since = None;
            return self.after_flush().await;
        };
        self.flush_wanted = false;
        self.unflushed_since = None;
        self.flush = Some(self.run_flush(job));
        Ok(())
    }

    /// A flush begins only when there is room for all of it.
    pub(super) fn run_flush(&self, job: FlushJob) -> Flush {
        let spare = Arc::clone(&self.parts.spare);
        Box::pin(self.parts.env.blocking(move || {
            if !spare.fill(job.room_bytes()) {
                return Flushed::NoRoom(job);
            }
            let outcome = job.run();
            spare.shrink();
            Flushed::Done(Box::new(outcome))
        }))
    }

    /// What is not flushed stays in memory and in the log; clients may read and delete.
    pub(super) fn wait_for_room(&mut self, job: FlushJob) {
        if !self.parts.status.disk_is_full() {
            tracing::error!(
                "needed-bytes" = job.room_bytes(),
                "no room on the disk of the store: writes that add data are refused; free space \
                 on that file system; writes are accepted again by themselves once there is room"
            );
        }
        self.parts.env.mark("flush: waits for room on the disk");
        self.parts.status.set_flush_waits(true);
        let at = self.parts.env.clock().now() + ROOM_CHECK_INTERVAL;
        self.waiting_flush = Some((job, at));
    }

    pub(super) async fn finish_flush(
        &mut self,
        flushed: Flushed,
    ) -> std::result::Result<(), Fatal> {
        let outcome = match flushed {
            Flushed::Done(outcome) => *outcome,
            Flushed::NoRoom(job) => {
                self.wait_for_room(job);
                return Ok(());
            }
        };
        self.parts.status.set_flush_waits(false);
        let store = &mut self.parts.state.store;
        store.finish_flush(outcome).map_err(fatal)?;
        let (applied, _) = store.flushed().map_err(fatal)?;
        self.parts.env.observe(Observation::Flushed { applied });
        self.after_flush().await?;
        let _ = self.parts.node.send(Input::Flushed(applied)).await;
        Ok(())
    }

    /// Serves those who waited for a flush that holds all that is applied.
    pub(super) async fn after_flush(&mut self) -> std::result::Result<(), Fatal> {
        let store = &self.parts.state.store;
        if store.applied() != store.flushed().map_err(fatal)? {
            // More was applied meanwhile: only another flush holds that too.
            if self.is_awaited() {
                self.parts.env.mark("flush: another one for who waits");
            }
            self.flush_wanted |= self.is_awaited();
            return Ok(());
        }
        if !self.compacting {
            for (_, reply) in self.physical.drain(..) {
                let _ = reply.send(());
            }
        }
        for reply in self.snapshot_queries.drain(..) {
            if let Some(source) = snapshot_source(store) {
                let _ = reply.send(source);
            }
        }
        for to in self.snapshots_for.drain(..) {
            if let Some(source) = snapshot_source(store) {
                let (at, source) = (store.applied(), Box::new(source));
                let _ = self.parts.node.send(Input::SnapshotPrepared { to, at, source }).await;
            }
        }
        Ok(())
    }

    pub(super) fn is_awaited(&self) -> bool {
        !self.snapshots_for.is_empty()
            || !self.snapshot_queries.is_empty()
            || (!self.physical.is_empty() && !self.compacting)
    }
}

fn snapshot_source(store: &Store) -> Option<SnapshotSource> {
    match store.snapshot_source() {
        Ok(source) => Some(source),
        Err(error) => {
            tracing::error!(%error, "failed to open a snapshot of the store");
            None
        }
    }
}
