//! Reads of the past: pages of one revision, counts, keys without values, and what compaction
//! makes of them; transactions in transactions, compares of ranges, deletions of ranges.
//!
//! Some reads name a revision that is compacted or still to come. They fail, and a transaction
//! with such a read must fail as a whole, on every member.

use super::{Script, compact, delete, end, equal, get, kvs, list, put, txn, unchanged};
use crate::check::Data;
use crate::check::op::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, Outcome, RangeRequest, Request,
    Response,
};
use crate::types::Revision;
use crate::workload::generator::{Hand, Step};

const PREFIX: &str = "pages/";
const KEYS: u64 = 24;
/// How far back reads and compactions go.
const BACK_MAX: u64 = 40;

/// The state of such a client.
#[derive(Default)]
pub struct Pages {
    /// The next page to read of a list that was begun.
    rest: Option<RangeRequest>,
}

#[derive(Clone, Copy)]
enum Kind {
    Put,
    Delete,
    DeleteSome,
    Pages,
    OldPages,
    Count,
    Keys,
    Past,
    Future,
    Nested,
    CompareAll,
    WriteAndReadPast,
    ReadPasts,
    Compact,
}

impl Script for Pages {
    fn next(&mut self, hand: &mut Hand) -> Step {
        if let Some(rest) = self.rest.clone() {
            return Step::Call(Request::Range(rest));
        }
        let kind = hand.dice.weighted(&[
            (30, Kind::Put),
            (4, Kind::Delete),
            (4, Kind::DeleteSome),
            (10, Kind::Pages),
            (4, Kind::OldPages),
            (5, Kind::Count),
            (5, Kind::Keys),
            (8, Kind::Past),
            (1, Kind::Future),
            (6, Kind::Nested),
            (6, Kind::CompareAll),
            (5, Kind::WriteAndReadPast),
            (3, Kind::ReadPasts),
            (2, Kind::Compact),
        ]);
        Step::Call(match kind {
            Kind::Put => {
                let mut put = put(key(hand), hand.value());
                put.prev_kv = hand.dice.one_in(4);
                Request::Put(put)
            }
            Kind::Delete => Request::DeleteRange(delete(key(hand))),
            Kind::DeleteSome => Request::DeleteRange(some(hand)),
            Kind::Pages | Kind::OldPages => {
                let mut first = list(PREFIX);
                first.limit = i64::try_from(hand.dice.between(2, 9)).expect("small");
                first.serializable = hand.dice.one_in(4);
                if matches!(kind, Kind::OldPages) {
                    first.revision = hand.past(BACK_MAX);
                }
                // Gone on with as soon as its answer says that there is more.
                self.rest = Some(first.clone());
                Request::Range(first)
            }
            Kind::Count => {
                let mut count = part(hand);
                count.count_only = true;
                count.revision =
                    if hand.dice.one_in(2) { hand.past(BACK_MAX) } else { Revision(0) };
                Request::Range(count)
            }
            Kind::Keys => {
                let mut keys = part(hand);
                keys.keys_only = true;
                keys.serializable = hand.dice.one_in(3);
                Request::Range(keys)
            }
            Kind::Past => {
                let mut past = part(hand);
                past.revision = hand.past(BACK_MAX);
                past.serializable = hand.dice.one_in(3);
                Request::Range(past)
            }
            Kind::Future => {
                let mut future = get(&key(hand));
                future.revision = Revision(hand.revision.0 + 1_000);
                Request::Range(future)
            }
            Kind::Nested => nested(hand),
            Kind::CompareAll => compare_all(hand),
            Kind::WriteAndReadPast => {
                let mut past = part(hand);
                past.revision = hand.past(BACK_MAX);
                let put = Request::Put(put(key(hand), hand.value()));
                let parts = match hand.dice.one_in(2) {
                    true => [put, Request::Range(past)],
                    false => [Request::Range(past), put],
                };
                txn([], parts, [])
            }
            Kind::ReadPasts => {
                let reads = (0..3).map(|_| {
                    let mut past = get(&key(hand));
                    past.revision = hand.past(BACK_MAX);
                    past.serializable = true;
                    Request::Range(past)
                });
                txn([], reads.collect::<Vec<_>>(), [])
            }
            Kind::Compact => return compact(hand.past(BACK_MAX)),
        })
    }

    fn told(&mut self, request: &Request, outcome: &Outcome) {
        let (Request::Range(asked), Some(_)) = (request, &self.rest) else { return };
        self.rest = match outcome {
            Outcome::Ok(Response::Range(answer)) if answer.more => {
                let last = kvs(outcome).and_then(<[_]>::last).map(|kv| after(&kv.key));
                last.map(|key| {
                    // The revision of the first page is that of all.
                    let at = if asked.revision.0 > 0 { asked.revision } else { answer.revision };
                    RangeRequest { key, revision: at, ..asked.clone() }
                })
            }
            Outcome::Ok(_) | Outcome::Failed(_) | Outcome::Unknown(_) => None,
        };
    }

    fn is_idle(&self) -> bool {
        self.rest.is_none()
    }
}

fn key(hand: &mut Hand) -> String {
    name(hand.dice.below(KEYS))
}

fn name(number: u64) -> String {
    format!("{PREFIX}{number:02}")
}

/// The key that follows a key.
pub(super) fn after(key: &Data) -> Data {
    let mut next = key.0.to_vec();
    next.push(0);
    next.into()
}

/// A range of some keys, of all, or of one.
fn part(hand: &mut Hand) -> RangeRequest {
    match hand.dice.below(4) {
        0 => list(PREFIX),
        1 => get(&key(hand)),
        _ => {
            let from = hand.dice.below(KEYS);
            let to = hand.dice.between(from, KEYS);
            RangeRequest {
                key: name(from).into(),
                range_end: name(to).into(),
                ..RangeRequest::default()
            }
        }
    }
}

fn some(hand: &mut Hand) -> DeleteRangeRequest {
    let from = hand.dice.below(KEYS);
    let range_end = match hand.dice.one_in(20) {
        true => end(PREFIX),
        false => name(from + hand.dice.between(2, 5)).into(),
    };
    let prev_kv = hand.dice.below(4) < 3;
    DeleteRangeRequest { key: name(from).into(), range_end, prev_kv }
}

/// A transaction in a transaction, with conditions of its own.
fn nested(hand: &mut Hand) -> Request {
    let first = hand.dice.below(KEYS);
    let [one, two, three] = [0, 1, 2].map(|i| name((first + i) % KEYS));
    let seen = hand.past(BACK_MAX);
    let newer = Compare {
        key: one.as_str().into(),
        range_end: Data::default(),
        result: CompareResult::Greater,
        target: CompareTarget::ModRevision(seen),
    };
    let inner = txn(
        [newer],
        [Request::Put(put(two.as_str(), hand.value())), Request::Range(get(&two))],
        [Request::DeleteRange(delete(two.as_str())), Request::Range(list(PREFIX))],
    );
    let first = Request::Put(put(one.as_str(), hand.value()));
    let other = match hand.dice.one_in(2) {
        true => Request::DeleteRange(delete(three.as_str())),
        false => Request::Put(put(three.as_str(), hand.value())),
    };
    let there = Compare {
        key: three.into(),
        range_end: Data::default(),
        result: CompareResult::NotEqual,
        target: CompareTarget::CreateRevision(Revision(0)),
    };
    let mut some = part(hand);
    some.limit = 5;
    txn([there], [first, inner, Request::Range(some)], [other])
}

/// A condition on every key of a range.
fn compare_all(hand: &mut Hand) -> Request {
    let from = hand.dice.below(KEYS);
    let to = from + hand.dice.between(1, 6);
    let (result, target) = match hand.dice.below(4) {
        0 => (CompareResult::Less, CompareTarget::Version(3)),
        1 => (CompareResult::Greater, CompareTarget::CreateRevision(hand.past(BACK_MAX))),
        2 => (CompareResult::Less, CompareTarget::ModRevision(hand.revision)),
        _ => (CompareResult::Greater, CompareTarget::Value("1".into())),
    };
    let range = Compare { key: name(from).into(), range_end: name(to).into(), result, target };
    let written = name(from);
    let mut compare = vec![range];
    match hand.dice.below(4) {
        0 => compare.push(equal(written.as_str(), CompareTarget::Lease(Default::default()))),
        1 => compare.push(unchanged(written.as_str(), hand.past(3))),
        _ => {}
    }
    let delete = DeleteRangeRequest {
        key: name(from + 1).into(),
        range_end: name(to + 1).into(),
        prev_kv: true,
    };
    let put = Request::Put(put(written, hand.value()));
    txn(compare, [put, Request::DeleteRange(delete)], [Request::Range(part(hand))])
}
