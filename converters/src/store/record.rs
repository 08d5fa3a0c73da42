//! The record of an image, `image.json`: its name, its origin, and the contents of its disk.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use mif_formats::mif::layout::{Layout, Origin};
use mif_formats::mif::manifest::{Part, Row};
use mif_formats::partition::{Partition, Table};
use serde::{Deserialize, Serialize};

use super::source_file::SourceFile;
use crate::error::{Error, Result};

/// The name of an image in a store, and a version of it: `web`, `web@3`, `web@golden`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// The name: letters, digits and `. _ + -`; the first character is neither a dot nor a dash.
    pub name: String,
    /// Which version.
    pub version: Selector,
}

/// Which version of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The newest version.
    Newest,
    /// The version with this number.
    Number(u32),
    /// The version with this tag.
    Tag(String),
}

/// The maximum length of a name.
const MAX_NAME: usize = 128;

impl ImageName {
    /// Returns true if `name` is a valid image name. It becomes part of a path, so few characters are allowed.
    #[must_use]
    pub fn is_valid(name: &str) -> bool {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
        !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(plain) && !name.starts_with(['.', '-'])
    }

    /// Returns a valid name as similar to `text` as possible.
    #[must_use]
    pub fn like(text: &str) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '_' };
        let name: String = text.chars().map(plain).take(MAX_NAME).collect();
        if Self::is_valid(&name) { name } else { format!("image{}", &name[..name.len().min(MAX_NAME - 5)]) }
    }
}

/// Fails unless `name` is a valid image name.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if !ImageName::is_valid(name) {
        return Err(Error::usage(format!("invalid image name \"{name}\""))
            .advise("A name may contain letters, digits and . _ + -"));
    }
    Ok(())
}

impl FromStr for ImageName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        if !Self::is_valid(name) {
            return Err(Error::usage(format!("invalid image name \"{text}\""))
                .advise("A name may contain letters, digits and . _ + -, followed by @VERSION or @TAG"));
        }
        let version = match version {
            None => Selector::Newest,
            Some(number) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
                let large = |_| Error::usage(format!("\"{text}\": the number after @ is too large"));
                Selector::Number(number.parse().map_err(large)?)
            }
            Some(tag) if Self::is_valid(tag) => Selector::Tag(tag.to_owned()),
            Some(_) => {
                return Err(Error::usage(format!(
                    "\"{text}\": the part after @ is neither a version nor a tag"
                ))
                .advise("A version is a number; a tag may contain letters, digits and . _ + -"));
            }
        };
        Ok(ImageName { name: name.to_owned(), version })
    }
}

/// Parses `name@version`.
pub(super) fn version_of(id: &str) -> Option<(String, u32)> {
    let ImageName { name, version: Selector::Number(version) } = id.parse().ok()? else { return None };
    Some((name, version))
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

/// No disk, and nothing on one, is this large: sums of sizes up to this limit do not overflow.
const MAX_SIZE: u64 = 1 << 56;

/// The content of `image.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The image's name.
    pub name: String,
    /// Its version, from 1.
    pub version: u32,
    /// Features that a reader must support beyond this format, by name. A reader that does not support one of them
    /// refuses the image.
    pub features: Vec<String>,
    /// The disk's size in bytes.
    pub disk_size: u64,
    /// The layout's digest in hex. Images with the same layout have the same bits.
    pub layout_digest: String,
    /// The disk digest in hex, if it was computed. It depends only on the disk's bits.
    pub disk_digest: Option<String>,
    /// BLAKE3 of `manifest.parquet` in hex.
    pub manifest_digest: String,
    /// BLAKE3 in hex of each file derived from the manifest, by the file's name.
    pub tables: BTreeMap<String, String>,
    /// The partition table, with a partition for each volume.
    pub table: Table,
    /// The content of each partition, in the table's order.
    pub volumes: Vec<VolumeRecord>,
    /// How the disk is divided.
    pub counts: Counts,
    /// The origin of the image.
    pub provenance: Provenance,
    /// What could not be read or looks odd, each a sentence.
    pub warnings: Vec<String>,
}

/// The content of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Its name in paths and in the manifest: `p` and the partition's slot.
    pub volume: String,
    /// A filesystem, or something else that may have been recognised.
    pub content: FilesystemRecord,
    /// What the header of an encrypted volume says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub luks: Option<mif_formats::luks::Info>,
}

/// Returns the name of the volume on a partition: `p` and its slot.
#[must_use]
pub fn volume_name(slot: u32) -> String {
    format!("p{slot}")
}

/// The content of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilesystemRecord {
    /// A filesystem whose files are in the manifest.
    Filesystem(mif_formats::fs::Info),
    /// Something else, with its name if it was recognised.
    Other(Option<String>),
}

/// How a disk is divided, in bytes unless stated otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Paths in the manifest.
    pub paths: u64,
    /// Regular files, with hard links counted once.
    pub files: u64,
    /// The sum of their sizes.
    pub file_bytes: u64,
    /// Bytes of the disk that are file content.
    pub content_bytes: u64,
    /// Bytes of the disk that are residue.
    pub residue_bytes: u64,
    /// Bytes of the disk that are zero and stored nowhere.
    pub zero_bytes: u64,
}

/// The origin of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The operation that made it: `import`, `reread`, `customize`, …
    pub operation: String,
    /// The version of mif.
    pub tool: String,
    /// When it was made, in seconds since 1970.
    pub time: u64,
    /// The file it was read from; for an update, its two images, as `a@1 to a@2`.
    pub source: Option<String>,
    /// The container format of that file.
    pub source_format: Option<String>,
    /// The internal snapshot of that file that was read, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The image it was made from or replaced, as `name@version`.
    pub parent: Option<String>,
    /// The command line, if a command made it.
    #[serde(default)]
    pub command: Vec<String>,
    /// The source files as they were when read, so that unchanged files are recognised.
    #[serde(default)]
    pub files: Vec<SourceFile>,
    /// The digest of the edits that made it from its parent: BLAKE3 in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    /// The target of `check --fix` that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What of the disk was encrypted in the source and is plaintext in the image, each in a few words. Keys are recorded
    /// nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decrypted: Vec<String>,
}

/// A version that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The image's name.
    pub name: String,
    /// The version number, which is never reused.
    pub version: u32,
    /// When it was removed, in seconds since 1970; 0 if unknown.
    #[serde(default)]
    pub time: u64,
    /// The digest of its layout; `None` if its record could not be read.
    pub layout_digest: Option<String>,
}

impl Provenance {
    /// Returns the provenance of an image that this program makes by `operation`. The time is set on publication.
    pub(crate) fn of(operation: &str) -> Self {
        Provenance {
            operation: operation.into(),
            tool: concat!("mif ", env!("CARGO_PKG_VERSION")).into(),
            time: 0,
            source: None,
            source_format: None,
            snapshot: None,
            parent: None,
            command: Vec::new(),
            files: Vec::new(),
            recipe: None,
            target: None,
            decrypted: Vec::new(),
        }
    }

    /// Returns true if the image's disk is that of a file: it was imported, or is an import described anew.
    pub(crate) fn is_of_file(&self) -> bool {
        self.operation == "import" || self.operation == "reread" && self.source.is_some()
    }
}

impl Counts {
    /// Returns the bytes of a layout by kind of segment. The counts of files and paths stay zero.
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

/// An image that a command skipped because part of it is damaged.
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

/// The feature of an image whose manifest has rows of alternate streams.
const STREAMS: &str = "streams";

/// The features of images that this program supports.
const FEATURES: [&str; 1] = [STREAMS];

/// Returns the features of an image with these rows.
pub(crate) fn features_of(rows: &[Row]) -> Vec<String> {
    let is_stream = |row: &Row| matches!(row.part.as_deref(), Some(Part::Stream(_)));
    if rows.iter().any(is_stream) { vec![STREAMS.to_owned()] } else { Vec::new() }
}

impl Image {
    /// Returns the first feature that this program does not support.
    pub(super) fn unknown_feature(&self) -> Option<&String> {
        self.features.iter().find(|feature| !FEATURES.contains(&&***feature))
    }

    /// Returns the record of an empty disk without a table, made now by `operation`, for the caller to fill in.
    #[must_use]
    pub fn empty(name: &str, version: u32, operation: &str) -> Self {
        Self::new(name, version, Provenance::of(operation))
    }

    /// Like `empty`, with a given provenance.
    pub(crate) fn new(name: &str, version: u32, provenance: Provenance) -> Self {
        Image {
            name: name.to_owned(),
            version,
            features: Vec::new(),
            disk_size: 0,
            layout_digest: String::new(),
            disk_digest: None,
            manifest_digest: String::new(),
            tables: BTreeMap::new(),
            table: Table::none(),
            volumes: Vec::new(),
            counts: Counts::default(),
            provenance,
            warnings: Vec::new(),
        }
    }

    /// Returns its record as the content of `image.json`.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a record is JSON")
    }

    /// Describes the first value of the record that is out of range, so that the rest of the program need not check
    /// again.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let Image { table, counts, disk_size, .. } = self;
        let fits = |n: u64| n <= MAX_SIZE;
        let is_bad = |p: &Partition| !fits(p.start) || !fits(p.len);
        if ![512, 4096].contains(&table.sector_size) {
            return Some("its sector size is neither 512 nor 4096 bytes");
        }
        if !fits(*disk_size) || table.partitions.iter().any(is_bad) {
            return Some("a disk or partition size exceeds the limit");
        }
        let counts =
            [counts.content_bytes, counts.residue_bytes, counts.zero_bytes, counts.paths, counts.files];
        if !counts.into_iter().all(fits) {
            return Some("a count exceeds the limit");
        }
        None
    }

    /// Returns `name@version`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// Returns the directory of a version.
    pub(crate) fn folder(name: &str, version: u32) -> String {
        format!("images/name={name}/version={version}")
    }

    /// Returns the partition of a volume.
    #[must_use]
    pub fn partition(&self, volume: &str) -> Option<&Partition> {
        self.table.partitions.iter().find(|p| volume_name(p.slot) == volume)
    }
}
