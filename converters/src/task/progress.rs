//! How long work tells of its progress, and is told to stop.

use mif_formats::container::Observer;

use crate::error::{Code, Error, Result};

/// Told of the progress of long work. The library calls it from several threads.
pub trait Progress: Observer {
    /// A new stage of the work begins: what it does, and how many bytes it will pass over.
    fn stage(&self, what: &str, bytes: u64);

    /// Something that the user should know, a sentence.
    fn warn(&self, _warning: &str) {}
}

/// No one is told.
pub struct Silent;

impl Observer for Silent {
    fn advance(&self, _bytes: u64) {}
}

impl Progress for Silent {
    fn stage(&self, _what: &str, _bytes: u64) {}
}

/// An error if the user wants to stop.
pub(crate) fn check(progress: &dyn Progress) -> Result<()> {
    if progress.interrupted() { Err(interrupted()) } else { Ok(()) }
}

/// The error of work that the user stopped.
pub(crate) fn interrupted() -> Error {
    Error::new(Code::Interrupted, "interrupted").advise("Nothing is lost; run the command again to continue")
}
