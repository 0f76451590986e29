//! The write-ahead log: what this member has promised, in the order it promised it.
//!
//! Raft may act on an entry, a vote or a term only once it would survive a power cut. This module
//! is where that happens: the owner hands over a [`Batch`], the log writes it in one piece, and
//! with `sync` it returns once one `fdatasync` has made this batch and all before it durable. Many
//! waiting proposals become one batch, so the cost of the disk is paid once for all of them.
//!
//! The log knows neither Raft nor the store. An entry is an index, a term, a kind and bytes; the
//! hard state is three numbers. All code is synchronous and generic over [`Disk`]; the owner runs
//! it on a storage thread, one call at a time.
//!
//! # Files
//!
//! ```text
//! wal/0000000000000001-0000000000000001.wal     sequence 1, entries from index 1
//!     0000000000000002-00000000000004b0.wal     sequence 2, entries from index 1200
//!     next.tmp                                  sequence 3 in the making, no part of the log
//!
//! one segment: | header, 128 B | frame | frame | frame | zeros up to the reserved size |
//! ```
//!
//! Segments are reserved at full size, so that an append neither runs out of disk nor changes
//! the file's metadata. A frame is what one append wrote. All numbers are little-endian.
//!
//! Segment header:
//!
//! | at | size | field |
//! |----|------|-------|
//! | 0  | 8    | `QUORWAL\n` |
//! | 8  | 4    | format version, 1. Every version keeps these 16 bytes and the header's size |
//! | 12 | 4    | CRC-32C of the header without these 4 bytes: the segment's **seed** |
//! | 16 | 8    | cluster id |
//! | 24 | 8    | member id |
//! | 32 | 8    | sequence of the segment, one more than the one before |
//! | 40 | 8    | number of the first frame |
//! | 48 | 16   | index and term of the last entry before this segment |
//! | 64 | 24   | hard state before this segment: term, vote, commit |
//! | 88 | 4    | CRC of the frame before this segment, 0 in the first |
//! | 92 | 36   | zero |
//!
//! Frame, at a multiple of 8:
//!
//! | at | size | field |
//! |----|------|-------|
//! | 0  | 4    | bytes of the body, a multiple of 8 |
//! | 4  | 4    | CRC-32C of the body |
//! | 8  | 8    | number of the frame, one more than the one before, also across segments |
//! | 16 | 8    | **synced**: this segment was known durable up to here when the frame was written |
//! | 24 | 4    | CRC of the frame before; for a segment's first frame, the seed |
//! | 28 | 4    | CRC-32C, started from the seed, of the frame's offset (8 B) and bytes 0..28 |
//! | 32 |      | body: records, then zeros up to a multiple of 8 |
//!
//! Record:
//!
//! | tag | layout |
//! |-----|--------|
//! | 1 entry      | tag 1, kind 1, zero 2, bytes of data 4, index 8, term 8, data |
//! | 2 hard state | tag 1, zero 7, term 8, vote 8, commit 8 |
//! | 3 reset      | tag 1, zero 7, index 8, term 8 |
//! | 0            | no more records, zeros from here |
//!
//! An entry whose index is not above the last one replaces that entry and all after it. A reset
//! voids every entry; the log goes on after the given index and term.
//!
//! # A torn tail and corruption are different answers
//!
//! A power cut may lose any unsynced write, keep any part of it in pieces of 512 B, and keep a
//! later one while losing an earlier one. Nothing of that was acknowledged: the rest from the
//! first bad frame is cut, and [`Recovered::cut`] tells. Damage to what was durable is another
//! matter: to cut there would forget acknowledged writes or a vote. So each frame says how far
//! the segment was durable when it was written, and its header can be checked by itself.
//! A bad frame at P is *corruption* if a later header says `synced` > P, or if another segment
//! follows (a segment is synced before the next one gets its name). Then nothing on disk is
//! changed and [`WalError::Corrupt`] says what to do. Otherwise it is a torn tail.
//!
//! One case cannot be told from a torn tail: damage to the newest frames, which no later
//! frame vouches for. Likewise the newest segment, if someone deletes it. The owner notices
//! when its applied state is ahead of the log.
//!
//! # Invariants
//!
//! - What [`Wal::open`] returns is a prefix of what was appended, and holds all that was synced.
//!   It is durable itself before it is returned: what the kernel kept over a mere restart, or
//!   pretends to have written after a failed sync, is written and synced again.
//! - A segment under its own name has a durable header, and all segments before it are durable
//!   to their ends. Names come and go one at a time, each followed by a sync of the directory.
//! - Beyond the last frame everything is zero and durably so before the next append. A frame is
//!   bound to its place by offset, seed, number and the frame before it, so a cut frame can
//!   never be taken for a new one, nor bytes a client stored for a frame.
//! - After a failed write or sync nobody knows what is durable: every later call fails with
//!   [`WalError::Poisoned`], nothing is retried, nothing is written on drop.
//!
//! Left out: a lock against a second process (the owner locks the data directory), reading
//! entries back while running (the owner keeps recent ones in memory and sends a snapshot for
//! older ones), compression, and encryption.
//!
//! [`Disk`]: crate::env::Disk

mod error;
mod frame;
mod reader;
mod record;
mod recover;
mod segment;
mod writer;

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod damage_test;
#[cfg(test)]
mod fault_disk;
#[cfg(test)]
mod model;
#[cfg(test)]
mod operation_test;

pub use error::{Result, WalError};
pub use writer::Wal;

use crate::types::{ClusterId, Index, MemberId, Term};
use bytes::Bytes;
use std::path::PathBuf;

/// The format this code writes and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Whose log it is. Stands in every segment, so that a file of another member is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub cluster: ClusterId,
    pub member: MemberId,
}

/// One entry of the Raft log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// 1 or above.
    pub index: Index,
    pub term: Term,
    /// The owner's; the log only keeps it.
    pub kind: u8,
    pub data: Bytes,
}

/// What a member must not forget besides its entries.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct HardState {
    pub term: Term,
    /// Whom this member voted for in `term`; 0 for nobody.
    pub vote: MemberId,
    pub commit: Index,
}

/// What one append writes.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Consecutive; the first is at most one above the last entry of the log and replaces
    /// what stands at its index and after it.
    pub entries: Vec<LogEntry>,
    pub hard_state: Option<HardState>,
    /// Return only once this and everything before it is durable. A batch with nothing else
    /// syncs what was appended before.
    pub sync: bool,
}

/// What one append did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Bytes written, with framing.
    pub bytes: u64,
    /// Whether it had to begin a new segment, which costs three more syncs.
    pub rotated: bool,
}

/// How the log is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalOptions {
    /// Size a new segment is reserved at; a larger frame gets a larger segment.
    pub segment_bytes: u64,
}

impl Default for WalOptions {
    fn default() -> WalOptions {
        WalOptions { segment_bytes: crate::types::limits::LOG_SEGMENT_BYTES }
    }
}

/// What the log holds when it is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    pub identity: Identity,
    pub hard_state: HardState,
    /// The entry before the first of `entries`, or the last one of the log if that is empty.
    ///
    /// Its index is the `keep_after` asked for, unless the log is shorter (index below
    /// `keep_after`, no entries: the owner's state is newer than the log, which it should
    /// [`reset`](Wal::reset)) or begins later (index above `keep_after`).
    pub start: (Index, Term),
    /// Consecutive, from the one after `start` to the end of the log.
    pub entries: Vec<LogEntry>,
    /// Set if the log ended in the remains of writes that a crash interrupted.
    pub cut: Option<CutTail>,
    pub bytes_read: u64,
}

/// Remains of unsynced writes that were cut off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CutTail {
    pub file: PathBuf,
    /// Where the log now ends.
    pub offset: u64,
    /// From there to the last byte that was not zero.
    pub bytes: u64,
}

/// How large the log is, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalFigures {
    pub segments: usize,
    /// Size of all segments on disk, with what is only reserved.
    pub bytes: u64,
    /// Written bytes of the current segment.
    pub current_bytes: u64,
    /// The last entry.
    pub last: (Index, Term),
}
