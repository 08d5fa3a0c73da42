//! The map from a file's blocks to the volume's: an extent tree, or the older tables of block numbers.
//!
//! The blocks of a map are ordered: the lowest level first, in file order, then the next. The root is in the inode.
//!
//! <https://docs.kernel.org/filesystems/ext4/ifork.html>

use crate::fs::ext4::checksum::crc32c;
use crate::fs::plan::put;

/// The most blocks of one extent.
const EXTENT_MAX: u64 = 32_768;
const HEADER: usize = 12;
const ENTRY: usize = 12;
const MAGIC: u16 = 0xF30A;
/// The number of entries in an extent tree's root.
const IN_INODE: usize = 4;
/// The number of blocks that are mapped without a table.
const DIRECT: u64 = 12;

/// `len` blocks of a file from `logical` on, at `physical` on the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) logical: u64,
    pub(super) physical: u64,
    pub(super) len: u64,
}

/// The kind of map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Extents,
    Tables,
}

impl Kind {
    /// Returns the most blocks of a file's size.
    pub(super) fn blocks_max(self, block_size: u64) -> u64 {
        let per_block = block_size / 4;
        match self {
            Kind::Extents => u64::from(u32::MAX),
            Kind::Tables => {
                let all = DIRECT + per_block + per_block.pow(2) + per_block.saturating_pow(3);
                all.min(u64::from(u32::MAX))
            }
        }
    }
}

/// The shape of a file's map, without the places of the map's own blocks.
pub(super) struct Shape {
    block_size: usize,
    levels: Levels,
}

enum Levels {
    /// The extents, and the number of blocks of each level, from the lowest.
    Extents(Vec<Mapped>, Vec<u64>),
    /// The runs, and the numbers of the tables of each level.
    Tables(Vec<Mapped>, [Vec<u64>; 3]),
}

impl Shape {
    /// Computes the shape of the map of `runs`, which are in file order.
    pub(super) fn new(kind: Kind, runs: impl Iterator<Item = Mapped>, block_size: u64) -> Self {
        let levels = match kind {
            Kind::Extents => extents(runs, block_size as usize),
            Kind::Tables => tables(runs.collect(), block_size / 4),
        };
        Shape { block_size: block_size as usize, levels }
    }

    /// Returns the number of blocks of the map.
    pub(super) fn blocks(&self) -> u64 {
        match &self.levels {
            Levels::Extents(_, levels) => levels.iter().sum(),
            Levels::Tables(_, levels) => levels.iter().map(|level| level.len() as u64).sum(),
        }
    }

    /// Returns the part of the map in the inode, given the places of the map's blocks.
    pub(super) fn root(&self, places: &[u64]) -> [u8; 60] {
        let mut root = [0; 60];
        match &self.levels {
            Levels::Extents(extents, levels) => {
                let depth = levels.len();
                let entries: Vec<(u64, u64, u64)> = match levels.last() {
                    None => extents.iter().map(|e| (e.logical, e.physical, e.len)).collect(),
                    Some(count) => {
                        let first = places.len() - *count as usize;
                        (0..*count)
                            .map(|i| (self.first_of(depth - 1, i), places[first + i as usize], 0))
                            .collect()
                    }
                };
                node(&mut root, depth as u16, IN_INODE as u16, &entries);
            }
            Levels::Tables(runs, levels) => {
                for run in runs {
                    for logical in (run.logical..run.logical + run.len).take_while(|l| *l < DIRECT) {
                        let physical = run.physical + (logical - run.logical);
                        put::le32(&mut root, logical as usize * 4, physical as u32);
                    }
                }
                let mut first = 0;
                for (slot, level) in levels.iter().enumerate() {
                    // The inode points to the table with number 0 of each level.
                    if level.first() == Some(&0) {
                        put::le32(&mut root, (DIRECT as usize + slot) * 4, places[first] as u32);
                    }
                    first += level.len();
                }
            }
        }
        root
    }

    /// Encodes the map's block number `index`, given the places of all. `csum_seed` is the inode's, on volumes with
    /// checksums.
    pub(super) fn block(&self, index: u64, places: &[u64], csum_seed: Option<u32>) -> Vec<u8> {
        let mut block = vec![0; self.block_size];
        match &self.levels {
            Levels::Extents(extents, levels) => {
                let per_block = per_node(self.block_size);
                let (mut level, mut in_level, mut below) = (0, index, 0);
                while in_level >= levels[level] {
                    in_level -= levels[level];
                    below += levels[level];
                    level += 1;
                }
                let start = in_level * per_block;
                let entries: Vec<(u64, u64, u64)> = if level == 0 {
                    let end = (start + per_block).min(extents.len() as u64);
                    extents[start as usize..end as usize]
                        .iter()
                        .map(|e| (e.logical, e.physical, e.len))
                        .collect()
                } else {
                    let children = levels[level - 1];
                    let first = below - children;
                    (start..(start + per_block).min(children))
                        .map(|i| (self.first_of(level - 1, i), places[(first + i) as usize], 0))
                        .collect()
                };
                node(&mut block, level as u16, per_block as u16, &entries);
                if let Some(seed) = csum_seed {
                    let tail = HEADER + per_block as usize * ENTRY;
                    let sum = crc32c(seed, &block[..tail]);
                    put::le32(&mut block, tail, sum);
                }
            }
            Levels::Tables(runs, levels) => table(&mut block, index, runs, levels, places),
        }
        block
    }

    /// Returns the first block of the file under block `index` of a level of an extent tree.
    fn first_of(&self, level: usize, index: u64) -> u64 {
        let Levels::Extents(extents, _) = &self.levels else { return 0 };
        let under = per_node(self.block_size).pow(level as u32 + 1);
        extents[(index * under) as usize].logical
    }
}

/// Returns the number of entries in a block of an extent tree. Every block size leaves space for the checksum.
fn per_node(block_size: usize) -> u64 {
    ((block_size - HEADER) / ENTRY) as u64
}

fn extents(runs: impl Iterator<Item = Mapped>, block_size: usize) -> Levels {
    let mut extents = Vec::new();
    for run in runs {
        for start in (0..run.len).step_by(EXTENT_MAX as usize) {
            let len = EXTENT_MAX.min(run.len - start);
            extents.push(Mapped { logical: run.logical + start, physical: run.physical + start, len });
        }
    }
    let mut levels = Vec::new();
    let mut count = extents.len() as u64;
    while count > IN_INODE as u64 {
        count = count.div_ceil(per_node(block_size));
        levels.push(count);
    }
    Levels::Extents(extents, levels)
}

/// Writes a node of an extent tree: header, then entries (first block of the file, block of the volume, and in a leaf
/// the length).
fn node(bytes: &mut [u8], depth: u16, max: u16, entries: &[(u64, u64, u64)]) {
    put::le16(bytes, 0, MAGIC);
    put::le16(bytes, 2, entries.len() as u16);
    put::le16(bytes, 4, max);
    put::le16(bytes, 6, depth);
    for (i, (logical, physical, len)) in entries.iter().enumerate() {
        let at = HEADER + i * ENTRY;
        put::le32(bytes, at, *logical as u32);
        if depth == 0 {
            put::le16(bytes, at + 4, *len as u16);
            put::le16(bytes, at + 6, (physical >> 32) as u16);
            put::le32(bytes, at + 8, *physical as u32);
        } else {
            put::le32(bytes, at + 4, *physical as u32);
            put::le16(bytes, at + 8, (physical >> 32) as u16);
        }
    }
}

/// Computes the tables. Those of level 0 map data. The inode points to number 0 of each level; level 1 points to the
/// others of level 0, and level 2 to those of level 1, in order.
fn tables(runs: Vec<Mapped>, per_block: u64) -> Levels {
    let mut levels: [Vec<u64>; 3] = Default::default();
    let add = |level: &mut Vec<u64>, number| {
        if level.last() != Some(&number) {
            level.push(number);
        }
    };
    for run in &runs {
        let end = run.logical + run.len;
        if end <= DIRECT {
            continue;
        }
        let first = (run.logical.max(DIRECT) - DIRECT) / per_block;
        for number in first..=(end - 1 - DIRECT) / per_block {
            add(&mut levels[0], number);
            let Some(below) = number.checked_sub(1) else { continue };
            add(&mut levels[1], below / per_block);
            if below / per_block > 0 {
                add(&mut levels[2], 0);
            }
        }
    }
    Levels::Tables(runs, levels)
}

fn table(block: &mut [u8], index: u64, runs: &[Mapped], levels: &[Vec<u64>; 3], places: &[u64]) {
    let per_block = block.len() as u64 / 4;
    let (mut level, mut in_level, mut first) = (0, index as usize, 0);
    while in_level >= levels[level].len() {
        in_level -= levels[level].len();
        first += levels[level].len();
        level += 1;
    }
    let number = levels[level][in_level];
    if level > 0 {
        // The children of this table: the numbers from `start` on of the level below.
        let start = 1 + number * per_block;
        let below = &levels[level - 1];
        let from = below.partition_point(|n| *n < start);
        let first = first - below.len();
        for (i, child) in below.iter().enumerate().skip(from).take_while(|(_, n)| **n < start + per_block) {
            put::le32(block, (child - start) as usize * 4, places[first + i] as u32);
        }
        return;
    }
    let covered = DIRECT + number * per_block..DIRECT + (number + 1) * per_block;
    let from = runs.partition_point(|run| run.logical + run.len <= covered.start);
    for run in runs[from..].iter().take_while(|run| run.logical < covered.end) {
        for logical in run.logical.max(covered.start)..(run.logical + run.len).min(covered.end) {
            let physical = run.physical + (logical - run.logical);
            put::le32(block, (logical - covered.start) as usize * 4, physical as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(logical: u64, physical: u64, len: u64) -> Mapped {
        Mapped { logical, physical, len }
    }

    #[test]
    fn four_extents_need_no_block_and_five_need_one() {
        let runs = |n: u64| (0..n).map(|i| run(i * 2, 100 + i, 1));
        assert_eq!(Shape::new(Kind::Extents, runs(4), 1024).blocks(), 0);
        assert_eq!(Shape::new(Kind::Extents, runs(5), 1024).blocks(), 1);
        assert_eq!(Shape::new(Kind::Extents, runs(4 * 84), 1024).blocks(), 4);
        assert_eq!(Shape::new(Kind::Extents, runs(4 * 84 + 1), 1024).blocks(), 5 + 1);
    }

    #[test]
    fn a_run_longer_than_an_extent_is_cut() {
        let shape = Shape::new(Kind::Extents, [run(0, 1000, 70_000)].into_iter(), 4096);
        let root = shape.root(&[]);
        assert_eq!(root[2], 3);
        assert_eq!(root[16..18], [0, 0x80]);
    }

    #[test]
    fn tables_exist_where_there_is_data_only() {
        let blocks = |logical| Shape::new(Kind::Tables, [run(logical, 7, 1)].into_iter(), 1024).blocks();
        assert_eq!(blocks(11), 0);
        assert_eq!(blocks(12), 1);
        assert_eq!(blocks(12 + 256), 2);
        assert_eq!(blocks(12 + 256 + 65_536), 3);
    }
}
