//! `export` and `convert`: a stored image, or one in another container, becomes a disk image file. A stored one may
//! get another size, or fresh identities, on the way: that is a rebuild whose result is written and not kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use mif_formats::Source;
use mif_formats::container::{self, CreateOptions, Output};
use mif_formats::mif::manifest::Row;
use serde::Serialize;

use crate::image::Origin;
use crate::progress::{Progress, interrupted};
use crate::rebuild::{Base, Bench, Draft, IdsReport, NewContents, Reshape};
use crate::store::StoredDisk;
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
    /// Other sizes and identities; of a stored image only.
    pub reshape: Reshape,
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
    /// The volumes that were planned anew; all others are the image's, bit for bit.
    pub planned: Vec<String>,
    /// What changed beside what was asked for, each a sentence.
    pub notes: Vec<String>,
    /// What fresh identities did, if there are any.
    pub ids: Option<IdsReport>,
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
    let mut output = Output::new(path, options.force)?;
    let reshaped = if options.reshape.is_empty() { None } else { Some(reshape(image, options, progress)?) };
    let disk = match &reshaped {
        Some(reshaped) => reshaped.disk.clone(),
        None => image.disk()?,
    };
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
        planned: reshaped.as_ref().map_or(Vec::new(), |reshaped| reshaped.draft.planned.clone()),
        notes: reshaped.as_ref().map_or(Vec::new(), |reshaped| reshaped.draft.notes.clone()),
        ids: reshaped.and_then(|reshaped| reshaped.draft.ids),
        allocated,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A disk of other sizes or identities. Its new objects go away with the bench.
struct Reshaped<'s> {
    draft: Draft,
    disk: Arc<dyn Source>,
    _bench: Bench<'s>,
}

fn reshape<'i>(
    image: &'i OpenImage,
    options: &ExportOptions,
    progress: &dyn Progress,
) -> Result<Reshaped<'i>> {
    let Origin::Stored { stored, objects } = &image.origin else {
        return Err(Error::usage("only an image of the store gets another size or other identities")
            .advise("`mif import` it first"));
    };
    progress.stage("planning", 0);
    let base = Base::new(Bench::scratch(objects.clone())?, stored)?;
    let writer = base.writer()?;
    let rows: Vec<&Row> = base.rows.iter().collect();
    let mut draft = base.draft(&rows, &NewContents::new(), &[], &options.reshape, &writer, progress)?;
    base.finish(writer, [&mut draft])?;
    let rows: Vec<&Row> = base.rows.iter().collect();
    base.read_back(&draft, &rows)?;
    let disk = Arc::new(StoredDisk::new(draft.layout.clone(), base.objects));
    Ok(Reshaped { draft, disk, _bench: base.bench })
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
