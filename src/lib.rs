//! Quorate: a coordination store that speaks etcd's API.
//!
//! The way of a request and the rules between modules stand in `ARCHITECTURE.md`. Each module's
//! first lines say what it is and why it is so.

pub mod config;
pub mod env;
pub mod logging;
pub mod proto;
pub mod transport;
pub mod types;
pub mod raft;
pub mod lease;
pub mod wal;
pub mod watch;
