//! The bytes of a simulated file, as sparse pages: logs reserve far more than they write.
//!
//! A page that was written takes a block of the disk, and so does one that was reserved. Bytes
//! that were never written are zero and, if not reserved, take nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a block, the unit in which a file takes space.
pub const BLOCK_BYTES: u64 = 4096;

type Page = [u8; BLOCK_BYTES as usize];

/// See the module. Clones share pages until one is written.
#[derive(Clone, Debug, Default)]
pub struct Image {
    len: u64,
    pages: BTreeMap<u64, Arc<Page>>,
    /// Blocks from the beginning that are taken whether they are written or not.
    reserved: u64,
}

impl Image {
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out`; false if the file ends before.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> bool {
        if offset + out.len() as u64 > self.len {
            return false;
        }
        for (page, within, place) in pieces(offset, out.len()) {
            let target = &mut out[place.clone()];
            match self.pages.get(&page) {
                Some(bytes) => target.copy_from_slice(&bytes[within..within + target.len()]),
                None => target.fill(0),
            }
        }
        true
    }

    /// Writes, growing the file if needed.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (page, within, place) in pieces(offset, data.len()) {
            let source = &data[place];
            let bytes = self.pages.entry(page).or_insert_with(|| Arc::new([0; _]));
            Arc::make_mut(bytes)[within..within + source.len()].copy_from_slice(source);
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    /// Cuts or grows; what is cut off comes back as zeros.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(BLOCK_BYTES));
            self.reserved = self.reserved.min(len.div_ceil(BLOCK_BYTES));
            let (page, within) = (len / BLOCK_BYTES, (len % BLOCK_BYTES) as usize);
            if let Some(bytes) = self.pages.get_mut(&page) {
                Arc::make_mut(bytes)[within..].fill(0);
            }
        }
        self.len = len;
    }

    /// Takes the blocks up to `len`. The file's length stays.
    pub fn reserve(&mut self, len: u64) {
        self.reserved = self.reserved.max(len.div_ceil(BLOCK_BYTES));
    }

    /// How far its blocks are taken whether written or not.
    pub fn reserved_len(&self) -> u64 {
        self.reserved * BLOCK_BYTES
    }

    /// Blocks it takes.
    pub fn blocks(&self) -> u64 {
        self.reserved + self.pages.range(self.reserved..).count() as u64
    }

    /// Blocks a reservation would take beyond those it has.
    pub fn blocks_to_reserve(&self, len: u64) -> u64 {
        let end = len.div_ceil(BLOCK_BYTES);
        match end > self.reserved {
            true => end - self.reserved - self.pages.range(self.reserved..end).count() as u64,
            false => 0,
        }
    }

    /// How many of these bytes could be written with so many blocks more, from the first on.
    pub fn bytes_that_fit(&self, offset: u64, len: usize, mut blocks: u64) -> usize {
        for (page, _, place) in pieces(offset, len) {
            if page < self.reserved || self.pages.contains_key(&page) {
                continue;
            }
            if blocks == 0 {
                return place.start;
            }
            blocks -= 1;
        }
        len
    }

    /// Numbers of the pages that were written.
    pub fn written(&self) -> impl Iterator<Item = u64> {
        self.pages.keys().copied()
    }
}

/// Cuts a range at page boundaries: page, offset in the page, place in the buffer.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % BLOCK_BYTES) as usize;
        let count = (BLOCK_BYTES as usize - within).min(len - done);
        let piece = (at / BLOCK_BYTES, within, done..done + count);
        done += count;
        (count > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_off_comes_back_as_zeros() {
        let mut image = Image::default();
        image.write(4_000, &[7; 200]);
        image.set_len(4_010);
        image.set_len(5_000);
        let mut out = [1; 1_000];
        assert!(image.read(4_000, &mut out));
        assert!(out[..10].iter().all(|byte| *byte == 7) && out[10..].iter().all(|byte| *byte == 0));
        assert!(!image.read(4_001, &mut out), "behind the end");
    }

    #[test]
    fn blocks_are_counted_once_whether_written_or_reserved() {
        let mut image = Image::default();
        image.set_len(1 << 30);
        assert_eq!(image.blocks(), 0);
        image.write(5 * BLOCK_BYTES, &[1]);
        assert_eq!((image.blocks(), image.blocks_to_reserve(10 * BLOCK_BYTES)), (1, 9));
        image.reserve(10 * BLOCK_BYTES);
        image.write(20 * BLOCK_BYTES - 1, &[1; 2]);
        assert_eq!(image.blocks(), 12);
        assert_eq!(image.bytes_that_fit(9 * BLOCK_BYTES, 3 * BLOCK_BYTES as usize, 1), 8192);
        image.set_len(2 * BLOCK_BYTES + 1);
        assert_eq!(image.blocks(), 3);
        image.set_len(0);
        assert_eq!(image.blocks(), 0);
    }
}
