//! The composition root: which loop talks to which, by which queue. Everything is wired here, and
//! nothing is set later.

use super::handle::{Damage, Doors, Handle, Settings};
use super::hub_loop::{HubInput, HubLoop};
use super::lease_loop::{LeaseInput, LeaseLoop};
use super::node_loop::{Input, NodeLoop, OutgoingSnapshot};
use super::open::{Opened, StartError};
use super::{
    Policy, Status, Tasks, apply_loop, cluster_version, compactor, disk_watch, fail, history,
    inbound, node_loop, snapshots,
};
use crate::apply::State;
use crate::config::{AutoCompaction, Config, Url};
use crate::env::{Clock, Env, Network};
use crate::lease::Deadlines;
use crate::raft::{Leadership, Node};
use crate::transport::{Identity, Inbound, IncomingSnapshot, Options, Transport, TransportHandle};
use crate::types::{MemberId, limits};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Snapshots that may wait to be sent or received.
const SNAPSHOT_QUEUE_MAX: usize = 16;
/// Messages from peers that may wait to be looked at.
const INBOUND_QUEUE_MAX: usize = 1_024;

/// Both ends of a bounded queue.
struct Queue<T> {
    sender: mpsc::Sender<T>,
    receiver: mpsc::Receiver<T>,
}

impl<T> Queue<T> {
    fn new(length: usize) -> Queue<T> {
        let (sender, receiver) = mpsc::channel(length);
        Queue { sender, receiver }
    }
}

/// What exists before the loops: the front, and the queues whose other ends they will hold.
pub(super) struct Wiring<E: Env> {
    env: E,
    pub handle: Handle,
    pub transport: TransportHandle,
    pub(super) status: Arc<Status>,
    damage: Damage,
    node: Queue<Input>,
    apply: Queue<apply_loop::ApplyInput>,
    hub: Queue<HubInput>,
    leases: Queue<LeaseInput>,
    queries: mpsc::Receiver<apply_loop::Query>,
    inbound: mpsc::Receiver<Inbound>,
    outgoing: Queue<OutgoingSnapshot>,
    incoming: Queue<(MemberId, IncomingSnapshot)>,
}

/// Makes the queues, the transport and the front.
pub(super) fn wire<E: Env>(
    env: &E,
    config: &Config,
    opened: &Opened<E>,
    tasks: &Tasks<E>,
    listeners: Vec<<E::Network as Network>::Listener>,
) -> Wiring<E> {
    let (cluster, member) = (opened.identity.cluster, opened.identity.member);
    let (inbound_in, inbound) = mpsc::channel(INBOUND_QUEUE_MAX);
    let transport = Transport::start(
        env.clone(),
        Identity { cluster, member },
        listeners,
        inbound_in,
        Options::default(),
    );
    transport.set_peers(peer_addresses(&opened.state, member));
    let status = Arc::new(first_status(env, &opened.state));
    let (fatal, stop) = (tasks.fatal.clone(), tasks.stop.clone());
    let damage: Damage = Arc::new(move |reason| fail(&fatal, &stop, reason));
    let (queries_in, queries) = mpsc::channel(limits::NODE_QUEUE_MAX);
    let node = Queue::new(limits::NODE_QUEUE_MAX);
    let hub = Queue::new(limits::HUB_QUEUE_MAX);
    let leases = Queue::new(limits::NODE_QUEUE_MAX);
    let doors = Doors {
        node: node.sender.clone(),
        queries: queries_in,
        hub: hub.sender.clone(),
        leases: leases.sender.clone(),
    };
    let settings = Settings {
        member,
        cluster,
        election: config.election_timeout,
        heartbeat: config.heartbeat_interval,
        txn_ops_max: config.max_txn_ops,
        request_bytes_max: config.max_request_bytes,
        quota_bytes: config.quota_bytes(),
    };
    let handle = Handle::new(
        env,
        settings,
        doors,
        status.clone(),
        opened.state.store.reader(),
        transport.clone(),
        damage.clone(),
    );
    Wiring {
        env: env.clone(),
        handle,
        transport,
        status,
        damage,
        node,
        apply: Queue::new(limits::APPLY_QUEUE_MAX),
        hub,
        leases,
        queries,
        inbound,
        outgoing: Queue::new(SNAPSHOT_QUEUE_MAX),
        incoming: Queue::new(SNAPSHOT_QUEUE_MAX),
    }
}

impl<E: Env> Wiring<E> {
    /// Builds the loops around what was opened, and starts them.
    pub(super) fn start(
        self,
        config: &Config,
        opened: Opened<E>,
        tasks: &Tasks<E>,
    ) -> Result<(), StartError> {
        let Wiring { env, handle, transport, status, damage, node, apply, hub, leases, .. } = self;
        let Opened { identity, state, wal, log, lock, files, spare, store_options } = opened;
        let (leadership_in, leadership) = watch::channel(Leadership::default());
        let applied = state.store.applied().0;
        let alone = state.members.voters() == [identity.member.0];
        let lease_deadlines = deadlines(&env, &state);

        let hub_loop = HubLoop::new(
            env.clone(),
            history::StoreHistory { reader: state.store.reader(), damage },
            hub.receiver,
            config.watch_progress_notify_interval,
            config.max_request_bytes + limits::REQUEST_OVERHEAD_BYTES,
            tasks.stopping(),
        )
        .map_err(|error| StartError::Store { file: files.store.clone(), error })?;
        let raft_options = crate::raft::Options {
            id: identity.member,
            election_ticks: config.election_ticks(),
            pre_vote: config.pre_vote,
            applied,
            seed: env.random(),
        };
        let node_loop = NodeLoop::new(node_loop::Parts {
            env: env.clone(),
            id: identity.member,
            node: Node::new(raft_options, log),
            wal,
            applied,
            inputs: node.receiver,
            apply: apply.sender,
            transport: transport.clone(),
            status: status.clone(),
            leadership: leadership_in,
            snapshots: self.outgoing.sender,
            stopping: tasks.stopping(),
            tick: config.heartbeat_interval,
            election: config.election_timeout,
            catchup_entries: config.snapshot_catchup_entries,
            alone,
            hasten: config.initial_election_tick_advance,
        });
        let apply_loop = apply_loop::ApplyLoop::new(apply_loop::Parts {
            env: env.clone(),
            state,
            spare,
            store_path: files.store.clone(),
            incoming_path: files.incoming.clone(),
            store_options,
            inputs: apply.receiver,
            queries: self.queries,
            node: node.sender.clone(),
            hub: hub.sender,
            leases: leases.sender.clone(),
            status: status.clone(),
            stopping: tasks.stopping(),
            flush_entries: config.snapshot_count,
            compaction_batch: config.compaction_batch_limit,
            compaction_sleep: config.compaction_sleep_interval,
            warning_duration: config.warning_apply_duration,
        });
        let lease_loop = LeaseLoop::new(
            env.clone(),
            handle.clone(),
            leases.receiver,
            leases.sender,
            leadership.clone(),
            tasks.stopping(),
            config.election_timeout,
            lease_deadlines,
        );
        tasks.run(async move {
            // Other processes stay out until the log is closed.
            let _lock = lock;
            node_loop.run().await
        });
        tasks.run(apply_loop.run());
        tasks.run_plain(hub_loop.run());
        tasks.run_plain(lease_loop.run());
        let paths = files.on_disk();
        tasks.run_plain(disk_watch::run(env.clone(), paths, status, tasks.stopping()));
        if let Some(policy) = policy(&config.auto_compaction) {
            let compactor = compactor::run(env.clone(), handle.clone(), policy, tasks.stopping());
            tasks.run_plain(compactor);
        }
        tasks.run_until_stopped(cluster_version::decide(env.clone(), handle.clone(), leadership));
        tasks.run_until_stopped(inbound::sort(
            env.clone(),
            self.inbound,
            node.sender.clone(),
            self.incoming.sender,
            handle,
        ));
        tasks.run_until_stopped(snapshots::send_all(
            env.clone(),
            self.outgoing.receiver,
            transport,
            node.sender.clone(),
        ));
        tasks.run_until_stopped(snapshots::receive_all(
            env,
            self.incoming.receiver,
            files.incoming,
            store_options,
            node.sender,
        ));
        Ok(())
    }
}

/// What is known of this member before its loops run.
fn first_status<E: Env>(env: &E, state: &State) -> Status {
    let status = Status::default();
    let (applied, _) = state.store.applied();
    status.set_members(&state.members);
    status.set_alarms(&state.alarms);
    status.set_cluster_version(&state.cluster_version);
    status.set_applied(applied);
    status.set_committed(applied);
    status.set_ticked(env.clock().now());
    status
}

/// The leases that exist; nobody's clock counts them before somebody leads.
fn deadlines<E: Env>(env: &E, state: &State) -> Deadlines {
    let now = env.clock().now();
    let mut deadlines = Deadlines::default();
    for (id, ttl, checkpointed) in state.lease_list() {
        deadlines.granted(id, ttl, checkpointed, now);
    }
    deadlines
}

fn peer_addresses(state: &State, own: MemberId) -> BTreeMap<MemberId, Vec<String>> {
    let others = state.members.0.values().filter(|member| member.id != own);
    others
        .map(|member| {
            let urls = member.peer_urls.iter().filter_map(|url| Url::parse(url).ok());
            (member.id, urls.map(|url| url.address().to_owned()).collect())
        })
        .collect()
}

fn policy(auto: &AutoCompaction) -> Option<Policy> {
    match auto {
        AutoCompaction::Off => None,
        AutoCompaction::Periodic(period) => Some(Policy::periodic(*period)),
        AutoCompaction::Revision(keep) => Some(Policy::revision(*keep)),
    }
}
