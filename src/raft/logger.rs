//! raft-rs logs through slog; this hands its records to tracing.

use slog::{Drain, Logger, Never, OwnedKVList, Record, o};

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _values: &OwnedKVList) -> Result<(), Never> {
        let message = record.msg();
        match record.level() {
            slog::Level::Critical | slog::Level::Error => {
                tracing::error!(logger = "raft", "{message}")
            }
            slog::Level::Warning => tracing::warn!(logger = "raft", "{message}"),
            slog::Level::Info => tracing::info!(logger = "raft", "{message}"),
            slog::Level::Debug | slog::Level::Trace => {
                tracing::trace!(logger = "raft", "{message}")
            }
        }
        Ok(())
    }
}

/// A logger for `RawNode` that ends up in our log.
pub(super) fn logger() -> Logger {
    Logger::root(ToTracing, o!())
}
