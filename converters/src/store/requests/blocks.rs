//! Reads packs in blocks, so that objects next to each other take one request.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use quick_cache::Weighter;

use super::cache::Cache;

/// The size of a block in bytes.
const BLOCK: u64 = 4 << 20;

/// The size of the blocks that are kept in memory, in bytes.
const MEMORY: u64 = 96 << 20;

#[derive(Clone)]
struct ByLength;

impl Weighter<(String, u64), Arc<Vec<u8>>> for ByLength {
    fn weight(&self, (key, _): &(String, u64), block: &Arc<Vec<u8>>) -> u64 {
        (key.len() + block.len() + 64) as u64
    }
}

/// A place whose packs are read by ranges.
pub(in crate::store) trait Ranges: Send + Sync {
    /// Returns a text that no other place has: for the cache.
    fn identity(&self) -> String;

    /// Reads a range of a pack, which ends where the pack ends.
    fn range(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>>;
}

/// A reader of packs.
pub(in crate::store) struct Blocks<P: ?Sized> {
    place: Arc<P>,
    cache: Arc<Cache>,
    memory: quick_cache::sync::Cache<(String, u64), Arc<Vec<u8>>, ByLength>,
}

impl<P: Ranges + ?Sized> Blocks<P> {
    pub(in crate::store) fn new(place: Arc<P>, cache: Arc<Cache>) -> Self {
        let memory = quick_cache::sync::Cache::with_weighter(32, MEMORY, ByLength);
        Blocks { place, cache, memory }
    }

    /// Forgets all blocks.
    pub(in crate::store) fn clear(&self) {
        self.memory.clear();
    }

    /// Reads a range of a pack. It ends where the pack ends.
    pub(in crate::store) fn read(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let number = at / BLOCK;
            let block =
                self.memory.get_or_insert_with(&(key.to_owned(), number), || self.load(key, number))?;
            let start = (at % BLOCK) as usize;
            let end = (range.end - number * BLOCK).min(block.len() as u64) as usize;
            let Some(part) = block.get(start..end).filter(|part| !part.is_empty()) else { break };
            bytes.extend_from_slice(part);
            at += part.len() as u64;
        }
        Ok(bytes)
    }

    fn load(&self, key: &str, number: u64) -> io::Result<Arc<Vec<u8>>> {
        let place = self.place.identity();
        if let Some(block) = self.cache.block(&place, key, number) {
            return Ok(Arc::new(block));
        }
        let start = number.checked_mul(BLOCK).ok_or(io::ErrorKind::UnexpectedEof)?;
        let range = start..start.saturating_add(BLOCK);
        let block = self.place.range(key, range)?;
        self.cache.keep_block(&place, key, number, &block);
        Ok(Arc::new(block))
    }
}
