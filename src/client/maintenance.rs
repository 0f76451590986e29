//! Looking after members and the cluster, and how streams are opened.
//!
//! Most calls here concern the member that answers: use a client with that one endpoint.

use super::error::Result;
use super::wire::{Requests, Responses, frame};
use super::{Client, method};
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::*;
use prost::Message;

impl Client {
    /// What the member says of itself.
    pub async fn status(&self) -> Result<StatusResponse> {
        self.call(&method::STATUS, &StatusRequest {}).await
    }

    /// The member's hash of its keys as of a revision; 0 is the newest.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse> {
        self.call(&method::HASH_KV, &HashKvRequest { revision }).await
    }

    /// Hands leadership to a member; to be asked of the leader.
    pub async fn move_leader(&self, target_id: u64) -> Result<MoveLeaderResponse> {
        self.call(&method::MOVE_LEADER, &MoveLeaderRequest { target_id }).await
    }

    /// The alarms raised on any member. It only reads, so it is sent again like a read.
    pub async fn alarms(&self) -> Result<AlarmResponse> {
        let request = AlarmRequest { action: AlarmAction::Get as i32, ..Default::default() };
        self.call(&method::ALARM.repeatable_if(true), &request).await
    }

    /// Raises or clears an alarm.
    pub async fn alarm(
        &self,
        action: AlarmAction,
        member_id: u64,
        alarm: AlarmType,
    ) -> Result<AlarmResponse> {
        let request = AlarmRequest { action: action as i32, member_id, alarm: alarm as i32 };
        self.call(&method::ALARM, &request).await
    }

    /// Frees the space the member's storage no longer needs. May take long: give it a deadline.
    pub async fn defragment(&self) -> Result<DefragmentResponse> {
        self.call(&method::DEFRAGMENT, &DefragmentRequest {}).await
    }

    /// A copy of the member's storage, in pieces.
    pub async fn snapshot(&self) -> Result<Responses<SnapshotResponse>> {
        self.server_stream(method::SNAPSHOT, &SnapshotRequest {}).await
    }

    /// The members, as all agree on them, or (not `linearizable`) as the one that answers sees
    /// them.
    pub async fn member_list(&self, linearizable: bool) -> Result<MemberListResponse> {
        self.call(&method::MEMBER_LIST, &MemberListRequest { linearizable }).await
    }

    pub async fn member_add(
        &self,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<MemberAddResponse> {
        let request = MemberAddRequest { peer_ur_ls: peer_urls, is_learner };
        self.call(&method::MEMBER_ADD, &request).await
    }

    pub async fn member_remove(&self, id: u64) -> Result<MemberRemoveResponse> {
        self.call(&method::MEMBER_REMOVE, &MemberRemoveRequest { id }).await
    }

    pub async fn member_update(
        &self,
        id: u64,
        peer_urls: Vec<String>,
    ) -> Result<MemberUpdateResponse> {
        let request = MemberUpdateRequest { id, peer_ur_ls: peer_urls };
        self.call(&method::MEMBER_UPDATE, &request).await
    }

    /// Makes a learner a voter.
    pub async fn member_promote(&self, id: u64) -> Result<MemberPromoteResponse> {
        self.call(&method::MEMBER_PROMOTE, &MemberPromoteRequest { id }).await
    }

    /// Opens a stream of requests and responses on the current endpoint. The deadline holds for
    /// connecting, not for the stream.
    pub(super) async fn stream<Q: Message, R: Message + Default>(
        &self,
        path: &'static str,
    ) -> Result<(Requests<Q>, Responses<R>)> {
        Ok(self.channel().await?.stream(path))
    }

    /// Sends a request whose answer is a stream.
    pub(super) async fn server_stream<R: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
    ) -> Result<Responses<R>> {
        Ok(self.channel().await?.server_stream(path, frame(request)))
    }
}
