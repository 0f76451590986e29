//! The front: what the API layer, or a program that embeds the server, talks to.
//!
//! Cheap to clone and free of generics: channels into the loops and read views. Each call
//! validates, checks what can be checked without the log (quota, backlog), and either reads
//! locally, or asks for a linearizable read point first, or proposes and waits for the outcome.

use super::apply_loop::{Answer, Query};
use super::hub_loop::HubInput;
use super::lease_loop::LeaseInput;
use super::node_loop::{Input, ORIGIN_BYTES, Proposal};
use super::peer_calls;
use super::snapshots::{self, Chunk};
use super::status::Status;
use super::validate::{self, cost};
use crate::apply::{self, Reply};
use crate::env::{Clock, Env};
use crate::lease::Lease;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest,
    DeleteRangeResponse, LeaseGrantRequest, LeaseTimeToLiveResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, TxnRequest, TxnResponse, alarm_request::AlarmAction,
};
use crate::proto::log::{Command, LeaseRevoke, command::Request};
use crate::store::{HashKv, RangeChunk, RangeStream, ReadError, Reader, Sizes, SnapshotSource};
use crate::transport::TransportHandle;
use crate::types::{ClusterId, Error, LeaseId, MemberId, Result, Revision, limits};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Limits and identity a handle needs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub member: MemberId,
    pub cluster: ClusterId,
    pub election: Duration,
    pub heartbeat: Duration,
    pub txn_ops_max: usize,
    pub request_bytes_max: usize,
    /// Bytes; `None` = no quota.
    pub quota_bytes: Option<u64>,
}

/// Time, boxed so that the handle needs no generics.
type Timer = Arc<dyn Fn(Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Told that the store's disk failed or gave back what was never written: the node must stop.
pub(super) type Damage = Arc<dyn Fn(String) + Send + Sync>;

struct Inner {
    settings: Settings,
    node: mpsc::Sender<Input>,
    queries: mpsc::Sender<Query>,
    hub: mpsc::Sender<HubInput>,
    leases: mpsc::Sender<LeaseInput>,
    status: Arc<Status>,
    reader: Reader,
    transport: TransportHandle,
    damage: Damage,
    spawn: Spawner,
    read_chunks: ChunkReader,
    /// Marks a rare place as reached.
    mark: Arc<dyn Fn(&'static str) + Send + Sync>,
    now: Arc<dyn Fn() -> Duration + Send + Sync>,
    sleep: Timer,
    next_id: AtomicU64,
    next_stream: AtomicU64,
    lease_ids: AtomicU64,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Spawner = Arc<dyn Fn(Task) + Send + Sync>;
type Chunks = mpsc::Receiver<std::result::Result<Chunk, String>>;
type ChunkReader = Arc<dyn Fn(SnapshotSource) -> Chunks + Send + Sync>;

/// See the module.
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

/// The loops' doors, for [`Handle::new`].
pub(super) struct Doors {
    pub node: mpsc::Sender<Input>,
    pub queries: mpsc::Sender<Query>,
    pub hub: mpsc::Sender<HubInput>,
    pub leases: mpsc::Sender<LeaseInput>,
}

impl Handle {
    pub(super) fn new<E: Env>(
        env: &E,
        settings: Settings,
        doors: Doors,
        status: Arc<Status>,
        reader: Reader,
        transport: TransportHandle,
        damage: Damage,
    ) -> Handle {
        let (for_now, for_sleep) = (env.clone(), env.clone());
        let (for_spawn, for_chunks, for_mark) = (env.clone(), env.clone(), env.clone());
        // etcd's layout: two bytes of the member, five of the time, one counter. It keeps ids
        // of different members and of restarts apart.
        let millis = env.clock().wall().duration_since(std::time::UNIX_EPOCH);
        let millis = millis.map_or_else(|_| env.random(), |since| since.as_millis() as u64);
        let first = (settings.member.0 << 48) | ((millis << 8) & 0xffff_ffff_ff00);
        Handle(Arc::new(Inner {
            settings,
            node: doors.node,
            queries: doors.queries,
            hub: doors.hub,
            leases: doors.leases,
            status,
            reader,
            transport,
            damage,
            spawn: Arc::new(move |task| for_spawn.spawn(task)),
            read_chunks: Arc::new(move |source| snapshots::read(&for_chunks, source)),
            mark: Arc::new(move |place| for_mark.mark(place)),
            now: Arc::new(move || for_now.clock().now()),
            sleep: Arc::new(move |duration| Box::pin(for_sleep.clock().sleep(duration))),
            next_id: AtomicU64::new(env.random()),
            next_stream: AtomicU64::new(1),
            lease_ids: AtomicU64::new(first),
        }))
    }

    /// Identity and limits.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Published numbers.
    pub fn status(&self) -> &Status {
        &self.0.status
    }

    /// The store's revision now.
    pub fn revision(&self) -> Revision {
        self.read(self.0.reader.revision()).unwrap_or_default()
    }

    /// How big the store is.
    pub fn sizes(&self) -> Sizes {
        self.read(self.0.reader.sizes()).unwrap_or_default()
    }

    /// Takes a reading of the store apart: a refusal is the client's affair, a failure the end
    /// of this node.
    fn read<T, F: Into<ReadError>>(&self, result: std::result::Result<T, F>) -> Result<T> {
        result.map_err(|error| match error.into() {
            ReadError::Refused(error) => {
                if error == Error::Compacted {
                    self.mark("read: of what is compacted");
                }
                error
            }
            ReadError::Failed(error) => {
                (self.0.damage)(error.to_string());
                Error::Stopped
            }
        })
    }

    /// Runs a task on the server's environment.
    pub(crate) fn spawn(&self, task: Task) {
        (self.0.spawn)(task);
    }

    /// Marks a rare place as reached.
    pub(super) fn mark(&self, place: &'static str) {
        (self.0.mark)(place);
    }

    /// How long a request may take.
    pub fn timeout(&self) -> Duration {
        limits::request_timeout(self.0.settings.election)
    }

    pub(crate) fn now(&self) -> Duration {
        (self.0.now)()
    }

    pub(crate) fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        (self.0.sleep)(duration)
    }

    // ---- the two ways to agree ----

    /// Puts a command into the log and waits until it is applied here.
    pub(crate) async fn propose(&self, request: Request) -> Result<Answer> {
        let inner = &*self.0;
        let id = inner.next_id.fetch_add(1, Relaxed);
        let command = Command { request: Some(request) };
        let length = command.encoded_len();
        if length > inner.settings.request_bytes_max {
            self.mark("request: too large");
            return Err(Error::RequestTooLarge);
        }
        let mut data = BytesMut::with_capacity(ORIGIN_BYTES + length);
        data.put_u64_le(inner.settings.member.0);
        data.put_u64_le(id);
        command.encode(&mut data).expect("the buffer grows");
        let (reply, answer) = oneshot::channel();
        let deadline = self.now() + self.timeout();
        let proposal = Proposal { id, data: data.freeze(), reply, deadline };
        self.tell_node(Input::Propose(proposal)).await?;
        answer.await.unwrap_or(Err(Error::Stopped))
    }

    /// Returns once the store holds everything that was committed in the cluster when this was
    /// called: a read of the store then is linearizable.
    pub async fn read_index(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.tell_node(Input::Read(reply)).await?;
        answer.await.unwrap_or(Err(Error::Stopped))
    }

    async fn tell_node(&self, input: Input) -> Result<()> {
        self.0.node.send(input).await.map_err(|_| Error::Stopped)
    }

    async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.0.queries.send(query(reply)).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)
    }

    async fn ask_leases<T>(
        &self,
        input: impl FnOnce(oneshot::Sender<T>) -> LeaseInput,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.0.leases.send(input(reply)).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)
    }

    // ---- keys ----

    /// Reads pairs.
    pub async fn range(&self, request: &RangeRequest) -> Result<RangeResponse> {
        validate::range(request)?;
        if !request.serializable {
            self.read_index().await?;
        }
        let found = self.read(self.0.reader.range(&apply::range_query(request)))?;
        Ok(RangeResponse {
            header: apply::header(found.revision),
            kvs: found.kvs,
            more: found.more,
            count: found.count,
        })
    }

    /// Reads pairs piece by piece, all at one revision.
    pub(crate) async fn range_stream(&self, request: &RangeRequest) -> Result<RangePieces> {
        validate::range_stream(request)?;
        if !request.serializable {
            self.read_index().await?;
        }
        let stream = self.read(self.0.reader.stream(apply::range_query(request)))?;
        Ok(RangePieces {
            handle: self.clone(),
            stream,
            keys: FIRST_PIECE_KEYS,
            bytes_aim: self.0.settings.request_bytes_max,
        })
    }

    /// Writes a pair.
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse> {
        validate::put(&request)?;
        self.check_quota(cost::put(&request)).await?;
        match self.propose(Request::Put(request)).await? {
            Reply::Put(response) => Ok(response),
            other => unreachable!("a put was answered with {other:?}"),
        }
    }

    /// Deletes pairs.
    pub async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse> {
        validate::delete_range(&request)?;
        match self.propose(Request::DeleteRange(request)).await? {
            Reply::DeleteRange(response) => Ok(response),
            other => unreachable!("a delete was answered with {other:?}"),
        }
    }

    /// Runs a transaction.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse> {
        validate::txn(&request, self.0.settings.txn_ops_max).inspect_err(|error| {
            if *error == Error::DuplicateKey {
                self.mark("request: a transaction that puts a key twice");
            }
        })?;
        if !apply::is_write(&request) {
            if !validate::is_serializable(&request) {
                self.read_index().await?;
            }
            return self.read(apply::read_only_txn(&self.0.reader.read(), &request));
        }
        self.check_quota(cost::txn(&request)).await?;
        match self.propose(Request::Txn(request)).await? {
            Reply::Txn(response) => Ok(response),
            other => unreachable!("a transaction was answered with {other:?}"),
        }
    }

    /// Forgets history; returns the current revision.
    pub async fn compact(&self, request: CompactionRequest) -> Result<Revision> {
        match self.propose(Request::Compaction(request)).await? {
            Reply::Compaction(now) => {
                if request.physical {
                    let revision = Revision(request.revision);
                    self.ask(|reply| Query::PhysicalCompaction(revision, reply)).await?;
                }
                Ok(now)
            }
            other => unreachable!("a compaction was answered with {other:?}"),
        }
    }

    /// Refuses what the quota has no room for, and raises the alarm that tells everybody.
    async fn check_quota(&self, cost: usize) -> Result<()> {
        if cost == 0 {
            return Ok(());
        }
        if self.0.status.disk_is_full() {
            self.mark("quota: refused for a full disk");
            return Err(Error::NoSpace);
        }
        let Some(quota) = self.0.settings.quota_bytes else { return Ok(()) };
        let live_bytes = self.sizes().retained_bytes;
        if live_bytes + (cost as u64) < quota {
            return Ok(());
        }
        self.mark("quota: refused");
        let raised = self.0.status.alarms().is_raised(AlarmType::Nospace);
        if !raised {
            self.mark("quota: raises the alarm");
            tracing::warn!(
                "quota-size-bytes" = quota,
                "live-bytes" = live_bytes,
                "database space exceeded: raising the NOSPACE alarm; compact and delete, then disarm it"
            );
            self.alarm(AlarmRequest {
                action: AlarmAction::Activate as i32,
                member_id: self.0.settings.member.0,
                alarm: AlarmType::Nospace as i32,
            })
            .await?;
        }
        Err(Error::NoSpace)
    }

    // ---- leases ----

    /// Grants a lease; returns its id and TTL. Short TTLs are raised to what an election takes.
    pub async fn lease_grant(&self, request: LeaseGrantRequest) -> Result<(LeaseId, i64)> {
        self.check_quota(cost::lease_grant()).await?;
        if request.ttl > limits::LEASE_TTL_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        let ttl = request.ttl.max(self.lease_ttl_min());
        let id = if request.id == 0 { self.next_lease_id() } else { request.id };
        match self.propose(Request::LeaseGrant(LeaseGrantRequest { id, ttl })).await? {
            Reply::LeaseGrant { id, ttl } => Ok((id, ttl)),
            other => unreachable!("a grant was answered with {other:?}"),
        }
    }

    /// Seconds: a lease must outlive one and a half elections (etcd: minLeaseTTL).
    fn lease_ttl_min(&self) -> i64 {
        let settings = &self.0.settings;
        let ticks = (settings.election.as_millis() / settings.heartbeat.as_millis().max(1)) as i64;
        let milliseconds = (3 * ticks / 2) * settings.heartbeat.as_millis() as i64;
        (milliseconds + 999) / 1000
    }

    fn next_lease_id(&self) -> i64 {
        loop {
            let id = (self.0.lease_ids.fetch_add(1, Relaxed) & i64::MAX as u64) as i64;
            if id != 0 {
                return id;
            }
        }
    }

    /// Ends a lease and deletes its keys.
    pub async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        let revoke = LeaseRevoke { ids: vec![id.0], expired_in_term: 0 };
        match self.propose(Request::LeaseRevoke(revoke)).await? {
            Reply::LeaseRevoke => Ok(()),
            other => unreachable!("a revoke was answered with {other:?}"),
        }
    }

    /// Renews a lease, here or at the leader; returns its TTL, 0 if there is no such lease.
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64> {
        let deadline = self.now() + self.timeout();
        loop {
            let leadership = self.0.status.leadership();
            let renewed = if leadership.leading {
                self.keep_alive_here(id).await
            } else if leadership.leader == MemberId(0) {
                Err(Error::NoLeader)
            } else {
                peer_calls::keep_alive(&self.0.transport, leadership.leader, id, self.timeout())
                    .await
            };
            match renewed {
                // Leadership is moving: it will be somewhere soon.
                Err(Error::NotLeader | Error::NoLeader) if self.now() < deadline => {
                    self.mark("lease: renewal looks for the leader");
                    self.sleep(self.0.settings.heartbeat / 2).await;
                }
                Err(Error::NotLeader) => return Err(Error::Timeout),
                other => return other,
            }
        }
    }

    /// Renews a lease as the leader.
    ///
    /// # Errors
    /// [`Error::NotLeader`] if we are not, or cannot be sure to be.
    pub(crate) async fn keep_alive_here(&self, id: LeaseId) -> Result<i64> {
        self.be_sure_to_lead().await?;
        match self.ask_leases(|reply| LeaseInput::KeepAlive(id, reply)).await?? {
            0 => {
                // Perhaps its grant is committed but not applied here yet.
                self.mark("lease: renewal makes sure");
                self.read_index().await?;
                self.ask_leases(|reply| LeaseInput::KeepAlive(id, reply)).await?
            }
            ttl => Ok(ttl),
        }
    }

    /// A process that was stopped for a while may believe it leads when it does not. Check-quorum
    /// ends that belief within an election timeout of running, so only a stale tick makes it
    /// necessary to ask.
    async fn be_sure_to_lead(&self) -> Result<()> {
        if !self.0.status.leadership().leading {
            return Err(Error::NotLeader);
        }
        if self.now() > self.0.status.ticked() + self.0.settings.election {
            self.mark("lease: a leader that slept asks whether it leads");
            self.read_index().await?;
        }
        Ok(())
    }

    /// Seconds left, seconds granted, and the keys when asked for; a TTL of -1 says there is no
    /// such lease.
    pub async fn lease_time_to_live(
        &self,
        id: LeaseId,
        keys: bool,
    ) -> Result<LeaseTimeToLiveResponse> {
        let deadline = self.now() + self.timeout();
        loop {
            let leadership = self.0.status.leadership();
            let told = if leadership.leading {
                self.time_to_live_here(id, keys).await
            } else if leadership.leader == MemberId(0) {
                Err(Error::NoLeader)
            } else {
                let timeout = self.timeout();
                let leader = leadership.leader;
                peer_calls::time_to_live(&self.0.transport, leader, id, keys, timeout).await
            };
            match told {
                Err(Error::NotLeader | Error::NoLeader) if self.now() < deadline => {
                    self.sleep(self.0.settings.heartbeat / 2).await;
                }
                Err(Error::NotLeader) => return Err(Error::LeaderChanged),
                other => return other,
            }
        }
    }

    /// The same, as the leader.
    pub(crate) async fn time_to_live_here(
        &self,
        id: LeaseId,
        keys: bool,
    ) -> Result<LeaseTimeToLiveResponse> {
        self.read_index().await?;
        let times = self.ask_leases(|reply| LeaseInput::TimeToLive(id, reply)).await??;
        let mut response = LeaseTimeToLiveResponse { id: id.0, ttl: -1, ..Default::default() };
        let Some((left, granted)) = times else { return Ok(response) };
        (response.ttl, response.granted_ttl) = (left, granted);
        if keys {
            let lease: Option<Lease> = self.ask(|reply| Query::Lease(id, reply)).await?;
            response.keys.extend(lease.into_iter().flat_map(|lease| lease.keys));
        }
        Ok(response)
    }

    /// Ids of the leases this member knows of.
    pub async fn lease_list(&self) -> Result<Vec<LeaseId>> {
        self.ask_leases(LeaseInput::List).await
    }

    // ---- maintenance ----

    /// Reads, raises or disarms alarms.
    pub async fn alarm(&self, request: AlarmRequest) -> Result<Vec<AlarmMember>> {
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => return Ok(self.0.status.alarms().list(request.alarm)),
            Ok(AlarmAction::Activate | AlarmAction::Deactivate) => {}
            Err(_) => return Err(Error::InvalidAlarmAction),
        }
        match self.propose(Request::Alarm(request)).await? {
            Reply::Alarm(alarms) => Ok(alarms),
            other => unreachable!("an alarm was answered with {other:?}"),
        }
    }

    /// Hands leadership to `target` and waits until it leads.
    pub async fn move_leader(&self, target: MemberId) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.tell_node(Input::Transfer { target, reply }).await?;
        answer.await.unwrap_or(Err(Error::Stopped))
    }

    /// A snapshot of what is applied now, to be streamed while the server goes on.
    pub async fn snapshot(&self) -> Result<SnapshotSource> {
        self.ask(Query::Snapshot).await
    }

    /// Brings the store's file in order, while serving.
    pub async fn defragment(&self) -> Result<()> {
        if self.ask(Query::Defragment).await? { Ok(()) } else { Err(Error::DefragmentFailed) }
    }

    /// CRC-32C of the keys at a revision, as etcd computes it; 0 = the current one.
    pub async fn hash_kv(&self, revision: Revision) -> Result<HashKv> {
        self.ask(Query::Hashed).await?;
        self.read(self.0.reader.hash_kv(revision))
    }

    /// CRC-32C of the whole replicated state.
    pub fn hash(&self) -> Result<u32> {
        self.read(self.0.reader.hash())
    }

    /// The pieces of a snapshot, read as fast as they are taken.
    pub(crate) fn snapshot_chunks(&self, source: SnapshotSource) -> Chunks {
        (self.0.read_chunks)(source)
    }

    // ---- watch ----

    pub(crate) fn next_stream_id(&self) -> u64 {
        self.0.next_stream.fetch_add(1, Relaxed)
    }

    pub(crate) async fn tell_hub(&self, input: HubInput) -> Result<()> {
        self.0.hub.send(input).await.map_err(|_| Error::Stopped)
    }

    pub(crate) fn try_tell_hub(&self, input: HubInput) -> bool {
        self.0.hub.try_send(input).is_ok()
    }
}

impl Handle {
    /// A member's address book entry of its own, proposed at each start.
    pub(super) async fn publish_member(
        &self,
        name: String,
        client_urls: Vec<String>,
    ) -> Result<()> {
        let attributes = crate::proto::log::MemberAttributes {
            member_id: self.0.settings.member.0,
            name,
            client_urls,
        };
        self.propose(Request::MemberAttributes(attributes)).await.map(drop)
    }

    /// Sets what all members speak, as the first leader does.
    pub(super) async fn set_cluster_version(&self, version: &str) -> Result<()> {
        let version = crate::proto::log::ClusterVersion { version: version.to_owned() };
        self.propose(Request::ClusterVersion(version)).await.map(drop)
    }
}

/// Pairs in the first piece of a streamed range.
const FIRST_PIECE_KEYS: usize = 10;

/// A range in pieces that grow and shrink towards the size of the largest request.
pub(crate) struct RangePieces {
    handle: Handle,
    stream: RangeStream,
    keys: usize,
    bytes_aim: usize,
}

impl RangePieces {
    /// The next piece; `None` behind the last one.
    pub(crate) fn next(&mut self) -> Result<Option<RangeChunk>> {
        let piece = self.handle.read(self.stream.next(self.keys))?;
        if let Some(piece) = &piece {
            let bytes: usize = piece.kvs.iter().map(Bytes::len).sum();
            if bytes < self.bytes_aim / 2 {
                self.keys = (self.keys * 2).min(PIECE_KEYS_MAX);
            } else if bytes > self.bytes_aim * 2 {
                self.keys = (self.keys / 2).max(1);
            }
        }
        Ok(piece)
    }
}

/// Pairs in any piece of a streamed range.
const PIECE_KEYS_MAX: usize = 100_000;
