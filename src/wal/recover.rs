//! Opening the log: check everything, judge what is wrong, repair only what a crash explains.
//!
//! All is read before anything is changed, so that a log found corrupt stays as it was found.
//! Then, in this order: remains behind the last frame become zeros; what is not vouched for as
//! durable is written again and synced; half-made segments are removed; the directory is synced.
//! A crash in between leaves a log that opens with the same result.

use super::error::{Result, WalError};
use super::reader::{Found, Reader, Tail};
use super::record::{Record, Records};
use super::segment::{
    HeaderFault, NEXT_NAME, SEGMENT_HEADER_BYTES, SegmentHeader, sequence_in_name,
};
use super::writer::{Closed, Current, Wal};
use super::{CutTail, HardState, LogEntry, Recovered, WalOptions};
use crate::env::{Disk, File};
use crate::types::{Index, Term};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

/// Most that is written at a time during repair.
const REPAIR_BYTES: usize = 1024 * 1024;

/// A segment with a lawful header.
struct Segment<F> {
    path: PathBuf,
    file: F,
    header: SegmentHeader,
    seed: u32,
}

/// How far a segment has been read.
struct Progress {
    /// Behind the last good frame.
    position: u64,
    /// Number of the next frame.
    number: u64,
    /// Checksum of the last good frame, or the seed.
    chain: u32,
    /// Durable up to here, says the last good frame.
    synced: u64,
}

pub(super) fn open<D: Disk>(
    disk: D,
    directory: &Path,
    keep_after: Index,
    options: WalOptions,
) -> Result<(Wal<D>, Recovered)> {
    let Files { mut segments, temporary } = find_files(&disk, directory)?;
    let first = segments.first().expect("a log has a segment");
    let identity = first.header.identity;
    let mut replay = Replay::new(keep_after, &first.header);
    let mut bytes_read = 0;
    for (segment, following) in segments.iter().zip(&segments[1..]) {
        let mut reader = Reader::new(&segment.file, &segment.path)?;
        read_closed(segment, following, &mut reader, &mut replay)?;
        bytes_read += reader.bytes_read;
    }
    let newest = segments.last().expect("a log has a segment");
    let mut reader = Reader::new(&newest.file, &newest.path)?;
    let (progress, tail) = read_newest(newest, &mut reader, &mut replay)?;
    bytes_read += reader.bytes_read;
    let capacity = reader.len();

    // From here on the log is known to be sound, and the disk may be changed.
    let cut = cut_tail(newest, progress.position, tail)?;
    settle(newest, &progress)?;
    if let Some(path) = &temporary {
        disk.remove(path).map_err(|error| WalError::io("remove", path, error))?;
    }
    // Also for the name of the newest segment, whose sync a crash may have prevented.
    disk.sync_directory(directory)
        .map_err(|error| WalError::io("sync the directory", directory, error))?;

    let mut closed = VecDeque::new();
    let newest = segments.pop().expect("a log has a segment");
    for segment in segments {
        let bytes = segment.file.len().map_err(|error| size_unknown(&segment.path, error))?;
        let (sequence, base) = (segment.header.sequence, segment.header.base);
        closed.push_back(Closed { path: segment.path, sequence, base, bytes });
    }
    // A copied or restored log is sparse. On a full disk it stays so, and appends cope.
    let _ = newest.file.reserve(capacity);
    let wal = Wal {
        disk,
        directory: directory.to_owned(),
        options,
        identity,
        closed,
        current: Current {
            path: newest.path,
            file: newest.file,
            sequence: newest.header.sequence,
            base: newest.header.base,
            seed: newest.seed,
            position: progress.position,
            synced: progress.position,
            capacity,
        },
        next: None,
        number: progress.number,
        chain: progress.chain,
        last: replay.last,
        hard_state: replay.hard_state,
        reset_sequence: replay.reset_sequence,
        buffer: Vec::new(),
        poisoned: false,
    };
    let Replay { hard_state, start, entries, .. } = replay;
    Ok((wal, Recovered { identity, hard_state, start, entries, cut, bytes_read }))
}

fn size_unknown(path: &Path, error: io::Error) -> WalError {
    WalError::io("tell the size", path, error)
}

/// The files of a log.
struct Files<F> {
    /// In order, at least one.
    segments: Vec<Segment<F>>,
    /// A segment in the making, if there is one.
    temporary: Option<PathBuf>,
}

fn find_files<D: Disk>(disk: &D, directory: &Path) -> Result<Files<D::File>> {
    let names = match disk.list(directory) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(WalError::io("list the directory", directory, error)),
    };
    let temporary = names.iter().find(|name| *name == NEXT_NAME);
    let temporary = temporary.map(|name| directory.join(name));
    let mut found: Vec<(u64, &String)> = Vec::new();
    for name in &names {
        match sequence_in_name(name) {
            Some(sequence) => found.push((sequence, name)),
            None if name.ends_with(".wal") => {
                let reason = "its name is not that of a segment";
                return Err(WalError::corrupt(&directory.join(name), 0, reason));
            }
            // Not ours.
            None => {}
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(WalError::Missing { directory: directory.to_owned() });
    }
    for pair in found.windows(2) {
        let ((before, _), (after, name)) = (pair[0], pair[1]);
        if before.checked_add(1) != Some(after) {
            let reason = format!("segment {after:016x} comes right after segment {before:016x}");
            return Err(WalError::corrupt(&directory.join(name), 0, reason));
        }
    }
    let mut segments: Vec<Segment<D::File>> = Vec::new();
    for (_, name) in found {
        let segment = open_segment(disk, directory, name)?;
        let expected = segments.first().map_or(segment.header, |first| first.header).identity;
        if segment.header.identity != expected {
            let (file, found) = (segment.path, segment.header.identity);
            return Err(WalError::Foreign { file, expected, found });
        }
        segments.push(segment);
    }
    Ok(Files { segments, temporary })
}

/// Opens a segment and checks its header by itself. A segment got its name only after its header
/// was durable, so a bad one is never the work of a crash.
fn open_segment<D: Disk>(disk: &D, directory: &Path, name: &str) -> Result<Segment<D::File>> {
    let path = directory.join(name);
    let file = disk.open(&path).map_err(|error| WalError::io("open", &path, error))?;
    let len = file.len().map_err(|error| size_unknown(&path, error))?;
    if len < SEGMENT_HEADER_BYTES as u64 {
        let reason = format!("the file has {len} bytes, less than a header");
        return Err(WalError::corrupt(&path, 0, reason));
    }
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    file.read_at(0, &mut bytes).map_err(|error| WalError::io("read", &path, error))?;
    let (header, seed) = match SegmentHeader::decode(&bytes) {
        Ok(decoded) => decoded,
        Err(HeaderFault::Magic) => {
            return Err(WalError::corrupt(&path, 0, "it does not begin like a segment"));
        }
        Err(HeaderFault::Checksum) => {
            return Err(WalError::corrupt(&path, 0, "the checksum of the header is wrong"));
        }
        Err(HeaderFault::Version(found)) => return Err(WalError::Format { file: path, found }),
    };
    if header.name() != name {
        let reason = format!("the header says that this is {}", header.name());
        return Err(WalError::corrupt(&path, 0, reason));
    }
    Ok(Segment { path, file, header, seed })
}

/// Reads a segment that another one follows: every frame up to that one must be there.
fn read_closed<F: File>(
    segment: &Segment<F>,
    following: &Segment<F>,
    reader: &mut Reader<'_, F>,
    replay: &mut Replay,
) -> Result<()> {
    let mut progress = Progress::at_start(segment);
    while progress.number < following.header.number {
        if let Some(reason) = read_frame(segment, reader, &mut progress, replay)? {
            let reason = format!(
                "frame {} should be here, since the next segment begins with frame {}: {reason}",
                progress.number, following.header.number
            );
            return Err(WalError::corrupt(&segment.path, progress.position, reason));
        }
    }
    let follows = following.header.number == progress.number
        && following.header.previous == progress.chain
        && following.header.base == replay.last
        && following.header.hard_state == replay.hard_state;
    if !follows {
        let reason = "the segment does not follow on the one before it";
        return Err(WalError::corrupt(&following.path, 0, reason));
    }
    Ok(())
}

/// Reads the newest segment up to its last good frame, and judges what lies behind.
fn read_newest<F: File>(
    segment: &Segment<F>,
    reader: &mut Reader<'_, F>,
    replay: &mut Replay,
) -> Result<(Progress, Tail)> {
    let mut progress = Progress::at_start(segment);
    let reason = loop {
        if let Some(reason) = read_frame(segment, reader, &mut progress, replay)? {
            break reason;
        }
    };
    let tail = reader.tail(segment.seed, progress.position, progress.number)?;
    if let Some((witness, at)) = tail.witness {
        let reason = format!(
            "frame {} should be here: {reason}; frame {} at byte {at} says that everything up to \
             byte {} was durable when it was written",
            progress.number, witness.number, witness.synced
        );
        return Err(WalError::corrupt(&segment.path, progress.position, reason));
    }
    Ok((progress, tail))
}

/// Reads one frame, or tells why there is none.
fn read_frame<F: File>(
    segment: &Segment<F>,
    reader: &mut Reader<'_, F>,
    progress: &mut Progress,
    replay: &mut Replay,
) -> Result<Option<&'static str>> {
    let offset = progress.position;
    let (header, crc, body) = match reader.frame(segment.seed, offset)? {
        Found::Frame(header, crc, body) => (header, crc, body),
        Found::Nothing(reason) => return Ok(Some(reason)),
    };
    // Of another life of the log, should the zeros over it not have reached the disk.
    if header.number != progress.number || header.previous != progress.chain {
        return Ok(Some("the frame does not follow on the one before it"));
    }
    // With that right, this is what the writer wrote, and it must make sense.
    let corrupt = |reason: &str| WalError::corrupt(&segment.path, offset, reason);
    if header.synced < progress.synced || header.synced > offset {
        return Err(corrupt("the frame says the impossible about what was durable"));
    }
    for record in Records::new(body) {
        let applied = record.and_then(|record| replay.apply(record, segment.header.sequence));
        applied.map_err(corrupt)?;
    }
    progress.position += header.frame_bytes();
    progress.number += 1;
    progress.chain = crc;
    progress.synced = header.synced;
    Ok(None)
}

impl Progress {
    fn at_start<F>(segment: &Segment<F>) -> Progress {
        Progress {
            position: SEGMENT_HEADER_BYTES as u64,
            number: segment.header.number,
            chain: segment.seed,
            synced: SEGMENT_HEADER_BYTES as u64,
        }
    }
}

/// Zeros what lies behind the last frame, lest some of it be read as a frame one day. Durable
/// after [`settle`].
fn cut_tail<F: File>(segment: &Segment<F>, offset: u64, tail: Tail) -> Result<Option<CutTail>> {
    let Some(end) = tail.end else { return Ok(None) };
    assert!(end > offset, "the tail lies behind the last frame");
    let zeros = vec![0; REPAIR_BYTES.min((end - offset) as usize)];
    for at in (offset..end).step_by(REPAIR_BYTES) {
        let size = REPAIR_BYTES.min((end - at) as usize);
        segment
            .file
            .write_at(at, &zeros[..size])
            .map_err(|error| WalError::io_or_space("write", &segment.path, error))?;
    }
    Ok(Some(CutTail { file: segment.path.clone(), offset, bytes: end - offset }))
}

/// Makes durable what was read, since the owner will act on it.
///
/// After a mere restart it may stand in the kernel's memory only. And after a failed sync the
/// kernel may call it written although it is not, so that another sync would do nothing; writing
/// it once more makes the sync an honest one.
fn settle<F: File>(segment: &Segment<F>, progress: &Progress) -> Result<()> {
    let mut buffer = Vec::new();
    for at in (progress.synced..progress.position).step_by(REPAIR_BYTES) {
        buffer.resize(REPAIR_BYTES.min((progress.position - at) as usize), 0);
        let file = &segment.file;
        file.read_at(at, &mut buffer)
            .map_err(|error| WalError::io("read", &segment.path, error))?;
        file.write_at(at, &buffer)
            .map_err(|error| WalError::io_or_space("write", &segment.path, error))?;
    }
    segment.file.sync_data().map_err(|error| WalError::io("sync", &segment.path, error))
}

/// The state of the log, built record by record.
struct Replay {
    keep_after: Index,
    /// From this entry on the log is known. At first that is the one before the oldest segment;
    /// an entry or reset at a lower index moves it down.
    floor: Index,
    /// The entry before `entries`; its index is at most the larger of `keep_after` and `floor`.
    start: (Index, Term),
    /// Consecutive from `start`, all above `keep_after` and `floor`.
    entries: Vec<LogEntry>,
    /// The last of `entries`, or `start`.
    last: (Index, Term),
    hard_state: HardState,
    reset_sequence: u64,
}

impl Replay {
    fn new(keep_after: Index, oldest: &SegmentHeader) -> Replay {
        Replay {
            keep_after,
            floor: oldest.base.0,
            start: oldest.base,
            entries: Vec::new(),
            last: oldest.base,
            hard_state: oldest.hard_state,
            reset_sequence: 0,
        }
    }

    /// Takes over one record of the segment with this sequence.
    fn apply(&mut self, record: Record<'_>, sequence: u64) -> Result<(), &'static str> {
        match record {
            Record::Entry { index, term, kind, data } => self.entry(index, term, kind, data),
            Record::HardState(hard_state) => {
                self.hard_state = hard_state;
                Ok(())
            }
            Record::Reset { index, term } => {
                self.floor = index;
                self.restart((index, term));
                self.reset_sequence = sequence;
                Ok(())
            }
        }
    }

    fn entry(
        &mut self,
        index: Index,
        term: Term,
        kind: u8,
        data: &[u8],
    ) -> Result<(), &'static str> {
        if index == Index(0) || index.0 - 1 > self.last.0.0 {
            return Err("an entry leaves a gap after the one before it");
        }
        self.floor = self.floor.min(index);
        if index <= self.keep_after.max(self.floor) {
            self.restart((index, term));
            return Ok(());
        }
        assert!(index > self.start.0, "what is kept lies behind the start");
        self.entries.truncate((index.0 - self.start.0.0 - 1) as usize);
        self.entries.push(LogEntry { index, term, kind, data: Bytes::copy_from_slice(data) });
        self.last = (index, term);
        Ok(())
    }

    /// Nothing is kept up to this entry.
    fn restart(&mut self, last: (Index, Term)) {
        self.entries.clear();
        self.start = last;
        self.last = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClusterId, MemberId};
    use crate::wal::Identity;

    fn replay(keep_after: u64, base: u64, indexes: &[(u64, u64)]) -> ((u64, u64), Vec<(u64, u64)>) {
        let oldest = SegmentHeader {
            identity: Identity { cluster: ClusterId(1), member: MemberId(1) },
            sequence: 4,
            number: 9,
            base: (Index(base), Term(1)),
            hard_state: HardState::default(),
            previous: 0,
        };
        let mut replay = Replay::new(Index(keep_after), &oldest);
        for (index, term) in indexes {
            replay.entry(Index(*index), Term(*term), 0, b"").unwrap();
        }
        let pair = |(index, term): (Index, Term)| (index.0, term.0);
        let entries = replay.entries.iter().map(|entry| pair((entry.index, entry.term)));
        (pair(replay.start), entries.collect())
    }

    #[test]
    fn only_entries_after_the_mark_are_kept() {
        assert_eq!(replay(2, 0, &[(1, 1), (2, 1), (3, 1)]), ((2, 1), vec![(3, 1)]));
        assert_eq!(replay(9, 0, &[(1, 1), (2, 1)]), ((2, 1), vec![]), "a shorter log");
        assert_eq!(replay(2, 5, &[(6, 1)]), ((5, 1), vec![(6, 1)]), "a log that begins later");
    }

    #[test]
    fn a_replaced_tail_is_gone() {
        let entries = [(1, 1), (2, 1), (3, 1), (2, 2)];
        assert_eq!(replay(0, 0, &entries), ((0, 1), vec![(1, 1), (2, 2)]));
        assert_eq!(replay(3, 0, &entries), ((2, 2), vec![]), "also where it was not kept");
    }

    /// Entries 8 to 10 were in a released segment and were replaced in a later one.
    #[test]
    fn a_tail_replaced_below_the_oldest_segment_is_known_from_there() {
        let entries = [(8, 2), (9, 2), (10, 2), (11, 2)];
        assert_eq!(replay(10, 10, &entries), ((10, 2), vec![(11, 2)]));
        assert_eq!(replay(0, 10, &entries), ((8, 2), vec![(9, 2), (10, 2), (11, 2)]));
    }

    #[test]
    fn a_gap_is_an_error() {
        let mut replay = Replay::new(
            Index(0),
            &SegmentHeader {
                identity: Identity { cluster: ClusterId(1), member: MemberId(1) },
                sequence: 1,
                number: 1,
                base: (Index(0), Term(0)),
                hard_state: HardState::default(),
                previous: 0,
            },
        );
        assert!(replay.entry(Index(2), Term(1), 0, b"").is_err());
        assert!(replay.entry(Index(0), Term(1), 0, b"").is_err());
        assert!(replay.entry(Index(1), Term(1), 0, b"").is_ok());
    }
}
