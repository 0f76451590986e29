//! What can go wrong with the log, in words for the one who has to act on it.

use super::{FORMAT_VERSION, Identity};
use crate::types::limits::LOG_FRAME_BYTES_MAX;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Result of a call to the log.
pub type Result<T, E = WalError> = std::result::Result<T, E>;

/// Why the log cannot serve.
#[derive(Debug)]
pub enum WalError {
    /// No log there, at most one whose creation did not finish.
    Missing { directory: PathBuf },
    /// A log is already there.
    Exists { directory: PathBuf },
    /// Something that was durable is not what it was. Nothing on disk was changed.
    Corrupt { file: PathBuf, offset: u64, reason: String },
    /// Written by a version of the program with another format.
    Format { file: PathBuf, found: u32 },
    /// A segment of another member or cluster among ours.
    Foreign { file: PathBuf, expected: Identity, found: Identity },
    /// The disk is full. If the log is not [poisoned](super::Wal::is_poisoned), nothing was
    /// written and the same call may be made again later; otherwise the log has to be reopened.
    NoSpace { file: PathBuf },
    /// A batch that does not fit one frame; nothing was written.
    TooLarge { bytes: usize },
    /// The disk failed. Unless it was in `open` or `create`, the log is poisoned.
    Io { operation: &'static str, file: PathBuf, error: io::Error },
    /// An earlier call failed in a way that leaves unknown what is durable.
    Poisoned,
}

impl WalError {
    pub(super) fn io(operation: &'static str, file: &Path, error: io::Error) -> WalError {
        WalError::Io { operation, file: file.to_owned(), error }
    }

    /// For operations that take disk space, where a full disk has an answer of its own.
    pub(super) fn io_or_space(operation: &'static str, file: &Path, error: io::Error) -> WalError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                WalError::NoSpace { file: file.to_owned() }
            }
            _ => WalError::io(operation, file, error),
        }
    }

    pub(super) fn corrupt(file: &Path, offset: u64, reason: impl Into<String>) -> WalError {
        WalError::Corrupt { file: file.to_owned(), offset, reason: reason.into() }
    }
}

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalError::Missing { directory } => write!(f, "{}: no log here", directory.display()),
            WalError::Exists { directory } => {
                write!(f, "{}: a log is already here", directory.display())
            }
            WalError::Corrupt { file, offset, reason } => write!(
                f,
                "{}: the log is damaged at byte {offset}: {reason}. Nothing was changed on disk, \
                 and the log is not used, because acknowledged writes may be lost. In a cluster, \
                 rebuild this member from its peers: remove the member, remove its data \
                 directory, add it again. On a single node, restore a backup",
                file.display()
            ),
            WalError::Format { file, found } => write!(
                f,
                "{}: format version {found}, this program reads version {FORMAT_VERSION}; start \
                 the version of the program that wrote it",
                file.display()
            ),
            WalError::Foreign { file, expected, found } => write!(
                f,
                "{}: belongs to member {} of cluster {}, but the log here is that of member {} of \
                 cluster {}; put the right files back, or rebuild this member from its peers: \
                 remove the member, remove its data directory, add it again",
                file.display(),
                found.member,
                found.cluster,
                expected.member,
                expected.cluster
            ),
            WalError::NoSpace { file } => {
                write!(
                    f,
                    "{}: no space left on the disk of the log; free space on that file system",
                    file.display()
                )
            }
            WalError::TooLarge { bytes } => write!(
                f,
                "{bytes} bytes for one write to the log, at most {LOG_FRAME_BYTES_MAX} are possible"
            ),
            WalError::Io { operation, file, error } => {
                write!(f, "{}: cannot {operation}: {error}", file.display())
            }
            WalError::Poisoned => f.write_str(
                "an earlier write to the log failed and it is unknown what is durable; \
                 restart the node",
            ),
        }
    }
}

impl std::error::Error for WalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WalError::Io { error, .. } => Some(error),
            WalError::Missing { .. }
            | WalError::Exists { .. }
            | WalError::Corrupt { .. }
            | WalError::Format { .. }
            | WalError::Foreign { .. }
            | WalError::NoSpace { .. }
            | WalError::TooLarge { .. }
            | WalError::Poisoned => None,
        }
    }
}
