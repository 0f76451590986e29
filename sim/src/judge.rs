//! Whether what clients were told is lawful.
//!
//! The store keeps every revision (nobody compacts), so the cluster itself says in which order it
//! claims to have done things: its history, as a watcher reads it at the end. Given that order,
//! linearizability needs no search. The rules:
//!
//! - Every acknowledged write stands in the history at the revision its client was told, with its
//!   key and value. A value stands there at most once, and never if its client was told that the
//!   write was not done.
//! - Revisions follow real time: a call that began after another ended happened at the same
//!   revision or later, and later if it is a write. This holds for writes of unknown outcome too.
//! - What a read returned, serializable or not, is what the history says of its revision. So is
//!   the outcome of a condition.
//! - A counter ends at the number of increments in the history: at least those acknowledged, at
//!   most those acknowledged or of unknown outcome.
//! - Every watcher saw the history: all of it, once, in order.

use crate::workload::{Ask, Call, Change, Told};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The cluster's own account: for each key, revisions and what they left there.
pub struct History {
    changes: Vec<Change>,
    keys: BTreeMap<String, BTreeMap<i64, Option<String>>>,
}

impl History {
    pub fn new(changes: Vec<Change>) -> History {
        let mut keys: BTreeMap<String, BTreeMap<i64, Option<String>>> = BTreeMap::new();
        for (revision, key, value) in &changes {
            keys.entry(key.clone()).or_default().insert(*revision, value.clone());
        }
        History { changes, keys }
    }

    /// What a key held as of a revision, and since when.
    fn at(&self, key: &str, revision: i64) -> Option<(String, i64)> {
        let (&since, value) = self.keys.get(key)?.range(..=revision).next_back()?;
        Some((value.clone()?, since))
    }

    fn change(&self, key: &str, revision: i64) -> Option<&Option<String>> {
        self.keys.get(key)?.get(&revision)
    }

    /// The revisions at which a value was written to a key.
    fn written(&self, key: &str, value: &str) -> Vec<i64> {
        let changes = self.keys.get(key).into_iter().flatten();
        changes
            .filter(|(_, written)| written.as_deref() == Some(value))
            .map(|(&revision, _)| revision)
            .collect()
    }
}

/// Every broken rule, in words.
pub fn judge(history: &History, calls: &[Call], watchers: &[Vec<Change>]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut happened = Vec::new();
    for call in calls {
        match outcome(history, call) {
            Ok(Some(revision)) => happened.push((revision, call)),
            Ok(None) => {}
            Err(complaint) => complaints.push(format!("{complaint}: {call:?}")),
        }
    }
    complaints.extend(real_time(&happened));
    complaints.extend(unasked(history, calls));
    complaints.extend(counters(history, calls));
    for (number, seen) in watchers.iter().enumerate() {
        complaints.extend(watched(history, number, seen));
    }
    complaints
}

/// Checks a call by itself; gives the revision it happened at, if it is bound to real time.
fn outcome(history: &History, call: &Call) -> Result<Option<i64>, String> {
    let require = |holds: bool, complaint: &str| match holds {
        true => Ok(()),
        false => Err(complaint.to_owned()),
    };
    match (&call.ask, &call.told) {
        (Ask::Put { key, value } | Ask::Swap { key, value, .. }, told) => {
            let places = history.written(key, value);
            require(places.len() <= 1, &format!("a write done more than once, at {places:?}"))?;
            match *told {
                Told::Written(revision) => {
                    require(
                        places == [revision],
                        &format!("acknowledged, but it is at {places:?}"),
                    )?;
                    if let Ask::Swap { expected, .. } = &call.ask {
                        let before = history.at(key, revision - 1).map(|(value, _)| value);
                        require(
                            before == *expected,
                            &format!("the condition was false: {before:?}"),
                        )?;
                    }
                    Ok(Some(revision))
                }
                Told::NotEqual(revision) => {
                    require(places.is_empty(), &format!("not equal, but done at {places:?}"))?;
                    let Ask::Swap { expected, .. } = &call.ask else {
                        return Err("a put has no condition".into());
                    };
                    let found = history.at(key, revision).map(|(value, _)| value);
                    require(found != *expected, "not equal, but it was equal")?;
                    // As a read: it changed nothing.
                    Ok(Some(revision))
                }
                Told::Refused(_) => {
                    require(places.is_empty(), &format!("refused, but done at {places:?}"))?;
                    Ok(None)
                }
                Told::Unknown(_) => Ok(places.first().copied()),
                Told::Deleted(..) | Told::Read(..) => Err("an answer to something else".into()),
            }
        }
        (Ask::Delete { key }, &Told::Deleted(count, revision)) => {
            let change = history.change(key, revision);
            match count {
                0 => require(
                    history.at(key, revision).is_none(),
                    "nothing to delete, but there was",
                )?,
                1 => require(change == Some(&None), "deleted, but not in the history")?,
                _ => return Err("one key, several deletions".into()),
            }
            Ok(Some(revision))
        }
        (Ask::Get { key, linearizable }, Told::Read(revision, found)) => {
            let expected = history.at(key, *revision);
            require(expected == *found, &format!("the history has {expected:?}"))?;
            Ok(linearizable.then_some(*revision))
        }
        (Ask::Get { .. } | Ask::Delete { .. }, Told::Refused(_) | Told::Unknown(_)) => Ok(None),
        (Ask::Get { .. } | Ask::Delete { .. }, _) => Err("an answer to something else".into()),
    }
}

/// Whether the call made a revision of its own.
fn writes(call: &Call) -> bool {
    match call.told {
        Told::Written(_) | Told::Unknown(_) => true,
        Told::Deleted(count, _) => count > 0,
        Told::NotEqual(_) | Told::Read(..) | Told::Refused(_) => false,
    }
}

/// Nothing happens before what ended before it began.
fn real_time(happened: &[(i64, &Call)]) -> Vec<String> {
    // Of calls that ended by then, the latest revision told. An unknown outcome told nothing.
    let mut ends: Vec<(Duration, i64, &Call)> = happened
        .iter()
        .filter(|(_, call)| !matches!(call.told, Told::Unknown(_)))
        .map(|&(revision, call)| (call.ended, revision, call))
        .collect();
    ends.sort_by_key(|&(ended, revision, _)| (ended, revision));
    let mut begins: Vec<(Duration, i64, &Call)> =
        happened.iter().map(|&(revision, call)| (call.began, revision, call)).collect();
    begins.sort_by_key(|&(began, revision, _)| (began, revision));
    let mut complaints = Vec::new();
    let mut latest: Option<(i64, &Call)> = None;
    let mut ends = ends.into_iter().peekable();
    for (began, revision, call) in begins {
        while let Some((_, told, earlier)) = ends.next_if(|&(ended, ..)| ended < began) {
            if latest.is_none_or(|(revision, _)| told > revision) {
                latest = Some((told, earlier));
            }
        }
        let Some((before, earlier)) = latest else { continue };
        if revision < before || (revision == before && writes(call)) {
            complaints.push(format!(
                "it began after another call had ended, but happened at revision {revision}, not \
                 after {before}: {call:?}, after {earlier:?}"
            ));
        }
    }
    complaints
}

/// Nothing is in the history that nobody asked for.
fn unasked(history: &History, calls: &[Call]) -> Vec<String> {
    let asked: BTreeSet<(&str, Option<&str>)> = calls
        .iter()
        .filter_map(|call| match &call.ask {
            Ask::Put { key, value } | Ask::Swap { key, value, .. } => {
                Some((key.as_str(), Some(value.as_str())))
            }
            Ask::Delete { key } => Some((key.as_str(), None)),
            Ask::Get { .. } => None,
        })
        .collect();
    let changes = history.changes.iter();
    changes
        .filter(|(_, key, value)| !asked.contains(&(key.as_str(), value.as_deref())))
        .map(|change| format!("nobody asked for {change:?}"))
        .collect()
}

fn counters(history: &History, calls: &[Call]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (key, changes) in history.keys.iter().filter(|(key, _)| key.starts_with("counter/")) {
        let count = |told: fn(&Told) -> bool| {
            let swaps = calls.iter().filter(|call| match &call.ask {
                Ask::Swap { key: swapped, .. } => swapped == key && told(&call.told),
                Ask::Put { .. } | Ask::Delete { .. } | Ask::Get { .. } => false,
            });
            swaps.count()
        };
        let acknowledged = count(|told| matches!(told, Told::Written(_)));
        let unknown = count(|told| matches!(told, Told::Unknown(_)));
        let value = changes.values().next_back().and_then(Option::as_deref).unwrap_or_default();
        let value: usize = value.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
        if value < acknowledged || value > acknowledged + unknown {
            complaints.push(format!(
                "{key} is {value} after {acknowledged} acknowledged and {unknown} unknown increments"
            ));
        }
    }
    complaints
}

fn watched(history: &History, number: usize, seen: &[Change]) -> Option<String> {
    if seen == history.changes {
        return None;
    }
    let differs = seen.iter().zip(&history.changes).position(|(seen, is)| seen != is);
    let place = differs.unwrap_or(seen.len().min(history.changes.len()));
    Some(format!(
        "watcher {number} saw {} changes of {}; they differ first at {place}: saw {:?}, history {:?}",
        seen.len(),
        history.changes.len(),
        seen.get(place),
        history.changes.get(place),
    ))
}
