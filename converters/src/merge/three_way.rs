//! The three-way merge of a volume: applies the changes from A to B to the files of an image.
//!
//! ```text
//! A the same as B             nothing changes
//! the image the same as B     it has the change already
//! the image the same as A     it takes B's
//! else                        a conflict, unless a rule (rules.rs) says otherwise
//! ```
//!
//! The hard links of a path are part of its node. So either all names of a file change or none, and a decision applies
//! to all of them.

use std::collections::BTreeMap;

use mif_formats::fs::FileType;
use mif_formats::mif::manifest::escape;
use mif_formats::text::hex_unless_text;

use super::entries;
use super::report::{Conflict, Left, Winner};
use super::rules::{Rule, rule};
use super::side::{Node, Side, same};
use crate::error::{Error, Result};
use crate::tree::edit::{Files, parent};
use crate::tree::path::Place;

/// The changes on a volume from A to B.
pub(super) struct Change<'a> {
    /// The directory on which the system mounts the volume, or its name if it is not mounted.
    pub(super) role: String,
    /// The files of A and B, for reading contents.
    pub(super) files: [&'a Files; 2],
    pub(super) sides: [Side<'a>; 2],
    /// The paths that differ, including those that differ only in time, in order.
    pub(super) paths: Vec<&'a [u8]>,
}

impl<'a> Change<'a> {
    /// Compares a volume of A with one of B.
    pub(super) fn new(role: &str, files: [&'a Files; 2], volumes: [&str; 2]) -> Self {
        let sides = [Side::new(files[0], volumes[0]), Side::new(files[1], volumes[1])];
        let mut paths: Vec<&[u8]> = sides.iter().flat_map(Side::paths).collect();
        paths.sort_unstable();
        paths.dedup();
        paths.retain(|path| {
            let [before, after] = [0, 1].map(|side| sides[side].get(path));
            !same(before, after, sides[1].can) || touched(before, after)
        });
        Change { role: role.to_owned(), files, sides, paths }
    }

    /// Returns the path as the image's own system sees it; `None` if it does not mount the volume.
    pub(super) fn guest_path(&self, path: &[u8]) -> Option<Vec<u8>> {
        let point = self.role.as_bytes();
        let point = point.strip_suffix(b"/").unwrap_or(point);
        self.role.starts_with('/').then(|| [point, path].concat())
    }
}

/// Returns true if a non-directory differs only in its timestamps.
fn touched(before: Option<Node<'_>>, after: Option<Node<'_>>) -> bool {
    let times = before.zip(after).map(|(before, after)| (before.row, after.row));
    times.is_some_and(|(before, after)| {
        after.node.file_type != FileType::Dir && before.node.mtime != after.node.mtime
    })
}

/// The change to a path of an image.
pub(super) enum Take<'a> {
    /// It is removed.
    Remove,
    /// It is replaced by B's.
    Put(Node<'a>),
    /// It gets the time of B's.
    Touch(Node<'a>),
    /// It is a database and gets these bytes, and B's metadata if given.
    Merge(Option<Node<'a>>, Vec<u8>),
}

/// The merge of a volume of an image.
pub(super) struct Merge<'a> {
    pub(super) takes: BTreeMap<&'a [u8], Take<'a>>,
    pub(super) conflicts: Vec<Conflict>,
    pub(super) left: Vec<Left>,
}

/// The inputs of a merge.
struct Merging<'a> {
    change: &'a Change<'a>,
    files: &'a Files,
    volume: &'a str,
    ours: &'a Side<'a>,
    winner: Option<Winner>,
    merge: Merge<'a>,
}

/// Merges a change into a volume of an image with the files `ours`.
pub(super) fn merge<'a>(
    change: &'a Change<'a>,
    files: &'a Files,
    volume: &'a str,
    ours: &'a Side<'a>,
    winner: Option<Winner>,
) -> Result<Merge<'a>> {
    let merge = Merge { takes: BTreeMap::new(), conflicts: Vec::new(), left: Vec::new() };
    let mut merging = Merging { change, files, volume, ours, winner, merge };
    for path in &change.paths {
        merging.path(path)?;
    }
    merging.folders_that_go();
    merging.folders_that_are_missing();
    Ok(merging.merge)
}

impl<'a> Merging<'a> {
    /// Decides about a path on its own.
    fn path(&mut self, path: &'a [u8]) -> Result<()> {
        let change = self.change;
        let [before, after] = [0, 1].map(|side| change.sides[side].get(path));
        let (ours, can) = (self.ours.get(path), self.ours.can);
        let has_b = same(ours, after, can);
        let has_a = same(ours, before, can);
        if same(before, after, can) {
            let time = |node: Option<Node<'_>>| node.map(|node| node.row.node.mtime);
            if let Some(after) = after.filter(|_| has_a && time(ours) == time(before)) {
                self.merge.takes.insert(path, Take::Touch(after));
            }
            return Ok(());
        }
        if has_b {
            return Ok(());
        }
        let guest = change.guest_path(path);
        let rule = guest.as_deref().map_or(Rule::Plain, rule);
        let is_file = after.or(before).is_some_and(|node| node.is(FileType::File));
        match rule {
            Rule::Machine(what) if is_file => self.leave(path, format!("machine-specific: {what}")),
            _ if has_a => self.take(path, after)?,
            Rule::Cache(why) if is_file => self.leave(path, why.to_owned()),
            Rule::Database(format) if is_file && ours.is_some_and(|ours| ours.is(FileType::File)) => {
                self.database(path, format, before, after, ours)?;
            }
            _ => {
                let why = match (before, after, ours) {
                    (None, ..) => "the image and the update both added it",
                    (_, None, _) => "the image changed it, and the update removed it",
                    (.., None) => "the image removed it, and the update changed it",
                    _ => "the image and the update both changed it",
                };
                if self.conflict(path, why.to_owned()) {
                    self.take(path, after)?;
                }
            }
        }
        Ok(())
    }

    /// Takes a path from B.
    fn take(&mut self, path: &'a [u8], after: Option<Node<'a>>) -> Result<()> {
        let take = match after {
            Some(node)
                if node.is(FileType::File) && node.row.node.size > 0 && node.row.object().is_none() =>
            {
                let path = escape(path);
                return Err(Error::input(format!(
                    "{path}: the content in the --to image is missing, because it could not be read at import"
                )));
            }
            Some(node) => Take::Put(node),
            None => Take::Remove,
        };
        self.merge.takes.insert(path, take);
        Ok(())
    }

    /// Records that both sides changed a path. Returns true if the update wins.
    fn conflict(&mut self, path: &[u8], why: String) -> bool {
        let path_bytes = hex_unless_text(path);
        self.merge.conflicts.push(Conflict { path: self.name(path), path_bytes, why });
        self.winner == Some(Winner::Update)
    }

    fn leave(&mut self, path: &[u8], why: String) {
        let path_bytes = hex_unless_text(path);
        self.merge.left.push(Left { path: self.name(path), path_bytes, why });
    }

    fn name(&self, path: &[u8]) -> String {
        format!("{}:{}", self.volume, escape(path))
    }

    /// Merges the entries of a database.
    fn database(
        &mut self,
        path: &'a [u8],
        format: entries::Format,
        before: Option<Node<'a>>,
        after: Option<Node<'a>>,
        ours: Option<Node<'_>>,
    ) -> Result<()> {
        let (Some(after), Some(ours)) = (after, ours) else { return Ok(()) };
        let can = self.ours.can;
        let before = before.filter(|before| before.is(FileType::File));
        let is_as = |node: Node<'_>, other: Option<Node<'_>>| {
            other.is_some_and(|other| node.same_metadata(&other, can))
        };
        // It gets the owner, mode and attributes of the side that changed them.
        let metadata = if is_as(ours, Some(after)) || is_as(after, before) {
            Some(None)
        } else {
            is_as(ours, before).then_some(Some(after))
        };
        let single = [Some(after), Some(ours), before].iter().flatten().all(|node| node.links.is_empty());
        let Some(metadata) = metadata.filter(|_| single) else {
            if self
                .conflict(path, "the image and the update both changed its owner, mode or links".to_owned())
            {
                self.take(path, Some(after))?;
            }
            return Ok(());
        };
        let base = before.map_or(Ok(Vec::new()), |before| self.change.files[0].content(before.row))?;
        let theirs = self.change.files[1].content(after.row)?;
        let own = self.files.content(ours.row)?;
        match entries::merge(format, [&base, &theirs, &own], self.winner) {
            Ok(merged) => {
                for clash in merged.clashes {
                    self.conflict(path, clash);
                }
                if merged.bytes != own || metadata.is_some() {
                    self.merge.takes.insert(path, Take::Merge(metadata, merged.bytes));
                }
            }
            Err(why) => {
                if self.conflict(path, format!("the image and the update both changed it: {why}")) {
                    self.take(path, Some(after))?;
                }
            }
        }
        Ok(())
    }

    /// Keeps directories that the update removes or replaces, but that contain files of the image.
    fn folders_that_go(&mut self) {
        let takes = self.merge.takes.iter();
        let going = takes.filter_map(|(path, take)| match take {
            Take::Remove => Some(*path),
            Take::Put(node) if !node.is(FileType::Dir) => Some(*path),
            _ => None,
        });
        let is_folder = |path: &&[u8]| self.ours.get(path).is_some_and(|node| node.is(FileType::Dir));
        let going: Vec<&[u8]> = going.filter(is_folder).collect();
        // The deepest first: a directory that stays is an entry of its parent.
        for path in going.into_iter().rev() {
            let place = Place { volume: self.volume.to_owned(), path: path.to_vec() };
            let is_mounted_on = self.files.is_mounted_on(&place);
            let stays = |path: &&[u8]| !matches!(self.merge.takes.get(path), Some(Take::Remove));
            let own: Vec<&[u8]> = self.ours.below(path).filter(stays).collect();
            if own.is_empty() && !is_mounted_on {
                continue;
            }
            if matches!(self.merge.takes[path], Take::Remove) {
                let why = if is_mounted_on {
                    "a volume is mounted on it"
                } else {
                    "the directory has files of the image"
                };
                self.leave(path, why.to_owned());
                self.merge.takes.remove(path);
                continue;
            }
            let why = format!(
                "the update replaced this directory, but the image has files in it: {}",
                escape(own.first().unwrap_or(&path))
            );
            let wins = self.conflict(path, why) && !is_mounted_on;
            if !wins {
                self.merge.takes.remove(path);
            }
            for own in own.into_iter().filter(|_| wins) {
                self.merge.takes.insert(own, Take::Remove);
                // A directory in it that was to stay is removed too.
                let name = self.name(own);
                self.merge.left.retain(|left| left.path != name);
            }
        }
    }

    /// Handles new paths whose parent directory does not exist in the image.
    fn folders_that_are_missing(&mut self) {
        let puts = self.merge.takes.iter().filter(|(_, take)| matches!(take, Take::Put(_)));
        let puts: Vec<&'a [u8]> = puts.map(|(path, _)| *path).filter(|path| *path != b"/").collect();
        for path in puts {
            let above: Vec<&'a [u8]> = std::iter::successors(Some(parent(path)), |path| {
                Some(parent(path)).filter(|_| *path != b"/")
            })
            .collect();
            let missing: Vec<&'a [u8]> =
                above.into_iter().filter(|folder| !self.will_be_folder(folder)).collect();
            let Some(folder) = missing.first() else { continue };
            let change = self.change;
            let why = format!("the image has no directory {}", escape(folder));
            if self.conflict(path, why) {
                for folder in missing {
                    if let Some(node) = change.sides[1].get(folder) {
                        self.merge.takes.insert(folder, Take::Put(node));
                    }
                }
            } else {
                self.merge.takes.remove(path);
            }
        }
    }

    fn will_be_folder(&self, path: &[u8]) -> bool {
        match self.merge.takes.get(path) {
            Some(Take::Remove) => false,
            Some(Take::Put(node)) => node.is(FileType::Dir),
            _ => self.ours.get(path).is_some_and(|node| node.is(FileType::Dir)),
        }
    }
}

/// The kind of change to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Added,
    Removed,
    Changed,
    Metadata,
}

impl Take<'_> {
    /// Returns the kind of change from the image's node.
    pub(super) fn kind(&self, ours: Option<Node<'_>>) -> Kind {
        match (self, ours) {
            (Take::Remove, _) => Kind::Removed,
            (_, None) => Kind::Added,
            (Take::Put(node), Some(ours)) if !node.same_kind(&ours) || !node.same_content(&ours) => {
                Kind::Changed
            }
            (Take::Merge(..), _) => Kind::Changed,
            _ => Kind::Metadata,
        }
    }
}
