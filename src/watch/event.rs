//! What the hub is told and what it asks: the events of one revision, and the store's history.
//!
//! The store keeps pairs in the form the wire wants, so an event on the wire is a few bytes of
//! framing around a record that is copied once, whoever and however many watch it:
//!
//! ```text
//! mvccpb.Event   [08 01]  12 len <record>  [1a len <previous record>]
//!                delete            kv            only with prev_kv
//! ```
//!
//! Both forms are made when the first watcher needs them and shared from then on.

use crate::types::Revision;
use bytes::Bytes;
use prost::encoding::{encode_varint, encoded_len_varint};
use std::sync::Arc;

/// What happened to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// It got a value.
    Put,
    /// It is gone.
    Delete,
}

/// One change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// The changed key.
    pub key: Bytes,
    /// What happened.
    pub kind: EventKind,
    /// Encoded `mvccpb.KeyValue` as the event carries it, never empty; of a delete just key and
    /// `mod_revision`.
    pub record: Bytes,
    /// Whether this put began the key's life (`create_revision == mod_revision`): such an event
    /// has no previous pair and none is asked for.
    pub create: bool,
}

/// Everything one main revision changed, in the order of its changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RevisionEvents {
    /// The main revision.
    pub revision: Revision,
    /// Its changes, at least one.
    pub events: Vec<Event>,
}

/// The wanted revisions are gone; carries the compacted revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compacted(pub Revision);

/// What the hub needs of the store. The store may be ahead of the hub, never behind it.
pub trait History {
    /// The store's current revision.
    fn revision(&self) -> Revision;

    /// The last compacted revision; below every real revision when there was none.
    fn compacted(&self) -> Revision;

    /// The changes of revisions `from..=through` in order. Stops after `revisions_max` revisions
    /// or once `bytes_max` bytes of records were collected, never inside a revision and never
    /// before the first one. An empty answer means that nothing changed in the whole interval.
    /// `from` below the compacted revision is `Compacted`; `from` equal to it is answered.
    fn changes(
        &self,
        from: Revision,
        through: Revision,
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<RevisionEvents>>, Compacted>;

    /// The encoded pair `key` had at the revision just before `before`; `None` when it did not
    /// exist or that revision is compacted.
    fn previous(&self, key: &[u8], before: Revision) -> Option<Bytes>;
}

/// What a watcher wants to see of an event: the part of a watch that decides which bytes it gets,
/// so that watchers of one range and one view share them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct View {
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
}

impl View {
    /// How many views there are.
    pub const COUNT: usize = 8;

    pub fn index(self) -> usize {
        usize::from(self.prev_kv) | usize::from(self.no_put) << 1 | usize::from(self.no_delete) << 2
    }

    pub fn takes(self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

/// Where previous pairs come from, and which may still be told.
pub(super) struct Past<'a, H> {
    pub history: &'a H,
    pub compacted: Revision,
}

/// A revision as the hub holds it: events beside the encoded forms made so far.
#[derive(Debug)]
pub(super) struct LoggedRevision {
    pub revision: Revision,
    pub events: Vec<LoggedEvent>,
}

#[derive(Debug)]
pub(super) struct LoggedEvent {
    event: Event,
    plain: Option<Bytes>,
    with_previous: Option<Bytes>,
}

impl LoggedRevision {
    pub fn new(source: &RevisionEvents) -> LoggedRevision {
        assert!(!source.events.is_empty(), "revision {} changed nothing", source.revision);
        let events = source.events.iter().map(LoggedEvent::new).collect();
        LoggedRevision { revision: source.revision, events }
    }

    /// Bytes of its records: the measure of the recent log and of a batch.
    pub fn bytes(&self) -> usize {
        self.events.iter().map(|logged| logged.event.record.len()).sum()
    }

    /// The encoded event number `at` as `view` wants it; `None` when it is filtered out.
    ///
    /// The compacted revision is looked at each time, also when the form with the previous pair
    /// was made before the compaction: what a watcher gets must not depend on who watched before.
    pub fn encoded<H: History>(
        &mut self,
        at: usize,
        view: View,
        past: &Past<'_, H>,
    ) -> Option<Bytes> {
        let logged = &mut self.events[at];
        if !view.takes(logged.event.kind) {
            return None;
        }
        // The revision before this one is not below the compacted one.
        let readable = self.revision > past.compacted;
        if !view.prev_kv || logged.event.create || !readable {
            return Some(logged.plain());
        }
        Some(logged.with_previous(self.revision, past.history))
    }
}

impl LoggedEvent {
    fn new(event: &Event) -> LoggedEvent {
        assert!(!event.record.is_empty(), "a pair has at least its key");
        LoggedEvent { event: event.clone(), plain: None, with_previous: None }
    }

    pub fn key(&self) -> &[u8] {
        &self.event.key
    }

    fn plain(&mut self) -> Bytes {
        if let Some(plain) = &self.plain {
            return plain.clone();
        }
        let plain = encode(self.event.kind, &self.event.record, None);
        // The encoded event ends with the record: from here on one buffer serves both.
        self.event.record = plain.slice(plain.len() - self.event.record.len()..);
        if let Some(key) = key_at_front(&self.event.record, &self.event.key) {
            self.event.key = key;
        }
        self.plain = Some(plain.clone());
        plain
    }

    fn with_previous<H: History>(&mut self, revision: Revision, history: &H) -> Bytes {
        if let Some(encoded) = &self.with_previous {
            return encoded.clone();
        }
        let encoded = match history.previous(&self.event.key, revision) {
            Some(previous) => encode(self.event.kind, &self.event.record, Some(&previous)),
            None => self.plain(),
        };
        self.with_previous = Some(encoded.clone());
        encoded
    }
}

/// The key as a part of the record's buffer, where an encoder that writes fields in order put it.
/// Without this the key would keep alive the whole request it came with.
fn key_at_front(record: &Bytes, key: &[u8]) -> Option<Bytes> {
    let start = 1 + encoded_len_varint(key.len() as u64);
    let found = record.get(start..start + key.len())?;
    (record[0] == 0x0a && found == key).then(|| record.slice(start..start + key.len()))
}

/// Encodes an `mvccpb.Event`.
fn encode(kind: EventKind, record: &[u8], previous: Option<&[u8]>) -> Bytes {
    let framed = |part: &[u8]| 1 + encoded_len_varint(part.len() as u64) + part.len();
    let type_length = if kind == EventKind::Delete { 2 } else { 0 };
    let length = type_length + framed(record) + previous.map_or(0, framed);
    let mut out = Vec::with_capacity(length);
    if kind == EventKind::Delete {
        out.extend_from_slice(&[0x08, 0x01]);
    }
    out.push(0x12);
    encode_varint(record.len() as u64, &mut out);
    out.extend_from_slice(record);
    if let Some(previous) = previous {
        out.push(0x1a);
        encode_varint(previous.len() as u64, &mut out);
        out.extend_from_slice(previous);
    }
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mvccpb;
    use prost::Message;

    fn pair(key: &'static [u8], revision: i64) -> mvccpb::KeyValue {
        mvccpb::KeyValue {
            key: Bytes::from_static(key),
            mod_revision: revision,
            value: Bytes::from(vec![b'v'; 300]),
            ..Default::default()
        }
    }

    /// Shown by encoding all shapes and reading them back with the generated decoder.
    #[test]
    fn an_encoded_event_decodes_to_its_parts() {
        for kind in [EventKind::Put, EventKind::Delete] {
            for previous in [None, Some(pair(b"key", 4))] {
                let record = pair(b"key", 5).encode_to_vec();
                let previous_record = previous.as_ref().map(|pair| pair.encode_to_vec());
                let encoded = encode(kind, &record, previous_record.as_deref());
                let event = mvccpb::Event::decode(encoded).expect("lawful");
                assert_eq!(event.r#type, i32::from(kind == EventKind::Delete));
                assert_eq!(event.kv, Some(pair(b"key", 5)));
                assert_eq!(event.prev_kv, previous);
            }
        }
    }

    /// Shown by pointers: after encoding, record and key lie inside the encoded event.
    #[test]
    fn record_and_key_move_into_the_encoded_event() {
        let record = Bytes::from(pair(b"key", 5).encode_to_vec());
        let key = Bytes::from_static(b"key");
        let mut logged =
            LoggedEvent::new(&Event { key, kind: EventKind::Put, record, create: true });
        let plain = logged.plain();
        let inside = plain.as_ptr_range();
        assert!(inside.contains(&logged.event.record.as_ptr()));
        assert!(inside.contains(&logged.event.key.as_ptr()));
        assert_eq!(logged.key(), b"key");
        assert_eq!(logged.event.record, pair(b"key", 5).encode_to_vec());
    }
}
