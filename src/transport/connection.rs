//! Reading and writing frames on an open connection, and noticing that it is dead.
//!
//! - Both ends ping at an interval whether or not there is anything else to say, so silence
//!   means death: a reader that gets no byte for `idle_timeout` gives the connection up. The
//!   time we ourselves do not read, because whoever takes the frames is slow, does not count.
//! - Writes are gathered: small frames are copied into one buffer, large payloads are written
//!   from where they are, in one vectored write with the frames before them.

use super::directory::Meter;
use super::frame::{Decoder, Frame, FrameError, Kind, header};
use crate::env::Clock;
use crate::types::limits::{
    PEER_COPIED_PAYLOAD_BYTES_MAX, PEER_FRAME_BYTES_MAX, PEER_WRITE_BATCH_BYTES,
};
use bytes::{Buf, Bytes, BytesMut};
use std::fmt;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum Broken {
    /// The other side closed it.
    Closed,
    Io(io::Error),
    Frame(FrameError),
    /// A frame that does not belong on this connection.
    Unexpected(Kind),
    /// Frames that are whole but do not fit together.
    Incoherent(&'static str),
    /// No byte for so long.
    Idle(Duration),
    /// Alive, but without progress for too long.
    Stalled,
    /// The address it was made to is no longer the peer's.
    Moved,
    /// Whoever takes what we receive is gone.
    Unwanted,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Closed => write!(f, "closed by the remote peer"),
            Broken::Io(error) => write!(f, "{error}"),
            Broken::Frame(error) => write!(f, "{error}"),
            Broken::Unexpected(kind) => write!(f, "{kind:?} frame does not belong here"),
            Broken::Incoherent(how) => f.write_str(how),
            Broken::Stalled => write!(f, "no progress for too long"),
            Broken::Idle(silence) => write!(f, "nothing received for {silence:?}"),
            Broken::Moved => write!(f, "the remote peer has another address now"),
            Broken::Unwanted => write!(f, "the server is stopping"),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Broken::Io(error)
    }
}

impl From<FrameError> for Broken {
    fn from(error: FrameError) -> Self {
        Broken::Frame(error)
    }
}

/// Does `work`, but no longer than `limit`; `None` when it took longer.
pub(super) async fn within<T>(
    clock: &impl Clock,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        // The work first: what is done counts, even if we come late to see it.
        biased;
        result = work => Some(result),
        () = clock.sleep(limit) => None,
    }
}

/// Takes frames from a stream.
pub(super) struct Reader<R> {
    stream: R,
    decoder: Decoder,
    meter: Meter,
    idle_timeout: Duration,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(stream: R, payload_bytes_max: usize, meter: Meter) -> Reader<R> {
        let idle_timeout = meter.context.options.idle_timeout;
        Reader { stream, decoder: Decoder::new(payload_bytes_max), meter, idle_timeout }
    }

    /// The next frame. Safe to cancel.
    pub(super) async fn next(&mut self, clock: &impl Clock) -> Result<Frame, Broken> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(frame);
            }
            match within(clock, self.idle_timeout, self.decoder.fill(&mut self.stream)).await {
                None => return Err(Broken::Idle(self.idle_timeout)),
                Some(read) => match read? {
                    0 => return Err(Broken::Closed),
                    count => self.meter.received(count, clock.now()),
                },
            }
        }
    }
}

/// Puts frames into a stream.
pub(super) struct Writer<W> {
    stream: W,
    /// Encoded and not yet written.
    buffer: BytesMut,
    meter: Meter,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) fn new(stream: W, meter: Meter) -> Writer<W> {
        Writer { stream, buffer: BytesMut::new(), meter }
    }

    /// Adds a small frame to what the next flush writes.
    pub(super) fn push(&mut self, kind: Kind, id: u64, payload: &[u8]) {
        assert!(payload.len() <= PEER_COPIED_PAYLOAD_BYTES_MAX);
        self.buffer.extend_from_slice(&header(kind, id, payload));
        self.buffer.extend_from_slice(payload);
    }

    /// Adds a frame, writing when enough has come together. When cancelled, the stream may be
    /// left in the middle of a frame and must be given up. Returns the frame's length.
    pub(super) async fn write(&mut self, kind: Kind, id: u64, payload: Bytes) -> io::Result<usize> {
        assert!(payload.len() <= PEER_FRAME_BYTES_MAX);
        let before = self.buffer.len();
        if payload.len() <= PEER_COPIED_PAYLOAD_BYTES_MAX {
            self.push(kind, id, &payload);
            let length = self.buffer.len() - before;
            if self.buffer.len() >= PEER_WRITE_BATCH_BYTES {
                self.write_buffer().await?;
            }
            return Ok(length);
        }
        self.buffer.extend_from_slice(&header(kind, id, &payload));
        let length = self.buffer.len() - before + payload.len();
        let all = self.buffer.len() + payload.len();
        self.stream.write_all_buf(&mut (&mut self.buffer).chain(payload)).await?;
        self.meter.sent(all);
        Ok(length)
    }

    /// Writes what has come together. Safe to cancel: what is left is written the next time.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.write_buffer().await?;
        self.stream.flush().await
    }

    async fn write_buffer(&mut self) -> io::Result<()> {
        let all = self.buffer.len();
        self.stream.write_all_buf(&mut self.buffer).await?;
        self.meter.sent(all);
        Ok(())
    }

    /// Pings at the interval, for ever, so that the other side knows we are there. Safe to cancel.
    pub(super) async fn keep_alive(&mut self, clock: &impl Clock) -> io::Error {
        let interval = self.meter.context.options.ping_interval;
        loop {
            clock.sleep(interval).await;
            self.push(Kind::Ping, 0, &[]);
            if let Err(error) = self.flush().await {
                return error;
            }
        }
    }

    /// Waits for `work` and pings meanwhile. Fails only when a ping cannot be written.
    pub(super) async fn keep_alive_while<T>(
        &mut self,
        clock: &impl Clock,
        work: impl Future<Output = T>,
    ) -> io::Result<T> {
        let mut work = pin!(work);
        tokio::select! {
            // The work first: the connection breaking no longer matters once it is done.
            biased;
            result = &mut work => Ok(result),
            error = self.keep_alive(clock) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::env::real::Real;
    use crate::transport::directory::Context;
    use crate::transport::{Identity, Options};
    use crate::types::{ClusterId, MemberId};
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Poll, Waker};
    use tokio::sync::mpsc;

    fn meter() -> Meter {
        let identity = Identity { cluster: ClusterId(1), member: MemberId(1) };
        let (inbound, _) = mpsc::channel(1);
        let context = Arc::new(Context::new(identity, Options::default(), inbound));
        Meter { context, peer: MemberId(2) }
    }

    /// Takes everything and counts the calls.
    #[derive(Default)]
    struct Sink {
        writes: usize,
        bytes: usize,
    }

    impl AsyncWrite for Sink {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writes += 1;
            self.bytes += bytes.len();
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            slices: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let length = slices.iter().map(|slice| slice.len()).sum();
            self.writes += 1;
            self.bytes += length;
            Poll::Ready(Ok(length))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn many_small_frames_become_one_write() {
        let mut writer = Writer::new(Sink::default(), meter());
        let mut length = 0;
        for number in 0..1000 {
            length += writer.write(Kind::Message, number, Bytes::from_static(b"x")).await.unwrap();
        }
        writer.flush().await.unwrap();
        assert_eq!((writer.stream.writes, writer.stream.bytes), (1, length));
        // A large one goes out with what waited before it.
        writer.push(Kind::Ping, 0, &[]);
        let large = Bytes::from(vec![0; 1_000_000]);
        length += writer.write(Kind::Message, 0, large).await.unwrap() + 24;
        writer.flush().await.unwrap();
        assert_eq!((writer.stream.writes, writer.stream.bytes), (2, length));
    }

    #[tokio::test]
    async fn what_waits_to_be_written_is_bounded() {
        let mut writer = Writer::new(Sink::default(), meter());
        for number in 0..100_000 {
            let payload = Bytes::from(vec![0; number as usize % 2000]);
            writer.write(Kind::Message, number, payload).await.unwrap();
            assert!(writer.buffer.len() < PEER_WRITE_BATCH_BYTES);
        }
        assert!(writer.buffer.capacity() < 4 * PEER_WRITE_BATCH_BYTES);
    }

    #[tokio::test]
    async fn a_cancelled_flush_is_continued_by_the_next() {
        let (near, far) = tokio::io::duplex(10);
        let mut writer = Writer::new(near, meter());
        writer.push(Kind::Message, 1, b"first");
        {
            let mut flush = pin!(writer.flush());
            let mut context = std::task::Context::from_waker(Waker::noop());
            assert!(flush.as_mut().poll(&mut context).is_pending(), "the pipe is narrow");
        }
        writer.push(Kind::Message, 2, b"second");
        let mut reader = Reader::new(far, 1000, meter());
        let env = Real::new();
        let (flushed, frames) = tokio::join!(writer.flush(), async {
            [reader.next(env.clock()).await.unwrap(), reader.next(env.clock()).await.unwrap()]
        });
        flushed.unwrap();
        assert_eq!((frames[0].id, &frames[0].payload[..]), (1, &b"first"[..]));
        assert_eq!((frames[1].id, &frames[1].payload[..]), (2, &b"second"[..]));
    }
}
