//! What a client can be told. The gRPC code and the exact text of each stand in `api/error.rs`.

use std::fmt;

/// Result of a request.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request was refused: the client is wrong, or late, or we cannot serve it now.
///
/// A failing disk is none of these (the node stops), nor is a broken invariant (we panic).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Error {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    InvalidSortOption,
    InvalidAlarmAction,
    RangeStreamSort,
    RangeStreamFilter,
    Compacted,
    FutureRevision,
    NoSpace,
    LeaseNotFound,
    LeaseExists,
    LeaseTtlTooLarge,
    RequestTooLarge,
    TooManyRequests,
    NoLeader,
    NotLeader,
    LeaderChanged,
    Stopped,
    Timeout,
    TimeoutLeaderFailed,
    TimeoutConnectionLost,
    TimeoutWaitApplied,
    TimeoutLeaderTransfer,
    BadLeaderTransferee,
    Corrupt,
    DefragmentFailed,
    NotSupportedForLearner,
    Unsupported,
}

impl Error {
    /// Whether every replica that applies the same entry to the same state gets this very error.
    /// Only such an error may be the outcome of an applied entry.
    pub fn is_deterministic(self) -> bool {
        match self {
            Error::EmptyKey
            | Error::KeyNotFound
            | Error::ValueProvided
            | Error::LeaseProvided
            | Error::TooManyOps
            | Error::DuplicateKey
            | Error::InvalidSortOption
            | Error::InvalidAlarmAction
            | Error::RangeStreamSort
            | Error::RangeStreamFilter
            | Error::Compacted
            | Error::FutureRevision
            | Error::NoSpace
            | Error::LeaseNotFound
            | Error::LeaseExists
            | Error::LeaseTtlTooLarge
            | Error::RequestTooLarge
            | Error::Corrupt
            | Error::Unsupported => true,
            Error::TooManyRequests
            | Error::NoLeader
            | Error::NotLeader
            | Error::LeaderChanged
            | Error::Stopped
            | Error::Timeout
            | Error::TimeoutLeaderFailed
            | Error::TimeoutConnectionLost
            | Error::TimeoutWaitApplied
            | Error::TimeoutLeaderTransfer
            | Error::BadLeaderTransferee
            | Error::DefragmentFailed
            | Error::NotSupportedForLearner => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Error {}
