//! The files of a volume for comparison: the node at each path, with the paths of its hard links.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use mif_formats::fs::{Capabilities, FileId, FileType};
use mif_formats::mif::manifest::Row;

use crate::tree::edit::{Files, below};

/// The files of a volume.
pub(super) struct Side<'a> {
    /// The capabilities of its filesystem.
    pub(super) can: &'static Capabilities,
    rows: BTreeMap<&'a [u8], &'a Row>,
    /// The paths of each file that has several, in order.
    links: HashMap<FileId, Vec<&'a [u8]>>,
}

/// The node at a path.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) row: &'a Row,
    /// All paths of this file, if it has several.
    pub(super) links: &'a [&'a [u8]],
}

impl<'a> Side<'a> {
    pub(super) fn new(files: &'a Files, volume: &str) -> Self {
        let can = files.capabilities(volume);
        let rows: BTreeMap<&[u8], &Row> =
            files.volume_rows(volume).map(|row| (row.path.as_slice(), row)).collect();
        let mut links: HashMap<FileId, Vec<&[u8]>> = HashMap::new();
        for row in rows.values().filter(|row| can.is_posix && row.node.file_type != FileType::Dir) {
            if let Some(file) = row.file {
                links.entry(file).or_default().push(&row.path);
            }
        }
        links.retain(|_, paths| paths.len() > 1);
        Side { can, rows, links }
    }

    pub(super) fn get(&self, path: &[u8]) -> Option<Node<'_>> {
        let row = *self.rows.get(path)?;
        let links =
            row.file.and_then(|file| self.links.get(&file)).filter(|_| row.node.file_type != FileType::Dir);
        Some(Node { row, links: links.map_or(&[], Vec::as_slice) })
    }

    /// Returns the first number that no file of the volume uses.
    pub(super) fn first_free(&self) -> u32 {
        self.rows.values().filter_map(|row| row.file).map(|file| file.0 + 1).max().unwrap_or(0)
    }

    /// Returns all paths, in order.
    pub(super) fn paths(&self) -> impl Iterator<Item = &'a [u8]> {
        self.rows.keys().copied()
    }

    /// Returns the paths under a directory, in order.
    pub(super) fn below(&self, folder: &[u8]) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let range = below(folder);
        let range = (Bound::Included(&range.start[..]), Bound::Excluded(&range.end[..]));
        self.rows.range::<[u8], _>(range).map(|(path, _)| *path)
    }
}

impl Node<'_> {
    pub(super) fn is(&self, file_type: FileType) -> bool {
        self.row.node.file_type == file_type
    }

    /// Returns true if two nodes are the same apart from times and file ids.
    pub(super) fn same(&self, other: &Node<'_>, can: &Capabilities) -> bool {
        self.same_metadata(other, can) && self.same_content(other) && self.links == other.links
    }

    /// Returns true if type, owner, mode, attributes, flags, and the target of a symlink or device are the same.
    pub(super) fn same_metadata(&self, other: &Node<'_>, can: &Capabilities) -> bool {
        let (a, b) = (self.row, other.row);
        self.same_kind(other)
            && (a.node.mode, a.node.uid, a.node.gid) == (b.node.mode, b.node.uid, b.node.gid)
            && a.node.xattrs == b.node.xattrs
            && a.node.flags & can.user_flags == b.node.flags & can.user_flags
    }

    /// Returns true if the type and the target of a symlink or device are the same.
    pub(super) fn same_kind(&self, other: &Node<'_>) -> bool {
        let (a, b) = (self.row, other.row);
        a.node.file_type == b.node.file_type
            && a.node.link_target == b.node.link_target
            && a.node.rdev == b.node.rdev
    }

    /// Returns true if two files have the same content, or are not regular. Two files that could not be read count as
    /// the same.
    pub(super) fn same_content(&self, other: &Node<'_>) -> bool {
        let (a, b) = (self.row, other.row);
        a.node.file_type != FileType::File
            || a.node.size == b.node.size && (a.node.size == 0 || a.object() == b.object())
    }
}

/// Returns true if two optional nodes are the same.
pub(super) fn same(a: Option<Node<'_>>, b: Option<Node<'_>>, can: &Capabilities) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.same(&b, can),
        (None, None) => true,
        _ => false,
    }
}
