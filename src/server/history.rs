//! What the watch hub reads of the past, answered by the store.
//!
//! The hub takes no errors: where a disk or a page of the store fails, this member is over, and
//! [`Damage`] says so to the rest of the server. Until that is heard, the past looks empty.

use super::handle::Damage;
use crate::store::{Change, ChangeKind, ReadError, Reader, RevisionChanges};
use crate::types::Revision;
use crate::watch::{Compacted, Event, EventKind, History, RevisionEvents};
use bytes::Bytes;
use std::sync::Arc;

/// The store's past, for the hub.
pub(super) struct StoreHistory {
    pub reader: Reader,
    pub damage: Damage,
}

impl StoreHistory {
    fn or_report<T: Default>(&self, result: Result<T, impl std::fmt::Display>) -> T {
        result.unwrap_or_else(|error| {
            (self.damage)(error.to_string());
            T::default()
        })
    }
}

impl History for StoreHistory {
    fn revision(&self) -> Revision {
        self.or_report(self.reader.revision())
    }

    fn compacted(&self) -> Revision {
        self.or_report(self.reader.compacted())
    }

    fn changes(
        &self,
        from: Revision,
        through: Revision,
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<RevisionEvents>>, Compacted> {
        match self.reader.changes(from, through, revisions_max, bytes_max) {
            Ok(revisions) => Ok(revisions.into_iter().map(|one| Arc::new(events(one))).collect()),
            Err(ReadError::Refused(_)) => Err(Compacted(History::compacted(self))),
            Err(ReadError::Failed(error)) => {
                (self.damage)(error.to_string());
                Ok(Vec::new())
            }
        }
    }

    fn previous(&self, key: &[u8], before: Revision) -> Option<Bytes> {
        self.or_report(self.reader.previous(key, before))
    }
}

fn events(revision: RevisionChanges) -> RevisionEvents {
    let events = revision.changes.into_iter().map(event).collect();
    RevisionEvents { revision: revision.revision, events }
}

fn event(change: Change) -> Event {
    let kind = match change.kind {
        ChangeKind::Put => EventKind::Put,
        ChangeKind::Delete => EventKind::Delete,
    };
    Event { key: change.key, kind, record: change.record, create: change.create }
}

/// What the hub is told of an applied request that changed keys.
pub(super) fn finished(finished: crate::store::Finished) -> RevisionEvents {
    let events = finished.changes.into_iter().map(event).collect();
    RevisionEvents { revision: finished.revision, events }
}
