//! ext2, ext3 and ext4: one format, in three generations of features.
//!
//! ```text
//! superblock → group descriptors → inode tables → inode → map → blocks of a file
//!                                                              → blocks of a directory → names
//!                                                 inode → extended attributes
//! ```
//!
//! A volume is read as the kernel would show it after mounting: the journal is replayed, in memory ([`Ext4`]). The
//! format is described at <https://docs.kernel.org/filesystems/ext4/>; fields have the names used there.
//!
//! # Damage
//!
//! Metadata with a wrong checksum or invalid bounds is an error of the smallest unit that it describes: an inode, or
//! one block of a directory; the rest of the volume is read. A damaged group descriptor or superblock is replaced by a
//! backup, with a warning. If only the checksum is wrong, or the place of a bitmap, and there is no backup, it is used
//! anyway, also with a warning: the structures that it points to are checked.

use std::ops::Range;
use std::sync::Arc;

use self::blocks::Blocks;
use self::groups::Groups;
use self::inode::{Inode, flags};
use self::patches::Patches;
use self::superblock::Superblock;
use super::{Capabilities, Content, DirEntry, Field, FileType, Filesystem, Info, Node, NodeId, Piece};
use crate::cache::Cache;
use crate::error::{Error, Result, at};
use crate::source::Source;

mod attributes;
mod blocks;
mod checksum;
mod dir;
pub(super) mod driver;
mod extent;
mod fast_commit;
mod features;
mod groups;
mod inode;
mod journal;
mod listing;
mod map;
mod mapper;
mod opening;
mod patches;
mod recovery;

pub mod plan;
mod superblock;
mod variable;
mod xattr;

/// The inode of the root directory.
const ROOT: u32 = 2;
/// The minimum read of an inode table, in bytes.
const CHUNK: u32 = 16 << 10;
/// How many chunks are read ahead for a sequential reader.
const AHEAD: u32 = 16;
/// The size of the cache of inode tables in bytes.
const CHUNKS_KEPT: usize = 8 << 20;
/// The size of the cache of extended attribute blocks in bytes: files share them.
const XATTR_BLOCKS_KEPT: usize = 1 << 20;

/// An ext2, ext3 or ext4 volume.
///
/// It is `Sync`: threads read at the same time, and none waits while another reads. Reading nodes in ascending order
/// costs one pass over each inode table, in large requests; the memory for that is fixed.
pub struct Ext4 {
    blocks: Blocks,
    sb: Superblock,
    groups: Groups,
    info: Info,
    inode_chunks: Cache<Vec<u8>>,
    xattr_blocks: Cache<Vec<u8>>,
    /// The changes by fast commits.
    patches: Patches,
}

impl Ext4 {
    /// Opens the filesystem on `volume`.
    ///
    /// Fails with `Unsupported`, naming them, if it uses features that would make the result wrong; with `Corrupt` if
    /// neither the superblock nor its backup makes sense.
    pub fn open(volume: Arc<dyn Source>) -> Result<Self> {
        opening::open(volume)
    }

    /// Returns the inode `id` of a file or directory that the kernel would open.
    fn visible_inode(&self, id: NodeId) -> Result<Inode> {
        let number = u32::try_from(id).unwrap_or(0);
        if number != ROOT && number < self.sb.first_ino {
            return Err(at(format!("inode {id}")).corrupt("belongs to the filesystem, not to a file"));
        }
        self.inode(number)
    }

    /// Returns the inode `number`.
    fn inode(&self, number: u32) -> Result<Inode> {
        self.find_inode(number, |bytes, offset, is_summed| {
            Inode::parse(bytes, &self.sb, number, offset, is_summed)
        })
    }

    /// Returns the bytes of inode `number`, and their position.
    fn raw_inode(&self, number: u32) -> Result<(Vec<u8>, u64)> {
        self.find_inode(number, |bytes, offset, _| Ok((bytes.to_vec(), offset)))
    }

    /// Passes the bytes of inode `number` to `found`, with their position, and whether their checksum should match.
    fn find_inode<T>(&self, number: u32, found: impl FnOnce(&[u8], u64, bool) -> Result<T>) -> Result<T> {
        let sb = &self.sb;
        let place = || at(format!("inode {number}"));
        if number == 0 || number > sb.inodes_count {
            return Err(place().corrupt(format!("expected 1 to {}", sb.inodes_count)));
        }
        let group = (number - 1) / sb.inodes_per_group;
        let Some(table) = self.groups.inode_table(group) else {
            return Err(place().corrupt(format!("the descriptor of its block group, {group}, is damaged")));
        };
        let size = usize::from(sb.inode_size);
        let start = u64::from((number - 1) % sb.inodes_per_group) * size as u64;
        let offset = self.blocks.byte(table) + start;
        if let Some(raw) = self.patches.inode(number) {
            return found(raw, offset, false);
        }
        let (bytes, at) = self.inode_bytes(table, start)?;
        found(&bytes[at..at + size], offset, sb.metadata_csum())
    }

    /// Returns the part of the inode table at block `table` that contains its byte `start`, and the offset in that
    /// part.
    fn inode_bytes(&self, table: u64, start: u64) -> Result<(Arc<Vec<u8>>, usize)> {
        let block_size = u64::from(self.sb.block_size);
        let chunk_blocks = u64::from(chunk_blocks(&self.sb));
        let chunk_size = chunk_blocks * block_size;
        let within =
            |start: u64, size: u64| usize::try_from(start % size).expect("below the size of a chunk");
        let first = table + start / chunk_size * chunk_blocks;
        // If tables overlap, on a damaged volume, the chunk may be the shorter end of another one.
        let is_enough =
            |bytes: &Arc<Vec<u8>>| within(start, chunk_size) + usize::from(self.sb.inode_size) <= bytes.len();
        if let Some(bytes) = self.inode_chunks.peek(first).filter(is_enough) {
            return Ok((bytes, within(start, chunk_size)));
        }
        // A sequential reader will continue; any other needs only this chunk.
        let in_order = start < chunk_size || self.inode_chunks.peek(first - chunk_blocks).is_some();
        let wanted = chunk_blocks * if in_order { u64::from(AHEAD) } else { 1 };
        let end = (first + wanted).min(table + groups::inode_table_blocks(&self.sb));
        let count = |blocks: u64| u32::try_from(blocks).expect("some chunks");
        let Ok(bytes) = self.blocks.read("inode table", first, count(end - first)) else {
            // The volume is truncated: this block may still exist.
            let bytes = self.blocks.read("inode table", table + start / block_size, 1)?;
            return Ok((bytes.into(), within(start, block_size)));
        };
        let mut chunks = bytes.chunks(chunk_size as usize).map(|chunk| Arc::new(chunk.to_vec()));
        let wanted = chunks.next().expect("at least one block was read");
        self.inode_chunks.put(first, wanted.len(), wanted.clone());
        for (i, chunk) in (1..).zip(chunks) {
            self.inode_chunks.put(first + i * chunk_blocks, chunk.len(), chunk);
        }
        Ok((wanted, within(start, chunk_size)))
    }

    /// Locates the content of `inode`.
    fn content_of(&self, inode: &Inode) -> Result<Content> {
        if !matches!(inode.file_type, FileType::File | FileType::Dir | FileType::Symlink) {
            return Ok(Content { size: 0, pieces: Vec::new() });
        }
        if inode.has(flags::INLINE_DATA) {
            let mut content = Content::in_memory(self.inline_data(inode)?);
            if content.size < inode.size {
                content.pieces.push(Piece::Zero { len: inode.size - content.size });
                content.size = inode.size;
            }
            return Ok(content);
        }
        if inode.file_type == FileType::Symlink && inode.is_fast_symlink(&self.sb) {
            return Ok(Content::in_memory(self.fast_target(inode)?.to_vec()));
        }
        match self.patches.runs(inode.number) {
            Some(runs) => map::content_of_runs(&self.blocks, &self.groups, inode, runs),
            None => map::content(&self.blocks, &self.sb, &self.groups, inode),
        }
    }

    /// Returns the data that is stored in the inode instead of in blocks: first in `i_block`, then in an attribute.
    fn inline_data(&self, inode: &Inode) -> Result<Vec<u8>> {
        let mut bytes = inode.block.to_vec();
        // Other damaged attributes are complained about when attributes are read.
        let offset = inode.offset + inode.xattr_at as u64;
        let stored = xattr::parse_inode(&inode.xattr_area, inode.number, offset, &mut |_| ());
        if let Some(rest) = stored.iter().find(|stored| stored.is_inline_data()) {
            bytes.extend(self.xattr_value(inode, rest)?);
        }
        match usize::try_from(inode.size) {
            Ok(size) if size <= bytes.len() => bytes.truncate(size),
            // The kernel returns zeros for the rest, and mke2fs -d makes such files of files that consist of holes.
            _ if inode.file_type == FileType::File => {}
            _ => {
                return Err(at(format!("inode {}", inode.number))
                    .field("i_size")
                    .byte(inode.offset + 4)
                    .corrupt(format!(
                        "is {}, but the inode contains {} bytes of inline data",
                        inode.size,
                        bytes.len()
                    )));
            }
        }
        Ok(bytes)
    }

    fn fast_target<'a>(&self, inode: &'a Inode) -> Result<&'a [u8]> {
        usize::try_from(inode.size).ok().and_then(|size| inode.block.get(..size)).ok_or_else(|| {
            at(format!("inode {}", inode.number)).field("i_size").byte(inode.offset + 4).corrupt(format!(
                "is {}, but a symlink in its inode has {} bytes at most",
                inode.size,
                inode.block.len()
            ))
        })
    }

    fn link_target(&self, inode: &Inode) -> Result<Vec<u8>> {
        let place = || at(format!("inode {}", inode.number));
        if inode.size == 0 || inode.size > u64::from(self.sb.block_size) {
            return Err(place()
                .field("i_size")
                .byte(inode.offset + 4)
                .corrupt(format!("is {}, expected 1 to {} for a symlink", inode.size, self.sb.block_size)));
        }
        let target = self.read_content(&self.content_of(inode)?)?;
        if target.contains(&0) && !inode.has(flags::ENCRYPT) {
            return Err(place().corrupt("the target of the symlink contains a NUL"));
        }
        Ok(target)
    }

    /// Reads small content, whose size has been checked against a limit.
    fn read_content(&self, content: &Content) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for piece in &content.pieces {
            self.read_piece(piece, 0, piece.len(), &mut bytes)?;
        }
        Ok(bytes)
    }

    /// Appends `len` bytes of a piece, from its byte `start` on.
    fn read_piece(&self, piece: &Piece, start: u64, len: u64, bytes: &mut Vec<u8>) -> Result<()> {
        let before = bytes.len();
        let len = usize::try_from(len).map_err(|_| at("content").limit("too large to hold in memory"))?;
        match piece {
            Piece::Zero { .. } => bytes.resize(before + len, 0),
            Piece::Bytes(all) => {
                let start = usize::try_from(start).expect("within bytes in memory");
                bytes.extend_from_slice(&all[start..start + len]);
            }
            Piece::Volume { offset, .. } => {
                bytes.resize(before + len, 0);
                self.blocks.read_raw(offset + start, &mut bytes[before..])?;
            }
            Piece::Encoded(_) => return Err(at("content").unsupported("is compressed")),
        }
        Ok(())
    }
}

impl Filesystem for Ext4 {
    fn info(&self) -> &Info {
        &self.info
    }

    fn capabilities(&self) -> &'static Capabilities {
        let is_shared = self.sb.features.has_ro_compat(features::ro_compat::SHARED_BLOCKS);
        if is_shared { &driver::SHARED } else { &driver::CAPABILITIES }
    }

    fn root(&self) -> NodeId {
        NodeId::from(ROOT)
    }

    fn variable_fields(&self) -> Result<Vec<Field>> {
        Ext4::variable_fields(self)
    }

    fn free_in(&self, range: &Range<u64>) -> Result<Option<Vec<Range<u64>>>> {
        self.free_blocks_in(range)
    }

    fn node(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Node> {
        let inode = self.visible_inode(id)?;
        let link_target = match inode.file_type {
            FileType::Symlink => Some(self.link_target(&inode)?),
            _ => None,
        };
        Ok(Node {
            file_type: inode.file_type,
            mode: Some(inode.mode),
            uid: Some(inode.uid),
            gid: Some(inode.gid),
            nlink: Some(u32::from(inode.links_count)),
            inode: Some(id),
            subvolume: None,
            size: inode.size,
            mtime: Some(inode.mtime),
            atime: Some(inode.atime),
            ctime: Some(inode.ctime),
            crtime: inode.crtime,
            rdev: inode.rdev(),
            flags: inode.flags,
            generation: Some(inode.generation),
            project: inode.project,
            link_target,
            xattrs: self.xattrs(&inode, complain)?,
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
                .field("i_mode")
                .byte(inode.offset)
                .corrupt("is not a directory"));
        }
        let mut entries = if self.patches.is_new_folder(inode.number) {
            Vec::new()
        } else {
            self.listing(&inode, complain)?
        };
        self.patches.change(inode.number, &mut entries);
        Ok(entries)
    }

    fn content(&self, id: NodeId) -> Result<Content> {
        self.content_of(&self.visible_inode(id)?)
    }
}

/// Returns the number of blocks of an inode table that are read at once.
fn chunk_blocks(sb: &Superblock) -> u32 {
    (CHUNK / sb.block_size).max(1)
}

#[cfg(test)]
mod tests;
