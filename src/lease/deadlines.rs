//! When leases end, on the leader's clock. Pure: the time is an argument.
//!
//! A follower keeps the list too, without deadlines, so that it can take over at once.
//!
//! A checkpoint tells the other members how much of a lease is left. One is due when a lease has
//! gone without renewal for half its TTL, then at each further eighth: a client that keeps its
//! lease alive at a third of the TTL, as they all do, never causes one; a lease nobody renews
//! costs at most four.

use crate::types::LeaseId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Shortest time between two checkpoints of a lease.
const CHECKPOINT_EVERY_MIN: Duration = Duration::from_secs(1);
/// How long an expired lease rests with whoever revokes it before it is offered again.
const REVOKE_RETRY: Duration = Duration::from_secs(7);

#[derive(Clone, Debug)]
struct Timing {
    granted: Duration,
    /// Seconds at the last checkpoint, 0 = none.
    checkpointed: i64,
    /// Set while we lead.
    lead: Option<Lead>,
}

#[derive(Clone, Debug)]
struct Lead {
    expires: Duration,
    /// When to look at it next: a checkpoint, its end, or a repeated revoke.
    wake: Duration,
}

/// What became of a renewal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renewal {
    /// Renewed for this many seconds.
    Renewed(i64),
    /// Renewed for this many seconds, but a checkpoint must be cleared through the log first.
    RenewedAfterCheckpoint(i64),
    /// It has ended and its revocation is under way: the answer is "gone" once that is done.
    Expiring,
    /// No such lease here.
    Unknown,
}

/// The leader's half of the leases; see the module.
#[derive(Default)]
pub struct Deadlines {
    leases: BTreeMap<LeaseId, Timing>,
    /// `(wake, id)` of every lease while leading.
    queue: BTreeSet<(Duration, LeaseId)>,
    leading: bool,
}

impl Deadlines {
    /// A lease exists now (or was there at start). TTLs in seconds.
    pub fn granted(&mut self, id: LeaseId, ttl: i64, checkpointed: i64, now: Duration) {
        self.revoked(id);
        let granted = Duration::from_secs(ttl.max(0) as u64);
        self.leases.insert(id, Timing { granted, checkpointed, lead: None });
        if self.leading {
            self.schedule(id, now + granted, now);
        }
    }

    /// A lease is gone.
    pub fn revoked(&mut self, id: LeaseId) {
        if let Some(timing) = self.leases.remove(&id)
            && let Some(lead) = timing.lead
        {
            self.queue.remove(&(lead.wake, id));
        }
    }

    /// A checkpoint was applied.
    pub fn checkpointed(&mut self, id: LeaseId, remaining_ttl: i64) {
        if let Some(timing) = self.leases.get_mut(&id) {
            timing.checkpointed = remaining_ttl;
        }
    }

    /// We lead from `now` on. `extend`: how long renewals by the old leader may have gone on
    /// that we cannot know of.
    pub fn promote(&mut self, now: Duration, extend: Duration) {
        self.leading = true;
        let ids: Vec<LeaseId> = self.leases.keys().copied().collect();
        for id in ids {
            let timing = &self.leases[&id];
            let left = match timing.checkpointed {
                0 => timing.granted,
                seconds => Duration::from_secs(seconds as u64).min(timing.granted),
            };
            self.schedule(id, now + extend + left, now);
        }
    }

    /// We no longer lead; nothing ends by our clock.
    pub fn demote(&mut self) {
        self.leading = false;
        self.queue.clear();
        for timing in self.leases.values_mut() {
            timing.lead = None;
        }
    }

    /// A client wants the lease to go on. Only while leading.
    pub fn renew(&mut self, id: LeaseId, now: Duration) -> Renewal {
        let Some(timing) = self.leases.get_mut(&id) else { return Renewal::Unknown };
        let Some(lead) = &timing.lead else { return Renewal::Unknown };
        if lead.expires <= now {
            return Renewal::Expiring;
        }
        let seconds = timing.granted.as_secs() as i64;
        let clear = timing.checkpointed != 0;
        let expires = now + timing.granted;
        self.schedule(id, expires, now);
        if clear { Renewal::RenewedAfterCheckpoint(seconds) } else { Renewal::Renewed(seconds) }
    }

    /// Whole seconds left (truncated) and the TTL granted; while leading.
    pub fn time_to_live(&self, id: LeaseId, now: Duration) -> Option<(i64, i64)> {
        let timing = self.leases.get(&id)?;
        let lead = timing.lead.as_ref()?;
        let left = lead.expires.saturating_sub(now).as_secs() as i64;
        Some((left, timing.granted.as_secs() as i64))
    }

    /// Whether there is no lease.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Whether the lease is known, leading or not.
    pub fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// All ids, those that end first in front, as far as we know when they do.
    pub fn ids(&self) -> Vec<LeaseId> {
        let mut ids: Vec<(Duration, LeaseId)> = (self.leases.iter())
            .map(|(&id, timing)| (timing.lead.as_ref().map_or(Duration::MAX, |l| l.expires), id))
            .collect();
        ids.sort();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// When [`Deadlines::due`] has something next.
    pub fn next_wake(&self) -> Option<Duration> {
        self.queue.first().map(|&(wake, _)| wake)
    }

    /// Leases that have ended (at most `expired_max`) and checkpoints due (at most
    /// `checkpoints_max`, with the seconds left). An ended lease is offered again later if it
    /// was not revoked.
    pub fn due(
        &mut self,
        now: Duration,
        expired_max: usize,
        checkpoints_max: usize,
    ) -> (Vec<LeaseId>, Vec<(LeaseId, i64)>) {
        let (mut expired, mut checkpoints) = (Vec::new(), Vec::new());
        while let Some(&(wake, id)) = self.queue.first() {
            if wake > now || expired.len() >= expired_max || checkpoints.len() >= checkpoints_max {
                break;
            }
            self.queue.pop_first();
            let timing = self.leases.get_mut(&id).expect("the queue holds known leases only");
            let granted = timing.granted;
            let lead = timing.lead.as_mut().expect("the queue is empty while not leading");
            if lead.expires <= now {
                lead.wake = now + REVOKE_RETRY;
                expired.push(id);
            } else {
                // Rounded up: a lease must not end early because a second was cut.
                let left = (lead.expires - now).as_millis().div_ceil(1000) as i64;
                lead.wake = (now + (granted / 8).max(CHECKPOINT_EVERY_MIN)).min(lead.expires);
                checkpoints.push((id, left));
            }
            self.queue.insert((lead.wake, id));
        }
        (expired, checkpoints)
    }

    fn schedule(&mut self, id: LeaseId, expires: Duration, now: Duration) {
        let timing = self.leases.get_mut(&id).expect("callers looked it up");
        if let Some(lead) = &timing.lead {
            self.queue.remove(&(lead.wake, id));
        }
        let first_checkpoint = now + (timing.granted / 2).max(CHECKPOINT_EVERY_MIN);
        let wake = first_checkpoint.min(expires);
        timing.lead = Some(Lead { expires, wake });
        self.queue.insert((wake, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const ID: LeaseId = LeaseId(7);

    fn leading(ttl: i64) -> Deadlines {
        let mut deadlines = Deadlines::default();
        deadlines.promote(Duration::ZERO, Duration::ZERO);
        deadlines.granted(ID, ttl, 0, Duration::ZERO);
        deadlines
    }

    #[test]
    fn a_lease_ends_at_its_ttl_and_not_before() {
        let mut deadlines = leading(8);
        let (expired, _) = deadlines.due(7 * S, 10, 10);
        assert!(expired.is_empty());
        let mut ended = Vec::new();
        for _ in 0..10 {
            ended.extend(deadlines.due(8 * S, 10, 10).0);
        }
        assert_eq!(ended, [ID]);
        assert_eq!(deadlines.renew(ID, 8 * S), Renewal::Expiring);
        deadlines.revoked(ID);
        assert_eq!(deadlines.renew(ID, 8 * S), Renewal::Unknown);
        assert_eq!(deadlines.next_wake(), None);
    }

    #[test]
    fn an_ended_lease_is_offered_again_until_revoked() {
        let mut deadlines = leading(1);
        assert_eq!(deadlines.due(S, 10, 10).0, [ID]);
        assert!(deadlines.due(2 * S, 10, 10).0.is_empty());
        assert_eq!(deadlines.due(9 * S, 10, 10).0, [ID]);
    }

    #[test]
    fn renewals_in_time_cause_no_checkpoint() {
        let mut deadlines = leading(9);
        for i in 1..100 {
            assert_eq!(deadlines.renew(ID, 3 * i * S), Renewal::Renewed(9));
            assert_eq!(deadlines.due(3 * i * S, 10, 10), (vec![], vec![]));
        }
    }

    #[test]
    fn a_checkpoint_says_what_is_left_and_is_cleared_by_a_renewal() {
        let mut deadlines = leading(60);
        assert_eq!(deadlines.due(30 * S, 10, 10), (vec![], vec![(ID, 30)]));
        deadlines.checkpointed(ID, 30);
        assert_eq!(deadlines.renew(ID, 31 * S), Renewal::RenewedAfterCheckpoint(60));
        deadlines.checkpointed(ID, 0);
        assert_eq!(deadlines.renew(ID, 32 * S), Renewal::Renewed(60));
    }

    #[test]
    fn a_new_leader_counts_from_the_checkpoint_and_extends() {
        let mut deadlines = Deadlines::default();
        deadlines.granted(LeaseId(1), 60, 0, Duration::ZERO);
        deadlines.granted(LeaseId(2), 60, 20, Duration::ZERO);
        assert_eq!(deadlines.next_wake(), None, "a follower's clock ends nothing");
        deadlines.promote(100 * S, S);
        assert_eq!(deadlines.time_to_live(LeaseId(1), 100 * S), Some((61, 60)));
        assert_eq!(deadlines.time_to_live(LeaseId(2), 100 * S), Some((21, 60)));
        deadlines.demote();
        assert_eq!(deadlines.time_to_live(LeaseId(1), 100 * S), None);
    }

    #[test]
    fn many_that_end_at_once_come_in_batches() {
        let mut deadlines = Deadlines::default();
        deadlines.promote(Duration::ZERO, Duration::ZERO);
        for id in 1..=1000 {
            deadlines.granted(LeaseId(id), 1, 0, Duration::ZERO);
        }
        assert_eq!(deadlines.due(2 * S, 400, 10).0.len(), 400);
        assert_eq!(deadlines.due(2 * S, 400, 10).0.len(), 400);
        assert_eq!(deadlines.due(2 * S, 400, 10).0.len(), 200);
    }
}
