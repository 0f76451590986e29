//! `quorate server`: from the command line to a running server, and to its orderly end.
//!
//! ```text
//! Config::read ─▶ logging ─▶ notices ─▶ inspect the data directory ─▶ check --initial-cluster
//!                                          │ refused: log why and what to do, exit 1
//!                                          ▼
//!              log the settings ─▶ start(environment, config, stop) ─▶ wait for its end
//!                                          ▲
//!              SIGTERM, SIGINT: log, then stop turns true; a second one: give up at once
//! ```
//!
//! [`run`] knows nothing about the server but that it is a future: it is handed over by `main`.
//! Messages and field names are etcd's, for people who search their logs for them.

use super::signal::Signals;
use super::{print, version, wall_clock};
use crate::config::{self, AutoCompaction, Config, ConfigError, ErrorKind, Notice, Request, Url};
use crate::env::real::Real;
use crate::env::{Disk, Env as _};
use crate::logging::{Level, Logger, Options, Value, go_duration};
use crate::member::{self, MemberError};
use crate::server::bootstrap::{Content, InitialCluster, Paths, inspect};
use crate::types::version::{ETCD, QUORATE};
use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::watch;

/// How the subcommand is called in texts.
pub(super) const PROGRAM: &str = "quorate server";
/// How it is called when the program has etcd's name.
pub(super) const PROGRAM_ETCD: &str = "etcd";

/// Above this etcd warns that requests are larger than it was made for.
const RECOMMENDED_REQUEST_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Why a server ended badly.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Turns true once, when the server is to stop.
pub type Stop = watch::Receiver<bool>;

/// Does what the arguments after the program's name ask for.
pub(super) fn main(
    program: &str,
    arguments: &[String],
    environment: &BTreeMap<String, String>,
) -> ExitCode {
    match Config::read(arguments, environment) {
        Ok(Request::Help) => print(&config::help(program)),
        Ok(Request::Version) => print(&version::text()),
        Ok(Request::Run(config, notices)) => run(*config, &notices, start),
        Err(error) => refuse(program, &error),
    }
}

/// The hand-over point: runs a member until told to stop.
async fn start(environment: Real, config: Config, mut stop: Stop) -> Result<(), Failure> {
    let shutdown = async {
        // An error means that the sender is gone, and with it whoever wanted a server.
        let _ = stop.wait_for(|&stop| stop).await;
    };
    Ok(member::run(environment, &config, shutdown).await?)
}

/// Tells why a command line cannot be used: to the person who typed it, or in the log.
fn refuse(program: &str, error: &ConfigError) -> ExitCode {
    match error.kind() {
        ErrorKind::Usage => {
            eprintln!("{program}: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("{program}: {hint}");
            }
            eprintln!("See '{program} --help'.");
        }
        ErrorKind::Conflict => {
            let fields: Vec<(&str, Value)> = error.hint().map(hint_field).into_iter().collect();
            plain_logger().log(Level::Fatal, &error.to_string(), &fields);
        }
        ErrorKind::Invalid => {
            log_failure(
                &plain_logger(),
                Level::Error,
                "failed to verify flags",
                error,
                error.hint(),
            );
        }
    }
    ExitCode::from(error.exit_code())
}

/// For errors that come before the settings of the log are known or usable.
fn plain_logger() -> Logger {
    Logger::open(&Options::default(), wall_clock).expect("stderr needs no opening")
}

/// Runs a server with these settings until it ends or a signal asks it to.
///
/// `start` gets the real environment, the settings and the word to stop; its future is the
/// server's life. The result is the status of the process.
pub fn run<S, F>(config: Config, notices: &[Notice], start: S) -> ExitCode
where
    S: FnOnce(Real, Config, Stop) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let logger = match Logger::open(&config.log, wall_clock) {
        Ok(logger) => logger,
        Err(error) => {
            log_failure(&plain_logger(), Level::Fatal, "failed to open the log", &error, None);
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = logger.install() {
        log_failure(&logger, Level::Fatal, "failed to install the log", &error, None);
        return ExitCode::FAILURE;
    }
    for notice in notices {
        log_notice(&logger, notice);
    }
    log_warnings(&logger, &config);
    let environment = Real::new();
    if prepare(&logger, environment.disk(), &config).is_err() {
        return ExitCode::FAILURE;
    }
    let ended = Real::run(live(&logger, environment, config, start))
        .unwrap_or_else(|error| Err(format!("cannot start threads: {error}").into()));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let hint = error.downcast_ref().and_then(MemberError::hint);
            log_failure(&logger, Level::Fatal, "server failed", error.as_ref(), hint);
            ExitCode::FAILURE
        }
    }
}

/// What can be refused before anything is opened or bound; the reason is logged.
fn prepare(logger: &Logger, disk: &impl Disk, config: &Config) -> Result<(), Refused> {
    let paths = Paths::new(config);
    let content = inspect(disk, &paths).map_err(|error| {
        log_failure(logger, Level::Fatal, "failed to start etcd", &error, Some(error.hint()));
        Refused
    })?;
    let initial_cluster = match content {
        // From now on the members are known from the data; the flags are as good as not given.
        Content::Ours => {
            let fields = [
                ("data-dir", Value::Text(paths.data_dir().display().to_string())),
                ("dir-type", Value::Text("member".to_owned())),
            ];
            logger.log(Level::Info, "server has been already initialized", &fields);
            String::new()
        }
        Content::Nothing => match InitialCluster::from_config(config) {
            Ok(cluster) => cluster.text(),
            Err(error) => {
                log_failure(logger, Level::Fatal, "failed to start etcd", &error, error.hint());
                return Err(Refused);
            }
        },
    };
    let settings = settings(config, &paths, content, initial_cluster);
    logger.log(Level::Info, "starting an etcd server", &settings);
    Ok(())
}

/// The server shall not start; why stands in the log.
struct Refused;

/// The server's life, from its start to its end by itself or by a signal.
async fn live<S, F>(
    logger: &Logger,
    environment: Real,
    config: Config,
    start: S,
) -> Result<(), Failure>
where
    S: FnOnce(Real, Config, Stop) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let mut signals = Signals::listen()?;
    let (stop, stopped) = watch::channel(false);
    let identity = identity(&config);
    let mut server = pin!(start(environment, config, stopped));
    // A server that has ended needs no stopping, so it is looked at first.
    let signal = tokio::select! {
        biased;
        ended = &mut server => return ended,
        signal = signals.next() => signal,
    };
    let fields = [("signal", Value::Text(signal.to_string()))];
    logger.log(Level::Info, "received signal; shutting down", &fields);
    logger.log(Level::Info, "closing etcd server", &identity);
    stop.send_replace(true);
    tokio::select! {
        biased;
        ended = &mut server => ended?,
        signal = signals.next() => {
            return Err(format!("received {signal} while shutting down; giving up").into());
        }
    }
    logger.log(Level::Info, "closed etcd server", &identity);
    Ok(())
}

fn hint_field(hint: &str) -> (&'static str, Value) {
    ("hint", Value::Text(hint.to_owned()))
}

#[track_caller]
fn log_failure(
    logger: &Logger,
    level: Level,
    message: &str,
    error: &dyn Error,
    hint: Option<&str>,
) {
    let mut fields = vec![("error", Value::Text(error.to_string()))];
    fields.extend(hint.map(hint_field));
    logger.log(level, message, &fields);
}

fn log_notice(logger: &Logger, notice: &Notice) {
    let text = |text: &str| Value::Text(text.to_owned());
    match notice {
        Notice::VariableUsed { variable, value } => logger.log(
            Level::Info,
            "recognized and used environment variable",
            &[("variable-name", text(variable)), ("variable-value", text(value))],
        ),
        Notice::VariableUnknown { variable } => logger.log(
            Level::Warn,
            "unrecognized environment variable",
            &[("environment-variable", text(variable))],
        ),
        Notice::OldSpelling { given, now } => logger.log(
            Level::Warn,
            "this spelling was removed in etcd 3.7",
            &[("given", text(given)), ("use-instead", text(&format!("--{now}")))],
        ),
        Notice::NoEffect { given, why } => {
            logger.log(
                Level::Warn,
                "flag has no effect",
                &[("flag", text(given)), ("reason", text(why))],
            );
        }
    }
}

fn log_warnings(logger: &Logger, config: &Config) {
    if config.has_default_name() {
        logger.log(
            Level::Warn,
            "it isn't recommended to use default name, please set a value for --name. Note that \
             etcd might run into issue when multiple members have the same default name",
            &[("name", Value::Text(config.name.clone()))],
        );
    }
    if config.max_request_bytes > RECOMMENDED_REQUEST_BYTES_MAX {
        logger.log(
            Level::Warn,
            "exceeded recommended request limit",
            &[
                ("max-request-bytes", count(config.max_request_bytes)),
                ("recommended-request-bytes", count(RECOMMENDED_REQUEST_BYTES_MAX)),
            ],
        );
    }
}

/// Which server this is, for the lines about its end.
fn identity(config: &Config) -> Vec<(&'static str, Value)> {
    vec![
        ("name", Value::Text(config.name.clone())),
        ("data-dir", Value::Text(config.data_dir.display().to_string())),
        ("advertise-peer-urls", texts(&config.initial_advertise_peer_urls)),
        ("advertise-client-urls", texts(&config.advertise_client_urls)),
    ]
}

/// All settings under etcd's field names. Settings of etcd that we lack are left out.
fn settings(
    config: &Config,
    paths: &Paths,
    content: Content,
    initial_cluster: String,
) -> Vec<(&'static str, Value)> {
    let text = |text: &str| Value::Text(text.to_owned());
    let duration = |duration: Duration| Value::Text(go_duration(duration));
    let processors = count(std::thread::available_parallelism().map_or(1, usize::from));
    let wal_dir = config.wal_dir.as_ref().map_or_else(String::new, |dir| dir.display().to_string());
    let (mode, retention) = match config.auto_compaction {
        AutoCompaction::Off => ("periodic", go_duration(Duration::ZERO)),
        AutoCompaction::Periodic(period) => ("periodic", go_duration(period)),
        AutoCompaction::Revision(revisions) => ("revision", revisions.to_string()),
    };
    let quota = config.quota_bytes().map_or(Value::Int(config.quota_backend_bytes), Value::Uint);
    vec![
        ("etcd-version", text(ETCD)),
        ("quorate-version", text(QUORATE)),
        ("git-sha", text(version::GIT_SHA)),
        ("go-version", text(version::GO_VERSION)),
        ("go-os", text(version::go_os())),
        ("go-arch", text(version::go_arch())),
        ("max-cpu-set", processors.clone()),
        ("max-cpu-available", processors),
        ("member-initialized", Value::Bool(content == Content::Ours)),
        ("name", text(&config.name)),
        ("data-dir", text(&config.data_dir.display().to_string())),
        ("wal-dir", text(&wal_dir)),
        ("wal-dir-dedicated", text(&wal_dir)),
        ("member-dir", text(&paths.member_dir().display().to_string())),
        ("force-new-cluster", Value::Bool(false)),
        ("heartbeat-interval", duration(config.heartbeat_interval)),
        ("election-timeout", duration(config.election_timeout)),
        ("initial-election-tick-advance", Value::Bool(config.initial_election_tick_advance)),
        ("snapshot-count", Value::Uint(config.snapshot_count)),
        ("snapshot-catchup-entries", Value::Uint(config.snapshot_catchup_entries)),
        ("initial-advertise-peer-urls", texts(&config.initial_advertise_peer_urls)),
        ("listen-peer-urls", texts(&config.listen_peer_urls)),
        ("advertise-client-urls", texts(&config.advertise_client_urls)),
        ("listen-client-urls", texts(&config.listen_client_urls)),
        ("initial-cluster", Value::Text(initial_cluster)),
        ("initial-cluster-state", text(config.initial_cluster_state.name())),
        ("initial-cluster-token", text(&config.initial_cluster_token)),
        ("quota-backend-bytes", quota),
        ("max-txn-ops", count(config.max_txn_ops)),
        ("max-request-bytes", count(config.max_request_bytes)),
        ("max-concurrent-streams", Value::Uint(config.max_concurrent_streams.into())),
        ("max-learners", Value::Uint(config.max_learners)),
        ("pre-vote", Value::Bool(config.pre_vote)),
        ("strict-reconfig-check", Value::Bool(config.strict_reconfig_check)),
        ("auto-compaction-mode", text(mode)),
        ("auto-compaction-retention", Value::Text(retention)),
        ("compaction-batch-limit", count(config.compaction_batch_limit)),
        ("compaction-sleep-interval", duration(config.compaction_sleep_interval)),
        ("watch-progress-notify-interval", duration(config.watch_progress_notify_interval)),
        ("warning-apply-duration", duration(config.warning_apply_duration)),
    ]
}

fn texts(urls: &[Url]) -> Value {
    Value::Texts(urls.iter().map(Url::to_string).collect())
}

fn count(count: usize) -> Value {
    Value::Uint(u64::try_from(count).expect("no machine counts beyond 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_are_logged_under_etcds_names() {
        let config = Config::default();
        let settings =
            settings(&config, &Paths::new(&config), Content::Nothing, "a=http://a:1".to_owned());
        let find = |name: &str| &settings.iter().find(|(field, _)| *field == name).expect(name).1;
        let text = |text: &str| Value::Text(text.to_owned());
        let urls = |url: &str| Value::Texts(vec![url.to_owned()]);
        assert_eq!(settings[0], ("etcd-version", text("3.7.1")));
        assert_eq!(*find("member-initialized"), Value::Bool(false));
        assert_eq!(*find("member-dir"), text("default.etcd/member"));
        assert_eq!(*find("heartbeat-interval"), text("100ms"));
        assert_eq!(*find("election-timeout"), text("1s"));
        assert_eq!(*find("listen-client-urls"), urls("http://localhost:2379"));
        assert_eq!(*find("initial-cluster"), text("a=http://a:1"));
        assert_eq!(*find("quota-backend-bytes"), Value::Uint(2_147_483_648));
        assert_eq!(*find("auto-compaction-retention"), text("0s"));
        assert_eq!(*find("wal-dir"), text(""));
    }

    #[test]
    fn each_setting_is_logged_once() {
        let config = Config::default();
        let settings = settings(&config, &Paths::new(&config), Content::Ours, String::new());
        for (index, (name, _)) in settings.iter().enumerate() {
            assert!(settings[..index].iter().all(|(other, _)| other != name), "{name}");
        }
    }
}
