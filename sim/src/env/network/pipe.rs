//! One direction of a connection.

use super::Machine;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::task::Waker;
use std::time::Duration;
use tokio::io::ReadBuf;

/// One end of a connection: which machine, and which boot of it.
pub(super) type End = (Machine, u64);

/// Pipes of one connection differ in the lowest bit.
pub(super) fn way_back(pipe: u64) -> u64 {
    pipe ^ 1
}

/// What one end writes and the other reads.
pub(super) struct Pipe {
    pub from: End,
    pub to: End,
    /// Arrived and not read.
    arrived: VecDeque<Vec<u8>>,
    /// How much of the first of them was read.
    read: usize,
    arrived_bytes: usize,
    /// Bytes written and not arrived.
    pub travelling: usize,
    /// Nothing more will come: the other end was closed in order.
    pub finished: bool,
    /// What whoever reads is told once all that arrived is read.
    pub read_error: Option<ErrorKind>,
    /// What whoever writes is told.
    pub write_error: Option<ErrorKind>,
    /// The reading end's system knows nothing of the connection any more.
    pub unknown_to_reader: bool,
    /// The writing end's system has given up: what is still on its way would leave a gap.
    pub is_given_up: bool,
    /// Streams that hold this pipe: the reader's and the writer's.
    pub holders: u8,
    /// When the last delivery is due; the next is not earlier.
    pub last: Duration,
    /// Nothing arrives earlier: what comes first is being sent again.
    pub not_before: Duration,
    /// Since when the other end does not answer.
    pub stalled: Option<Duration>,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
}

impl Pipe {
    pub fn new(from: End, to: End, now: Duration) -> Pipe {
        Pipe {
            from,
            to,
            arrived: VecDeque::new(),
            read: 0,
            arrived_bytes: 0,
            travelling: 0,
            finished: false,
            read_error: None,
            write_error: None,
            unknown_to_reader: false,
            is_given_up: false,
            holders: 2,
            last: now,
            not_before: now,
            stalled: None,
            reader: None,
            writer: None,
        }
    }

    /// Bytes written and not read.
    pub fn bytes(&self) -> usize {
        self.travelling + self.arrived_bytes
    }

    /// Bytes that can be read.
    pub fn readable(&self) -> usize {
        self.arrived_bytes
    }

    pub fn arrive(&mut self, bytes: Vec<u8>) {
        self.travelling -= bytes.len();
        self.arrived_bytes += bytes.len();
        self.arrived.push_back(bytes);
        self.wake_reader();
    }

    /// Reads at most so many bytes.
    pub fn read(&mut self, limit: usize, out: &mut ReadBuf<'_>) {
        let mut left = limit.min(out.remaining());
        while left > 0 {
            let Some(first) = self.arrived.front() else { break };
            let rest = &first[self.read..];
            let count = rest.len().min(left);
            out.put_slice(&rest[..count]);
            left -= count;
            self.read += count;
            self.arrived_bytes -= count;
            if self.read == first.len() {
                self.arrived.pop_front();
                self.read = 0;
            }
        }
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    pub fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// The reader's end learns that the connection is gone.
    pub fn fail_reader(&mut self, error: ErrorKind) {
        self.read_error.get_or_insert(error);
        self.wake_reader();
    }

    /// The writer's end does.
    pub fn fail_writer(&mut self, error: ErrorKind) {
        self.write_error.get_or_insert(error);
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}
