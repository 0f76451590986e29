//! Linearizability by revisions: the order is told, it need only be believed or refuted.
//!
//! Every response of etcd carries the store's revision, and every write that changed something is
//! a revision of its own. So a history names its own order, and checking it takes one walk along
//! the revisions instead of a search among all orders:
//!
//! 1. *Time*: a write's revision is above, and an answer's not below, what had been told before
//!    the call (`clock`). No two writes share a revision.
//! 2. *Content*: revision by revision, the write of that revision is carried out on a model of
//!    the store (`store`) and its answer compared; then so are all reads at that revision.
//!
//! Because reads are placed at the revision they name, an order that passes is a linearization
//! (of the serializable reads: a placement at some state), and a contradiction refutes them all.
//!
//! The one search is for *gaps*: revisions that no answered write claims (`walk`). A write of
//! unknown outcome, or the end of a lease, must have made them; what was seen says which (`facts`,
//! `unknown`). Watchers are asked on the way as well: what they were told of a revision must be
//! what it changed.
//!
//! What is not needed: which order operations without effect on each other had.

use super::walk::Walk;
use crate::check::clock::{Teller, Told};
use crate::check::data::Data;
use crate::check::history::History;
use crate::check::op::{Operation, Request, Response};
use crate::check::store::Store;
use crate::check::violation::{Rule, Violation};
use crate::check::watch::Watchers;
use crate::types::Revision;
use std::collections::BTreeMap;

/// What was found.
#[derive(Debug)]
pub enum Answer {
    /// The store with all its revisions, and who made each.
    Lawful(Timeline),
    Unlawful(Box<Violation>),
    /// The search was given up; why.
    Unknown(String),
}

/// The history of the store, resolved.
#[derive(Debug)]
pub struct Timeline {
    pub store: Store,
    /// The operation that made a revision; those made by the end of a lease have none.
    pub makers: BTreeMap<Revision, usize>,
}

impl Timeline {
    /// The store's last revision.
    pub fn revision(&self) -> Revision {
        self.store.revision()
    }
}

/// Checks the operations of a history by their revisions, and what watchers were told.
pub fn check(history: &History, watchers: &Watchers<'_>, steps_max: u64) -> Answer {
    let told = Told::new(history);
    let claims = match compaction(history).and_then(|()| claims(history, &told)) {
        Ok(claims) => claims,
        Err(violation) => return Answer::Unlawful(violation),
    };
    Walk::new(history, &told, claims, watchers, steps_max).run()
}

/// What answers say about revisions.
#[derive(Debug)]
pub(super) struct Claims {
    /// The answered write of each revision.
    pub writes: BTreeMap<Revision, usize>,
    /// The other answers, by the revision of their header.
    pub reads: BTreeMap<Revision, Vec<usize>>,
    pub last: Revision,
}

/// Puts every answer at its revision, if time allows that.
fn claims(history: &History, told: &Told) -> Result<Claims, Box<Violation>> {
    let first = history.start.revision;
    let mut claims =
        Claims { writes: BTreeMap::new(), reads: BTreeMap::new(), last: told.last().max(first) };
    for (place, operation) in history.operations.iter().enumerate() {
        let Some(response) = operation.response() else { continue };
        if matches!(response, Response::LeaseKeepAlive(_)) {
            continue;
        }
        let revision = response.revision();
        if revision < first {
            let text = format!(
                "{} answered with revision {revision}, before {first}, where the history starts.",
                name(history, place)
            );
            return Err(Box::new(
                Violation::new(Rule::StaleAnswer, text)
                    .between(format!("at least {first}"), revision.to_string())
                    .of([place])
                    .at(revision),
            ));
        }
        on_time(history, told, place, revision)?;
        if !response.changed() {
            claims.reads.entry(revision).or_default().push(place);
        } else if revision == first {
            let text = format!(
                "{} changed something and was given revision {revision}, that of the state before \
                 all operations.",
                name(history, place)
            );
            return Err(Box::new(Violation::new(Rule::WriteOrder, text).of([place]).at(revision)));
        } else if let Some(other) = claims.writes.insert(revision, place) {
            let text = format!(
                "{} and {} both changed something and both were given revision {revision}. Each \
                 write has a revision of its own.",
                name(history, other),
                name(history, place)
            );
            return Err(Box::new(
                Violation::new(Rule::RevisionUnique, text)
                    .between("different revisions".into(), format!("{revision} twice"))
                    .of([place, other])
                    .at(revision),
            ));
        }
    }
    Ok(claims)
}

/// Whether a read of the past was answered although a compaction of it was known to be done.
fn compaction(history: &History) -> Result<(), Box<Violation>> {
    // When each compaction was answered, with the highest revision compacted by then.
    let mut done: Vec<(u64, Revision, usize)> = Vec::new();
    for (place, operation) in history.operations.iter().enumerate() {
        if let (Request::Compact(compact), Some(_), Some(returned)) =
            (&operation.request, operation.response(), operation.returned)
        {
            done.push((returned, compact.revision, place));
        }
    }
    done.sort();
    for place in 1..done.len() {
        if done[place - 1].1 > done[place].1 {
            (done[place].1, done[place].2) = (done[place - 1].1, done[place - 1].2);
        }
    }
    for (place, operation) in history.operations.iter().enumerate() {
        let (Request::Range(range), Some(_)) = (&operation.request, operation.response()) else {
            continue;
        };
        let known = done.partition_point(|(returned, _, _)| *returned < operation.invoke);
        let Some((_, compacted, by)) = done[..known].last() else { continue };
        if range.revision.0 > 0 && range.revision < *compacted && !range.serializable {
            let text = format!(
                "{} read revision {}, though {} had been answered before: what lies below \
                 revision {compacted} was compacted away.",
                name(history, place),
                range.revision,
                name(history, *by)
            );
            return Err(Box::new(
                Violation::new(Rule::Compaction, text)
                    .between("an error: compacted".into(), "an answer".into())
                    .of([place, *by])
                    .at(range.revision),
            ));
        }
    }
    Ok(())
}

/// Whether an answer respects what had been told before its call.
fn on_time(
    history: &History,
    told: &Told,
    place: usize,
    revision: Revision,
) -> Result<(), Box<Violation>> {
    let operation = &history.operations[place];
    let Some((floor, teller)) = told.before(operation.invoke) else { return Ok(()) };
    let changed = operation.response().is_some_and(Response::changed);
    let (rule, lowest) = match changed {
        true => (Rule::WriteOrder, Revision(floor.0 + 1)),
        false if operation.is_serializable() => return Ok(()),
        false => (Rule::StaleAnswer, floor),
    };
    if revision >= lowest {
        return Ok(());
    }
    let (who, operations, watch) = match teller {
        Teller::Operation(other) => (name(history, other), vec![place, other], None),
        Teller::Watch(watch) => (format!("watcher {watch}"), vec![place], Some(watch)),
    };
    let text = format!(
        "{} answered with revision {revision}, but before it was called, {who} had been told of \
         revision {floor}.",
        name(history, place)
    );
    let mut violation = Violation::new(rule, text)
        .between(format!("revision {lowest} or later"), format!("revision {revision}"))
        .of(operations)
        .at(revision);
    violation.watches.extend(watch);
    Err(Box::new(violation))
}

/// An operation in a sentence: its place, what it is and who asked for it.
pub(in crate::check) fn name(history: &History, place: usize) -> String {
    let Operation { process, request, member, .. } = &history.operations[place];
    let mut ranges = Vec::new();
    request.footprint(&mut ranges);
    let key = match ranges.first() {
        Some(range) if !matches!(request, Request::LeaseRevoke(_)) => {
            format!(" of {}", Data(range.start.clone()))
        }
        _ => String::new(),
    };
    let at = if member.is_empty() { String::new() } else { format!(" at {member}") };
    format!("operation {place} ({}{key} by process {process}{at})", request.name())
}
