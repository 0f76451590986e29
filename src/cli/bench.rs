//! `quorate bench`: load for any server that speaks etcd's v3 API, and what it costs.
//!
//! A run has a profile (what to do), a shape (how many connections and clients do it) and a
//! limit (a time or a number of operations). Clients are closed loops: each has one request
//! under way, and latency is what it waits. After a warm-up, which is not counted, it prints
//! operations per second, latency percentiles, errors, and, when told the server's process ids,
//! the server's CPU time per operation. On a shared machine that last figure is the one to trust:
//! throughput moves with whatever else runs, work per operation hardly does.
//!
//! | file | idea |
//! |---|---|
//! | `plan` | profile, shape and limit as plain values |
//! | `data` | keys and values from a small generator of random numbers |
//! | `stage` | warm-up, measuring, end; who counts and when |
//! | `kv`, `watch`, `lease` | the clients of the profiles |
//! | `process` | CPU time and memory of processes, from `/proc` |
//! | `report` | the outcome, as text or JSON |
//! | `compare` | two servers in turn, A B A B, and their ratios |
//! | `echo` | a server that does nothing, to know the floor |
//!
//! Everything runs on one thread unless told otherwise, so that a server on the same machine is
//! left the other cores.
//!
//! Left out: open-loop load with arrival times (a slow server slows the clients down with it, so
//! latency under overload looks better than users would find it), TLS.

mod compare;
mod data;
mod echo;
mod kv;
mod lease;
mod plan;
mod process;
mod report;
mod stage;
mod watch;

use crate::env::real::Real;
use clap::{Args, Subcommand, ValueEnum};
use plan::{Consistency, Limit, Plan, Profile};
use report::Report;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

/// Put load on a server that speaks etcd's v3 API and measure it.
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Write keys, one per request
    Put(LoadArgs),
    /// Read keys, one per request
    Range {
        #[command(flatten)]
        load: LoadArgs,
        /// Linearizable or serializable reads
        #[arg(short = 'c', long, value_enum, default_value = "l")]
        consistency: Consistency,
    },
    /// Read neighbouring keys, many per request
    RangeMany {
        #[command(flatten)]
        load: LoadArgs,
        /// Linearizable or serializable reads
        #[arg(short = 'c', long, value_enum, default_value = "l")]
        consistency: Consistency,
        /// Keys per request
        #[arg(long, default_value_t = 1000)]
        limit: u64,
    },
    /// Compare a key and put it, in a transaction
    Txn(LoadArgs),
    /// Reads and writes of one key per request
    Mixed {
        #[command(flatten)]
        load: LoadArgs,
        /// Linearizable or serializable reads
        #[arg(short = 'c', long, value_enum, default_value = "l")]
        consistency: Consistency,
        /// How many of 100 requests read
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u8).range(0..=100))]
        reads: u8,
    },
    /// Watch one key that others write; latency is from put to delivery
    Watch {
        #[command(flatten)]
        load: LoadArgs,
        /// Watchers of the key
        #[arg(long, default_value_t = 1000)]
        watchers: u64,
        /// Streams they share
        #[arg(long, default_value_t = 10)]
        streams: u64,
        /// Writers of the key
        #[arg(long, default_value_t = 1)]
        writers: u64,
        /// Puts per second of all writers together; 0: as fast as they are answered
        #[arg(long, default_value_t = 0)]
        rate: u64,
    },
    /// Renew leases, each client its own on its own stream
    LeaseKeepalive(LoadArgs),
    /// Fill the key space, --total keys, by transactions of many puts
    Load {
        #[command(flatten)]
        load: LoadArgs,
        /// Puts per transaction
        #[arg(long, default_value_t = 100)]
        batch: u64,
    },
    /// Serve answers without doing anything: the floor of the machine and of gRPC
    EchoServer(echo::EchoArgs),
    /// Measure two servers in turn and print their ratios
    Compare(compare::CompareArgs),
}

/// What all profiles share.
#[derive(Args, Clone, Debug)]
struct LoadArgs {
    /// Servers; connections are spread over them
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    endpoints: Vec<String>,
    /// Connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    connections: u64,
    /// Clients, each with one request under way
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    clients: u64,
    /// Operations to count; without it the run takes --duration
    #[arg(long, conflicts_with = "duration")]
    total: Option<u64>,
    /// How long to count (such as 500ms, 3s, 2m)
    #[arg(long, default_value = "3s", value_parser = plan::parse_duration)]
    duration: Duration,
    /// How long to run before counting
    #[arg(long, default_value = "500ms", value_parser = plan::parse_duration)]
    warm_up: Duration,
    #[command(flatten)]
    data: DataArgs,
    /// The servers' process ids: also measure their CPU time and memory
    #[arg(long, value_delimiter = ',')]
    server_pid: Vec<u32>,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
    /// How to print the outcome
    #[arg(short = 'w', long, value_enum, default_value = "simple")]
    write_out: WriteOut,
}

/// What is written and read.
#[derive(Args, Clone, Debug)]
struct DataArgs {
    /// Bytes of a key
    #[arg(long, default_value_t = 16)]
    key_size: usize,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    val_size: usize,
    /// Number of different keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    key_space: u64,
    /// Take keys in order rather than at random
    #[arg(long)]
    sequential_keys: bool,
    /// Repeat the random choices of another run
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum WriteOut {
    Simple,
    Json,
}

/// Runs the command.
pub fn run(args: BenchArgs) -> ExitCode {
    let (profile, load) = match args.command {
        Command::Put(load) => (Profile::Put, load),
        Command::Range { load, consistency } => (Profile::Range { consistency }, load),
        Command::RangeMany { load, consistency, limit } => {
            (Profile::RangeMany { consistency, limit }, load)
        }
        Command::Txn(load) => (Profile::Txn, load),
        Command::Mixed { load, consistency, reads } => {
            (Profile::Mixed { consistency, read_percent: reads.into() }, load)
        }
        Command::Watch { load, watchers, streams, writers, rate } => {
            (Profile::Watch { watchers, streams, writers, rate }, load)
        }
        Command::LeaseKeepalive(load) => (Profile::LeaseKeepalive, load),
        Command::Load { load, batch } => (Profile::Load { batch }, load),
        Command::EchoServer(args) => return echo::run(args),
        Command::Compare(args) => return compare::run(args),
    };
    let (threads, write_out) = (load.threads, load.write_out);
    let plan = match load.plan(profile).check() {
        Ok(plan) => plan,
        Err(reason) => return fail(&reason),
    };
    match on_threads(threads, stage::run(Real::new(), plan)) {
        Ok(report) => print(&report, write_out),
        Err(reason) => fail(&reason),
    }
}

impl LoadArgs {
    fn plan(self, profile: Profile) -> Plan {
        let total = match profile {
            // Filling has an end of its own: the whole key space, unless told.
            Profile::Load { .. } => Some(self.total.unwrap_or(self.data.key_space)),
            Profile::Put
            | Profile::Range { .. }
            | Profile::RangeMany { .. }
            | Profile::Txn
            | Profile::Mixed { .. }
            | Profile::Watch { .. }
            | Profile::LeaseKeepalive => self.total,
        };
        Plan {
            profile,
            endpoints: self.endpoints,
            connections: self.connections,
            clients: self.clients,
            limit: total.map_or(Limit::Duration(self.duration), Limit::Total),
            warm_up: self.warm_up,
            data: self.data.shape(),
            server_pids: self.server_pid,
            shards: self.threads,
        }
    }
}

impl DataArgs {
    fn shape(&self) -> data::Shape {
        data::Shape {
            key_bytes: self.key_size,
            value_bytes: self.val_size,
            key_space: self.key_space,
            sequential: self.sequential_keys,
            seed: self.seed,
        }
    }
}

/// Runs on so many threads of tokio.
fn on_threads<T>(threads: u64, main: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let threads = usize::try_from(threads).expect("the arguments allow at most 64");
    Real::run_on(threads, main).map_err(|error| format!("cannot start a runtime: {error}"))?
}

fn print(report: &Report, write_out: WriteOut) -> ExitCode {
    match write_out {
        WriteOut::Simple => print!("{report}"),
        WriteOut::Json => println!("{}", report.json()),
    }
    // A run in which nothing succeeded has measured nothing.
    if report.operations == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn fail(reason: &str) -> ExitCode {
    eprintln!("Error: {reason}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests;
