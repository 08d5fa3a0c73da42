//! The image that is checked: its disk, its volumes, and its files as firmware, boot loaders and the system see them.

use std::sync::Arc;

use mif_formats::Source;
use mif_formats::fs::{FileType, Info};
use mif_formats::mif::manifest::Row;
use mif_formats::partition::{Partition, Table, TableKind};

use crate::error::Result;
use crate::store::{FilesystemRecord, VolumeRecord, volume_name};
use crate::tree::mounts::{Devices, Root};
use crate::tree::path::VolumePath;
use crate::tree::view::Tree;

/// The largest file of text that is read.
pub(super) const MAX_TEXT: u64 = 4 << 20;

/// An image that is checked.
pub(crate) struct Look<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) disk: Arc<dyn Source>,
    pub(crate) table: &'a Table,
    pub(crate) volumes: &'a [VolumeRecord],
}

impl Look<'_> {
    /// Returns the row of a path on a volume, which a symlink at the end may lead to.
    pub(super) fn find(&self, volume: &str, path: &str) -> Option<usize> {
        let path = VolumePath { volume: Some(volume.to_owned()), path: path.as_bytes().to_vec() };
        self.tree.find(&path, true).ok()
    }

    /// Returns true if a volume has a path.
    pub(super) fn has(&self, volume: &str, path: &str) -> bool {
        self.find(volume, path).is_some()
    }

    /// Returns the row of a regular file.
    pub(super) fn file(&self, volume: &str, path: &str) -> Option<usize> {
        self.find(volume, path).filter(|row| self.row(*row).node.file_type == FileType::File)
    }

    /// Returns the row of a path as the system of a root sees it.
    pub(super) fn in_root(&self, root: &Root, path: &str) -> Option<usize> {
        self.tree.find_in(root, path.as_bytes(), true).ok()
    }

    pub(super) fn row(&self, row: usize) -> &Row {
        &self.tree.rows()[row]
    }

    /// Returns the place of a row as an edit names it.
    pub(super) fn place(&self, row: usize) -> String {
        let row = self.row(row);
        format!("{}:{}", row.volume, row.path_text())
    }

    /// Opens a file for reading.
    pub(super) fn content(&self, row: usize) -> Result<Arc<dyn Source>> {
        Ok(Arc::from(self.tree.content(row)?))
    }

    /// Reads the first bytes of a file, at most `len`.
    pub(super) fn head(&self, row: usize, len: u64) -> Result<Vec<u8>> {
        let content = self.tree.content(row)?;
        Ok(content.read_vec(0, content.len().min(len) as usize)?)
    }

    /// Reads a file of text on a volume; `None` if it is not there or cannot be read.
    pub(super) fn text(&self, volume: &str, path: &str) -> Option<String> {
        let bytes = self.head(self.file(volume, path)?, MAX_TEXT).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads a file of text as the system of a root sees it.
    pub(super) fn root_text(&self, root: &Root, path: &str) -> Option<String> {
        let row = self.in_root(root, path)?;
        if self.row(row).node.file_type != FileType::File {
            return None;
        }
        Some(String::from_utf8_lossy(&self.head(row, MAX_TEXT).ok()?).into_owned())
    }

    /// Returns the names in a directory of a volume, sorted, that are UTF-8.
    pub(super) fn list(&self, volume: &str, folder: &str) -> Vec<String> {
        let Some(row) = self.find(volume, folder) else { return Vec::new() };
        self.children(row)
    }

    /// Returns the names in a directory as the system of a root sees it.
    pub(super) fn root_list(&self, root: &Root, folder: &str) -> Vec<String> {
        self.in_root(root, folder).map_or_else(Vec::new, |row| self.children(row))
    }

    fn children(&self, folder: usize) -> Vec<String> {
        let folder = self.row(folder);
        let mut prefix = folder.path.clone();
        if prefix.last() != Some(&b'/') {
            prefix.push(b'/');
        }
        let rows = self.tree.rows();
        // Rows are sorted by volume.
        let start = rows.partition_point(|row| row.volume < folder.volume);
        let rows = rows[start..].iter().take_while(|row| row.volume == folder.volume);
        let names = rows.filter_map(|row| {
            let name = row.path.strip_prefix(&prefix[..])?;
            let is_child = !name.is_empty() && !name.contains(&b'/');
            is_child.then(|| String::from_utf8(name.to_vec()).ok()).flatten()
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names.dedup();
        names
    }

    /// Returns what is known about a volume's filesystem.
    pub(super) fn filesystem(&self, volume: &str) -> Option<&Info> {
        let record = self.volumes.iter().find(|record| record.volume == volume)?;
        match &record.content {
            FilesystemRecord::Filesystem(info) => Some(info),
            FilesystemRecord::Other(_) => None,
        }
    }

    /// Returns what a volume holds instead of a filesystem, if it was recognised.
    pub(super) fn other(&self, volume: &str) -> Option<&str> {
        let record = self.volumes.iter().find(|record| record.volume == volume)?;
        match &record.content {
            FilesystemRecord::Other(name) => name.as_deref(),
            FilesystemRecord::Filesystem(_) => None,
        }
    }

    /// Returns the devices that an fstab can name.
    pub(super) fn devices(&self) -> Devices<'_> {
        Devices { table: self.table, volumes: self.volumes }
    }

    /// Returns the partition of a volume, if it is one.
    pub(super) fn partition(&self, volume: &str) -> Option<&Partition> {
        self.table.partitions.iter().find(|it| volume_name(it.slot) == volume)
    }

    /// Returns true if the table of the disk is of this kind.
    pub(super) fn is(&self, kind: TableKind) -> bool {
        self.table.kind == kind
    }

    /// Returns true if the disk has FAT on a volume, which firmware can read.
    pub(super) fn is_fat(&self, volume: &str) -> bool {
        self.filesystem(volume).is_some_and(|info| info.kind.to_ascii_lowercase().contains("fat"))
    }

    /// Returns the root whose `/` is on a volume.
    pub(super) fn root_on(&self, volume: &str) -> Option<&Root> {
        self.tree.roots().iter().find(|root| root.volume() == volume)
    }
}

/// Returns the module of GRUB that reads a disk's partitions.
pub(super) fn partition_module(kind: TableKind) -> Option<&'static str> {
    match kind {
        TableKind::Gpt => Some("part_gpt"),
        TableKind::Mbr => Some("part_msdos"),
        TableKind::None => None,
    }
}
