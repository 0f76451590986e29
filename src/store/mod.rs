//! The multi-version key-value store: every change of every key since the last compaction.
//!
//! Each applied request that changes something makes one *revision*, the store's version number.
//! A key's versions are kept, so that reads at an older revision, watches from one and `prev_kv`
//! work, until a compaction forgets those nobody at its revision or later can see.
//!
//! ```text
//!            apply loop                        readers, any number
//!                │ Store: one writer                │ Reader
//!                ▼                                  ▼
//!        ┌───────────────────── Lock<Shared> ─────────────────────┐
//!        │ index:   key -> places of its versions (+ value cache)  │  memory
//!        │ pending: rows applied, in flight: rows being written    │
//!        │ view:    the file as of the last flush                  │
//!        └───────────────────────────┬─────────────────────────────┘
//!                 FlushJob, in the background, all in one transaction
//!                                    ▼
//!        redb: revision -> KeyValue, side tables, marks (applied index ...)   disk
//! ```
//!
//! - **The index** (`index`, on the counting B+tree of `tree`) is rebuilt at start from the
//!   rows. It answers what needs no value: which keys, how many, their revisions and versions.
//! - **The file** (`engine`) keeps rows in the order they were made, with checksums of ours. It is
//!   synced once per flush, never per request: the Raft log is what makes a request durable, and it
//!   replays what a crash took (`pending`).
//! - **Values** are read from the cache, from what is not yet flushed, or from the file.
//! - **Side tables** hold durable state of other modules, in the same transactions.
//!
//! What must always hold:
//! - The rows in the file are the result of exactly the log entries up to its applied index,
//!   except that some compacted ones may still be there.
//! - Readers see whole revisions, and only those whose records they can get.
//! - Nothing read here is believed before its checksum is checked: damage is an error that names
//!   the place, never a wrong answer.
//! - An error of the disk stops the node ([`StoreError`]); a client's error does not
//!   (`types::Error`).
//!
//! It knows nothing of leases but the number on a key, nor of time, users, watchers or Raft; it
//! starts no threads: whoever owns it decides where a [`FlushJob`] waits for the disk and how
//! fast a compaction goes.

mod backend;
mod engine;
mod error;
mod guard;
mod hash;
mod index;
mod owner;
mod pending;
mod range;
mod read;
mod record;
mod shared;
mod snapshot;
#[cfg(test)]
mod tests;
mod tree;
mod write;

pub use engine::Side;
pub use error::{ReadError, StoreError};
pub use guard::is_guarded;
pub use hash::{CompactionHash, HashKv};
pub use owner::{CompactProgress, FlushJob, FlushOutcome, Options, Pending, Restored, Store};
pub use range::{RangeQuery, RangeResult, SortOrder, SortTarget};
pub use read::{
    Change, ChangeKind, KeyValueRead, Meta, RangeChunk, RangeStream, Read, Reader, RevisionChanges,
    Sizes,
};
pub use record::Record;
pub use snapshot::{DefragmentJob, Defragmented, SnapshotMeta, SnapshotSink, SnapshotSource};
pub use write::{Deleted, Finished, Replaced, Write};
