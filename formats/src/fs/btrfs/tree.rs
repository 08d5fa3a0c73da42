//! Trees: reading their blocks, and walking ranges of keys.

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

/// The size of the tree block cache in bytes. Snapshots share most of their blocks.
const KEPT: usize = 64 << 20;
/// The most damaged block copies that are reported.
const DAMAGED_MAX: usize = 100;

/// The trees of a volume.
pub(super) struct Trees {
    volume: Arc<dyn Source>,
    pub(super) sb: Superblock,
    pub(super) chunks: Chunks,
    cache: Cache<Block>,
    damaged: Mutex<Damaged>,
}

/// Damaged copies of blocks for which the other copy was used.
#[derive(Default)]
struct Damaged {
    known: HashSet<u64>,
    errors: Vec<Error>,
}

/// The callback of [`Trees::walk`] for each item, in key order. Returning false ends the walk.
pub(super) type Found<'a> = &'a mut dyn FnMut(Key, &[u8]) -> Result<bool>;

/// The callback of a walk for an unreadable part of the tree. Returning an error ends the walk.
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

    /// Returns the damaged copies found since the last call.
    pub(super) fn take_damaged(&self) -> Vec<Error> {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut damaged.errors)
    }

    /// Returns a tree block.
    fn block(&self, at: &Pointer) -> Result<Arc<Block>> {
        let size = self.sb.nodesize as usize;
        let block = self.cache.get(at.bytenr, size, || self.read_block(at, size))?;
        // Another tree may have led here with different expectations, and the other copy may match these.
        if block.check(at).is_ok() { Ok(block) } else { self.read_block(at, size).map(Arc::new) }
    }

    /// Reads a tree block: the first intact copy.
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
                Err(error) => {
                    failed.get_or_insert(error);
                }
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
    /// Blocks outside the range are not read. The keys of a block must be between those of its parent, so a walk reads
    /// each block of the tree at most once.
    pub(super) fn walk(
        &self,
        root: &Pointer,
        range: RangeInclusive<Key>,
        lost: Lost<'_>,
        found: Found<'_>,
    ) -> Result<bool> {
        self.walk_below(root, Key::MAX, &range, lost, found)
    }

    /// Walks a subtree, whose keys must be less than `last`.
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
        // The preceding child may hold the beginning of the range.
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

    /// Returns the item with the largest key up to `key`, if there is one.
    pub(super) fn last(&self, root: &Pointer, key: Key) -> Result<Option<(Key, Vec<u8>)>> {
        let mut at = *root;
        loop {
            let block = self.block(&at)?;
            let below = block.below(&key);
            let is_there = below < block.count() && block.key(below) == key;
            // A child's first key is also in its parent, so the child before the key has a key up to it.
            let Some(i) = (below + usize::from(is_there)).checked_sub(1) else { return Ok(None) };
            if block.is_leaf() {
                return Ok(Some((block.key(i), block.item(i).to_vec())));
            }
            at = block.child(i, at.tree);
        }
    }

    /// Returns the item with this key, if there is one.
    pub(super) fn get(&self, root: &Pointer, key: Key) -> Result<Option<Vec<u8>>> {
        let mut item = None;
        self.walk(root, key..=key, &mut Err, &mut |_, bytes| {
            item = Some(bytes.to_vec());
            Ok(false)
        })?;
        Ok(item)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::fs::btrfs::block::tests::{leaf, node};
    use crate::fs::btrfs::items::kind;
    use crate::fs::btrfs::superblock::{OFFSETS, tests::superblock};
    use crate::source::MemSource;

    pub(in crate::fs::btrfs) const ROOT: Pointer =
        Pointer { bytenr: 4096, generation: 7, level: 1, tree: 5, first: None };

    fn key(i: u64) -> Key {
        Key::new(256, kind::DIR_INDEX, i)
    }

    /// Returns the blocks of a tree: a node and three leaves, with the keys 0, 1, 10, 11, 20, 21.
    pub(in crate::fs::btrfs) fn blocks() -> Vec<Vec<u8>> {
        let children: Vec<(Key, u64)> = (0..3).map(|i| (key(10 * i), 8192 + 4096 * i)).collect();
        let mut blocks = vec![node(&ROOT, &children)];
        for (first, bytenr) in children {
            let at = Pointer { bytenr, level: 0, ..ROOT };
            blocks.push(leaf(&at, &[(first, b"one"), (key(first.offset + 1), b"two")]));
        }
        blocks
    }

    /// Returns the trees of a volume with these blocks at the addresses from 4096 on, and their second copies.
    pub(in crate::fs::btrfs) fn trees(blocks: &[Vec<u8>], copies: &[Vec<u8>]) -> Trees {
        const COPY: u64 = 1 << 16;
        let mut volume = vec![0; 2 << 16];
        for (start, blocks) in [(4096, blocks), (COPY as usize + 4096, copies)] {
            for (i, block) in blocks.iter().enumerate() {
                volume[start + i * 4096..][..4096].copy_from_slice(block);
            }
        }
        let sb = Superblock::parse(&superblock(OFFSETS[0], 7), OFFSETS[0]).unwrap();
        let mut item = vec![0; 48 + 2 * 32];
        item[..8].copy_from_slice(&COPY.to_le_bytes());
        item[24] = 0x24;
        item[44] = 2;
        item[48] = 1;
        item[80] = 1;
        item[88..96].copy_from_slice(&COPY.to_le_bytes());
        let mut chunks = Chunks::default();
        chunks.add(Key::new(256, kind::CHUNK_ITEM, 0), &item, 1).unwrap();
        Trees::new(Arc::new(MemSource(volume)), sb, chunks)
    }

    /// Returns the key offsets found in a range, and the errors.
    fn walk(trees: &Trees, range: RangeInclusive<u64>) -> (Vec<u64>, Vec<String>) {
        let (mut keys, mut errors) = (Vec::new(), Vec::new());
        let range = key(*range.start())..=key(*range.end());
        let mut lost = |error: Error| {
            errors.push(error.to_string());
            Ok(())
        };
        let whole = trees.walk(&ROOT, range, &mut lost, &mut |key, _| {
            keys.push(key.offset);
            Ok(true)
        });
        assert!(whole.unwrap());
        (keys, errors)
    }

    #[test]
    fn a_range_is_walked_without_reading_other_blocks() {
        let mut blocks = blocks();
        blocks[1][2000] ^= 1;
        let trees = trees(&blocks, &[]);
        assert_eq!(walk(&trees, 11..=20), (vec![11, 20], Vec::new()));
        assert_eq!(walk(&trees, 12..=19), (Vec::new(), Vec::new()));
        let (keys, errors) = walk(&trees, 0..=u64::MAX);
        assert_eq!(keys, [10, 11, 20, 21]);
        assert!(errors.len() == 1 && errors[0].contains("csum"), "{errors:?}");
        assert_eq!(trees.get(&ROOT, key(21)).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(trees.get(&ROOT, key(22)).unwrap(), None);
        let last = |i| trees.last(&ROOT, key(i)).unwrap().map(|(key, _)| key.offset);
        assert_eq!([10, 12, 19, 21, u64::MAX].map(last), [10, 11, 11, 21, 21].map(Some));
        assert!(trees.last(&ROOT, key(5)).is_err() && trees.last(&ROOT, Key::MIN).unwrap().is_none());
    }

    #[test]
    fn the_other_copy_is_read_and_said_once() {
        let whole = blocks();
        let mut damaged = blocks();
        damaged.iter_mut().for_each(|block| block[3000] ^= 1);
        let trees = trees(&damaged, &whole);
        for _ in 0..2 {
            assert_eq!(walk(&trees, 0..=u64::MAX), (vec![0, 1, 10, 11, 20, 21], Vec::new()));
        }
        assert_eq!(trees.take_damaged().len(), 4);
        assert!(trees.take_damaged().is_empty());
    }

    #[test]
    fn a_block_whose_keys_reach_into_the_next_is_not_read() {
        let mut blocks = blocks();
        let at = Pointer { bytenr: 8192, level: 0, ..ROOT };
        blocks[1] = leaf(&at, &[(key(0), b"one"), (key(10), b"two")]);
        let (keys, errors) = walk(&trees(&blocks, &[]), 0..=u64::MAX);
        assert_eq!(keys, [10, 11, 20, 21]);
        assert!(errors[0].contains("the next block begins at"), "{errors:?}");
    }

    #[test]
    fn a_tree_that_leads_to_itself_ends() {
        let mut blocks = blocks();
        blocks[0] = node(&ROOT, &[(key(0), 4096), (key(10), 4096)]);
        let (keys, errors) = walk(&trees(&blocks, &[]), 0..=u64::MAX);
        assert_eq!((keys.len(), errors.len()), (0, 2), "{errors:?}");
    }
}
