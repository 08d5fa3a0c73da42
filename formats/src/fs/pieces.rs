//! The content of a file, assembled from its pieces in file order.

use super::filesystem::{Content, Piece};
use crate::error::{Result, at};

/// The most pieces of one file. Each takes 32 bytes of memory.
const PIECES_MAX: usize = 1 << 22;

/// The pieces of a file so far.
pub(super) struct Pieces {
    /// The inode number, for errors.
    inode: u64,
    /// The size of the file in bytes: pieces past it are dropped.
    size: u64,
    /// The number of bytes so far.
    done: u64,
    pieces: Vec<Piece>,
}

impl Pieces {
    /// Starts an empty list for a file of `size` bytes.
    pub(super) fn new(inode: u64, size: u64) -> Self {
        Pieces { inode, size, done: 0, pieces: Vec::new() }
    }

    /// Returns the size of the file in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the number of bytes so far.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Adds a hole up to byte `end` of the file.
    pub(super) fn zero_to(&mut self, end: u64) -> Result<()> {
        if end > self.done { self.push(Piece::Zero { len: end - self.done }) } else { Ok(()) }
    }

    /// Adds a piece, truncated at the end of the file, and merged with the last one if they are contiguous.
    ///
    /// Fails if the file has too many pieces.
    pub(super) fn push(&mut self, mut piece: Piece) -> Result<()> {
        let len = piece.len().min(self.size - self.done);
        if len == 0 {
            return Ok(());
        }
        self.done += len;
        match (self.pieces.last_mut(), &mut piece) {
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
            (_, Piece::Volume { len: all, .. } | Piece::Zero { len: all }) => *all = len,
            (_, Piece::Bytes(bytes)) => bytes.truncate(len as usize),
            (_, Piece::Encoded(encoded)) => encoded.len = len as u32,
        }
        if self.pieces.len() == PIECES_MAX {
            return Err(
                at(format!("inode {}", self.inode)).limit(format!("has more than {PIECES_MAX} fragments"))
            );
        }
        self.pieces.push(piece);
        Ok(())
    }

    /// Returns the content. A gap at its end is a hole.
    pub(super) fn finish(mut self) -> Result<Content> {
        self.zero_to(self.size)?;
        Ok(Content { size: self.size, pieces: self.pieces })
    }
}
