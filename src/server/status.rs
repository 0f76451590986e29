//! What the loops publish for everyone to read: plain numbers, and shared lists that change
//! rarely. Each value has one writer, named here; readers may see values of different moments.
//!
//! | value | written by |
//! |---|---|
//! | term, leader, committed, ticked, leader changes | node loop |
//! | applied, alarms, members, cluster version | apply loop |
//! | disk full | node loop and the disk watcher |

use crate::apply::{Alarms, Members};
use crate::raft::Leadership;
use crate::types::{Index, MemberId, Term};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// See the module.
#[derive(Default)]
pub struct Status {
    term: AtomicU64,
    leader: AtomicU64,
    leading: AtomicBool,
    committed: AtomicU64,
    applied: AtomicU64,
    ticked_ms: AtomicU64,
    leader_changes: AtomicU64,
    disk_full: AtomicBool,
    flush_waits: AtomicBool,
    alarms: RwLock<Arc<Alarms>>,
    members: RwLock<Arc<Members>>,
    cluster_version: RwLock<Arc<str>>,
}

/// A lock here guards one assignment, which cannot leave it half done: poison means nothing.
fn read<T: Clone>(lock: &RwLock<T>) -> T {
    lock.read().unwrap_or_else(PoisonError::into_inner).clone()
}

fn write<T>(lock: &RwLock<T>, value: T) {
    *lock.write().unwrap_or_else(PoisonError::into_inner) = value;
}

impl Status {
    pub(super) fn set_leadership(&self, leadership: Leadership) {
        self.term.store(leadership.term.0, Relaxed);
        self.leader.store(leadership.leader.0, Relaxed);
        self.leading.store(leadership.leading, Relaxed);
    }

    /// Who leads, as this member knows it.
    pub fn leadership(&self) -> Leadership {
        Leadership {
            term: self.term(),
            leader: MemberId(self.leader.load(Relaxed)),
            leading: self.leading.load(Relaxed),
        }
    }

    /// The current term.
    pub fn term(&self) -> Term {
        Term(self.term.load(Relaxed))
    }

    pub(super) fn set_committed(&self, index: Index) {
        self.committed.store(index.0, Relaxed);
    }

    /// Last index known to be committed.
    pub fn committed(&self) -> Index {
        Index(self.committed.load(Relaxed))
    }

    pub(super) fn set_applied(&self, index: Index) {
        self.applied.store(index.0, Relaxed);
    }

    /// Last index the store holds.
    pub fn applied(&self) -> Index {
        Index(self.applied.load(Relaxed))
    }

    pub(super) fn set_ticked(&self, now: Duration) {
        self.ticked_ms.store(now.as_millis() as u64, Relaxed);
    }

    /// When the node loop last saw its clock tick; old when this process was stopped or starved.
    pub fn ticked(&self) -> Duration {
        Duration::from_millis(self.ticked_ms.load(Relaxed))
    }

    pub(super) fn count_leader_change(&self) {
        self.leader_changes.fetch_add(1, Relaxed);
    }

    /// Leaders seen since the start.
    pub fn leader_changes(&self) -> u64 {
        self.leader_changes.load(Relaxed)
    }

    pub(super) fn set_disk_full(&self, full: bool) {
        self.disk_full.store(full, Relaxed);
    }

    /// A flush of the store waits for room on the disk, or no longer does.
    pub(super) fn set_flush_waits(&self, waits: bool) {
        self.flush_waits.store(waits, Relaxed);
    }

    /// Whether writes are refused because a disk is full.
    pub fn disk_is_full(&self) -> bool {
        self.disk_full.load(Relaxed) || self.flush_waits.load(Relaxed)
    }

    pub(super) fn set_alarms(&self, alarms: &Alarms) {
        if *self.alarms() != *alarms {
            write(&self.alarms, Arc::new(alarms.clone()));
        }
    }

    /// The alarms raised.
    pub fn alarms(&self) -> Arc<Alarms> {
        read(&self.alarms)
    }

    pub(super) fn set_members(&self, members: &Members) {
        write(&self.members, Arc::new(members.clone()));
    }

    /// The members of the cluster.
    pub fn members(&self) -> Arc<Members> {
        read(&self.members)
    }

    pub(super) fn set_cluster_version(&self, version: &str) {
        if *self.cluster_version() != *version {
            write(&self.cluster_version, version.into());
        }
    }

    /// The version all members speak; empty before it is decided.
    pub fn cluster_version(&self) -> Arc<str> {
        read(&self.cluster_version)
    }
}
