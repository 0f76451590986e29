//! Records: the contents of a frame.
//!
//! Encoding appends to the writer's buffer, which is the only copy made of an entry's bytes.
//! Decoding borrows from the reader's buffer, so that entries nobody wants cost nothing.

use super::frame::{FRAME_ALIGNMENT, u32_at, u64_at};
use super::{HardState, LogEntry};
use crate::types::{Index, MemberId, Term};

const TAG_NONE: u8 = 0;
const TAG_ENTRY: u8 = 1;
const TAG_HARD_STATE: u8 = 2;
const TAG_RESET: u8 = 3;

const ENTRY_HEAD_BYTES: usize = 24;
const HARD_STATE_BYTES: usize = 32;
const RESET_BYTES: usize = 24;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Record<'a> {
    Entry { index: Index, term: Term, kind: u8, data: &'a [u8] },
    HardState(HardState),
    Reset { index: Index, term: Term },
}

/// Bytes the record of this entry takes.
pub(super) fn entry_bytes(entry: &LogEntry) -> usize {
    ENTRY_HEAD_BYTES + entry.data.len()
}

pub(super) fn encode_entry(out: &mut Vec<u8>, entry: &LogEntry) {
    let length = u32::try_from(entry.data.len()).expect("the frame limit is below 4 GiB");
    let mut head = [0; ENTRY_HEAD_BYTES];
    head[0] = TAG_ENTRY;
    head[1] = entry.kind;
    head[4..8].copy_from_slice(&length.to_le_bytes());
    head[8..16].copy_from_slice(&entry.index.0.to_le_bytes());
    head[16..24].copy_from_slice(&entry.term.0.to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(&entry.data);
}

pub(super) fn encode_hard_state(out: &mut Vec<u8>, hard_state: &HardState) {
    let mut record = [0; HARD_STATE_BYTES];
    record[0] = TAG_HARD_STATE;
    record[8..16].copy_from_slice(&hard_state.term.0.to_le_bytes());
    record[16..24].copy_from_slice(&hard_state.vote.0.to_le_bytes());
    record[24..32].copy_from_slice(&hard_state.commit.0.to_le_bytes());
    out.extend_from_slice(&record);
}

pub(super) fn encode_reset(out: &mut Vec<u8>, index: Index, term: Term) {
    let mut record = [0; RESET_BYTES];
    record[0] = TAG_RESET;
    record[8..16].copy_from_slice(&index.0.to_le_bytes());
    record[16..24].copy_from_slice(&term.0.to_le_bytes());
    out.extend_from_slice(&record);
}

/// Fills up with zeros to where the next frame may begin.
pub(super) fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(FRAME_ALIGNMENT), 0);
}

/// The records of a body whose checksum was right. An error therefore means that the writer of
/// these bytes was not this program.
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub fn new(body: &'a [u8]) -> Records<'a> {
        Records { rest: body }
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], &'static str> {
        let (record, rest) = self.rest.split_at_checked(bytes).ok_or("a record without an end")?;
        self.rest = rest;
        Ok(record)
    }

    fn entry(&mut self) -> Result<Record<'a>, &'static str> {
        let head = self.take(ENTRY_HEAD_BYTES)?;
        let data = self.take(u32_at(head, 4) as usize)?;
        let (index, term) = (Index(u64_at(head, 8)), Term(u64_at(head, 16)));
        Ok(Record::Entry { index, term, kind: head[1], data })
    }

    fn hard_state(&mut self) -> Result<Record<'a>, &'static str> {
        let record = self.take(HARD_STATE_BYTES)?;
        Ok(Record::HardState(HardState {
            term: Term(u64_at(record, 8)),
            vote: MemberId(u64_at(record, 16)),
            commit: Index(u64_at(record, 24)),
        }))
    }

    fn reset(&mut self) -> Result<Record<'a>, &'static str> {
        let record = self.take(RESET_BYTES)?;
        Ok(Record::Reset { index: Index(u64_at(record, 8)), term: Term(u64_at(record, 16)) })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = match *self.rest.first()? {
            TAG_ENTRY => self.entry(),
            TAG_HARD_STATE => self.hard_state(),
            TAG_RESET => self.reset(),
            TAG_NONE if self.rest.iter().all(|byte| *byte == 0) => return None,
            TAG_NONE => Err("something after the last record"),
            _ => Err("a record of an unknown kind"),
        };
        if record.is_err() {
            self.rest = &[];
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn records_come_back_as_they_were_written() {
        let entry = LogEntry {
            index: Index(7),
            term: Term(3),
            kind: 2,
            data: Bytes::from_static(b"put a=b"),
        };
        let empty = LogEntry { index: Index(8), data: Bytes::new(), ..entry.clone() };
        let hard_state = HardState { term: Term(3), vote: MemberId(9), commit: Index(6) };
        let mut body = Vec::new();
        encode_entry(&mut body, &entry);
        encode_entry(&mut body, &empty);
        encode_hard_state(&mut body, &hard_state);
        encode_reset(&mut body, Index(40), Term(5));
        pad(&mut body);
        assert_eq!(body.len() % FRAME_ALIGNMENT, 0);
        let records: Result<Vec<_>, _> = Records::new(&body).collect();
        let (index, term) = (Index(7), Term(3));
        assert_eq!(
            records.unwrap(),
            [
                Record::Entry { index, term, kind: 2, data: b"put a=b" },
                Record::Entry { index: Index(8), term, kind: 2, data: b"" },
                Record::HardState(hard_state),
                Record::Reset { index: Index(40), term: Term(5) },
            ]
        );
    }

    /// Whatever a checksum might let through, decoding ends with an error and without a panic.
    #[test]
    fn nonsense_is_an_error() {
        for body in [&[1u8, 0, 0][..], &[9; 64], &[0, 0, 0, 1], &[2; 16], &[3; 8], &[1; 64]] {
            assert!(Records::new(body).any(|record| record.is_err()), "{body:?}");
        }
    }
}
