//! Quorate: a coordination store that speaks etcd's API.
//!
//! The way of a request and the rules between modules stand in `ARCHITECTURE.md`. Each module's
//! first lines say what it is and why it is so.

pub mod api;
pub mod apply;
pub mod check;
pub mod cli;
pub mod client;
pub mod config;
pub mod env;
pub mod lease;
pub mod logging;
pub mod member;
pub mod proto;
pub mod raft;
pub mod server;
pub mod store;
pub mod transport;
pub mod types;
pub mod wal;
pub mod watch;
pub mod workload;
