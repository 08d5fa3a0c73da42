//! An output that is written from its first byte to its last, and so may be a pipe.

use mif_formats::container::OutputFile;

use crate::error::Result;

/// The output and the number of bytes written to it.
pub(super) struct Stream<'a> {
    file: &'a OutputFile,
    at: u64,
}

impl<'a> Stream<'a> {
    /// Starts at the first byte.
    pub(super) fn new(file: &'a OutputFile) -> Self {
        Stream { file, at: 0 }
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_at(self.at, bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Ends the output here.
    pub(super) fn finish(self) -> Result<()> {
        Ok(self.file.set_len(self.at)?)
    }
}

/// Returns what a window has led to as a pull of windows takes it.
pub(super) fn in_order(written: Result<()>) -> mif_formats::Result<Option<Vec<u8>>> {
    match written {
        Ok(()) => Ok(None),
        Err(error) => Err(mif_formats::error::at("writing").io(std::io::Error::other(error.to_string()))),
    }
}
