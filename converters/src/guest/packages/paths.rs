//! Converts paths in a package's file list to those of the manifest: `/bin/sh` may be `/usr/bin/sh`.

use std::cell::RefCell;
use std::collections::HashMap;

use mif_formats::mif::manifest::escape;

use super::scope::Scope;

/// The place of a directory: its volume, and its path without a trailing slash.
type Folder<'a> = (&'a str, Vec<u8>);

/// Resolves the paths in packages.
pub(super) struct Paths<'a> {
    scope: &'a Scope<'a>,
    /// The places of directories that were looked up, by the path without a trailing slash.
    folders: RefCell<HashMap<Vec<u8>, Option<Folder<'a>>>>,
}

impl<'a> Paths<'a> {
    pub(super) fn new(scope: &'a Scope<'a>) -> Self {
        Paths { scope, folders: RefCell::default() }
    }

    /// Returns the manifest's name for `path` if it exists, with its volume unless that is the database's root. Follows
    /// symlinks on the way, but not one at the end.
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

    /// Returns the place of a directory.
    fn folder(&self, path: &[u8]) -> Option<Folder<'a>> {
        let row = &self.scope.tree.rows()[self.scope.row(path)?];
        Some((&row.volume, if row.path == b"/" { Vec::new() } else { row.path.clone() }))
    }

    /// Returns the names of all of `paths` that exist, sorted and without duplicates.
    pub(super) fn find_all<'p>(&self, paths: impl Iterator<Item = &'p [u8]>) -> Vec<String> {
        let mut found: Vec<String> = paths.filter_map(|path| self.find(path)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}
