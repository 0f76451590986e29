//! Keys: range, put, delete, transactions, compaction.

use super::{Receiving, Services, Stream};
use crate::api::status;
use crate::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
    kv_server::Kv,
};
use tonic::{Request, Response, Status};

/// Messages of a streamed range that wait for the client to read.
const STREAM_AHEAD: usize = 4;

#[tonic::async_trait]
impl Kv for Services {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let mut response = self.handle.range(request.get_ref()).await.map_err(status)?;
        response.header = self.signed(response.header);
        Ok(Response::new(response))
    }

    type RangeStreamStream = Stream<RangeStreamResponse>;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let mut pieces = self.handle.range_stream(request.get_ref()).await.map_err(status)?;
        let (sender, receiver) = tokio::sync::mpsc::channel(STREAM_AHEAD);
        let handle = self.handle.clone();
        self.handle.spawn(Box::pin(async move {
            loop {
                let piece = match pieces.next() {
                    Ok(Some(piece)) => piece,
                    Ok(None) => return,
                    Err(error) => {
                        let _ = sender.send(Err(status(error))).await;
                        return;
                    }
                };
                let mut response = RangeResponse { kvs: piece.kvs, ..RangeResponse::default() };
                if let Some((more, count, revision)) = piece.end {
                    // Only the last piece says what concerns the whole.
                    response.header = Some(super::sign(&handle, revision.0));
                    (response.more, response.count) = (more, count);
                }
                let message = RangeStreamResponse { range_response: Some(response) };
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        }));
        Ok(Response::new(Box::pin(Receiving(receiver))))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let mut response = self.handle.put(request.into_inner()).await.map_err(status)?;
        response.header = self.signed(response.header);
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let mut response = self.handle.delete_range(request.into_inner()).await.map_err(status)?;
        response.header = self.signed(response.header);
        Ok(Response::new(response))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let mut response = self.handle.txn(request.into_inner()).await.map_err(status)?;
        response.header = self.signed(response.header);
        Ok(Response::new(response))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let revision = self.handle.compact(request.into_inner()).await.map_err(status)?;
        let header = Some(super::sign(&self.handle, revision.0));
        Ok(Response::new(CompactionResponse { header }))
    }
}
