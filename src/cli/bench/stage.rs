//! A run from its first connection to its report.
//!
//! ```text
//! set up ──▶ warm-up ──▶ measuring ──▶ over
//!            clients run, nothing is     clients stop after the
//!            counted                     operation under way
//! ```
//!
//! - An operation counts when it ends while measuring, whenever it began: so that at a steady
//!   pace as many are counted as were done, and the server's CPU time, read at the same two
//!   moments, belongs to them.
//! - The run with a total measures until so many are counted; the other until its time is over.
//! - Clients on different threads write to different recorders.

use super::data::Source;
use super::plan::{Limit, Plan, Profile};
use super::process::{self, Usage};
use super::report::Report;
use super::{kv, lease, watch};
use crate::client::{Client, Get, Options};
use crate::env::real::{Real, RealClock};
use crate::env::{Clock, Env};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch as watch_channel};

/// Longest latency that is told apart, in microseconds.
const LATENCY_MAX_US: u64 = 600_000_000;
/// Different error texts that are kept.
const ERRORS_MAX: usize = 16;
/// How often the bar moves.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// How long a call may take before it counts as an error.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// How long a server may take to answer at all.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// How long clients may take to come back after the end.
const STRAGGLERS: Duration = Duration::from_secs(35);

const WARM_UP: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// What an operation was; each kind has its own latencies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    /// What the profile is about.
    Main,
    /// The writes of profiles that are about something else.
    Write,
}

/// What one thread's clients have counted.
pub(super) struct Recorder {
    pub main: Histogram<u64>,
    pub write: Histogram<u64>,
    /// Keys, events: what operations were made of, when it is not one each.
    pub items: u64,
    pub errors: BTreeMap<String, u64>,
}

impl Recorder {
    pub(super) fn new() -> Recorder {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are lawful");
        Recorder { main: histogram(), write: histogram(), items: 0, errors: BTreeMap::new() }
    }

    fn record(&mut self, kind: Kind, latency: Duration, items: u64) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        match kind {
            Kind::Main => self.main.saturating_record(micros),
            Kind::Write => self.write.saturating_record(micros),
        }
        self.items += items;
    }

    fn error(&mut self, text: String) {
        let known = self.errors.contains_key(&text);
        let key = if known || self.errors.len() < ERRORS_MAX { text } else { "others".into() };
        *self.errors.entry(key).or_default() += 1;
    }

    pub(super) fn merge(&mut self, other: &Recorder) {
        self.main.add(&other.main).expect("all have the same bounds");
        self.write.add(&other.write).expect("all have the same bounds");
        self.items += other.items;
        for (text, count) in &other.errors {
            *self.errors.entry(text.clone()).or_default() += count;
        }
    }
}

/// What all clients of a run share.
pub(super) struct Stage {
    clock: RealClock,
    /// The phase, to look at after each operation.
    phase: AtomicU8,
    /// The same, to wait for.
    phases: watch_channel::Sender<u8>,
    /// Items counted, for the limit and the bar.
    done: AtomicU64,
    total: Option<u64>,
    shards: Vec<Mutex<Recorder>>,
}

impl Stage {
    fn new(clock: RealClock, plan: &Plan) -> Stage {
        Stage {
            clock,
            phase: AtomicU8::new(WARM_UP),
            phases: watch_channel::Sender::new(WARM_UP),
            done: AtomicU64::new(0),
            total: match plan.limit {
                Limit::Total(total) => Some(total),
                Limit::Duration(_) => None,
            },
            shards: (0..plan.shards).map(|_| Mutex::new(Recorder::new())).collect(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    pub(super) fn sleep(&self, pause: Duration) -> impl Future<Output = ()> + Send + '_ {
        self.clock.sleep(pause)
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == OVER
    }

    /// Returns when measuring begins.
    pub(super) async fn measuring(&self) {
        self.changed(|phase| phase >= MEASURING).await;
    }

    /// Returns when the run is over.
    pub(super) async fn ended(&self) {
        self.changed(|phase| phase == OVER).await;
    }

    async fn changed(&self, wanted: impl Fn(u8) -> bool) {
        let mut phases = self.phases.subscribe();
        // The sender lives in the stage, so it cannot be gone.
        let _ = phases.wait_for(|&phase| wanted(phase)).await;
    }

    /// Counts what ended just now and took `latency`, if this is the time to count.
    pub(super) fn count(&self, client: u64, kind: Kind, latency: Duration, items: u64) {
        if self.phase.load(Ordering::Relaxed) != MEASURING {
            return;
        }
        self.shard(client).record(kind, latency, items);
        let done = self.done.fetch_add(items, Ordering::Relaxed) + items;
        if self.total.is_some_and(|total| done >= total) {
            self.end();
        }
    }

    /// Counts a failure.
    pub(super) fn fail(&self, client: u64, error: &dyn std::fmt::Display) {
        if self.phase.load(Ordering::Relaxed) == MEASURING {
            self.shard(client).error(error.to_string());
        }
    }

    /// Counts an operation of a client that is answered or not.
    pub(super) fn outcome<T, E: std::fmt::Display>(
        &self,
        client: u64,
        kind: Kind,
        begun: Duration,
        items: u64,
        outcome: Result<T, E>,
    ) -> Option<T> {
        match outcome {
            Ok(answer) => {
                self.count(client, kind, self.now().saturating_sub(begun), items);
                Some(answer)
            }
            Err(error) => {
                self.fail(client, &error);
                None
            }
        }
    }

    /// Ends the run. Its own end calls this, and a client that cannot go on.
    pub(super) fn end(&self) {
        self.enter(OVER);
    }

    /// Goes on to a phase; never back.
    fn enter(&self, phase: u8) {
        if self.phase.fetch_max(phase, Ordering::Relaxed) < phase {
            self.phases.send_replace(phase);
        }
    }

    fn shard(&self, client: u64) -> std::sync::MutexGuard<'_, Recorder> {
        let shard = client % self.shards.len() as u64;
        self.shards[shard as usize].lock().expect("nothing panics while recording")
    }
}

/// Starts clients and knows when the last has ended.
pub(super) struct Crew {
    env: Real,
    /// Each client holds a sender and never uses it: they are gone when the clients are.
    present: mpsc::Sender<()>,
    absent: mpsc::Receiver<()>,
}

impl Crew {
    fn new(env: Real) -> Crew {
        let (present, absent) = mpsc::channel(1);
        Crew { env, present, absent }
    }

    pub(super) fn start(&self, client: impl Future<Output = ()> + Send + 'static) {
        let present = self.present.clone();
        self.env.spawn(async move {
            client.await;
            drop(present);
        });
    }

    /// Waits for all to end, but not for ever.
    async fn wait(mut self) {
        drop(self.present);
        tokio::select! {
            // Both mean the end; which is seen first does not matter.
            biased;
            _ = self.absent.recv() => {}
            () = self.env.clock().sleep(STRAGGLERS) => {}
        }
    }
}

/// Connections of a run, made and tried.
pub(super) async fn connect(env: &Real, plan: &Plan) -> Result<Vec<Client>, String> {
    let options = Options { deadline: Some(CALL_DEADLINE), ..Options::default() };
    let mut clients = Vec::new();
    for connection in 0..plan.connections {
        // Each has one endpoint, so that load is spread as told and a dead server shows.
        let endpoint = &plan.endpoints[connection as usize % plan.endpoints.len()];
        let client = Client::connect(env, [endpoint], options.clone());
        let client = client.map_err(|error| error.to_string())?;
        let probe = client.with_deadline(Some(PROBE_DEADLINE));
        let probe = probe.get(Get::key("\0").serializable()).await;
        probe.map_err(|error| format!("{endpoint}: {error}"))?;
        clients.push(client);
    }
    Ok(clients)
}

/// Says so when reads will mostly find nothing: it is a lawful run, but seldom the one meant.
async fn note_missing_keys(plan: &Plan, client: &Client) -> Result<(), String> {
    let reads = match plan.profile {
        Profile::Range { .. } | Profile::RangeMany { .. } | Profile::Mixed { .. } => true,
        Profile::Put
        | Profile::Txn
        | Profile::Watch { .. }
        | Profile::LeaseKeepalive
        | Profile::Load { .. } => false,
    };
    let space = plan.data.key_space;
    let all = Get::range(plan.data.key(0), plan.data.after(space - 1)).count_only();
    if reads {
        let reply = client.get(all).await.map_err(|error| error.to_string())?;
        let present = u64::try_from(reply.count).unwrap_or(0);
        if present < space {
            eprintln!("Note: {present} of {space} keys are there; `bench load` puts them all.");
        }
    }
    Ok(())
}

/// Runs a plan.
pub(super) async fn run(env: Real, plan: Plan) -> Result<Report, String> {
    let stage = Arc::new(Stage::new(env.clock().clone(), &plan));
    let seed = plan.data.seed.unwrap_or_else(|| env.random());
    let clients = connect(&env, &plan).await?;
    process::usage(&plan.server_pids)?;
    note_missing_keys(&plan, &clients[0]).await?;
    let crew = Crew::new(env.clone());
    match plan.profile {
        Profile::Put
        | Profile::Range { .. }
        | Profile::RangeMany { .. }
        | Profile::Txn
        | Profile::Mixed { .. } => {
            kv::start(&crew, &stage, &plan, &clients, Source::many(&plan.data, seed, plan.clients));
        }
        Profile::Load { batch } => {
            let sources = Source::many(&plan.data, seed, plan.clients);
            kv::start_load(&crew, &stage, &clients, sources, batch, stage.total.unwrap_or(0));
        }
        Profile::Watch { writers, .. } => {
            let sources = Source::many(&plan.data, seed, writers);
            watch::start(&crew, &stage, &plan, &env, &clients, sources).await?;
        }
        Profile::LeaseKeepalive => lease::start(&crew, &stage, &plan, &clients).await?,
    }
    let measured = conduct(&env, &stage, &plan, crew).await?;
    let mut sum = Recorder::new();
    for shard in &stage.shards {
        sum.merge(&shard.lock().expect("nothing panics while recording"));
    }
    Ok(Report::new(&plan, &sum, &measured))
}

/// Time and CPU between the two ends of measuring.
pub(super) struct Measured {
    pub seconds: f64,
    pub server: Option<Usage>,
    pub generator: Duration,
}

async fn conduct(
    env: &Real,
    stage: &Arc<Stage>,
    plan: &Plan,
    crew: Crew,
) -> Result<Measured, String> {
    // A load has a fixed amount of work, so none of it may go uncounted.
    if !matches!(plan.profile, Profile::Load { .. }) {
        env.clock().sleep(plan.warm_up).await;
    }
    let server_before = process::usage(&plan.server_pids)?;
    let own_before = process::own_usage();
    let begun = stage.now();
    stage.enter(MEASURING);
    let bar = progress_bar(plan.limit);
    loop {
        let elapsed = stage.now().saturating_sub(begun);
        let pause = match plan.limit {
            Limit::Total(_) => {
                bar.set_position(stage.done.load(Ordering::Relaxed));
                PROGRESS_INTERVAL
            }
            Limit::Duration(duration) if elapsed >= duration => break,
            Limit::Duration(duration) => {
                bar.set_position(elapsed.as_millis() as u64);
                PROGRESS_INTERVAL.min(duration - elapsed)
            }
        };
        tokio::select! {
            // The end comes first: it is what is waited for.
            biased;
            () = stage.ended() => break,
            () = env.clock().sleep(pause) => {}
        }
    }
    stage.end();
    let seconds = (stage.now() - begun).as_secs_f64();
    let own_after = process::own_usage();
    let server_after = process::usage(&plan.server_pids)?;
    bar.finish_and_clear();
    crew.wait().await;
    let server = (!plan.server_pids.is_empty()).then(|| Usage {
        cpu: server_after.cpu.saturating_sub(server_before.cpu),
        resident_bytes: server_after.resident_bytes,
    });
    Ok(Measured { seconds, server, generator: own_after.cpu.saturating_sub(own_before.cpu) })
}

/// A bar on standard error; indicatif hides it when that is no terminal.
fn progress_bar(limit: Limit) -> ProgressBar {
    let (length, template) = match limit {
        Limit::Total(total) => (total, "{bar:40} {pos}/{len} {per_sec} {eta}"),
        Limit::Duration(duration) => (duration.as_millis() as u64, "{bar:40} {elapsed}"),
    };
    let style = ProgressStyle::with_template(template).expect("the template is lawful");
    ProgressBar::new(length).with_style(style)
}
