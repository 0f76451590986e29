//! Accounts and transfers: the total never changes, whoever looks.
//!
//! Each client first opens all accounts in one transaction, unless that was done. A transfer reads
//! the accounts and moves money between two or three of them, if none of those has changed.

use super::{Script, end, kvs, list, put, text, txn, unchanged};
use crate::check::op::{Compare, CompareResult, CompareTarget, KeyValue, Outcome, Request};
use crate::workload::generator::{Hand, Step};

const PREFIX: &str = "bank/";
const ACCOUNTS: u64 = 6;
const BALANCE: i64 = 100;

/// The state of such a client.
#[derive(Default)]
pub struct Bank {
    opened: bool,
    reads_to_transfer: bool,
    found: Option<Vec<KeyValue>>,
}

impl Script for Bank {
    fn next(&mut self, hand: &mut Hand) -> Step {
        if !self.opened {
            return Step::Call(open(hand));
        }
        if let Some(found) = self.found.take() {
            return Step::Call(transfer(hand, &found));
        }
        let mut read = list(PREFIX);
        self.reads_to_transfer = hand.dice.below(10) < 7;
        read.serializable = !self.reads_to_transfer && hand.dice.one_in(2);
        Step::Call(Request::Range(read))
    }

    fn told(&mut self, request: &Request, outcome: &Outcome) {
        match request {
            // Opened by this client or by another; if nobody knows, it tries again.
            Request::Txn(_) if !self.opened => {
                self.opened = matches!(outcome, Outcome::Ok(_));
            }
            Request::Range(_) if self.reads_to_transfer => {
                self.found = kvs(outcome).filter(|kvs| kvs.len() > 1).map(<[KeyValue]>::to_vec);
                self.reads_to_transfer = false;
            }
            _ => {}
        }
    }

    fn is_idle(&self) -> bool {
        self.found.is_none() && !self.reads_to_transfer
    }
}

fn open(hand: &mut Hand) -> Request {
    let nobody = Compare {
        key: PREFIX.into(),
        range_end: end(PREFIX),
        result: CompareResult::Equal,
        target: CompareTarget::Version(0),
    };
    let account = |number: u64| {
        let value = format!("{BALANCE} {}", hand.mark());
        Request::Put(put(format!("{PREFIX}{number}"), value))
    };
    let accounts: Vec<Request> = (0..ACCOUNTS).map(account).collect();
    txn([nobody], accounts, [Request::Range(list(PREFIX))])
}

fn transfer(hand: &mut Hand, found: &[KeyValue]) -> Request {
    let count = u64::try_from(found.len()).expect("a length fits");
    let first = hand.dice.below(count);
    // From one, or one after the other, to the next.
    let touched = hand.dice.weighted(&[(4, 2), (1, 3)]).min(count);
    let stride = hand.dice.between(1, (count - 1) / (touched - 1));
    let amount = i64::try_from(hand.dice.between(1, 9)).expect("small");
    let (mut compare, mut success) = (Vec::new(), Vec::new());
    for place in 0..touched {
        let kv = &found[usize::try_from((first + place * stride) % count).expect("a place")];
        let balance = text(&kv.value).split(' ').next().and_then(|number| number.parse().ok());
        let balance: i64 = balance.unwrap_or(0);
        let change = match place {
            0 => -amount * (i64::try_from(touched).expect("small") - 1),
            _ => amount,
        };
        let value = format!("{} {}", balance + change, hand.mark());
        compare.push(unchanged(kv.key.clone(), kv.mod_revision));
        success.push(Request::Put(put(kv.key.clone(), value)));
    }
    txn(compare, success, [Request::Range(list(PREFIX))])
}
