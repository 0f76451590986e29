//! What was found: a rule, the parts of the history that break it, and why.

use super::op::{RangeRequest, Request, Response};
use crate::types::Revision;
use serde::Serialize;
use std::fmt;

/// The promise that was broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Two writes were given the same revision.
    RevisionUnique,
    /// A write was given a revision that had been seen before the write was called.
    WriteOrder,
    /// A linearizable answer comes from before something that was already known.
    StaleAnswer,
    /// An answer differs from what the state at its revision gives.
    Answer,
    /// A serializable answer differs from the state at its revision, which makes it no state ever.
    SerializableAnswer,
    /// A session's serializable reads of one member went back in time.
    SerializableOrder,
    /// A revision exists that no operation of the history can have made.
    PhantomRevision,
    /// No order of the operations explains the answers.
    NotLinearizable,
    /// Something was read that a compaction had removed for everyone.
    Compaction,
    /// A lease ended before its time.
    LeaseEarly,
    /// A key was there long after its lease should have ended.
    LeaseLate,
    /// A key was hung on a lease that was gone.
    LeaseGone,
    /// A watcher got a message that does not follow the stream's form.
    WatchStream,
    /// Events came out of order.
    WatchOrder,
    /// An event came twice.
    WatchUnique,
    /// A revision's events came torn apart.
    WatchAtomic,
    /// An event was left out.
    WatchReliable,
    /// An event came after progress past it was announced.
    WatchBookmark,
    /// An event that no write made, or with other contents.
    WatchContent,
    /// A list with an element twice, or one that nobody or too many appended.
    ListElement,
    /// What a failed transaction appended was read, or half of what one did.
    ListAborted,
    /// A list was read in two orders.
    ListOrder,
    /// A transaction does not see what it did itself.
    ListInternal,
    /// What was appended is gone.
    ListLost,
    /// Transactions that each must come before themselves.
    ListCycle,
}

impl Rule {
    /// A title for people.
    pub fn title(self) -> &'static str {
        match self {
            Rule::RevisionUnique => "two writes with one revision",
            Rule::WriteOrder => "a write's revision goes back in time",
            Rule::StaleAnswer => "stale answer",
            Rule::Answer => "an answer that no order of the writes gives",
            Rule::SerializableAnswer => "a serializable read of a state that never was",
            Rule::SerializableOrder => "serializable reads go back in time",
            Rule::PhantomRevision => "a revision that nobody wrote",
            Rule::NotLinearizable => "not linearizable",
            Rule::Compaction => "a compacted revision was read",
            Rule::LeaseEarly => "a lease ended before its time",
            Rule::LeaseLate => "a key outlived its lease",
            Rule::LeaseGone => "a key on a lease that was gone",
            Rule::WatchStream => "malformed watch stream",
            Rule::WatchOrder => "watch events out of order",
            Rule::WatchUnique => "duplicate watch event",
            Rule::WatchAtomic => "a revision's events torn apart",
            Rule::WatchReliable => "missed watch event",
            Rule::WatchBookmark => "an event behind announced progress",
            Rule::WatchContent => "a watch event that differs from the write",
            Rule::ListElement => "an element of a list that cannot be",
            Rule::ListAborted => "a read of what was not done",
            Rule::ListOrder => "a list in two orders",
            Rule::ListInternal => "a transaction contradicts itself",
            Rule::ListLost => "a lost append",
            Rule::ListCycle => "a cycle of dependencies",
        }
    }
}

/// A broken promise and the smallest explanation found for it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Violation {
    pub rule: Rule,
    /// What happened and why it may not, in one paragraph.
    pub text: Box<str>,
    pub expected: Box<str>,
    pub got: Box<str>,
    /// The operations concerned, by their place in the history; the first is the one at fault.
    pub operations: Vec<usize>,
    /// The watchers concerned, by their place in the history.
    pub watches: Vec<usize>,
    pub revision: Option<Revision>,
    /// What the store holds of the keys concerned, around the revision: a line for each version.
    pub states: Vec<String>,
}

impl Violation {
    pub(super) fn new(rule: Rule, text: String) -> Violation {
        let (text, expected, got) = (text.into(), Box::default(), Box::default());
        let (operations, watches, states) = (Vec::new(), Vec::new(), Vec::new());
        Violation { rule, text, expected, got, operations, watches, revision: None, states }
    }

    pub(super) fn between(mut self, expected: String, got: String) -> Violation {
        (self.expected, self.got) = (expected.into(), got.into());
        self
    }

    pub(super) fn of(mut self, operations: impl IntoIterator<Item = usize>) -> Violation {
        self.operations.extend(operations);
        self
    }

    pub(super) fn watched(mut self, watch: usize) -> Violation {
        self.watches.push(watch);
        self
    }

    pub(super) fn at(mut self, revision: Revision) -> Violation {
        self.revision = Some(revision);
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule.title(), self.text)
    }
}

/// The first place where two answers to a request differ, as (expected, got); none if they are
/// the same.
///
/// The headers of a transaction's parts are not looked at, nor is what `keys_only` leaves open.
pub(super) fn difference(
    request: &Request,
    expected: &Response,
    got: &Response,
) -> Option<(String, String)> {
    let keys_only = matches!(request, Request::Range(RangeRequest { keys_only: true, .. }));
    let differ = |what: &str, one: &dyn fmt::Debug, other: &dyn fmt::Debug| {
        Some((format!("{what} {one:?}"), format!("{what} {other:?}")))
    };
    match (expected, got) {
        (Response::Range(one), Response::Range(other)) => {
            for place in 0..one.kvs.len().max(other.kvs.len()) {
                let mut pair = [one.kvs.get(place).cloned(), other.kvs.get(place).cloned()];
                if keys_only {
                    // Since etcd 3.7 the lease is left out as well.
                    pair.iter_mut().flatten().for_each(|kv| kv.lease = Default::default());
                }
                let [one, other] = pair;
                if one != other {
                    return Some((kv_text(one.as_ref()), kv_text(other.as_ref())));
                }
            }
            if one.count != other.count {
                return differ("count", &one.count, &other.count);
            }
            (one.more != other.more).then(|| differ("more", &one.more, &other.more)).flatten()
        }
        (Response::Put(one), Response::Put(other)) => {
            let [one, other] = [one, other].map(|response| response.prev_kv.as_ref());
            let text = |kv| format!("prev_kv {}", kv_text(kv));
            (one != other).then(|| (text(one), text(other)))
        }
        (Response::DeleteRange(one), Response::DeleteRange(other)) => {
            if one.deleted != other.deleted {
                return differ("deleted", &one.deleted, &other.deleted);
            }
            let pairs = one.prev_kvs.len().max(other.prev_kvs.len());
            (0..pairs).find_map(|place| {
                let [one, other] = [one.prev_kvs.get(place), other.prev_kvs.get(place)];
                let text = |kv| format!("prev_kv {}", kv_text(kv));
                (one != other).then(|| (text(one), text(other)))
            })
        }
        (Response::Txn(one), Response::Txn(other)) => {
            if one.succeeded != other.succeeded {
                return differ("succeeded", &one.succeeded, &other.succeeded);
            }
            if one.responses.len() != other.responses.len() {
                return differ("responses", &one.responses.len(), &other.responses.len());
            }
            let Request::Txn(txn) = request else {
                return Some((format!("{expected:?}"), format!("{got:?}")));
            };
            let branch = if one.succeeded { &txn.success } else { &txn.failure };
            let parts = branch.iter().zip(one.responses.iter().zip(&other.responses)).enumerate();
            parts
                .filter_map(|(place, (part, (one, other)))| {
                    let (one, other) = difference(part, one, other)?;
                    Some((format!("part {place}: {one}"), format!("part {place}: {other}")))
                })
                .next()
        }
        (Response::Compact(_), Response::Compact(_))
        | (Response::LeaseGrant(_), Response::LeaseGrant(_))
        | (Response::LeaseRevoke(_), Response::LeaseRevoke(_))
        | (Response::LeaseKeepAlive(_), Response::LeaseKeepAlive(_)) => None,
        _ => Some((format!("{expected:?}"), format!("{got:?}"))),
    }
}

/// A key and its life on one line.
pub(super) fn kv_text(kv: Option<&super::op::KeyValue>) -> String {
    let Some(kv) = kv else { return "nothing".into() };
    let lease = match kv.lease.0 {
        0 => String::new(),
        _ => format!(", lease {}", kv.lease),
    };
    format!(
        "{} = {} (created at {}, modified at {}, version {}{lease})",
        kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version
    )
}
