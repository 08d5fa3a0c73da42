//! What Google's cloud imports: a tar in the old GNU format, compressed with gzip, with the sparse file `disk.raw`.
//!
//! The file's header and its extensions list the ranges with data, and then come their bytes (GNU tar manual, "Old GNU
//! Format"). Each window of the disk is compressed on its own, on several threads, as a gzip member; members that follow
//! each other are one stream (RFC 1952, 2.2).

use std::ops::Range;

use mif_formats::container::{Output, Pull};
use mif_formats::{Extent, Source};
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader};

use super::archive::{BLOCK, unsummed};
use super::stream::{Stream, in_order};
use crate::error::{Error, Result};
use crate::task::progress::Progress;

/// The name that the importer demands.
const NAME: &str = "disk.raw";
/// The most ranges in the list. Go's archive/tar, by which such files are read, takes a list of at most 1 MiB.
const MAX_RANGES: usize = 20_000;
/// libdeflate's level: like gzip's default.
const LEVEL: i32 = 6;

/// Writes the tar.
pub(super) fn write(disk: &dyn Source, output: &mut Output, progress: &dyn Progress) -> Result<()> {
    let ranges = ranges(disk)?;
    let mut stream = Stream::new(output.around()?);
    stream.write(&gzip(&head(disk.len(), &ranges))?)?;
    let data = data_in(&ranges);
    let solid = Solid { disk, ranges: &ranges };
    let observer: &dyn mif_formats::container::Observer = progress;
    Pull::new(&solid, observer).run(
        |window| Ok(gzip_window(&ranges, window.start, &window.bytes)),
        |compressed: Result<Vec<u8>>| in_order(compressed.and_then(|bytes| stream.write(&bytes))),
    )?;
    let padding = data.next_multiple_of(BLOCK) - data;
    stream.write(&gzip(&vec![0; (padding + 2 * BLOCK) as usize])?)?;
    stream.finish()
}

/// Returns the ranges of the disk that are not known to be zeros, in bytes. GNU tar begins each range with a new block,
/// so they are whole blocks. If they are too many for the list, those with the smallest gaps between them are joined.
fn ranges(disk: &dyn Source) -> Result<Vec<Range<u64>>> {
    let mut all: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < disk.len() {
        let extent = disk.extent_at(at)?;
        let start = at - at % BLOCK;
        at = extent.range.end;
        let end = at.next_multiple_of(BLOCK).min(disk.len());
        match all.last_mut() {
            _ if extent.is_zero() => {}
            Some(last) if last.end >= start => last.end = end,
            _ => all.push(start..end),
        }
    }
    let mut gap = BLOCK;
    while all.len() > MAX_RANGES {
        gap *= 2;
        all.dedup_by(|next, last| {
            let joins = next.start - last.end <= gap;
            if joins {
                last.end = next.end;
            }
            joins
        });
    }
    Ok(all)
}

/// Returns the number of bytes in the ranges.
fn data_in(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// A number in a field of 12 bytes: eleven octal digits, or in base 256 if it has more.
fn number(value: u64) -> [u8; 12] {
    let mut field = [0; 12];
    if value < 1 << 33 {
        field[..11].copy_from_slice(format!("{value:011o}").as_bytes());
    } else {
        field[0] = 0x80;
        field[4..].copy_from_slice(&value.to_be_bytes());
    }
    field
}

/// Returns the header of the sparse file and its extensions.
fn head(size: u64, ranges: &[Range<u64>]) -> Vec<u8> {
    let mut entries: Vec<(u64, u64)> =
        ranges.iter().map(|range| (range.start, range.end - range.start)).collect();
    // A hole at the end is an empty range there.
    if ranges.last().is_none_or(|last| last.end < size) {
        entries.push((size, 0));
    }
    let fill = |part: &mut GnuSparseHeader, (offset, len): (u64, u64)| {
        part.offset = number(offset);
        part.numbytes = number(len);
    };
    let mut header = unsummed(NAME, EntryType::GNUSparse, data_in(ranges));
    let gnu = header.as_gnu_mut().expect("made so");
    gnu.realsize = number(size);
    let mut entries = entries.into_iter();
    gnu.sparse.iter_mut().zip(entries.by_ref()).for_each(|(part, entry)| fill(part, entry));
    let rest: Vec<(u64, u64)> = entries.collect();
    gnu.isextended[0] = u8::from(!rest.is_empty());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    let mut blocks = rest.chunks(21).peekable();
    while let Some(block) = blocks.next() {
        let mut extension = GnuExtSparseHeader::new();
        extension.sparse.iter_mut().zip(block).for_each(|(part, entry)| fill(part, *entry));
        extension.isextended[0] = u8::from(blocks.peek().is_some());
        bytes.extend(extension.as_bytes());
    }
    bytes
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let level = libdeflater::CompressionLvl::new(LEVEL).expect("a level that there is");
    let mut compressor = libdeflater::Compressor::new(level);
    let mut out = vec![0; compressor.gzip_compress_bound(bytes.len())];
    let len = compressor.gzip_compress(bytes, &mut out).map_err(|e| Error::store(e.to_string()))?;
    out.truncate(len);
    Ok(out)
}

/// Compresses the parts of the ranges that lie in the window at `start`.
fn gzip_window(ranges: &[Range<u64>], start: u64, window: &[u8]) -> Result<Vec<u8>> {
    let end = start + window.len() as u64;
    let first = ranges.partition_point(|range| range.end <= start);
    let within = ranges[first..].iter().take_while(|range| range.start < end);
    let mut bytes = Vec::with_capacity(window.len());
    for range in within {
        let (from, to) = (range.start.max(start), range.end.min(end));
        bytes.extend_from_slice(&window[(from - start) as usize..(to - start) as usize]);
    }
    gzip(&bytes)
}

/// The disk, of which exactly the ranges count as data.
struct Solid<'a> {
    disk: &'a dyn Source,
    ranges: &'a [Range<u64>],
}

impl Source for Solid<'_> {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
        let next = self.ranges.partition_point(|range| range.end <= offset);
        Ok(match self.ranges.get(next) {
            Some(range) if range.start <= offset => Extent::data(offset, range.end - offset),
            Some(range) => Extent::zero(offset, range.start - offset),
            None => Extent::zero(offset, self.len() - offset),
        })
    }
}

#[cfg(test)]
mod tests {
    use mif_formats::MemSource;

    use super::*;

    #[test]
    fn numbers_have_eleven_octal_digits_or_are_in_base_256() {
        assert_eq!(&number(8), b"00000000010\0");
        assert_eq!(&number((1 << 33) - 1), b"77777777777\0");
        assert_eq!(number(1 << 33), [0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
    }

    /// A disk of 4 GiB with a byte at each 128 KiB.
    struct Scattered;

    impl Source for Scattered {
        fn len(&self) -> u64 {
            4 << 30
        }

        fn read_at(&self, _: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
            buf.fill(1);
            Ok(())
        }

        fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
            let within = offset % (128 << 10);
            Ok(match within {
                0..700 => Extent::data(offset, 700 - within),
                _ => Extent::zero(offset, (128 << 10) - within),
            })
        }
    }

    #[test]
    fn the_list_of_ranges_is_bounded() {
        let ranges = ranges(&Scattered).unwrap();
        assert!(!ranges.is_empty() && ranges.len() <= MAX_RANGES, "{}", ranges.len());
        assert!(ranges.is_sorted_by(|a, b| a.end < b.start));
        assert!(ranges.iter().all(|range| range.start % BLOCK == 0 && range.end % BLOCK == 0));
        assert_eq!(super::ranges(&MemSource(Vec::new())).unwrap(), []);
    }
}
