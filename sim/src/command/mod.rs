//! The command line: `cargo sim -- run --seed 7`, or `--seeds 1..100`.
//!
//! Every seed runs in a process of its own, so that nothing one run leaves behind (statics, hash
//! keys, a hang) touches another, and so that two runs of a seed (`--twice`) share nothing. The
//! parent draws the plan and hands it over; what comes back is a report. A plan that failed is made
//! small in further processes, and the smallest one is recorded for people to look at.
//!
//! ```text
//! arguments -> tasks -> campaign -> summary
//!                        |    |
//!             process::run    failed -> shrink -> artifacts
//!                        |
//!        (child process) child -> scenario
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `arguments` | what can be asked for, and what is wrong with what was |
//! | `source` | scenarios, profiles, plans: the simulation as the command line sees it |
//! | `campaign` | many runs, side by side, and their verdicts |
//! | `process`, `child`, `message` | a run in a process of its own: outside, inside, between |
//! | `failed` | what follows a failure: a smaller plan, and files about it |
//! | `difference` | where two runs of one plan part |
//! | `summary`, `table`, `words`, `meter` | what people get to see |
//! | `list`, `regressions` | the commands of that name |
//!
//! - The standard output holds results, the standard error how far it is and what is wrong.
//! - Exit codes: 0 all passed, 1 something failed, 2 the command line or a file cannot be used,
//!   3 nothing failed but something could not be decided.

mod arguments;
mod campaign;
mod child;
mod difference;
mod failed;
mod list;
mod message;
pub mod meter;
pub mod process;
mod regressions;
pub mod source;
mod summary;
pub mod table;
mod words;

pub use child::ChildArgs;

use crate::mutants::{self, MutantsArgs};
use arguments::{RegressionsArgs, RunArgs, Work};
use clap::{Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

/// Runs whole clusters in simulation and judges what their clients saw.
#[derive(Parser, Debug)]
#[command(name = "cargo sim --", bin_name = "cargo sim --", arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run seeds, each in a process of its own
    Run(Box<RunArgs>),
    /// Tell which scenarios, profiles and faults there are
    List,
    /// Run the seeds that found something once
    Regressions(Box<RegressionsArgs>),
    /// Plant bugs in a copy of the server and look whether they are found
    Mutants(MutantsArgs),
    /// Run the plan on the standard input, in this process
    #[command(hide = true)]
    Child(ChildArgs),
}

/// Runs what the process's arguments ask for.
pub fn main() -> ExitCode {
    let command = match CommandLine::try_parse() {
        Ok(line) => line.command,
        Err(error) => {
            // The help text is such an "error", too. Nothing can be done about a closed stream.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match command {
        Command::Run(arguments) => work(arguments.work()),
        Command::List => list::main(),
        Command::Regressions(arguments) => work(arguments.work()),
        Command::Mutants(arguments) => mutants::main(&arguments),
        Command::Child(arguments) => child::main(arguments),
    }
}

fn work(work: Result<Work, String>) -> ExitCode {
    match work {
        Ok(work) => campaign::run(work),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints to the standard output. That nobody reads it changes nothing about the outcome.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests;
