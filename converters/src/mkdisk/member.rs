//! A tree to build from: the member at each path, and where its bytes are.

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

/// A tree: each path from `/` on with its member. A directory comes before its entries.
pub(super) type Members = BTreeMap<TreePath, Member>;

/// The node at a path.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) node: Node,
    pub(super) content: Option<Content>,
    /// Members with one number are one file.
    pub(super) file: Option<u64>,
    /// ACLs that are still text: the attribute of each, and its text.
    pub(super) acls: Vec<(&'static str, Vec<u8>)>,
}

/// Where the bytes of a regular file are.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// A file of this machine, in the directory that the tree came from.
    Local {
        root: Arc<Directory>,
        /// Its path in the directory.
        path: PathBuf,
        /// The path that errors name.
        shown: PathBuf,
        /// Its device and inode, by which it is known to be the same.
        identity: (u64, u64),
    },
    /// Parts of the tar: which of the file's, and where in the tar each begins.
    InTar(Arc<Parts>),
}

impl Content {
    /// Opens the content. `tar` is the archive that the tree came from, if any.
    pub(super) fn open(&self, size: u64, tar: Option<&Arc<dyn Source>>) -> Result<LooseFile> {
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
