//! A whole member: the server and the doors for its clients, from start to stop.
//!
//! What the binary runs on the machine and the simulator runs in its world is this very function.

use crate::api::{ServeOptions, serve};
use crate::config::Config;
use crate::env::{Clock, Env, Network};
use crate::server::{Server, StartError};
use crate::types::{Error, limits};
use std::fmt;
use std::future::Future;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long requests under way may take to finish when the member stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a member ended without being asked to.
#[derive(Debug)]
pub enum MemberError {
    /// It could not start.
    Start(StartError),
    /// It could not go on; what is on disk is as good as after a crash.
    Failed(String),
}

impl MemberError {
    /// What to do about it, if the error does not say so itself.
    pub fn hint(&self) -> Option<&str> {
        match self {
            MemberError::Start(error) => error.hint(),
            MemberError::Failed(_) => Some("start it again: what was acknowledged is in the log"),
        }
    }
}

impl fmt::Display for MemberError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemberError::Start(error) => error.fmt(f),
            MemberError::Failed(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for MemberError {}

/// Runs a member until `shutdown` ends; then hands leadership over, lets requests under way
/// finish, and stops.
///
/// # Errors
/// [`MemberError`], when it cannot start or cannot go on.
pub async fn run<E: Env>(
    env: E,
    config: &Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), MemberError> {
    let mut listeners = Vec::new();
    for url in &config.listen_client_urls {
        let bound = env.network().bind(url.address()).await;
        let bound = bound.map_err(|error| MemberError::Start(StartError::listen(url, &error)))?;
        listeners.push((url, bound));
    }
    let server = Server::start(env.clone(), config).await.map_err(MemberError::Start)?;
    let (close, closing) = watch::channel(false);
    let (busy, mut idle) = mpsc::channel(1);
    let doors = Doors { closing, busy };
    let work = work(&env, config, &server, listeners, doors);
    let ended = tokio::select! {
        biased;
        // The reason to stop outranks the wish to.
        reason = server.failed() => Err(MemberError::Failed(reason)),
        () = shutdown => Ok(()),
        () = work => Ok(()),
    };
    close.send_replace(true);
    tokio::select! {
        biased;
        // Closed once the last connection has ended; nothing is ever sent.
        _ = idle.recv() => {}
        () = env.clock().sleep(CLOSE_TIMEOUT) => {}
    }
    server.stop().await;
    ended
}

/// What client connections live by.
struct Doors {
    closing: watch::Receiver<bool>,
    /// Held by every listener and connection.
    busy: mpsc::Sender<()>,
}

/// Joins the cluster, opens the doors, and keeps them open.
async fn work<E: Env>(
    env: &E,
    config: &Config,
    server: &Server,
    listeners: Vec<(&crate::config::Url, <E::Network as Network>::Listener)>,
    doors: Doors,
) {
    let client_urls: Vec<String> =
        config.advertise_client_urls.iter().map(ToString::to_string).collect();
    let settings = server.handle().settings();
    match server.publish(&config.name, &client_urls).await {
        Ok(()) => tracing::info!(
            "local-member-id" = %settings.member, "cluster-id" = %settings.cluster,
            "published local member to cluster through raft"
        ),
        Err(Error::Stopped) => return,
        Err(error) => tracing::warn!(%error, "failed to publish local member"),
    }
    let options = ServeOptions {
        max_concurrent_streams: config.max_concurrent_streams,
        message_bytes_max: config.max_request_bytes + limits::REQUEST_OVERHEAD_BYTES,
    };
    for (url, listener) in listeners {
        tracing::info!("ready to serve client requests");
        tracing::info!(
            traffic = "grpc+http",
            address = url.address(),
            "serving client traffic insecurely; this is strongly discouraged!"
        );
        let handle = server.handle().clone();
        let (closing, busy) = (doors.closing.clone(), doors.busy.clone());
        env.spawn(serve(env.clone(), listener, handle, options, closing, busy));
    }
    drop(doors);
    std::future::pending().await
}
