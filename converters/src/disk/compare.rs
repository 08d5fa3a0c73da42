//! Compares two disks bit by bit.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use mif_formats::Source;
use mif_formats::disk_digest::{self, DiskDigest};
use mif_formats::source::is_zero;

use crate::error::Result;
use crate::task::pool::on_all_processors;
use crate::task::progress::{self, Progress};

/// How many bytes are compared at once.
pub(crate) const WINDOW: u64 = 1 << 20;

/// How two sources differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The first byte that differs.
    pub(crate) first: Option<u64>,
    /// The number of bytes that differ.
    pub(crate) bytes: u64,
    /// The starts of the windows that differ, in ascending order.
    pub(crate) windows: Vec<u64>,
}

/// Counts the bytes that differ, with the shorter source padded with zeros. Windows known to be zero in both are not
/// read.
pub(crate) fn compare_bits(
    a: &dyn Source,
    b: &dyn Source,
    what: &str,
    progress: &dyn Progress,
) -> Result<Difference> {
    compare_windows(a, b, what, progress, false, &|_, _| ())
}

/// Returns true if two disks have the same bits and size. Ends at the first difference.
pub(crate) fn is_same(a: &dyn Source, b: &dyn Source, what: &str, progress: &dyn Progress) -> Result<bool> {
    Ok(a.len() == b.len() && compare_windows(a, b, what, progress, true, &|_, _| ())?.first.is_none())
}

/// Compares two disks like [`compare_bits`], and also returns the digest of the second.
pub(crate) fn compare_and_digest(
    a: &dyn Source,
    b: &dyn Source,
    what: &str,
    progress: &dyn Progress,
) -> Result<(Difference, DiskDigest)> {
    let found = Mutex::new(Vec::new());
    let difference = compare_windows(a, b, what, progress, false, &|start, window| {
        let here = window.len().min(b.len().saturating_sub(start) as usize);
        let digests = disk_digest::blocks(start, &window[..here], b.len());
        found.lock().expect("not poisoned").extend(digests);
    })?;
    Ok((difference, disk_digest::of_blocks(b.len(), found.into_inner().expect("not poisoned"))))
}

/// Compares two disks, and calls `read` with the start, a multiple of [`WINDOW`], and the bytes of each window of the
/// second disk that may contain data. Bytes past the disk's end are zero. With `one`, ends at a difference.
fn compare_windows(
    a: &dyn Source,
    b: &dyn Source,
    what: &str,
    progress: &dyn Progress,
    one: bool,
    read: &(dyn Fn(u64, &[u8]) + Sync),
) -> Result<Difference> {
    let size = a.len().max(b.len());
    progress.stage(what, size);
    let windows_left = Mutex::new(Windows { at: 0, size, extents: [(0, true); 2] });
    let bytes = AtomicU64::new(0);
    let first = AtomicU64::new(u64::MAX);
    let windows = Mutex::new(Vec::new());
    on_all_processors(|failed| {
        let (mut x, mut y) = (vec![0; WINDOW as usize], vec![0; WINDOW as usize]);
        let is_done = || one && first.load(Ordering::Relaxed) != u64::MAX;
        while !failed() && !is_done() {
            let (next, skipped) = windows_left.lock().expect("not poisoned").next([a, b])?;
            progress.advance(skipped);
            let Some(start) = next else { return Ok(()) };
            progress::check(progress)?;
            let len = (size - start).min(WINDOW) as usize;
            if let Some((at, count)) = compare_window(a, b, start, (&mut x[..len], &mut y[..len]))? {
                first.fetch_min(at, Ordering::Relaxed);
                bytes.fetch_add(count, Ordering::Relaxed);
                windows.lock().expect("not poisoned").push(start);
            }
            read(start, &y[..len]);
            progress.advance(len as u64);
        }
        Ok(())
    })?;
    let first = first.into_inner();
    let mut windows = windows.into_inner().expect("not poisoned");
    windows.sort_unstable();
    Ok(Difference { first: (first != u64::MAX).then_some(first), bytes: bytes.into_inner(), windows })
}

/// Iterates over the windows in which at least one of two disks may hold data.
struct Windows {
    at: u64,
    size: u64,
    /// The extent of each disk at `at`, if known: its end, and true if it is zero.
    extents: [(u64, bool); 2],
}

impl Windows {
    /// Returns the start of the next window, if any, and the bytes of holes skipped before it.
    fn next(&mut self, disks: [&dyn Source; 2]) -> Result<(Option<u64>, u64)> {
        let from = self.at;
        while self.at < self.size {
            for (disk, known) in disks.into_iter().zip(&mut self.extents) {
                if known.0 > self.at {
                    continue;
                }
                *known = match self.at < disk.len() {
                    true => {
                        let extent = disk.extent_at(self.at)?;
                        (extent.range.end, extent.is_zero())
                    }
                    false => (self.size, true),
                };
            }
            let [(a_end, a_zero), (b_end, b_zero)] = self.extents;
            let end = a_end.min(b_end).min(self.size);
            let whole = if end == self.size { end } else { end / WINDOW * WINDOW };
            if a_zero && b_zero && whole > self.at {
                self.at = whole;
                continue;
            }
            let start = self.at;
            self.at = self.size.min(start + WINDOW);
            return Ok((Some(start), start - from));
        }
        Ok((None, self.at - from))
    }
}

/// Returns the offset of the first differing byte on the disk, and how many bytes differ; `None` if the windows are
/// equal.
fn compare_window(
    a: &dyn Source,
    b: &dyn Source,
    start: u64,
    (x, y): (&mut [u8], &mut [u8]),
) -> Result<Option<(u64, u64)>> {
    let x_has_data = read_or_zero(a, start, x)?;
    let y_has_data = read_or_zero(b, start, y)?;
    let same = match (x_has_data, y_has_data) {
        (false, false) => true,
        (true, false) => is_zero(x),
        (false, true) => is_zero(y),
        (true, true) => x == y,
    };
    if same {
        return Ok(None);
    }
    let mut different = x.iter().zip(y.iter()).enumerate().filter(|(_, (x, y))| x != y);
    Ok(different.next().map(|(first, _)| (start + first as u64, 1 + different.count() as u64)))
}

/// Reads the bytes at `start`, with zeros past the end. Returns true if there may be data among them; if not, `buf` is
/// zero.
pub(crate) fn read_or_zero(source: &dyn Source, start: u64, buf: &mut [u8]) -> Result<bool> {
    buf.fill(0);
    let end = source.len().min(start + buf.len() as u64);
    let mut at = start;
    let mut data = false;
    while at < end {
        let extent = source.extent_at(at)?;
        let to = extent.range.end.min(end);
        if !extent.is_zero() {
            source.read_at(at, &mut buf[(at - start) as usize..(to - start) as usize])?;
            data = true;
        }
        at = to;
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::progress::Silent;
    use mif_formats::{Extent, MemSource};

    #[test]
    fn differing_bytes_are_counted_and_the_first_is_found() {
        let mut other = vec![7; 3 << 20];
        other[5] = 8;
        other[(2 << 20) + 1] = 8;
        let difference = compare_bits(&MemSource(vec![7; 3 << 20]), &MemSource(other), "", &Silent).unwrap();
        assert_eq!(difference, Difference { first: Some(5), bytes: 2, windows: vec![0, 2 << 20] });
        let same = |a: usize, b: usize| {
            is_same(&MemSource(vec![7; a]), &MemSource(vec![7; b]), "", &Silent).unwrap()
        };
        assert!(same(3 << 20, 3 << 20) && !same(3 << 20, 2 << 20));
    }

    /// A disk of 1 PiB with one byte that is not zero in its middle.
    struct Huge;

    impl Source for Huge {
        fn len(&self) -> u64 {
            1 << 50
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
            buf.fill(0);
            if let Some(byte) = ((1 << 49) + 5u64).checked_sub(offset).and_then(|at| buf.get_mut(at as usize))
            {
                *byte = 1;
            }
            Ok(())
        }
        fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
            let (start, end) = (1 << 49, (1 << 49) + 4096);
            Ok(match offset {
                _ if offset < start => Extent::zero(offset, start - offset),
                _ if offset < end => Extent::data(offset, end - offset),
                _ => Extent::zero(offset, self.len() - offset),
            })
        }
    }

    #[test]
    fn holes_that_both_have_take_no_time() {
        let difference = compare_bits(&Huge, &MemSource(vec![0; 10]), "", &Silent).unwrap();
        assert_eq!(difference, Difference { first: Some((1 << 49) + 5), bytes: 1, windows: vec![1 << 49] });
        assert_eq!(compare_bits(&Huge, &Huge, "", &Silent).unwrap(), Difference::default());
    }

    #[test]
    fn the_digest_of_the_second_disk_is_its_own() {
        let mut long = vec![0; (3 << 20) + 70_000];
        long[(1 << 20) + 5..][..200_000].fill(3);
        let short = MemSource(long[..(2 << 20) - 10].to_vec());
        let long = MemSource(long);
        for (a, b) in [(&short, &long), (&long, &short), (&long, &long)] {
            let (_, digest) = compare_and_digest(a, b, "", &Silent).unwrap();
            assert_eq!(digest, disk_digest::of_source(b).unwrap());
        }
    }

    #[test]
    fn a_shorter_disk_goes_on_in_zeros() {
        let (short, long) = (MemSource(vec![1; 10]), MemSource([vec![1; 10], vec![0; 10], vec![2]].concat()));
        let difference = compare_bits(&short, &long, "", &Silent).unwrap();
        assert_eq!(difference, Difference { first: Some(20), bytes: 1, windows: vec![0] });
    }
}
