//! Common code of mapped containers: a format finds runs of the disk in its file ([`Map`]), and [`Mapped`] makes a
//! [`Source`] of it, with the backing disk, packed blocks and holes.

use std::sync::{Arc, Mutex, PoisonError};

use super::file::ImageFile;
use crate::cache::Cache;
use crate::error::Result;
use crate::source::{Extent, ExtentKind, Source, check_range};

/// The size of the cache of unpacked blocks, in bytes per disk.
const UNPACKED_CACHE: usize = 32 << 20;

/// The most runs that one `extent_at` joins, so that a query about a part of the disk does not walk all of it.
const JOINED_RUNS: usize = 64;

/// A stored run at least this long is checked for holes in the file that holds it.
const HOLE_SEARCH: u64 = 1 << 20;

/// Returns how many table entries, each covering `unit` bytes of the disk, to examine for a run of `wanted` bytes.
pub(super) fn entries_to_look_at(wanted: u64, unit: u64) -> usize {
    const MOST: u64 = 4096;
    (wanted.div_ceil(unit) + 1).min(MOST) as usize
}

/// The mapping of a disk's bytes, from the tables of a container format.
pub(super) trait Map: Send + Sync {
    /// Returns the disk's size in bytes.
    fn len(&self) -> u64;

    /// Returns the run at `offset`, which is below `len`. The run is not empty, and may extend past `len`. The caller
    /// needs `wanted` bytes, so the search for the end of the run may stop there, but the run may be shorter or longer.
    fn run_at(&self, offset: u64, wanted: u64) -> Result<Run>;

    /// Returns the file with this index in `Place::Stored`.
    fn file(&self, index: usize) -> &ImageFile;

    /// Returns the logical sector size in bytes, if the format records one.
    fn sector_size(&self) -> Option<u32> {
        None
    }

    /// Unpacks a whole block into `buf`, which has the block's size.
    fn unpack(&self, block: &Packed, buf: &mut [u8]) -> Result<()> {
        let _ = (block, buf);
        unreachable!("a format without packed blocks")
    }
}

/// A part of the disk that is stored in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The number of bytes from the requested offset.
    pub(super) len: u64,
    /// The place of the bytes.
    pub(super) place: Place,
}

impl Run {
    /// Returns the rest of the run after `skip` bytes; `skip` is less than its length.
    fn after(self, skip: u64) -> Run {
        let place = match self.place {
            Place::Stored { file, offset } => Place::Stored { file, offset: offset + skip },
            place => place,
        };
        Run { len: self.len - skip, place }
    }
}

/// The place of a [`Run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: zeros.
    Zero,
    /// On the backing disk at the same offset; zeros if there is none.
    Backing,
    /// In a file, byte for byte. Bytes past the end of the file are zero.
    Stored {
        /// The index of the file.
        file: usize,
        /// The offset of the run in the file, in bytes.
        offset: u64,
    },
    /// In a block that must be unpacked.
    Packed(Packed),
}

/// A compressed block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed {
    /// Its key among the packed blocks of the disk.
    pub(super) id: u64,
    /// The block's start on the disk, in bytes.
    pub(super) start: u64,
    /// Its unpacked length in bytes.
    pub(super) len: usize,
}

/// A disk read through a [`Map`].
pub(super) struct Mapped<M> {
    map: M,
    backing: Option<Arc<dyn Source>>,
    unpacked: Cache<Vec<u8>>,
    /// The last run that was found, and its start. An overlay with smaller runs queries the same run many times, and
    /// finding it can take a walk through a table.
    last: Mutex<Option<(u64, Run)>>,
}

impl<M: Map> Mapped<M> {
    pub(super) fn new(map: M, backing: Option<Arc<dyn Source>>) -> Self {
        Mapped { map, backing, unpacked: Cache::new(UNPACKED_CACHE), last: Mutex::default() }
    }

    fn read_packed(&self, block: &Packed, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset == block.start && buf.len() == block.len {
            // A whole block, as bulk reads request it: unpack into place, without caching.
            return match self.unpacked.peek(block.id) {
                Some(unpacked) => {
                    buf.copy_from_slice(&unpacked);
                    Ok(())
                }
                None => self.map.unpack(block, buf),
            };
        }
        let unpacked = self.unpacked.get(block.id, block.len, || {
            let mut unpacked = vec![0; block.len];
            self.map.unpack(block, &mut unpacked)?;
            Ok(unpacked)
        })?;
        let within = (offset - block.start) as usize;
        buf.copy_from_slice(&unpacked[within..within + buf.len()]);
        Ok(())
    }

    fn read_backing(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let len = self.backing.as_ref().map_or(0, Source::len);
        let there = len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let (from_backing, past_its_end) = buf.split_at_mut(there);
        past_its_end.fill(0);
        match &self.backing {
            Some(backing) if there > 0 => backing.read_at(offset, from_backing),
            _ => Ok(()),
        }
    }

    /// Returns the map's run, like its `run_at`, but remembers the last one.
    fn run_at(&self, offset: u64, wanted: u64) -> Result<Run> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((start, run)) = last
            && start <= offset
            && offset - start < run.len
        {
            return Ok(run.after(offset - start));
        }
        let run = self.map.run_at(offset, wanted)?;
        debug_assert!(run.len > 0);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((offset, run));
        Ok(run)
    }

    /// Returns the kind and the number of the bytes at `offset`: at most one run of this disk, and of that at most one
    /// run of its backing disk. Runs are not joined here: if every disk of a chain joined the runs of the next, the
    /// work would grow exponentially with the depth of the chain.
    fn extent_in_run(&self, offset: u64, wanted: u64) -> Result<(u64, ExtentKind)> {
        let run = self.run_at(offset, wanted)?;
        let len = run.len.min(self.len() - offset);
        let within = |extent: Extent| (len.min(extent.len()), extent.kind);
        Ok(match run.place {
            Place::Zero => (len, ExtentKind::Zero),
            Place::Packed(_) => (len, ExtentKind::Data),
            Place::Backing => match &self.backing {
                Some(backing) if offset < backing.len() => {
                    within(backing.extent_up_to(offset, len.min(wanted))?)
                }
                _ => (len, ExtentKind::Zero),
            },
            Place::Stored { file, offset } => {
                let file = self.map.file(file);
                match len >= HOLE_SEARCH && offset < file.len() {
                    true => within(file.extent_at(offset)?),
                    false => (len, ExtentKind::Data),
                }
            }
        })
    }
}

impl<M: Map> Source for Mapped<M> {
    fn len(&self) -> u64 {
        self.map.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range("disk", self.len(), offset, buf.len() as u64)?;
        let mut done = 0;
        while done < buf.len() {
            let position = offset + done as u64;
            let run = self.map.run_at(position, (buf.len() - done) as u64)?;
            debug_assert!(run.len > 0);
            let len = run.len.min((buf.len() - done) as u64) as usize;
            let part = &mut buf[done..done + len];
            match run.place {
                Place::Zero => part.fill(0),
                Place::Backing => self.read_backing(position, part)?,
                Place::Stored { file, offset } => self.map.file(file).read_padded(offset, part)?,
                Place::Packed(block) => self.read_packed(&block, position, part)?,
            }
            done += len;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range("disk", self.len(), offset, 1)?;
        let (len, kind) = self.extent_in_run(offset, u64::MAX)?;
        let mut end = offset + len;
        for _ in 0..JOINED_RUNS {
            if end >= self.len() {
                break;
            }
            match self.extent_in_run(end, u64::MAX) {
                Ok((len, next)) if next == kind => end += len,
                // A damaged run is reported when it is read.
                _ => break,
            }
        }
        Ok(Extent { range: offset..end, kind })
    }

    fn extent_up_to(&self, offset: u64, wanted: u64) -> Result<Extent> {
        check_range("disk", self.len(), offset, 1)?;
        let (len, kind) = self.extent_in_run(offset, wanted)?;
        Ok(Extent { range: offset..offset + len, kind })
    }

    fn sector_size(&self) -> Option<u32> {
        self.map.sector_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A disk of 64 KiB runs; a bit pattern decides which are its own and which its backing disk's. It counts look-ups.
    struct Striped(u64, u64, Arc<AtomicU64>);

    impl Map for Striped {
        fn len(&self) -> u64 {
            self.0
        }
        fn run_at(&self, offset: u64, _: u64) -> Result<Run> {
            self.2.fetch_add(1, Ordering::Relaxed);
            let own = self.1 >> (offset / 65536 % 64) & 1 == 1;
            Ok(Run { len: 65536 - offset % 65536, place: if own { Place::Zero } else { Place::Backing } })
        }
        fn file(&self, _: usize) -> &ImageFile {
            unreachable!("nothing is stored")
        }
    }

    #[test]
    fn the_work_on_a_chain_grows_with_its_length() {
        for pattern in [0, u64::MAX, 0x5555_5555_5555_5555, 0x1111_2222_4444_8888] {
            let count = Arc::new(AtomicU64::new(0));
            let mut disk: Option<Arc<dyn Source>> = None;
            for _ in 0..64 {
                disk = Some(Arc::new(Mapped::new(Striped(64 << 20, pattern, count.clone()), disk)));
            }
            let (disk, mut at) = (disk.unwrap(), 0);
            while at < disk.len() {
                let extent = disk.extent_at(at).unwrap();
                assert!(extent.is_zero() && extent.range.start == at && extent.range.end > at);
                at = extent.range.end;
            }
            // 1,024 runs in each of 64 disks, each looked up once or twice.
            let count = count.load(Ordering::Relaxed);
            assert!(count <= 2 * 64 * 1024, "{pattern:x}: {count}");
        }
    }
}
