//! The last words of a run, once everything is mended and the clients have ended.
//!
//! A history with writes of unknown outcome is easier to judge the more of what became of them was
//! seen. So there is one more write, then every member is read whole, first as all agree, then as
//! it has it by itself, and the store's past, as far as it is kept, is read by a watch. What is
//! gone of it without a recorded call is noted.

use super::Settings;
use super::dice::Dice;
use super::names;
use super::options;
use super::recorder::Recorder;
use super::seat::Seat;
use super::watcher::Resumed;
use super::watching::Wanted;
use crate::check::op::{
    CompactRequest, Operation, Outcome, PutRequest, RangeRequest, Request, Response,
};
use crate::client::{Client, Error, Watch};
use crate::env::{Clock, Env};
use crate::types::Revision;
use std::time::Duration;

/// The writer's process in the history; those that read the members follow.
const PROCESS: u64 = 2_000;
/// What it writes to.
const KEY: &str = "settled";
/// The name of its watch among the watchers.
const NAME: &str = "settle";
/// Pause after something failed.
const PAUSE: Duration = Duration::from_millis(100);

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    /// That of the last write; nobody writes after it but leases that end.
    pub revision: Revision,
}

/// Writes once more, reads every member and reads the past. Each step is tried again until the
/// patience is over.
///
/// # Errors
/// Which step did not succeed in time, and why.
///
/// # Panics
/// If there are no endpoints, or one is no `host:port`.
pub async fn settle<E: Env>(
    env: E,
    endpoints: Vec<String>,
    settings: &Settings,
    recorder: &Recorder,
    patience: Duration,
) -> Result<Settled, String> {
    let deadline = settings.deadline(&mut Dice::new(&[names::CLIENT, settings.seed, PROCESS]));
    let give_up_at = env.clock().now() + patience;
    let mut seat = Seat::new(env.clone(), endpoints.clone(), PROCESS, deadline, recorder.clone());
    let mut attempt = 0;
    let revision = loop {
        attempt += 1;
        let value = format!("settled-{attempt}").into();
        let put = PutRequest { key: KEY.into(), value, ..PutRequest::default() };
        match seat.call(&Request::Put(put)).await {
            Outcome::Ok(response) => break response.revision(),
            outcome if env.clock().now() > give_up_at => {
                return Err(format!("no write succeeds within {patience:?}: {outcome:?}"));
            }
            Outcome::Failed(_) | Outcome::Unknown(_) => env.clock().sleep(PAUSE).await,
        }
    };
    // Each of these connections is a process of its own.
    for (process, endpoint) in (PROCESS + 1..).zip(&endpoints) {
        let one = vec![endpoint.clone()];
        let mut seat = Seat::new(env.clone(), one, process, deadline, recorder.clone());
        for serializable in [false, true] {
            let (key, range_end) = (vec![0].into(), vec![0].into());
            let range = RangeRequest { key, range_end, serializable, ..RangeRequest::default() };
            let range = Request::Range(range);
            loop {
                match seat.call(&range).await {
                    Outcome::Ok(Response::Range(answer)) if answer.revision >= revision => break,
                    outcome if env.clock().now() > give_up_at => {
                        return Err(format!(
                            "{endpoint} is not at revision {revision} within {patience:?}: {}",
                            in_short(&outcome)
                        ));
                    }
                    _ => env.clock().sleep(PAUSE).await,
                }
            }
        }
    }
    let left = give_up_at.saturating_sub(env.clock().now()).max(deadline);
    let read = tokio::select! {
        // A past that was read in the last moment was read.
        biased;
        read = read_past(&env, &endpoints, recorder, deadline, revision) => read,
        () = env.clock().sleep(left) => {
            Err(format!("no watch tells the past up to {revision} within {patience:?}"))
        }
    };
    // Of this watch the error tells; it is not among those one waits for.
    recorder.watcher_at(NAME, None);
    read?;
    note_compaction(&env, &endpoints, recorder, deadline, revision).await?;
    Ok(Settled { revision })
}

/// Looks whether somebody compacts whose calls are not recorded, as members do that are told to
/// compact by themselves. If so, any revision may be gone when a watcher looks for a previous
/// value: that is noted as a call of unknown outcome, which may have been carried out all along.
async fn note_compaction<E: Env>(
    env: &E,
    endpoints: &[String],
    recorder: &Recorder,
    deadline: Duration,
    revision: Revision,
) -> Result<(), String> {
    let client = Client::connect(env, endpoints, options(deadline));
    let client = client.expect("endpoints are host:port");
    let hash = client.hash_kv(0).await;
    let hash = hash.map_err(|error| format!("nobody tells how far is compacted: {error}"))?;
    if Revision(hash.compact_revision) > recorder.compacted() {
        recorder.operation(Operation {
            process: PROCESS,
            member: String::new(),
            session: 0,
            invoke: 0,
            returned: None,
            request: Request::Compact(CompactRequest { revision }),
            outcome: Outcome::Unknown("by the cluster itself".into()),
        });
    }
    Ok(())
}

fn in_short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ok(response) => format!("it is at revision {}", response.revision()),
        Outcome::Failed(reason) | Outcome::Unknown(reason) => reason.clone(),
    }
}

/// Reads all changes up to a revision, as far as they are not compacted.
async fn read_past<E: Env>(
    env: &E,
    endpoints: &[String],
    recorder: &Recorder,
    deadline: Duration,
    revision: Revision,
) -> Result<(), String> {
    let mut start = Revision(1);
    loop {
        let wanted = Wanted::everything(start);
        let client = Client::connect(env, endpoints, options(deadline));
        let record = wanted.record(start, PROCESS, "", recorder.now());
        let mut resumed = Resumed {
            watcher: client
                .expect("endpoints are host:port")
                .watch(Watch(wanted.request(start, 0))),
            recorder,
            name: NAME,
            record: recorder.watch(record),
            created: false,
            at: Revision(0),
            start,
        };
        let error = loop {
            if resumed.at >= revision {
                return Ok(());
            }
            match resumed.watcher.next().await {
                Ok(update) => resumed.accept(update),
                Err(error) => break error,
            }
        };
        match error {
            Error::Compacted { compact_revision } if compact_revision > start.0 => {
                start = Revision(compact_revision);
            }
            error => return Err(format!("the watch of the past ended: {error}")),
        }
    }
}
