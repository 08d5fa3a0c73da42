//! Prints answers on standard output, and errors on standard error.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use mif::{Error, Result};
use mif_formats::text::printable_lines;
use serde::Serialize;

use super::{json, text};

/// True if every line on standard error is JSON, because reports or progress are.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// Makes every line on standard error JSON.
pub(super) fn complain_as_json() {
    AS_JSON.store(true, Ordering::Relaxed);
}

fn is_json() -> bool {
    AS_JSON.load(Ordering::Relaxed)
}

/// Prints lines on standard error in a single write, so that other threads do not print into them. If nobody reads
/// standard error, the work goes on.
pub(super) fn say(lines: &str) {
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// A sentence in JSON that is no error.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Remark<'a> {
    Warning(&'a str),
    Note(&'a str),
}

/// Prints a warning.
pub(super) fn warn(warning: &str) {
    match is_json() {
        true => say(&json_line(&Remark::Warning(warning))),
        false => say(&format!("mif: warning: {}\n", text::printable(warning))),
    }
}

/// Prints what the user should know about the answer.
pub(super) fn note(note: &str) {
    match is_json() {
        true => say(&json_line(&Remark::Note(note))),
        false => say(&format!("mif: {}\n", text::printable(note))),
    }
}

/// Prints a report on standard error, because standard output carries what the verb made.
pub(super) fn report_aside<R: Serialize>(report: &R, text: impl Fn(&R) -> String) {
    say(&if is_json() { json_line(report) } else { printable_lines(&text(report)) });
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
    if is_json() {
        let (advice, code) = (error.advice(), Some(error.code() as u8));
        say(&json_line(&Complaint { error: error.message(), advice, code }));
        return;
    }
    let advice = error.advice().map_or(String::new(), |advice| format!("\n{}.", text::printable(advice)));
    say(&format!("mif: {}{advice}\n", text::printable(error.message())));
}

/// Prints an error given as text.
pub(super) fn complain_of(error: &str) {
    if is_json() {
        say(&json_line(&Complaint { error, advice: None, code: None }));
        return;
    }
    say(&format!("mif: {}\n", text::printable(error)));
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
