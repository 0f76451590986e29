//! The log while it is written: append, rotate, reset, release.
//!
//! The writer keeps three marks in the current segment: `synced` <= `position` <= `capacity`.
//! Below `synced` all is durable, from `position` on all is zero, and below `capacity` the space
//! is reserved. When a frame does not fit below `capacity` the log goes on in a new segment.
//!
//! A new segment comes about in steps, each of which may be the last one before a crash:
//!
//! | step | after a crash |
//! |------|---------------|
//! | 1. make `next.tmp` at full size (ahead of time, in [`Wal::prepare`]) | removed on open |
//! | 2. sync the current segment | as before |
//! | 3. write and sync the header in `next.tmp` | removed on open |
//! | 4. rename it | it is there, empty, or it is `next.tmp` |
//! | 5. sync the directory | it is there, empty |
//!
//! Only then the first frame goes into it. Whoever sees a segment under its name may therefore
//! rely on its header and on the whole segment before.

use super::error::{Result, WalError};
use super::frame::{FRAME_HEADER_BYTES, FrameHeader};
use super::record;
use super::segment::{NEXT_NAME, SEGMENT_HEADER_BYTES, SegmentHeader, sequence_in_name};
use super::{Appended, Batch, HardState, Identity, LogEntry, Recovered, WalFigures, WalOptions};
use crate::env::{Disk, File};
use crate::types::limits::{LOG_BATCH_BYTES_MAX, LOG_FRAME_BYTES_MAX};
use crate::types::{Index, Term};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

/// Smallest segment that makes sense: its header and one frame with a hard state.
const SEGMENT_BYTES_MIN: u64 = 256;

/// The write-ahead log of one member. See the module's documentation.
#[derive(Debug)]
pub struct Wal<D: Disk> {
    pub(super) disk: D,
    pub(super) directory: PathBuf,
    pub(super) options: WalOptions,
    pub(super) identity: Identity,
    /// Segments before the current one, oldest first, sequences without a gap.
    pub(super) closed: VecDeque<Closed>,
    pub(super) current: Current<D::File>,
    /// The next segment, reserved but without a header and a name.
    pub(super) next: Option<Next<D::File>>,
    /// Number of the next frame.
    pub(super) number: u64,
    /// Checksum of the last frame, or the seed of a segment without one.
    pub(super) chain: u32,
    /// The last entry, or where the log continues if it has none.
    pub(super) last: (Index, Term),
    /// As last appended.
    pub(super) hard_state: HardState,
    /// Sequence of the segment with the last reset, 0 if there is none: all before it is void.
    pub(super) reset_sequence: u64,
    /// The frame being built; kept for its memory.
    pub(super) buffer: Vec<u8>,
    /// Set for good once it is unknown what is durable.
    pub(super) poisoned: bool,
}

/// A segment that will not change any more. All of it is durable.
#[derive(Debug)]
pub(super) struct Closed {
    pub path: PathBuf,
    pub sequence: u64,
    /// The last entry before this segment.
    pub base: (Index, Term),
    pub bytes: u64,
}

/// The segment being written.
#[derive(Debug)]
pub(super) struct Current<F> {
    pub path: PathBuf,
    pub file: F,
    pub sequence: u64,
    /// The last entry before this segment.
    pub base: (Index, Term),
    /// Where the checksums of its frames start from.
    pub seed: u32,
    /// Where the next frame goes; at most `capacity`.
    pub position: u64,
    /// Durable up to here; at most `position`.
    pub synced: u64,
    /// Size of the file.
    pub capacity: u64,
}

/// `next.tmp`.
#[derive(Debug)]
pub(super) struct Next<F> {
    pub file: F,
    pub capacity: u64,
}

impl<D: Disk> Wal<D> {
    /// Whether there is a log. One whose creation did not finish does not count: nothing was
    /// ever promised in it, so it may be created again.
    pub fn exists(disk: &D, directory: &Path) -> Result<bool> {
        match disk.list(directory) {
            Ok(names) => Ok(names.iter().any(|name| sequence_in_name(name).is_some())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(WalError::io("list the directory", directory, error)),
        }
    }

    /// Makes an empty log, durably. Its directory is created, the parent must be there and
    /// durable already.
    pub fn create(
        disk: D,
        directory: &Path,
        identity: Identity,
        options: WalOptions,
    ) -> Result<Wal<D>> {
        assert!(options.segment_bytes >= SEGMENT_BYTES_MIN, "no frame fits such a segment");
        if Wal::exists(&disk, directory)? {
            return Err(WalError::Exists { directory: directory.to_owned() });
        }
        disk.create_directory(directory)
            .map_err(|error| WalError::io_or_space("create the directory", directory, error))?;
        let parent = match directory.parent() {
            Some(parent) if parent != Path::new("") => parent,
            Some(_) | None => Path::new("."),
        };
        disk.sync_directory(parent)
            .map_err(|error| WalError::io("sync the directory", parent, error))?;
        let header = SegmentHeader {
            identity,
            sequence: 1,
            number: 1,
            base: (Index(0), Term(0)),
            hard_state: HardState::default(),
            previous: 0,
        };
        let next = make_next(&disk, directory, options.segment_bytes)?;
        let current = start_segment(&disk, directory, &header, next)?;
        Ok(Wal {
            disk,
            directory: directory.to_owned(),
            options,
            identity,
            closed: VecDeque::new(),
            chain: current.seed,
            current,
            next: None,
            number: header.number,
            last: header.base,
            hard_state: header.hard_state,
            reset_sequence: 0,
            buffer: Vec::new(),
            poisoned: false,
        })
    }

    /// Opens the log after a stop or a crash. Everything in it is read and checked; entries up
    /// to `keep_after` are not kept in memory, the owner has applied them.
    pub fn open(
        disk: D,
        directory: &Path,
        keep_after: Index,
        options: WalOptions,
    ) -> Result<(Wal<D>, Recovered)> {
        assert!(options.segment_bytes >= SEGMENT_BYTES_MIN, "no frame fits such a segment");
        super::recover::open(disk, directory, keep_after, options)
    }

    /// Writes a batch as one frame. Without `sync` it is not durable yet, and a crash may keep
    /// it or lose it, but never keep it and lose one before.
    ///
    /// # Panics
    ///
    /// If the entries do not follow on each other or on the log.
    pub fn append(&mut self, batch: &Batch) -> Result<Appended> {
        self.usable()?;
        self.assert_follows(&batch.entries);
        let bytes = batch.entries.iter().map(record::entry_bytes).sum();
        self.begin_frame(bytes)?;
        for entry in &batch.entries {
            record::encode_entry(&mut self.buffer, entry);
        }
        if let Some(hard_state) = &batch.hard_state {
            record::encode_hard_state(&mut self.buffer, hard_state);
        }
        let mut appended = Appended::default();
        if self.buffer.len() > FRAME_HEADER_BYTES {
            appended = self.write_frame()?;
        }
        if let Some(last) = batch.entries.last() {
            self.last = (last.index, last.term);
        }
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        if batch.sync {
            self.sync()?;
        }
        Ok(appended)
    }

    /// Voids all entries: a snapshot from the leader stands for everything up to this one, and
    /// the log goes on after it. Durable on return. The hard state stays.
    pub fn reset(&mut self, index: Index, term: Term) -> Result<()> {
        self.usable()?;
        self.begin_frame(0)?;
        record::encode_reset(&mut self.buffer, index, term);
        self.write_frame()?;
        self.last = (index, term);
        // Synced before anything relies on it: `release` removes the segments it voids.
        self.sync()?;
        self.reset_sequence = self.current.sequence;
        Ok(())
    }

    /// Removes segments that hold nothing but entries up to `through` or void ones, and returns
    /// how many. The owner must have a durable state at `through` or later. The current segment
    /// always stays.
    pub fn release(&mut self, through: Index) -> Result<usize> {
        self.usable()?;
        let mut removed = 0;
        while let Some(oldest) = self.closed.front() {
            // All live entries of a segment are at or before the base of the next: later ones
            // can only have been replaced since.
            let ends_at = self.closed.get(1).map_or(self.current.base, |second| second.base).0;
            if ends_at > through && oldest.sequence >= self.reset_sequence {
                break;
            }
            // One at a time: were a later name gone and an earlier one still there after a
            // crash, that would be a log with a segment missing.
            let gone = self.disk.remove(&oldest.path);
            gone.map_err(|error| {
                self.poisoned = true;
                WalError::io("remove", &oldest.path, error)
            })?;
            self.disk.sync_directory(&self.directory).map_err(|error| {
                self.poisoned = true;
                WalError::io("sync the directory", &self.directory, error)
            })?;
            self.closed.pop_front();
            removed += 1;
        }
        Ok(removed)
    }

    /// Whether [`prepare`](Self::prepare) has something to do: the next segment is not reserved
    /// yet and the current one is half full.
    pub fn wants_prepare(&self) -> bool {
        !self.poisoned && self.next.is_none() && self.current.position >= self.current.capacity / 2
    }

    /// Reserves the next segment ahead of time, so that the append which needs it does not wait
    /// for that. To be called when idle; if it never is, `append` does it.
    pub fn prepare(&mut self) -> Result<()> {
        self.usable()?;
        if self.next.is_none() {
            let bytes = self.options.segment_bytes;
            // To try in vain would, for a moment, leave nothing to everybody else on this disk.
            if self.disk.available(&self.directory).is_ok_and(|free| free < bytes) {
                return Err(WalError::NoSpace { file: self.directory.join(NEXT_NAME) });
            }
            let next = make_next(&self.disk, &self.directory, bytes);
            self.next = Some(next.map_err(|error| self.judge(error))?);
        }
        Ok(())
    }

    /// How large the log is.
    pub fn figures(&self) -> WalFigures {
        let closed: u64 = self.closed.iter().map(|segment| segment.bytes).sum();
        let next = self.next.as_ref().map_or(0, |next| next.capacity);
        WalFigures {
            segments: self.closed.len() + 1,
            bytes: closed + self.current.capacity + next,
            current_bytes: self.current.position,
            last: self.last,
        }
    }

    /// Whose log it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether an earlier failure has made this value useless. See [`WalError::Poisoned`].
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    #[cfg(test)]
    pub(super) fn current_path(&self) -> &Path {
        &self.current.path
    }

    fn usable(&self) -> Result<()> {
        if self.poisoned { Err(WalError::Poisoned) } else { Ok(()) }
    }

    /// A full disk before a sync is a state one can get out of; after any other failure it is
    /// unknown what is on disk.
    fn judge(&mut self, error: WalError) -> WalError {
        if !matches!(error, WalError::NoSpace { .. }) {
            self.poisoned = true;
        }
        error
    }

    fn assert_follows(&self, entries: &[LogEntry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > Index(0), "the first entry of a log has index 1");
        assert!(
            first.index.0 <= self.last.0.0 + 1,
            "entry {} leaves a gap after {}",
            first.index,
            self.last.0
        );
        for (index, entry) in (first.index.0..).zip(entries) {
            assert_eq!(entry.index.0, index, "entries of a batch are consecutive");
        }
    }

    /// Clears the buffer and leaves room for the header. `bytes` of records will follow, give or
    /// take some small ones.
    fn begin_frame(&mut self, bytes: usize) -> Result<()> {
        if bytes > LOG_FRAME_BYTES_MAX {
            return Err(WalError::TooLarge { bytes });
        }
        // One huge frame should not hold its memory for ever.
        if self.buffer.capacity() > 2 * LOG_BATCH_BYTES_MAX {
            self.buffer = Vec::new();
        }
        self.buffer.clear();
        self.buffer.resize(FRAME_HEADER_BYTES, 0);
        Ok(())
    }

    /// Writes the frame whose records stand in the buffer.
    fn write_frame(&mut self) -> Result<Appended> {
        record::pad(&mut self.buffer);
        let size = self.buffer.len() as u64;
        let rotated = self.make_room(size)?;
        let body = &self.buffer[FRAME_HEADER_BYTES..];
        let current = &mut self.current;
        let header = FrameHeader {
            length: u32::try_from(body.len()).expect("the frame limit is below 4 GiB"),
            body_crc: crc32c::crc32c(body),
            number: self.number,
            synced: current.synced,
            previous: self.chain,
        };
        let (bytes, crc) = header.encode(current.seed, current.position);
        self.buffer[..FRAME_HEADER_BYTES].copy_from_slice(&bytes);
        if let Err(error) = current.file.write_at(current.position, &self.buffer) {
            // Reserved space cannot run out, but not every file system can reserve, and a copied
            // log has lost its reservation. Part of the frame may be there: the next frame
            // overwrites it, and opening the log cuts what sticks out.
            let error = WalError::io_or_space("write", &current.path, error);
            return Err(self.judge(error));
        }
        current.position += size;
        assert!(current.position <= current.capacity, "a frame fits where room was made for it");
        self.number += 1;
        self.chain = crc;
        Ok(Appended { bytes: size, rotated })
    }

    /// Makes all that was appended durable.
    fn sync(&mut self) -> Result<()> {
        let current = &mut self.current;
        if current.synced < current.position {
            if let Err(error) = current.file.sync_data() {
                self.poisoned = true;
                return Err(WalError::io("sync", &current.path, error));
            }
            current.synced = current.position;
        }
        Ok(())
    }

    /// Sees to it that a frame of this size fits the current segment; tells whether that is a
    /// new one.
    fn make_room(&mut self, size: u64) -> Result<bool> {
        let current = &mut self.current;
        if current.position + size <= current.capacity {
            return Ok(false);
        }
        if current.position > SEGMENT_HEADER_BYTES as u64 {
            self.rotate(size)?;
            return Ok(true);
        }
        // Another empty segment would not be larger than this one.
        let capacity = current.position + size;
        if let Err(error) = current.file.reserve(capacity) {
            let error = WalError::io_or_space("reserve", &current.path, error);
            return Err(self.judge(error));
        }
        current.capacity = capacity;
        Ok(false)
    }

    /// Goes on in a new segment, with room for a frame of this size.
    fn rotate(&mut self, size: u64) -> Result<()> {
        self.sync()?;
        let header = SegmentHeader {
            identity: self.identity,
            sequence: self.current.sequence + 1,
            number: self.number,
            base: self.last,
            hard_state: self.hard_state,
            previous: self.chain,
        };
        let capacity = self.options.segment_bytes.max(SEGMENT_HEADER_BYTES as u64 + size);
        let started = self
            .take_next(capacity)
            .and_then(|next| start_segment(&self.disk, &self.directory, &header, next));
        let started = started.map_err(|error| self.judge(error))?;
        self.chain = started.seed;
        let closed = std::mem::replace(&mut self.current, started);
        self.closed.push_back(Closed {
            path: closed.path,
            sequence: closed.sequence,
            base: closed.base,
            bytes: closed.capacity,
        });
        Ok(())
    }

    /// The next segment at this size, prepared or made now.
    fn take_next(&mut self, capacity: u64) -> Result<Next<D::File>> {
        match self.next.take() {
            Some(next) if next.capacity >= capacity => Ok(next),
            Some(_) | None => make_next(&self.disk, &self.directory, capacity),
        }
    }
}

/// Reserves a segment under the name of one in the making.
fn make_next<D: Disk>(disk: &D, directory: &Path, capacity: u64) -> Result<Next<D::File>> {
    let path = directory.join(NEXT_NAME);
    let file = disk.create(&path).map_err(|error| WalError::io_or_space("create", &path, error))?;
    let reserved = file
        .reserve(capacity)
        .map_err(|error| WalError::io_or_space("reserve", &path, error))
        // Synced here, ahead of time, so that the sync of the header has little left to do.
        .and_then(|()| file.sync_data().map_err(|error| WalError::io("sync", &path, error)));
    if let Err(error) = reserved {
        give_back(disk, &path, &error);
        return Err(error);
    }
    Ok(Next { file, capacity })
}

/// Gives a reserved segment its header and its name. On return it is durable.
fn start_segment<D: Disk>(
    disk: &D,
    directory: &Path,
    header: &SegmentHeader,
    next: Next<D::File>,
) -> Result<Current<D::File>> {
    let temporary = directory.join(NEXT_NAME);
    let path = directory.join(header.name());
    let (bytes, seed) = header.encode();
    if let Err(error) = next.file.write_at(0, &bytes) {
        let error = WalError::io_or_space("write", &temporary, error);
        give_back(disk, &temporary, &error);
        return Err(error);
    }
    next.file.sync_data().map_err(|error| WalError::io("sync", &temporary, error))?;
    disk.rename(&temporary, &path).map_err(|error| WalError::io("rename", &temporary, error))?;
    disk.sync_directory(directory)
        .map_err(|error| WalError::io("sync the directory", directory, error))?;
    Ok(Current {
        path,
        file: next.file,
        sequence: header.sequence,
        base: header.base,
        seed,
        position: SEGMENT_HEADER_BYTES as u64,
        synced: SEGMENT_HEADER_BYTES as u64,
        capacity: next.capacity,
    })
}

/// On a full disk, does not sit on the space of a segment that could not be made.
fn give_back<D: Disk>(disk: &D, path: &Path, error: &WalError) {
    if matches!(error, WalError::NoSpace { .. }) {
        // It is no part of the log: if this fails too, the next attempt replaces the file.
        let _ = disk.remove(path);
    }
}
