//! Replays conversations recorded from etcd against the server, through gRPC.
//!
//! `tests/vectors/data/README.md` describes the recordings. Every case starts a server process
//! of its own, on an empty folder, and compares each answer exactly, in both directions; one
//! test is one area. What is not replayed yet stands, with its reason, in the attributes and in
//! the tables below.
//!
//! | Variable | Effect |
//! |---|---|
//! | `QUORATE_CASE=text` | only cases whose name contains the text |
//! | `QUORATE_TEST_SERVER=/path/etcd` | the server to test instead of ours |
//! | `QUORATE_TEST_JOBS=8` | servers at a time |
//!
//! The test of this test is the real etcd, which passes every area:
//! `QUORATE_TEST_SERVER=/path/to/etcd cargo test --test vectors -- --include-ignored`.

// Tests live outside the fence: they drive real processes in real time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod vectors {
    pub mod grpc;
    pub mod json;
    pub mod plain;
    pub mod runner;
    pub mod server;
}

use std::sync::{Arc, LazyLock};
use tokio::sync::Semaphore;
use vectors::runner::Case;

/// Cases our server does not pass yet, and why. The name is the whole name.
const LEFT_OUT: [(&str, &str); 8] = [
    ("member add bad urls", MEMBERS),
    ("member remove unknown", MEMBERS),
    ("member update", MEMBERS),
    ("member promote errors", MEMBERS),
    ("member add duplicate of self update", MEMBERS),
    ("member add several learner urls", MEMBERS),
    ("downgrade enable cancel", DOWNGRADE),
    ("downgrade unknown action", DOWNGRADE),
];

const MEMBERS: &str = "members can be listed but not changed yet";
const DOWNGRADE: &str = "the cluster version cannot be lowered yet";

/// Cases that depend on how the server named by `QUORATE_TEST_SERVER` was built.
const LEFT_OUT_ELSEWHERE: [(&str, &str); 1] = [(
    "status errors with alarm",
    "Go prints a message's text with one space or two between fields, by a hash of the binary",
)];

/// Makes one test of each area. A reason means that the area is not built yet.
macro_rules! areas {
    ($($(#[$attribute:meta])* $area:ident),* $(,)?) => {$(
        #[test]
        $(#[$attribute])*
        fn $area() {
            replay(stringify!($area), include_str!(concat!("vectors/data/", stringify!($area), ".jsonl")));
        }
    )*};
}

areas! {
    put,
    range,
    delete,
    txn,
    compact,
    watch,
    lease,
    maintenance,
    cluster,
    random,
    #[ignore = "users, roles and tokens are not served yet"]
    auth,
    #[ignore = "locks and elections are not served yet, and proto/ lacks their messages"]
    concurrency,
    #[ignore = "the JSON gateway is not served yet"]
    gateway,
    #[ignore = "the health and version pages are not served yet"]
    health,
}

/// Servers at a time, over all areas. Most of a case is waiting for its server to start.
static SLOTS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let jobs = std::env::var("QUORATE_TEST_JOBS").ok().and_then(|text| text.parse().ok());
    Arc::new(Semaphore::new(jobs.unwrap_or(8)))
});

fn replay(area: &str, recording: &str) {
    let wanted = std::env::var("QUORATE_CASE").unwrap_or_default();
    let elsewhere = std::env::var_os("QUORATE_TEST_SERVER").is_some();
    let table: &[(&str, &str)] = if elsewhere { &LEFT_OUT_ELSEWHERE } else { &LEFT_OUT };
    let mut left_out = 0;
    let mut cases: Vec<Case> = recording.lines().map(Case::parse).collect();
    cases.retain(|case| case.name.contains(&wanted));
    cases.retain(|case| match table.iter().find(|(name, _)| *name == case.name) {
        Some((name, reason)) => {
            println!("LEFT OUT {name}: {reason}");
            left_out += 1;
            false
        }
        None => true,
    });
    let count = cases.len();
    let reports = run_all(cases);
    for report in &reports {
        println!("{report}");
    }
    let (passed, failed) = (count - reports.len(), reports.len());
    println!("vectors {area}: {passed} passed, {failed} failed, {left_out} left out");
    assert!(reports.is_empty(), "{failed} of {count} cases failed");
}

/// The failures' reports, in the order of the cases.
fn run_all(cases: Vec<Case>) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.block_on(async {
        let tasks: Vec<_> = (cases.into_iter())
            .map(|case| {
                tokio::spawn(async move {
                    let _slot = SLOTS.acquire().await.expect("never closed");
                    case.run().await.err()
                })
            })
            .collect();
        let mut reports = Vec::new();
        for task in tasks {
            reports.extend(task.await.unwrap_or_else(|panic| Some(format!("FAIL {panic}"))));
        }
        reports
    })
}
