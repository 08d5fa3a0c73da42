//! Caches blocks for small reads of a volume: FAT entries and directory entries lie close together, and reads of the
//! source may be slow (a compressed container).

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::source::{Source, check_range};

/// Size of a block in bytes.
const BLOCK: u64 = 16 << 10;

/// The most blocks that are kept: 16 MiB.
const SLOTS: usize = 1024;

type Block = Arc<Vec<u8>>;

/// A volume with some of its blocks in memory. Each block can only be in one slot.
pub(super) struct Cache {
    volume: Arc<dyn Source>,
    slots: Vec<Mutex<Option<(u64, Block)>>>,
}

impl Cache {
    pub(super) fn new(volume: Arc<dyn Source>) -> Self {
        Cache { volume, slots: (0..SLOTS).map(|_| Mutex::default()).collect() }
    }

    /// Returns the volume itself, for large reads.
    pub(super) fn volume(&self) -> &dyn Source {
        &*self.volume
    }

    /// Returns a reader that remembers the block it read last.
    pub(super) fn cursor(&self) -> Cursor<'_> {
        Cursor { cache: self, last: None }
    }

    fn block(&self, number: u64) -> Result<Block> {
        let slot = &self.slots[(number % SLOTS as u64) as usize];
        // A slot is written in one step, so it is consistent even after a panic.
        if let Some((held, block)) = &*slot.lock().unwrap_or_else(PoisonError::into_inner)
            && *held == number
        {
            return Ok(Arc::clone(block));
        }
        let start = number * BLOCK;
        let len = BLOCK.min(self.volume.len() - start);
        let block = Arc::new(self.volume.read_vec(start, len as usize)?);
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, Arc::clone(&block)));
        Ok(block)
    }
}

/// A reader of a few bytes at a time.
pub(super) struct Cursor<'a> {
    cache: &'a Cache,
    last: Option<(u64, Block)>,
}

impl Cursor<'_> {
    /// Reads the `N` bytes at `place`.
    pub(super) fn read<const N: usize>(&mut self, place: u64) -> Result<[u8; N]> {
        check_range("volume", self.cache.volume.len(), place, N as u64)?;
        let mut bytes = [0; N];
        let mut done = 0;
        while done < N {
            let at = place + done as u64;
            let number = at / BLOCK;
            if self.last.as_ref().is_none_or(|(held, _)| *held != number) {
                self.last = Some((number, self.cache.block(number)?));
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
        let cache = Cache::new(Arc::new(MemSource(bytes.clone())));
        let mut cursor = cache.cursor();
        for place in [0, BLOCK - 1, BLOCK, 2 * BLOCK - 3, 3 * BLOCK + 3] {
            let at = place as usize;
            assert_eq!(cursor.read::<4>(place).unwrap(), bytes[at..at + 4], "{place}");
        }
        assert!(cursor.read::<4>(3 * BLOCK + 4).is_err());
        assert!(cursor.read::<4>(u64::MAX).is_err());
    }
}
