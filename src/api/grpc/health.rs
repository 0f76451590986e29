//! The standard health service. etcd registers the empty service name only, always serving.

use super::{Receiving, Services, Stream};
use crate::proto::health::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health,
};
use crate::server::stopped;
use tonic::{Request, Response, Status};

fn serving() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::Serving as i32 }
}

#[tonic::async_trait]
impl Health for Services {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if request.get_ref().service.is_empty() {
            Ok(Response::new(serving()))
        } else {
            Err(Status::not_found("unknown service"))
        }
    }

    type WatchStream = Stream<HealthCheckResponse>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut response = serving();
        if !request.get_ref().service.is_empty() {
            response.status = ServingStatus::ServiceUnknown as i32;
        }
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let mut stopping = self.stopping.clone();
        self.handle.spawn(Box::pin(async move {
            let _ = sender.send(Ok(response)).await;
            // Nothing changes until the server or the client goes.
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => {}
                () = sender.closed() => {}
            }
        }));
        Ok(Response::new(Box::pin(Receiving(receiver))))
    }
}
