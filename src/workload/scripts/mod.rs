//! One script for each kind of work.
//!
//! A script is a small state machine: what it wants to do next may hang on what it read last.
//! Keys are few, so that clients meet on them. The functions here are words the scripts share.

mod append;
mod bank;
mod kubernetes;
mod lease;
mod mixed;
mod pages;
mod register;
mod set;
mod watch;

pub(super) use append::Append;
pub(super) use bank::Bank;
pub(super) use kubernetes::Kubernetes;
pub(super) use lease::Lease;
pub(super) use mixed::Mixed;
pub(super) use pages::Pages;
pub(super) use register::Register;
pub(super) use set::Set;
pub(super) use watch::Watch;

use super::generator::{Hand, Step};
use crate::check::Data;
use crate::check::op::{
    CompactRequest, Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyValue, Outcome,
    PutRequest, RangeRequest, Request, Response, TxnRequest,
};
use crate::client::prefix_end;
use crate::types::Revision;

/// A kind of work as a state machine.
pub(super) trait Script: Send {
    /// What to do now.
    fn next(&mut self, hand: &mut Hand) -> Step;

    /// What became of the last call.
    fn told(&mut self, request: &Request, outcome: &Outcome);

    /// Whether nothing it began waits to be gone on with.
    fn is_idle(&self) -> bool;
}

/// A read of one key.
fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.into(), ..RangeRequest::default() }
}

/// A read of all keys that begin so.
fn list(prefix: &str) -> RangeRequest {
    RangeRequest { key: prefix.into(), range_end: end(prefix), ..RangeRequest::default() }
}

/// The end of the range of all keys that begin so.
fn end(prefix: &str) -> Data {
    prefix_end(prefix.as_bytes()).into()
}

fn put(key: impl Into<Data>, value: impl Into<Data>) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() }
}

fn delete(key: impl Into<Data>) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() }
}

/// A transaction that does `success` if all conditions hold, else `failure`.
fn txn(
    compare: impl Into<Vec<Compare>>,
    success: impl Into<Vec<Request>>,
    failure: impl Into<Vec<Request>>,
) -> Request {
    let (compare, success, failure) = (compare.into(), success.into(), failure.into());
    Request::Txn(TxnRequest { compare, success, failure })
}

/// That the target of a key equals this.
fn equal(key: impl Into<Data>, target: CompareTarget) -> Compare {
    let (key, range_end) = (key.into(), Data::default());
    Compare { key, range_end, result: CompareResult::Equal, target }
}

/// That a key was last changed by this revision; 0: that it is not there.
fn unchanged(key: impl Into<Data>, revision: Revision) -> Compare {
    equal(key, CompareTarget::ModRevision(revision))
}

fn compact(revision: Revision) -> Step {
    Step::Call(Request::Compact(CompactRequest { revision }))
}

/// What a range answered, alone or as the first part of a transaction.
fn kvs(outcome: &Outcome) -> Option<&[KeyValue]> {
    match outcome {
        Outcome::Ok(Response::Range(range)) => Some(&range.kvs),
        Outcome::Ok(Response::Txn(txn)) => match txn.responses.first() {
            Some(Response::Range(range)) => Some(&range.kvs),
            _ => None,
        },
        Outcome::Ok(_) | Outcome::Failed(_) | Outcome::Unknown(_) => None,
    }
}

/// Whether a transaction's conditions held; none if nobody knows.
fn succeeded(outcome: &Outcome) -> Option<bool> {
    match outcome {
        Outcome::Ok(Response::Txn(txn)) => Some(txn.succeeded),
        Outcome::Ok(_) | Outcome::Failed(_) | Outcome::Unknown(_) => None,
    }
}

/// The text of a value; empty if it is none.
fn text(data: &Data) -> &str {
    std::str::from_utf8(&data.0).unwrap_or_default()
}
