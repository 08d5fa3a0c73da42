//! A tree to build from: the member at each path, and the place of its bytes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::beneath::Directory;
use mif_formats::container::ImageFile;
use mif_formats::fs::Node;

use super::path::TreePath;
use crate::error::{Error, Result};
use crate::ingest::{LooseFile, Parts};

/// A tree: each path, from `/` on, with its member. A directory comes before its entries.
pub(crate) type Members = BTreeMap<TreePath, Member>;

/// The node at a path.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) content: Option<Content>,
    /// Members with the same number are the same file.
    pub(crate) file: Option<u64>,
    /// ACLs in text form: the attribute of each, and its text.
    pub(crate) acls: Vec<(&'static str, Vec<u8>)>,
}

/// The place of a regular file's bytes.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// A local file in the directory from which the tree was read.
    Local {
        root: Arc<Directory>,
        /// Its path relative to the directory.
        path: PathBuf,
        /// Its path in errors.
        shown: PathBuf,
        /// Its device and inode, which show whether it was replaced.
        identity: (u64, u64),
    },
    /// Parts in the tar: their ranges in the file, and their offsets in the tar.
    InTar(Arc<Parts>),
}

impl Content {
    /// Opens the content. `tar` is the archive from which the tree was read, if any.
    pub(crate) fn open(&self, size: u64, tar: Option<&Arc<dyn Source>>) -> Result<LooseFile> {
        match (self, tar) {
            (Content::Local { root, path, shown, identity }, _) => {
                let source = Arc::new(ImageFile::of(root.file(path), shown)?);
                if source.len() != size || source.identity()? != *identity {
                    return Err(Error::input(format!("{}: changed while it was read", shown.display())));
                }
                let mut parts = Vec::new();
                let mut at = 0;
                while at < size {
                    let extent = source.extent_at(at)?;
                    let end = extent.range.end.min(size);
                    if !extent.is_zero() {
                        parts.push((at..end, at));
                    }
                    at = end;
                }
                Ok(LooseFile { source, size, parts })
            }
            (Content::InTar(parts), Some(tar)) => {
                Ok(LooseFile { source: tar.clone(), size, parts: Parts::clone(parts) })
            }
            (Content::InTar(_), None) => Err(Error::store(
                "content refers to a tar archive that is not open; please report this as a bug",
            )),
        }
    }
}
