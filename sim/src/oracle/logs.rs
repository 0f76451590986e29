//! What stands in the logs, in memory and on disk, and what of it is committed.
//!
//! Each entry is known by its *chain*: a digest of it and of all before it. Two logs with the same
//! chain at an index are the same up to there, so every comparison is one of two numbers.
//!
//! - Log matching: entries of the same index and term have the same chain everywhere.
//! - What is committed stands on the disks of a quorum when the first member knows of it; nothing
//!   else is ever committed at that index, and who leads a later term has it.
//! - Who acknowledges a log to its leader has it on disk, and a member finds at boot what it knew
//!   to be on disk.
//! - What is applied is committed.

use super::Violations;
use super::digest::Digest;
use quorate::types::{Index, Term};
use std::collections::{BTreeMap, HashMap};

/// An entry: its term, and the digest of it and all before it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Cell {
    term: u64,
    chain: u64,
}

/// A log: entries behind a place, whose own cell is known too.
#[derive(Clone, Default, Debug)]
struct Log {
    before: u64,
    first: Cell,
    cells: Vec<Cell>,
}

impl Log {
    fn last(&self) -> u64 {
        self.before + self.cells.len() as u64
    }

    fn get(&self, index: u64) -> Option<Cell> {
        match index.checked_sub(self.before)? {
            0 => Some(self.first),
            behind => self.cells.get(behind as usize - 1).copied(),
        }
    }

    /// Whether it holds an entry, itself or as part of the state before it.
    fn holds(&self, index: u64, chain: u64) -> bool {
        index < self.before || self.get(index).is_some_and(|cell| cell.chain == chain)
    }

    /// Puts an entry at its place, in front of nothing.
    fn put(&mut self, index: u64, cell: Cell) {
        self.cells.truncate((index - self.before - 1) as usize);
        self.cells.push(cell);
    }
}

/// A write to the disk.
struct Write {
    reset: Option<Log>,
    first: u64,
    cells: Vec<Cell>,
}

impl Write {
    /// What the disk holds once it is done.
    fn done(&self, before: &Log) -> Log {
        let mut log = self.reset.clone().unwrap_or_else(|| before.clone());
        for (index, cell) in (self.first..).zip(&self.cells) {
            if index > log.before && index <= log.last() + 1 {
                log.put(index, *cell);
            }
        }
        log
    }
}

#[derive(Default)]
struct Member {
    memory: Log,
    disk: Log,
    writing: Option<Write>,
    /// A leader's snapshot took the place of the log in memory, and not yet on disk.
    resetting: Option<Log>,
    /// The last entry known here to be committed.
    committed: u64,
    /// Boot is under way: entries come from the disk.
    opening: bool,
}

struct Committed {
    cell: Cell,
    /// Known in this term, so committed in it or before.
    in_term: u64,
}

#[derive(Default)]
pub struct Logs {
    members: BTreeMap<u8, Member>,
    /// By index and term. Looked up, never walked.
    chains: HashMap<(u64, u64), u64>,
    /// From index 1 on.
    committed: Vec<Committed>,
    voters: usize,
}

impl Logs {
    /// Boot: the log on disk continues after `before`.
    pub fn opened(&mut self, machine: u8, before: (Index, Term), voters: usize) {
        self.voters = voters;
        let log = self.log_after(before);
        let member = self.members.entry(machine).or_default();
        member.memory = log;
        member.committed = 0;
        member.opening = true;
    }

    /// The store is at `applied`, which counts as committed.
    pub fn store_opened(&mut self, machine: u8, applied: Index, out: &mut Violations) {
        if applied.0 > self.committed.len() as u64 {
            let known = self.committed.len();
            out.add(
                "applied what is not committed",
                format!("n{machine} has a store at {applied}, {known} entries are committed"),
            );
        }
        let member = self.members.entry(machine).or_default();
        member.committed = member.committed.max(applied.0);
    }

    /// All entries of the disk are told.
    pub fn booted(&mut self, machine: u8, damaged: bool, out: &mut Violations) {
        let member = self.members.entry(machine).or_default();
        let (found, disk) = (&member.memory, &member.disk);
        let writing = member.writing.take();
        let resetting = member.resetting.take();
        let is_after_snapshot = |log: &Log| found.before == log.before && found.cells.is_empty();
        let as_written = writing.as_ref().map(|write| write.done(disk));
        // What a write under way might have replaced is not bound.
        let bound = match &writing {
            Some(Write { reset: Some(_), .. }) => 0,
            Some(write) if !write.cells.is_empty() => disk.last().min(write.first - 1),
            Some(_) | None => disk.last(),
        };
        let kept = bound < found.before
            || disk.get(bound).is_none_or(|cell| found.holds(bound, cell.chain));
        let resets = resetting.as_ref().is_some_and(is_after_snapshot);
        let last = found.get(found.last()).unwrap_or_default();
        let from = |log: &Log| log.holds(found.last(), last.chain);
        let known = from(disk) || as_written.as_ref().is_some_and(from) || resets;
        if !damaged && !kept && !resets {
            out.add(
                "durable entries lost",
                format!(
                    "n{machine} had entries up to {} on disk and boots with {} to {}",
                    disk.last(),
                    found.before + 1,
                    found.last()
                ),
            );
        } else if !damaged && !known {
            out.add(
                "entries from nowhere",
                format!("n{machine} boots with entry {}, which it did not write", found.last()),
            );
        }
        member.disk = member.memory.clone();
        member.opening = false;
    }

    /// An entry stands in the log in memory.
    pub fn appended(
        &mut self,
        machine: u8,
        index: Index,
        term: Term,
        data: &[u8],
        out: &mut Violations,
    ) {
        let member = self.members.entry(machine).or_default();
        let previous = index.0.checked_sub(1).and_then(|index| member.memory.get(index));
        let Some(previous) = previous else {
            let last = member.memory.last();
            return out.add("gap in a log", format!("n{machine} puts {index} behind {last}"));
        };
        let mut digest = Digest::default();
        digest.number(previous.chain);
        digest.number(term.0);
        digest.bytes(data);
        let cell = Cell { term: term.0, chain: digest.value() };
        if term.0 < previous.term {
            out.add(
                "terms of a log go back",
                format!("n{machine} puts term {term} behind {}", previous.term),
            );
        }
        let replaces = member.memory.get(index.0).is_some_and(|there| there != cell);
        if !member.opening && index.0 <= member.committed && replaces {
            out.add(
                "committed entry replaced",
                format!("n{machine} replaces {index}, {} is committed", member.committed),
            );
        }
        member.memory.put(index.0, cell);
        let chain = *self.chains.entry((index.0, term.0)).or_insert(cell.chain);
        if chain != cell.chain && self.voters == 1 && index.0 > self.committed.len() as u64 {
            // Who is alone leads before its term is durable. A power cut takes term and entry
            // together, nobody else has seen them, and the term comes again.
            self.chains.insert((index.0, term.0), cell.chain);
        } else if chain != cell.chain {
            out.add(
                "logs do not match",
                format!("n{machine} has another entry or past at {index} of term {term}"),
            );
        }
    }

    /// A leader's snapshot took the place of the log in memory.
    pub fn reset(&mut self, machine: u8, at: (Index, Term), out: &mut Violations) {
        let log = self.log_after(at);
        let ((index, term), known) = (at, self.committed_at(at.0.0));
        if known != Some(log.first) {
            out.add(
                "snapshot of what is not committed",
                format!("n{machine} takes one at {index} of term {term}, committed is {known:?}"),
            );
        }
        let member = self.members.entry(machine).or_default();
        member.committed = member.committed.max(index.0);
        member.memory = log.clone();
        member.resetting = Some(log);
    }

    /// A write to the disk begins: what stands in memory there now.
    pub fn writing(
        &mut self,
        machine: u8,
        reset: Option<(Index, Term)>,
        entries: Option<(Index, Index)>,
        out: &mut Violations,
    ) {
        let reset = reset.map(|at| self.log_after(at));
        let member = self.members.entry(machine).or_default();
        let (first, cells) = match entries {
            Some((first, last)) => {
                let cells = (first.0..=last.0).map(|index| member.memory.get(index));
                (first.0, cells.collect::<Option<Vec<Cell>>>())
            }
            None => (1, Some(Vec::new())),
        };
        let start = reset.as_ref().unwrap_or(&member.disk);
        let fits = entries.is_none() || (first > start.before && first <= start.last() + 1);
        if !fits || cells.is_none() {
            out.add(
                "writes what is not its log",
                format!(
                    "n{machine} writes {entries:?} behind {}..{}, in memory are {}..{}",
                    start.before,
                    start.last(),
                    member.memory.before,
                    member.memory.last()
                ),
            );
        }
        member.writing = Some(Write { reset, first, cells: cells.unwrap_or_default() });
    }

    /// It ended.
    pub fn written(&mut self, machine: u8, durable: bool) {
        let member = self.members.entry(machine).or_default();
        let Some(write) = member.writing.take().filter(|_| durable) else { return };
        member.disk = write.done(&member.disk);
        if write.reset.is_some() {
            member.resetting = None;
        }
    }

    /// The log up to `index` is acknowledged to the leader.
    pub fn acknowledged(&mut self, machine: u8, index: Index, out: &mut Violations) {
        let member = self.members.entry(machine).or_default();
        let (memory, disk) = (&member.memory, &member.disk);
        let holds = match memory.get(index.0) {
            Some(cell) => disk.holds(index.0, cell.chain),
            None => index.0 <= disk.before,
        };
        if !holds {
            out.add(
                "promised before durable",
                format!("n{machine} acknowledges {index}, its disk ends at {}", disk.last()),
            );
        }
    }

    /// Entries up to `index` are known to be committed.
    pub fn committed(
        &mut self,
        machine: u8,
        index: Index,
        entry_term: Term,
        in_term: Term,
        out: &mut Violations,
    ) {
        let first = self.members.entry(machine).or_default().committed + 1;
        for at in first..=index.0 {
            let member = self.members.entry(machine).or_default();
            member.committed = at;
            let Some(cell) = member.memory.get(at) else {
                out.add("committed what is not in the log", format!("n{machine} at {at}"));
                continue;
            };
            if at == index.0 && cell.term != entry_term.0 {
                out.add(
                    "committed what is not in the log",
                    format!("n{machine} at {at}: term {entry_term}, not {}", cell.term),
                );
            }
            match self.committed_at(at) {
                Some(before) if before == cell => {}
                Some(before) => out.add(
                    "committed entry changed",
                    format!("n{machine} at {at}: term {}, before term {}", cell.term, before.term),
                ),
                None => {
                    let holders = self.holders(at, cell.chain);
                    if holders.len() <= self.voters / 2 {
                        out.add(
                            "committed without a quorum",
                            format!("n{machine} at {at}: it is on the disks of {holders:?}"),
                        );
                    }
                    if at == self.committed.len() as u64 + 1 {
                        self.committed.push(Committed { cell, in_term: in_term.0 });
                    }
                }
            }
        }
    }

    /// A member leads: it has all that was committed in terms before.
    pub fn elected(&mut self, machine: u8, term: Term, out: &mut Violations) {
        let place = self.committed.iter().rposition(|entry| entry.in_term < term.0);
        let Some(place) = place else { return };
        let (index, chain) = (place as u64 + 1, self.committed[place].cell.chain);
        let log = &self.members.entry(machine).or_default().memory;
        if !log.holds(index, chain) {
            out.add(
                "leader lacks committed entries",
                format!(
                    "n{machine} leads term {term}, its log ends at {}; {index} is committed",
                    log.last()
                ),
            );
        }
    }

    /// An entry is applied.
    pub fn applied(&mut self, machine: u8, index: Index, term: Term, out: &mut Violations) {
        let known = self.members.entry(machine).or_default().committed;
        let cell = self.committed_at(index.0);
        if index.0 > known || cell.is_none_or(|cell| cell.term != term.0) {
            out.add(
                "applied what is not committed",
                format!("n{machine} at {index} of term {term}: it knows {known} to be committed"),
            );
        }
    }

    /// A client is told the outcome of an entry.
    pub fn answered(&mut self, machine: u8, index: Index, out: &mut Violations) {
        let cell = self.committed_at(index.0);
        let holders = cell.map(|cell| self.holders(index.0, cell.chain)).unwrap_or_default();
        if holders.len() <= self.voters / 2 {
            out.add(
                "answered without a quorum",
                format!("n{machine} at {index}: it is on the disks of {holders:?}"),
            );
        }
    }

    fn committed_at(&self, index: u64) -> Option<Cell> {
        match index.checked_sub(1) {
            None => Some(Cell::default()),
            Some(place) => self.committed.get(place as usize).map(|entry| entry.cell),
        }
    }

    fn holders(&self, index: u64, chain: u64) -> Vec<u8> {
        let holders = self.members.iter().filter(|(_, member)| member.disk.holds(index, chain));
        holders.map(|(&machine, _)| machine).collect()
    }

    /// An empty log behind an entry that somebody had.
    fn log_after(&self, (index, term): (Index, Term)) -> Log {
        // An entry nobody had gets a chain that fits nothing.
        let nobody = if index.0 == 0 { 0 } else { u64::MAX };
        let chain = self.chains.get(&(index.0, term.0)).copied().unwrap_or(nobody);
        Log { before: index.0, first: Cell { term: term.0, chain }, cells: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three members, whose logs are written and committed by hand.
    struct Lab {
        logs: Logs,
        out: Violations,
    }

    impl Lab {
        fn new() -> Lab {
            let mut lab = Lab { logs: Logs::default(), out: Violations::default() };
            (1..=3).for_each(|machine| lab.boot(machine, &[]));
            lab
        }

        fn boot(&mut self, machine: u8, entries: &[(u64, u64)]) {
            self.logs.opened(machine, (Index(0), Term(0)), 3);
            entries.iter().for_each(|&entry| self.append(machine, entry));
            self.logs.booted(machine, false, &mut self.out);
        }

        fn append(&mut self, machine: u8, (index, term): (u64, u64)) {
            self.append_data(machine, (index, term), b"data");
        }

        fn append_data(&mut self, machine: u8, (index, term): (u64, u64), data: &[u8]) {
            self.logs.appended(machine, Index(index), Term(term), data, &mut self.out);
        }

        fn begin(&mut self, machine: u8, first: u64, last: u64) {
            let entries = Some((Index(first), Index(last)));
            self.logs.writing(machine, None, entries, &mut self.out);
        }

        fn write(&mut self, machine: u8, entry: (u64, u64)) {
            self.append(machine, entry);
            self.begin(machine, entry.0, entry.0);
            self.logs.written(machine, true);
        }

        fn commit(&mut self, machine: u8, index: u64, term: u64) {
            self.logs.committed(machine, Index(index), Term(term), Term(term), &mut self.out);
        }

        #[track_caller]
        fn expect(&self, rules: &[&str]) {
            assert_eq!(self.out.rules(), rules);
        }
    }

    #[test]
    fn what_a_quorum_has_on_disk_may_be_committed() {
        let mut lab = Lab::new();
        lab.write(1, (1, 1));
        lab.write(2, (1, 1));
        lab.commit(1, 1, 1);
        lab.append(3, (1, 1));
        lab.commit(3, 1, 1);
        lab.logs.answered(1, Index(1), &mut lab.out);
        lab.logs.applied(1, Index(1), Term(1), &mut lab.out);
        lab.expect(&[]);
    }

    #[test]
    fn what_is_only_in_memory_is_not_committed() {
        let mut lab = Lab::new();
        lab.write(1, (1, 1));
        lab.append(2, (1, 1));
        lab.logs.acknowledged(2, Index(1), &mut lab.out);
        lab.commit(1, 1, 1);
        lab.logs.answered(1, Index(1), &mut lab.out);
        lab.logs.applied(1, Index(2), Term(1), &mut lab.out);
        lab.expect(&[
            "promised before durable",
            "committed without a quorum",
            "answered without a quorum",
            "applied what is not committed",
        ]);
    }

    #[test]
    fn entries_of_one_place_and_term_are_one() {
        let mut lab = Lab::new();
        lab.append_data(1, (1, 1), b"one");
        lab.append_data(2, (1, 1), b"other");
        lab.append(3, (2, 1));
        lab.expect(&["logs do not match", "gap in a log"]);
    }

    #[test]
    fn the_same_entry_behind_another_past_is_another() {
        let mut lab = Lab::new();
        lab.append(1, (1, 1));
        lab.append(1, (2, 2));
        lab.append(2, (1, 2));
        lab.append(2, (2, 2));
        lab.expect(&["logs do not match"]);
    }

    #[test]
    fn what_is_committed_stays() {
        let mut lab = Lab::new();
        (1..=2).for_each(|machine| lab.write(machine, (1, 1)));
        lab.commit(1, 1, 1);
        lab.append(1, (1, 2));
        lab.write(3, (1, 2));
        lab.commit(3, 1, 2);
        lab.expect(&["committed entry replaced", "committed entry changed"]);
    }

    #[test]
    fn a_leader_has_what_was_committed_before_its_term() {
        let mut lab = Lab::new();
        (1..=2).for_each(|machine| lab.write(machine, (1, 1)));
        lab.commit(1, 1, 1);
        lab.logs.elected(2, Term(2), &mut lab.out);
        lab.logs.elected(3, Term(1), &mut lab.out);
        lab.expect(&[]);
        lab.logs.elected(3, Term(2), &mut lab.out);
        lab.expect(&["leader lacks committed entries"]);
    }

    #[test]
    fn what_was_on_disk_is_found_at_boot() {
        let mut lab = Lab::new();
        lab.write(1, (1, 1));
        lab.boot(1, &[(1, 1)]);
        lab.expect(&[]);
        lab.boot(1, &[]);
        lab.expect(&["durable entries lost"]);
    }

    #[test]
    fn a_write_under_way_is_found_whole_in_part_or_not_at_all() {
        for found in
            [&[(1, 1), (2, 1)][..], &[(1, 1)], &[(1, 1), (2, 2)], &[(1, 1), (2, 2), (3, 2)]]
        {
            let mut lab = Lab::new();
            (1..=2).for_each(|index| lab.write(1, (index, 1)));
            (2..=3).for_each(|index| lab.append(1, (index, 2)));
            lab.begin(1, 2, 3);
            lab.boot(1, found);
            lab.expect(&[]);
        }
    }

    #[test]
    fn what_was_never_written_is_not_found() {
        let mut lab = Lab::new();
        lab.write(1, (1, 1));
        lab.append(1, (2, 1));
        lab.boot(1, &[(1, 1), (2, 1)]);
        lab.expect(&["entries from nowhere"]);
    }

    #[test]
    fn a_snapshot_is_of_what_is_committed() {
        let mut lab = Lab::new();
        (1..=2).for_each(|machine| lab.write(machine, (1, 1)));
        lab.commit(1, 1, 1);
        lab.logs.reset(3, (Index(1), Term(1)), &mut lab.out);
        lab.logs.writing(3, Some((Index(1), Term(1))), None, &mut lab.out);
        lab.logs.written(3, true);
        lab.write(3, (2, 1));
        lab.expect(&[]);
        lab.logs.reset(3, (Index(2), Term(1)), &mut lab.out);
        lab.expect(&["snapshot of what is not committed"]);
    }

    #[test]
    fn a_snapshot_on_its_way_may_have_emptied_the_log() {
        let mut lab = Lab::new();
        (1..=2).for_each(|machine| lab.write(machine, (1, 1)));
        lab.commit(1, 1, 1);
        lab.logs.reset(3, (Index(1), Term(1)), &mut lab.out);
        lab.logs.opened(3, (Index(1), Term(1)), 3);
        lab.logs.booted(3, false, &mut lab.out);
        lab.expect(&[]);
    }

    #[test]
    fn only_the_log_is_written() {
        let mut lab = Lab::new();
        lab.append(1, (1, 1));
        lab.begin(1, 1, 2);
        lab.expect(&["writes what is not its log"]);
    }
}
