//! Options of an import.

use std::path::Path;

use mif_formats::container::{Disk, OpenOptions};

use crate::store::SourceFile;

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The name in the store; from the file's name if none.
    pub name: Option<String>,
    /// Make a new version of an image of that name even if another file was imported as it.
    pub new_version: bool,
    /// How the container is opened.
    pub open: OpenOptions,
    /// Read the new image back through its layout, and compare, before it is published.
    pub verify: bool,
    /// Refuse a disk of which anything cannot be read or is odd.
    pub strict: bool,
    /// Threads; as many as the machine has processors if none.
    pub threads: Option<usize>,
    /// The command line, for the image's record.
    pub command: Vec<String>,
}

/// A container that was opened to be imported.
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
