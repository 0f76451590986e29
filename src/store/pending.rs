//! What is applied but not yet in the file.
//!
//! Nothing is synced for a request: the Raft log has it. Changes gather in a [`Batch`] and go to
//! the file together, with the applied index they lead to, in one transaction. After a crash the
//! store is back at the last such batch and the log brings it forward again.
//!
//! While a batch is on its way it is read-only and still answers reads; the next one gathers
//! behind it. So there are three generations of rows, older before newer:
//! file, batch in flight, pending batch.

use super::engine::Marks;
use super::record::{Place, RowKey};
use crate::types::limits;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Changes that reach the file together.
#[derive(Debug)]
pub(super) struct Batch {
    /// In the order of their places; without a record if a compaction dropped it before it ever
    /// reached the file.
    rows: Vec<(RowKey, Option<Bytes>)>,
    /// Rows of the file, or of the batch in flight, that a compaction dropped.
    deletes: Vec<RowKey>,
    /// Values of side rows, none for one that goes.
    pub(super) side: BTreeMap<(u8, Bytes), Option<Bytes>>,
    /// What the file says of itself afterwards; the counts of rows are the engine's business.
    pub(super) marks: Marks,
    /// Bytes held by all this.
    bytes: usize,
}

impl Batch {
    pub(super) fn new(marks: Marks) -> Batch {
        let (rows, deletes) = (Vec::new(), Vec::new());
        Batch { rows, deletes, side: BTreeMap::new(), marks, bytes: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.deletes.is_empty() && self.side.is_empty()
    }

    /// Rows, deletions and side rows in it.
    pub(super) fn entries(&self) -> usize {
        self.rows.len() + self.deletes.len() + self.side.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, row: RowKey, record: Bytes) {
        debug_assert!(self.rows.last().is_none_or(|(last, _)| last.place < row.place));
        self.bytes += record.len() + limits::STORE_RECORD_OVERHEAD_BYTES;
        self.rows.push((row, Some(record)));
    }

    /// Takes a row out, be it here or in the file.
    pub(super) fn delete(&mut self, row: RowKey) {
        match self.find(row.place) {
            Some(number) => {
                let record = self.rows[number].1.take().expect("a row is dropped once");
                self.bytes -= record.len();
            }
            None => {
                self.deletes.push(row);
                self.bytes += limits::STORE_RECORD_OVERHEAD_BYTES;
            }
        }
    }

    pub(super) fn set_side(&mut self, side: u8, key: Bytes, value: Option<Bytes>) {
        let len = value.as_ref().map_or(0, Bytes::len);
        self.bytes += key.len() + len + limits::STORE_RECORD_OVERHEAD_BYTES;
        if let Some(Some(old)) = self.side.insert((side, key), value) {
            self.bytes -= old.len();
        }
    }

    fn find(&self, place: Place) -> Option<usize> {
        self.rows.binary_search_by(|(row, _)| row.place.cmp(&place)).ok()
    }

    /// The record at a place, if it is in this batch.
    pub(super) fn get(&self, place: Place) -> Option<&Bytes> {
        let (_, record) = &self.rows[self.find(place)?];
        record.as_ref()
    }

    /// The rows to be written, in order.
    pub(super) fn rows(&self) -> impl DoubleEndedIterator<Item = (RowKey, &Bytes)> {
        self.rows.iter().filter_map(|(row, record)| Some((*row, record.as_ref()?)))
    }

    /// The rows from a place on.
    pub(super) fn rows_from(&self, from: Place) -> impl Iterator<Item = (RowKey, &Bytes)> {
        let first = self.rows.partition_point(|(row, _)| row.place < from);
        self.rows[first..].iter().filter_map(|(row, record)| Some((*row, record.as_ref()?)))
    }

    /// The rows to be taken out, in order.
    pub(super) fn deletes(&self) -> impl Iterator<Item = RowKey> {
        let mut deletes = self.deletes.clone();
        deletes.sort_unstable();
        deletes.into_iter()
    }
}
