//! The hub against a small model of the store.

mod handshake;
mod script;
mod simulation;
mod speed;
mod vectors;

use super::{Compacted, Event, EventKind, History, RevisionEvents};
use crate::proto::mvccpb::KeyValue;
use crate::types::Revision;
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A change to be made.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Put { key: Vec<u8>, value: Vec<u8>, lease: i64 },
    Delete { key: Vec<u8> },
}

/// A store that keeps every pair of every revision and only pretends to compact.
#[derive(Clone)]
pub(super) struct Model {
    pub revision: i64,
    pub compacted: i64,
    pub revisions: Vec<Arc<RevisionEvents>>,
    /// Key to its pairs by revision; `None`: deleted.
    pairs: BTreeMap<Vec<u8>, Vec<(i64, Option<KeyValue>)>>,
}

impl Model {
    pub fn new() -> Model {
        Model { revision: 1, compacted: -1, revisions: Vec::new(), pairs: BTreeMap::new() }
    }

    pub fn exists(&self, key: &[u8]) -> bool {
        self.at(key, self.revision).is_some()
    }

    /// The live keys that `wanted` takes.
    pub fn keys(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        self.pairs.keys().filter(|key| wanted(key) && self.exists(key)).cloned().collect()
    }

    /// Makes the changes in one revision; deletes of missing keys are left out, and with nothing
    /// to do there is no revision.
    pub fn change(&mut self, changes: &[Change]) -> Option<Arc<RevisionEvents>> {
        let revision = self.revision + 1;
        let mut events = Vec::new();
        for change in changes {
            match change {
                Change::Put { key, value, lease } => {
                    let before = self.at(key, revision);
                    let pair = KeyValue {
                        key: key.clone().into(),
                        create_revision: before.map_or(revision, |pair| pair.create_revision),
                        mod_revision: revision,
                        version: before.map_or(1, |pair| pair.version + 1),
                        value: value.clone().into(),
                        lease: *lease,
                    };
                    events.push(Event {
                        key: pair.key.clone(),
                        kind: EventKind::Put,
                        record: pair.encode_to_vec().into(),
                        create: pair.create_revision == revision,
                    });
                    self.pairs.entry(key.clone()).or_default().push((revision, Some(pair)));
                }
                Change::Delete { key } if self.at(key, revision).is_some() => {
                    let gone = KeyValue {
                        key: key.clone().into(),
                        mod_revision: revision,
                        ..Default::default()
                    };
                    events.push(Event {
                        key: gone.key.clone(),
                        kind: EventKind::Delete,
                        record: gone.encode_to_vec().into(),
                        create: false,
                    });
                    self.pairs.get_mut(key).expect("it is there").push((revision, None));
                }
                Change::Delete { .. } => {}
            }
        }
        if events.is_empty() {
            return None;
        }
        self.revision = revision;
        let batch = Arc::new(RevisionEvents { revision: Revision(revision), events });
        self.revisions.push(batch.clone());
        Some(batch)
    }

    /// The pair of `key` at `revision`, whatever is compacted.
    pub fn at(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        let versions = self.pairs.get(key)?;
        versions.iter().rev().find(|version| version.0 <= revision)?.1.as_ref()
    }
}

impl History for Model {
    fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    fn compacted(&self) -> Revision {
        Revision(self.compacted)
    }

    fn changes(
        &self,
        from: Revision,
        through: Revision,
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<RevisionEvents>>, Compacted> {
        if from.0 < self.compacted {
            return Err(Compacted(Revision(self.compacted)));
        }
        let mut bytes = 0;
        let mut list = Vec::new();
        // The first revision of a store is 1 and changed nothing.
        let first = usize::try_from(from.0 - 2).unwrap_or(0);
        for batch in self.revisions.iter().skip(first) {
            if batch.revision > through || list.len() >= revisions_max || bytes >= bytes_max {
                break;
            }
            bytes += batch.events.iter().map(|event| event.record.len()).sum::<usize>();
            list.push(batch.clone());
        }
        Ok(list)
    }

    fn previous(&self, key: &[u8], before: Revision) -> Option<Bytes> {
        if before.0 - 1 < self.compacted {
            return None;
        }
        self.at(key, before.0 - 1).map(|pair| pair.encode_to_vec().into())
    }
}
