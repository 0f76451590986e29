//! Which version we are, and which etcd we are to those who ask.

/// The etcd whose behaviour is reproduced. Clients and tools read it from `Status`, `/version`
/// and `--version` and decide by it what they may use.
pub const ETCD: &str = "3.7.1";

/// The cluster version that goes with it, as etcd stores it.
pub const ETCD_CLUSTER: &str = "3.7.0";

/// Our own.
pub const QUORATE: &str = env!("CARGO_PKG_VERSION");
