//! Reading the extended attributes of an inode, wherever their values are stored.

use std::collections::HashSet;

use super::attr::{self, Block, Place, Stored, Value};
use super::blocks::{Blocks, SECTOR};
use super::extent::Extent;
use super::inode::{Format, Inode};
use super::superblock::Superblock;
use super::{acl, bmbt, checksum};
use crate::bytes::{be32, be64};
use crate::error::{Error, ErrorKind, Result, at};
use crate::fs::Xattr;

/// Limit on the bytes of all names and values of an inode. (The kernel lists at most 64 KiB of names.)
const ALL_MAX: usize = 4 << 20;
/// More levels than any valid tree has.
const LEVELS_MAX: u16 = 5;
const REMOTE_MAGIC: u32 = 0x5841_524D; // XARM
const REMOTE_HEADER: usize = 56;
const REMOTE_CRC: usize = 12;

/// Returns the attributes of `inode`, named and encoded as the kernel does. Damaged ones are skipped and reported; only
/// read failures are returned as errors.
pub(super) fn read(
    blocks: &Blocks,
    sb: &Superblock,
    inode: &Inode,
    complain: &mut dyn FnMut(Error),
) -> Result<Vec<Xattr>> {
    let Some(fork) = inode.attributes() else { return Ok(Vec::new()) };
    let mut reader =
        Reader { blocks, sb, ino: inode.number, extents: Vec::new(), stored: Vec::new(), bytes: 0 };
    let result = match fork.format {
        Format::Local => {
            attr::short(fork.bytes, inode.number, fork.offset, &mut |stored| reader.stored.push(stored))
        }
        Format::Extents if fork.extents == 0 => Ok(()),
        Format::Extents | Format::Btree => bmbt::extents(blocks, sb, inode, &fork).and_then(|extents| {
            reader.extents = extents;
            reader.tree(complain)
        }),
        Format::Dev => {
            let place = at(format!("inode {}", inode.number)).field("di_aformat").byte(inode.offset + 83);
            Err(place.corrupt("is 0, which does not fit"))
        }
    };
    if let Err(error) = result {
        complain(unless_io(error)?);
    }
    reader.finish(complain)
}

/// The attributes read so far.
struct Reader<'a> {
    blocks: &'a Blocks,
    sb: &'a Superblock,
    ino: u64,
    /// The extents of the attribute fork.
    extents: Vec<Extent>,
    stored: Vec<Stored>,
    /// Bytes of the attributes in leaves.
    bytes: usize,
}

impl Reader<'_> {
    /// Walks the leaves, starting at the first.
    fn tree(&mut self, complain: &mut dyn FnMut(Error)) -> Result<()> {
        let mut next = 0;
        let mut level = LEVELS_MAX;
        let mut leaves = HashSet::new();
        loop {
            let (bytes, offset) = self.block(u64::from(next))?;
            let place = Place { ino: self.ino, offset, is_summed: self.is_summed(offset) };
            let (stored, bytes_before) = (&mut self.stored, self.bytes);
            let mut all = bytes_before;
            let mut found = |one: Stored| {
                all += one.name.len() + if let Value::Here(value) = &one.value { value.len() } else { 0 };
                stored.push(one);
            };
            match attr::block(&bytes, self.sb, place, &mut found, complain)? {
                Block::Node(found, below) if leaves.is_empty() && found > 0 && found < level => {
                    (level, next) = (found, below);
                }
                Block::Node(found, _) => {
                    let place = at(format!("inode {}, extended attribute block", self.ino)).byte(offset);
                    return Err(place
                        .field("level")
                        .corrupt(format!("is {found}, expected less than {level}")));
                }
                Block::Leaf(forward) => {
                    leaves.insert(next);
                    if forward == 0 {
                        return Ok(());
                    }
                    if leaves.contains(&forward) {
                        let place = at(format!("inode {}, extended attribute block", self.ino)).byte(offset);
                        return Err(place.field("forw").corrupt("leads back"));
                    }
                    next = forward;
                }
            }
            self.bytes = all;
            if self.bytes > ALL_MAX {
                return Err(at(format!("inode {}", self.ino)).limit(format!(
                    "the attributes exceed {ALL_MAX} bytes in total; later ones were left out"
                )));
            }
        }
    }

    /// Returns a block of the fork and its byte offset on the volume.
    fn block(&self, logical: u64) -> Result<(Vec<u8>, u64)> {
        let next = self.extents.partition_point(|extent| extent.logical <= logical);
        let extent = next.checked_sub(1).map(|i| self.extents[i]);
        let extent = extent.filter(|extent| logical < extent.end() && !extent.unwritten);
        let linear = extent.and_then(|extent| self.sb.place(extent.block + (logical - extent.logical), 1));
        let Some(linear) = linear else {
            return Err(at(format!("inode {}", self.ino))
                .corrupt(format!("block {logical} of the extended attributes lies in a hole")));
        };
        let offset = self.sb.bytes(linear);
        let bytes = self.blocks.read("extended attribute block", offset, self.sb.block_size as usize)?;
        Ok((bytes, offset))
    }

    /// Returns true if the checksum of the block at this byte offset must match.
    fn is_summed(&self, offset: u64) -> bool {
        !self.blocks.is_replayed(offset, u64::from(self.sb.block_size))
    }

    /// Reads a value stored in blocks of the fork. On version 5 each block has a header.
    fn remote(&self, first: u64, len: u32) -> Result<Vec<u8>> {
        let len = len as usize;
        let mut value = Vec::with_capacity(len);
        let mut next = first;
        while value.len() < len {
            let (bytes, offset) = self.block(next)?;
            let data = if self.sb.features.is_v5() {
                self.check_remote(&bytes, offset, value.len())?;
                &bytes[REMOTE_HEADER..]
            } else {
                &bytes[..]
            };
            value.extend_from_slice(&data[..data.len().min(len - value.len())]);
            next += 1;
        }
        Ok(value)
    }

    /// Checks the header of a value block at byte `offset`, preceded by `done` bytes of the value.
    fn check_remote(&self, bytes: &[u8], offset: u64, done: usize) -> Result<()> {
        let bad = |field, byte: usize, problem: String| {
            let place = at(format!("inode {}, extended attribute value", self.ino)).field(field);
            Err(place.byte(offset + byte as u64).corrupt(problem))
        };
        if be32(bytes, 0) != REMOTE_MAGIC {
            return bad("rm_magic", 0, format!("is {:#x}, expected {REMOTE_MAGIC:#x}", be32(bytes, 0)));
        }
        if self.is_summed(offset)
            && let Err((found, right)) = checksum::check(bytes, REMOTE_CRC)
        {
            let problem = format!("is {found:#010x}, expected {right:#010x}: the value is damaged");
            return bad("rm_crc", REMOTE_CRC, problem);
        }
        if be32(bytes, 4) as usize != done {
            return bad("rm_offset", 4, format!("is {}, expected {done}", be32(bytes, 4)));
        }
        if bytes[16..32] != self.sb.meta_uuid {
            return bad("rm_uuid", 16, "belongs to another filesystem".to_owned());
        }
        if be64(bytes, 32) != self.ino {
            return bad("rm_owner", 32, format!("is {}, expected {}", be64(bytes, 32), self.ino));
        }
        if be64(bytes, 40) != offset / SECTOR {
            return bad("rm_blkno", 40, format!("is {}, expected {}", be64(bytes, 40), offset / SECTOR));
        }
        Ok(())
    }

    fn finish(mut self, complain: &mut dyn FnMut(Error)) -> Result<Vec<Xattr>> {
        let mut xattrs: Vec<Xattr> = Vec::new();
        let mut bytes = 0;
        for stored in std::mem::take(&mut self.stored) {
            let name = stored.namespace.full_name(&stored.name);
            let place = || at(format!("inode {}, attribute {}", self.ino, name.escape_ascii()));
            let value = match stored.value {
                Value::Here(value) => Ok(value),
                Value::Remote { block, len } => self.remote(block, len),
            };
            let value = match value {
                Ok(value) => value,
                Err(error) => {
                    complain(unless_io(error)?);
                    continue;
                }
            };
            bytes += name.len() + value.len();
            if bytes > ALL_MAX {
                complain(place().limit(format!(
                    "the attributes exceed {ALL_MAX} bytes in total; this one and later ones were left out"
                )));
                break;
            }
            if stored.name.contains(&0) {
                complain(place().corrupt("the name holds a NUL"));
                continue;
            }
            let value = if acl::is_acl(&name) { acl::convert(&value) } else { Ok(Some(value)) };
            match value {
                Ok(Some(value)) => xattrs.push(Xattr { name, value }),
                Ok(None) => {}
                Err(problem) => complain(place().corrupt(problem)),
            }
        }
        xattrs.sort_by(|a, b| a.name.cmp(&b.name));
        xattrs.dedup_by(|later, first| later.name == first.name);
        Ok(xattrs)
    }
}

/// Returns the error as a value, unless it is a read failure.
fn unless_io(error: Error) -> Result<Error> {
    if error.kind() == ErrorKind::Io { Err(error) } else { Ok(error) }
}
