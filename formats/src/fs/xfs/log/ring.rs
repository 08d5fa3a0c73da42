//! The log as a ring of sectors. Each begins with the number of the cycle in which it was written.

use crate::bytes::be32;
use crate::error::{Result, at};
use crate::fs::xfs::blocks::SECTOR;
use crate::fs::xfs::superblock::Superblock;
use crate::source::{Source, check_range};

/// The first word of a record. No cycle number has this value.
pub(super) const MAGIC: u32 = 0xFEED_BABE;

/// The sectors of the log.
pub(super) struct Ring<'a> {
    volume: &'a dyn Source,
    /// Byte offset of the log on the volume.
    start: u64,
    /// Number of sectors.
    len: u32,
    /// `sb_uuid`.
    pub(super) uuid: [u8; 16],
    /// True if records are of version 2.
    pub(super) is_v2: bool,
    /// True if record checksums are binding.
    pub(super) is_v5: bool,
}

impl<'a> Ring<'a> {
    /// Returns the log of a volume.
    pub(super) fn new(volume: &'a dyn Source, sb: &Superblock) -> Result<Self> {
        let linear = sb.place(sb.log_start, u64::from(sb.log_blocks));
        let sectors = sb.bytes(u64::from(sb.log_blocks)) / SECTOR;
        let (Some(linear), Ok(len @ 16..)) = (linear, u32::try_from(sectors)) else {
            return Err(at("XFS superblock").field("sb_logstart").byte(48).corrupt(format!(
                "{} blocks from {:#x} on lie outside of any allocation group",
                sb.log_blocks, sb.log_start
            )));
        };
        let start = sb.bytes(linear);
        check_range("log", volume.len(), start, sectors * SECTOR)?;
        Ok(Ring {
            volume,
            start,
            len,
            uuid: sb.uuid,
            is_v2: sb.features.has_log_v2(),
            is_v5: sb.features.is_v5(),
        })
    }

    /// Returns the number of sectors.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Returns the sector `count` sectors after `sector`, wrapping around.
    pub(super) fn after(&self, sector: u32, count: u32) -> u32 {
        let next = u64::from(sector) + u64::from(count);
        u32::try_from(next % u64::from(self.len)).expect("below the length")
    }

    /// Returns the number of sectors from `from` to `to`, 0 if they are equal.
    pub(super) fn distance(&self, from: u32, to: u32) -> u32 {
        if to >= from { to - from } else { self.len - from + to }
    }

    /// Reads `count` sectors, wrapping around. The caller has bounded `count`.
    pub(super) fn read(&self, sector: u32, count: u32) -> Result<Vec<u8>> {
        let size = SECTOR as usize;
        let mut bytes = vec![0; count as usize * size];
        let (mut done, mut next) = (0, sector % self.len);
        while done < count {
            let now = (count - done).min(self.len - next);
            let target = &mut bytes[done as usize * size..(done + now) as usize * size];
            self.volume.read_at(self.start + u64::from(next) * SECTOR, target)?;
            done += now;
            next = self.after(next, now);
        }
        Ok(bytes)
    }

    /// Returns the cycle of a sector.
    pub(super) fn cycle(&self, sector: u32) -> Result<u32> {
        Ok(cycle(&self.read(sector, 1)?))
    }
}

/// Returns the cycle in which a sector was written. (The first sector of a record has the magic number first, then the
/// cycle.)
pub(super) fn cycle(sector: &[u8]) -> u32 {
    let first = be32(sector, 0);
    if first == MAGIC { be32(sector, 4) } else { first }
}
