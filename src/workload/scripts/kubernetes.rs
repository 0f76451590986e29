//! What Kubernetes' API server does, and nothing it does not.
//!
//! Objects are created if absent, updated and deleted if they are as they were read, in
//! transactions whose other branch reads; a lost race goes on with what it read. Lists come in
//! pages of one revision. Nodes renew a heartbeat object. Events are put with a lease that is
//! shared by many. Compaction is agreed on by a version of the key `compact_rev_key`: who wins
//! compacts to the revision of the time before.

use super::pages::after;
use super::{Script, compact, delete, equal, get, kvs, list, put, succeeded, txn, unchanged};
use crate::check::Data;
use crate::check::op::{
    CompareTarget, KeyValue, LeaseGrantRequest, Outcome, RangeRequest, Request, Response,
};
use crate::types::{LeaseId, Revision};
use crate::workload::generator::{Hand, Step};

const PODS: u64 = 10;
const NODES: u64 = 3;
const COMPACTION_KEY: &str = "compact_rev_key";
/// Events that share a lease.
const EVENTS_MAX: u32 = 12;

/// The state of such a client.
#[derive(Default)]
pub struct Kubernetes {
    next: Next,
    /// The lease of its events, and how many more get it.
    lease: Option<(LeaseId, u32)>,
    /// The version of the compaction key and the store's revision when it was last seen.
    compaction: (i64, Revision),
}

/// What it is in the middle of.
#[derive(Default)]
enum Next {
    #[default]
    Anything,
    /// Reads the key, to then change it.
    Read(String, Change),
    /// Changes the key if it is as it was read.
    Change(String, Change, Option<KeyValue>),
    /// The next page of a list.
    Page(RangeRequest),
    /// Waits for what became of an attempt to win the right to compact.
    Compaction,
    Compact(Revision),
}

#[derive(Clone, Copy, PartialEq)]
enum Change {
    Create,
    Update,
    Delete,
}

#[derive(Clone, Copy)]
enum Kind {
    Change(Change),
    Heartbeat,
    List,
    Event,
    Get,
    Count,
    Compact,
}

impl Script for Kubernetes {
    fn next(&mut self, hand: &mut Hand) -> Step {
        match std::mem::take(&mut self.next) {
            Next::Change(key, change, found) => {
                let request = guarded(hand, &key, change, found.as_ref());
                self.next = Next::Change(key, change, found);
                return Step::Call(request);
            }
            Next::Page(page) => {
                self.next = Next::Page(page.clone());
                return Step::Call(Request::Range(page));
            }
            Next::Compact(revision) => return compact(revision),
            Next::Anything | Next::Read(..) | Next::Compaction => {}
        }
        let kind = hand.dice.weighted(&[
            (12, Kind::Change(Change::Create)),
            (30, Kind::Change(Change::Update)),
            (7, Kind::Change(Change::Delete)),
            (15, Kind::Heartbeat),
            (10, Kind::List),
            (8, Kind::Event),
            (8, Kind::Get),
            (2, Kind::Count),
            (3, Kind::Compact),
        ]);
        let pod = format!("registry/pods/{}", hand.dice.below(PODS));
        Step::Call(match kind {
            Kind::Change(change) => self.begin(hand, pod, change),
            Kind::Heartbeat => {
                let node = u64::from(hand.client) % NODES;
                self.begin(hand, format!("registry/leases/node-{node}"), Change::Update)
            }
            Kind::List => {
                let prefix: &&str = hand.dice.pick(&["registry/pods/", "registry/"]);
                let mut first = list(prefix);
                first.limit = i64::try_from(hand.dice.between(3, 8)).expect("small");
                self.next = Next::Page(first.clone());
                Request::Range(first)
            }
            Kind::Event => self.event(hand),
            Kind::Get => Request::Range(get(&pod)),
            Kind::Count => {
                let mut count = list("registry/");
                count.count_only = true;
                Request::Range(count)
            }
            Kind::Compact => self.compaction(hand),
        })
    }

    fn told(&mut self, request: &Request, outcome: &Outcome) {
        self.next = match (std::mem::take(&mut self.next), outcome) {
            (Next::Read(key, change), Outcome::Ok(_)) => {
                let found = kvs(outcome).and_then(<[_]>::first).cloned();
                Next::Change(key, change, found)
            }
            // Another was first: the transaction's other branch told what there is now.
            (Next::Change(key, change, _), Outcome::Ok(_)) if succeeded(outcome) == Some(false) => {
                let found = kvs(outcome).and_then(<[_]>::first).cloned();
                match (change, &found) {
                    (Change::Update, _) | (Change::Delete, Some(_)) => {
                        Next::Change(key, change, found)
                    }
                    (Change::Create, _) | (Change::Delete, None) => Next::Anything,
                }
            }
            (Next::Page(asked), Outcome::Ok(Response::Range(answer))) if answer.more => {
                let key = answer.kvs.last().map_or(Data::default(), |kv| after(&kv.key));
                let at = if asked.revision.0 > 0 { asked.revision } else { answer.revision };
                Next::Page(RangeRequest { key, revision: at, ..asked })
            }
            (Next::Compaction, Outcome::Ok(Response::Txn(answer))) => {
                self.compaction_told(answer.succeeded, answer.revision, kvs(outcome))
            }
            _ => Next::Anything,
        };
        // A lease nobody is sure of is not used; of one that is gone nobody hears before.
        let lost = match request {
            Request::LeaseGrant(_) => !matches!(outcome, Outcome::Ok(_)),
            Request::Put(put) => put.lease.0 != 0 && matches!(outcome, Outcome::Failed(_)),
            _ => false,
        };
        if lost {
            self.lease = None;
        }
    }

    fn is_idle(&self) -> bool {
        matches!(self.next, Next::Anything)
    }
}

impl Kubernetes {
    /// Creates at once; updates and deletes what it has read.
    fn begin(&mut self, hand: &mut Hand, key: String, change: Change) -> Request {
        if change == Change::Create {
            let request = guarded(hand, &key, change, None);
            self.next = Next::Change(key, change, None);
            return request;
        }
        let read = Request::Range(get(&key));
        self.next = Next::Read(key, change);
        read
    }

    /// Puts an event with the lease, or gets a lease first.
    fn event(&mut self, hand: &mut Hand) -> Request {
        match &mut self.lease {
            Some((lease, left)) if *left > 0 => {
                *left -= 1;
                let mut put = put(format!("registry/events/{}", hand.mark()), hand.value());
                put.lease = *lease;
                Request::Put(put)
            }
            _ => {
                let id = hand.lease();
                self.lease = Some((id, EVENTS_MAX));
                Request::LeaseGrant(LeaseGrantRequest { id, ttl_seconds: hand.dice.between(3, 8) })
            }
        }
    }

    /// Tries to be the one who compacts.
    fn compaction(&mut self, hand: &mut Hand) -> Request {
        let (version, revision) = self.compaction;
        self.next = Next::Compaction;
        let value = format!("{revision} {}", hand.mark());
        txn(
            [equal(COMPACTION_KEY, CompareTarget::Version(version))],
            [Request::Put(put(COMPACTION_KEY, value))],
            [Request::Range(get(COMPACTION_KEY))],
        )
    }

    fn compaction_told(
        &mut self,
        won: bool,
        revision: Revision,
        found: Option<&[KeyValue]>,
    ) -> Next {
        let (version, before) = self.compaction;
        let seen = found.and_then(<[_]>::first).map_or(0, |kv| kv.version);
        self.compaction = (if won { version + 1 } else { seen }, revision);
        match won && before.0 > 0 {
            true => Next::Compact(before),
            false => Next::Anything,
        }
    }
}

/// Changes a key if it is as it was found, else reads it.
fn guarded(hand: &mut Hand, key: &str, change: Change, found: Option<&KeyValue>) -> Request {
    let revision = found.map_or(Revision(0), |kv| kv.mod_revision);
    let change = match (change, found) {
        (Change::Delete, Some(_)) => Request::DeleteRange(delete(key)),
        (Change::Delete, None) | (Change::Create | Change::Update, _) => {
            Request::Put(put(key, hand.value()))
        }
    };
    txn([unchanged(key, revision)], [change], [Request::Range(get(key))])
}
