//! The program as the shell sees it: texts, exit codes, signals, the lock on its data.
//!
//! Every test starts the real binary; servers listen on ports the system chooses.

// Tests live outside the fence: they drive real processes in real time.
#![allow(clippy::disallowed_methods)]

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

const QUORATE: &str = env!("CARGO_BIN_EXE_quorate");

fn quorate(line: &str) -> Command {
    let mut command = Command::new(QUORATE);
    command.args(line.split_whitespace()).env_clear().stdin(Stdio::null());
    command
}

fn output(line: &str) -> Output {
    quorate(line).output().expect("the binary runs")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// The flags of a member of its own in `directory`.
fn member(directory: &Path) -> String {
    format!("server --name one --data-dir {} {}", directory.join("data").display(), PORTS)
}

/// Ports that the system chooses.
const PORTS: &str = "--listen-client-urls http://127.0.0.1:0 \
                     --advertise-client-urls http://127.0.0.1:0 \
                     --listen-peer-urls http://127.0.0.1:0 \
                     --initial-advertise-peer-urls http://127.0.0.1:0";

/// Logged once the server serves; it listens to signals long before.
const RUNNING: &str = "ready to serve client requests";
/// How long a server may be silent that has something to say.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A server that is killed when the test is done with it.
struct Server {
    child: Child,
    lines: Receiver<String>,
}

impl Server {
    fn start(line: &str) -> Server {
        let mut child = quorate(line).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let stderr = child.stderr.take().expect("piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                if sender.send(line.expect("a readable log")).is_err() {
                    return;
                }
            }
        });
        Server { child, lines }
    }

    /// Reads the log up to the line with this message, and returns that line.
    fn await_line(&self, message: &str) -> serde_json::Value {
        while let Ok(line) = self.lines.recv_timeout(SILENCE_MAX) {
            let line: serde_json::Value = serde_json::from_str(&line).expect("a JSON line");
            if line["msg"] == message {
                return line;
            }
        }
        panic!("the log ended, or fell silent, without {message:?}");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("not 0");
        kill_process(pid, signal).expect("the server runs");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help_and_version_go_to_stdout_and_succeed() {
    for line in ["server --help", "server -h", "help server"] {
        let output = output(line);
        assert_eq!(code(&output), Some(0), "{line}");
        assert!(stdout(&output).contains("--listen-client-urls <urls>"), "{line}");
        assert!(stderr(&output).is_empty(), "{line}");
    }
    for line in ["version", "--version", "-V", "server --version", "server -version"] {
        let output = output(line);
        assert_eq!(code(&output), Some(0), "{line}");
        assert!(stdout(&output).starts_with("etcd Version: 3.7.1\n"), "{line}");
    }
    for line in ["help", "--help"] {
        let output = output(line);
        assert_eq!(code(&output), Some(0), "{line}");
        assert!(stdout(&output).contains("server"), "{line}");
    }
}

#[test]
fn called_etcd_it_takes_the_flags_directly() {
    let directory = tempfile::tempdir().expect("a directory");
    let etcd = directory.path().join("etcd");
    std::os::unix::fs::symlink(QUORATE, &etcd).expect("a link");
    let output = Command::new(&etcd).arg("--version").output().expect("it runs");
    assert!(stdout(&output).starts_with("etcd Version: 3.7.1\n"));
    let output = Command::new(&etcd).arg("-nmae=x").output().expect("it runs");
    assert_eq!(code(&output), Some(2));
    assert!(stderr(&output).starts_with("etcd: flag provided but not defined: --nmae\n"));
}

#[test]
fn unreadable_command_lines_exit_with_2_and_a_suggestion() {
    let output = output("server --listen-client-url http://127.0.0.1:1");
    assert_eq!(code(&output), Some(2));
    assert_eq!(
        stderr(&output),
        "quorate server: flag provided but not defined: --listen-client-url\n\
         quorate server: did you mean --listen-client-urls <urls>?\n\
         See 'quorate server --help'.\n"
    );
    for line in ["", "serve", "--nonsense"] {
        assert_eq!(code(&self::output(line)), Some(2), "{line}");
    }
}

#[test]
fn unusable_settings_are_logged_and_exit_with_1() {
    let output = output("server --heartbeat-interval 300");
    assert_eq!(code(&output), Some(1));
    let line: serde_json::Value = serde_json::from_str(&stderr(&output)).expect("one JSON line");
    assert_eq!(line["msg"], "failed to verify flags");
    assert_eq!(
        line["error"],
        "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]"
    );
}

#[test]
fn a_variable_and_its_flag_together_are_fatal() {
    let output = quorate("server --name x").env("ETCD_NAME", "y").output().expect("it runs");
    assert_eq!(code(&output), Some(1));
    let line: serde_json::Value = serde_json::from_str(&stderr(&output)).expect("one JSON line");
    assert_eq!(line["level"], "fatal");
    let message = line["msg"].as_str().expect("text");
    assert!(message.ends_with("ETCD_NAME and --name"), "{message}");
}

#[test]
fn an_initial_cluster_without_us_is_refused_before_anything_is_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let line = format!("{} --initial-cluster two=http://127.0.0.1:1", member(directory.path()));
    let output = output(&line);
    assert_eq!(code(&output), Some(1));
    let told = "couldn't find local name \\\"one\\\" in the initial cluster configuration";
    assert!(stderr(&output).contains(told), "{}", stderr(&output));
    assert!(!directory.path().join("data").exists());
}

#[test]
fn a_server_starts_and_ends_by_a_signal_with_0() {
    let directory = tempfile::tempdir().expect("a directory");
    for (signal, name, initialized) in
        [(Signal::TERM, "terminated", false), (Signal::INT, "interrupt", true)]
    {
        let mut server = Server::start(&member(directory.path()));
        let settings = server.await_line("starting an etcd server");
        assert_eq!(settings["member-initialized"], initialized);
        assert_eq!(settings["name"], "one");
        assert_eq!(settings["listen-client-urls"][0], "http://127.0.0.1:0");
        server.await_line(RUNNING);
        server.signal(signal);
        assert_eq!(server.await_line("received signal; shutting down")["signal"], name);
        server.await_line("closed etcd server");
        assert_eq!(server.child.wait().expect("it ends").code(), Some(0));
    }
}

/// A data directory is locked by its first server; the second says so and touches nothing.
#[test]
fn a_second_server_on_the_same_directory_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = Server::start(&member(directory.path()));
    first.await_line(RUNNING);
    let output = output(&member(directory.path()));
    assert_eq!(code(&output), Some(1));
    let last = stderr(&output).lines().last().expect("a line").to_owned();
    let line: serde_json::Value = serde_json::from_str(&last).expect("a JSON line");
    assert_eq!(line["level"], "fatal");
    let error = line["error"].as_str().expect("text");
    assert!(error.contains("is in use by another process"), "{error}");
    assert!(line["hint"].as_str().expect("text").contains("--data-dir"));
}
