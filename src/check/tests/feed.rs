//! A watcher on its way through the model's log: late, cut off, resumed, canceled.

use super::execution::{Bug, MILLISECOND, Shape, World, range};
use crate::check::data::Data;
use crate::check::history::History;
use crate::check::op::*;
use crate::check::store::Changes;
use crate::types::Revision;
use rand::Rng;

/// A watcher and the next revision that it needs.
pub struct Feed {
    watch: Watch,
    next: Revision,
}

impl Feed {
    pub fn new(world: &mut World, shape: &Shape) -> Feed {
        let (key, range_end) = range(&mut world.random, shape);
        let newest = world.store.revision().0;
        let random = &mut world.random;
        let start_revision = match random.random_range(0..4) {
            0 | 1 => Revision(0),
            2 => Revision(random.random_range(1..=newest)),
            _ => Revision(newest + random.random_range(0..4)),
        };
        let watch = Watch {
            process: 1000,
            invoke: world.now,
            key,
            range_end,
            start_revision,
            prev_kv: random.random_bool(0.5),
            no_put: random.random_bool(0.1),
            no_delete: random.random_bool(0.1),
            ..Watch::default()
        };
        Feed::open(world, watch)
    }

    /// Opens the watch, perhaps again.
    fn open(world: &mut World, mut watch: Watch) -> Feed {
        let revision = world.store.revision();
        let created =
            WatchResponse { at: world.now, revision, created: true, ..Default::default() };
        watch.responses.push(created);
        let next = match watch.start_revision.0 {
            0 => Revision(revision.0 + 1),
            _ => watch.start_revision.max(Revision(1)),
        };
        Feed { watch, next }
    }

    /// Follows some revisions, or is cut off.
    pub fn feed(&mut self, world: &mut World, history: &mut History) {
        match world.random.random_range(0..40) {
            // The stream breaks; another watcher goes on.
            0 => self.again(world, history, self.next, false),
            // The same one goes on.
            1 => {
                let (at, revision) = (world.now, world.store.revision());
                let created = WatchResponse { at, revision, created: true, ..Default::default() };
                self.watch.responses.push(created);
            }
            _ => {
                let more = world.random.random_range(0..6);
                self.follow(world, history, more);
            }
        }
    }

    /// Follows to the end of the log, and hands the watcher over.
    pub fn finish(mut self, world: &mut World, history: &mut History) {
        self.follow(world, history, i64::MAX / 2);
        self.follow(world, history, i64::MAX / 2);
        history.watches.push(self.watch);
    }

    fn again(&mut self, world: &mut World, history: &mut History, from: Revision, torn: bool) {
        let head = Watch {
            invoke: world.now,
            start_revision: from,
            responses: Vec::new(),
            ..self.watch.clone()
        };
        if torn && let Some(last) = self.watch.responses.last_mut() {
            last.fragment = true;
        }
        history.watches.push(std::mem::take(&mut self.watch));
        *self = Feed::open(world, head);
    }

    fn follow(&mut self, world: &mut World, history: &mut History, more: i64) {
        let needed = self.next < world.compacted;
        let newest = world.store.revision();
        if needed || (self.next.0 < newest.0 && world.strikes(Bug::CanceledEarly)) {
            let compact_revision = if needed { world.compacted } else { self.next };
            let at = world.now;
            self.watch.responses.push(WatchResponse {
                at,
                canceled: true,
                compact_revision,
                ..Default::default()
            });
            return self.again(world, history, compact_revision, false);
        }
        let end = newest.0.min(self.next.0.saturating_add(more));
        let mut events: Vec<Event> = Vec::new();
        for revision in self.next.0..=end {
            let revision = Revision(revision);
            let mut of_revision = self.events(world, revision);
            let is_deletion = of_revision.iter().any(|event| event.kind == EventKind::Delete);
            let edge = revision == world.compacted && is_deletion;
            if edge && world.strikes(Bug::TombstoneMissing) {
                of_revision.clear();
            }
            if of_revision.len() > 1 && world.strikes(Bug::EventOfRevisionMissing) {
                of_revision.pop();
            }
            events.append(&mut of_revision);
        }
        self.next = Revision(self.next.0.max(end + 1));
        self.spoil(world, &mut events);
        self.send(world, history, newest, events);
    }

    fn spoil(&mut self, world: &mut World, events: &mut Vec<Event>) {
        let revisions = events.chunk_by(|one, other| one.kv.mod_revision == other.kv.mod_revision);
        let several = revisions.count() > 1;
        if several && world.strikes(Bug::EventMissing) {
            let first = events[0].kv.mod_revision;
            events.retain(|event| event.kv.mod_revision != first);
        }
        if !events.is_empty() && world.strikes(Bug::EventTwice) {
            events.push(events[events.len() - 1].clone());
        }
        if several && world.strikes(Bug::EventsSwapped) {
            events.reverse();
        }
        let put = events.iter_mut().find(|event| event.kind == EventKind::Put);
        if let Some(event) = put
            && world.strikes(Bug::EventValue)
        {
            event.kv.value = Data::from("never written");
        }
        let previous = events.iter_mut().find(|event| event.prev_kv.is_some());
        if let Some(event) = previous
            && world.strikes(Bug::EventPrevKv)
        {
            event.prev_kv.as_mut().expect("it is some").version += 1;
        }
    }

    /// Sends events in one message or in fragments, or tells of progress.
    fn send(
        &mut self,
        world: &mut World,
        history: &mut History,
        newest: Revision,
        events: Vec<Event>,
    ) {
        let message =
            |at, events| WatchResponse { at, revision: newest, events, ..Default::default() };
        if events.is_empty() {
            let due =
                (self.next.0..=newest.0).any(|next| !self.events(world, Revision(next)).is_empty());
            let ahead = due && world.strikes(Bug::ProgressAhead);
            let synced = self.next.0 == newest.0 + 1;
            let asked = self.watch.start_revision <= newest && synced;
            if ahead || (asked && world.random.random_bool(0.3)) {
                self.watch.responses.push(message(world.now, events));
            }
            return;
        }
        let mut left = events;
        while left.len() > 1 && world.random.random_bool(0.1) {
            let rest = left.split_off(world.random.random_range(1..left.len()));
            let mut piece = message(world.now, std::mem::replace(&mut left, rest));
            piece.fragment = true;
            self.watch.responses.push(piece);
            world.now += MILLISECOND;
            if world.random.random_bool(0.2) {
                // Cut off in between: whoever goes on asks for the last revision seen again.
                let seen = self.watch.responses.last().and_then(|piece| piece.events.last());
                let seen = seen.expect("a piece has events").kv.mod_revision;
                return self.again(world, history, seen, true);
            }
        }
        self.watch.responses.push(message(world.now, left));
    }

    fn events(&self, world: &World, revision: Revision) -> Vec<Event> {
        let nothing = Changes::new();
        let changes = world.store.changes(revision).unwrap_or(&nothing);
        let mut events = Vec::new();
        for (key, kv) in changes {
            let hidden = if kv.is_some() { self.watch.no_put } else { self.watch.no_delete };
            if hidden || !keys(&self.watch.key, &self.watch.range_end).contains(&key.0) {
                continue;
            }
            let deleted =
                KeyValue { key: key.clone(), mod_revision: revision, ..Default::default() };
            let before = Revision(revision.0 - 1);
            let previous = world.store.get(key, before).filter(|_| before >= world.compacted);
            events.push(Event {
                kind: if kv.is_some() { EventKind::Put } else { EventKind::Delete },
                kv: kv.clone().unwrap_or(deleted),
                prev_kv: previous.filter(|_| self.watch.prev_kv).cloned(),
            });
        }
        events
    }
}
