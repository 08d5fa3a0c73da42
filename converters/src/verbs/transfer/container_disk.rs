//! `push --as kubevirt`, and `pull` of images that other programs have put into a registry.

use std::path::Path;
use std::time::Instant;

use mif_formats::container;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::host::temporary;
use crate::image::{OpenImage, Origin};
use crate::notation::seconds_text;
use crate::store::{
    ContainerDisk, DiskForm, ForeignImage, Image, ImageName, ObjectWriter, RegistryPlace, Store,
    push_container_disk,
};
use crate::task::progress::Progress;
use crate::verbs::inspect::info;
use crate::verbs::transfer::export::{ExportOptions, export};
use crate::verbs::transfer::import::{ImportOptions, ImportReport, Opened, import_opened};

/// What a push for other programs did.
#[derive(Debug, Clone, Serialize)]
pub struct ContainerDiskReport {
    /// The image.
    pub image: String,
    /// The place in the registry.
    pub to: String,
    /// The disk's size in bytes.
    pub disk_size: u64,
    /// The bytes of the disk that were sent: none if the registry had them.
    pub bytes_sent: u64,
    /// Duration in seconds.
    pub seconds: f64,
}

/// Pushes an image to a registry as a disk for KubeVirt. `options` are for the qcow2 file in it, which is made in a
/// temporary directory.
pub fn push_for_kubevirt(
    image: &OpenImage,
    place: &RegistryPlace,
    form: DiskForm,
    options: &ExportOptions,
    progress: &dyn Progress,
) -> Result<ContainerDiskReport> {
    let started = Instant::now();
    if place.is_digest() {
        return Err(Error::usage(format!("{place}: an image is pushed to a tag, not to a digest")));
    }
    let architecture = info::system(image)?.architecture;
    let architecture = match architecture.as_deref() {
        None | Some("x86_64") => "amd64",
        Some("aarch64") => "arm64",
        Some(other) => other,
    };
    let directory = temporary::directory()?;
    let path = directory.path().join("disk.qcow2");
    let exported = export(image, &path, options, progress)?;
    let (title, version, created) = match &image.origin {
        Origin::Stored { stored, .. } => {
            let Image { name, version, provenance, .. } = &stored.image;
            (name.clone(), *version, Some(seconds_text(provenance.time)))
        }
        Origin::File { .. } => (ImageName::like(&container::stem(Path::new(&image.label))), 1, None),
    };
    let disk = ContainerDisk {
        disk: &path,
        name: "disk.qcow2",
        form,
        architecture,
        created,
        title: (&title, version),
    };
    let bytes_sent = push_container_disk(place, &disk, progress)?;
    Ok(ContainerDiskReport {
        image: image.label.clone(),
        to: place.to_string(),
        disk_size: exported.disk_size,
        bytes_sent,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Imports the disk of an image that another program has put into a registry: of the highest layer that has one. Layers
/// are fetched into a temporary directory.
pub fn pull_foreign(
    store: &Store,
    place: &RegistryPlace,
    image: &ForeignImage,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<ImportReport> {
    let name = options.name_or(place.repository.rsplit('/').next().unwrap_or_default())?;
    let directory = temporary::directory()?;
    let mut problem = None;
    for layer in (0..image.layers()).rev() {
        let path = directory.path().join(format!("layer-{layer}"));
        image.fetch(layer, &path, progress)?;
        progress.stage("opening", 0);
        match container::open_observed(&path, &options.open, progress) {
            Ok(disk) if disk.format == "raw" && !image.may_be_raw(layer) => {}
            Ok(disk) => {
                let label = place.to_string();
                let opened =
                    Opened { path: Path::new(&label), is_url: true, name: &name, disk: &disk, files: &[] };
                return import_opened(store, &opened, &ObjectWriter::new(store)?, options, progress);
            }
            Err(e) => problem = Some(Error::from(e)),
        }
        std::fs::remove_file(&path).map_err(|e| Error::io(&path, &e))?;
    }
    let problem = problem.map_or_else(String::new, |e| format!(": {}", e.message()));
    Err(Error::input(format!("{place}: none of its {} layers is or has a disk{problem}", image.layers())))
}
