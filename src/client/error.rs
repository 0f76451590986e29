//! What can go wrong with a call, told apart by the one question a caller has after a failed
//! write: may it have been executed all the same?

use std::fmt;
use tonic::Code;

/// Result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// An endpoint that is not `[http://]host:port`.
    Endpoint(String),
    /// No endpoint took the request; it was not executed.
    Unreachable(String),
    /// The deadline passed. When `sent` is false no endpoint took the request.
    Deadline { sent: bool, reason: String },
    /// The connection broke after the request was handed over.
    Disconnected(String),
    /// The server answered with an error: gRPC code and etcd's text.
    Server { code: Code, message: String },
    /// The answer is not what the protocol allows.
    Malformed(String),
    /// A watch wants revisions the store has forgotten; `compact_revision` is the oldest it has.
    Compacted { compact_revision: i64 },
    /// The server refused or ended a watch, with its reason.
    WatchCanceled(String),
}

impl Error {
    pub(super) fn server(code: Code, message: impl Into<String>) -> Error {
        Error::Server { code, message: message.into() }
    }

    /// The gRPC code, as the server gave it or as etcd's own client would report it.
    pub fn code(&self) -> Code {
        match self {
            Error::Endpoint(_) => Code::InvalidArgument,
            Error::Unreachable(_) | Error::Disconnected(_) => Code::Unavailable,
            Error::Deadline { .. } => Code::DeadlineExceeded,
            Error::Server { code, .. } => *code,
            Error::Malformed(_) => Code::Internal,
            Error::Compacted { .. } => Code::OutOfRange,
            Error::WatchCanceled(_) => Code::Cancelled,
        }
    }

    /// Whether a write that ended so may have been executed, now or later. "No" is a promise:
    /// it holds whatever the server did; "yes" is only doubt.
    pub fn maybe_executed(&self) -> bool {
        match self {
            Error::Endpoint(_) | Error::Unreachable(_) => false,
            Error::Deadline { sent, .. } => *sent,
            Error::Disconnected(_) | Error::Malformed(_) => true,
            Error::Compacted { .. } | Error::WatchCanceled(_) => false,
            Error::Server { code, message } => match code {
                // Refused by a check that runs before anything is changed.
                Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::Unimplemented
                | Code::Unauthenticated => false,
                Code::Unavailable => !refused_unseen(message),
                // "too many requests" comes before the proposal (etcd sends it as Unknown too),
                // but "database space exceeded" may come after a put that was applied.
                Code::ResourceExhausted | Code::Unknown => {
                    message != "etcdserver: too many requests"
                }
                Code::Ok
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::Internal
                | Code::DataLoss => true,
            },
        }
    }

    /// Whether the same call may be sent again: certain for one that only reads, and for a write
    /// only when it is sure that it was not executed.
    pub(super) fn is_retryable(&self, repeatable: bool) -> bool {
        match self {
            Error::Unreachable(_) => true,
            Error::Disconnected(_) => repeatable,
            Error::Server { code: Code::Unavailable, message } => {
                repeatable || refused_unseen(message)
            }
            Error::Server { .. }
            | Error::Endpoint(_)
            | Error::Deadline { .. }
            | Error::Malformed(_)
            | Error::Compacted { .. }
            | Error::WatchCanceled(_) => false,
        }
    }

    /// Whether a stream that ended so is worth opening again (etcd: `isHaltErr` of clientv3).
    pub(super) fn is_resumable(&self) -> bool {
        match self {
            Error::Unreachable(_) | Error::Disconnected(_) => true,
            Error::Server { code, .. } => matches!(code, Code::Unavailable | Code::Internal),
            Error::Endpoint(_)
            | Error::Deadline { .. }
            | Error::Malformed(_)
            | Error::Compacted { .. }
            | Error::WatchCanceled(_) => false,
        }
    }
}

/// Texts of `Unavailable` that a server sends before it looks at the request.
fn refused_unseen(message: &str) -> bool {
    message == "etcdserver: no leader"
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Endpoint(text) => write!(f, "invalid endpoint: {text}"),
            Error::Unreachable(reason) => write!(f, "no endpoint could be reached: {reason}"),
            Error::Deadline { reason, .. } if reason.is_empty() => {
                write!(f, "context deadline exceeded")
            }
            Error::Deadline { reason, .. } => write!(f, "context deadline exceeded: {reason}"),
            Error::Disconnected(reason) => write!(f, "connection lost: {reason}"),
            Error::Server { message, .. } => write!(f, "{message}"),
            Error::Malformed(what) => write!(f, "malformed answer: {what}"),
            Error::Compacted { compact_revision } => write!(
                f,
                "etcdserver: mvcc: required revision has been compacted (oldest is \
                 {compact_revision})"
            ),
            Error::WatchCanceled(reason) => write!(f, "watch canceled: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_sent_again_only_when_it_surely_was_not_executed() {
        let no_leader = Error::server(Code::Unavailable, "etcdserver: no leader");
        let timeout = Error::server(Code::Unavailable, "etcdserver: request timed out");
        let cut = Error::Disconnected("reset".into());
        assert!(no_leader.is_retryable(false) && !no_leader.maybe_executed());
        assert!(!timeout.is_retryable(false) && timeout.maybe_executed());
        assert!(!cut.is_retryable(false) && cut.maybe_executed());
        assert!(Error::Unreachable(String::new()).is_retryable(false));
        for error in [no_leader, timeout, cut] {
            assert!(error.is_retryable(true), "{error}");
        }
    }

    #[test]
    fn what_is_retried_for_writes_was_not_executed() {
        for code in 0..17 {
            for text in ["", "etcdserver: no leader", "etcdserver: too many requests"] {
                let error = Error::server(Code::from_i32(code), text);
                assert!(!(error.is_retryable(false) && error.maybe_executed()), "{error:?}");
            }
        }
    }

    #[test]
    fn no_space_leaves_doubt_because_the_put_may_have_been_applied() {
        let text = "etcdserver: mvcc: database space exceeded";
        assert!(Error::server(Code::ResourceExhausted, text).maybe_executed());
    }
}
