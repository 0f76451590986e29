//! Runs: from a plan to a verdict, and plans that have names.
//!
//! | file | idea |
//! |---|---|
//! | `table` | the scenarios: which faults, which work, which flags |
//! | `play` | one run, phase by phase |
//! | `unseen` | what the history must tell although no client did it |
//! | `recovery` | what is asked of a cluster after all was mended |
//!
//! A scenario is a line in `table` and nothing else, see there.

mod play;
mod recovery;
mod table;
mod unseen;

pub use play::run;
pub use table::{named, names};
