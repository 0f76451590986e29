//! The one table from what went wrong to what a client is told: gRPC code and exact text.
//!
//! Clients match on the texts (Go's library maps them back to values, Patroni compares strings),
//! so a letter is a contract. Source: etcd's `rpctypes`; `docs/compat.md` lists what differs.

use crate::types::Error;
use tonic::{Code, Status};

/// The gRPC code and text of an error.
pub fn code_and_text(error: Error) -> (Code, &'static str) {
    match error {
        Error::EmptyKey => (Code::InvalidArgument, "etcdserver: key is not provided"),
        Error::KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
        Error::ValueProvided => (Code::InvalidArgument, "etcdserver: value is provided"),
        Error::LeaseProvided => (Code::InvalidArgument, "etcdserver: lease is provided"),
        Error::TooManyOps => {
            (Code::InvalidArgument, "etcdserver: too many operations in txn request")
        }
        Error::DuplicateKey => {
            (Code::InvalidArgument, "etcdserver: duplicate key given in txn request")
        }
        Error::InvalidSortOption => (Code::InvalidArgument, "etcdserver: invalid sort option"),
        Error::InvalidAlarmAction => (Code::InvalidArgument, "etcdserver: invalid alarm action"),
        Error::RangeStreamSort => {
            (Code::Unimplemented, "RangeStream does not support custom sort orders")
        }
        Error::RangeStreamFilter => {
            (Code::Unimplemented, "RangeStream does not support revision filters")
        }
        Error::Compacted => {
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted")
        }
        Error::FutureRevision => {
            (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision")
        }
        Error::NoSpace => (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        Error::LeaseNotFound => (Code::NotFound, "etcdserver: requested lease not found"),
        Error::LeaseExists => (Code::FailedPrecondition, "etcdserver: lease already exists"),
        Error::LeaseTtlTooLarge => (Code::OutOfRange, "etcdserver: too large lease TTL"),
        Error::RequestTooLarge => (Code::InvalidArgument, "etcdserver: request is too large"),
        // Code Unknown is what a real etcd puts on the wire here, whatever its constants say.
        Error::TooManyRequests => (Code::Unknown, "etcdserver: too many requests"),
        Error::NoLeader => (Code::Unavailable, "etcdserver: no leader"),
        Error::NotLeader => (Code::FailedPrecondition, "etcdserver: not leader"),
        Error::LeaderChanged => (Code::Unavailable, "etcdserver: leader changed"),
        Error::Stopped => (Code::Unavailable, "etcdserver: server stopped"),
        Error::Timeout => (Code::Unavailable, "etcdserver: request timed out"),
        Error::TimeoutLeaderFailed => (
            Code::Unavailable,
            "etcdserver: request timed out, possibly due to previous leader failure",
        ),
        Error::TimeoutConnectionLost => {
            (Code::Unavailable, "etcdserver: request timed out, possibly due to connection lost")
        }
        Error::TimeoutWaitApplied => (
            Code::Unavailable,
            "etcdserver: request timed out, waiting for the applied index took too long",
        ),
        Error::TimeoutLeaderTransfer => {
            (Code::Unknown, "etcdserver: request timed out, leader transfer took too long")
        }
        Error::BadLeaderTransferee => {
            (Code::FailedPrecondition, "etcdserver: bad leader transferee")
        }
        Error::Corrupt => (Code::DataLoss, "etcdserver: corrupt cluster"),
        Error::DefragmentFailed => {
            (Code::Unknown, "etcdserver: failed to defragment; the member's log says why")
        }
        Error::NotSupportedForLearner => {
            (Code::FailedPrecondition, "etcdserver: rpc not supported for learner")
        }
        Error::Unsupported => (Code::Unimplemented, "etcdserver: not supported by this server"),
    }
}

/// The status a client sees.
pub fn status(error: Error) -> Status {
    let (code, text) = code_and_text(error);
    Status::new(code, text)
}
