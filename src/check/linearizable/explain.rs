//! Contradictions that a walk meets, in words.

use super::facts::{Sight, teller};
use super::revisions::name;
use super::walk::Walk;
use crate::check::clock::Teller;
use crate::check::data::Data;
use crate::check::op::{KeyValue, Outcome, Request};
use crate::check::store::Changes;
use crate::check::violation::{Rule, Violation, kv_text};
use crate::types::{KeyRange, Revision};
use std::collections::BTreeSet;

/// How far back writers of keys are looked for.
const REVISIONS_BACK_MAX: i64 = 2_000;
/// Versions of keys that are shown with a violation.
const STATES_MAX: usize = 8;

/// An answer that the state does not give.
pub(super) fn answer(
    walk: &Walk<'_>,
    place: usize,
    (expected, got): (String, String),
    keys: &[KeyRange],
) -> Violation {
    let operation = &walk.history.operations[place];
    let revision = operation.response().map_or(Revision(0), |response| response.revision());
    // The last writes of the keys concerned are what the answer should show.
    let mut writers: Vec<usize> = (0..REVISIONS_BACK_MAX)
        .map(|back| Revision(walk.store.revision().0 - back))
        .filter_map(|made| walk.store.changes(made).map(|changes| (made, changes)))
        .filter(|(_, changes)| concerns(changes, keys))
        .filter_map(|(made, _)| walk.makers.get(&made).copied())
        .take(2)
        .collect();
    let because = match writers.first() {
        Some(writer) => {
            format!(" The last write of these keys before that is {}.", name(walk.history, *writer))
        }
        None => " No write of these keys came before that.".into(),
    };
    if writers.is_empty() {
        writers.extend(walk.makers.get(&walk.store.revision()));
    }
    let rule = match operation.is_serializable() {
        true => Rule::SerializableAnswer,
        false => Rule::Answer,
    };
    let text = format!(
        "{} answered at revision {revision} with {got}; the writes up to there give {expected}.\
         {because}",
        name(walk.history, place)
    );
    let mut violation = Violation::new(rule, text)
        .between(expected, got)
        .of([place])
        .of(writers.into_iter().filter(|writer| *writer != place))
        .at(revision);
    violation.states = states(walk, keys);
    violation
}

fn concerns(changes: &Changes, keys: &[KeyRange]) -> bool {
    changes.keys().any(|key| keys.iter().any(|range| range.contains(&key.0)))
}

/// The latest versions of keys in the store as it is, oldest first, a line for each.
pub(super) fn states(walk: &Walk<'_>, keys: &[KeyRange]) -> Vec<String> {
    let mut lines = Vec::new();
    for back in 0..REVISIONS_BACK_MAX {
        let made = Revision(walk.store.revision().0 - back);
        let Some(changes) = walk.store.changes(made) else { break };
        let by = match walk.makers.get(&made) {
            Some(place) => name(walk.history, *place),
            None => "the end of a lease".into(),
        };
        for (key, kv) in changes {
            if !keys.iter().any(|range| range.contains(&key.0)) {
                continue;
            }
            let what = match kv {
                Some(kv) => kv_text(Some(kv)),
                None => format!("{key} deleted"),
            };
            lines.push(format!("revision {made}: {what}, by {by}"));
        }
        if lines.len() >= STATES_MAX {
            break;
        }
    }
    lines.truncate(STATES_MAX);
    lines.reverse();
    lines
}

/// A write of a revision that others saw otherwise.
pub(super) fn sight(
    walk: &Walk<'_>,
    sight: &Sight<'_>,
    writer: usize,
    changes: &Changes,
) -> Violation {
    let Sight { revision, key, what, by } = sight;
    let expected = match changes.get(*key) {
        Some(Some(kv)) => kv_text(Some(kv)),
        Some(None) => format!("{key} deleted"),
        None => format!("no change of {key}"),
    };
    let rule = match by {
        Teller::Watch(_) => Rule::WatchContent,
        Teller::Operation(place) if walk.history.operations[*place].is_serializable() => {
            Rule::SerializableAnswer
        }
        Teller::Operation(_) => Rule::Answer,
    };
    let got = what.text(key);
    let text = format!(
        "{} shows of revision {revision}: {got}. It was made by {}, which gives {expected}.",
        teller(walk.history, *by),
        name(walk.history, writer)
    );
    let mut violation = Violation::new(rule, text).between(expected, got).at(*revision);
    match by {
        Teller::Operation(place) => violation.operations.push(*place),
        Teller::Watch(watch) => violation.watches.push(*watch),
    }
    if !violation.operations.contains(&writer) {
        violation.operations.push(writer);
    }
    violation.states = states(walk, &[KeyRange::single(key.0.clone())]);
    violation
}

/// A revoke that was answered while a key still hangs on the lease.
pub(super) fn revoked(walk: &Walk<'_>, place: usize, left: &Data) -> Violation {
    let revision = walk.store.revision();
    let text = format!(
        "{} was answered at revision {revision}, where {left} is still attached to the lease.",
        name(walk.history, place)
    );
    let mut violation = Violation::new(Rule::Answer, text)
        .between(format!("{left} deleted"), format!("{left} alive"))
        .of([place])
        .at(revision);
    violation.states = states(walk, &[KeyRange::single(left.0.clone())]);
    violation
}

/// A revision that nothing in the history explains.
pub(super) fn phantom(walk: &Walk<'_>, revision: Revision) -> Violation {
    let seen = walk.facts.at(revision);
    let mut sights = Vec::new();
    let mut operations = BTreeSet::new();
    let mut watches = BTreeSet::new();
    for sight in seen {
        match sight.by {
            Teller::Operation(place) => operations.insert(place),
            Teller::Watch(watch) => watches.insert(watch),
        };
        let by = teller(walk.history, sight.by);
        sights.push(format!("{} (by {by})", sight.what.text(sight.key)));
    }
    if let Some(violation) = early(walk, revision) {
        return violation.of(operations);
    }
    if sights.is_empty() {
        let first = walk.told.first_at(revision).and_then(|at| walk.told.before(at + 1));
        match first {
            Some((_, Teller::Operation(place))) => {
                operations.insert(place);
            }
            Some((_, Teller::Watch(watch))) => {
                watches.insert(watch);
            }
            None => {}
        }
    }
    let shown = match sights.is_empty() {
        true => "nobody saw what it changed".into(),
        false => format!("it was seen as {}", sights.join(", ")),
    };
    let failed = failed_writer(walk, seen);
    let blame = failed.map_or(String::new(), |place| {
        format!(" It looks like {}, which was answered as failed.", name(walk.history, place))
    });
    let text = format!(
        "Revision {revision} exists, since it or a later one was told, but no write that was \
         answered claims it and none of unknown outcome can have made it; {shown}.{blame}"
    );
    let mut violation = Violation::new(Rule::PhantomRevision, text)
        .between("a write of the history".into(), shown)
        .of(operations.iter().copied())
        .of(failed.filter(|place| !operations.contains(place)))
        .at(revision);
    violation.watches = watches.into_iter().collect();
    let keys: Vec<KeyRange> =
        seen.iter().map(|sight| KeyRange::single(sight.key.0.clone())).collect();
    violation.states = states(walk, &keys);
    violation
}

/// If the revision looks like the end of a lease that was still to live: that.
fn early(walk: &Walk<'_>, revision: Revision) -> Option<Violation> {
    let seen = walk.facts.at(revision);
    let first = seen.first()?;
    let lease = walk.store.current(first.key)?.lease;
    let held = walk.store.attached(lease);
    let all = seen.iter().all(|sight| sight.what.is(None) && held.contains_key(sight.key));
    if lease.0 == 0 || !all {
        return None;
    }
    let told_at = walk.told.first_at(revision)?;
    let (end, by) = walk.leases.earliest_end(lease, walk.attachment(lease))?;
    if end <= told_at {
        return None;
    }
    let by_whom = by.map_or(String::new(), |place| format!(" of {}", name(walk.history, place)));
    let text = format!(
        "Revision {revision} deleted {}, which hung on lease {lease}, and was told at {told_at} \
         ns. Nobody deleted it, and the lease lives until {end} ns because{by_whom}.",
        first.key
    );
    let mut violation = Violation::new(Rule::LeaseEarly, text)
        .between(format!("{} alive until {end} ns", first.key), format!("deleted by {told_at} ns"))
        .of(by)
        .at(revision);
    violation.watches = seen
        .iter()
        .filter_map(|sight| match sight.by {
            Teller::Watch(watch) => Some(watch),
            Teller::Operation(_) => None,
        })
        .collect();
    violation.watches.dedup();
    violation.states = states(walk, &[KeyRange::single(first.key.0.clone())]);
    Some(violation)
}

/// A write said to have failed whose value was seen.
fn failed_writer(walk: &Walk<'_>, seen: &[Sight<'_>]) -> Option<usize> {
    if seen.is_empty() {
        return None;
    }
    let does = |request: &Request| {
        let Ok((_, changes)) = walk.store.evaluate(request) else { return false };
        let change = |key: &Data| changes.get(key).map(Option::<KeyValue>::as_ref);
        !changes.is_empty()
            && seen.iter().all(|sight| change(sight.key).is_some_and(|kv| sight.what.is(kv)))
    };
    walk.history.operations.iter().position(|operation| {
        matches!(operation.outcome, Outcome::Failed(_))
            && operation.request.may_write()
            && does(&operation.request)
    })
}
