//! Copies a stream to an unnamed file, so that it can be read at offsets.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use mif_formats::source::check_range;
use mif_formats::{Extent, Result as FormatsResult, Source, at};

use crate::error::{Error, Result};

/// The content of a stream.
pub(super) struct Spool {
    file: File,
    len: u64,
}

impl Spool {
    /// Reads `from` to its end. The file is unnamed from the start, so nothing is left behind however this ends.
    pub(super) fn of(from: &mut dyn Read) -> Result<Self> {
        let folder = std::env::temp_dir();
        let failed = |e: std::io::Error| {
            Error::store(format!("cannot write the tar archive to {}: {e}", folder.display()))
        };
        let mut file = tempfile::tempfile().map_err(failed)?;
        let len = std::io::copy(from, &mut file).map_err(failed)?;
        Ok(Spool { file, len })
    }
}

impl Source for Spool {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> FormatsResult<()> {
        check_range("tar", self.len, offset, buf.len() as u64)?;
        self.file.read_exact_at(buf, offset).map_err(|e| at("the tar").io(e))
    }

    fn extent_at(&self, offset: u64) -> FormatsResult<Extent> {
        check_range("tar", self.len, offset, 1)?;
        Ok(Extent::data(offset, self.len - offset))
    }
}
