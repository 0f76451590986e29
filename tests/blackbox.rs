//! The product as its operators meet it: real processes on loopback, crashes, broken files, full
//! disks, slow clients.
//!
//! Every claim is the name of a test; the file it stands in says how such claims are shown. The
//! default run takes a few minutes at most. What takes longer is ignored by default and prints
//! figures:
//!
//! ```text
//! cargo test --release --test blackbox -- --ignored --nocapture --test-threads 1 heavy
//! ```
//!
//! On a machine of 2 busy cores and 23 GiB, client and server side by side, this printed:
//!
//! | what | figures |
//! |---|---|
//! | 1,000,000 keys of 256 bytes in transactions of 100 | filled in 8.5 s, resident 266 MiB; after `kill -9` the first answer in 1.5 s, resident 130 MiB; 2,000 pages of one revision in 13.5 s beside 4 writers |
//! | 100,000 watchers, 1,000 streams, 10,000 keys, 100,000 puts | 297 bytes a watcher; 1,000,000 events in 23.7 s (42,000/s) |
//! | 1,000 streams that never read, 20,000 puts of 1 KiB | puts in 5.5 s, the slowest 0.4 s; resident 21 MiB before, 590 MiB at most (0.57 MiB a stream) |
//! | 5 leaders killed under 64 writers | 7,059 puts acknowledged, none lost; 7,101 events, none missing or double |
//!
//! The disk tests mount a small tmpfs, which needs root; a test that needs something the machine
//! lacks says `SKIPPED` and passes. `BLACKBOX_LOGS=1` shows the servers' last lines on failure.

// Tests live outside the fence: they drive real processes in real time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

#[path = "blackbox/api.rs"]
mod api;
#[path = "blackbox/bad_input.rs"]
mod bad_input;
#[path = "blackbox/crash.rs"]
mod crash;
#[path = "blackbox/damage.rs"]
mod damage;
#[path = "blackbox/disk_full.rs"]
mod disk_full;
#[path = "blackbox/heavy.rs"]
mod heavy;
#[path = "blackbox/lagging.rs"]
mod lagging;
#[path = "blackbox/lawful.rs"]
mod lawful;
#[path = "blackbox/lease.rs"]
mod lease;
#[path = "blackbox/load.rs"]
mod load;
#[path = "blackbox/process.rs"]
mod process;
#[path = "blackbox/reads.rs"]
mod reads;
#[path = "blackbox/shutdown.rs"]
mod shutdown;
