//! From `tracing` events to log lines.
//!
//! What a `tracing` event becomes:
//!
//! | event | line |
//! |---|---|
//! | level `TRACE` | `debug`: etcd has nothing below it |
//! | target other than the module's path | `logger` |
//! | field recorded as bytes | JSON as it is (see [`super::json_list`]) |
//! | integer, bool, float | a JSON number or boolean |
//! | anything else | a string |
//!
//! Other crates' events pass only from level warn on, whatever `--log-level` says: at debug an
//! HTTP/2 library logs each frame.

use super::{Fields, Level, Logger, short_path};
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// A `tracing` layer that hands every event to a [`Logger`].
pub struct LogLayer {
    logger: Logger,
}

impl LogLayer {
    /// A layer that writes through `logger`.
    pub fn new(logger: Logger) -> LogLayer {
        LogLayer { logger }
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let level = level(metadata);
        self.logger.wants(level) && (is_ours(metadata) || level >= Level::Warn)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut words = Words { message: String::new(), fields: Fields::new() };
        event.record(&mut words);
        let caller = format!(
            "{}:{}",
            short_path(metadata.file().unwrap_or_default()),
            metadata.line().unwrap_or_default()
        );
        let logger =
            Some(metadata.target()).filter(|&target| Some(target) != metadata.module_path());
        self.logger.write(level(metadata), logger, &caller, &words.message, &words.fields);
    }
}

fn level(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG | tracing::Level::TRACE => Level::Debug,
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    let module = metadata.module_path().unwrap_or_default();
    module == env!("CARGO_PKG_NAME") || module.starts_with(concat!(env!("CARGO_PKG_NAME"), "::"))
}

/// Collects an event's message and fields.
struct Words {
    message: String,
    fields: Fields,
}

impl Visit for Words {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.fields.float(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.bare(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.bare(field.name(), value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.fields.bare(field.name(), value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.fields.bare(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.bare(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name => self.fields.text(name, value),
        }
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        self.fields.json(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::logger;
    use super::super::{Format, go_duration, json_list};
    use super::*;
    use crate::types::MemberId;
    use std::time::Duration;
    use tracing_subscriber::layer::SubscriberExt;

    /// What the events of `work` come out as.
    fn logged(least: Level, format: Format, work: impl FnOnce()) -> String {
        let (logger, memory) = logger(least, format);
        let subscriber = tracing_subscriber::registry().with(LogLayer::new(logger));
        tracing::subscriber::with_default(subscriber, work);
        memory.text()
    }

    #[test]
    fn an_event_becomes_etcds_line() {
        let line_number = line!() + 2;
        let text = logged(Level::Info, Format::Json, || {
            tracing::warn!(
                "local-member-id" = %MemberId(0x8e9e_05c5_2164_694d),
                took = go_duration(Duration::from_millis(1_500)),
                "peer-urls" = json_list(&["http://a:1", "http://b:2"]).as_slice(),
                "current-rev" = 7_i64,
                forced = false,
                who = ?"q\"uoted",
                "apply request took too long: {}", "very"
            );
        });
        assert_eq!(
            text,
            format!(
                "{{\"level\":\"warn\",\"ts\":\"2026-11-22T16:37:24.084123Z\",\
                 \"caller\":\"logging/layer.rs:{line_number}\",\
                 \"msg\":\"apply request took too long: very\",\
                 \"local-member-id\":\"8e9e05c52164694d\",\"took\":\"1.5s\",\
                 \"peer-urls\":[\"http://a:1\",\"http://b:2\"],\"current-rev\":7,\
                 \"forced\":false,\"who\":\"\\\"q\\\\\\\"uoted\\\"\"}}\n"
            )
        );
    }

    #[test]
    fn a_target_of_its_own_becomes_the_logger() {
        let text = logged(Level::Debug, Format::Json, || {
            tracing::trace!(target: "raft", "became follower");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["logger"], "raft");
        assert_eq!(line["level"], "debug");
        assert_eq!(line["msg"], "became follower");
    }

    #[test]
    fn events_below_the_level_are_not_even_formatted() {
        struct Untouchable;
        impl fmt::Display for Untouchable {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("formatted although nobody wants it");
            }
        }
        let text = logged(Level::Warn, Format::Console, || {
            tracing::info!("{}", Untouchable);
            tracing::error!("kept");
        });
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("\terror\t"));
    }
}
