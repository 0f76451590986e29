//! What was known when: the highest revision that anyone had been told of before a moment.
//!
//! A revision in an answer, an event or a note of progress is committed; so whatever is called
//! afterwards and promises to be up to date must see at least that revision, and a write called
//! afterwards must get a higher one. With revisions for a total order, this is all that real time
//! asks: the floor of an operation is the highest revision told before its call.
//!
//! - "Before" is strict: at the same nanosecond two things are concurrent.
//! - Answers of serializable reads and watch messages count as told, though they promise nothing
//!   about their own age.

use super::history::History;
use super::op::Response;
use crate::types::Revision;

/// Who told a revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Teller {
    Operation(usize),
    Watch(usize),
}

/// The highest revision told by each moment.
#[derive(Debug)]
pub struct Told {
    /// Rising times, each with the highest revision told by then, and who told it first.
    steps: Vec<(u64, Revision, Teller)>,
}

impl Told {
    /// Gathers what a history tells.
    pub fn new(history: &History) -> Told {
        let mut told: Vec<(u64, Revision, Teller)> = Vec::new();
        for (place, operation) in history.operations.iter().enumerate() {
            let revision = operation.response().map_or(Revision(0), counted);
            if let Some(returned) = operation.returned {
                told.push((returned, revision, Teller::Operation(place)));
            }
        }
        for (place, watch) in history.watches.iter().enumerate() {
            for message in &watch.responses {
                let last = message.events.iter().map(|event| event.kv.mod_revision).max();
                let revision = message.revision.max(last.unwrap_or_default());
                told.push((message.at, revision, Teller::Watch(place)));
            }
        }
        told.sort_by_key(|(at, revision, _)| (*at, -revision.0));
        let mut steps: Vec<(u64, Revision, Teller)> = Vec::new();
        for (at, revision, teller) in told {
            let known = steps.last().map_or(Revision(0), |(_, known, _)| *known);
            if revision > known {
                steps.push((at, revision, teller));
            }
        }
        Told { steps }
    }

    /// The highest revision told before a moment, and by whom.
    pub fn before(&self, moment: u64) -> Option<(Revision, Teller)> {
        let count = self.steps.partition_point(|(at, _, _)| *at < moment);
        self.steps[..count].last().map(|(_, revision, teller)| (*revision, *teller))
    }

    /// Just the revision; 0 if nothing was told.
    pub fn floor(&self, moment: u64) -> Revision {
        self.before(moment).map_or(Revision(0), |(revision, _)| revision)
    }

    /// When a revision, or a later one, was first told, in nanoseconds.
    pub fn first_at(&self, revision: Revision) -> Option<u64> {
        let place = self.steps.partition_point(|(_, known, _)| *known < revision);
        self.steps.get(place).map(|(at, _, _)| *at)
    }

    /// The highest revision told at all.
    pub fn last(&self) -> Revision {
        self.steps.last().map_or(Revision(0), |(_, revision, _)| *revision)
    }
}

/// The revision of a header that was made when the request was carried out. That of a keep-alive
/// is read before, from whatever the member had.
fn counted(response: &Response) -> Revision {
    match response {
        Response::LeaseKeepAlive(_) => Revision(0),
        _ => response.revision(),
    }
}
