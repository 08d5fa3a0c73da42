//! The images of a store: their names, versions and records.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mif_formats::mif::layout::{Layout, Origin};
use mif_formats::mif::manifest::{self, Row};
use mif_formats::mif::packages::{self, Package};
use mif_formats::partition::{Partition, Table};
use serde::{Deserialize, Serialize};

use super::{Objects, SourceFile, Store, StoredDisk, published};
use crate::error::damaged;
use crate::{Error, Result};

/// The name of an image in a store, and which of its versions: `web`, `web@3`, `web@golden`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// The name: letters, digits and `. _ + -`, not beginning with a dot or a dash.
    pub name: String,
    /// Which version.
    pub version: Selector,
}

/// Which version of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The newest.
    Newest,
    /// The one of this number.
    Number(u32),
    /// The one that has this tag.
    Tag(String),
}

/// The longest name.
const MAX_NAME: usize = 128;

impl ImageName {
    /// Whether `name` can be the name of an image. It becomes part of a path, so little is allowed.
    #[must_use]
    pub fn is_valid(name: &str) -> bool {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
        !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(plain) && !name.starts_with(['.', '-'])
    }

    /// A valid name that is as much like `text` as can be.
    #[must_use]
    pub fn like(text: &str) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '_' };
        let name: String = text.chars().map(plain).take(MAX_NAME).collect();
        if Self::is_valid(&name) { name } else { format!("image{}", &name[..name.len().min(MAX_NAME - 5)]) }
    }
}

impl FromStr for ImageName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        if !Self::is_valid(name) {
            return Err(Error::usage(format!("\"{text}\" is no name of an image"))
                .advise("A name has letters, digits and . _ + - , and perhaps @VERSION or @TAG"));
        }
        let version = match version {
            None => Selector::Newest,
            Some(number) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
                let large = |_| Error::usage(format!("\"{text}\": the number after @ is too large"));
                Selector::Number(number.parse().map_err(large)?)
            }
            Some(tag) if Self::is_valid(tag) => Selector::Tag(tag.to_owned()),
            Some(_) => {
                return Err(Error::usage(format!("\"{text}\": what is after @ is no version and no tag"))
                    .advise("A version is a number; a tag has letters, digits and . _ + -"));
            }
        };
        Ok(ImageName { name: name.to_owned(), version })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.version {
            Selector::Newest => Ok(()),
            Selector::Number(version) => write!(f, "@{version}"),
            Selector::Tag(tag) => write!(f, "@{tag}"),
        }
    }
}

/// No disk, and nothing on one, has so many bytes: sums of sizes up to it do not overflow.
const MAX_SIZE: u64 = 1 << 56;

/// What `image.json` says of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The image's name.
    pub name: String,
    /// Its version, from 1.
    pub version: u32,
    /// The disk's size in bytes.
    pub disk_size: u64,
    /// The layout's digest, in hex: the identity of the disk's bits.
    pub layout_digest: String,
    /// BLAKE3 of `manifest.parquet`, in hex.
    pub manifest_digest: String,
    /// BLAKE3 of each of the files beside it that are made from it, in hex, by the file's name.
    pub tables: BTreeMap<String, String>,
    /// The partition table, with a partition for each volume.
    pub table: Table,
    /// What is on each partition, in the table's order.
    pub volumes: Vec<VolumeRecord>,
    /// How the disk divides.
    pub counts: Counts,
    /// Where it came from.
    pub provenance: Provenance,
    /// What could not be read, or is odd, each a sentence.
    pub warnings: Vec<String>,
}

/// What is on a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Its name in paths and in the manifest: `p` and the partition's slot.
    pub volume: String,
    /// What is there: a filesystem, or something recognised by name.
    pub content: FilesystemRecord,
}

/// What is on a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilesystemRecord {
    /// A filesystem whose files are in the manifest.
    Filesystem(mif_formats::fs::Info),
    /// Something else, by name if it was recognised.
    Other(Option<String>),
}

/// How a disk divides, in bytes unless said otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Paths in the manifest.
    pub paths: u64,
    /// Regular files, hard links counted once.
    pub files: u64,
    /// Their sizes together.
    pub file_bytes: u64,
    /// Bytes of the disk that are file content.
    pub content_bytes: u64,
    /// Bytes of the disk that are none.
    pub residue_bytes: u64,
    /// Bytes of the disk that are zero and stored nowhere.
    pub zero_bytes: u64,
}

/// Where an image came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// What made it: `import`, `customize`, …
    pub operation: String,
    /// The version of mif.
    pub tool: String,
    /// When, in seconds since 1970.
    pub time: u64,
    /// The file it was read from; of an update, what it is between, as `a@1 to a@2`.
    pub source: Option<String>,
    /// That file's container format.
    pub source_format: Option<String>,
    /// The internal snapshot of that file that it was read from, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The image it was made from, or took the place of, as `name@version`.
    pub parent: Option<String>,
    /// The command line, where a command made it.
    #[serde(default)]
    pub command: Vec<String>,
    /// The files that it was read from, as they were then: so that one that has not changed is known again.
    #[serde(default)]
    pub files: Vec<SourceFile>,
    /// The digest of the edits that made it from its parent: BLAKE3 in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
}

/// A version that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The image's name.
    pub name: String,
    /// The version, which is never given again.
    pub version: u32,
    /// When it was removed, in seconds since 1970; 0 if that is not known.
    #[serde(default)]
    pub time: u64,
    /// The digest of the layout that it had; none if its record could not be read.
    pub layout_digest: Option<String>,
}

impl Provenance {
    /// What this program makes now by `operation`.
    pub(crate) fn of(operation: &str) -> Self {
        Provenance {
            operation: operation.into(),
            tool: concat!("mif ", env!("CARGO_PKG_VERSION")).into(),
            time: crate::rm::now(),
            source: None,
            source_format: None,
            snapshot: None,
            parent: None,
            command: Vec::new(),
            files: Vec::new(),
            recipe: None,
        }
    }
}

impl Counts {
    /// How the disk of a layout divides; nothing is said of files.
    pub(crate) fn of(layout: &Layout) -> Self {
        let mut counts = Counts::default();
        for segment in layout.segments() {
            let len = segment.range.end - segment.range.start;
            match segment.origin {
                Origin::Zero => counts.zero_bytes += len,
                Origin::Content { .. } => counts.content_bytes += len,
                Origin::Residue { .. } => counts.residue_bytes += len,
            }
        }
        counts
    }
}

/// An image of the store that a verb went past, for something of it is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedImage {
    /// The image, as `name@version`.
    pub image: String,
    /// What is wrong with it.
    pub problem: String,
}

impl DamagedImage {
    pub(crate) fn new(name: &str, version: u32, error: &Error) -> Self {
        DamagedImage { image: format!("{name}@{version}"), problem: error.message().to_owned() }
    }
}

impl Image {
    /// The record of an empty disk without a table, made now by `operation`, for the caller to fill in.
    #[must_use]
    pub fn empty(name: &str, version: u32, operation: &str) -> Self {
        Self::new(name, version, Provenance::of(operation))
    }

    /// The same, where more is known of how it was made.
    pub(crate) fn new(name: &str, version: u32, provenance: Provenance) -> Self {
        Image {
            name: name.to_owned(),
            version,
            disk_size: 0,
            layout_digest: String::new(),
            manifest_digest: String::new(),
            tables: BTreeMap::new(),
            table: Table::none(),
            volumes: Vec::new(),
            counts: Counts::default(),
            provenance,
            warnings: Vec::new(),
        }
    }

    /// Its record as `image.json` has it.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a record is JSON")
    }

    /// Says which numbers of the record are out of range, if any: the rest of the program need not check them again.
    fn problem(&self) -> Option<&'static str> {
        let Image { table, counts, disk_size, .. } = self;
        let fits = |n: u64| n <= MAX_SIZE;
        let is_bad = |p: &Partition| !fits(p.start) || !fits(p.len);
        if ![512, 4096].contains(&table.sector_size) {
            return Some("its sector size is neither 512 nor 4096 bytes");
        }
        if !fits(*disk_size) || table.partitions.iter().any(is_bad) {
            return Some("it has a disk or partition larger than any disk");
        }
        let counts =
            [counts.content_bytes, counts.residue_bytes, counts.zero_bytes, counts.paths, counts.files];
        if !counts.into_iter().all(fits) {
            return Some("it counts more than any disk has");
        }
        None
    }

    /// `name@version`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// The folder of a version.
    pub(crate) fn folder(name: &str, version: u32) -> String {
        format!("images/name={name}/version={version}")
    }

    /// The partition of a volume.
    #[must_use]
    pub fn partition(&self, volume: &str) -> Option<&Partition> {
        self.table.partitions.iter().find(|p| crate::volume_name(p.slot) == volume)
    }
}

/// An image of the store, open.
pub struct StoredImage {
    /// Its record.
    pub image: Image,
    storage: Arc<dyn super::Storage>,
}

impl StoredImage {
    /// The key of one of its files.
    pub(crate) fn key(&self, file: &str) -> String {
        format!("{}/{file}", Image::folder(&self.image.name, self.image.version))
    }

    /// Writes one of its files again, in the place of one that is damaged.
    pub(crate) fn replace(&self, file: &str, bytes: &[u8]) -> Result<()> {
        let key = self.key(file);
        self.storage.replace(&key, bytes).map_err(|e| self.storage.error(&key, &e))
    }

    fn read(&self, file: &str) -> Result<Vec<u8>> {
        let key = self.key(file);
        self.storage.read_all(&key).map_err(|e| self.storage.error(&key, &e))
    }

    /// One of the files that are made from the manifest, checked against its digest in the record.
    pub(crate) fn table(&self, file: &str) -> Result<Vec<u8>> {
        let bytes = self.read(file)?;
        let digest = blake3::hash(&bytes).to_hex();
        if self.image.tables.get(file).map(String::as_str) != Some(digest.as_str()) {
            return Err(Error::store(format!("{}: {file} does not fit its digest", self.image.id()))
                .advise("`mif fsck --repair` makes it again from the manifest"));
        }
        Ok(bytes)
    }

    /// The packages, from the table beside the manifest.
    pub fn packages(&self) -> Result<Vec<Package>> {
        packages::read(self.packages_file()?.into()).map_err(|e| damaged(&self.image.id(), &e))
    }

    /// The table of packages as a file.
    pub(crate) fn packages_file(&self) -> Result<Vec<u8>> {
        self.table(crate::packages::TABLE)
    }

    /// The manifest's rows, checked against the digest in the record.
    pub fn manifest(&self) -> Result<Vec<Row>> {
        manifest::read(self.manifest_file()?).map_err(|e| damaged(&self.image.id(), &e))
    }

    /// The manifest as a file, checked against the digest in the record.
    pub fn manifest_file(&self) -> Result<bytes::Bytes> {
        let bytes = self.read("manifest.parquet")?;
        if blake3::hash(&bytes).to_hex().as_str() != self.image.manifest_digest {
            return Err(Error::store(format!(
                "{}: manifest.parquet does not fit its digest",
                self.image.id()
            ))
            .advise("The store is damaged there; the disk itself may be whole: try `mif export`"));
        }
        Ok(bytes.into())
    }

    /// The layout, checked against the digest in the record.
    pub fn layout(&self) -> Result<Layout> {
        let (layout, digest) =
            Layout::decode(&self.read("layout")?).map_err(|e| damaged(&self.image.id(), &e))?;
        if blake3::Hash::from_bytes(digest).to_hex().as_str() != self.image.layout_digest {
            return Err(Error::store(format!(
                "{}: the layout is not the one that its record names",
                self.image.id()
            )));
        }
        Ok(layout)
    }

    /// The disk, read through the layout.
    pub fn disk(&self, objects: Arc<Objects>) -> Result<StoredDisk> {
        Ok(StoredDisk::new(Arc::new(self.layout()?), objects).with_sectors_of(self.image.table.sector_size))
    }
}

impl Store {
    /// The names of all images.
    pub fn names(&self) -> Result<Vec<String>> {
        self.names_in("images")
    }

    /// The names of images of which versions were removed.
    pub fn removed_names(&self) -> Result<Vec<String>> {
        self.names_in("removed")
    }

    pub(super) fn names_in(&self, place: &str) -> Result<Vec<String>> {
        let folders = self.list(place)?;
        let names = folders.iter().filter_map(|f| f.strip_prefix("name="));
        Ok(names.filter(|name| ImageName::is_valid(name)).map(str::to_owned).collect())
    }

    /// The versions of an image, ascending.
    pub fn versions(&self, name: &str) -> Result<Vec<u32>> {
        let mut versions = self.versions_in("images", name)?;
        if !versions.is_empty() {
            // The folder of a removed version may still be there, with files that are not ours or because `rm` was killed.
            let removed = self.versions_in("removed", name)?;
            versions.retain(|version| !removed.contains(version));
        }
        Ok(versions)
    }

    /// Deletes what is left of versions that were removed. The caller holds the store's lock alone.
    pub(crate) fn finish_removals(&self) -> Result<()> {
        for name in self.removed_names()? {
            let left = self.versions_in("images", &name)?;
            for version in self.versions_in("removed", &name)? {
                if left.contains(&version) {
                    let folder = Image::folder(&name, version);
                    self.storage.delete(&folder).map_err(|e| self.storage.error(&folder, &e))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn versions_in(&self, place: &str, name: &str) -> Result<Vec<u32>> {
        let folders = self.list(&format!("{place}/name={name}"))?;
        // `version=01` is not a version that this program wrote, and may stand beside `version=1`.
        let number = |folder: &String| {
            let text = folder.strip_prefix("version=")?;
            text.parse().ok().filter(|number: &u32| number.to_string() == text)
        };
        let mut versions: Vec<u32> = folders.iter().filter_map(number).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    pub(super) fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.storage.list(folder).map_err(|e| self.storage.error(folder, &e))
    }

    /// All images whose records can be read, by name and version; and those whose records cannot.
    pub fn images(&self) -> Result<(Vec<Image>, Vec<DamagedImage>)> {
        let (mut images, mut damaged) = (Vec::new(), Vec::new());
        for name in self.names()? {
            for version in self.versions(&name)? {
                match self.version(&name, version) {
                    Ok(stored) => images.push(stored.image),
                    Err(e) => damaged.push(DamagedImage::new(&name, version, &e)),
                }
            }
        }
        Ok((images, damaged))
    }

    /// An image, by name and perhaps version.
    pub fn image(&self, name: &ImageName) -> Result<StoredImage> {
        let versions = self.versions(&name.name)?;
        let found = match &name.version {
            Selector::Number(version) => versions.contains(version).then_some(*version),
            Selector::Newest => versions.last().copied(),
            Selector::Tag(tag) => self.tagged(&name.name, tag)?.filter(|version| versions.contains(version)),
        };
        let Some(version) = found else {
            let advice = match versions.last() {
                Some(newest) => format!("Its newest version is {newest}"),
                None => "`mif images` lists the images".to_owned(),
            };
            let place = self.storage.place();
            return Err(Error::input(format!("{name}: no such image in the store {place}")).advise(advice));
        };
        self.version(&name.name, version)
    }

    /// A version of an image.
    pub fn version(&self, name: &str, version: u32) -> Result<StoredImage> {
        self.read_record(&format!("{}/image.json", Image::folder(name, version)), name, version)
    }

    pub(super) fn read_record(&self, key: &str, name: &str, version: u32) -> Result<StoredImage> {
        let place = || format!("{}/{key}", self.storage.place());
        let advise = |e: Error| e.advise("`mif fsck` checks the store, and says how to repair it");
        let json = self.storage.read_all(key).map_err(|e| advise(self.storage.error(key, &e)))?;
        let image: Image = serde_json::from_slice(&json)
            .map_err(|e| advise(Error::store(format!("{}: is not an image record: {e}", place()))))?;
        if (image.name.as_str(), image.version) != (name, version) {
            return Err(advise(Error::store(format!("{}: is the record of {}", place(), image.id()))));
        }
        if let Some(problem) = image.problem() {
            return Err(advise(Error::store(format!("{}: is not an image record: {problem}", place()))));
        }
        Ok(self.stored(image))
    }

    /// An image with this record, whether that stands in the store or not.
    pub(crate) fn stored(&self, image: Image) -> StoredImage {
        StoredImage { image, storage: self.storage.clone() }
    }

    /// A version of an image of which no record can be read, as its layout and its manifest have it. Their digests
    /// are what they are. An error if either is missing, or the layout is damaged.
    pub(crate) fn without_record(&self, name: &str, version: u32) -> Result<StoredImage> {
        let mut stored = self.stored(Image::empty(name, version, "unknown"));
        let (layout, digest) =
            Layout::decode(&stored.read("layout")?).map_err(|e| damaged(&stored.image.id(), &e))?;
        stored.image.disk_size = layout.disk_size();
        stored.image.layout_digest = blake3::Hash::from_bytes(digest).to_hex().to_string();
        let manifest = stored.read("manifest.parquet").unwrap_or_default();
        stored.image.manifest_digest = blake3::hash(&manifest).to_hex().to_string();
        Ok(stored)
    }

    /// The versions of an image that were removed, ascending. Of one whose record cannot be read, only the number is
    /// known.
    pub fn removed(&self, name: &str) -> Result<Vec<Removed>> {
        let folder = format!("removed/name={name}");
        let mut removed: Vec<Removed> = Vec::new();
        for version in self.versions_in("removed", name)? {
            let key = format!("{folder}/version={version}");
            let unknown = Removed { name: name.to_owned(), version, time: 0, layout_digest: None };
            let json = self.storage.read_all(&key).unwrap_or_default();
            let record = serde_json::from_slice(&json).unwrap_or(unknown);
            removed.push(record);
        }
        Ok(removed)
    }

    /// Whether a version was removed.
    pub(super) fn is_removed(&self, name: &str, version: u32) -> Result<bool> {
        Ok(self.versions_in("removed", name)?.contains(&version))
    }

    /// The version after all that there are or ever were.
    fn next_version(&self, name: &str) -> Result<u32> {
        let mut newest = 0;
        for place in ["images", "published", "removed"] {
            newest = newest.max(self.versions_in(place, name)?.last().copied().unwrap_or(0));
        }
        newest.checked_add(1).ok_or_else(|| {
            Error::store(format!("{name}: the store has a version {newest}, and none can follow it"))
                .advise("Import under another name")
        })
    }

    /// Removes a version of an image. The caller holds the store's lock alone. Its objects stay until gc.
    pub(crate) fn remove_version(&self, name: &str, version: u32, time: u64) -> Result<()> {
        let stored = self.version(name, version).or_else(|_| self.published(name, version)).ok();
        let layout_digest = stored.map(|stored| stored.image.layout_digest);
        let record = Removed { name: name.to_owned(), version, time, layout_digest };
        let json = serde_json::to_vec_pretty(&record).expect("a record is JSON");
        // The record first: no crash may make the number free again.
        let key = format!("removed/name={name}/version={version}");
        let failed = |e: std::io::Error| self.storage.error(&key, &e);
        self.put_removed(&key, &json, name, version).map_err(failed)?;
        self.storage.delete(&Image::folder(name, version)).map_err(failed)?;
        if self.versions(name)?.is_empty() {
            self.storage.delete(&format!("images/name={name}")).map_err(failed)?;
        }
        self.forget_published(name, version, record.layout_digest.as_deref())
    }

    /// Records that a version was removed. If the disk is full, the index cache is deleted first; if that is not enough, the
    /// image's own record is renamed to be the note, which needs no space.
    fn put_removed(&self, key: &str, json: &[u8], name: &str, version: u32) -> std::io::Result<()> {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let is_full = |e: &std::io::Error| matches!(e.kind(), StorageFull | QuotaExceeded);
        let put = || self.storage.put_if_absent(key, json).map(|_| ());
        let no_room = match put() {
            Err(e) if is_full(&e) => {
                super::index_cache::clear(&*self.storage)?;
                match put() {
                    Err(e) if is_full(&e) => e,
                    result => return result,
                }
            }
            result => return result,
        };
        for record in
            [format!("{}/image.json", Image::folder(name, version)), published::copy_key(name, version)]
        {
            if self.storage.rename(&record, key).is_ok() {
                return Ok(());
            }
        }
        Err(no_room)
    }

    /// Publishes an image under its name, as the next version; gives the record as published. `more` are files
    /// that are made from the manifest and stand beside it.
    pub fn publish(
        &self,
        mut image: Image,
        manifest: &[u8],
        layout: &[u8],
        more: &[(&str, &[u8])],
    ) -> Result<Image> {
        loop {
            image.version = self.next_version(&image.name)?;
            image.tables = tables_of(more);
            let json = image.to_json();
            if self.publish_version(&image, &json, manifest, layout, more)? {
                self.note_published(&image, &json)?;
                return Ok(image);
            }
            // Another process published this version first: take the next.
        }
    }

    /// Publishes an image as the version that its record names. Gives false if that is there.
    pub(crate) fn publish_version(
        &self,
        image: &Image,
        json: &[u8],
        manifest: &[u8],
        layout: &[u8],
        more: &[(&str, &[u8])],
    ) -> Result<bool> {
        let mut files = more.to_vec();
        files.extend([("manifest.parquet", manifest), ("layout", layout), ("image.json", json)]);
        let folder = Image::folder(&image.name, image.version);
        self.storage.publish(&folder, &files).map_err(|e| self.storage.error(&folder, &e))
    }
}

/// The digests of files that are made from a manifest.
pub(crate) fn tables_of(files: &[(&str, &[u8])]) -> BTreeMap<String, String> {
    files.iter().map(|(file, bytes)| ((*file).to_owned(), blake3::hash(bytes).to_hex().to_string())).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use mif_formats::mif::layout::Builder;

    use super::*;

    /// Publishes a disk of nothing.
    pub(in super::super) fn publish_empty(store: &Store, name: &str) -> Image {
        let mut builder = Builder::new();
        builder.zero(1 << 20);
        let (layout, digest) = builder.finish().encode();
        let mut manifest = Vec::new();
        mif_formats::mif::manifest::write(&mut manifest, &[]).unwrap();
        let image = Image {
            disk_size: 1 << 20,
            layout_digest: blake3::Hash::from_bytes(digest).to_hex().to_string(),
            manifest_digest: blake3::hash(&manifest).to_hex().to_string(),
            ..Image::empty(name, 0, "import")
        };
        let packages = mif_formats::mif::packages::write(&[]).unwrap();
        let digests = mif_formats::mif::digests::encode(&[]);
        let more = [("digests", &digests[..]), ("packages.parquet", &packages)];
        store.publish(image, &manifest, &layout, &more).unwrap()
    }

    #[test]
    fn names_that_could_leave_the_store_are_refused() {
        for bad in
            ["", ".", "..", "a/b", "a\\b", ".hidden", "-x", "a b", "ä", "a@", "a@-1", "a@/", &"x".repeat(200)]
        {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
        let good: ImageName = "web-1.2_x+y@12".parse().unwrap();
        assert_eq!((good.name.as_str(), good.version), ("web-1.2_x+y", Selector::Number(12)));
        let tagged: ImageName = "web@golden-1".parse().unwrap();
        assert_eq!(tagged.version, Selector::Tag("golden-1".into()));
    }

    #[test]
    fn any_text_makes_a_valid_name() {
        for text in ["", "..", "my image (1)", "ü", "-x", &"/".repeat(300)] {
            assert!(ImageName::is_valid(&ImageName::like(text)), "{text:?}");
        }
        assert_eq!(ImageName::like("my image (1)"), "my_image__1_");
    }
}
