//! What a member tells of its inside to whoever watches over a whole cluster.
//!
//! Clients see answers; that one leader rules a term, that a vote was on disk before it was cast,
//! that two members' stores are the same after the same entry, they cannot see. So the loops tell
//! plain facts as they happen, where they happen, and the simulator's oracles compare them over
//! members, crashes and time. A fact is told after it is true, in the order of the loop it comes
//! from.
//!
//! Nothing here decides anything: a member that is observed does what it does unobserved. In
//! production nobody listens ([`Env::OBSERVED`](super::Env::OBSERVED)) and nothing is left of it.

use crate::types::{Index, LeaseId, MemberId, Revision, Term};
use std::fmt::Debug;

/// A fact about one member.
#[derive(Clone, Copy, Debug)]
pub enum Observation<'a> {
    // ---- at boot ----
    /// The log was opened: it continues after `before`. Its entries follow, as
    /// [`Observation::Appended`].
    LogOpened { member: MemberId, voters: &'a [u64], before: (Index, Term), hard: Hard },
    /// The store was opened, at boot or as a leader's snapshot, and holds what
    /// [`Observation::Key`] and [`Observation::Lease`] have told since the last entry.
    StoreOpened { applied: Index, revision: Revision, hash: u32 },
    /// All that was found on disk is told.
    Booted,

    // ---- consensus ----
    /// What the member is to others now.
    Role { role: Role, term: Term, leader: MemberId },
    /// An entry stands in the log in memory; what stood at its index and behind is gone.
    Appended { index: Index, term: Term, data: &'a [u8] },
    /// A leader's snapshot replaced the log in memory, which continues after it.
    Reset { index: Index, term: Term },
    /// A write to the log on disk begins: a reset, then entries (first and last) as they stand in
    /// memory now.
    Writing { reset: Option<(Index, Term)>, entries: Option<(Index, Index)>, hard: Option<Hard> },
    /// It ended: all of it is durable, or nothing was written.
    Written { durable: bool },
    /// A message leaves, with what the receiver may rely on.
    Sent { to: MemberId, term: Term, promise: Promise },
    /// Entries up to `index`, which is of `entry_term`, are known in `term` to be committed, and
    /// are handed on to be applied.
    Committed { index: Index, entry_term: Term, term: Term },

    // ---- state ----
    /// A key's newest version, encoded; none if it was deleted.
    Key { key: &'a [u8], record: Option<&'a [u8]> },
    /// A lease's granted and checkpointed TTL; none if it was revoked.
    Lease { id: LeaseId, ttls: Option<(i64, i64)> },
    /// Versions that nobody reading at this revision or later sees are given up.
    Compacted { revision: Revision },
    /// An entry was applied: it was answered with `reply` and changed what was told since the
    /// entry before.
    Applied { index: Index, term: Term, revision: Revision, reply: &'a dyn Debug },
    /// The checksum of the whole state after an entry.
    StateHash { index: Index, hash: u32 },
    /// A client is told the outcome of an entry.
    Answered { index: Index },
    /// The store's file durably holds what entries up to this one did.
    Flushed { applied: Index },

    // ---- bounds ----
    /// How much of something that is bounded there is.
    Load { what: &'static str, amount: usize, limit: usize },
}

/// What a member must not forget besides its entries.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Hard {
    pub term: Term,
    /// Nobody: 0.
    pub vote: MemberId,
    pub commit: Index,
}

/// Raft's roles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

/// What the receiver of a message relies on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// Nothing, not even the term: it was only asked whether an election would succeed.
    Nothing,
    /// That the sender remembers the term.
    Term,
    /// That it remembers to have voted for the receiver in that term.
    Vote,
    /// That it remembers its log up to here, in that term.
    Log(Index),
}

/// After how many entries [`Observation::StateHash`] is told.
pub const STATE_HASH_INTERVAL: u64 = 256;
