//! [`Source`]: random access to something disk-shaped, with its holes. Every layer passes this trait on.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Result, at};

/// Random access to something disk-shaped: a file, a virtual disk, a partition, a stored image.
///
/// All offsets and lengths are in bytes. A source is shared between threads and never changes.
pub trait Source: Send + Sync {
    /// Returns the size in bytes.
    fn len(&self) -> u64;

    /// Fills `buf` with the bytes at `offset`: all of it, or an error. Reading past the end is an error.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Returns what is known about the bytes at `offset` (which is below `len`) without reading them: an extent that
    /// starts at `offset`, is never empty and ends at `len` at the latest. `Zero` promises zeros; `Data` promises
    /// nothing, and may still be zeros. Adjacent extents may have the same kind.
    fn extent_at(&self, offset: u64) -> Result<Extent>;

    /// Like [`Source::extent_at`], for a caller that needs at most `wanted` bytes: the extent may end early if finding
    /// its real end takes work.
    fn extent_up_to(&self, offset: u64, wanted: u64) -> Result<Extent> {
        let _ = wanted;
        self.extent_at(offset)
    }

    /// Returns the logical sector size in bytes that the container records (512 or 4096), if it records one.
    fn sector_size(&self) -> Option<u32> {
        None
    }

    /// Returns true if the source is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the `len` bytes at `offset`. For small structures of known size: the caller has checked `len` against a
    /// limit.
    fn read_vec(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut buf = vec![0; len];
        self.read_at(offset, &mut buf)?;
        Ok(buf)
    }
}

/// A range of a [`Source`], and whether it is known to be zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The bytes.
    pub range: Range<u64>,
    /// Whether they are known to be zero.
    pub kind: ExtentKind,
}

/// The kind of an [`Extent`], which decides whether it has to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Any bytes.
    Data,
    /// Known to be zeros.
    Zero,
}

impl Extent {
    /// Creates an extent of data: the `len` bytes at `start`.
    #[must_use]
    pub fn data(start: u64, len: u64) -> Self {
        Extent { range: start..start + len, kind: ExtentKind::Data }
    }

    /// Creates an extent of zeros: the `len` bytes at `start`.
    #[must_use]
    pub fn zero(start: u64, len: u64) -> Self {
        Extent { range: start..start + len, kind: ExtentKind::Zero }
    }

    /// Returns the length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Returns true if it is empty; extents from a source never are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Returns true if it is known to be zeros.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.kind == ExtentKind::Zero
    }
}

macro_rules! forward_source {
    ($($pointer:ty),*) => {$(
        impl<S: Source + ?Sized> Source for $pointer {
            fn len(&self) -> u64 {
                (**self).len()
            }
            fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
                (**self).read_at(offset, buf)
            }
            fn extent_at(&self, offset: u64) -> Result<Extent> {
                (**self).extent_at(offset)
            }
            fn extent_up_to(&self, offset: u64, wanted: u64) -> Result<Extent> {
                (**self).extent_up_to(offset, wanted)
            }
            fn sector_size(&self) -> Option<u32> {
                (**self).sector_size()
            }
        }
    )*};
}
forward_source!(&S, Arc<S>, Box<S>);

/// Fails unless `len` bytes at `offset` lie within `size`. Every `read_at` begins with this check.
pub fn check_range(what: &str, size: u64, offset: u64, len: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(at(what).byte(offset).corrupt(format!("{len} bytes extend past the end at {size}"))),
    }
}

/// Returns what the filesystem knows of the `len` bytes of a file at `offset`, which are not past its end: data or a
/// hole, from `offset` on.
pub(crate) fn file_extent(file: &File, offset: u64, len: u64) -> Extent {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    // All reads are positional, so the seeks disturb nothing.
    let end = |found: u64| found.clamp(offset + 1, offset + len);
    match seek(file, SeekFrom::Data(offset)) {
        Ok(data) if data > offset => Extent::zero(offset, end(data) - offset),
        Ok(_) => {
            let hole = seek(file, SeekFrom::Hole(offset)).unwrap_or(offset + len);
            Extent::data(offset, end(hole) - offset)
        }
        // No data up to the end.
        Err(Errno::NXIO) => Extent::zero(offset, len),
        // The filesystem or device does not report holes.
        Err(_) => Extent::data(offset, len),
    }
}

/// What the filesystem said of the holes of a file that does not change. Asking it for the end of a run of data takes time
/// by the number of the run's extents, so that a disk whose small files are read one by one took a quarter of an import.
#[derive(Default)]
pub(crate) struct KnownExtents(Mutex<BTreeMap<u64, (u64, ExtentKind)>>);

impl KnownExtents {
    /// The most extents that are remembered: 160 KiB of them.
    const MOST: usize = 4096;

    /// Returns what [`file_extent`] returns.
    pub(crate) fn at(&self, file: &File, offset: u64, len: u64) -> Extent {
        let known = |known: &BTreeMap<u64, (u64, ExtentKind)>| {
            let (_, (end, kind)) = known.range(..=offset).next_back()?;
            (*end > offset).then(|| Extent { range: offset..(*end).min(offset + len), kind: *kind })
        };
        if let Some(extent) = known(&self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            return extent;
        }
        let extent = file_extent(file, offset, len);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(offset, (extent.range.end, extent.kind));
        extent
    }
}

/// Ranges of other sources, one after another.
pub struct Joined {
    /// What it is, for errors.
    what: &'static str,
    /// The start of each part here, its range in its source, and the source.
    parts: Vec<(u64, Range<u64>, Arc<dyn Source>)>,
    len: u64,
}

impl Joined {
    /// Joins parts: each a range of a source.
    #[must_use]
    pub fn new(what: &'static str, parts: impl IntoIterator<Item = (Range<u64>, Arc<dyn Source>)>) -> Self {
        let mut joined = Joined { what, parts: Vec::new(), len: 0 };
        for (range, source) in parts {
            let start = joined.len;
            joined.len += range.end - range.start;
            joined.parts.push((start, range, source));
        }
        joined
    }

    /// Returns the source of `offset`, which must exist; the offset in it; and the bytes from there to the part's end.
    fn part_at(&self, offset: u64) -> (&dyn Source, u64, u64) {
        let (start, range, source) =
            &self.parts[self.parts.partition_point(|(start, ..)| *start <= offset) - 1];
        let inner = range.start + (offset - start);
        (&**source, inner, range.end - inner)
    }
}

impl Source for Joined {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.what, self.len, offset, buf.len() as u64)?;
        let (mut offset, mut buf) = (offset, buf);
        while !buf.is_empty() {
            let (source, inner, rest) = self.part_at(offset);
            let here = rest.min(buf.len() as u64);
            let (now, after) = buf.split_at_mut(here as usize);
            source.read_at(inner, now)?;
            (offset, buf) = (offset + here, after);
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        self.extent_up_to(offset, u64::MAX)
    }

    fn extent_up_to(&self, offset: u64, wanted: u64) -> Result<Extent> {
        check_range(self.what, self.len, offset, 1)?;
        let (source, inner, rest) = self.part_at(offset);
        let extent = source.extent_up_to(inner, wanted.min(rest))?;
        Ok(Extent { range: offset..offset + extent.len().min(rest), kind: extent.kind })
    }
}

/// A range of another source, such as a partition of a disk.
pub struct Slice<S> {
    inner: S,
    start: u64,
    len: u64,
}

impl<S: Source> Slice<S> {
    /// Creates a source of the bytes `range` of `inner`. Fails if they extend past its end.
    pub fn new(inner: S, range: Range<u64>) -> Result<Self> {
        let len = range.end.saturating_sub(range.start);
        check_range("disk", inner.len(), range.start, len)?;
        Ok(Slice { inner, start: range.start, len })
    }

    /// Converts an extent of the other source to one of the slice.
    fn within(&self, extent: Extent) -> Extent {
        let end = extent.range.end.min(self.start + self.len);
        Extent { range: extent.range.start - self.start..end - self.start, kind: extent.kind }
    }
}

impl<S: Source> Source for Slice<S> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range("volume", self.len, offset, buf.len() as u64)?;
        self.inner.read_at(self.start + offset, buf)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        Ok(self.within(self.inner.extent_at(self.start + offset)?))
    }

    fn extent_up_to(&self, offset: u64, wanted: u64) -> Result<Extent> {
        Ok(self.within(self.inner.extent_up_to(self.start + offset, wanted)?))
    }

    fn sector_size(&self) -> Option<u32> {
        self.inner.sector_size()
    }
}

/// A source of bytes in memory.
pub struct MemSource(pub Vec<u8>);

impl Source for MemSource {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range("memory", self.len(), offset, buf.len() as u64)?;
        let start = usize::try_from(offset).expect("checked against a length in memory");
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        Ok(Extent::data(offset, self.len() - offset))
    }
}

/// Returns true if every byte is zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // 128 bytes at a time: wide enough for the compiler's vectors, and data ends the scan early.
    let mut chunks = bytes.chunks_exact(128);
    chunks.by_ref().all(|c| c.iter().fold(0, |acc, b| acc | b) == 0)
        && chunks.remainder().iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_reads_its_own_bytes_and_no_others() {
        let slice = Slice::new(MemSource((0..100).collect()), 10..20).unwrap();
        assert_eq!(slice.read_vec(0, 10).unwrap(), (10..20).collect::<Vec<u8>>());
        assert!(slice.read_vec(5, 6).is_err());
        assert!(slice.read_vec(u64::MAX, 2).is_err());
        assert_eq!(slice.extent_at(3).unwrap(), Extent::data(3, 7));
    }

    #[test]
    fn parts_follow_each_other() {
        let part = |range: Range<u64>, bytes: &[u8]| -> (Range<u64>, Arc<dyn Source>) {
            (range, Arc::new(MemSource(bytes.to_vec())))
        };
        let joined = Joined::new("disk", [part(1..4, b"-abc-"), part(0..0, b"x"), part(0..2, b"de")]);
        assert_eq!(joined.len(), 5);
        assert_eq!(joined.read_vec(1, 4).unwrap(), b"bcde");
        assert_eq!(joined.extent_at(1).unwrap(), Extent::data(1, 2));
        assert_eq!(joined.extent_at(4).unwrap(), Extent::data(4, 1));
        assert!(joined.read_vec(4, 2).is_err() && joined.extent_at(5).is_err());
    }

    #[test]
    fn a_slice_past_the_end_is_refused() {
        assert!(Slice::new(MemSource(vec![0; 100]), 90..101).is_err());
    }

    #[test]
    fn is_zero_sees_a_single_bit_anywhere() {
        let mut bytes = vec![0; 1000];
        assert!(is_zero(&bytes));
        for i in 0..1000 {
            bytes[i] = 1;
            assert!(!is_zero(&bytes), "{i}");
            bytes[i] = 0;
        }
    }
}
