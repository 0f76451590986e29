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

use crate::lease::Lessor;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, CompactionRequest, DeleteRangeResponse,
    LeaseCheckpointRequest, LeaseGrantRequest, PutResponse, ResponseHeader, TxnResponse,
    alarm_request::AlarmAction,
};
use crate::proto::log::{Command, LeaseRevoke, StoredLease, command::Request};
use crate::store::{CompactionHash, Finished, ReadError, Restored, Side, Store, StoreError, Write};
use crate::types::{Error, Index, KeyRange, LeaseId, Revision, Term};
use prost::Message as _;

/// What a client that waits for an entry is told; headers carry the revision only.
#[derive(Debug)]
pub enum Reply {
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    /// Compacted logically; space is freed later.
    Compaction(Revision),
    LeaseGrant {
        id: LeaseId,
        ttl: i64,
    },
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
    pub reply: Result<Reply, Error>,
    /// Revisions that changed keys, in order.
    pub finished: Vec<Finished>,
    pub leases: Vec<LeaseChange>,
    /// The store was compacted to this revision; members compare the checksum of what remains.
    pub compacted: Option<(Revision, CompactionHash)>,
    /// The list of members changed.
    pub members_changed: bool,
}

impl Outcome {
    fn refused(error: Error) -> Outcome {
        Outcome { reply: Err(error), ..Outcome::new(Reply::Done) }
    }

    fn new(reply: Reply) -> Outcome {
        Outcome {
            reply: Ok(reply),
            finished: Vec::new(),
            leases: Vec::new(),
            compacted: None,
            members_changed: false,
        }
    }
}

/// The state all members share.
pub struct State {
    pub store: Store,
    pub lessor: Lessor,
    pub alarms: Alarms,
    pub members: Members,
    /// For example `3.7.0`; empty until the first leader has set it.
    pub cluster_version: String,
}

/// Fails only with this member's disk.
type Fallible<T> = std::result::Result<T, StoreError>;

const CLUSTER_VERSION: &[u8] = b"cluster-version";

impl State {
    /// The state a store holds.
    ///
    /// # Errors
    /// If the store cannot be read or holds what we never wrote.
    pub fn restore(store: Store, restored: &Restored) -> Fallible<State> {
        let mut state = State {
            store,
            lessor: Lessor::default(),
            alarms: Alarms::default(),
            members: Members::default(),
            cluster_version: String::new(),
        };
        state.reload(restored)?;
        Ok(state)
    }

    /// Takes everything from the store again, after that was replaced.
    ///
    /// # Errors
    /// As [`State::restore`].
    pub fn reload(&mut self, restored: &Restored) -> Fallible<()> {
        let store = &self.store;
        let mut lessor = Lessor::default();
        for (_, value) in store.side_scan(Side::Lease)? {
            let lease = StoredLease::decode(value).map_err(|error| unreadable("lease", &error))?;
            lessor.restore(LeaseId(lease.id), lease.granted_ttl, lease.remaining_ttl);
        }
        for (key, lease) in &restored.leased {
            lessor.attach(key, *lease);
        }
        self.alarms = Alarms::restore(store.side_scan(Side::Alarm)?)?;
        self.members = Members::restore(store.side_scan(Side::Member)?)?;
        let version = store.side_scan(Side::Cluster)?.remove(CLUSTER_VERSION);
        let cluster_version = version.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        self.cluster_version = cluster_version.into_owned();
        self.lessor = lessor;
        Ok(())
    }

    /// Applies one entry; `None` is a leader's no-op.
    ///
    /// # Errors
    /// The store failed: this member must not go on.
    pub fn apply(
        &mut self,
        index: Index,
        term: Term,
        command: Option<Command>,
    ) -> Fallible<Outcome> {
        let mut outcome = match command.and_then(|command| command.request) {
            Some(request) => self.request(term, request)?,
            None => Outcome::new(Reply::Done),
        };
        if let Err(error) = &outcome.reply {
            assert!(
                error.is_deterministic(),
                "entry {index} was refused for a local reason: {error}"
            );
        }
        outcome.finished.retain(|finished| !finished.changes.is_empty());
        self.store.set_applied(index, term);
        Ok(outcome)
    }

    fn request(&mut self, term: Term, request: Request) -> Fallible<Outcome> {
        if let Some(error) = self.alarms.refuse(&request) {
            return Ok(Outcome::refused(error));
        }
        match request {
            Request::Put(request) => self.write(|write, lessor| {
                txn::check_put(write, lessor, &request)?;
                txn::put(write, lessor, &request).map(Reply::Put)
            }),
            Request::DeleteRange(request) => self.write(|write, lessor| {
                txn::delete_range(write, lessor, &request).map(Reply::DeleteRange)
            }),
            Request::Txn(request) => {
                self.write(|write, lessor| txn::txn(write, lessor, &request).map(Reply::Txn))
            }
            Request::Compaction(request) => self.compaction(&request),
            Request::LeaseGrant(request) => self.lease_grant(&request),
            Request::LeaseRevoke(request) => self.lease_revoke(&request, term),
            Request::LeaseCheckpoint(request) => self.lease_checkpoint(&request),
            Request::Alarm(request) => self.alarm(&request),
            Request::MemberAttributes(request) => {
                self.members.set_attributes(&request, &mut self.store)?;
                Ok(Outcome { members_changed: true, ..Outcome::new(Reply::Done) })
            }
            Request::ClusterVersion(request) => {
                self.store.side_put(Side::Cluster, CLUSTER_VERSION, request.version.as_bytes())?;
                self.cluster_version = request.version;
                Ok(Outcome::new(Reply::Done))
            }
        }
    }

    /// Runs a request that changes keys in one revision, or is refused before it changes any.
    fn write(
        &mut self,
        run: impl FnOnce(&mut Write<'_>, &mut Lessor) -> Result<Reply, ReadError>,
    ) -> Fallible<Outcome> {
        let mut write = self.store.write()?;
        match run(&mut write, &mut self.lessor) {
            Ok(reply) => {
                let finished = vec![write.finish()];
                Ok(Outcome { finished, ..Outcome::new(reply) })
            }
            Err(ReadError::Refused(error)) => {
                assert!(!write.has_changed(), "refused with {error} after it had changed keys");
                Ok(Outcome::refused(error))
            }
            Err(ReadError::Failed(error)) => Err(error),
        }
    }

    fn compaction(&mut self, request: &CompactionRequest) -> Fallible<Outcome> {
        let revision = Revision(request.revision);
        let hash = self.store.compaction_hash(revision)?;
        match self.store.compact(revision)? {
            Ok(()) => {
                let reply = Reply::Compaction(self.store.reader().revision()?);
                Ok(Outcome { compacted: Some((revision, hash)), ..Outcome::new(reply) })
            }
            Err(error) => Ok(Outcome::refused(error)),
        }
    }

    fn lease_grant(&mut self, request: &LeaseGrantRequest) -> Fallible<Outcome> {
        let (id, ttl) = (LeaseId(request.id), request.ttl);
        if let Err(error) = self.lessor.grant(id, ttl) {
            return Ok(Outcome::refused(error));
        }
        self.store_lease(id)?;
        let leases = vec![LeaseChange::Granted { id, ttl }];
        Ok(Outcome { leases, ..Outcome::new(Reply::LeaseGrant { id, ttl }) })
    }

    fn lease_revoke(&mut self, request: &LeaseRevoke, term: Term) -> Fallible<Outcome> {
        let mut outcome = Outcome::new(Reply::LeaseRevoke);
        if request.expired_in_term != 0 && request.expired_in_term != term.0 {
            // The leader that saw them expire was deposed before this was committed.
            return Ok(outcome);
        }
        for id in request.ids.iter().map(|&id| LeaseId(id)) {
            let Some(lease) = self.lessor.revoke(id) else {
                outcome.reply = Err(Error::LeaseNotFound);
                continue;
            };
            let mut write = self.store.write()?;
            for key in lease.keys {
                match write.delete_range(&KeyRange::single(key), false) {
                    Ok(_) => {}
                    Err(ReadError::Failed(error)) => return Err(error),
                    Err(ReadError::Refused(error)) => {
                        unreachable!("a delete of the latest revision was refused with {error}")
                    }
                }
            }
            outcome.finished.push(write.finish());
            self.store.side_delete(Side::Lease, &lease_key(id))?;
            outcome.leases.push(LeaseChange::Revoked(id));
        }
        Ok(outcome)
    }

    fn lease_checkpoint(&mut self, request: &LeaseCheckpointRequest) -> Fallible<Outcome> {
        let mut outcome = Outcome::new(Reply::Done);
        for checkpoint in &request.checkpoints {
            let (id, remaining_ttl) = (LeaseId(checkpoint.id), checkpoint.remaining_ttl);
            if self.lessor.checkpoint(id, remaining_ttl) {
                self.store_lease(id)?;
                outcome.leases.push(LeaseChange::Checkpointed { id, remaining_ttl });
            }
        }
        Ok(outcome)
    }

    fn store_lease(&mut self, id: LeaseId) -> Fallible<()> {
        let lease = self.lessor.get(id).expect("callers have just touched it");
        let stored = StoredLease {
            id: id.0,
            granted_ttl: lease.granted_ttl,
            remaining_ttl: lease.remaining_ttl,
        };
        self.store.side_put(Side::Lease, &lease_key(id), &stored.encode_to_vec())
    }

    /// All leases as `(id, TTL, checkpointed TTL)`.
    pub fn lease_list(&self) -> Vec<(LeaseId, i64, i64)> {
        let leases = self.lessor.iter();
        leases.map(|(id, lease)| (id, lease.granted_ttl, lease.remaining_ttl)).collect()
    }

    fn alarm(&mut self, request: &AlarmRequest) -> Fallible<Outcome> {
        let alarm = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let alarms = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.alarms.list(request.alarm),
            Ok(AlarmAction::Activate) if request.alarm == AlarmType::None as i32 => Vec::new(),
            Ok(AlarmAction::Activate) => self.alarms.activate(alarm, &mut self.store)?,
            Ok(AlarmAction::Deactivate) => self.alarms.deactivate(&alarm, &mut self.store)?,
            Err(_) => return Ok(Outcome::refused(Error::InvalidAlarmAction)),
        };
        Ok(Outcome::new(Reply::Alarm(alarms)))
    }
}

fn lease_key(id: LeaseId) -> [u8; 8] {
    id.0.to_be_bytes()
}

/// A stored row that cannot be read: its checksum was right, so we wrote it wrong.
fn unreadable(what: &str, error: &prost::DecodeError) -> StoreError {
    StoreError::Corrupt { what: error.to_string(), place: format!("a stored {what}") }
}

/// A header with just a revision; the API layer adds who answered.
pub(crate) fn header(revision: Revision) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision: revision.0, ..ResponseHeader::default() })
}
