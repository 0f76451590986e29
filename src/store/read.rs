//! Reading while the writer writes.
//!
//! A [`Reader`] is a handle on the store that any number of tasks may hold. What belongs together
//! is read through one [`Read`]: it fixes the revision at its first look, so that several reads,
//! the parts of a read-only transaction say, see the same state.

use super::engine::View;
use super::error::{ReadError, StoreError};
use super::pending::Batch;
use super::range::{RangeQuery, RangeResult, Walk, bare, fetch_all, range, resolve};
use super::record::{Place, Record, RowKey, deletion};
use super::shared::{Found, Lock, Shared, Source, fetch};
use crate::types::{Error, KeyRange, LeaseId, Revision};
use bytes::Bytes;
use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;

/// A key's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    /// The lease it hangs on, 0 if none. Known for the latest version only, otherwise 0.
    pub lease: LeaseId,
}

/// What a change did to its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    Put,
    Delete,
}

/// One change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub key: Bytes,
    pub kind: ChangeKind,
    /// The encoded `mvccpb.KeyValue` an event carries: for a deletion key and mod revision alone.
    pub record: Bytes,
    /// A put of a key that was not there.
    pub create: bool,
}

/// All changes of one revision, in the order they were made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RevisionChanges {
    pub revision: Revision,
    pub changes: Vec<Change>,
}

/// How big the store is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sizes {
    /// Bytes the file takes.
    pub file_bytes: u64,
    /// Bytes of it that hold rows; the rest is the engine's structure and free pages.
    pub in_use_bytes: u64,
    /// Bytes of every version not compacted away: key, value and a fixed sum for each. The figure
    /// a quota should be held against: it falls as soon as a compaction is done.
    pub retained_bytes: u64,
    /// Keys that are there now.
    pub keys: u64,
    /// Bytes of memory of the index's nodes, about.
    pub index_bytes: u64,
    /// Bytes of memory of cached records.
    pub cached_bytes: u64,
}

/// A handle for reading.
#[derive(Clone)]
pub struct Reader {
    pub(super) lock: Arc<Lock>,
}

impl Reader {
    /// Begins to read at the revision that is current at the first look.
    pub fn read(&self) -> Read<'_> {
        Read { lock: &self.lock, revision: Cell::new(0) }
    }

    /// The store's revision.
    pub fn revision(&self) -> Result<Revision, StoreError> {
        Ok(Revision(self.lock.read()?.revision))
    }

    /// Reads below this revision are refused; -1 before the first compaction.
    pub fn compacted(&self) -> Result<Revision, StoreError> {
        Ok(Revision(self.lock.read()?.compacted))
    }

    /// The last compaction whose versions are all gone.
    pub fn finished(&self) -> Result<Revision, StoreError> {
        Ok(Revision(self.lock.read()?.finished))
    }

    /// Answers a query.
    pub fn range(&self, query: &RangeQuery) -> Result<RangeResult, ReadError> {
        range(&self.read(), query)
    }

    /// The encoded latest version of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.read().record(key)
    }

    /// The version of a key just before a revision: what an event's `prev_kv` shows. None if the
    /// key was not there or that version is compacted.
    pub fn previous(&self, key: &[u8], before: Revision) -> Result<Option<Bytes>, ReadError> {
        let at = before.0 - 1;
        let (found, view) = {
            let shared = self.lock.read()?;
            if shared.check_revision(at).is_err() {
                return Ok(None);
            }
            let Some(state) = shared.index.get(key) else { return Ok(None) };
            let Some(point) = state.at(at) else { return Ok(None) };
            (shared.find(state, point), Arc::clone(&shared.view))
        };
        fetch(&self.read(), found, Some(view)).map(Some)
    }

    /// What changed from one revision through another, both included, whole revisions in order:
    /// at most `revisions` of them and no more once their records exceed `bytes`, but at least
    /// one. An empty answer means that nothing changed.
    pub fn changes(
        &self,
        from: Revision,
        through: Revision,
        revisions: usize,
        bytes: usize,
    ) -> Result<Vec<RevisionChanges>, ReadError> {
        let first = Place { main: from.0, sub: 0 };
        let (view, in_flight, pending, through) = {
            let shared = self.lock.read()?;
            shared.check_revision(from.0)?;
            let through = through.0.min(shared.revision);
            let mut pending = Gather::new(through, revisions, bytes);
            let mut rows = shared.pending.rows_from(first);
            rows.find(|(row, record)| !pending.take(*row, || Bytes::clone(record)));
            (Arc::clone(&shared.view), shared.in_flight.clone(), pending.done, through)
        };
        let mut gather = Gather::new(through, revisions, bytes);
        view.scan(first, |row, record| Ok(gather.take(row, || Bytes::copy_from_slice(record))))?;
        if let Some(batch) = in_flight {
            let mut rows = batch.rows_from(first);
            rows.find(|(row, record)| !gather.take(*row, || Bytes::clone(record)));
        }
        for (row, record) in pending {
            if !gather.take(row, || record) {
                break;
            }
        }
        Ok(gather.finish())
    }

    /// How big the store is.
    pub fn sizes(&self) -> Result<Sizes, StoreError> {
        let shared = self.lock.read()?;
        let marks = shared.view.marks;
        let rows = marks.rows + marks.side_rows;
        let in_use = marks.row_bytes + marks.side_bytes + rows * super::engine::ROW_OVERHEAD_BYTES;
        Ok(Sizes {
            file_bytes: shared.file_bytes,
            in_use_bytes: in_use.min(shared.file_bytes),
            retained_bytes: shared.retained,
            keys: shared.index.live(),
            index_bytes: shared.index.node_bytes() as u64,
            cached_bytes: shared.index.cached_bytes() as u64,
        })
    }

    /// Begins to answer a query in pieces, all at one revision. Orders other than by key,
    /// ascending, and filters are refused.
    pub fn stream(&self, query: RangeQuery) -> Result<RangeStream, ReadError> {
        query.check_stream()?;
        let shared = self.lock.read()?;
        let latest = shared.revision;
        let revision = resolve(query.revision, latest)?;
        shared.check_revision(revision)?;
        let counted = revision == latest;
        let count = if counted { shared.index.count(&query.keys) } else { 0 };
        drop(shared);
        let limit = usize::try_from(query.limit).ok().filter(|&limit| limit > 0);
        Ok(RangeStream {
            reader: self.clone(),
            walk: Walk::new(query.keys.clone(), revision),
            left: if query.count_only { 0 } else { limit.unwrap_or(usize::MAX) },
            sent: 0,
            count: counted.then_some(count),
            revision,
            latest: Revision(latest),
            ended: false,
            query,
        })
    }
}

/// Gathers whole revisions up to a bound.
struct Gather {
    through: i64,
    revisions: usize,
    bytes: usize,
    /// Main revision of the last row taken, and how many there were.
    current: i64,
    seen: usize,
    taken_bytes: usize,
    done: Vec<(RowKey, Bytes)>,
}

impl Gather {
    fn new(through: i64, revisions: usize, bytes: usize) -> Gather {
        let (current, seen, taken_bytes) = (i64::MIN, 0, 0);
        Gather { through, revisions, bytes, current, seen, taken_bytes, done: Vec::new() }
    }

    /// Takes a row, or says that it belongs to a revision too many.
    fn take(&mut self, row: RowKey, record: impl FnOnce() -> Bytes) -> bool {
        let main = row.place.main;
        if main > self.through {
            return false;
        }
        if main != self.current {
            if self.seen > 0 && (self.seen >= self.revisions || self.taken_bytes > self.bytes) {
                return false;
            }
            self.current = main;
            self.seen += 1;
        }
        let record = record();
        self.taken_bytes += record.len();
        self.done.push((row, record));
        true
    }

    fn finish(self) -> Vec<RevisionChanges> {
        let mut revisions: Vec<RevisionChanges> = Vec::with_capacity(self.seen);
        for (row, record) in self.done {
            let revision = Revision(row.place.main);
            let change = change(row, record);
            match revisions.last_mut() {
                Some(last) if last.revision == revision => last.changes.push(change),
                _ => revisions.push(RevisionChanges { revision, changes: vec![change] }),
            }
        }
        revisions
    }
}

/// The event of a row.
pub(super) fn change(row: RowKey, record: Bytes) -> Change {
    let main = row.place.main;
    if row.tombstone {
        let record = deletion(&Record::key_of(&record), main);
        let key = Record::key_of(&record);
        return Change { key, kind: ChangeKind::Delete, record, create: false };
    }
    let decoded = Record::decode(&record).expect("records are checked when written and read");
    let create = decoded.create_revision == main && decoded.version == 1;
    let key = record.slice_ref(decoded.key);
    Change { key, kind: ChangeKind::Put, record, create }
}

/// Several reads of one state.
pub struct Read<'r> {
    lock: &'r Lock,
    /// The state's revision; 0 before the first look.
    revision: Cell<i64>,
}

impl Source for Read<'_> {
    fn latest(&self, shared: &Shared) -> i64 {
        if self.revision.get() == 0 {
            self.revision.set(shared.revision);
        }
        self.revision.get()
    }

    fn newest(&self, shared: &Shared) -> i64 {
        shared.revision
    }

    fn with<R>(&self, look: impl FnOnce(&Shared) -> R) -> Result<R, StoreError> {
        Ok(look(&*self.lock.read()?))
    }

    fn keep(&self, fetched: &[(Place, Bytes)]) {
        self.lock.keep(fetched);
    }
}

/// What both a [`Read`] and a [`Write`](super::Write) can be asked.
pub trait KeyValueRead {
    /// The revision read at: for a write that has changed something, the one it makes.
    fn revision(&self) -> Result<Revision, StoreError>;

    /// Reads below it are refused; -1 before the first compaction.
    fn compacted(&self) -> Result<Revision, StoreError>;

    /// Answers a query.
    fn range(&self, query: &RangeQuery) -> Result<RangeResult, ReadError>;

    /// A key's numbers, if it is there.
    fn meta(&self, key: &[u8]) -> Result<Option<Meta>, ReadError>;

    /// A key's encoded `KeyValue`, if it is there.
    fn record(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError>;

    /// Shows `visit` the keys of a range and their numbers until it says stop. A lease shows as
    /// long as no later write changed the key.
    fn metas(
        &self,
        keys: &KeyRange,
        visit: &mut dyn FnMut(&[u8], Meta) -> bool,
    ) -> Result<(), ReadError>;
}

impl<S: Source> KeyValueRead for S {
    fn revision(&self) -> Result<Revision, StoreError> {
        self.with(|shared| Revision(self.latest(shared)))
    }

    fn compacted(&self) -> Result<Revision, StoreError> {
        self.with(|shared| Revision(shared.compacted))
    }

    fn range(&self, query: &RangeQuery) -> Result<RangeResult, ReadError> {
        range(self, query)
    }

    fn meta(&self, key: &[u8]) -> Result<Option<Meta>, ReadError> {
        let mut found = None;
        self.metas(&KeyRange::single(Bytes::copy_from_slice(key)), &mut |_, meta| {
            found = Some(meta);
            false
        })?;
        Ok(found)
    }

    fn record(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let found = self.with(|shared| {
            let latest = self.latest(shared);
            shared.check_revision(latest)?;
            let Some(state) = shared.index.get(key) else { return Ok(None) };
            let Some(point) = state.at(latest) else { return Ok(None) };
            let found = shared.find(state, point);
            let view = matches!(found, Found::InFile(_)).then(|| Arc::clone(&shared.view));
            Ok::<_, Error>(Some((found, view)))
        })??;
        found.map(|(found, view)| fetch(self, found, view)).transpose()
    }

    fn metas(
        &self,
        keys: &KeyRange,
        visit: &mut dyn FnMut(&[u8], Meta) -> bool,
    ) -> Result<(), ReadError> {
        let mut walk = None;
        let mut stopped = false;
        loop {
            self.with(|shared| {
                let walk = walk.get_or_insert_with(|| Walk::new(keys.clone(), self.latest(shared)));
                walk.chunk(shared, |key, state, point| {
                    let latest = point.place() == state.latest.place();
                    let meta = Meta {
                        create_revision: point.create,
                        mod_revision: point.main,
                        version: point.version,
                        lease: if latest { state.lease() } else { LeaseId(0) },
                    };
                    if visit(key, meta) {
                        return ControlFlow::Continue(());
                    }
                    stopped = true;
                    ControlFlow::Break(())
                })
            })??;
            if stopped || walk.as_ref().is_none_or(Walk::is_done) {
                return Ok(());
            }
        }
    }
}

/// An answer in pieces, all at one revision.
pub struct RangeStream {
    reader: Reader,
    query: RangeQuery,
    walk: Walk,
    /// Pairs that may still be sent.
    left: usize,
    sent: u64,
    /// Keys in the range; none while it must be found out by walking.
    count: Option<u64>,
    revision: i64,
    latest: Revision,
    ended: bool,
}

/// One piece of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeChunk {
    pub kvs: Vec<Bytes>,
    /// With the last piece only: whether a limit cut some off, keys in the range, revision of the
    /// store when the answer was begun.
    pub end: Option<(bool, i64, Revision)>,
}

impl RangeStream {
    /// The next piece, of at most `most` pairs; `None` after the last one.
    pub fn next(&mut self, most: usize) -> Result<Option<RangeChunk>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        let mut kvs = Vec::new();
        let wanted = most.max(1).min(self.left);
        while kvs.len() < wanted && !self.walk.is_done() {
            self.gather(wanted, &mut kvs)?;
        }
        self.left -= kvs.len();
        self.sent += kvs.len() as u64;
        if self.left > 0 && !self.walk.is_done() {
            return Ok(Some(RangeChunk { kvs, end: None }));
        }
        self.ended = true;
        let count = match self.count {
            Some(count) => count,
            None => self.sent + self.rest()?,
        };
        let more = !self.query.count_only && count > self.sent;
        Ok(Some(RangeChunk { kvs, end: Some((more, count as i64, self.latest)) }))
    }

    fn gather(&mut self, wanted: usize, kvs: &mut Vec<Bytes>) -> Result<(), ReadError> {
        let mut found = Vec::new();
        let keys_only = self.query.keys_only;
        let view = {
            let shared = self.reader.lock.read()?;
            self.walk.chunk(&shared, |key, state, point| {
                if kvs.len() + found.len() == wanted {
                    return ControlFlow::Break(());
                }
                found.push(if keys_only {
                    Found::Here(bare(key, point))
                } else {
                    shared.find(state, point)
                });
                ControlFlow::Continue(())
            })?;
            Arc::clone(&shared.view)
        };
        fetch_all(&self.reader.read(), found.iter_mut(), &view)?;
        kvs.extend(found.into_iter().map(Found::fetched));
        Ok(())
    }

    /// Counts what the walk has not visited.
    fn rest(&mut self) -> Result<u64, ReadError> {
        debug_assert!(self.revision <= self.latest.0);
        let mut rest = 0;
        while !self.walk.is_done() {
            let shared = self.reader.lock.read()?;
            self.walk.chunk(&shared, |_, _, _| {
                rest += 1;
                ControlFlow::Continue(())
            })?;
        }
        Ok(rest)
    }
}

/// All rows at one moment, for who needs every one.
pub(super) struct Capture {
    pub(super) view: Arc<View>,
    in_flight: Option<Arc<Batch>>,
    pending: Vec<(RowKey, Bytes)>,
}

impl Capture {
    /// Takes hold of all rows up to a revision.
    pub(super) fn new(shared: &Shared, through: i64) -> Capture {
        let rows = shared.pending.rows().take_while(|(row, _)| row.place.main <= through);
        Capture {
            view: Arc::clone(&shared.view),
            in_flight: shared.in_flight.clone(),
            pending: rows.map(|(row, record)| (row, record.clone())).collect(),
        }
    }

    /// Shows `f` every row up to a revision, in order.
    pub(super) fn scan(
        &self,
        through: i64,
        mut f: impl FnMut(RowKey, &[u8]),
    ) -> Result<(), StoreError> {
        self.view.scan(Place::FIRST, |row, record| {
            if row.place.main > through {
                return Ok(false);
            }
            f(row, record);
            Ok(true)
        })?;
        for (row, record) in self.in_flight.iter().flat_map(|batch| batch.rows()) {
            if row.place.main <= through {
                f(row, record);
            }
        }
        self.pending.iter().for_each(|(row, record)| f(*row, record));
        Ok(())
    }
}
