//! The vocabulary of a history: what clients asked, what they were told, and when.
//!
//! An operation is a request of a process with the times of its call and its answer, on one clock
//! for the whole history. Requests and responses are etcd's, less what checking has no use for
//! (sorting, cluster and term in headers); a field that is left out of the JSON has etcd's
//! default.
//!
//! - An outcome is `ok` (with the response), `failed` (it did not happen and never will) or
//!   `unknown` (it may happen at any time after the call, or never). A recorder that is not sure
//!   says `unknown`: a wrong `failed` makes a lawful store look unlawful.
//! - A revision of 0 in a response means "not told".
//! - A watcher is one entry, with all it was told in the order of arrival. One that is opened
//!   again after a broken stream is another entry; or, if its client resumes by itself and passes
//!   on whole batches only, the same one, with another `created` message.
//! - Operations inside a transaction are `range`, `put`, `delete_range` and `txn`.
//!
//! `session` numbers the connections of a process to a member: what a member promises only to
//! one connection (that serializable reads do not go back) is asked within a session.

use super::data::Data;
use crate::types::{KeyRange, LeaseId, Revision};
use serde::{Deserialize, Serialize};

/// A key with its value and its life so far.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyValue {
    pub key: Data,
    pub value: Data,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    pub version: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub lease: LeaseId,
}

/// A request and what became of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Who asked; a process has, as a rule, one operation under way.
    pub process: u64,
    /// The member or endpoint that was asked; empty if nobody noted it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub member: String,
    /// Which connection of the process to the member.
    #[serde(default, skip_serializing_if = "is_default")]
    pub session: u64,
    /// When it was called, in nanoseconds.
    pub invoke: u64,
    /// When the answer came, in nanoseconds; for an unknown outcome when waiting ended, if noted.
    #[serde(rename = "return", default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<u64>,
    pub request: Request,
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok(Response),
    /// It did not happen, and why.
    Failed(String),
    /// It may have happened, and why that is not known.
    Unknown(String),
}

/// What was asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactRequest),
    LeaseGrant(LeaseGrantRequest),
    LeaseRevoke(LeaseRequest),
    LeaseKeepAlive(LeaseRequest),
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RangeRequest {
    pub key: Data,
    #[serde(skip_serializing_if = "is_default")]
    pub range_end: Data,
    #[serde(skip_serializing_if = "is_default")]
    pub limit: i64,
    /// 0 is the latest.
    #[serde(skip_serializing_if = "is_default")]
    pub revision: Revision,
    #[serde(skip_serializing_if = "is_default")]
    pub serializable: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub keys_only: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub count_only: bool,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PutRequest {
    pub key: Data,
    pub value: Data,
    #[serde(skip_serializing_if = "is_default")]
    pub lease: LeaseId,
    #[serde(skip_serializing_if = "is_default")]
    pub prev_kv: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub ignore_value: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub ignore_lease: bool,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeleteRangeRequest {
    pub key: Data,
    #[serde(skip_serializing_if = "is_default")]
    pub range_end: Data,
    #[serde(skip_serializing_if = "is_default")]
    pub prev_kv: bool,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TxnRequest {
    pub compare: Vec<Compare>,
    pub success: Vec<Request>,
    pub failure: Vec<Request>,
}

/// One condition of a transaction.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compare {
    pub key: Data,
    #[serde(default, skip_serializing_if = "is_default")]
    pub range_end: Data,
    pub result: CompareResult,
    pub target: CompareTarget,
}

/// How what is stored must stand to the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareResult {
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// What is compared, and with what.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareTarget {
    Version(i64),
    CreateRevision(Revision),
    ModRevision(Revision),
    Value(Data),
    Lease(LeaseId),
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompactRequest {
    pub revision: Revision,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaseGrantRequest {
    /// 0 lets the server choose.
    pub id: LeaseId,
    pub ttl_seconds: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    pub id: LeaseId,
}

/// What was answered. The `revision` of each is that of its header; those of the parts of a
/// transaction are not looked at.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    Range(RangeResponse),
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(HeaderResponse),
    LeaseGrant(LeaseGrantResponse),
    LeaseRevoke(HeaderResponse),
    LeaseKeepAlive(LeaseKeepAliveResponse),
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RangeResponse {
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
    #[serde(skip_serializing_if = "is_default")]
    pub more: bool,
    pub count: i64,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PutResponse {
    pub revision: Revision,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeleteRangeResponse {
    pub revision: Revision,
    pub deleted: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prev_kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TxnResponse {
    pub revision: Revision,
    pub succeeded: bool,
    pub responses: Vec<Response>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderResponse {
    pub revision: Revision,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaseGrantResponse {
    pub revision: Revision,
    pub id: LeaseId,
    pub ttl_seconds: u64,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaseKeepAliveResponse {
    pub revision: Revision,
    /// 0 when the lease is gone.
    pub ttl_seconds: u64,
}

/// A watcher and all it was told.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watch {
    pub process: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub member: String,
    /// When it was asked for, in nanoseconds.
    pub invoke: u64,
    pub key: Data,
    #[serde(skip_serializing_if = "is_default")]
    pub range_end: Data,
    /// 0 is "from now".
    #[serde(skip_serializing_if = "is_default")]
    pub start_revision: Revision,
    #[serde(skip_serializing_if = "is_default")]
    pub prev_kv: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub no_put: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub no_delete: bool,
    pub responses: Vec<WatchResponse>,
}

/// One message of a watch stream: without events, and neither `created` nor `canceled`, it
/// announces progress up to its revision.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchResponse {
    /// When it came, in nanoseconds.
    pub at: u64,
    /// The header's.
    pub revision: Revision,
    #[serde(skip_serializing_if = "is_default")]
    pub created: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub canceled: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub compact_revision: Revision,
    /// Whether the next message goes on with the same batch.
    #[serde(skip_serializing_if = "is_default")]
    pub fragment: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
}

impl WatchResponse {
    /// Whether it says that all up to its revision has been told.
    pub fn is_progress(&self) -> bool {
        self.events.is_empty() && !self.created && !self.canceled && !self.fragment
    }
}

/// A change of a key.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    #[serde(rename = "type")]
    pub kind: EventKind,
    pub kv: KeyValue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_kv: Option<KeyValue>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Put,
    Delete,
}

/// Something that was done to the cluster, for the picture only.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fault {
    pub name: String,
    /// In nanoseconds.
    pub from: u64,
    /// In nanoseconds; none: to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// A member's role and term from a moment on, for the picture only.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    pub member: String,
    /// In nanoseconds.
    pub at: u64,
    /// `leader`, `follower`, `candidate`, `down`, or another word.
    pub state: String,
    #[serde(skip_serializing_if = "is_default")]
    pub term: u64,
}

/// The store before the first operation, and what the recorder vouches for. Left out: empty, at
/// revision 1.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Start {
    pub revision: Revision,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kvs: Vec<KeyValue>,
    /// How much faster or slower than the recorder's clock a member's may run, in millionths.
    #[serde(skip_serializing_if = "is_default")]
    pub clock_drift_ppm: u32,
    /// How long after the end of its time a lease's keys may be seen, in nanoseconds; none: that is
    /// not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_late_max_ns: Option<u64>,
}

impl Default for Start {
    fn default() -> Start {
        Start {
            revision: Revision(1),
            kvs: Vec::new(),
            clock_drift_ppm: 0,
            lease_late_max_ns: None,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The keys that a pair of key and range end names.
pub(super) fn keys(key: &Data, range_end: &Data) -> KeyRange {
    KeyRange::new(key.0.clone(), range_end.0.clone())
}

impl Operation {
    /// The response, if there was one.
    pub fn response(&self) -> Option<&Response> {
        match &self.outcome {
            Outcome::Ok(response) => Some(response),
            Outcome::Failed(_) | Outcome::Unknown(_) => None,
        }
    }

    /// Whether it reads what the answering member has, be it old.
    pub fn is_serializable(&self) -> bool {
        self.request.is_serializable()
    }
}

impl Request {
    /// Its name in etcd's words.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Range(_) => "range",
            Request::Put(_) => "put",
            Request::DeleteRange(_) => "delete_range",
            Request::Txn(_) => "txn",
            Request::Compact(_) => "compact",
            Request::LeaseGrant(_) => "lease_grant",
            Request::LeaseRevoke(_) => "lease_revoke",
            Request::LeaseKeepAlive(_) => "lease_keep_alive",
        }
    }

    /// Whether it may be answered from old state: a serializable range, or a transaction of
    /// nothing but such ranges (an empty one is one).
    pub fn is_serializable(&self) -> bool {
        match self {
            Request::Range(range) => range.serializable,
            Request::Txn(txn) => txn
                .success
                .iter()
                .chain(&txn.failure)
                .all(|request| matches!(request, Request::Range(range) if range.serializable)),
            Request::Put(_)
            | Request::DeleteRange(_)
            | Request::Compact(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_)
            | Request::LeaseKeepAlive(_) => false,
        }
    }

    /// Whether it can change a key by itself.
    pub fn may_write(&self) -> bool {
        match self {
            Request::Put(_) | Request::DeleteRange(_) => true,
            Request::Txn(txn) => txn.success.iter().chain(&txn.failure).any(Request::may_write),
            Request::LeaseRevoke(_) => true,
            Request::Range(_)
            | Request::Compact(_)
            | Request::LeaseGrant(_)
            | Request::LeaseKeepAlive(_) => false,
        }
    }

    /// Whether a response of this kind can belong to it, parts of a transaction included.
    pub fn fits(&self, response: &Response) -> bool {
        match (self, response) {
            (Request::Txn(txn), Response::Txn(response)) => {
                let branch = if response.succeeded { &txn.success } else { &txn.failure };
                branch.len() == response.responses.len()
                    && branch.iter().zip(&response.responses).all(|(part, told)| part.fits(told))
            }
            (Request::Range(_), Response::Range(_))
            | (Request::Put(_), Response::Put(_))
            | (Request::DeleteRange(_), Response::DeleteRange(_))
            | (Request::Compact(_), Response::Compact(_))
            | (Request::LeaseGrant(_), Response::LeaseGrant(_))
            | (Request::LeaseRevoke(_), Response::LeaseRevoke(_))
            | (Request::LeaseKeepAlive(_), Response::LeaseKeepAlive(_)) => true,
            _ => false,
        }
    }

    /// Whether it may stand in a transaction, and all in it may.
    pub(super) fn is_nestable(&self) -> bool {
        match self {
            Request::Range(_) | Request::Put(_) | Request::DeleteRange(_) => true,
            Request::Txn(txn) => txn.success.iter().chain(&txn.failure).all(Request::is_nestable),
            Request::Compact(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_)
            | Request::LeaseKeepAlive(_) => false,
        }
    }

    /// All keys that its answer or its effect can hang on.
    pub(super) fn footprint(&self, ranges: &mut Vec<KeyRange>) {
        match self {
            Request::Range(range) => ranges.push(keys(&range.key, &range.range_end)),
            Request::Put(put) => ranges.push(keys(&put.key, &Data::default())),
            Request::DeleteRange(delete) => ranges.push(keys(&delete.key, &delete.range_end)),
            Request::Txn(txn) => {
                ranges.extend(txn.compare.iter().map(|one| keys(&one.key, &one.range_end)));
                txn.success.iter().chain(&txn.failure).for_each(|part| part.footprint(ranges));
            }
            // The keys of a lease can be any.
            Request::LeaseRevoke(_) => ranges.push(KeyRange::all()),
            Request::Compact(_) | Request::LeaseGrant(_) | Request::LeaseKeepAlive(_) => {}
        }
    }
}

impl Response {
    /// The revision of the header; 0 if not told.
    pub fn revision(&self) -> Revision {
        match self {
            Response::Range(response) => response.revision,
            Response::Put(response) => response.revision,
            Response::DeleteRange(response) => response.revision,
            Response::Txn(response) => response.revision,
            Response::Compact(response) => response.revision,
            Response::LeaseGrant(response) => response.revision,
            Response::LeaseRevoke(response) => response.revision,
            Response::LeaseKeepAlive(response) => response.revision,
        }
    }

    /// Whether it tells of a changed key.
    pub fn changed(&self) -> bool {
        match self {
            Response::Put(_) => true,
            Response::DeleteRange(response) => response.deleted > 0,
            Response::Txn(response) => response.responses.iter().any(Response::changed),
            Response::Range(_)
            | Response::Compact(_)
            | Response::LeaseGrant(_)
            | Response::LeaseRevoke(_)
            | Response::LeaseKeepAlive(_) => false,
        }
    }
}
