//! Writes for watchers to follow: of one key, of several in one revision, deletions of one key and
//! of ranges, now and then many at once, and compactions behind them.

use super::{Script, compact, delete, end, list, put, txn};
use crate::check::op::{DeleteRangeRequest, Outcome, Request};
use crate::workload::generator::{Hand, Step};

const PREFIX: &str = "watch/";
const KEYS: u64 = 8;
/// How far back compactions go.
const BACK_MAX: u64 = 30;

/// The state of such a client.
#[derive(Default)]
pub struct Watch;

#[derive(Clone, Copy)]
enum Kind {
    Put,
    PutMany,
    Delete,
    DeleteAll,
    PutAndDelete,
    Read,
    Compact,
}

impl Script for Watch {
    fn next(&mut self, hand: &mut Hand) -> Step {
        let kind = hand.dice.weighted(&[
            (40, Kind::Put),
            (15, Kind::PutMany),
            (10, Kind::Delete),
            (3, Kind::DeleteAll),
            (10, Kind::PutAndDelete),
            (10, Kind::Read),
            (2, Kind::Compact),
        ]);
        Step::Call(match kind {
            Kind::Put => {
                let mut put = put(key(hand), hand.value());
                put.prev_kv = hand.dice.one_in(5);
                Request::Put(put)
            }
            Kind::PutMany => {
                let first = hand.dice.below(KEYS);
                let count = hand.dice.weighted(&[(6, 2), (3, 5), (1, KEYS)]);
                let puts = (0..count).map(|i| {
                    Request::Put(put(format!("{PREFIX}{}", (first + i) % KEYS), hand.value()))
                });
                txn([], puts.collect::<Vec<_>>(), [])
            }
            Kind::Delete => Request::DeleteRange(delete(key(hand))),
            Kind::DeleteAll => {
                let (range_end, prev_kv) = (end(PREFIX), hand.dice.one_in(2));
                Request::DeleteRange(DeleteRangeRequest { key: PREFIX.into(), range_end, prev_kv })
            }
            Kind::PutAndDelete => {
                let first = hand.dice.below(KEYS);
                let other = (first + hand.dice.between(1, KEYS - 1)) % KEYS;
                let put = Request::Put(put(format!("{PREFIX}{first}"), hand.value()));
                let delete = Request::DeleteRange(delete(format!("{PREFIX}{other}")));
                txn([], [put, delete], [])
            }
            Kind::Read => {
                let mut read = list(PREFIX);
                read.serializable = hand.dice.one_in(2);
                Request::Range(read)
            }
            Kind::Compact => return compact(hand.past(BACK_MAX)),
        })
    }

    fn told(&mut self, _: &Request, _: &Outcome) {}

    fn is_idle(&self) -> bool {
        true
    }
}

fn key(hand: &mut Hand) -> String {
    format!("{PREFIX}{}", hand.dice.below(KEYS))
}
