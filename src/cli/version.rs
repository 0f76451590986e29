//! What `--version` prints.
//!
//! ```text
//! etcd Version: 3.7.1
//! Git SHA: not recorded
//! Go Version: none
//! Go OS/Arch: linux/amd64
//! Quorate Version: 0.1.0
//! ```
//!
//! The first four lines are etcd's, by label and order, since scripts cut the version out of
//! them: the etcd version is the one whose behaviour is reproduced, and there is no Go in this
//! program. The fifth is our own version.

use crate::types::version::{ETCD, QUORATE};

/// No commit is compiled in.
pub(super) const GIT_SHA: &str = "not recorded";
pub(super) const GO_VERSION: &str = "none";

/// The lines.
pub(super) fn text() -> String {
    format!(
        "etcd Version: {ETCD}\nGit SHA: {GIT_SHA}\nGo Version: {GO_VERSION}\nGo OS/Arch: {}/{}\n\
         Quorate Version: {QUORATE}\n",
        go_os(),
        go_arch(),
    )
}

/// The system, by Go's name.
pub(super) fn go_os() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        os => os,
    }
}

/// The processor, by Go's name.
pub(super) fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        arch => arch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_stands_where_scripts_look_for_it() {
        let text = text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "etcd Version: 3.7.1");
        let labels: Vec<&str> = lines.iter().map(|line| line.split_once(": ").unwrap().0).collect();
        assert_eq!(
            labels,
            ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch", "Quorate Version"]
        );
    }
}
