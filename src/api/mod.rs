//! What clients see: one port that speaks gRPC over HTTP/2 (and a little plain HTTP).
//!
//! ```text
//!   accept ─▶ hyper connection ─▶ ClientService ─▶ grpc/{kv,watch,lease,cluster,maintenance,health}
//!                                      │               decode, call the server's Handle, encode
//!                                      └─▶ plain: /version, /health
//! ```
//!
//! Nothing is decided here: a service translates between messages and the server's
//! [`Handle`](crate::server::Handle), fills headers, and maps errors by the one table in
//! `error.rs`. It runs on hyper's connection API with our own executor, so that the same code
//! serves simulated sockets.

mod error;
mod grpc;
mod plain;
mod serve;

pub use error::{code_and_text, status};
pub use serve::{ServeOptions, serve};
