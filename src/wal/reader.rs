//! Reading a segment from front to back through one buffer.

use super::Result;
use super::error::WalError;
use super::frame::{FRAME_ALIGNMENT, FRAME_HEADER_BYTES, FrameHeader};
use crate::env::File;
use std::path::Path;

/// Least that is read at a time, unless the file ends.
const CHUNK_BYTES: usize = 1024 * 1024;

/// A window on a file that moves with what is asked for.
pub(super) struct Reader<'a, F> {
    file: &'a F,
    path: &'a Path,
    len: u64,
    /// Bytes of the file from `window_at` on.
    window: Vec<u8>,
    window_at: u64,
    pub bytes_read: u64,
}

/// What stands at a place where a frame could.
pub(super) enum Found<'a> {
    /// A frame, its checksum, its body.
    Frame(FrameHeader, u32, &'a [u8]),
    /// None, and this is what is wrong.
    Nothing(&'static str),
}

/// What lies behind the last good frame.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Tail {
    /// Behind the last byte that is not zero; nothing if all are.
    pub end: Option<u64>,
    /// A header that says its segment was durable beyond the last good frame, and its offset.
    pub witness: Option<(FrameHeader, u64)>,
}

impl<'a, F: File> Reader<'a, F> {
    pub fn new(file: &'a F, path: &'a Path) -> Result<Reader<'a, F>> {
        let len = file.len().map_err(|error| WalError::io("tell the size", path, error))?;
        Ok(Reader { file, path, len, window: Vec::new(), window_at: 0, bytes_read: 0 })
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// These bytes of the file, or nothing if it ends before.
    pub fn bytes(&mut self, offset: u64, size: usize) -> Result<Option<&[u8]>> {
        match offset.checked_add(size as u64) {
            Some(end) if end <= self.len => {}
            Some(_) | None => return Ok(None),
        }
        let window_end = self.window_at + self.window.len() as u64;
        if offset < self.window_at || offset + size as u64 > window_end {
            let wanted = (size.max(CHUNK_BYTES) as u64).min(self.len - offset);
            // Should the read fail, the window holds nothing rather than a mixture.
            self.window.clear();
            self.window.resize(wanted as usize, 0);
            self.window_at = offset;
            if let Err(error) = self.file.read_at(offset, &mut self.window) {
                self.window.clear();
                return Err(WalError::io("read", self.path, error));
            }
            self.bytes_read += wanted;
        }
        let at = (offset - self.window_at) as usize;
        Ok(Some(&self.window[at..at + size]))
    }

    /// The frame at `offset`, checked as far as one can without knowing the one before.
    pub fn frame(&mut self, seed: u32, offset: u64) -> Result<Found<'_>> {
        let Some(bytes) = self.bytes(offset, FRAME_HEADER_BYTES)? else {
            return Ok(Found::Nothing("the file ends"));
        };
        let Some((header, crc)) = FrameHeader::decode(bytes, seed, offset) else {
            let zeros = bytes.iter().all(|byte| *byte == 0);
            let reason = if zeros { "only zeros" } else { "the checksum of the frame is wrong" };
            return Ok(Found::Nothing(reason));
        };
        let body_at = offset + FRAME_HEADER_BYTES as u64;
        match self.bytes(body_at, header.length as usize)? {
            None => Ok(Found::Nothing("the file ends within the frame")),
            Some(body) if crc32c::crc32c(body) != header.body_crc => {
                Ok(Found::Nothing("the checksum of the frame's contents is wrong"))
            }
            Some(body) => Ok(Found::Frame(header, crc, body)),
        }
    }

    /// Looks through everything from `offset`, where frame `number` should be and is not.
    pub fn tail(&mut self, seed: u32, offset: u64, number: u64) -> Result<Tail> {
        let mut tail = Tail::default();
        let mut at = offset;
        while at < self.len {
            let size = (CHUNK_BYTES as u64).min(self.len - at);
            // A header may begin in this piece and end in the next.
            let overlap = (FRAME_HEADER_BYTES as u64).min(self.len - at - size);
            let read = self.bytes(at, (size + overlap) as usize)?.expect("the file is that long");
            if let Some(last) = last_nonzero(&read[..size as usize]) {
                tail.end = Some(at + last as u64 + 1);
            }
            if tail.witness.is_none() && last_nonzero(read).is_some() {
                tail.witness = witness(read, at, seed, offset, number);
            }
            at += size;
        }
        Ok(tail)
    }
}

/// A header in `read`, which is what stands at `read_at`, that vouches for `offset`.
fn witness(
    read: &[u8],
    read_at: u64,
    seed: u32,
    offset: u64,
    number: u64,
) -> Option<(FrameHeader, u64)> {
    for (at, bytes) in read.windows(FRAME_HEADER_BYTES).enumerate().step_by(FRAME_ALIGNMENT) {
        let at = read_at + at as u64;
        if let Some((header, _)) = FrameHeader::decode(bytes, seed, at)
            && header.number > number
            && header.synced > offset
            && header.synced <= at
        {
            return Some((header, at));
        }
    }
    None
}

/// Where the last byte is that is not zero. Reserved space is mostly zeros, so those are skipped
/// by comparing memory.
fn last_nonzero(bytes: &[u8]) -> Option<usize> {
    const ZEROS: [u8; 4096] = [0; 4096];
    for (piece, chunk) in bytes.chunks(ZEROS.len()).enumerate().rev() {
        if chunk != &ZEROS[..chunk.len()] {
            let at = chunk.iter().rposition(|byte| *byte != 0).expect("one is not zero");
            return Some(piece * ZEROS.len() + at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_byte_that_is_not_zero_is_found_anywhere() {
        assert_eq!(last_nonzero(&[]), None);
        assert_eq!(last_nonzero(&[0; 10_000]), None);
        for at in [0, 1, 4095, 4096, 4097, 8191, 9999] {
            let mut bytes = vec![0; 10_000];
            bytes[0] = 1;
            bytes[at] = 1;
            assert_eq!(last_nonzero(&bytes), Some(at));
        }
    }
}
