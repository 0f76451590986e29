//! Clients that read and write keys.

use super::data::Source;
use super::plan::{Consistency, Plan, Profile};
use super::stage::{Crew, Kind, Stage};
use crate::client::{Client, Get, Op, Put, Result, Txn, compare, method};
use crate::proto::etcdserverpb::RangeRequest;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Starts the clients of a profile of single requests.
pub(super) fn start(
    crew: &Crew,
    stage: &Arc<Stage>,
    plan: &Plan,
    connections: &[Client],
    sources: Vec<Source>,
) {
    for (number, mut source) in (0u64..).zip(sources) {
        let client = connections[number as usize % connections.len()].clone();
        let (stage, profile) = (stage.clone(), plan.profile);
        crew.start(async move {
            while !stage.is_over() {
                let begun = stage.now();
                let (kind, outcome) = operate(&client, profile, &mut source).await;
                stage.outcome(number, kind, begun, 1, outcome);
            }
        });
    }
}

/// One request. Answers are not decoded further than gRPC does: the load generator is not what
/// is measured.
async fn operate(client: &Client, profile: Profile, source: &mut Source) -> (Kind, Result<()>) {
    match profile {
        Profile::Put => (Kind::Main, put(client, source).await),
        Profile::Range { consistency } => {
            (Kind::Main, range(client, Get::key(source.key()), consistency).await)
        }
        Profile::RangeMany { consistency, limit } => {
            let (first, end) = source.range(limit);
            (Kind::Main, range(client, Get::range(first, end), consistency).await)
        }
        Profile::Txn => (Kind::Main, compare_and_put(client, source).await),
        Profile::Mixed { consistency, read_percent } => {
            if source.chance(read_percent) {
                (Kind::Main, range(client, Get::key(source.key()), consistency).await)
            } else {
                (Kind::Write, put(client, source).await)
            }
        }
        Profile::Watch { .. } | Profile::LeaseKeepalive | Profile::Load { .. } => {
            unreachable!("these profiles have clients of their own")
        }
    }
}

pub(super) async fn put(client: &Client, source: &mut Source) -> Result<()> {
    let put = Put::new(source.key(), source.value());
    client.call(&method::PUT, &put.0).await.map(drop)
}

async fn range(client: &Client, get: Get, consistency: Consistency) -> Result<()> {
    let serializable = consistency == Consistency::Serializable;
    client.call(&method::RANGE, &RangeRequest { serializable, ..get.0 }).await.map(drop)
}

/// A condition that holds for any key, there or not, so that each transaction writes.
async fn compare_and_put(client: &Client, source: &mut Source) -> Result<()> {
    let key = source.key();
    let txn = Txn::new()
        .when([compare::version(key.clone(), compare::Greater, -1)])
        .then(Put::new(key.clone(), source.value()))
        .otherwise(Get::key(key));
    client.call(&method::TXN, &txn.0).await.map(drop)
}

/// Starts clients that together put the first `total` keys once each, many per transaction.
pub(super) fn start_load(
    crew: &Crew,
    stage: &Arc<Stage>,
    connections: &[Client],
    sources: Vec<Source>,
    batch: u64,
    total: u64,
) {
    let next = Arc::new(AtomicU64::new(0));
    for (number, mut source) in (0u64..).zip(sources) {
        let client = connections[number as usize % connections.len()].clone();
        let (stage, next) = (stage.clone(), next.clone());
        crew.start(async move {
            // Work done before measuring began would be lost to the count.
            stage.measuring().await;
            loop {
                let first = next.fetch_add(batch, Ordering::Relaxed);
                if first >= total || stage.is_over() {
                    break;
                }
                let keys = first..(first + batch).min(total);
                let items = keys.end - keys.start;
                let puts = keys.map(|key| {
                    let key = source.shape().key(key % source.shape().key_space);
                    Op::from(Put::new(key, source.value()))
                });
                let txn = puts.fold(Txn::new(), Txn::then);
                let begun = stage.now();
                let outcome = client.call(&method::TXN, &txn.0).await;
                if stage.outcome(number, Kind::Main, begun, items, outcome).is_none() {
                    // What could not be written is never counted, so the total will not be reached.
                    stage.end();
                }
            }
        });
    }
}
