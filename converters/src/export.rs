//! `export` and `convert`: a stored image, or one in another container, becomes a disk image file.

use std::path::Path;
use std::time::Instant;

use mif_formats::Source;
use mif_formats::container::{self, CreateOptions, Output};
use serde::Serialize;

use crate::progress::{Progress, interrupted};
use crate::{OpenImage, Result};

/// How to export.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// The container format; by the file's suffix if none.
    pub format: Option<String>,
    /// Options of the format, as `key=value`.
    pub options: CreateOptions,
    /// Replace a file that is there.
    pub force: bool,
}

/// What an export wrote.
#[derive(Debug, Clone, Serialize)]
pub struct ExportReport {
    /// The image.
    pub image: String,
    /// The file.
    pub output: String,
    /// Its container format.
    pub format: String,
    /// The disk's size in bytes.
    pub disk_size: u64,
    /// The bytes that the file takes on its filesystem.
    pub allocated: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Writes the disk of `image` to `path`. The file appears whole, or not at all.
pub fn export(
    image: &OpenImage,
    path: &Path,
    options: &ExportOptions,
    progress: &dyn Progress,
) -> Result<ExportReport> {
    use std::os::unix::fs::MetadataExt;
    let started = Instant::now();
    let format = container::format_for_output(options.format.as_deref(), path)?;
    let disk = image.disk()?;
    let mut output = Output::new(path, options.force)?;
    progress.stage("writing", disk.len());
    let written = format.create(&disk, &mut output, &options.options, progress);
    if progress.interrupted() {
        return Err(interrupted());
    }
    written?;
    output.commit()?;
    let allocated = std::fs::metadata(path).map_or(0, |m| m.blocks() * 512);
    Ok(ExportReport {
        image: image.label.clone(),
        output: path.display().to_string(),
        format: format.name().to_owned(),
        disk_size: disk.len(),
        allocated,
        seconds: started.elapsed().as_secs_f64(),
    })
}
