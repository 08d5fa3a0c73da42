//! Long answers go through a pager, as git's do, if standard output is a terminal: the command in `MIF_PAGER`, or else in
//! `PAGER`, or else less(1), which prints what fits the screen and ends.

use std::io::{self, IsTerminal, Write};
use std::process::{Command, Stdio};

use mif::Result;

use super::print::{complain_of, print_exactly};
use super::signals::Stop;
use super::terminal::is_dumb;

/// The exit code of a shell that does not find a command.
const NOT_FOUND: i32 = 127;

/// Prints text that is safe for a terminal, page by page if there is a pager.
pub(super) fn print_paged(text: &str, no_pager: bool, stop: &Stop) -> Result<()> {
    let pager = if no_pager || !io::stdout().is_terminal() { None } else { pager() };
    let Some(pager) = pager else { return print_exactly(text) };
    // The pager handles Ctrl-C.
    stop.set_paging(true);
    let code = run(&pager, text);
    stop.set_paging(false);
    if matches!(code, Err(_) | Ok(Some(NOT_FOUND))) {
        complain_of(&format!("cannot run the pager {pager}; set MIF_PAGER, or pass --no-pager"));
        return print_exactly(text);
    }
    Ok(())
}

/// Returns the pager's command, for a shell; `None` for none.
fn pager() -> Option<String> {
    let set = ["MIF_PAGER", "PAGER"].into_iter().find_map(|name| std::env::var(name).ok());
    match set {
        Some(command) if command.trim().is_empty() || command.trim() == "cat" => None,
        Some(command) => Some(command),
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let is_there = std::env::split_paths(&path).any(|directory| directory.join("less").is_file());
            (is_there && !is_dumb()).then(|| "less".to_owned())
        }
    }
}

/// Runs the pager and returns its exit code. It may end before it has read everything.
fn run(pager: &str, text: &str) -> io::Result<Option<i32>> {
    let mut command = Command::new("sh");
    command.args(["-c", pager]).stdin(Stdio::piped());
    // Quit if it fits the screen; keep colours; leave the text on the screen.
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", "FRX");
    }
    if std::env::var_os("LV").is_none() {
        command.env("LV", "-c");
    }
    let mut child = command.spawn()?;
    let written = child.stdin.take().expect("it is piped").write_all(text.as_bytes());
    let status = child.wait()?;
    match written {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e),
        _ => Ok(status.code()),
    }
}
