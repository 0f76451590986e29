//! A place at one member, from which calls are made and recorded.
//!
//! A history says which member answered and over which connection. The product's client moves
//! between members by itself; so it is given one member only, and who sits here moves to another.
//! Each new connection, made by moving or by itself, is a new session.

use super::message;
use super::options;
use super::recorder::Recorder;
use crate::check::op::{
    HeaderResponse, LeaseGrantResponse, LeaseKeepAliveResponse, Operation, Outcome, Request,
    Response,
};
use crate::client::{Client, Delete, Error, Get, Put, Txn};
use crate::env::{Clock, Env};
use crate::types::LeaseId;
use std::time::Duration;
use tonic::Code;

/// How long a client waits for its first connection to a member.
const CONNECTION_TIMEOUT: Duration = Duration::from_millis(1_500);

/// A client at one of several members.
pub(super) struct Seat<E> {
    env: E,
    recorder: Recorder,
    process: u64,
    endpoints: Vec<String>,
    deadline: Duration,
    current: usize,
    client: Client,
    /// Connections this client had made when it was last looked at.
    connections: u64,
    session: u64,
}

impl<E: Env> Seat<E> {
    /// A seat at the first of the endpoints.
    ///
    /// # Panics
    /// If there is none, or one is no `host:port`.
    pub fn new(
        env: E,
        endpoints: Vec<String>,
        process: u64,
        deadline: Duration,
        recorder: Recorder,
    ) -> Seat<E> {
        let client = connect(&env, &endpoints[0], deadline);
        let (current, connections, session) = (0, 0, 0);
        Seat { env, recorder, process, endpoints, deadline, current, client, connections, session }
    }

    /// How many members there are to sit at.
    pub fn places(&self) -> usize {
        self.endpoints.len()
    }

    /// Moves so many members on, with a new connection in any case.
    pub fn move_on(&mut self, by: usize) {
        self.current = (self.current + by) % self.endpoints.len();
        self.client = connect(&self.env, &self.endpoints[self.current], self.deadline);
        self.connections = 0;
    }

    /// Makes a call and records it. After an error of the connection or of the member it moves to
    /// the next.
    pub async fn call(&mut self, request: &Request) -> Outcome {
        let invoke = self.recorder.now();
        let mut answer = self.perform(request).await;
        let returned = Some(self.recorder.now());
        if let Ok(response) = &answer
            && !request.fits(response)
        {
            answer = Err(Error::Malformed(format!("{response:?}")));
        }
        let connections = self.client.connections();
        if self.connections != connections {
            (self.connections, self.session) = (connections, self.session + 1);
        }
        let member = self.endpoints[self.current].clone();
        let mut is_lost = false;
        let outcome = match answer {
            Ok(response) => Outcome::Ok(response),
            Err(error) => {
                if !is_warranted(&error, request) {
                    let told = format!("{member} answered {request:?} with {error:?}");
                    self.recorder.complain(told);
                }
                is_lost = matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded);
                match error.maybe_executed() {
                    true => Outcome::Unknown(error.to_string()),
                    false => Outcome::Failed(error.to_string()),
                }
            }
        };
        let (process, session) = (self.process, self.session);
        self.recorder.operation(Operation {
            process,
            member,
            session,
            invoke,
            returned,
            request: request.clone(),
            outcome: outcome.clone(),
        });
        if is_lost {
            self.move_on(1);
        }
        outcome
    }

    /// Makes a call, but does not wait long for a connection to a member that may be down.
    async fn perform(&self, request: &Request) -> Result<Response, Error> {
        let mut answer = std::pin::pin!(perform(&self.client, request));
        if self.client.connections() == 0 {
            tokio::select! {
                // An answer that is there counts, even in the last moment.
                biased;
                answer = &mut answer => return answer,
                () = self.env.clock().sleep(CONNECTION_TIMEOUT) => {}
            }
            // Without a connection nothing was sent; and now nothing will be.
            if self.client.connections() == 0 {
                return Err(Error::Unreachable("no connection in time".into()));
            }
        }
        answer.await
    }

    /// Asks how long a lease has to live; the answer is of no use to a history.
    pub async fn time_to_live(&mut self, id: LeaseId) {
        if let Err(error) = self.client.lease_time_to_live(id.0, true).await
            && matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded)
        {
            self.move_on(1);
        }
    }
}

fn connect<E: Env>(env: &E, endpoint: &str, deadline: Duration) -> Client {
    Client::connect(env, [endpoint], options(deadline)).expect("an endpoint is host:port")
}

async fn perform(client: &Client, request: &Request) -> Result<Response, Error> {
    Ok(match request {
        Request::Range(range) => {
            Response::Range(message::ranged(client.get(Get(message::range(range))).await?))
        }
        Request::Put(put) => {
            Response::Put(message::was_put(client.put(Put(message::put(put))).await?))
        }
        Request::DeleteRange(delete) => {
            let reply = client.delete(Delete(message::delete(delete))).await?;
            Response::DeleteRange(message::deleted(reply))
        }
        Request::Txn(txn) => {
            Response::Txn(message::txn_done(client.txn(Txn(message::txn(txn))).await?))
        }
        Request::Compact(compact) => {
            let reply = client.compact(compact.revision.0, false).await?;
            Response::Compact(HeaderResponse { revision: message::revision(reply.header)? })
        }
        Request::LeaseGrant(grant) => {
            let ttl = i64::try_from(grant.ttl_seconds).unwrap_or(i64::MAX);
            let reply = client.lease_grant(ttl, grant.id.0).await?;
            Response::LeaseGrant(LeaseGrantResponse {
                revision: message::revision(reply.header)?,
                id: LeaseId(reply.id),
                ttl_seconds: u64::try_from(reply.ttl).unwrap_or(0),
            })
        }
        Request::LeaseRevoke(lease) => {
            let reply = client.lease_revoke(lease.id.0).await?;
            Response::LeaseRevoke(HeaderResponse { revision: message::revision(reply.header)? })
        }
        Request::LeaseKeepAlive(lease) => {
            let reply = client.lease_keep_alive_once(lease.id.0).await?;
            Response::LeaseKeepAlive(LeaseKeepAliveResponse {
                revision: message::revision(reply.header)?,
                ttl_seconds: u64::try_from(reply.ttl).unwrap_or(0),
            })
        }
    })
}

/// Whether a lawful cluster in trouble may answer a request so.
fn is_warranted(error: &Error, request: &Request) -> bool {
    match error.code() {
        // Trouble: with the network, the disk, the memory, the majority.
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Cancelled
        | Code::Aborted
        | Code::DataLoss
        | Code::Unknown => true,
        Code::Internal => !matches!(error, Error::Malformed(_)),
        Code::OutOfRange => names_revision(request),
        Code::NotFound => names_lease(request),
        // The key whose value or lease is to be kept is not there; or a member was told to take
        // small requests only.
        Code::InvalidArgument => keeps_something(request) || is_too_large(error),
        Code::Ok
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Unauthenticated => false,
    }
}

fn names_revision(request: &Request) -> bool {
    match request {
        Request::Range(range) => range.revision.0 != 0,
        Request::Compact(_) => true,
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).any(names_revision),
        _ => false,
    }
}

fn names_lease(request: &Request) -> bool {
    match request {
        Request::Put(put) => put.lease.0 != 0,
        Request::LeaseRevoke(_) | Request::LeaseKeepAlive(_) => true,
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).any(names_lease),
        _ => false,
    }
}

fn is_too_large(error: &Error) -> bool {
    let text = "etcdserver: request is too large";
    matches!(error, Error::Server { message, .. } if message == text)
}

fn keeps_something(request: &Request) -> bool {
    match request {
        Request::Put(put) => put.ignore_value || put.ignore_lease,
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).any(keeps_something),
        _ => false,
    }
}
