//! A tree of files from outside the store: a local directory, or a tar archive.

use std::path::Path;
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::container::ImageFile;

use super::member::Members;
use super::spool::Spool;
use super::{members, tar};
use crate::error::{Error, Result};

/// The tree, and the tar that contains it.
pub(crate) struct Input {
    pub(crate) members: Members,
    pub(crate) tar: Option<Arc<dyn Source>>,
    /// Notes for the user about reading the tree, as sentences.
    pub(crate) notes: Vec<String>,
}

impl Input {
    /// Reads a directory or a tar archive.
    pub(super) fn open(tree: &Path) -> Result<Self> {
        if tree.is_dir() { Self::directory(tree) } else { Self::archive(tree) }
    }

    /// Reads a local directory.
    pub(crate) fn directory(folder: &Path) -> Result<Self> {
        Ok(Input { members: members::of_folder(folder)?, tar: None, notes: Vec::new() })
    }

    /// Reads a tar archive: a file, a named pipe, or `-` for standard input.
    pub(crate) fn archive(path: &Path) -> Result<Self> {
        let source: Arc<dyn Source> = if path == Path::new("-") {
            Arc::new(Spool::of(&mut std::io::stdin().lock())?)
        } else if std::fs::metadata(path)
            .is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_fifo(&meta.file_type()))
        {
            let mut pipe = std::fs::File::open(path).map_err(|e| Error::io(path, &e))?;
            Arc::new(Spool::of(&mut pipe)?)
        } else {
            Arc::new(ImageFile::open(path)?)
        };
        let (members, notes) = tar::of_tar(&*source, &path.display().to_string())?;
        Ok(Input { members, tar: Some(source), notes })
    }
}
