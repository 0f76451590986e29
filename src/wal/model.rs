//! What the log should hold, said as simply as possible, and random things to do to it.

use super::{Batch, HardState, LogEntry, Recovered, Result, Wal};
use crate::env::Disk;
use crate::types::{Index, MemberId, Term};
use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;

/// The contents of a log that never forgets an entry.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Model {
    pub start: (Index, Term),
    pub entries: Vec<LogEntry>,
    pub hard_state: HardState,
}

/// One call on the log.
#[derive(Clone, Debug)]
pub enum Operation {
    Append(Batch),
    Reset(Index, Term),
    Release(Index),
    Prepare,
}

impl Operation {
    /// Whether all before it and itself is durable once it returns.
    pub fn is_durable(&self) -> bool {
        match self {
            Operation::Append(batch) => batch.sync,
            Operation::Reset(..) => true,
            Operation::Release(_) | Operation::Prepare => false,
        }
    }

    pub fn run<D: Disk>(&self, wal: &mut Wal<D>) -> Result<()> {
        match self {
            Operation::Append(batch) => wal.append(batch).map(|_| ()),
            Operation::Reset(index, term) => wal.reset(*index, *term),
            Operation::Release(through) => wal.release(*through).map(|_| ()),
            Operation::Prepare => wal.prepare(),
        }
    }
}

impl Model {
    pub fn last(&self) -> (Index, Term) {
        self.entries.last().map_or(self.start, |entry| (entry.index, entry.term))
    }

    pub fn run(&mut self, operation: &Operation) {
        match operation {
            Operation::Append(batch) => {
                for entry in &batch.entries {
                    let keep = entry.index.0 - self.start.0.0 - 1;
                    self.entries.truncate(keep as usize);
                    self.entries.push(entry.clone());
                }
                self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
            }
            Operation::Reset(index, term) => {
                self.start = (*index, *term);
                self.entries.clear();
            }
            Operation::Release(_) | Operation::Prepare => {}
        }
    }

    /// What opening with this mark should return.
    pub fn after(&self, keep_after: Index) -> Model {
        let mut model = self.clone();
        let known = keep_after.0.saturating_sub(self.start.0.0) as usize;
        let dropped: Vec<_> = model.entries.drain(..known.min(self.entries.len())).collect();
        if let Some(last) = dropped.last() {
            model.start = (last.index, last.term);
        }
        model
    }

    /// Something one may do to this log. Nothing up to `released` is replaced.
    pub fn operation(&self, released: Index, random: &mut StdRng) -> Operation {
        match random.random_range(0..20) {
            0 => {
                let index = self.last().0.0.max(released.0) + random.random_range(1..20);
                Operation::Reset(Index(index), Term(self.term() + random.random_range(0..2)))
            }
            1 | 2 => Operation::Prepare,
            _ => Operation::Append(self.batch(released, random)),
        }
    }

    fn term(&self) -> u64 {
        self.hard_state.term.0.max(self.last().1.0)
    }

    fn batch(&self, released: Index, random: &mut StdRng) -> Batch {
        let lowest = self.start.0.0.max(released.0) + 1;
        let mut first = self.last().0.0 + 1;
        let mut term = self.term().max(1);
        if random.random_bool(0.2) && lowest < first {
            first = random.random_range(lowest..first);
            term += 1;
        }
        let count = if first < lowest { 0 } else { random.random_range(0..5) };
        let entry = |index| {
            let most = if random.random_bool(0.05) { 3000 } else { 200 };
            let data: Vec<u8> =
                (0..random.random_range(0..most)).map(|_| random.random()).collect();
            let kind = random.random();
            LogEntry { index: Index(index), term: Term(term), kind, data: Bytes::from(data) }
        };
        let entries = (first..first + count).map(entry).collect();
        let hard_state = random.random_bool(0.5).then(|| HardState {
            term: Term(term),
            vote: MemberId(random.random_range(0..4)),
            commit: Index(random.random_range(0..first)),
        });
        Batch { entries, hard_state, sync: random.random_bool(0.5) }
    }
}

impl From<&Recovered> for Model {
    fn from(recovered: &Recovered) -> Model {
        Model {
            start: recovered.start,
            entries: recovered.entries.clone(),
            hard_state: recovered.hard_state,
        }
    }
}
