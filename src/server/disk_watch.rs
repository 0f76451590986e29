//! Notices a disk that fills up before it is full, and when there is room again.
//!
//! A database that finds the disk full in the middle of a commit can only stop. So writes that
//! add data are refused while there is still room to finish what was begun and to delete, and
//! accepted again once there is clearly more. Nothing has to be disarmed: this is no alarm of the
//! cluster but a state of this member.

use super::status::Status;
use super::stopped;
use crate::env::{Clock, Disk, Env};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const INTERVAL: Duration = Duration::from_millis(500);
/// Free bytes below which writes are refused.
const LOW_BYTES: u64 = 24 * 1024 * 1024;
/// Free bytes from which they are accepted again.
const ENOUGH_BYTES: u64 = 32 * 1024 * 1024;

pub(super) async fn run<E: Env>(
    env: E,
    paths: Vec<PathBuf>,
    status: Arc<Status>,
    mut stopping: watch::Receiver<bool>,
) {
    loop {
        look(&env, &paths, &status).await;
        tokio::select! {
            biased;
            () = stopped(&mut stopping) => return,
            () = env.clock().sleep(INTERVAL) => {}
        }
    }
}

/// One look. The first comes before anybody is served: no write slips in on a full disk.
pub(super) async fn look<E: Env>(env: &E, paths: &[PathBuf], status: &Status) {
    let (disk, paths) = (env.disk().clone(), paths.to_vec());
    let free =
        env.blocking(move || paths.iter().filter_map(|path| disk.available(path).ok()).min());
    if let Some(free) = free.await {
        judge(env, status, free);
    }
}

fn judge<E: Env>(env: &E, status: &Status, free: u64) {
    if free < LOW_BYTES && !status.disk_is_full() {
        tracing::error!(
            "available-bytes" = free,
            "needed-bytes" = ENOUGH_BYTES,
            "the disk of the data directory is almost full: writes that add data are refused; \
             free space on that file system, or delete keys and compact; writes are accepted \
             again by themselves once there is room"
        );
        env.mark("disk: almost full");
        status.set_disk_full(true);
    } else if free >= ENOUGH_BYTES && status.disk_is_full() {
        tracing::info!(
            "available-bytes" = free,
            "there is room on the disk again: writes are accepted"
        );
        env.mark("disk: room again");
        status.set_disk_full(false);
    }
}
