//! Few keys, each a register: written, read, deleted, and swapped if it is as it was read.

use super::{Script, delete, equal, get, kvs, put, txn, unchanged};
use crate::check::op::{CompareTarget, KeyValue, Outcome, Request};
use crate::workload::generator::{Hand, Step};

const KEYS: u64 = 5;

/// The state of such a client.
#[derive(Default)]
pub struct Register {
    /// The key that was read to be swapped, and what was found once it was.
    swap: Option<(String, Option<Option<KeyValue>>)>,
}

#[derive(Clone, Copy)]
enum Kind {
    Put,
    Get,
    GetSerializable,
    Swap,
    Delete,
    Touch,
}

impl Script for Register {
    fn next(&mut self, hand: &mut Hand) -> Step {
        if let Some((key, Some(found))) = self.swap.take() {
            return Step::Call(swap(hand, &key, found.as_ref()));
        }
        let key = format!("register/{}", hand.dice.below(KEYS));
        let kind = hand.dice.weighted(&[
            (30, Kind::Put),
            (20, Kind::Get),
            (9, Kind::GetSerializable),
            (30, Kind::Swap),
            (8, Kind::Delete),
            (3, Kind::Touch),
        ]);
        Step::Call(match kind {
            Kind::Put => {
                let mut put = put(key, hand.value());
                put.prev_kv = hand.dice.one_in(3);
                Request::Put(put)
            }
            Kind::Get => Request::Range(get(&key)),
            Kind::GetSerializable => {
                let mut get = get(&key);
                get.serializable = true;
                Request::Range(get)
            }
            Kind::Swap => {
                let read = Request::Range(get(&key));
                self.swap = Some((key, None));
                read
            }
            Kind::Delete => {
                let mut delete = delete(key);
                delete.prev_kv = hand.dice.one_in(2);
                Request::DeleteRange(delete)
            }
            // A write that keeps the value; it fails if the key is not there.
            Kind::Touch => {
                let mut put = put(key, "");
                put.ignore_value = true;
                put.prev_kv = true;
                Request::Put(put)
            }
        })
    }

    fn told(&mut self, _: &Request, outcome: &Outcome) {
        if let Some((_, found)) = &mut self.swap {
            match kvs(outcome) {
                Some(kvs) => *found = Some(kvs.first().cloned()),
                None => self.swap = None,
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.swap.is_none()
    }
}

/// Writes, seldom deletes, if the key is as it was found.
fn swap(hand: &mut Hand, key: &str, found: Option<&KeyValue>) -> Request {
    let condition = match (found, hand.dice.below(4)) {
        (None, 0) => equal(key, CompareTarget::Version(0)),
        (None, 1) => equal(key, CompareTarget::CreateRevision(Default::default())),
        (None, _) => unchanged(key, Default::default()),
        (Some(kv), 0) => equal(key, CompareTarget::Version(kv.version)),
        (Some(kv), 1) => equal(key, CompareTarget::Value(kv.value.clone())),
        (Some(kv), _) => unchanged(key, kv.mod_revision),
    };
    let change = match found.is_some() && hand.dice.one_in(8) {
        true => Request::DeleteRange(delete(key)),
        false => Request::Put(put(key, hand.value())),
    };
    txn([condition], [change], [Request::Range(get(key))])
}
