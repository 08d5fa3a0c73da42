//! An open image of a store: its record and its files, checked against their digests.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use mif_formats::mif::PackId;
use mif_formats::mif::layout::Layout;
use mif_formats::mif::manifest::columns::Columns;
use mif_formats::mif::manifest::{self, Row};
use mif_formats::mif::packages::{self, Package, Packages};

use super::objects::Objects;
use super::record::Image;
use super::storage::{IMAGE_FILES, Storage};
use super::stored_disk::StoredDisk;
use super::{StoredFile, pack_list, trash};
use crate::error::{Error, Result, damaged};

/// The name of the packages table beside a manifest.
pub(crate) const PACKAGES: &str = "packages.parquet";

/// The name of the list of packs beside a manifest.
pub(crate) const PACKS: &str = "packs";

/// The files of an image, except its record and its list of packs.
pub(crate) struct Files {
    pub(crate) manifest: bytes::Bytes,
    pub(crate) layout: Vec<u8>,
    /// The files derived from the manifest, by name.
    pub(crate) more: Vec<(String, Vec<u8>)>,
}

/// An open image of the store.
pub struct StoredImage {
    /// Its record.
    pub image: Image,
    /// The directory of its files.
    pub(super) folder: String,
    pub(super) storage: Arc<dyn Storage>,
}

impl StoredImage {
    /// Returns the key of one of its files.
    pub(crate) fn key(&self, file: &str) -> String {
        format!("{}/{file}", self.folder)
    }

    /// Reads everything from the store itself from now on: for checks.
    pub(crate) fn bypass_caches(&self) {
        self.storage.bypass_caches();
    }

    /// Rewrites one of its files that is damaged.
    pub(crate) fn replace(&self, file: &str, bytes: &[u8]) -> Result<()> {
        let key = self.key(file);
        self.storage.replace(&key, bytes).map_err(|e| self.storage.error(&key, &e))
    }

    pub(super) fn read(&self, file: &str) -> Result<Vec<u8>> {
        let key = self.key(file);
        self.storage
            .read_all(&key)
            .or_else(|e| self.read_trashed(file, e))
            .map_err(|e| self.storage.error(&key, &e))
    }

    /// Reads a file of an image that was removed after it was opened.
    fn read_trashed(&self, file: &str, error: io::Error) -> io::Result<Vec<u8>> {
        let Image { name, version, .. } = &self.image;
        match trash::folder_of(&*self.storage, name, *version) {
            Ok(Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
                self.storage.read_all(&format!("{folder}/{file}"))
            }
            _ => Err(error),
        }
    }

    /// Reads one of the files derived from the manifest, checked against its digest in the record.
    pub(crate) fn table(&self, file: &str) -> Result<Vec<u8>> {
        let bytes = self.read(file)?;
        let digest = blake3::hash(&bytes).to_hex();
        if self.image.tables.get(file).map(String::as_str) != Some(digest.as_str()) {
            return Err(Error::store(format!("{}: {file} does not match its digest", self.image.id()))
                .advise("`mif fsck --repair` rebuilds it from the manifest"));
        }
        Ok(bytes)
    }

    /// Returns the packs with its objects, as its file `packs` lists them: most or all of them, and none if that is
    /// missing. It is only a hint: objects are found through all indexes too.
    pub(crate) fn packs(&self) -> BTreeSet<PackId> {
        self.read(PACKS).map(|text| pack_list::decode(&text)).unwrap_or_default()
    }

    /// Records that the objects it needs from the packs `gone` are now in the packs `new`.
    pub(crate) fn replace_packs(&self, gone: &BTreeSet<PackId>, new: &BTreeSet<PackId>) -> Result<()> {
        let packs = self.packs();
        match packs.is_disjoint(gone) {
            true => Ok(()),
            false => self.replace(PACKS, pack_list::encode(&(&(&packs - gone) | new)).as_bytes()),
        }
    }

    /// Reads the packages from the table beside the manifest.
    pub fn packages(&self) -> Result<Vec<Package>> {
        self.decode_packages(self.packages_file()?)
    }

    /// Reads the packages from the table as a file.
    pub(crate) fn decode_packages(&self, file: Vec<u8>) -> Result<Vec<Package>> {
        packages::read(file.into()).map_err(|e| damaged(&self.image.id(), &e))
    }

    /// Opens the packages table, for reading some of it.
    pub(crate) fn packages_table(&self) -> Result<Packages> {
        Packages::open(self.packages_file()?.into()).map_err(|e| damaged(&self.image.id(), &e))
    }

    /// Reads the packages table as a file.
    pub(crate) fn packages_file(&self) -> Result<Vec<u8>> {
        self.table(PACKAGES)
    }

    /// Reads the manifest's rows, checked against the digest in the record.
    pub fn manifest(&self) -> Result<Vec<Row>> {
        manifest::read(self.manifest_file()?).map_err(|e| damaged(&self.image.id(), &e))
    }

    /// Reads the manifest as a file, checked against the digest in the record.
    pub fn manifest_file(&self) -> Result<bytes::Bytes> {
        let bytes = self.read("manifest.parquet")?;
        if blake3::hash(&bytes).to_hex().as_str() != self.image.manifest_digest {
            return Err(Error::store(format!(
                "{}: manifest.parquet does not match its digest",
                self.image.id()
            ))
            .advise("The store is damaged, but the disk itself may be intact: try `mif export`"));
        }
        Ok(bytes.into())
    }

    /// Opens a manifest of several row groups for reading parts of it, once all of it was compared with the digest in the
    /// record. Returns `None` for a smaller one, or if it is damaged or cannot be read: then
    /// [`manifest`](Self::manifest) says why.
    pub(crate) fn large_manifest(&self) -> Option<Columns<StoredFile>> {
        /// How many bytes are read at once.
        const WINDOW: u64 = 4 << 20;
        let key = self.key("manifest.parquet");
        let len = self.storage.len(&key).ok()?;
        let columns = Columns::new(StoredFile::new(self.storage.clone(), &key).ok()?).ok()?;
        if columns.groups().count() < 2 {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        for start in (0..len).step_by(WINDOW as usize) {
            hasher.update(&self.storage.read(&key, start..len.min(start + WINDOW)).ok()?);
        }
        (hasher.finalize().to_hex().as_str() == self.image.manifest_digest).then_some(columns)
    }

    /// Reads its files, each checked against its digest in the record.
    pub(crate) fn files(&self) -> Result<Files> {
        self.layout()?;
        let table = |name: &String| match IMAGE_FILES.contains(&name.as_str()) {
            true => Ok((name.clone(), self.table(name)?)),
            false => Err(Error::unsupported(format!("{}: has the unknown file {name:?}", self.image.id()))),
        };
        let more = self.image.tables.keys().map(table).collect::<Result<_>>()?;
        Ok(Files { manifest: self.manifest_file()?, layout: self.read("layout")?, more })
    }

    /// Reads the layout, checked against the digest in the record.
    pub fn layout(&self) -> Result<Layout> {
        let (layout, digest) =
            Layout::decode(&self.read("layout")?).map_err(|e| damaged(&self.image.id(), &e))?;
        if blake3::Hash::from_bytes(digest).to_hex().as_str() != self.image.layout_digest {
            return Err(Error::store(format!("{}: the layout does not match its record", self.image.id())));
        }
        Ok(layout)
    }

    /// Returns the disk, which is read through the layout.
    pub fn disk(&self, objects: Arc<Objects>) -> Result<StoredDisk> {
        Ok(StoredDisk::new(Arc::new(self.layout()?), objects).with_sectors_of(self.image.table.sector_size))
    }
}
