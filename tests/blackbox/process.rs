//! Members as processes of their own, on loopback, in a folder that goes away with them.
//!
//! - A process is ended by its own pid, also when a test fails: [`Member`]'s drop does it.
//! - The log of a member is a file beside its data; it survives restarts, so a test may look for
//!   lines of every life of the member.
//! - Ports are drawn below the range the system hands out on its own. Should another process take
//!   one in between, the start is tried again with other ports.

use quorate::client::{Client, Get, Options, Put};
use quorate::env::real::Real;
use rand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a state may take to come about before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at something that gives no sign by itself.
const LOOK: Duration = Duration::from_millis(20);
/// Where drawn ports lie: above the well-known ones, below Linux's ephemeral range.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// How often a start is tried when another process took a port.
const START_ATTEMPTS: usize = 5;
/// How much of a log a failure shows, in bytes.
const LOG_TAIL_BYTES: usize = 3_000;

static GIVEN_PORTS: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// The binary under test.
pub fn quorate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Looks until there is an answer; fails the test when that takes longer than [`PATIENCE`].
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, look).await
}

/// The same with another limit.
pub async fn until_within<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = look().await {
            return answer;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

pub fn free_address() -> String {
    let mut given = GIVEN_PORTS.lock().expect("no holder panics");
    loop {
        let port = rand::rng().random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && given.insert(port) {
            return format!("127.0.0.1:{port}");
        }
    }
}

/// A client of these endpoints, in this order, with deadlines fit for a busy machine.
pub fn connect(endpoints: &[String]) -> Client {
    let options = Options {
        connect_timeout: Duration::from_secs(1),
        backoff_max: Duration::from_millis(250),
        ..Options::default()
    };
    Client::connect(&Real::new(), endpoints, options).expect("lawful endpoints")
}

/// One member, running or not.
pub struct Member {
    pub name: String,
    /// `host:port` for clients.
    pub client_address: String,
    /// `host:port` for other members.
    pub peer_address: String,
    /// Value of `--initial-cluster`.
    pub initial_cluster: String,
    /// Appended to the command.
    pub flags: Vec<String>,
    pub data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Member {
    /// A member that was not started yet, with its files in `directory`.
    pub fn new(directory: &Path, name: &str, flags: &[&str]) -> Member {
        let peer_address = free_address();
        Member {
            name: name.to_owned(),
            client_address: free_address(),
            initial_cluster: format!("{name}=http://{peer_address}"),
            peer_address,
            flags: flags.iter().map(ToString::to_string).collect(),
            data: directory.join(format!("{name}.data")),
            log: directory.join(format!("{name}.log")),
            child: None,
        }
    }

    /// The command that starts it.
    pub fn command(&self) -> Command {
        let client = format!("http://{}", self.client_address);
        let peer = format!("http://{}", self.peer_address);
        let mut command = quorate();
        command
            .arg("server")
            .args(["--name", &self.name, "--data-dir"])
            .arg(&self.data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.initial_cluster])
            .args(&self.flags);
        command
    }

    /// Starts the process; it is not ready for clients yet.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log");
        let err = log.try_clone().expect("a descriptor");
        let child = self.command().stdout(log).stderr(err).spawn().expect("the binary runs");
        self.child = Some(child);
    }

    /// Ends the process at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when the process is gone already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process runs");
    }

    /// Waits for the process to end by itself.
    pub async fn wait_for_exit(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        let mut child = self.child.take().expect("it was started");
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("our child") {
                return status;
            }
            if started.elapsed() > limit {
                let _ = child.kill();
                let _ = child.wait();
                panic!("not within {limit:?}: {what}; its log ends:\n{}", self.log_tail());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("it was started");
        Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("not 0")
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = fs::read_to_string(path).expect("the process runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a VmRSS line");
        let kib: u64 = line.split_whitespace().nth(1).expect("a figure").parse().expect("a number");
        kib * 1024
    }

    /// All it ever logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of it.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let mut start = log.len().saturating_sub(LOG_TAIL_BYTES);
        while !log.is_char_boundary(start) {
            start += 1;
        }
        log[start..].to_owned()
    }

    /// Lines that hold this text.
    pub fn log_lines(&self, text: &str) -> Vec<String> {
        self.log().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// A client of this member alone.
    pub fn client(&self) -> Client {
        connect(std::slice::from_ref(&self.client_address))
    }

    /// Waits until it serves linearizable reads.
    pub async fn wait_until_ready(&mut self) {
        let client = self.client().with_deadline(Some(Duration::from_secs(2)));
        let started = Instant::now();
        while client.get(Get::key("ready?")).await.is_err() {
            assert!(self.is_running(), "{} ended; its log ends:\n{}", self.name, self.log_tail());
            assert!(
                started.elapsed() < PATIENCE,
                "{} serves not; its log ends:\n{}",
                self.name,
                self.log_tail()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Starts it and waits until it serves.
    pub async fn start_ready(&mut self) {
        self.start();
        self.wait_until_ready().await;
    }

    fn lost_its_port(&self) -> bool {
        self.log().to_lowercase().contains("address already in use")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() && std::env::var_os("BLACKBOX_LOGS").is_some() {
            eprintln!("---- {} ----\n{}", self.name, self.log_tail());
        }
    }
}

/// Members of one cluster.
pub struct Cluster {
    pub members: Vec<Member>,
    // Declared after the members: they end before their folder is removed.
    directory: tempfile::TempDir,
}

impl Cluster {
    /// A new cluster that serves.
    pub async fn start(size: usize, flags: &[&str]) -> Cluster {
        for _ in 0..START_ATTEMPTS {
            let mut cluster = Cluster::prepare(size, flags);
            for member in &mut cluster.members {
                member.start();
            }
            if cluster.serves().await {
                return cluster;
            }
        }
        panic!("no free ports in {START_ATTEMPTS} attempts");
    }

    /// The members, not started.
    pub fn prepare(size: usize, flags: &[&str]) -> Cluster {
        let directory = tempfile::Builder::new().prefix("quorate-blackbox-").tempdir();
        let directory = directory.expect("a directory");
        let name = |i: usize| format!("m{i}");
        let mut members: Vec<Member> =
            (0..size).map(|i| Member::new(directory.path(), &name(i), flags)).collect();
        let cluster: Vec<String> =
            members.iter().map(|member| member.initial_cluster.clone()).collect();
        for member in &mut members {
            member.initial_cluster = cluster.join(",");
        }
        Cluster { members, directory }
    }

    /// `false` when a member lost its port to somebody.
    async fn serves(&mut self) -> bool {
        let started = Instant::now();
        for member in &mut self.members {
            let client = member.client().with_deadline(Some(Duration::from_secs(2)));
            while client.get(Get::key("ready?")).await.is_err() {
                if !member.is_running() && member.lost_its_port() {
                    return false;
                }
                let tail = member.log_tail();
                assert!(member.is_running(), "{} ended; its log ends:\n{tail}", member.name);
                assert!(started.elapsed() < PATIENCE, "no cluster; the log ends:\n{tail}");
                tokio::time::sleep(LOOK).await;
            }
        }
        true
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where clients find the members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client_address.clone()).collect()
    }

    /// A client of all members.
    pub fn client(&self) -> Client {
        connect(&self.endpoints())
    }

    /// The member that leads, as soon as one says so of itself and a write succeeds.
    pub async fn leader(&mut self) -> usize {
        let members = &mut self.members;
        until("a leader", async || {
            for (i, member) in members.iter_mut().enumerate() {
                if !member.is_running() {
                    continue;
                }
                let client = member.client().with_deadline(Some(Duration::from_secs(1)));
                let Ok(status) = client.status().await else { continue };
                let own = status.header.as_ref().map_or(0, |header| header.member_id);
                if own != 0 && own == status.leader {
                    return Some(i);
                }
            }
            None
        })
        .await
    }

    /// A member that does not lead.
    pub async fn follower(&mut self) -> usize {
        (self.leader().await + 1) % self.members.len()
    }

    /// Asserts that all members have the same keys and history at the newest revision.
    pub async fn assert_same_hash(&self) -> i64 {
        let put = self.client().put(Put::new("hash?", "now")).await.expect("the cluster serves");
        let revision = put.header.revision;
        let mut hashes = Vec::new();
        for member in &self.members {
            let client = member.client().with_deadline(Some(PATIENCE));
            // A linearizable read: afterwards the member has applied that revision.
            client.get(Get::key("hash?")).await.expect("the member serves");
            let reply = client.hash_kv(revision).await.expect("a hash");
            hashes.push((reply.hash, reply.compact_revision));
        }
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?} at {revision}");
        revision
    }
}
