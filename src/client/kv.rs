//! Keys, values and transactions.
//!
//! Requests are thin wrappers of etcd's own messages with methods that set one field each; the
//! message inside is public for what has no method. Replies have their pairs decoded: on the
//! wire, and in our generated code, a pair is an encoded byte string.

use super::error::Result;
use super::wire::{Responses, decode};
use super::{Client, method};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, DeleteRangeResponse,
    PutRequest, PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use crate::proto::mvccpb::KeyValue;
use bytes::Bytes;

/// The end of the range of all keys that begin with `prefix`.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|&byte| byte != 0xff) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
        // Nothing sorts behind all such keys: to the end of the keyspace.
        None => Bytes::from_static(&[0]),
    }
}

/// A read.
#[derive(Clone, Debug, Default)]
pub struct Get(pub RangeRequest);

impl Get {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Get {
        Get(RangeRequest { key: key.into(), ..Default::default() })
    }

    /// Keys from `start` to before `end`.
    pub fn range(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Get {
        Get(RangeRequest { key: start.into(), range_end: end.into(), ..Default::default() })
    }

    /// Keys that begin with `prefix`; all keys if it is empty.
    pub fn prefix(prefix: impl Into<Bytes>) -> Get {
        let (start, end) = prefix_range(prefix.into());
        Get::range(start, end)
    }

    /// Every key.
    pub fn all() -> Get {
        Get::prefix(Bytes::new())
    }

    /// At most so many pairs; 0 is no limit.
    pub fn limit(mut self, pairs: i64) -> Get {
        self.0.limit = pairs;
        self
    }

    /// As of a revision; 0 is the newest.
    pub fn at(mut self, revision: i64) -> Get {
        self.0.revision = revision;
        self
    }

    /// From the member's own state, without asking the others whether it is the newest.
    pub fn serializable(mut self) -> Get {
        self.0.serializable = true;
        self
    }

    /// Without values.
    pub fn keys_only(mut self) -> Get {
        self.0.keys_only = true;
        self
    }

    /// Without pairs.
    pub fn count_only(mut self) -> Get {
        self.0.count_only = true;
        self
    }

    /// In an order.
    pub fn sort(mut self, target: SortTarget, order: SortOrder) -> Get {
        self.0.sort_target = target as i32;
        self.0.sort_order = order as i32;
        self
    }
}

/// A write of one key.
#[derive(Clone, Debug, Default)]
pub struct Put(pub PutRequest);

impl Put {
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Put {
        Put(PutRequest { key: key.into(), value: value.into(), ..Default::default() })
    }

    /// Attaches the key to a lease.
    pub fn lease(mut self, id: i64) -> Put {
        self.0.lease = id;
        self
    }

    /// Asks for the pair that was there before.
    pub fn prev_kv(mut self) -> Put {
        self.0.prev_kv = true;
        self
    }
}

/// A deletion.
#[derive(Clone, Debug, Default)]
pub struct Delete(pub DeleteRangeRequest);

impl Delete {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Delete {
        Delete(DeleteRangeRequest { key: key.into(), ..Default::default() })
    }

    /// Keys from `start` to before `end`.
    pub fn range(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Delete {
        Delete(DeleteRangeRequest {
            key: start.into(),
            range_end: end.into(),
            ..Default::default()
        })
    }

    /// Keys that begin with `prefix`; all keys if it is empty.
    pub fn prefix(prefix: impl Into<Bytes>) -> Delete {
        let (start, end) = prefix_range(prefix.into());
        Delete::range(start, end)
    }

    /// Asks for the deleted pairs.
    pub fn prev_kv(mut self) -> Delete {
        self.0.prev_kv = true;
        self
    }
}

fn prefix_range(prefix: Bytes) -> (Bytes, Bytes) {
    let end = prefix_end(&prefix);
    // An empty key means "not given"; the least key there can be is one zero byte.
    (if prefix.is_empty() { Bytes::from_static(&[0]) } else { prefix }, end)
}

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    Get(Get),
    Put(Put),
    Delete(Delete),
    Txn(Txn),
}

impl From<Op> for RequestOp {
    fn from(op: Op) -> RequestOp {
        RequestOp {
            request: Some(match op {
                Op::Get(get) => Request::RequestRange(get.0),
                Op::Put(put) => Request::RequestPut(put.0),
                Op::Delete(delete) => Request::RequestDeleteRange(delete.0),
                Op::Txn(txn) => Request::RequestTxn(txn.0),
            }),
        }
    }
}

impl From<Get> for Op {
    fn from(get: Get) -> Op {
        Op::Get(get)
    }
}

impl From<Put> for Op {
    fn from(put: Put) -> Op {
        Op::Put(put)
    }
}

impl From<Delete> for Op {
    fn from(delete: Delete) -> Op {
        Op::Delete(delete)
    }
}

impl From<Txn> for Op {
    fn from(txn: Txn) -> Op {
        Op::Txn(txn)
    }
}

/// Conditions of transactions, each on one key.
pub mod compare {
    use crate::proto::etcdserverpb::Compare;
    pub use crate::proto::etcdserverpb::compare::CompareResult::{
        self, Equal, Greater, Less, NotEqual,
    };
    use crate::proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
    use bytes::Bytes;

    fn build(
        key: impl Into<Bytes>,
        result: CompareResult,
        target: CompareTarget,
        value: TargetUnion,
    ) -> Compare {
        Compare {
            result: result as i32,
            target: target as i32,
            key: key.into(),
            range_end: Bytes::new(),
            target_union: Some(value),
        }
    }

    /// How often the key was written since it was created; 0 for a key that is not there.
    pub fn version(key: impl Into<Bytes>, result: CompareResult, version: i64) -> Compare {
        build(key, result, CompareTarget::Version, TargetUnion::Version(version))
    }

    /// The revision that created the key; 0 for a key that is not there.
    pub fn create_revision(key: impl Into<Bytes>, result: CompareResult, revision: i64) -> Compare {
        build(key, result, CompareTarget::Create, TargetUnion::CreateRevision(revision))
    }

    /// The revision of the key's last write; 0 for a key that is not there.
    pub fn mod_revision(key: impl Into<Bytes>, result: CompareResult, revision: i64) -> Compare {
        build(key, result, CompareTarget::Mod, TargetUnion::ModRevision(revision))
    }

    /// The value; false for a key that is not there.
    pub fn value(key: impl Into<Bytes>, result: CompareResult, value: impl Into<Bytes>) -> Compare {
        build(key, result, CompareTarget::Value, TargetUnion::Value(value.into()))
    }

    /// The lease the key is attached to; 0 for none.
    pub fn lease(key: impl Into<Bytes>, result: CompareResult, id: i64) -> Compare {
        build(key, result, CompareTarget::Lease, TargetUnion::Lease(id))
    }
}

/// A transaction: if all conditions hold one list of operations, else the other.
#[derive(Clone, Debug, Default)]
pub struct Txn(pub TxnRequest);

impl Txn {
    pub fn new() -> Txn {
        Txn::default()
    }

    /// Adds conditions.
    pub fn when(mut self, conditions: impl IntoIterator<Item = Compare>) -> Txn {
        self.0.compare.extend(conditions);
        self
    }

    /// Adds an operation to do when all conditions hold.
    pub fn then(mut self, op: impl Into<Op>) -> Txn {
        self.0.success.push(op.into().into());
        self
    }

    /// Adds an operation to do when one does not.
    pub fn otherwise(mut self, op: impl Into<Op>) -> Txn {
        self.0.failure.push(op.into().into());
        self
    }
}

/// Whether a transaction can change nothing, whichever way it goes.
fn only_reads(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
        Some(Request::RequestRange(_)) | None => true,
        Some(Request::RequestTxn(inner)) => only_reads(inner),
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => false,
    })
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GetReply {
    pub header: ResponseHeader,
    pub kvs: Vec<KeyValue>,
    /// Whether the limit left pairs out.
    pub more: bool,
    /// Pairs in the range, whatever the limit.
    pub count: i64,
}

impl TryFrom<RangeResponse> for GetReply {
    type Error = super::Error;

    fn try_from(response: RangeResponse) -> Result<GetReply> {
        Ok(GetReply {
            header: response.header.unwrap_or_default(),
            kvs: pairs(response.kvs)?,
            more: response.more,
            count: response.count,
        })
    }
}

/// That a key was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PutReply {
    pub header: ResponseHeader,
    /// The pair before, if it was asked for and there was one.
    pub prev_kv: Option<KeyValue>,
}

impl TryFrom<PutResponse> for PutReply {
    type Error = super::Error;

    fn try_from(response: PutResponse) -> Result<PutReply> {
        let prev_kv = match response.prev_kv.is_empty() {
            true => None,
            false => Some(decode(response.prev_kv)?),
        };
        Ok(PutReply { header: response.header.unwrap_or_default(), prev_kv })
    }
}

/// What was deleted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeleteReply {
    pub header: ResponseHeader,
    pub deleted: i64,
    /// The deleted pairs, if they were asked for.
    pub prev_kvs: Vec<KeyValue>,
}

impl TryFrom<DeleteRangeResponse> for DeleteReply {
    type Error = super::Error;

    fn try_from(response: DeleteRangeResponse) -> Result<DeleteReply> {
        Ok(DeleteReply {
            header: response.header.unwrap_or_default(),
            deleted: response.deleted,
            prev_kvs: pairs(response.prev_kvs)?,
        })
    }
}

/// The outcome of one operation of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum OpReply {
    Get(GetReply),
    Put(PutReply),
    Delete(DeleteReply),
    Txn(TxnReply),
}

impl TryFrom<ResponseOp> for OpReply {
    type Error = super::Error;

    fn try_from(response: ResponseOp) -> Result<OpReply> {
        match response.response {
            Some(Response::ResponseRange(range)) => Ok(OpReply::Get(range.try_into()?)),
            Some(Response::ResponsePut(put)) => Ok(OpReply::Put(put.try_into()?)),
            Some(Response::ResponseDeleteRange(delete)) => Ok(OpReply::Delete(delete.try_into()?)),
            Some(Response::ResponseTxn(txn)) => Ok(OpReply::Txn(txn.try_into()?)),
            None => Err(super::Error::Malformed("an operation without an outcome".into())),
        }
    }
}

/// The outcome of a transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TxnReply {
    pub header: ResponseHeader,
    /// Whether the conditions held.
    pub succeeded: bool,
    /// One for each operation of the list that was done.
    pub ops: Vec<OpReply>,
}

impl TryFrom<TxnResponse> for TxnReply {
    type Error = super::Error;

    fn try_from(response: TxnResponse) -> Result<TxnReply> {
        Ok(TxnReply {
            header: response.header.unwrap_or_default(),
            succeeded: response.succeeded,
            ops: response.responses.into_iter().map(OpReply::try_from).collect::<Result<_>>()?,
        })
    }
}

fn pairs(encoded: Vec<Bytes>) -> Result<Vec<KeyValue>> {
    encoded.into_iter().map(decode).collect()
}

impl Client {
    pub async fn get(&self, get: Get) -> Result<GetReply> {
        self.call(&method::RANGE, &get.0).await?.try_into()
    }

    /// A read whose answer comes in pieces (etcd 3.7).
    pub async fn get_stream(&self, get: Get) -> Result<Responses<RangeStreamResponse>> {
        self.server_stream(method::RANGE_STREAM, &get.0).await
    }

    pub async fn put(&self, put: Put) -> Result<PutReply> {
        self.call(&method::PUT, &put.0).await?.try_into()
    }

    pub async fn delete(&self, delete: Delete) -> Result<DeleteReply> {
        self.call(&method::DELETE_RANGE, &delete.0).await?.try_into()
    }

    /// A transaction. One that only reads is sent again like a read.
    pub async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        let method = method::TXN.repeatable_if(only_reads(&txn.0));
        self.call(&method, &txn.0).await?.try_into()
    }

    /// Forgets history below a revision. With `physical` it returns when the member that answers
    /// has freed the space.
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<CompactionResponse> {
        self.call(&method::COMPACT, &CompactionRequest { revision, physical }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_the_next_begins() {
        assert_eq!(prefix_end(b"a"), "b");
        assert_eq!(prefix_end(b"a\xff"), "b");
        assert_eq!(prefix_end(b"a\xff\xfe"), &b"a\xff\xff"[..]);
        assert_eq!(prefix_end(b"\xff\xff"), &[0][..]);
        assert_eq!(prefix_end(b""), &[0][..]);
        let all = Get::all().0;
        assert_eq!((&all.key[..], &all.range_end[..]), (&[0][..], &[0][..]));
    }

    #[test]
    fn a_transaction_that_may_write_is_never_taken_for_a_read() {
        let read = Txn::new().then(Get::key("a")).otherwise(Get::key("b"));
        assert!(only_reads(&read.0) && only_reads(&Txn::new().0));
        assert!(only_reads(&Txn::new().then(read.clone()).0));
        assert!(!only_reads(&read.clone().otherwise(Put::new("a", "b")).0));
        assert!(!only_reads(&Txn::new().then(Txn::new().then(Delete::key("a"))).0));
    }
}
