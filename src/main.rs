//! The program `quorate`; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate::cli::main()
}
