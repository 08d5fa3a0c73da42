//! Options of an import.

use std::path::Path;

use mif_formats::container::{Disk, OpenOptions};

use crate::store::SourceFile;

/// Options of `import`.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The name in the store; from the file's name if none.
    pub name: Option<String>,
    /// Make a new version of an image of that name even if another file was imported as it.
    pub new_version: bool,
    /// How the container is opened.
    pub open: OpenOptions,
    /// Read the new image back and compare it with its file before publishing it.
    pub verify: bool,
    /// Refuse a disk if importing it causes any warning.
    pub strict: bool,
    /// Number of threads; the number of processors if none.
    pub threads: Option<usize>,
    /// The command line, for the image's record.
    pub command: Vec<String>,
}

/// A container that was opened for import.
pub(crate) struct Opened<'a> {
    /// Where it is.
    pub(crate) path: &'a Path,
    /// The name of its image.
    pub(crate) name: &'a str,
    /// The disk in it.
    pub(crate) disk: &'a Disk,
    /// Its files, as they were before anything was read.
    pub(crate) files: &'a [SourceFile],
}
