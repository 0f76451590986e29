//! What can go wrong here, in two kinds that must never be mixed up.
//!
//! A [`StoreError`] says that this member's disk or file failed: the node stops. A refusal is the
//! client's mistake or bad luck (`types::Error`). Reading can end in either, hence [`ReadError`].

use crate::types::Error;
use std::{fmt, io};

/// The store cannot go on: the disk failed, or what it gave back is not what was written.
#[derive(Debug)]
pub enum StoreError {
    /// The disk answered with an error.
    Io(io::Error),
    /// Bytes came back that were never written.
    Corrupt {
        /// What is wrong with them.
        what: String,
        /// The table, and the revision or key in it.
        place: String,
    },
    /// The file was never finished: its creation or a copy into it was cut off. It holds nothing
    /// that was acknowledged from it.
    Unfinished,
    /// Written in a format this version does not know.
    Format(u32),
    /// A snapshot is damaged or incomplete; the store itself is well.
    Snapshot(String),
    /// The storage engine refused for a reason of its own.
    Engine(String),
    /// An earlier failure left the state in memory half changed.
    Broken,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Io(error) => write!(f, "the store's file: {error}"),
            StoreError::Corrupt { what, place } => write!(
                f,
                "the store's file is damaged: {what} ({place}); remove this member and add it \
                 again so that it is rebuilt from its peers; on a single node, restore a backup"
            ),
            StoreError::Unfinished => f.write_str(
                "the store's file was never finished, or is damaged; remove this member and add it \
                 again so that it is rebuilt from its peers",
            ),
            StoreError::Format(version) => {
                write!(f, "the store's file has format {version}, which this version cannot read")
            }
            StoreError::Snapshot(what) => write!(f, "the snapshot is damaged: {what}"),
            StoreError::Engine(text) => write!(f, "the storage engine: {text}"),
            StoreError::Broken => f.write_str("an earlier failure left the store half changed"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> StoreError {
        match error.kind() {
            // The disk did as it was told, but what it holds is no file of ours, or part of one.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                StoreError::Corrupt { what: error.to_string(), place: "the file itself".into() }
            }
            _ => StoreError::Io(error),
        }
    }
}

impl From<redb::StorageError> for StoreError {
    fn from(error: redb::StorageError) -> StoreError {
        match error {
            redb::StorageError::Io(error) => error.into(),
            redb::StorageError::Corrupted(what) => {
                StoreError::Corrupt { what, place: "a page of the file".into() }
            }
            other => StoreError::Engine(other.to_string()),
        }
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> StoreError {
                match redb::Error::from(error) {
                    redb::Error::Io(error) => error.into(),
                    redb::Error::Corrupted(what) => {
                        StoreError::Corrupt { what, place: "a page of the file".into() }
                    }
                    other => StoreError::Engine(other.to_string()),
                }
            }
        }
    )*};
}

from_redb!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::CommitError,
    redb::SetDurabilityError
);

/// Why a read gave nothing.
#[derive(Debug)]
pub enum ReadError {
    /// The request cannot be answered; the store is well.
    Refused(Error),
    /// The store is not well: the node stops.
    Failed(StoreError),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> ReadError {
        ReadError::Refused(error)
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> ReadError {
        ReadError::Failed(error)
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Refused(error) => error.fmt(f),
            ReadError::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReadError {}
