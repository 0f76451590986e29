//! The first bytes on a connection: who calls, whom, about what, and the answer.
//!
//! ```text
//! preface  0       8         10     11     12        20     28   36    40
//!          | magic | version | kind | zero | cluster | from | to | crc |
//! answer   0       8         10     11     12        20       28    32
//!          | magic | version | code | zero | cluster | member | crc |
//! ```
//!
//! Numbers are little endian; the checksum covers all before it. The dialer sends nothing more
//! before it has read `ok`, so a connection that reached the wrong place carries no message.
//!
//! - The magic and the version come first and keep their place for ever, as does the whole
//!   answer; a caller with another version can be told so whatever the rest of its preface is.
//! - Bytes that are not ours are recognised at the first byte that differs. HTTP, TLS and port
//!   scanners get no answer, and nothing is allocated for them.
//! - This is no authentication. Who may connect at all is for TLS to decide.

use super::frame::array;
use crate::types::{ClusterId, MemberId};
use std::fmt;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// No protocol in use starts like this: the first byte is not ASCII and no TLS record type.
const MAGIC: [u8; 8] = *b"\xf1Quorate";
/// The protocol we speak.
pub(super) const PROTOCOL_VERSION: u16 = 1;
const PREFACE_BYTES: usize = 40;
const ANSWER_BYTES: usize = 32;
/// Magic and version, the part of a preface that no version changes.
const FIXED_BYTES: usize = 10;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Purpose {
    /// Raft messages and requests, for as long as both live.
    Messages,
    /// One snapshot.
    Snapshot,
}

/// What the dialer says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Preface {
    pub(super) purpose: Purpose,
    pub(super) cluster: ClusterId,
    pub(super) from: MemberId,
    pub(super) to: MemberId,
}

/// Why a member does not take a connection from another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Refusal {
    /// The two belong to different clusters.
    ClusterMismatch,
    /// The one called is not the member the caller meant: an address leads to the wrong place.
    MemberMismatch,
    /// The caller was removed from the cluster.
    SenderRemoved,
    /// The caller goes by the id of the one it called: two processes with one identity.
    SenderIsReceiver,
    /// The two speak different versions of the protocol.
    VersionUnsupported,
}

impl Refusal {
    fn code(self) -> u8 {
        match self {
            Refusal::ClusterMismatch => 1,
            Refusal::MemberMismatch => 2,
            Refusal::SenderRemoved => 3,
            Refusal::SenderIsReceiver => 4,
            Refusal::VersionUnsupported => 5,
        }
    }

    fn from_code(code: u8) -> Option<Refusal> {
        [
            Refusal::ClusterMismatch,
            Refusal::MemberMismatch,
            Refusal::SenderRemoved,
            Refusal::SenderIsReceiver,
            Refusal::VersionUnsupported,
        ]
        .into_iter()
        .find(|refusal| refusal.code() == code)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::ClusterMismatch => "cluster ID mismatch",
            Refusal::MemberMismatch => "member ID mismatch",
            Refusal::SenderRemoved => "the member has been removed from the cluster",
            Refusal::SenderIsReceiver => "both sides have the same member ID",
            Refusal::VersionUnsupported => "peer protocol version unsupported",
        })
    }
}

/// What the called one says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub(super) refusal: Option<Refusal>,
    pub(super) version: u16,
    pub(super) cluster: ClusterId,
    pub(super) member: MemberId,
}

/// Why there was no preface, or no answer, to speak of.
#[derive(Debug)]
pub(super) enum HandshakeError {
    Io(io::Error),
    /// Closed before it said anything: a port probe, or a peer that died.
    Silent,
    /// Not our protocol; what it looks like.
    Foreign(&'static str),
    /// Our magic, then nonsense.
    Damaged,
    /// A preface of this version, which we do not speak.
    Version(u16),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::Io(error) => write!(f, "{error}"),
            HandshakeError::Silent => write!(f, "closed without a word"),
            HandshakeError::Foreign(what) => {
                write!(f, "not Quorate's peer protocol: looks like {what}")
            }
            HandshakeError::Damaged => write!(f, "the first bytes are damaged"),
            HandshakeError::Version(version) => {
                write!(f, "peer protocol version {version}, ours is {PROTOCOL_VERSION}")
            }
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        HandshakeError::Io(error)
    }
}

impl Preface {
    fn encode(&self) -> [u8; PREFACE_BYTES] {
        let mut bytes = [0; PREFACE_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        bytes[10] = match self.purpose {
            Purpose::Messages => 1,
            Purpose::Snapshot => 2,
        };
        bytes[12..20].copy_from_slice(&self.cluster.0.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.from.0.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.to.0.to_le_bytes());
        seal(bytes)
    }

    fn decode(bytes: [u8; PREFACE_BYTES]) -> Option<Preface> {
        let purpose = match (is_sealed(&bytes), bytes[10]) {
            (true, 1) => Purpose::Messages,
            (true, 2) => Purpose::Snapshot,
            (true, _) | (false, _) => return None,
        };
        Some(Preface {
            purpose,
            cluster: ClusterId(u64::from_le_bytes(array(&bytes, 12))),
            from: MemberId(u64::from_le_bytes(array(&bytes, 20))),
            to: MemberId(u64::from_le_bytes(array(&bytes, 28))),
        })
    }
}

impl Answer {
    fn encode(&self) -> [u8; ANSWER_BYTES] {
        let mut bytes = [0; ANSWER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.version.to_le_bytes());
        bytes[10] = self.refusal.map_or(0, Refusal::code);
        bytes[12..20].copy_from_slice(&self.cluster.0.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.member.0.to_le_bytes());
        seal(bytes)
    }

    fn decode(bytes: [u8; ANSWER_BYTES]) -> Option<Answer> {
        if !is_sealed(&bytes) {
            return None;
        }
        let refusal = match bytes[10] {
            0 => None,
            code => Some(Refusal::from_code(code)?),
        };
        Some(Answer {
            refusal,
            version: u16::from_le_bytes(array(&bytes, 8)),
            cluster: ClusterId(u64::from_le_bytes(array(&bytes, 12))),
            member: MemberId(u64::from_le_bytes(array(&bytes, 20))),
        })
    }
}

/// Fills in the checksum of all but the last four bytes.
fn seal<const N: usize>(mut bytes: [u8; N]) -> [u8; N] {
    let checksum = crc32c::crc32c(&bytes[..N - 4]);
    bytes[N - 4..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn is_sealed<const N: usize>(bytes: &[u8; N]) -> bool {
    crc32c::crc32c(&bytes[..N - 4]) == u32::from_le_bytes(array(bytes, N - 4))
}

/// The dialer's part: says who calls, hears the answer, whatever it is.
pub(super) async fn offer(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    preface: &Preface,
) -> Result<Answer, HandshakeError> {
    stream.write_all(&preface.encode()).await?;
    stream.flush().await?;
    let mut bytes = [0; ANSWER_BYTES];
    read_ours(stream, &mut bytes, 0).await?;
    Answer::decode(bytes).ok_or(HandshakeError::Damaged)
}

/// The acceptor's part: hears who calls. [`HandshakeError::Version`] still deserves an answer.
pub(super) async fn listen(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Preface, HandshakeError> {
    let mut bytes = [0; PREFACE_BYTES];
    read_ours(stream, &mut bytes[..FIXED_BYTES], 0).await?;
    let version = u16::from_le_bytes(array(&bytes, 8));
    if version != PROTOCOL_VERSION {
        return Err(HandshakeError::Version(version));
    }
    read_ours(stream, &mut bytes, FIXED_BYTES).await?;
    Preface::decode(bytes).ok_or(HandshakeError::Damaged)
}

/// Lets a caller whose preface was not read to its end read our answer: closing with something
/// unread resets the connection, and the answer may get lost with it. Ends when the caller has closed.
pub(super) async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = [0; PREFACE_BYTES];
    // Another version's preface is not much longer than ours; who sends on is no peer.
    for _ in 0..16 {
        if !matches!(stream.read(&mut rest).await, Ok(1..)) {
            return;
        }
    }
}

/// Tells the dialer.
pub(super) async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    answer: &Answer,
) -> io::Result<()> {
    stream.write_all(&answer.encode()).await?;
    stream.flush().await
}

/// Fills `bytes` from `filled` on, and stops at the first byte that is not our magic.
async fn read_ours(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut [u8],
    mut filled: usize,
) -> Result<(), HandshakeError> {
    while filled < bytes.len() {
        let count = stream.read(&mut bytes[filled..]).await?;
        if count == 0 {
            return Err(if filled == 0 { HandshakeError::Silent } else { HandshakeError::Damaged });
        }
        filled += count;
        let common = filled.min(MAGIC.len());
        if bytes[..common] != MAGIC[..common] {
            return Err(HandshakeError::Foreign(guess(&bytes[..filled])));
        }
    }
    Ok(())
}

/// What the first bytes of a stranger look like, for the log.
fn guess(bytes: &[u8]) -> &'static str {
    const HTTP: [&[u8]; 9] =
        [b"GET ", b"PUT ", b"POST", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"HTTP"];
    if bytes.starts_with(b"PRI ") {
        return "HTTP/2 (gRPC?); clients belong on the client port";
    }
    if HTTP.iter().any(|start| bytes.starts_with(start)) {
        return "HTTP; clients belong on the client port";
    }
    // Record types handshake (22) and alert (21), then the major version.
    if bytes.starts_with(&[22, 3]) || bytes.starts_with(&[21, 3]) {
        return "TLS; this port speaks plain text";
    }
    "an unknown protocol"
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: Preface = Preface {
        purpose: Purpose::Snapshot,
        cluster: ClusterId(0x1234),
        from: MemberId(1),
        to: MemberId(u64::MAX),
    };

    #[tokio::test]
    async fn a_preface_arrives_as_sent() {
        let bytes = PREFACE.encode();
        assert_eq!(listen(&mut &bytes[..]).await.unwrap(), PREFACE);
        // Byte by byte as well.
        let (mut one, mut other) = tokio::io::duplex(1);
        let (heard, ()) = tokio::join!(listen(&mut one), async {
            other.write_all(&bytes).await.unwrap();
        });
        assert_eq!(heard.unwrap(), PREFACE);
    }

    #[test]
    fn an_answer_arrives_as_sent() {
        let mut answer =
            Answer { refusal: None, version: 1, cluster: ClusterId(5), member: MemberId(6) };
        assert_eq!(Answer::decode(answer.encode()), Some(answer));
        for code in 1..=5 {
            answer.refusal = Some(Refusal::from_code(code).unwrap());
            assert_eq!(Answer::decode(answer.encode()), Some(answer));
        }
        assert_eq!(Refusal::from_code(6), None);
        let mut bytes = answer.encode();
        bytes[20] ^= 1;
        assert_eq!(Answer::decode(bytes), None);
    }

    #[tokio::test]
    async fn any_flipped_bit_spoils_a_preface() {
        for bit in 0..PREFACE_BYTES * 8 {
            let mut bytes = PREFACE.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(listen(&mut &bytes[..]).await.is_err(), "bit {bit}");
        }
    }

    #[tokio::test]
    async fn strangers_are_recognised() {
        let cases: [(&[u8], &str); 5] = [
            (b"GET / HTTP/1.1\r\n\r\n", "HTTP;"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01", "TLS"),
            (b"\xf1Quorum!!!!!!!!!!!!!!!", "unknown"),
            (b"\0", "unknown"),
        ];
        for (bytes, expected) in cases {
            match listen(&mut &bytes[..]).await.unwrap_err() {
                HandshakeError::Foreign(what) => assert!(what.contains(expected), "{what}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn another_version_is_known_from_ten_bytes() {
        let mut bytes = PREFACE.encode();
        bytes[8] = 9;
        let error = listen(&mut &bytes[..FIXED_BYTES]).await.unwrap_err();
        assert!(matches!(error, HandshakeError::Version(9)), "{error:?}");
    }

    #[tokio::test]
    async fn a_preface_cut_short_is_no_preface() {
        let bytes = PREFACE.encode();
        let error = listen(&mut &bytes[..39]).await.unwrap_err();
        assert!(matches!(error, HandshakeError::Damaged), "{error:?}");
        let error = listen(&mut &[][..]).await.unwrap_err();
        assert!(matches!(error, HandshakeError::Silent), "{error:?}");
    }
}
