//! Trees: reading their blocks, and walking over a range of keys.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use super::block::{Block, Pointer};
use super::chunks::Chunks;
use super::items::Key;
use super::superblock::Superblock;
use crate::cache::Cache;
use crate::error::{Error, ErrorKind, Result};
use crate::source::Source;

/// The size of the cache of tree blocks in bytes. Snapshots share most of their blocks.
const KEPT: usize = 64 << 20;
/// How many damaged copies of blocks are complained about.
const DAMAGED_MAX: usize = 100;

/// The trees of a volume.
pub(super) struct Trees {
    volume: Arc<dyn Source>,
    pub(super) sb: Superblock,
    pub(super) chunks: Chunks,
    cache: Cache<Block>,
    damaged: Mutex<Damaged>,
}

/// Copies of blocks that are damaged, and were replaced by the other copy.
#[derive(Default)]
struct Damaged {
    known: HashSet<u64>,
    errors: Vec<Error>,
}

/// What [`Trees::walk`] calls for each item, in the order of their keys. False ends the walk.
pub(super) type Found<'a> = &'a mut dyn FnMut(Key, &[u8]) -> Result<bool>;

/// What a walk calls for a part of the tree that cannot be read. An error ends the walk.
pub(super) type Lost<'a> = &'a mut dyn FnMut(Error) -> Result<()>;

impl Trees {
    pub(super) fn new(volume: Arc<dyn Source>, sb: Superblock, chunks: Chunks) -> Self {
        Trees { volume, sb, chunks, cache: Cache::new(KEPT), damaged: Mutex::default() }
    }

    /// Returns the size of the volume in bytes.
    pub(super) fn volume_len(&self) -> u64 {
        self.volume.len()
    }

    pub(super) fn read_raw(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.volume.read_at(offset, bytes)
    }

    /// Returns the complaints about damaged copies since the last call.
    pub(super) fn take_damaged(&self) -> Vec<Error> {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut damaged.errors)
    }

    /// Returns a tree block.
    fn block(&self, at: &Pointer) -> Result<Arc<Block>> {
        let size = self.sb.nodesize as usize;
        let block = self.cache.get(at.bytenr, size, || self.read_block(at, size))?;
        // If another tree led here and said otherwise, the other copy may be the one that is meant.
        if block.check(at).is_ok() { Ok(block) } else { self.read_block(at, size).map(Arc::new) }
    }

    /// Reads a tree block: the first of its copies that is intact.
    fn read_block(&self, at: &Pointer, size: usize) -> Result<Block> {
        let mut failed: Option<Error> = None;
        for offset in self.chunks.copies(at.bytenr, size as u64)? {
            let block = self.volume.read_vec(offset, size).and_then(|bytes| {
                let sb = &self.sb;
                let block = Block::parse(bytes, at, sb.checksum, &sb.metadata_uuid, sb.sectorsize)?;
                block.check(at).map(|()| block)
            });
            match block {
                Ok(block) => {
                    if let Some(error) = failed {
                        self.complain_of_copy(at, offset, &error);
                    }
                    return Ok(block);
                }
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        Err(failed.unwrap_or_else(|| at.place().corrupt("has no copy")))
    }

    fn complain_of_copy(&self, at: &Pointer, used: u64, error: &Error) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if damaged.known.len() < DAMAGED_MAX && damaged.known.insert(at.bytenr) {
            let problem = format!("one copy is damaged, so the other at byte {used} was used: {error}");
            damaged.errors.push(at.place().corrupt(problem));
        }
    }

    /// Calls `found` for the items of a tree with keys in `range`. Returns false if `found` ended the walk.
    ///
    /// Blocks out of the range are not read. The keys of a block must lie between those of its parent, so a walk reads
    /// each block of the tree once at most.
    pub(super) fn walk(
        &self,
        root: &Pointer,
        range: RangeInclusive<Key>,
        lost: Lost<'_>,
        found: Found<'_>,
    ) -> Result<bool> {
        self.walk_below(root, Key::MAX, &range, lost, found)
    }

    /// Walks over a subtree, whose keys must be below `last`.
    fn walk_below(
        &self,
        at: &Pointer,
        last: Key,
        range: &RangeInclusive<Key>,
        lost: Lost<'_>,
        found: Found<'_>,
    ) -> Result<bool> {
        let block = self.block(at).and_then(|block| match block.count().checked_sub(1) {
            Some(i) if block.key(i) >= last => Err(at
                .place()
                .corrupt(format!("has the key {}, but the next block begins at {last}", block.key(i)))),
            _ => Ok(block),
        });
        let block = match block {
            Ok(block) => block,
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => return lost(error).map(|()| true),
        };
        let first = block.below(range.start());
        if block.is_leaf() {
            for i in first..block.count() {
                let key = block.key(i);
                if key > *range.end() {
                    return Ok(true);
                }
                if !found(key, block.item(i))? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        // The child before may hold the beginning of the range.
        let is_before = first == block.count() || block.key(first) > *range.start();
        for i in first.saturating_sub(usize::from(is_before))..block.count() {
            if block.key(i) > *range.end() {
                break;
            }
            let next = if i + 1 < block.count() { block.key(i + 1).min(last) } else { last };
            if !self.walk_below(&block.child(i, at.tree), next, range, lost, found)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the item with the key, if there is one.
    pub(super) fn get(&self, root: &Pointer, key: Key) -> Result<Option<Vec<u8>>> {
        let mut item = None;
        self.walk(root, key..=key, &mut Err, &mut |_, bytes| {
            item = Some(bytes.to_vec());
            Ok(false)
        })?;
        Ok(item)
    }
}
