//! `reread`: describes a stored disk with today's readers, without the file that it was imported from.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use mif_formats::mif::manifest;
use serde::Serialize;

use super::import::known::there;
use super::import::read_back::ReadBack;
use super::import::tables::Tables;
use crate::disk::compare::is_same;
use crate::disk::scan::ScannedVolume;
use crate::error::{Error, Result};
use crate::ingest::import_disk;
use crate::store::{
    Counts, FilesystemRecord, Image, ImageName, ObjectWriter, Provenance, Store, StoredImage, VolumeRecord,
    WriterStats, check_name, features_of, tables_of,
};
use crate::task::progress::Progress;

/// Options of `reread`.
#[derive(Debug, Clone, Default)]
pub struct RereadOptions {
    /// The name of the new version. If `None`, the image's own.
    pub name: Option<String>,
    /// The number of threads. If `None`, the number of processors.
    pub threads: Option<usize>,
    /// The command line, for the image's record.
    pub command: Vec<String>,
}

/// The report of `reread`.
#[derive(Debug, Clone, Serialize)]
pub struct RereadReport {
    /// The image that was read, as `name@version`.
    pub parent: String,
    /// `reread`, or `unchanged` if today's readers describe the disk as the store does.
    pub result: &'static str,
    /// The version with today's description, as `name@version`: a new one, unless the result is `unchanged`.
    pub image: String,
    /// The disk's size in bytes.
    pub disk_size: u64,
    /// The volumes whose files are listed now and were not before.
    pub volumes: Vec<String>,
    /// How the disk was divided before.
    pub before: Counts,
    /// How the disk is divided now.
    pub counts: Counts,
    /// Objects and bytes that were new to the store.
    pub added: WriterStats,
    /// Bytes of the new manifest and layout.
    pub manifest_bytes: u64,
    /// Repairs of damage that was found in the store, as sentences.
    pub repaired: Vec<String>,
    /// Warnings about what could not be read or is unusual, as sentences.
    pub warnings: Vec<String>,
    /// The duration in seconds.
    pub seconds: f64,
}

/// Reads the disk of an image as an import does, and publishes its bits with the new description as the next version,
/// after comparing every bit. Publishes nothing if the description is the same as the old one.
///
/// Fails if the newest version of the name has other bits, because it would no longer be the newest.
pub fn reread(
    store: &Store,
    name: &ImageName,
    options: &RereadOptions,
    progress: &dyn Progress,
) -> Result<RereadReport> {
    let started = Instant::now();
    let stored = store.image(name)?;
    let old = &stored.image;
    let to = options.name.as_deref().unwrap_or(&old.name);
    check_name(to)?;
    let newest = check_newest(store, &stored, to, progress)?;
    let disk = Arc::new(stored.disk(Arc::new(store.objects()?))?);
    let writer = ObjectWriter::new(store)?;
    let mut read = import_disk(disk.clone(), &writer, options.threads, progress)?;
    let mut warnings = std::mem::take(&mut read.warnings);
    let mut added = writer.finish()?;
    let layout = Arc::new(read.take_layout());
    let counts = read.counts(&layout);
    let (layout_file, digest) = layout.encode();
    let layout_digest = blake3::Hash::from_bytes(digest).to_hex().to_string();
    let mut check = ReadBack::new(store, old.id(), disk, options.threads, progress);
    // A layout determines the bits.
    let disk_digest = match layout_digest == old.layout_digest {
        true => old.disk_digest.clone(),
        false => Some(check.disk(&layout)?.to_string()),
    };
    if old.disk_digest.as_ref().is_some_and(|known| disk_digest.as_ref() != Some(known)) {
        return Err(Error::store(format!(
            "{}: the disk does not match the disk digest in its record",
            old.id()
        ))
        .advise("Run `mif fsck` to check the store"));
    }
    drop(layout);
    let (scan, rows) = read.into_rows();
    let (stored_again, damaged) = check.files(&rows)?;
    added = added.with(stored_again);
    let mut manifest_file = Vec::new();
    manifest::write(&mut manifest_file, &rows)?;
    let volumes: Vec<VolumeRecord> = scan.volumes.iter().map(ScannedVolume::record).collect();
    let features = features_of(&rows);
    let mut tables = Tables::new(store, rows, &scan.table, &volumes)?;
    warnings.append(&mut tables.complaints);
    let manifest_digest = blake3::hash(&manifest_file).to_hex().to_string();
    let new = Image {
        disk_size: old.disk_size,
        layout_digest,
        disk_digest,
        manifest_digest,
        table: scan.table,
        volumes,
        tables: tables_of(&tables.files()),
        counts,
        features,
        warnings: warnings.clone(),
        ..Image::new(to, 0, provenance(old, options))
    };
    let mut known = [Some(&stored), newest.as_ref()].into_iter().flatten().map(|stored| &stored.image);
    let known = known.find(|known| is_described_alike(known, &new));
    let report = RereadReport {
        parent: old.id(),
        result: if known.is_some() { "unchanged" } else { "reread" },
        image: known.map_or_else(String::new, Image::id),
        disk_size: old.disk_size,
        volumes: newly_read(old, &new),
        before: old.counts,
        counts,
        added,
        manifest_bytes: 0,
        repaired: match damaged {
            0 => Vec::new(),
            _ => vec![format!("stored {damaged} damaged objects again")],
        },
        warnings,
        seconds: 0.0,
    };
    let seconds = || started.elapsed().as_secs_f64();
    if known.is_some() {
        return Ok(RereadReport { seconds: seconds(), ..report });
    }
    // Another command may have made a version meanwhile.
    check_newest(store, &stored, to, progress)?;
    let image = store.publish(new, &manifest_file, &layout_file, &tables.files())?;
    let manifest_bytes = (layout_file.len() + manifest_file.len()) as u64;
    Ok(RereadReport { image: image.id(), manifest_bytes, seconds: seconds(), ..report })
}

/// Returns the newest version of `name`. Fails if its bits are not those of `stored`.
fn check_newest(
    store: &Store,
    stored: &StoredImage,
    name: &str,
    progress: &dyn Progress,
) -> Result<Option<StoredImage>> {
    let Some(version) = store.versions(name)?.last().copied() else { return Ok(None) };
    if (name, version) == (&stored.image.name, stored.image.version) {
        return Ok(None);
    }
    let newest = there(store, name, version)
        .ok_or_else(|| Error::store(format!("{name}@{version}: its record is damaged")).advise(FSCK))?;
    match has_bits_of(store, stored, &newest, progress)? {
        true => Ok(Some(newest)),
        false => Err(Error::usage(format!(
            "{}: {} is newer and has other bits, so the reread version would hide it",
            stored.image.id(),
            newest.image.id()
        ))
        .advise("Pass `--as NAME` to publish it under another name")),
    }
}

const FSCK: &str = "Run `mif fsck` to check the store; it prints the command that repairs it";

/// Returns true if two images have the same bits.
fn has_bits_of(store: &Store, a: &StoredImage, b: &StoredImage, progress: &dyn Progress) -> Result<bool> {
    let (x, y) = (&a.image, &b.image);
    if x.disk_size != y.disk_size || x.layout_digest == y.layout_digest {
        return Ok(x.disk_size == y.disk_size);
    }
    if let (Some(x), Some(y)) = (&x.disk_digest, &y.disk_digest) {
        return Ok(x == y);
    }
    let objects = Arc::new(store.objects()?);
    is_same(&a.disk(objects.clone())?, &b.disk(objects)?, "comparing", progress)
}

/// Returns the provenance of an image that is described anew. It has the origin of the disk, if that was a file.
fn provenance(old: &Image, options: &RereadOptions) -> Provenance {
    let from = Some(old.provenance.clone()).filter(Provenance::is_of_file);
    let from = from.unwrap_or_else(|| Provenance::of("reread"));
    Provenance {
        parent: Some(old.id()),
        command: options.command.clone(),
        recipe: None,
        decrypted: old.provenance.decrypted.clone(),
        operation: "reread".into(),
        ..Provenance { tool: Provenance::of("reread").tool, ..from }
    }
}

/// Returns true if two records describe the same bits in the same way.
fn is_described_alike(old: &Image, new: &Image) -> bool {
    let parts = |image: &Image| (image.layout_digest.clone(), image.manifest_digest.clone());
    parts(old) == parts(new)
        && (&old.table, &old.volumes, &old.tables) == (&new.table, &new.volumes, &new.tables)
        // The first warnings of an import are about the container.
        && old.warnings.ends_with(&new.warnings)
}

/// Returns the volumes with a filesystem that had none before.
fn newly_read(old: &Image, new: &Image) -> Vec<String> {
    let listed = |image: &Image| -> BTreeSet<String> {
        let is_read = |volume: &&VolumeRecord| matches!(volume.content, FilesystemRecord::Filesystem(_));
        image.volumes.iter().filter(is_read).map(|volume| volume.volume.clone()).collect()
    };
    listed(new).difference(&listed(old)).cloned().collect()
}
