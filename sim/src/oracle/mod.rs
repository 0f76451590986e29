//! Oracles that look inside: what no client can see, and no member alone.
//!
//! Members tell facts as they happen ([`Observation`]); here they are put together over all
//! members, boots and crashes.
//!
//! | file | what must hold |
//! |---|---|
//! | [`elections`] | terms, votes, leaders: one leader per term, votes kept and not sent early |
//! | [`logs`] | log matching, commitment by quorums, leader completeness, durable before said |
//! | [`states`] | entries applied once, in order, alike; applied index and data in one transaction |
//! | [`leases`] | what is left of a lease does not grow by a change of leaders |
//! | [`memory`] | the process stays within its memory |
//!
//! Bounded queues are judged right here: a load above its limit is a failure. So are the rare
//! places that were passed ([`Oracle::marks`]) counted, and roles kept for the picture.
//!
//! - The machines that judge are plain state, fed with `(machine, fact)`; they know no time and no
//!   tasks. A rule that is broken gives a [`Failure`] whose rule is short and stable.
//! - Somebody else may have written to a disk: after a bit flip or a misdirected write
//!   ([`Oracle::damaged`]) the next boot of that machine may know less than it did.
//! - A fact from an earlier boot than the machine's newest is not heard: its process is dead.

#![cfg_attr(not(madsim), allow(dead_code, reason = "without the simulator only tests use it"))]

mod digest;
mod elections;
mod leases;
mod logs;
pub mod memory;
mod states;

use crate::report::Failure;
use elections::Elections;
use leases::Leases;
use logs::Logs;
use quorate::env::{Observation, Promise, Role};
use quorate::types::{Revision, Term};
use states::States;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Failures kept; one is enough to fail, a flood tells no more.
const FAILURES_MAX: usize = 50;

/// What a member was to the others from a moment on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoleChange {
    pub machine: u8,
    pub at: Duration,
    pub role: Role,
    pub term: Term,
}

/// Rules found broken.
#[derive(Default)]
pub struct Violations(Vec<Failure>);

impl Violations {
    fn add(&mut self, rule: &str, text: String) {
        self.0.push(Failure { rule: rule.to_owned(), text });
    }

    #[cfg(test)]
    fn rules(&self) -> Vec<&str> {
        self.0.iter().map(|failure| failure.rule.as_str()).collect()
    }
}

/// All of a run.
#[derive(Default)]
struct Court {
    elections: Elections,
    logs: Logs,
    states: States,
    leases: Leases,
    roles: Vec<RoleChange>,
    /// When each compaction was first carried out.
    compactions: BTreeMap<Revision, Duration>,
    damaged: BTreeSet<u8>,
    boots: BTreeMap<u8, u32>,
}

impl Court {
    /// Judges a fact about a machine.
    fn hear(&mut self, at: Duration, machine: u8, fact: &Observation<'_>, out: &mut Violations) {
        let damaged = self.damaged.contains(&machine);
        match *fact {
            Observation::LogOpened { voters, before, hard, .. } => {
                self.elections.opened(machine, hard, damaged, out);
                self.logs.opened(machine, before, voters.len());
            }
            Observation::StoreOpened { applied, revision, hash } => {
                self.logs.store_opened(machine, applied, out);
                self.states.opened(machine, applied, revision, damaged, out);
                self.leases.opened(machine);
                self.states.hashed(machine, applied, hash, out);
            }
            Observation::Compacted { revision } => {
                self.compactions.entry(revision).or_insert(at);
            }
            Observation::Booted => {
                self.logs.booted(machine, damaged, out);
                self.damaged.remove(&machine);
            }
            Observation::Role { role, term, .. } => {
                if self.elections.role(machine, role, term, out) {
                    self.roles.push(RoleChange { machine, at, role, term });
                    if role == Role::Leader {
                        self.logs.elected(machine, term, out);
                    }
                }
            }
            Observation::Appended { index, term, data } => {
                self.logs.appended(machine, index, term, data, out);
            }
            Observation::Reset { index, term } => self.logs.reset(machine, (index, term), out),
            Observation::Writing { reset, entries, hard } => {
                self.elections.writing(machine, hard, out);
                self.logs.writing(machine, reset, entries, out);
            }
            Observation::Written { durable } => {
                self.elections.written(machine, durable, out);
                self.logs.written(machine, durable);
            }
            Observation::Sent { to, term, promise } => {
                self.elections.sent(machine, to, term, promise, out);
                // Once it has a later term on disk, its log may have changed: who leads that term
                // was elected by members that had what is acknowledged here.
                if let Promise::Log(index) = promise
                    && !self.elections.is_past(machine, term)
                {
                    self.logs.acknowledged(machine, index, out);
                }
            }
            Observation::Committed { index, entry_term, term } => {
                self.logs.committed(machine, index, entry_term, term, out);
            }
            Observation::Key { key, record } => self.states.key(machine, key, record),
            Observation::Lease { id, ttls } => {
                self.states.lease(machine, id, ttls);
                self.leases.lease(machine, id, ttls);
            }
            Observation::Applied { index, term, revision, reply } => {
                self.logs.applied(machine, index, term, out);
                self.states.applied(machine, index, term, revision, reply, out);
                self.leases.applied(machine, index, term, out);
            }
            Observation::StateHash { index, hash } => {
                self.states.hashed(machine, index, hash, out);
            }
            Observation::Answered { index } => self.logs.answered(machine, index, out),
            Observation::Flushed { applied } => self.states.flushed(machine, applied, out),
            Observation::Load { what, amount, limit } => {
                if amount > limit {
                    let text = format!("n{machine}: {what}: {amount}, at most {limit}");
                    out.add("over a limit", text);
                }
            }
        }
    }
}

#[cfg(madsim)]
pub use handle::{Observer, Oracle};

/// The court as members, clients and the judge of a run hold it.
#[cfg(madsim)]
mod handle {
    use super::{Court, FAILURES_MAX, Failure, Observation, RoleChange, Violations};
    use crate::trace::Trace;
    use quorate::env::marks;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex, MutexGuard};
    use std::time::Duration;

    /// Watches over one run. Clones share it.
    #[derive(Clone)]
    pub struct Oracle {
        trace: Trace,
        inner: Arc<Mutex<Inner>>,
    }

    #[derive(Default)]
    struct Inner {
        court: Court,
        failures: Vec<Failure>,
        marks: BTreeMap<&'static str, u64>,
    }

    /// One boot of one machine, to its oracle.
    #[derive(Clone)]
    pub struct Observer {
        oracle: Oracle,
        machine: u8,
        boot: u32,
    }

    impl Oracle {
        pub fn new(trace: Trace) -> Oracle {
            Oracle { trace, inner: Arc::default() }
        }

        fn inner(&self) -> MutexGuard<'_, Inner> {
            self.inner.lock().expect("no holder panics")
        }

        /// A machine starts: what earlier boots of it would say is not heard any more.
        pub fn boot(&self, machine: u8) -> Observer {
            let mut inner = self.inner();
            let boot = inner.court.boots.entry(machine).or_default();
            *boot += 1;
            Observer { oracle: self.clone(), machine, boot: *boot }
        }

        /// The longest election timeout of any member.
        pub fn elections_take(&self, timeout: Duration) {
            self.inner().court.leases.elections_take(timeout);
        }

        /// Somebody wrote to the durable files of a machine: its next boot may know less.
        pub fn damaged(&self, machine: u8) {
            self.inner().court.damaged.insert(machine);
        }

        /// Judges a fact.
        pub fn observe(&self, machine: u8, boot: u32, fact: &Observation<'_>) {
            // The most frequent kind, and almost always fine.
            if let Observation::Load { amount, limit, .. } = fact
                && amount <= limit
            {
                return;
            }
            let mut inner = self.inner();
            if inner.court.boots.get(&machine) != Some(&boot) {
                return;
            }
            let mut out = Violations::default();
            inner.court.hear(self.trace.now(), machine, fact, &mut out);
            for failure in out.0 {
                self.trace.event(format_args!("ORACLE {}: {}", failure.rule, failure.text));
                if inner.failures.len() < FAILURES_MAX {
                    inner.failures.push(failure);
                }
            }
        }

        /// The rules that were broken, in the order in which that was seen.
        pub fn failures(&self) -> Vec<Failure> {
            self.inner().failures.clone()
        }

        /// What members were to each other, in the order of time.
        pub fn roles(&self) -> Vec<RoleChange> {
            self.inner().court.roles.clone()
        }

        /// When each revision was compacted to, whoever asked for it.
        pub fn compactions(&self) -> BTreeMap<quorate::types::Revision, std::time::Duration> {
            self.inner().court.compactions.clone()
        }

        /// How often each rare place of the product was passed; 0 for those that were not.
        pub fn marks(&self) -> BTreeMap<String, u64> {
            let inner = self.inner();
            let count = |place: &str| inner.marks.get(place).copied().unwrap_or(0);
            marks::ALL.into_iter().map(|place| (place.to_owned(), count(place))).collect()
        }
    }

    impl Observer {
        pub fn observe(&self, fact: &Observation<'_>) {
            self.oracle.observe(self.machine, self.boot, fact);
        }

        pub fn mark(&self, place: &'static str) {
            *self.oracle.inner().marks.entry(place).or_default() += 1;
        }
    }
}
