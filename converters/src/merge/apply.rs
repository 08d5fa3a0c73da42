//! Changes the files of an image as a merge says.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mif_formats::fs::{FileType, Timestamp};
use mif_formats::mif::manifest::{Row, escape};

use super::report::UpdateCounts;
use super::side::{Node, Side};
use super::three_way::{Change, Kind, Take};
use crate::error::Result;
use crate::tree::edit::{Files, parent};
use crate::tree::new_content::NewContent;
use crate::tree::path::Place;

/// The first of the numbers that tell which new paths are one file. No volume has such: a planner gives others.
const FIRST_LABEL: u64 = 1 << 32;

/// A volume of an image that changes.
pub(super) struct Applying<'a> {
    pub(super) volume: &'a str,
    /// Its files as they are.
    pub(super) ours: &'a Side<'a>,
    pub(super) change: &'a Change<'a>,
    pub(super) takes: &'a BTreeMap<&'a [u8], Take<'a>>,
}

impl Applying<'_> {
    /// Changes `files`. Counts what it did, and gives the databases that it merged.
    pub(super) fn apply(&self, files: &mut Files, counts: &mut UpdateCounts) -> Result<Vec<String>> {
        let time = files.time;
        let inodes = self.inodes();
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
            let was = ours.map(|node| node.row.file_type);
            let becomes = match take {
                Take::Remove => None,
                Take::Put(node) | Take::Touch(node) => Some(node.row.file_type),
                Take::Merge(..) => Some(FileType::File),
            };
            if was.is_none() || becomes.is_none() || was != becomes {
                touched.insert(parent(path));
            }
            match take {
                Take::Remove => files.set(&place, None)?,
                Take::Put(node) => {
                    let inode = inodes.get(path).copied();
                    files.set(&place, Some(self.row(node, ours, inode, time)))?;
                }
                Take::Touch(node) => {
                    if let Some(ours) = ours {
                        let ctime = ours.row.ctime.map(|_| time);
                        files.set(&place, Some(Row { mtime: node.row.mtime, ctime, ..ours.row.clone() }))?;
                    }
                }
                Take::Merge(node, bytes) => {
                    if let (Some(node), Some(ours)) = (node, ours) {
                        files.set(&place, Some(self.row(node, Some(ours), ours.row.inode, time)))?;
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

    /// The row of a path that becomes B's: what only its own volume knows stays.
    fn row(&self, after: &Node<'_>, ours: Option<Node<'_>>, inode: Option<u64>, time: Timestamp) -> Row {
        let new = after.row;
        let kept = ours.map(|ours| ours.row).filter(|row| row.file_type == new.file_type);
        let is_folder = new.file_type == FileType::Dir;
        let can = self.ours.can;
        let flags = match kept {
            _ if !can.is_posix => new.flags,
            Some(kept) => kept.flags & !can.user_flags | new.flags & can.user_flags,
            None => new.flags & can.user_flags,
        };
        Row {
            volume: self.volume.to_owned(),
            nlink: None,
            inode,
            // The time of a folder is that of what came and went in it.
            mtime: kept.filter(|_| is_folder).map_or(new.mtime, |kept| kept.mtime),
            atime: kept.map_or(Some(time), |kept| kept.atime),
            ctime: can.is_posix.then_some(time),
            crtime: kept.map_or(Some(time), |kept| kept.crtime),
            flags,
            generation: kept.and_then(|kept| kept.generation),
            project: kept.and_then(|kept| kept.project),
            short_name: kept.map_or(new.short_name, |kept| kept.short_name),
            ..new.clone()
        }
    }

    /// The numbers of inodes of what becomes B's: those that its paths had, where nobody else has them. All paths of
    /// one file have the same.
    fn inodes(&self) -> HashMap<&[u8], u64> {
        let mut files: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
        for (path, take) in self.takes {
            if let Take::Put(node) = take {
                files.entry(node.links.first().unwrap_or(path)).or_default().push(path);
            }
        }
        let mut inodes = HashMap::new();
        let mut label = FIRST_LABEL;
        for paths in files.values() {
            let had = paths.iter().find_map(|path| {
                let ours = self.ours.get(path)?;
                let Some(Take::Put(node)) = self.takes.get(path) else { return None };
                let is_free =
                    node.is(ours.row.file_type) && ours.links.iter().all(|link| paths.contains(link));
                ours.row.inode.filter(|_| is_free)
            });
            let inode = had.or_else(|| {
                label += 1;
                (paths.len() > 1).then_some(label)
            });
            inodes.extend(paths.iter().filter_map(|path| Some((*path, inode?))));
        }
        inodes
    }

    /// Sets the time of a folder in which something came or went: B's, or that of the update where the image had its
    /// own.
    fn touch(&self, files: &mut Files, folder: &[u8], time: Timestamp) -> Result<()> {
        let place = Place { volume: self.volume.to_owned(), path: folder.to_vec() };
        let [before, after] =
            [0, 1].map(|side| self.change.sides[side].get(folder).map(|node| node.row.mtime));
        let Some(ours) = self.ours.get(folder).filter(|ours| ours.is(FileType::Dir)) else { return Ok(()) };
        let mtime = if Some(ours.row.mtime) == before { after.flatten() } else { None };
        match files.at(&place) {
            Some(row) if row.file_type == FileType::Dir => {
                let ctime = row.ctime.map(|_| time);
                let mtime = row.mtime.map(|_| mtime.unwrap_or(time));
                let row = Row { mtime, ctime, ..row.clone() };
                files.set(&place, Some(row))
            }
            _ => Ok(()),
        }
    }
}
