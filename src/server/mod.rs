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
//! `wiring.rs` is the composition root. Generics over the environment stop here; the [`Handle`]
//! that [`Server::start`] gives is plain.

mod apply_loop;
pub mod bootstrap;
mod cluster_version;
mod compactor;
mod disk_watch;
mod handle;
mod history;
mod hub_loop;
mod inbound;
mod lease_loop;
mod node_loop;
mod observed;
mod open;
mod peer_calls;
mod snapshots;
mod spare;
mod status;
mod validate;
mod wiring;

pub use crate::apply::{Member, Members};
pub(crate) use crate::watch::{StreamId, StreamQueue};
pub use compactor::Policy;
pub use handle::{Handle, Settings};
pub(crate) use hub_loop::HubInput;
pub use open::StartError;
pub use status::Status;

use crate::config::Config;
use crate::env::{Env, Network};
use crate::transport::TransportHandle;
use crate::types::{Error, MemberId};
use tokio::sync::{mpsc, watch};

/// A running member, without its client listeners.
pub struct Server {
    handle: Handle,
    transport: TransportHandle,
    stop: watch::Sender<bool>,
    fatal: watch::Receiver<Option<String>>,
    /// Closed once all loops have ended.
    running: mpsc::Receiver<()>,
}

/// Starts the server's tasks, so that all end when one fails or the server is stopped.
struct Tasks<E: Env> {
    env: E,
    stop: watch::Sender<bool>,
    fatal: watch::Sender<Option<String>>,
    running: mpsc::Sender<()>,
}

impl<E: Env> Tasks<E> {
    /// Runs a loop whose failure ends the server.
    fn run(&self, task: impl Future<Output = Result<(), String>> + Send + 'static) {
        let (stop, fatal, running) = (self.stop.clone(), self.fatal.clone(), self.running.clone());
        self.env.spawn(async move {
            if let Err(reason) = task.await {
                fail(&fatal, &stop, reason);
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

    /// Runs a task that does not look for the end itself.
    fn run_until_stopped(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut stopping = self.stopping();
        self.run_plain(async move {
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => {}
                () = task => {}
            }
        });
    }

    fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }
}

/// Ends the server; the first reason is the one that is told.
fn fail(fatal: &watch::Sender<Option<String>>, stop: &watch::Sender<bool>, reason: String) {
    fatal.send_if_modified(|first| {
        let is_first = first.is_none();
        first.get_or_insert(reason);
        is_first
    });
    stop.send_replace(true);
}

impl Server {
    /// Opens what is on disk (or makes it, for a new member), begins to listen to peers and
    /// starts all loops.
    ///
    /// # Errors
    /// [`StartError`], in words for the operator.
    pub async fn start<E: Env>(env: E, config: &Config) -> Result<Server, StartError> {
        let mut listeners = Vec::new();
        for url in &config.listen_peer_urls {
            let bound = env.network().bind(url.address()).await;
            listeners.push(bound.map_err(|error| StartError::listen(url, &error))?);
        }
        let opened = open::open(&env, config).await?;
        let (stop, _) = watch::channel(false);
        let (fatal_in, fatal) = watch::channel(None);
        let (running_in, running) = mpsc::channel(1);
        let tasks =
            Tasks { env: env.clone(), stop: stop.clone(), fatal: fatal_in, running: running_in };
        let wiring = wiring::wire(&env, config, &opened, &tasks, listeners);
        disk_watch::look(&env, &opened.files.on_disk(), &wiring.status).await;
        let (handle, transport) = (wiring.handle.clone(), wiring.transport.clone());
        wiring.start(config, opened, &tasks)?;
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
                handle.mark("stop: leadership not handed over");
                tracing::warn!("local-member-id" = %own, %error, "leadership transfer failed");
            } else {
                handle.mark("stop: leadership handed over");
            },
            () = handle.sleep(handle.timeout()) => {}
        }
    }
}

/// Ends when the server is told to stop, or is gone.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|&stopping| stopping).await;
}
