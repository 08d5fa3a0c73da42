//! The locations of a file's bytes, assembled from its extents.

use super::blocks::Blocks;
use super::extent::Extent;
use super::superblock::Superblock;
use crate::error::{Result, at};
use crate::fs::{Content, Piece};

/// The most pieces of one file. Each takes 32 bytes of memory.
const PIECES_MAX: usize = 1 << 22;

/// Returns the content of a file of `size` bytes stored in `extents`.
pub(super) fn of_extents(
    blocks: &Blocks,
    sb: &Superblock,
    ino: u64,
    size: u64,
    extents: &[Extent],
) -> Result<Content> {
    let mut pieces = Pieces { ino, size, done: 0, pieces: Vec::new() };
    for extent in extents {
        // File block numbers have 54 bits, so the byte offset may overflow.
        let Some(start) = extent.logical.checked_mul(u64::from(sb.block_size)).filter(|start| *start < size)
        else {
            break;
        };
        pieces.zero_to(start)?;
        let len = sb.bytes(extent.count).min(size - start);
        if extent.unwritten {
            pieces.zero_to(start + len)?;
            continue;
        }
        let Some(linear) = sb.place(extent.block, extent.count) else { break };
        let offset = sb.bytes(linear);
        blocks.check(|| format!("inode {ino}, data"), offset, len)?;
        blocks.locate(offset, len, &mut |piece| pieces.push(piece))?;
    }
    pieces.zero_to(size)?;
    Ok(Content { size, pieces: pieces.pieces })
}

/// Returns content that is not stored in blocks.
pub(super) fn in_memory(bytes: Vec<u8>) -> Content {
    let size = bytes.len() as u64;
    let pieces = if bytes.is_empty() { Vec::new() } else { vec![Piece::Bytes(bytes)] };
    Content { size, pieces }
}

/// The pieces of a file collected so far.
pub(super) struct Pieces {
    ino: u64,
    size: u64,
    done: u64,
    pieces: Vec<Piece>,
}

impl Pieces {
    fn zero_to(&mut self, end: u64) -> Result<()> {
        if end > self.done { self.push(Piece::Zero { len: end - self.done }) } else { Ok(()) }
    }

    /// Appends a piece, merging it with the last one if they are contiguous.
    fn push(&mut self, piece: Piece) -> Result<()> {
        self.done += piece.len();
        match (self.pieces.last_mut(), &piece) {
            (Some(Piece::Volume { offset, len }), Piece::Volume { offset: next, len: more })
                if *offset + *len == *next =>
            {
                *len += more;
                return Ok(());
            }
            (Some(Piece::Zero { len }), Piece::Zero { len: more }) => {
                *len += more;
                return Ok(());
            }
            _ => {}
        }
        if self.pieces.len() == PIECES_MAX {
            return Err(
                at(format!("inode {}", self.ino)).limit(format!("lies in more than {PIECES_MAX} pieces"))
            );
        }
        debug_assert!(self.done <= self.size);
        self.pieces.push(piece);
        Ok(())
    }
}
