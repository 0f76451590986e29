//! One committed entry becomes one outcome: the replicated state machine.
//!
//! Every member applies the same entries in the same order to the same state, so nothing here
//! may depend on the clock, on chance, on who is asking or on what is only true of this member.
//! [`State::apply`] is the only match over commands. What it cannot do itself (wake watchers,
//! answer clients, arm lease deadlines) it returns in an [`Outcome`].
//!
//! Invariants:
//! - An entry changes the store in one revision or not at all (a revoke of several leases: one
//!   revision each); a refused request changes nothing.
//! - Refusals are deterministic ([`Error::is_deterministic`]); a disk that fails ends the node
//!   before an outcome exists.
//! - The applied index moves in the same flush as the data it stands for.

mod alarm;
mod members;
mod txn;

pub use alarm::Alarms;
pub use members::{Member, Members};
pub use txn::{is_write, range_query, read_only_txn};

use crate::env::File;
use crate::lease::Lessor;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest,
    DeleteRangeResponse, LeaseCheckpointRequest, LeaseGrantRequest, PutRequest, PutResponse,
    ResponseHeader, TxnRequest, TxnResponse, alarm_request::AlarmAction,
};
use crate::proto::log::{Command, LeaseRevoke, StoredLease, command::Request};
use crate::store::{Finished, Restored, Side, Store, StoreError};
use crate::types::{Error, Index, KeyRange, LeaseId, Result, Revision, Term};
use bytes::Bytes;
use prost::Message as _;

/// What a client that waits for an entry is told; headers carry the revision only.
#[derive(Debug)]
pub enum Reply {
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    /// Compacted logically; space is freed later.
    Compaction(Revision),
    LeaseGrant { id: LeaseId, ttl: i64 },
    LeaseRevoke,
    Alarm(Vec<AlarmMember>),
    /// Done, nothing to tell.
    Done,
}

/// What the lease loop has to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseChange {
    Granted { id: LeaseId, ttl: i64 },
    Revoked(LeaseId),
    Checkpointed { id: LeaseId, remaining_ttl: i64 },
}

/// What follows from an applied entry.
pub struct Outcome {
    pub reply: Result<Reply>,
    /// Revisions that changed keys, in order.
    pub finished: Vec<Finished>,
    pub leases: Vec<LeaseChange>,
    /// The store was compacted to this revision.
    pub compacted: Option<Revision>,
    /// The list of members changed.
    pub members_changed: bool,
}

impl Outcome {
    fn new(reply: Result<Reply>) -> Outcome {
        Outcome {
            reply,
            finished: Vec::new(),
            leases: Vec::new(),
            compacted: None,
            members_changed: false,
        }
    }
}

/// The state all members share.
pub struct State<F: File> {
    pub store: Store<F>,
    pub lessor: Lessor,
    pub alarms: Alarms,
    pub members: Members,
    /// For example `3.7.0`; empty until the first leader has set it.
    pub cluster_version: String,
}

const CLUSTER_VERSION: &[u8] = b"cluster-version";

impl<F: File> State<F> {
    /// The state a store holds.
    ///
    /// # Errors
    /// If the store cannot be read or holds what we never wrote.
    pub fn restore(store: Store<F>, restored: &Restored) -> Result<State<F>, StoreError> {
        let mut lessor = Lessor::default();
        for (_, value) in store.side_scan(Side::Lease)? {
            let lease = StoredLease::decode(value).map_err(StoreError::side)?;
            lessor.restore(LeaseId(lease.id), lease.granted_ttl, lease.remaining_ttl);
        }
        for (key, lease) in &restored.leased_keys {
            lessor.attach(key, *lease);
        }
        let alarms = Alarms::restore(store.side_scan(Side::Alarm)?)?;
        let members = Members::restore(store.side_scan(Side::Member)?)?;
        let meta = store.side_scan(Side::Meta)?;
        let version = meta.into_iter().find(|(key, _)| key.as_ref() == CLUSTER_VERSION);
        let cluster_version =
            version.map(|(_, text)| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
        Ok(State { store, lessor, alarms, members, cluster_version })
    }

    /// Applies one entry. `None`: it was a leader's no-op.
    ///
    /// # Panics
    /// If the entry is not ours to read: the log passed its checksums, so we wrote nonsense.
    pub fn apply(&mut self, index: Index, term: Term, command: Option<Command>) -> Outcome {
        let outcome = match command.and_then(|command| command.request) {
            Some(request) => self.request(term, request),
            None => Outcome::new(Ok(Reply::Done)),
        };
        if let Err(error) = &outcome.reply {
            assert!(error.is_deterministic(), "entry {index} was refused for a local reason: {error}");
        }
        self.store.set_applied(index, term);
        outcome
    }

    fn request(&mut self, term: Term, request: Request) -> Outcome {
        if let Some(error) = self.alarms.refuse(&request) {
            return Outcome::new(Err(error));
        }
        match request {
            Request::Put(request) => self.put(request),
            Request::DeleteRange(request) => self.delete_range(request),
            Request::Txn(request) => self.txn(&request),
            Request::Compaction(request) => self.compaction(&request),
            Request::LeaseGrant(request) => self.lease_grant(&request),
            Request::LeaseRevoke(request) => self.lease_revoke(&request, term),
            Request::LeaseCheckpoint(request) => self.lease_checkpoint(&request),
            Request::Alarm(request) => self.alarm(&request),
            Request::MemberAttributes(request) => {
                self.members.set_attributes(&request, &mut self.store);
                Outcome { members_changed: true, ..Outcome::new(Ok(Reply::Done)) }
            }
            Request::ClusterVersion(request) => {
                self.store.side_put(
                    Side::Meta,
                    Bytes::from_static(CLUSTER_VERSION),
                    Bytes::from(request.version.clone()),
                );
                self.cluster_version = request.version;
                Outcome::new(Ok(Reply::Done))
            }
        }
    }

    fn put(&mut self, request: PutRequest) -> Outcome {
        let mut write = self.store.write();
        if let Err(error) = txn::check_put(&write, &self.lessor, &request) {
            return Outcome::new(Err(error));
        }
        let response = txn::put(&mut write, &mut self.lessor, request);
        let finished = write.finish();
        let mut outcome = Outcome::new(Ok(Reply::Put(response)));
        outcome.finished.push(finished);
        outcome
    }

    fn delete_range(&mut self, request: DeleteRangeRequest) -> Outcome {
        let mut write = self.store.write();
        let response = txn::delete_range(&mut write, &mut self.lessor, request);
        let finished = write.finish();
        let mut outcome = Outcome::new(Ok(Reply::DeleteRange(response)));
        outcome.finished.push(finished);
        outcome
    }

    fn txn(&mut self, request: &TxnRequest) -> Outcome {
        let mut write = self.store.write();
        let reply = txn::txn(&mut write, &mut self.lessor, request).map(Reply::Txn);
        let finished = write.finish();
        let mut outcome = Outcome::new(reply);
        outcome.finished.push(finished);
        outcome
    }

    fn compaction(&mut self, request: &CompactionRequest) -> Outcome {
        let revision = Revision(request.revision);
        match self.store.compact(revision) {
            Ok(()) => {
                let now = self.store.revision();
                let mut outcome = Outcome::new(Ok(Reply::Compaction(now)));
                outcome.compacted = Some(revision);
                outcome
            }
            Err(error) => Outcome::new(Err(error)),
        }
    }

    fn lease_grant(&mut self, request: &LeaseGrantRequest) -> Outcome {
        let (id, ttl) = (LeaseId(request.id), request.ttl);
        if let Err(error) = self.lessor.grant(id, ttl) {
            return Outcome::new(Err(error));
        }
        self.store_lease(id);
        let mut outcome = Outcome::new(Ok(Reply::LeaseGrant { id, ttl }));
        outcome.leases.push(LeaseChange::Granted { id, ttl });
        outcome
    }

    fn lease_revoke(&mut self, request: &LeaseRevoke, term: Term) -> Outcome {
        let mut outcome = Outcome::new(Ok(Reply::LeaseRevoke));
        if request.expired_in_term != 0 && request.expired_in_term != term.0 {
            // The leader that saw them expire was deposed before this was committed.
            return outcome;
        }
        for id in request.ids.iter().map(|&id| LeaseId(id)) {
            let Some(lease) = self.lessor.revoke(id) else {
                outcome.reply = Err(Error::LeaseNotFound);
                continue;
            };
            let mut write = self.store.write();
            for key in lease.keys {
                write.delete_range(&KeyRange::single(key), false);
            }
            outcome.finished.push(write.finish());
            self.store.side_delete(Side::Lease, lease_key(id));
            outcome.leases.push(LeaseChange::Revoked(id));
        }
        outcome
    }

    fn lease_checkpoint(&mut self, request: &LeaseCheckpointRequest) -> Outcome {
        let mut outcome = Outcome::new(Ok(Reply::Done));
        for checkpoint in &request.checkpoints {
            let (id, remaining_ttl) = (LeaseId(checkpoint.id), checkpoint.remaining_ttl);
            if self.lessor.checkpoint(id, remaining_ttl) {
                self.store_lease(id);
                outcome.leases.push(LeaseChange::Checkpointed { id, remaining_ttl });
            }
        }
        outcome
    }

    fn store_lease(&mut self, id: LeaseId) {
        let lease = self.lessor.get(id).expect("callers have just touched it");
        let stored = StoredLease {
            id: id.0,
            granted_ttl: lease.granted_ttl,
            remaining_ttl: lease.remaining_ttl,
        };
        self.store.side_put(Side::Lease, lease_key(id), stored.encode_to_vec().into());
    }

    fn alarm(&mut self, request: &AlarmRequest) -> Outcome {
        let alarm = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let reply = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => Ok(self.alarms.list(request.alarm)),
            Ok(AlarmAction::Activate) if request.alarm == AlarmType::None as i32 => Ok(Vec::new()),
            Ok(AlarmAction::Activate) => Ok(self.alarms.activate(alarm, &mut self.store)),
            Ok(AlarmAction::Deactivate) => Ok(self.alarms.deactivate(&alarm, &mut self.store)),
            Err(_) => Err(Error::InvalidAlarmAction),
        };
        Outcome::new(reply.map(Reply::Alarm))
    }
}

fn lease_key(id: LeaseId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

/// A header with just a revision; the API layer adds who answered.
pub(crate) fn header(revision: Revision) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision: revision.0, ..ResponseHeader::default() })
}
