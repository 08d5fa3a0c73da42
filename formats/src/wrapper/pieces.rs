//! A source that is a map of ranges of another one: a member of an archive, read in place.

use std::sync::Arc;

use crate::error::{Result, at};
use crate::source::{Extent, Source, check_range};

/// A range of the outer source that holds a range of the member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Its start in the member, in bytes.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its start in the outer source, in bytes.
    pub at: u64,
}

/// A member: pieces of the outer source, and zeros between them.
pub struct Pieces {
    outer: Arc<dyn Source>,
    pieces: Arc<[Piece]>,
    len: u64,
}

impl Pieces {
    /// Creates a source of `len` bytes. Fails unless the pieces are in order, do not overlap, and lie within the member
    /// and the outer source.
    pub fn new(outer: Arc<dyn Source>, pieces: Arc<[Piece]>, len: u64) -> Result<Self> {
        let mut done = 0;
        for piece in pieces.iter() {
            let end = piece.start.checked_add(piece.len);
            match end {
                Some(end) if piece.start >= done && end <= len => done = end,
                _ => {
                    return Err(at("archive member").corrupt(format!(
                        "its map has {} bytes at {} after {done} of {len} bytes",
                        piece.len, piece.start
                    )));
                }
            }
            if piece.at.checked_add(piece.len).is_none_or(|end| end > outer.len()) {
                return Err(at("archive member").byte(piece.at).corrupt(format!(
                    "{} bytes extend past the end of the archive at {}: it is truncated",
                    piece.len,
                    outer.len()
                )));
            }
        }
        Ok(Pieces { outer, pieces, len })
    }

    /// Returns the piece that contains `offset`, or else the start of the next one (or the end).
    fn at(&self, offset: u64) -> std::result::Result<Piece, u64> {
        let next = self.pieces.partition_point(|piece| piece.start + piece.len <= offset);
        match self.pieces.get(next) {
            Some(piece) if piece.start <= offset => Ok(*piece),
            Some(piece) => Err(piece.start),
            None => Err(self.len),
        }
    }
}

impl Source for Pieces {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range("archive member", self.len, offset, buf.len() as u64)?;
        let mut done = 0;
        while done < buf.len() {
            let position = offset + done as u64;
            let rest = &mut buf[done..];
            done += match self.at(position) {
                Ok(piece) => {
                    let skip = position - piece.start;
                    let len = (piece.len - skip).min(rest.len() as u64) as usize;
                    self.outer.read_at(piece.at + skip, &mut rest[..len])?;
                    len
                }
                Err(next) => {
                    let len = (next - position).min(rest.len() as u64) as usize;
                    rest[..len].fill(0);
                    len
                }
            };
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range("archive member", self.len, offset, 1)?;
        match self.at(offset) {
            Ok(piece) => {
                let skip = offset - piece.start;
                let extent = self.outer.extent_up_to(piece.at + skip, piece.len - skip)?;
                let len = extent.len().min(piece.len - skip);
                Ok(Extent { range: offset..offset + len, kind: extent.kind })
            }
            Err(next) => Ok(Extent::zero(offset, next - offset)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemSource;

    #[test]
    fn bytes_come_from_the_pieces_and_the_rest_is_zeros() {
        let outer: Arc<dyn Source> = Arc::new(MemSource((0..100).collect()));
        let map = |pieces: &[(u64, u64, u64)], len| {
            let pieces = pieces.iter().map(|(start, len, at)| Piece { start: *start, len: *len, at: *at });
            Pieces::new(outer.clone(), pieces.collect(), len)
        };
        let member = map(&[(2, 3, 50), (5, 2, 10), (9, 0, 0)], 10).unwrap();
        assert_eq!(member.read_vec(0, 10).unwrap(), [0, 0, 50, 51, 52, 10, 11, 0, 0, 0]);
        assert_eq!(member.read_vec(3, 3).unwrap(), [51, 52, 10]);
        assert_eq!(member.extent_at(0).unwrap(), Extent::zero(0, 2));
        assert_eq!(member.extent_at(3).unwrap(), Extent::data(3, 2));
        assert_eq!(member.extent_at(7).unwrap(), Extent::zero(7, 2));
        for (pieces, len) in [
            (&[(0, 11, 0)][..], 10),
            (&[(0, 5, 0), (4, 1, 0)], 10),
            (&[(5, 5, 0), (0, 5, 0)], 10),
            (&[(0, 10, 91)], 10),
            (&[(1, u64::MAX, 0)], 10),
            (&[(0, 1, u64::MAX)], 10),
        ] {
            assert!(map(pieces, len).is_err(), "{pieces:?}");
        }
    }
}
