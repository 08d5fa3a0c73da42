//! Containers: files that hold a disk. A format is a directory here and one line in [`FORMATS`].

mod access;
mod archive;
mod codec;
mod dmg;
mod file;
pub mod foreign;
mod identity;
mod luks;
mod mapped;
mod opener;
mod options;
mod output;
mod patches;
mod pull;

mod parallels;
mod qcow2;
mod qed;
mod raw;
mod rewrite;
mod sequence;
mod shelf;
mod split;
mod survey;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;
mod wrapped;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result, at};
use crate::luks::Passphrase;
use crate::source::Source;
use crate::wrapper::Limits;

pub use self::access::Access;
pub use self::file::{DiskFile, ImageFile};
pub use self::opener::Opener;
pub use self::options::CreateOptions;
pub use self::output::{Output, OutputFile, OutputKind, STANDARD_OUTPUT};
pub use self::pull::{Pull, Window};
pub use self::rewrite::rewrite;
pub use self::shelf::Shelf;
pub use self::wrapped::{Wrapped, split_member, stem, wrapped};

/// Every format, in the order in which files are probed. Raw is last: any file can be raw.
pub static FORMATS: &[&dyn Format] = &[
    &qcow2::Qcow2,
    &vmdk::Vmdk,
    &vhdx::Vhdx,
    &vdi::Vdi,
    &vhd::Vhd,
    &parallels::Parallels,
    &qed::Qed,
    &dmg::Dmg,
    &split::Split,
    &luks::Luks,
    &raw::Raw,
];

/// Suffixes of files that are read but not written: other containers, compressed files, and archives.
const READ_ONLY: [&str; 17] = [
    "dmg", "hdd", "hds", "qed", "xz", "gz", "zst", "bz2", "lz4", "lzo", "lzma", "tar", "tgz", "ova", "box",
    "zip", "vma",
];

/// The largest disk that is opened, in bytes: 1 PiB. It is far above the limits of hypervisors, and it keeps sums of
/// offsets and the sizes of tables in range.
pub const MAX_DISK: u64 = 1 << 50;

/// A container format: how it is recognised, opened and written.
pub trait Format: Sync {
    /// Returns the format's name on the command line, which is qemu-img's name for it (`qcow2`).
    fn name(&self) -> &'static str;

    /// Returns the file name suffixes that select the format when a file is written, without dot.
    fn suffixes(&self) -> &'static [&'static str];

    /// Returns true if a file has this format. `head` is its first bytes (up to 4 KiB), `tail` its last (up to 1 KiB),
    /// `len` its length in bytes.
    fn probe(&self, head: &[u8], tail: &[u8], len: u64) -> bool;

    /// Returns true if the format is written sequentially, so that it can go to a pipe or a block device.
    fn is_sequential(&self) -> bool {
        false
    }

    /// Returns true if its files have an identity of their own; the writer then takes the options `uuid` and `seed`.
    fn has_identity(&self) -> bool {
        false
    }

    /// Opens a container for reading. Further files that it names are opened through `opener`.
    fn open(&self, file: ImageFile, opener: &Opener<'_>) -> Result<Disk>;

    /// Writes `source` as a new container, through `output`. Bytes are pulled in guest order; the result depends only
    /// on them and the options. The caller commits `output`.
    fn create(
        &self,
        source: &dyn Source,
        output: &mut Output,
        options: &CreateOptions,
        observer: &dyn Observer,
    ) -> Result<()>;
}

/// Options for opening a container.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Open as this format instead of probing.
    pub format: Option<String>,
    /// Directories under which an image may refer to files, besides its own directory.
    pub allow_paths: Vec<PathBuf>,
    /// Directories that are searched for images. The user named the directories and not the images in them, so an image
    /// in them is opened only if its real path lies under one of `allow_paths`.
    pub searched: Vec<PathBuf>,
    /// The internal snapshot to open instead of the current state: its name or ID.
    pub snapshot: Option<String>,
    /// The parent of the image, then the parent's parent, and so on, for chains that were moved, renamed or changed.
    /// They override the parents that the images name.
    pub parents: Vec<PathBuf>,
    /// How compressed files are decoded.
    pub unpack: Limits,
    /// Where a decoded archive is kept for its other disks, while many images are opened.
    pub shelf: Option<Arc<Shelf>>,
    /// Passphrases to open what is encrypted with: the image and its parents.
    pub passphrases: Vec<Passphrase>,
}

/// An opened container: the disk inside it, and a description of the container.
pub struct Disk {
    /// The disk as the guest sees it.
    pub source: Arc<dyn Source>,
    /// The format's name.
    pub format: &'static str,
    /// Details for `info`, in order: (`cluster size`, `64 KiB`).
    pub details: Vec<(String, String)>,
    /// All files that hold the disk: the image first, then its extents, then the files of its parent disks.
    pub files: Vec<DiskFile>,
    /// The number of files of the image itself: its main file and its extents. The files after them belong to parent
    /// disks, which are images of their own.
    pub own_files: usize,
    /// Warnings about the container, as sentences.
    pub warnings: Vec<String>,
    /// The encrypted volumes that were opened, each with a short description: `the disk: LUKS1, aes-xts-plain64, UUID …`.
    pub decrypted: Vec<String>,
}

/// A receiver of a writer's progress, which can also stop the writer.
pub trait Observer: Sync {
    /// Reports that `bytes` more of the disk are done, holes included.
    fn advance(&self, bytes: u64);
    /// Returns true if the user wants to stop; the writer then returns an error.
    fn interrupted(&self) -> bool {
        false
    }
}

/// An observer that ignores everything.
impl Observer for () {
    fn advance(&self, _: u64) {}
}

/// Opens the container at `path`, like [`open_observed`], without an observer.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Disk> {
    open_observed(path, options, &())
}

/// Opens the container at `path`, probing its format unless the options name it. A wrapper is opened first: a
/// compressed file is decoded, and the disk in an archive is found. `FILE//MEMBER` names a member of an archive.
///
/// A file that no format recognises is raw. Fails if the file does not exist (`NotFound`), is a directory, or is empty
/// (`Corrupt`), or if it has several disks (`Ambiguous`).
pub fn open_observed(path: &Path, options: &OpenOptions, observer: &dyn Observer) -> Result<Disk> {
    let (mut path, member) = split_member(path);
    if is_bundle(&path) {
        path.push(parallels::DESCRIPTOR);
    }
    let opener = Opener::new(&path, options)?;
    let outer = opener.open_image(&path)?;
    let found = wrapped::unwrap(outer, member.as_deref(), options, observer)?;
    let opener = opener.within(found.archive);
    let mut disk = open_file(found.file, &opener)?;
    disk.details.splice(0..0, found.details);
    disk.warnings.splice(0..0, found.warnings);
    if let (Some(snapshot), false) = (&options.snapshot, matches!(disk.format, "qcow2" | "parallels")) {
        return Err(at("").file(&path).unsupported(format!(
            "--snapshot {snapshot:?}: {} images have no internal snapshots",
            disk.format
        )));
    }
    Ok(disk)
}

/// Returns true if a directory holds one disk: a bundle of Parallels.
#[must_use]
pub fn is_bundle(path: &Path) -> bool {
    path.is_dir() && path.join(parallels::DESCRIPTOR).is_file()
}

/// Opens one image of a chain.
fn open_file(file: ImageFile, opener: &Opener<'_>) -> Result<Disk> {
    let path = file.path().to_owned();
    if file.is_empty() {
        return Err(at("").file(&path).corrupt("the file is empty"));
    }
    let format = match &opener.options().format {
        Some(name) => by_name(name)?,
        None => {
            let format = probe(&file)?.unwrap_or(&raw::Raw);
            // Raw formats accept any bytes; a fixed VHD is recognised by its last sector alone.
            if matches!(format.name(), "raw" | "split" | "vpc") {
                refuse_foreign(&file, format.name())?;
            }
            format
        }
    };
    let disk = format.open(file, opener).map_err(|e| e.in_file(&path))?;
    if disk.source.len() > MAX_DISK {
        let problem = format!(
            "the disk has {} bytes, over the limit of {} ({MAX_DISK})",
            disk.source.len(),
            human(MAX_DISK)
        );
        return Err(at("").file(&path).limit(problem));
    }
    if let Some(parent) = opener.parent()
        && disk.files.len() == disk.own_files
    {
        let problem = format!("the image has no parent, but --parent names {}", parent.display());
        return Err(at("").file(&path).unsupported(problem));
    }
    Ok(disk)
}

/// Opens the file at `path` for inspection, if these options allow it.
pub fn open_image_file(path: &Path, options: &OpenOptions) -> Result<ImageFile> {
    Opener::new(path, options)?.open_image(path)
}

/// Returns a description of the file if it is known not to be a disk image (see [`foreign`]).
pub fn foreign_name(file: &ImageFile) -> Result<Option<&'static str>> {
    let head = file.read_up_to(0, foreign::HEAD)?;
    let tail = file.read_up_to(file.len().saturating_sub(foreign::TAIL as u64), foreign::TAIL)?;
    Ok(foreign::name(&head, &tail, file.len()))
}

/// Fails if the file would pass for a disk of `format` but is something else.
fn refuse_foreign(file: &ImageFile, format: &str) -> Result<()> {
    match foreign_name(file)? {
        None => Ok(()),
        // Read as raw, it would be the compressed bytes.
        Some(what) if file.is_unpacked() => Err(at("")
            .file(file.path())
            .unsupported(format!("what is compressed in this file is {what}, not a disk image"))),
        Some(what) => Err(at("").file(file.path()).unsupported(format!(
            "this is {what}, not a disk image; unpack or convert it first, or pass --format {format} to read it as a \
             raw disk"
        ))),
    }
}

/// Detects the format of a file by its bytes or, for a split disk, by its name. Returns `None` if no format recognises
/// it: it is a raw disk, or not a disk at all.
pub fn probe(file: &ImageFile) -> Result<Option<&'static dyn Format>> {
    let head = file.read_up_to(0, 4096)?;
    let tail = file.read_up_to(file.len().saturating_sub(1024), 1024)?;
    let probed = FORMATS.iter().find(|f| f.probe(&head, &tail, file.len())).copied();
    let in_pieces = || split::is_first_piece(file.path()).then_some(&split::Split as &dyn Format);
    Ok(probed.or_else(in_pieces))
}

/// Returns true if a file has the name of a container or of a wrapper: the suffix of one, or the name of the first
/// piece of a split disk.
#[must_use]
pub fn has_suffix(path: &Path) -> bool {
    let suffix = path.extension().and_then(|s| s.to_str()).unwrap_or_default().to_ascii_lowercase();
    has_written_suffix(path) || READ_ONLY.contains(&&*suffix) || split::is_first_piece(path)
}

/// Returns true if a file has the suffix of a format that is written.
fn has_written_suffix(path: &Path) -> bool {
    let suffix = path.extension().and_then(|s| s.to_str()).unwrap_or_default().to_ascii_lowercase();
    FORMATS.iter().any(|f| f.suffixes().contains(&suffix.as_str()))
}

/// Returns the format to write: the one named, otherwise the one for the suffix of `path`. Standard output and devices
/// default to raw.
pub fn format_for_output(name: Option<&str>, path: &Path) -> Result<&'static dyn Format> {
    if let Some(name) = name {
        return by_name(name);
    }
    let is_device = std::fs::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir());
    if is_device || path.as_os_str() == STANDARD_OUTPUT {
        return Ok(&raw::Raw);
    }
    let suffix = path.extension().and_then(|s| s.to_str()).unwrap_or_default().to_ascii_lowercase();
    let found = FORMATS.iter().find(|f| f.suffixes().contains(&suffix.as_str()));
    found.copied().ok_or_else(|| {
        at("")
            .file(path)
            .unsupported(format!("cannot tell the output format from the suffix; pass -O ({})", writable()))
    })
}

fn by_name(name: &str) -> Result<&'static dyn Format> {
    let name_or_suffix = |f: &&&dyn Format| {
        f.name().eq_ignore_ascii_case(name) || f.suffixes().iter().any(|s| s.eq_ignore_ascii_case(name))
    };
    FORMATS.iter().find(name_or_suffix).copied().ok_or_else(|| unknown_format(name))
}

fn unknown_format(name: &str) -> Error {
    at("").unsupported(format!("unknown format {name:?}; the formats are {}", names()))
}

/// Returns the names of the formats that can be written: those with a suffix.
fn writable() -> String {
    let written = FORMATS.iter().filter(|f| !f.suffixes().is_empty());
    written.map(|f| f.name()).collect::<Vec<_>>().join(", ")
}

fn names() -> String {
    FORMATS.iter().map(|f| f.name()).collect::<Vec<_>>().join(", ")
}

/// Formats a number of bytes for people: `64 KiB`, `1.5 GiB`, `1000 bytes`.
fn human(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match value.fract() == 0.0 {
        true => format!("{value} {}", units[unit]),
        false => format!("{value:.1} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests;
