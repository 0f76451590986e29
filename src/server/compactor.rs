//! Automatic compaction: the leader proposes one when the policy says so.
//!
//! - `periodic` with a retention of one period P: the revision is sampled ten times in
//!   min(P, 1 h); once history is older than P, it is compacted to what was current P ago, then
//!   every min(P, 1 h).
//! - `revision` with a retention of N: every five minutes to current - N.
//!
//! The policy is pure ([`Policy`]); the loop asks it and proposes. A failed attempt is made again
//! at the next sample; history that is compacted already counts as done.

use super::handle::Handle;
use super::stopped;
use crate::env::{Clock, Env};
use crate::proto::etcdserverpb::CompactionRequest;
use crate::types::{Error, Revision};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::watch;

const REVISION_INTERVAL: Duration = Duration::from_secs(300);
const PERIODIC_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Samples in one interval of periodic compaction.
const SAMPLES: u32 = 10;

/// When to compact to what.
#[derive(Clone, Debug)]
pub enum Policy {
    Periodic { period: Duration, samples: VecDeque<Revision>, since: u32 },
    Revision { keep: i64, last: Revision },
}

impl Policy {
    /// Keeps what happened in the last `period`.
    pub fn periodic(period: Duration) -> Policy {
        Policy::Periodic { period, samples: VecDeque::new(), since: 0 }
    }

    /// Keeps the last `keep` revisions.
    pub fn revision(keep: i64) -> Policy {
        Policy::Revision { keep, last: Revision(0) }
    }

    /// Time between two calls of [`Policy::sample`].
    pub fn interval(&self) -> Duration {
        match self {
            Policy::Periodic { period, .. } => (*period).min(PERIODIC_INTERVAL_MAX) / SAMPLES,
            Policy::Revision { .. } => REVISION_INTERVAL,
        }
    }

    /// An interval passed and the store is at `current`: what to compact to, if it is time.
    pub fn sample(&mut self, current: Revision, leading: bool) -> Option<Revision> {
        let interval = self.interval();
        match self {
            Policy::Periodic { period, samples, since } => {
                let kept = (period.as_millis() / interval.as_millis().max(1)) as usize;
                samples.push_back(current);
                while samples.len() > kept + 1 {
                    samples.pop_front();
                }
                *since += 1;
                let full = samples.len() > kept;
                let due = full && *since >= SAMPLES;
                due.then(|| samples[0]).filter(|_| leading)
            }
            Policy::Revision { keep, last } => {
                let target = Revision(current.0 - *keep);
                (leading && target.0 > 0 && target != *last).then_some(target)
            }
        }
    }

    /// A compaction to `revision` was made.
    pub fn done(&mut self, revision: Revision) {
        match self {
            Policy::Periodic { since, .. } => *since = 0,
            Policy::Revision { last, .. } => *last = revision,
        }
    }
}

/// Compacts by `policy` until `stopping`.
pub(super) async fn run<E: Env>(
    env: E,
    handle: Handle,
    mut policy: Policy,
    mut stopping: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stopping) => return,
            () = env.clock().sleep(policy.interval()) => {}
        }
        let leading = handle.status().leadership().leading;
        let Some(revision) = policy.sample(handle.revision(), leading) else { continue };
        tracing::info!(revision = revision.0, "starting auto compaction");
        let request = CompactionRequest { revision: revision.0, physical: false };
        match handle.compact(request).await {
            Ok(_) | Err(Error::Compacted) => policy.done(revision),
            Err(error) => {
                tracing::warn!(revision = revision.0, %error, "failed auto compaction; will retry");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periodic_keeps_one_period_of_history() {
        let mut policy = Policy::periodic(Duration::from_secs(600));
        assert_eq!(policy.interval(), Duration::from_secs(60));
        let mut made = Vec::new();
        for minute in 0..25 {
            if let Some(revision) = policy.sample(Revision(100 + minute), true) {
                policy.done(revision);
                made.push((minute, revision.0));
            }
        }
        assert_eq!(made, [(10, 100), (20, 110)]);
    }

    #[test]
    fn a_follower_samples_but_does_not_compact() {
        let mut policy = Policy::periodic(Duration::from_secs(600));
        assert!((0..30).all(|minute| policy.sample(Revision(minute), false).is_none()));
        assert_eq!(policy.sample(Revision(30), true), Some(Revision(20)));
    }

    #[test]
    fn revision_keeps_a_number_of_revisions() {
        let mut policy = Policy::revision(100);
        assert_eq!(policy.sample(Revision(50), true), None);
        assert_eq!(policy.sample(Revision(150), true), Some(Revision(50)));
        policy.done(Revision(50));
        assert_eq!(policy.sample(Revision(150), true), None);
    }
}
