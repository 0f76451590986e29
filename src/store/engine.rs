//! The file: three redb tables and their checksums.
//!
//! | table | key | value |
//! |---|---|---|
//! | `revisions` | etcd's key of a revision (see [`super::record`]) | `KeyValue`, checksum |
//! | `side` | number of a [`Side`], key | value, checksum |
//! | `marks` | `marks` | [`Marks`], checksum |
//!
//! redb finds torn commits by itself, but hands out a flipped bit as if it were data. So each value
//! ends in a CRC-32C over its key and its bytes, checked on every read. That the number of rows is
//! right is checked when the file is opened.
//!
//! A commit is durable and saves the allocator's state ("quick repair"), so opening after a crash
//! reads two pages, not the whole file. Revisions only grow: rows are appended, which redb does
//! several times faster than inserting at random.

use super::backend::{Backend, Gate};
use super::error::StoreError;
use super::guard::guarded;
use super::pending::Batch;
use super::record::{Place, RowKey};
use crate::env::File;
use crate::types::{Index, Term};
use bytes::Bytes;
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTableMetadata, TableDefinition,
};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const REVISIONS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("revisions");
pub(super) const SIDE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("side");
const MARKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("marks");
const MARKS_KEY: &[u8] = b"marks";

/// What the tables look like. Rises when an older version could not read them.
pub(super) const FORMAT: u32 = 1;
const CHECKSUM_BYTES: usize = 4;
/// What a row costs the file beside its key and record: checksum and the page's two offsets.
pub(super) const ROW_OVERHEAD_BYTES: u64 = CHECKSUM_BYTES as u64 + 8;
/// Rows a scan steps over rather than seek anew.
const STEP_OVER_ROWS: usize = 8;

/// Durable state of other modules, each with a number of its own in the `side` table.
///
/// Released numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Side {
    /// What concerns this member alone; not part of [`Reader::hash`](super::Reader::hash).
    Local = 1,
    /// What the whole cluster agreed on: its version and the like.
    Cluster = 2,
    Member = 3,
    Lease = 4,
    Alarm = 5,
    Auth = 6,
    User = 7,
    Role = 8,
    /// What the v2 API keeps beside its keys.
    V2 = 9,
}

impl Side {
    /// Every table, by number.
    pub const ALL: [Side; 9] = [
        Side::Local,
        Side::Cluster,
        Side::Member,
        Side::Lease,
        Side::Alarm,
        Side::Auth,
        Side::User,
        Side::Role,
        Side::V2,
    ];
}

/// What the file says of itself, written with every batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Marks {
    /// Last log entry whose effects the file holds, and its term.
    pub(super) applied: Index,
    pub(super) term: Term,
    pub(super) revision: i64,
    /// Revision of the last compaction, -1 before the first; reads below it fail.
    pub(super) compacted: i64,
    /// Last compaction whose versions are all gone from the file.
    pub(super) finished: i64,
    /// Rows in `revisions`, and the bytes of their keys and records.
    pub(super) rows: u64,
    pub(super) row_bytes: u64,
    /// The same for `side`.
    pub(super) side_rows: u64,
    pub(super) side_bytes: u64,
}

impl Marks {
    pub(super) const BYTES: usize = 4 + 9 * 8;

    /// An empty store's.
    pub(super) fn new() -> Marks {
        Marks {
            applied: Index(0),
            term: Term(0),
            revision: 1,
            compacted: -1,
            finished: -1,
            rows: 0,
            row_bytes: 0,
            side_rows: 0,
            side_bytes: 0,
        }
    }

    pub(super) fn encode(&self) -> [u8; Marks::BYTES] {
        let mut bytes = [0; Marks::BYTES];
        bytes[..4].copy_from_slice(&FORMAT.to_le_bytes());
        let numbers = [
            self.applied.0,
            self.term.0,
            self.revision as u64,
            self.compacted as u64,
            self.finished as u64,
            self.rows,
            self.row_bytes,
            self.side_rows,
            self.side_bytes,
        ];
        for (slot, number) in bytes[4..].chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Marks, StoreError> {
        let (format, numbers) = bytes.split_at_checked(4).ok_or_else(|| damaged("marks"))?;
        let format = u32::from_le_bytes(format.try_into().expect("four bytes"));
        if format != FORMAT {
            return Err(StoreError::Format(format));
        }
        if bytes.len() != Marks::BYTES {
            return Err(damaged("marks"));
        }
        let mut numbers =
            numbers.chunks_exact(8).map(|n| u64::from_le_bytes(n.try_into().expect("eight bytes")));
        let mut next = || numbers.next().expect("nine numbers");
        Ok(Marks {
            applied: Index(next()),
            term: Term(next()),
            revision: next() as i64,
            compacted: next() as i64,
            finished: next() as i64,
            rows: next(),
            row_bytes: next(),
            side_rows: next(),
            side_bytes: next(),
        })
    }
}

fn damaged(table: &str) -> StoreError {
    StoreError::Corrupt { what: "an entry that is cut or changed".into(), place: table.into() }
}

fn checksum(key: &[u8], value: &[u8]) -> [u8; CHECKSUM_BYTES] {
    crc32c::crc32c_append(crc32c::crc32c(key), value).to_le_bytes()
}

/// Puts `value` and its checksum into `out`.
fn seal<'a>(out: &'a mut Vec<u8>, key: &[u8], value: &[u8]) -> &'a [u8] {
    out.clear();
    out.extend_from_slice(value);
    out.extend_from_slice(&checksum(key, value));
    out
}

/// The value without its checksum, if that is right.
fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (value, sum) = sealed.split_at_checked(sealed.len().checked_sub(CHECKSUM_BYTES)?)?;
    (checksum(key, value) == sum).then_some(value)
}

fn unseal_row<'a>(key: &[u8], sealed: &'a [u8]) -> Result<(RowKey, &'a [u8]), StoreError> {
    let row = RowKey::parse(key).ok_or_else(|| StoreError::Corrupt {
        what: "a key that is no revision".into(),
        place: format!("table revisions, key {}", key.escape_ascii()),
    })?;
    match unseal(key, sealed) {
        Some(record) => Ok((row, record)),
        None => Err(row_error("wrong checksum", row)),
    }
}

fn unseal_side<'a>(key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], StoreError> {
    unseal(key, sealed).ok_or_else(|| StoreError::Corrupt {
        what: "wrong checksum".into(),
        place: format!("table side, key {}", key.escape_ascii()),
    })
}

pub(super) fn row_error(what: &str, row: RowKey) -> StoreError {
    StoreError::Corrupt { what: what.into(), place: format!("table revisions, {row}") }
}

fn side_key(side: u8, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + key.len());
    bytes.push(side);
    bytes.extend_from_slice(key);
    bytes
}

/// The open file.
#[derive(Debug)]
pub(super) struct Engine {
    database: Arc<Held>,
    file_bytes: Arc<AtomicU64>,
    /// Closed until the first transaction: merely to open a file does not change it.
    gate: Arc<dyn Gate>,
}

impl Engine {
    /// Opens a file that [`Engine::create`] made, and the state it holds.
    pub(super) fn open<F: File>(file: F, cache: usize) -> Result<(Engine, View), StoreError> {
        guarded(|| {
            let engine = Engine::database(file, cache)?;
            let view = engine.view()?;
            Ok((engine, view))
        })
    }

    /// Makes an empty file into an empty store.
    pub(super) fn create<F: File>(file: F, cache: usize) -> Result<(Engine, View), StoreError> {
        let engine = Engine::database(file, cache)?;
        engine.finish(&Marks::new())?;
        let view = engine.view()?;
        Ok((engine, view))
    }

    /// Opens or creates without looking at what is in it.
    pub(super) fn database<F: File>(file: F, cache: usize) -> Result<Engine, StoreError> {
        let (backend, file_bytes, gate) = Backend::new(file)?;
        let mut builder = Database::builder();
        builder.set_cache_size(cache);
        let database = guarded(|| Ok(builder.create_with_backend(backend)?))?;
        let database = Arc::new(Held(Some(database)));
        Ok(Engine { database, file_bytes, gate })
    }

    /// The last committed state, to be read while writing goes on.
    pub(super) fn view(&self) -> Result<View, StoreError> {
        guarded(|| self.read_view())
    }

    fn read_view(&self) -> Result<View, StoreError> {
        let transaction = self.database.get().begin_read()?;
        let marks = match transaction.open_table(MARKS) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Err(StoreError::Unfinished),
            table => {
                let table = table?;
                let Some(sealed) = table.get(MARKS_KEY)? else {
                    return Err(StoreError::Unfinished);
                };
                match unseal(MARKS_KEY, sealed.value()) {
                    Some(marks) => Marks::decode(marks)?,
                    None => return Err(damaged("marks")),
                }
            }
        };
        let revisions = transaction.open_table(REVISIONS)?;
        let side = transaction.open_table(SIDE)?;
        if revisions.len()? != marks.rows || side.len()? != marks.side_rows {
            return Err(StoreError::Corrupt {
                what: format!(
                    "{} revisions and {} side rows where {} and {} were written",
                    revisions.len()?,
                    side.len()?,
                    marks.rows,
                    marks.side_rows
                ),
                place: "tables revisions and side".into(),
            });
        }
        Ok(View { revisions, side, marks, _database: Arc::clone(&self.database) })
    }

    /// Bytes the file takes.
    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes.load(Ordering::Relaxed)
    }

    /// Commits a batch durably and returns the state after it. `before` is the state it changes.
    pub(super) fn write(&self, batch: &Batch, before: &Marks) -> Result<View, StoreError> {
        guarded(|| self.write_batch(batch, before))
    }

    fn write_batch(&self, batch: &Batch, before: &Marks) -> Result<View, StoreError> {
        let mut marks = Marks { rows: before.rows, row_bytes: before.row_bytes, ..batch.marks };
        marks.side_rows = before.side_rows;
        marks.side_bytes = before.side_bytes;
        let transaction = self.begin(Durability::Immediate)?;
        {
            let mut table = transaction.open_table(REVISIONS)?;
            let mut sealed = Vec::new();
            let mut cursor = table.upper_bound_mut(Bound::<&[u8]>::Unbounded)?;
            for (row, record) in batch.rows() {
                let key = row.bytes();
                let value = seal(&mut sealed, key.as_slice(), record);
                cursor.insert_before(key.as_slice(), value).map_err(|error| match error {
                    redb::CursorError::UnorderedKey => row_error("a revision written twice", row),
                    redb::CursorError::Storage(error) => error.into(),
                    other => StoreError::Engine(other.to_string()),
                })?;
                marks.rows += 1;
                marks.row_bytes += (key.as_slice().len() + record.len()) as u64;
            }
            cursor.close()?;
            for row in batch.deletes() {
                let key = row.bytes();
                let Some(old) = table.remove(key.as_slice())? else {
                    return Err(row_error("a revision to be compacted is not there", row));
                };
                marks.rows -= 1;
                marks.row_bytes -=
                    (key.as_slice().len() + old.value().len() - CHECKSUM_BYTES) as u64;
            }
        }
        {
            let mut table = transaction.open_table(SIDE)?;
            let mut sealed = Vec::new();
            for ((side, key), value) in &batch.side {
                let key = side_key(*side, key);
                let old = match value {
                    Some(value) => {
                        marks.side_rows += 1;
                        marks.side_bytes += (key.len() + value.len()) as u64;
                        table.insert(key.as_slice(), seal(&mut sealed, &key, value))?
                    }
                    None => table.remove(key.as_slice())?,
                };
                if let Some(old) = old {
                    marks.side_rows -= 1;
                    marks.side_bytes -= (key.len() + old.value().len() - CHECKSUM_BYTES) as u64;
                }
            }
        }
        self.commit(transaction, &marks)?;
        self.view()
    }

    /// Begins a transaction. Without durability a later durable one makes it durable.
    pub(super) fn begin(
        &self,
        durability: Durability,
    ) -> Result<redb::WriteTransaction, StoreError> {
        self.gate.open()?;
        let mut transaction = self.database.get().begin_write()?;
        transaction.set_durability(durability)?;
        transaction.set_quick_repair(matches!(durability, Durability::Immediate));
        Ok(transaction)
    }

    /// Creates what tables are missing and writes the marks, which makes the file whole.
    pub(super) fn finish(&self, marks: &Marks) -> Result<(), StoreError> {
        guarded(|| {
            let transaction = self.begin(Durability::Immediate)?;
            transaction.open_table(REVISIONS)?;
            transaction.open_table(SIDE)?;
            self.commit(transaction, marks)
        })
    }

    fn commit(&self, transaction: redb::WriteTransaction, marks: &Marks) -> Result<(), StoreError> {
        {
            let mut table = transaction.open_table(MARKS)?;
            let mut sealed = Vec::new();
            table.insert(MARKS_KEY, seal(&mut sealed, MARKS_KEY, &marks.encode()))?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Appends rows with their checksums to a file being built; keys must ascend.
    pub(super) fn append<'a>(
        &self,
        table: TableDefinition<'_, &[u8], &[u8]>,
        rows: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<(), StoreError> {
        guarded(|| self.append_rows(table, rows))
    }

    fn append_rows<'a>(
        &self,
        table: TableDefinition<'_, &[u8], &[u8]>,
        rows: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<(), StoreError> {
        let transaction = self.begin(Durability::None)?;
        {
            let mut table = transaction.open_table(table)?;
            let mut sealed = Vec::new();
            let mut cursor = table.upper_bound_mut(Bound::<&[u8]>::Unbounded)?;
            for (key, value) in rows {
                let value = seal(&mut sealed, key, value);
                cursor.insert_before(key, value).map_err(|error| match error {
                    redb::CursorError::UnorderedKey => {
                        StoreError::Snapshot("its keys do not ascend".into())
                    }
                    redb::CursorError::Storage(error) => error.into(),
                    other => StoreError::Engine(other.to_string()),
                })?;
            }
            cursor.close()?;
        }
        transaction.commit()?;
        Ok(())
    }
}

/// The file's state as of one commit. Holding it keeps that state's pages from being reused.
pub(super) struct View {
    revisions: ReadOnlyTable<&'static [u8], &'static [u8]>,
    side: ReadOnlyTable<&'static [u8], &'static [u8]>,
    pub(super) marks: Marks,
    /// Dropped last: redb refuses to read from a database that was closed, as the old one is when
    /// a copy or a leader's snapshot takes its place.
    _database: Arc<Held>,
}

/// A database that is closed when its last reader is done.
#[derive(Debug)]
struct Held(Option<Database>);

impl Held {
    fn get(&self) -> &Database {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let database = self.0.take();
        // What redb finds wrong on closing is found again at the next start.
        let _ = guarded(|| {
            drop(database);
            Ok(())
        });
    }
}

impl View {
    /// The record of a put.
    pub(super) fn get(&self, place: Place) -> Result<Bytes, StoreError> {
        guarded(|| {
            let row = RowKey { place, tombstone: false };
            let key = row.bytes();
            let Some(sealed) = self.revisions.get(key.as_slice())? else {
                return Err(row_error("a revision is missing", row));
            };
            let (_, record) = unseal_row(key.as_slice(), sealed.value())?;
            Ok(Bytes::copy_from_slice(record))
        })
    }

    /// The records of puts whose places ascend, given to `found` with their place in `places`.
    /// Neighbours are reached by stepping, which is far cheaper than looking each up.
    pub(super) fn get_many(
        &self,
        places: &[Place],
        found: impl FnMut(usize, Bytes),
    ) -> Result<(), StoreError> {
        guarded(|| self.step_through(places, found))
    }

    fn step_through(
        &self,
        places: &[Place],
        mut found: impl FnMut(usize, Bytes),
    ) -> Result<(), StoreError> {
        debug_assert!(places.is_sorted());
        let mut rows: Option<redb::Range<'_, &[u8], &[u8]>> = None;
        'places: for (number, &place) in places.iter().enumerate() {
            let row = RowKey { place, tombstone: false };
            let key = row.bytes();
            for attempt in 0..2 {
                if attempt == 1 || rows.is_none() {
                    rows = Some(self.revisions.range(key.as_slice()..)?);
                }
                for item in rows.iter_mut().flatten().take(STEP_OVER_ROWS) {
                    let (at, sealed) = item?;
                    if at.value() == key.as_slice() {
                        let (_, record) = unseal_row(key.as_slice(), sealed.value())?;
                        found(number, Bytes::copy_from_slice(record));
                        continue 'places;
                    }
                    if at.value() > key.as_slice() {
                        break;
                    }
                }
            }
            return Err(row_error("a revision is missing", row));
        }
        Ok(())
    }

    /// Shows `f` the rows from a place on, in order, until it says stop.
    pub(super) fn scan(
        &self,
        from: Place,
        mut f: impl FnMut(RowKey, &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let from = RowKey { place: from, tombstone: false }.bytes();
        guarded(|| {
            for item in self.revisions.range(from.as_slice()..)? {
                let (key, sealed) = item?;
                let (row, record) = unseal_row(key.value(), sealed.value())?;
                if !f(row, record)? {
                    return Ok(());
                }
            }
            Ok(())
        })
    }

    /// Shows `f` the rows of one side table in key order.
    pub(super) fn scan_side(
        &self,
        side: Side,
        mut f: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        let (first, end) = ([side as u8], [side as u8 + 1]);
        guarded(|| {
            for item in self.side.range::<&[u8]>(first.as_slice()..end.as_slice())? {
                let (key, sealed) = item?;
                f(&key.value()[1..], unseal_side(key.value(), sealed.value())?);
            }
            Ok(())
        })
    }

    /// All rows of `revisions`, to be read bit by bit.
    pub(super) fn all_revisions(&self) -> Result<Rows, StoreError> {
        guarded(|| Ok(Rows { rows: self.revisions.range_owned::<&[u8]>(..)?, side: false }))
    }

    /// All rows of `side`, likewise.
    pub(super) fn all_side(&self) -> Result<Rows, StoreError> {
        guarded(|| Ok(Rows { rows: self.side.range_owned::<&[u8]>(..)?, side: true }))
    }
}

/// A table being read from the first row on; holds its state of the file.
pub(super) struct Rows {
    rows: redb::OwnedRange<&'static [u8], &'static [u8]>,
    side: bool,
}

impl Rows {
    /// Shows `f` the next row's key and value; false if there is none.
    pub(super) fn next(&mut self, f: impl FnOnce(&[u8], &[u8])) -> Result<bool, StoreError> {
        guarded(|| {
            let Some(item) = self.rows.next() else { return Ok(false) };
            let (key, sealed) = item?;
            let value = if self.side {
                unseal_side(key.value(), sealed.value())?
            } else {
                unseal_row(key.value(), sealed.value())?.1
            };
            f(key.value(), value);
            Ok(true)
        })
    }
}
