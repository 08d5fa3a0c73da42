//! Paths as a package's file list has them, and as the manifest does: `/bin/sh` may be `/usr/bin/sh`.

use std::cell::RefCell;
use std::collections::HashMap;

use mif_formats::mif::manifest::escape;

use super::scope::Scope;

/// Where a directory is: its volume, and its path without a slash at the end.
type Folder<'a> = (&'a str, Vec<u8>);

/// Finds where the paths of packages are.
pub(super) struct Paths<'a> {
    scope: &'a Scope<'a>,
    /// Where directories are that were asked for: the volume, and the path without a slash at the end.
    folders: RefCell<HashMap<Vec<u8>, Option<Folder<'a>>>>,
}

impl<'a> Paths<'a> {
    pub(super) fn new(scope: &'a Scope<'a>) -> Self {
        Paths { scope, folders: RefCell::default() }
    }

    /// The manifest's name for `path`, if it is there; with its volume before it, if that is not the database's root.
    /// Symlinks on the way are followed, not one at the end.
    pub(super) fn find(&self, path: &[u8]) -> Option<String> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let (folder, name) = path.split_at(path.iter().rposition(|b| *b == b'/')?);
        let (volume, mut found) = match self.folders.borrow_mut().entry(folder.to_vec()) {
            std::collections::hash_map::Entry::Occupied(known) => known.get().clone(),
            std::collections::hash_map::Entry::Vacant(new) => new.insert(self.folder(folder)).clone(),
        }?;
        found.extend_from_slice(name);
        self.scope.tree.get(volume, &found)?;
        let found = escape(&found);
        Some(if volume == self.scope.volume() { found } else { format!("{volume}:{found}") })
    }

    /// Where a directory is, without a slash at the end.
    fn folder(&self, path: &[u8]) -> Option<Folder<'a>> {
        let row = &self.scope.tree.rows()[self.scope.row(path)?];
        Some((&row.volume, if row.path == b"/" { Vec::new() } else { row.path.clone() }))
    }

    /// All of `paths` that are there, ascending and each once.
    pub(super) fn find_all<'p>(&self, paths: impl Iterator<Item = &'p [u8]>) -> Vec<String> {
        let mut found: Vec<String> = paths.filter_map(|path| self.find(path)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}
