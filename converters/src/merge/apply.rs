//! Applies the result of a merge to the files of an image.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mif_formats::fs::{self, FileId, FileType, Timestamp};
use mif_formats::mif::manifest::{Row, escape};

use super::report::UpdateCounts;
use super::side::{Node, Side};
use super::three_way::{Change, Kind, Take};
use crate::error::Result;
use crate::tree::edit::{Files, parent};
use crate::tree::new_content::NewContent;
use crate::tree::path::Place;

/// The file id of a path in its volume, and the inode number to keep.
#[derive(Clone, Copy, Default)]
struct Numbers {
    file: Option<FileId>,
    inode: Option<u64>,
}

/// A volume of an image that is being changed.
pub(super) struct Applying<'a> {
    pub(super) volume: &'a str,
    /// Its current files.
    pub(super) ours: &'a Side<'a>,
    pub(super) change: &'a Change<'a>,
    pub(super) takes: &'a BTreeMap<&'a [u8], Take<'a>>,
}

impl Applying<'_> {
    /// Changes `files`, counts the changes, and returns the databases that were merged.
    pub(super) fn apply(&self, files: &mut Files, counts: &mut UpdateCounts) -> Result<Vec<String>> {
        let time = files.time;
        let files_of = self.files();
        let (mut merged, mut touched) = (Vec::new(), BTreeSet::new());
        for (path, take) in self.takes {
            let ours = self.ours.get(path);
            let place = Place { volume: self.volume.to_owned(), path: path.to_vec() };
            let kind = take.kind(ours);
            match kind {
                Kind::Added => counts.added += 1,
                Kind::Removed => counts.removed += 1,
                Kind::Changed => counts.changed += 1,
                Kind::Metadata => counts.metadata += 1,
            }
            let was = ours.map(|node| node.row.node.file_type);
            let becomes = match take {
                Take::Remove => None,
                Take::Put(node) | Take::Touch(node) => Some(node.row.node.file_type),
                Take::Merge(..) => Some(FileType::File),
            };
            if was.is_none() || becomes.is_none() || was != becomes {
                touched.insert(parent(path));
            }
            match take {
                Take::Remove => files.set(&place, None)?,
                Take::Put(node) => {
                    let file = files_of.get(path).copied().unwrap_or_default();
                    files.set(&place, Some(self.row(node, ours, file, time)))?;
                }
                Take::Touch(node) => {
                    if let Some(ours) = ours {
                        let mut row = ours.row.clone();
                        row.node.mtime = node.row.node.mtime;
                        row.node.ctime = row.node.ctime.map(|_| time);
                        files.set(&place, Some(row))?;
                    }
                }
                Take::Merge(node, bytes) => {
                    if let (Some(node), Some(ours)) = (node, ours) {
                        let file = Numbers { file: ours.row.file, inode: ours.row.node.inode };
                        files.set(&place, Some(self.row(node, Some(ours), file, time)))?;
                    }
                    files.replace(&place, NewContent::of_bytes(bytes.clone()))?;
                    merged.push(format!("{}:{}", self.volume, escape(path)));
                }
            }
        }
        for folder in touched {
            self.touch(files, folder, time)?;
        }
        Ok(merged)
    }

    /// Returns the row of a path that becomes B's. Values that are specific to the image's volume are kept.
    fn row(&self, after: &Node<'_>, ours: Option<Node<'_>>, numbers: Numbers, time: Timestamp) -> Row {
        let new = &after.row.node;
        let kept = ours.map(|ours| ours.row).filter(|row| row.node.file_type == new.file_type);
        let short_name = kept.map_or(after.row.short_name, |kept| kept.short_name);
        let kept = kept.map(|row| &row.node);
        let is_folder = new.file_type == FileType::Dir;
        let can = self.ours.can;
        let flags = match kept {
            _ if !can.is_posix => new.flags,
            Some(kept) => kept.flags & !can.user_flags | new.flags & can.user_flags,
            None => new.flags & can.user_flags,
        };
        let node = fs::Node {
            nlink: None,
            inode: numbers.inode,
            // A directory's time depends on changes to its entries.
            mtime: kept.filter(|_| is_folder).map_or(new.mtime, |kept| kept.mtime),
            atime: kept.map_or(Some(time), |kept| kept.atime),
            ctime: can.is_posix.then_some(time),
            crtime: kept.map_or(Some(time), |kept| kept.crtime),
            flags,
            generation: kept.and_then(|kept| kept.generation),
            project: kept.and_then(|kept| kept.project),
            ..new.clone()
        };
        Row { volume: self.volume.to_owned(), file: numbers.file, node, short_name, ..after.row.clone() }
    }

    /// Returns the numbers of paths that become B's: their old numbers, unless other files use them. All paths of one
    /// file get the same numbers.
    fn files(&self) -> HashMap<&[u8], Numbers> {
        let mut files: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
        for (path, take) in self.takes {
            if let Take::Put(node) = take {
                files.entry(node.links.first().unwrap_or(path)).or_default().push(path);
            }
        }
        let mut numbers = HashMap::new();
        let mut next = self.ours.first_free();
        for paths in files.values() {
            let had = paths.iter().find_map(|path| {
                let ours = self.ours.get(path)?;
                let Some(Take::Put(node)) = self.takes.get(path) else { return None };
                let is_free =
                    node.is(ours.row.node.file_type) && ours.links.iter().all(|link| paths.contains(link));
                let numbers = Numbers { file: ours.row.file, inode: ours.row.node.inode };
                (is_free && numbers.file.is_some()).then_some(numbers)
            });
            let of_all = had.unwrap_or_else(|| {
                let file = (paths.len() > 1).then_some(FileId(next));
                next += u32::from(file.is_some());
                Numbers { file, inode: None }
            });
            numbers.extend(paths.iter().map(|path| (*path, of_all)));
        }
        numbers
    }

    /// Sets the time of a directory whose entries changed: B's time, or that of the update if the image's time differs
    /// from A's.
    fn touch(&self, files: &mut Files, folder: &[u8], time: Timestamp) -> Result<()> {
        let place = Place { volume: self.volume.to_owned(), path: folder.to_vec() };
        let [before, after] =
            [0, 1].map(|side| self.change.sides[side].get(folder).map(|node| node.row.node.mtime));
        let Some(ours) = self.ours.get(folder).filter(|ours| ours.is(FileType::Dir)) else { return Ok(()) };
        let mtime = if Some(ours.row.node.mtime) == before { after.flatten() } else { None };
        match files.at(&place) {
            Some(row) if row.node.file_type == FileType::Dir => {
                let mut row = row.clone();
                row.node.ctime = row.node.ctime.map(|_| time);
                row.node.mtime = row.node.mtime.map(|_| mtime.unwrap_or(time));
                files.set(&place, Some(row))
            }
            _ => Ok(()),
        }
    }
}
