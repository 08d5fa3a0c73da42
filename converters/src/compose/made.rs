//! A composed disk: reads it back and publishes it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mif_formats::fs::FileType;
use mif_formats::fs::walk::walk;
use mif_formats::mif::digests;
use mif_formats::mif::layout::Layout;
use mif_formats::mif::manifest::{self, Row};
use mif_formats::partition::Table;

use crate::disk::scan::{Scan, ScannedVolume};
use crate::error::{Error, Result};
use crate::store::{Counts, Image, PACKAGES, Provenance, Store, StoredDisk, VolumeRecord, features_of};
use crate::tree::mounts::Devices;
use crate::tree::rows;

/// A composed disk, as read back.
pub(crate) struct Made {
    layout: Arc<Layout>,
    /// Its manifest.
    pub(crate) rows: Vec<Row>,
    pub(crate) records: Vec<VolumeRecord>,
    pub(crate) table: Table,
}

impl Made {
    /// Returns its partitions and volumes.
    pub(crate) fn devices(&self) -> Devices<'_> {
        Devices { table: &self.table, volumes: &self.records }
    }

    /// Reads the planned volumes `names` from the new disk. Their rows replace the edited ones.
    pub(crate) fn read_back(disk: StoredDisk, edited: &[&Row], names: &[String]) -> Result<Self> {
        let layout = disk.layout().clone();
        let scan = Scan::new(Arc::new(disk))?;
        let mut rows: Vec<Row> =
            edited.iter().filter(|row| !names.contains(&row.volume)).map(|row| (*row).clone()).collect();
        for name in names {
            let volume = scan.volumes.iter().find(|volume| volume.name == *name);
            let Some(filesystem) = volume.and_then(ScannedVolume::filesystem) else {
                return Err(Error::store(format!(
                    "{name}: the new volume has no readable filesystem; please report this as a bug"
                )));
            };
            let listing = walk(filesystem)?;
            let digests: HashMap<&[u8], &Row> =
                edited.iter().filter(|row| row.volume == *name).map(|row| (&row.path[..], *row)).collect();
            if let Some(complaint) = listing.complaints.first() {
                return Err(Error::store(format!(
                    "{name}: the new filesystem cannot be read back: {}",
                    complaint.error
                )));
            }
            if listing.entries.len() != digests.len() {
                return Err(Error::store(format!(
                    "{name}: {} paths were planned, but {} were read back; please report this as a bug",
                    digests.len(),
                    listing.entries.len()
                )));
            }
            for mut row in rows::of_listing(name, listing, |_, _, _| ()).0 {
                let Some(planned) = digests.get(&row.path[..]) else {
                    return Err(Error::store(format!(
                        "{name}:{}: read back, but not planned; please report this as a bug",
                        row.path_text()
                    )));
                };
                row.body = planned.body;
                rows.push(row);
            }
        }
        rows::sort(&mut rows);
        let records = scan.volumes.iter().map(ScannedVolume::record).collect();
        Ok(Made { layout, rows, records, table: scan.table })
    }

    /// Publishes it as the next version of `name`, with the given packages table.
    pub(crate) fn publish(
        &self,
        store: &Store,
        name: &str,
        packages_file: &[u8],
        provenance: Provenance,
    ) -> Result<Image> {
        let (layout_file, digest) = self.layout.encode();
        let mut manifest_file = Vec::new();
        manifest::write(&mut manifest_file, &self.rows)?;
        let image = Image {
            disk_size: self.layout.disk_size(),
            layout_digest: blake3::Hash::from_bytes(digest).to_hex().to_string(),
            manifest_digest: blake3::hash(&manifest_file).to_hex().to_string(),
            table: self.table.clone(),
            volumes: self.records.clone(),
            counts: counts(&self.layout, &self.rows),
            features: features_of(&self.rows),
            ..Image::new(name, 0, provenance)
        };
        let more = [("digests", &digests::encode(&self.rows)[..]), (PACKAGES, packages_file)];
        store.publish(image, &manifest_file, &layout_file, &more)
    }
}

fn counts(layout: &Layout, rows: &[Row]) -> Counts {
    let files = || rows.iter().filter(|row| row.part.is_none());
    let mut counts = Counts { paths: files().count() as u64, ..Counts::of(layout) };
    let mut seen = HashSet::new();
    for row in files().filter(|row| row.node.file_type == FileType::File) {
        if row.file.is_none_or(|file| seen.insert((&row.volume, file))) {
            counts.files += 1;
            counts.file_bytes = counts.file_bytes.saturating_add(row.node.size);
        }
    }
    counts
}
