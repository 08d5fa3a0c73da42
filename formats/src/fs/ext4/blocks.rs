//! The block view: the volume's blocks as they are after the journal's replay, which does not change the volume. All
//! metadata is read through it, and it locates the bytes of a file's blocks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Result, at};
use crate::fs::Piece;
use crate::source::Source;

/// The first bytes of an escaped block: if a block begins with the journal's magic number, the journal stores it with
/// four zeros instead.
pub(super) const JOURNAL_MAGIC: [u8; 4] = 0xC03B_3998_u32.to_be_bytes();

/// The effect of a replay on a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replayed {
    /// The block has the content of this block, which is in the journal.
    At(u64),
    /// The same, with the first four bytes replaced by [`JOURNAL_MAGIC`].
    Escaped(u64),
}

/// The blocks of a volume after replay.
pub(super) struct Blocks {
    volume: Arc<dyn Source>,
    /// In bytes.
    block_size: u32,
    /// The number of readable blocks: those of the filesystem that are entirely on the volume.
    count: u64,
    replayed: BTreeMap<u64, Replayed>,
}

impl Blocks {
    /// Creates a view of the `blocks_count` blocks of `block_size` bytes at the start of `volume`, which may end
    /// earlier.
    pub(super) fn new(volume: Arc<dyn Source>, block_size: u32, blocks_count: u64) -> Self {
        let count = blocks_count.min(volume.len() / u64::from(block_size));
        Blocks { volume, block_size, count, replayed: BTreeMap::new() }
    }

    /// Replaces `block` by its content after replay.
    pub(super) fn replay(&mut self, block: u64, replayed: Replayed) {
        self.replayed.insert(block, replayed);
    }

    /// Returns the byte of the volume at which `block` starts.
    pub(super) fn byte(&self, block: u64) -> u64 {
        block.saturating_mul(u64::from(self.block_size))
    }

    /// Fails unless all of `blocks` are readable.
    pub(super) fn check(&self, what: impl Fn() -> String, blocks: &Range<u64>) -> Result<()> {
        if blocks.start <= blocks.end && blocks.end <= self.count {
            return Ok(());
        }
        Err(at(what()).byte(self.byte(blocks.start)).corrupt(format!(
            "occupies blocks {} to {}, but the volume's last block is {}",
            blocks.start,
            blocks.end.saturating_sub(1),
            self.count.saturating_sub(1)
        )))
    }

    /// Reads `count` blocks from `block` on; `what` is for the error. The caller has checked `count` against a limit.
    pub(super) fn read(&self, what: &str, block: u64, count: u32) -> Result<Vec<u8>> {
        let blocks = block..block.saturating_add(u64::from(count));
        self.check(|| what.to_owned(), &blocks)?;
        let size = self.block_size as usize;
        let mut bytes = self.volume.read_vec(self.byte(block), count as usize * size)?;
        for (changed, replayed) in self.replayed.range(blocks) {
            let start = usize::try_from(changed - block).expect("below count") * size;
            let target = &mut bytes[start..start + size];
            match replayed {
                Replayed::At(from) => self.volume.read_at(self.byte(*from), target)?,
                Replayed::Escaped(from) => {
                    self.volume.read_at(self.byte(*from), target)?;
                    target[..4].copy_from_slice(&JOURNAL_MAGIC);
                }
            }
        }
        Ok(bytes)
    }

    /// Locates the bytes of `blocks`, which were checked: on the volume, or in the journal if replay changes them.
    pub(super) fn locate(
        &self,
        blocks: Range<u64>,
        found: &mut dyn FnMut(Piece) -> Result<()>,
    ) -> Result<()> {
        let size = u64::from(self.block_size);
        let mut next = blocks.start;
        for (changed, replayed) in self.replayed.range(blocks.clone()) {
            if *changed > next {
                found(Piece::Volume { offset: self.byte(next), len: (changed - next) * size })?;
            }
            match replayed {
                Replayed::At(from) => found(Piece::Volume { offset: self.byte(*from), len: size })?,
                Replayed::Escaped(from) => {
                    found(Piece::Bytes(JOURNAL_MAGIC.to_vec()))?;
                    found(Piece::Volume { offset: self.byte(*from) + 4, len: size - 4 })?;
                }
            }
            next = changed + 1;
        }
        if next < blocks.end {
            found(Piece::Volume { offset: self.byte(next), len: (blocks.end - next) * size })?;
        }
        Ok(())
    }

    /// Changes the number of blocks of the filesystem to `blocks_count`.
    pub(super) fn grow(&mut self, blocks_count: u64) {
        self.count = blocks_count.min(self.volume.len() / u64::from(self.block_size));
    }

    /// Returns the number of blocks that are entirely on the volume, in the filesystem or not.
    pub(super) fn on_volume(&self) -> u64 {
        self.volume.len() / u64::from(self.block_size)
    }

    /// Returns the volume, without replay.
    pub(super) fn volume(&self) -> &dyn Source {
        &*self.volume
    }

    /// Returns the number of readable blocks.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Reads bytes of the volume without replay, at places returned by [`Blocks::locate`].
    pub(super) fn read_raw(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.volume.read_at(offset, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemSource;

    fn blocks() -> Blocks {
        let bytes = (0..10 * 1024_usize).map(|i| (i / 1024) as u8).collect();
        let mut blocks = Blocks::new(Arc::new(MemSource(bytes)), 1024, 20);
        blocks.replay(3, Replayed::At(8));
        blocks.replay(4, Replayed::Escaped(9));
        blocks
    }

    #[test]
    fn blocks_are_read_as_replay_makes_them() {
        let bytes = blocks().read("x", 2, 5).unwrap();
        let first: Vec<u8> = bytes.chunks(1024).map(|b| b[100]).collect();
        assert_eq!(first, [2, 8, 9, 5, 6]);
        assert_eq!(bytes[2048..2052], JOURNAL_MAGIC);
    }

    #[test]
    fn what_replay_changes_is_located_outside_of_its_place() {
        let mut pieces = Vec::new();
        blocks()
            .locate(2..7, &mut |piece| {
                pieces.push(piece);
                Ok(())
            })
            .unwrap();
        assert_eq!(
            pieces,
            [
                Piece::Volume { offset: 2048, len: 1024 },
                Piece::Volume { offset: 8192, len: 1024 },
                Piece::Bytes(JOURNAL_MAGIC.to_vec()),
                Piece::Volume { offset: 9220, len: 1020 },
                Piece::Volume { offset: 5120, len: 2048 },
            ]
        );
    }

    #[test]
    fn blocks_past_the_end_of_the_volume_are_an_error() {
        let error = blocks().read("extent tree", 9, 2).unwrap_err();
        assert!(error.to_string().contains("extent tree, at byte 9216"), "{error}");
        assert!(blocks().read("x", u64::MAX, 2).is_err());
    }
}
