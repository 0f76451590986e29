//! A network that can be cut anywhere.
//!
//! Streams are in memory. Each direction of a connection is a pipe: what is written travels for
//! the link's latency, then waits to be read; both together are bounded, so a reader who sleeps
//! stops the writer. One task, the pump, makes deliveries in the order of their time.
//!
//! - **A link that is down** (from one machine to another; the way back is another link) holds
//!   what arrives and lets it go when it is up again, as TCP's retransmission would. Nobody is
//!   told: a connection over it is half-open until someone gives up.
//! - **A killed process**: its system closes its connections, so the others learn of it after
//!   the latency, if the link is up.
//! - **A lost power supply**: nobody closes anything. What is sent to the machine is lost; once it
//!   is up again it answers what belongs to earlier boots with a reset.
//! - Connecting to a port nobody listens on is refused; to a machine without power, or over a
//!   link that is down, it takes until the caller loses patience.

use crate::trace::Trace;
use madsim::rand::Rng;
use madsim::time::Instant;
use quorate::env::{Listener, Network};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, mpsc, oneshot};

/// Bytes of one direction of a connection that were written and not read.
const PIPE_BYTES_MAX: usize = 128 * 1024;
/// Connections a listener has not taken yet.
const BACKLOG_MAX: usize = 128;
/// How often connecting is tried over a link that is down.
const CONNECT_RETRY: Duration = Duration::from_secs(1);

/// A machine's place in the network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Machine(pub u8);

impl Machine {
    /// Its address without a port.
    pub fn host(self) -> String {
        format!("10.0.0.{}", self.0)
    }

    fn parse(address: &str) -> io::Result<(Machine, u16)> {
        let (host, port) = address.split_once(':').ok_or(ErrorKind::InvalidInput)?;
        let last = host.strip_prefix("10.0.0.").ok_or(ErrorKind::NotFound)?;
        let machine = last.parse().map_err(|_| ErrorKind::NotFound)?;
        Ok((Machine(machine), port.parse().map_err(|_| ErrorKind::InvalidInput)?))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}", self.0)
    }
}

/// One end of a connection: which machine, and which boot of it.
type End = (Machine, u64);

/// One direction of a connection.
struct Pipe {
    from: End,
    to: End,
    /// Arrived and not read.
    arrived: VecDeque<u8>,
    /// Written and not arrived.
    travelling: usize,
    /// Nothing more will come: the other end was closed in order.
    finished: bool,
    /// The other end is gone.
    broken: bool,
    /// Of the last delivery scheduled; the next is not earlier.
    last: Instant,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// What travels.
enum Packet {
    /// Into a pipe.
    Data(u64, Vec<u8>),
    /// The end of a pipe.
    Finish(u64),
    /// The end that writes into this pipe is gone altogether.
    Reset(u64),
    /// A connection is asked for.
    Connect { address: (Machine, u16), from: End, answer: oneshot::Sender<io::Result<SimStream>> },
    /// And the answer.
    Answer(oneshot::Sender<io::Result<SimStream>>, io::Result<SimStream>),
}

struct Parcel {
    from: Machine,
    to: Machine,
    packet: Packet,
}

struct Port {
    queue: mpsc::Sender<(SimStream, String)>,
    boot: u64,
}

#[derive(Default)]
struct Computer {
    boot: u64,
    power: bool,
}

struct State {
    computers: BTreeMap<Machine, Computer>,
    ports: BTreeMap<(Machine, u16), Port>,
    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    next_port: u16,
    due: BTreeMap<(Instant, u64), Parcel>,
    next_parcel: u64,
    down: BTreeSet<(Machine, Machine)>,
    /// With their place in the order, so that what a link held comes before what it gets later.
    held: BTreeMap<(Machine, Machine), Vec<((Instant, u64), Parcel)>>,
    /// Added to the latency of these links.
    slow: BTreeMap<(Machine, Machine), Duration>,
    latency: Duration,
}

/// The network as a whole, as those see it who break it.
#[derive(Clone)]
pub struct Switch {
    trace: Trace,
    state: Arc<Mutex<State>>,
    /// Told when something is due earlier than before.
    changed: Arc<Notify>,
}

impl Switch {
    /// A network whose packets take half of `latency` to all of it. [`Switch::pump`] must run.
    pub fn new(trace: Trace, latency: Duration) -> Switch {
        let state = State {
            computers: BTreeMap::new(),
            ports: BTreeMap::new(),
            pipes: BTreeMap::new(),
            next_pipe: 0,
            next_port: 30_000,
            due: BTreeMap::new(),
            next_parcel: 0,
            down: BTreeSet::new(),
            held: BTreeMap::new(),
            slow: BTreeMap::new(),
            latency,
        };
        let changed = Arc::new(Notify::new());
        Switch { trace, state: Arc::new(Mutex::new(state)), changed }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Makes deliveries, for ever.
    pub async fn pump(self) {
        loop {
            let due = self.state().due.first_key_value().map(|(&(time, _), _)| time);
            let now = Instant::now();
            match due {
                None => self.changed.notified().await,
                Some(due) if due > now => {
                    tokio::select! {
                        biased;
                        () = self.changed.notified() => {}
                        () = madsim::time::sleep_until(due) => {}
                    }
                }
                Some(_) => {
                    let (place, parcel) = self.state().due.pop_first().expect("just seen");
                    self.deliver(place, parcel);
                }
            }
        }
    }

    /// Starts a boot of a machine and gives its way to the network.
    pub fn boot(&self, machine: Machine) -> SimNetwork {
        let mut state = self.state();
        let computer = state.computers.entry(machine).or_default();
        computer.boot += 1;
        computer.power = true;
        SimNetwork { switch: self.clone(), end: (machine, computer.boot) }
    }

    /// The machine's process is gone and its system closes what it had open.
    pub fn close_all(&self, machine: Machine) {
        let mut state = self.state();
        let Some(computer) = state.computers.get_mut(&machine) else { return };
        let end = (machine, computer.boot);
        computer.boot += 1;
        let own: Vec<u64> =
            state.pipes.iter().filter(|(_, pipe)| pipe.from == end).map(|(&id, _)| id).collect();
        for pipe in own {
            self.send(&mut state, pipe, Packet::Reset(pipe));
        }
        state.forget(machine);
    }

    /// The machine is dark. What it sent before is on its way.
    pub fn power_off(&self, machine: Machine) {
        let mut state = self.state();
        if let Some(computer) = state.computers.get_mut(&machine) {
            computer.boot += 1;
            computer.power = false;
        }
        state.forget(machine);
    }

    /// Cuts or mends the link from one machine to another.
    pub fn set_link(&self, from: Machine, to: Machine, up: bool) {
        let mut state = self.state();
        if !up {
            state.down.insert((from, to));
        } else if state.down.remove(&(from, to)) {
            let held = state.held.remove(&(from, to)).unwrap_or_default();
            state.due.extend(held);
            self.changed.notify_one();
        }
    }

    /// Makes a link slower; zero makes it normal again.
    pub fn set_delay(&self, from: Machine, to: Machine, delay: Duration) {
        self.state().slow.insert((from, to), delay);
    }

    fn schedule(&self, state: &mut State, due: Instant, parcel: Parcel) {
        state.next_parcel += 1;
        let key = (due, state.next_parcel);
        state.due.insert(key, parcel);
        if state.due.first_key_value().map(|(first, _)| first) == Some(&key) {
            self.changed.notify_one();
        }
    }

    /// Sends along a pipe, in order.
    fn send(&self, state: &mut State, id: u64, packet: Packet) {
        let Some(pipe) = state.pipes.get(&id) else { return };
        let (from, to, last) = (pipe.from.0, pipe.to.0, pipe.last);
        let due = last.max(Instant::now() + state.travel(from, to));
        state.pipes.get_mut(&id).expect("just seen").last = due;
        self.schedule(state, due, Parcel { from, to, packet });
    }

    fn deliver(&self, place: (Instant, u64), parcel: Parcel) {
        let mut state = self.state();
        let link = (parcel.from, parcel.to);
        if state.down.contains(&link) {
            state.held.entry(link).or_default().push((place, parcel));
            return;
        }
        match parcel.packet {
            Packet::Data(id, bytes) => {
                self.trace.bytes(id, &bytes);
                if self.reaches(&mut state, id) {
                    let pipe = state.pipes.get_mut(&id).expect("it reaches its end");
                    pipe.travelling -= bytes.len();
                    pipe.arrived.extend(bytes);
                    pipe.wake();
                }
            }
            Packet::Finish(id) => {
                if self.reaches(&mut state, id) {
                    let pipe = state.pipes.get_mut(&id).expect("it reaches its end");
                    pipe.finished = true;
                    pipe.wake();
                }
            }
            Packet::Reset(id) => {
                // Both directions: neither can be read to an end nor written any more.
                for id in [id, id ^ 1] {
                    if let Some(pipe) = state.pipes.get_mut(&id) {
                        pipe.broken = true;
                        pipe.wake();
                    }
                }
            }
            Packet::Connect { address, from, answer } => {
                let outcome = self.accept(&mut state, address, from);
                let Some(outcome) = outcome else { return };
                let due = Instant::now() + state.travel(link.1, link.0);
                let packet = Packet::Answer(answer, outcome);
                let parcel = Parcel { from: link.1, to: link.0, packet };
                self.schedule(&mut state, due, parcel);
            }
            Packet::Answer(answer, outcome) => {
                // Whoever does not wait any more drops the stream, which locks the state.
                drop(state);
                drop(answer.send(outcome));
            }
        }
    }

    /// Whether a pipe's reading end is there. If its machine is up, but later booted, it answers
    /// with a reset; if not, nothing happens.
    fn reaches(&self, state: &mut State, id: u64) -> bool {
        let Some(pipe) = state.pipes.get(&id) else { return false };
        let to = pipe.to;
        let computer = &state.computers[&to.0];
        if computer.boot == to.1 {
            return true;
        }
        if computer.power {
            self.send(state, id ^ 1, Packet::Reset(id ^ 1));
        }
        false
    }

    /// Makes a connection; `None` if the machine is dark.
    fn accept(
        &self,
        state: &mut State,
        address: (Machine, u16),
        from: End,
    ) -> Option<io::Result<SimStream>> {
        let computer = state.computers.get(&address.0)?;
        if !computer.power {
            return None;
        }
        let to = (address.0, computer.boot);
        let refused = || Some(Err(ErrorKind::ConnectionRefused.into()));
        let Some(port) = state.ports.get(&address).filter(|port| port.boot == to.1) else {
            return refused();
        };
        let queue = port.queue.clone();
        let Ok(place) = queue.try_reserve() else { return refused() };
        let id = state.next_pipe;
        state.next_pipe += 2;
        for (id, from, to) in [(id, from, to), (id + 1, to, from)] {
            let pipe = Pipe {
                from,
                to,
                arrived: VecDeque::new(),
                travelling: 0,
                finished: false,
                broken: false,
                last: Instant::now(),
                reader: None,
                writer: None,
            };
            state.pipes.insert(id, pipe);
        }
        state.next_port = state.next_port.checked_add(1).unwrap_or(30_000);
        let peer = format!("{}:{}", from.0.host(), state.next_port);
        place.send((SimStream { switch: self.clone(), reads: id, writes: id + 1 }, peer));
        Some(Ok(SimStream { switch: self.clone(), reads: id + 1, writes: id }))
    }
}

impl State {
    fn travel(&self, from: Machine, to: Machine) -> Duration {
        let slow = self.slow.get(&(from, to)).copied().unwrap_or_default();
        let full = self.latency + slow;
        let nanos = u64::try_from(full.as_nanos()).expect("latency is below centuries");
        Duration::from_nanos(madsim::rand::thread_rng().gen_range(nanos / 2..=nanos))
    }

    /// Drops what a machine that has just ended a boot had open; the other ends stay.
    fn forget(&mut self, machine: Machine) {
        self.ports.retain(|&(at, _), _| at != machine);
        let boot = self.computers[&machine].boot;
        let computers = &self.computers;
        let alive = |end: End| computers[&end.0].boot == end.1;
        let ended: Vec<u64> = self
            .pipes
            .iter()
            .filter(|(_, pipe)| !alive(pipe.from) && !alive(pipe.to))
            .map(|(&id, _)| id)
            .collect();
        for id in ended {
            self.pipes.remove(&id);
        }
        assert!(boot > 0, "a machine boots before it ends");
    }
}

/// The network as one boot of a machine sees it.
#[derive(Clone)]
pub struct SimNetwork {
    switch: Switch,
    end: End,
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
        loop {
            let (answer, answered) = oneshot::channel();
            {
                let mut state = self.switch.state();
                let (from, to) = (self.end.0, address.0);
                let alive = state.computers[&from].boot == self.end.1;
                if alive && !state.down.contains(&(from, to)) {
                    let due = Instant::now() + state.travel(from, to);
                    let packet = Packet::Connect { address, from: self.end, answer };
                    self.switch.schedule(&mut state, due, Parcel { from, to, packet });
                }
            }
            // No answer: lost on the way. The system tries again until the caller has enough.
            match answered.await {
                Ok(outcome) => return outcome,
                Err(_) => madsim::time::sleep(CONNECT_RETRY).await,
            }
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
    /// Pipes of one connection differ in the lowest bit.
    reads: u64,
    writes: u64,
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.switch.state();
        let Some(pipe) = state.pipes.get_mut(&self.reads) else {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        };
        if !pipe.arrived.is_empty() {
            let (first, _) = pipe.arrived.as_slices();
            let count = first.len().min(out.remaining());
            out.put_slice(&first[..count]);
            pipe.arrived.drain(..count);
            if let Some(writer) = pipe.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(()));
        }
        if pipe.finished {
            return Poll::Ready(Ok(()));
        }
        if pipe.broken {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
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
        let mut state = self.switch.state();
        let broken = || Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        let Some(pipe) = state.pipes.get_mut(&self.writes) else { return broken() };
        if pipe.broken {
            return broken();
        }
        let count = (PIPE_BYTES_MAX - pipe.travelling - pipe.arrived.len()).min(data.len());
        if count == 0 && !data.is_empty() {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let from = pipe.from;
        // A machine without power believes it sends.
        if count > 0 && state.computers[&from.0].boot == from.1 {
            let pipe = state.pipes.get_mut(&self.writes).expect("just seen");
            pipe.travelling += count;
            self.switch.send(
                &mut state,
                self.writes,
                Packet::Data(self.writes, data[..count].into()),
            );
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.switch.state();
        state.finish(&self.switch, self.writes);
        Poll::Ready(Ok(()))
    }
}

impl State {
    fn finish(&mut self, switch: &Switch, id: u64) {
        let Some(from) = self.pipes.get(&id).map(|pipe| pipe.from) else { return };
        if self.computers[&from.0].boot == from.1 {
            switch.send(self, id, Packet::Finish(id));
        }
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut state = self.switch.state();
        let Some(from) = state.pipes.get(&self.writes).map(|pipe| pipe.from) else { return };
        if state.computers[&from.0].boot == from.1 {
            state.finish(&self.switch, self.writes);
            self.switch.send(&mut state, self.writes, Packet::Reset(self.writes));
        }
    }
}
