//! Writers and watchers whose memory is the witness: what was acknowledged, and what was seen.
//!
//! Each writer puts keys of its own, each once, so the final keys tell about every single write:
//! the revision of a key is that of its acknowledgement, and the events of a watch over the prefix
//! are exactly the keys that are there.

use super::process::{PATIENCE, connect};
use quorate::client::{Client, Get, Put, Watch, WatchUpdate};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tonic::Code;

/// What writers put their keys under.
pub const PREFIX: &str = "load/";

/// Keys and the revision at which they were written.
pub type Revisions = BTreeMap<Vec<u8>, i64>;

/// Clients that write until told to stop.
pub struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Revisions>>,
}

impl Writers {
    /// Starts `count` writers, each with a connection of its own, spread over the endpoints.
    pub fn start(endpoints: &[String], count: usize, value_bytes: usize) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let tasks = (0..count)
            .map(|writer| {
                let mut endpoints = endpoints.to_vec();
                let first = writer % endpoints.len();
                endpoints.rotate_left(first);
                let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
                tokio::spawn(write(writer, endpoints, value_bytes, stop, acknowledged))
            })
            .collect();
        Writers { stop, acknowledged, tasks }
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more puts were acknowledged.
    pub async fn progress(&self, more: u64) {
        let aim = self.acknowledged() + more;
        super::process::until("writes are acknowledged", async || {
            (self.acknowledged() >= aim).then_some(())
        })
        .await;
    }

    /// Ends the load; returns every acknowledged key with the revision it was acknowledged at.
    pub async fn stop(self) -> Revisions {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Revisions::new();
        for task in self.tasks {
            all.extend(task.await.expect("a writer does not fail"));
        }
        let distinct: std::collections::BTreeSet<i64> = all.values().copied().collect();
        assert_eq!(distinct.len(), all.len(), "two puts were acknowledged at one revision");
        all
    }
}

async fn write(
    writer: usize,
    endpoints: Vec<String>,
    value_bytes: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) -> Revisions {
    let client = connect(&endpoints).with_deadline(Some(Duration::from_secs(3)));
    let mut done = Revisions::new();
    let mut newest = 0;
    for number in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{PREFIX}{writer:03}/{number:08}");
        match client.put(Put::new(key.clone(), vec![b'v'; value_bytes])).await {
            Ok(reply) => {
                let revision = reply.header.revision;
                assert!(revision > newest, "revision {revision} after {newest}");
                newest = revision;
                done.insert(key.into_bytes(), revision);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                assert!(
                    matches!(
                        error.code(),
                        Code::Unavailable
                            | Code::DeadlineExceeded
                            | Code::Unknown
                            | Code::ResourceExhausted
                    ),
                    "{error}"
                );
                // A server that refuses at once should not be asked in a tight loop.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    done
}

/// All keys under a prefix with the revision of their last change, as of one revision.
pub async fn read_all(client: &Client, prefix: &str) -> Revisions {
    const PAGE: i64 = 2_000;
    let client = client.with_deadline(Some(PATIENCE));
    let whole = Get::prefix(prefix.to_owned());
    let end = whole.0.range_end.clone();
    let mut from = whole.0.key.clone();
    let mut all = Revisions::new();
    let mut revision = 0;
    loop {
        let get = Get::range(from, end.clone()).limit(PAGE).keys_only().at(revision);
        let reply = client.get(get).await.expect("the server answers");
        if revision == 0 {
            revision = reply.header.revision;
        }
        for kv in &reply.kvs {
            all.insert(kv.key.to_vec(), kv.mod_revision);
        }
        let Some(last) = reply.kvs.last().filter(|_| reply.more) else { return all };
        from = [&last.key[..], b"\0"].concat().into();
    }
}

/// Asserts that every acknowledged put is there, at its revision.
pub fn assert_holds(found: &Revisions, acknowledged: &Revisions) {
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|(key, revision)| found.get(*key) != Some(revision))
        .map(|(key, revision)| (key.escape_ascii().to_string(), revision, found.get(key)))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged puts are lost or moved: {:?}",
        lost.len(),
        acknowledged.len(),
        &lost[..lost.len().min(5)]
    );
}

/// Watches a prefix until an event of `last` key arrives, and returns what was put, in whole
/// and in order. Panics when revisions do not rise or a key comes twice.
pub fn collect(client: Client, prefix: &str, from: i64, last: &str) -> JoinHandle<Revisions> {
    let (prefix, last) = (prefix.to_owned(), last.to_owned());
    tokio::spawn(async move {
        let mut watcher = client.watch(Watch::prefix(prefix).from(from));
        let mut seen = Revisions::new();
        let mut newest = from - 1;
        loop {
            let update = watcher.next().await.expect("the watch goes on");
            let WatchUpdate::Events { events, .. } = update else { continue };
            for event in events {
                let kv = event.kv.expect("an event has a key");
                assert!(kv.mod_revision > newest, "{} came after {newest}", kv.mod_revision);
                newest = kv.mod_revision;
                if kv.key == last.as_bytes() {
                    return seen;
                }
                let before = seen.insert(kv.key.to_vec(), kv.mod_revision);
                assert_eq!(before, None, "{} was delivered twice", kv.key.escape_ascii());
            }
        }
    })
}

/// Fails the test when the task takes longer than [`PATIENCE`].
pub async fn finished<T>(what: &str, task: JoinHandle<T>) -> T {
    match tokio::time::timeout(PATIENCE, task).await {
        Ok(outcome) => outcome.expect("the task does not fail"),
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}
