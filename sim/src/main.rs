//! Whole Quorate clusters in one deterministic process.
//!
//! The members are the product, unchanged: [`quorate::member::run`] over an environment whose
//! time, network, disk and randomness come from one seed. Clients are the product's own client and
//! do what the product's own workload says. Around them stands a [`nemesis`] that breaks things,
//! and what clients were told is judged by [`quorate::check`].
//!
//! | file | idea |
//! |---|---|
//! | [`env`] | the simulated machine: clock, network, disk, randomness |
//! | [`cluster`] | members to start, kill, cut the power of, pause and partition |
//! | [`plan`] | a run as data: knobs and faults |
//! | [`swarm`] | a plan drawn from a seed |
//! | [`nemesis`] | carries out a plan's faults |
//! | [`oracle`] | what no client sees: terms, votes, logs, states, memory |
//! | [`report`] | how a run went, as data |
//! | [`scenario`] | plans that have names; one run from start to verdict |
//! | [`command`] | the command line; each seed in a process of its own |
//! | [`shrink`] | a failing plan made small |
//! | [`artifacts`] | what is left of a failure, as files |
//! | [`mutants`] | bugs planted in a copy of the product, to see whether they are found |
//!
//! A run is a seed and a commit. The same two give the same run, byte for byte: every event goes
//! into one [`trace`] whose hash is printed, and `--twice` compares it over two processes.
//!
//! The crate is empty without `--cfg madsim`, which the alias `cargo sim` sets, so that a plain
//! build of the workspace neither compiles nor fetches the simulator's runtime.

#[cfg(madsim)]
mod artifacts;
#[cfg(madsim)]
mod cluster;
#[cfg(madsim)]
mod command;
#[cfg(madsim)]
mod entropy;
#[cfg(madsim)]
mod env;
#[cfg(madsim)]
mod mutants;
#[cfg(madsim)]
mod nemesis;
#[cfg(any(madsim, test))]
mod oracle;
#[cfg(madsim)]
mod plan;
#[cfg(any(madsim, test))]
mod report;
#[cfg(madsim)]
mod scenario;
#[cfg(madsim)]
mod shrink;
#[cfg(madsim)]
mod swarm;
#[cfg(madsim)]
mod trace;

/// Counts the bytes a run takes.
#[cfg(madsim)]
#[global_allocator]
static ALLOCATOR: oracle::memory::Counting = oracle::memory::Counting;

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    command::main()
}

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    eprintln!("built without the simulator: use `cargo sim`");
    std::process::ExitCode::from(2)
}
