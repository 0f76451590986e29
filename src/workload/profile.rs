//! The kinds of work, by name.

use super::scripts::{self, Script};

/// A kind of work.
#[derive(Debug)]
pub struct Profile {
    pub name: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// What its keys begin with.
    pub prefixes: &'static [&'static str],
    pub(super) script: fn() -> Box<dyn Script>,
}

/// All of them; the last does what all others do.
static PROFILES: [Profile; 9] = [
    Profile {
        name: "register",
        summary: "few keys: put, get, delete, compare-and-swap by value, revision or version",
        prefixes: &["register/"],
        script: || Box::new(scripts::Register::default()),
    },
    Profile {
        name: "append",
        summary: "lists in values, read and appended to in guarded transactions over several keys",
        prefixes: &["append/"],
        script: || Box::new(scripts::Append::default()),
    },
    Profile {
        name: "bank",
        summary: "transfers between accounts in guarded transactions, totals read by one range",
        prefixes: &["bank/"],
        script: || Box::new(scripts::Bank::default()),
    },
    Profile {
        name: "set",
        summary: "keys of their own added and deleted under a prefix that is read whole",
        prefixes: &["set/"],
        script: || Box::new(scripts::Set::default()),
    },
    Profile {
        name: "pages",
        summary: "pages of old revisions, counts, nested transactions, range compares, compaction",
        prefixes: &["pages/"],
        script: || Box::new(scripts::Pages::default()),
    },
    Profile {
        name: "watch",
        summary: "writes of every kind for watchers to follow, in bursts, with compaction",
        prefixes: &["watch/"],
        script: || Box::new(scripts::Watch),
    },
    Profile {
        name: "lease",
        summary: "leases granted, kept alive, revoked or left to die, keys moved between them",
        prefixes: &["lease/"],
        script: || Box::new(scripts::Lease::default()),
    },
    Profile {
        name: "kubernetes",
        summary: "guarded updates, lists by pages, heartbeats, leased events, compaction by key",
        prefixes: &["registry/", "compact_rev_key"],
        script: || Box::new(scripts::Kubernetes::default()),
    },
    Profile {
        name: "mixed",
        summary: "a bit of everything above",
        prefixes: &[
            "register/",
            "append/",
            "bank/",
            "set/",
            "pages/",
            "watch/",
            "lease/",
            "registry/",
            "compact_rev_key",
        ],
        script: || Box::new(scripts::Mixed::default()),
    },
];

/// All kinds of work.
pub fn profiles() -> &'static [Profile] {
    &PROFILES
}

impl Profile {
    /// The kind of work of a name.
    pub fn named(name: &str) -> Option<&'static Profile> {
        PROFILES.iter().find(|profile| profile.name == name)
    }
}
