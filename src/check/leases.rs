//! Revisions that no client asked for: what leases delete when they end.
//!
//! A lease that runs out deletes its keys in a revision of its own. Such a revision may appear
//! once the lease can have ended: not before its time to live has passed since the call of its
//! grant, and of each keep-alive that found it alive.
//!
//! Left out: the other side, that a lease must end some time. How late is no promise of etcd's
//! (a new leader starts the time anew).

use super::history::History;
use super::op::{Outcome, Request, Response};
use crate::types::LeaseId;
use std::collections::BTreeMap;

const NANOSECONDS: u64 = 1_000_000_000;

/// The earliest end of each lease, in nanoseconds.
#[derive(Debug)]
pub struct Leases {
    earliest_end: BTreeMap<LeaseId, u64>,
}

impl Leases {
    /// Gathers the leases of a history.
    pub fn new(history: &History) -> Leases {
        let mut earliest_end: BTreeMap<LeaseId, u64> = BTreeMap::new();
        for operation in &history.operations {
            let (id, ttl_seconds) = match (&operation.request, &operation.outcome) {
                (Request::LeaseGrant(_), Outcome::Ok(Response::LeaseGrant(granted))) => {
                    (granted.id, granted.ttl_seconds)
                }
                // A grant that may have happened, with the time asked for.
                (Request::LeaseGrant(grant), Outcome::Unknown(_)) => (grant.id, grant.ttl_seconds),
                (Request::LeaseKeepAlive(lease), Outcome::Ok(Response::LeaseKeepAlive(kept)))
                    if kept.ttl_seconds > 0 =>
                {
                    (lease.id, kept.ttl_seconds)
                }
                _ => continue,
            };
            let end = operation.invoke.saturating_add(ttl_seconds.saturating_mul(NANOSECONDS));
            let known = earliest_end.entry(id).or_default();
            *known = end.max(*known);
        }
        Leases { earliest_end }
    }

    /// The leases that can have ended by a moment, in the order of their ids.
    pub fn ended_by(&self, moment: u64) -> impl Iterator<Item = LeaseId> {
        let ended = move |(_, end): &(&LeaseId, &u64)| **end <= moment;
        self.earliest_end.iter().filter(ended).map(|(id, _)| *id)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.earliest_end.is_empty()
    }
}
