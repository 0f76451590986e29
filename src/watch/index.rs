//! From a changed key to those who watch it.
//!
//! Watchers of the same keys form a *group*: one entry in the index, however many they are, and
//! one set of encoded bytes for each event. A single key is found by hash, an interval by the
//! interval tree. The members of a group are only its synced watchers, those to whom new events
//! go at once: a watcher that lags costs nothing when its key changes.
//!
//! Invariants:
//! - a group is in the index exactly as long as it has watchers, synced or not;
//! - `members[i]` is the watcher whose `position` is `i`.

use super::interval::IntervalTree;
use super::slab::Slab;
use std::collections::HashMap;
use std::sync::Arc;

/// The end of an interval of keys; ordered by how far it reaches.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum End {
    /// Up to but not including this key.
    Before(Arc<[u8]>),
    /// To the end of the keyspace.
    Open,
}

impl End {
    /// Whether `key` lies before this end.
    pub fn is_behind(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < &end[..],
            End::Open => true,
        }
    }
}

/// The keys a group watches: one, or an interval that is not empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Keys {
    pub start: Arc<[u8]>,
    /// `None`: just the key `start`.
    pub end: Option<End>,
}

impl Keys {
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            None => *key == *self.start,
            Some(end) => *self.start <= *key && end.is_behind(key),
        }
    }
}

/// All watchers of the same keys.
pub(super) struct Group {
    pub keys: Keys,
    /// How many watchers there are, synced or lagging.
    watchers: u32,
    /// The synced ones, by their numbers.
    pub members: Vec<u32>,
}

/// Groups by their keys.
pub(super) struct WatcherIndex {
    groups: Slab<Group>,
    /// Never iterated.
    singles: HashMap<Arc<[u8]>, u32>,
    intervals: IntervalTree,
}

impl WatcherIndex {
    pub fn new() -> WatcherIndex {
        WatcherIndex {
            groups: Slab::new(),
            singles: HashMap::new(),
            intervals: IntervalTree::new(),
        }
    }

    /// The group of these keys, with one more watcher; not yet a member.
    pub fn join(&mut self, start: &[u8], end: Option<End>) -> u32 {
        let known = match &end {
            None => self.singles.get(start).copied(),
            Some(end) => self.intervals.get(start, end),
        };
        if let Some(group) = known {
            self.groups[group].watchers += 1;
            return group;
        }
        let keys = Keys { start: Arc::from(start), end };
        let group = self.groups.insert(Group { keys: keys.clone(), watchers: 1, members: vec![] });
        match keys.end {
            None => {
                self.singles.insert(keys.start, group);
            }
            Some(end) => self.intervals.insert(keys.start, end, group),
        }
        group
    }

    /// One watcher of the group is gone; it must not be a member any more.
    pub fn leave(&mut self, group: u32) {
        let left = &mut self.groups[group];
        left.watchers -= 1;
        if left.watchers > 0 {
            return;
        }
        assert!(left.members.is_empty(), "a member is a watcher");
        let Keys { start, end } = self.groups.remove(group).keys;
        match end {
            None => {
                self.singles.remove(&start);
            }
            Some(end) => self.intervals.remove(&start, &end),
        }
    }

    /// Tells each group that watches `key`, in an order that depends only on what is watched.
    pub fn watching(&self, key: &[u8], mut found: impl FnMut(u32)) {
        if let Some(group) = self.singles.get(key) {
            found(*group);
        }
        self.intervals.containing(key, &mut found);
    }

    pub fn group(&self, group: u32) -> &Group {
        &self.groups[group]
    }

    pub fn group_mut(&mut self, group: u32) -> &mut Group {
        &mut self.groups[group]
    }

    pub fn groups_mut(&mut self) -> impl Iterator<Item = &mut Group> {
        self.groups.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watching(index: &WatcherIndex, key: &[u8]) -> Vec<u32> {
        let mut found = Vec::new();
        index.watching(key, |group| found.push(group));
        found
    }

    #[test]
    fn a_group_lives_as_long_as_its_last_watcher() {
        let mut index = WatcherIndex::new();
        let before = |end: &[u8]| Some(End::Before(Arc::from(end)));
        let single = index.join(b"b", None);
        assert_eq!(index.join(b"b", None), single);
        let interval = index.join(b"a", before(b"c"));
        assert_eq!(index.join(b"a", before(b"c")), interval);
        let open = index.join(b"a", Some(End::Open));
        assert_eq!(watching(&index, b"b"), [single, interval, open]);
        assert_eq!(watching(&index, b"c"), [open]);
        assert!(watching(&index, b"A").is_empty());
        [single, interval, open].into_iter().for_each(|group| index.leave(group));
        assert_eq!(watching(&index, b"b"), [single, interval]);
        [single, interval].into_iter().for_each(|group| index.leave(group));
        assert!(watching(&index, b"b").is_empty());
    }
}
