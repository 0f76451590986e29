//! Lists in values: read one or several, then append to all of them in one guarded transaction.
//!
//! What was appended and when is in the value itself, so a lost or doubled append shows.

use super::{Script, get, kvs, put, succeeded, text, txn, unchanged};
use crate::check::op::{KeyValue, Outcome, Request, Response};
use crate::types::Revision;
use crate::workload::generator::{Hand, Step};

const KEYS: u64 = 4;
/// A longer list is begun anew.
const ELEMENTS_MAX: usize = 40;
/// How often a client tries again with what a lost race told it.
const ATTEMPTS_MAX: u32 = 3;

/// The state of such a client.
#[derive(Default)]
pub struct Append {
    /// The keys it is about, and what they held once that is known.
    keys: Vec<String>,
    found: Option<Vec<Option<KeyValue>>>,
    attempts: u32,
}

impl Append {
    fn end(&mut self) {
        *self = Append::default();
    }

    fn read(&self) -> Vec<Request> {
        self.keys.iter().map(|key| Request::Range(get(key))).collect()
    }

    fn append(&self, hand: &mut Hand, found: &[Option<KeyValue>]) -> Request {
        let element = hand.mark();
        let (mut compare, mut success) = (Vec::new(), Vec::new());
        for (key, kv) in self.keys.iter().zip(found) {
            let revision = kv.as_ref().map_or(Revision(0), |kv| kv.mod_revision);
            compare.push(unchanged(key.as_str(), revision));
            let list = kv.as_ref().map_or("", |kv| text(&kv.value));
            let value = match list.split(' ').count() {
                count if list.is_empty() || count >= ELEMENTS_MAX => element.clone(),
                _ => format!("{list} {element}"),
            };
            success.push(Request::Put(put(key.as_str(), value)));
        }
        txn(compare, success, self.read())
    }
}

impl Script for Append {
    fn next(&mut self, hand: &mut Hand) -> Step {
        if let Some(found) = self.found.take() {
            self.attempts += 1;
            return Step::Call(self.append(hand, &found));
        }
        self.end();
        let first = hand.dice.below(KEYS);
        let count = hand.dice.weighted(&[(5, 1), (3, 2), (1, 3), (1, KEYS)]);
        self.keys = (0..count).map(|i| format!("append/{}", (first + i) % KEYS)).collect();
        // Several keys are read at one revision.
        Step::Call(match &self.keys[..] {
            [key] => Request::Range(get(key)),
            _ => txn([], self.read(), []),
        })
    }

    fn told(&mut self, request: &Request, outcome: &Outcome) {
        let reads = matches!(request, Request::Range(_)) || !request.may_write();
        let lost = succeeded(outcome) == Some(false) && self.attempts < ATTEMPTS_MAX;
        if !reads && !lost {
            return self.end();
        }
        self.found = match outcome {
            Outcome::Ok(Response::Txn(txn)) => {
                let first = |response: &Response| match response {
                    Response::Range(range) => range.kvs.first().cloned(),
                    _ => None,
                };
                Some(txn.responses.iter().map(first).collect())
            }
            _ => kvs(outcome).map(|kvs| vec![kvs.first().cloned()]),
        };
        if self.found.is_none() {
            self.end();
        }
    }

    fn is_idle(&self) -> bool {
        self.keys.is_empty()
    }
}
