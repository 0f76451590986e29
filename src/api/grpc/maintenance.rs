//! Looking after a member.

use super::{Receiving, Services, Stream};
use crate::api::plain::ETCD_VERSION;
use crate::api::status;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeInfo, DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest,
    HashResponse, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse, maintenance_server::Maintenance,
};
use crate::types::{Error, MemberId, Revision, limits};
use tonic::{Request, Response, Status};

/// Pieces of a snapshot that wait for the client to read.
const STREAM_AHEAD: usize = 4;

#[tonic::async_trait]
impl Maintenance for Services {
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let alarms = self.handle.alarm(request.into_inner()).await.map_err(status)?;
        Ok(Response::new(AlarmResponse { header: self.header(), alarms }))
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let known = self.handle.status();
        let leadership = known.leadership();
        let mut errors = Vec::new();
        if leadership.leader == MemberId(0) {
            errors.push("etcdserver: no leader".to_owned());
        }
        errors.extend(known.alarms().list(AlarmType::None as i32).iter().map(alarm_text));
        let sizes = self.handle.sizes();
        let quota = self.handle.settings().quota_bytes;
        let cluster_version = known.cluster_version();
        Ok(Response::new(StatusResponse {
            header: self.header(),
            version: ETCD_VERSION.to_owned(),
            db_size: sizes.file_bytes as i64,
            leader: leadership.leader.0,
            raft_index: known.committed().0,
            raft_term: leadership.term.0,
            raft_applied_index: known.applied().0,
            errors,
            db_size_in_use: sizes.in_use_bytes as i64,
            is_learner: false,
            storage_version: cluster_version.to_string(),
            db_size_quota: quota.map_or(limits::QUOTA_BYTES_DEFAULT, |bytes| bytes as i64),
            downgrade_info: Some(DowngradeInfo::default()),
        }))
    }

    async fn defragment(
        &self,
        _request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        self.handle.defragment().await.map_err(status)?;
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, _request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let hash = self.handle.hash().map_err(status)?;
        Ok(Response::new(HashResponse { header: self.header(), hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        let revision = Revision(request.get_ref().revision);
        let found = self.handle.hash_kv(revision).await.map_err(status)?;
        Ok(Response::new(HashKvResponse {
            header: self.header(),
            hash: found.hash,
            compact_revision: found.compact_revision.0,
            hash_revision: found.hash_revision.0,
        }))
    }

    type SnapshotStream = Stream<SnapshotResponse>;

    async fn snapshot(
        &self,
        _request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let source = self.handle.snapshot().await.map_err(status)?;
        tracing::info!("total-bytes" = source.total_bytes(), "sending database snapshot to client");
        let version = self.handle.status().cluster_version().to_string();
        let (sender, receiver) = tokio::sync::mpsc::channel(STREAM_AHEAD);
        let handle = self.handle.clone();
        self.handle.spawn(Box::pin(async move {
            let mut chunks = handle.snapshot_chunks(source);
            while let Some(chunk) = chunks.recv().await {
                let message = match chunk {
                    Ok(chunk) => Ok(SnapshotResponse {
                        header: None,
                        remaining_bytes: chunk.remaining_bytes,
                        blob: chunk.bytes,
                        version: version.clone(),
                    }),
                    Err(error) => Err(Status::unknown(format!("the snapshot broke off: {error}"))),
                };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
            tracing::info!("successfully sent database snapshot to client");
        }));
        Ok(Response::new(Box::pin(Receiving(receiver))))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let target = MemberId(request.get_ref().target_id);
        self.handle.move_leader(target).await.map_err(status)?;
        Ok(Response::new(MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        _request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        Err(status(Error::Unsupported))
    }
}

fn alarm_text(alarm: &AlarmMember) -> String {
    match AlarmType::try_from(alarm.alarm) {
        Ok(kind) => format!("memberID:{} alarm:{}", alarm.member_id, kind.as_str_name()),
        Err(_) => format!("memberID:{} alarm:{}", alarm.member_id, alarm.alarm),
    }
}
