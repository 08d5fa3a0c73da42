//! `info`: what an image is: its container, partitions, filesystems and, in the store, where it came from.

use mif_formats::partition::Table;
use serde::Serialize;

use crate::scan::{Scan, ScannedVolume};
use crate::store::{Counts, Image, Provenance, VolumeRecord};
use crate::{OpenImage, Origin, Result};

/// What an image is.
#[derive(Debug, Clone, Serialize)]
pub struct ImageInfo {
    /// The file or `name@version`.
    pub image: String,
    /// The disk's size in bytes.
    pub disk_size: u64,
    /// The container, for a disk image file.
    pub container: Option<ContainerInfo>,
    /// The partition table.
    pub table: Table,
    /// What is on each partition, in the table's order.
    pub volumes: Vec<VolumeRecord>,
    /// For an image of the store.
    pub stored: Option<StoredInfo>,
    /// What is odd or could not be read, each a sentence.
    pub warnings: Vec<String>,
}

/// What a container is.
#[derive(Debug, Clone, Serialize)]
pub struct ContainerInfo {
    /// The format's name.
    pub format: String,
    /// Details, in order: what, and its value.
    pub details: Vec<(String, String)>,
    /// The files that hold the disk, the image first.
    pub files: Vec<String>,
}

/// What the store knows of an image.
#[derive(Debug, Clone, Serialize)]
pub struct StoredInfo {
    /// The identity of the disk's bits.
    pub layout_digest: String,
    /// How the disk divides.
    pub counts: Counts,
    /// Where it came from.
    pub provenance: Provenance,
}

/// Says what an image is.
pub fn info(image: &OpenImage) -> Result<ImageInfo> {
    match &image.origin {
        Origin::Stored { stored, .. } => {
            let Image { disk_size, layout_digest, table, volumes, counts, provenance, warnings, .. } =
                stored.image.clone();
            Ok(ImageInfo {
                image: image.label.clone(),
                disk_size,
                container: None,
                table,
                volumes,
                stored: Some(StoredInfo { layout_digest, counts, provenance }),
                warnings,
            })
        }
        Origin::File { container } => {
            let scan = Scan::new(container.source.clone())?;
            let warnings = container.warnings.iter().cloned().chain(scan.warnings.clone()).collect();
            Ok(ImageInfo {
                image: image.label.clone(),
                disk_size: container.source.len(),
                container: Some(ContainerInfo {
                    format: container.format.to_owned(),
                    details: container.details.clone(),
                    files: container.files.iter().map(|f| f.display().to_string()).collect(),
                }),
                volumes: scan.volumes.iter().map(ScannedVolume::record).collect(),
                table: scan.table,
                stored: None,
                warnings,
            })
        }
    }
}
