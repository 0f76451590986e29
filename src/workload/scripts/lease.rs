//! Leases: granted for seconds, given keys, kept alive for a while, then revoked or left to die.
//!
//! Keys move between leases, also those of other clients, whose ids are seen at their keys; so a
//! lease that ends must take with it what it holds then, and nothing else.

use super::{Script, delete, equal, list, put, txn};
use crate::check::op::{
    CompareTarget, LeaseGrantRequest, LeaseRequest, Outcome, Request, Response,
};
use crate::types::LeaseId;
use crate::workload::generator::{Hand, Step};

const PREFIX: &str = "lease/";
const KEYS: u64 = 10;
/// A client has at most so many of its own at a time.
const LEASES_MAX: usize = 4;

/// A lease of this client.
struct Own {
    id: LeaseId,
    /// How often it will be kept alive before it is left to die.
    renewals_left: u64,
}

/// The state of such a client.
#[derive(Default)]
pub struct Lease {
    own: Vec<Own>,
    /// Leases that keys were attached to when last read.
    seen: Vec<LeaseId>,
}

#[derive(Clone, Copy)]
enum Kind {
    Grant,
    Attach,
    AttachMany,
    Move,
    Detach,
    KeepAlive,
    Revoke,
    TimeToLive,
    Read,
    Delete,
}

impl Script for Lease {
    fn next(&mut self, hand: &mut Hand) -> Step {
        let grant = if self.own.len() < LEASES_MAX { 12 } else { 0 };
        let own = u64::from(!self.own.is_empty());
        let kind = hand.dice.weighted(&[
            (grant, Kind::Grant),
            (25 * own, Kind::Attach),
            (5 * own, Kind::AttachMany),
            (8, Kind::Move),
            (5, Kind::Detach),
            (20 * own, Kind::KeepAlive),
            (4 * own, Kind::Revoke),
            (4 * own, Kind::TimeToLive),
            (15, Kind::Read),
            (3, Kind::Delete),
        ]);
        Step::Call(match kind {
            Kind::Grant => self.grant(hand),
            Kind::Attach => self.attach(hand, 1),
            Kind::AttachMany => self.attach(hand, 4),
            Kind::Move => {
                let others = [&self.seen[..], &[LeaseId(0)]].concat();
                let mut put = put(key(hand), hand.value());
                put.lease = *hand.dice.pick(&others);
                Request::Put(put)
            }
            Kind::Detach => detach(hand),
            Kind::KeepAlive => self.keep_alive(hand),
            Kind::Revoke => {
                let place = place(hand, self.own.len());
                let own = self.own.swap_remove(place);
                Request::LeaseRevoke(LeaseRequest { id: own.id })
            }
            Kind::TimeToLive => return Step::TimeToLive(hand.dice.pick(&self.own).id),
            Kind::Read => {
                let mut read = list(PREFIX);
                read.serializable = hand.dice.one_in(3);
                Request::Range(read)
            }
            Kind::Delete => Request::DeleteRange(delete(key(hand))),
        })
    }

    fn told(&mut self, request: &Request, outcome: &Outcome) {
        match (request, outcome) {
            (_, Outcome::Ok(Response::Range(range))) => {
                self.seen = range.kvs.iter().map(|kv| kv.lease).filter(|id| id.0 != 0).collect();
                self.seen.sort();
                self.seen.dedup();
            }
            // It is gone, or never came to be.
            (Request::LeaseGrant(LeaseGrantRequest { id, .. }), Outcome::Failed(_))
            | (Request::LeaseKeepAlive(LeaseRequest { id }), Outcome::Failed(_)) => {
                self.own.retain(|own| own.id != *id);
            }
            _ => {}
        }
    }

    fn is_idle(&self) -> bool {
        true
    }
}

impl Lease {
    fn grant(&mut self, hand: &mut Hand) -> Request {
        let id = hand.lease();
        let renewals_left = hand.dice.weighted(&[(3, 0), (3, 5), (2, 20)]);
        self.own.push(Own { id, renewals_left });
        Request::LeaseGrant(LeaseGrantRequest { id, ttl_seconds: hand.dice.between(1, 10) })
    }

    /// Puts keys with a lease of its own.
    fn attach(&mut self, hand: &mut Hand, count: u64) -> Request {
        let lease = hand.dice.pick(&self.own).id;
        let first = hand.dice.below(KEYS);
        let puts = (0..count).map(|i| {
            let mut put = put(format!("{PREFIX}{}", (first + i) % KEYS), hand.value());
            put.lease = lease;
            Request::Put(put)
        });
        let mut puts: Vec<Request> = puts.collect();
        match puts.len() {
            1 => puts.remove(0),
            _ => txn([], puts, []),
        }
    }

    /// Renews one that is still to be renewed, else forgets one and reads.
    fn keep_alive(&mut self, hand: &mut Hand) -> Request {
        let place = place(hand, self.own.len());
        let own = &mut self.own[place];
        if own.renewals_left == 0 {
            self.own.swap_remove(place);
            return Request::Range(list(PREFIX));
        }
        own.renewals_left -= 1;
        Request::LeaseKeepAlive(LeaseRequest { id: own.id })
    }
}

fn key(hand: &mut Hand) -> String {
    format!("{PREFIX}{}", hand.dice.below(KEYS))
}

fn place(hand: &mut Hand, length: usize) -> usize {
    let length = u64::try_from(length).expect("a length fits");
    usize::try_from(hand.dice.below(length)).expect("below a length")
}

/// Writes without the lease, or keeps the lease and writes, or writes if there is no lease.
fn detach(hand: &mut Hand) -> Request {
    let key = key(hand);
    let mut put = put(key.as_str(), hand.value());
    match hand.dice.below(3) {
        0 => Request::Put(put),
        1 => {
            put.ignore_lease = true;
            Request::Put(put)
        }
        _ => {
            let free = equal(key.as_str(), CompareTarget::Lease(LeaseId(0)));
            txn([free], [Request::Put(put)], [Request::DeleteRange(delete(key))])
        }
    }
}
