//! What operators do, at bad moments: none of it may hurt.

use super::Nemesis;
use crate::cluster::Cluster;
use crate::env::network::Machine;
use quorate::client::{Get, method};
use quorate::proto::etcdserverpb::CompactionRequest;
use std::time::Duration;

/// How long operators wait for an answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Pieces of a snapshot that are read before the reader loses interest.
const PIECES: usize = 3;

impl Nemesis {
    pub(super) async fn move_leader(&self, to: Machine) -> bool {
        let Some(leader) = self.cluster.leader().filter(|&leader| leader != to) else {
            return false;
        };
        let Some(member) = self.cluster.member_id(to).await else { return false };
        let client = self.cluster.warden(&[Cluster::endpoint(leader)], DEADLINE);
        let outcome = client.move_leader(member).await;
        self.told("leader transfer", outcome.map(drop))
    }

    pub(super) async fn compact(&self, keep: u64, physical: bool) -> bool {
        let client = self.cluster.warden(&self.cluster.endpoints(), DEADLINE);
        let Ok(reply) = client.get(Get::key("warden")).await else { return false };
        let newest = reply.header.revision;
        let revision = newest.saturating_sub_unsigned(keep);
        if revision < 1 {
            return false;
        }
        let request = CompactionRequest { revision, physical };
        let outcome = client.call(&method::COMPACT, &request).await;
        self.told("compaction", outcome.map(drop))
    }

    pub(super) async fn defragment(&self, machine: Machine) -> bool {
        let client = self.cluster.warden(&[Cluster::endpoint(machine)], DEADLINE);
        self.told("defragmentation", client.defragment().await.map(drop))
    }

    pub(super) async fn read_snapshot(&self, machine: Machine) -> bool {
        let client = self.cluster.warden(&[Cluster::endpoint(machine)], DEADLINE);
        let mut pieces = match client.snapshot().await {
            Ok(pieces) => pieces,
            Err(error) => return self.told("snapshot", Err(error)),
        };
        let mut read = 0;
        let reading = async {
            while read < PIECES && matches!(pieces.next().await, Ok(Some(_))) {
                read += 1;
            }
        };
        tokio::select! {
            biased;
            () = reading => {}
            () = madsim::time::sleep(DEADLINE) => {}
        }
        read > 0
    }

    pub(super) async fn clear_alarms(&self) -> bool {
        let outcome = self.cluster.clear_alarms().await;
        self.trace.event(format_args!("alarms cleared: {outcome:?}"));
        matches!(outcome, Ok(false))
    }

    fn told(&self, what: &str, outcome: quorate::client::Result<()>) -> bool {
        self.trace.event(format_args!("{what}: {outcome:?}"));
        outcome.is_ok()
    }
}
