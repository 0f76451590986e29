//! Clients that renew leases.

use super::plan::Plan;
use super::stage::{Crew, Kind, Stage};
use crate::client::{Client, Error, Requests, Responses, Result};
use crate::proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use std::sync::Arc;

/// TTL of the leases: they outlive any run a little, and then clean up themselves.
const TTL_SECONDS: i64 = 3600;

/// Grants a lease and opens a stream for each client, and starts them.
pub(super) async fn start(
    crew: &Crew,
    stage: &Arc<Stage>,
    plan: &Plan,
    connections: &[Client],
) -> std::result::Result<(), String> {
    for number in 0..plan.clients {
        let client = connections[number as usize % connections.len()].clone();
        let set_up = async {
            let id = client.lease_grant(TTL_SECONDS, 0).await?.id;
            Ok::<_, Error>((id, client.lease_keep_alive_stream().await?))
        };
        let (id, (requests, mut responses)) =
            set_up.await.map_err(|error| format!("cannot set up a lease: {error}"))?;
        let stage = stage.clone();
        crew.start(async move {
            while !stage.is_over() {
                let begun = stage.now();
                let outcome = renew(id, &requests, &mut responses).await;
                if stage.outcome(number, Kind::Main, begun, 1, outcome).is_none() {
                    // The stream is gone; a client without one has nothing to do.
                    break;
                }
            }
            // The run is over: the lease is tidied up, or expires by itself.
            let _ = client.lease_revoke(id).await;
        });
    }
    Ok(())
}

async fn renew(
    id: i64,
    requests: &Requests<LeaseKeepAliveRequest>,
    responses: &mut Responses<LeaseKeepAliveResponse>,
) -> Result<()> {
    requests.send(&LeaseKeepAliveRequest { id }).await?;
    match responses.next().await? {
        Some(response) if response.ttl > 0 => Ok(()),
        Some(_) => Err(Error::Malformed("the lease is gone".into())),
        None => Err(Error::Disconnected("the server ended the stream".into())),
    }
}
