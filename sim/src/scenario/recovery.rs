//! What is asked of a cluster once everything is mended: liveness.
//!
//! All faults end; whoever is down is started, but for members whose disk is damaged. Then, each
//! within [`RECOVERY`] of simulated time:
//!
//! - alarms that a small quota has raised can be cleared as etcd's manual says: compact,
//!   defragment, disarm;
//! - clients are served again: some calls of those that have been going on all the time are
//!   answered;
//! - told to stop, every client finishes the call it is at;
//! - one write succeeds, and every member is at its revision, for linearizable reads as well as
//!   for its own;
//! - every watcher knows everything up to there;
//! - all members have the same hash of their keys at one revision.
//!
//! Of a member whose disk is damaged none of this is asked; what it served is judged with all the
//! rest.

use super::unseen;
use crate::cluster::{Cluster, is_out_of_range};
use crate::env::network::{Machine, Switch};
use crate::report::Failure;
use crate::trace::Trace;
use madsim::task::JoinHandle;
use quorate::client::{Error, Get};
use quorate::types::Revision;
use quorate::workload::{self, Recorder, Settings};
use std::time::Duration;

/// How long each step of the recovery may take.
pub const RECOVERY: Duration = Duration::from_secs(60);
/// Calls that must be answered to count as being served again.
const CALLS_AFTER_MENDING: u64 = 20;
/// The machine from which the last words are spoken.
const SETTLER: u8 = 242;
/// Pause before something is looked at or tried again.
const PAUSE: Duration = Duration::from_millis(100);
/// For one call.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a run after faults consists of.
struct Recovery<'a> {
    cluster: &'a Cluster,
    trace: &'a Trace,
    recorder: &'a Recorder,
}

/// Mends everything and asks all of it.
///
/// # Errors
/// The first promise that was not kept.
pub async fn recover(
    cluster: &Cluster,
    switch: &Switch,
    trace: &Trace,
    recorder: &Recorder,
    settings: &Settings,
    clients: Vec<JoinHandle<()>>,
) -> Result<(), Failure> {
    switch.heal();
    for machine in cluster.machines() {
        cluster.host(machine).heal();
        if !cluster.host(machine).has_power() {
            cluster.cut_power(machine);
        }
        cluster.start(machine);
    }
    let recovery = Recovery { cluster, trace, recorder };
    recovery.clear_alarms().await?;
    recovery.serve_again(&clients).await?;
    recorder.stop();
    recovery.end_clients(clients).await?;
    let sound: Vec<String> = cluster.undamaged().into_iter().map(Cluster::endpoint).collect();
    let (_node, env) = cluster.client_machine(SETTLER);
    unseen::compactions(cluster).for_each(|compaction| recorder.operation(compaction));
    let settled = workload::settle(env, sound, settings, recorder, RECOVERY).await;
    let settled = settled.map_err(|text| failure("not recovered", text))?;
    trace.event(format_args!("settled at {}", settled.revision));
    recorder.finish_at(settled.revision);
    recovery.end_watchers().await?;
    recovery.agree(settled.revision).await
}

fn failure(rule: &str, text: impl Into<String>) -> Failure {
    Failure { rule: rule.to_owned(), text: text.into() }
}

impl Recovery<'_> {
    /// Waits until something holds, but not for ever.
    async fn wait_for(&self, condition: impl Fn() -> bool) -> bool {
        let end = self.trace.now() + RECOVERY;
        while !condition() && self.trace.now() < end {
            madsim::time::sleep(PAUSE).await;
        }
        condition()
    }

    /// Frees the space that a quota misses, as an operator would.
    async fn clear_alarms(&self) -> Result<(), Failure> {
        let end = self.trace.now() + RECOVERY;
        loop {
            let outcome = self.cluster.clear_alarms().await;
            self.trace.event(format_args!("alarms: {outcome:?}"));
            match outcome {
                Ok(true) => return Ok(()),
                Ok(false) | Err(_) if self.trace.now() < end => {
                    madsim::time::sleep(PAUSE).await;
                }
                outcome => {
                    let text = format!("after {RECOVERY:?}: {outcome:?}");
                    return Err(failure("alarms cannot be cleared", text));
                }
            }
        }
    }

    async fn serve_again(&self, clients: &[JoinHandle<()>]) -> Result<(), Failure> {
        let before = self.recorder.answered();
        let served = || {
            self.recorder.answered() >= before + CALLS_AFTER_MENDING
                || clients.iter().all(JoinHandle::is_finished)
        };
        if self.wait_for(served).await {
            return Ok(());
        }
        let answered = self.recorder.answered() - before;
        let text =
            format!("{answered} calls were answered in the {RECOVERY:?} after all was mended");
        Err(failure("clients are not served", text))
    }

    async fn end_clients(&self, clients: Vec<JoinHandle<()>>) -> Result<(), Failure> {
        let ended = || clients.iter().all(JoinHandle::is_finished);
        match self.wait_for(ended).await {
            true => Ok(()),
            false => Err(failure("a call does not end", format!("not within {RECOVERY:?}"))),
        }
    }

    async fn end_watchers(&self) -> Result<(), Failure> {
        match self.wait_for(|| self.recorder.watchers_behind().is_empty()).await {
            true => Ok(()),
            false => {
                let behind = self.recorder.watchers_behind().join(", ");
                let text = format!("within {RECOVERY:?} not all watchers got there: {behind}");
                Err(failure("watchers are behind", text))
            }
        }
    }

    /// Compares the members' hashes at a revision that all have and none has compacted.
    async fn agree(&self, revision: Revision) -> Result<(), Failure> {
        let end = self.trace.now() + RECOVERY;
        let mut revision = revision.0;
        loop {
            let hashes = self.hashes(revision).await;
            let late = self.trace.now() > end;
            match hashes {
                Ok(hashes) => {
                    let compacted: Vec<i64> = hashes.iter().map(|hash| hash.1).collect();
                    let same_history = compacted.iter().all(|it| *it == compacted[0]);
                    if same_history && hashes.iter().all(|hash| hash.2 == hashes[0].2) {
                        return Ok(());
                    }
                    if same_history || late {
                        let text = format!(
                            "at revision {revision}, as member, compacted revision, hash: {hashes:?}"
                        );
                        return Err(failure("members differ", text));
                    }
                }
                // Compacted meanwhile: at its end there is a revision that is not.
                Err(error) if is_out_of_range(&error) && !late => {
                    revision = self.newest().await.unwrap_or(revision);
                }
                Err(error) if late => {
                    let text = format!("at revision {revision} after {RECOVERY:?}: {error}");
                    return Err(failure("members tell no hash", text));
                }
                Err(_) => {}
            }
            madsim::time::sleep(PAUSE).await;
        }
    }

    /// The newest revision that any sound member knows.
    async fn newest(&self) -> Result<i64, Error> {
        let sound: Vec<String> =
            self.cluster.undamaged().into_iter().map(Cluster::endpoint).collect();
        let reply = self.cluster.warden(&sound, DEADLINE).get(Get::key("warden")).await?;
        Ok(reply.header.revision)
    }

    /// Of each sound member: what is compacted, and the hash of the rest.
    async fn hashes(&self, revision: i64) -> Result<Vec<(Machine, i64, u32)>, Error> {
        let mut hashes = Vec::new();
        for machine in self.cluster.undamaged() {
            let client = self.cluster.warden(&[Cluster::endpoint(machine)], DEADLINE);
            let reply = client.hash_kv(revision).await?;
            hashes.push((machine, reply.compact_revision, reply.hash));
        }
        Ok(hashes)
    }
}
