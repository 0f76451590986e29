//! Requests and answers of a history as etcd's messages, and back.
//!
//! The vocabulary of a history is etcd's, so this is a translation word by word. An answer that
//! lacks what its request asked for is [`Error::Malformed`].

use crate::check::Data;
use crate::check::op;
use crate::client::{DeleteReply, Error, GetReply, OpReply, PutReply, TxnReply};
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest,
    WatchResponse,
};
use crate::proto::mvccpb::event::EventType;
use crate::proto::mvccpb::{Event, KeyValue};
use crate::types::{LeaseId, Revision};
use prost::Message;

pub(super) fn range(range: &op::RangeRequest) -> RangeRequest {
    RangeRequest {
        key: range.key.0.clone(),
        range_end: range.range_end.0.clone(),
        limit: range.limit,
        revision: range.revision.0,
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        ..RangeRequest::default()
    }
}

pub(super) fn put(put: &op::PutRequest) -> PutRequest {
    PutRequest {
        key: put.key.0.clone(),
        value: put.value.0.clone(),
        lease: put.lease.0,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

pub(super) fn delete(delete: &op::DeleteRangeRequest) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: delete.key.0.clone(),
        range_end: delete.range_end.0.clone(),
        prev_kv: delete.prev_kv,
    }
}

pub(super) fn txn(txn: &op::TxnRequest) -> TxnRequest {
    TxnRequest {
        compare: txn.compare.iter().map(compare).collect(),
        success: txn.success.iter().map(part).collect(),
        failure: txn.failure.iter().map(part).collect(),
    }
}

/// One operation of a transaction.
fn part(request: &op::Request) -> RequestOp {
    let request = match request {
        op::Request::Range(one) => Request::RequestRange(range(one)),
        op::Request::Put(one) => Request::RequestPut(put(one)),
        op::Request::DeleteRange(one) => Request::RequestDeleteRange(delete(one)),
        op::Request::Txn(one) => Request::RequestTxn(txn(one)),
        op::Request::Compact(_)
        | op::Request::LeaseGrant(_)
        | op::Request::LeaseRevoke(_)
        | op::Request::LeaseKeepAlive(_) => panic!("no part of a transaction: {}", request.name()),
    };
    RequestOp { request: Some(request) }
}

fn compare(compare: &op::Compare) -> Compare {
    let result = match compare.result {
        op::CompareResult::Equal => CompareResult::Equal,
        op::CompareResult::Greater => CompareResult::Greater,
        op::CompareResult::Less => CompareResult::Less,
        op::CompareResult::NotEqual => CompareResult::NotEqual,
    };
    let (target, value) = match &compare.target {
        op::CompareTarget::Version(version) => {
            (CompareTarget::Version, TargetUnion::Version(*version))
        }
        op::CompareTarget::CreateRevision(revision) => {
            (CompareTarget::Create, TargetUnion::CreateRevision(revision.0))
        }
        op::CompareTarget::ModRevision(revision) => {
            (CompareTarget::Mod, TargetUnion::ModRevision(revision.0))
        }
        op::CompareTarget::Value(value) => {
            (CompareTarget::Value, TargetUnion::Value(value.0.clone()))
        }
        op::CompareTarget::Lease(lease) => (CompareTarget::Lease, TargetUnion::Lease(lease.0)),
    };
    Compare {
        result: result as i32,
        target: target as i32,
        key: compare.key.0.clone(),
        range_end: compare.range_end.0.clone(),
        target_union: Some(value),
    }
}

pub(super) fn key_value(kv: KeyValue) -> op::KeyValue {
    op::KeyValue {
        key: Data(kv.key),
        value: Data(kv.value),
        create_revision: Revision(kv.create_revision),
        mod_revision: Revision(kv.mod_revision),
        version: kv.version,
        lease: LeaseId(kv.lease),
    }
}

pub(super) fn ranged(reply: GetReply) -> op::RangeResponse {
    op::RangeResponse {
        revision: Revision(reply.header.revision),
        kvs: reply.kvs.into_iter().map(key_value).collect(),
        more: reply.more,
        count: reply.count,
    }
}

pub(super) fn was_put(reply: PutReply) -> op::PutResponse {
    op::PutResponse {
        revision: Revision(reply.header.revision),
        prev_kv: reply.prev_kv.map(key_value),
    }
}

pub(super) fn deleted(reply: DeleteReply) -> op::DeleteRangeResponse {
    op::DeleteRangeResponse {
        revision: Revision(reply.header.revision),
        deleted: reply.deleted,
        prev_kvs: reply.prev_kvs.into_iter().map(key_value).collect(),
    }
}

pub(super) fn txn_done(reply: TxnReply) -> op::TxnResponse {
    let told = |part: OpReply| match part {
        OpReply::Get(reply) => op::Response::Range(ranged(reply)),
        OpReply::Put(reply) => op::Response::Put(was_put(reply)),
        OpReply::Delete(reply) => op::Response::DeleteRange(deleted(reply)),
        OpReply::Txn(reply) => op::Response::Txn(txn_done(reply)),
    };
    op::TxnResponse {
        revision: Revision(reply.header.revision),
        succeeded: reply.succeeded,
        responses: reply.ops.into_iter().map(told).collect(),
    }
}

/// The revision of a header.
///
/// # Errors
/// If there is no header.
pub(super) fn revision(header: Option<ResponseHeader>) -> Result<Revision, Error> {
    let header = header.ok_or_else(|| Error::Malformed("an answer without a header".into()))?;
    Ok(Revision(header.revision))
}

/// A message of a watch stream that came at a time.
///
/// # Errors
/// If an event in it cannot be read.
pub(super) fn watched(message: WatchResponse, at: u64) -> Result<op::WatchResponse, Error> {
    let mut events = Vec::with_capacity(message.events.len());
    for bytes in message.events {
        let decoded = Event::decode(bytes).map_err(|error| Error::Malformed(error.to_string()))?;
        events.push(event(decoded)?);
    }
    Ok(op::WatchResponse {
        at,
        revision: message.header.map_or(Revision(0), |header| Revision(header.revision)),
        created: message.created,
        canceled: message.canceled,
        compact_revision: Revision(message.compact_revision),
        fragment: message.fragment,
        events,
    })
}

/// A change as a watcher is told of it.
///
/// # Errors
/// If it is of no known kind or of no key.
pub(super) fn event(event: Event) -> Result<op::Event, Error> {
    let kind = match EventType::try_from(event.r#type) {
        Ok(EventType::Put) => op::EventKind::Put,
        Ok(EventType::Delete) => op::EventKind::Delete,
        Err(_) => return Err(Error::Malformed(format!("an event of type {}", event.r#type))),
    };
    let kv = event.kv.ok_or_else(|| Error::Malformed("an event without a key".into()))?;
    Ok(op::Event { kind, kv: key_value(kv), prev_kv: event.prev_kv.map(key_value) })
}
