//! What the product sees of the network: ports, and connections as streams of bytes.

use super::pipe::{End, way_back};
use super::{Machine, Packet, Port, Switch};
use quorate::env::{Listener, Network};
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};

/// Connections a listener has not taken yet.
const BACKLOG_MAX: usize = 128;
/// After which time connecting is tried again when nobody answers; doubled each time.
const CONNECT_RETRY: Duration = Duration::from_secs(1);
const CONNECT_RETRY_MAX: Duration = Duration::from_secs(32);

/// The network as one boot of a machine sees it.
#[derive(Clone)]
pub struct SimNetwork {
    pub(super) switch: Switch,
    pub(super) end: End,
}

impl Network for SimNetwork {
    type Stream = SimStream;
    type Listener = SimListener;

    async fn bind(&self, address: &str) -> io::Result<SimListener> {
        let (machine, port) = Machine::parse(address)?;
        if machine != self.end.0 {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        let mut state = self.switch.state();
        if state.ports.contains_key(&(machine, port)) {
            return Err(ErrorKind::AddrInUse.into());
        }
        let (sender, queue) = mpsc::channel(BACKLOG_MAX);
        state.ports.insert((machine, port), Port { queue: sender, boot: self.end.1 });
        Ok(SimListener { network: self.clone(), port, queue })
    }

    async fn connect(&self, address: &str) -> io::Result<SimStream> {
        let address = Machine::parse(address)?;
        let mut patience = CONNECT_RETRY;
        loop {
            let (answer, answered) = oneshot::channel();
            self.switch.ask(self.end, address, answer);
            // No answer: lost on the way. The system tries again until the caller has enough.
            match answered.await {
                Ok(outcome) => return outcome,
                Err(_) => madsim::time::sleep(patience).await,
            }
            patience = (patience * 2).min(CONNECT_RETRY_MAX);
        }
    }
}

/// A port.
pub struct SimListener {
    network: SimNetwork,
    port: u16,
    queue: mpsc::Receiver<(SimStream, String)>,
}

impl Listener for SimListener {
    type Stream = SimStream;

    async fn accept(&mut self) -> io::Result<(SimStream, String)> {
        match self.queue.recv().await {
            Some(connection) => Ok(connection),
            // The machine was killed; the task that waits here ends at its next step.
            None => std::future::pending().await,
        }
    }

    fn address(&self) -> io::Result<String> {
        Ok(format!("{}:{}", self.network.end.0.host(), self.port))
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let (machine, boot) = self.network.end;
        let mut state = self.network.switch.state();
        let place = (machine, self.port);
        let own = state.ports.get(&place).is_some_and(|port| port.boot == boot);
        let port = if own { state.ports.remove(&place) } else { None };
        drop(state);
        drop(port);
    }
}

/// One end of a connection.
pub struct SimStream {
    switch: Switch,
    reads: u64,
    writes: u64,
}

impl SimStream {
    /// The end that reads from this pipe.
    pub(super) fn reading(switch: Switch, pipe: u64) -> SimStream {
        SimStream { switch, reads: pipe, writes: way_back(pipe) }
    }

    fn write(&self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut state = self.switch.state();
        let Some(pipe) = state.pipe(self.writes) else {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        };
        if let Some(error) = pipe.write_error {
            return Poll::Ready(Err(error.into()));
        }
        let (from, written) = (pipe.from, pipe.bytes());
        let offered: usize = parts.iter().map(|part| part.len()).sum();
        let room = state.pipe_bytes_max().saturating_sub(written);
        if room == 0 && offered > 0 {
            let pipe = state.pipe(self.writes).expect("just seen");
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = state.partial(room.min(offered));
        // A machine without power believes it sends.
        if count > 0 && state.is_current(from) {
            let mut data = Vec::with_capacity(count);
            for part in parts {
                let left = count - data.len();
                data.extend_from_slice(&part[..part.len().min(left)]);
            }
            state.pipe(self.writes).expect("just seen").travelling += count;
            self.switch.send(&mut state, self.writes, Packet::Data(self.writes, data));
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.switch.state();
        let Some(pipe) = state.pipe(self.reads) else {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        };
        let readable = pipe.readable();
        if readable > 0 {
            let count = state.partial(readable);
            state.pipe(self.reads).expect("just seen").read(count, out);
            return Poll::Ready(Ok(()));
        }
        if pipe.finished {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = pipe.read_error {
            return Poll::Ready(Err(error.into()));
        }
        pipe.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(context, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.switch.state();
        self.switch.finish(&mut state, self.writes);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut state = self.switch.state();
        let Some(pipe) = state.pipe(self.writes) else { return };
        let from = pipe.from;
        if state.is_current(from) {
            self.switch.finish(&mut state, self.writes);
            self.switch.send(&mut state, self.writes, Packet::Reset(self.writes));
        }
        state.let_go(self.reads);
    }
}
