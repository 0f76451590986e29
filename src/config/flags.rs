//! The flag table: every flag of etcd 3.7, what it takes, its default, and what we do with it.
//!
//! One table feeds the parser, the environment variables, the help text and the suggestions, so
//! that a flag cannot be known to one of them and not to another. Each row says how much the flag
//! means here ([`Support`]), because scripts written for etcd should start Quorate unchanged where
//! that is honest, and must not start it where a flag's promise would silently be broken:
//!
//! | support | given | example |
//! |---|---|---|
//! | `Works` | does what it does in etcd | `--name` |
//! | `NoEffect` | starts, with a warning that says why nothing changes | `--max-wals` |
//! | `Missing` | refused, unless the value is the default | `--client-cert-auth` |
//!
//! Documentation texts are ours. A default of `""` for a number means that the text after it says
//! what happens.

use super::value::Kind;

/// One flag.
#[derive(Debug)]
pub struct Flag {
    /// As after the dashes.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The value when not given, in the form one would give it.
    pub default: &'static str,
    pub support: Support,
    /// For the help text.
    pub doc: &'static str,
}

/// How much of a flag's meaning there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Support {
    Works,
    /// Harmless to ignore, for this reason.
    NoEffect(&'static str),
    /// Would change behaviour, by this feature that is not there yet.
    Missing(&'static str),
}

/// Flags that belong together in the help text.
#[derive(Debug)]
pub struct Group {
    pub title: &'static str,
    pub flags: &'static [Flag],
}

const fn flag(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Flag {
    Flag { name, kind, default, support: Support::Works, doc }
}

const fn no_effect(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    why: &'static str,
) -> Flag {
    Flag { name, kind, default, support: Support::NoEffect(why), doc: why }
}

const fn missing(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    feature: &'static str,
) -> Flag {
    Flag { name, kind, default, support: Support::Missing(feature), doc: feature }
}

const BBOLT: &str = "there is no bbolt underneath";
const RETENTION: &str = "log and snapshot files are removed once nothing needs them";
const SOCKETS: &str = "sockets are opened with the system's defaults";
const V2_STORE: &str = "there is no v2 store to migrate from";
const LEGACY: &str = "etcd ignores it, too";

const AUTH: &str = "authentication";
const CORRUPTION: &str = "the corruption check";
const DISCOVERY: &str = "cluster discovery";
const FILE: &str = "a configuration file";
const GATES: &str = "feature gates";
const KEEPALIVE: &str = "configurable gRPC keepalive";
const METRICS: &str = "a choice of metrics";
const ORIGINS: &str = "the check of origins and host names";
const PROFILING: &str = "profiling over HTTP";
const ROTATION: &str = "log rotation";
const TLS: &str = "TLS";
const TRACING: &str = "distributed tracing";

/// Every flag, grouped as people look for them.
pub const GROUPS: &[Group] = &[
    Group {
        title: "Member",
        flags: &[
            flag("name", Kind::Text, "default", "Name of this member, unique in the cluster."),
            flag("data-dir", Kind::Text, "", "Directory for all data. Default: '<name>.etcd'."),
            flag(
                "wal-dir",
                Kind::Text,
                "",
                "Directory for the log, if it shall lie on another disk than the rest.",
            ),
            flag(
                "listen-client-urls",
                Kind::Urls,
                "http://localhost:2379",
                "Where to accept clients: IP addresses or localhost, separated by commas.",
            ),
            flag(
                "listen-peer-urls",
                Kind::Urls,
                "http://localhost:2380",
                "Where to accept other members: IP addresses or localhost.",
            ),
            flag(
                "heartbeat-interval",
                Kind::Uint,
                "100",
                "Milliseconds between two heartbeats of the leader.",
            ),
            flag(
                "election-timeout",
                Kind::Uint,
                "1000",
                "Milliseconds without a leader before an election; at least 5 heartbeats.",
            ),
            flag(
                "initial-election-tick-advance",
                Kind::Bool,
                "true",
                "Shorten the wait for the first election after the start.",
            ),
            flag(
                "quota-backend-bytes",
                Kind::Int,
                "0",
                "Size of the store at which writes are refused. 0: 2 GiB; below 0: no quota.",
            ),
            flag(
                "max-txn-ops",
                Kind::Uint,
                "128",
                "Operations allowed in one list of a transaction.",
            ),
            flag("max-request-bytes", Kind::Uint, "1572864", "Largest request of a client."),
            flag(
                "max-concurrent-streams",
                Kind::Uint32,
                "4294967295",
                "Streams one client connection may have open at a time.",
            ),
            flag(
                "snapshot-count",
                Kind::Uint,
                "10000",
                "Applied log entries after which the log is cut.",
            ),
            flag(
                "snapshot-catchup-entries",
                Kind::Uint,
                "5000",
                "Log entries kept behind such a cut for slow followers.",
            ),
        ],
    },
    Group {
        title: "Clustering",
        flags: &[
            flag(
                "advertise-client-urls",
                Kind::Urls,
                "http://localhost:2379",
                "Where clients reach this member. Must be given when --listen-client-urls is.",
            ),
            flag(
                "initial-advertise-peer-urls",
                Kind::Urls,
                "http://localhost:2380",
                "Where other members reach this one.",
            ),
            flag(
                "initial-cluster",
                Kind::Text,
                "",
                "All members at the first start: 'name=url,name=url'. Default: this member alone.",
            ),
            flag(
                "initial-cluster-state",
                Kind::OneOf(&["new", "existing"]),
                "new",
                "'existing' to join a cluster that has already added this member.",
            ),
            flag(
                "initial-cluster-token",
                Kind::Text,
                "etcd-cluster",
                "Makes the ids of clusters differ that have equal URLs.",
            ),
            flag(
                "strict-reconfig-check",
                Kind::Bool,
                "true",
                "Refuse membership changes that would cost the quorum.",
            ),
            flag("pre-vote", Kind::Bool, "true", "Ask whether an election could be won first."),
            flag("max-learners", Kind::Uint, "1", "Learners allowed in the cluster."),
        ],
    },
    Group {
        title: "Compaction and watches",
        flags: &[
            flag(
                "auto-compaction-mode",
                Kind::OneOf(&["periodic", "revision"]),
                "periodic",
                "Whether history is kept for a time or for a number of revisions.",
            ),
            flag(
                "auto-compaction-retention",
                Kind::Text,
                "0",
                "How much history to keep: '10m', '24h', a number of hours, or of revisions. 0: all.",
            ),
            flag(
                "compaction-batch-limit",
                Kind::Int,
                "0",
                "Revisions removed in one step of a compaction. 0: 1000.",
            ),
            flag(
                "compaction-sleep-interval",
                Kind::Duration,
                "0s",
                "Pause between two such steps. 0: 10ms.",
            ),
            flag(
                "watch-progress-notify-interval",
                Kind::Duration,
                "0s",
                "How often idle watches that asked for it hear of progress. 0: 10m.",
            ),
            flag(
                "warning-apply-duration",
                Kind::Duration,
                "100ms",
                "Log requests whose execution takes longer.",
            ),
        ],
    },
    Group {
        title: "Logging",
        flags: &[
            flag(
                "log-level",
                Kind::OneOf(&["debug", "info", "warn", "error", "panic", "fatal"]),
                "info",
                "Least level to log.",
            ),
            flag(
                "log-format",
                Kind::OneOf(&["json", "console"]),
                "json",
                "One JSON object a line, or columns for eyes.",
            ),
            flag(
                "log-outputs",
                Kind::Text,
                "default",
                "Where to log: 'stderr' (the default), 'stdout', file paths, separated by commas.",
            ),
            flag("logger", Kind::Text, "zap", "Only 'zap', for etcd's sake."),
        ],
    },
    Group {
        title: "Other",
        flags: &[flag("version", Kind::Bool, "false", "Print the version and exit.")],
    },
    Group {
        title: "Accepted without effect",
        flags: &[
            no_effect("max-snapshots", Kind::Uint, "5", RETENTION),
            no_effect("max-wals", Kind::Uint, "5", RETENTION),
            no_effect("memory-mlock", Kind::Bool, "false", BBOLT),
            no_effect("backend-bbolt-freelist-type", Kind::OneOf(&["array", "map"]), "map", BBOLT),
            no_effect("backend-batch-interval", Kind::Duration, "0s", BBOLT),
            no_effect("backend-batch-limit", Kind::Int, "0", BBOLT),
            no_effect("bootstrap-defrag-threshold-megabytes", Kind::Uint, "0", BBOLT),
            no_effect("socket-reuse-port", Kind::Bool, "false", SOCKETS),
            no_effect("socket-reuse-address", Kind::Bool, "false", SOCKETS),
            no_effect("raft-read-timeout", Kind::Duration, "5s", "peers speak a protocol of ours"),
            no_effect("raft-write-timeout", Kind::Duration, "5s", "peers speak a protocol of ours"),
            no_effect(
                "v2-deprecation",
                Kind::OneOf(&[
                    "not-yet",
                    "write-only",
                    "write-only-skip-check",
                    "write-only-drop-data",
                    "gone",
                ]),
                "write-only",
                V2_STORE,
            ),
            no_effect(
                "downgrade-check-time",
                Kind::Duration,
                "5s",
                "there is nothing to downgrade",
            ),
            no_effect(
                "warning-unary-request-duration",
                Kind::Duration,
                "300ms",
                "slow requests are told by --warning-apply-duration",
            ),
            no_effect("unsafe-no-fsync", Kind::Bool, "false", "data is always synced"),
            no_effect("cluster-active-size", Kind::Legacy, "", LEGACY),
            no_effect("cluster-remove-delay", Kind::Legacy, "", LEGACY),
            no_effect("cluster-sync-interval", Kind::Legacy, "", LEGACY),
            no_effect("config", Kind::Legacy, "", LEGACY),
            no_effect("force", Kind::Legacy, "", LEGACY),
            no_effect("max-result-buffer", Kind::Legacy, "", LEGACY),
            no_effect("max-retry-attempts", Kind::Legacy, "", LEGACY),
            no_effect("peer-heartbeat-interval", Kind::Legacy, "", LEGACY),
            no_effect("peer-election-timeout", Kind::Legacy, "", LEGACY),
            no_effect("retry-interval", Kind::Legacy, "", LEGACY),
            no_effect("snapshot", Kind::Legacy, "", LEGACY),
            no_effect("v", Kind::Legacy, "", LEGACY),
            no_effect("vv", Kind::Legacy, "", LEGACY),
            no_effect("test.coverprofile", Kind::Legacy, "", LEGACY),
            no_effect("test.outputdir", Kind::Legacy, "", LEGACY),
        ],
    },
    Group {
        title: "Not available yet",
        flags: &[
            missing("config-file", Kind::Text, "", FILE),
            missing("listen-client-http-urls", Kind::UrlsOrNone, "", "a port for HTTP alone"),
            missing("listen-metrics-urls", Kind::UrlsOrNone, "", "a port for metrics alone"),
            missing("enable-grpc-gateway", Kind::Bool, "true", "switching the JSON API off"),
            missing("grpc-keepalive-min-time", Kind::Duration, "5s", KEEPALIVE),
            missing("grpc-keepalive-interval", Kind::Duration, "2h0m0s", KEEPALIVE),
            missing("grpc-keepalive-timeout", Kind::Duration, "20s", KEEPALIVE),
            missing("feature-gates", Kind::Text, "", GATES),
            missing("discovery-token", Kind::Text, "", DISCOVERY),
            missing("discovery-endpoints", Kind::Text, "", DISCOVERY),
            missing("discovery-dial-timeout", Kind::Duration, "2s", DISCOVERY),
            missing("discovery-request-timeout", Kind::Duration, "5s", DISCOVERY),
            missing("discovery-keepalive-time", Kind::Duration, "2s", DISCOVERY),
            missing("discovery-keepalive-timeout", Kind::Duration, "6s", DISCOVERY),
            missing("discovery-insecure-transport", Kind::Bool, "true", DISCOVERY),
            missing("discovery-insecure-skip-tls-verify", Kind::Bool, "false", DISCOVERY),
            missing("discovery-cert", Kind::Text, "", DISCOVERY),
            missing("discovery-key", Kind::Text, "", DISCOVERY),
            missing("discovery-cacert", Kind::Text, "", DISCOVERY),
            missing("discovery-user", Kind::Text, "", DISCOVERY),
            missing("discovery-password", Kind::Text, "", DISCOVERY),
            missing("discovery-fallback", Kind::OneOf(&["exit", "proxy"]), "exit", DISCOVERY),
            missing("discovery-srv", Kind::Text, "", DISCOVERY),
            missing("discovery-srv-name", Kind::Text, "", DISCOVERY),
            missing("cert-file", Kind::Text, "", TLS),
            missing("key-file", Kind::Text, "", TLS),
            missing("client-cert-file", Kind::Text, "", TLS),
            missing("client-key-file", Kind::Text, "", TLS),
            missing("client-cert-auth", Kind::Bool, "false", TLS),
            missing("client-crl-file", Kind::Text, "", TLS),
            missing("client-cert-allowed-hostname", Kind::Text, "", TLS),
            missing("trusted-ca-file", Kind::Text, "", TLS),
            missing("auto-tls", Kind::Bool, "false", TLS),
            missing("peer-cert-file", Kind::Text, "", TLS),
            missing("peer-key-file", Kind::Text, "", TLS),
            missing("peer-client-cert-file", Kind::Text, "", TLS),
            missing("peer-client-key-file", Kind::Text, "", TLS),
            missing("peer-client-cert-auth", Kind::Bool, "false", TLS),
            missing("peer-trusted-ca-file", Kind::Text, "", TLS),
            missing("peer-cert-allowed-cn", Kind::Text, "", TLS),
            missing("peer-cert-allowed-hostname", Kind::Text, "", TLS),
            missing("peer-auto-tls", Kind::Bool, "false", TLS),
            missing("peer-crl-file", Kind::Text, "", TLS),
            missing("peer-skip-client-san-verification", Kind::Bool, "false", TLS),
            missing("self-signed-cert-validity", Kind::Uint, "1", TLS),
            missing("cipher-suites", Kind::Text, "", TLS),
            missing("tls-min-version", Kind::Text, "TLS1.2", TLS),
            missing("tls-max-version", Kind::Text, "", TLS),
            missing("cors", Kind::Text, "*", ORIGINS),
            missing("host-whitelist", Kind::Text, "*", ORIGINS),
            missing("auth-token", Kind::Text, "simple", AUTH),
            missing("bcrypt-cost", Kind::Uint, "10", AUTH),
            missing("auth-token-ttl", Kind::Uint, "300", AUTH),
            missing("enable-pprof", Kind::Bool, "false", PROFILING),
            missing("metrics", Kind::OneOf(&["basic", "extensive"]), "basic", METRICS),
            missing("enable-log-rotation", Kind::Bool, "false", ROTATION),
            missing(
                "log-rotation-config-json",
                Kind::Text,
                "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \
                 \"compress\": false}",
                ROTATION,
            ),
            missing("enable-distributed-tracing", Kind::Bool, "false", TRACING),
            missing("distributed-tracing-address", Kind::Text, "localhost:4317", TRACING),
            missing("distributed-tracing-service-name", Kind::Text, "etcd", TRACING),
            missing("distributed-tracing-instance-id", Kind::Text, "", TRACING),
            missing("distributed-tracing-sampling-rate", Kind::Uint, "0", TRACING),
            missing("corrupt-check-time", Kind::Duration, "0s", CORRUPTION),
            missing("compact-hash-check-time", Kind::Duration, "1m0s", CORRUPTION),
            missing("force-new-cluster", Kind::Bool, "false", "recovery from a lost quorum"),
        ],
    },
];

/// Flags that up to etcd 3.6 had a spelling with `experimental-` in front.
const ONCE_EXPERIMENTAL: &[&str] = &[
    "bootstrap-defrag-threshold-megabytes",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "corrupt-check-time",
    "distributed-tracing-address",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "distributed-tracing-service-name",
    "downgrade-check-time",
    "enable-distributed-tracing",
    "max-learners",
    "memory-mlock",
    "peer-skip-client-san-verification",
    "snapshot-catchup-entries",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "watch-progress-notify-interval",
];

/// Every flag of the table.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|group| group.flags)
}

/// The flag of that name; also by its `experimental-` spelling if it once had one.
pub fn find(name: &str) -> Option<&'static Flag> {
    let name = match name.strip_prefix("experimental-") {
        Some(stable) if ONCE_EXPERIMENTAL.contains(&stable) => stable,
        Some(_) | None => name,
    };
    all().find(|flag| flag.name == name)
}

impl Flag {
    /// The environment variable that sets it: `ETCD_LISTEN_CLIENT_URLS`.
    pub fn variable(&self) -> String {
        format!("ETCD_{}", self.name.to_uppercase().replace('-', "_"))
    }
}

/// The known flag a mistyped name most likely meant, if any comes near.
pub fn nearest(name: &str) -> Option<&'static Flag> {
    let name = name.strip_prefix("experimental-").unwrap_or(name);
    let current = || all().filter(|flag| flag.kind != Kind::Legacy);
    // `--advertise-peer-urls`: far by letters, near by words.
    let tail = current().find(|flag| name.len() >= 6 && flag.name.ends_with(name));
    tail.or_else(|| {
        let (distance, flag) = current()
            .map(|flag| (edit_distance(name, flag.name), flag))
            .min_by_key(|(distance, flag)| (*distance, flag.name))?;
        (distance <= (name.len() / 3).max(2)).then_some(flag)
    })
}

/// Letters to insert, remove or replace to make one name of the other (Levenshtein).
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_consistent() {
        let names: Vec<&str> = all().map(|flag| flag.name).collect();
        assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len(), "a name twice");
        for flag in all() {
            assert!(!flag.doc.is_empty(), "{}", flag.name);
            assert!(flag.kind.check(flag.default).is_ok(), "default of {}", flag.name);
        }
        for group in GROUPS {
            // The help text takes the first flag for the group.
            let support = std::mem::discriminant(&group.flags[0].support);
            for flag in group.flags {
                assert_eq!(std::mem::discriminant(&flag.support), support, "{}", flag.name);
            }
        }
        for name in ONCE_EXPERIMENTAL {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn variables_are_named_as_in_etcd() {
        let flag = find("listen-client-urls").unwrap();
        assert_eq!(flag.variable(), "ETCD_LISTEN_CLIENT_URLS");
    }

    #[test]
    fn once_experimental_flags_are_found_and_others_are_not() {
        assert_eq!(find("experimental-max-learners").unwrap().name, "max-learners");
        assert!(find("experimental-name").is_none());
        assert!(find("enable-v2").is_none());
    }

    #[test]
    fn mistyped_names_find_the_flag_that_was_meant() {
        let table = [
            ("listen-client-url", Some("listen-client-urls")),
            ("listen_client_urls", Some("listen-client-urls")),
            ("nmae", Some("name")),
            ("nam", Some("name")),
            ("data-dri", Some("data-dir")),
            ("advertise-peer-urls", Some("initial-advertise-peer-urls")),
            ("experimental-initial-cluster", Some("initial-cluster")),
            ("heartbeat", None),
            ("listen-clients-urls", Some("listen-client-urls")),
            ("zzz", None),
            ("", None),
        ];
        for (typed, meant) in table {
            assert_eq!(nearest(typed).map(|flag| flag.name), meant, "{typed}");
        }
    }

    #[test]
    fn edit_distances() {
        for (from, to, distance) in
            [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("flaw", "lawn", 2)]
        {
            assert_eq!(edit_distance(from, to), distance);
            assert_eq!(edit_distance(to, from), distance);
        }
    }
}
