//! What clients do, and the record of what they were told.
//!
//! Each client works alone through the product's own client: puts of values nobody else writes,
//! increments of shared counters by compare-and-swap, deletions, linearizable and serializable
//! reads. Watchers follow everything from the first revision on. Every call is recorded with the
//! moments it began and ended; [`judge`](crate::judge) makes sense of it.

use crate::env::{SimEnv, below};
use crate::trace::Trace;
use madsim::rand::Rng;
use quorate::client::{Client, Delete, Error, Get, Options, Put, Txn, Watch, WatchUpdate, compare};
use quorate::env::Clock;
use quorate::proto::mvccpb::{KeyValue, event::EventType};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const REGISTERS: u32 = 4;
const COUNTERS: u32 = 2;

/// What a client asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    Put {
        key: String,
        value: String,
    },
    /// Puts `value` if the key's value is `expected` (`None`: if it is not there).
    Swap {
        key: String,
        expected: Option<String>,
        value: String,
    },
    Delete {
        key: String,
    },
    Get {
        key: String,
        linearizable: bool,
    },
}

/// What it was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// Written at a revision.
    Written(i64),
    /// The condition did not hold as of a revision.
    NotEqual(i64),
    /// Deleted so many keys; the revision of the store after it.
    Deleted(i64, i64),
    /// What the key held as of a revision: value and the revision that wrote it.
    Read(i64, Option<(String, i64)>),
    /// It was certainly not done.
    Refused(String),
    /// Nobody knows.
    Unknown(String),
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    #[expect(dead_code, reason = "read by people, in complaints")]
    pub client: u8,
    pub began: Duration,
    pub ended: Duration,
    pub ask: Ask,
    pub told: Told,
}

/// A change as a watcher saw it: revision, key, value (`None`: deleted).
pub type Change = (i64, String, Option<String>);

/// What all clients were told.
#[derive(Clone)]
pub struct Record {
    pub calls: Arc<Mutex<Vec<Call>>>,
    stop: Arc<AtomicBool>,
    trace: Trace,
}

impl Record {
    pub fn new(trace: Trace) -> Record {
        Record { calls: Arc::default(), stop: Arc::default(), trace }
    }

    /// Tells clients to finish the call they are at and end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Calls that were answered so far.
    pub fn answered(&self) -> usize {
        let calls = self.calls.lock().expect("no holder panics");
        let known = |call: &&Call| !matches!(call.told, Told::Refused(_) | Told::Unknown(_));
        calls.iter().filter(known).count()
    }
}

/// Clients do not wait long, so that they come to do something between faults.
pub fn options(deadline: Duration) -> Options {
    Options {
        deadline: Some(deadline),
        connect_timeout: Duration::from_secs(1),
        backoff_max: Duration::from_millis(500),
        ..Options::default()
    }
}

/// Works until told to stop.
pub async fn client(number: u8, env: SimEnv, endpoints: Vec<String>, record: Record) {
    let deadline = Duration::from_millis(madsim::rand::thread_rng().gen_range(1_000..8_000));
    let client = Client::connect(&env, &endpoints, options(deadline))
        .expect("the endpoints are well formed");
    let mut serial = 0;
    while !record.stop.load(Ordering::Relaxed) {
        env.clock_sleep(below(Duration::from_millis(60))).await;
        serial += 1;
        let ask = choose(number, serial, &client, &env, &record).await;
        perform(number, &client, &env, &record, ask).await;
    }
}

async fn choose(number: u8, serial: u64, client: &Client, env: &SimEnv, record: &Record) -> Ask {
    let (dice, register, counter) = {
        let mut random = madsim::rand::thread_rng();
        (random.gen_range(0..20), random.gen_range(0..REGISTERS), random.gen_range(0..COUNTERS))
    };
    let key = format!("register/{register}");
    match dice {
        0..6 => Ask::Put { key, value: format!("{number}-{serial}") },
        6..8 => Ask::Delete { key },
        8..12 => Ask::Get { key, linearizable: true },
        12..13 => Ask::Get { key, linearizable: false },
        _ => {
            let key = format!("counter/{counter}");
            let read = Ask::Get { key: key.clone(), linearizable: true };
            let expected = match perform(number, client, env, record, read).await {
                Told::Read(_, found) => found.map(|(value, _)| value),
                _ => None,
            };
            let count: u64 = expected.as_deref().map_or(0, |value| {
                let count = value.split(' ').next().unwrap_or_default();
                count.parse().expect("counters hold what clients wrote")
            });
            // The rest makes the value its writer's own.
            let value = format!("{} {number}-{serial}", count + 1);
            Ask::Swap { key, expected, value }
        }
    }
}

/// Makes a call and records it.
pub async fn perform(number: u8, client: &Client, env: &SimEnv, record: &Record, ask: Ask) -> Told {
    let began = env.now();
    let told = call(client, &ask).await.unwrap_or_else(|error| match error.maybe_executed() {
        true => Told::Unknown(error.to_string()),
        false => Told::Refused(error.to_string()),
    });
    let ended = env.now();
    record.trace.event(format_args!("client {number}: {ask:?} since {began:?}: {told:?}"));
    let call = Call { client: number, began, ended, ask, told: told.clone() };
    record.calls.lock().expect("no holder panics").push(call);
    told
}

async fn call(client: &Client, ask: &Ask) -> Result<Told, Error> {
    Ok(match ask.clone() {
        Ask::Put { key, value } => {
            Told::Written(client.put(Put::new(key, value)).await?.header.revision)
        }
        Ask::Swap { key, expected, value } => {
            let condition = match expected {
                Some(expected) => compare::value(key.clone(), compare::Equal, expected),
                None => compare::create_revision(key.clone(), compare::Equal, 0),
            };
            let reply = client.txn(Txn::new().when([condition]).then(Put::new(key, value))).await?;
            match reply.succeeded {
                true => Told::Written(reply.header.revision),
                false => Told::NotEqual(reply.header.revision),
            }
        }
        Ask::Delete { key } => {
            let reply = client.delete(Delete::key(key)).await?;
            Told::Deleted(reply.deleted, reply.header.revision)
        }
        Ask::Get { key, linearizable } => {
            let get = Get::key(key);
            let reply = client.get(if linearizable { get } else { get.serializable() }).await?;
            let found = reply.kvs.first().map(|pair| (text(&pair.value), pair.mod_revision));
            Told::Read(reply.header.revision, found)
        }
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a watcher saw so far and how far it is.
#[derive(Clone)]
pub struct Watched {
    pub changes: Arc<Mutex<Vec<Change>>>,
    /// All up to this revision was delivered.
    pub revision: Arc<AtomicI64>,
}

/// Follows everything from the first revision on, until the run ends.
///
/// # Errors
/// Why the watch ended.
pub async fn watch(
    number: u8,
    env: SimEnv,
    endpoints: Vec<String>,
    trace: Trace,
    watched: Watched,
) -> Error {
    let options = Options { require_leader: true, ..options(Duration::from_secs(5)) };
    let client = Client::connect(&env, &endpoints, options).expect("the endpoints are well formed");
    let everything = Watch::range(vec![0], vec![0]).from(1).progress_notify();
    let mut watcher = client.watch(everything);
    loop {
        let update = match watcher.next().await {
            Ok(update) => update,
            Err(error) => return error,
        };
        match update {
            WatchUpdate::Created { header } => {
                trace.event(format_args!("watcher {number} created at {}", header.revision));
            }
            WatchUpdate::Progress { header } => {
                trace.event(format_args!("watcher {number} progress {}", header.revision));
                watched.revision.fetch_max(header.revision, Ordering::Relaxed);
            }
            WatchUpdate::Events { events, .. } => {
                let mut changes = watched.changes.lock().expect("no holder panics");
                for event in events {
                    let KeyValue { key, value, mod_revision, .. } = event.kv.unwrap_or_default();
                    let put = event.r#type == EventType::Put as i32;
                    changes.push((mod_revision, text(&key), put.then(|| text(&value))));
                    watched.revision.fetch_max(mod_revision, Ordering::Relaxed);
                }
                trace.event(format_args!("watcher {number} events up to {:?}", changes.last()));
            }
        }
    }
}

/// Short words for what a client needs of its machine.
impl SimEnv {
    fn now(&self) -> Duration {
        quorate::env::Env::clock(self).now()
    }

    async fn clock_sleep(&self, duration: Duration) {
        quorate::env::Env::clock(self).sleep(duration).await;
    }
}
