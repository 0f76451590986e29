//! A network that can be cut anywhere.
//!
//! Streams are in memory. Each direction of a connection is a [pipe]: what is written travels for
//! the link's latency, then waits to be read; both together are bounded, so a reader who sleeps
//! stops the writer. One task, the pump, makes deliveries in the order of their time. A
//! connection is TCP's: bytes arrive in order and once, or the connection ends.
//!
//! - **A link that is down** (from one machine to another; the way back is another link) holds
//!   what arrives. Nobody is told: a connection over it is half-open until someone gives up. Once
//!   the link is up again, what it held arrives when TCP next sends it, which it tries less often
//!   the longer nobody answers.
//! - **A link that loses segments** delivers what was lost, and all that comes after it on its
//!   connection, a retransmission timeout later: 200 ms, then twice as long each time.
//! - **A narrow link** carries so many bytes a second for all connections together.
//! - **A killed process**: its system closes its connections, so the others learn of it after
//!   the latency, if the link is up.
//! - **A lost power supply**: nobody closes anything. What is sent to the machine is sent again
//!   until it is up, and answered with a reset then.
//! - **Silence for long**: an end whose data nobody confirms gives up after minutes; the other
//!   end does not learn of it.
//! - **Connecting** to a port nobody listens on is refused; to a machine without power, or over a
//!   link that is down, it takes until the caller loses patience, with attempts 1, 2, 4 s apart.
//!
//! Reads and writes may be partial (`write_bytes_max`). Left out: reordering and duplication,
//! which TCP hides, and the silent probes by which a system finds a dead idle connection.

mod link;
mod pipe;
mod stream;
#[cfg(test)]
mod tests;

pub use stream::{SimNetwork, SimStream};

use super::alarm::Alarm;
use super::random::{Random, Streams};
use crate::plan::NetworkKnobs;
use crate::trace::Trace;
use link::{Link, next_attempt};
use pipe::{End, Pipe, way_back};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};

/// Bytes of one direction of a connection that were written and not read, if the knobs say none.
const PIPE_BYTES_MAX: usize = 128 * 1024;
/// After how long a system gives up a connection on which nobody answers: Linux waits 15 minutes
/// or what the program asks for. Each connection draws its own.
const GIVE_UP_MIN: Duration = Duration::from_secs(20);
const GIVE_UP_MAX: Duration = Duration::from_secs(900);

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

type Answer = oneshot::Sender<io::Result<SimStream>>;

/// What travels.
enum Packet {
    /// Into a pipe.
    Data(u64, Vec<u8>),
    /// The end of a pipe.
    Finish(u64),
    /// The end that writes into this pipe is gone altogether.
    Reset(u64),
    /// A connection is asked for.
    Connect { address: (Machine, u16), from: End, answer: Answer },
    /// And the answer.
    Answer(Answer, io::Result<SimStream>),
    /// Does not travel: whoever writes into this pipe, silent since then, gives up.
    GiveUp(u64, Duration),
}

impl Packet {
    /// The pipe it goes along.
    fn pipe(&self) -> Option<u64> {
        match self {
            Packet::Data(id, _) | Packet::Finish(id) | Packet::Reset(id) => Some(*id),
            Packet::Connect { .. } | Packet::Answer(..) | Packet::GiveUp(..) => None,
        }
    }
}

/// Something to deliver. The earliest is the greatest, as the heap wants it.
struct Parcel {
    due: Duration,
    /// Among those due at one time, the order they were sent in.
    number: u64,
    sent: Duration,
    from: Machine,
    to: Machine,
    packet: Packet,
}

impl PartialEq for Parcel {
    fn eq(&self, other: &Parcel) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Parcel {}

impl PartialOrd for Parcel {
    fn partial_cmp(&self, other: &Parcel) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Parcel {
    fn cmp(&self, other: &Parcel) -> Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

struct Port {
    queue: mpsc::Sender<(SimStream, String)>,
    boot: u64,
}

#[derive(Clone, Copy, Default)]
struct Computer {
    boot: u64,
    power: bool,
}

struct State {
    knobs: NetworkKnobs,
    random: Random,
    /// By number.
    computers: [Computer; 256],
    ports: BTreeMap<(Machine, u16), Port>,
    /// By id; `None` when both ends are gone.
    pipes: Vec<Option<Pipe>>,
    next_port: u16,
    due: BinaryHeap<Parcel>,
    next_parcel: u64,
    /// Those that are not normal.
    links: BTreeMap<(Machine, Machine), Link>,
    /// What could not be delivered.
    held: BTreeMap<(Machine, Machine), Vec<Parcel>>,
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
    /// A network without faults. [`Switch::pump`] must run.
    pub fn new(trace: Trace, streams: Streams, knobs: NetworkKnobs) -> Switch {
        let state = State {
            knobs,
            random: streams.stream("network"),
            computers: [Computer::default(); 256],
            ports: BTreeMap::new(),
            pipes: Vec::new(),
            next_port: 30_000,
            due: BinaryHeap::new(),
            next_parcel: 0,
            links: BTreeMap::new(),
            held: BTreeMap::new(),
        };
        Switch { trace, state: Arc::new(Mutex::new(state)), changed: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Makes deliveries, for ever. All times are the trace's.
    pub async fn pump(self) {
        loop {
            match self.deliver_due() {
                None => self.changed.notified().await,
                Some(due) => {
                    tokio::select! {
                        biased;
                        () = self.changed.notified() => {}
                        () = Alarm::after(self.trace.time(), due.saturating_sub(self.trace.now())) => {}
                    }
                }
            }
        }
    }

    /// Starts a boot of a machine and gives its way to the network.
    pub fn boot(&self, machine: Machine) -> SimNetwork {
        let mut state = self.state();
        let computer = &mut state.computers[usize::from(machine.0)];
        computer.boot += 1;
        computer.power = true;
        let end = (machine, computer.boot);
        let links: Vec<_> = state.held.keys().copied().filter(|link| link.1 == machine).collect();
        for link in links {
            self.release(&mut state, link, true);
        }
        SimNetwork { switch: self.clone(), end }
    }

    /// The machine's process is gone and its system closes what it had open.
    pub fn close_all(&self, machine: Machine) {
        let mut state = self.state();
        let computer = &mut state.computers[usize::from(machine.0)];
        if computer.boot == 0 {
            return;
        }
        let end = (machine, computer.boot);
        computer.boot += 1;
        for id in state.ids(|pipe| pipe.from == end) {
            self.send(&mut state, id, Packet::Reset(id));
        }
        state.forget(machine);
    }

    /// The machine is dark. What it sent before is on its way.
    pub fn power_off(&self, machine: Machine) {
        let mut state = self.state();
        let computer = &mut state.computers[usize::from(machine.0)];
        computer.boot += 1;
        computer.power = false;
        state.forget(machine);
    }

    /// Cuts or mends the link from one machine to another.
    pub fn set_link(&self, from: Machine, to: Machine, up: bool) {
        let mut state = self.state();
        state.change(from, to, |link| link.down = !up);
        self.release(&mut state, (from, to), true);
    }

    /// The link loses so many segments of a hundred.
    pub fn set_loss(&self, from: Machine, to: Machine, percent: u8) {
        self.state().change(from, to, |link| link.loss_percent = percent.min(100));
    }

    /// Makes a link slower by so much; zero makes it normal again.
    pub fn set_delay(&self, from: Machine, to: Machine, delay: Duration) {
        self.state().change(from, to, |link| link.delay = delay);
    }

    /// The link carries so many bytes a second at most. What waits for a wider link goes on at
    /// once.
    pub fn set_rate(&self, from: Machine, to: Machine, bytes_per_second: Option<u64>) {
        let mut state = self.state();
        let before = state.links.get(&(from, to)).and_then(|link| link.bytes_per_second);
        state.change(from, to, |link| link.set_rate(bytes_per_second));
        let wider = bytes_per_second.unwrap_or(u64::MAX) > before.unwrap_or(u64::MAX);
        if wider {
            self.hurry(&mut state, |parcel| (parcel.from, parcel.to) == (from, to));
        }
    }

    /// All connections between two machines end with a reset at both ends; what was on its way
    /// is lost. Returns how many there were.
    pub fn reset_between(&self, one: Machine, other: Machine) -> usize {
        let mut state = self.state();
        let between = [(one, other), (other, one)];
        let ids = state.ids(|pipe| between.contains(&(pipe.from.0, pipe.to.0)));
        for id in &ids {
            let pipe = state.pipe(*id).expect("just found");
            pipe.fail_reader(ErrorKind::ConnectionReset);
            pipe.fail_writer(ErrorKind::ConnectionReset);
            pipe.unknown_to_reader = true;
        }
        ids.len() / 2
    }

    /// Ends all faults of links, and what was held or late comes at once.
    pub fn heal(&self) {
        let mut state = self.state();
        state.links.clear();
        let links: Vec<_> = state.held.keys().copied().collect();
        for link in links {
            self.release(&mut state, link, false);
        }
        self.hurry(&mut state, |_| true);
    }

    /// Lets go of what a link held, if it can be delivered now. TCP sends it when its time has
    /// come, or, without `patience`, at once.
    fn release(&self, state: &mut State, link: (Machine, Machine), patience: bool) {
        if !state.reachable(link) {
            return;
        }
        let now = self.trace.now();
        for mut parcel in state.held.remove(&link).unwrap_or_default() {
            let attempt = if patience { next_attempt(parcel.sent, now) } else { now };
            parcel.due = match parcel.packet.pipe().and_then(|id| state.pipe(id)) {
                // The first that is missing decides; what comes after it waits for it.
                Some(pipe) => {
                    if pipe.stalled.take().is_some() {
                        pipe.not_before = attempt;
                        pipe.last = pipe.last.max(attempt);
                    }
                    pipe.not_before
                }
                None => attempt,
            };
            state.due.push(parcel);
        }
        self.changed.notify_one();
    }

    /// What is late for faults that have ended arrives as if sent now.
    fn hurry(&self, state: &mut State, concerned: impl Fn(&Parcel) -> bool) {
        let latest = self.trace.now() + state.latency();
        let mut parcels = std::mem::take(&mut state.due).into_vec();
        for parcel in &mut parcels {
            let travels = !matches!(parcel.packet, Packet::GiveUp(..));
            if travels && concerned(parcel) && parcel.due > latest {
                parcel.due = latest;
                if let Some(pipe) = parcel.packet.pipe().and_then(|id| state.pipe(id)) {
                    pipe.last = latest;
                    pipe.not_before = pipe.not_before.min(latest);
                }
            }
        }
        state.due = parcels.into();
        self.changed.notify_one();
    }

    fn schedule(&self, state: &mut State, parcel: Parcel) {
        let first = state.due.peek().is_none_or(|first| parcel.due < first.due);
        state.due.push(parcel);
        if first {
            self.changed.notify_one();
        }
    }

    /// Sends along a pipe, in order.
    fn send(&self, state: &mut State, id: u64, packet: Packet) {
        let Some(pipe) = state.pipe(id) else { return };
        let (from, to, last) = (pipe.from.0, pipe.to.0, pipe.last);
        let bytes = match &packet {
            Packet::Data(_, bytes) => bytes.len(),
            _ => 0,
        };
        let sent = self.trace.now();
        let due = last.max(state.arrival(from, to, bytes, sent));
        state.pipe(id).expect("just seen").last = due;
        let parcel = state.parcel(due, sent, (from, to), packet);
        self.schedule(state, parcel);
    }

    fn finish(&self, state: &mut State, id: u64) {
        let Some(pipe) = state.pipe(id) else { return };
        let from = pipe.from;
        if state.is_current(from) {
            self.send(state, id, Packet::Finish(id));
        }
    }

    /// Asks for a connection, once.
    fn ask(&self, from: End, address: (Machine, u16), answer: Answer) {
        let mut state = self.state();
        let link = (from.0, address.0);
        if !state.is_current(from) || state.loses(link) {
            return;
        }
        let sent = self.trace.now();
        let due = sent + state.travel(link.0, link.1, 0, sent);
        let parcel = state.parcel(due, sent, link, Packet::Connect { address, from, answer });
        self.schedule(&mut state, parcel);
    }

    /// Delivers all that is due; says when the next will be.
    fn deliver_due(&self) -> Option<Duration> {
        let now = self.trace.now();
        let mut answers = Vec::new();
        let mut state = self.state();
        let next = loop {
            match state.due.peek().map(|parcel| parcel.due) {
                Some(due) if due <= now => {}
                next => break next,
            }
            let parcel = state.due.pop().expect("just seen");
            self.deliver(&mut state, parcel, now, &mut answers);
        };
        drop(state);
        // Whoever does not wait any more drops the stream, which locks the state.
        for (answer, outcome) in answers {
            drop(answer.send(outcome));
        }
        next
    }

    fn deliver(
        &self,
        state: &mut State,
        mut parcel: Parcel,
        now: Duration,
        answers: &mut Vec<(Answer, io::Result<SimStream>)>,
    ) {
        let link = (parcel.from, parcel.to);
        if let Packet::GiveUp(id, since) = parcel.packet {
            return state.give_up(id, since);
        }
        if !state.reachable(link) {
            return match parcel.packet {
                Packet::Connect { .. } => {}
                _ => self.hold(state, parcel),
            };
        }
        if let Some(pipe) = parcel.packet.pipe().and_then(|id| state.pipe(id))
            && pipe.not_before > now
        {
            parcel.due = pipe.not_before;
            return state.due.push(parcel);
        }
        let lost = |pipe: &mut Pipe| pipe.is_given_up;
        match parcel.packet {
            Packet::Data(id, _) | Packet::Finish(id) if state.pipe(id).is_some_and(lost) => {}
            Packet::Data(id, bytes) => {
                self.trace.bytes(id, &bytes);
                if let Some(pipe) = self.reach(state, id) {
                    pipe.arrive(bytes);
                }
            }
            Packet::Finish(id) => {
                if let Some(pipe) = self.reach(state, id) {
                    pipe.finished = true;
                    pipe.wake_reader();
                }
            }
            Packet::Reset(id) => {
                if let Some(pipe) = state.pipe(id) {
                    pipe.fail_reader(ErrorKind::ConnectionReset);
                    pipe.unknown_to_reader = true;
                }
                if let Some(pipe) = state.pipe(way_back(id)) {
                    pipe.fail_writer(ErrorKind::BrokenPipe);
                }
            }
            Packet::Connect { address, from, answer } => {
                let outcome = self.accept(state, address, from);
                let mut due = now + state.travel(link.1, link.0, 0, now);
                let mut patience = Duration::from_secs(1);
                while patience < Duration::from_secs(60) && state.loses((link.1, link.0)) {
                    due += patience;
                    patience *= 2;
                }
                let packet = Packet::Answer(answer, outcome);
                let parcel = state.parcel(due, now, (link.1, link.0), packet);
                self.schedule(state, parcel);
            }
            Packet::Answer(answer, outcome) => answers.push((answer, outcome)),
            Packet::GiveUp(..) => unreachable!("it was looked at first"),
        }
    }

    /// Keeps what cannot be delivered. From the first on, its sender's patience runs out.
    fn hold(&self, state: &mut State, parcel: Parcel) {
        let link = (parcel.from, parcel.to);
        let sent = parcel.sent;
        if let Some(id) = parcel.packet.pipe()
            && let Some(pipe) = state.pipe(id)
            && pipe.stalled.is_none()
        {
            pipe.stalled = Some(sent);
            let patience = state.patience();
            let packet = Packet::GiveUp(id, sent);
            let parcel = state.parcel(sent + patience, sent, link, packet);
            self.schedule(state, parcel);
        }
        state.held.entry(link).or_default().push(parcel);
    }

    /// A pipe whose reading end is there. If its machine is up, but later booted, it answers with
    /// a reset.
    fn reach<'a>(&self, state: &'a mut State, id: u64) -> Option<&'a mut Pipe> {
        let pipe = state.pipe(id)?;
        let (to, unknown) = (pipe.to, pipe.unknown_to_reader);
        if unknown || !state.is_current(to) {
            self.send(state, way_back(id), Packet::Reset(way_back(id)));
            return None;
        }
        state.pipe(id)
    }

    /// Makes a connection.
    fn accept(
        &self,
        state: &mut State,
        address: (Machine, u16),
        from: End,
    ) -> io::Result<SimStream> {
        let to = (address.0, state.computers[usize::from(address.0.0)].boot);
        let refused = || Err(ErrorKind::ConnectionRefused.into());
        let Some(port) = state.ports.get(&address).filter(|port| port.boot == to.1) else {
            return refused();
        };
        let queue = port.queue.clone();
        let Ok(place) = queue.try_reserve() else { return refused() };
        let (id, now) = (state.pipes.len() as u64, self.trace.now());
        state.pipes.push(Some(Pipe::new(from, to, now)));
        state.pipes.push(Some(Pipe::new(to, from, now)));
        state.next_port = state.next_port.checked_add(1).unwrap_or(30_000);
        let peer = format!("{}:{}", from.0.host(), state.next_port);
        place.send((SimStream::reading(self.clone(), id), peer));
        Ok(SimStream::reading(self.clone(), way_back(id)))
    }
}

impl State {
    fn pipe(&mut self, id: u64) -> Option<&mut Pipe> {
        self.pipes.get_mut(id as usize)?.as_mut()
    }

    fn ids(&self, wanted: impl Fn(&Pipe) -> bool) -> Vec<u64> {
        let pipes = self.pipes.iter().enumerate();
        let pipes = pipes.filter(|(_, pipe)| pipe.as_ref().is_some_and(&wanted));
        pipes.map(|(id, _)| id as u64).collect()
    }

    fn parcel(
        &mut self,
        due: Duration,
        sent: Duration,
        (from, to): (Machine, Machine),
        packet: Packet,
    ) -> Parcel {
        self.next_parcel += 1;
        Parcel { due, number: self.next_parcel, sent, from, to, packet }
    }

    fn change(&mut self, from: Machine, to: Machine, act: impl FnOnce(&mut Link)) {
        let link = self.links.entry((from, to)).or_default();
        act(link);
        if link.is_normal() {
            self.links.remove(&(from, to));
        }
    }

    /// Whether a packet gets through: the link is up, and so is the machine.
    fn reachable(&self, link: (Machine, Machine)) -> bool {
        let down = self.links.get(&link).is_some_and(|link| link.down);
        !down && self.computers[usize::from(link.1.0)].power
    }

    /// Whether this boot of the machine still goes on.
    fn is_current(&self, end: End) -> bool {
        self.computers[usize::from(end.0.0)].boot == end.1
    }

    fn pipe_bytes_max(&self) -> usize {
        match self.knobs.pipe_bytes_max {
            0 => PIPE_BYTES_MAX,
            bytes => bytes as usize,
        }
    }

    /// How many of so many bytes are taken or given at once.
    fn partial(&mut self, count: usize) -> usize {
        match self.knobs.write_bytes_max {
            0 => count,
            _ if count == 0 => 0,
            max => 1 + self.random.number(count.min(max as usize) as u64) as usize,
        }
    }

    fn latency(&mut self) -> Duration {
        let knobs = self.knobs;
        if self.random.one_in(knobs.tail_one_in) {
            return Duration::from_micros(knobs.tail_us);
        }
        let full = Duration::from_micros(knobs.latency_us);
        full - self.random.below(full / 2)
    }

    /// From now until a segment of a pipe arrives, if none is lost.
    fn travel(&mut self, from: Machine, to: Machine, bytes: usize, now: Duration) -> Duration {
        let latency = self.latency();
        match self.links.get_mut(&(from, to)) {
            Some(link) => link.send(now, bytes) - now + link.delay + latency,
            None => latency,
        }
    }

    /// When data arrives, with what losses cost.
    fn arrival(&mut self, from: Machine, to: Machine, bytes: usize, now: Duration) -> Duration {
        let arrival = now + self.travel(from, to, bytes, now);
        match self.links.get(&(from, to)) {
            Some(link) => arrival + link.losses(bytes, &mut self.random),
            None => arrival,
        }
    }

    /// Whether one segment is lost on this link now.
    fn loses(&mut self, link: (Machine, Machine)) -> bool {
        self.links.get(&link).is_some_and(|link| link.loses(&mut self.random))
    }

    /// Short and long times are equally likely.
    fn patience(&mut self) -> Duration {
        let ratio = GIVE_UP_MAX.as_secs_f64() / GIVE_UP_MIN.as_secs_f64();
        let place = self.random.number(1_000) as f64 / 1_000.0;
        GIVE_UP_MIN.mul_f64(ratio.powf(place))
    }

    /// The end that writes into a pipe has waited too long for an answer. Its system forgets the
    /// connection; nothing tells the other end.
    fn give_up(&mut self, id: u64, since: Duration) {
        let Some(pipe) = self.pipe(id).filter(|pipe| pipe.stalled == Some(since)) else { return };
        let link = (pipe.from.0, pipe.to.0);
        pipe.fail_writer(ErrorKind::TimedOut);
        pipe.is_given_up = true;
        if let Some(held) = self.held.get_mut(&link) {
            held.retain(|parcel| parcel.packet.pipe() != Some(id));
        }
        if let Some(back) = self.pipe(way_back(id)) {
            back.fail_reader(ErrorKind::TimedOut);
            back.unknown_to_reader = true;
        }
    }

    /// One end is dropped; with the second, nobody has the connection any more.
    fn let_go(&mut self, id: u64) {
        for id in [id, way_back(id)] {
            let pipe = self.pipe(id).expect("both directions go together");
            pipe.holders -= 1;
            if pipe.holders == 0 {
                self.pipes[id as usize] = None;
            }
        }
    }

    /// Drops what a machine that has just ended a boot had open; the other ends stay.
    fn forget(&mut self, machine: Machine) {
        self.ports.retain(|&(at, _), _| at != machine);
        let ended: BTreeSet<u64> = self
            .ids(|pipe| !self.is_current(pipe.from) && !self.is_current(pipe.to))
            .into_iter()
            .collect();
        for id in ended {
            self.pipes[id as usize] = None;
        }
    }
}
