//! Imports many images.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mif_formats::container::OpenOptions;
use serde::Serialize;

use super::divide::{Division, each};
use super::find::{FoundImage, PassedOver, find, trusting};
use super::{NamePattern, Share, Watch};
use crate::error::{Error, Result};
use crate::store::{ObjectWriter, Store, WriterStats};
use crate::task::progress::{Progress, interrupted};
use crate::verbs::transfer::import::known::known;
use crate::verbs::transfer::import::{ImportOptions, ImportReport, Opened, import_opened, source_files};

/// Options of an import of many images.
#[derive(Debug, Clone, Default)]
pub struct BatchImportOptions {
    /// The pattern for their names.
    pub names: NamePattern,
    /// The number of images to import in parallel; by default the number of threads, at most four.
    pub jobs: Option<usize>,
    /// Read images again even if their files have not changed since the last import.
    pub reread: bool,
    /// Which of the images to import.
    pub division: Division,
    /// Options of each import. Its name is ignored; its threads are shared by all.
    pub each: ImportOptions,
}

/// An event during the import of many images.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ImportEvent {
    /// A file is not an image of its own.
    PassedOver(PassedOver),
    /// The import of an image has started.
    Started {
        /// The file.
        source: String,
        /// The name of the image.
        name: String,
    },
    /// A new version was made.
    Finished(ImportReport),
    /// The image was read, and its newest version already is this disk.
    Unchanged(ImportReport),
    /// The newest version already is this disk, and its damaged parts were repaired.
    Repaired(ImportReport),
    /// The image was not read, because its files have not changed since they were imported.
    Skipped {
        /// The file.
        source: String,
        /// The image that it was imported as, `name@version`.
        image: String,
        /// The disk's size in bytes.
        disk_size: u64,
    },
    /// Another process of the run has imported it.
    Elsewhere {
        /// The file.
        source: String,
        /// The name of the image.
        name: String,
    },
    /// The image could not be imported.
    Failed {
        /// The file.
        source: String,
        /// The name of the image.
        name: String,
        /// The exit code for the error.
        code: u8,
        /// The error, with advice.
        error: String,
    },
    /// The batch has ended, completely or as far as possible.
    Summary(ImportSummary),
}

/// The summary of a batch.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct ImportSummary {
    /// The number of images.
    pub images: u64,
    /// Images of which a new version was made.
    pub imported: u64,
    /// Images that were read, and whose newest version already is this disk.
    pub unchanged: u64,
    /// Images whose newest version already is this disk, and whose damaged parts were repaired.
    pub repaired: u64,
    /// True if the store still has damaged copies of objects, which `mif fsck --repair` removes.
    pub damage_left: bool,
    /// Images that were not read, because their files have not changed.
    pub skipped: u64,
    /// Images that other processes of the run have imported.
    pub elsewhere: u64,
    /// Images that could not be imported.
    pub failed: u64,
    /// Images that were not finished, because the user or a store error stopped the import.
    pub left: u64,
    /// Files that are not images of their own.
    pub passed_over: u64,
    /// The sizes of the disks of imported, unchanged and skipped images, in bytes.
    pub disk_bytes: u64,
    /// Bytes of the imported and unchanged disks that are not zero.
    pub data_bytes: u64,
    /// Objects and bytes that were new to the store.
    pub added: WriterStats,
    /// The duration in seconds.
    pub seconds: f64,
}

impl ImportSummary {
    fn count(&mut self, event: &ImportEvent) {
        match event {
            ImportEvent::Finished(report)
            | ImportEvent::Unchanged(report)
            | ImportEvent::Repaired(report) => {
                match event {
                    ImportEvent::Finished(_) => self.imported += 1,
                    ImportEvent::Unchanged(_) => self.unchanged += 1,
                    _ => self.repaired += 1,
                }
                self.damage_left |= report.damage_left;
                self.disk_bytes += report.disk_size;
                self.data_bytes += report.counts.content_bytes + report.counts.residue_bytes;
                self.added = self.added.with(report.added);
            }
            ImportEvent::Skipped { disk_size, .. } => {
                self.skipped += 1;
                self.disk_bytes += disk_size;
            }
            ImportEvent::Elsewhere { .. } => self.elsewhere += 1,
            ImportEvent::Failed { .. } => self.failed += 1,
            ImportEvent::PassedOver(_) => self.passed_over += 1,
            ImportEvent::Started { .. } | ImportEvent::Summary(_) => {}
        }
    }
}

/// An image of the batch.
struct Planned {
    image: FoundImage,
    name: String,
}

/// Imports all images that `paths` stand for: files, and the disk images in directories. Continues after images that
/// cannot be imported. Fails if there are no images, if two would get the same name, if the user interrupts it, or if
/// the store cannot be written to.
pub fn import_all(
    store: &Store,
    paths: &[PathBuf],
    options: &BatchImportOptions,
    watch: &dyn Watch<ImportEvent>,
) -> Result<ImportSummary> {
    let started = Instant::now();
    options.each.check()?;
    let found = find(paths, &options.each.open, &*watch.begin("import"))?;
    let summary = std::sync::Mutex::new(ImportSummary::default());
    let tell = |event: ImportEvent| {
        summary.lock().expect("not poisoned").count(&event);
        watch.event(event);
    };
    for passed_over in found.passed_over {
        tell(ImportEvent::PassedOver(passed_over));
    }
    let mut planned = plan(found.images, &options.names)?;
    if planned.is_empty() {
        let places: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(Error::input(format!("{}: no disk images found", places.join(", ")))
            .advise("To import an unrecognised file as a raw disk, name the file itself"));
    }
    planned.retain(|planned| options.division.contains(&planned.name));
    watch.total(planned.len());
    let run = options.division.join(store, "import", &*watch.begin("import"))?;
    let writer = ObjectWriter::new(store)?;
    let shelf = Some(std::sync::Arc::default());
    let share = Share::new(planned.len(), options.jobs, options.each.threads);
    let names: Vec<String> = planned.iter().map(|planned| planned.name.clone()).collect();
    let waiting = || watch.begin("waiting for others");
    let import = |number: usize| {
        let Planned { image, name } = &planned[number];
        let source = image.path.display().to_string();
        let progress = watch.begin(name);
        crate::task::progress::check(&*progress)?;
        tell(ImportEvent::Started { source: source.clone(), name: name.clone() });
        let open = OpenOptions { shelf: shelf.clone(), ..trusting(paths, &options.each.open) };
        let each = ImportOptions { threads: Some(share.threads_for(number)), open, ..options.each.clone() };
        let event = match import_one(store, image, name, &writer, options.reread, &each, &*progress) {
            Ok(event) => event,
            Err(_) if progress.interrupted() => return Err(interrupted()),
            Err(error) if writer.has_failed() => return Err(error),
            Err(error) => {
                let code = error.code() as u8;
                ImportEvent::Failed { source, name: name.clone(), code, error: error.to_string() }
            }
        };
        drop(progress);
        let is_done = !matches!(event, ImportEvent::Failed { .. });
        tell(event);
        Ok(is_done)
    };
    let elsewhere = |number: usize| {
        let Planned { image, name } = &planned[number];
        tell(ImportEvent::Elsewhere { source: image.path.display().to_string(), name: name.clone() });
    };
    let done = each(run.as_ref(), share.jobs, &names, &waiting, import, elsewhere);
    let mut summary = summary.into_inner().expect("not poisoned");
    summary.images = planned.len() as u64;
    summary.left = summary.images
        - summary.imported
        - summary.unchanged
        - summary.repaired
        - summary.skipped
        - summary.elsewhere
        - summary.failed;
    summary.seconds = started.elapsed().as_secs_f64();
    watch.event(ImportEvent::Summary(summary));
    done.map(|()| summary)
}

/// Assigns a name to each image. Two images with the same name are refused, because their order as versions is unknown.
fn plan(images: Vec<FoundImage>, names: &NamePattern) -> Result<Vec<Planned>> {
    let mut planned: Vec<Planned> = Vec::with_capacity(images.len());
    let mut taken: HashMap<String, usize> = HashMap::new();
    for image in images {
        let name = names.name_of_disk(&image);
        if let Some(first) = taken.insert(name.clone(), planned.len()) {
            let first: &Path = &planned[first].image.path;
            return Err(Error::usage(format!(
                "{} and {} would both be imported as \"{name}\"",
                first.display(),
                image.path.display()
            ))
            .advise(
                "Nothing was imported. Pass --name '{parent}-{stem}', --name '{name}' or --name '{stem}-{member}', or \
                 import one at a time",
            ));
        }
        planned.push(Planned { image, name });
    }
    Ok(planned)
}

fn import_one(
    store: &Store,
    image: &FoundImage,
    name: &str,
    writer: &ObjectWriter,
    reread: bool,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<ImportEvent> {
    let path = &*image.path;
    if let Some(problem) = &image.problem {
        return Err(Error::input(format!("{}: {problem}", path.display())));
    }
    progress.stage("opening", 0);
    let disk = options.open(path, progress)?;
    let files = source_files(&disk)?;
    let opened = Opened { path, is_url: false, name, disk: &disk, files: &files };
    if !reread && let Some(there) = known(store, &opened, options)? {
        let source = path.display().to_string();
        return Ok(ImportEvent::Skipped { source, image: there.id(), disk_size: there.disk_size });
    }
    let report = import_opened(store, &opened, writer, options, progress)?;
    Ok(match report.result {
        "unchanged" => ImportEvent::Unchanged(report),
        "repaired" => ImportEvent::Repaired(report),
        _ => ImportEvent::Finished(report),
    })
}
