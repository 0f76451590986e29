//! A set: every element is a key of its own, added once, deleted once, read with all others.

use super::{Script, delete, end, kvs, list, put, txn};
use crate::check::Data;
use crate::check::op::{DeleteRangeRequest, Outcome, Request};
use crate::workload::generator::{Hand, Step};

const PREFIX: &str = "set/";
/// A set that is larger is rather made smaller.
const ELEMENTS_MAX: usize = 40;

/// The state of such a client.
#[derive(Default)]
pub struct Set {
    /// What it read last.
    known: Vec<Data>,
}

#[derive(Clone, Copy)]
enum Kind {
    Add,
    AddMany,
    Delete,
    DeleteOf,
    Read,
    ReadSerializable,
    Count,
}

impl Script for Set {
    fn next(&mut self, hand: &mut Hand) -> Step {
        let add = if self.known.len() < ELEMENTS_MAX { 40 } else { 5 };
        let kind = hand.dice.weighted(&[
            (add, Kind::Add),
            (3, Kind::AddMany),
            (20, Kind::Delete),
            (3, Kind::DeleteOf),
            (20, Kind::Read),
            (10, Kind::ReadSerializable),
            (6, Kind::Count),
        ]);
        Step::Call(match kind {
            Kind::Add => Request::Put(self.add(hand)),
            Kind::AddMany => {
                let count = hand.dice.weighted(&[(6, 3), (1, 20)]);
                let puts = (0..count).map(|_| Request::Put(self.add(hand)));
                txn([], puts.collect::<Vec<_>>(), [])
            }
            Kind::Delete if !self.known.is_empty() => {
                let mut delete = delete(hand.dice.pick(&self.known).clone());
                delete.prev_kv = hand.dice.one_in(2);
                self.known.retain(|key| *key != delete.key);
                Request::DeleteRange(delete)
            }
            // All that one client added.
            Kind::DeleteOf => {
                let client = hand.dice.below(u64::from(hand.clients));
                let prefix = format!("{PREFIX}{client}-");
                let (range_end, prev_kv) = (end(&prefix), true);
                let key = prefix.as_str().into();
                Request::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv })
            }
            Kind::Delete | Kind::Read => Request::Range(list(PREFIX)),
            Kind::ReadSerializable => {
                let mut read = list(PREFIX);
                read.serializable = true;
                Request::Range(read)
            }
            Kind::Count => {
                let mut count = list(PREFIX);
                count.count_only = true;
                Request::Range(count)
            }
        })
    }

    fn told(&mut self, request: &Request, outcome: &Outcome) {
        if let Request::Range(range) = request
            && !range.count_only
            && let Some(kvs) = kvs(outcome)
        {
            self.known = kvs.iter().map(|kv| kv.key.clone()).collect();
        }
    }

    fn is_idle(&self) -> bool {
        true
    }
}

impl Set {
    fn add(&self, hand: &mut Hand) -> crate::check::op::PutRequest {
        let value = hand.value();
        let mark = text_until_space(&value);
        put(format!("{PREFIX}{mark}"), value)
    }
}

/// The mark of a value, without what makes it large.
fn text_until_space(value: &Data) -> &str {
    super::text(value).split(' ').next().unwrap_or_default()
}
