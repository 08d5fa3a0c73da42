//! Where on an image the databases of packages are looked for.

use crate::tree::mounts::Root;
use crate::tree::path::VolumePath;
use crate::tree::view::Tree;

/// Where databases are looked for.
pub(super) struct Scope<'a> {
    pub(super) tree: &'a Tree,
    pub(super) at: At<'a>,
}

pub(super) enum At<'a> {
    /// A root filesystem, with what its fstab mounts.
    Root(&'a Root),
    /// A volume by itself.
    Volume(&'a str),
}

impl Scope<'_> {
    pub(super) fn volume(&self) -> &str {
        match self.at {
            At::Root(root) => &root.volume,
            At::Volume(volume) => volume,
        }
    }

    /// The row of a path, symlinks followed.
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
