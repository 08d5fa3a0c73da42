//! Caches blocks for small reads of a volume: FAT entries and directory entries lie close together, and reads of the
//! source may be slow (a compressed container).

use std::sync::Arc;

use crate::cache::Cache;
use crate::error::Result;
use crate::source::{Source, check_range};

/// Size of a block in bytes.
const BLOCK: u64 = 16 << 10;

/// The size of the cache in bytes.
const KEPT: usize = 16 << 20;

type Block = Arc<Vec<u8>>;

/// A volume with some of its blocks in memory.
pub(super) struct CachedVolume {
    volume: Arc<dyn Source>,
    blocks: Cache<Vec<u8>>,
}

impl CachedVolume {
    pub(super) fn new(volume: Arc<dyn Source>) -> Self {
        CachedVolume { volume, blocks: Cache::new(KEPT) }
    }

    /// Returns the volume itself, for large reads.
    pub(super) fn volume(&self) -> &dyn Source {
        &*self.volume
    }

    /// Returns a reader that remembers the block it read last.
    pub(super) fn cursor(&self) -> Cursor<'_> {
        Cursor { volume: self, last: None }
    }

    fn block(&self, number: u64) -> Result<Block> {
        let start = number * BLOCK;
        let len = BLOCK.min(self.volume.len() - start) as usize;
        self.blocks.get(number, len, || self.volume.read_vec(start, len))
    }
}

/// A reader of a few bytes at a time.
pub(super) struct Cursor<'a> {
    volume: &'a CachedVolume,
    last: Option<(u64, Block)>,
}

impl Cursor<'_> {
    /// Reads the `N` bytes at `place`.
    pub(super) fn read<const N: usize>(&mut self, place: u64) -> Result<[u8; N]> {
        check_range("volume", self.volume.volume.len(), place, N as u64)?;
        let mut bytes = [0; N];
        let mut done = 0;
        while done < N {
            let at = place + done as u64;
            let number = at / BLOCK;
            if self.last.as_ref().is_none_or(|(held, _)| *held != number) {
                self.last = Some((number, self.volume.block(number)?));
            }
            let (_, block) = self.last.as_ref().expect("just set");
            let from = (at % BLOCK) as usize;
            let count = (N - done).min(block.len() - from);
            bytes[done..done + count].copy_from_slice(&block[from..from + count]);
            done += count;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemSource;

    #[test]
    fn reads_across_blocks_and_up_to_the_end_are_the_volumes_own_bytes() {
        let bytes: Vec<u8> = (0..3 * BLOCK + 7).map(|i| (i % 251) as u8).collect();
        let cache = CachedVolume::new(Arc::new(MemSource(bytes.clone())));
        let mut cursor = cache.cursor();
        for place in [0, BLOCK - 1, BLOCK, 2 * BLOCK - 3, 3 * BLOCK + 3] {
            let at = place as usize;
            assert_eq!(cursor.read::<4>(place).unwrap(), bytes[at..at + 4], "{place}");
        }
        assert!(cursor.read::<4>(3 * BLOCK + 4).is_err());
        assert!(cursor.read::<4>(u64::MAX).is_err());
    }
}
