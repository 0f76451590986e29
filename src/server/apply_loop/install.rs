//! A snapshot from the leader takes the place of our state.

use super::{ApplyLoop, Fatal, fatal};
use crate::env::{Disk, Env};
use crate::server::hub_loop::HubInput;
use crate::server::lease_loop::LeaseInput;
use crate::server::node_loop::Input;
use crate::server::observed;
use crate::store::{Store, StoreError};
use std::sync::Arc;

impl<E: Env> ApplyLoop<E> {
    /// The received store takes the place of ours, on disk and for all readers.
    pub(super) async fn install(&mut self) -> std::result::Result<(), Fatal> {
        // What a flush found no room for is superseded by what arrived.
        if let Some((job, _)) = self.waiting_flush.take() {
            self.parts.state.store.abandon_flush(job);
        }
        if let Some(job) = self.finish_flush_under_way().await? {
            self.parts.state.store.abandon_flush(job);
        }
        self.parts.status.set_flush_waits(false);
        let env = self.parts.env.clone();
        let disk = env.disk().clone();
        let (from, to) = (self.parts.incoming_path.clone(), self.parts.store_path.clone());
        let (options, spare) = (self.parts.store_options, Arc::clone(&self.parts.spare));
        let opened = env.blocking(move || -> std::result::Result<_, StoreError> {
            disk.rename(&from, &to)?;
            if let Some(directory) = to.parent() {
                disk.sync_directory(directory)?;
            }
            Store::open(spare.open(&to)?, options)
        });
        let (store, restored) =
            opened.await.map_err(|error| format!("the leader's snapshot: {error}"))?;
        self.parts.state.store.replace(store).map_err(fatal)?;
        self.parts.state.reload(&restored).map_err(fatal)?;
        observed::store_opened(&self.parts.env, &self.parts.state, &restored);
        self.parts.env.mark("snapshot: installed");
        self.unflushed_since = None;
        self.compacting = self.parts.state.store.is_compacting();
        self.publish(true);
        let restored =
            HubInput::Restored { revision: restored.revision, compacted: restored.compacted };
        let _ = self.parts.hub.send(restored).await;
        let _ = self.parts.leases.send(LeaseInput::Restored(self.parts.state.lease_list())).await;
        let _ = self.parts.node.send(Input::SnapshotInstalled).await;
        Ok(())
    }
}
