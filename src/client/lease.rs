//! Leases, and keeping them alive.
//!
//! A [`KeepAlive`] is driven by its owner: each [`KeepAlive::next`] waits until a third of the TTL
//! has passed, renews, and returns the answer. No task runs behind the owner's back, so an owner
//! who stalls loses the lease, which is what a lease is for.

use super::error::{Error, Result};
use super::wire::{Requests, Responses};
use super::{Client, backoff, method};
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use std::time::Duration;
use tonic::Code;

type Stream = (Requests<LeaseKeepAliveRequest>, Responses<LeaseKeepAliveResponse>);

/// How long a renewal waits for its answer before it is sent to another server, for a lease whose
/// TTL is not known yet.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The shortest such wait, and the shortest pause between renewals (clientv3: 500 ms).
const RENEWAL_MIN: Duration = Duration::from_millis(500);

impl Client {
    /// A new lease of so many seconds; `id` 0 lets the server choose. The TTL of the answer is
    /// the one that counts.
    pub async fn lease_grant(&self, ttl: i64, id: i64) -> Result<LeaseGrantResponse> {
        self.call(&method::LEASE_GRANT, &LeaseGrantRequest { ttl, id }).await
    }

    /// Ends a lease and deletes its keys.
    pub async fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse> {
        self.call(&method::LEASE_REVOKE, &LeaseRevokeRequest { id }).await
    }

    /// The seconds a lease has left, -1 if there is no such lease, and its keys if wanted.
    pub async fn lease_time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimeToLiveResponse> {
        self.call(&method::LEASE_TIME_TO_LIVE, &LeaseTimeToLiveRequest { id, keys }).await
    }

    /// All leases the answering member knows.
    pub async fn leases(&self) -> Result<LeaseLeasesResponse> {
        self.call(&method::LEASE_LEASES, &LeaseLeasesRequest {}).await
    }

    /// Renews a lease once. A lease that is not there is an error with etcd's code and text.
    pub async fn lease_keep_alive_once(&self, id: i64) -> Result<LeaseKeepAliveResponse> {
        let mut keep_alive = self.keep_alive(id);
        let Some(deadline) = self.deadline else { return keep_alive.next().await };
        tokio::select! {
            // An answer that is there counts, even in the last moment.
            biased;
            outcome = keep_alive.next() => outcome,
            () = self.shared.world.sleep(deadline) => {
                let reason = self.shared.endpoints.last_error();
                Err(Error::Deadline { sent: true, reason })
            }
        }
    }

    /// Renews a lease for as long as [`KeepAlive::next`] is called.
    pub fn keep_alive(&self, id: i64) -> KeepAlive {
        KeepAlive {
            client: self.clone(),
            id,
            stream: None,
            ttl: None,
            due_at: Duration::ZERO,
            sent_at: None,
            expires_at: None,
            failures: 0,
        }
    }

    /// A bare stream of renewals, for many leases at once.
    pub async fn lease_keep_alive_stream(&self) -> Result<Stream> {
        self.stream(method::LEASE_KEEP_ALIVE).await
    }
}

/// The renewal of one lease.
pub struct KeepAlive {
    client: Client,
    id: i64,
    stream: Option<Stream>,
    /// The TTL of the last answer.
    ttl: Option<Duration>,
    /// When to renew next.
    due_at: Duration,
    /// When the renewal was sent that has no answer yet.
    sent_at: Option<Duration>,
    /// When the lease is gone if no renewal succeeds, as far as can be known here: counted from
    /// the sending of the last renewal that did.
    expires_at: Option<Duration>,
    /// Renewals that failed since the last that did not.
    failures: u32,
}

impl KeepAlive {
    /// Renews when a third of the TTL has passed since the last renewal, the first time at once.
    /// Tries again, on other servers too, until the lease must have expired; before the first
    /// answer, when its TTL is not known, for as long as it takes. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<LeaseKeepAliveResponse> {
        loop {
            let error = match self.renew().await {
                Ok(response) if response.ttl <= 0 => return Err(not_found()),
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let shared = &self.client.shared;
            if let Some((_, responses)) = self.stream.take() {
                shared.endpoints.leave(responses.endpoint, &error.to_string());
            }
            self.sent_at = None;
            let now = shared.world.now();
            if !error.is_resumable() && !matches!(error, Error::Deadline { .. }) {
                return Err(error);
            }
            if self.expires_at.is_some_and(|expiry| expiry <= now) {
                return Err(error);
            }
            if self.failures > 0 {
                self.due_at = now + backoff(&*shared.world, &shared.options, self.failures - 1);
            }
            self.failures = self.failures.saturating_add(1);
        }
    }

    async fn renew(&mut self) -> Result<LeaseKeepAliveResponse> {
        let world = &self.client.shared.world;
        let now = world.now();
        if self.sent_at.is_none() && now < self.due_at {
            world.sleep(self.due_at - now).await;
        }
        if self.stream.is_none() {
            self.stream = Some(self.client.stream(method::LEASE_KEEP_ALIVE).await?);
        }
        let (requests, responses) = self.stream.as_mut().expect("it was just opened");
        let sent_at = match self.sent_at {
            Some(sent_at) => sent_at,
            None => {
                let now = world.now();
                // A stream that has ended says why when it is read.
                let _ = requests.send(&LeaseKeepAliveRequest { id: self.id }).await;
                *self.sent_at.insert(now)
            }
        };
        let patience = self.ttl.map_or(ANSWER_TIMEOUT, |ttl| (ttl / 3).max(RENEWAL_MIN));
        let late_in = (sent_at + patience).saturating_sub(world.now());
        let response = tokio::select! {
            // An answer that is there counts, even in the last moment.
            biased;
            response = responses.next() => response?,
            () = world.sleep(late_in) => {
                return Err(Error::Deadline { sent: true, reason: "no answer to a renewal".into() });
            }
        };
        let response =
            response.ok_or_else(|| Error::Disconnected("the server ended the stream".into()))?;
        self.sent_at = None;
        self.failures = 0;
        let ttl = Duration::from_secs(u64::try_from(response.ttl).unwrap_or(0));
        self.ttl = Some(ttl);
        self.expires_at = Some(sent_at + ttl);
        self.due_at = sent_at + (ttl / 3).max(RENEWAL_MIN);
        Ok(response)
    }
}

fn not_found() -> Error {
    Error::server(Code::NotFound, "etcdserver: requested lease not found")
}
