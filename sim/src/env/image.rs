//! The bytes of a simulated file, as sparse pages: logs reserve far more than they write.

use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE_BYTES: u64 = 4096;

/// Bytes that were never written are zero.
#[derive(Clone, Debug, Default)]
pub struct Image {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE_BYTES as usize]>>,
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
            let bytes =
                self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES as usize]));
            Arc::make_mut(bytes)[within..within + source.len()].copy_from_slice(source);
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    /// Cuts or grows; what is cut off comes back as zeros.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE_BYTES));
            let (page, within) = (len / PAGE_BYTES, (len % PAGE_BYTES) as usize);
            if let Some(bytes) = self.pages.get_mut(&page) {
                Arc::make_mut(bytes)[within..].fill(0);
            }
        }
        self.len = len;
    }
}

/// Cuts a range at page boundaries: page, offset in the page, place in the buffer.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PAGE_BYTES) as usize;
        let count = (PAGE_BYTES as usize - within).min(len - done);
        let piece = (at / PAGE_BYTES, within, done..done + count);
        done += count;
        (count > 0).then_some(piece)
    })
}
