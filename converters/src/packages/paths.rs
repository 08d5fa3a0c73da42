//! Paths as a package's file list has them, and as the manifest does: `/bin/sh` may be `/usr/bin/sh`.

use std::cell::RefCell;
use std::collections::HashMap;

use mif_formats::mif::manifest::escape;

use crate::{Tree, VolumePath};

/// Finds where the paths of packages are on a volume.
pub(super) struct Paths<'a> {
    tree: &'a Tree,
    volume: &'a str,
    /// Where folders are that were asked for.
    folders: RefCell<HashMap<Vec<u8>, Option<Vec<u8>>>>,
}

impl<'a> Paths<'a> {
    pub(super) fn new(tree: &'a Tree, volume: &'a str) -> Self {
        Paths { tree, volume, folders: RefCell::default() }
    }

    /// The manifest's name for `path`, if it is there. Symlinks on the way are followed, not one at the end.
    pub(super) fn find(&self, path: &[u8]) -> Option<String> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let (folder, name) = path.split_at(path.iter().rposition(|b| *b == b'/')?);
        let mut found = match self.folders.borrow_mut().entry(folder.to_vec()) {
            std::collections::hash_map::Entry::Occupied(known) => known.get().clone(),
            std::collections::hash_map::Entry::Vacant(new) => new.insert(self.folder(folder)).clone(),
        }?;
        found.extend_from_slice(name);
        self.tree.get(self.volume, &found).map(|_| escape(&found))
    }

    /// Where a folder is, without a slash at the end.
    fn folder(&self, path: &[u8]) -> Option<Vec<u8>> {
        let path = VolumePath { volume: Some(self.volume.to_owned()), path: path.to_vec() };
        let row = self.tree.find(&path, true).ok()?;
        let found = &self.tree.rows()[row].path;
        Some(if found == b"/" { Vec::new() } else { found.clone() })
    }

    /// All of `paths` that are there, ascending and each once.
    pub(super) fn find_all<'p>(&self, paths: impl Iterator<Item = &'p [u8]>) -> Vec<String> {
        let mut found: Vec<String> = paths.filter_map(|path| self.find(path)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}
