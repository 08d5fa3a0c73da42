//! Log trees: data synced (fsync) since the last commit. They are replayed in memory, as the kernel does at mount.
//!
//! A subvolume's log holds copies of items of its tree: inodes, references, attributes, extents and directory entries;
//! and ranges of directories (`DIR_LOG_INDEX`) for which the log has all entries, so entries missing from it were
//! removed. It is applied in three stages: inodes and removals, then directory entries, then everything else. Link
//! counts, which the items cannot provide, are recomputed at the end.

use std::collections::{BTreeMap, BTreeSet};

use super::block::Pointer;
use super::checksum::extref_hash;
use super::extents::{self, Extent};
use super::features::NO_HOLES;
use super::items::{DirItem, InodeRef, Key, RootItem, id, kind};
use super::overlay::Overlay;
use super::subvolumes::{Subvolumes, pointer};
use super::target::{Target, inode_key, is_missing, nlink_in, of, set_size, size_in, type_in};
use super::tree::Trees;
use crate::bytes::le64;
use crate::error::{ErrorKind, Result, at};
use crate::fs::FileType;

/// The most bytes of items in all replayed logs.
const BYTES_MAX: usize = 256 << 20;

/// The items of a log.
type Items = BTreeMap<Key, Vec<u8>>;

/// Replays the logs in the tree at `bytenr` over their subvolumes. If that fails, adds a warning and leaves the
/// subvolumes as they were committed.
pub(super) fn replay(
    trees: &Trees,
    subvolumes: &mut Subvolumes,
    bytenr: u64,
    level: u8,
    warnings: &mut Vec<String>,
) -> Result<()> {
    match overlays(trees, subvolumes, bytenr, level) {
        Ok(overlays) => {
            for (position, overlay) in overlays {
                subvolumes.all[position].overlay = overlay;
            }
        }
        Err(error) if error.kind() == ErrorKind::Io => return Err(error),
        Err(error) => warnings
            .push(format!("the log cannot be replayed, so what was synced last may be missing: {error}")),
    }
    Ok(())
}

/// Returns the changes to subvolumes, with the positions of those.
fn overlays(trees: &Trees, subvolumes: &Subvolumes, bytenr: u64, level: u8) -> Result<Vec<(usize, Overlay)>> {
    let generation = trees.sb.generation.wrapping_add(1);
    let roots = Pointer { bytenr, generation, level, tree: id::TREE_LOG, first: None };
    let mut left = BYTES_MAX;
    let mut overlays = Vec::new();
    for (key, item) in read(trees, &roots, &mut left)? {
        if key.objectid != id::TREE_LOG || key.kind != kind::ROOT_ITEM {
            continue;
        }
        // The subvolume may have been deleted since.
        let Some(position) = subvolumes.position(key.offset) else { continue };
        let log = read(trees, &pointer(id::TREE_LOG, RootItem::parse(key, &item)?), &mut left)?;
        let root = &subvolumes.all[position].root;
        let target = Target::new(trees, root);
        overlays.push((position, Replay { log: &log, target, ignored: BTreeSet::new() }.run()?));
    }
    Ok(overlays)
}

/// Reads a tree of the log, of at most `left` bytes, and subtracts its size from `left`.
fn read(trees: &Trees, root: &Pointer, left: &mut usize) -> Result<Items> {
    let mut items = Items::new();
    trees.walk(root, Key::MIN..=Key::MAX, &mut Err, &mut |key, bytes| {
        *left = left
            .checked_sub(bytes.len() + Key::SIZE)
            .ok_or_else(|| at("log").limit(format!("has over {BYTES_MAX} bytes")))?;
        items.insert(key, bytes.to_vec());
        Ok(true)
    })?;
    Ok(items)
}

/// The replay of one log.
struct Replay<'a> {
    log: &'a Items,
    target: Target<'a>,
    /// Inodes without names.
    ignored: BTreeSet<u64>,
}

impl Replay<'_> {
    fn run(mut self) -> Result<Overlay> {
        let log = self.log;
        for (key, item) in log.iter().filter(|(key, _)| key.kind == kind::INODE_ITEM) {
            self.inode(*key, item)?;
        }
        let is_kept = |key: &Key| !self.ignored.contains(&key.objectid);
        let kept: Vec<(&Key, &Vec<u8>)> = log.iter().filter(|(key, _)| is_kept(key)).collect();
        for (key, item) in kept.iter().filter(|(key, _)| key.kind == kind::DIR_INDEX) {
            for entry in DirItem::parse_all(**key, item)? {
                self.entry(**key, &entry)?;
            }
        }
        for (key, item) in &kept {
            match key.kind {
                kind::XATTR_ITEM => self.target.put(**key, (*item).clone()),
                kind::INODE_REF | kind::INODE_EXTREF => match self.refs(**key, item) {
                    Err(error) if !is_missing(&error) => return Err(error),
                    _ => {}
                },
                kind::EXTENT_DATA => self.extent(**key, item)?,
                _ => {}
            }
        }
        self.target.fix_links()?;
        Ok(self.target.overlay)
    }

    /// Applies an inode (first stage).
    fn inode(&mut self, key: Key, item: &[u8]) -> Result<()> {
        let number = key.objectid;
        let file_type = type_in(item).filter(|_| item.len() >= super::inode::SIZE);
        let file_type = file_type.ok_or_else(|| of(number).corrupt("its item is not that of an inode"))?;
        if nlink_in(item) == 0 {
            self.ignored.insert(number);
            return Ok(());
        }
        self.remove_attributes(number)?;
        if file_type == FileType::Dir {
            self.remove_entries(number)?;
        }
        self.put_inode(key, item, file_type)?;
        if file_type == FileType::File {
            let sector = u64::from(self.target.trees.sb.sectorsize);
            let size = size_in(&self.target.known_inode(number)?);
            self.target.drop_extents(number, size.div_ceil(sector).saturating_mul(sector), u64::MAX)?;
        }
        self.target.fix_later(number)
    }

    /// Removes attributes of an inode that are not in its log.
    fn remove_attributes(&mut self, inode: u64) -> Result<()> {
        for (key, item) in self.target.items(inode, kind::XATTR_ITEM, 0..=u64::MAX)? {
            let logged = self.log.get(&key).map(Vec::as_slice).unwrap_or_default();
            let logged = DirItem::parse_all(key, logged)?;
            let stored = DirItem::parse_all(key, &item)?;
            let is_kept = |entry: &&DirItem<'_>| logged.iter().any(|other| other.name == entry.name);
            let kept: Vec<u8> = stored.iter().filter(is_kept).flat_map(|entry| entry.bytes(0)).collect();
            if kept.len() < item.len() {
                self.target.put_rest(key, kept);
            }
        }
        Ok(())
    }

    /// Removes directory entries that are not in the log, within the ranges for which it has all entries.
    fn remove_entries(&mut self, folder: u64) -> Result<()> {
        if self.target.inode(folder)?.is_none() {
            return Ok(());
        }
        let ranges =
            Key::new(folder, kind::DIR_LOG_INDEX, 0)..=Key::new(folder, kind::DIR_LOG_INDEX, u64::MAX);
        let mut next = Some(0);
        for (range, item) in self.log.range(ranges) {
            // If ranges overlap, which no kernel writes, each entry is visited only once.
            let Some(start) = next.map(|next| range.offset.max(next)) else { break };
            if item.len() < 8 {
                return Err(of(folder).corrupt("a range of its entries is too short"));
            }
            let end = le64(item, 0);
            if end < range.offset {
                return Err(of(folder).corrupt(format!("a range of its entries ends at {end}")));
            }
            if end < start {
                continue;
            }
            next = end.checked_add(1);
            for (key, item) in self.target.items(folder, kind::DIR_INDEX, start..=end)? {
                let logged = self.log.get(&key).map(Vec::as_slice).unwrap_or_default();
                let logged = DirItem::parse_all(key, logged)?;
                for entry in DirItem::parse_all(key, &item)? {
                    if logged.iter().any(|other| other.name == entry.name) {
                        continue;
                    }
                    self.target.fix_later(entry.location.objectid)?;
                    self.target.unlink(folder, entry.location.objectid, entry.name)?;
                }
            }
        }
        Ok(())
    }

    /// Replaces the existing inode item.
    fn put_inode(&mut self, key: Key, item: &[u8], file_type: FileType) -> Result<()> {
        let mut new = item.to_vec();
        let is_dir = file_type == FileType::Dir;
        match self.target.inode(key.objectid)? {
            // The inode was logged only to record its existence.
            Some(mut old) if le64(item, 0) == 0 => {
                let are_files = file_type == FileType::File && type_in(&old) == Some(FileType::File);
                if are_files && size_in(item) != 0 {
                    set_size(&mut old, size_in(item));
                    self.target.put(key, old);
                }
                return Ok(());
            }
            // The size of a directory follows from its entries.
            Some(old) if is_dir && type_in(&old) == Some(FileType::Dir) => set_size(&mut new, size_in(&old)),
            _ if is_dir => set_size(&mut new, 0),
            _ => {}
        }
        if le64(&new, 0) == 0 {
            let generation = self.target.trees.sb.generation.wrapping_add(1);
            new[..8].copy_from_slice(&generation.to_le_bytes());
        }
        self.target.put(key, new);
        Ok(())
    }

    /// Applies a directory entry (second stage).
    fn entry(&mut self, key: Key, entry: &DirItem<'_>) -> Result<()> {
        let DirItem { name, location, file_type, .. } = *entry;
        let folder = key.objectid;
        self.target.known_inode(folder)?;
        let exists =
            location == inode_key(location.objectid) && self.target.inode(location.objectid)?.is_some();
        let is_same = |found: Option<(Key, u8)>| found == Some((location, file_type));
        let by_name = self.target.entry(folder, name)?;
        if let Some((other, _)) = by_name.filter(|_| exists && !is_same(by_name)) {
            self.remove_entry(folder, other.objectid, name)?;
        }
        let by_index = self.target.entry_at(folder, key.offset, name)?;
        if let Some((other, _)) = by_index.filter(|_| exists && !is_same(by_index)) {
            self.remove_entry(folder, other.objectid, name)?;
        }
        if is_same(by_name) && is_same(by_index) {
            return Ok(());
        }
        // The third stage adds the entries of references in the log.
        let inode = location.objectid;
        let extended = Key::new(inode, kind::INODE_EXTREF, extref_hash(folder, name));
        if has_ref(self.log, Key::new(inode, kind::INODE_REF, folder), folder, name)?
            || has_ref(self.log, extended, folder, name)?
            || !exists
        {
            return Ok(());
        }
        let is_added = self.target.link(folder, inode, name, true, key.offset)?;
        if is_added && file_type != 2 {
            self.target.fix_later(inode)?;
        }
        Ok(())
    }

    /// Removes an entry that is to be replaced.
    fn remove_entry(&mut self, folder: u64, inode: u64, name: &[u8]) -> Result<()> {
        self.target.fix_later(inode)?;
        self.target.unlink(folder, inode, name)
    }

    /// Applies the references of an inode to directory entries (third stage). `NotFound` if a directory does not exist.
    fn refs(&mut self, key: Key, item: &[u8]) -> Result<()> {
        let inode = key.objectid;
        let refs = InodeRef::parse_all(key, item)?;
        let first = refs.first().map_or(key.offset, |first| first.parent);
        if self.target.inode(first)?.is_none() {
            return Err(of(first).not_found("does not exist"));
        }
        self.target.known_inode(inode)?;
        for InodeRef { parent, index, name } in refs.iter().copied() {
            if self.target.inode(parent)?.is_none() {
                continue;
            }
            let leads_here = |found: Option<(Key, u8)>| found.is_some_and(|(key, _)| key.objectid == inode);
            if leads_here(self.target.entry_at(parent, index, name)?)
                && leads_here(self.target.entry(parent, name)?)
            {
                continue;
            }
            if inode == parent {
                return Ok(());
            }
            self.remove_refs(Key::new(inode, kind::INODE_REF, parent), parent)?;
            self.remove_refs(Key::new(inode, kind::INODE_EXTREF, extref_hash(parent, name)), parent)?;
            if let Some((other, _)) = self.target.entry_at(parent, index, name)? {
                self.remove_entry(parent, other.objectid, name)?;
            }
            if let Some((other, _)) = self.target.entry(parent, name)? {
                self.remove_entry(parent, other.objectid, name)?;
            }
            self.target.link(parent, inode, name, false, index)?;
        }
        if let Some(stored) = self.target.get(key)? {
            for old in InodeRef::parse_all(key, &stored)? {
                if !refs.iter().any(|new| new.parent == old.parent && new.name == old.name) {
                    self.target.unlink(old.parent, inode, old.name)?;
                }
            }
        }
        self.target.put(key, item.to_vec());
        Ok(())
    }

    /// Unlinks the names in a reference item for the directory `parent` that are not in the log.
    fn remove_refs(&mut self, key: Key, parent: u64) -> Result<()> {
        let Some(item) = self.target.get(key)? else { return Ok(()) };
        for old in InodeRef::parse_all(key, &item)? {
            let logged = Key::new(
                key.objectid,
                key.kind,
                match key.kind {
                    kind::INODE_EXTREF => extref_hash(parent, old.name),
                    _ => parent,
                },
            );
            if old.parent == parent && !has_ref(self.log, logged, parent, old.name)? {
                self.target.unlink(parent, key.objectid, old.name)?;
            }
        }
        Ok(())
    }

    /// Applies a file extent (third stage).
    fn extent(&mut self, key: Key, item: &[u8]) -> Result<()> {
        let inode = key.objectid;
        let extent = Extent::parse(key, item)?;
        self.target.known_inode(inode)?;
        let sector = u64::from(self.target.trees.sb.sectorsize);
        let is_inline = extent.kind == extents::INLINE;
        if !is_inline
            && let Some(old) = self.target.get(key)?
            && old.get(..extents::SIZE) == item.get(..extents::SIZE)
        {
            return Ok(());
        }
        let end = extent.end(key);
        let end = if is_inline { end.div_ceil(sector).saturating_mul(sector) } else { end };
        self.target.drop_extents(inode, key.offset, end)?;
        let is_hole = !is_inline && extent.disk_bytenr == 0;
        if !(is_hole && self.target.trees.sb.features.has(NO_HOLES)) {
            self.target.put(key, item.to_vec());
        }
        Ok(())
    }
}

/// Returns true if the log's item with this key has a reference to the entry.
fn has_ref(log: &Items, key: Key, parent: u64, name: &[u8]) -> Result<bool> {
    let Some(item) = log.get(&key) else { return Ok(false) };
    Ok(InodeRef::parse_all(key, item)?.iter().any(|found| found.parent == parent && found.name == name))
}
