//! Transactions, and the single puts and deletes they are made of.
//!
//! The order is etcd's and visible to clients:
//!
//! 1. All compares along the path taken, also those of nested transactions, are evaluated
//!    against the state before the transaction.
//! 2. Everything that could fail on that path is checked, before anything is written.
//! 3. The operations run in order; a read sees what was written before it.

use crate::lease::Lessor;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    range_request,
    request_op::Request,
    response_op::Response,
};
use crate::proto::mvccpb::KeyValue;
use crate::store::{KeyValueRead, RangeQuery, Read, ReadError, SortOrder, SortTarget, Write};
use crate::types::{Error, KeyRange, LeaseId, Revision};
use bytes::Bytes;
use prost::Message as _;
use std::cmp::Ordering;

/// Either the answer, or why there is none: the request's fault or the disk's.
type Result<T> = std::result::Result<T, ReadError>;

/// What the store is asked for a range request.
pub fn range_query(request: &RangeRequest) -> RangeQuery {
    RangeQuery {
        limit: request.limit,
        revision: request.revision,
        order: match request.sort_order() {
            range_request::SortOrder::None => SortOrder::None,
            range_request::SortOrder::Ascend => SortOrder::Ascend,
            range_request::SortOrder::Descend => SortOrder::Descend,
        },
        target: match request.sort_target() {
            range_request::SortTarget::Key => SortTarget::Key,
            range_request::SortTarget::Version => SortTarget::Version,
            range_request::SortTarget::Create => SortTarget::Create,
            range_request::SortTarget::Mod => SortTarget::Mod,
            range_request::SortTarget::Value => SortTarget::Value,
        },
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod: request.min_mod_revision,
        max_mod: request.max_mod_revision,
        min_create: request.min_create_revision,
        max_create: request.max_create_revision,
        ..RangeQuery::new(KeyRange::new(request.key.clone(), request.range_end.clone()))
    }
}

/// Whether a transaction holds anything but plain ranges.
pub fn is_write(request: &TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure);
    !ops.all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Answers a transaction that only reads.
///
/// # Errors
/// A range asks for a revision that is compacted or not there yet.
pub fn read_only_txn(view: &Read<'_>, request: &TxnRequest) -> Result<TxnResponse> {
    let path = Path::of(view, request)?;
    check(view, &Lessor::default(), request, &path)?;
    let mut responses = Vec::new();
    for op in path.branch(request) {
        let Some(Request::RequestRange(range)) = &op.request else {
            unreachable!("the caller checked that it only reads");
        };
        responses.push(ResponseOp { response: Some(Response::ResponseRange(read(view, range)?)) });
    }
    let header = super::header(view.revision()?);
    Ok(TxnResponse { header, succeeded: path.succeeded, responses })
}

/// Applies a transaction that may write.
pub(super) fn txn(
    write: &mut Write<'_>,
    lessor: &mut Lessor,
    request: &TxnRequest,
) -> Result<TxnResponse> {
    let path = Path::of(write, request)?;
    check(write, lessor, request, &path)?;
    let responses = run(write, lessor, request, &path)?;
    let header = super::header(write.revision()?);
    Ok(TxnResponse { header, succeeded: path.succeeded, responses })
}

/// Which branch a transaction takes, and those nested in that branch, in order.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

impl Path {
    fn of(view: &impl KeyValueRead, request: &TxnRequest) -> Result<Path> {
        let mut path = Path { succeeded: true, nested: Vec::new() };
        for compare in &request.compare {
            if !holds(view, compare)? {
                path.succeeded = false;
                break;
            }
        }
        for op in path.branch(request) {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                path.nested.push(Path::of(view, nested)?);
            }
        }
        Ok(path)
    }

    fn branch<'a>(&self, request: &'a TxnRequest) -> &'a [RequestOp] {
        if self.succeeded { &request.success } else { &request.failure }
    }
}

/// Whether a compare is true of every key it names.
fn holds(view: &impl KeyValueRead, compare: &Compare) -> Result<bool> {
    let keys = KeyRange::new(compare.key.clone(), compare.range_end.clone());
    let by_value = compare.target == CompareTarget::Value as i32;
    let (mut found, mut all) = (false, true);
    if by_value {
        for record in view.range(&RangeQuery::new(keys))?.kvs {
            found = true;
            all &= pair_holds(compare, &decode(record));
        }
    } else {
        // The index knows all but the value.
        view.metas(&keys, &mut |_, meta| {
            found = true;
            all = pair_holds(
                compare,
                &KeyValue {
                    create_revision: meta.create_revision,
                    mod_revision: meta.mod_revision,
                    version: meta.version,
                    lease: meta.lease.0,
                    ..KeyValue::default()
                },
            );
            all
        })?;
    }
    // A key that is not there has zeros everywhere but no value to compare with.
    Ok(if found { all } else { !by_value && pair_holds(compare, &KeyValue::default()) })
}

fn decode(record: Bytes) -> KeyValue {
    KeyValue::decode(record).expect("the store checks what it hands out")
}

fn pair_holds(compare: &Compare, pair: &KeyValue) -> bool {
    let union = compare.target_union.as_ref();
    let order = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => match union {
            Some(TargetUnion::Value(value)) => pair.value.as_ref().cmp(value.as_ref()),
            _ => pair.value.as_ref().cmp(&[]),
        },
        Ok(CompareTarget::Version) => pair.version.cmp(&match union {
            Some(&TargetUnion::Version(version)) => version,
            _ => 0,
        }),
        Ok(CompareTarget::Create) => pair.create_revision.cmp(&match union {
            Some(&TargetUnion::CreateRevision(revision)) => revision,
            _ => 0,
        }),
        Ok(CompareTarget::Mod) => pair.mod_revision.cmp(&match union {
            Some(&TargetUnion::ModRevision(revision)) => revision,
            _ => 0,
        }),
        Ok(CompareTarget::Lease) => pair.lease.cmp(&match union {
            Some(&TargetUnion::Lease(lease)) => lease,
            _ => 0,
        }),
        // etcd leaves its "difference" at 0 for a target it does not know.
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}

/// Pairs each operation with the path of the nested transaction it is, if it is one.
fn with_paths<'a>(
    request: &'a TxnRequest,
    path: &'a Path,
) -> impl Iterator<Item = (&'a Request, Option<&'a Path>)> {
    let mut nested = path.nested.iter();
    path.branch(request).iter().map(move |op| {
        let request = op.request.as_ref().expect("validated: every operation is one");
        let path = if let Request::RequestTxn(_) = request { nested.next() } else { None };
        (request, path)
    })
}

/// Checks the operations of the path taken, in order: the first fault is the answer.
fn check(
    view: &impl KeyValueRead,
    lessor: &Lessor,
    request: &TxnRequest,
    path: &Path,
) -> Result<()> {
    for (op, nested) in with_paths(request, path) {
        match op {
            Request::RequestRange(range) => check_range(view, range)?,
            Request::RequestPut(put) => check_put(view, lessor, put)?,
            Request::RequestTxn(txn) => {
                check(view, lessor, txn, nested.expect("it has a path"))?;
            }
            Request::RequestDeleteRange(_) => {}
        }
    }
    Ok(())
}

/// Checks a put against the state: the pair it wants to keep a part of, the lease it names.
pub(super) fn check_put(
    view: &impl KeyValueRead,
    lessor: &Lessor,
    request: &PutRequest,
) -> Result<()> {
    let lease = LeaseId(request.lease);
    if lease != LeaseId(0) && lessor.get(lease).is_none() {
        return Err(Error::LeaseNotFound.into());
    }
    if (request.ignore_value || request.ignore_lease) && view.meta(&request.key)?.is_none() {
        return Err(Error::KeyNotFound.into());
    }
    Ok(())
}

/// In a transaction only revision 0 means "latest"; a negative one counts as a revision and is
/// compacted as soon as it is below the compacted one, which starts at -1.
fn check_range(view: &impl KeyValueRead, request: &RangeRequest) -> Result<()> {
    let revision = Revision(request.revision);
    if revision == Revision(0) {
        return Ok(());
    }
    if revision > view.revision()? {
        return Err(Error::FutureRevision.into());
    }
    if revision < view.compacted()? { Err(Error::Compacted.into()) } else { Ok(()) }
}

fn run(
    write: &mut Write<'_>,
    lessor: &mut Lessor,
    request: &TxnRequest,
    path: &Path,
) -> Result<Vec<ResponseOp>> {
    let mut responses = Vec::with_capacity(path.branch(request).len());
    for (op, nested) in with_paths(request, path) {
        let response = match op {
            Request::RequestRange(range) => Response::ResponseRange(read(write, range)?),
            Request::RequestPut(request) => Response::ResponsePut(put(write, lessor, request)?),
            Request::RequestDeleteRange(request) => {
                Response::ResponseDeleteRange(delete_range(write, lessor, request)?)
            }
            Request::RequestTxn(txn) => {
                let path = nested.expect("it has a path");
                Response::ResponseTxn(TxnResponse {
                    // Sic: etcd fills the headers inside but leaves this one blank.
                    header: Some(ResponseHeader::default()),
                    succeeded: path.succeeded,
                    responses: run(write, lessor, txn, path)?,
                })
            }
        };
        responses.push(ResponseOp { response: Some(response) });
    }
    Ok(responses)
}

fn read(view: &impl KeyValueRead, request: &RangeRequest) -> Result<RangeResponse> {
    let found = view.range(&range_query(request))?;
    Ok(RangeResponse {
        header: super::header(view.revision()?),
        kvs: found.kvs,
        more: found.more,
        count: found.count,
    })
}

/// Puts a pair that was checked.
pub(super) fn put(
    write: &mut Write<'_>,
    lessor: &mut Lessor,
    request: &PutRequest,
) -> Result<PutResponse> {
    let needs_previous = request.prev_kv || request.ignore_value || request.ignore_lease;
    let previous = if needs_previous { write.record(&request.key)? } else { None };
    let (mut value, mut lease) = (request.value.clone(), LeaseId(request.lease));
    if request.ignore_value || request.ignore_lease {
        let pair = decode(previous.clone().expect("checked: the key is there"));
        if request.ignore_value {
            value = pair.value;
        }
        if request.ignore_lease {
            lease = LeaseId(pair.lease);
        }
    }
    let replaced = write.put(&request.key, &value, lease)?;
    if replaced.lease != lease {
        lessor.attach(&request.key, lease);
    }
    let prev_kv = if request.prev_kv { previous.unwrap_or_default() } else { Bytes::new() };
    Ok(PutResponse { header: super::header(write.revision()?), prev_kv })
}

/// Deletes a range.
pub(super) fn delete_range(
    write: &mut Write<'_>,
    lessor: &mut Lessor,
    request: &DeleteRangeRequest,
) -> Result<DeleteRangeResponse> {
    let range = KeyRange::new(request.key.clone(), request.range_end.clone());
    let deleted = write.delete_range(&range, request.prev_kv)?;
    let mut response = DeleteRangeResponse {
        header: super::header(write.revision()?),
        deleted: deleted.len() as i64,
        prev_kvs: Vec::new(),
    };
    for pair in deleted {
        if pair.lease != LeaseId(0) {
            lessor.detach(&pair.key);
        }
        response.prev_kvs.extend(pair.previous);
    }
    Ok(response)
}
