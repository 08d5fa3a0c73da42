//! The program `mif`: parses arguments, calls the library's verbs, prints reports.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    let usual = std::panic::take_hook();
    // A caught panic becomes an error, which is reported to the user.
    std::panic::set_hook(Box::new(move |panic| {
        if !mif_formats::guard::is_catching() {
            usual(panic);
        }
    }));
    cli::run()
}
