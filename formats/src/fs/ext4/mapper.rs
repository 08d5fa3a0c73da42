//! Collects the runs of a file's blocks from its map, checking each against the volume.

use std::collections::HashSet;
use std::ops::Range;

use super::blocks::Blocks;
use super::groups::Groups;
use super::inode::Inode;
use super::superblock::Superblock;
use crate::bytes::le32;
use crate::error::{Result, at};

/// The blocks of a block map that are in the inode itself; after them comes one pointer each of 1, 2 and 3 levels.
pub(super) const DIRECT: usize = 12;

/// A run of a file's blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// The first block, in the file.
    pub(super) logical: u64,
    /// The blocks on the volume.
    pub(super) physical: Range<u64>,
    /// False if the run is allocated but reads as zeros.
    pub(super) written: bool,
}

/// Fails unless the blocks `range`, which should belong to `inode`, are on the volume and hold no metadata of the
/// filesystem.
pub(super) fn check(
    blocks: &Blocks,
    groups: &Groups,
    inode: u32,
    what: &str,
    range: &Range<u64>,
) -> Result<()> {
    let what = || format!("inode {inode}, {what}");
    blocks.check(what, range)?;
    match groups.metadata_in(range, inode) {
        None => Ok(()),
        Some(metadata) => Err(at(what()).byte(blocks.byte(range.start)).corrupt(format!(
            "occupies blocks {} to {}, but blocks {} to {} contain the filesystem's own metadata",
            range.start,
            range.end - 1,
            metadata.start,
            metadata.end - 1
        ))),
    }
}

/// Returns the number of blocks that a block map can cover.
pub(super) fn indirect_max(block_size: u64) -> u64 {
    let per_block = block_size / 4;
    (DIRECT as u64 + per_block + per_block.pow(2) + per_block.pow(3)).min(1 << 32)
}

/// A walk through a map, which reports the runs.
pub(super) struct Mapper<'a> {
    pub(super) blocks: &'a Blocks,
    pub(super) sb: &'a Superblock,
    pub(super) groups: &'a Groups,
    pub(super) inode: &'a Inode,
    pub(super) found: &'a mut dyn FnMut(Run) -> Result<()>,
    /// The number of data blocks so far.
    pub(super) mapped: u64,
    /// The blocks of the map itself. Each may occur only once, so that the walk ends.
    pub(super) visited: HashSet<u64>,
}

impl Mapper<'_> {
    /// Reports that the file's blocks from `logical` on are `physical`.
    pub(super) fn run(&mut self, logical: u64, physical: Range<u64>, written: bool) -> Result<()> {
        self.check("data", &physical)?;
        // Otherwise a small volume could claim a file of terabytes, all in the same few blocks.
        self.mapped += physical.end - physical.start;
        if self.mapped > self.blocks.count() {
            return Err(at(format!("inode {}, data", self.inode.number))
                .byte(self.blocks.byte(physical.start))
                .corrupt(format!("the file has more blocks than the volume, {}", self.blocks.count())));
        }
        (self.found)(Run { logical, physical, written })
    }

    /// Reads a block of the map.
    pub(super) fn metadata_block(&mut self, what: &str, block: u64) -> Result<Vec<u8>> {
        self.check(what, &(block..block.saturating_add(1)))?;
        if !self.visited.insert(block) {
            return Err(at(format!("inode {}, {what}", self.inode.number))
                .byte(self.blocks.byte(block))
                .corrupt(format!("block {block} is in the block map of the file twice")));
        }
        self.blocks.read(what, block, 1)
    }

    /// Returns the byte of the volume at which `block` starts.
    pub(super) fn byte(&self, block: u64) -> u64 {
        self.blocks.byte(block)
    }

    /// Runs `check` with the checksum seed of this inode, if the volume has checksums.
    pub(super) fn check_sum(&self, check: impl FnOnce(u32) -> Result<()>) -> Result<()> {
        if self.sb.metadata_csum() { check(self.inode.csum_seed(self.sb)) } else { Ok(()) }
    }

    /// Fails unless the blocks `range` are on the volume, and hold no metadata of the filesystem.
    pub(super) fn check(&self, what: &str, range: &Range<u64>) -> Result<()> {
        check(self.blocks, self.groups, self.inode.number, what, range)
    }

    /// Walks the block map of ext2 and ext3.
    pub(super) fn indirect(&mut self) -> Result<()> {
        let end = self.inode.size.div_ceil(u64::from(self.sb.block_size));
        let root = self.inode.block;
        self.pointers(&root[..DIRECT * 4], 0, end)?;
        let per_block = u64::from(self.sb.block_size / 4);
        let mut logical = DIRECT as u64;
        for level in 0..3 {
            let pointer = le32(&root, (DIRECT + level) * 4);
            self.below(pointer, logical, end, u32::try_from(level).expect("below 3"))?;
            logical += per_block.pow(u32::try_from(level).expect("below 3") + 1);
        }
        Ok(())
    }

    /// Walks the blocks below a pointer of `level` (0 points to a block of data pointers), from block `logical` on.
    pub(super) fn below(&mut self, pointer: u32, logical: u64, end: u64, level: u32) -> Result<()> {
        if pointer == 0 || logical >= end {
            return Ok(());
        }
        let bytes = self.metadata_block("indirect block", u64::from(pointer))?;
        if level == 0 {
            return self.pointers(&bytes, logical, end);
        }
        let each = u64::from(self.sb.block_size / 4).pow(level);
        for (i, pointer) in bytes.chunks_exact(4).enumerate() {
            self.below(le32(pointer, 0), logical + i as u64 * each, end, level - 1)?;
        }
        Ok(())
    }

    /// Walks pointers to data, for the blocks from `logical` on: adjacent ones are reported as one run.
    pub(super) fn pointers(&mut self, bytes: &[u8], logical: u64, end: u64) -> Result<()> {
        let mut run: Option<(u64, Range<u64>)> = None;
        for (i, pointer) in bytes.chunks_exact(4).enumerate() {
            let (at, block) = (logical + i as u64, u64::from(le32(pointer, 0)));
            if block == 0 || at >= end {
                continue;
            }
            match &mut run {
                Some((start, blocks))
                    if blocks.end == block && *start + (blocks.end - blocks.start) == at =>
                {
                    blocks.end += 1;
                }
                _ => {
                    if let Some((start, blocks)) = run.take() {
                        self.run(start, blocks, true)?;
                    }
                    run = Some((at, block..block + 1));
                }
            }
        }
        match run {
            Some((start, blocks)) => self.run(start, blocks, true),
            None => Ok(()),
        }
    }
}
