//! What `fsck` has found to be intact in one image, and need not look at again where another image has the same. It is known
//! by digests of what was read in this run, never by what the store says.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};

use mif_formats::mif::digests;
use mif_formats::mif::layout::Layout;
use mif_formats::mif::manifest::{Body, ValidColumns};

use crate::error::{Error, Result, damaged};
use crate::store::StoredImage;

/// What was found to be intact.
#[derive(Default)]
pub(super) struct Shared {
    columns: ValidColumns,
    /// The digests of tables of packages that can be read.
    packages: Mutex<HashSet<blake3::Hash>>,
    /// The contents of the last image all of whose files are intact, in the order of its rows.
    contents: Mutex<Arc<[Body]>>,
}

impl Shared {
    /// Reads the contents that a manifest names, of each row that has one. Fails if any of its rows cannot be read.
    pub(super) fn bodies(&self, stored: &StoredImage, manifest: bytes::Bytes) -> Result<Vec<Option<Body>>> {
        self.columns.bodies(manifest).map_err(|e| damaged(&stored.image.id(), &e))
    }

    /// Fails unless the table of packages matches its digest and can be read.
    pub(super) fn check_packages(&self, stored: &StoredImage) -> Result<()> {
        let file = stored.packages_file()?;
        let digest = blake3::hash(&file);
        let known = || self.packages.lock().expect("no thread panics while it holds this");
        if !known().contains(&digest) {
            stored.decode_packages(file)?;
            known().insert(digest);
        }
        Ok(())
    }

    /// Returns the contents of an image all of whose files are intact.
    pub(super) fn contents(&self) -> Arc<[Body]> {
        self.lock().clone()
    }

    /// Records the contents of an image all of whose files are intact.
    pub(super) fn set_contents(&self, contents: Vec<Body>) {
        *self.lock() = contents.into();
    }

    fn lock(&self) -> MutexGuard<'_, Arc<[Body]>> {
        self.contents.lock().expect("no thread panics while it holds this")
    }
}

/// Fails unless the file of digests matches the manifest: searches rely on it.
pub(super) fn check_digests(stored: &StoredImage, bodies: &[Option<Body>]) -> Result<()> {
    if digests::is_of(&stored.table("digests")?, bodies) {
        return Ok(());
    }
    Err(Error::store(format!("{}: the file digests does not match the manifest", stored.image.id())))
}

/// The files of an image that must match its record, or why they do not.
pub(super) struct Files {
    pub(super) stored: StoredImage,
    pub(super) layout: Result<Layout>,
    pub(super) manifest: Result<bytes::Bytes>,
}

impl Files {
    pub(super) fn read(stored: StoredImage) -> Self {
        Files { layout: stored.layout(), manifest: stored.manifest_file(), stored }
    }

    /// Returns true if all of them match the record.
    pub(super) fn fit(&self) -> bool {
        let size = self.stored.image.disk_size;
        self.manifest.is_ok() && self.layout.as_ref().is_ok_and(|layout| layout.disk_size() == size)
    }
}
