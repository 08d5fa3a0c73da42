//! Exports all images of a store.

use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use mif_formats::container;
use serde::Serialize;

use super::divide::{Division, each};
use super::{Share, Watch};
use crate::error::{Error, Result};
use crate::image::OpenImage;
use crate::store::{ImageName, Selector, Store};
use crate::task::progress::{Silent, interrupted};
use crate::verbs::choose::{ImageFilter, Versions};
use crate::verbs::transfer::export::{ExportOptions, ExportReport, export};

/// Options of `export --all`.
#[derive(Debug, Clone, Default)]
pub struct BatchExportOptions {
    /// Export all versions, as `NAME@VERSION`, and not only the newest ones.
    pub all_versions: bool,
    /// Export only images that match.
    pub filter: ImageFilter,
    /// Which of these images to export.
    pub division: Division,
    /// The number of images to export in parallel; by default the number of processors, at most four.
    pub jobs: Option<usize>,
    /// Options of each export. The format or the target must be given.
    pub each: ExportOptions,
}

/// An event during the export of many images.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ExportEvent {
    /// The export of an image has started.
    Started {
        /// The image, `name@version`.
        image: String,
        /// The file.
        output: String,
    },
    /// The file is complete.
    Finished(Box<ExportReport>),
    /// Another process of the run has exported it.
    Elsewhere {
        /// The image, `name@version`.
        image: String,
        /// The file that it has here, or would have.
        output: String,
    },
    /// The file could not be written: a new file was not created, an existing one is unchanged.
    Failed {
        /// The image, `name@version`.
        image: String,
        /// The file.
        output: String,
        /// The exit code for the error.
        code: u8,
        /// The error, with advice.
        error: String,
    },
    /// The batch has ended, completely or as far as possible.
    Summary(ExportSummary),
}

/// The summary of a batch.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct ExportSummary {
    /// The number of images.
    pub images: u64,
    /// Images that were exported.
    pub exported: u64,
    /// Images that other processes of the run have exported.
    pub elsewhere: u64,
    /// Images that could not be exported.
    pub failed: u64,
    /// Images that were not finished, because the user interrupted the export.
    pub left: u64,
    /// The sizes of the disks exported, in bytes.
    pub disk_bytes: u64,
    /// The bytes that their files occupy.
    pub allocated: u64,
    /// The duration in seconds.
    pub seconds: f64,
}

/// Exports every image of the store to the directory, which is created if it does not exist, as `NAME.SUFFIX`.
/// Continues after images that cannot be exported. Fails if there are no images, or if the user interrupts it.
pub fn export_all(
    store: &Store,
    folder: &Path,
    options: &BatchExportOptions,
    watch: &dyn Watch<ExportEvent>,
) -> Result<ExportSummary> {
    let started = Instant::now();
    let suffix = match options.each.target {
        Some(target) => target.forms[0].suffixes[0],
        None => {
            let format = container::format_for_output(options.each.format.as_deref(), folder)?;
            format.suffixes().first().ok_or_else(|| {
                Error::unsupported(format!("mif reads {} images but does not write them", format.name()))
            })?
        }
    };
    let mut images = images(store, options)?;
    if images.is_empty() {
        return Err(Error::input(format!("{}: the store has no images", store.storage().place())));
    }
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, &e))?;
    images.retain(|image| options.division.contains(&image.name));
    watch.total(images.len());
    let run = options.division.join(store, "export", &*watch.begin("export"))?;
    let summary = Mutex::new(ExportSummary { images: images.len() as u64, ..ExportSummary::default() });
    let names: Vec<String> = images.iter().map(ToString::to_string).collect();
    let output = |number: usize| {
        let file = if options.all_versions { &names[number] } else { &images[number].name };
        folder.join(format!("{file}.{suffix}"))
    };
    let waiting = || watch.begin("waiting for others");
    let export_one = |number: usize| {
        let path = output(number);
        let (image, output) = (names[number].clone(), path.display().to_string());
        let progress = watch.begin(&image);
        crate::task::progress::check(&*progress)?;
        watch.event(ExportEvent::Started { image: image.clone(), output: output.clone() });
        let exported = OpenImage::stored(store, &images[number])
            .and_then(|image| export(&image, &path, &options.each, &*progress));
        let stopped = progress.interrupted();
        drop(progress);
        let event = match exported {
            Ok(report) => {
                let mut summary = summary.lock().expect("not poisoned");
                summary.exported += 1;
                summary.disk_bytes += report.disk_size;
                summary.allocated += report.allocated;
                ExportEvent::Finished(Box::new(report))
            }
            Err(_) if stopped => return Err(interrupted()),
            Err(error) => {
                summary.lock().expect("not poisoned").failed += 1;
                ExportEvent::Failed { image, output, code: error.code() as u8, error: error.to_string() }
            }
        };
        let is_done = !matches!(event, ExportEvent::Failed { .. });
        watch.event(event);
        Ok(is_done)
    };
    let elsewhere = |number: usize| {
        summary.lock().expect("not poisoned").elsewhere += 1;
        let (image, output) = (names[number].clone(), output(number).display().to_string());
        watch.event(ExportEvent::Elsewhere { image, output });
    };
    let jobs = Share::new(images.len(), options.jobs, None).jobs;
    let done = each(run.as_ref(), jobs, &names, &waiting, export_one, elsewhere);
    let mut summary = summary.into_inner().expect("not poisoned");
    summary.left = summary.images - summary.exported - summary.elsewhere - summary.failed;
    summary.seconds = started.elapsed().as_secs_f64();
    watch.event(ExportEvent::Summary(summary));
    done.map(|()| summary)
}

fn images(store: &Store, options: &BatchExportOptions) -> Result<Vec<ImageName>> {
    let all_versions = options.all_versions;
    if !options.filter.is_empty() {
        let versions = if all_versions { Versions::All } else { Versions::Newest };
        let chosen = options.filter.choose_some(store, versions, &Silent)?;
        return match chosen.damaged.first() {
            Some(damaged) => Err(Error::store(format!("{}: {}", damaged.image, damaged.problem))),
            None => Ok(chosen.names()),
        };
    }
    let mut images = Vec::new();
    for name in store.names()? {
        let versions = store.versions(&name)?;
        let from = if all_versions { 0 } else { versions.len().saturating_sub(1) };
        images.extend(
            versions[from..]
                .iter()
                .map(|version| ImageName { name: name.clone(), version: Selector::Number(*version) }),
        );
    }
    Ok(images)
}
