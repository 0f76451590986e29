//! When a lease can have ended by itself, and how late is too late.
//!
//! A lease that runs out deletes its keys in a revision of its own, which no client asked for.
//! Such a revision may appear once the lease can have ended: not before its time to live has
//! passed since the call of its grant, and of each keep-alive that found it alive. A member's
//! clock may run fast; the history says by how much (`Start::clock_drift_ppm`).
//!
//! How late a lease ends is no promise of etcd's: a new leader starts the time anew. So the late
//! side is checked only where the recorder states a bound (`Start::lease_late_max_ns`): a key must
//! be gone by that long after the time to live has passed since the answer of the last keep-alive.
//! That a key is still there at a moment is shown by any linearizable answer, be it about other
//! keys, whose call came later and whose revision lies before that of the deletion.
//!
//! - An id may be granted again after its lease has ended. Then a keep-alive counts only if it
//!   surely was of the lease in question: no other grant can lie between.
//! - A lease from before the history can end at any time.
//! - Of a grant of unknown outcome that left the choice of the id to the server nobody knows the
//!   id; so a lease that nobody is known to have granted may be that one.

use super::data::Data;
use super::history::History;
use super::linearizable::revisions::{Timeline, name};
use super::op::{LeaseGrantRequest, LeaseRequest, Operation, Outcome, Request, Response};
use super::violation::{Rule, Violation, kv_text};
use crate::types::{LeaseId, Revision};
use std::collections::{BTreeMap, BTreeSet};

const NANOSECONDS: u64 = 1_000_000_000;
const MILLION: u64 = 1_000_000;

/// What is known of the leases of a history.
#[derive(Debug)]
pub struct Leases {
    by_id: BTreeMap<LeaseId, Lease>,
    /// Those that keys had before the history began.
    from_before: BTreeSet<LeaseId>,
    drift_ppm: u64,
}

#[derive(Default, Debug)]
struct Lease {
    grants: Vec<Renewal>,
    /// Keep-alives that found it alive.
    renewals: Vec<Renewal>,
    /// The last moment at which a keep-alive of unknown outcome was waited for.
    doubtful_until: u64,
}

/// A call after which a lease lives for its time.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    operation: usize,
    invoke: u64,
    /// None: it is not known whether and when it happened.
    returned: Option<u64>,
    ttl: u64,
}

/// The last write that hung a key on a lease that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Attachment {
    /// When its revision was first told; `u64::MAX` if never.
    pub told_at: u64,
    /// When it was called; 0 if that is not known.
    pub invoke: u64,
}

impl Leases {
    /// Gathers the leases of a history.
    pub fn new(history: &History) -> Leases {
        let mut by_id: BTreeMap<LeaseId, Lease> = BTreeMap::new();
        for (operation, one) in history.operations.iter().enumerate() {
            let Operation { invoke, returned, request, outcome, .. } = one;
            let renewal = |ttl_seconds: u64, returned| {
                let ttl = ttl_seconds.saturating_mul(NANOSECONDS);
                Renewal { operation, invoke: *invoke, returned, ttl }
            };
            match (request, outcome) {
                (Request::LeaseGrant(_), Outcome::Ok(Response::LeaseGrant(granted))) => {
                    let grant = renewal(granted.ttl_seconds, *returned);
                    by_id.entry(granted.id).or_default().grants.push(grant);
                }
                // A grant that may have happened, with the time asked for.
                (
                    Request::LeaseGrant(LeaseGrantRequest { id, ttl_seconds }),
                    Outcome::Unknown(_),
                ) => {
                    by_id.entry(*id).or_default().grants.push(renewal(*ttl_seconds, None));
                }
                (
                    Request::LeaseKeepAlive(LeaseRequest { id }),
                    Outcome::Ok(Response::LeaseKeepAlive(kept)),
                ) if kept.ttl_seconds > 0 => {
                    let renewed = renewal(kept.ttl_seconds, *returned);
                    by_id.entry(*id).or_default().renewals.push(renewed);
                }
                (Request::LeaseKeepAlive(LeaseRequest { id }), Outcome::Unknown(_)) => {
                    let lease = by_id.entry(*id).or_default();
                    lease.doubtful_until = lease.doubtful_until.max(returned.unwrap_or(*invoke));
                }
                _ => {}
            }
        }
        Leases {
            by_id,
            from_before: history.start.kvs.iter().map(|kv| kv.lease).collect(),
            drift_ppm: u64::from(history.start.clock_drift_ppm),
        }
    }

    /// Whether a lease can have ended by itself by a moment.
    pub fn may_have_ended(&self, id: LeaseId, last: Attachment, moment: u64) -> bool {
        self.earliest_end(id, last).is_some_and(|(end, _)| end <= moment)
    }

    /// The earliest moment at which a lease can have ended by itself, and the operation that
    /// held it alive until then; none if nothing is known of such a lease.
    pub fn earliest_end(&self, id: LeaseId, last: Attachment) -> Option<(u64, Option<usize>)> {
        if id == LeaseId(0) {
            return None;
        }
        let known = self.by_id.get(&id).filter(|lease| !lease.grants.is_empty());
        let Some(lease) = known else {
            if self.from_before.contains(&id) {
                return Some((0, None));
            }
            let strangers = self.by_id.get(&LeaseId(0)).map_or(&[][..], |lease| &lease.grants);
            let first = strangers.iter().min_by_key(|grant| self.end(grant))?;
            return Some((self.end(first), Some(first.operation)));
        };
        let alone = lease.grants.len() == 1 && !self.from_before.contains(&id);
        let granted = lease.grants.iter().filter(|grant| alone || grant.invoke < last.told_at);
        let first = granted.min_by_key(|grant| self.end(grant));
        let mut held = match (first, self.from_before.contains(&id)) {
            (Some(first), false) => (self.end(first), Some(first.operation)),
            _ => (0, None),
        };
        for renewal in &lease.renewals {
            let returned = renewal.returned.unwrap_or(u64::MAX);
            let elsewhere = |grant: &Renewal| {
                let before = grant.returned.is_some_and(|returned| returned < last.invoke);
                !before && grant.invoke <= returned
            };
            let counts =
                alone || (renewal.invoke >= last.told_at && !lease.grants.iter().any(elsewhere));
            let end = self.end(renewal);
            if counts && end > held.0 {
                held = (end, Some(renewal.operation));
            }
        }
        Some(held)
    }

    /// Whether an id can only ever have been that of one lease.
    pub fn is_granted_once(&self, id: LeaseId) -> bool {
        let grants = |id| self.by_id.get(&id).map_or(0, |lease| lease.grants.len());
        let before = usize::from(self.from_before.contains(&id));
        grants(id) + grants(LeaseId(0)) + before <= 1
    }

    /// When a renewal's time is over on the fastest clock.
    fn end(&self, renewal: &Renewal) -> u64 {
        let ttl = scaled(renewal.ttl, MILLION, MILLION + self.drift_ppm);
        renewal.invoke.saturating_add(ttl)
    }

    /// The moment after which a lease cannot live, but for the allowance; none if that is open.
    fn latest_end(&self, id: LeaseId) -> Option<u64> {
        let lease = self.by_id.get(&id).filter(|_| !self.from_before.contains(&id))?;
        let all = lease.grants.iter().chain(&lease.renewals);
        let mut latest = lease.doubtful_until;
        let mut ttl = 0;
        for renewal in all {
            // The server may raise the time asked for, and without an answer nobody knows.
            latest = latest.max(renewal.returned?);
            ttl = ttl.max(renewal.ttl);
        }
        let slow = MILLION.saturating_sub(self.drift_ppm).max(1);
        (!lease.grants.is_empty()).then(|| latest.saturating_add(scaled(ttl, MILLION, slow)))
    }
}

/// `value * numerator / denominator` without overflow on the way.
fn scaled(value: u64, numerator: u64, denominator: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(numerator) / u128::from(denominator);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// Finds writes that hung a key on a lease whose revoke had been answered before their call.
pub fn check_revoked(history: &History) -> Option<Violation> {
    let mut revoked: BTreeMap<LeaseId, Vec<(u64, u64, usize)>> = BTreeMap::new();
    let mut grants: BTreeMap<LeaseId, Vec<Option<u64>>> = BTreeMap::new();
    for (place, operation) in history.operations.iter().enumerate() {
        match (&operation.request, &operation.outcome, operation.returned) {
            (Request::LeaseRevoke(lease), Outcome::Ok(_), Some(returned)) => {
                let entry = (returned, operation.invoke, place);
                revoked.entry(lease.id).or_default().push(entry);
            }
            (Request::LeaseGrant(_), Outcome::Ok(Response::LeaseGrant(granted)), returned) => {
                grants.entry(granted.id).or_default().push(returned);
            }
            (Request::LeaseGrant(grant), Outcome::Unknown(_), _) => {
                grants.entry(grant.id).or_default().push(None);
            }
            _ => {}
        }
    }
    if revoked.is_empty() {
        return None;
    }
    for (place, operation) in history.operations.iter().enumerate() {
        let Some(response) = operation.response() else { continue };
        let mut leases = Vec::new();
        attached(&operation.request, response, &mut leases);
        for (key, id) in leases {
            let revokes = revoked.get(&id).into_iter().flatten();
            let before = revokes.filter(|(returned, _, _)| *returned < operation.invoke);
            let Some((_, invoke, revoke)) = before.max() else { continue };
            // A grant that can have come after the revoke makes it a new lease.
            let again = |returned: &Option<u64>| returned.is_none_or(|returned| returned > *invoke);
            if [id, LeaseId(0)]
                .iter()
                .any(|id| grants.get(id).is_some_and(|all| all.iter().any(again)))
            {
                continue;
            }
            let text = format!(
                "{} hung {key} on lease {id}, though {} had been answered before it was called.",
                name(history, place),
                name(history, *revoke)
            );
            return Some(
                Violation::new(Rule::LeaseGone, text)
                    .between("an error: lease not found".into(), "an answer".into())
                    .of([place, *revoke]),
            );
        }
    }
    None
}

/// The keys that an answered request hung on leases.
fn attached(request: &Request, response: &Response, out: &mut Vec<(Data, LeaseId)>) {
    match (request, response) {
        (Request::Put(put), _) if put.lease.0 != 0 => out.push((put.key.clone(), put.lease)),
        (Request::Txn(txn), Response::Txn(told)) => {
            let branch = if told.succeeded { &txn.success } else { &txn.failure };
            let parts = branch.iter().zip(&told.responses);
            parts.for_each(|(part, told)| attached(part, told, out));
        }
        _ => {}
    }
}

/// Finds keys that were still there implausibly long after their lease should have ended.
pub fn check_late(history: &History, timeline: &Timeline) -> Option<Violation> {
    let allowance = history.start.lease_late_max_ns?;
    let leases = Leases::new(history);
    // Up to each revision, the linearizable answer whose call came last.
    let mut latest: Vec<(Revision, u64, usize)> = Vec::new();
    for (place, operation) in history.operations.iter().enumerate() {
        if let Some(response) = operation.response()
            && !operation.is_serializable()
            && !matches!(response, Response::LeaseKeepAlive(_))
        {
            latest.push((response.revision(), operation.invoke, place));
        }
    }
    latest.sort();
    for place in 1..latest.len() {
        if latest[place].1 < latest[place - 1].1 {
            (latest[place].1, latest[place].2) = (latest[place - 1].1, latest[place - 1].2);
        }
    }
    for (key, versions) in timeline.store.all_versions() {
        for (place, (_, kv)) in versions.iter().enumerate() {
            let Some(kv) = kv.as_ref().filter(|kv| kv.lease.0 != 0) else { continue };
            let Some(end) = leases.latest_end(kv.lease) else { continue };
            let next = versions.get(place + 1).map_or(Revision(i64::MAX), |(next, _)| *next);
            let count = latest.partition_point(|(revision, _, _)| *revision < next);
            let Some((_, seen, witness)) = latest[..count].last() else { continue };
            if *seen <= end.saturating_add(allowance) {
                continue;
            }
            let text = format!(
                "{key} was still there, on lease {}, when {} was called at {seen} ns. The lease \
                 should have ended by {end} ns, and the allowance is {allowance} ns.",
                kv.lease,
                name(history, *witness)
            );
            let made = timeline.makers.get(&kv.mod_revision).copied();
            return Some(
                Violation::new(Rule::LeaseLate, text)
                    .between(format!("{key} deleted"), kv_text(Some(kv)))
                    .of([*witness])
                    .of(made.filter(|made| made != witness))
                    .at(kv.mod_revision),
            );
        }
    }
    None
}
