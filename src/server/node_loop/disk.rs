//! The log on disk: one job at a time on a storage thread, which takes the log along and brings
//! it back.
//!
//! Whatever Raft wants persisted while a write is under way is gathered in [`ToWrite`]: the next
//! write serves everybody who came meanwhile with one fdatasync.

use super::{Fatal, NodeLoop};
use crate::env::{Env, Observation};
use crate::raft::{Entry, Message, Persist};
use crate::types::{Index, MemberId, Term};
use crate::wal::{self, Wal, WalError};
use std::time::Duration;

/// The log comes back from the storage thread with what became of the job.
pub(super) type Finished<D> = (Wal<D>, std::result::Result<(), WalError>, Job);

/// Work of the storage thread.
pub(super) enum Job {
    Write(ToWrite),
    /// Drop segments that hold nothing younger than this.
    Release(Index),
    /// Have the next segment ready before it is needed.
    Prepare,
}

/// The next write to the log, gathered from one or more [`Persist`]s.
#[derive(Default)]
pub(super) struct ToWrite {
    pub(super) batch: wal::Batch,
    pub(super) bytes: usize,
    pub(super) reset: Option<(Index, Term)>,
    /// The [`Persist::number`] that is reached with it; 0 = nothing gathered.
    pub(super) number: u64,
    pub(super) messages: Vec<Message>,
}

impl ToWrite {
    /// Whether anything in it has to reach the disk for its own sake. A new commit index alone
    /// does not: it is learned again.
    pub(super) fn is_due(&self) -> bool {
        !self.batch.entries.is_empty() || self.batch.sync || self.reset.is_some()
    }

    pub(super) fn add(&mut self, persist: Persist) {
        self.number = persist.number;
        if persist.snapshot.is_some() {
            // Entries gathered before it are part of it now. Written behind it, they would put the
            // end of the log below the snapshot.
            self.batch.entries.clear();
            self.bytes = 0;
        }
        self.reset = persist.snapshot.or(self.reset);
        self.batch.sync |= persist.sync;
        if let Some(hard_state) = persist.hard_state {
            self.batch.hard_state = Some(wal::HardState {
                term: Term(hard_state.term),
                vote: MemberId(hard_state.vote),
                commit: Index(hard_state.commit),
            });
        }
        if let Some(first) = persist.entries.first() {
            // A new leader's entries may replace what was gathered but not written yet.
            while self.batch.entries.last().is_some_and(|last| last.index.0 >= first.index) {
                self.batch.entries.pop();
            }
        }
        self.bytes += persist.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
        self.batch.entries.extend(persist.entries.into_iter().map(to_log_entry));
        self.messages.extend(persist.messages);
    }
}

fn to_log_entry(entry: Entry) -> wal::LogEntry {
    wal::LogEntry {
        index: Index(entry.index),
        term: Term(entry.term),
        kind: entry.entry_type as u8,
        data: entry.data,
    }
}

impl<E: Env> NodeLoop<E> {
    pub(super) fn start_job(&mut self) {
        if self.job.is_some() || self.retry_at.is_some() || self.installing_snapshot() {
            return;
        }
        while !self.to_write.is_due() && self.to_write.number != 0 {
            self.settle();
        }
        let job = if self.to_write.is_due() {
            self.observe_write(&self.to_write);
            Job::Write(std::mem::take(&mut self.to_write))
        } else if let Some(index) = self.release.take() {
            self.env.mark("wal: old entries released");
            Job::Release(index)
        } else if std::mem::take(&mut self.prepare) {
            Job::Prepare
        } else {
            return;
        };
        let mut wal = self.wal.take().expect("the log is here while no job runs");
        self.job = Some(Box::pin(self.env.blocking(move || {
            let result = match &job {
                Job::Write(write) => (write.reset)
                    .map_or(Ok(()), |(index, term)| wal.reset(index, term))
                    .and_then(|()| wal.append(&write.batch).map(drop)),
                Job::Release(index) => wal.release(*index).map(drop),
                Job::Prepare => wal.prepare(),
            };
            (wal, result, job)
        })));
    }

    /// Whether the next write must wait for the apply loop to put a snapshot in place.
    pub(super) fn installing_snapshot(&self) -> bool {
        self.installing.is_some() && self.to_write.reset.is_some()
    }

    /// With no write under way and nothing that must be written, what was gathered counts as
    /// persisted; a changed commit index goes along with the next write.
    pub(super) fn settle(&mut self) {
        let number = std::mem::take(&mut self.to_write.number);
        let messages = std::mem::take(&mut self.to_write.messages);
        self.node.persisted(number);
        self.send(messages);
        while let Some(effects) = self.node.effects() {
            self.carry_out(effects);
        }
    }

    pub(super) fn finish_job(
        &mut self,
        finished: Finished<E::Disk>,
    ) -> std::result::Result<(), Fatal> {
        let (wal, result, job) = finished;
        let poisoned = wal.is_poisoned();
        self.prepare = wal.wants_prepare();
        self.wal = Some(wal);
        match (job, result) {
            (Job::Write(write), Ok(())) => {
                self.env.observe(Observation::Written { durable: true });
                self.node.persisted(write.number);
                if let Some((index, _)) = write.reset {
                    self.node.applied(index);
                }
                self.send(write.messages);
            }
            (Job::Write(write), Err(WalError::NoSpace { .. })) if !poisoned => {
                self.env.observe(Observation::Written { durable: false });
                self.wait_for_space(write);
            }
            (Job::Prepare | Job::Release(_), Err(WalError::NoSpace { .. })) if !poisoned => {
                // Not at once again: the next write brings it up.
                self.prepare = false;
            }
            (Job::Prepare | Job::Release(_), Ok(())) => {}
            (_, Err(error)) => return Err(format!("the log cannot be written: {error}")),
        }
        Ok(())
    }

    /// Nothing of the write happened. Clients are refused until there is room; the write is
    /// repeated, in front of what came after it.
    pub(super) fn wait_for_space(&mut self, mut write: ToWrite) {
        if !self.status.disk_is_full() {
            tracing::error!(
                "no space left on the disk of the log; writes are refused until there is some: \
                 free space in the data directory's file system, nothing else is needed"
            );
        }
        self.status.set_disk_full(true);
        self.retry_at = Some(self.now() + Duration::from_secs(1));
        self.env.mark("wal: found the disk full");
        let after = std::mem::take(&mut self.to_write);
        if after.reset.is_some() {
            // What could not be written is void now.
            write.batch.entries.clear();
        }
        if let Some(first) = after.batch.entries.first() {
            write.batch.entries.retain(|entry| entry.index < first.index);
        }
        write.reset = after.reset.or(write.reset);
        write.batch.entries.extend(after.batch.entries);
        write.batch.hard_state = after.batch.hard_state.or(write.batch.hard_state);
        write.batch.sync |= after.batch.sync;
        write.bytes += after.bytes;
        write.number = write.number.max(after.number);
        write.messages.extend(after.messages);
        self.to_write = write;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn persist(number: u64, indexes: std::ops::Range<u64>) -> Persist {
        let entry = |index| Entry { index, term: 1, data: vec![0; 8].into(), ..Entry::default() };
        Persist { number, entries: indexes.map(entry).collect(), ..Persist::default() }
    }

    fn gathered(write: &ToWrite) -> (Vec<u64>, usize) {
        (write.batch.entries.iter().map(|entry| entry.index.0).collect(), write.bytes)
    }

    #[test]
    fn entries_of_a_new_leader_replace_what_is_not_written_yet() {
        let mut write = ToWrite::default();
        write.add(persist(1, 5..8));
        write.add(persist(2, 6..7));
        assert_eq!(gathered(&write).0, [5, 6]);
    }

    #[test]
    fn a_snapshot_takes_the_place_of_entries_that_are_not_written_yet() {
        let mut write = ToWrite::default();
        write.add(persist(1, 5..8));
        let snapshot = Some((Index(20), Term(2)));
        write.add(Persist { snapshot, ..persist(2, 0..0) });
        assert_eq!((gathered(&write), write.reset), ((vec![], 0), snapshot));
        write.add(persist(3, 21..22));
        assert_eq!((gathered(&write), write.reset), ((vec![21], 8), snapshot));
    }
}
