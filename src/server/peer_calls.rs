//! Questions one member asks another: renewals and remaining times of leases, which only the
//! leader's clock can answer.

use super::handle::Handle;
use crate::proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use crate::proto::log::{PeerRequest, PeerResponse, peer_request, peer_response};
use crate::transport::{RequestError, TransportHandle};
use crate::types::{Error, LeaseId, MemberId, Result};
use bytes::Bytes;
use prost::Message as _;
use std::time::Duration;

/// `PeerResponse.code` of an answer that is not one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Code {
    Ok = 0,
    NotLeader = 1,
    Failed = 2,
}

/// Asks `leader` to renew a lease.
pub(super) async fn keep_alive(
    transport: &TransportHandle,
    leader: MemberId,
    id: LeaseId,
    timeout: Duration,
) -> Result<i64> {
    let request = peer_request::Request::LeaseKeepAlive(LeaseKeepAliveRequest { id: id.0 });
    match ask(transport, leader, request, timeout).await? {
        peer_response::Response::LeaseKeepAlive(response) => Ok(response.ttl),
        peer_response::Response::LeaseTimeToLive(_) => Err(Error::Timeout),
    }
}

/// Asks `leader` how long a lease has to live.
pub(super) async fn time_to_live(
    transport: &TransportHandle,
    leader: MemberId,
    id: LeaseId,
    keys: bool,
    timeout: Duration,
) -> Result<LeaseTimeToLiveResponse> {
    let request = LeaseTimeToLiveRequest { id: id.0, keys };
    match ask(transport, leader, peer_request::Request::LeaseTimeToLive(request), timeout).await? {
        peer_response::Response::LeaseTimeToLive(response) => Ok(response),
        peer_response::Response::LeaseKeepAlive(_) => Err(Error::Timeout),
    }
}

async fn ask(
    transport: &TransportHandle,
    leader: MemberId,
    request: peer_request::Request,
    timeout: Duration,
) -> Result<peer_response::Response> {
    let payload = PeerRequest { request: Some(request) }.encode_to_vec().into();
    let answer =
        transport.request(leader, payload, timeout).await.map_err(|error| match error {
            // Asking again finds the way, or the next leader.
            RequestError::NoConnection | RequestError::Refused => Error::NotLeader,
            RequestError::Timeout => Error::Timeout,
        })?;
    let response = PeerResponse::decode(answer).map_err(|_| Error::Timeout)?;
    if response.code == Code::NotLeader as i32 {
        return Err(Error::NotLeader);
    }
    response.response.ok_or(Error::Timeout)
}

/// Answers such a question.
pub(super) async fn answer(handle: &Handle, payload: Bytes) -> Bytes {
    let request = PeerRequest::decode(payload).ok().and_then(|message| message.request);
    let answered = match request {
        Some(peer_request::Request::LeaseKeepAlive(request)) => {
            let ttl = handle.keep_alive_here(LeaseId(request.id)).await;
            ttl.map(|ttl| {
                let response = LeaseKeepAliveResponse { header: None, id: request.id, ttl };
                peer_response::Response::LeaseKeepAlive(response)
            })
        }
        Some(peer_request::Request::LeaseTimeToLive(request)) => {
            let response = handle.time_to_live_here(LeaseId(request.id), request.keys).await;
            response.map(peer_response::Response::LeaseTimeToLive)
        }
        None => Err(Error::Unsupported),
    };
    let response = match answered {
        Ok(response) => {
            PeerResponse { code: Code::Ok as i32, response: Some(response), ..Default::default() }
        }
        Err(Error::NotLeader) => {
            PeerResponse { code: Code::NotLeader as i32, ..PeerResponse::default() }
        }
        Err(error) => PeerResponse {
            code: Code::Failed as i32,
            message: error.to_string(),
            ..PeerResponse::default()
        },
    };
    response.encode_to_vec().into()
}
