//! A server under test: a process of its own, on loopback, in a folder that goes away with it.
//!
//! The command is this package's binary unless `QUORATE_TEST_SERVER` names another one, such as
//! `QUORATE_TEST_SERVER=/usr/bin/etcd`; a test that passes against the real etcd says something
//! about our server, one that does not says something about the test. Both take the same flags.
//!
//! - A process is ended by its handle, with the signal nothing can catch, so a restart is always
//!   a crash.
//! - Ports are drawn below the range the system hands out on its own. Another process may still
//!   take one between our look and the server's start; [`Server::lost_its_port`] tells that
//!   apart from a server that does not work, and the caller draws again.

use rand::Rng;
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// Where drawn ports lie: above the well-known ones, below Linux's ephemeral range.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// How much of a log a failure report shows, in bytes.
const LOG_TAIL_BYTES: usize = 1_500;

/// Ports this process gave out, so that tests side by side do not meet.
static GIVEN_PORTS: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// What a server is started with.
pub struct Plan {
    pub name: String,
    /// `host:port` for clients.
    pub client: String,
    /// `host:port` for the other members.
    peer: String,
    /// Value of `--initial-cluster`.
    cluster: String,
    /// Appended to the command.
    flags: Vec<String>,
}

impl Plan {
    /// Plans for the members of a new cluster; every one gets `flags`.
    pub fn cluster(size: usize, flags: &[String]) -> Vec<Plan> {
        let peers: Vec<String> = (0..size).map(|_| free_address()).collect();
        let name = |i: usize| if size == 1 { "default".into() } else { format!("m{}", i + 1) };
        let cluster: Vec<String> = (peers.iter().enumerate())
            .map(|(i, peer)| format!("{}=http://{peer}", name(i)))
            .collect();
        (peers.into_iter().enumerate())
            .map(|(i, peer)| Plan {
                name: name(i),
                client: free_address(),
                peer,
                cluster: cluster.join(","),
                flags: flags.to_vec(),
            })
            .collect()
    }

    fn command(&self, data: &str) -> Command {
        let (client, peer) = (format!("http://{}", self.client), format!("http://{}", self.peer));
        let mut command = match std::env::var("QUORATE_TEST_SERVER") {
            Ok(words) => {
                let mut words = words.split_whitespace();
                let mut command = Command::new(words.next().expect("QUORATE_TEST_SERVER is empty"));
                command.args(words);
                command
            }
            Err(_) => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
                command.arg("server");
                command
            }
        };
        command
            .args(["--name", &self.name, "--data-dir", data])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.cluster])
            .args(&self.flags);
        command
    }
}

/// A running server. Ends with this value.
pub struct Server {
    pub plan: Plan,
    child: Child,
    // Declared after the child: `Drop` ends the process before the folder is removed.
    directory: tempfile::TempDir,
}

impl Server {
    /// Starts the process; it is not ready for clients yet.
    pub fn start(plan: Plan) -> io::Result<Server> {
        let directory = tempfile::Builder::new().prefix("quorate-test-").tempdir()?;
        let child = launch(&plan, &directory)?;
        Ok(Server { plan, child, directory })
    }

    /// Ends the process at once and starts it again on its data.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        self.child = launch(&self.plan, &self.directory)?;
        Ok(())
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether the log says that somebody else has the port.
    pub fn lost_its_port(&self) -> bool {
        self.log().to_lowercase().contains("address already in use")
    }

    /// The end of what the server wrote.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let mut start = log.len().saturating_sub(LOG_TAIL_BYTES);
        while !log.is_char_boundary(start) {
            start += 1;
        }
        log[start..].to_string()
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn kill(&mut self) {
        // Both fail only when the process is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(plan: &Plan, directory: &tempfile::TempDir) -> io::Result<Child> {
    let data = directory.path().join("data");
    let log = OpenOptions::new().create(true).append(true).open(directory.path().join("log"))?;
    plan.command(&data.to_string_lossy())
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

fn free_address() -> String {
    let mut given = GIVEN_PORTS.lock().expect("no holder panics");
    loop {
        let port = rand::rng().random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && given.insert(port) {
            return format!("127.0.0.1:{port}");
        }
    }
}
