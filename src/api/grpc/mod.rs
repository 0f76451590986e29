//! etcd's gRPC services: each file is one service, each method one translation.

mod cluster;
mod health;
mod kv;
mod lease;
mod maintenance;
mod watch;

use crate::proto::etcdserverpb::ResponseHeader;
use crate::server::Handle;
use std::pin::Pin;
use tokio::sync::watch as signal;
use tonic::Status;

/// All services on one server.
pub(super) struct Services {
    handle: Handle,
    stopping: signal::Receiver<bool>,
}

type Stream<T> = Pin<Box<dyn futures_core::Stream<Item = Result<T, Status>> + Send>>;

impl Services {
    pub(super) fn new(handle: Handle, stopping: signal::Receiver<bool>) -> Services {
        Services { handle, stopping }
    }

    /// Adds who answers, and in which term, to a header that holds its revision.
    fn signed(&self, header: Option<ResponseHeader>) -> Option<ResponseHeader> {
        Some(sign(&self.handle, header.map_or(0, |header| header.revision)))
    }

    /// A header with the current revision.
    fn header(&self) -> Option<ResponseHeader> {
        Some(sign(&self.handle, self.handle.revision().0))
    }
}

fn sign(handle: &Handle, revision: i64) -> ResponseHeader {
    ResponseHeader {
        cluster_id: handle.settings().cluster.0,
        member_id: handle.settings().member.0,
        revision,
        raft_term: handle.status().term().0,
    }
}

/// grpc-go's words for a message over the limit, from tonic's.
pub(super) fn message_too_large(text: &str) -> Option<Status> {
    let rest = text.split_once("decoded message length too large: found ")?.1;
    let (found, rest) = rest.split_once(" bytes, the limit is: ")?;
    let limit = rest.split_once(" bytes")?.0;
    let text = format!("grpc: received message larger than max ({found} vs. {limit})");
    Some(Status::resource_exhausted(text))
}

/// A stream that hands on what a task sends into a channel.
struct Receiving<T>(tokio::sync::mpsc::Receiver<T>);

impl<T> futures_core::Stream for Receiving<T> {
    type Item = T;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.0.poll_recv(context)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_message_over_the_limit_gets_the_words_clients_know() {
        let text = "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes";
        let status = super::message_too_large(text).expect("recognised");
        assert_eq!(status.message(), "grpc: received message larger than max (9 vs. 4)");
        assert!(super::message_too_large("out of range").is_none());
    }
}
