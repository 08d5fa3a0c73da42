//! The bytes of a volume as they are after log replay, which does not write to the volume. All metadata is read through
//! this view, and it locates the bytes of files.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Result, at};
use crate::fs::Piece;
use crate::source::Source;

/// The unit of the log and of block headers, in bytes. XFS calls it a basic block.
pub(super) const SECTOR: u64 = 512;

/// A sector that replay changes.
pub(super) type Sector = [u8; SECTOR as usize];

/// The bytes of a volume after replay.
pub(super) struct Blocks {
    volume: Arc<dyn Source>,
    /// The number of readable bytes: those of the filesystem that exist on the volume.
    len: u64,
    /// Sectors that replay changes, by sector number.
    replayed: BTreeMap<u64, Box<Sector>>,
}

impl Blocks {
    /// Returns a view of the first `size` bytes of `volume`, which may be shorter.
    pub(super) fn new(volume: Arc<dyn Source>, size: u64) -> Self {
        let len = size.min(volume.len());
        Blocks { volume, len, replayed: BTreeMap::new() }
    }

    /// Returns the volume without replay.
    pub(super) fn volume(&self) -> &Arc<dyn Source> {
        &self.volume
    }

    /// Sets the sectors that replay changes.
    pub(super) fn set_replayed(&mut self, replayed: BTreeMap<u64, Box<Sector>>) {
        self.replayed = replayed;
    }

    /// Changes the size of the filesystem to `size` bytes.
    pub(super) fn resize(&mut self, size: u64) {
        self.len = size.min(self.volume.len());
    }

    /// Fails unless the `len` bytes at `offset` can be read.
    pub(super) fn check(&self, what: impl Fn() -> String, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(at(what())
                .byte(offset)
                .corrupt(format!("{len} bytes extend past the end of the volume at {}", self.len))),
        }
    }

    /// Returns true if replay changes any of the `len` bytes at `offset`. Their checksum is then stale and must not be
    /// checked: the kernel recomputes it.
    pub(super) fn is_replayed(&self, offset: u64, len: u64) -> bool {
        !self.replayed.is_empty() && self.replayed.range(sectors(offset, len)).next().is_some()
    }

    /// Reads the `len` bytes at `offset`. `what` is for the error. The caller has bounded `len`.
    pub(super) fn read(&self, what: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.check(|| what.to_owned(), offset, len as u64)?;
        let mut bytes = self.volume.read_vec(offset, len)?;
        patch(&self.replayed, offset, &mut bytes);
        Ok(bytes)
    }

    /// Locates the `len` bytes at `offset`, which the caller has checked: on the volume, or in memory where replay
    /// changes them.
    pub(super) fn locate(
        &self,
        offset: u64,
        len: u64,
        found: &mut dyn FnMut(Piece) -> Result<()>,
    ) -> Result<()> {
        let (mut next, end) = (offset, offset + len);
        for (number, sector) in self.replayed.range(sectors(offset, len)) {
            let start = number * SECTOR;
            let changed = start.max(offset)..(start + SECTOR).min(end);
            if changed.start > next {
                found(Piece::Volume { offset: next, len: changed.start - next })?;
            }
            let within = (changed.start - start) as usize..(changed.end - start) as usize;
            found(Piece::Bytes(sector[within].to_vec()))?;
            next = changed.end;
        }
        if next < end {
            found(Piece::Volume { offset: next, len: end - next })?;
        }
        Ok(())
    }
}

/// Returns the numbers of the sectors that the `len` bytes at `offset` overlap.
fn sectors(offset: u64, len: u64) -> Range<u64> {
    offset / SECTOR..(offset + len).div_ceil(SECTOR)
}

/// Overwrites `bytes`, read from `offset`, with the replayed sectors.
pub(super) fn patch(replayed: &BTreeMap<u64, Box<Sector>>, offset: u64, bytes: &mut [u8]) {
    let end = offset + bytes.len() as u64;
    for (number, sector) in replayed.range(sectors(offset, bytes.len() as u64)) {
        let start = number * SECTOR;
        let changed = start.max(offset)..(start + SECTOR).min(end);
        let target = (changed.start - offset) as usize..(changed.end - offset) as usize;
        let within = (changed.start - start) as usize..(changed.end - start) as usize;
        bytes[target].copy_from_slice(&sector[within]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemSource;

    fn blocks() -> Blocks {
        let bytes = (0..10 * 512_usize).map(|i| (i / 512) as u8).collect();
        let mut blocks = Blocks::new(Arc::new(MemSource(bytes)), 20 * 512);
        blocks.set_replayed(BTreeMap::from([(3, Box::new([33; 512])), (4, Box::new([44; 512]))]));
        blocks
    }

    #[test]
    fn bytes_are_read_as_replay_makes_them() {
        let bytes = blocks().read("x", 1000, 1100).unwrap();
        let is_replayed = |offset, len| blocks().is_replayed(offset, len);
        assert!(
            !is_replayed(0, 1536) && is_replayed(0, 1537) && is_replayed(2559, 1) && !is_replayed(2560, 9999)
        );
        assert_eq!(
            (bytes[0], bytes[24], bytes[535], bytes[536], bytes[1048], bytes[1099]),
            (1, 2, 2, 33, 44, 44)
        );
    }

    #[test]
    fn what_replay_changes_is_located_in_memory() {
        let mut pieces = Vec::new();
        blocks()
            .locate(1024, 1100, &mut |piece| {
                pieces.push(piece);
                Ok(())
            })
            .unwrap();
        let expected = [
            Piece::Volume { offset: 1024, len: 512 },
            Piece::Bytes(vec![33; 512]),
            Piece::Bytes(vec![44; 76]),
        ];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn bytes_past_the_end_of_the_volume_are_an_error() {
        let error = blocks().read("inodes", 5000, 200).unwrap_err();
        assert_eq!(
            error.to_string(),
            "inodes, at byte 5000: 200 bytes extend past the end of the volume at 5120"
        );
        assert!(blocks().read("x", u64::MAX, 2).is_err());
    }
}
