//! Raw: the file is the disk, byte for byte.
//!
//! The disk is exactly as long as the file, even if that is not a multiple of 512. (qemu-img rounds up to whole
//! sectors; `mif` keeps the length, because the disk's digest covers exactly these bytes.) Holes of the file are known
//! zeros, and zeros are written as holes.

use std::sync::Arc;

use super::options::Options;
use super::pull::{Pull, pull_data};
use super::{CreateOptions, Disk, Format, ImageFile, Observer, Opener, Output};
use crate::error::Result;
use crate::source::Source;

pub(super) struct Raw;

impl Format for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &["raw", "img"]
    }

    fn probe(&self, _: &[u8], _: &[u8], _: u64) -> bool {
        false
    }

    fn open(&self, file: ImageFile, _: &Opener<'_>) -> Result<Disk> {
        let files = vec![file.opened()];
        let source = Arc::new(file);
        Ok(Disk {
            source,
            format: "raw",
            details: Vec::new(),
            files,
            own_files: 1,
            warnings: Vec::new(),
            decrypted: Vec::new(),
        })
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn create(
        &self,
        source: &dyn Source,
        output: &mut Output,
        options: &CreateOptions,
        observer: &dyn Observer,
    ) -> Result<()> {
        Options::new("raw", &[], options)?;
        let file = output.create()?;
        file.set_len(source.len())?;
        pull_data(&Pull::new(source, observer), |offset, bytes| file.write_at(offset, bytes))
    }
}
