//! ext2, ext3 and ext4: one format, in three generations of features.
//!
//! ```text
//! superblock → group descriptors → inode tables → inode → map → blocks of a file
//!                                                              → blocks of a directory → names
//!                                                 inode → extended attributes
//! ```
//!
//! What a volume says is read as the kernel would show it after mounting: see [`Ext4`]. The format is
//! described at <https://docs.kernel.org/filesystems/ext4/>; fields have the names they have there.
//!
//! # Damage
//!
//! Metadata whose checksum or bounds do not hold is an error of the smallest thing that it describes: an
//! inode, or one block of a directory; the rest of the volume is read. A group descriptor is taken from a
//! backup. A superblock whose checksum does not fit is used, with a warning: what it leads to is checked.

use std::sync::Arc;

use self::blocks::{Blocks, Cache};
use self::groups::Groups;
use self::inode::{Inode, flags};
use self::superblock::Superblock;
use self::xattr::{Stored, Value};
use crate::fs::{Content, DirEntry, FileType, Filesystem, Info, Node, NodeId, Piece, Xattr};
use crate::source::check_range;
use crate::{Error, Result, Source, at};

mod blocks;
mod checksum;
mod dir;
mod extent;
mod features;
mod groups;
mod inode;
mod map;
mod pieces;
pub mod plan;
mod superblock;
mod xattr;

/// The inode of the root folder.
const ROOT: u32 = 2;
/// Bytes of an inode table that are read at once, and how many such are kept: 8 MiB in all.
const CHUNK: u64 = 128 << 10;
const CHUNKS_KEPT: usize = 64;
/// Blocks of extended attributes that are kept: files share them.
const XATTR_BLOCKS_KEPT: usize = 64;
/// Bytes of a directory that are read at once.
const DIR_CHUNK: u64 = 256 << 10;
/// Entries that one directory may have.
const ENTRIES_MAX: usize = 1 << 23;

/// Whether `volume` has the magic number of ext2, ext3 and ext4 where they have it.
pub fn probe(volume: &dyn Source) -> Result<bool> {
    if volume.len() < superblock::OFFSET + superblock::SIZE as u64 {
        return Ok(false);
    }
    Ok(superblock::has_magic(&volume.read_vec(superblock::OFFSET, superblock::SIZE)?))
}

/// An ext2, ext3 or ext4 volume.
///
/// It is `Sync`: threads read at the same time, and none waits while another reads. Nodes that are asked for
/// in ascending order cost one read of each inode table, in large requests; the memory for that is fixed.
pub struct Ext4 {
    blocks: Blocks,
    sb: Superblock,
    groups: Groups,
    info: Info,
    inode_chunks: Cache,
    xattr_blocks: Cache,
}

impl Ext4 {
    /// Opens the filesystem on `volume`.
    ///
    /// Errs with `Unsupported`, naming them, if it uses features that would make what is read wrong; with
    /// `Corrupt` if the superblock makes no sense.
    pub fn open(volume: Arc<dyn Source>) -> Result<Self> {
        check_range("ext volume", volume.len(), superblock::OFFSET, superblock::SIZE as u64)?;
        let bytes = volume.read_vec(superblock::OFFSET, superblock::SIZE)?;
        let sb = Superblock::parse(&bytes, superblock::OFFSET)?;
        let mut warnings = sb.warnings.clone();
        if volume.len() < sb.size() {
            warnings.push(format!(
                "the volume ends at byte {}, but the filesystem on it at {}: what lies past cannot be read",
                volume.len(),
                sb.size()
            ));
        }
        if sb.state & 2 != 0 {
            warnings.push(
                "the superblock's s_state says that errors were found: run e2fsck on a copy".to_owned(),
            );
        }
        let blocks = Blocks::new(volume, sb.block_size, sb.blocks_count);
        if sb.needs_recovery() {
            warnings.push("the journal was not replayed: the last changes may be missing".to_owned());
        }
        let mut groups = Groups::read(&blocks, &sb)?;
        warnings.append(&mut groups.warnings);
        let label = &sb.volume_name;
        let info = Info {
            kind: sb.features.kind().to_owned(),
            label: (!label.is_empty()).then(|| String::from_utf8_lossy(label).into_owned()),
            uuid: sb.uuid_text(),
            block_size: sb.block_size,
            size: sb.size(),
            free: Some(sb.free_blocks_count.saturating_mul(u64::from(sb.block_size))),
            features: sb.features.names(),
            warnings,
        };
        let chunk_blocks = CHUNK / u64::from(sb.block_size);
        Ok(Ext4 {
            blocks,
            sb,
            groups,
            info,
            inode_chunks: Cache::new(CHUNKS_KEPT, chunk_blocks.ilog2()),
            xattr_blocks: Cache::new(XATTR_BLOCKS_KEPT, 0),
        })
    }

    /// The inode `id`, of a file or folder that the kernel would open.
    fn visible_inode(&self, id: NodeId) -> Result<Inode> {
        let number = u32::try_from(id).unwrap_or(0);
        if number != ROOT && number < self.sb.first_ino {
            return Err(at(format!("inode {id}")).corrupt("is none of a file, but the filesystem's own"));
        }
        self.inode(number)
    }

    /// The inode `number`.
    fn inode(&self, number: u32) -> Result<Inode> {
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
        let bytes = self.inode_bytes(table, start)?;
        let (bytes, at) = &bytes;
        Inode::parse(&bytes[*at..*at + size], sb, number, offset)
    }

    /// The part of the inode table at block `table` that byte `start` of it lies in, and where in the part.
    fn inode_bytes(&self, table: u64, start: u64) -> Result<(Arc<[u8]>, usize)> {
        let block_size = u64::from(self.sb.block_size);
        let chunk_blocks = CHUNK / block_size;
        let chunk = start / CHUNK;
        let first = table + chunk * chunk_blocks;
        let end = (first + chunk_blocks).min(table + groups::inode_table_blocks(&self.sb));
        let count = u32::try_from(end - first).expect("a chunk");
        let read = || self.blocks.read("inode table", first, count);
        let in_chunk = |start: u64| usize::try_from(start).expect("below the size of a chunk");
        let cached = self.inode_chunks.get(first, read);
        match cached {
            Ok(bytes) => Ok((bytes, in_chunk(start % CHUNK))),
            // A volume that was cut off: this block may still be there.
            Err(error) => {
                let block = table + start / block_size;
                let bytes = self.blocks.read("inode table", block, 1).map_err(|_| error)?;
                Ok((bytes.into(), in_chunk(start % block_size)))
            }
        }
    }

    /// The attributes of `inode`, as they are stored, those in the inode first.
    fn stored_xattrs(&self, inode: &Inode) -> Result<Vec<Stored>> {
        let offset = inode.offset + inode.xattr_at as u64;
        let mut stored = xattr::parse_inode(&inode.xattr_area, inode.number, offset)?;
        let block = inode.file_acl;
        if block != 0 {
            let what = || format!("inode {}, extended attribute block", inode.number);
            let range = block..block.saturating_add(1);
            self.blocks.check(&what(), &range)?;
            if self.groups.metadata_in(&range).is_some() {
                return Err(at(what())
                    .field("i_file_acl")
                    .byte(inode.offset + 0x68)
                    .corrupt(format!("is block {block}, which holds the filesystem's own metadata")));
            }
            let bytes = self.xattr_blocks.get(block, || self.blocks.read(&what(), block, 1))?;
            let offset = self.blocks.byte(block);
            stored.extend(xattr::parse_block(&bytes, &self.sb, inode.number, block, offset)?);
        }
        Ok(stored)
    }

    /// The attributes of `inode`, as the kernel names and gives them.
    fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>> {
        let mut xattrs: Vec<Xattr> = Vec::new();
        let mut bytes = 0;
        for stored in self.stored_xattrs(inode)? {
            if stored.is_inline_data() {
                continue;
            }
            let name = stored.full_name();
            let mut value = self.xattr_value(inode, &stored)?;
            let place = || at(format!("inode {}, attribute {}", inode.number, name.escape_ascii()));
            bytes += value.len();
            if bytes > xattr::VALUES_MAX {
                let problem = format!("all values together are more than {} bytes", xattr::VALUES_MAX);
                return Err(place().limit(problem));
            }
            if stored.is_acl() {
                match xattr::acl(&value).map_err(|problem| place().corrupt(problem))? {
                    Some(list) => value = list,
                    None => continue,
                }
            }
            xattrs.push(Xattr { name, value });
        }
        // Stable: of two of one name, the one in the inode stays, which is the one that the kernel finds.
        xattrs.sort_by(|a, b| a.name.cmp(&b.name));
        xattrs.dedup_by(|later, first| later.name == first.name);
        Ok(xattrs)
    }

    fn xattr_value(&self, owner: &Inode, stored: &Stored) -> Result<Vec<u8>> {
        let (number, size, hash) = match &stored.value {
            Value::Here(value) => return Ok(value.clone()),
            Value::Inode { number, size, hash } => (*number, *size, *hash),
        };
        let place = || at(format!("inode {}, attribute in inode {number}", owner.number));
        if number == owner.number || number < self.sb.first_ino {
            return Err(place().field("e_value_inum").corrupt("is not an inode that can hold a value"));
        }
        let inode = self.inode(number)?;
        if !inode.has(flags::EA_INODE) || inode.file_type != FileType::File || inode.size != u64::from(size) {
            return Err(place().field("i_flags").byte(inode.offset + 0x20).corrupt(format!(
                "flags {:#x}, {} bytes: not the inode of a value of {size} bytes",
                inode.flags, inode.size
            )));
        }
        let content = map::content(&self.blocks, &self.sb, &self.groups, &inode)?;
        let value = self.read_content(&content)?;
        let sum = checksum::crc32c(self.sb.csum_seed, &value);
        if sum == inode.raw_atime && stored.inode_hashes(sum).contains(&hash) {
            return Ok(value);
        }
        // Lustre's older form has no hashes, but names its owner.
        if hash != inode.raw_atime && inode.raw_mtime == owner.number && inode.generation == owner.generation
        {
            return Ok(value);
        }
        Err(place().field("e_hash").corrupt(format!("does not fit the value, whose hash is {sum:#010x}")))
    }

    /// Where the content of `inode` lies.
    fn content_of(&self, inode: &Inode) -> Result<Content> {
        if !matches!(inode.file_type, FileType::File | FileType::Dir | FileType::Symlink) {
            return Ok(Content { size: 0, pieces: Vec::new() });
        }
        if inode.has(flags::INLINE_DATA) {
            let bytes = self.inline_data(inode)?;
            return Ok(Content { size: inode.size, pieces: vec![Piece::Bytes(bytes)] });
        }
        if inode.file_type == FileType::Symlink && inode.is_fast_symlink(&self.sb) {
            let target = self.fast_target(inode)?;
            return Ok(Content { size: inode.size, pieces: vec![Piece::Bytes(target.to_vec())] });
        }
        map::content(&self.blocks, &self.sb, &self.groups, inode)
    }

    /// What is stored in the inode instead of in blocks: first in `i_block`, then in an attribute.
    fn inline_data(&self, inode: &Inode) -> Result<Vec<u8>> {
        let mut bytes = inode.block.to_vec();
        let stored =
            xattr::parse_inode(&inode.xattr_area, inode.number, inode.offset + inode.xattr_at as u64)?;
        if let Some(rest) = stored.iter().find(|stored| stored.is_inline_data()) {
            bytes.extend(self.xattr_value(inode, rest)?);
        }
        match usize::try_from(inode.size) {
            Ok(size) if size <= bytes.len() => bytes.truncate(size),
            _ => {
                return Err(at(format!("inode {}", inode.number))
                    .field("i_size")
                    .byte(inode.offset + 4)
                    .corrupt(format!(
                        "is {}, but the inode holds {} bytes of inline data",
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
            return Err(place().corrupt("the target of the symlink holds a NUL"));
        }
        Ok(target)
    }

    /// Reads small content, of a size that was held against a limit.
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
        }
        Ok(())
    }

    /// Gives `listing` the blocks of its directory one after the other. Holes are complained of.
    fn dir_blocks(&self, listing: &mut Listing<'_>, complain: &mut dyn FnMut(Error)) -> Result<()> {
        let inode = listing.inode;
        let content = map::content(&self.blocks, &self.sb, &self.groups, inode)?;
        let place = || at(format!("directory inode {}", inode.number));
        let mut lie: Vec<(u64, u64)> = Vec::new();
        lie.extend(content.pieces.iter().filter_map(|piece| match piece {
            Piece::Volume { offset, len } => Some((*offset, *offset + *len)),
            _ => None,
        }));
        lie.sort_unstable();
        if let Some(pair) = lie.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            return Err(place().byte(pair[1].0).corrupt("has one block of the volume twice"));
        }
        let block_size = self.sb.block_size as usize;
        let mut bytes: Vec<u8> = Vec::new();
        for piece in &content.pieces {
            if let Piece::Zero { len } = piece {
                complain(place().corrupt(format!("has a hole of {len} bytes")));
                continue;
            }
            let mut start = 0;
            while start < piece.len() {
                let len = DIR_CHUNK.min(piece.len() - start);
                let origin = match piece {
                    Piece::Volume { offset, .. } => (offset + start).saturating_sub(bytes.len() as u64),
                    _ => 0,
                };
                let whole = match self.read_piece(piece, start, len, &mut bytes) {
                    Ok(()) => bytes.len() / block_size * block_size,
                    Err(error) => {
                        complain(error);
                        bytes.clear();
                        0
                    }
                };
                for (i, block) in bytes[..whole].chunks_exact(block_size).enumerate() {
                    listing.block(block, origin + (i * block_size) as u64, complain)?;
                }
                bytes.drain(..whole);
                start += len;
            }
        }
        if !bytes.is_empty() {
            complain(place().field("i_size").byte(inode.offset + 4).corrupt(format!(
                "is {}, no multiple of the block size, {block_size}: the end is left out",
                inode.size
            )));
        }
        Ok(())
    }
}

impl Filesystem for Ext4 {
    fn info(&self) -> &Info {
        &self.info
    }

    fn root(&self) -> NodeId {
        NodeId::from(ROOT)
    }

    fn node(&self, id: NodeId) -> Result<Node> {
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
            xattrs: self.xattrs(&inode)?,
        })
    }

    fn read_dir(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Vec<DirEntry>> {
        let inode = self.visible_inode(id)?;
        if inode.file_type != FileType::Dir {
            return Err(at(format!("inode {id}"))
                .field("i_mode")
                .byte(inode.offset)
                .corrupt("is no directory"));
        }
        let mut listing = Listing { sb: &self.sb, inode: &inode, entries: Vec::new() };
        if inode.has(flags::INLINE_DATA) {
            listing.inline(&self.inline_data(&inode)?, complain)?;
        } else {
            self.dir_blocks(&mut listing, complain)?;
        }
        Ok(listing.entries)
    }

    fn content(&self, id: NodeId) -> Result<Content> {
        self.content_of(&self.visible_inode(id)?)
    }
}

/// The entries of a directory so far.
struct Listing<'a> {
    sb: &'a Superblock,
    inode: &'a Inode,
    entries: Vec<DirEntry>,
}

impl Listing<'_> {
    fn format(&self) -> dir::Format {
        dir::Format {
            filetype: self.sb.features.has_incompat(features::incompat::FILETYPE),
            csum_seed: self.sb.metadata_csum().then(|| self.inode.csum_seed(self.sb)),
        }
    }

    /// The entries of a block that stands at byte `offset` of the volume.
    fn block(&mut self, block: &[u8], offset: u64, complain: &mut dyn FnMut(Error)) -> Result<()> {
        let place = dir::Place { inode: self.inode.number, offset };
        let format = self.format();
        let chain = dir::entries(block, format, place, &mut |entry| self.entry(entry, place, complain));
        if let Err(error) = chain {
            complain(error);
        }
        self.check_count()
    }

    /// The entries of a directory that is stored in its inode: its parent's number, then two chains.
    fn inline(&mut self, bytes: &[u8], complain: &mut dyn FnMut(Error)) -> Result<()> {
        const PARENT: usize = 4;
        let in_block = self.inode.block.len().min(bytes.len());
        let offset = self.inode.offset + 0x28;
        let attribute = self.inode.offset + self.inode.xattr_at as u64;
        let format = self.format();
        for (chain, offset) in
            [(bytes.get(PARENT..in_block), offset + PARENT as u64), (bytes.get(in_block..), attribute)]
        {
            let place = dir::Place { inode: self.inode.number, offset };
            let chain = chain.unwrap_or_default();
            let result = dir::chain(chain, format, place, &mut |entry| self.entry(entry, place, complain));
            if let Err(error) = result {
                complain(error);
            }
        }
        self.check_count()
    }

    fn check_count(&self) -> Result<()> {
        if self.entries.len() <= ENTRIES_MAX {
            return Ok(());
        }
        Err(at(format!("directory inode {}", self.inode.number))
            .limit(format!("has more than {ENTRIES_MAX} entries")))
    }

    fn entry(&mut self, entry: dir::Entry<'_>, place: dir::Place, complain: &mut dyn FnMut(Error)) {
        let name = entry.name;
        if name == b"." || name == b".." {
            return;
        }
        if entry.inode > self.sb.inodes_count {
            let problem = format!("is {}, expected 1 to {}", entry.inode, self.sb.inodes_count);
            return complain(place.corrupt("inode", entry.start, problem));
        }
        let encrypted = self.inode.has(flags::ENCRYPT);
        if name.is_empty() {
            return complain(place.corrupt("name_len", entry.start + 6, "is 0: a name is empty"));
        }
        if !encrypted && name.iter().any(|b| matches!(b, 0 | b'/')) {
            let problem = format!("is {:?}, which no name can be", name.escape_ascii().to_string());
            return complain(place.corrupt("name", entry.start + 8, problem));
        }
        let name = if encrypted { base64url(name) } else { name.to_vec() };
        self.entries.push(DirEntry { name, short_name: None, node: NodeId::from(entry.inode) });
    }
}

/// The ciphertext of a name may hold any byte, so it is shown as the kernel shows one without its key: in
/// base64, with the alphabet for file names, unpadded. (The kernel puts hashes before it, and cuts it.)
fn base64url(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0, |word, b| word << 8 | usize::from(*b)) << (8 * (3 - chunk.len()));
        text.extend((0..=chunk.len()).map(|i| ALPHABET[word >> (18 - 6 * i) & 63]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ciphertext_is_shown_in_base64() {
        assert_eq!(base64url(b"light w"), b"bGlnaHQgdw");
        assert_eq!(base64url(&[0xFF, 0xFE]), b"__4");
        assert_eq!(base64url(b"abc"), b"YWJj");
    }
}
