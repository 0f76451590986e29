//! The rules of the tree that no compiler knows: who may use whom, and what stays outside.
//!
//! The tables come first, then the rules that read them; `tidy/reader.rs` finds what a source file
//! refers to. It reads text, so a path built by another crate's macro escapes it; clippy's fence
//! in `clippy.toml` looks at the same words from the compiler's side.
//!
//! - Code under `#[cfg(test)]` may use any module and the real world.
//! - Generated code is not ours to tidy.
//! - A new folder in `src/` needs a row before it builds green.

// Tests live outside the fence; this one reads the source tree.
#![allow(clippy::disallowed_methods)]

mod tidy {
    pub mod reader;
}

use quorate::env::marks;
use tidy::reader::{Reference, Source, everywhere, sources, words};

/// Whether a module may wait. Decisions are synchronous; effects, at the rim, are not.
#[derive(PartialEq)]
enum Style {
    /// Plain code: no `async`, nothing to await.
    Pure,
    /// May be asynchronous.
    Waits,
}
use Style::{Pure, Waits};

/// A module, the paths of the crate that it may use beside itself, and its style. `*` is any.
///
/// The order is the order of the layers: a module uses what stands above it. `proto` and `types`
/// are vocabulary; `config` and `logging` are read by the layers that are set up from outside.
const MODULES: [(&str, &[&str], Style); 19] = [
    ("types", &[], Pure),
    ("proto", &[], Waits), // the generated service traits
    ("env", &["types"], Waits),
    ("wal", &["types", "env::Disk", "env::File"], Pure),
    ("raft", &["types"], Pure),
    ("store", &["types", "proto", "env::Disk", "env::File"], Pure),
    ("lease", &["types", "proto"], Pure),
    ("apply", &["types", "proto", "env::File", "store", "lease"], Pure),
    ("watch", &["types", "proto"], Pure),
    ("transport", &["types", "env", "proto"], Waits),
    ("logging", &["types", "env"], Waits),
    ("config", &["types", "logging"], Pure),
    (
        "server",
        &[
            "types",
            "proto",
            "env",
            "wal",
            "raft",
            "store",
            "lease",
            "apply",
            "watch",
            "transport",
            "logging",
            "config",
        ],
        Waits,
    ),
    ("api", &["types", "proto", "env", "server"], Waits),
    ("member", &["types", "env", "config", "server", "api"], Waits),
    ("client", &["types", "proto", "env"], Waits),
    ("check", &["types", "proto"], Pure),
    ("workload", &["types", "proto", "env", "client", "check"], Waits),
    ("cli", &["*"], Waits),
];

/// The world, which code reaches through `env` only. A path here covers everything below it.
const FENCED: [&str; 18] = [
    "std::time::Instant",
    "std::time::SystemTime::now",
    "std::thread",
    "std::env",
    "std::fs",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::os::unix::net",
    "tokio::spawn",
    "tokio::task::spawn",
    "tokio::task::spawn_blocking",
    "tokio::time",
    "tokio::net",
    "tokio::fs",
    "tokio::runtime",
    "rand",
];

/// Who may pass the fence: start of the path in `src/`, what for, and why.
const BEYOND_THE_FENCE: [(&str, &[&str], &str); 5] = [
    ("env/real/", &["*"], "this is where the world begins"),
    ("main.rs", &["*"], "starts the process"),
    ("cli/", &["*"], "commands of a person's terminal, with that person's files and clock"),
    ("logging/", &["std::fs"], "log files open before there is an env, and outlive it"),
    (
        "client/world.rs",
        &["std::time::Instant"],
        "hyper's timer trait counts in this type; the reading is made of the env's clock",
    ),
];

/// Text that says a thing is not done. Split, so that this file does not say it.
const UNFINISHED: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
    concat!("cfg", "(madsim)"),
];

/// Past this a file holds a second idea.
const LINES_MAX: usize = 900;

#[test]
fn modules_use_only_what_the_table_allows() {
    let mut complaints = Vec::new();
    for file in sources("src") {
        let outside = ["lib", "main"].contains(&file.module());
        if row(&file).is_none() && !outside {
            complaints.push(format!("src/{}: {} has no row", file.name, file.module()));
            continue;
        }
        for path in file.paths.iter() {
            complaints.extend(forbidden_use(&file, path));
        }
    }
    none(complaints);
}

#[test]
fn only_the_rim_waits() {
    let mut complaints = Vec::new();
    for file in sources("src") {
        if let Some((_, _, Pure)) = row(&file) {
            let waits =
                |line: &(usize, &str)| words(line.1).any(|word| word == "async" || word == "await");
            let lines = file.code.lines().enumerate().map(|(i, line)| (i + 1, line));
            complaints.extend(lines.filter(waits).map(|(line, _)| {
                format!("src/{}:{line}: {} is synchronous", file.name, file.module())
            }));
        }
    }
    none(complaints);
}

#[test]
fn the_world_is_reached_through_env() {
    let mut complaints = Vec::new();
    for file in sources("src") {
        for path in &file.paths {
            complaints.extend(escape(&file.name, path));
        }
    }
    none(complaints);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut complaints = Vec::new();
    for (root, file) in everywhere() {
        for (index, line) in file.text.lines().enumerate() {
            let said = UNFINISHED.iter().filter(|word| line.contains(*word));
            let place = format!("{root}/{}:{}", file.name, index + 1);
            complaints.extend(said.map(|word| format!("{place}: {word}")));
        }
    }
    none(complaints);
}

/// What the coverage table shows is all there is: a mark that is not in the list would be seen
/// when it is hit, and never be missed.
#[test]
fn the_list_of_marks_is_complete() {
    let files: Vec<Source> =
        sources("src").into_iter().filter(|file| file.name != "env/marks.rs").collect();
    let mut complaints = Vec::new();
    for file in &files {
        for call in file.text.split("mark(").skip(1) {
            let literal = call.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
            let unknown = literal.filter(|(place, _)| !marks::ALL.contains(place));
            complaints.extend(
                unknown.map(|(place, _)| {
                    format!("src/{}: {place:?} is not in env/marks.rs", file.name)
                }),
            );
        }
    }
    for place in marks::ALL {
        let quoted = format!("\"{place}\"");
        if !files.iter().any(|file| file.text.contains(&quoted)) {
            complaints.push(format!("src/env/marks.rs: nothing marks {place:?}"));
        }
    }
    if !marks::ALL.is_sorted() {
        complaints.push("src/env/marks.rs: not sorted".to_owned());
    }
    none(complaints);
}

#[test]
fn every_file_opens_with_what_it_is() {
    let silent = everywhere().into_iter().filter(|(_, file)| !file.text.starts_with("//! "));
    none(silent.map(|(root, file)| format!("{root}/{}: no `//!` at the top", file.name)).collect());
}

#[test]
fn no_file_is_too_long_to_read() {
    let long = everywhere().into_iter().filter(|(_, file)| file.text.lines().count() > LINES_MAX);
    none(
        long.map(|(root, file)| format!("{root}/{}: over {LINES_MAX} lines", file.name)).collect(),
    );
}

fn row(file: &Source) -> Option<&'static (&'static str, &'static [&'static str], Style)> {
    MODULES.iter().find(|(module, _, _)| *module == file.module())
}

fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// A complaint if a reference leads to a module that the table does not allow here.
fn forbidden_use(file: &Source, path: &Reference) -> Option<String> {
    // The crate's root names all modules, and the binary stands outside the crate.
    let (module, allowed, _) = row(file)?;
    let target = file.resolve(path)?;
    let own = target.first().is_some_and(|first| first == module);
    let may = |allowed: &&str| *allowed == "*" || below(&target, allowed);
    let here = own || target.is_empty() || allowed.iter().any(may);
    let place = format!("src/{}:{}", file.name, path.line);
    (!here).then(|| format!("{place}: {module} may not use {}", target.join("::")))
}

/// A complaint if a path leads around `env`.
fn escape(name: &str, path: &Reference) -> Option<String> {
    // A glob over a fenced name imports it too.
    let glob = path.names.last().is_some_and(|last| last == "*");
    let parent = path.names[..path.names.len() - usize::from(glob)].join("::");
    let hit = |word: &&&str| {
        below(&path.names, word)
            || glob && word.strip_prefix(&parent).is_some_and(|rest| rest.starts_with("::"))
    };
    let word = FENCED.iter().find(hit)?;
    let passes = BEYOND_THE_FENCE.iter().any(|(start, words, _)| {
        name.starts_with(start) && (words == &["*"] || words.contains(word))
    });
    (!passes)
        .then(|| format!("src/{name}:{}: {} goes around env", path.line, path.names.join("::")))
}

/// Whether a path is another one or leads below it.
fn below(path: &[String], top: &str) -> bool {
    let top: Vec<&str> = top.split("::").collect();
    path.len() >= top.len() && path.iter().zip(&top).all(|(name, top)| name == top)
}

/// What the rules say about a file with this text.
fn complaints(name: &str, text: &str) -> Vec<String> {
    let file = Source::new(name, text);
    let rules = |path: &Reference| [forbidden_use(&file, path), escape(&file.name, path)];
    file.paths.iter().flat_map(rules).flatten().collect()
}

#[test]
fn the_reader_finds_what_is_forbidden_however_it_is_written() {
    for (name, text) in [
        ("store/x.rs", "use crate::lease::Lessor;"),
        ("store/x.rs", "use crate::{types::{Index, Term}, server::Handle};"),
        ("store/x.rs", "fn f() -> crate::raft::Node { g() }"),
        ("store/mod.rs", "use super::raft;\nfn f() { raft::g() }"),
        ("store/a/b.rs", "use super::super::super::raft::Node;"),
        ("store/x.rs", "const C: char = '\"'; use crate::raft::Node; const D: char = '\"';"),
        ("store/x.rs", "#[cfg(test)]\nuse crate::raft::A;\nuse crate::raft::B;"),
        ("lease/x.rs", "use crate::store::Store;"),
        ("wal/x.rs", "use crate::env::{Disk, Network};"),
        ("wal/x.rs", "use crate::env::*;"),
        ("store/x.rs", "use std::{io, fs::{self, File}};"),
        ("store/x.rs", "use std::time::{Duration, Instant};"),
        ("store/x.rs", "use std::time::*;"),
        ("server/x.rs", "fn f<'a>(x: &'a str) { tokio::spawn(g(x)); }"),
        ("logging/mod.rs", "use std::thread;"),
    ] {
        assert!(!complaints(name, text).is_empty(), "{name}: {text}");
    }
}

#[test]
fn the_reader_lets_pass_what_is_allowed() {
    for (name, text) in [
        ("store/x.rs", "use crate::types::{self, Revision};\nuse super::y; use self::z::A;"),
        ("store/x.rs", "//! See crate::raft::Node.\n/* use crate::raft::Node; /* */ */"),
        ("store/x.rs", "const A: &str = \"crate::raft::Node\"; const B: &str = r#\"\"std::fs\"#;"),
        (
            "store/x.rs",
            "#[cfg(test)]\nmod tests { use crate::raft::Node; fn f() { std::fs::read(); } }",
        ),
        ("store/mod.rs", "mod inner { use super::Thing; }"),
        ("store/x.rs", "use std::time::Duration; use std::net::IpAddr; use std::io;"),
        ("wal/x.rs", "use crate::env::{Disk, File as Handle};"),
        ("env/real/disk.rs", "use std::fs::File;"),
        ("logging/mod.rs", "use std::fs::OpenOptions;"),
        ("cli/x.rs", "use crate::server::Handle; use tokio::time::sleep;"),
        ("lib.rs", "pub mod env; pub use crate::types::Error;"),
    ] {
        assert_eq!(complaints(name, text), Vec::<String>::new(), "{name}: {text}");
    }
}
