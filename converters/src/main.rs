//! The program `mif`: arguments in, the library's verbs, reports out.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    let usual = std::panic::take_hook();
    // A panic that is caught becomes an error, and the user is told that.
    std::panic::set_hook(Box::new(move |panic| {
        if !mif_formats::guard::is_catching() {
            usual(panic);
        }
    }));
    cli::run()
}
