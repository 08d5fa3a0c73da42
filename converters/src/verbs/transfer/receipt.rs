//! The receipt of an export: which image a disk image file was made from, for which target and by which rules.
//!
//! It depends on the image, the options and the version of mif, and not on the time or the machine.

use std::path::Path;

use mif_formats::Source;
use mif_formats::container::{Output, OutputKind, Pull};
use mif_formats::disk_digest::{self, DiskDigest};
use serde::Serialize;

use crate::deliver::platform::Rule;
use crate::error::{Error, Result};
use crate::rebuild::IdsReport;
use crate::task::progress::Progress;

/// A receipt that is written once the export is done.
pub(super) struct Pending {
    file: Output,
}

/// What a receipt says.
#[derive(Serialize)]
pub(super) struct Receipt<'a> {
    pub(super) tool: String,
    pub(super) command: &'a [String],
    pub(super) image: &'a str,
    /// The digest of the stored image's layout, which identifies its bits; `None` if the image is a file.
    pub(super) layout_digest: Option<&'a str>,
    /// The name of the file, without its directory.
    pub(super) output: String,
    pub(super) format: &'a str,
    pub(super) target: Option<&'a str>,
    pub(super) rules: &'a [Rule],
    pub(super) options: &'a [String],
    pub(super) disk_size: u64,
    pub(super) sector_size: u32,
    /// The digest of the disk in the file, whatever container it is in.
    pub(super) disk_digest: String,
    pub(super) planned: &'a [String],
    pub(super) notes: &'a [String],
    pub(super) ids: Option<&'a IdsReport>,
}

impl Pending {
    /// Prepares a receipt at `path`, so that one that cannot be written is refused before the export.
    pub(super) fn new(path: &Path, export: &Output, force: bool) -> Result<Self> {
        let mut file = Output::new(path, force)?;
        if file.target() == export.target() {
            return Err(Error::usage(format!("{}: the receipt needs a file of its own", path.display())));
        }
        if file.kind() != OutputKind::Files {
            return Err(Error::usage(format!("{}: a receipt is written to a file", path.display())));
        }
        file.create()?;
        Ok(Pending { file })
    }

    /// Writes the receipt of a finished export.
    pub(super) fn write(self, receipt: &Receipt<'_>) -> Result<()> {
        let mut text = serde_json::to_string_pretty(receipt).expect("plain values");
        text.push('\n');
        let file = self.file.files().next().expect("it was created");
        file.write_at(0, text.as_bytes())?;
        self.file.commit()?;
        Ok(())
    }
}

/// Returns the digest of a disk.
pub(super) fn digest(disk: &dyn Source, progress: &dyn Progress) -> Result<DiskDigest> {
    progress.stage("digesting", disk.len());
    let mut blocks = Vec::new();
    Pull::new(disk, progress).run(
        |window| Ok(disk_digest::blocks(window.start, &window.bytes, disk.len())),
        |found| {
            blocks.extend(found);
            Ok(None)
        },
    )?;
    Ok(disk_digest::of_blocks(disk.len(), blocks))
}
