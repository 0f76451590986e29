//! Who belongs to the cluster: the one source of truth, replicated like everything else.

use crate::env::File;
use crate::proto::log::{MemberAttributes, StoredMember};
use crate::store::{Side, Store, StoreError};
use crate::types::MemberId;
use bytes::Bytes;
use prost::Message as _;
use std::collections::BTreeMap;

/// A member as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    /// Empty until it has started for the first time.
    pub name: String,
    pub peer_urls: Vec<String>,
    /// Empty until it has started for the first time.
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

/// All members by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members(pub BTreeMap<MemberId, Member>);

impl Members {
    pub(super) fn restore(rows: Vec<(Bytes, Bytes)>) -> Result<Members, StoreError> {
        let mut members = Members::default();
        for (_, value) in rows {
            let stored = StoredMember::decode(value).map_err(StoreError::side)?;
            let member = Member {
                id: MemberId(stored.id),
                name: stored.name,
                peer_urls: stored.peer_urls,
                client_urls: stored.client_urls,
                is_learner: stored.is_learner,
            };
            members.0.insert(member.id, member);
        }
        Ok(members)
    }

    /// Writes the members a cluster starts with.
    pub fn bootstrap<F: File>(&mut self, members: Vec<Member>, store: &mut Store<F>) {
        for member in members {
            self.put(member, store);
        }
    }

    pub(super) fn set_attributes<F: File>(
        &mut self,
        attributes: &MemberAttributes,
        store: &mut Store<F>,
    ) {
        let Some(member) = self.0.get(&MemberId(attributes.member_id)) else { return };
        let member = Member {
            name: attributes.name.clone(),
            client_urls: attributes.client_urls.clone(),
            ..member.clone()
        };
        self.put(member, store);
    }

    fn put<F: File>(&mut self, member: Member, store: &mut Store<F>) {
        let stored = StoredMember {
            id: member.id.0,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            client_urls: member.client_urls.clone(),
            is_learner: member.is_learner,
        };
        let key = Bytes::copy_from_slice(&member.id.0.to_be_bytes());
        store.side_put(Side::Member, key, stored.encode_to_vec().into());
        self.0.insert(member.id, member);
    }

    /// Ids of those who vote, ascending.
    pub fn voters(&self) -> Vec<u64> {
        self.0.values().filter(|member| !member.is_learner).map(|member| member.id.0).collect()
    }

    /// Ids of those who do not vote yet, ascending.
    pub fn learners(&self) -> Vec<u64> {
        self.0.values().filter(|member| member.is_learner).map(|member| member.id.0).collect()
    }
}
