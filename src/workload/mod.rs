//! What clients do to a cluster, and the record of what they were told.
//!
//! A store is tested by using it: many clients that collide on few keys, watchers that follow
//! them, and a history of it all that [`check`](crate::check) can judge. The same work runs in the
//! simulator, against real processes and as a benchmark, since it reaches the world through
//! [`Env`](crate::env::Env) and the cluster through the product's own client.
//!
//! | file | idea |
//! |---|---|
//! | `profile` | the kinds of work, by name |
//! | `generator` | what a client does next: a pure function of seed, client and what it was told |
//! | `scripts/` | one file for each kind of work |
//! | `watching` | what a watcher watches and when it changes its mind: pure as well |
//! | `recorder` | the history while it is made, and the words between clients and who runs them |
//! | `message` | requests and answers of a history as etcd's messages, and back |
//! | `seat` | a place at one member, from which calls are made and recorded |
//! | `client` | the loop that makes calls and records them |
//! | `watcher`, `stream` | the loops that watch: with the client's resuming, and as the wire tells |
//! | `settle` | the last words: a write, a read of everything, the history as a watcher reads it |
//!
//! What holds of all of it:
//!
//! - Choices hang on the seed, the number of the client, the number of its step and on answers,
//!   never on time or on the machine's randomness. So a client does much the same when a fault is
//!   taken out of a run.
//! - No value is written twice by intent: each holds the client's number and a serial, so that
//!   writes of unknown outcome can be told apart.
//! - What is recorded as failed did not happen and never will
//!   ([`Error::maybe_executed`](crate::client::Error::maybe_executed)); of a doubtful write
//!   nothing else is recorded, ever.
//! - All times are of one clock, that of the recorder.
//! - A client has one call under way. It stays with one member for a while, so that the member and
//!   the session of each answer are true; a new connection is a new session.
//!
//! Left out: members coming and going, users and roles, and faults, which are the business of the
//! one who runs this.

mod client;
mod dice;
mod generator;
mod message;
mod profile;
mod recorder;
mod scripts;
mod seat;
mod settle;
mod stream;
mod watcher;
mod watching;

pub use client::client;
pub use dice::Dice;
pub use generator::{Generator, Step};
pub use profile::{Profile, profiles};
pub use recorder::Recorder;
pub use settle::{Settled, settle};
pub use watcher::watcher;

use crate::client::Options;
use std::time::Duration;

/// How much is done, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The kind of work.
    pub profile: &'static Profile,
    /// Decides every choice.
    pub seed: u64,
    /// How many clients there are; they are numbered from 0.
    pub clients: u8,
    /// How many watchers there are; they are numbered from 0.
    pub watchers: u8,
    /// The longest pause of a client between two calls.
    pub pause_max: Duration,
    /// Calls of a client have a deadline between these two, its own for each client.
    pub deadline_min: Duration,
    pub deadline_max: Duration,
    /// Calls each client makes at most; none: until it is told to stop.
    pub calls_max: Option<u64>,
}

impl Settings {
    /// Those of a short, busy run.
    pub fn new(profile: &'static Profile, seed: u64) -> Settings {
        Settings {
            profile,
            seed,
            clients: 5,
            watchers: 2,
            pause_max: Duration::from_millis(60),
            deadline_min: Duration::from_secs(1),
            deadline_max: Duration::from_secs(8),
            calls_max: None,
        }
    }

    /// A deadline between the shortest and the longest.
    fn deadline(&self, dice: &mut Dice) -> Duration {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (min, max) = (millis(self.deadline_min), millis(self.deadline_max));
        Duration::from_millis(dice.between(min, max.max(min)))
    }
}

/// Clients do not wait long for a connection, so that they come to do something between faults.
fn options(deadline: Duration) -> Options {
    Options {
        deadline: Some(deadline),
        connect_timeout: Duration::from_secs(1),
        backoff_max: Duration::from_millis(500),
        ..Options::default()
    }
}

/// Who draws: numbers that keep the dice of different decisions apart.
mod names {
    pub(super) const STEP: u64 = 1;
    pub(super) const CLIENT: u64 = 2;
    pub(super) const WATCHER: u64 = 3;
}

#[cfg(test)]
mod tests;
