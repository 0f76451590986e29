//! What the loops tell of themselves when somebody watches over the whole cluster; nothing of it
//! is left in production ([`Env::OBSERVED`]).
//!
//! Everything that has to be gathered before it can be told is gathered here, so that the loops
//! spend one line where a thing happens.

use crate::apply::{LeaseChange, Outcome, State};
use crate::env::{Env, Hard, Observation, STATE_HASH_INTERVAL};
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::log::{Command, command::Request};
use crate::raft::Log;
use crate::store::{RangeQuery, Record, Restored};
use crate::types::{Error, Index, KeyRange, LeaseId, MemberId, Term};
use raft::{GetEntriesContext, Storage};

/// What was found on disk at boot.
pub(super) fn opened<E: Env>(
    env: &E,
    member: MemberId,
    log: &Log,
    state: &State,
    restored: &Restored,
) {
    if !E::OBSERVED {
        return;
    }
    let found = log.initial_state().expect("it is in memory");
    let (hard, voters) = (found.hard_state, &found.conf_state.voters);
    let hard =
        Hard { term: Term(hard.term), vote: MemberId(hard.vote), commit: Index(hard.commit) };
    env.observe(Observation::LogOpened { member, voters, before: log.before(), hard });
    let (first, next) = (log.before().0.0 + 1, log.last_index().0 + 1);
    let entries = match first < next {
        true => log.entries(first, next, None, GetEntriesContext::empty(false)),
        false => Ok(Vec::new()),
    };
    for entry in entries.expect("they are in memory") {
        let (index, term) = (Index(entry.index), Term(entry.term));
        env.observe(Observation::Appended { index, term, data: &entry.data });
    }
    store_opened(env, state, restored);
    env.observe(Observation::Booted);
}

/// What a store holds that was just opened.
pub(super) fn store_opened<E: Env>(env: &E, state: &State, restored: &Restored) {
    if !E::OBSERVED {
        return;
    }
    let reader = state.store.reader();
    // A disk that fails here fails the next who reads, too: that one is heard.
    let Ok(found) = reader.range(&RangeQuery::new(KeyRange::all())) else { return };
    for record in &found.kvs {
        let key = Record::key_of(record);
        env.observe(Observation::Key { key: &key, record: Some(record) });
    }
    for (id, lease) in state.lessor.iter() {
        let ttls = Some((lease.granted_ttl, lease.remaining_ttl));
        env.observe(Observation::Lease { id, ttls });
    }
    let Ok(hash) = reader.hash() else { return };
    let (applied, revision) = (restored.applied, restored.revision);
    env.observe(Observation::StoreOpened { applied, revision, hash });
}

/// Commands that matter for what they are.
pub(super) fn mark_command<E: Env>(env: &E, term: Term, command: Option<&Command>) {
    let Some(request) = command.and_then(|command| command.request.as_ref()) else { return };
    match request {
        Request::LeaseRevoke(revoke) if revoke.expired_in_term == 0 => {}
        Request::LeaseRevoke(revoke) if revoke.expired_in_term == term.0 => {
            env.mark("lease: revoked because it ended");
        }
        Request::LeaseRevoke(_) => env.mark("lease: a deposed leader's revoke ignored"),
        Request::LeaseCheckpoint(_) => env.mark("lease: checkpointed"),
        Request::Alarm(alarm) if alarm.action == AlarmAction::Activate as i32 => {
            env.mark("alarm: raised");
        }
        Request::Alarm(_) => env.mark("alarm: disarmed"),
        Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Txn(_)
        | Request::Compaction(_)
        | Request::LeaseGrant(_)
        | Request::MemberAttributes(_)
        | Request::ClusterVersion(_) => {}
    }
}

/// What an entry did.
pub(super) fn applied<E: Env>(env: &E, state: &State, at: (Index, Term), outcome: &Outcome) {
    if !E::OBSERVED {
        return;
    }
    match &outcome.reply {
        Ok(_) => {}
        Err(Error::NoSpace) => env.mark("apply: refused for want of space"),
        Err(Error::Compacted) => env.mark("apply: refused as compacted"),
        Err(Error::LeaseNotFound) => env.mark("apply: refused for want of the lease"),
        Err(_) => env.mark("apply: refused for another reason"),
    }
    for change in outcome.finished.iter().flat_map(|finished| &finished.changes) {
        let record = (change.kind == crate::store::ChangeKind::Put).then_some(&change.record[..]);
        env.observe(Observation::Key { key: &change.key, record });
    }
    for change in &outcome.leases {
        let id: LeaseId = match *change {
            LeaseChange::Granted { id, .. } | LeaseChange::Checkpointed { id, .. } => id,
            LeaseChange::Revoked(id) => id,
        };
        let lease = state.lessor.get(id);
        let ttls = lease.map(|lease| (lease.granted_ttl, lease.remaining_ttl));
        env.observe(Observation::Lease { id, ttls });
    }
    if let Some((revision, _)) = outcome.compacted {
        env.observe(Observation::Compacted { revision });
    }
    let reader = state.store.reader();
    let ((index, term), reply) = (at, &outcome.reply);
    let Ok(revision) = reader.revision() else { return };
    env.observe(Observation::Applied { index, term, revision, reply });
    if index.0.is_multiple_of(STATE_HASH_INTERVAL)
        && let Ok(hash) = reader.hash()
    {
        env.observe(Observation::StateHash { index, hash });
    }
}
