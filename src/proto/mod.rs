//! The wire: etcd's messages and our log entries, generated from `proto/*.proto` by `proto/gen`.
//!
//! Four fields hold encoded messages as plain bytes (`RangeResponse.kvs`, `PutResponse.prev_kv`,
//! `DeleteRangeResponse.prev_kvs`, `WatchResponse.events`): the store keeps pairs in exactly the
//! form the wire wants, so an answer is a copy of bytes, not a decode and an encode. An absent
//! pair is an empty byte string; an encoded pair never is.

#![allow(clippy::all, clippy::pedantic, missing_docs)]

/// etcd's pair and event.
pub mod mvccpb {
    include!("mvccpb.rs");
}
/// etcd's users, roles and permissions.
pub mod authpb {
    include!("authpb.rs");
}
/// etcd's v3 services.
pub mod etcdserverpb {
    include!("etcdserverpb.rs");
}
/// The standard gRPC health service.
pub mod health {
    include!("grpc.health.v1.rs");
}
/// Our log entries, stored side tables and questions between members.
#[path = "quorate.rs"]
pub mod log;
