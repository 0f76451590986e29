//! What can be refused by looking at a request alone, before it costs anything.
//!
//! The order of the checks is etcd's (`server/etcdserver/api/v3rpc/key.go`): a request with two
//! faults gets the same error from both.

use crate::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    range_request::{SortOrder, SortTarget},
    request_op::Request,
};
use crate::types::{Error, KeyRange, Result};
use bytes::Bytes;
use std::collections::BTreeSet;

/// Checks a range.
pub fn range(request: &RangeRequest) -> Result<()> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err()
        || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// Checks what RangeStream cannot do: it sends pairs as it finds them.
pub fn range_stream(request: &RangeRequest) -> Result<()> {
    range(request)?;
    let by_key = request.sort_target() == SortTarget::Key;
    match request.sort_order() {
        SortOrder::None | SortOrder::Ascend if by_key => {}
        SortOrder::None if request.sort_target == 0 => {}
        SortOrder::None | SortOrder::Ascend | SortOrder::Descend => {
            return Err(Error::RangeStreamSort);
        }
    }
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    if filtered { Err(Error::RangeStreamFilter) } else { Ok(()) }
}

/// Checks a put.
pub fn put(request: &PutRequest) -> Result<()> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<()> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Checks a transaction: size, keys, operations, then that no key is changed twice.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Result<()> {
    operations(request, ops_max)?;
    changed_once(&request.success)?;
    changed_once(&request.failure)?;
    Ok(())
}

fn operations(request: &TxnRequest, ops_max: usize) -> Result<()> {
    let count = request.compare.len().max(request.success.len()).max(request.failure.len());
    if count > ops_max {
        return Err(Error::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(request)) => operations(request, ops_max - count)?,
            // Sic: etcd's answer to an operation that names none.
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// Keys put and ranges deleted by a branch.
#[derive(Default)]
struct Changed {
    puts: BTreeSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Changed {
    fn deletes(&self, key: &Bytes) -> bool {
        self.deletes.iter().any(|range| range.contains(key))
    }
}

/// Refuses a branch that puts a key twice or puts a key it deletes. The two branches of a nested
/// transaction exclude each other, so both may put the same key.
fn changed_once(ops: &[RequestOp]) -> Result<Changed> {
    let mut changed = Changed::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(request)) = &op.request {
            let range = KeyRange::new(request.key.clone(), request.range_end.clone());
            // etcd keeps deletes as intervals and takes an end of one zero byte literally: such
            // an interval is empty, so an open delete collides with nothing.
            if !range.is_open() {
                changed.deletes.push(range);
            }
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let success = changed_once(&nested.success)?;
        let failure = changed_once(&nested.failure)?;
        for key in &success.puts {
            if changed.puts.contains(key) || changed.deletes(key) {
                return Err(Error::DuplicateKey);
            }
        }
        changed.puts.extend(success.puts.iter().cloned());
        for key in &failure.puts {
            let elsewhere = changed.puts.contains(key) && !success.puts.contains(key);
            if elsewhere || changed.deletes(key) {
                return Err(Error::DuplicateKey);
            }
        }
        changed.puts.extend(failure.puts);
        changed.deletes.extend(success.deletes);
        changed.deletes.extend(failure.deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(request)) = &op.request
            && (changed.deletes(&request.key) || !changed.puts.insert(request.key.clone()))
        {
            return Err(Error::DuplicateKey);
        }
    }
    Ok(changed)
}

/// Whether a read-only transaction may be answered from local state: all its reads are
/// serializable. True of an empty one.
pub fn is_serializable(request: &TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure);
    ops.all(
        |op| matches!(&op.request, Some(Request::RequestRange(request)) if request.serializable),
    )
}

/// What a request will add to the store by etcd's reckoning, in bytes; 0 for what only reads or
/// deletes. Compared with what the quota leaves.
pub mod cost {
    use super::{PutRequest, Request, RequestOp, TxnRequest};

    const LEASE_OVERHEAD: usize = 64;
    const PUT_OVERHEAD: usize = 256;

    /// Of a put.
    pub fn put(request: &PutRequest) -> usize {
        PUT_OVERHEAD + request.key.len() + request.value.len()
    }

    /// Of a transaction: of its dearer branch.
    pub fn txn(request: &TxnRequest) -> usize {
        branch(&request.success).max(branch(&request.failure))
    }

    /// Of a lease.
    pub fn lease_grant() -> usize {
        LEASE_OVERHEAD
    }

    fn branch(ops: &[RequestOp]) -> usize {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(request)) => put(request),
                Some(Request::RequestTxn(request)) => txn(request),
                Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    fn a_put(key: &'static str) -> RequestOp {
        op(Request::RequestPut(PutRequest { key: key.into(), ..PutRequest::default() }))
    }

    fn a_delete(key: &'static str, end: &'static [u8]) -> RequestOp {
        op(Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.into(),
            range_end: Bytes::from_static(end),
            prev_kv: false,
        }))
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        op(Request::RequestTxn(TxnRequest { compare: vec![], success, failure }))
    }

    fn check(success: Vec<RequestOp>) -> Result<()> {
        txn(&TxnRequest { success, ..TxnRequest::default() }, 128)
    }

    #[test]
    fn a_key_is_changed_once_in_a_branch() {
        assert_eq!(check(vec![a_put("a"), a_put("a")]), Err(Error::DuplicateKey));
        assert_eq!(check(vec![a_put("b"), a_delete("a", b"c")]), Err(Error::DuplicateKey));
        assert_eq!(check(vec![a_delete("a", b"c"), a_put("c")]), Ok(()));
        assert_eq!(check(vec![a_delete("a", b""), a_delete("a", b"c")]), Ok(()));
        assert_eq!(
            check(vec![a_put("a"), nested(vec![a_put("a")], vec![])]),
            Err(Error::DuplicateKey)
        );
        assert_eq!(check(vec![nested(vec![a_put("a")], vec![a_put("a")])]), Ok(()));
        assert_eq!(
            check(vec![nested(vec![a_put("a")], vec![]), nested(vec![], vec![a_put("a")])]),
            Err(Error::DuplicateKey)
        );
    }

    #[test]
    fn an_open_delete_collides_with_nothing_as_in_etcd() {
        assert_eq!(check(vec![a_delete("a", b"\0"), a_put("zz")]), Ok(()));
        assert_eq!(check(vec![a_put("zz"), a_delete("a", b"\0")]), Ok(()));
    }

    #[test]
    fn nested_transactions_share_the_budget() {
        let deep = |n: usize| vec![nested((0..n).map(|_| a_delete("a", b"")).collect(), vec![])];
        let request = |n| TxnRequest { success: deep(n), ..TxnRequest::default() };
        assert_eq!(txn(&request(2), 3), Ok(()));
        assert_eq!(txn(&request(3), 3), Err(Error::TooManyOps));
    }

    #[test]
    fn an_empty_transaction_needs_nobody() {
        let range = || {
            op(Request::RequestRange(RangeRequest { key: "a".into(), ..RangeRequest::default() }))
        };
        let request = |success| TxnRequest { success, ..TxnRequest::default() };
        assert!(is_serializable(&request(vec![])));
        assert!(!is_serializable(&request(vec![range()])));
    }

    #[test]
    fn the_dearer_branch_counts() {
        let request = TxnRequest {
            success: vec![a_put("a"), a_put("bb")],
            failure: vec![nested(vec![a_put("ccc")], vec![])],
            ..TxnRequest::default()
        };
        assert_eq!(cost::txn(&request), 2 * 256 + 3);
    }
}
