//! The work items of an import in disk order: each file once, and each stretch of the disk that may contain data.
//! Holes, however large, produce no items.

use std::ops::Range;

use mif_formats::Source;

use crate::error::Result;

/// The number of disk bytes in one item of work on residue.
pub(super) const STRETCH: u64 = 16 << 20;

/// An item of work.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// The file with this number.
    File(usize),
    /// The residue in this part of the disk.
    Residue(Range<u64>),
}

/// The items of a disk, by number.
pub(super) struct Items {
    /// Adjacent stretches share one part, so memory grows with files and runs of data, not with the disk's size.
    parts: Vec<Part>,
    count: usize,
    disk_size: u64,
    /// Bytes of the disk that belong to no stretch.
    pub(super) skipped: u64,
}

struct Part {
    /// The number of its first item.
    first: usize,
    work: PartOf,
}

enum PartOf {
    File(usize),
    /// Consecutive stretches, starting at this byte of the disk.
    Stretches(u64),
}

impl Items {
    /// Makes the items for `disk`. `files` yields the number of each file and its first byte on the disk, in ascending
    /// order.
    ///
    /// Fails if the container cannot tell where its data is.
    pub(super) fn new(disk: &dyn Source, files: impl Iterator<Item = (usize, u64)>) -> Result<Self> {
        let runs = runs_of_stretches(disk)?;
        let covered: u64 = runs.iter().map(|run| run.end - run.start).sum();
        let mut items =
            Items { parts: Vec::new(), count: 0, disk_size: disk.len(), skipped: disk.len() - covered };
        let mut runs = runs.into_iter();
        let mut run = runs.next();
        for (number, start) in files {
            while let Some(range) = run.take() {
                // Stretches that start before the file come first.
                let stretches = start.saturating_sub(range.start).div_ceil(STRETCH);
                let cut = range.start.saturating_add(stretches.saturating_mul(STRETCH)).min(range.end);
                items.push_stretches(range.start..cut);
                if cut < range.end {
                    run = Some(cut..range.end);
                    break;
                }
                run = runs.next();
            }
            items.parts.push(Part { first: items.count, work: PartOf::File(number) });
            items.count += 1;
        }
        run.into_iter().chain(runs).for_each(|range| items.push_stretches(range));
        Ok(items)
    }

    fn push_stretches(&mut self, range: Range<u64>) {
        let stretches = (range.end - range.start).div_ceil(STRETCH) as usize;
        if stretches > 0 {
            self.parts.push(Part { first: self.count, work: PartOf::Stretches(range.start) });
            self.count += stretches;
        }
    }

    /// Returns the number of items.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Returns item `number`, which is below [`Items::len`].
    pub(super) fn get(&self, number: usize) -> Item {
        let part = &self.parts[self.parts.partition_point(|part| part.first <= number) - 1];
        match part.work {
            PartOf::File(file) => Item::File(file),
            PartOf::Stretches(start) => {
                let start = start + (number - part.first) as u64 * STRETCH;
                Item::Residue(start..self.disk_size.min(start + STRETCH))
            }
        }
    }
}

/// Returns the parts of the disk, in whole stretches, that are not known to be zero.
fn runs_of_stretches(disk: &dyn Source) -> Result<Vec<Range<u64>>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < disk.len() {
        let extent = disk.extent_at(at)?;
        if extent.is_zero() {
            at = extent.range.end;
            continue;
        }
        let start = at / STRETCH * STRETCH;
        let end =
            extent.range.end.checked_next_multiple_of(STRETCH).map_or(disk.len(), |e| e.min(disk.len()));
        match runs.last_mut() {
            Some(last) if last.end >= start => last.end = end,
            _ => runs.push(start..end),
        }
        // The last stretch is already an item, so the rest of it need not be examined.
        at = end;
    }
    Ok(runs)
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use mif_formats::Extent;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A disk of this many bytes with data in some ranges, which counts the extents requested.
    struct Sparse(u64, Vec<Range<u64>>, AtomicUsize);

    impl Sparse {
        fn new(len: u64, data: Vec<Range<u64>>) -> Self {
            Sparse(len, data, AtomicUsize::new(0))
        }
    }

    impl Source for Sparse {
        fn len(&self) -> u64 {
            self.0
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> mif_formats::Result<()> {
            unreachable!("only extents are asked for")
        }
        fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
            self.2.fetch_add(1, Ordering::Relaxed);
            let next = self.1.iter().find(|data| data.end > offset);
            Ok(match next {
                Some(data) if data.start <= offset => Extent::data(offset, data.end - offset),
                Some(data) => Extent::zero(offset, data.start - offset),
                None => Extent::zero(offset, self.0 - offset),
            })
        }
    }

    fn all(disk: &Sparse, files: &[(usize, u64)]) -> Vec<Item> {
        let items = Items::new(disk, files.iter().copied()).unwrap();
        (0..items.len()).map(|number| items.get(number)).collect()
    }

    #[test]
    fn files_and_stretches_come_in_the_order_of_the_disk() {
        let end = 5 * STRETCH + 100;
        let disk = Sparse::new(end, vec![5..6, STRETCH + 1..2 * STRETCH + 1, 5 * STRETCH + 50..end]);
        let files = [(7, 0), (3, STRETCH), (4, STRETCH + 5), (9, u64::MAX)];
        assert_eq!(
            all(&disk, &files),
            [
                Item::File(7),
                Item::Residue(0..STRETCH),
                Item::File(3),
                Item::Residue(STRETCH..2 * STRETCH),
                Item::File(4),
                Item::Residue(2 * STRETCH..3 * STRETCH),
                Item::Residue(5 * STRETCH..end),
                Item::File(9),
            ]
        );
        assert_eq!(Items::new(&disk, std::iter::empty()).unwrap().skipped, 2 * STRETCH);
    }

    #[test]
    fn a_hole_of_a_pebibyte_is_no_work() {
        let disk = Sparse::new(1 << 50, vec![1 << 49..(1 << 49) + 512]);
        let middle = 1 << 49;
        assert_eq!(all(&disk, &[]), [Item::Residue(middle..middle + STRETCH)]);
        assert!(disk.2.load(Ordering::Relaxed) <= 3, "each extent is asked for once");
        // A disk full of data takes no memory before it is read either.
        let full = Sparse::new(1 << 50, vec![0..1 << 50]);
        let items = Items::new(&full, [(0, 1 << 40)].into_iter()).unwrap();
        assert_eq!((items.len(), items.parts.len()), ((1 << 26) + 1, 3));
        assert_eq!(items.get(items.len() - 1), Item::Residue((1 << 50) - STRETCH..1 << 50));
    }
}
