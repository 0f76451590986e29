//! Frames: how one byte stream carries many messages, and how damage is noticed.
//!
//! ```text
//! 0        4      5      8                16            20           24
//! | length | kind | zero | id             | payload crc | header crc | payload ...
//! ```
//!
//! Numbers are little endian, checksums CRC-32C. The header has a checksum of its own, over the
//! bytes before it, so that a damaged length is noticed at once and not after waiting for
//! megabytes that never come. What `id` means depends on the kind.
//!
//! - A length is believed only in so far as bytes arrive: the payload's buffer grows with what
//!   was received, never ahead of it by more than its own size, and a length above the
//!   connection's limit is refused before any of it is read.
//! - Payloads up to `PEER_COPIED_PAYLOAD_BYTES_MAX` are copied out of the read buffer, so a
//!   small message that is kept for long never holds a large buffer. Larger ones are read
//!   straight into an allocation of their own.
//! - The decoder is not to be used after an error: where the next frame starts is unknown.

use crate::types::limits::{PEER_COPIED_PAYLOAD_BYTES_MAX, PEER_READ_BUFFER_BYTES};
use bytes::{BufMut, Bytes};
use std::fmt;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 24;
/// Bytes the header's checksum covers.
const HEADER_COVERED_BYTES: usize = 20;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// "I am here"; on a message connection to be answered with a pong of the same id.
    Ping,
    Pong,
    /// A Raft message, dialer to acceptor.
    Message,
    /// A question, dialer to acceptor; the id pairs it with its answer.
    Request,
    Response,
    /// The request of this id gets no answer.
    Unavailable,
    /// First frame of a snapshot's connection.
    SnapshotHeader,
    /// Some of the snapshot; the id is the offset of its first byte.
    SnapshotChunk,
    /// The snapshot is complete; the id is its length, the payload the checksum of all of it.
    SnapshotEnd,
    /// The receiver has it.
    SnapshotAccepted,
    /// The receiver does not want it; the payload says why, as text.
    SnapshotFailed,
}

impl Kind {
    const ALL: [Kind; 11] = [
        Kind::Ping,
        Kind::Pong,
        Kind::Message,
        Kind::Request,
        Kind::Response,
        Kind::Unavailable,
        Kind::SnapshotHeader,
        Kind::SnapshotChunk,
        Kind::SnapshotEnd,
        Kind::SnapshotAccepted,
        Kind::SnapshotFailed,
    ];

    /// The kind's number on the wire, never to be changed.
    fn code(self) -> u8 {
        match self {
            Kind::Ping => 1,
            Kind::Pong => 2,
            Kind::Message => 3,
            Kind::Request => 4,
            Kind::Response => 5,
            Kind::Unavailable => 6,
            Kind::SnapshotHeader => 7,
            Kind::SnapshotChunk => 8,
            Kind::SnapshotEnd => 9,
            Kind::SnapshotAccepted => 10,
            Kind::SnapshotFailed => 11,
        }
    }

    fn from_code(code: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// One frame, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) payload: Bytes,
}

/// Why bytes are no frame. The connection cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FrameError {
    HeaderDamaged,
    UnknownKind(u8),
    TooLong { length: usize, length_max: usize },
    PayloadDamaged { kind: Kind, length: usize },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::HeaderDamaged => write!(f, "frame header does not match its checksum"),
            FrameError::UnknownKind(code) => write!(f, "unknown kind of frame {code}"),
            FrameError::TooLong { length, length_max } => {
                write!(f, "frame of {length} bytes exceeds the limit of {length_max}")
            }
            FrameError::PayloadDamaged { kind, length } => {
                write!(f, "{kind:?} frame of {length} bytes does not match its checksum")
            }
        }
    }
}

/// The header that goes before `payload`.
pub(super) fn header(kind: Kind, id: u64, payload: &[u8]) -> [u8; HEADER_BYTES] {
    let length = u32::try_from(payload.len()).expect("the caller checked against a limit");
    let mut bytes = [0; HEADER_BYTES];
    bytes[0..4].copy_from_slice(&length.to_le_bytes());
    bytes[4] = kind.code();
    bytes[8..16].copy_from_slice(&id.to_le_bytes());
    bytes[16..20].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..HEADER_COVERED_BYTES]);
    bytes[20..24].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Takes `N` bytes at `offset`.
pub(super) fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().expect("the slice has N bytes")
}

#[derive(Clone, Copy, Debug)]
struct Header {
    length: usize,
    kind: Kind,
    id: u64,
    payload_crc: u32,
}

impl Header {
    fn parse(bytes: &[u8], length_max: usize) -> Result<Header, FrameError> {
        let checksum = u32::from_le_bytes(array(bytes, HEADER_COVERED_BYTES));
        if crc32c::crc32c(&bytes[..HEADER_COVERED_BYTES]) != checksum {
            return Err(FrameError::HeaderDamaged);
        }
        let kind = Kind::from_code(bytes[4]).ok_or(FrameError::UnknownKind(bytes[4]))?;
        let length = u32::from_le_bytes(array(bytes, 0)) as usize;
        if length > length_max {
            return Err(FrameError::TooLong { length, length_max });
        }
        Ok(Header {
            length,
            kind,
            id: u64::from_le_bytes(array(bytes, 8)),
            payload_crc: u32::from_le_bytes(array(bytes, 16)),
        })
    }

    fn frame(self, payload: Bytes) -> Result<Frame, FrameError> {
        if crc32c::crc32c(&payload) != self.payload_crc {
            return Err(FrameError::PayloadDamaged { kind: self.kind, length: self.length });
        }
        Ok(Frame { kind: self.kind, id: self.id, payload })
    }
}

/// Turns what a stream delivers, cut anywhere, back into frames.
pub(super) struct Decoder {
    /// Received and not yet decoded: `buffer[start..end]`.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// A large frame of which the header is decoded and some of the payload received. While it
    /// is there, `buffer` is empty.
    large: Option<(Header, Vec<u8>)>,
    payload_bytes_max: usize,
}

impl Decoder {
    /// Refuses frames whose payload is longer than `payload_bytes_max`.
    pub(super) fn new(payload_bytes_max: usize) -> Decoder {
        let buffer = vec![0; PEER_READ_BUFFER_BYTES].into_boxed_slice();
        Decoder { buffer, start: 0, end: 0, large: None, payload_bytes_max }
    }

    /// Reads once from `stream`; 0 at its end. Call only after [`Decoder::next`] returned `None`.
    /// Safe to cancel.
    pub(super) async fn fill(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<usize> {
        if let Some((header, payload)) = &mut self.large {
            let missing = header.length - payload.len();
            assert!(missing > 0, "a complete frame is taken before more is read");
            if payload.len() == payload.capacity() {
                payload.reserve_exact(missing.min(payload.len().max(PEER_READ_BUFFER_BYTES)));
            }
            return stream.read_buf(&mut payload.limit(missing)).await;
        }
        // What is left is less than one small frame, so moving it is cheap and makes room.
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        assert!(self.end < self.buffer.len(), "a small frame always fits");
        let count = stream.read(&mut self.buffer[self.end..]).await?;
        self.end += count;
        Ok(count)
    }

    /// The next frame, if all of it has arrived.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.large.is_none() {
            let waiting = &self.buffer[self.start..self.end];
            if waiting.len() < HEADER_BYTES {
                return Ok(None);
            }
            let header = Header::parse(&waiting[..HEADER_BYTES], self.payload_bytes_max)?;
            let received = &waiting[HEADER_BYTES..];
            if header.length <= PEER_COPIED_PAYLOAD_BYTES_MAX {
                if received.len() < header.length {
                    return Ok(None);
                }
                let payload = Bytes::copy_from_slice(&received[..header.length]);
                self.start += HEADER_BYTES + header.length;
                return header.frame(payload).map(Some);
            }
            let count = received.len().min(header.length);
            let room = count.max(PEER_READ_BUFFER_BYTES).min(header.length);
            let mut payload = Vec::with_capacity(room);
            payload.extend_from_slice(&received[..count]);
            self.start += HEADER_BYTES + count;
            self.large = Some((header, payload));
        }
        match self.large.take() {
            Some((header, payload)) if payload.len() == header.length => {
                header.frame(Bytes::from(payload)).map(Some)
            }
            unfinished => {
                self.large = unfinished;
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(kind: Kind, id: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = header(kind, id, payload).to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Feeds `bytes` in pieces of the given sizes (repeated), and collects what comes out.
    fn decode(
        bytes: &[u8],
        cuts: &[usize],
        payload_bytes_max: usize,
    ) -> Result<Vec<Frame>, FrameError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut decoder = Decoder::new(payload_bytes_max);
            let mut frames = Vec::new();
            let mut sizes = cuts.iter().cycle();
            let mut rest = bytes;
            while !rest.is_empty() {
                let (mut piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                rest = after;
                while !piece.is_empty() {
                    while let Some(frame) = decoder.next()? {
                        frames.push(frame);
                    }
                    assert!(decoder.fill(&mut piece).await.unwrap() > 0);
                }
            }
            while let Some(frame) = decoder.next()? {
                frames.push(frame);
            }
            Ok(frames)
        })
    }

    fn payload_lengths() -> impl Strategy<Value = usize> {
        let edge = PEER_COPIED_PAYLOAD_BYTES_MAX;
        let buffer = PEER_READ_BUFFER_BYTES;
        prop_oneof![
            6 => 0..200usize,
            2 => edge - 3..edge + 3,
            1 => buffer - 30..buffer + 30,
            1 => 0..400_000usize,
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// However the stream is cut, the frames that went in come out.
        #[test]
        fn frames_survive_any_split(
            frames in prop::collection::vec(
                (0..Kind::ALL.len(), any::<u64>(), payload_lengths(), any::<u8>()), 0..12),
            cuts in prop::collection::vec(
                prop_oneof![1..40usize, 1000..200_000usize], 1..20),
        ) {
            let frames: Vec<Frame> = frames
                .into_iter()
                .map(|(kind, id, length, byte)| Frame {
                    kind: Kind::ALL[kind],
                    id,
                    payload: (0..length).map(|at| (at as u8).wrapping_mul(31) ^ byte).collect(),
                })
                .collect();
            let mut bytes = Vec::new();
            for frame in &frames {
                bytes.extend(encode(frame.kind, frame.id, &frame.payload));
            }
            prop_assert_eq!(decode(&bytes, &cuts, usize::MAX).unwrap(), frames);
        }

        /// One damaged byte anywhere is noticed: the frame that holds it never comes out.
        #[test]
        fn damage_is_noticed(length in 1..70_000usize, at in any::<prop::sample::Index>(),
            flip in 1..=255u8) {
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut bytes = encode(Kind::Message, 7, &payload);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let error = decode(&bytes, &[1000], usize::MAX).unwrap_err();
            let expected = if at < HEADER_BYTES {
                FrameError::HeaderDamaged
            } else {
                FrameError::PayloadDamaged { kind: Kind::Message, length }
            };
            prop_assert_eq!(error, expected);
        }
    }

    #[test]
    fn kinds_keep_their_numbers() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(Kind::from_code(0), None);
        assert_eq!(Kind::from_code(12), None);
        assert_eq!(Kind::Message.code(), 3);
        assert_eq!(Kind::SnapshotFailed.code(), 11);
    }

    #[test]
    fn a_length_over_the_limit_is_refused_by_its_header_alone() {
        let bytes = encode(Kind::Message, 0, &[0; 1001]);
        let error = decode(&bytes[..HEADER_BYTES], &[HEADER_BYTES], 1000).unwrap_err();
        assert_eq!(error, FrameError::TooLong { length: 1001, length_max: 1000 });
    }

    #[test]
    fn a_claimed_length_allocates_no_more_than_a_buffer() {
        // A header that promises 1 GiB is followed by one byte.
        let mut bytes = [0; HEADER_BYTES + 1];
        bytes[..HEADER_BYTES].copy_from_slice(&header(Kind::Message, 0, &[]));
        bytes[0..4].copy_from_slice(&(1u32 << 30).to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..HEADER_COVERED_BYTES]);
        bytes[20..24].copy_from_slice(&checksum.to_le_bytes());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut decoder = Decoder::new(1 << 31);
        let count = runtime.block_on(decoder.fill(&mut &bytes[..])).unwrap();
        assert_eq!(count, bytes.len());
        assert_eq!(decoder.next(), Ok(None));
        let (_, payload) = decoder.large.as_ref().unwrap();
        assert_eq!(payload.len(), 1);
        assert!(payload.capacity() <= 2 * PEER_READ_BUFFER_BYTES);
    }
}
