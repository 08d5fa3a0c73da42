//! The subvolume that a log is replayed into: operations that keep its items consistent.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::block::Pointer;
use super::checksum::{extref_hash, name_hash};
use super::extents::{self, Extent};
use super::inode::type_of;
use super::items::{DirItem, InodeRef, Key, kind};
use super::overlay::Overlay;
use super::tree::Trees;
use crate::bytes::{le32, le64};
use crate::error::{At, Error, ErrorKind, Result, at};
use crate::fs::FileType;

/// Offsets in an inode item.
const SIZE_AT: usize = 16;
const NLINK_AT: usize = 40;
const MODE_AT: usize = 52;
/// The headers of a tree block and of an item, which take space from a leaf's only item.
const LEAF_OVERHEAD: usize = 101 + 25;

/// The most lookups and items of one replay, with long items counting more: about half a minute of work.
const WORK_MAX: u64 = 1 << 24;

/// A subvolume and the changes to it.
pub(super) struct Target<'a> {
    pub(super) trees: &'a Trees,
    pub(super) root: &'a Pointer,
    pub(super) overlay: Overlay,
    /// The inodes whose links will be counted at the end.
    pub(super) fixups: BTreeSet<u64>,
    /// The work done so far; at most [`WORK_MAX`].
    work: Cell<u64>,
}

/// Returns the location of an error in an inode of the log.
pub(super) fn of(inode: u64) -> At {
    at(format!("log, inode {inode}"))
}

/// Returns the file type in an inode item.
pub(super) fn type_in(item: &[u8]) -> Option<FileType> {
    item.get(MODE_AT..MODE_AT + 4).and_then(|mode| type_of(le32(mode, 0)))
}

/// Returns the file size in an inode item.
pub(super) fn size_in(item: &[u8]) -> u64 {
    le64(item, SIZE_AT)
}

pub(super) fn nlink_in(item: &[u8]) -> u32 {
    le32(item, NLINK_AT)
}

pub(super) fn set_size(item: &mut [u8], size: u64) {
    item[SIZE_AT..SIZE_AT + 8].copy_from_slice(&size.to_le_bytes());
}

impl<'a> Target<'a> {
    pub(super) fn new(trees: &'a Trees, root: &'a Pointer) -> Self {
        let (overlay, fixups) = (Overlay::default(), BTreeSet::new());
        Target { trees, root, overlay, fixups, work: Cell::new(0) }
    }

    /// Counts work and fails if it is too much: a few bytes of a log could cause hours of it.
    fn charge(&self, bytes: usize) -> Result<()> {
        let work = self.work.get() + 1 + bytes as u64 / 256;
        self.work.set(work);
        if work > WORK_MAX { Err(at("log").limit(format!("takes over {WORK_MAX} lookups"))) } else { Ok(()) }
    }

    pub(super) fn get(&self, key: Key) -> Result<Option<Vec<u8>>> {
        let item = self.overlay.get(self.trees, self.root, key)?;
        self.charge(item.as_ref().map_or(0, Vec::len))?;
        Ok(item)
    }

    pub(super) fn put(&mut self, key: Key, item: Vec<u8>) {
        self.overlay.0.insert(key, Some(item));
    }

    fn remove(&mut self, key: Key) {
        self.overlay.0.insert(key, None);
    }

    /// Stores an item, or removes it if it is empty.
    pub(super) fn put_rest(&mut self, key: Key, rest: Vec<u8>) {
        if rest.is_empty() { self.remove(key) } else { self.put(key, rest) }
    }

    /// Returns the items of an inode with one type and offsets in a range.
    pub(super) fn items(
        &self,
        inode: u64,
        kind: u8,
        offsets: RangeInclusive<u64>,
    ) -> Result<Vec<(Key, Vec<u8>)>> {
        let range = Key::new(inode, kind, *offsets.start())..=Key::new(inode, kind, *offsets.end());
        let mut items = Vec::new();
        self.overlay.walk(self.trees, self.root, range, &mut Err, &mut |key, bytes| {
            self.charge(bytes.len())?;
            items.push((key, bytes.to_vec()));
            Ok(true)
        })?;
        Ok(items)
    }

    /// Returns the item of an inode.
    pub(super) fn inode(&self, inode: u64) -> Result<Option<Vec<u8>>> {
        let item = self.get(inode_key(inode))?;
        Ok(item.filter(|item| item.len() >= super::inode::SIZE))
    }

    /// Returns the item of an inode, or an error if it does not exist.
    pub(super) fn known_inode(&self, inode: u64) -> Result<Vec<u8>> {
        self.inode(inode)?.ok_or_else(|| of(inode).corrupt("does not exist"))
    }

    /// Marks an inode, which must exist, to have its links counted.
    pub(super) fn fix_later(&mut self, inode: u64) -> Result<()> {
        self.known_inode(inode)?;
        self.fixups.insert(inode);
        Ok(())
    }

    fn change_size(&mut self, folder: u64, change: impl FnOnce(u64) -> u64) -> Result<()> {
        let mut item = self.known_inode(folder)?;
        let size = change(size_in(&item));
        set_size(&mut item, size);
        self.put(inode_key(folder), item);
        Ok(())
    }

    /// Returns the key of the inode that a directory entry refers to and the file type, if the name exists.
    pub(super) fn entry(&self, folder: u64, name: &[u8]) -> Result<Option<(Key, u8)>> {
        self.entry_in(Key::new(folder, kind::DIR_ITEM, name_hash(name)), name)
    }

    /// Does the same as [`Target::entry`] for the entry at a position of the directory.
    pub(super) fn entry_at(&self, folder: u64, index: u64, name: &[u8]) -> Result<Option<(Key, u8)>> {
        self.entry_in(Key::new(folder, kind::DIR_INDEX, index), name)
    }

    fn entry_in(&self, key: Key, name: &[u8]) -> Result<Option<(Key, u8)>> {
        let Some(item) = self.get(key)? else { return Ok(None) };
        let entries = DirItem::parse_all(key, &item)?;
        Ok(entries.iter().find(|entry| entry.name == name).map(|entry| (entry.location, entry.file_type)))
    }

    /// Removes a directory entry and the inode's reference to it. `NotFound` if there is no such entry.
    pub(super) fn unlink(&mut self, folder: u64, inode: u64, name: &[u8]) -> Result<()> {
        let key = Key::new(folder, kind::DIR_ITEM, name_hash(name));
        let missing = || of(folder).not_found(format!("has no entry \"{}\"", name.escape_ascii()));
        let item = self.get(key)?.ok_or_else(missing)?;
        let entries = DirItem::parse_all(key, &item)?;
        let mut rest = Vec::new();
        for entry in entries.iter().filter(|entry| entry.name != name) {
            // The transaction id is not used.
            rest.extend(entry.bytes(0));
        }
        if rest.len() == item.len() {
            return Err(missing());
        }
        self.put_rest(key, rest);
        let index = self.remove_ref(folder, inode, name)?;
        self.remove(Key::new(folder, kind::DIR_INDEX, index));
        self.change_size(folder, |size| size.saturating_sub(2 * name.len() as u64))
    }

    /// Removes an inode's reference to an entry. Returns the position of the entry.
    fn remove_ref(&mut self, folder: u64, inode: u64, name: &[u8]) -> Result<u64> {
        for key in ref_keys(folder, inode, name) {
            let Some(item) = self.get(key)? else { continue };
            let refs = InodeRef::parse_all(key, &item)?;
            let is_it = |found: &&InodeRef<'_>| found.parent == folder && found.name == name;
            let Some(found) = refs.iter().find(is_it) else { continue };
            let rest = refs.iter().filter(|other| !is_it(other)).flat_map(|other| other.bytes(key.kind));
            self.put_rest(key, rest.collect());
            return Ok(found.index);
        }
        Err(of(inode).corrupt(format!("has no reference to its name \"{}\"", name.escape_ascii())))
    }

    /// Adds a directory entry and, if `with_ref`, the inode's reference to it. Returns false if the name already
    /// exists.
    pub(super) fn link(
        &mut self,
        folder: u64,
        inode: u64,
        name: &[u8],
        with_ref: bool,
        index: u64,
    ) -> Result<bool> {
        let item = self.known_inode(inode)?;
        let file_type = type_in(&item).ok_or_else(|| of(inode).corrupt("is of no type"))?;
        if self.entry(folder, name)?.is_some() {
            return Ok(false);
        }
        if with_ref {
            self.add_ref(folder, inode, name, index)?;
        }
        let location = inode_key(inode);
        let entry = DirItem { location, file_type: file_type.entry_number(), name, data: &[] }.bytes(0);
        let key = Key::new(folder, kind::DIR_ITEM, name_hash(name));
        let mut all = self.get(key)?.unwrap_or_default();
        all.extend(&entry);
        self.put(key, all);
        self.put(Key::new(folder, kind::DIR_INDEX, index), entry);
        self.change_size(folder, |size| size.saturating_add(2 * name.len() as u64))?;
        Ok(true)
    }

    fn add_ref(&mut self, folder: u64, inode: u64, name: &[u8], index: u64) -> Result<()> {
        let most = self.trees.sb.nodesize as usize - LEAF_OVERHEAD;
        let new = InodeRef { parent: folder, index, name };
        for key in ref_keys(folder, inode, name) {
            let mut item = self.get(key)?.unwrap_or_default();
            let bytes = new.bytes(key.kind);
            if item.len() + bytes.len() <= most {
                item.extend(bytes);
                self.put(key, item);
                return Ok(());
            }
        }
        Err(of(inode).corrupt("has more names than its items hold"))
    }

    /// Returns the number of names in an inode's references.
    pub(super) fn count_refs(&self, inode: u64) -> Result<u32> {
        let mut count = 0;
        for kind in [kind::INODE_REF, kind::INODE_EXTREF] {
            for (key, item) in self.items(inode, kind, 0..=u64::MAX)? {
                count += InodeRef::parse_all(key, &item)?.len() as u32;
            }
        }
        Ok(count)
    }

    pub(super) fn set_nlink(&mut self, inode: u64, nlink: u32) -> Result<()> {
        let mut item = self.known_inode(inode)?;
        item[NLINK_AT..NLINK_AT + 4].copy_from_slice(&nlink.to_le_bytes());
        self.put(inode_key(inode), item);
        Ok(())
    }

    /// Removes the byte range from `start` to `end` from the extents of a file.
    pub(super) fn drop_extents(&mut self, inode: u64, start: u64, end: u64) -> Result<()> {
        let sector = u64::from(self.trees.sb.sectorsize);
        if start >= end {
            return Ok(());
        }
        // The preceding extent may reach into the range.
        self.charge(0)?;
        let before = self.overlay.last(self.trees, self.root, Key::new(inode, kind::EXTENT_DATA, start))?;
        let first = match before {
            Some((key, _)) if (key.objectid, key.kind) == (inode, kind::EXTENT_DATA) => key.offset,
            _ => start,
        };
        for (key, item) in self.items(inode, kind::EXTENT_DATA, first..=end - 1)? {
            let extent = Extent::parse(key, &item)?;
            let (is_inline, until) = (extent.kind == extents::INLINE, extent.end(key));
            if until <= start {
                continue;
            }
            let until = if is_inline { until.div_ceil(sector) * sector } else { until };
            let (before, after) = (key.offset < start, until > end);
            if is_inline && (before || after) {
                return Err(of(inode).corrupt("an extent of the log covers a part of inline data"));
            }
            if after {
                let skip = end - key.offset;
                let mut rest = item.clone();
                set_number(&mut rest, 37, extent.offset + skip);
                set_number(&mut rest, 45, until - end);
                self.put(Key { offset: end, ..key }, rest);
            }
            if before {
                let mut rest = item;
                set_number(&mut rest, 45, start - key.offset);
                self.put(key, rest);
            } else {
                self.remove(key);
            }
        }
        Ok(())
    }

    /// Counts the links of all marked inodes. Removes the entries of directories without links, which may mark more
    /// inodes.
    pub(super) fn fix_links(&mut self) -> Result<()> {
        while let Some(inode) = self.fixups.pop_last() {
            let item = self.known_inode(inode)?;
            let count = self.count_refs(inode)?;
            if count != nlink_in(&item) {
                self.set_nlink(inode, count)?;
            }
            if count == 0 && type_in(&item) == Some(FileType::Dir) {
                for (key, item) in self.items(inode, kind::DIR_INDEX, 0..=u64::MAX)? {
                    for entry in DirItem::parse_all(key, &item)? {
                        self.fix_later(entry.location.objectid)?;
                        self.unlink(inode, entry.location.objectid, entry.name)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn set_number(item: &mut [u8], at: usize, number: u64) {
    item[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

/// Returns the key of an inode's item.
pub(super) fn inode_key(inode: u64) -> Key {
    Key::new(inode, kind::INODE_ITEM, 0)
}

/// Returns the keys of the items that may hold an inode's reference to an entry.
fn ref_keys(folder: u64, inode: u64, name: &[u8]) -> [Key; 2] {
    [Key::new(inode, kind::INODE_REF, folder), Key::new(inode, kind::INODE_EXTREF, extref_hash(folder, name))]
}

/// Returns true for an error that the kernel ignores: the entry of a reference does not exist.
pub(super) fn is_missing(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound
}
