//! Btrfs: copy-on-write trees, with subvolumes, snapshots, shared and compressed extents.
//!
//! ```text
//! superblock → chunk tree: logical address → bytes of the device
//!            → root tree → a tree for each subvolume → inodes, names, attributes, extents
//!            → log trees: data synced since the last commit
//! ```
//!
//! A volume is read as the kernel would show its top level (`subvolid=5`) after mounting: log trees are replayed in
//! memory, and subvolumes appear as directories at their locations. The format is described at
//! <https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html>; fields have the names used there.
//!
//! # Damage
//!
//! A tree block is used only if its checksum and header are valid and it matches what its parent says of it. If one of
//! two copies is damaged, the other is used, with a warning. A block without an intact copy is an error of the smallest
//! unit that it is part of: an inode, or some directory entries. The checksums of file content are not verified.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use self::attributes::Attributes;
use self::capabilities::CAPABILITIES;
use self::extents::Extents;
use self::inode::Inode;
use self::items::{DirItem, Key, id, kind};
use self::opening::Opened;
use self::subvolumes::{EMPTY, Subvolume, Subvolumes, handle, of_handle};
use self::tree::Trees;
use super::{Capabilities, Content, DirEntry, FileType, Filesystem, Info, Node, NodeId, Piece};
use crate::error::{Error, Result, at};
use crate::source::Source;

mod attributes;
mod block;
mod capabilities;
mod checksum;
mod chunks;
pub(super) mod driver;
mod extents;
mod features;
mod free;
mod inode;
mod items;
mod log;
mod opening;
mod overlay;
mod subvolumes;
mod superblock;
mod target;
mod tree;

/// The most directory entries that are listed.
const ENTRIES_MAX: usize = 1 << 24;
/// The longest name in bytes.
const NAME_MAX: usize = 255;
/// The longest symlink target in bytes. The kernel creates none of a sector or more.
const TARGET_MAX: u64 = 64 << 10;

/// A Btrfs volume on one device.
///
/// It is `Sync`: threads read concurrently. Reading nodes in ascending order reads each tree once; the blocks that
/// snapshots share with it are found in a cache of fixed size.
pub struct Btrfs {
    trees: Trees,
    subvolumes: Subvolumes,
    info: Info,
    empty: Mutex<EmptyDirs>,
}

/// The empty directories, seen so far, that stand for subvolumes which are not at that location. A snapshot has one for
/// each subvolume nested in the original. They are not items of a tree, so they are numbered as they are encountered.
#[derive(Default)]
struct EmptyDirs {
    /// The handle of each one's parent directory.
    parents: Vec<NodeId>,
    /// The index in `parents`, by parent directory and position of the entry in it.
    numbers: HashMap<(NodeId, u64), u64>,
}

impl Btrfs {
    /// Opens the filesystem on `volume`.
    ///
    /// Fails with `Unsupported`, naming them, if it uses features that this reader would misread, or several devices;
    /// with `Corrupt` if no superblock is valid, or the root tree cannot be read.
    pub fn open(volume: Arc<dyn Source>) -> Result<Self> {
        let Opened { trees, subvolumes, info } = opening::open(volume)?;
        Ok(Btrfs { trees, subvolumes, info, empty: Mutex::default() })
    }

    /// Returns the subvolume and the inode number of a handle.
    fn locate(&self, id: NodeId) -> Result<(&Subvolume, u64)> {
        let (position, inode) = of_handle(id);
        let subvolume = self.subvolumes.all.get(position);
        Ok((subvolume.ok_or_else(|| at(format!("handle {id:#x}")).not_found("is of no subvolume"))?, inode))
    }

    /// Calls `found` for the items of an inode whose types are in a range, until it returns false.
    fn walk(
        &self,
        (subvolume, inode): (&Subvolume, u64),
        (first, last): (u8, u8),
        lost: tree::Lost<'_>,
        found: tree::Found<'_>,
    ) -> Result<()> {
        let range = Key::new(inode, first, 0)..=Key::new(inode, last, u64::MAX);
        subvolume.overlay.walk(&self.trees, &subvolume.root, range, lost, found).map(|_| ())
    }

    /// Returns an inode.
    fn inode(&self, (subvolume, number): (&Subvolume, u64)) -> Result<Inode> {
        let key = Key::new(number, kind::INODE_ITEM, 0);
        match subvolume.overlay.get(&self.trees, &subvolume.root, key)? {
            Some(bytes) => Inode::parse(key, &bytes),
            None => Err(missing(subvolume, number)),
        }
    }

    /// Returns an inode with its attributes and its symlink target.
    fn read_node(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Node> {
        let (subvolume, number) = self.locate(id)?;
        let mut inode: Option<Result<Inode>> = None;
        let mut attributes = Attributes::default();
        let mut lost = Vec::new();
        let mut damaged = Vec::new();
        self.walk(
            (subvolume, number),
            (kind::INODE_ITEM, kind::XATTR_ITEM),
            &mut |error| {
                lost.push(error);
                Ok(())
            },
            &mut |key, bytes| {
                match key.kind {
                    kind::INODE_ITEM => inode = Some(Inode::parse(key, bytes)),
                    kind::XATTR_ITEM => attributes.add(key, bytes, &mut |error| damaged.push(error)),
                    _ => {}
                }
                Ok(true)
            },
        )?;
        let mut inode = match inode {
            Some(inode) => inode?,
            None => return Err(lost.into_iter().next().unwrap_or_else(|| missing(subvolume, number))),
        };
        lost.into_iter().chain(damaged).for_each(&mut *complain);
        let link_target = match inode.file_type {
            FileType::Symlink => Some(self.link_target(id, &inode)?),
            _ => None,
        };
        let xattrs = attributes.sorted();
        if let Some(compression) = xattrs.iter().find(|xattr| xattr.name == b"btrfs.compression") {
            inode.apply_compression(&compression.value);
        }
        Ok(Node {
            file_type: inode.file_type,
            mode: Some(inode.mode),
            uid: Some(inode.uid),
            gid: Some(inode.gid),
            nlink: Some(inode.nlink),
            inode: Some(number),
            subvolume: Some(subvolume.id),
            size: inode.size,
            mtime: Some(inode.mtime),
            atime: Some(inode.atime),
            ctime: Some(inode.ctime),
            crtime: inode.otime,
            rdev: inode.rdev,
            flags: inode.flags,
            generation: Some(inode.generation as u32),
            project: None,
            link_target,
            xattrs,
            ntfs: None,
        })
    }

    fn link_target(&self, id: NodeId, inode: &Inode) -> Result<Vec<u8>> {
        let place = || at(format!("inode {}", of_handle(id).1));
        if inode.size == 0 || inode.size > TARGET_MAX {
            let problem = format!("is {}, expected 1 to {TARGET_MAX} for a symlink", inode.size);
            return Err(place().field("size").corrupt(problem));
        }
        let mut target = Vec::new();
        for piece in &self.content(id)?.pieces {
            let (start, len) = (target.len(), piece.len() as usize);
            match piece {
                Piece::Bytes(bytes) => target.extend(bytes),
                Piece::Zero { .. } => target.resize(start + len, 0),
                Piece::Volume { offset, .. } => {
                    target.resize(start + len, 0);
                    self.trees.read_raw(*offset, &mut target[start..])?;
                }
                Piece::Encoded(_) => return Err(place().corrupt("the target of the symlink is compressed")),
            }
        }
        if target.contains(&0) {
            return Err(place().corrupt("the target of the symlink holds a NUL"));
        }
        Ok(target)
    }

    /// Returns the directory that stands for a subvolume not at this location, as the kernel shows it.
    fn empty_dir(&self, id: NodeId) -> Result<Node> {
        let parent = {
            let empty = self.empty.lock().unwrap_or_else(PoisonError::into_inner);
            empty.parents.get((id & !EMPTY) as usize).copied()
        };
        let parent = parent.ok_or_else(|| at(format!("handle {id:#x}")).not_found("was not met"))?;
        let (subvolume, number) = self.locate(parent)?;
        let inode = self.inode((subvolume, number))?;
        Ok(Node {
            mode: Some(0o755),
            uid: Some(inode.uid),
            gid: Some(inode.gid),
            nlink: Some(1),
            inode: Some(id::EMPTY_SUBVOL_DIR),
            subvolume: Some(subvolume.id),
            ..Node::bare(FileType::Dir)
        })
    }

    /// Returns the handle of the empty directory for entry `index` of a directory.
    fn empty_handle(&self, parent: NodeId, index: u64) -> NodeId {
        let mut empty = self.empty.lock().unwrap_or_else(PoisonError::into_inner);
        let next = empty.parents.len() as u64;
        let number = *empty.numbers.entry((parent, index)).or_insert(next);
        if number == next {
            empty.parents.push(parent);
        }
        EMPTY | number
    }

    /// Converts a directory item to an entry.
    fn entry(&self, parent: NodeId, key: Key, item: &DirItem<'_>) -> Result<DirEntry> {
        let (position, dirid) = of_handle(parent);
        let DirItem { name, location, .. } = *item;
        let bad = |problem: String| {
            Err(at(format!("directory inode {dirid}, entry {}", key.offset)).corrupt(problem))
        };
        if name.is_empty()
            || name.len() > NAME_MAX
            || matches!(name, b"." | b"..")
            || name.iter().any(|byte| matches!(byte, 0 | b'/'))
        {
            return bad(format!("\"{}\" is not a valid name", name.escape_ascii()));
        }
        let node = match location.kind {
            kind::INODE_ITEM if (id::FIRST_FREE..=id::LAST_FREE).contains(&location.objectid) => {
                handle(position, location.objectid)?
            }
            kind::ROOT_ITEM => {
                let tree = self.subvolumes.all[position].id;
                match self.subvolumes.at_entry(tree, dirid, name, location.objectid) {
                    Some(child) => handle(child, self.subvolumes.all[child].root_dirid)?,
                    None => self.empty_handle(parent, key.offset),
                }
            }
            _ => return bad(format!("\"{}\" leads to {location}", name.escape_ascii())),
        };
        Ok(DirEntry { name: name.to_vec(), short_name: None, dos_name: None, node })
    }

    fn read_entries(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Vec<DirEntry>> {
        let of = self.locate(id)?;
        if self.inode(of)?.file_type != FileType::Dir {
            return Err(at(format!("inode {}", of.1)).field("mode").corrupt("is not a directory"));
        }
        let mut entries = Vec::new();
        let (mut lost, mut bad) = (Vec::new(), Vec::new());
        let mut lose = |error| {
            lost.push(error);
            Ok(())
        };
        self.walk(of, (kind::DIR_INDEX, kind::DIR_INDEX), &mut lose, &mut |key, bytes| {
            if entries.len() >= ENTRIES_MAX {
                let problem = format!("has more than {ENTRIES_MAX} entries; the others were left out");
                bad.push(at(format!("directory inode {}", of.1)).limit(problem));
                return Ok(false);
            }
            match DirItem::parse_all(key, bytes) {
                Ok(items) => {
                    for item in &items {
                        match self.entry(id, key, item) {
                            Ok(entry) => entries.push(entry),
                            Err(error) => bad.push(error),
                        }
                    }
                }
                Err(error) => bad.push(error),
            }
            Ok(true)
        })?;
        lost.into_iter().chain(bad).for_each(complain);
        Ok(entries)
    }
}

fn missing(subvolume: &Subvolume, inode: u64) -> Error {
    at(format!("subvolume {}, inode {inode}", subvolume.id)).corrupt("does not exist")
}

impl Filesystem for Btrfs {
    fn info(&self) -> &Info {
        &self.info
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn free_in(&self, range: &Range<u64>) -> Result<Option<Vec<Range<u64>>>> {
        self.free_bytes_in(range)
    }

    fn root(&self) -> NodeId {
        // The top level is always first, and its root directory has the lowest inode number.
        handle(0, self.subvolumes.all[0].root_dirid).unwrap_or(id::FIRST_FREE)
    }

    fn node(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Node> {
        let node = if id & EMPTY == 0 { self.read_node(id, complain) } else { self.empty_dir(id) };
        self.trees.take_damaged().into_iter().for_each(complain);
        node
    }

    fn handle(&self, node: &Node) -> Option<NodeId> {
        let inode = node.inode.filter(|inode| *inode != id::EMPTY_SUBVOL_DIR)?;
        handle(self.subvolumes.position(node.subvolume?)?, inode).ok()
    }

    fn read_dir(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Vec<DirEntry>> {
        if id & EMPTY != 0 {
            return Ok(Vec::new());
        }
        let entries = self.read_entries(id, complain);
        self.trees.take_damaged().into_iter().for_each(complain);
        entries
    }

    fn content(&self, id: NodeId) -> Result<Content> {
        let none = Content { size: 0, pieces: Vec::new() };
        if id & EMPTY != 0 {
            return Ok(none);
        }
        let of = self.locate(id)?;
        let mut pieces: Option<Extents<'_>> = None;
        let mut is_met = false;
        self.walk(of, (kind::INODE_ITEM, kind::EXTENT_DATA), &mut Err, &mut |key, bytes| match (
            key.kind,
            &mut pieces,
        ) {
            (kind::INODE_ITEM, _) => {
                is_met = true;
                let inode = Inode::parse(key, bytes)?;
                if !matches!(inode.file_type, FileType::File | FileType::Symlink) {
                    return Ok(false);
                }
                let trees = &self.trees;
                let (len, sectorsize) = (trees.volume_len(), trees.sb.sectorsize);
                pieces = Some(Extents::new(&trees.chunks, len, sectorsize, of.1, inode.size));
                Ok(true)
            }
            (kind::EXTENT_DATA, Some(pieces)) => pieces.add(key, bytes),
            (_, pieces) => Ok(pieces.is_some()),
        })?;
        match pieces {
            Some(pieces) => pieces.finish(),
            None if is_met => Ok(none),
            None => Err(missing(of.0, of.1)),
        }
    }
}
