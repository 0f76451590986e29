//! How far something that takes long has come: a bar on a terminal, now and then a line elsewhere.
//!
//! Both go to the standard error. What belongs on the standard output goes through
//! [`Meter::print`], so that it never lands in the middle of a bar. A line before its time comes
//! is never printed, so short work is silent in a file.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "outside the simulation: real time"
)]

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Real time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows how far something is.
pub struct Meter {
    bar: Option<ProgressBar>,
    title: &'static str,
    length: u64,
    started: Instant,
    /// When the last line was printed.
    line: Instant,
}

impl Meter {
    /// For `length` things.
    pub fn new(title: &'static str, length: u64) -> Meter {
        let template = format!("{title} {{bar:24}} {{pos}}/{{len}} {{wide_msg}}");
        let style = ProgressStyle::with_template(&template).expect("the template is lawful");
        let bar = std::io::stderr()
            .is_terminal()
            .then(|| ProgressBar::new(length).with_style(style.progress_chars("█▉▊▋▌▍▎▏ ")));
        let now = Instant::now();
        Meter { bar, title, length, started: now, line: now }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// How long the rest will take, if it goes on as it did.
    pub fn left(&self, done: u64) -> Option<Duration> {
        let more = self.length.saturating_sub(done);
        (done > 0).then(|| self.elapsed().mul_f64(more as f64 / done as f64))
    }

    /// Shows it; `message` is asked for only if it is shown.
    pub fn show(&mut self, done: u64, message: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(message());
                bar.set_position(done);
                bar.tick();
            }
            None if self.line.elapsed() >= LINE_INTERVAL => {
                self.line = Instant::now();
                eprintln!("{} {done}/{} {}", self.title, self.length, message());
            }
            None => {}
        }
    }

    /// Prints text, with its line's end, to the standard output. That nobody reads it changes
    /// nothing about the outcome.
    pub fn print(&self, text: &str) {
        let write = || {
            let _ = std::io::stdout().write_all(text.as_bytes());
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
