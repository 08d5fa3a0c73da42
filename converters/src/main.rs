//! The program `mif`: arguments in, the library's verbs, reports out.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
