//! Containers: files that hold a disk. A format is a folder here and one line in [`FORMATS`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Result, Source, at};

/// A container format: how it is recognised, opened and written.
pub trait Format: Sync {
    /// Its name on the command line, which is qemu-img's name for it (`qcow2`).
    fn name(&self) -> &'static str;

    /// The file name suffixes that stand for it when a file is written, without dot.
    fn suffixes(&self) -> &'static [&'static str];

    /// Whether a file is of this format. `head` is its first bytes (up to 4 KiB), `tail` its last (up to 1 KiB), `len` its length in bytes.
    fn probe(&self, head: &[u8], tail: &[u8], len: u64) -> bool;

    /// Opens the container at `path` for reading.
    fn open(&self, path: &Path, options: &OpenOptions) -> Result<Disk>;

    /// Writes `source` as a new container, through `output`. Bytes are pulled in guest order.
    fn create(
        &self,
        source: &dyn Source,
        output: &mut Output,
        options: &CreateOptions,
        observer: &dyn Observer,
    ) -> Result<()>;
}

/// How a container is opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Open as this format instead of probing.
    pub format: Option<String>,
    /// Folders beneath which an image may make us open further files, besides its own.
    pub allow_paths: Vec<PathBuf>,
}

/// An opened container: the disk inside it, and what is to be said of the container.
pub struct Disk {
    /// The disk as the guest sees it.
    pub source: Arc<dyn Source>,
    /// The format's name.
    pub format: &'static str,
    /// Details for `info`, in order: (`cluster size`, `64 KiB`).
    pub details: Vec<(String, String)>,
    /// All files that hold the disk: the image first, then its extents and backing files.
    pub files: Vec<PathBuf>,
    /// What is odd about it, each a sentence.
    pub warnings: Vec<String>,
}

/// Told of progress by a writer, and asked whether to go on.
pub trait Observer: Sync {
    /// `bytes` more of the disk are done, holes included.
    fn advance(&self, bytes: u64);
    /// Whether the user wants to stop; the writer then returns an error.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Options of a writer, as `key=value`, with qemu-img's names where it has one.
pub type CreateOptions = Vec<(String, String)>;

/// Opens the container at `path`, probing its format unless told.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Disk> {
    let _ = options;
    Err(at("").file(path).unsupported("not written yet"))
}

/// Where a writer writes.
pub struct Output;
impl Output {
    /// new
    pub fn new(_: &Path, _: bool) -> Result<Self> {
        Ok(Output)
    }
    /// commit
    pub fn commit(self) -> Result<()> {
        Ok(())
    }
}
/// fmt
pub fn format_for_output(_: Option<&str>, path: &Path) -> Result<&'static dyn Format> {
    Err(at("").file(path).unsupported("not written yet"))
}
