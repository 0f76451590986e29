//! The store as its one writer holds it: applying, flushing, compacting.

use super::engine::{Engine, Marks, Side, View, row_error};
use super::error::StoreError;
use super::index::{Index as Keys, Loader, Point};
use super::pending::Batch;
use super::read::Reader;
use super::record::{Place, Record};
use super::shared::{Lock, Shared, weight};
use super::write::Write;
use crate::env::File;
use crate::types::{Error, Index, LeaseId, Revision, Term, limits};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How much memory a store may use for what it could also read from the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Bytes of records of latest versions kept at hand.
    pub cache_bytes: usize,
    /// Bytes of the file's pages redb keeps.
    pub page_cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cache_bytes: limits::STORE_CACHE_BYTES,
            page_cache_bytes: limits::STORE_PAGE_CACHE_BYTES,
        }
    }
}

/// What an opened file held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// The last log entry whose effects it holds: the log replays what follows.
    pub applied: Index,
    pub term: Term,
    pub revision: Revision,
    pub compacted: Revision,
    /// Keys that hang on a lease, in key order.
    pub leased: Vec<(Bytes, LeaseId)>,
}

/// How much waits to be flushed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Pending {
    /// Versions, deletions and side rows.
    pub entries: usize,
    pub bytes: usize,
    /// A batch is on its way, or a defragmentation: nothing can be flushed before it is done.
    pub in_flight: bool,
}

/// How far one step of a compaction came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompactProgress {
    /// Nothing is left to do.
    pub done: bool,
    /// Versions dropped by this step.
    pub removed: usize,
}

/// Where a compaction's walk over the keys is.
#[derive(Debug)]
struct CompactWalk {
    /// What is finished once the walk is through: the compacted revision when it began.
    target: i64,
    /// First key not yet visited.
    next: Vec<u8>,
}

/// The store. One loop owns it and applies what the log says; everybody else has a [`Reader`].
pub struct Store {
    pub(super) engine: Arc<Engine>,
    pub(super) lock: Arc<Lock>,
    applied: Index,
    term: Term,
    compaction: Option<CompactWalk>,
    /// A flush or a defragmentation is under way.
    pub(super) busy: bool,
    pub(super) options: Options,
}

impl Store {
    /// Makes an empty file into an empty store and opens it. Create it under another name and
    /// rename it, so that a crash in between leaves no half-made store behind.
    pub fn create<F: File>(file: F, options: Options) -> Result<Store, StoreError> {
        let (engine, view) = Engine::create(file, options.page_cache_bytes)?;
        Store::restore(engine, view, options).map(|(store, _)| store)
    }

    /// Opens the file of a store, reading every version's record once and checking it.
    pub fn open<F: File>(file: F, options: Options) -> Result<(Store, Restored), StoreError> {
        let (engine, view) = Engine::open(file, options.page_cache_bytes)?;
        Store::restore(engine, view, options)
    }

    fn restore(
        engine: Engine,
        view: View,
        options: Options,
    ) -> Result<(Store, Restored), StoreError> {
        let marks = view.marks;
        let mut index = Keys::new(options.cache_bytes);
        let retained = load(&view, &mut index)?;
        let leased = index
            .iter()
            .filter(|(_, state)| state.lease() != LeaseId(0))
            .map(|(key, state)| (Bytes::copy_from_slice(key), state.lease()))
            .collect();
        let restored = Restored {
            applied: marks.applied,
            term: marks.term,
            revision: Revision(marks.revision),
            compacted: Revision(marks.compacted),
            leased,
        };
        let shared = Shared {
            index,
            pending: Batch::new(marks),
            in_flight: None,
            view: Arc::new(view),
            revision: marks.revision,
            compacted: marks.compacted,
            finished: marks.finished,
            retained,
            file_bytes: engine.file_bytes(),
            compaction_hashes: VecDeque::new(),
            broken: false,
        };
        let compaction = (marks.finished < marks.compacted)
            .then(|| CompactWalk { target: marks.compacted, next: Vec::new() });
        let store = Store {
            engine: Arc::new(engine),
            lock: Arc::new(Lock::new(shared)),
            applied: marks.applied,
            term: marks.term,
            compaction,
            busy: false,
            options,
        };
        Ok((store, restored))
    }

    /// Puts `other`'s content in the place of this store's, for every reader at once: a state
    /// that a leader sent takes over from ours.
    pub fn replace(&mut self, other: Store) -> Result<(), StoreError> {
        let Store { engine, lock, applied, term, compaction, busy, options } = other;
        assert!(!busy && !self.busy, "nothing may be on its way to either file");
        let content = Arc::into_inner(lock).expect("nobody reads the other one yet").into_inner();
        *self.lock.write()? = content?;
        self.engine = engine;
        (self.applied, self.term) = (applied, term);
        (self.compaction, self.options) = (compaction, options);
        Ok(())
    }

    /// A handle for reading.
    pub fn reader(&self) -> Reader {
        Reader { lock: Arc::clone(&self.lock) }
    }

    /// Begins to apply a request.
    pub fn write(&mut self) -> Result<Write<'_>, StoreError> {
        Write::begin(&self.lock)
    }

    /// Says which log entry the state now is the result of. It becomes durable together with the
    /// entry's effects.
    pub fn set_applied(&mut self, applied: Index, term: Term) {
        assert!(applied >= self.applied, "entries are applied in order");
        (self.applied, self.term) = (applied, term);
    }

    /// The last applied entry.
    pub fn applied(&self) -> (Index, Term) {
        (self.applied, self.term)
    }

    /// The last entry whose effects are in the file: the log may forget it and all before.
    pub fn flushed(&self) -> Result<(Index, Term), StoreError> {
        let marks = self.lock.read()?.view.marks;
        Ok((marks.applied, marks.term))
    }

    /// Sets a row of another module's durable state.
    pub fn side_put(&mut self, side: Side, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.set_side(side, key, Some(Bytes::copy_from_slice(value)))
    }

    /// Removes a row of another module's durable state; fine if there is none.
    pub fn side_delete(&mut self, side: Side, key: &[u8]) -> Result<(), StoreError> {
        self.set_side(side, key, None)
    }

    fn set_side(&mut self, side: Side, key: &[u8], value: Option<Bytes>) -> Result<(), StoreError> {
        let key = Bytes::copy_from_slice(key);
        self.lock.write()?.pending.set_side(side as u8, key, value);
        Ok(())
    }

    /// Another module's durable state, by key.
    pub fn side_scan(&self, side: Side) -> Result<BTreeMap<Bytes, Bytes>, StoreError> {
        side_rows(&self.lock, side)
    }

    /// How much waits to be flushed.
    pub fn pending(&self) -> Result<Pending, StoreError> {
        let shared = self.lock.read()?;
        let (entries, bytes) = (shared.pending.entries(), shared.pending.bytes());
        Ok(Pending { entries, bytes, in_flight: self.busy })
    }

    /// Takes what is pending to be written; none if there is nothing new, or if a flush or a
    /// defragmentation is under way.
    pub fn begin_flush(&mut self) -> Result<Option<FlushJob>, StoreError> {
        if self.busy {
            return Ok(None);
        }
        let mut shared = self.lock.write()?;
        let before = shared.view.marks;
        let marks = Marks {
            applied: self.applied,
            term: self.term,
            revision: shared.revision,
            compacted: shared.compacted,
            finished: shared.finished,
            ..before
        };
        if shared.pending.is_empty() && marks == before {
            return Ok(None);
        }
        let mut batch = std::mem::replace(&mut shared.pending, Batch::new(marks));
        batch.marks = marks;
        let batch = Arc::new(batch);
        shared.in_flight = Some(Arc::clone(&batch));
        drop(shared);
        self.busy = true;
        Ok(Some(FlushJob { engine: Arc::clone(&self.engine), batch, before }))
    }

    /// Takes note of a flush that is done. After an error nothing is known about the file: the
    /// node stops.
    pub fn finish_flush(&mut self, outcome: FlushOutcome) -> Result<(), StoreError> {
        let view = Arc::new(outcome.0?);
        self.busy = false;
        let file_bytes = self.engine.file_bytes();
        let mut shared = self.lock.write()?;
        shared.file_bytes = file_bytes;
        let old = std::mem::replace(&mut shared.view, view);
        let batch = shared.in_flight.take();
        drop(shared);
        // Freed once the lock is released.
        drop((old, batch));
        Ok(())
    }

    /// Forgets a flush that did not begin, before all it holds is replaced.
    pub fn abandon_flush(&mut self, job: FlushJob) {
        drop(job);
        self.busy = false;
    }

    /// Flushes here and now; for who has no requests to serve meanwhile.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        match self.begin_flush()? {
            Some(job) => self.finish_flush(job.run()),
            None => Ok(()),
        }
    }

    /// Forgets all versions that nobody reading at `revision` or later can see. Reads below it are
    /// refused from now on; the versions go step by step in [`Store::compact_step`].
    pub fn compact(&mut self, revision: Revision) -> Result<Result<(), Error>, StoreError> {
        let mut shared = self.lock.write()?;
        if revision.0 <= shared.compacted {
            return Ok(Err(Error::Compacted));
        }
        if revision.0 > shared.revision {
            return Ok(Err(Error::FutureRevision));
        }
        shared.compacted = revision.0;
        // A walk under way goes on, dropping by the new revision what it still meets; what it has
        // passed waits for the next round. To start over could mean never to come to the end.
        if self.compaction.is_none() {
            self.compaction = Some(CompactWalk { target: revision.0, next: Vec::new() });
        }
        Ok(Ok(()))
    }

    /// Drops some versions that the last compaction made unreadable, visiting at most `most` keys
    /// and versions. The owner repeats it, with pauses, until it is done.
    pub fn compact_step(&mut self, most: usize) -> Result<CompactProgress, StoreError> {
        let Some(walk) = &mut self.compaction else {
            return Ok(CompactProgress { done: true, removed: 0 });
        };
        let mut guard = self.lock.write()?;
        let shared = &mut *guard;
        let mut removed: Vec<Point> = Vec::new();
        let next =
            shared.index.compact_step(shared.compacted, &walk.next, most.max(1), &mut removed);
        for point in &removed {
            shared.drop_row(point);
        }
        match next {
            Some(next) => walk.next = next,
            None => {
                shared.finished = walk.target;
                let again = shared.finished < shared.compacted;
                self.compaction =
                    again.then(|| CompactWalk { target: shared.compacted, next: Vec::new() });
            }
        }
        Ok(CompactProgress { done: self.compaction.is_none(), removed: removed.len() })
    }

    /// Whether [`Store::compact_step`] has something to do.
    pub fn is_compacting(&self) -> bool {
        self.compaction.is_some()
    }
}

/// Puts every row of the file into the index and returns what they weigh.
fn load(view: &View, index: &mut Keys) -> Result<u64, StoreError> {
    let mut last = Place::FIRST;
    let mut retained = 0;
    let mut rows = 0;
    let mut loader = Loader::new(index);
    view.scan(last, |row, bytes| {
        let Place { main, sub } = row.place;
        let Some(record) = Record::decode(bytes) else {
            return Err(row_error("a record that is no KeyValue", row));
        };
        let sound = if row.tombstone {
            record == Record { key: record.key, ..Record::default() }
        } else {
            record.mod_revision == main && record.version > 0 && record.create_revision > 0
        };
        if !sound || record.key.is_empty() || (rows > 0 && row.place <= last) {
            return Err(row_error("a record in the wrong place", row));
        }
        last = row.place;
        rows += 1;
        retained += weight(bytes.len());
        loader.add(
            record.key,
            Point {
                main,
                create: record.create_revision,
                version: record.version,
                sub,
                bytes: bytes.len() as u32,
            },
            LeaseId(record.lease),
        );
        Ok(true)
    })?;
    loader.finish();
    if rows != view.marks.rows || (rows > 0 && last.main > view.marks.revision) {
        return Err(StoreError::Corrupt {
            what: format!("{rows} revisions up to {} were read", last.main),
            place: format!(
                "table revisions, where {} up to {} were written",
                view.marks.rows, view.marks.revision
            ),
        });
    }
    Ok(retained)
}

/// The rows of one side table: the file's, with what is not yet flushed on top.
pub(super) fn side_rows(lock: &Lock, side: Side) -> Result<BTreeMap<Bytes, Bytes>, StoreError> {
    let (view, changes) = {
        let shared = lock.read()?;
        let batches = [shared.in_flight.as_deref(), Some(&shared.pending)];
        let mut changes: Vec<(Bytes, Option<Bytes>)> = Vec::new();
        for batch in batches.into_iter().flatten() {
            let rows = batch.side.range((side as u8, Bytes::new())..);
            let rows = rows.take_while(|((number, _), _)| *number == side as u8);
            changes.extend(rows.map(|((_, key), value)| (key.clone(), value.clone())));
        }
        (Arc::clone(&shared.view), changes)
    };
    let mut rows = BTreeMap::new();
    view.scan_side(side, |key, value| {
        rows.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    })?;
    for (key, value) in changes {
        match value {
            Some(value) => drop(rows.insert(key, value)),
            None => drop(rows.remove(&key)),
        }
    }
    Ok(rows)
}

/// A batch on its way to the file. Run it where waiting for the disk harms nobody.
pub struct FlushJob {
    engine: Arc<Engine>,
    batch: Arc<Batch>,
    before: Marks,
}

/// What became of a [`FlushJob`]; [`Store::finish_flush`] wants it.
pub struct FlushOutcome(Result<View, StoreError>);

impl FlushJob {
    /// Bytes that must be free on the disk before it runs. Large values take up to twice their
    /// size, since pages grow by doubling; pages that change on the way come on top.
    pub fn room_bytes(&self) -> u64 {
        3 * self.batch.bytes() as u64 + limits::STORE_FLUSH_ROOM_BYTES
    }

    /// Writes and syncs.
    pub fn run(self) -> FlushOutcome {
        FlushOutcome(self.engine.write(&self.batch, &self.before))
    }
}
