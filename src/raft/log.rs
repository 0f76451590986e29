//! The recent part of the Raft log, in memory: what raft-rs reads through its `Storage` trait.
//!
//! The write-ahead log on disk is for coming back after a crash; this is for followers that are
//! a little behind. A follower that needs an entry older than the first one here gets a
//! snapshot, which the server prepares on demand: raft-rs asks, hears "not now", and asks again
//! once one was [`offer`](Log::offer_snapshot)ed.
//!
//! Invariants: entries are contiguous; `before` is the entry in front of the first one; `bytes`
//! is the sum of the entries' data lengths.

use crate::types::{Index, Term};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

/// See the module.
pub struct Log {
    before: (Index, Term),
    entries: VecDeque<Entry>,
    bytes: usize,
    hard_state: HardState,
    conf_state: ConfState,
    /// Snapshots ready to be sent, by the member they were prepared for.
    offered: BTreeMap<u64, Snapshot>,
    /// The member raft-rs last asked a snapshot for in vain.
    wanted: Cell<Option<u64>>,
}

impl Log {
    /// A log that continues after `before` with `entries`, as recovered from disk.
    pub fn new(
        before: (Index, Term),
        entries: Vec<Entry>,
        hard_state: HardState,
        conf_state: ConfState,
    ) -> Log {
        let mut log = Log {
            before,
            entries: VecDeque::new(),
            bytes: 0,
            hard_state,
            conf_state,
            offered: BTreeMap::new(),
            wanted: Cell::new(None),
        };
        log.append(&entries);
        log
    }

    /// Adds entries; those that stand at or behind the first new one's index are replaced.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let next = self.last().0 + 1;
        assert!(first.index > self.before.0.0, "an entry below the compaction point");
        assert!(first.index <= next, "a gap in the log: {} follows {}", first.index, next - 1);
        while self.last().0 >= first.index {
            let dropped = self.entries.pop_back().expect("last() was one of them");
            self.bytes -= dropped.data.len();
        }
        self.bytes += entries.iter().map(|entry| entry.data.len()).sum::<usize>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Drops entries up to and with `through`; nothing happens if they are gone already.
    pub fn compact(&mut self, through: Index) {
        while let Some(entry) = self.entries.front() {
            if entry.index > through.0 {
                break;
            }
            self.before = (Index(entry.index), Term(entry.term));
            self.bytes -= entry.data.len();
            self.entries.pop_front();
        }
    }

    /// A snapshot replaced all: the log is empty and continues after `before`.
    pub fn reset(&mut self, before: (Index, Term), conf_state: ConfState) {
        self.before = before;
        self.entries.clear();
        self.bytes = 0;
        self.conf_state = conf_state;
        self.offered.clear();
    }

    /// Records term, vote and commit.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// The entry before the first one kept.
    pub fn before(&self) -> (Index, Term) {
        self.before
    }

    /// Bytes of entry data kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Index and term of the last entry.
    fn last(&self) -> (u64, u64) {
        match self.entries.back() {
            Some(entry) => (entry.index, entry.term),
            None => (self.before.0.0, self.before.1.0),
        }
    }

    /// Index of the last entry.
    pub fn last_index(&self) -> Index {
        Index(self.last().0)
    }

    /// The term of an entry, if it is still known.
    pub fn term_of(&self, index: Index) -> Option<Term> {
        self.term(index.0).ok().map(Term)
    }

    /// The member that needs a snapshot, if one was asked for since the last call.
    pub fn take_snapshot_wanted(&mut self) -> Option<u64> {
        self.wanted.take()
    }

    /// A snapshot at `at` is ready to be streamed to member `to`.
    pub fn offer_snapshot(&mut self, to: u64, at: (Index, Term)) {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = at.0.0;
        metadata.term = at.1.0;
        metadata.set_conf_state(self.conf_state.clone());
        self.offered.insert(to, snapshot);
    }

    /// The snapshot offered to `to` is on its way, or void.
    pub fn withdraw_snapshot(&mut self, to: u64) {
        self.offered.remove(&to);
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.before.0.0 {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last().0 + 1, "entries asked beyond the end of the log");
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let start = (low - self.before.0.0 - 1) as usize;
        let end = (high - self.before.0.0 - 1) as usize;
        let mut size = 0u64;
        let mut found = Vec::with_capacity((end - start).min(1024));
        for entry in self.entries.range(start..end) {
            // 24 bytes: index, term, type and framing of an entry on the wire.
            size += entry.data.len() as u64 + entry.context.len() as u64 + 24;
            if size > max_size && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before.0.0 {
            return Ok(self.before.1.0);
        }
        if index < self.before.0.0 {
            return Err(StorageError::Compacted.into());
        }
        match self.entries.get((index - self.before.0.0 - 1) as usize) {
            Some(entry) => Ok(entry.term),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.before.0.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().0)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        if let Some(snapshot) = self.offered.get(&to) {
            let index = snapshot.get_metadata().index;
            if index >= request_index && index >= self.before.0.0 {
                return Ok(snapshot.clone());
            }
        }
        self.wanted.set(Some(to));
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 10].into(), ..Entry::default() }
    }

    fn log(entries: &[(u64, u64)]) -> Log {
        let entries = entries.iter().map(|&(index, term)| entry(index, term)).collect();
        Log::new((Index(0), Term(0)), entries, HardState::default(), ConfState::default())
    }

    #[test]
    fn a_conflicting_suffix_is_replaced() {
        let mut log = log(&[(1, 1), (2, 1), (3, 1)]);
        log.append(&[entry(2, 2)]);
        assert_eq!(log.last(), (2, 2));
        assert_eq!(log.bytes(), 20);
        assert_eq!(log.term(1).expect("kept"), 1);
    }

    #[test]
    fn compaction_keeps_the_term_before_the_first_entry() {
        let mut log = log(&[(1, 1), (2, 2), (3, 3)]);
        log.compact(Index(2));
        assert_eq!(log.term(2).expect("the boundary"), 2);
        assert_eq!(log.term(1), Err(StorageError::Compacted.into()));
        assert_eq!(log.first_index().expect("infallible"), 3);
        log.compact(Index(1));
        assert_eq!(log.before(), (Index(2), Term(2)));
    }

    #[test]
    fn a_snapshot_is_wanted_until_offered() {
        let mut log = log(&[(1, 1)]);
        assert!(log.snapshot(0, 7).is_err());
        assert_eq!(log.take_snapshot_wanted(), Some(7));
        assert_eq!(log.take_snapshot_wanted(), None);
        log.offer_snapshot(7, (Index(1), Term(1)));
        assert_eq!(log.snapshot(0, 7).expect("offered").get_metadata().index, 1);
        assert!(log.snapshot(0, 8).is_err(), "it was prepared for another member");
    }

    #[test]
    fn a_batch_stops_at_its_size_but_is_never_empty() {
        let log = log(&[(1, 1), (2, 1), (3, 1)]);
        let context = || GetEntriesContext::empty(false);
        assert_eq!(log.entries(1, 4, 70, context()).expect("kept").len(), 2);
        assert_eq!(log.entries(1, 4, 1, context()).expect("kept").len(), 1);
        assert_eq!(log.entries(1, 4, None, context()).expect("kept").len(), 3);
    }
}
