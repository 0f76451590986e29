//! Terms, votes and leaders.
//!
//! - A term has one leader, over all members and boots.
//! - A member votes for one candidate in a term, and its term never goes back: not while it runs,
//!   and not over a crash, as far as it said that the write was done or anybody was told.
//! - Nobody is told of a term or a vote that is not on disk.

use super::Violations;
use quorate::env::{Hard, Promise, Role};
use quorate::types::{MemberId, Term};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Elections {
    members: BTreeMap<u8, Member>,
    leaders: BTreeMap<Term, u8>,
}

#[derive(Default)]
struct Member {
    /// On disk, as far as the member knows.
    durable: Hard,
    /// On its way to the disk.
    writing: Option<Hard>,
    /// Votes that were cast, on disk or in a message.
    votes: BTreeMap<Term, MemberId>,
    /// In this boot.
    role: Option<(Role, Term)>,
}

impl Elections {
    /// The member found this on its disk; `damaged`: somebody else wrote there.
    pub fn opened(&mut self, machine: u8, hard: Hard, damaged: bool, out: &mut Violations) {
        let member = self.members.entry(machine).or_default();
        let Hard { term, vote, .. } = member.durable;
        let forgot = hard.term < term || (hard.term == term && !fits(vote, hard.vote));
        if forgot && !damaged {
            out.add(
                "term or vote forgotten",
                format!("n{machine} had {:?} on disk and boots with {hard:?}", member.durable),
            );
        }
        if damaged {
            member.votes.clear();
        }
        member.durable = hard;
        member.writing = None;
        member.role = None;
    }

    /// A write to the disk begins.
    pub fn writing(&mut self, machine: u8, hard: Option<Hard>, out: &mut Violations) {
        let member = self.members.entry(machine).or_default();
        member.writing = hard;
        let Some(hard) = hard else { return };
        if hard.term < member.durable.term {
            let before = member.durable.term;
            out.add("term went back", format!("n{machine} writes {hard:?} after term {before}"));
        }
    }

    /// It ended.
    pub fn written(&mut self, machine: u8, durable: bool, out: &mut Violations) {
        let member = self.members.entry(machine).or_default();
        let Some(hard) = member.writing.take().filter(|_| durable) else { return };
        member.durable = hard;
        if hard.vote != MemberId(0) {
            member.vote(machine, hard.term, hard.vote, out);
        }
    }

    /// A message leaves.
    pub fn sent(
        &mut self,
        machine: u8,
        to: MemberId,
        term: Term,
        promise: Promise,
        out: &mut Violations,
    ) {
        let member = self.members.entry(machine).or_default();
        if promise == Promise::Nothing || term == Term(0) {
            return;
        }
        let durable = member.durable;
        if durable.term < term {
            out.add(
                "promised before durable",
                format!("n{machine} speaks in term {term}, its disk is at {durable:?}"),
            );
        }
        if promise == Promise::Vote {
            if durable.term == term && durable.vote != to {
                out.add(
                    "promised before durable",
                    format!("n{machine} votes for {to} in term {term}, its disk has {durable:?}"),
                );
            }
            member.vote(machine, term, to, out);
        }
    }

    /// Whether the member has a term behind it, durably.
    pub fn is_past(&self, machine: u8, term: Term) -> bool {
        self.members.get(&machine).is_some_and(|member| member.durable.term > term)
    }

    /// What the member is now; whether that is news.
    pub fn role(&mut self, machine: u8, role: Role, term: Term, out: &mut Violations) -> bool {
        let member = self.members.entry(machine).or_default();
        let before = member.role.replace((role, term));
        if before == Some((role, term)) {
            return false;
        }
        if let Some((_, before)) = before
            && before > term
        {
            out.add("term went back", format!("n{machine} was in term {before}, is in {term}"));
        }
        if role == Role::Leader {
            let leader = *self.leaders.entry(term).or_insert(machine);
            if leader != machine {
                out.add(
                    "two leaders in a term",
                    format!("n{leader} and n{machine} in term {term}"),
                );
            }
        }
        true
    }
}

impl Member {
    fn vote(&mut self, machine: u8, term: Term, vote: MemberId, out: &mut Violations) {
        let first = *self.votes.entry(term).or_insert(vote);
        if first != vote {
            out.add(
                "two votes in a term",
                format!("n{machine} voted for {first} and {vote} in term {term}"),
            );
        }
    }
}

/// Whether a vote is still there.
fn fits(before: MemberId, after: MemberId) -> bool {
    before == MemberId(0) || before == after
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::types::Index;

    fn hard(term: u64, vote: u64) -> Hard {
        Hard { term: Term(term), vote: MemberId(vote), commit: Index(0) }
    }

    /// A member whose disk has this.
    fn with(hard: Hard) -> (Elections, Violations) {
        let (mut elections, mut out) = (Elections::default(), Violations::default());
        elections.opened(1, Hard::default(), false, &mut out);
        elections.writing(1, Some(hard), &mut out);
        elections.written(1, true, &mut out);
        assert_eq!(out.rules(), [] as [&str; 0]);
        (elections, out)
    }

    #[test]
    fn a_term_has_one_leader() {
        let (mut elections, mut out) = with(hard(3, 1));
        assert!(elections.role(1, Role::Leader, Term(3), &mut out));
        assert!(!elections.role(1, Role::Leader, Term(3), &mut out));
        elections.role(2, Role::Leader, Term(4), &mut out);
        assert_eq!(out.rules(), [] as [&str; 0]);
        elections.role(3, Role::Leader, Term(3), &mut out);
        assert_eq!(out.rules(), ["two leaders in a term"]);
    }

    #[test]
    fn a_vote_is_remembered_over_a_crash() {
        let (mut elections, mut out) = with(hard(3, 2));
        elections.opened(1, hard(3, 2), false, &mut out);
        elections.opened(1, hard(4, 0), false, &mut out);
        assert_eq!(out.rules(), [] as [&str; 0]);
        let (mut elections, mut out) = with(hard(3, 2));
        elections.opened(1, hard(3, 0), false, &mut out);
        assert_eq!(out.rules(), ["term or vote forgotten"]);
        let (mut elections, mut out) = with(hard(3, 2));
        elections.opened(1, hard(2, 0), true, &mut out);
        assert_eq!(out.rules(), [] as [&str; 0], "its disk was damaged");
    }

    #[test]
    fn a_write_that_did_not_end_may_be_there_or_not() {
        for found in [hard(3, 2), hard(4, 1)] {
            let (mut elections, mut out) = with(hard(3, 2));
            elections.writing(1, Some(hard(4, 1)), &mut out);
            elections.opened(1, found, false, &mut out);
            assert_eq!(out.rules(), [] as [&str; 0]);
        }
    }

    #[test]
    fn a_vote_is_cast_once_and_only_from_disk() {
        let (mut elections, mut out) = with(hard(3, 2));
        elections.sent(1, MemberId(2), Term(3), Promise::Vote, &mut out);
        elections.sent(1, MemberId(2), Term(4), Promise::Nothing, &mut out);
        assert_eq!(out.rules(), [] as [&str; 0]);
        elections.sent(1, MemberId(3), Term(3), Promise::Vote, &mut out);
        assert_eq!(out.rules(), ["promised before durable", "two votes in a term"]);
        let (mut elections, mut out) = with(hard(3, 2));
        elections.sent(1, MemberId(2), Term(4), Promise::Term, &mut out);
        assert_eq!(out.rules(), ["promised before durable"]);
    }

    #[test]
    fn a_term_never_goes_back() {
        let (mut elections, mut out) = with(hard(3, 2));
        elections.role(1, Role::Candidate, Term(4), &mut out);
        elections.role(1, Role::Follower, Term(3), &mut out);
        assert_eq!(out.rules(), ["term went back"]);
    }
}
