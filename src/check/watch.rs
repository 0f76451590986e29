//! Whether watchers were told what they were promised.
//!
//! etcd promises of a watcher's events that they are
//!
//! | promise | which means here |
//! |---|---|
//! | ordered | revisions rise along the stream |
//! | unique | no change comes twice |
//! | atomic | all of a revision that the watcher covers comes in one batch (of fragments) |
//! | reliable | from the start to the last revision seen or announced nothing is left out |
//! | resumable | the same, counted from the revision that was asked for |
//! | bookmarkable | after an announced revision comes nothing at or below it |
//!
//! and that contents are those of the write: key, value, version, revisions, lease, and the
//! previous value when asked for (it may be missing once compacted).
//!
//! Some of it the stream shows by itself; the rest is compared revision by revision while the
//! store's history is resolved (`linearizable::walk`). How late events come is no promise, so a
//! watcher may have seen nothing for long. A watcher that is canceled because of a compaction must
//! have needed something that was compacted.

use super::data::Data;
use super::history::History;
use super::op::{Event, EventKind, KeyValue, Outcome, Request, Watch, keys};
use super::store::{Store, within};
use super::violation::{Rule, Violation, kv_text};
use crate::types::{KeyRange, Revision};
use std::collections::{BTreeMap, BTreeSet};

/// All watchers of a history, ready to be compared with what revisions did.
#[derive(Debug)]
pub struct Watchers<'a> {
    watches: Vec<OneWatch<'a>>,
    /// From each revision on, up to the next entry: the watches that cover it.
    active: BTreeMap<Revision, Vec<usize>>,
    /// By the time of the call: the highest revision that anyone had asked to compact.
    compacted: Vec<(u64, Revision)>,
}

/// A watcher that was told something else than what a revision did.
#[derive(Debug)]
pub struct Mismatch {
    /// The key that it is about.
    pub key: Data,
    pub violation: Violation,
}

impl<'a> Watchers<'a> {
    /// The watchers of a history, and what is wrong with a stream by itself; such a one is not
    /// compared any more.
    pub fn new(history: &'a History) -> (Watchers<'a>, Vec<Violation>) {
        let mut violations = Vec::new();
        let mut watches = Vec::new();
        for (place, watch) in history.watches.iter().enumerate() {
            let one = OneWatch::new(place, watch);
            match one.stream() {
                Ok(()) => watches.push(one),
                Err(violation) => violations.push(*violation),
            }
        }
        let mut changes: BTreeMap<Revision, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        for (place, one) in watches.iter().enumerate().filter(|(_, one)| one.from <= one.to) {
            changes.entry(one.from).or_default().0.push(place);
            changes.entry(Revision(one.to.0.saturating_add(1))).or_default().1.push(place);
        }
        let mut active = BTreeMap::new();
        let mut now: BTreeSet<usize> = BTreeSet::new();
        for (revision, (come, go)) in changes {
            now.extend(come);
            go.iter().for_each(|place| {
                now.remove(place);
            });
            active.insert(revision, now.iter().copied().collect());
        }
        (Watchers { watches, active, compacted: compactions(history) }, violations)
    }

    /// Those that must have been told of a revision, if it changed what they watch.
    fn active(&self, revision: Revision) -> &[usize] {
        let from = self.active.range(..=revision).next_back();
        from.map_or(&[], |(_, active)| active.as_slice())
    }

    /// Whether a watcher should have been told of a change.
    pub fn expect(&self, key: &Data, is_put: bool, revision: Revision) -> bool {
        self.active(revision).iter().any(|place| {
            let one = &self.watches[*place];
            let hidden = if is_put { one.watch.no_put } else { one.watch.no_delete };
            !hidden && one.range.contains(&key.0) && !one.is_torn_at(revision)
        })
    }

    /// Compares what watchers were told of the store's latest revision with what it did.
    pub fn check(
        &self,
        store: &Store,
        revision: Revision,
        maker: Option<usize>,
    ) -> Result<(), Box<Mismatch>> {
        for place in self.active(revision) {
            let one = &self.watches[*place];
            let mismatch = one.compare(store, revision, &self.compacted);
            mismatch.map_err(|mut mismatch| {
                mismatch.violation.operations.extend(maker);
                mismatch
            })?;
        }
        Ok(())
    }
}

/// By the time of the call, the highest revision that anyone had asked to compact by then.
fn compactions(history: &History) -> Vec<(u64, Revision)> {
    let mut compacted = Vec::new();
    for operation in &history.operations {
        if let (Request::Compact(compact), Outcome::Ok(_) | Outcome::Unknown(_)) =
            (&operation.request, &operation.outcome)
        {
            compacted.push((operation.invoke, compact.revision));
        }
    }
    // Whoever asked for it, a watcher was told.
    for message in history.watches.iter().flat_map(|watch| &watch.responses) {
        if message.compact_revision.0 > 0 {
            compacted.push((0, message.compact_revision));
        }
    }
    compacted.sort_unstable();
    for place in 1..compacted.len() {
        compacted[place].1 = compacted[place].1.max(compacted[place - 1].1);
    }
    compacted
}

/// The revisions, first and last, whose events the watcher must have been told.
pub(super) fn span(watch: &Watch) -> (Revision, Revision) {
    let created = watch.responses.iter().find(|response| response.created);
    let from = match (watch.start_revision.0, created) {
        (0, Some(created)) => Revision(created.revision.0 + 1),
        // Never created, so nothing is promised.
        (_, None) => return (Revision(i64::MAX), Revision(0)),
        (_, Some(_)) => watch.start_revision,
    };
    let last = watch.responses.iter().map(|response| match response.is_progress() {
        true => response.revision,
        false => response.events.last().map_or(Revision(0), |event| event.kv.mod_revision),
    });
    (from, last.max().unwrap_or_default())
}

#[derive(Debug)]
struct OneWatch<'a> {
    place: usize,
    watch: &'a Watch,
    range: KeyRange,
    /// First and last revision that it must have been told of.
    from: Revision,
    to: Revision,
    /// All it was told, each with the time.
    events: Vec<(u64, &'a Event)>,
}

impl<'a> OneWatch<'a> {
    fn new(place: usize, watch: &'a Watch) -> OneWatch<'a> {
        let (from, to) = span(watch);
        let messages = watch.responses.iter();
        let events = messages
            .flat_map(|message| message.events.iter().map(|event| (message.at, event)))
            .collect();
        let range = keys(&watch.key, &watch.range_end);
        OneWatch { place, watch, range, from, to, events }
    }

    /// Whether the stream ended between the fragments of a revision.
    fn is_torn_at(&self, revision: Revision) -> bool {
        self.watch.responses.last().is_some_and(|response| response.fragment)
            && self.events.last().is_some_and(|(_, event)| event.kv.mod_revision == revision)
    }

    fn name(&self) -> String {
        let Watch { key, process, member, .. } = self.watch;
        let at = if member.is_empty() { String::new() } else { format!(" at {member}") };
        format!("watcher {} (from {key} by process {process}{at})", self.place)
    }

    fn violation(&self, rule: Rule, revision: Revision, text: &str) -> Violation {
        let text = format!("{}: {text}", self.name());
        Violation::new(rule, text).watched(self.place).at(revision)
    }

    /// What the stream shows by itself.
    fn stream(&self) -> Result<(), Box<Violation>> {
        let mut created = false;
        let mut canceled = false;
        let mut last = Revision(0);
        let mut announced = Revision(0);
        let mut seen: BTreeSet<(Revision, &Data)> = BTreeSet::new();
        let mut goes_on = false;
        for response in &self.watch.responses {
            let at = response.revision;
            let wrong = |text: &str| Err(Box::new(self.violation(Rule::WatchStream, at, text)));
            if canceled {
                return wrong("a message came after the watcher was canceled.");
            }
            if !created && !response.created {
                return wrong("a message came before it was created.");
            }
            created = true;
            canceled = response.canceled;
            if response.created {
                // Resumed, perhaps: pieces of a batch are not passed on then.
                goes_on = false;
            }
            if response.canceled && response.compact_revision.0 > 0 {
                self.canceled(response.compact_revision, last.max(announced))?;
            }
            let batch_start = last;
            for event in &response.events {
                let revision = event.kv.mod_revision;
                if !seen.insert((revision, &event.kv.key)) {
                    let text = format!(
                        "the change of {} in revision {revision} came twice.",
                        event.kv.key
                    );
                    return Err(Box::new(self.violation(Rule::WatchUnique, revision, &text)));
                }
                if revision <= announced {
                    let text = format!(
                        "the change of {} in revision {revision} came after progress up to \
                         revision {announced} had been announced.",
                        event.kv.key
                    );
                    return Err(Box::new(
                        self.violation(Rule::WatchBookmark, revision, &text)
                            .between(format!("revisions past {announced}"), revision.to_string()),
                    ));
                }
                if revision < last {
                    let text = format!("revision {revision} came after revision {last}.");
                    return Err(Box::new(self.violation(Rule::WatchOrder, revision, &text)));
                }
                if revision == batch_start && !goes_on {
                    let text =
                        format!("the events of revision {revision} came in more than one batch.");
                    return Err(Box::new(self.violation(Rule::WatchAtomic, revision, &text)));
                }
                self.asked_for(event)?;
                last = revision;
            }
            if !response.events.is_empty() && response.revision < last && response.revision.0 > 0 {
                let text = format!(
                    "a batch with an event of revision {last} says that the store is at {at}."
                );
                return Err(Box::new(self.violation(Rule::WatchStream, at, &text)));
            }
            if response.is_progress() {
                announced = announced.max(response.revision);
            }
            goes_on = response.fragment;
        }
        Ok(())
    }

    /// Whether a compaction was a reason to cancel the watcher, which knew all up to a revision.
    fn canceled(&self, compacted: Revision, known: Revision) -> Result<(), Box<Violation>> {
        let next = Revision(known.0 + 1).max(if self.from.0 == i64::MAX {
            self.watch.start_revision
        } else {
            self.from
        });
        if compacted > next {
            return Ok(());
        }
        let text = format!(
            "it was canceled because of a compaction at revision {compacted}, but the next revision \
             that it needed was {next}, which that leaves."
        );
        Err(Box::new(self.violation(Rule::WatchStream, compacted, &text)))
    }

    /// Whether an event is one of those that the watcher asked for.
    fn asked_for(&self, event: &Event) -> Result<(), Box<Violation>> {
        let (key, revision) = (&event.kv.key, event.kv.mod_revision);
        let (told, hidden) = match event.kind {
            EventKind::Put => (kv_text(Some(&event.kv)), self.watch.no_put),
            EventKind::Delete => (format!("{key} deleted"), self.watch.no_delete),
        };
        if revision >= self.from && self.range.contains(&key.0) && !hidden {
            return Ok(());
        }
        let text = format!("an event that it did not ask for came: {told}.");
        let expected = format!("what it asked for, from revision {}", self.from);
        Err(Box::new(self.violation(Rule::WatchContent, revision, &text).between(expected, told)))
    }

    /// Compares what it was told of the store's latest revision with what that did.
    fn compare(
        &self,
        store: &Store,
        revision: Revision,
        compacted: &[(u64, Revision)],
    ) -> Result<(), Box<Mismatch>> {
        let from = self.events.partition_point(|(_, event)| event.kv.mod_revision < revision);
        let told = &self.events[from..];
        let count = told.partition_point(|(_, event)| event.kv.mod_revision == revision);
        let told = &told[..count];
        for (at, event) in told {
            let known = compacted.partition_point(|(asked, _)| asked <= at);
            let compacted =
                compacted[..known].last().map_or(Revision(0), |(_, revision)| *revision);
            self.event(store, event, compacted).map_err(|violation| {
                Box::new(Mismatch { key: event.kv.key.clone(), violation: *violation })
            })?;
        }
        if self.is_torn_at(revision) {
            return Ok(());
        }
        let shown = |(key, kv): &(&Data, &Option<KeyValue>)| {
            let hidden = if kv.is_some() { self.watch.no_put } else { self.watch.no_delete };
            let is_told = told.iter().any(|(_, event)| event.kv.key == **key);
            !hidden && !is_told
        };
        let changes = store.changes(revision).expect("the latest revision was just made");
        match within(changes, &self.range).find(shown) {
            None => Ok(()),
            Some((key, _)) => {
                let violation = self.left_out(key, revision, told.is_empty());
                Err(Box::new(Mismatch { key: key.clone(), violation }))
            }
        }
    }

    fn left_out(&self, key: &Data, revision: Revision, wholly: bool) -> Violation {
        let expected = format!("the change of {key} in revision {revision}");
        let (rule, text) = match wholly {
            true => (
                Rule::WatchReliable,
                format!(
                    "the change of {key} in revision {revision} was left out, though revision {} \
                     was told or announced.",
                    self.to
                ),
            ),
            false => (
                Rule::WatchAtomic,
                format!(
                    "revision {revision} came without its change of {key}: a revision's events \
                     come together."
                ),
            ),
        };
        self.violation(rule, revision, &text).between(expected, "nothing".into())
    }

    /// Whether an event is one that the store made, and as it made it.
    fn event(
        &self,
        store: &Store,
        event: &Event,
        compacted: Revision,
    ) -> Result<(), Box<Violation>> {
        let (key, revision) = (&event.kv.key, event.kv.mod_revision);
        let wrong = |text: String, expected: String, got: String| {
            Err(Box::new(
                self.violation(Rule::WatchContent, revision, &text).between(expected, got),
            ))
        };
        let made = store.changes(revision).and_then(|changes| changes.get(key));
        let right = match (made, event.kind) {
            (Some(Some(kv)), EventKind::Put) => *kv == event.kv,
            // All but key and revision is empty.
            (Some(None), EventKind::Delete) => {
                let KeyValue { value, create_revision, version, lease, .. } = &event.kv;
                value.is_empty() && create_revision.0 == 0 && *version == 0 && lease.0 == 0
            }
            _ => false,
        };
        if !right {
            let told = match event.kind {
                EventKind::Put => kv_text(Some(&event.kv)),
                EventKind::Delete => format!("{key} deleted"),
            };
            let expected = match made {
                Some(Some(kv)) => kv_text(Some(kv)),
                Some(None) => format!("{key} deleted"),
                None => format!("no change of {key}"),
            };
            let text =
                format!("revision {revision} was told as {told}, but the store has {expected}.");
            return wrong(text, expected, told);
        }
        let before = Revision(revision.0 - 1);
        let previous = store.get(key, before).filter(|_| self.watch.prev_kv);
        let is_compacted = event.prev_kv.is_none() && before < compacted;
        if event.prev_kv.as_ref() != previous && !is_compacted {
            let (expected, got) = (kv_text(previous), kv_text(event.prev_kv.as_ref()));
            let text = format!(
                "with the change of {key} in revision {revision} came the previous value {got}; \
                 it was {expected}."
            );
            return wrong(text, expected, got);
        }
        Ok(())
    }
}
