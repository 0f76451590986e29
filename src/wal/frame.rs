//! The frame's header: what binds the bytes of one append to their place in the log.
//!
//! The header carries its own checksum so that it can be believed without its body: after a bad
//! frame the reader looks for any later header that tells how far the segment was durable, and
//! that one's body may itself be torn. The checksum starts from the segment's seed and covers
//! the frame's offset, neither of which stands in the frame. A header that turns up in another
//! segment, at another place, or in bytes that a client stored is therefore not one.

/// Bytes of a frame before its body.
pub(super) const FRAME_HEADER_BYTES: usize = 32;
/// Frames begin at a multiple of this.
pub(super) const FRAME_ALIGNMENT: usize = 8;

const CRC_AT: usize = 28;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FrameHeader {
    pub length: u32,
    pub body_crc: u32,
    pub number: u64,
    pub synced: u64,
    pub previous: u32,
}

impl FrameHeader {
    /// The header's bytes, and its checksum, which the next frame names as `previous`. Because it
    /// covers the body's checksum and `previous`, it stands for the log up to here.
    pub fn encode(&self, seed: u32, offset: u64) -> ([u8; FRAME_HEADER_BYTES], u32) {
        let mut out = [0; FRAME_HEADER_BYTES];
        out[0..4].copy_from_slice(&self.length.to_le_bytes());
        out[4..8].copy_from_slice(&self.body_crc.to_le_bytes());
        out[8..16].copy_from_slice(&self.number.to_le_bytes());
        out[16..24].copy_from_slice(&self.synced.to_le_bytes());
        out[24..28].copy_from_slice(&self.previous.to_le_bytes());
        let crc = checksum(seed, offset, &out);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        (out, crc)
    }

    /// The header in `bytes` and its checksum, or nothing if that is not a header written there.
    pub fn decode(bytes: &[u8], seed: u32, offset: u64) -> Option<(FrameHeader, u32)> {
        let bytes: &[u8; FRAME_HEADER_BYTES] = bytes.try_into().expect("a whole header");
        let crc = u32_at(bytes, CRC_AT);
        // Numbers begin at 1, so zeros are never a header, whatever their checksum.
        if crc != checksum(seed, offset, bytes) || u64_at(bytes, 8) == 0 {
            return None;
        }
        let header = FrameHeader {
            length: u32_at(bytes, 0),
            body_crc: u32_at(bytes, 4),
            number: u64_at(bytes, 8),
            synced: u64_at(bytes, 16),
            previous: u32_at(bytes, 24),
        };
        Some((header, crc))
    }

    /// Bytes of the whole frame.
    pub fn frame_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + u64::from(self.length)
    }
}

fn checksum(seed: u32, offset: u64, header: &[u8; FRAME_HEADER_BYTES]) -> u32 {
    let crc = crc32c::crc32c_append(seed, &offset.to_le_bytes());
    crc32c::crc32c_append(crc, &header[..CRC_AT])
}

/// The number at `at`; the caller has checked that it is there.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

/// The number at `at`; the caller has checked that it is there.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FrameHeader {
        FrameHeader { length: 64, body_crc: 0xdead_beef, number: 9, synced: 128, previous: 77 }
    }

    /// Only the very place it was written for accepts a header.
    #[test]
    fn a_header_is_valid_only_at_its_own_place() {
        let (bytes, crc) = header().encode(5, 256);
        assert_eq!(FrameHeader::decode(&bytes, 5, 256), Some((header(), crc)));
        assert_eq!(FrameHeader::decode(&bytes, 6, 256), None);
        assert_eq!(FrameHeader::decode(&bytes, 5, 264), None);
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let (bytes, _) = header().encode(5, 256);
        for bit in 0..FRAME_HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::decode(&flipped, 5, 256), None, "bit {bit}");
        }
    }
}
