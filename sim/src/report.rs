//! How a run went, as data: what a child process hands to the one that started it.

#![allow(dead_code)]

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a run went.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub seed: u64,
    pub scenario: String,
    pub profile: String,
    pub nodes: u8,
    /// Hash of the event trace, and how many events it holds.
    pub trace: u64,
    pub events: u64,
    pub simulated_ms: u64,
    pub real_ms: u64,
    /// Of that, time on a core; what others do on the machine does not count.
    #[serde(default)]
    pub cpu_ms: u64,
    pub calls: u64,
    pub answered: u64,
    /// Of unknown outcome.
    pub unknown: u64,
    pub revisions: u64,
    pub syncs: u64,
    /// The most bytes of memory the whole process had at a time.
    #[serde(default)]
    pub peak_bytes: u64,
    /// How often each kind of fault came to pass.
    pub faults: BTreeMap<String, u64>,
    /// How often each rare place of the product was reached.
    pub marks: BTreeMap<String, u64>,
    /// Why the checker could not decide, if it could not.
    pub undecided: Option<String>,
    /// The rules that were broken, in words; the first is the one to look at.
    pub failures: Vec<Failure>,
}

/// A broken rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// A short, stable name, such as `not linearizable` or `two leaders in a term`: what the
    /// shrinker keeps constant.
    pub rule: String,
    pub text: String,
}
