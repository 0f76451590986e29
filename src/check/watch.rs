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
//! The first and the last need the stream alone; the others need the store's resolved history.
//! How late events come is no promise, so a watcher may have seen nothing for long.

use super::data::Data;
use super::history::History;
use super::linearizable::revisions::Timeline;
use super::op::{Event, EventKind, KeyValue, Request, Watch, keys};
use super::store::within;
use super::violation::{Rule, Violation, kv_text};
use crate::types::Revision;
use std::collections::BTreeSet;

/// What was wrong with each watcher; `timeline` is none if the store's history is not known.
pub fn check(history: &History, timeline: Option<&Timeline>) -> Vec<Violation> {
    let compacted = history.operations.iter().filter_map(|operation| match &operation.request {
        Request::Compact(compact) => Some(compact.revision),
        _ => None,
    });
    let compacted = compacted.max().unwrap_or_default();
    let watches = history.watches.iter().enumerate();
    let check = |(place, watch): (usize, &Watch)| {
        let one = OneWatch { place, watch, timeline, compacted };
        one.stream().and_then(|()| one.contents()).err()
    };
    watches.filter_map(check).collect()
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

struct OneWatch<'a> {
    place: usize,
    watch: &'a Watch,
    timeline: Option<&'a Timeline>,
    /// The highest revision that anyone asked to compact.
    compacted: Revision,
}

impl OneWatch<'_> {
    fn name(&self) -> String {
        let Watch { key, process, member, .. } = self.watch;
        let at = if member.is_empty() { String::new() } else { format!(" at {member}") };
        format!("watcher {} (from {key} by process {process}{at})", self.place)
    }

    fn violation(&self, rule: Rule, revision: Revision, text: &str) -> Violation {
        let made = self.timeline.and_then(|timeline| timeline.makers.get(&revision));
        Violation::new(rule, format!("{}: {text}", self.name()))
            .watched(self.place)
            .of(made.copied())
            .at(revision)
    }

    /// What the stream shows by itself.
    fn stream(&self) -> Result<(), Violation> {
        let mut created = false;
        let mut canceled = false;
        let mut last = Revision(0);
        let mut announced = Revision(0);
        let mut seen: BTreeSet<(Revision, &Data)> = BTreeSet::new();
        let mut goes_on = false;
        for response in &self.watch.responses {
            let at = response.revision;
            let wrong = |text: &str| Err(self.violation(Rule::WatchStream, at, text));
            if canceled {
                return wrong("a message came after the watcher was canceled.");
            }
            if created && response.created {
                return wrong("it was created twice.");
            }
            if !created && !response.created {
                return wrong("a message came before it was created.");
            }
            created = true;
            canceled = response.canceled;
            let batch_start = last;
            for event in &response.events {
                let revision = event.kv.mod_revision;
                if !seen.insert((revision, &event.kv.key)) {
                    let text = format!(
                        "the change of {} in revision {revision} came twice.",
                        event.kv.key
                    );
                    return Err(self.violation(Rule::WatchUnique, revision, &text));
                }
                if revision <= announced {
                    let text = format!(
                        "the change of {} in revision {revision} came after progress up to \
                         revision {announced} had been announced.",
                        event.kv.key
                    );
                    return Err(self
                        .violation(Rule::WatchBookmark, revision, &text)
                        .between(format!("revisions past {announced}"), revision.to_string()));
                }
                if revision < last {
                    let text = format!("revision {revision} came after revision {last}.");
                    return Err(self.violation(Rule::WatchOrder, revision, &text));
                }
                if revision == batch_start && !goes_on {
                    let text =
                        format!("the events of revision {revision} came in more than one batch.");
                    return Err(self.violation(Rule::WatchAtomic, revision, &text));
                }
                last = revision;
            }
            if !response.events.is_empty() && response.revision < last && response.revision.0 > 0 {
                let text = format!(
                    "a batch with an event of revision {last} says that the store is at {at}."
                );
                return Err(self.violation(Rule::WatchStream, at, &text));
            }
            if response.is_progress() {
                announced = announced.max(response.revision);
            }
            goes_on = response.fragment;
        }
        Ok(())
    }

    /// What the store's history shows: that nothing is missing, added or changed.
    fn contents(&self) -> Result<(), Violation> {
        let Some(timeline) = self.timeline else { return Ok(()) };
        let (from, to) = span(self.watch);
        let first = Revision(timeline.store.first().0 + 1);
        let mut next = from.max(first); // the next revision that must be told
        let events: Vec<&Event> =
            self.watch.responses.iter().flat_map(|response| &response.events).collect();
        let torn = self.watch.responses.last().is_some_and(|response| response.fragment);
        let mut told = 0;
        for same in events.chunk_by(|one, other| one.kv.mod_revision == other.kv.mod_revision) {
            told += same.len();
            let revision = same[0].kv.mod_revision;
            if revision < first {
                continue; // from before the history
            }
            for event in same {
                self.event(timeline, event, from)?;
            }
            if let Some(violation) = self.missing(timeline, next, revision) {
                return Err(violation);
            }
            // The stream may have ended between fragments.
            if told < events.len() || !torn {
                self.whole(timeline, same, revision)?;
            }
            next = Revision(revision.0 + 1).max(next);
        }
        // The rest, up to what was announced last.
        match self.missing(timeline, next, Revision(to.0 + 1)) {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }

    /// Whether an event is one that the store made, and as it made it.
    fn event(&self, timeline: &Timeline, event: &Event, from: Revision) -> Result<(), Violation> {
        let (key, revision) = (&event.kv.key, event.kv.mod_revision);
        let wrong = |text: String, expected: String, got: String| {
            Err(self.violation(Rule::WatchContent, revision, &text).between(expected, got))
        };
        let told = match event.kind {
            EventKind::Put => kv_text(Some(&event.kv)),
            EventKind::Delete => format!("{key} deleted"),
        };
        let hidden = match event.kind {
            EventKind::Put => self.watch.no_put,
            EventKind::Delete => self.watch.no_delete,
        };
        let covered = keys(&self.watch.key, &self.watch.range_end).contains(&key.0);
        if revision < from || !covered || hidden {
            let text = format!("an event that it did not ask for came: {told}.");
            return wrong(text, format!("what it asked for, from revision {from}"), told);
        }
        let made = timeline.store.changes(revision).and_then(|changes| changes.get(key));
        let expected = match made {
            Some(Some(kv)) => kv_text(Some(kv)),
            Some(None) => format!("{key} deleted"),
            None => format!("no change of {key}"),
        };
        let right = match (made, event.kind) {
            (Some(Some(kv)), EventKind::Put) => *kv == event.kv,
            // All but key and revision is empty.
            (Some(None), EventKind::Delete) => {
                let (key, mod_revision) = (key.clone(), revision);
                event.kv == KeyValue { key, mod_revision, ..KeyValue::default() }
            }
            _ => false,
        };
        if !right {
            let text =
                format!("revision {revision} was told as {told}, but the store has {expected}.");
            return wrong(text, expected, told);
        }
        let before = Revision(revision.0 - 1);
        let previous = timeline.store.get(key, before).filter(|_| self.watch.prev_kv);
        let compacted = event.prev_kv.is_none() && before < self.compacted;
        if event.prev_kv.as_ref() != previous && !compacted {
            let (expected, got) = (kv_text(previous), kv_text(event.prev_kv.as_ref()));
            let text = format!(
                "with the change of {key} in revision {revision} came the previous value {got}; \
                 it was {expected}."
            );
            return wrong(text, expected, got);
        }
        Ok(())
    }

    /// The keys of a revision that the watcher must be told of.
    fn due<'a>(
        &'a self,
        timeline: &'a Timeline,
        revision: Revision,
    ) -> impl Iterator<Item = &'a Data> {
        let range = keys(&self.watch.key, &self.watch.range_end);
        let changes = timeline.store.changes(revision);
        let shown = |(key, kv): (&'a Data, &'a Option<KeyValue>)| {
            let hidden = if kv.is_some() { self.watch.no_put } else { self.watch.no_delete };
            (!hidden).then_some(key)
        };
        changes.into_iter().flat_map(move |changes| within(changes, &range)).filter_map(shown)
    }

    /// A violation if a revision in `[from, to)` should have been told of.
    fn missing(&self, timeline: &Timeline, from: Revision, to: Revision) -> Option<Violation> {
        (from.0..to.0).map(Revision).find_map(|revision| {
            let key = self.due(timeline, revision).next()?;
            let text = format!(
                "the change of {key} in revision {revision} was left out, though revision {} was \
                 told or announced.",
                to.0 - 1
            );
            let expected = format!("the change of {key} in revision {revision}");
            Some(
                self.violation(Rule::WatchReliable, revision, &text)
                    .between(expected, "nothing".into()),
            )
        })
    }

    /// Whether all of a revision was told that should have been.
    fn whole(
        &self,
        timeline: &Timeline,
        told: &[&Event],
        revision: Revision,
    ) -> Result<(), Violation> {
        let told: BTreeSet<&Data> = told.iter().map(|event| &event.kv.key).collect();
        match self.due(timeline, revision).find(|key| !told.contains(key)) {
            None => Ok(()),
            Some(key) => {
                let text = format!(
                    "revision {revision} came without its change of {key}: a revision's events \
                     come together."
                );
                Err(self
                    .violation(Rule::WatchAtomic, revision, &text)
                    .between(format!("the change of {key}"), "nothing".into()))
            }
        }
    }
}
