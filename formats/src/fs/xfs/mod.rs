//! XFS, versions 4 and 5.
//!
//! ```text
//! superblock → inode → extents, or a tree of them → blocks of a file
//!                                                → blocks of a directory → names
//!                    → extended attributes
//! ```
//!
//! A volume is read as the kernel would show it after mounting: the log is replayed in memory ([`Xfs`]). The format is
//! described in "XFS Algorithms & Data Structures"; fields are named as they are there. All numbers are big-endian
//! except checksums and the contents of the log.
//!
//! # Damage
//!
//! Metadata with a bad checksum or invalid bounds is reported for the smallest object it describes: an attribute, an
//! inode, or one block of a directory; the rest of the volume is read. A damaged superblock is replaced by a copy, with
//! a warning. Files are found by walking from the root directory: the trees that track used inodes are not read, and those that
//! track free blocks only to tell these from metadata ([`Filesystem::free_in`]).

use std::collections::HashSet;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use self::blocks::Blocks;
use self::extent::Extent;
use self::inode::{Inode, flags2};
use self::overrides::Overrides;
use self::superblock::{InodePlace, Superblock};
use super::{Capabilities, Content, DirEntry, FileType, Filesystem, Info, Node, NodeId};
use crate::cache::Cache;
use crate::error::{Error, Result, at};
use crate::source::Source;

mod acl;
mod attr;
mod attributes;
mod blocks;
mod bmbt;
mod checksum;
mod content;
mod dir;
pub(super) mod driver;
mod extent;
mod features;
mod finishing;
mod free;
mod inode;
mod listing;
mod log;
mod opening;
mod overrides;
mod superblock;
mod symlink;

/// Inodes are allocated in chunks of this many.
const CHUNK_INODES: u32 = 64;
/// The size of the inode cache in bytes.
const CACHED: usize = 8 << 20;

/// An XFS volume.
///
/// It is `Sync`: threads read concurrently without waiting for one another. Reading nodes in ascending order costs one
/// read per chunk of inodes; the memory for that is fixed.
pub struct Xfs {
    blocks: Blocks,
    sb: Superblock,
    info: Info,
    /// Cached chunks of inodes.
    chunks: Cache<Vec<u8>>,
    /// Changes that the log requests beyond its replay.
    overrides: Overrides,
    /// Inodes whose trees belonged to another inode.
    adopted: HashSet<u64>,
}

impl Xfs {
    /// Opens the filesystem on `volume`.
    ///
    /// Fails with `Unsupported`, naming them, if it uses features that this reader would misread; with `Corrupt` if
    /// neither the superblock nor its copies are usable.
    pub fn open(volume: Arc<dyn Source>) -> Result<Self> {
        opening::open(volume)
    }

    /// Returns inode `ino` if the kernel would let users open it.
    fn visible_inode(&self, ino: u64) -> Result<Inode> {
        let inode = self.inode(ino)?;
        if self.sb.own_inos.contains(&ino) || inode.flags2 & flags2::METADATA != 0 {
            return Err(at(format!("inode {ino}")).corrupt("belongs to the filesystem, not to a file"));
        }
        Ok(inode)
    }

    fn inode(&self, ino: u64) -> Result<Inode> {
        let sb = &self.sb;
        let Some(place) = sb.place_of_inode(ino) else {
            return Err(at(format!("inode {ino}")).corrupt("lies outside of any allocation group"));
        };
        let size = usize::from(sb.inode_size);
        let offset = sb.ag_byte(place.ag, place.block) + u64::from(place.index) * size as u64;
        let (bytes, start) = self.inode_bytes(place)?;
        let start = (offset - start) as usize;
        let is_summed = !self.blocks.is_replayed(offset, size as u64);
        let mut inode = Inode::parse(&bytes[start..start + size], sb, ino, offset, is_summed)?;
        inode.is_adopted = self.adopted.contains(&ino);
        if let Some(size) = self.overrides.sizes.get(&ino) {
            inode.size = *size;
        }
        Ok(inode)
    }

    /// Returns the blocks around an inode, and their byte offset on the volume.
    fn inode_bytes(&self, place: InodePlace) -> Result<(Arc<Vec<u8>>, u64)> {
        let sb = &self.sb;
        let per_chunk = chunk_blocks(sb);
        let chunk = place.block / per_chunk;
        let first = chunk * per_chunk;
        let start = sb.ag_byte(place.ag, first);
        let key = u64::from(place.ag) * u64::from(sb.ag_blocks.div_ceil(per_chunk)) + u64::from(chunk);
        if let Some(bytes) = self.chunks.peek(key) {
            return Ok((bytes, start));
        }
        let count = per_chunk.min(sb.ag_len(place.ag) - first);
        let len = sb.bytes(u64::from(count)) as usize;
        let Ok(bytes) = self.blocks.read("inodes", start, len) else {
            // The volume is truncated, but this block may still be present.
            let start = sb.ag_byte(place.ag, place.block);
            let bytes = self.blocks.read("inodes", start, sb.block_size as usize)?;
            return Ok((bytes.into(), start));
        };
        let bytes = Arc::new(bytes);
        self.chunks.put(key, len, bytes.clone());
        Ok((bytes, start))
    }

    /// Returns the extents of the data of `inode`.
    fn extents(&self, inode: &Inode) -> Result<Vec<Extent>> {
        match self.overrides.extents.get(&inode.number) {
            Some(extents) => Ok(extents.clone()),
            None => bmbt::extents(&self.blocks, &self.sb, inode, &inode.data()),
        }
    }

    /// Returns the location of the content of `inode`.
    fn content_of(&self, inode: &Inode) -> Result<Content> {
        let (blocks, sb) = (&self.blocks, &self.sb);
        match inode.file_type {
            FileType::File if inode.is_realtime() => {
                Err(at(format!("inode {}", inode.number))
                    .unsupported("the content lies on the realtime device"))
            }
            FileType::Dir if inode.data().format == inode::Format::Local => {
                Ok(Content::in_memory(inode.local()?.to_vec()))
            }
            FileType::File | FileType::Dir => {
                content::of_extents(blocks, sb, inode.number, inode.size, &self.extents(inode)?)
            }
            FileType::Symlink => symlink::content(blocks, sb, inode, &self.extents(inode)?),
            _ => Ok(Content { size: 0, pieces: Vec::new() }),
        }
    }

    fn link_target(&self, inode: &Inode) -> Result<Vec<u8>> {
        let target = symlink::read(&self.blocks, &self.content_of(inode)?)?;
        if target.contains(&0) {
            return Err(
                at(format!("inode {}", inode.number)).corrupt("the target of the symlink holds a NUL")
            );
        }
        Ok(target)
    }
}

impl Filesystem for Xfs {
    fn info(&self) -> &Info {
        &self.info
    }

    fn sector_sizes(&self) -> RangeInclusive<u32> {
        512..=u32::from(self.sb.sector_size)
    }

    fn free_in(&self, range: &Range<u64>) -> Result<Option<Vec<Range<u64>>>> {
        self.free_blocks_in(range)
    }

    fn capabilities(&self) -> &'static Capabilities {
        let ignores_case = self.sb.features.version & features::version::BORG != 0;
        if ignores_case { &driver::IGNORES_CASE } else { &driver::CAPABILITIES }
    }

    fn root(&self) -> NodeId {
        self.sb.root_ino
    }

    fn node(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Node> {
        let inode = self.visible_inode(id)?;
        let link_target = match inode.file_type {
            FileType::Symlink => Some(self.link_target(&inode)?),
            _ => None,
        };
        let mut xattrs = attributes::read(&self.blocks, &self.sb, &inode, complain)?;
        self.overrides.change(id, &mut xattrs);
        Ok(Node {
            file_type: inode.file_type,
            mode: Some(inode.mode),
            uid: Some(inode.uid),
            gid: Some(inode.gid),
            nlink: Some(inode.nlink),
            inode: Some(id),
            subvolume: None,
            size: inode.size,
            mtime: Some(inode.mtime),
            atime: Some(inode.atime),
            ctime: Some(inode.ctime),
            crtime: inode.crtime,
            rdev: inode.rdev(),
            flags: inode.fs_flags(),
            generation: Some(inode.generation),
            project: Some(inode.project),
            link_target,
            xattrs,
            ntfs: None,
        })
    }

    fn handle(&self, node: &Node) -> Option<NodeId> {
        node.inode
    }

    fn read_dir(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Vec<DirEntry>> {
        let inode = self.visible_inode(id)?;
        if inode.file_type != FileType::Dir {
            return Err(at(format!("inode {id}"))
                .field("di_mode")
                .byte(inode.offset + 2)
                .corrupt("is not a directory"));
        }
        listing::list(&self.blocks, &self.sb, &inode, &self.extents(&inode)?, complain)
    }

    fn content(&self, id: NodeId) -> Result<Content> {
        self.content_of(&self.visible_inode(id)?)
    }
}

/// Returns the number of blocks that are read at once to find an inode.
fn chunk_blocks(sb: &Superblock) -> u32 {
    (CHUNK_INODES * u32::from(sb.inode_size) / sb.block_size).max(1)
}

#[cfg(test)]
mod tests;
