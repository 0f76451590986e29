//! The stock `etcdctl`, unmodified, against the server: what an operator's fingers know must work.
//!
//! Runs when there is an `etcdctl`, named by `ETCDCTL` or found in `PATH`, and otherwise says so
//! and passes. Any version from 3.4 on will do: the tests look at what these print alike, and
//! read JSON where the plain text changed between versions. `QUORATE_TEST_SERVER=/path/etcd`
//! tests another server; the real etcd passes everything here.
//!
//! Each test starts its own servers on loopback and leaves nothing behind. A watch is always
//! started at a revision, so that nothing depends on which of two commands is first.

// Tests live outside the fence: they drive real processes in real time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

#[path = "vectors/server.rs"]
mod server;

use server::{Plan, Server};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a command may take. Its own limit is shorter, so that it gets to say why.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// The limit the commands are given for one request.
const REQUEST_TIMEOUT_FLAG: &str = "--command-timeout=20s";
/// How long a cluster may take until it serves.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a start is tried when another process took a port.
const START_ATTEMPTS: usize = 5;

/// `etcdctl` and the servers it talks to.
struct Cluster {
    program: PathBuf,
    servers: Vec<Server>,
}

/// What a command left.
struct Output {
    success: bool,
    stdout: String,
    stderr: String,
}

impl Cluster {
    /// A cluster that serves, or nothing when there is no `etcdctl`.
    fn start(size: usize, flags: &[&str]) -> Option<Cluster> {
        let program = etcdctl()?;
        let flags: Vec<String> = flags.iter().map(|flag| flag.to_string()).collect();
        let mut attempt = 1;
        loop {
            let plans = Plan::cluster(size, &flags).into_iter();
            let servers: Result<_, _> = plans.map(Server::start).collect();
            let mut cluster =
                Cluster { program: program.clone(), servers: servers.expect("starts") };
            match cluster.wait_until_healthy() {
                Ok(()) => return Some(cluster),
                Err(_) if attempt < START_ATTEMPTS && cluster.lost_a_port() => attempt += 1,
                Err(reason) => panic!("{reason}"),
            }
        }
    }

    fn lost_a_port(&self) -> bool {
        self.servers.iter().any(Server::lost_its_port)
    }

    fn wait_until_healthy(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let answer = self.run(&["endpoint", "health"], "");
            if answer.success {
                return Ok(());
            }
            for server in &mut self.servers {
                if !server.is_running() {
                    let (name, log) = (&server.plan.name, server.log_tail());
                    return Err(format!("member {name} ended while starting; its log:\n{log}"));
                }
            }
            if Instant::now() > deadline {
                return Err(format!("no healthy cluster in {START_TIMEOUT:?}: {}", answer.stderr));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn endpoints(&self) -> String {
        let clients: Vec<&str> = self.servers.iter().map(|s| s.plan.client.as_str()).collect();
        clients.join(",")
    }

    /// The command on all endpoints, not started.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCDCTL_") {
                command.env_remove(name);
            }
        }
        command.arg(format!("--endpoints={}", self.endpoints())).arg(REQUEST_TIMEOUT_FLAG);
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str], stdin: &str) -> Output {
        Process::start(self.command(arguments), stdin).finish()
    }

    /// The standard output of a command that must succeed.
    fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with(arguments, "")
    }

    fn ok_with(&self, arguments: &[&str], stdin: &str) -> String {
        let answer = self.run(arguments, stdin);
        let (stdout, stderr) = (&answer.stdout, &answer.stderr);
        assert!(answer.success, "etcdctl {arguments:?} failed\n{stdout}\n{stderr}");
        answer.stdout
    }

    /// The complaint of a command that must fail.
    fn fails(&self, arguments: &[&str]) -> String {
        let answer = self.run(arguments, "");
        assert!(!answer.success, "etcdctl {arguments:?} succeeded\n{}", answer.stdout);
        answer.stderr
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let arguments = [arguments, &["-w", "json"]].concat();
        let text = self.ok(&arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{text}"))
    }

    /// The keys that a `get` with these arguments answers, in its order.
    fn keys(&self, arguments: &[&str]) -> Vec<String> {
        let arguments = [&["get", "--keys-only"], arguments].concat();
        self.ok(&arguments).lines().filter(|line| !line.is_empty()).map(String::from).collect()
    }

    fn revision(&self) -> i64 {
        self.json(&["get", "any"])["header"]["revision"].as_i64().expect("answers have a revision")
    }
}

/// The program to test with, or a complaint that cannot be missed.
fn etcdctl() -> Option<PathBuf> {
    let found = match std::env::var_os("ETCDCTL") {
        Some(program) => Some(PathBuf::from(program)),
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut places = std::env::split_paths(&path).map(|folder| folder.join("etcdctl"));
            places.find(|place| place.is_file())
        }
    };
    if found.is_none() {
        // Not through `eprintln!`: the test runner would keep it from being seen.
        let note = b"SKIPPED: no etcdctl in PATH or ETCDCTL, so nothing was tested with it\n";
        std::io::stderr().write_all(note).expect("standard error is open");
    }
    found
}

/// A running command. Ends with this value.
struct Process {
    child: Child,
    lines: Receiver<String>,
    errors: Option<thread::JoinHandle<String>>,
    deadline: Instant,
}

impl Process {
    fn start(mut command: Command, stdin: &str) -> Process {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("etcdctl starts");
        let mut input = child.stdin.take().expect("is piped");
        // A command that ends without reading its input is fine.
        let _ = input.write_all(stdin.as_bytes());
        drop(input);
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("is piped"));
        thread::spawn(move || forward(output, sender));
        let mut errors = child.stderr.take().expect("is piped");
        let errors = thread::spawn(move || {
            let mut text = String::new();
            // What cannot be read is not there to be reported.
            let _ = errors.read_to_string(&mut text);
            text
        });
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        Process { child, lines, errors: Some(errors), deadline }
    }

    /// The next `count` lines.
    fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            match self.lines.recv_timeout(self.deadline - Instant::now()) {
                Ok(line) => lines.push(line),
                Err(error) => panic!("wanted {count} lines, then {error}: {lines:?}"),
            }
        }
        lines
    }

    /// Waits for the end.
    fn finish(mut self) -> Output {
        let mut stdout = String::new();
        loop {
            match self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => stdout = stdout + &line + "\n",
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no end within {COMMAND_TIMEOUT:?}, after\n{stdout}")
                }
            }
        }
        let status = self.child.wait().expect("is our child");
        let errors = self.errors.take().expect("taken once");
        let stderr = errors.join().expect("the reader does not panic");
        Output { success: status.success(), stdout, stderr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(output: impl BufRead, sender: Sender<String>) {
    for line in output.lines().map_while(Result::ok) {
        if sender.send(line).is_err() {
            return;
        }
    }
}

#[test]
fn put_and_get_with_all_their_options() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    assert_eq!(cluster.ok(&["put", "a", "1"]), "OK\n");
    for (key, value) in [("b1", "z"), ("b2", "y"), ("b3", "x"), ("c", "w")] {
        cluster.ok(&["put", key, value]);
    }
    assert_eq!(cluster.ok(&["get", "a"]), "a\n1\n");
    assert_eq!(cluster.ok(&["get", "nothing"]), "");
    assert_eq!(cluster.ok(&["get", "--print-value-only", "a"]), "1\n");
    assert_eq!(cluster.ok(&["get", "--prefix", "b"]), "b1\nz\nb2\ny\nb3\nx\n");
    assert_eq!(cluster.ok(&["get", "a", "b2"]), "a\n1\nb1\nz\n");
    assert_eq!(cluster.keys(&["--from-key", "b2"]), ["b2", "b3", "c"]);
    assert_eq!(cluster.keys(&["--prefix", ""]), ["a", "b1", "b2", "b3", "c"]);
    assert_eq!(cluster.keys(&["--prefix", "b", "--limit=2"]), ["b1", "b2"]);
    let by_value = ["--prefix", "b", "--sort-by=VALUE", "--order=ASCEND"];
    assert_eq!(cluster.keys(&by_value), ["b3", "b2", "b1"]);
    let newest = ["--prefix", "b", "--sort-by=MODIFY", "--order=DESCEND", "--limit=1"];
    assert_eq!(cluster.keys(&newest), ["b3"]);
    assert_eq!(cluster.ok(&["get", "--consistency=s", "a"]), "a\n1\n");

    let answer = cluster.run(&["get", "--prefix", "b", "--count-only", "-w", "fields"], "");
    // The flag came with 3.5.
    if !answer.stderr.contains("unknown flag") {
        assert!(answer.stdout.contains("\"Count\" : 3\n"), "{}{}", answer.stdout, answer.stderr);
        assert!(!answer.stdout.contains("\"Key\""), "{}", answer.stdout);
    }

    cluster.ok(&["put", "a", "2"]);
    assert_eq!(cluster.ok(&["get", "--rev=2", "a"]), "a\n1\n");
    let pair = &cluster.json(&["get", "a"])["kvs"][0];
    assert_eq!((&pair["create_revision"], &pair["mod_revision"]), (&2.into(), &7.into()));
    assert_eq!(pair["version"], 2);

    assert_eq!(cluster.ok(&["put", "--prev-kv", "a", "3"]), "OK\na\n2\n");
    assert_eq!(cluster.ok_with(&["put", "piped"], "from a pipe"), "OK\n");
    assert_eq!(cluster.ok(&["get", "piped"]), "piped\nfrom a pipe\n");
    assert!(cluster.fails(&["put", "--ignore-value", "nothing"]).contains("key not found"));
    assert!(cluster.fails(&["get", "--rev=1000", "a"]).contains("future revision"));
}

#[test]
fn del_counts_and_shows_what_it_removed() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    for key in ["a", "b1", "b2", "c", "d"] {
        cluster.ok(&["put", key, &key.to_uppercase()]);
    }
    assert_eq!(cluster.ok(&["del", "nothing"]), "0\n");
    assert_eq!(cluster.ok(&["del", "a"]), "1\n");
    assert_eq!(cluster.ok(&["del", "--prefix", "--prev-kv", "b"]), "2\nb1\nB1\nb2\nB2\n");
    assert_eq!(cluster.ok(&["del", "--from-key", "d"]), "1\n");
    assert_eq!(cluster.keys(&["--prefix", ""]), ["c"]);
}

#[test]
fn txn_takes_its_branch_piped_and_interactive() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let request = "mod(\"k\") > \"0\"\n\nput k changed\nget k\n\nput k created\n\n";
    assert_eq!(cluster.ok_with(&["txn"], request), "FAILURE\n\nOK\n");
    assert_eq!(cluster.ok(&["get", "k"]), "k\ncreated\n");
    assert_eq!(cluster.ok_with(&["txn"], request), "SUCCESS\n\nOK\n\nk\nchanged\n");

    let compares = "value(\"k\") = \"changed\"\nversion(\"k\") = \"2\"\ncreate(\"k\") < \"3\"\n";
    let requests = "\ndel k\n\nput k wrong\n\n";
    let answer = cluster.ok_with(&["txn", "--interactive"], &[compares, requests].concat());
    let prompts =
        ["compares:", "success requests (get, put, del):", "failure requests (get, put, del):"];
    let lines: Vec<&str> = answer.lines().collect();
    assert_eq!(lines, [&prompts[..], &["SUCCESS", "", "1"]].concat());
    assert_eq!(cluster.ok(&["get", "k"]), "");

    let twice = "\nput k 1\nput k 2\n\n\n";
    let answer = cluster.run(&["txn"], twice);
    assert!(!answer.success && answer.stderr.contains("duplicate key given in txn request"));
}

#[test]
fn watch_delivers_the_past_the_present_and_previous_values() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    cluster.ok(&["put", "a", "1"]);
    cluster.ok(&["put", "a", "2"]);
    let mut history = Process::start(cluster.command(&["watch", "a", "--rev=2"]), "");
    assert_eq!(history.lines(6), ["PUT", "a", "1", "PUT", "a", "2"]);
    let arguments = ["watch", "a", "--rev=3", "--prev-kv"];
    let mut previous = Process::start(cluster.command(&arguments), "");
    assert_eq!(previous.lines(5), ["PUT", "a", "1", "a", "2"]);
    let arguments = ["watch", "--prefix", "p/", "--rev=4"];
    let mut prefix = Process::start(cluster.command(&arguments), "");

    cluster.ok(&["put", "p/x", "3"]);
    cluster.ok(&["put", "q", "4"]);
    cluster.ok_with(&["txn"], "\nput p/y 5\nput p/z 6\n\n\n");
    cluster.ok(&["del", "a"]);
    cluster.ok(&["del", "--prefix", "p/"]);
    assert_eq!(history.lines(3), ["DELETE", "a", ""]);
    assert_eq!(previous.lines(5), ["DELETE", "a", "2", "a", ""]);
    let puts = ["PUT", "p/x", "3", "PUT", "p/y", "5", "PUT", "p/z", "6"];
    assert_eq!(prefix.lines(9), puts);
    let deletes = ["DELETE", "p/x", "", "DELETE", "p/y", "", "DELETE", "p/z", ""];
    assert_eq!(prefix.lines(9), deletes);
}

#[test]
fn watch_without_a_revision_starts_with_what_comes_next() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    cluster.ok(&["put", "k", "before"]);
    let mut watch = Process::start(cluster.command(&["watch", "k"]), "");
    // The command does not say when it watches: write until it has seen something.
    let first = loop {
        cluster.ok(&["put", "k", "after"]);
        match watch.lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => break line,
            Err(error) => assert!(Instant::now() < watch.deadline, "{error}"),
        }
    };
    assert_eq!(first, "PUT");
    assert_eq!(watch.lines(2), ["k", "after"]);
}

#[test]
fn leases_are_granted_kept_shown_and_revoked() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let granted = cluster.ok(&["lease", "grant", "600"]);
    let words: Vec<&str> = granted.split_whitespace().collect();
    let &["lease", id, "granted", "with", "TTL(600s)"] = &words[..] else { panic!("{granted}") };
    let lease = format!("--lease={id}");
    cluster.ok(&["put", &lease, "k1", "v"]);
    cluster.ok(&["put", &lease, "k2", "v"]);

    let kept = cluster.ok(&["lease", "keep-alive", "--once", id]);
    assert_eq!(kept, format!("lease {id} keepalived with TTL(600)\n"));
    let shown = cluster.ok(&["lease", "timetolive", "--keys", id]);
    assert!(
        shown.starts_with(&format!("lease {id} granted with TTL(600s), remaining(")),
        "{shown}"
    );
    // The keys come in no order.
    let both = ["attached keys([k1 k2])", "attached keys([k2 k1])"];
    assert!(both.iter().any(|keys| shown.trim_end().ends_with(keys)), "{shown}");
    assert_eq!(cluster.ok(&["lease", "list"]), format!("found 1 leases\n{id}\n"));

    assert_eq!(cluster.ok(&["lease", "revoke", id]), format!("lease {id} revoked\n"));
    assert_eq!(cluster.ok(&["get", "--prefix", "k"]), "");
    assert_eq!(cluster.ok(&["lease", "timetolive", id]), format!("lease {id} already expired\n"));
    assert_eq!(cluster.ok(&["lease", "list"]), "found 0 leases\n");
    assert!(cluster.fails(&["lease", "revoke", id]).contains("requested lease not found"));
    assert!(cluster.fails(&["put", &lease, "k", "v"]).contains("requested lease not found"));
}

#[test]
fn a_lease_that_nobody_keeps_takes_its_keys_along() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let granted = cluster.ok(&["lease", "grant", "2"]);
    let id = granted.split_whitespace().nth(1).expect("the second word is the id");
    cluster.ok(&["put", &format!("--lease={id}"), "k", "v"]);
    let rev = format!("--rev={}", cluster.revision() + 1);
    let mut watch = Process::start(cluster.command(&["watch", "k", &rev]), "");
    assert_eq!(watch.lines(3), ["DELETE", "k", ""]);
    assert_eq!(cluster.ok(&["get", "k"]), "");
}

#[test]
fn compaction_ends_history() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    for value in ["1", "2", "3"] {
        cluster.ok(&["put", "k", value]);
    }
    assert_eq!(cluster.ok(&["compaction", "3"]), "compacted revision 3\n");
    assert!(cluster.fails(&["get", "--rev=2", "k"]).contains("has been compacted"));
    assert_eq!(cluster.ok(&["get", "--rev=3", "k"]), "k\n2\n");
    assert!(cluster.fails(&["compaction", "3"]).contains("has been compacted"));
    assert!(cluster.fails(&["compaction", "100"]).contains("future revision"));
    assert_eq!(cluster.ok(&["compaction", "--physical", "4"]), "compacted revision 4\n");
    let watch = Process::start(cluster.command(&["watch", "k", "--rev=2"]), "").finish();
    assert!(!watch.success && watch.stderr.contains("has been compacted"), "{}", watch.stderr);
}

#[test]
fn endpoint_reports_health_and_status() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    cluster.ok(&["put", "k", "v"]);
    let health = &cluster.json(&["endpoint", "health"])[0];
    assert_eq!(health["endpoint"], cluster.endpoints());
    assert_eq!(health["health"], true);

    let report = &cluster.json(&["endpoint", "status"])[0];
    assert_eq!(report["Endpoint"], cluster.endpoints());
    let status = &report["Status"];
    assert_eq!(status["header"]["revision"], 2);
    assert_eq!(status["leader"], status["header"]["member_id"]);
    assert!(status["version"].as_str().is_some_and(|version| version.starts_with("3.")));
    for number in ["dbSize", "dbSizeInUse", "raftTerm", "raftIndex", "raftAppliedIndex"] {
        assert!(status[number].as_u64().is_some_and(|value| value > 0), "{number}: {status}");
    }

    let hash = &cluster.json(&["endpoint", "hashkv"])[0]["HashKV"];
    assert!(hash["hash"].as_u64().is_some(), "{hash}");
}

#[test]
fn member_list_shows_the_member() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let line = cluster.ok(&["member", "list"]);
    let columns: Vec<&str> = line.trim_end().split(", ").collect();
    let client = format!("http://{}", cluster.servers[0].plan.client);
    assert_eq!(columns.len(), 6, "{line}");
    assert!(u64::from_str_radix(columns[0], 16).is_ok(), "{line}");
    assert_eq!(columns[1..3], ["started", "default"]);
    assert_eq!(columns[4..], [client.as_str(), "false"]);
}

#[test]
fn snapshot_save_writes_a_file_with_its_checksum() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let value = "x".repeat(10_000);
    for i in 0..20 {
        cluster.ok(&["put", &format!("k{i}"), &value]);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("backup");
    let said = cluster.ok(&["snapshot", "save", path(&file)]);
    assert!(said.contains(&format!("Snapshot saved at {}", path(&file))), "{said}");
    let bytes = std::fs::read(&file).expect("was just written");
    assert!(bytes.len() > 20 * value.len(), "{} bytes", bytes.len());
    // The stream ends with the digest of what came before; a reader tells by the length.
    let (data, digest) = bytes.split_at(bytes.len() - 32);
    assert_eq!(data.len() % 512, 0);
    assert_eq!(Sha256::digest(data)[..], *digest);
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

#[test]
fn defrag_says_that_it_finished_and_loses_nothing() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    cluster.ok(&["put", "k", "1"]);
    cluster.ok(&["put", "k", "2"]);
    cluster.ok(&["compaction", "3"]);
    let said = cluster.ok(&["defrag"]);
    let start = format!("Finished defragmenting etcd member[{}]", cluster.endpoints());
    assert!(said.starts_with(&start), "{said}");
    assert_eq!(cluster.ok(&["get", "k"]), "k\n2\n");
}

#[test]
fn the_space_alarm_stops_writes_until_it_is_disarmed() {
    let Some(cluster) = Cluster::start(1, &["--quota-backend-bytes", "8388608"]) else { return };
    assert_eq!(cluster.ok(&["alarm", "list"]), "");
    let value = "x".repeat(1_000_000);
    let refused = (0..40).find_map(|_| {
        let answer = cluster.run(&["put", "big"], &value);
        (!answer.success).then_some(answer.stderr)
    });
    let refused = refused.expect("40 MB do not fit into 8 MiB");
    assert!(refused.contains("database space exceeded"), "{refused}");
    let id = cluster.json(&["member", "list"])["members"][0]["ID"].to_string();
    let alarm = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words, [format!("memberID:{id}").as_str(), "alarm:NOSPACE"]);
    };
    alarm(&cluster.ok(&["alarm", "list"]));
    assert!(cluster.fails(&["put", "k", "v"]).contains("database space exceeded"));
    assert!(cluster.ok(&["get", "--keys-only", "big"]).starts_with("big\n"));

    cluster.ok(&["del", "big"]);
    cluster.ok(&["compaction", "--physical", &cluster.revision().to_string()]);
    cluster.ok(&["defrag"]);
    alarm(&cluster.ok(&["alarm", "disarm"]));
    assert_eq!(cluster.ok(&["alarm", "list"]), "");
    assert_eq!(cluster.ok(&["put", "k", "v"]), "OK\n");
}

#[test]
fn three_members_hold_the_same_data_and_hand_over_leadership() {
    let Some(mut cluster) = Cluster::start(3, &[]) else { return };
    assert_eq!(cluster.ok(&["put", "k", "v"]), "OK\n");
    for server in &cluster.servers {
        // The later flag wins.
        let one = format!("--endpoints={}", server.plan.client);
        assert_eq!(cluster.ok(&[&one, "get", "k"]), "k\nv\n");
    }
    let list = cluster.ok(&["member", "list"]);
    assert_eq!(list.lines().filter(|line| line.contains(", started, m")).count(), 3, "{list}");

    let (leader, members) = leader_and_members(&cluster);
    let heir = *members.iter().find(|member| **member != leader).expect("there are three");
    let said = cluster.ok(&["move-leader", &format!("{heir:x}")]);
    assert_eq!(said, format!("Leadership transferred from {leader:x} to {heir:x}\n"));
    let deadline = Instant::now() + COMMAND_TIMEOUT;
    while leader_and_members(&cluster).0 != heir {
        assert!(Instant::now() < deadline, "{heir:x} is not leader");
    }

    // A follower that crashes disturbs nobody and catches up.
    let follower = members.iter().position(|member| *member != heir).expect("there are three");
    cluster.servers[follower].restart().expect("the process starts");
    let leader = members.iter().position(|member| *member == heir).expect("is a member");
    let endpoint = format!("--endpoints={}", cluster.servers[leader].plan.client);
    assert_eq!(cluster.ok(&[&endpoint, "put", "k", "later"]), "OK\n");
    cluster.wait_until_healthy().expect("the member comes back");
    let endpoint = format!("--endpoints={}", cluster.servers[follower].plan.client);
    assert_eq!(cluster.ok(&[&endpoint, "get", "k"]), "k\nlater\n");

    // When the leader crashes the others elect one; until then requests may fail.
    cluster.servers[leader].restart().expect("the process starts");
    let deadline = Instant::now() + COMMAND_TIMEOUT;
    while !cluster.run(&[&endpoint, "put", "k", "last"], "").success {
        assert!(Instant::now() < deadline, "no new leader took a write");
    }
    cluster.wait_until_healthy().expect("the member comes back");
    assert_eq!(cluster.ok(&["get", "k"]), "k\nlast\n");
    let health = cluster.json(&["endpoint", "health", "--cluster"]);
    let healthy = health.as_array().into_iter().flatten().filter(|one| one["health"] == true);
    assert_eq!(healthy.count(), 3, "{health}");

    let hashes = cluster.json(&["endpoint", "hashkv", "--rev=3"]);
    let hash = |i: usize| hashes[i]["HashKV"]["hash"].as_u64().expect("every member answers");
    assert_eq!((hash(0), hash(1)), (hash(1), hash(2)));
}

/// The leader that all members agree on, and the members. Waits for the agreement.
fn leader_and_members(cluster: &Cluster) -> (u64, Vec<u64>) {
    let deadline = Instant::now() + COMMAND_TIMEOUT;
    loop {
        let report = cluster.json(&["endpoint", "status"]);
        let statuses = || report.as_array().into_iter().flatten().map(|one| &one["Status"]);
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or_default();
        let members: Vec<u64> = statuses().map(|s| number(&s["header"]["member_id"])).collect();
        let leaders: Vec<u64> = statuses().map(|s| number(&s["leader"])).collect();
        if leaders[0] != 0 && leaders.iter().all(|leader| *leader == leaders[0]) {
            return (leaders[0], members);
        }
        assert!(Instant::now() < deadline, "no agreement on a leader: {report}");
    }
}

#[test]
fn check_perf_passes_with_a_small_load() {
    if std::env::var_os("QUORATE_SLOW_TESTS").is_none_or(|value| value != "1") {
        let note = b"SKIPPED: etcdctl check perf takes a minute; QUORATE_SLOW_TESTS=1 runs it\n";
        std::io::stderr().write_all(note).expect("standard error is open");
        return;
    }
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let mut check = Process::start(cluster.command(&["check", "perf", "--load=s"]), "");
    check.deadline = Instant::now() + 3 * COMMAND_TIMEOUT;
    let answer = check.finish();
    assert!(answer.success, "{}{}", answer.stdout, answer.stderr);
    let passes = answer.stdout.lines().filter(|line| line.contains("PASS")).count();
    assert_eq!(passes, 4, "{}", answer.stdout);
}
