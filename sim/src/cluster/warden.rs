//! Who looks after the members: leaders, and what operators do, asked as any client may ask.

use super::Cluster;
use crate::env::network::Machine;
use quorate::client::{Client, Error, Get, Options, Result, method};
use quorate::env::Role;
use quorate::proto::etcdserverpb::alarm_request::AlarmAction;
use quorate::proto::etcdserverpb::{AlarmType, CompactionRequest};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a member may take to answer what it knows by itself.
const SHORT: Duration = Duration::from_millis(200);
/// How long it may take to answer what needs the others.
const LONG: Duration = Duration::from_secs(10);

impl Cluster {
    /// A client from a machine whose links nobody cuts.
    pub fn warden(&self, endpoints: &[String], deadline: Duration) -> Client {
        let options = Options {
            deadline: Some(deadline),
            connect_timeout: Duration::from_secs(1),
            backoff_max: Duration::from_millis(500),
            ..Options::default()
        };
        Client::connect(&self.warden.1, endpoints, options).expect("the endpoints are well formed")
    }

    /// The member that leads: of those that run and believe it, the one in the latest term.
    pub fn leader(&self) -> Option<Machine> {
        let mut newest = BTreeMap::new();
        for change in self.oracle.roles() {
            newest.insert(change.machine, change);
        }
        let leads = newest.values().filter(|change| {
            change.role == Role::Leader && self.is_running(Machine(change.machine))
        });
        leads.max_by_key(|change| change.term).map(|change| Machine(change.machine))
    }

    /// The id that a member has in the cluster; none if it does not tell.
    pub async fn member_id(&self, machine: Machine) -> Option<u64> {
        let known = self.state(machine).member_id;
        if known.is_some() {
            return known;
        }
        let client = self.warden(&[Cluster::endpoint(machine)], SHORT);
        let header = client.status().await.ok()?.header?;
        self.state(machine).member_id = Some(header.member_id);
        Some(header.member_id)
    }

    /// Whether all undamaged members know everything that was acknowledged, with this one down.
    pub async fn manages_without(&self, machine: Machine) -> bool {
        let others = self.undamaged().into_iter().filter(|&other| other != machine);
        for other in others {
            if !self.is_running(other) {
                return false;
            }
            let client = self.warden(&[Cluster::endpoint(other)], LONG);
            if client.get(Get::key("warden")).await.is_err() {
                return false;
            }
        }
        !self.is_running(machine)
    }

    /// Frees the space that a quota misses, as etcd's manual says: compact, defragment, disarm.
    /// Whether there was nothing to free.
    pub async fn clear_alarms(&self) -> Result<bool> {
        let sound = self.undamaged();
        let endpoints: Vec<String> = sound.iter().copied().map(Cluster::endpoint).collect();
        let client = self.warden(&endpoints, LONG);
        let reply = client.alarms().await?;
        if reply.alarms.is_empty() {
            return Ok(true);
        }
        let newest = client.get(Get::key("warden")).await?.header.revision;
        let request = CompactionRequest { revision: newest, physical: true };
        match client.call(&method::COMPACT, &request).await {
            Ok(_) => {}
            // Somebody was faster.
            Err(error) if is_out_of_range(&error) => {}
            Err(error) => return Err(error),
        }
        for &machine in &sound {
            self.warden(&[Cluster::endpoint(machine)], LONG).defragment().await?;
        }
        for alarm in reply.alarms {
            let kind = AlarmType::try_from(alarm.alarm).unwrap_or(AlarmType::Nospace);
            client.alarm(AlarmAction::Deactivate, alarm.member_id, kind).await?;
        }
        Ok(false)
    }
}

/// Whether a revision was asked for that is compacted, or not there yet.
pub fn is_out_of_range(error: &Error) -> bool {
    const OUT_OF_RANGE: i32 = 11;
    error.code() as i32 == OUT_OF_RANGE
}
