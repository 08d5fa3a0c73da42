//! The record of an image: its name, where it came from, and what is on its disk, as `image.json` has it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use mif_formats::mif::layout::{Layout, Origin};
use mif_formats::partition::{Partition, Table};
use serde::{Deserialize, Serialize};

use super::source_file::SourceFile;
use crate::error::{Error, Result};

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

/// Errs unless `name` can be the name of an image.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if !ImageName::is_valid(name) {
        return Err(Error::usage(format!("\"{name}\" cannot be the name of an image"))
            .advise("A name has letters, digits and . _ + -"));
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

/// The name and version that `name@version` stands for.
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

/// No disk, and nothing on one, has so many bytes: sums of sizes up to it do not overflow.
const MAX_SIZE: u64 = 1 << 56;

/// What `image.json` says of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The image's name.
    pub name: String,
    /// Its version, from 1.
    pub version: u32,
    /// What a reader has to know beside this format to read the image, by name. A reader that does not know one of them
    /// refuses the image.
    pub features: Vec<String>,
    /// The disk's size in bytes.
    pub disk_size: u64,
    /// The layout's digest, in hex. Images with the same layout have the same bits.
    pub layout_digest: String,
    /// The disk digest, in hex, if it was computed: it depends on the disk's bits alone.
    pub disk_digest: Option<String>,
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

/// The name of the volume on a partition: `p` and its slot.
#[must_use]
pub fn volume_name(slot: u32) -> String {
    format!("p{slot}")
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
    /// What this program makes by `operation`; it has its time once it is published.
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
        }
    }
}

impl Counts {
    /// The bytes of a layout by kind of segment. The counts of files and paths stay zero.
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

    /// Its record as `image.json` has it.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a record is JSON")
    }

    /// Says which numbers of the record are out of range, if any: the rest of the program need not check them again.
    pub(super) fn problem(&self) -> Option<&'static str> {
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
        self.table.partitions.iter().find(|p| volume_name(p.slot) == volume)
    }
}
