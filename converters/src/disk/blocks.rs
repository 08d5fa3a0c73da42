//! The units into which a disk is divided.

use std::ops::Range;

use mif_formats::Source;

use crate::error::Result;

/// The disk block that is tested for zeros: inside content, the layout has no holes smaller than this.
pub(crate) const BLOCK: u64 = 4096;

/// Runs of zeros in a large file are left out in steps of this many bytes.
pub(crate) const ZERO_STEP: u64 = 64 << 10;

/// How many bytes of a large file are read at once.
pub(crate) const WINDOW: u64 = 1 << 20;

/// Residue is split into objects at multiples of this many bytes of the disk.
pub(crate) const RESIDUE_WINDOW: u64 = 256 << 10;

/// Returns the parts of `gap` that may contain data, in whole blocks within the gap. So holes smaller than a block do
/// not affect the layout.
pub(crate) fn data_in(disk: &dyn Source, gap: Range<u64>) -> Result<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut at = gap.start;
    while at < gap.end {
        let extent = disk.extent_at(at)?;
        if !extent.is_zero() {
            let start = (at / BLOCK * BLOCK).max(gap.start);
            let end = extent.range.end.min(gap.end).next_multiple_of(BLOCK).min(gap.end);
            match ranges.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(end),
                _ => ranges.push(start..end),
            }
        }
        at = extent.range.end;
    }
    Ok(ranges)
}

/// Returns `range` cut at the disk's block boundaries.
pub(crate) fn blocks(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let start = at;
        at = ((start / BLOCK + 1) * BLOCK).min(range.end);
        (start < range.end).then_some(start..at)
    })
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use mif_formats::{Extent, MemSource, Slice};

    #[test]
    fn blocks_end_at_the_disks_boundaries() {
        let cut: Vec<_> = blocks(1000..9000).collect();
        assert_eq!(cut, [1000..4096, 4096..8192, 8192..9000]);
        assert_eq!(blocks(5..5).count(), 0);
    }

    /// A disk with data in the given sectors and known zeros elsewhere.
    struct Sectors(u64, Vec<u64>);

    impl Source for Sectors {
        fn len(&self) -> u64 {
            self.0 * 512
        }
        fn read_at(&self, _: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
            buf.fill(0);
            Ok(())
        }
        fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
            let len = 512 - offset % 512;
            let data = self.1.contains(&(offset / 512));
            Ok(if data { Extent::data(offset, len) } else { Extent::zero(offset, len) })
        }
    }

    #[test]
    fn a_hole_smaller_than_a_block_does_not_cut_the_block() {
        let disk = Sectors(64, vec![3, 4, 17]);
        assert_eq!(data_in(&disk, 0..64 * 512).unwrap(), [0..4096, 8192..12288]);
        assert_eq!(data_in(&disk, 600..2048).unwrap(), vec![600..2048]);
        let slice = Slice::new(MemSource(vec![1; 9000]), 0..9000).unwrap();
        assert_eq!(data_in(&slice, 100..9000).unwrap(), vec![100..9000]);
    }
}
