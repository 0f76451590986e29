//! Freeing the space of compacted revisions, step by step, and the checksum members compare.

use super::{ApplyLoop, Fatal, fatal};
use crate::env::{Clock, Env};
use crate::store::{CompactionHash, HashKv, StoreError};
use std::future::Future;
use std::pin::Pin;

pub(super) type HashResult = std::result::Result<Option<HashKv>, StoreError>;
pub(super) type Hashing = Pin<Box<dyn Future<Output = HashResult> + Send>>;

impl<E: Env> ApplyLoop<E> {
    /// Computes the checksum of a compaction in the background; if one is being computed, this
    /// one is left out, as etcd does.
    pub(super) fn start_hash(&mut self, hash: CompactionHash) {
        if self.hash.is_some() {
            return self.parts.env.mark("compaction: its checksum left out");
        }
        self.hash = Some(Box::pin(self.parts.env.blocking(move || hash.run())));
    }

    pub(super) fn finish_hash(&mut self, hash: HashResult) -> std::result::Result<(), Fatal> {
        if let Some(hash) = hash.map_err(fatal)? {
            tracing::info!(
                hash = hash.hash,
                "compact-revision" = hash.compact_revision.0,
                revision = hash.hash_revision.0,
                "storing new hash"
            );
            self.parts.state.store.remember_hash(hash).map_err(fatal)?;
        }
        for reply in self.hash_waiters.drain(..) {
            let _ = reply.send(());
        }
        Ok(())
    }

    pub(super) fn compact_step(&mut self) -> std::result::Result<(), Fatal> {
        let store = &mut self.parts.state.store;
        let progress = store.compact_step(self.parts.compaction_batch).map_err(fatal)?;
        self.unflushed_since.get_or_insert(self.parts.env.clock().now());
        if progress.done {
            self.compacting = false;
            self.parts.env.mark("compaction: finished");
            let revision = self.parts.state.store.reader().compacted().map_err(fatal)?;
            tracing::info!("compact-revision" = revision.0, "finished scheduled compaction");
            self.flush_wanted |= !self.physical.is_empty();
        }
        Ok(())
    }
}
