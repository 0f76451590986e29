//! Alarms: replicated warnings that make every member refuse what would make things worse.

use crate::proto::etcdserverpb::{AlarmMember, AlarmType, RequestOp, TxnRequest, request_op};
use crate::proto::log::command::Request;
use crate::store::{Side, Store, StoreError};
use crate::types::Error;
use bytes::Bytes;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};

/// The alarms raised, as `(kind, member)`. Unknown kinds are kept as numbers, as etcd does.
#[derive(Default, Clone, Debug, PartialEq, Eq)]
pub struct Alarms {
    raised: BTreeSet<(i32, u64)>,
}

impl Alarms {
    pub(super) fn restore(rows: BTreeMap<Bytes, Bytes>) -> Result<Alarms, StoreError> {
        let mut alarms = Alarms::default();
        for key in rows.into_keys() {
            let alarm =
                AlarmMember::decode(key).map_err(|error| super::unreadable("alarm", &error))?;
            alarms.raised.insert((alarm.alarm, alarm.member_id));
        }
        Ok(alarms)
    }

    /// Alarms of a kind; of every kind for 0.
    pub fn list(&self, kind: i32) -> Vec<AlarmMember> {
        let wanted = |(alarm, _): &&(i32, u64)| kind == AlarmType::None as i32 || *alarm == kind;
        let message = |&(alarm, member_id): &(i32, u64)| AlarmMember { member_id, alarm };
        self.raised.iter().filter(wanted).map(message).collect()
    }

    /// Whether any member raised this kind.
    pub fn is_raised(&self, kind: AlarmType) -> bool {
        self.raised.iter().any(|&(alarm, _)| alarm == kind as i32)
    }

    pub(super) fn activate(
        &mut self,
        alarm: AlarmMember,
        store: &mut Store,
    ) -> Result<Vec<AlarmMember>, StoreError> {
        if self.raised.insert((alarm.alarm, alarm.member_id)) {
            store.side_put(Side::Alarm, &alarm.encode_to_vec(), &[])?;
        }
        Ok(vec![alarm])
    }

    pub(super) fn deactivate(
        &mut self,
        alarm: &AlarmMember,
        store: &mut Store,
    ) -> Result<Vec<AlarmMember>, StoreError> {
        if !self.raised.remove(&(alarm.alarm, alarm.member_id)) {
            return Ok(Vec::new());
        }
        store.side_delete(Side::Alarm, &alarm.encode_to_vec())?;
        Ok(vec![*alarm])
    }

    /// Why a request is refused while alarms are raised, if it is. CORRUPT refuses all changes;
    /// NOSPACE what adds data, so that deletes, compaction and revokes can make room.
    pub(super) fn refuse(&self, request: &Request) -> Option<Error> {
        if self.raised.is_empty() {
            return None;
        }
        let (corrupt, no_space) = match request {
            Request::Put(_) | Request::LeaseGrant(_) => (true, true),
            Request::Txn(request) => (true, adds_data(request)),
            Request::DeleteRange(_) | Request::Compaction(_) => (true, false),
            Request::LeaseRevoke(_) => (true, false),
            Request::LeaseCheckpoint(_)
            | Request::Alarm(_)
            | Request::MemberAttributes(_)
            | Request::ClusterVersion(_) => (false, false),
        };
        if corrupt && self.is_raised(AlarmType::Corrupt) {
            return Some(Error::Corrupt);
        }
        (no_space && self.is_raised(AlarmType::Nospace)).then_some(Error::NoSpace)
    }
}

/// Whether a transaction holds a put, in whatever branch and depth.
fn adds_data(request: &TxnRequest) -> bool {
    let op_adds = |op: &RequestOp| match &op.request {
        Some(request_op::Request::RequestPut(_)) => true,
        Some(request_op::Request::RequestTxn(nested)) => adds_data(nested),
        Some(request_op::Request::RequestRange(_) | request_op::Request::RequestDeleteRange(_))
        | None => false,
    };
    request.success.iter().chain(&request.failure).any(op_adds)
}
