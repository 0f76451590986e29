//! The whole state as a stream of bytes, and a store file made from one.
//!
//! Peers that are too far behind get it, `Maintenance.Snapshot` sends it, a restore reads it, and
//! a defragmentation copies the same rows straight into a new file. It is the state of the last
//! flush, read while writing goes on; never is more of it in memory than one chunk or batch.
//!
//! | part | bytes |
//! |---|---|
//! | magic | `QUORSNAP` |
//! | marks | format, applied index and term, revisions, counts (76) |
//! | entry, many | kind (1 = revision, 2 = side row), length of key and value (u32 LE), key, value |
//! | end | a zero byte, then zeros up to a multiple of 512 |
//! | digest | SHA-256 of all before (32) |
//!
//! So its length is 32 more than a multiple of 512, as tools expect of etcd's snapshots, and known
//! beforehand. Equal flushed states give equal bytes, whatever their files look like inside.

use super::engine::{Engine, Marks, REVISIONS, Rows, SIDE, View};
use super::error::StoreError;
use super::owner::{Options, Store};
use super::read::Reader;
use super::record::RowKey;
use crate::env::File;
use crate::types::{Index, Revision, Term, limits};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"QUORSNAP";
const HEADER_BYTES: usize = MAGIC.len() + Marks::BYTES;
const ENTRY_HEAD_BYTES: usize = 9;
const DIGEST_BYTES: usize = 32;
const BLOCK_BYTES: u64 = 512;
const END: u8 = 0;
const REVISION_ENTRY: u8 = 1;
const SIDE_ENTRY: u8 = 2;

/// Which state a snapshot is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotMeta {
    /// The last log entry whose effects it holds.
    pub applied: Index,
    pub term: Term,
    pub revision: Revision,
    pub compacted: Revision,
}

impl SnapshotMeta {
    fn of(marks: &Marks) -> SnapshotMeta {
        SnapshotMeta {
            applied: marks.applied,
            term: marks.term,
            revision: Revision(marks.revision),
            compacted: Revision(marks.compacted),
        }
    }
}

/// Bytes before the padding.
fn plain_bytes(marks: &Marks) -> u64 {
    let heads = (marks.rows + marks.side_rows) * ENTRY_HEAD_BYTES as u64;
    HEADER_BYTES as u64 + heads + marks.row_bytes + marks.side_bytes + 1
}

/// A snapshot being sent, chunk by chunk.
pub struct SnapshotSource {
    marks: Marks,
    /// What is left of the tables; the one in front is being read.
    rows: Rows,
    side: Option<Rows>,
    hasher: Sha256,
    buffer: BytesMut,
    stage: SourceStage,
    /// Bytes put into `buffer` so far, and bytes given out.
    written: u64,
    sent: u64,
}

#[derive(PartialEq, Eq)]
enum SourceStage {
    Rows,
    Side,
    Digest,
    Done,
}

impl SnapshotSource {
    fn new(view: &View) -> Result<SnapshotSource, StoreError> {
        let mut source = SnapshotSource {
            marks: view.marks,
            rows: view.all_revisions()?,
            side: Some(view.all_side()?),
            hasher: Sha256::new(),
            buffer: BytesMut::new(),
            stage: SourceStage::Rows,
            written: 0,
            sent: 0,
        };
        source.put(MAGIC);
        source.put(&view.marks.encode());
        Ok(source)
    }

    /// Which state it is of.
    pub fn meta(&self) -> SnapshotMeta {
        SnapshotMeta::of(&self.marks)
    }

    /// Bytes of the whole snapshot, its digest included.
    pub fn total_bytes(&self) -> u64 {
        plain_bytes(&self.marks).next_multiple_of(BLOCK_BYTES) + DIGEST_BYTES as u64
    }

    /// Bytes not yet given out.
    pub fn remaining_bytes(&self) -> u64 {
        self.total_bytes() - self.sent
    }

    /// The next bytes, at most `SNAPSHOT_CHUNK_BYTES` of them; `None` after the last. The digest
    /// comes last and alone.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        while self.buffer.len() < limits::SNAPSHOT_CHUNK_BYTES
            && matches!(self.stage, SourceStage::Rows | SourceStage::Side)
        {
            self.fill()?;
        }
        if self.buffer.is_empty() {
            if self.stage == SourceStage::Done {
                return Ok(None);
            }
            self.stage = SourceStage::Done;
            let digest = std::mem::take(&mut self.hasher).finalize();
            self.sent += DIGEST_BYTES as u64;
            return Ok(Some(Bytes::copy_from_slice(&digest)));
        }
        let len = self.buffer.len().min(limits::SNAPSHOT_CHUNK_BYTES);
        let chunk = self.buffer.split_to(len).freeze();
        self.hasher.update(&chunk);
        self.sent += chunk.len() as u64;
        Ok(Some(chunk))
    }

    /// Adds one entry, or what follows the last one.
    fn fill(&mut self) -> Result<(), StoreError> {
        let kind = if self.stage == SourceStage::Rows { REVISION_ENTRY } else { SIDE_ENTRY };
        let buffer = &mut self.buffer;
        let written = &mut self.written;
        let more = self.rows.next(|key, value| {
            buffer.put_u8(kind);
            buffer.put_u32_le(length(key));
            buffer.put_u32_le(length(value));
            buffer.put_slice(key);
            buffer.put_slice(value);
            *written += (ENTRY_HEAD_BYTES + key.len() + value.len()) as u64;
        })?;
        if more {
            return Ok(());
        }
        if let Some(side) = self.side.take() {
            self.rows = side;
            self.stage = SourceStage::Side;
            return Ok(());
        }
        self.put(&[END]);
        assert_eq!(self.written, plain_bytes(&self.marks), "the marks count every row");
        let padding = self.written.next_multiple_of(BLOCK_BYTES) - self.written;
        self.put(&vec![0; padding as usize]);
        self.stage = SourceStage::Digest;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) {
        self.buffer.put_slice(bytes);
        self.written += bytes.len() as u64;
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a row is shorter than 4 GiB")
}

impl Reader {
    /// A snapshot of the last flushed state.
    pub fn snapshot_source(&self) -> Result<SnapshotSource, StoreError> {
        let view = Arc::clone(&self.lock.read()?.view);
        SnapshotSource::new(&view)
    }
}

/// Rows waiting to be written into a file being built.
#[derive(Default)]
struct Builder {
    rows: Vec<(Bytes, Bytes)>,
    bytes: usize,
    /// What was written so far.
    rows_done: u64,
    row_bytes: u64,
    side_done: u64,
    side_bytes: u64,
    in_side: bool,
}

impl Builder {
    fn add(
        &mut self,
        engine: &Engine,
        side: bool,
        key: Bytes,
        value: Bytes,
    ) -> Result<(), StoreError> {
        if side != self.in_side {
            if !side {
                return Err(StoreError::Snapshot("a revision behind the side tables".into()));
            }
            self.write(engine)?;
            self.in_side = true;
        }
        let bytes = key.len() + value.len();
        let (rows, sum) = if side {
            (&mut self.side_done, &mut self.side_bytes)
        } else {
            (&mut self.rows_done, &mut self.row_bytes)
        };
        *rows += 1;
        *sum += bytes as u64;
        self.rows.push((key, value));
        self.bytes += bytes;
        if self.bytes >= limits::STORE_RESTORE_BATCH_BYTES {
            self.write(engine)?;
        }
        Ok(())
    }

    fn write(&mut self, engine: &Engine) -> Result<(), StoreError> {
        let table = if self.in_side { SIDE } else { REVISIONS };
        engine.append(table, self.rows.iter().map(|(key, value)| (&key[..], &value[..])))?;
        self.rows.clear();
        self.bytes = 0;
        Ok(())
    }

    /// Writes what is left and makes the file whole.
    fn finish(mut self, engine: &Engine, marks: &Marks) -> Result<(), StoreError> {
        self.write(engine)?;
        let done = (self.rows_done, self.row_bytes, self.side_done, self.side_bytes);
        if done != (marks.rows, marks.row_bytes, marks.side_rows, marks.side_bytes) {
            return Err(StoreError::Snapshot("it does not hold what its head says".into()));
        }
        engine.finish(marks)
    }
}

/// Makes a store file from a snapshot's bytes. Until [`SnapshotSink::finish`] the file is no store:
/// opening it says that it is unfinished.
pub struct SnapshotSink {
    engine: Engine,
    builder: Builder,
    hasher: Sha256,
    buffer: BytesMut,
    stage: SinkStage,
    marks: Option<Marks>,
    /// Bytes taken out of the buffer.
    taken: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SinkStage {
    Head,
    Entries,
    Padding,
    Digest,
    Done,
}

impl SnapshotSink {
    /// Begins a store in an empty file.
    pub fn create<F: File>(file: F, options: Options) -> Result<SnapshotSink, StoreError> {
        Ok(SnapshotSink {
            engine: Engine::database(file, options.page_cache_bytes)?,
            builder: Builder::default(),
            hasher: Sha256::new(),
            buffer: BytesMut::new(),
            stage: SinkStage::Head,
            marks: None,
            taken: 0,
        })
    }

    /// Takes the next bytes, however they were cut. An error is final.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.buffer.extend_from_slice(bytes);
        while self.step()? {}
        Ok(())
    }

    /// Takes one part out of the buffer if it is there whole.
    fn step(&mut self) -> Result<bool, StoreError> {
        match self.stage {
            SinkStage::Head => {
                let Some(head) = self.take(HEADER_BYTES) else { return Ok(false) };
                if &head[..MAGIC.len()] != MAGIC {
                    return Err(StoreError::Snapshot("it does not begin like one".into()));
                }
                self.marks = Some(Marks::decode(&head[MAGIC.len()..])?);
                self.stage = SinkStage::Entries;
                Ok(true)
            }
            SinkStage::Entries => self.entry(),
            SinkStage::Padding => {
                let missing = self.taken.next_multiple_of(BLOCK_BYTES) - self.taken;
                let Some(padding) = self.take(missing as usize) else { return Ok(false) };
                if padding.iter().any(|&byte| byte != 0) {
                    return Err(StoreError::Snapshot("its padding is not empty".into()));
                }
                self.stage = SinkStage::Digest;
                Ok(true)
            }
            SinkStage::Digest => {
                if self.buffer.len() < DIGEST_BYTES {
                    return Ok(false);
                }
                let digest = std::mem::take(&mut self.hasher).finalize();
                if self.buffer.split_to(DIGEST_BYTES)[..] != digest[..] {
                    return Err(StoreError::Snapshot("its digest is wrong".into()));
                }
                self.stage = SinkStage::Done;
                Ok(true)
            }
            SinkStage::Done if self.buffer.is_empty() => Ok(false),
            SinkStage::Done => Err(StoreError::Snapshot("it goes on behind its digest".into())),
        }
    }

    fn entry(&mut self) -> Result<bool, StoreError> {
        let Some(&kind) = self.buffer.first() else { return Ok(false) };
        if kind == END {
            self.take(1).expect("one byte is there");
            self.stage = SinkStage::Padding;
            return Ok(true);
        }
        if kind != REVISION_ENTRY && kind != SIDE_ENTRY {
            return Err(StoreError::Snapshot(format!("it has an entry of kind {kind}")));
        }
        let Some(head) = self.buffer.get(1..ENTRY_HEAD_BYTES) else { return Ok(false) };
        let (key, value) = (&mut &head[..4], &mut &head[4..]);
        let (key, value) = (key.get_u32_le() as usize, value.get_u32_le() as usize);
        let Some(mut entry) = self.take(ENTRY_HEAD_BYTES + key + value) else {
            return Ok(false);
        };
        entry.advance(ENTRY_HEAD_BYTES);
        let key = entry.split_to(key);
        if kind == REVISION_ENTRY && RowKey::parse(&key).is_none() {
            return Err(StoreError::Snapshot("a key in it is no revision".into()));
        }
        self.builder.add(&self.engine, kind == SIDE_ENTRY, key, entry)?;
        Ok(true)
    }

    fn take(&mut self, len: usize) -> Option<Bytes> {
        if self.buffer.len() < len {
            return None;
        }
        let part = self.buffer.split_to(len).freeze();
        self.hasher.update(&part);
        self.taken += len as u64;
        Some(part)
    }

    /// Makes the file a store, if all came and the digest was right. It can then be opened.
    pub fn finish(self) -> Result<SnapshotMeta, StoreError> {
        let Some(marks) = self.marks.filter(|_| self.stage == SinkStage::Done) else {
            return Err(StoreError::Snapshot("it ends too early".into()));
        };
        self.builder.finish(&self.engine, &marks)?;
        Ok(SnapshotMeta::of(&marks))
    }
}

/// A copy of the file without its holes, being made.
///
/// redb uses pages again that compaction freed, and cuts the file when its end is empty, but
/// closes no holes. Its own `compact` wants nobody else to read or write meanwhile. So a
/// defragmentation copies the flushed rows into a new file: reads and writes go on, only flushes
/// wait, their batch growing in memory.
pub struct DefragmentJob {
    view: Arc<View>,
    engine: Engine,
}

/// The finished copy.
pub struct Defragmented {
    engine: Engine,
    view: View,
}

impl DefragmentJob {
    /// Copies and syncs. After an error the store still has its old file.
    pub fn run(self) -> Result<Defragmented, StoreError> {
        let mut builder = Builder::default();
        let tables = [self.view.all_revisions()?, self.view.all_side()?];
        for (side, mut rows) in [false, true].into_iter().zip(tables) {
            let mut row = None;
            while rows.next(|key, value| {
                row = Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            })? {
                if let Some((key, value)) = row.take() {
                    builder.add(&self.engine, side, key, value)?;
                }
            }
        }
        builder.finish(&self.engine, &self.view.marks)?;
        let view = self.engine.view()?;
        Ok(Defragmented { engine: self.engine, view })
    }
}

impl Store {
    /// A snapshot of the last flushed state.
    pub fn snapshot_source(&self) -> Result<SnapshotSource, StoreError> {
        self.reader().snapshot_source()
    }

    /// Prepares to copy the store into an empty file; none if a flush is under way. From here to
    /// [`Store::finish_defragment`] or [`Store::abandon_defragment`] nothing is flushed.
    pub fn begin_defragment<F: File>(
        &mut self,
        file: F,
    ) -> Result<Option<DefragmentJob>, StoreError> {
        if self.busy {
            return Ok(None);
        }
        let engine = Engine::database(file, self.options.page_cache_bytes)?;
        self.busy = true;
        Ok(Some(DefragmentJob { view: Arc::clone(&self.lock.read()?.view), engine }))
    }

    /// Goes on in the copy, which by now must be durable under the store's name.
    pub fn finish_defragment(&mut self, copy: Defragmented) -> Result<(), StoreError> {
        let Defragmented { engine, view } = copy;
        let mut shared = self.lock.write()?;
        assert_eq!(view.marks, shared.view.marks, "nothing is flushed during a defragmentation");
        shared.file_bytes = engine.file_bytes();
        let old_view = std::mem::replace(&mut shared.view, Arc::new(view));
        drop(shared);
        let old_engine = std::mem::replace(&mut self.engine, Arc::new(engine));
        self.busy = false;
        drop((old_view, old_engine));
        Ok(())
    }

    /// Goes on in the old file; the copy may be removed.
    pub fn abandon_defragment(&mut self) {
        self.busy = false;
    }
}
