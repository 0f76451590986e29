//! What the transport's tasks share: who we are, who the peers are, who is connected to us.
//!
//! The one lock here is held for a lookup or an insertion, never across an await, and nothing is
//! called back while it is held. Everything iterated is ordered, so a run's order of events does
//! not depend on hashing.
//!
//! A task that serves an accepted connection holds a [`Seat`]. There is one seat per caller and
//! purpose, and the newest caller gets it: one who calls again has given the old connection up,
//! even where we do not see that yet. It is served only when the old one's task has ended, so
//! that messages of one peer never overtake each other.

use super::handshake::{Preface, Purpose, Refusal};
use super::peer::Outgoing;
use super::{Identity, Inbound, Options, PeerStatus};
use crate::types::MemberId;
use crate::types::limits::{PEER_COMPLAINTS_MAX, PEER_FRAME_BYTES_MAX, PEER_QUEUE_BYTES_MAX};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// How long a complaint that repeats is kept out of the log.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Shared by all tasks of one transport.
pub(super) struct Context {
    pub(super) identity: Identity,
    pub(super) options: Options,
    pub(super) inbound: mpsc::Sender<Inbound>,
    /// Turns true once. Each task holds a receiver until its end, so the transport has stopped
    /// when there are none.
    pub(super) stop: watch::Sender<bool>,
    directory: Mutex<Directory>,
}

#[derive(Default)]
struct Directory {
    links: BTreeMap<MemberId, Known>,
    removed: BTreeSet<MemberId>,
    seats: BTreeMap<(MemberId, Purpose), Taken>,
    /// Number of the newest seat; tells a seat from the one that replaced it.
    seats_given: u64,
    complaints: BTreeMap<String, Complaint>,
}

/// A peer of ours.
struct Known {
    link: Arc<Link>,
    /// Dropped to end the peer's task.
    _keep: oneshot::Sender<Infallible>,
}

/// The directory's side of a seat.
struct Taken {
    number: u64,
    /// Dropped to take the seat away.
    _keep: oneshot::Sender<Infallible>,
    /// Its other end goes with the holder.
    ended: oneshot::Receiver<Infallible>,
}

struct Complaint {
    logged_at: Duration,
    suppressed: u64,
}

/// The right to serve one caller's connection; given back on drop.
pub(super) struct Seat {
    context: Arc<Context>,
    key: (MemberId, Purpose),
    number: u64,
    keep: oneshot::Receiver<Infallible>,
    _ended: oneshot::Sender<Infallible>,
}

impl Seat {
    /// Ends when a newer connection takes over or the caller was removed from the cluster.
    pub(super) async fn lost(&mut self) {
        let Err(_) = (&mut self.keep).await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut directory = self.context.directory();
        if directory.seats.get(&self.key).is_some_and(|taken| taken.number == self.number) {
            directory.seats.remove(&self.key);
        }
    }
}

impl Context {
    pub(super) fn new(
        identity: Identity,
        options: Options,
        inbound: mpsc::Sender<Inbound>,
    ) -> Context {
        let (stop, _) = watch::channel(false);
        Context { identity, options, inbound, stop, directory: Mutex::default() }
    }

    fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().expect("nothing panics while it holds the directory")
    }

    pub(super) fn link(&self, id: MemberId) -> Option<Arc<Link>> {
        self.directory().links.get(&id).map(|known| known.link.clone())
    }

    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        self.directory().links.values().map(|known| known.link.clone()).collect()
    }

    /// Makes `peers` the ones we dial: forgets the others, tells the known ones their addresses,
    /// and has `create` make links to the new ones.
    pub(super) fn set_links(
        &self,
        peers: BTreeMap<MemberId, Vec<String>>,
        create: impl Fn(MemberId, Vec<String>) -> (Arc<Link>, oneshot::Sender<Infallible>),
    ) {
        let mut directory = self.directory();
        directory.links.retain(|id, _| peers.contains_key(id));
        for (id, addresses) in peers {
            match directory.links.get(&id) {
                Some(known) => known.link.set_addresses(addresses),
                None => {
                    let (link, _keep) = create(id, addresses);
                    directory.links.insert(id, Known { link, _keep });
                }
            }
        }
    }

    /// Makes `removed` the ones who may not connect, and closes the connections they have.
    pub(super) fn set_removed(&self, removed: BTreeSet<MemberId>) {
        let mut directory = self.directory();
        directory.seats.retain(|(from, _), _| !removed.contains(from));
        directory.removed = removed;
    }

    /// Gives the caller a seat, or says why not. Waits for the caller's former connection to end.
    pub(super) async fn take_seat(self: &Arc<Self>, preface: &Preface) -> Result<Seat, Refusal> {
        let (seat, former) = self.reserve_seat(preface)?;
        if let Some(Taken { _keep, ended, .. }) = former {
            drop(_keep);
            let Err(_) = ended.await;
        }
        Ok(seat)
    }

    fn reserve_seat(self: &Arc<Self>, preface: &Preface) -> Result<(Seat, Option<Taken>), Refusal> {
        if preface.cluster != self.identity.cluster {
            return Err(Refusal::ClusterMismatch);
        }
        if preface.to != self.identity.member {
            return Err(Refusal::MemberMismatch);
        }
        if preface.from == self.identity.member {
            return Err(Refusal::SenderIsReceiver);
        }
        let mut directory = self.directory();
        // Looked up and seated under one lock: no removed member slips in between.
        if directory.removed.contains(&preface.from) {
            return Err(Refusal::SenderRemoved);
        }
        directory.seats_given += 1;
        let number = directory.seats_given;
        let key = (preface.from, preface.purpose);
        let (keep_sender, keep) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        let former = directory.seats.insert(key, Taken { number, _keep: keep_sender, ended });
        drop(directory);
        let context = self.clone();
        Ok((Seat { context, key, number, keep, _ended: ended_sender }, former))
    }

    /// Whether a complaint is to be logged now, and if so how often it was held back since the
    /// last time. The same complaint is logged once a minute at most.
    pub(super) fn complaint(&self, now: Duration, about: String) -> Option<u64> {
        let mut directory = self.directory();
        if let Some(complaint) = directory.complaints.get_mut(&about) {
            if now < complaint.logged_at + COMPLAINT_INTERVAL {
                complaint.suppressed += 1;
                return None;
            }
            complaint.logged_at = now;
            return Some(std::mem::take(&mut complaint.suppressed));
        }
        if directory.complaints.len() == PEER_COMPLAINTS_MAX {
            directory
                .complaints
                .retain(|_, complaint| now < complaint.logged_at + COMPLAINT_INTERVAL);
        }
        if directory.complaints.len() == PEER_COMPLAINTS_MAX {
            directory.complaints.pop_first();
        }
        directory.complaints.insert(about, Complaint { logged_at: now, suppressed: 0 });
        Some(0)
    }
}

/// Ends when the transport is stopped.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that all who could stop it are gone, which comes to the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A peer as those see it who have something for it.
pub(super) struct Link {
    pub(super) state: PeerState,
    queue: mpsc::Sender<Outgoing>,
    addresses: watch::Sender<Vec<String>>,
    /// Cuts the wait before the next attempt to dial short.
    pub(super) wake: Notify,
}

/// Why something was not queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OfferError {
    NotConnected,
    Full,
    TooLong,
}

impl Link {
    pub(super) fn new(
        id: MemberId,
        queue: mpsc::Sender<Outgoing>,
        addresses: watch::Sender<Vec<String>>,
    ) -> Link {
        Link { state: PeerState::new(id), queue, addresses, wake: Notify::new() }
    }

    /// The addresses, and which of them to try first: the one that works now.
    pub(super) fn addresses(&self) -> (Vec<String>, usize) {
        let addresses = self.addresses.borrow().clone();
        let in_use = self.state.live().address.clone();
        let first = addresses.iter().position(|address| Some(address) == in_use.as_ref());
        (addresses, first.unwrap_or(0))
    }

    fn set_addresses(&self, addresses: Vec<String>) {
        self.addresses.send_if_modified(|known| {
            let changed = *known != addresses;
            *known = addresses;
            changed
        });
    }

    /// Queues for the connection that is up now. Never waits.
    pub(super) fn offer(&self, outgoing: Outgoing) -> Result<(), OfferError> {
        let offered = self.try_offer(outgoing);
        if offered.is_err() {
            self.state.drops.fetch_add(1, Ordering::Relaxed);
        }
        offered
    }

    fn try_offer(&self, outgoing: Outgoing) -> Result<(), OfferError> {
        let length = outgoing.len();
        if length > PEER_FRAME_BYTES_MAX {
            return Err(OfferError::TooLong);
        }
        // What waits for a connection is stale by the time there is one. Raft repeats it, and
        // learns from the refusal that the peer is out of reach.
        if !self.state.connected.load(Ordering::Acquire) {
            return Err(OfferError::NotConnected);
        }
        let waiting = self.state.queue_bytes.fetch_add(length, Ordering::AcqRel);
        // An empty queue takes anything: no message waits for ever for room.
        let fits = waiting == 0 || waiting + length <= PEER_QUEUE_BYTES_MAX;
        if fits && self.queue.try_send(outgoing).is_ok() {
            return Ok(());
        }
        self.state.queue_bytes.fetch_sub(length, Ordering::AcqRel);
        Err(OfferError::Full)
    }

    pub(super) fn status(&self) -> PeerStatus {
        let state = &self.state;
        let live = state.live();
        PeerStatus {
            id: state.id,
            address: live.address.clone(),
            connected_since: live.connected_since,
            last_seen: live.last_seen,
            round_trip: live.round_trip,
            queue_len: self.queue.max_capacity() - self.queue.capacity(),
            queue_bytes: state.queue_bytes.load(Ordering::Relaxed),
            sent_bytes: state.sent_bytes.load(Ordering::Relaxed),
            received_bytes: state.received_bytes.load(Ordering::Relaxed),
            drops: state.drops.load(Ordering::Relaxed),
            disconnects: state.disconnects.load(Ordering::Relaxed),
        }
    }
}

/// What is known and counted about a peer.
pub(super) struct PeerState {
    pub(super) id: MemberId,
    /// Whether what is queued will be written. Set after the queue was emptied of what was meant
    /// for an earlier connection.
    connected: AtomicBool,
    /// Bytes of the payloads in the queue.
    pub(super) queue_bytes: AtomicUsize,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    pub(super) drops: AtomicU64,
    disconnects: AtomicU64,
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    /// When and where the present outgoing connection was made; both `None` without one.
    connected_since: Option<Duration>,
    address: Option<String>,
    last_seen: Option<Duration>,
    round_trip: Option<Duration>,
}

impl PeerState {
    fn new(id: MemberId) -> PeerState {
        PeerState {
            id,
            connected: AtomicBool::new(false),
            queue_bytes: AtomicUsize::new(0),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            drops: AtomicU64::new(0),
            disconnects: AtomicU64::new(0),
            live: Mutex::default(),
        }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().expect("nothing panics while it holds a peer's figures")
    }

    pub(super) fn set_connected(&self, now: Duration, address: &str) {
        let mut live = self.live();
        live.connected_since = Some(now);
        live.address = Some(address.to_owned());
        live.last_seen = Some(now);
        self.connected.store(true, Ordering::Release);
    }

    pub(super) fn set_disconnected(&self) {
        let mut live = self.live();
        self.connected.store(false, Ordering::Release);
        if live.connected_since.take().is_some() {
            self.disconnects.fetch_add(1, Ordering::Relaxed);
        }
        live.address = None;
        live.round_trip = None;
    }

    /// Takes a measured round trip into the average, an eighth at a time as TCP does.
    pub(super) fn measured(&self, round_trip: Duration) {
        let mut live = self.live();
        live.round_trip = Some(match live.round_trip {
            Some(average) => average * 7 / 8 + round_trip / 8,
            None => round_trip,
        });
    }
}

/// Counts the bytes of one connection for the peer at its other end, who may be one we do not
/// know, or not know yet.
#[derive(Clone)]
pub(super) struct Meter {
    pub(super) context: Arc<Context>,
    pub(super) peer: MemberId,
}

impl Meter {
    pub(super) fn sent(&self, bytes: usize) {
        if let Some(link) = self.context.link(self.peer) {
            link.state.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn received(&self, bytes: usize, now: Duration) {
        if let Some(link) = self.context.link(self.peer) {
            link.state.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            link.state.live().last_seen = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClusterId;
    use std::pin::pin;

    fn context() -> Arc<Context> {
        let identity = Identity { cluster: ClusterId(1), member: MemberId(2) };
        let (inbound, _) = mpsc::channel(1);
        Arc::new(Context::new(identity, Options::default(), inbound))
    }

    fn preface(cluster: u64, from: u64, to: u64) -> Preface {
        Preface {
            purpose: Purpose::Messages,
            cluster: ClusterId(cluster),
            from: MemberId(from),
            to: MemberId(to),
        }
    }

    #[tokio::test]
    async fn only_those_who_belong_here_get_a_seat() {
        let context = context();
        for (cluster, from, to, refusal) in [
            (9, 1, 2, Refusal::ClusterMismatch),
            (1, 1, 9, Refusal::MemberMismatch),
            (1, 2, 2, Refusal::SenderIsReceiver),
        ] {
            let refused = context.take_seat(&preface(cluster, from, to)).await.err();
            assert_eq!(refused, Some(refusal));
        }
        assert!(context.take_seat(&preface(1, 1, 2)).await.is_ok());
        context.set_removed(BTreeSet::from([MemberId(1)]));
        let refused = context.take_seat(&preface(1, 1, 2)).await.err();
        assert_eq!(refused, Some(Refusal::SenderRemoved));
    }

    #[tokio::test]
    async fn a_seat_goes_to_the_newest_caller_once_the_old_one_left() {
        let context = context();
        let mut first = context.take_seat(&preface(1, 1, 2)).await.unwrap();
        let caller = preface(1, 1, 2);
        let mut second = pin!(context.take_seat(&caller));
        tokio::select! {
            biased;
            _ = &mut second => panic!("seated while the first one was still there"),
            () = first.lost() => {}
        }
        drop(first);
        let mut second = second.await.unwrap();
        // The first one's leaving did not take the seat from the second.
        assert_eq!(context.directory().seats.len(), 1);
        context.set_removed(BTreeSet::from([MemberId(1)]));
        second.lost().await;
        drop(second);
        assert_eq!(context.directory().seats.len(), 0);
    }

    #[test]
    fn a_complaint_is_not_repeated_within_a_minute() {
        let context = context();
        let second = Duration::from_secs(1);
        assert_eq!(context.complaint(second, "a".into()), Some(0));
        assert_eq!(context.complaint(2 * second, "a".into()), None);
        assert_eq!(context.complaint(60 * second, "a".into()), None);
        assert_eq!(context.complaint(61 * second, "a".into()), Some(2));
        for other in 0..1000 {
            assert_eq!(context.complaint(61 * second, format!("{other}")), Some(0));
        }
        assert_eq!(context.directory().complaints.len(), PEER_COMPLAINTS_MAX);
    }

    #[test]
    fn round_trips_are_averaged() {
        let state = PeerState::new(MemberId(1));
        state.measured(Duration::from_millis(8));
        state.measured(Duration::from_millis(16));
        assert_eq!(state.live().round_trip, Some(Duration::from_millis(9)));
    }
}
