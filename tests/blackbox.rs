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
