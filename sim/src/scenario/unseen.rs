//! What no client of the history asked for and the checkers must know: compactions by operators
//! and by members themselves. A watcher may miss a previous value that is compacted.

use crate::cluster::Cluster;
use quorate::check::op::{CompactRequest, Operation, Outcome, Request};

/// The process that compacts, in the history.
const COMPACTOR: u64 = 90_000;

/// All compactions that any member carried out, as of the first that did.
pub fn compactions(cluster: &Cluster) -> impl Iterator<Item = Operation> + use<> {
    cluster.oracle().compactions().into_iter().map(|(revision, at)| Operation {
        process: COMPACTOR,
        member: String::new(),
        session: 0,
        invoke: u64::try_from(at.as_nanos()).expect("not centuries"),
        returned: None,
        request: Request::Compact(CompactRequest { revision }),
        outcome: Outcome::Unknown("a member carried it out".to_owned()),
    })
}
