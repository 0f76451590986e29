//! Leases.

use super::{Receiving, Services, Stream};
use crate::api::status;
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, lease_server::Lease,
};
use crate::server::stopped;
use crate::types::LeaseId;
use tonic::{Request, Response, Status, Streaming};

/// Answers to renewals that wait for the client to read.
const STREAM_AHEAD: usize = 64;

#[tonic::async_trait]
impl Lease for Services {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let (id, ttl) = self.handle.lease_grant(request.into_inner()).await.map_err(status)?;
        let header = self.header();
        Ok(Response::new(LeaseGrantResponse { header, id: id.0, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let id = LeaseId(request.into_inner().id);
        self.handle.lease_revoke(id).await.map_err(status)?;
        Ok(Response::new(LeaseRevokeResponse { header: self.header() }))
    }

    type LeaseKeepAliveStream = Stream<LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let mut requests = request.into_inner();
        let (sender, receiver) = tokio::sync::mpsc::channel(STREAM_AHEAD);
        let handle = self.handle.clone();
        let mut stopping = self.stopping.clone();
        self.handle.spawn(Box::pin(async move {
            loop {
                let request = tokio::select! {
                    biased;
                    () = stopped(&mut stopping) => return,
                    request = requests.message() => request,
                };
                let id = match request {
                    Ok(Some(request)) => request.id,
                    // The client is done, or gone.
                    Ok(None) | Err(_) => return,
                };
                // The header is older than the renewal, as etcd's is.
                let header = Some(super::sign(&handle, handle.revision().0));
                let response = match handle.lease_keep_alive(LeaseId(id)).await {
                    Ok(ttl) => Ok(LeaseKeepAliveResponse { header, id, ttl }),
                    Err(error) => Err(status(error)),
                };
                let failed = response.is_err();
                if sender.send(response).await.is_err() || failed {
                    return;
                }
            }
        }));
        Ok(Response::new(Box::pin(Receiving(receiver))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        let id = LeaseId(request.id);
        let told = self.handle.lease_time_to_live(id, request.keys).await.map_err(status)?;
        Ok(Response::new(LeaseTimeToLiveResponse { header: self.header(), ..told }))
    }

    async fn lease_leases(
        &self,
        _request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let ids = self.handle.lease_list().await.map_err(status)?;
        let leases = ids.into_iter().map(|id| LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: self.header(), leases }))
    }
}
