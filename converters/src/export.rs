//! `export` and `convert`: a stored image, or one in another container, becomes a disk image file.

use std::path::{Path, PathBuf};
use std::time::Instant;

use mif_formats::Source;
use mif_formats::container::{self, CreateOptions, Output};
use serde::Serialize;

use crate::progress::{Progress, interrupted};
use crate::{Error, OpenImage, Result};

/// How to export.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// The container format; by the file's suffix if none.
    pub format: Option<String>,
    /// Options of the format, as `key=value`.
    pub options: CreateOptions,
    /// A disk image: only what differs from it is written, and the new one refers to it. For qcow2.
    pub backing: Option<PathBuf>,
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
    let mut format_options = options.options.clone();
    if let Some(base) = &options.backing {
        if format.name() != "qcow2" {
            let problem = format!("a {} file cannot lie on top of {}", format.name(), base.display());
            return Err(Error::unsupported(problem).advise("Only qcow2 is written on top of another image"));
        }
        format_options.push(("backing_file".into(), backing_name(base, path)?));
    }
    let disk = image.disk()?;
    let mut output = Output::new(path, options.force)?;
    progress.stage("writing", disk.len());
    let written = format.create(&disk, &mut output, &format_options, progress);
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

/// What the image at `output` is to call its backing file: its path from there if it lies beneath the same folder, so
/// that both can be moved together, and else its whole path.
fn backing_name(base: &Path, output: &Path) -> Result<String> {
    let found = base.canonicalize().map_err(|e| Error::io(base, &e))?;
    let folder = match output.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().map_err(|e| Error::io(folder, &e))?;
    let name = found.strip_prefix(&folder).unwrap_or(&found);
    let name = name.to_str().ok_or_else(|| {
        Error::unsupported(format!("{}: a backing file's name must be UTF-8", base.display()))
    })?;
    Ok(name.to_owned())
}
