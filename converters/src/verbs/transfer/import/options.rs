//! Options of an import.

use std::path::Path;

use mif_formats::container::{self, Disk, OpenOptions};

use crate::disk::decrypted;
use crate::error::{Error, Result};
use crate::store::{ImageName, SourceFile, check_name};
use crate::task::progress::Progress;

/// Options of `import`.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The name in the store. If `None`, it is derived from the file's name.
    pub name: Option<String>,
    /// Make a new version of an image of that name even if it was imported from another file.
    pub new_version: bool,
    /// How to open the container.
    pub open: OpenOptions,
    /// Store what is encrypted as plaintext, with the passphrases of `open`.
    pub decrypt: bool,
    /// Read the new image back and compare it with its file before publishing it.
    pub verify: bool,
    /// Refuse a disk if importing it causes any warning.
    pub strict: bool,
    /// The number of threads. If `None`, the number of processors.
    pub threads: Option<usize>,
    /// The command line, for the image's record.
    pub command: Vec<String>,
}

impl ImportOptions {
    /// Fails if there are keys and nothing is to be decrypted, or the other way round.
    pub(crate) fn check(&self) -> Result<()> {
        match (self.decrypt, self.open.passphrases.is_empty()) {
            (true, true) => Err(Error::usage("--decrypt needs a key: --key-file FILE or --ask-key")),
            (false, false) => Err(Error::usage(
                "import stores encrypted volumes as they are, and takes a key only with --decrypt",
            )
            .advise("Pass --decrypt to store their plaintext, or leave out the key")),
            _ => Ok(()),
        }
    }

    /// Opens the container at `path`, and decrypts what is encrypted if that was asked for.
    pub(crate) fn open(&self, path: &Path, progress: &dyn Progress) -> Result<Disk> {
        match self.decrypt {
            true => decrypted::open(path, &self.open, progress),
            false => Ok(container::open_observed(path, &self.open, progress)?),
        }
    }

    /// Returns the name, or without one a valid name like `default`. Fails if the name is not valid.
    pub(crate) fn name_or(&self, default: &str) -> Result<String> {
        match &self.name {
            Some(name) => check_name(name).map(|()| name.clone()),
            None => Ok(ImageName::like(default)),
        }
    }
}

/// A container opened for import.
pub(crate) struct Opened<'a> {
    /// Its path, or a URL.
    pub(crate) path: &'a Path,
    /// True if that is a URL.
    pub(crate) is_url: bool,
    /// The name of its image.
    pub(crate) name: &'a str,
    /// Its disk.
    pub(crate) disk: &'a Disk,
    /// Its files, as they were before anything was read.
    pub(crate) files: &'a [SourceFile],
}

impl Opened<'_> {
    /// Returns where it was, for records: its URL, or its absolute path, because the directory that a relative one belongs
    /// to is forgotten.
    pub(crate) fn source(&self) -> String {
        let absolute = std::path::absolute(self.path).ok().filter(|_| !self.is_url);
        absolute.as_deref().unwrap_or(self.path).display().to_string()
    }
}
