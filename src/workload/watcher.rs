//! A watcher: one loop on the bare wire, one with the client that resumes.
//!
//! The client promises that a watch survives lost connections without a gap or a double, so what
//! it delivers is one entry of the history, from the first confirmation to the end. Now and then
//! the watch begins where a list ended, as a cache is kept.

use super::Settings;
use super::dice::Dice;
use super::message;
use super::names;
use super::options;
use super::recorder::{Recorder, WatchPlace};
use super::seat::Seat;
use super::stream::{self, Place};
use super::watching::{ResumedPlan, Start, Wanted, Watching};
use crate::check::op::{Outcome, RangeRequest, Request, Response, WatchResponse};
use crate::client::{Client, Error, Options, Watch, WatchUpdate, Watcher};
use crate::env::{Clock, Env};
use crate::proto::etcdserverpb::ResponseHeader;
use crate::types::Revision;
use std::time::Duration;

/// The first watcher's process in the history; clients are below.
const PROCESS_MIN: u64 = 1_000;
/// The shortest and the longest wait for an answer to a question for progress.
const PATIENCE_MIN: Duration = Duration::from_millis(200);
const PATIENCE_MAX: Duration = Duration::from_secs(4);
/// Pause after a watch that could not be had.
const PAUSE: Duration = Duration::from_millis(200);

/// Watches until the recorder's goal is known and reached. `number` is the watcher's; its process
/// in the history is 1,000 more.
///
/// # Panics
/// If there are no endpoints, or one is no `host:port`.
pub async fn watcher<E: Env>(
    env: E,
    mut endpoints: Vec<String>,
    number: u8,
    settings: Settings,
    recorder: Recorder,
) {
    let first = usize::from(number) % endpoints.len();
    endpoints.rotate_left(first);
    let place = |kind: &str| Place {
        env: env.clone(),
        endpoints: endpoints.clone(),
        process: PROCESS_MIN + u64::from(number),
        name: format!("watcher {number} ({kind})"),
        recorder: recorder.clone(),
    };
    let (bare, resumed) = (place("stream"), place("resumed"));
    // Both are known to be behind before either has begun.
    for one in [&bare, &resumed] {
        recorder.watcher_at(&one.name, Some(Revision(0)));
    }
    tokio::join!(
        stream::follow(bare, Watching::new(&settings, number, 0)),
        follow(resumed, Watching::new(&settings, number, 1), &settings),
    );
}

/// Watches with the client that resumes, one watch after the other, until the goal is reached.
async fn follow<E: Env>(place: Place<E>, mut watching: Watching, settings: &Settings) {
    let mut dice = Dice::new(&[names::WATCHER, settings.seed, place.process]);
    let deadline = settings.deadline(&mut dice);
    let Place { env, endpoints, process, name, recorder } = place;
    let mut seat = Seat::new(env.clone(), endpoints.clone(), process, deadline, recorder.clone());
    let mut plan = watching.resumed(recorder.revision());
    loop {
        let ResumedPlan { require_leader, wanted, life } = plan;
        let start = match wanted.start {
            Start::At(revision) => Some(revision),
            Start::AfterList => list(&mut seat, &wanted).await.map(|at| Revision(at.0 + 1)),
        };
        let Some(start) = start else {
            env.clock().sleep(PAUSE).await;
            plan = watching.resumed(recorder.revision());
            continue;
        };
        let options = Options { require_leader, ..options(deadline) };
        let client = Client::connect(&env, &endpoints, options).expect("endpoints are host:port");
        let record = wanted.record(start, process, "", recorder.now());
        let mut resumed = Resumed {
            watcher: client.watch(Watch(wanted.request(start, 0))),
            recorder: &recorder,
            name: &name,
            record: recorder.watch(record),
            created: false,
            at: Revision(0),
            start,
        };
        let end = resumed.follow(env.clock(), life).await;
        plan = match end {
            End::GoalReached => break,
            End::GivenUp => watching.resumed(recorder.revision()),
            End::Failed(Error::Compacted { compact_revision }) => {
                let start = Start::At(Revision(compact_revision));
                ResumedPlan { require_leader, wanted: Wanted { start, ..wanted }, life }
            }
            End::Failed(error) => {
                recorder.complain(format!("{name}: the watch ended: {error}"));
                env.clock().sleep(PAUSE).await;
                watching.resumed(recorder.revision())
            }
        };
    }
    recorder.watcher_at(&name, None);
}

/// Reads what is to be watched; gives the revision of the answer.
async fn list<E: Env>(seat: &mut Seat<E>, wanted: &Wanted) -> Option<Revision> {
    let (key, range_end) = (wanted.key.clone(), wanted.range_end.clone());
    let range = RangeRequest { key, range_end, ..RangeRequest::default() };
    match seat.call(&Request::Range(range)).await {
        Outcome::Ok(Response::Range(answer)) => Some(answer.revision),
        Outcome::Ok(_) | Outcome::Failed(_) | Outcome::Unknown(_) => None,
    }
}

/// Why a watch was left.
enum End {
    GoalReached,
    GivenUp,
    Failed(Error),
}

/// A watch that the client resumes, and its record.
pub(super) struct Resumed<'a> {
    pub watcher: Watcher,
    pub recorder: &'a Recorder,
    pub name: &'a str,
    pub record: WatchPlace,
    /// Its first confirmation was recorded; those of resumptions are not told to a history.
    pub created: bool,
    /// Everything up to this revision was told.
    pub at: Revision,
    pub start: Revision,
}

impl Resumed<'_> {
    /// Follows the watch for a time, and once there is a goal, to the goal.
    async fn follow(&mut self, clock: &impl Clock, life: Duration) -> End {
        let goal = {
            let recorder = self.recorder;
            let mut known = std::pin::pin!(recorder.goal_known());
            let mut old = std::pin::pin!(clock.sleep(life));
            loop {
                tokio::select! {
                    // What was delivered is recorded before it is given up.
                    biased;
                    update = self.watcher.next() => match update {
                        Ok(update) => self.accept(update),
                        Err(error) => return self.fail(error),
                    },
                    goal = &mut known => break goal,
                    () = &mut old => return End::GivenUp,
                }
            }
        };
        // While there is no connection, asking does nothing, and making one must not be broken
        // off again and again: so the wait grows.
        let mut patience = PATIENCE_MIN;
        while self.at < goal && self.start <= goal {
            self.watcher.request_progress().await;
            let mut tired = std::pin::pin!(clock.sleep(patience));
            loop {
                tokio::select! {
                    // Answers come before the next question.
                    biased;
                    update = self.watcher.next() => match update {
                        Ok(update) => self.accept(update),
                        Err(error) => return self.fail(error),
                    },
                    () = &mut tired => break,
                }
                if self.at >= goal {
                    break;
                }
            }
            patience = (patience * 2).min(PATIENCE_MAX);
        }
        End::GoalReached
    }

    /// Records an update.
    pub fn accept(&mut self, update: WatchUpdate) {
        let told = |header: ResponseHeader| WatchResponse {
            at: self.recorder.now(),
            revision: Revision(header.revision),
            ..WatchResponse::default()
        };
        let told = match update {
            WatchUpdate::Created { header } => {
                if std::mem::replace(&mut self.created, true) {
                    return;
                }
                if self.start.0 == 0 {
                    // What was before is not for it.
                    self.at = Revision(header.revision);
                }
                WatchResponse { created: true, ..told(header) }
            }
            WatchUpdate::Progress { header } => {
                self.at = self.at.max(Revision(header.revision));
                told(header)
            }
            WatchUpdate::Events { header, events } => {
                let events: Result<Vec<_>, Error> =
                    events.into_iter().map(message::event).collect();
                match events {
                    Ok(events) => {
                        let last = events.last().map(|event| event.kv.mod_revision);
                        self.at = last.unwrap_or_default().max(self.at);
                        WatchResponse { events, ..told(header) }
                    }
                    Err(error) => {
                        return self.recorder.complain(format!("{}: {error}", self.name));
                    }
                }
            }
        };
        self.recorder.watched(self.record, told);
        self.recorder.watcher_at(self.name, Some(self.at));
    }

    /// Records the end of the watch.
    fn fail(&mut self, error: Error) -> End {
        if let (Error::Compacted { compact_revision }, true) = (&error, self.created) {
            let told = WatchResponse {
                at: self.recorder.now(),
                canceled: true,
                compact_revision: Revision(*compact_revision),
                ..WatchResponse::default()
            };
            self.recorder.watched(self.record, told);
        }
        End::Failed(error)
    }
}
