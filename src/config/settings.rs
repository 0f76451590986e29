//! The settings of one server, typed, and the rules between them.

use super::arguments::{self, Asked, Notice, Values};
use super::error::ConfigError;
use super::flags::Support;
use super::url::{Scheme, Url};
use super::value::{self, Kind};
use crate::logging::{Format, Level, Options, Output, parse_go_duration};
use crate::types::limits::{QUOTA_BYTES_DEFAULT, REQUEST_BYTES_CEILING};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The longest election timeout etcd takes.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(50);

/// What a command line asks the server program to do.
#[derive(Debug)]
pub enum Request {
    /// Print the help text.
    Help,
    /// Print the version.
    Version,
    /// Run; the notices are to be logged.
    Run(Box<Config>, Vec<Notice>),
}

/// The settings of one server. Fields are named after etcd's flags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Unique in the cluster.
    pub name: String,
    pub data_dir: PathBuf,
    /// Where the log lies if not under `data_dir`.
    pub wal_dir: Option<PathBuf>,
    /// Sorted, each once, at least one; so are the other three.
    pub listen_client_urls: Vec<Url>,
    pub listen_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    pub initial_advertise_peer_urls: Vec<Url>,
    /// `name=url,name=url` as given, or this member alone; see `server::bootstrap`.
    pub initial_cluster: String,
    pub initial_cluster_state: ClusterState,
    /// Enters member and cluster ids.
    pub initial_cluster_token: String,
    /// One Raft tick.
    pub heartbeat_interval: Duration,
    /// Between 5 heartbeats and 50 s.
    pub election_timeout: Duration,
    pub initial_election_tick_advance: bool,
    pub pre_vote: bool,
    pub strict_reconfig_check: bool,
    /// Most learners the cluster may have.
    pub max_learners: u64,
    /// Applied entries after which the log is cut; above 0.
    pub snapshot_count: u64,
    /// Entries kept behind the cut; above 0.
    pub snapshot_catchup_entries: u64,
    /// As given; [`Config::quota_bytes`] says what it means.
    pub quota_backend_bytes: i64,
    /// `--auto-compaction-mode` and `--auto-compaction-retention` in one.
    pub auto_compaction: AutoCompaction,
    /// Revisions removed in one step of a compaction; above 0.
    pub compaction_batch_limit: usize,
    /// Pause between two such steps; above 0.
    pub compaction_sleep_interval: Duration,
    /// How often idle watchers hear of progress; above 0.
    pub watch_progress_notify_interval: Duration,
    /// Execution longer than this is logged.
    pub warning_apply_duration: Duration,
    pub max_txn_ops: usize,
    /// Bytes, at most [`REQUEST_BYTES_CEILING`].
    pub max_request_bytes: usize,
    /// For each client connection.
    pub max_concurrent_streams: u32,
    /// `--log-level`, `--log-format` and `--log-outputs`.
    pub log: Options,
}

/// Whether the cluster begins or is joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterState {
    New,
    Existing,
}

impl ClusterState {
    /// As the flag has it.
    pub fn name(self) -> &'static str {
        match self {
            ClusterState::New => "new",
            ClusterState::Existing => "existing",
        }
    }
}

/// What history is kept without anybody asking for compaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AutoCompaction {
    /// All of it.
    Off,
    /// That of this long; above 0.
    Periodic(Duration),
    /// This many revisions; above 0.
    Revision(i64),
}

impl Default for Config {
    /// etcd's defaults: a cluster of one on localhost.
    fn default() -> Self {
        Config::from_values(&Values::default()).expect("the defaults of the flag table are usable")
    }
}

impl Config {
    /// Reads the arguments after the program's (and the subcommand's) name and the environment,
    /// and checks the result.
    pub fn read(
        arguments: &[String],
        environment: &BTreeMap<String, String>,
    ) -> Result<Request, ConfigError> {
        let (values, mut notices) = match arguments::read(arguments, environment)? {
            Asked::Help => return Ok(Request::Help),
            Asked::Version => return Ok(Request::Version),
            Asked::Values(values, notices) => (values, notices),
        };
        check_support(&values, &mut notices)?;
        if values.is_given("listen-client-urls") && !values.is_given("advertise-client-urls") {
            return Err(ConfigError::invalid(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            )
            .with_hint("give the URLs under which clients reach this member"));
        }
        let config = Config::from_values(&values)?;
        config.check()?;
        Ok(Request::Run(Box::new(config), notices))
    }

    /// The rules a configuration must keep whoever made it.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_urls()?;
        self.check_times()?;
        if self.max_request_bytes > REQUEST_BYTES_CEILING {
            return Err(ConfigError::invalid(format!(
                "--max-request-bytes[{}] is too large, and should be at most \
                 {REQUEST_BYTES_CEILING}",
                self.max_request_bytes
            )));
        }
        // A 0 on the command line means the default; by hand it would mean never, or for ever.
        let positive = [
            ("snapshot-count", self.snapshot_count > 0),
            ("snapshot-catchup-entries", self.snapshot_catchup_entries > 0),
            ("compaction-batch-limit", self.compaction_batch_limit > 0),
            ("compaction-sleep-interval", !self.compaction_sleep_interval.is_zero()),
            ("watch-progress-notify-interval", !self.watch_progress_notify_interval.is_zero()),
        ];
        match positive.into_iter().find(|(_, holds)| !holds) {
            Some((flag, _)) => Err(ConfigError::invalid(format!("--{flag} must be >0"))),
            None => Ok(()),
        }
    }

    /// The size of the store, in bytes, at which writes are refused; `None`: never.
    pub fn quota_bytes(&self) -> Option<u64> {
        match self.quota_backend_bytes {
            0 => Some(u64::try_from(QUOTA_BYTES_DEFAULT).expect("the default quota is positive")),
            bytes => u64::try_from(bytes).ok(),
        }
    }

    /// Heartbeats in an election timeout, rounded down; Raft's unit.
    pub fn election_ticks(&self) -> usize {
        let ticks = self.election_timeout.as_millis() / self.heartbeat_interval.as_millis();
        usize::try_from(ticks).expect("at most 50,000")
    }

    /// Whether nobody chose a name. Two members with the same name confuse people and tools.
    pub fn has_default_name(&self) -> bool {
        self.name == "default"
    }

    fn from_values(values: &Values) -> Result<Config, ConfigError> {
        let name = values.text("name").to_owned();
        let advertised = values.urls("initial-advertise-peer-urls");
        let initial_cluster = if values.is_given("initial-cluster") {
            values.text("initial-cluster").to_owned()
        } else {
            let members: Vec<String> =
                advertised.iter().map(|url| format!("{name}={url}")).collect();
            members.join(",")
        };
        Ok(Config {
            data_dir: values.path("data-dir").unwrap_or_else(|| format!("{name}.etcd").into()),
            wal_dir: values.path("wal-dir"),
            listen_client_urls: values.urls("listen-client-urls"),
            listen_peer_urls: values.urls("listen-peer-urls"),
            advertise_client_urls: values.urls("advertise-client-urls"),
            initial_advertise_peer_urls: advertised,
            initial_cluster,
            initial_cluster_state: match values.text("initial-cluster-state") {
                "existing" => ClusterState::Existing,
                _ => ClusterState::New,
            },
            initial_cluster_token: values.text("initial-cluster-token").to_owned(),
            heartbeat_interval: Duration::from_millis(values.uint("heartbeat-interval")),
            election_timeout: Duration::from_millis(values.uint("election-timeout")),
            initial_election_tick_advance: values.bool("initial-election-tick-advance"),
            pre_vote: values.bool("pre-vote"),
            strict_reconfig_check: values.bool("strict-reconfig-check"),
            max_learners: values.uint("max-learners"),
            snapshot_count: or_if_zero(values.uint("snapshot-count"), 10_000),
            snapshot_catchup_entries: or_if_zero(values.uint("snapshot-catchup-entries"), 5_000),
            quota_backend_bytes: values.int("quota-backend-bytes"),
            auto_compaction: auto_compaction(
                values.text("auto-compaction-mode"),
                values.text("auto-compaction-retention"),
            )?,
            compaction_batch_limit: match values.int("compaction-batch-limit") {
                limit @ 1.. => size(limit.unsigned_abs()),
                _ => 1_000,
            },
            compaction_sleep_interval: or_if_zero(
                values.duration("compaction-sleep-interval"),
                Duration::from_millis(10),
            ),
            watch_progress_notify_interval: or_if_zero(
                values.duration("watch-progress-notify-interval"),
                Duration::from_secs(600),
            ),
            warning_apply_duration: values.duration("warning-apply-duration"),
            max_txn_ops: size(values.uint("max-txn-ops")),
            max_request_bytes: size(values.uint("max-request-bytes")),
            max_concurrent_streams: u32::try_from(values.uint("max-concurrent-streams"))
                .expect("checked against the flag's kind when it was read"),
            log: log_options(values)?,
            name,
        })
    }

    fn check_urls(&self) -> Result<(), ConfigError> {
        let lists = [
            ("listen-peer-urls", &self.listen_peer_urls),
            ("listen-client-urls", &self.listen_client_urls),
            ("initial-advertise-peer-urls", &self.initial_advertise_peer_urls),
            ("advertise-client-urls", &self.advertise_client_urls),
        ];
        for (flag, urls) in lists {
            if urls.is_empty() {
                return Err(ConfigError::invalid(format!("--{flag} must name at least one URL")));
            }
            for url in urls {
                check_scheme(&format!("--{flag}"), url)?;
                if flag.starts_with("listen") && !url.is_bindable() {
                    return Err(ConfigError::invalid(format!(
                        "expected IP in URL for binding ({url})"
                    ))
                    .with_hint(format!("--{flag} takes IP addresses and localhost, no names")));
                }
                if url.host().is_empty() {
                    return Err(ConfigError::invalid(format!(
                        "--{flag} {:?} must be \"host:port\" (unexpected empty host ({url}))",
                        joined(urls)
                    )));
                }
            }
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        let heartbeat = self.heartbeat_interval.as_millis();
        let election = self.election_timeout.as_millis();
        let error = |message| Err(ConfigError::invalid(message));
        if heartbeat == 0 {
            return error(format!("--heartbeat-interval must be >0 (set to {heartbeat}ms)"));
        }
        if election == 0 {
            return error(format!("--election-timeout must be >0 (set to {election}ms)"));
        }
        if 5 * heartbeat > election {
            return error(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as \
                 --heartbeat-interval[{heartbeat}ms]"
            ));
        }
        if self.election_timeout > ELECTION_TIMEOUT_MAX {
            return error(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than {}ms",
                ELECTION_TIMEOUT_MAX.as_millis()
            ));
        }
        Ok(())
    }
}

/// Only plain HTTP is spoken so far; better no start than clear text where TLS was asked for.
/// `place` is where the URL stands, for the error.
pub(crate) fn check_scheme(place: &str, url: &Url) -> Result<(), ConfigError> {
    let missing = match url.scheme() {
        Scheme::Http => return Ok(()),
        Scheme::Https => "TLS is not available yet",
        Scheme::Unix | Scheme::Unixs => "Unix sockets are not available yet",
    };
    Err(ConfigError::invalid(format!("{missing}: {place} has {url}")).with_hint("use http:// URLs"))
}

/// URLs as one text, separated by commas.
fn joined(urls: &[Url]) -> String {
    urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",")
}

/// Refuses flags whose feature is not there, and notes those that change nothing.
fn check_support(values: &Values, notices: &mut Vec<Notice>) -> Result<(), ConfigError> {
    for (flag, value) in values.given() {
        let is_default = match flag.kind {
            Kind::Bool => value::bool(value) == value::bool(flag.default),
            Kind::Duration => value::duration(value) == value::duration(flag.default),
            Kind::Uint
            | Kind::Uint32
            | Kind::Int
            | Kind::Text
            | Kind::Urls
            | Kind::UrlsOrNone
            | Kind::OneOf(_)
            | Kind::Legacy => value == flag.default,
        };
        let given = values.source(flag.name);
        match flag.support {
            Support::Works => {}
            Support::NoEffect(why) => notices.push(Notice::NoEffect { given, why }),
            Support::Missing(_) if is_default => {}
            Support::Missing(feature) => {
                return Err(ConfigError::invalid(format!(
                    "{feature} is not available yet: {given} is set to {value:?}"
                ))
                .with_hint(format!("leave {given} out")));
            }
        }
    }
    Ok(())
}

/// etcd's `parseCompactionRetention`, less its reading of a duration as revisions.
fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, ConfigError> {
    let error = |reason: &str| {
        ConfigError::invalid(format!("error parsing CompactionRetention: {reason}")).with_hint(
            "--auto-compaction-retention is a duration such as 10m, a number of hours, \
                 or, in mode revision, a number of revisions",
        )
    };
    // Go's Atoi: decimal, a sign allowed.
    let number: Option<i64> = retention.parse().ok().filter(|&number| number >= 0);
    match (mode, number) {
        (_, Some(0)) => Ok(AutoCompaction::Off),
        ("revision", Some(revisions)) => Ok(AutoCompaction::Revision(revisions)),
        ("revision", None) => Err(error(&format!("{retention:?} is not a number of revisions"))),
        (_, Some(hours)) => {
            let text = format!("{hours}h");
            parse_go_duration(&text).map(AutoCompaction::Periodic).map_err(|reason| error(&reason))
        }
        (_, None) => match parse_go_duration(retention).map_err(|reason| error(&reason))? {
            Duration::ZERO => Ok(AutoCompaction::Off),
            period => Ok(AutoCompaction::Periodic(period)),
        },
    }
}

fn log_options(values: &Values) -> Result<Options, ConfigError> {
    let logger = values.text("logger");
    if logger != "zap" {
        return Err(ConfigError::invalid(format!("unknown logger option {logger:?}"))
            .with_hint("etcd knows only zap, and so do we"));
    }
    let mut outputs = Vec::new();
    let names: Vec<&str> = values.text("log-outputs").split(',').map(str::trim).collect();
    for name in &names {
        let output = match *name {
            "default" if names.len() > 1 => {
                return Err(ConfigError::invalid(
                    "multi logoutput for \"default\" is not supported yet",
                )
                .with_hint("name stderr instead"));
            }
            "" => return Err(ConfigError::invalid("--log-outputs has an empty entry")),
            "systemd/journal" => {
                return Err(ConfigError::invalid(
                    "the systemd journal is not available yet: --log-outputs has systemd/journal",
                )
                .with_hint("log to stderr; systemd takes it into the journal"));
            }
            "default" | "stderr" => Output::Stderr,
            "stdout" => Output::Stdout,
            path => Output::File(PathBuf::from(path)),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    let level = Level::from_name(values.text("log-level"))
        .expect("checked against the flag's kind when it was read");
    let format = match values.text("log-format") {
        "console" => Format::Console,
        _ => Format::Json,
    };
    Ok(Options { level, format, outputs })
}

fn or_if_zero<T: Default + PartialEq>(value: T, instead: T) -> T {
    if value == T::default() { instead } else { value }
}

/// A count; one that this machine cannot count to is as good as no limit.
fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::flags;
    use super::*;
    use proptest::prelude::*;

    fn read(line: &str) -> Result<(Config, Vec<Notice>), ConfigError> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match Config::read(&arguments, &BTreeMap::new())? {
            Request::Run(config, notices) => Ok((*config, notices)),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn config(line: &str) -> Config {
        read(line).expect(line).0
    }

    fn texts(urls: &[Url]) -> Vec<String> {
        urls.iter().map(Url::to_string).collect()
    }

    #[test]
    fn the_defaults_are_etcds() {
        let config = Config::default();
        assert_eq!(config, self::config(""));
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.name, "default");
        assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
        assert_eq!(config.wal_dir, None);
        assert_eq!(texts(&config.listen_client_urls), ["http://localhost:2379"]);
        assert_eq!(texts(&config.listen_peer_urls), ["http://localhost:2380"]);
        assert_eq!(texts(&config.advertise_client_urls), ["http://localhost:2379"]);
        assert_eq!(texts(&config.initial_advertise_peer_urls), ["http://localhost:2380"]);
        assert_eq!(config.initial_cluster, "default=http://localhost:2380");
        assert_eq!(config.initial_cluster_state, ClusterState::New);
        assert_eq!(config.initial_cluster_token, "etcd-cluster");
        assert_eq!(config.heartbeat_interval, Duration::from_millis(100));
        assert_eq!(config.election_timeout, Duration::from_secs(1));
        assert_eq!(config.election_ticks(), 10);
        assert!(config.initial_election_tick_advance);
        assert!(config.pre_vote && config.strict_reconfig_check);
        assert_eq!(config.max_learners, 1);
        assert_eq!(config.snapshot_count, 10_000);
        assert_eq!(config.snapshot_catchup_entries, 5_000);
        assert_eq!(config.quota_bytes(), Some(2 * 1024 * 1024 * 1024));
        assert_eq!(config.auto_compaction, AutoCompaction::Off);
        assert_eq!(config.compaction_batch_limit, 1_000);
        assert_eq!(config.compaction_sleep_interval, Duration::from_millis(10));
        assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(600));
        assert_eq!(config.warning_apply_duration, Duration::from_millis(100));
        assert_eq!(config.max_txn_ops, 128);
        assert_eq!(config.max_request_bytes, 1_572_864);
        assert_eq!(config.max_concurrent_streams, u32::MAX);
        assert_eq!(config.log, Options::default());
    }

    #[test]
    fn every_working_flag_reaches_its_field() {
        let config = config(
            "--name infra0 --data-dir /d --wal-dir /w \
             --listen-client-urls http://0.0.0.0:1,http://127.0.0.1:1 \
             --advertise-client-urls http://etcd.example:1 --listen-peer-urls http://[::]:2 \
             --initial-advertise-peer-urls http://b:2,http://a:2 --initial-cluster x=http://a:2 \
             --initial-cluster-state existing --initial-cluster-token t --heartbeat-interval 10 \
             --election-timeout 59 --initial-election-tick-advance=false --pre-vote=false \
             --strict-reconfig-check=false --max-learners 3 --snapshot-count 7 \
             --snapshot-catchup-entries 8 --quota-backend-bytes=-1 --auto-compaction-retention 5m \
             --compaction-batch-limit 9 --compaction-sleep-interval 1ms \
             --watch-progress-notify-interval 1s --warning-apply-duration 2s --max-txn-ops 10 \
             --max-request-bytes 11 --max-concurrent-streams 12 --log-level warn \
             --log-format console --log-outputs stdout,/l,stderr,stdout",
        );
        assert_eq!(config.name, "infra0");
        assert_eq!(config.data_dir, PathBuf::from("/d"));
        assert_eq!(config.wal_dir, Some(PathBuf::from("/w")));
        assert_eq!(texts(&config.listen_client_urls), ["http://0.0.0.0:1", "http://127.0.0.1:1"]);
        assert_eq!(texts(&config.advertise_client_urls), ["http://etcd.example:1"]);
        assert_eq!(texts(&config.listen_peer_urls), ["http://[::]:2"]);
        assert_eq!(texts(&config.initial_advertise_peer_urls), ["http://a:2", "http://b:2"]);
        assert_eq!(config.initial_cluster, "x=http://a:2");
        assert_eq!(config.initial_cluster_state, ClusterState::Existing);
        assert_eq!(config.initial_cluster_token, "t");
        assert_eq!(config.heartbeat_interval, Duration::from_millis(10));
        assert_eq!(config.election_ticks(), 5);
        assert!(!config.initial_election_tick_advance);
        assert!(!config.pre_vote && !config.strict_reconfig_check);
        assert_eq!(config.max_learners, 3);
        assert_eq!((config.snapshot_count, config.snapshot_catchup_entries), (7, 8));
        assert_eq!(config.quota_bytes(), None);
        assert_eq!(config.auto_compaction, AutoCompaction::Periodic(Duration::from_secs(300)));
        assert_eq!(config.compaction_batch_limit, 9);
        assert_eq!(config.compaction_sleep_interval, Duration::from_millis(1));
        assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(1));
        assert_eq!(config.warning_apply_duration, Duration::from_secs(2));
        assert_eq!((config.max_txn_ops, config.max_request_bytes), (10, 11));
        assert_eq!(config.max_concurrent_streams, 12);
        assert_eq!(config.log.level, Level::Warn);
        assert_eq!(config.log.format, Format::Console);
        assert_eq!(config.log.outputs, [Output::Stdout, Output::File("/l".into()), Output::Stderr]);
    }

    #[test]
    fn directory_and_cluster_follow_the_name_and_the_advertised_urls() {
        let config = config("--name a --initial-advertise-peer-urls http://b:1,http://a:1");
        assert_eq!(config.data_dir, PathBuf::from("a.etcd"));
        assert_eq!(config.initial_cluster, "a=http://a:1,a=http://b:1");
    }

    #[test]
    fn contradictions_are_refused_in_etcds_words() {
        let table = [
            (
                "--listen-client-urls http://127.0.0.1:1",
                "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            ),
            (
                "--heartbeat-interval 300",
                "--election-timeout[1000ms] should be at least as 5 times as \
                 --heartbeat-interval[300ms]",
            ),
            (
                "--election-timeout 50001",
                "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
            ),
            ("--heartbeat-interval 0", "--heartbeat-interval must be >0 (set to 0ms)"),
            ("--election-timeout 0", "--election-timeout must be >0 (set to 0ms)"),
            (
                "--listen-peer-urls http://etcd.example:1",
                "expected IP in URL for binding (http://etcd.example:1)",
            ),
            (
                "--initial-advertise-peer-urls http://:1",
                "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected \
                 empty host (http://:1))",
            ),
            (
                "--listen-peer-urls https://127.0.0.1:1",
                "TLS is not available yet: --listen-peer-urls has https://127.0.0.1:1",
            ),
            (
                "--advertise-client-urls unix://a:1",
                "Unix sockets are not available yet: --advertise-client-urls has unix://a:1",
            ),
            ("--cert-file a.pem", "TLS is not available yet: --cert-file is set to \"a.pem\""),
            (
                "--client-cert-auth",
                "TLS is not available yet: --client-cert-auth is set to \"true\"",
            ),
            (
                "--config-file etcd.yml",
                "a configuration file is not available yet: --config-file is set to \"etcd.yml\"",
            ),
            (
                "--force-new-cluster",
                "recovery from a lost quorum is not available yet: --force-new-cluster is set to \
                 \"true\"",
            ),
            ("--logger capnslog", "unknown logger option \"capnslog\""),
            (
                "--log-outputs default,stdout",
                "multi logoutput for \"default\" is not supported yet",
            ),
            (
                "--max-request-bytes 33554433",
                "--max-request-bytes[33554433] is too large, and should be at most 33554432",
            ),
            (
                "--auto-compaction-retention foo",
                "error parsing CompactionRetention: time: invalid duration \"foo\"",
            ),
            (
                "--auto-compaction-retention -5",
                "error parsing CompactionRetention: time: missing unit in duration \"-5\"",
            ),
            (
                "--auto-compaction-mode revision --auto-compaction-retention 10m",
                "error parsing CompactionRetention: \"10m\" is not a number of revisions",
            ),
        ];
        for (line, message) in table {
            let error = read(line).expect_err(line);
            assert_eq!(error.to_string(), message);
            assert_eq!(error.exit_code(), 1, "{line}");
        }
    }

    #[test]
    fn a_configuration_made_by_hand_is_checked_too() {
        let broken = [
            Config { snapshot_count: 0, ..Config::default() },
            Config { compaction_sleep_interval: Duration::ZERO, ..Config::default() },
            Config { listen_peer_urls: Vec::new(), ..Config::default() },
            Config { heartbeat_interval: Duration::from_micros(10), ..Config::default() },
        ];
        for config in broken {
            assert!(config.check().is_err(), "{config:?}");
        }
    }

    proptest! {
        /// Words that look like flags and values, in any order, are read or refused.
        #[test]
        fn no_command_line_panics(
            words in proptest::collection::vec(
                prop_oneof![
                    any::<String>(),
                    "--?-?[a-z-]{0,12}=?[0-9a-z:/.,-]{0,12}",
                    proptest::sample::select(flags::all().map(|flag| flag.name).collect::<Vec<_>>())
                        .prop_flat_map(|name| (Just(name), "[0-9a-z:/.,=-]{0,12}"))
                        .prop_map(|(name, value)| format!("--{name}={value}")),
                ],
                0..6,
            ),
            variable in any::<String>(),
        ) {
            let environment = BTreeMap::from([("ETCD_INITIAL_CLUSTER_TOKEN".to_owned(), variable)]);
            let _ = Config::read(&words, &environment);
        }
    }

    #[test]
    fn the_borders_of_the_rules_are_allowed() {
        config("--heartbeat-interval 200");
        config("--election-timeout 50000");
        config("--max-request-bytes 33554432");
    }

    #[test]
    fn retention_is_read_as_in_etcd() {
        let hours = |count: u64| AutoCompaction::Periodic(Duration::from_secs(count * 3_600));
        let table = [
            ("periodic", "0", AutoCompaction::Off),
            ("periodic", "0s", AutoCompaction::Off),
            ("revision", "0", AutoCompaction::Off),
            ("periodic", "1", hours(1)),
            ("periodic", "24h", hours(24)),
            ("periodic", "30m", AutoCompaction::Periodic(Duration::from_secs(1_800))),
            ("revision", "1000", AutoCompaction::Revision(1_000)),
        ];
        for (mode, retention, expected) in table {
            assert_eq!(auto_compaction(mode, retention), Ok(expected), "{mode} {retention}");
        }
        assert!(auto_compaction("periodic", "9223372036854775807").is_err(), "too many hours");
    }

    #[test]
    fn flags_of_missing_features_may_repeat_their_defaults() {
        let line =
            "--client-cert-auth=F --auth-token simple --cors * --compact-hash-check-time 60s";
        assert_eq!(read(line).unwrap().1, []);
    }

    #[test]
    fn flags_without_effect_are_told() {
        let (_, notices) = read("--max-wals 5 --force").unwrap();
        let given: Vec<&str> = notices
            .iter()
            .map(|notice| match notice {
                Notice::NoEffect { given, .. } => given.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(given, ["--force", "--max-wals"]);
    }
}
