//! The location of a file's bytes, assembled from the runs of its blocks in file order.

use std::ops::Range;

use super::blocks::Blocks;
use crate::error::{Result, at};
use crate::fs::{Content, Piece};

/// The most pieces of one file. Each takes 32 bytes of memory.
const PIECES_MAX: usize = 1 << 22;

/// The pieces of a file so far.
pub(super) struct Pieces<'a> {
    blocks: &'a Blocks,
    inode: u32,
    /// The size of the file in bytes: blocks past it are left out.
    size: u64,
    /// The number of bytes so far.
    done: u64,
    pieces: Vec<Piece>,
}

impl<'a> Pieces<'a> {
    /// Starts an empty list for a file of `size` bytes.
    pub(super) fn new(blocks: &'a Blocks, inode: u32, size: u64) -> Self {
        Pieces { blocks, inode, size, done: 0, pieces: Vec::new() }
    }

    /// Adds the volume's blocks `physical`, which were checked, as the file's blocks from `logical` on. A gap before
    /// `logical` is a hole.
    pub(super) fn data(&mut self, logical: u64, physical: Range<u64>) -> Result<()> {
        let start = self.blocks.byte(logical);
        if start >= self.size {
            return Ok(());
        }
        self.zero_to(start)?;
        let blocks = self.blocks;
        blocks.locate(physical, &mut |piece| self.push(piece))
    }

    /// Returns the content; a gap at its end is a hole.
    pub(super) fn finish(mut self) -> Result<Content> {
        self.zero_to(self.size)?;
        Ok(Content { size: self.size, pieces: self.pieces })
    }

    fn zero_to(&mut self, end: u64) -> Result<()> {
        if end > self.done { self.push(Piece::Zero { len: end - self.done }) } else { Ok(()) }
    }

    fn push(&mut self, piece: Piece) -> Result<()> {
        let len = piece.len().min(self.size - self.done);
        if len == 0 {
            return Ok(());
        }
        self.done += len;
        match (self.pieces.last_mut(), &piece) {
            (Some(Piece::Volume { offset, len: before }), Piece::Volume { offset: next, .. })
                if *offset + *before == *next =>
            {
                *before += len;
                return Ok(());
            }
            (Some(Piece::Zero { len: before }), Piece::Zero { .. }) => {
                *before += len;
                return Ok(());
            }
            _ => {}
        }
        if self.pieces.len() == PIECES_MAX {
            return Err(
                at(format!("inode {}", self.inode)).limit(format!("has more than {PIECES_MAX} fragments"))
            );
        }
        self.pieces.push(match piece {
            Piece::Volume { offset, .. } => Piece::Volume { offset, len },
            Piece::Zero { .. } => Piece::Zero { len },
            Piece::Bytes(mut bytes) => {
                bytes.truncate(usize::try_from(len).expect("no more than it has"));
                Piece::Bytes(bytes)
            }
            Piece::Encoded(mut encoded) => {
                encoded.len = u32::try_from(len).expect("no more than it has");
                Piece::Encoded(encoded)
            }
        });
        Ok(())
    }
}
