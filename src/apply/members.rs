//! Who belongs to the cluster: the one source of truth, replicated like everything else.

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
    pub(super) fn restore(rows: BTreeMap<Bytes, Bytes>) -> Result<Members, StoreError> {
        let mut members = Members::default();
        for value in rows.into_values() {
            let stored =
                StoredMember::decode(value).map_err(|error| super::unreadable("member", &error))?;
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
    pub fn bootstrap(&mut self, members: Vec<Member>, store: &mut Store) -> Result<(), StoreError> {
        members.into_iter().try_for_each(|member| self.put(member, store))
    }

    pub(super) fn set_attributes(
        &mut self,
        attributes: &MemberAttributes,
        store: &mut Store,
    ) -> Result<(), StoreError> {
        let Some(member) = self.0.get(&MemberId(attributes.member_id)) else { return Ok(()) };
        let member = Member {
            name: attributes.name.clone(),
            client_urls: attributes.client_urls.clone(),
            ..member.clone()
        };
        self.put(member, store)
    }

    fn put(&mut self, member: Member, store: &mut Store) -> Result<(), StoreError> {
        let stored = StoredMember {
            id: member.id.0,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            client_urls: member.client_urls.clone(),
            is_learner: member.is_learner,
        };
        store.side_put(Side::Member, &member.id.0.to_be_bytes(), &stored.encode_to_vec())?;
        self.0.insert(member.id, member);
        Ok(())
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
