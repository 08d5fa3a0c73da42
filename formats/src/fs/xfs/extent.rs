//! Extents: contiguous runs of a file's blocks, and their on-disk records.

use super::superblock::Superblock;
use crate::bytes::be64;
use crate::error::{At, Error, Result};

/// Bytes of a record.
pub(super) const RECORD: usize = 16;

/// A run of blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first block, relative to the file.
    pub(super) logical: u64,
    /// `br_startblock`: the first block on the volume, encoded as allocation group and block within it.
    pub(super) block: u64,
    /// Number of blocks.
    pub(super) count: u64,
    /// True if the blocks are allocated but were never written.
    pub(super) unwritten: bool,
}

impl Extent {
    /// Parses a record: 1 bit unwritten flag, 54 bits file block, 52 bits volume block, 21 bits count.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let (high, low) = (be64(bytes, 0), be64(bytes, 8));
        Extent {
            logical: high >> 9 & ((1 << 54) - 1),
            block: (high & 0x1FF) << 43 | low >> 21,
            count: low & 0x1F_FFFF,
            unwritten: high >> 63 == 1,
        }
    }

    /// Returns the block after the last one, relative to the file.
    pub(super) fn end(&self) -> u64 {
        self.logical + self.count
    }
}

/// The extents of a fork collected so far: ascending and limited in number.
pub(super) struct Extents<'a> {
    pub(super) list: Vec<Extent>,
    place: &'a dyn Fn() -> At,
    /// `None` if the blocks are on the realtime device.
    sb: Option<&'a Superblock>,
    most: usize,
}

impl<'a> Extents<'a> {
    /// Returns an empty list for at most `most` extents. Blocks outside the geometry of `sb` are errors at `place`.
    pub(super) fn new(sb: Option<&'a Superblock>, most: usize, place: &'a dyn Fn() -> At) -> Self {
        Extents { list: Vec::new(), place, sb, most }
    }

    /// Appends the records in `bytes`, which are at byte `offset`.
    pub(super) fn add(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        for (i, record) in bytes.chunks_exact(RECORD).enumerate() {
            let extent = Extent::parse(record);
            let bad = |problem: String| -> Error {
                (self.place)().field("br_startblock").byte(offset + (i * RECORD) as u64).corrupt(problem)
            };
            let Extent { logical, block, count, .. } = extent;
            if count == 0 {
                return Err(bad("the extent is empty".to_owned()));
            }
            if self.sb.is_some_and(|sb| sb.place(block, count).is_none()) {
                return Err(bad(format!(
                    "{count} blocks from {block:#x} on lie outside of any allocation group"
                )));
            }
            let end = self.list.last().map_or(0, Extent::end);
            if logical < end {
                return Err(bad(format!(
                    "the extent begins at block {logical} of the file, expected {end} or more"
                )));
            }
            if self.list.len() == self.most {
                return Err((self.place)().limit(format!("lies in more than {} extents", self.most)));
            }
            self.list.push(extent);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::at;

    /// Encodes an extent as a record.
    fn record(extent: Extent) -> [u8; 16] {
        let high = u64::from(extent.unwritten) << 63 | extent.logical << 9 | extent.block >> 43;
        let low = extent.block << 21 | extent.count;
        [high.to_be_bytes(), low.to_be_bytes()].concat().try_into().unwrap()
    }

    #[test]
    fn a_record_comes_back() {
        let max =
            Extent { logical: (1 << 54) - 1, block: (1 << 52) - 1, count: (1 << 21) - 1, unwritten: true };
        for extent in [max, Extent { logical: 5, block: 0x123_4567_89AB, count: 1, unwritten: false }] {
            assert_eq!(Extent::parse(&record(extent)), extent);
        }
    }

    #[test]
    fn extents_ascend_and_are_bounded() {
        let place = || at("inode 7");
        let extent = |logical, count| record(Extent { logical, block: 50, count, unwritten: false });
        let add = |records: &[[u8; 16]], most| {
            let mut extents = Extents::new(None, most, &place);
            extents.add(&records.concat(), 1000).map(|()| extents.list.len()).map_err(|e| e.to_string())
        };
        assert_eq!(add(&[extent(0, 2), extent(2, 1), extent(9, 1)], 3), Ok(3));
        assert!(
            add(&[extent(0, 2), extent(1, 1)], 3).unwrap_err().contains("at byte 1016: the extent begins")
        );
        assert!(add(&[extent(0, 0)], 3).unwrap_err().contains("is empty"));
        assert!(add(&[extent(0, 2), extent(2, 1)], 1).unwrap_err().contains("more than 1 extents"));
    }
}
