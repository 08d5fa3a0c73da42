//! Directory blocks: consecutive entries, and for large directories an index by the hash of the name.
//!
//! <https://docs.kernel.org/filesystems/ext4/directory.html>

use super::hash::{Hasher, NameHash};
use crate::fs::FileType;
use crate::fs::ext4::checksum::crc32c;
use crate::fs::plan::put;

/// Size of the entry with the checksum at the end of a block, and of its counterpart in an index block.
const TAIL: usize = 12;
const INDEX_TAIL: usize = 8;
const DOTS: usize = 24;
/// Size of the part before the index entries: in the root, and in the other blocks of an index.
const ROOT_HEAD: usize = 32;
const NODE_HEAD: usize = 8;

/// The format of a volume's directories.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    pub(super) block_size: usize,
    /// True if entries store the file type.
    pub(super) filetype: bool,
    pub(super) metadata_csum: bool,
    /// With `dir_index`: the hash of names.
    pub(super) index: Option<Hasher>,
    /// The most levels of an index below its root: 1, or 2 with `large_dir`.
    pub(super) levels_max: u8,
}

/// An entry to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewEntry<'a> {
    pub(super) name: &'a [u8],
    pub(super) inode: u32,
    pub(super) file_type: FileType,
}

/// The division of a directory's entries into blocks.
pub(super) struct Layout {
    /// The order of the entries, as entry numbers.
    order: Vec<u32>,
    /// The position in `order` where each block of entries begins.
    leaves: Vec<u32>,
    /// For an index: the first hash of each block, and the number of blocks of each index level below the root.
    index: Option<Index>,
    /// Number of blocks without entries at the end.
    spare: u64,
}

struct Index {
    hashes: Vec<u32>,
    levels: Vec<u64>,
}

impl Layout {
    /// Returns the number of blocks of the directory.
    pub(super) fn blocks(&self) -> u64 {
        let index = self.index.as_ref().map_or(0, |index| 1 + index.levels.iter().sum::<u64>());
        self.leaves.len() as u64 + index + self.spare
    }

    /// Returns true if the directory has an index.
    pub(super) fn is_indexed(&self) -> bool {
        self.index.is_some()
    }
}

impl Format {
    /// Returns the bytes of a block that are available for entries.
    fn room(&self) -> usize {
        self.block_size - if self.metadata_csum { TAIL } else { 0 }
    }

    fn index_max(&self, head: usize) -> u64 {
        let tail = if self.metadata_csum { INDEX_TAIL } else { 0 };
        ((self.block_size - head - tail) / 8) as u64
    }

    /// Divides the entries with these names, without `.` and `..`, into at least `least` blocks.
    pub(super) fn layout<'a>(&self, names: impl Iterator<Item = &'a [u8]> + Clone, least: u64) -> Layout {
        let linear = self.linear(names.clone());
        match self.index {
            Some(hasher) if linear.leaves.len() > 1 => self.indexed(names, hasher).unwrap_or(linear),
            _ => Layout { spare: least.saturating_sub(linear.blocks()), ..linear },
        }
    }

    fn linear<'a>(&self, names: impl Iterator<Item = &'a [u8]>) -> Layout {
        let (mut order, mut leaves, mut used) = (Vec::new(), vec![0], DOTS);
        for (i, name) in names.enumerate() {
            let len = entry_len(name);
            if used + len > self.room() {
                leaves.push(i as u32);
                used = 0;
            }
            used += len;
            order.push(i as u32);
        }
        Layout { order, leaves, index: None, spare: 0 }
    }

    /// Returns an indexed layout, unless it would have too many levels.
    fn indexed<'a>(&self, names: impl Iterator<Item = &'a [u8]>, hasher: Hasher) -> Option<Layout> {
        let mut hashed: Vec<(NameHash, u32, u16)> = names
            .enumerate()
            .map(|(i, name)| (hasher.hash(name), i as u32, entry_len(name) as u16))
            .collect();
        hashed.sort_unstable();
        // Leave some space in every block, so that the next names do not each split one.
        let full = self.room() - self.block_size / 8;
        let (mut leaves, mut hashes, mut used) = (vec![0u32], vec![0u32], 0);
        for (i, ((hash, _), _, len)) in hashed.iter().enumerate() {
            let len = usize::from(*len);
            if used > 0 && used + len > full {
                let same = hashed[i - 1].0.0 == *hash;
                leaves.push(i as u32);
                hashes.push(hash | u32::from(same)); // the lowest bit: names of this hash are before, too
                used = 0;
            }
            used += len;
        }
        let mut levels = Vec::new();
        let mut count = leaves.len() as u64;
        while count > self.index_max(ROOT_HEAD) {
            count = count.div_ceil(self.index_max(NODE_HEAD));
            levels.push(count);
        }
        let order = hashed.into_iter().map(|(_, i, _)| i).collect();
        (levels.len() <= usize::from(self.levels_max)).then_some(Layout {
            order,
            leaves,
            index: Some(Index { hashes, levels }),
            spare: 0,
        })
    }

    /// Encodes the directory. `csum_seed` is the inode's.
    pub(super) fn encode<'a>(
        &self,
        layout: &Layout,
        inode: u32,
        parent: u32,
        csum_seed: u32,
        entry: impl Fn(usize) -> NewEntry<'a>,
    ) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(layout.blocks() as usize * self.block_size);
        let dots = [(&b"."[..], inode), (b"..", parent)].map(|(name, inode)| NewEntry {
            name,
            inode,
            file_type: FileType::Dir,
        });
        if let Some(index) = &layout.index {
            self.encode_index(&mut bytes, index, &dots, csum_seed);
        }
        for (i, start) in layout.leaves.iter().enumerate() {
            let end = layout.leaves.get(i + 1).map_or(layout.order.len(), |end| *end as usize);
            let first = if i == 0 && layout.index.is_none() { &dots[..] } else { &[] };
            let entries = layout.order[*start as usize..end].iter().map(|i| entry(*i as usize));
            self.leaf(&mut bytes, first.iter().copied().chain(entries), csum_seed);
        }
        for _ in 0..layout.spare {
            self.leaf(&mut bytes, std::iter::empty(), csum_seed);
        }
        bytes
    }

    fn leaf<'a>(&self, bytes: &mut Vec<u8>, entries: impl Iterator<Item = NewEntry<'a>>, csum_seed: u32) {
        let start = bytes.len();
        bytes.resize(start + self.block_size, 0);
        let block = &mut bytes[start..];
        let (mut at, mut last) = (0, 0);
        for entry in entries {
            let len = entry_len(entry.name);
            self.put_entry(block, at, len, &entry);
            last = at;
            at += len;
        }
        // The last entry extends to the end of the block.
        put::le16(block, last + 4, self.rec_len(self.room() - last));
        if self.metadata_csum {
            let tail = self.block_size - TAIL;
            put::le16(block, tail + 4, TAIL as u16);
            block[tail + 7] = 0xDE;
            let sum = crc32c(csum_seed, &block[..tail]);
            put::le32(block, tail + 8, sum);
        }
    }

    fn put_entry(&self, block: &mut [u8], at: usize, len: usize, entry: &NewEntry<'_>) {
        put::le32(block, at, entry.inode);
        put::le16(block, at + 4, self.rec_len(len));
        put::le16(block, at + 6, entry.name.len() as u16);
        if self.filetype {
            block[at + 7] = entry.file_type.entry_number();
        }
        block[at + 8..at + 8 + entry.name.len()].copy_from_slice(entry.name);
    }

    /// Encodes a length, whose 16 bits are too few for a whole block of 64 KiB.
    fn rec_len(&self, len: usize) -> u16 {
        if len == 0x1_0000 { 0xFFFF } else { len as u16 }
    }

    /// Encodes the root of an index, then its other blocks level by level from the root down.
    fn encode_index(&self, bytes: &mut Vec<u8>, index: &Index, dots: &[NewEntry<'_>; 2], csum_seed: u32) {
        let blocks = 1 + index.levels.iter().sum::<u64>();
        // The children of a level: the start and the number of blocks of the level below.
        let mut below: Vec<(u64, u64)> = Vec::new();
        let mut first = 1;
        for count in index.levels.iter().rev() {
            below.push((first, *count));
            first += count;
        }
        below.push((blocks, index.hashes.len() as u64));
        let per_node = self.index_max(NODE_HEAD);
        for (depth, (first, count)) in below.iter().enumerate() {
            let height = below.len() - 1 - depth;
            let nodes = if depth == 0 { 1 } else { below[depth - 1].1 };
            for node in 0..nodes {
                let start = bytes.len();
                bytes.resize(start + self.block_size, 0);
                let block = &mut bytes[start..];
                let (head, children) = if depth == 0 {
                    for (dot, len) in dots.iter().zip([12, self.block_size - 12]) {
                        self.put_entry(block, if len == 12 { 0 } else { 12 }, len, dot);
                    }
                    block[28] = self.index.map_or(0, |hasher| hasher.version.number());
                    block[29] = 8;
                    block[30] = index.levels.len() as u8;
                    (ROOT_HEAD, 0..*count)
                } else {
                    put::le16(block, 4, self.rec_len(self.block_size));
                    (NODE_HEAD, node * per_node..((node + 1) * per_node).min(*count))
                };
                let entries = children.map(|child| {
                    let leaf = child * per_node.pow(height as u32);
                    (index.hashes[leaf as usize], (first + child) as u32)
                });
                self.index_entries(block, head, entries, csum_seed);
            }
        }
    }

    fn index_entries(
        &self,
        block: &mut [u8],
        head: usize,
        entries: impl Iterator<Item = (u32, u32)>,
        csum_seed: u32,
    ) {
        let mut count = 0;
        for (i, (hash, child)) in entries.enumerate() {
            // The first entry's hash is implied: its place holds the counts.
            if i > 0 {
                put::le32(block, head + i * 8, hash);
            }
            put::le32(block, head + i * 8 + 4, child);
            count = i + 1;
        }
        let limit = self.index_max(head);
        put::le16(block, head, limit as u16);
        put::le16(block, head + 2, count as u16);
        if self.metadata_csum {
            let tail = head + limit as usize * 8;
            let sum = crc32c(crc32c(csum_seed, &block[..head + count * 8]), &[0; 8]);
            put::le32(block, tail + 4, sum);
        }
    }
}

/// Returns the size of an entry in bytes.
fn entry_len(name: &[u8]) -> usize {
    (8 + name.len()).next_multiple_of(4)
}
