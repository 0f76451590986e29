//! A segment's name and header.
//!
//! The header repeats all a reader would otherwise need the segments before it for: whose log
//! this is, where in it the segment belongs, the last entry before it and the hard state. So old
//! segments can simply be removed, and every other way for a segment to be in the wrong place is
//! found: by sequence, by frame number, and by the checksum of the frame that came before.

use super::frame::{u32_at, u64_at};
use super::{FORMAT_VERSION, HardState, Identity};
use crate::types::{ClusterId, Index, MemberId, Term};

/// Bytes of a segment before its first frame.
pub(super) const SEGMENT_HEADER_BYTES: usize = 128;
/// The name of the segment that is being made.
pub(super) const NEXT_NAME: &str = "next.tmp";

const MAGIC: &[u8; 8] = b"QUORWAL\n";
const CRC_AT: usize = 12;
const CRC_END: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub identity: Identity,
    pub sequence: u64,
    /// Number of the first frame here.
    pub number: u64,
    /// The last entry before this segment.
    pub base: (Index, Term),
    /// The hard state before this segment.
    pub hard_state: HardState,
    /// Checksum of the frame before this segment.
    pub previous: u32,
}

/// Why 128 bytes are no header of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HeaderFault {
    Magic,
    Checksum,
    Version(u32),
}

impl SegmentHeader {
    /// The header's bytes, and the seed for the checksums of the segment's frames.
    pub fn encode(&self) -> ([u8; SEGMENT_HEADER_BYTES], u32) {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[0..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        let numbers = [
            self.identity.cluster.0,
            self.identity.member.0,
            self.sequence,
            self.number,
            self.base.0.0,
            self.base.1.0,
            self.hard_state.term.0,
            self.hard_state.vote.0,
            self.hard_state.commit.0,
        ];
        for (at, number) in (16..).step_by(8).zip(numbers) {
            out[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        out[88..92].copy_from_slice(&self.previous.to_le_bytes());
        let seed = checksum(&out);
        out[CRC_AT..CRC_END].copy_from_slice(&seed.to_le_bytes());
        (out, seed)
    }

    /// The header in `bytes`, and the seed. The version is believed only after the checksum, lest
    /// a flipped bit be reported as a version.
    pub fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<(SegmentHeader, u32), HeaderFault> {
        if &bytes[0..8] != MAGIC {
            return Err(HeaderFault::Magic);
        }
        let seed = u32_at(bytes, CRC_AT);
        if seed != checksum(bytes) {
            return Err(HeaderFault::Checksum);
        }
        let version = u32_at(bytes, 8);
        if version != FORMAT_VERSION {
            return Err(HeaderFault::Version(version));
        }
        let header = SegmentHeader {
            identity: Identity {
                cluster: ClusterId(u64_at(bytes, 16)),
                member: MemberId(u64_at(bytes, 24)),
            },
            sequence: u64_at(bytes, 32),
            number: u64_at(bytes, 40),
            base: (Index(u64_at(bytes, 48)), Term(u64_at(bytes, 56))),
            hard_state: HardState {
                term: Term(u64_at(bytes, 64)),
                vote: MemberId(u64_at(bytes, 72)),
                commit: Index(u64_at(bytes, 80)),
            },
            previous: u32_at(bytes, 88),
        };
        Ok((header, seed))
    }

    /// The name this segment goes by.
    pub fn name(&self) -> String {
        format!("{:016x}-{:016x}.wal", self.sequence, self.base.0.0 + 1)
    }
}

/// The sequence in a segment's name, or nothing if that is not such a name.
pub(super) fn sequence_in_name(name: &str) -> Option<u64> {
    let (sequence, first) = name.strip_suffix(".wal")?.split_once('-')?;
    let number = |text: &str| {
        let lawful =
            text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if lawful { u64::from_str_radix(text, 16).ok() } else { None }
    };
    number(first)?;
    number(sequence)
}

fn checksum(header: &[u8; SEGMENT_HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..CRC_AT]), &header[CRC_END..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            identity: Identity { cluster: ClusterId(0xc1), member: MemberId(0xa2) },
            sequence: 3,
            number: 17,
            base: (Index(255), Term(4)),
            hard_state: HardState { term: Term(5), vote: MemberId(0xa2), commit: Index(250) },
            previous: 0x0102_0304,
        }
    }

    #[test]
    fn a_header_comes_back_as_it_was_written() {
        let (bytes, seed) = header().encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok((header(), seed)));
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let (bytes, _) = header().encode();
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let fault = SegmentHeader::decode(&flipped).expect_err("one bit is wrong");
            assert_ne!(fault, HeaderFault::Version(FORMAT_VERSION), "bit {bit}");
            assert!(!matches!(fault, HeaderFault::Version(_)), "bit {bit}");
        }
    }

    #[test]
    fn names_carry_the_sequence() {
        assert_eq!(header().name(), "0000000000000003-0000000000000100.wal");
        assert_eq!(sequence_in_name(&header().name()), Some(3));
        for name in ["next.tmp", "3-100.wal", "000000000000000g-0000000000000100.wal", ".wal"] {
            assert_eq!(sequence_in_name(name), None, "{name}");
        }
        assert_eq!(sequence_in_name("000000000000000A-0000000000000100.wal"), None);
        assert_eq!(sequence_in_name("0000000000000003-0000000000000100.wal.bak"), None);
    }
}
