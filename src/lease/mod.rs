//! Leases, in two halves.
//!
//! ```text
//!   Lessor     replicated, owned by the apply loop:  id -> TTL, checkpoint, keys;  key -> id
//!   Deadlines  the leader's, owned by the lease loop: id -> when it ends on this clock
//! ```
//!
//! What all members agree on (which leases exist, how long they were granted for, which keys
//! hang on them) changes by log entries only. When a lease ends is known to the leader alone:
//! a clock is local and a renewal is not worth a log entry. So a new leader does not know of
//! the renewals the old one gave. It grants every lease its TTL anew, unless the old leader
//! checkpointed that less remains, plus an election timeout for renewals it cannot know of: a
//! lease may live longer than promised across a leader change, never shorter.
//!
//! Invariants:
//! - A lease ends by a `LeaseRevoke` entry, never by a clock alone. An entry that says "expired"
//!   counts only in the term whose leader wrote it, so that a deposed leader ends nothing.
//! - A key hangs on at most one lease, the one its newest pair names.
//! - A renewal of a checkpointed lease clears the checkpoint through the log before it is
//!   acknowledged; else the next leader might end the lease early.

mod deadlines;

pub use deadlines::{Deadlines, Renewal};

use crate::types::{Error, LeaseId, Result, limits};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A lease as every member knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Seconds it lives after a renewal.
    pub granted_ttl: i64,
    /// Seconds that were left at the last checkpoint; 0 = none, all of `granted_ttl` counts.
    pub remaining_ttl: i64,
    /// Keys that die with it.
    pub keys: BTreeSet<Bytes>,
}

/// The replicated half; see the module.
#[derive(Default)]
pub struct Lessor {
    leases: BTreeMap<LeaseId, Lease>,
    /// Only looked up, never walked.
    by_key: HashMap<Bytes, LeaseId>,
}

impl Lessor {
    /// Grants a lease; `ttl` in seconds is taken as it is.
    ///
    /// # Errors
    /// [`Error::LeaseTtlTooLarge`], [`Error::LeaseExists`].
    pub fn grant(&mut self, id: LeaseId, ttl: i64) -> Result<()> {
        if ttl > limits::LEASE_TTL_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(Error::LeaseExists);
        }
        self.leases.insert(id, Lease { granted_ttl: ttl, ..Lease::default() });
        Ok(())
    }

    /// Puts back a stored lease; its keys follow by [`Lessor::attach`].
    pub fn restore(&mut self, id: LeaseId, granted_ttl: i64, remaining_ttl: i64) {
        self.leases.insert(id, Lease { granted_ttl, remaining_ttl, keys: BTreeSet::new() });
    }

    /// Ends a lease and returns it; its keys hang on nothing from then on.
    pub fn revoke(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        for key in &lease.keys {
            self.by_key.remove(key);
        }
        Some(lease)
    }

    /// Records how much of a lease is left; `false` if there is no such lease.
    pub fn checkpoint(&mut self, id: LeaseId, remaining_ttl: i64) -> bool {
        match self.leases.get_mut(&id) {
            Some(lease) => {
                lease.remaining_ttl = remaining_ttl;
                true
            }
            None => false,
        }
    }

    /// The newest pair of `key` names `lease` (0 = none).
    pub fn attach(&mut self, key: &Bytes, lease: LeaseId) {
        if self.by_key.is_empty() && lease == LeaseId(0) {
            return;
        }
        match self.by_key.get(key) {
            Some(&now) if now == lease => return,
            Some(_) => self.detach(key),
            None => {}
        }
        if lease == LeaseId(0) {
            return;
        }
        if let Some(entry) = self.leases.get_mut(&lease) {
            // A copy of its own: the request's buffer is larger and must not live as long.
            let key = Bytes::copy_from_slice(key);
            entry.keys.insert(key.clone());
            self.by_key.insert(key, lease);
        }
    }

    /// `key` is gone.
    pub fn detach(&mut self, key: &Bytes) {
        if let Some(id) = self.by_key.remove(key)
            && let Some(lease) = self.leases.get_mut(&id)
        {
            lease.keys.remove(key);
        }
    }

    /// A lease by id.
    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// All leases by id.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.leases.iter().map(|(&id, lease)| (id, lease))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    #[test]
    fn a_key_hangs_on_its_newest_lease_only() {
        let mut lessor = Lessor::default();
        lessor.grant(LeaseId(1), 10).expect("new");
        lessor.grant(LeaseId(2), 10).expect("new");
        lessor.attach(&key("a"), LeaseId(1));
        lessor.attach(&key("a"), LeaseId(2));
        assert!(lessor.get(LeaseId(1)).expect("granted").keys.is_empty());
        assert!(lessor.revoke(LeaseId(2)).expect("granted").keys.contains(&key("a")));
        lessor.grant(LeaseId(2), 10).expect("free again");
        assert!(lessor.get(LeaseId(2)).expect("granted").keys.is_empty());
    }

    #[test]
    fn a_put_without_lease_detaches() {
        let mut lessor = Lessor::default();
        lessor.grant(LeaseId(1), 10).expect("new");
        lessor.attach(&key("a"), LeaseId(1));
        lessor.attach(&key("a"), LeaseId(0));
        assert!(lessor.revoke(LeaseId(1)).expect("granted").keys.is_empty());
    }

    #[test]
    fn grants_are_refused_as_etcd_refuses_them() {
        let mut lessor = Lessor::default();
        assert_eq!(lessor.grant(LeaseId(1), 9_000_000_001), Err(Error::LeaseTtlTooLarge));
        lessor.grant(LeaseId(1), 9_000_000_000).expect("the largest TTL");
        assert_eq!(lessor.grant(LeaseId(1), 1), Err(Error::LeaseExists));
        assert!(lessor.revoke(LeaseId(9)).is_none());
    }
}
