//! The members a cluster starts with, from `--initial-cluster`.
//!
//! ```text
//! --initial-cluster infra0=http://10.0.0.1:2380,infra1=http://10.0.0.2:2380
//!                   name   peer URL; a name that stands twice has two URLs
//! ```
//!
//! - Two members whose flags agree compute equal values here, down to the order of lists: this is
//!   the state every replica's log starts from. So client URLs are empty even for the local
//!   member; a member publishes them through the log once it runs.
//! - With `--initial-cluster-state existing` the ids computed here are provisional: members added
//!   at runtime got theirs from the clock. [`InitialCluster::adopt`] takes the real ones from the
//!   running cluster.
//! - Only a member without data looks at any of this.
//!
//! etcd resolves names before it compares the advertised URLs with the cluster's. Nothing is
//! resolved here: both flags have to name a host in the same way (`localhost` is 127.0.0.1).

use super::identity::{cluster_id, member_id};
use crate::config::{ClusterState, Config, ConfigError, Url, check_scheme, urls};
use crate::types::{ClusterId, MemberId};
use std::collections::{BTreeMap, BTreeSet};

/// The members to start with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitialCluster {
    pub cluster_id: ClusterId,
    /// Which of the members we are.
    pub local: MemberId,
    /// By ascending id; at least one.
    pub members: Vec<Member>,
}

/// A member of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub id: MemberId,
    /// Empty until a member added at runtime has started.
    pub name: String,
    /// Sorted.
    pub peer_urls: Vec<String>,
    /// Empty until the member has published them.
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

impl InitialCluster {
    /// Reads and checks `--initial-cluster`. Errors carry etcd's texts.
    pub fn from_config(config: &Config) -> Result<InitialCluster, ConfigError> {
        let by_name = parse(&config.initial_cluster)?;
        let Some(own_urls) = by_name.get(&config.name) else {
            return Err(ConfigError::invalid(format!(
                "couldn't find local name {:?} in the initial cluster configuration",
                config.name
            ))
            .with_hint("--initial-cluster must list this member under its --name"));
        };
        match config.initial_cluster_state {
            ClusterState::New => check_advertised(config, own_urls)?,
            // The running cluster knows our URLs already, from when we were added.
            ClusterState::Existing => {}
        }
        check_duplicates(&by_name)?;
        let mut cluster = InitialCluster {
            cluster_id: ClusterId(0),
            local: MemberId(0),
            members: members(&by_name, &config.initial_cluster_token)?,
        };
        cluster.cluster_id = cluster_id(cluster.members.iter().map(|member| member.id));
        cluster.local = cluster.id_of(&config.name);
        Ok(cluster)
    }

    /// Takes ids and learner marks from the running cluster that this member joins; both must
    /// have the same members, recognised by their peer URLs. An error changes nothing.
    pub fn adopt(&mut self, cluster: ClusterId, running: &[Member]) -> Result<(), ConfigError> {
        let error = |reason: String| {
            ConfigError::invalid(format!("error validating peerURLs: {reason}")).with_hint(
                "--initial-cluster must list exactly the members the cluster has, this one \
                 included",
            )
        };
        if running.len() != self.members.len() {
            return Err(error("member count is unequal".to_owned()));
        }
        let mut unmatched = self.members.clone();
        let mut adopted = Vec::new();
        for known in running {
            let matching =
                unmatched.iter().position(|ours| same_places(&ours.peer_urls, &known.peer_urls));
            let Some(index) = matching else {
                return Err(error(format!(
                    "PeerURLs: no match found for existing member ({}, {:?})",
                    known.id, known.peer_urls
                )));
            };
            let ours = unmatched.swap_remove(index);
            adopted.push(Member { id: known.id, is_learner: known.is_learner, ..ours });
        }
        adopted.sort_by_key(|member| member.id);
        let local_name = self.local().name.clone();
        self.members = adopted;
        self.cluster_id = cluster;
        self.local = self.id_of(&local_name);
        Ok(())
    }

    /// The local member.
    pub fn local(&self) -> &Member {
        self.members
            .iter()
            .find(|member| member.id == self.local)
            .expect("the local member is one of the members")
    }

    /// `name=url` pairs, sorted, as etcd logs them.
    pub fn text(&self) -> String {
        let mut pairs: Vec<String> = self
            .members
            .iter()
            .flat_map(|member| member.peer_urls.iter().map(|url| format!("{}={url}", member.name)))
            .collect();
        pairs.sort_unstable();
        pairs.join(",")
    }

    fn id_of(&self, name: &str) -> MemberId {
        self.members
            .iter()
            .find(|member| member.name == name)
            .expect("the local name was found in the configuration")
            .id
    }
}

/// URLs by member name.
type ByName = BTreeMap<String, Vec<Url>>;

fn parse(text: &str) -> Result<ByName, ConfigError> {
    let error =
        |reason: &str| ConfigError::invalid(format!("error setting up initial cluster: {reason}"));
    let mut by_name = ByName::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((name, url)) = pair.split_once('=') else {
            return Err(error(&format!("{pair:?} is not of the form name=url")));
        };
        let url = Url::parse(url).map_err(|reason| error(&reason))?;
        check_scheme("--initial-cluster", &url)?;
        by_name.entry(name.trim().to_owned()).or_default().push(url);
    }
    for urls in by_name.values_mut() {
        urls.sort();
    }
    Ok(by_name)
}

fn members(by_name: &ByName, token: &str) -> Result<Vec<Member>, ConfigError> {
    let mut members: BTreeMap<MemberId, Member> = BTreeMap::new();
    for (name, urls) in by_name {
        let peer_urls: Vec<String> = urls.iter().map(Url::to_string).collect();
        let id = member_id(&peer_urls, token, None);
        if id == MemberId(0) {
            return Err(ConfigError::invalid("cannot use 0 as member id"));
        }
        let member = Member {
            id,
            name: name.clone(),
            peer_urls,
            client_urls: Vec::new(),
            is_learner: false,
        };
        if members.insert(id, member).is_some() {
            return Err(ConfigError::invalid(format!("member exists with identical ID {id}")));
        }
    }
    Ok(members.into_values().collect())
}

/// Our URLs in the cluster's list must be those we advertise, or the others could not reach us.
fn check_advertised(config: &Config, listed: &[Url]) -> Result<(), ConfigError> {
    let advertised = &config.initial_advertise_peer_urls;
    let lacks = |urls: &[Url], wanted: &Url| !urls.iter().any(|url| url.same_place(wanted));
    let named = |urls: &[&Url]| {
        urls.iter().map(|url| format!("{}={url}", config.name)).collect::<Vec<_>>().join(",")
    };
    let joined = |urls: &[&Url]| urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let hint = "both flags must name the same URLs for this member";
    let missing: Vec<&Url> = listed.iter().filter(|url| lacks(advertised, url)).collect();
    if !missing.is_empty() {
        return Err(ConfigError::invalid(format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}",
            named(&missing),
            joined(&advertised.iter().collect::<Vec<_>>()),
        ))
        .with_hint(hint));
    }
    let missing: Vec<&Url> = advertised.iter().filter(|url| lacks(listed, url)).collect();
    if !missing.is_empty() {
        return Err(ConfigError::invalid(format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
            joined(&missing),
            named(&listed.iter().collect::<Vec<_>>()),
        ))
        .with_hint(hint));
    }
    Ok(())
}

fn check_duplicates(by_name: &ByName) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    let pairs = by_name.iter().flat_map(|(name, urls)| urls.iter().map(move |url| (name, url)));
    if pairs.clone().all(|(_, url)| seen.insert(url)) {
        return Ok(());
    }
    let text: Vec<String> = pairs.map(|(name, url)| format!("{name}={url}")).collect();
    Err(ConfigError::invalid(format!("initial cluster {} has duplicate url", text.join(","))))
}

/// Whether two lists of URLs lead to the same places. A URL of the running cluster that we cannot
/// read (etcd checks none on an update) can still be equal as text.
fn same_places(ours: &[String], theirs: &[String]) -> bool {
    let mut theirs_sorted = theirs.to_vec();
    theirs_sorted.sort_unstable();
    if ours == theirs_sorted {
        return true;
    }
    match (urls(&ours.join(",")), urls(&theirs.join(","))) {
        (Ok(ours), Ok(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().all(|url| theirs.iter().any(|other| other.same_place(url)))
        }
        (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, advertised: &str, initial_cluster: &str) -> Config {
        Config {
            name: name.to_owned(),
            initial_advertise_peer_urls: urls(advertised).unwrap(),
            initial_cluster: initial_cluster.to_owned(),
            ..Config::default()
        }
    }

    const THREE: &str = "n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380,n3=http://10.0.0.3:2380";

    #[test]
    fn the_default_is_a_cluster_of_one() {
        let cluster = InitialCluster::from_config(&Config::default()).unwrap();
        assert_eq!(cluster.cluster_id, ClusterId(0xcdf8_1819_4e3a_8c32));
        assert_eq!(cluster.local, MemberId(0x8e9e_05c5_2164_694d));
        let member = Member {
            id: cluster.local,
            name: "default".to_owned(),
            peer_urls: vec!["http://localhost:2380".to_owned()],
            client_urls: Vec::new(),
            is_learner: false,
        };
        assert_eq!(cluster.members, [member]);
    }

    #[test]
    fn every_member_computes_the_same_cluster() {
        let shuffled =
            "n3=http://10.0.0.3:2380, n1=http://10.0.0.1:2380 ,,n2=http://10.0.0.2:2380,";
        let one = InitialCluster::from_config(&config("n1", "http://10.0.0.1:2380", THREE));
        let two = InitialCluster::from_config(&config("n2", "http://10.0.0.2:2380", shuffled));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one.members, two.members);
        assert_eq!(one.cluster_id, two.cluster_id);
        assert_eq!((one.local().name.as_str(), two.local().name.as_str()), ("n1", "n2"));
        assert!(one.members.is_sorted_by_key(|member| member.id));
        assert_eq!(one.text(), THREE);
    }

    #[test]
    fn a_name_given_twice_has_two_urls() {
        let cluster = InitialCluster::from_config(&config(
            "n1",
            "http://a:2,http://b:1",
            "n1=http://b:1,n1=http://a:2",
        ))
        .unwrap();
        assert_eq!(cluster.local().peer_urls, ["http://a:2", "http://b:1"]);
    }

    #[test]
    fn mistakes_are_told_in_etcds_words() {
        let scheme = "URL scheme must be http, https, unix, or unixs";
        let table = [
            ("a", THREE, "couldn't find local name \"a\" in the initial cluster configuration"),
            ("n1", "", "couldn't find local name \"n1\" in the initial cluster configuration"),
            (
                "n1",
                "n1=http://h:1",
                "--initial-cluster has n1=http://h:1 but missing from \
                 --initial-advertise-peer-urls=http://10.0.0.1:2380",
            ),
            (
                "n1",
                "n1=http://10.0.0.1:2380,n2=http://10.0.0.1:2380",
                "initial cluster n1=http://10.0.0.1:2380,n2=http://10.0.0.1:2380 has duplicate url",
            ),
            (
                "n1",
                "n1=http://10.0.0.1:2380,n1=http://10.0.0.1:2380",
                "initial cluster n1=http://10.0.0.1:2380,n1=http://10.0.0.1:2380 has duplicate url",
            ),
            (
                "n1",
                "n1=foo",
                &format!(
                    "error setting up initial cluster: {scheme}: foo (did you mean http://foo?)"
                ),
            ),
            ("n1", "n1", "error setting up initial cluster: \"n1\" is not of the form name=url"),
            (
                "n1",
                "n1=https://10.0.0.1:2380",
                "TLS is not available yet: --initial-cluster has https://10.0.0.1:2380",
            ),
        ];
        for (name, initial_cluster, message) in table {
            let config = config(name, "http://10.0.0.1:2380", initial_cluster);
            let error = InitialCluster::from_config(&config).expect_err(initial_cluster);
            assert_eq!(error.to_string(), message);
        }
        let config = config("n1", "http://a:1,http://b:1", "n1=http://a:1");
        assert_eq!(
            InitialCluster::from_config(&config).unwrap_err().to_string(),
            "--initial-advertise-peer-urls has http://b:1 but missing from \
             --initial-cluster=n1=http://a:1"
        );
    }

    #[test]
    fn localhost_may_be_written_as_address() {
        let config = config("n1", "http://127.0.0.1:1", "n1=http://localhost:1");
        let cluster = InitialCluster::from_config(&config).unwrap();
        assert_eq!(cluster.local().peer_urls, ["http://localhost:1"], "the cluster's text counts");
    }

    /// A joining member, and the cluster it joins with ids of its own.
    fn joining() -> (InitialCluster, Vec<Member>) {
        let config = Config {
            initial_cluster_state: ClusterState::Existing,
            ..config("n3", "http://elsewhere:1", THREE)
        };
        let joining = InitialCluster::from_config(&config).unwrap();
        let mut running = joining.members.clone();
        running.reverse();
        for (index, member) in running.iter_mut().enumerate() {
            member.is_learner = member.name == "n3";
            member.id = MemberId(index as u64 + 1);
            member.name = String::new();
        }
        (joining, running)
    }

    #[test]
    fn a_joining_member_takes_the_running_clusters_ids() {
        let (mut cluster, running) = joining();
        cluster.adopt(ClusterId(7), &running).unwrap();
        assert_eq!(cluster.cluster_id, ClusterId(7));
        assert_eq!(cluster.local().name, "n3");
        assert!(cluster.local().is_learner);
        for member in &running {
            let ours = cluster.members.iter().find(|ours| ours.id == member.id).unwrap();
            assert_eq!(ours.peer_urls, member.peer_urls);
        }
        assert!(cluster.members.is_sorted_by_key(|member| member.id));
    }

    #[test]
    fn a_joining_member_must_list_exactly_the_running_members() {
        let (mut cluster, mut running) = joining();
        let before = cluster.clone();
        let last = running.pop().unwrap();
        assert_eq!(
            cluster.adopt(ClusterId(7), &running).unwrap_err().to_string(),
            "error validating peerURLs: member count is unequal"
        );
        running.push(Member { peer_urls: vec!["http://x:1".to_owned()], ..last });
        assert_eq!(
            cluster.adopt(ClusterId(7), &running).unwrap_err().to_string(),
            "error validating peerURLs: PeerURLs: no match found for existing member (3, \
             [\"http://x:1\"])"
        );
        assert_eq!(cluster, before);
    }
}
