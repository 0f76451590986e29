//! The history while it is made, and the few words between those who work and who runs them.
//!
//! Clients and watchers write down what they were told; whoever runs them says when to stop, and
//! up to which revision watchers are to follow before they end.
//!
//! - One clock, given by the owner, stamps everything: machines of a simulation disagree on time.
//! - What is recorded is never changed, only added to. A history is a snapshot.
//! - A complaint is something that no fault of a machine or network explains: an answer that does
//!   not fit its question, a refusal of a request that is in order. The checker does not look for
//!   such things.

use crate::check::History;
use crate::check::history::Line;
use crate::check::op::{Fault, Operation, Outcome, Request, Response, Watch, WatchResponse};
use crate::types::Revision;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// Complaints that are kept; those after them would say the same.
const COMPLAINTS_MAX: usize = 100;

/// Records. Cheap to clone; clones are one recorder.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    now: Box<dyn Fn() -> u64 + Send + Sync>,
    on_line: Box<dyn Fn(&Line) + Send + Sync>,
    /// The revision at which watchers end, once it is known.
    goal: watch::Sender<Option<Revision>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    history: History,
    answered: u64,
    unknown: u64,
    revision: Revision,
    /// The highest revision that anybody asked to compact to.
    compacted: Revision,
    stopped: bool,
    /// How far each watcher is, by its name; none: it has ended.
    watchers: BTreeMap<String, Option<Revision>>,
    complaints: Vec<String>,
}

/// A watch of the recorder's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WatchPlace(usize);

impl Recorder {
    /// An empty history. `now` tells the time in nanoseconds. `on_line` sees every operation when
    /// it is finished, every fault, and every message of a watcher, as a watch with that message
    /// alone (the first time, when it is asked for, with none); it must not call the recorder.
    pub fn new(
        now: impl Fn() -> u64 + Send + Sync + 'static,
        on_line: impl Fn(&Line) + Send + Sync + 'static,
    ) -> Recorder {
        let (now, on_line) = (Box::new(now), Box::new(on_line));
        let (goal, state) = (watch::Sender::new(None), Mutex::default());
        Recorder { shared: Arc::new(Shared { now, on_line, goal, state }) }
    }

    /// The time in nanoseconds.
    pub fn now(&self) -> u64 {
        (self.shared.now)()
    }

    /// Tells clients to finish the call they are at and end.
    pub fn stop(&self) {
        self.state().stopped = true;
    }

    /// Whether clients were told to end.
    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    /// Tells watchers to end once they know everything up to a revision.
    pub fn finish_at(&self, revision: Revision) {
        self.shared.goal.send_replace(Some(revision));
    }

    /// The revision at which watchers end, once it is known.
    pub fn goal(&self) -> Option<Revision> {
        *self.shared.goal.borrow()
    }

    /// Waits for that revision to be known.
    pub(super) async fn goal_known(&self) -> Revision {
        let mut goal = self.shared.goal.subscribe();
        let known = goal.wait_for(Option::is_some).await.expect("this recorder holds the sender");
        known.expect("it was waited for")
    }

    /// The watchers that have not ended and how far they are, in words.
    pub fn watchers_behind(&self) -> Vec<String> {
        let state = self.state();
        let behind = |(name, at): (&String, &Option<Revision>)| {
            at.map(|revision| format!("{name} is at revision {revision}"))
        };
        state.watchers.iter().filter_map(behind).collect()
    }

    /// Calls that were answered so far, errors left out.
    pub fn answered(&self) -> u64 {
        self.state().answered
    }

    /// Calls so far of which nobody knows whether they were carried out.
    pub fn unknown(&self) -> u64 {
        self.state().unknown
    }

    /// Calls that have ended so far, however they did.
    pub fn calls(&self) -> u64 {
        u64::try_from(self.state().history.operations.len()).expect("a length fits")
    }

    /// The highest revision that anybody was told of.
    pub fn revision(&self) -> Revision {
        self.state().revision
    }

    /// The highest revision that any recorded call asked to compact to.
    pub(super) fn compacted(&self) -> Revision {
        self.state().compacted
    }

    /// What was recorded so far.
    pub fn history(&self) -> History {
        self.state().history.clone()
    }

    /// What no fault explains, in words.
    pub fn complaints(&self) -> Vec<String> {
        self.state().complaints.clone()
    }

    /// Notes that something was done to the cluster, from a time to another, in nanoseconds;
    /// without an end, until the end.
    pub fn fault(&self, from: u64, to: Option<u64>, name: impl Into<String>) {
        let fault = Fault { name: name.into(), from, to };
        (self.shared.on_line)(&Line::Fault(fault.clone()));
        self.state().history.faults.push(fault);
    }

    /// Notes what no fault explains.
    pub(super) fn complain(&self, complaint: String) {
        let mut state = self.state();
        if state.complaints.len() < COMPLAINTS_MAX {
            state.complaints.push(complaint);
        }
    }

    /// Notes a finished call.
    pub fn operation(&self, operation: Operation) {
        let line = Line::Op(Box::new(operation));
        (self.shared.on_line)(&line);
        let Line::Op(operation) = line else { unreachable!("it was just made so") };
        let mut state = self.state();
        if let Request::Compact(compact) = &operation.request {
            state.compacted = state.compacted.max(compact.revision);
        }
        match &operation.outcome {
            Outcome::Ok(response) => {
                state.answered += 1;
                // That of a renewal is whatever the member had before.
                if !matches!(response, Response::LeaseKeepAlive(_)) {
                    state.revision = state.revision.max(response.revision());
                }
            }
            Outcome::Failed(_) => {}
            Outcome::Unknown(_) => state.unknown += 1,
        }
        state.history.operations.push(*operation);
    }

    /// Notes that a watch was asked for; it has no messages yet.
    pub(super) fn watch(&self, watch: Watch) -> WatchPlace {
        (self.shared.on_line)(&Line::Watch(watch.clone()));
        let mut state = self.state();
        state.history.watches.push(watch);
        WatchPlace(state.history.watches.len() - 1)
    }

    /// Notes a message of a watch.
    pub(super) fn watched(&self, place: WatchPlace, response: WatchResponse) {
        let head = head(&self.state().history.watches[place.0]);
        let line = Line::Watch(Watch { responses: vec![response], ..head });
        (self.shared.on_line)(&line);
        let Line::Watch(Watch { mut responses, .. }) = line else {
            unreachable!("it was just made so")
        };
        let mut state = self.state();
        let told = responses.iter().map(|response| {
            let last = response.events.iter().map(|event| event.kv.mod_revision).max();
            response.revision.max(last.unwrap_or_default())
        });
        state.revision = told.max().unwrap_or_default().max(state.revision);
        state.history.watches[place.0].responses.append(&mut responses);
    }

    /// Notes how far a watcher is; none: it has ended.
    pub(super) fn watcher_at(&self, name: &str, revision: Option<Revision>) {
        let mut state = self.state();
        match state.watchers.get_mut(name) {
            Some(at) => *at = revision,
            None => {
                state.watchers.insert(name.to_owned(), revision);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("nothing panics while holding it")
    }
}

/// A watch without what it was told.
fn head(watch: &Watch) -> Watch {
    Watch {
        process: watch.process,
        member: watch.member.clone(),
        invoke: watch.invoke,
        key: watch.key.clone(),
        range_end: watch.range_end.clone(),
        start_revision: watch.start_revision,
        prev_kv: watch.prev_kv,
        no_put: watch.no_put,
        no_delete: watch.no_delete,
        responses: Vec::new(),
    }
}
