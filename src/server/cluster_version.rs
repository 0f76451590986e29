//! The version all members speak: the first leader writes it down.

use super::handle::Handle;
use crate::env::{Clock, Env};
use crate::raft::Leadership;
use crate::types::version::ETCD_CLUSTER;
use std::time::Duration;
use tokio::sync::watch;

/// The first leader writes down what version the cluster speaks.
pub(super) async fn decide<E: Env>(
    env: E,
    handle: Handle,
    mut leadership: watch::Receiver<Leadership>,
) {
    while handle.status().cluster_version().is_empty() {
        if leadership.borrow_and_update().leading {
            match handle.set_cluster_version(ETCD_CLUSTER).await {
                Ok(()) => {
                    tracing::info!("cluster-version" = ETCD_CLUSTER, "set initial cluster version");
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to set the cluster version; will retry");
                    env.clock().sleep(Duration::from_secs(1)).await;
                }
            }
        } else {
            tokio::select! {
                biased;
                changed = leadership.changed() => if changed.is_err() { return },
                () = env.clock().sleep(Duration::from_secs(1)) => {}
            }
        }
    }
}
