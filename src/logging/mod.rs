//! Logs: one JSON object a line with etcd's field names, so that pipelines built for etcd work.
//!
//! ```text
//! tracing::warn!("local-member-id" = %id, took = go_duration(t), "slow fdatasync")
//!        │
//!        ▼                  level filter      sampler        text           lock, write, flush
//! LogLayer::on_event ─────────▶ wants() ────▶ admit() ────▶ line() ────────▶ every output
//! Logger::log ────────────────────┘  (config dumps, panic, fatal: what `tracing` has no word for)
//! ```
//!
//! How to write a line:
//!
//! - The message is etcd's where etcd has one (people search for it); field names are etcd's,
//!   written as string literals: `"local-member-id" = %id`. They are output verbatim.
//! - A duration is `go_duration(d)`; a list of strings is `json_list(&urls).as_slice()`.
//! - `target: "raft"` gives the line a `logger` field; without it there is none.
//!
//! Invariants:
//!
//! - One line is one write, so lines of several threads never mix and nothing stays in a buffer
//!   when the process dies.
//! - A log that cannot be written is dropped: a full disk under the logs must not stop a server
//!   whose data lies elsewhere.
//! - A message that repeats is thinned ([`Sampler`]); its volume is bounded whatever happens.
//! - The time comes from a function passed in; only the rim passes the real clock.
//!
//! Left out: spans (nothing here opens one), stack traces (a panic prints its own), rotation
//! (logrotate and journald do it), the systemd journal's own protocol.

mod duration;
mod layer;
mod line;
mod sampler;
mod timestamp;

pub use duration::{go_duration, parse_go_duration};
pub use layer::LogLayer;
pub use line::json_list;
pub use sampler::Sampler;
pub use timestamp::timestamp;

use line::{Fields, Head, line};
use std::fmt;
use std::io::{self, Write};
use std::panic::Location;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tracing_subscriber::layer::SubscriberExt;

/// How grave a line is; later is graver. etcd's names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    /// The process ends by a panic.
    Panic,
    /// The process ends because it cannot go on.
    Fatal,
}

impl Level {
    /// Every level, mildest first.
    pub const ALL: [Level; 6] =
        [Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Panic, Level::Fatal];

    /// As the `level` field and `--log-level` have it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Panic => "panic",
            Level::Fatal => "fatal",
        }
    }

    /// The level of that name.
    pub fn from_name(name: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// What a line looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// One JSON object.
    Json,
    /// Tab separated columns, the fields as JSON in the last.
    Console,
}

impl Format {
    /// As `--log-format` has it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Console => "console",
        }
    }
}

/// Where lines go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    Stderr,
    Stdout,
    /// Appended to; created if it is not there.
    File(PathBuf),
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Stderr => f.write_str("stderr"),
            Output::Stdout => f.write_str("stdout"),
            Output::File(path) => path.display().fmt(f),
        }
    }
}

/// What to log, how and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Lines below it are not written.
    pub level: Level,
    pub format: Format,
    /// Each line goes to every one of them.
    pub outputs: Vec<Output>,
}

impl Default for Options {
    /// etcd's defaults: JSON from level info on to stderr.
    fn default() -> Self {
        Options { level: Level::Info, format: Format::Json, outputs: vec![Output::Stderr] }
    }
}

/// A field's value for [`Logger::log`].
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Text(String),
    Bool(bool),
    Int(i64),
    Uint(u64),
    Texts(Vec<String>),
}

/// Writes log lines. A handle: clones share outputs and sampler.
#[derive(Clone)]
pub struct Logger(Arc<Shared>);

struct Shared {
    level: Level,
    format: Format,
    clock: fn() -> SystemTime,
    sampler: Mutex<Sampler>,
    outputs: Mutex<Vec<Box<dyn Write + Send>>>,
}

impl Logger {
    /// Opens the outputs. Fails if a file cannot be opened for appending.
    pub fn open(options: &Options, clock: fn() -> SystemTime) -> io::Result<Logger> {
        let mut writers = Vec::new();
        for output in &options.outputs {
            writers.push(writer(output).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot open log output {output}: {error}"))
            })?);
        }
        Ok(Logger::new(options.level, options.format, clock, writers))
    }

    /// A logger that writes to the given writers.
    pub fn new(
        level: Level,
        format: Format,
        clock: fn() -> SystemTime,
        writers: Vec<Box<dyn Write + Send>>,
    ) -> Logger {
        Logger(Arc::new(Shared {
            level,
            format,
            clock,
            sampler: Mutex::new(Sampler::new()),
            outputs: Mutex::new(writers),
        }))
    }

    /// Makes this logger the receiver of every `tracing` event, and of the words of a panic,
    /// for the rest of the process. Fails if another one is installed already.
    pub fn install(&self) -> Result<(), tracing::subscriber::SetGlobalDefaultError> {
        let subscriber = tracing_subscriber::registry().with(LogLayer::new(self.clone()));
        tracing::subscriber::set_global_default(subscriber)?;
        let logger = self.clone();
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let payload = panic.payload();
            let message = payload
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("panic without a message");
            let caller = panic.location().map_or_else(String::new, caller);
            logger.write(Level::Panic, None, &caller, message, &Fields::new());
            previous(panic);
        }));
        Ok(())
    }

    /// Writes one line with any number of fields; `caller` is where this was called.
    ///
    /// For what `tracing` cannot say: levels panic and fatal, and more than 32 fields.
    #[track_caller]
    pub fn log(&self, level: Level, message: &str, fields: &[(&str, Value)]) {
        let mut text = Fields::new();
        for (name, value) in fields {
            text.value(name, value);
        }
        self.write(level, None, &caller(Location::caller()), message, &text);
    }

    fn wants(&self, level: Level) -> bool {
        level >= self.0.level
    }

    fn write(
        &self,
        level: Level,
        logger: Option<&str>,
        caller: &str,
        message: &str,
        fields: &Fields,
    ) {
        if !self.wants(level) {
            return;
        }
        let at = (self.0.clock)();
        // A panic elsewhere leaves counters and writers in a usable state: go on.
        if !self.0.sampler.lock().unwrap_or_else(PoisonError::into_inner).admit(at, level, message)
        {
            return;
        }
        let line = line(self.0.format, &Head { level, at, logger, caller, message }, fields);
        let mut outputs = self.0.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        for output in outputs.iter_mut() {
            // Nowhere to report it; see the module's invariants.
            let _ = output.write_all(line.as_bytes()).and_then(|()| output.flush());
        }
    }
}

/// The real files and streams of the process: this is the rim.
#[allow(clippy::disallowed_types, reason = "log files are no part of the simulated world")]
fn writer(output: &Output) -> io::Result<Box<dyn Write + Send>> {
    Ok(match output {
        Output::Stderr => Box::new(io::stderr()),
        Output::Stdout => Box::new(io::stdout()),
        Output::File(path) => {
            Box::new(std::fs::OpenOptions::new().create(true).append(true).open(path)?)
        }
    })
}

fn caller(location: &Location<'_>) -> String {
    format!("{}:{}", short_path(location.file()), location.line())
}

/// The last two components of a source path: `src/server/mod.rs` becomes `server/mod.rs`.
fn short_path(path: &str) -> &str {
    path.rmatch_indices('/').nth(1).map_or(path, |(at, _)| &path[at + 1..])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    /// What was written, shared with the logger that writes it.
    #[derive(Clone, Default)]
    pub(crate) struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Memory {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Memory {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(data)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(crate) fn fixed_clock() -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(1_795_365_444_084_123)
    }

    pub(crate) fn logger(level: Level, format: Format) -> (Logger, Memory) {
        let memory = Memory::default();
        (Logger::new(level, format, fixed_clock, vec![Box::new(memory.clone())]), memory)
    }

    #[test]
    fn a_direct_line_names_its_caller_and_keeps_all_fields() {
        let (logger, memory) = logger(Level::Info, Format::Json);
        let fields: Vec<(String, Value)> =
            (0..40).map(|n| (format!("field-{n}"), Value::Int(n))).collect();
        let fields: Vec<(&str, Value)> =
            fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        logger.log(Level::Fatal, "discovery failed", &fields);
        let line: serde_json::Value = serde_json::from_str(&memory.text()).unwrap();
        assert_eq!(line["level"], "fatal");
        assert_eq!(line["field-39"], 39);
        let caller = line["caller"].as_str().unwrap();
        assert!(caller.starts_with("logging/mod.rs:"), "{caller}");
    }

    #[test]
    fn lines_below_the_level_are_not_written() {
        let (logger, memory) = logger(Level::Error, Format::Json);
        for level in Level::ALL {
            logger.log(level, level.name(), &[]);
        }
        let levels: Vec<String> = memory
            .text()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| line["level"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(levels, ["error", "panic", "fatal"]);
    }

    #[test]
    fn a_storm_of_one_message_is_thinned() {
        let (logger, memory) = logger(Level::Info, Format::Json);
        for _ in 0..1_000 {
            logger.log(Level::Warn, "again", &[]);
        }
        assert_eq!(memory.text().lines().count(), 109);
    }

    #[test]
    fn level_names_read_back() {
        for level in Level::ALL {
            assert_eq!(Level::from_name(level.name()), Some(level));
        }
        assert_eq!(Level::from_name("INFO"), None);
    }

    #[test]
    fn a_file_output_is_appended_to_and_a_bad_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("quorate.log");
        let options = Options { outputs: vec![Output::File(path.clone())], ..Options::default() };
        for message in ["first", "second"] {
            Logger::open(&options, fixed_clock).unwrap().log(Level::Info, message, &[]);
        }
        #[allow(clippy::disallowed_methods, reason = "a test reads the real file")]
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);

        let path = directory.path().join("absent/quorate.log");
        let options = Options { outputs: vec![Output::File(path.clone())], ..options };
        let error = Logger::open(&options, fixed_clock).err().unwrap().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn callers_keep_two_components() {
        assert_eq!(short_path("src/server/mod.rs"), "server/mod.rs");
        assert_eq!(short_path("src/main.rs"), "src/main.rs");
        assert_eq!(short_path("main.rs"), "main.rs");
        assert_eq!(short_path("/a/b/c/d.rs"), "c/d.rs");
    }
}
