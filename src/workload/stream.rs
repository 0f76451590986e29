//! A watcher on the bare wire: several watches on one stream, every message recorded as it came.
//!
//! Nothing is resumed here: a stream that ends is another stream, with other watches. Streams are
//! given up on purpose, watches canceled, progress asked for, and now and then nothing is read for
//! a while, so that the member has to keep what it wants to send.
//!
//! Once there is a goal the watcher settles: watches that begin after it are canceled, since while
//! they wait the member tells no progress, and progress is asked for until every other watch was
//! told of the goal. If the stream ends before that, the next one takes over.

use super::message;
use super::options;
use super::recorder::{Recorder, WatchPlace};
use super::watching::{Start, StreamPlan, Turn, Wanted, Watching};
use crate::check::op::WatchResponse as Told;
use crate::client::{Client, Options, Requests, Responses};
use crate::env::{Clock, Env};
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{
    WatchCancelRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use crate::types::Revision;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How often something may happen although no message comes.
const TICK: Duration = Duration::from_millis(300);
/// Pause after a stream could not be opened or was lost.
const PAUSE: Duration = Duration::from_millis(200);
/// What a slow stream may hold that was not read.
const SLOW_WINDOW_BYTES: u32 = 16 * 1024;
/// How long a member may take to take a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Speaks for all watches of a stream; a member answers a refused one with it as well.
const EVERY_WATCH: i64 = -1;

/// Who watches, and what it writes to.
pub(super) struct Place<E> {
    pub env: E,
    pub endpoints: Vec<String>,
    pub process: u64,
    pub name: String,
    pub recorder: Recorder,
}

/// Watches by streams until the goal is reached.
pub(super) async fn follow<E: Env>(place: Place<E>, mut watching: Watching) {
    let clock = place.env.clock().clone();
    for round in 0.. {
        let plan = watching.stream(place.recorder.revision());
        let endpoint = &place.endpoints[round % place.endpoints.len()];
        let mut options = Options { require_leader: plan.require_leader, ..options(OPEN_TIMEOUT) };
        if plan.slow {
            options.stream_window_bytes = SLOW_WINDOW_BYTES;
        }
        let client = Client::connect(&place.env, [endpoint], options);
        let client = client.expect("an endpoint is host:port");
        place.recorder.watcher_at(&place.name, Some(Revision(0)));
        if let Ok((requests, responses)) = client.watch_stream().await {
            let mut stream = Stream {
                place: &place,
                member: endpoint,
                requests,
                own_id: plan.own_ids.then_some(0),
                pending: VecDeque::new(),
                open: BTreeMap::new(),
            };
            match stream.run(&clock, responses, plan, &mut watching).await {
                End::GoalReached => break,
                End::GivenUp => continue,
                End::Lost => {}
            }
        }
        clock.sleep(PAUSE).await;
    }
    place.recorder.watcher_at(&place.name, None);
}

/// Why a stream was left.
enum End {
    GoalReached,
    GivenUp,
    Lost,
}

/// A watch that was asked for.
struct Entry {
    record: WatchPlace,
    start: Revision,
    /// Everything up to this revision was told.
    at: Revision,
    /// The client asked for its end.
    canceling: bool,
}

struct Stream<'a, E> {
    place: &'a Place<E>,
    member: &'a str,
    requests: Requests<WatchRequest>,
    /// The last id that was chosen; none: the member chooses.
    own_id: Option<i64>,
    /// Asked for and not confirmed, oldest first: members confirm in the order of the requests.
    pending: VecDeque<Entry>,
    /// Confirmed and not ended, by their ids.
    open: BTreeMap<i64, Entry>,
}

impl<E: Env> Stream<'_, E> {
    async fn run(
        &mut self,
        clock: &E::Clock,
        mut responses: Responses<WatchResponse>,
        plan: StreamPlan,
        watching: &mut Watching,
    ) -> End {
        let recorder = &self.place.recorder;
        for wanted in &plan.watches {
            self.ask(wanted).await;
        }
        for turn in 0_u64.. {
            let message = tokio::select! {
                // A message that is there comes before the thought that none came.
                biased;
                message = responses.next() => Some(message),
                () = clock.sleep(TICK) => None,
            };
            match message {
                Some(Ok(Some(message))) => self.accept(message),
                Some(Ok(None) | Err(_)) => return End::Lost,
                None => {}
            }
            recorder.watcher_at(&self.place.name, Some(self.at()));
            if let Some(goal) = recorder.goal() {
                if self.settle(goal, turn).await {
                    return End::GoalReached;
                }
                continue;
            }
            if turn >= plan.turns_max || self.open.is_empty() && self.pending.is_empty() {
                return End::GivenUp;
            }
            let known = recorder.revision();
            match watching.turn(known, self.open.len() + self.pending.len()) {
                Turn::GoOn => {}
                Turn::Open(wanted) => self.ask(&wanted).await,
                Turn::Cancel(which) => self.cancel(which).await,
                Turn::AskProgress => self.ask_progress().await,
                Turn::Doze(time) => clock.sleep(time).await,
            }
        }
        unreachable!("turns do not end")
    }

    /// How far the watch is that is the furthest behind.
    fn at(&self) -> Revision {
        let entries = self.open.values().chain(&self.pending);
        entries.map(|entry| entry.at).min().unwrap_or_default()
    }

    async fn ask(&mut self, wanted: &Wanted) {
        let recorder = &self.place.recorder;
        let start = match wanted.start {
            Start::At(revision) => revision,
            Start::AfterList => Revision(recorder.revision().0 + 1),
        };
        // Zero lets the member choose.
        let id = self.own_id.as_mut().map_or(0, |last| {
            *last += 1;
            *last
        });
        let record = wanted.record(start, self.place.process, self.member, recorder.now());
        let record = recorder.watch(record);
        self.pending.push_back(Entry { record, start, at: Revision(0), canceling: false });
        self.send(RequestUnion::CreateRequest(wanted.request(start, id))).await;
    }

    async fn cancel(&mut self, which: usize) {
        let place = which % self.open.len().max(1);
        if let Some((id, entry)) = self.open.iter_mut().nth(place)
            && !entry.canceling
        {
            entry.canceling = true;
            let watch_id = *id;
            self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })).await;
        }
    }

    async fn ask_progress(&self) {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    }

    async fn send(&self, request: RequestUnion) {
        // A stream that has ended says so when it is read.
        let _ = self.requests.send(&WatchRequest { request_union: Some(request) }).await;
    }

    /// Brings the stream to its end; true once all watches know the goal.
    async fn settle(&mut self, goal: Revision, turn: u64) -> bool {
        let late = self.open.iter().position(|(_, one)| one.start > goal && !one.canceling);
        if let Some(place) = late {
            self.cancel(place).await;
        }
        let there = |entry: &Entry| entry.at >= goal || entry.start > goal;
        if self.pending.is_empty() && self.open.values().all(there) {
            return true;
        }
        // Not after every message: a member that catches up sends many.
        if turn.is_multiple_of(3) {
            self.ask_progress().await;
        }
        false
    }

    /// Records a message with the watch or the watches it is for.
    fn accept(&mut self, message: WatchResponse) {
        let recorder = &self.place.recorder;
        let id = message.watch_id;
        let told = match message::watched(message, recorder.now()) {
            Ok(told) => told,
            Err(error) => return self.complain(&error.to_string()),
        };
        if told.created {
            return self.created(id, told);
        }
        if id == EVERY_WATCH && told.is_progress() {
            for entry in self.open.values_mut() {
                entry.advance(&told);
                recorder.watched(entry.record, told.clone());
            }
            return;
        }
        let Some(entry) = self.open.get_mut(&id) else {
            return self
                .complain(&format!("a message for watch {id}, which is not open: {told:?}"));
        };
        entry.advance(&told);
        let (record, canceled) = (entry.record, told.canceled);
        if canceled && !entry.canceling && told.compact_revision.0 == 0 {
            self.complain(&format!("watch {id} was canceled and nobody asked for that"));
        }
        recorder.watched(record, told);
        if canceled {
            self.open.remove(&id);
        }
    }

    /// The oldest watch without confirmation is confirmed, or refused.
    fn created(&mut self, id: i64, told: Told) {
        let Some(mut entry) = self.pending.pop_front() else {
            return self.complain(&format!("watch {id} was created and nobody asked for it"));
        };
        let recorder = &self.place.recorder;
        if told.canceled && told.compact_revision.0 == 0 {
            self.complain(&format!("a watch was refused: {told:?}"));
        }
        if entry.start.0 == 0 {
            // What was before is not for it.
            entry.at = told.revision;
        }
        let canceled = told.canceled;
        recorder.watched(entry.record, told);
        if !canceled && self.open.insert(id, entry).is_some() {
            self.complain(&format!("watch {id} was created while there was one"));
        }
    }

    fn complain(&self, what: &str) {
        self.place.recorder.complain(format!("{} at {}: {what}", self.place.name, self.member));
    }
}

impl Entry {
    fn advance(&mut self, told: &Told) {
        let last = told.events.last().map(|event| event.kv.mod_revision);
        let progress = told.is_progress().then_some(told.revision);
        self.at = last.or(progress).unwrap_or_default().max(self.at);
    }
}
