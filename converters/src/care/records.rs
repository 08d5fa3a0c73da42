//! Reads the records of images, and rebuilds records, manifests and the tables beside them from the rest of the store.

use std::sync::Arc;

use mif_formats::mif::digests;
use mif_formats::mif::manifest::{self, Row};

use super::packs::PackState;
use super::report::{FsckReport, LostImage};
use crate::error::{Error, Result};
use crate::guest::packages;
use crate::ingest::{Reread, reread};
use crate::store::{
    Image, ObjectWriter, Objects, PACKAGES, Provenance, Store, StoredImage, features_of, tables_of,
};
use crate::task::progress::Progress;
use crate::tree::mounts::Devices;

/// Reads an image's record. Also fails if the record contradicts the image's files, and the second record or the
/// pointer agrees with the files.
pub(super) fn read(store: &Store, name: &str, version: u32) -> Result<StoredImage> {
    let stored = store.version(name, version)?;
    if let Ok(files) = store.without_record(name, version) {
        let fits = |image: &Image| {
            (&image.layout_digest, &image.manifest_digest, image.disk_size)
                == (&files.image.layout_digest, &files.image.manifest_digest, files.image.disk_size)
        };
        let digest = &files.image.layout_digest;
        let confirmed = store.published(name, version).is_ok_and(|copy| fits(&copy.image))
            || stored.image.layout_digest != *digest && store.has_pointer(name, version, digest);
        if !fits(&stored.image) && confirmed {
            let id = stored.image.id();
            return Err(Error::store(format!("{id}: image.json does not match the image's other files")));
        }
    }
    Ok(stored)
}

/// Rebuilds what follows from the rest of the store, and returns a sentence for each repair.
pub(super) fn mend(
    store: &Store,
    report: &FsckReport,
    state: &PackState,
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let mut done = Vec::new();
    for id in &report.unnoted {
        let image = LostImage { image: id.clone(), ..LostImage::default() };
        let (name, version) = image.id().expect("it was checked by its name and version");
        store.note_again(&store.version(name, version)?.image)?;
        done.push(format!("{id}: second record rewritten"));
    }
    for lost in report.lost.iter().filter(|lost| lost.has_layout() && lost.has_objects()) {
        let Some((name, version)) = lost.id() else { continue };
        let objects = Arc::new(Objects::new(store.storage().clone(), Arc::new(state.index())));
        Mender { store, lost, name, version, objects, progress, done: &mut done }.mend()?;
    }
    Ok(done)
}

struct Mender<'a> {
    store: &'a Store,
    lost: &'a LostImage,
    name: &'a str,
    version: u32,
    objects: Arc<Objects>,
    progress: &'a dyn Progress,
    done: &'a mut Vec<String>,
}

impl Mender<'_> {
    fn mend(mut self) -> Result<()> {
        let (store, lost) = (self.store, self.lost);
        let mut stored = match lost.lacks("record") {
            false => store.version(self.name, self.version)?,
            true => match store.published(self.name, self.version) {
                Ok(copy) => {
                    self.done.push(format!("{}: record restored from its second record", lost.image));
                    copy
                }
                Err(_) => self.record_from_disk()?,
            },
        };
        let without_tables = stored.image.tables.is_empty();
        if lost.lacks("manifest") {
            self.manifest(&mut stored)?;
        }
        for file in ["digests", PACKAGES] {
            if without_tables
                || stored.table(file).is_err()
                || lost.lacks("manifest")
                || lost.lacks("digests")
            {
                self.table(&mut stored, file)?;
            }
        }
        stored.replace("image.json", &stored.image.to_json())?;
        store.note_again(&stored.image)
    }

    /// Replaces one of the image's files, and records that.
    fn put(&mut self, stored: &StoredImage, file: &str, bytes: &[u8], from: &str) -> Result<()> {
        stored.replace(file, bytes)?;
        self.done.push(format!("{}: {file} rebuilt from the {from}", self.lost.image));
        Ok(())
    }

    /// Reads the stored disk as an import would, but stores nothing.
    fn reread(&self, stored: &StoredImage) -> Result<Reread> {
        let disk = Arc::new(stored.disk(self.objects.clone())?);
        let writer = ObjectWriter::only(self.store, std::collections::HashSet::new())?;
        reread(disk, &writer, None, self.progress)
    }

    /// Rebuilds the record from the disk. Its origin remains unknown.
    fn record_from_disk(&mut self) -> Result<StoredImage> {
        let mut stored = self.store.without_record(self.name, self.version)?;
        let read = self.reread(&stored)?;
        stored.image = Image {
            table: read.table,
            volumes: read.volumes,
            counts: read.counts,
            features: features_of(&read.rows),
            warnings: read.warnings,
            provenance: Provenance { time: self.store.storage().now(), ..Provenance::of("fsck") },
            ..stored.image
        };
        self.done.push(format!("{}: record rebuilt from the stored disk", self.lost.image));
        Ok(stored)
    }

    fn manifest(&mut self, stored: &mut StoredImage) -> Result<()> {
        let rows = self.reread(stored)?.rows;
        let mut file = Vec::new();
        manifest::write(&mut file, &rows)?;
        // Another version of this program may describe the same bits differently.
        stored.image.manifest_digest = blake3::hash(&file).to_hex().to_string();
        stored.image.features = features_of(&rows);
        self.put(stored, "manifest.parquet", &file, "stored disk")
    }

    /// Rebuilds a table that is derived from the manifest.
    fn table(&mut self, stored: &mut StoredImage, file: &str) -> Result<()> {
        let rows: Vec<Row> = stored.manifest()?;
        let bytes = match file {
            "digests" => digests::encode(&rows),
            _ => {
                let devices = Devices { table: &stored.image.table, volumes: &stored.image.volumes };
                packages::table(&rows, &self.objects, devices)?.0
            }
        };
        stored.image.tables.extend(tables_of(&[(file, &bytes)]));
        self.put(stored, file, &bytes, "manifest")
    }
}
