//! The server: loops that own the state, and the front that talks to them.
//!
//! ```text
//!               Handle (front)                         one struct, cheap to clone
//!        propose │ read index │ queries
//!   ┌────────────▼───┐   committed    ┌──────────────┐  events  ┌──────────┐
//!   │ node_loop      │ ─────────────▶ │ apply_loop   │ ───────▶ │ hub_loop │ ─▶ watch streams
//!   │ raft + wal     │ ◀───────────── │ store, lease │ ──┐      └──────────┘
//!   └───┬────────▲───┘    applied     └──────────────┘   │ changes ┌────────────┐
//!  msgs │        │ msgs                                  └───────▶ │ lease_loop │
//!   ┌───▼────────┴───┐                                             └─────┬──────┘
//!   │ transport      │ ◀─▶ other members                     revoke, checkpoint (propose)
//!   └────────────────┘
//! ```
//!
//! A loop owns its state alone and is told things by one bounded queue. The node loop and the
//! lease loop never wait for another loop; the apply loop may wait for the hub and for a flush,
//! which is how back-pressure reaches clients: what is not applied counts as backlog, and
//! proposals are refused past a bound.
//!
//! [`Server::start`] is the composition root: everything is wired there and nothing later.
//! Generics over the environment stop here; the [`Handle`] it gives is plain.

mod apply_loop;
pub mod bootstrap;
mod compactor;
mod disk_watch;
mod handle;
mod history;
mod hub_loop;
mod lease_loop;
mod node_loop;
mod open;
mod peer_calls;
mod snapshots;
mod status;
mod validate;

pub use crate::apply::{Member, Members};
pub(crate) use crate::watch::{StreamId, StreamQueue};
pub use compactor::Policy;
pub use handle::{Handle, Settings};
pub(crate) use hub_loop::HubInput;
pub use open::StartError;
pub use status::Status;

use crate::config::{AutoCompaction, Config};
use crate::env::{Clock, Env, Network};
use crate::lease::Deadlines;
use crate::raft::{Leadership, Node};
use crate::transport::{Identity, Inbound, Options, Transport, TransportHandle};
use crate::types::{Error, MemberId, Term, limits};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The version of etcd's API that members agree on.
const CLUSTER_VERSION: &str = "3.7.0";
/// Snapshots that may wait to be sent or received.
const SNAPSHOT_QUEUE_MAX: usize = 16;
/// Messages from peers that may wait to be looked at.
const INBOUND_QUEUE_MAX: usize = 4096;

/// A running member, without its client listeners.
pub struct Server {
    handle: Handle,
    transport: TransportHandle,
    stop: watch::Sender<bool>,
    fatal: watch::Receiver<Option<String>>,
    /// Closed once all loops have ended.
    running: mpsc::Receiver<()>,
}

/// Starts loops and remembers what they need to be stopped.
struct Starter<E: Env> {
    env: E,
    stop: watch::Sender<bool>,
    fatal: watch::Sender<Option<String>>,
    running: mpsc::Sender<()>,
}

impl<E: Env> Starter<E> {
    /// Runs a loop whose failure ends the server.
    fn run(&self, task: impl Future<Output = Result<(), String>> + Send + 'static) {
        let (stop, fatal, running) = (self.stop.clone(), self.fatal.clone(), self.running.clone());
        self.env.spawn(async move {
            if let Err(reason) = task.await {
                fatal.send_if_modified(|first| first.get_or_insert(reason.clone()) == &reason);
                stop.send_replace(true);
            }
            drop(running);
        });
    }

    fn run_plain(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.run(async move {
            task.await;
            Ok(())
        });
    }

    fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }
}

impl Server {
    /// Opens what is on disk (or makes it, for a new member), begins to listen to peers and
    /// starts all loops.
    ///
    /// # Errors
    /// [`StartError`], in words for the operator.
    pub async fn start<E: Env>(env: E, config: &Config) -> Result<Server, StartError> {
        let mut peer_listeners = Vec::new();
        for url in &config.listen_peer_urls {
            let bound = env.network().bind(url.address()).await;
            peer_listeners.push(bound.map_err(|error| StartError::listen(url, &error))?);
        }
        let opened = open::open(&env, config).await?;
        let open::Opened { identity, state, wal, log, lock, files, store_options } = opened;

        let (stop, _) = watch::channel(false);
        let (fatal_in, fatal) = watch::channel(None);
        let (running_in, running) = mpsc::channel(1);
        let starter =
            Starter { env: env.clone(), stop: stop.clone(), fatal: fatal_in, running: running_in };

        let (node_in, node_inputs) = mpsc::channel(limits::NODE_QUEUE_MAX);
        let (apply_in, apply_inputs) = mpsc::channel(limits::APPLY_QUEUE_MAX);
        let (queries_in, queries) = mpsc::channel(limits::NODE_QUEUE_MAX);
        let (hub_in, hub_inputs) = mpsc::channel(limits::HUB_QUEUE_MAX);
        let (leases_in, lease_inputs) = mpsc::channel(limits::NODE_QUEUE_MAX);
        let (snapshots_out, outgoing) = mpsc::channel(SNAPSHOT_QUEUE_MAX);
        let (snapshots_in, incoming) = mpsc::channel(SNAPSHOT_QUEUE_MAX);
        let (inbound_in, inbound) = mpsc::channel(INBOUND_QUEUE_MAX);
        let (leadership_in, leadership) = watch::channel(Leadership::default());

        let transport = Transport::start(
            env.clone(),
            Identity { cluster: identity.cluster, member: identity.member },
            peer_listeners,
            inbound_in,
            Options::default(),
        );
        transport.set_peers(peer_addresses(&state.members, identity.member));

        let status = Arc::new(Status::default());
        let applied = state.store.applied().0;
        status.set_members(&state.members);
        status.set_alarms(&state.alarms);
        status.set_cluster_version(&state.cluster_version);
        status.set_applied(applied);
        status.set_committed(applied);
        status.set_ticked(env.clock().now());

        let settings = Settings {
            member: identity.member,
            cluster: identity.cluster,
            election: config.election_timeout,
            heartbeat: config.heartbeat_interval,
            txn_ops_max: config.max_txn_ops,
            request_bytes_max: config.max_request_bytes,
            quota_bytes: config.quota_bytes(),
        };
        let reader = state.store.reader();
        let doors = handle::Doors {
            node: node_in.clone(),
            queries: queries_in,
            hub: hub_in.clone(),
            leases: leases_in.clone(),
        };
        let failed = starter.fatal.clone();
        let (failed_stop, failed) = (stop.clone(), move |reason: String| {
            failed.send_if_modified(|first| first.get_or_insert(reason.clone()) == &reason);
        });
        let damage: handle::Damage = Arc::new(move |reason: String| {
            failed(reason);
            failed_stop.send_replace(true);
        });
        let handle = Handle::new(
            &env,
            settings,
            doors,
            status.clone(),
            reader.clone(),
            transport.clone(),
            damage.clone(),
        );

        let mut deadlines = Deadlines::default();
        let now = env.clock().now();
        for (id, lease) in state.lessor.iter() {
            deadlines.granted(id, lease.granted_ttl, lease.remaining_ttl, now);
        }
        let members = state.members.clone();
        let alone = members.voters() == [identity.member.0];
        let node = Node::new(
            crate::raft::Options {
                id: identity.member,
                election_ticks: config.election_ticks(),
                pre_vote: config.pre_vote,
                applied,
                seed: env.random(),
            },
            log,
        );

        let node_loop = node_loop::NodeLoop::new(node_loop::Parts {
            env: env.clone(),
            id: identity.member,
            node,
            wal,
            applied,
            inputs: node_inputs,
            apply: apply_in,
            transport: transport.clone(),
            status: status.clone(),
            leadership: leadership_in,
            snapshots: snapshots_out,
            stopping: starter.stopping(),
            tick: config.heartbeat_interval,
            election: config.election_timeout,
            catchup_entries: config.snapshot_catchup_entries,
            alone,
            hasten: config.initial_election_tick_advance,
        });
        let hub_loop = hub_loop::HubLoop::new(
            env.clone(),
            history::StoreHistory { reader, damage },
            hub_inputs,
            config.watch_progress_notify_interval,
            config.max_request_bytes + limits::REQUEST_OVERHEAD_BYTES,
            starter.stopping(),
        )
        .map_err(|error| StartError::Torn(error.to_string()))?;
        let apply_loop = apply_loop::ApplyLoop::new(apply_loop::Parts {
            env: env.clone(),
            state,
            store_path: files.store.clone(),
            incoming_path: files.incoming.clone(),
            store_options,
            inputs: apply_inputs,
            queries,
            node: node_in.clone(),
            hub: hub_in,
            leases: leases_in.clone(),
            status: status.clone(),
            stopping: starter.stopping(),
            flush_entries: config.snapshot_count,
            compaction_batch: config.compaction_batch_limit,
            compaction_sleep: config.compaction_sleep_interval,
            warning_duration: config.warning_apply_duration,
        });
        let lease_loop = lease_loop::LeaseLoop {
            env: env.clone(),
            handle: handle.clone(),
            inputs: lease_inputs,
            own: leases_in,
            leadership: leadership.clone(),
            stopping: starter.stopping(),
            election: config.election_timeout,
            deadlines,
            applied_term: Term(0),
            acting: None,
            proposing: false,
            expiring: BTreeMap::new(),
        };
        starter.run(async move {
            let _locked = lock;
            node_loop.run().await
        });
        starter.run(apply_loop.run());
        starter.run_plain(hub_loop.run());
        starter.run_plain(lease_loop.run());
        starter.run_plain(stop_with(
            starter.stopping(),
            receive_inbound(env.clone(), inbound, node_in.clone(), snapshots_in, handle.clone()),
        ));
        starter.run_plain(stop_with(
            starter.stopping(),
            snapshots::send_all(env.clone(), outgoing, transport.clone(), node_in.clone()),
        ));
        starter.run_plain(stop_with(
            starter.stopping(),
            snapshots::receive_all(env.clone(), incoming, files.incoming, store_options, node_in),
        ));
        starter.run_plain(disk_watch::run(
            env.clone(),
            vec![files.store, files.wal],
            status.clone(),
            starter.stopping(),
        ));
        if let Some(policy) = policy(&config.auto_compaction) {
            starter.run_plain(compactor::run(
                env.clone(),
                handle.clone(),
                policy,
                starter.stopping(),
            ));
        }
        starter.run_plain(stop_with(
            starter.stopping(),
            decide_version(env.clone(), handle.clone(), leadership),
        ));
        Ok(Server { handle, transport, stop, fatal, running })
    }

    /// The way in.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Tells the cluster who and where we are; once that is applied here, this member takes part
    /// and can serve clients.
    ///
    /// # Errors
    /// Only when the server stops meanwhile.
    pub async fn publish(&self, name: &str, client_urls: &[String]) -> Result<(), Error> {
        loop {
            match self.handle.publish_member(name.to_owned(), client_urls.to_vec()).await {
                Err(error) if *self.stop.borrow() => return Err(error),
                Err(error) => {
                    tracing::warn!(
                        "local-member-id" = %self.handle.settings().member, %error,
                        "failed to publish local member to cluster through raft"
                    );
                    self.handle.sleep(self.handle.settings().election / 2).await;
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Why the server ended by itself, once it did.
    pub async fn failed(&self) -> String {
        let mut fatal = self.fatal.clone();
        // A name of its own ends the borrow, which must not live on while this waits for ever.
        let reason = fatal.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Hands leadership over if others can take it, then stops all loops and waits for them.
    pub async fn stop(mut self) {
        self.hand_over().await;
        self.stop.send_replace(true);
        self.transport.stop().await;
        drop(self.handle);
        while self.running.recv().await.is_some() {}
    }

    async fn hand_over(&self) {
        let handle = &self.handle;
        let own = handle.settings().member;
        if *self.stop.borrow() || !handle.status().leadership().leading {
            return;
        }
        let members = handle.status().members();
        let voters: Vec<MemberId> = members.voters().into_iter().map(MemberId).collect();
        // The one that has been connected longest is likely the most up to date.
        let peers = self.transport.peers();
        let connected = peers.iter().filter(|peer| voters.contains(&peer.id));
        let target = connected.filter_map(|peer| Some((peer.connected_since?, peer.id))).min();
        let Some((_, target)) = target else { return };
        tokio::select! {
            biased;
            moved = handle.move_leader(target) => if let Err(error) = moved {
                tracing::warn!("local-member-id" = %own, %error, "leadership transfer failed");
            },
            () = handle.sleep(handle.timeout()) => {}
        }
    }
}

/// Ends when the server is told to stop, or is gone.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|&stopping| stopping).await;
}

async fn stop_with(mut stopping: watch::Receiver<bool>, task: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = stopped(&mut stopping) => {}
        () = task => {}
    }
}

fn peer_addresses(
    members: &crate::apply::Members,
    own: MemberId,
) -> BTreeMap<MemberId, Vec<String>> {
    let others = members.0.values().filter(|member| member.id != own);
    others
        .map(|member| {
            let urls = member.peer_urls.iter();
            let addresses = urls.filter_map(|url| crate::config::Url::parse(url).ok());
            (member.id, addresses.map(|url| url.address().to_owned()).collect())
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

/// Sorts what peers send.
async fn receive_inbound<E: Env>(
    env: E,
    mut inbound: mpsc::Receiver<Inbound>,
    node: mpsc::Sender<node_loop::Input>,
    snapshots: mpsc::Sender<(MemberId, crate::transport::IncomingSnapshot)>,
    handle: Handle,
) {
    while let Some(input) = inbound.recv().await {
        let input = match input {
            Inbound::Message { from, payload } => node_loop::Input::Message { from, payload },
            Inbound::Unreachable { peer } => node_loop::Input::Unreachable(peer),
            Inbound::Reachable { .. } => continue,
            Inbound::Refused { peer, refusal } => {
                tracing::warn!("remote-peer-id" = %peer, %refusal, "a peer refuses to talk to this member");
                continue;
            }
            Inbound::Request { payload, reply, .. } => {
                let handle = handle.clone();
                env.spawn(async move {
                    let _ = reply.send(peer_calls::answer(&handle, payload).await);
                });
                continue;
            }
            Inbound::Snapshot { from, incoming } => {
                if let Err(refused) = snapshots.try_send((from, incoming)) {
                    let (_, incoming) = refused.into_inner();
                    incoming.fail("another snapshot is being received");
                }
                continue;
            }
        };
        if node.send(input).await.is_err() {
            return;
        }
    }
}

/// The first leader writes down what version the cluster speaks.
async fn decide_version<E: Env>(
    env: E,
    handle: Handle,
    mut leadership: watch::Receiver<Leadership>,
) {
    while handle.status().cluster_version().is_empty() {
        if leadership.borrow_and_update().leading {
            match handle.set_cluster_version(CLUSTER_VERSION).await {
                Ok(()) => {
                    tracing::info!(
                        "cluster-version" = CLUSTER_VERSION,
                        "set initial cluster version"
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to set the cluster version; will retry");
                    env.clock().sleep(Duration::from_secs(1)).await;
                }
            }
        } else {
            tokio::select! {
                biased;
                changed = leadership.changed() => if changed.is_err() { return },
                () = env.clock().sleep(Duration::from_secs(1)) => {}
            }
        }
    }
}
