//! Before the server runs: who are we, with whom do we start, and may we use this directory?
//!
//! - `identity` computes member and cluster ids, by etcd's formulas, so that a cluster configured
//!   like an etcd cluster has the same ids and tools that know them keep working.
//! - `initial_cluster` makes of `--initial-cluster` the members to start with, and checks it.
//! - `data_directory` recognises what lies in the data directory, refuses what is not ours
//!   without touching it, and holds the lock that keeps a second process out.
//!
//! Nothing here waits or talks to anyone. All members of a new cluster must come to the same
//! [`InitialCluster`] from their own flags: it is the state their logs start from.

mod data_directory;
mod etcd_files;
mod identity;
mod initial_cluster;

pub use data_directory::{Content, DataDirectory, DataDirectoryError, Paths, inspect};
pub use identity::{cluster_id, member_id};
pub use initial_cluster::{InitialCluster, Member};
