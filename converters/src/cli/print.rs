//! Prints answers on standard output, and errors on standard error.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use mif::{Error, Result};
use mif_formats::text::printable_lines;
use serde::Serialize;

use super::{json, text};

/// True if errors are printed as JSON, because the reports are.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// Makes errors lines of JSON.
pub(super) fn complain_as_json() {
    AS_JSON.store(true, Ordering::Relaxed);
}

/// An error in JSON.
#[derive(Serialize)]
struct Complaint<'a> {
    /// What went wrong.
    error: &'a str,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'a str>,
    /// The exit code, if the error ends the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
}

pub(super) fn complain(error: &Error) {
    if AS_JSON.load(Ordering::Relaxed) {
        let (advice, code) = (error.advice(), Some(error.code() as u8));
        eprint!("{}", json_line(&Complaint { error: error.message(), advice, code }));
        return;
    }
    let advice = error.advice().map_or(String::new(), |advice| format!("\n{}.", text::printable(advice)));
    eprintln!("mif: {}{}", text::printable(error.message()), advice);
}

/// Prints an error given as text.
pub(super) fn complain_of(error: &str) {
    if AS_JSON.load(Ordering::Relaxed) {
        eprint!("{}", json_line(&Complaint { error, advice: None, code: None }));
        return;
    }
    eprintln!("mif: {}", text::printable(error));
}

/// Returns the error for a failed write. A closed pipe on standard output is not a failure (`mif ls … | head`): the
/// program exits with code 0.
pub(super) fn output_failed(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    Error::store(format!("cannot write to standard output: {error}"))
}

/// Prints text for people. Names are escaped when the text is made, so none can start a new line; this escapes anything
/// missed there.
pub(super) fn print(text: &str) -> Result<()> {
    print_exactly(&printable_lines(text))
}

pub(super) fn print_exactly(text: &str) -> Result<()> {
    io::stdout().write_all(text.as_bytes()).map_err(output_failed)
}

pub(super) fn print_json(report: &impl Serialize) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    json::write(&mut out, report).map_err(|e| output_failed(e.into()))?;
    out.write_all(b"\n").and_then(|()| out.flush()).map_err(output_failed)
}

pub(super) fn json_line(report: &impl Serialize) -> String {
    let mut line = Vec::new();
    json::write(&mut line, report).expect("a report is JSON");
    String::from_utf8(line).expect("JSON is UTF-8") + "\n"
}

/// Standard output. If its reader closes it, the program exits.
pub(super) struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = io::stdout().write(bytes);
        match written {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}
