//! The program: which part of it the command line asks for.
//!
//! ```text
//! quorate server [flags]    the server; its flags are etcd's, in Go's syntax
//! etcd [flags]              the same, when the program is called by that name
//! quorate bench             measures a server, of ours or a real etcd
//! quorate check HISTORY     whether a recorded history is lawful
//! quorate version | help
//! ```
//!
//! Called `etcd` (by a link or a copy of that name) the program takes the server's flags directly,
//! so that unit files, manifests and test suites made for etcd start it unchanged.
//!
//! Subcommands are clap's business, and so are the flags of all of them but the server: those are
//! read by `config`, since clap knows no `-name`. A new subcommand is a variant of `Command`, an
//! arm in `run` and a file here.
//!
//! Exit codes: 0 done, 1 it failed or the settings cannot be used, 2 the command line cannot be
//! read.

mod bench;
mod check;
pub mod server;
mod signal;
mod version;

use clap::Parser;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

/// A coordination store that speaks etcd's API.
#[derive(Parser, Debug)]
#[command(name = "quorate", disable_version_flag = true, arg_required_else_help = true)]
struct CommandLine {
    /// Print the version
    #[arg(long, short = 'V')]
    version: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Run a server; flags are etcd's
    #[command(
        disable_help_flag = true,
        override_help = crate::config::help(server::PROGRAM)
    )]
    Server {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// Measure a server, of ours or a real etcd
    Bench(Box<bench::BenchArgs>),
    /// Check whether a recorded history of a store is lawful
    Check(check::CheckArgs),
    /// Print the version
    Version,
}

/// Runs the program with the arguments and variables of the process.
pub fn main() -> ExitCode {
    abort_on_panic();
    let mut arguments = Vec::new();
    for argument in std::env::args_os() {
        match argument.into_string() {
            Ok(argument) => arguments.push(argument),
            Err(argument) => return usage_error(&format!("{argument:?} is not valid UTF-8")),
        }
    }
    // A variable that is not text cannot be one of ours but by mistake; then its value is told.
    let environment = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into(), value.to_string_lossy().into()))
        .collect();
    run(&arguments, &environment)
}

/// A panic is a bug, after which nothing can be trusted: the process ends at once, rather than go
/// on with a task missing. Panics that the store turns into errors are none.
fn abort_on_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !crate::store::is_guarded() {
            usual(info);
            std::process::abort();
        }
    }));
}

fn run(arguments: &[String], environment: &BTreeMap<String, String>) -> ExitCode {
    if is_etcd(arguments) {
        return server::main(server::PROGRAM_ETCD, &arguments[1..], environment);
    }
    match CommandLine::try_parse_from(arguments) {
        Ok(
            CommandLine { version: true, .. } | CommandLine { command: Some(Command::Version), .. },
        ) => print(&version::text()),
        Ok(CommandLine { command: Some(Command::Server { flags }), .. }) => {
            server::main(server::PROGRAM, &flags, environment)
        }
        Ok(CommandLine { command: Some(Command::Bench(arguments)), .. }) => bench::run(*arguments),
        Ok(CommandLine { command: Some(Command::Check(arguments)), .. }) => check::run(arguments),
        Ok(CommandLine { command: None, .. }) => usage_error("a subcommand is missing"),
        Err(error) => {
            // The help text is such an "error", too. Nothing can be done about a closed stream.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// Whether the program was called by etcd's name.
fn is_etcd(arguments: &[String]) -> bool {
    let program = arguments.first().map(Path::new).and_then(Path::file_name);
    program.is_some_and(|name| name == "etcd")
}

/// Prints a text that was asked for.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn usage_error(message: &str) -> ExitCode {
    eprintln!("error: {message}\n\nSee 'quorate help'.");
    ExitCode::from(2)
}

/// The calendar, for the time stamps of log lines only.
#[allow(clippy::disallowed_methods, reason = "the rim of the program; no decision hangs on it")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_name_of_the_program_decides() {
        for (line, is) in [
            ("etcd --name x", true),
            ("/usr/local/bin/etcd", true),
            ("./etcd", true),
            ("quorate server", false),
            ("/opt/etcd/quorate", false),
            ("etcdctl", false),
            ("", false),
        ] {
            assert_eq!(is_etcd(&words(line)), is, "{line}");
        }
    }

    #[test]
    fn the_servers_flags_pass_through_as_they_are() {
        for flags in
            ["", "-name x --pre-vote=false", "--help", "-h", "--version", "x -- y", "--nonsense"]
        {
            let line = format!("quorate server {flags}");
            match CommandLine::try_parse_from(words(&line)) {
                Ok(CommandLine { command: Some(Command::Server { flags: passed }), .. }) => {
                    assert_eq!(passed, words(flags));
                }
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }
}
