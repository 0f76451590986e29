//! One seed, from an empty disk to a verdict.
//!
//! 1. Members start; clients and watchers begin at once.
//! 2. The nemesis rages for the time given: safety must hold, nothing else is asked.
//! 3. Everything is mended. Within bounded time clients must be served again, watchers must have
//!    everything, and all members must have come to the same revision and hash.
//! 4. The cluster is asked for its history, and the judge compares.

use crate::cluster::{Cluster, Failures};
use crate::env::network::Switch;
use crate::env::{SimEnv, Streams};
use crate::judge::{History, judge};
use crate::nemesis;
use crate::plan::NetworkKnobs;
use crate::trace::Trace;
use crate::workload::{self, Ask, Record, Told, Watched, options};
use madsim::rand::Rng;
use quorate::client::{Client, Get};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long healing may take until clients are served and members agree.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Calls that must succeed to count as being served again.
const CALLS_AFTER_HEALING: usize = 50;
const CLIENTS: u8 = 6;
const WATCHERS: u8 = 2;
/// The client number of the one who asks at the end.
const LAST_CLIENT: u8 = 50;
/// And of the one who looks after the members.
const OPERATOR: u8 = 51;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub nodes: u8,
    /// Simulated time of faults.
    pub time: Duration,
    pub print_trace: bool,
}

/// How it went.
#[derive(Debug)]
pub struct Report {
    pub hash: u64,
    pub events: u64,
    pub simulated: Duration,
    pub calls: usize,
    pub answered: usize,
    pub revisions: usize,
    pub syncs: u64,
    pub failures: Vec<String>,
}

/// Runs a seed. Nothing but the plan has an influence.
pub fn run(plan: Plan) -> Report {
    let seed = plan.seed;
    madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default())
        .block_on(play(plan))
}

/// Small numbers, so that what is rare in production happens all the time.
fn flags() -> Vec<String> {
    let mut random = madsim::rand::thread_rng();
    let snapshot_count = [5, 20, 100, 10_000][random.gen_range(0..4)];
    let catch_up = [1, 5, 50, 5_000][random.gen_range(0..4)];
    let pre_vote = random.gen_bool(0.8);
    vec![
        format!("--snapshot-count={snapshot_count}"),
        format!("--snapshot-catchup-entries={catch_up}"),
        format!("--pre-vote={pre_vote}"),
    ]
}

async fn play(plan: Plan) -> Report {
    let trace = Trace::new(plan.print_trace);
    let failures: Failures = Arc::default();
    let streams = Streams::new(plan.seed);
    let latency_us = madsim::rand::thread_rng().gen_range(200..20_000);
    let knobs = NetworkKnobs {
        latency_us,
        tail_one_in: 0,
        tail_us: 0,
        write_bytes_max: 0,
        pipe_bytes_max: 0,
    };
    let switch = Switch::new(trace.clone(), streams, knobs);
    madsim::task::spawn(switch.clone().pump());
    let flags = flags();
    trace.event(format_args!("seed {} {flags:?} latency {latency_us} us", plan.seed));
    let cluster =
        Cluster::new(trace.clone(), switch, streams, plan.nodes, &flags, failures.clone());
    cluster.machines().into_iter().for_each(|machine| cluster.start(machine));

    let record = Record::new(trace.clone());
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let (node, env) = cluster.client_machine(number);
        let endpoints = endpoints_for(&cluster, number);
        clients.push(node.spawn(workload::client(number, env, endpoints, record.clone())));
    }
    let watchers: Vec<Watched> =
        (0..WATCHERS).map(|number| watcher(&cluster, number, &trace, &failures)).collect();
    let (node, env) = cluster.client_machine(OPERATOR);
    let operator = nemesis::operate(cluster.clone(), trace.clone(), env, plan.time);
    let operator = node.spawn(operator);
    nemesis::rage(cluster.clone(), trace.clone(), plan.time).await;
    operator.await.expect("the operator does not panic");

    trace.event(format_args!("all is mended"));
    cluster.heal().await;
    let answered = record.answered();
    let mut verdict = Vec::new();
    let served = || record.answered() >= answered + CALLS_AFTER_HEALING;
    if !wait_for(served).await {
        verdict.push(format!("clients are not served {RECOVERY_TIMEOUT:?} after all was mended"));
    }
    record.stop();
    for client in clients {
        client.await.expect("clients do not panic");
    }
    let (_, env) = cluster.client_machine(LAST_CLIENT);
    let history = settle(&cluster, &env, &record, &watchers, &trace, &failures).await;
    let calls = record.calls.lock().expect("no holder panics").clone();
    let mut revisions = 0;
    match history {
        Ok(changes) => {
            revisions = changes.len();
            let seen: Vec<_> = watchers
                .iter()
                .map(|watched| watched.changes.lock().expect("no holder panics").clone())
                .collect();
            verdict.extend(judge(&History::new(changes), &calls, &seen));
        }
        Err(failure) => verdict.push(failure),
    }
    verdict.extend(failures.lock().expect("no holder panics").drain(..));
    let (hash, events) = trace.summary();
    Report {
        hash,
        events,
        simulated: trace.now(),
        calls: calls.len(),
        answered: record.answered(),
        revisions,
        syncs: cluster.syncs(),
        failures: verdict,
    }
}

/// The same members in another order for each client, so that not all flock to one.
fn endpoints_for(cluster: &Cluster, number: u8) -> Vec<String> {
    let mut endpoints = cluster.endpoints();
    let first = usize::from(number) % endpoints.len();
    endpoints.rotate_left(first);
    endpoints
}

fn watcher(cluster: &Cluster, number: u8, trace: &Trace, failures: &Failures) -> Watched {
    let watched = Watched { changes: Arc::new(Mutex::default()), revision: Arc::default() };
    let (node, env) = cluster.client_machine(CLIENTS + number);
    let endpoints = endpoints_for(cluster, number);
    let watch = workload::watch(number, env, endpoints, trace.clone(), watched.clone());
    let failures = failures.clone();
    node.spawn(async move {
        let failure = format!("watcher {number} ended: {}", watch.await);
        failures.lock().expect("no holder panics").push(failure);
    });
    watched
}

/// Waits, but not for ever; false if it did not come true.
async fn wait_for(condition: impl Fn() -> bool) -> bool {
    let step = Duration::from_millis(100);
    let mut waited = Duration::ZERO;
    while !condition() && waited < RECOVERY_TIMEOUT {
        madsim::time::sleep(step).await;
        waited += step;
    }
    condition()
}

/// Ends the run with one more write, waits until everybody knows it, and reads the history.
async fn settle(
    cluster: &Cluster,
    env: &SimEnv,
    record: &Record,
    watchers: &[Watched],
    trace: &Trace,
    failures: &Failures,
) -> Result<Vec<workload::Change>, String> {
    let endpoints = cluster.endpoints();
    let deadline = Duration::from_secs(10);
    let client = Client::connect(env, &endpoints, options(deadline)).map_err(|e| e.to_string())?;
    let start = trace.now();
    let mut attempt = 0;
    let revision = loop {
        // A value for each attempt: one of unknown outcome may stand in the history as well.
        attempt += 1;
        let last = Ask::Put { key: "last".into(), value: format!("last {attempt}") };
        match workload::perform(LAST_CLIENT, &client, env, record, last).await {
            Told::Written(revision) => break revision,
            told if trace.now() > start + RECOVERY_TIMEOUT => {
                return Err(format!("the last write: {told:?}"));
            }
            _ => {}
        }
    };

    let mut hashes = Vec::new();
    for endpoint in &endpoints {
        let own = Client::connect(env, [endpoint], options(deadline)).map_err(|e| e.to_string())?;
        let start = trace.now();
        loop {
            match own.get(Get::key("last").serializable()).await {
                Ok(reply) if reply.header.revision >= revision => break,
                other if trace.now() > start + RECOVERY_TIMEOUT => {
                    let head = other.map(|reply| reply.header.revision);
                    return Err(format!("{endpoint} is not at {revision} in time: {head:?}"));
                }
                Ok(_) | Err(_) => madsim::time::sleep(Duration::from_millis(100)).await,
            }
        }
        let reply = own.hash_kv(revision).await.map_err(|error| format!("{endpoint}: {error}"))?;
        hashes.push((reply.hash, reply.hash_revision, reply.compact_revision));
    }
    if hashes.iter().any(|hash| *hash != hashes[0]) {
        return Err(format!("members differ at revision {revision}: {hashes:?}"));
    }
    let reader = watcher(cluster, CLIENTS + WATCHERS, trace, failures);
    for (number, watched) in watchers.iter().chain([&reader]).enumerate() {
        if !wait_for(|| watched.revision.load(Ordering::Relaxed) >= revision).await {
            return Err(format!("watcher {number} is not at {revision} in time"));
        }
    }
    let history = reader.changes.lock().expect("no holder panics").clone();
    Ok(history)
}
