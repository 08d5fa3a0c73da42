//! Changes of inodes and directories by fast commits, as an overlay over the volume.

use std::collections::BTreeMap;

use super::mapper::Run;
use crate::fs::{DirEntry, NodeId};

/// The changes of inodes and directories by fast commits.
#[derive(Default)]
pub(super) struct Patches {
    pub(super) inodes: BTreeMap<u32, Patch>,
    pub(super) folders: BTreeMap<u32, Vec<Change>>,
    /// The number of runs of changed files that were read.
    pub(super) runs_read: usize,
    /// Warnings about changes that were left out because of mif's limits.
    pub(super) warnings: Vec<String>,
}

/// The changes to an inode.
#[derive(Default)]
pub(super) struct Patch {
    pub(super) raw: Option<Vec<u8>>,
    /// Keyed by their first block in the file.
    pub(super) runs: Option<BTreeMap<u64, Run>>,
    /// True for a new directory: none of the entries on the volume are in it.
    pub(super) is_new: bool,
}

/// A change to a directory entry.
pub(super) struct Change {
    pub(super) name: Vec<u8>,
    pub(super) inode: u32,
    /// True to add the entry; false to remove it, if it refers to that inode.
    pub(super) add: bool,
}

impl Patches {
    /// Returns the new bytes of an inode, if they change.
    pub(super) fn inode(&self, number: u32) -> Option<&[u8]> {
        self.inodes.get(&number)?.raw.as_deref()
    }

    /// Returns the new runs of a file, if they change, in file order.
    pub(super) fn runs(&self, number: u32) -> Option<impl Iterator<Item = &Run>> {
        Some(self.inodes.get(&number)?.runs.as_ref()?.values())
    }

    /// Returns true if the directory has none of the entries on the volume.
    pub(super) fn is_new_folder(&self, number: u32) -> bool {
        self.inodes.get(&number).is_some_and(|patch| patch.is_new)
    }

    /// Applies the changes to the entries of a directory.
    pub(super) fn change(&self, folder: u32, entries: &mut Vec<DirEntry>) {
        let Some(changes) = self.folders.get(&folder) else { return };
        let mut last: BTreeMap<&[u8], Option<u32>> = BTreeMap::new();
        let stored: BTreeMap<Vec<u8>, NodeId> = entries.iter().map(|e| (e.name.clone(), e.node)).collect();
        for Change { name, inode, add } in changes {
            let stands = stored.get(name).and_then(|node| u32::try_from(*node).ok());
            let now = last.entry(name).or_insert(stands);
            match (*add, *now) {
                (true, _) => *now = Some(*inode),
                (false, Some(of)) if of == *inode => *now = None,
                (false, _) => {}
            }
        }
        entries.retain(|entry| !last.contains_key(&entry.name[..]));
        for (name, inode) in last {
            if let Some(inode) = inode
                && !name.is_empty()
                && !name.iter().any(|b| matches!(b, 0 | b'/'))
            {
                entries.push(DirEntry {
                    name: name.to_vec(),
                    short_name: None,
                    dos_name: None,
                    node: NodeId::from(inode),
                });
            }
        }
    }
}
