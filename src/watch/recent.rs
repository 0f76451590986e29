//! The recent log: the newest revisions, kept for watchers that lag a little.
//!
//! A ring bounded by events and by bytes; what falls out is still in the store's history. It holds
//! no hole: revisions follow each other, so a position is a subtraction.

use super::event::LoggedRevision;
use crate::types::Revision;
use std::collections::VecDeque;

/// Bounded ring of consecutive revisions, oldest first.
pub(super) struct RecentLog {
    ring: VecDeque<LoggedRevision>,
    /// Events in `ring`.
    events: usize,
    /// Bytes of the records in `ring`.
    bytes: usize,
    events_max: usize,
    bytes_max: usize,
}

impl RecentLog {
    pub fn new(events_max: usize, bytes_max: usize) -> RecentLog {
        RecentLog { ring: VecDeque::new(), events: 0, bytes: 0, events_max, bytes_max }
    }

    /// Appends the next revision and forgets the oldest ones past the bounds; the new one itself
    /// goes too if it alone is past them.
    pub fn push(&mut self, entry: LoggedRevision) {
        if let Some(last) = self.ring.back() {
            assert_eq!(entry.revision.0, last.revision.0 + 1, "the recent log has no holes");
        }
        self.events += entry.events.len();
        self.bytes += entry.bytes();
        self.ring.push_back(entry);
        while self.events > self.events_max || self.bytes > self.bytes_max {
            let gone = self.ring.pop_front().expect("an empty log is within bounds");
            self.events -= gone.events.len();
            self.bytes -= gone.bytes();
        }
    }

    /// Where `revision` stands; `None` when the log does not reach back to it or not up to it.
    pub fn position(&self, revision: Revision) -> Option<usize> {
        let first = self.ring.front()?.revision;
        let distance = usize::try_from(revision.0 - first.0).ok()?;
        (distance < self.ring.len()).then_some(distance)
    }

    /// From `start` on, how many revisions hold about `events_max` events (at least one revision).
    pub fn window(&self, start: usize, events_max: usize) -> usize {
        let mut events = 0;
        let mut revisions = 0;
        for entry in self.ring.range(start..) {
            if events >= events_max {
                break;
            }
            events += entry.events.len();
            revisions += 1;
        }
        revisions
    }

    pub fn range_mut(
        &mut self,
        start: usize,
        revisions: usize,
    ) -> impl Iterator<Item = &mut LoggedRevision> {
        self.ring.range_mut(start..start + revisions)
    }

    /// Forgets everything: what comes next does not follow what is here.
    pub fn clear(&mut self) {
        self.ring.clear();
        self.events = 0;
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{Event, EventKind, RevisionEvents};
    use bytes::Bytes;

    fn entry(revision: i64, events: usize) -> LoggedRevision {
        let event = Event {
            key: Bytes::from_static(b"k"),
            kind: EventKind::Put,
            record: Bytes::from_static(b"0123456789"),
            create: false,
        };
        let events = vec![event; events];
        LoggedRevision::new(&RevisionEvents { revision: Revision(revision), events })
    }

    #[test]
    fn the_oldest_fall_out_at_either_bound() {
        let mut log = RecentLog::new(3, 1_000);
        (5..10).for_each(|revision| log.push(entry(revision, 1)));
        assert_eq!(log.position(Revision(6)), None);
        assert_eq!(log.position(Revision(7)), Some(0));
        assert_eq!(log.position(Revision(9)), Some(2));
        assert_eq!(log.position(Revision(10)), None);
        let mut log = RecentLog::new(100, 35);
        (5..10).for_each(|revision| log.push(entry(revision, 1)));
        assert_eq!(log.position(Revision(7)), Some(0));
        log.push(entry(10, 4));
        assert_eq!(log.position(Revision(10)), None);
        log.push(entry(11, 1));
        assert_eq!(log.position(Revision(11)), Some(0));
    }

    #[test]
    fn a_window_ends_between_revisions() {
        let mut log = RecentLog::new(100, 1_000);
        (5..10).for_each(|revision| log.push(entry(revision, 3)));
        assert_eq!(log.window(0, 1), 1);
        assert_eq!(log.window(0, 4), 2);
        assert_eq!(log.window(3, 100), 2);
    }
}
