//! Serializable reads: old, perhaps, but a state that was, and never older than the last one.
//!
//! A serializable read is answered by one member from what it has applied. So it shows the state
//! at some revision up to the latest, and later reads over the same connection to the same member
//! do not go back: a member applies forwards. (A member that was killed may come back with less;
//! the recorder gives the new connection a new `session`.)
//!
//! That the content is the state at the header's revision is checked where all contents are, in
//! `linearizable::revisions`, since such reads help to resolve writes of unknown outcome; that
//! the revision was not yet to come follows there, too: a write cannot be called after its
//! revision was told. Left here is the order.

use super::history::History;
use super::linearizable::revisions::name;
use super::violation::{Rule, Violation};
use crate::types::Revision;
use std::collections::BTreeMap;

/// Finds the first read of each session that goes back.
pub fn check(history: &History) -> Vec<Violation> {
    let mut reads: Vec<usize> = (0..history.operations.len())
        .filter(|place| {
            let operation = &history.operations[*place];
            operation.is_serializable() && operation.response().is_some()
        })
        .collect();
    // Operations of a session can overlap: an answer binds what is called after it.
    reads.sort_by_key(|place| history.operations[*place].invoke);
    type Session<'a> = (u64, &'a str, u64);
    let mut sessions: BTreeMap<Session<'_>, Vec<usize>> = BTreeMap::new();
    for place in reads {
        let operation = &history.operations[place];
        let session = (operation.process, operation.member.as_str(), operation.session);
        sessions.entry(session).or_default().push(place);
    }
    sessions.values().filter_map(|places| backwards(history, places)).collect()
}

fn backwards(history: &History, places: &[usize]) -> Option<Violation> {
    let told = |place: usize| {
        let operation = &history.operations[place];
        let revision = operation.response().map_or(Revision(0), |response| response.revision());
        (operation.returned.unwrap_or(u64::MAX), revision, place)
    };
    let mut answers: Vec<(u64, Revision, usize)> =
        places.iter().map(|place| told(*place)).collect();
    answers.sort();
    let mut answers = answers.into_iter().peekable();
    let mut highest: Option<(Revision, usize)> = None;
    for place in places {
        let invoke = history.operations[*place].invoke;
        while let Some((_, revision, other)) = answers.next_if(|(at, _, _)| *at < invoke) {
            if highest.is_none_or(|(known, _)| known < revision) {
                highest = Some((revision, other));
            }
        }
        let (_, revision, _) = told(*place);
        if let Some((known, other)) = highest
            && revision < known
        {
            let text = format!(
                "{} was answered from revision {revision}, after {} over the same connection to \
                 the same member had been answered from revision {known}.",
                name(history, *place),
                name(history, other)
            );
            return Some(
                Violation::new(Rule::SerializableOrder, text)
                    .between(format!("revision {known} or later"), format!("revision {revision}"))
                    .of([*place, other])
                    .at(revision),
            );
        }
    }
    None
}
