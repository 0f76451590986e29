//! Whether a recorded history of a key-value store is lawful.
//!
//! Clients write down what they asked, what they were told and when; this module says whether a
//! correct etcd could have told them that. It runs nothing and knows no server: a history comes
//! from the simulator, from a test of real processes, or from a file of another store.
//!
//! | module | idea |
//! |---|---|
//! | `op`, `data` | the vocabulary: requests, answers, watchers, in etcd's words |
//! | `history` | a history as a file of JSON lines |
//! | `store` | the model: a store with all its past |
//! | `clock` | what was known when |
//! | `leases` | when a lease can have ended by itself, and when it must have |
//! | `linearizable` | is there one order for all? By revisions, or by search |
//! | `watch` | the six promises to watchers |
//! | `serializable` | old reads are states that were, and do not go back |
//! | `violation` | what was found |
//! | `report`, `page` | the verdict, as text, JSON, and a page to look at |
//! | `edn` | histories of Jepsen's, and for its checkers |
//! | `lists` | transactions that append to lists: cycles of dependencies |
//! | `recorded` | a file of either form |
//!
//! What holds of all of it:
//!
//! - The same history gives the same report: no clock, no randomness, no order of a hash map.
//! - "Unlawful" is a proof, given that the history is truthful and complete (every client that
//!   writes is in it). "Lawful" is a proof that the promises checked were kept. Where a search is
//!   given up, the verdict is "unknown".
//! - Writes of unknown outcome are placed where answers and watchers together allow it; if there is
//!   no such place, the history is unlawful, whoever is to blame.
//! - What is found first ends the comparison with the store's history; so a report names one
//!   violation of that kind, and beside it those that show by themselves.
//!
//! Left out: errors that should not have been errors, sorting and revision filters of ranges,
//! liveness (a store that answers nothing is lawful).

mod clock;
pub mod data;
pub mod edn;
pub mod history;
mod leases;
pub mod linearizable;
pub mod lists;
pub mod op;
pub mod page;
pub mod recorded;
pub mod report;
pub mod serializable;
pub mod store;
pub mod violation;
pub mod watch;

pub use data::Data;
pub use history::History;
pub use recorded::Recorded;
pub use report::{Report, Verdict};
pub use violation::{Rule, Violation};

use linearizable::revisions;
use linearizable::{Call, model, search};
use op::{Operation, Outcome, Request, Response};

/// How much may be tried before the answer is "unknown".
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Steps of a search; a million take about a second or a few.
    pub steps_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { steps_max: 3_000_000 }
    }
}

/// Checks all promises.
pub fn check(history: &History, limits: Limits) -> Report {
    let mut violations = Vec::new();
    let mut unknown = None;
    let mut revision = None;
    let (watchers, malformed) = watch::Watchers::new(history);
    if names_revisions(history) {
        match revisions::check(history, &watchers, limits.steps_max) {
            revisions::Answer::Lawful(timeline) => {
                revision = Some(timeline.revision());
                violations.extend(leases::check_late(history, &timeline));
            }
            revisions::Answer::Unlawful(violation) => violations.push(*violation),
            revisions::Answer::Unknown(why) => unknown = Some(why),
        }
        violations.extend(serializable::check(history));
        violations.extend(leases::check_revoked(history));
    } else {
        match by_search(history, limits) {
            Ok(()) => {}
            Err(Failure::Violation(violation)) => violations.push(*violation),
            Err(Failure::Unknown(why)) => unknown = Some(why),
        }
    }
    violations.extend(malformed);
    Report::new(history, revision, violations, unknown)
}

/// Whether answers tell revisions; one that does not among others that do is a violation.
fn names_revisions(history: &History) -> bool {
    let told = |operation: &Operation| {
        operation.response().is_some_and(|response| response.revision().0 != 0)
    };
    history.operations.is_empty() || history.operations.iter().any(told)
}

enum Failure {
    Violation(Box<Violation>),
    Unknown(String),
}

/// Searches an order of each key's operations by themselves.
fn by_search(history: &History, limits: Limits) -> Result<(), Failure> {
    let done: Vec<usize> = (0..history.operations.len())
        .filter(|place| {
            let operation = &history.operations[*place];
            let unknown_read =
                matches!(operation.outcome, Outcome::Unknown(_)) && !operation.request.may_write();
            !matches!(operation.outcome, Outcome::Failed(_))
                && !unknown_read
                && !operation.is_serializable()
        })
        .collect();
    let mut keys = Vec::new();
    for place in &done {
        keys.push(only_key(&history.operations[*place].request).ok_or_else(|| {
            Failure::Unknown(format!(
                "the answers name no revisions, and {} touches more than one key",
                revisions::name(history, *place)
            ))
        })?);
    }
    let has_versions = history.operations.iter().any(tells_version);
    let parts = linearizable::partition(&keys, Clone::clone);
    for (key, part) in parts {
        let places: Vec<usize> = part.into_iter().map(|item| done[item]).collect();
        let start = history.start.kvs.iter().find(|kv| kv.key == key).cloned();
        let call = |place: &usize| {
            let operation = &history.operations[*place];
            Call {
                input: operation.request.clone(),
                output: operation.response().cloned(),
                invoke: operation.invoke,
                returned: operation.returned.unwrap_or(u64::MAX),
            }
        };
        let calls: Vec<_> = places.iter().map(call).collect();
        let model = model::Key { start, has_versions };
        match search::check(&model, &calls, limits.steps_max) {
            search::Answer::Linearizable(_) => {}
            search::Answer::Unknown => {
                return Err(Failure::Unknown(format!(
                    "too many orders of the operations on {key}"
                )));
            }
            search::Answer::Impossible { longest, stuck } => {
                let text = format!(
                    "no order of the operations on {key} explains their answers. The longest \
                     start of one places {} of {}, and then nothing allows the answer of {}.",
                    longest.len(),
                    calls.len(),
                    revisions::name(history, places[stuck])
                );
                let got = format!("{:?}", history.operations[places[stuck]].outcome);
                let before = longest.iter().rev().take(3).map(|item| places[*item]);
                let violation = Violation::new(Rule::NotLinearizable, text)
                    .between("an answer that some order gives".into(), got)
                    .of([places[stuck]])
                    .of(before);
                return Err(Failure::Violation(Box::new(violation)));
            }
        }
    }
    Ok(())
}

fn tells_version(operation: &Operation) -> bool {
    fn told(response: &Response) -> bool {
        let version = |kv: &op::KeyValue| kv.version > 0;
        match response {
            Response::Range(told) => told.kvs.iter().any(version),
            Response::Put(told) => told.prev_kv.iter().any(version),
            Response::DeleteRange(told) => told.prev_kvs.iter().any(version),
            Response::Txn(txn) => txn.responses.iter().any(told),
            Response::Compact(_)
            | Response::LeaseGrant(_)
            | Response::LeaseRevoke(_)
            | Response::LeaseKeepAlive(_) => false,
        }
    }
    operation.response().is_some_and(told)
}

/// The one key that a request touches, if it is one.
fn only_key(request: &Request) -> Option<Data> {
    let mut ranges = Vec::new();
    request.footprint(&mut ranges);
    let first = ranges.first()?;
    let same = ranges.iter().all(|range| range.is_single() && range.start == first.start);
    same.then(|| Data(first.start.clone()))
}

#[cfg(test)]
mod tests;
