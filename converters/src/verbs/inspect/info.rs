//! `info`: describes an image: its container, partitions, filesystems, operating system and, in the store, its origin.

use std::sync::Arc;

use mif_formats::fs::Timestamp;
use mif_formats::partition::Table;
use serde::{Serialize, Serializer};

use crate::disk::scan::{Scan, ScannedVolume};
use crate::error::Result;
use crate::guest::boot::Sectors;
use crate::guest::system::System;
use crate::image::{OpenImage, Origin, tree_of_scan};
use crate::notation;
use crate::store::{Counts, Image, Provenance, VolumeRecord};

/// The report of `info`.
#[derive(Debug, Clone, Serialize)]
pub struct ImageInfo {
    /// The file, or `name@version`.
    pub image: String,
    /// The disk's size in bytes.
    pub disk_size: u64,
    /// The container, for a disk image file.
    pub container: Option<ContainerInfo>,
    /// The partition table.
    pub table: Table,
    /// The volumes, in the order of the partition table.
    pub volumes: Vec<VolumeRecord>,
    /// The system on it.
    pub system: System,
    /// What the store has recorded, for an image of the store.
    pub stored: Option<StoredInfo>,
    /// Warnings about what is unusual or could not be read, as sentences.
    pub warnings: Vec<String>,
}

/// A container.
#[derive(Debug, Clone, Serialize)]
pub struct ContainerInfo {
    /// The format's name.
    pub format: String,
    /// Details, in order, as names and values.
    pub details: Vec<(String, String)>,
    /// The files of the disk, the image first.
    pub files: Vec<String>,
}

/// What the store has recorded about an image.
#[derive(Debug, Clone, Serialize)]
pub struct StoredInfo {
    /// The digest of the layout: images with the same layout digest have the same bits.
    pub layout_digest: String,
    /// The digest of the disk's bits, if it was computed (`import --verify`).
    pub disk_digest: Option<String>,
    /// How the disk is divided.
    pub counts: Counts,
    /// Its origin.
    #[serde(serialize_with = "told_origin")]
    pub provenance: Provenance,
}

/// Writes an origin as reports write it: times as RFC 3339.
pub(crate) fn told_origin<S: Serializer>(
    origin: &Provenance,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    let mut told = serde_json::to_value(origin).map_err(serde::ser::Error::custom)?;
    told["time"] = notation::seconds_text(origin.time).into();
    for (told, file) in told["files"].as_array_mut().into_iter().flatten().zip(&origin.files) {
        let time = Timestamp { secs: file.mtime, nanos: file.mtime_ns };
        told["mtime"] = notation::time_text(time).into();
        told.as_object_mut().and_then(|told| told.remove("mtime_ns"));
    }
    told.serialize(serializer)
}

/// The record of an image as reports write it.
#[derive(Debug, Clone)]
pub struct ToldImage<'a>(pub &'a Image);

impl Serialize for ToldImage<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut told = serde_json::to_value(self.0).map_err(serde::ser::Error::custom)?;
        told["provenance"] = told_origin(&self.0.provenance, serde_json::value::Serializer)
            .map_err(serde::ser::Error::custom)?;
        told.serialize(serializer)
    }
}

/// Describes an image.
pub fn info(image: &OpenImage) -> Result<ImageInfo> {
    match &image.origin {
        Origin::Stored { stored, .. } => {
            let Image {
                disk_size,
                layout_digest,
                disk_digest,
                table,
                volumes,
                counts,
                provenance,
                mut warnings,
                ..
            } = stored.image.clone();
            // The record is reported even if the image's files are damaged.
            let system = stored_system(image, &table, &mut warnings).unwrap_or_else(|error| {
                warnings.push(format!("cannot read its files: {error}"));
                System::default()
            });
            Ok(ImageInfo {
                image: image.label.clone(),
                disk_size,
                container: None,
                table,
                volumes,
                system,
                stored: Some(StoredInfo { layout_digest, disk_digest, counts, provenance }),
                warnings,
            })
        }
        Origin::File { container } => {
            let scan = Arc::new(Scan::new(container.source.clone())?);
            let tree = tree_of_scan(&scan)?;
            let mut warnings = [&container.warnings[..], &tree.complaints].concat();
            let sectors = Sectors { disk: &*scan.disk, table: &scan.table };
            let system = System::read(&tree, &sectors, &mut warnings);
            Ok(ImageInfo {
                image: image.label.clone(),
                disk_size: container.source.len(),
                container: Some(ContainerInfo {
                    format: container.format.to_owned(),
                    details: container.details.clone(),
                    files: container.files.iter().map(|f| f.path().display().to_string()).collect(),
                }),
                volumes: scan.volumes.iter().map(ScannedVolume::record).collect(),
                table: scan.table.clone(),
                system,
                stored: None,
                warnings,
            })
        }
    }
}

/// Returns the system on an image. What cannot be read counts as missing.
pub(crate) fn system(image: &OpenImage) -> Result<System> {
    let table = match &image.origin {
        Origin::Stored { stored, .. } => stored.image.table.clone(),
        Origin::File { container } => Scan::new(container.source.clone())?.table,
    };
    stored_system(image, &table, &mut Vec::new())
}

fn stored_system(image: &OpenImage, table: &Table, warnings: &mut Vec<String>) -> Result<System> {
    let sectors = Sectors { disk: &*image.disk()?, table };
    let tree = image.tree()?;
    warnings.extend(tree.complaints.iter().cloned());
    Ok(System::read(&tree, &sectors, warnings))
}
