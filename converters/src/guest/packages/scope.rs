//! The part of an image in which package databases are searched.

use crate::tree::mounts::Root;
use crate::tree::path::VolumePath;
use crate::tree::view::Tree;

/// Where databases are searched.
pub(super) struct Scope<'a> {
    pub(super) tree: &'a Tree,
    pub(super) at: At<'a>,
}

pub(super) enum At<'a> {
    /// A root filesystem with its mounts.
    Root(&'a Root),
    /// A single volume.
    Volume(&'a str),
}

impl Scope<'_> {
    pub(super) fn volume(&self) -> &str {
        match self.at {
            At::Root(root) => root.volume(),
            At::Volume(volume) => volume,
        }
    }

    /// Returns the row of a path. Follows symlinks.
    pub(super) fn row(&self, path: &[u8]) -> Option<usize> {
        match self.at {
            At::Root(root) => self.tree.find_in(root, path, true).ok(),
            At::Volume(volume) => {
                let path = VolumePath { volume: Some(volume.to_owned()), path: path.to_vec() };
                self.tree.find(&path, true).ok()
            }
        }
    }
}
