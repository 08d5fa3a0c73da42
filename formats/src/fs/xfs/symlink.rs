//! Symlink targets: stored in the inode, or in blocks, which have headers on version 5.

use super::blocks::{Blocks, SECTOR};
use super::checksum;
use super::content;
use super::extent::Extent;
use super::inode::{Format, Inode};
use super::superblock::Superblock;
use crate::bytes::{be32, be64};
use crate::error::{Result, at};
use crate::fs::{Content, Piece};

/// The longest target in bytes.
const TARGET_MAX: u64 = 1024;
const MAGIC: u32 = 0x5853_4C4D; // XSLM
const HEADER: usize = 56;
const CRC: usize = 12;

/// Returns the content of the symlink `inode`, whose blocks are `extents`.
pub(super) fn content(
    blocks: &Blocks,
    sb: &Superblock,
    inode: &Inode,
    extents: &[Extent],
) -> Result<Content> {
    let place = || at(format!("inode {}", inode.number)).field("di_size").byte(inode.offset + 56);
    if inode.size == 0 || inode.size > TARGET_MAX {
        return Err(place().corrupt(format!("is {}, expected 1 to {TARGET_MAX} for a symlink", inode.size)));
    }
    if inode.data().format == Format::Local {
        return Ok(Content::in_memory(inode.local()?.to_vec()));
    }
    if !sb.features.is_v5() {
        return content::of_extents(blocks, sb, inode.number, inode.size, extents);
    }
    let mut pieces = Vec::new();
    let mut done = 0;
    // Each extent was written as a unit, with one header.
    for extent in extents {
        if done == inode.size {
            break;
        }
        let header = Header { blocks, sb, inode, done };
        let (offset, len) = header.check(*extent)?;
        blocks.locate(offset, len, &mut |piece| {
            pieces.push(piece);
            Ok(())
        })?;
        done += len;
    }
    if done < inode.size {
        return Err(
            place().corrupt(format!("is {}, but the blocks of the symlink hold {done} bytes", inode.size))
        );
    }
    Ok(Content { size: inode.size, pieces })
}

/// The header of a part of a target.
struct Header<'a> {
    blocks: &'a Blocks,
    sb: &'a Superblock,
    inode: &'a Inode,
    /// Bytes of the target before this part.
    done: u64,
}

impl Header<'_> {
    /// Checks the header in `extent` and returns the byte offset and length of the target part after it.
    fn check(&self, extent: Extent) -> Result<(u64, u64)> {
        let (sb, inode) = (self.sb, self.inode);
        let number = inode.number;
        let room = sb.bytes(extent.count);
        // No target takes more than two blocks of the smallest size.
        let linear =
            sb.place(extent.block, extent.count).filter(|_| room <= 4 * TARGET_MAX || extent.count == 1);
        let Some(linear) = linear.filter(|_| !extent.unwritten) else {
            return Err(at(format!("symlink inode {number}"))
                .corrupt(format!("lies in {} blocks from {:#x} on", extent.count, extent.block)));
        };
        let offset = sb.bytes(linear);
        let bytes = self.blocks.read("symlink", offset, room as usize)?;
        let bad = |field, byte: usize, problem: String| {
            let place = at(format!("symlink inode {number}")).field(field).byte(offset + byte as u64);
            Err(place.corrupt(problem))
        };
        if be32(&bytes, 0) != MAGIC {
            return bad("sl_magic", 0, format!("is {:#x}, expected {MAGIC:#x}", be32(&bytes, 0)));
        }
        let is_summed = !self.blocks.is_replayed(offset, room);
        if is_summed && let Err((found, right)) = checksum::check(&bytes, CRC) {
            let problem = format!("is {found:#010x}, expected {right:#010x}: the symlink is damaged");
            return bad("sl_crc", CRC, problem);
        }
        if u64::from(be32(&bytes, 4)) != self.done {
            return bad("sl_offset", 4, format!("is {}, expected {}", be32(&bytes, 4), self.done));
        }
        if bytes[16..32] != sb.meta_uuid {
            return bad("sl_uuid", 16, "belongs to another filesystem".to_owned());
        }
        if be64(&bytes, 32) != number {
            return bad("sl_owner", 32, format!("is {}, expected {number}", be64(&bytes, 32)));
        }
        if be64(&bytes, 40) != offset / SECTOR {
            return bad("sl_blkno", 40, format!("is {}, expected {}", be64(&bytes, 40), offset / SECTOR));
        }
        let len = (inode.size - self.done).min(room - HEADER as u64);
        if u64::from(be32(&bytes, 8)) != len {
            return bad("sl_bytes", 8, format!("is {}, expected {len}", be32(&bytes, 8)));
        }
        Ok((offset + HEADER as u64, len))
    }
}

/// Reads the bytes of small content.
pub(super) fn read(blocks: &Blocks, content: &Content) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for piece in &content.pieces {
        match piece {
            Piece::Zero { len } => bytes.resize(bytes.len() + *len as usize, 0),
            Piece::Bytes(more) => bytes.extend_from_slice(more),
            Piece::Volume { offset, len } => {
                bytes.extend(blocks.read("symlink", *offset, *len as usize)?);
            }
            Piece::Encoded(_) => return Err(at("symlink").unsupported("is compressed")),
        }
    }
    Ok(bytes)
}
