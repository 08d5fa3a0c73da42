//! What all mapped containers share: a format says where runs of the disk lie ([`Map`]), and [`Mapped`]
//! makes a [`Source`] of it, with the backing disk, packed blocks and holes.

use std::sync::Arc;

use super::cache::Cache;
use super::file::ImageFile;
use crate::source::check_range;
use crate::{Extent, ExtentKind, Result, Source};

/// How many bytes of unpacked blocks a disk keeps.
const UNPACKED_CACHE: usize = 32 << 20;

/// How many runs one `extent_at` joins at most: who asks about a part of the disk does not pay for all of it.
const JOINED_RUNS: usize = 64;

/// A stored run at least this long is asked for its holes in the file that holds it.
const HOLE_SEARCH: u64 = 1 << 20;

/// Where the bytes of a disk lie: what a container format's tables say.
pub(super) trait Map: Send + Sync {
    /// The disk's size in bytes.
    fn len(&self) -> u64;

    /// What lies at `offset`, which is below `len`. The run is not empty; it may be shorter or longer than
    /// the `wanted` bytes, after which there is no use in looking further.
    /// It may reach past `len`.
    fn run_at(&self, offset: u64, wanted: u64) -> Result<Run>;

    /// The files that `Place::Stored` counts.
    fn file(&self, index: usize) -> &ImageFile;

    /// Unpacks a whole block into `buf`, which is of the block's size.
    fn unpack(&self, block: &Packed, buf: &mut [u8]) -> Result<()> {
        let _ = (block, buf);
        unreachable!("a format without packed blocks")
    }
}

/// A part of the disk that lies in one place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// How many bytes from the offset that was asked for.
    pub(super) len: u64,
    /// Where.
    pub(super) place: Place,
}

/// Where a [`Run`] lies.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: zeros.
    Zero,
    /// On the backing disk at the same offset; zeros where there is none.
    Backing,
    /// In a file, byte for byte. What reaches past the end of the file is zeros.
    Stored {
        /// Which file.
        file: usize,
        /// Where in it the run begins, in bytes.
        offset: u64,
    },
    /// In a block that must be unpacked.
    Packed(Packed),
}

/// A compressed block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// What tells it from the disk's other packed blocks.
    pub(super) id: u64,
    /// Where on the disk the block begins, in bytes.
    pub(super) start: u64,
    /// Its unpacked length in bytes.
    pub(super) len: usize,
}

/// A disk read through a [`Map`].
pub(super) struct Mapped<M> {
    map: M,
    backing: Option<Arc<dyn Source>>,
    unpacked: Cache<Vec<u8>>,
}

impl<M: Map> Mapped<M> {
    pub(super) fn new(map: M, backing: Option<Arc<dyn Source>>) -> Self {
        Mapped { map, backing, unpacked: Cache::new(UNPACKED_CACHE) }
    }

    fn read_packed(&self, block: &Packed, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset == block.start && buf.len() == block.len {
            // The whole block, as bulk reading asks for it: straight into place, nothing to keep.
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

    /// The kind of the bytes at `offset`, and how many of them: at most what the map gives in one run.
    fn extent_in_run(&self, offset: u64) -> Result<(u64, ExtentKind)> {
        let run = self.map.run_at(offset, u64::MAX)?;
        debug_assert!(run.len > 0);
        let len = run.len.min(self.len() - offset);
        let within = |extent: Extent| (len.min(extent.len()), extent.kind);
        Ok(match run.place {
            Place::Zero => (len, ExtentKind::Zero),
            Place::Packed(_) => (len, ExtentKind::Data),
            Place::Backing => match &self.backing {
                Some(backing) if offset < backing.len() => within(backing.extent_at(offset)?),
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
        let (len, kind) = self.extent_in_run(offset)?;
        let mut end = offset + len;
        for _ in 0..JOINED_RUNS {
            if end >= self.len() {
                break;
            }
            match self.extent_in_run(end) {
                Ok((len, next)) if next == kind => end += len,
                // A damaged run is the business of who asks for it.
                _ => break,
            }
        }
        Ok(Extent { range: offset..end, kind })
    }
}
