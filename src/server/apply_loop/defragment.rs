//! Giving free space back to the file system: the store's file is copied without its free pages,
//! and the copy takes its name.

use super::{ApplyLoop, Fatal, fatal};
use crate::env::{Disk, Env};
use crate::store::{Defragmented, StoreError};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;

/// A copy of the store without free pages, under the store's name; or why there is none.
pub(super) type CopyResult = std::result::Result<Defragmented, NoCopy>;
pub(super) type Defragmenting = Pin<Box<dyn Future<Output = CopyResult> + Send>>;

pub(super) enum NoCopy {
    /// The old file is what it was.
    Abandoned(StoreError),
    /// It is unknown which file the store's name stands for after a crash.
    Unclear(StoreError),
}

/// Where the copy grows.
pub(in crate::server) fn defragment_path(store: &Path) -> PathBuf {
    store.with_extension("defragment")
}

impl<E: Env> ApplyLoop<E> {
    /// Copies the store's file in the background, without its free pages. Requests go on; what
    /// they change stays in memory until the copy is done.
    pub(super) fn start_defragment(&mut self) -> std::result::Result<(), Fatal> {
        if self.defragment_waiters.is_empty() || self.defragment.is_some() || self.flush.is_some() {
            return Ok(());
        }
        tracing::info!("starting defragment");
        let disk = self.parts.env.disk().clone();
        let to = self.parts.store_path.clone();
        let from = defragment_path(&to);
        let began = disk
            .create(&from)
            .and_then(|_| self.parts.spare.open(&from))
            .map_err(StoreError::from)
            .and_then(|file| self.parts.state.store.begin_defragment(file));
        let job = match began {
            Ok(Some(job)) => job,
            Ok(None) => return Ok(()),
            Err(error) => return self.finish_defragment(Err(NoCopy::Abandoned(error))),
        };
        self.defragment = Some(Box::pin(self.parts.env.blocking(move || {
            let copy = job.run().map_err(NoCopy::Abandoned)?;
            let renamed = disk.rename(&from, &to).and_then(|()| match to.parent() {
                Some(directory) => disk.sync_directory(directory),
                None => Ok(()),
            });
            renamed.map_err(|error| NoCopy::Unclear(error.into()))?;
            Ok(copy)
        })));
        Ok(())
    }

    pub(super) fn finish_defragment(&mut self, copy: CopyResult) -> std::result::Result<(), Fatal> {
        let store = &mut self.parts.state.store;
        let worked = match copy {
            Ok(copy) => {
                store.finish_defragment(copy).map_err(fatal)?;
                self.parts.env.mark("defragment: finished");
                tracing::info!("finished defragment");
                true
            }
            Err(NoCopy::Abandoned(error)) => {
                store.abandon_defragment();
                self.parts.env.mark("defragment: abandoned");
                tracing::warn!(%error, "failed to defragment; the store goes on in its old file");
                // What is left of the copy is removed at the next start, too.
                let _ = self.parts.env.disk().remove(&defragment_path(&self.parts.store_path));
                false
            }
            Err(NoCopy::Unclear(error)) => {
                self.parts.env.mark("defragment: which file counts is unclear");
                return Err(fatal(error));
            }
        };
        for reply in self.defragment_waiters.drain(..) {
            let _ = reply.send(worked);
        }
        Ok(())
    }
}
