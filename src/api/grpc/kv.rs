//! Keys: range, put, delete, transactions, compaction.

use super::{Receiving, Services, Stream};
use crate::api::status;
use crate::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
    kv_server::Kv,
};
use crate::types::Revision;
use tonic::{Request, Response, Status};

/// Keys in the first message of a streamed range.
const FIRST_CHUNK_KEYS: usize = 10;
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
        let request = request.into_inner();
        self.handle.start_range_stream(&request).await.map_err(status)?;
        let header = |revision: Revision| Some(super::sign(&self.handle, revision.0));
        let bytes_aim = self.handle.settings().request_bytes_max;
        let mut chunks = self.handle.range_chunks(&request, FIRST_CHUNK_KEYS, bytes_aim);
        // The first chunk pins the revision, so an error that concerns it is the call's answer.
        let first = chunks.next_chunk().map_err(status)?;
        let header = header(chunks.revision());
        let (sender, receiver) = tokio::sync::mpsc::channel(STREAM_AHEAD);
        self.handle.spawn(Box::pin(async move {
            let mut chunk = Ok(first);
            loop {
                let message = match chunk {
                    Ok(chunk) => {
                        let is_last = chunk.is_last;
                        let response = RangeResponse {
                            header: if is_last { header } else { None },
                            kvs: chunk.kvs,
                            more: chunk.more,
                            count: chunk.count,
                        };
                        let response = RangeStreamResponse { range_response: Some(response) };
                        if sender.send(Ok(response)).await.is_err() || is_last {
                            return;
                        }
                        chunks.next_chunk()
                    }
                    Err(error) => {
                        let _ = sender.send(Err(status(error))).await;
                        return;
                    }
                };
                chunk = message;
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
