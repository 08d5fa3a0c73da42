//! How long work reports its progress and is interrupted.

use mif_formats::container::Observer;

use crate::error::{Code, Error, Result};

/// Receives the progress of long work. The library calls it from several threads.
pub trait Progress: Observer {
    /// Begins a stage of the work: its description, and how many bytes it will process.
    fn stage(&self, what: &str, bytes: u64);

    /// Reports something that the user should know, a sentence.
    fn warn(&self, _warning: &str) {}
}

/// Reports nothing.
pub struct Silent;

impl Observer for Silent {
    fn advance(&self, _bytes: u64) {}
}

impl Progress for Silent {
    fn stage(&self, _what: &str, _bytes: u64) {}
}

/// Fails if the user has interrupted the work.
pub(crate) fn check(progress: &dyn Progress) -> Result<()> {
    if progress.interrupted() { Err(interrupted()) } else { Ok(()) }
}

/// Returns the error for interrupted work.
pub(crate) fn interrupted() -> Error {
    Error::new(Code::Interrupted, "interrupted").advise("Nothing is lost; run the command again to continue")
}
