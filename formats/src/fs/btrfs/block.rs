//! A tree block: a header followed by the items of a leaf or the pointers of a node.
//!
//! <https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html>, "Tree block".

use super::checksum::Checksum;
use super::items::{Key, id, is_fs_tree};
use super::superblock::LEVELS;
use crate::bytes::{le32, le64};
use crate::error::{At, Result, at};

/// The size of the header in bytes.
const HEADER: usize = 101;
/// The size of an item header in bytes: its key, and the offset and size of its data.
const ITEM: usize = 25;
/// The size of a pointer in bytes: key, address and generation.
const POINTER: usize = 33;

/// A pointer to a tree block, with the properties its parent expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pointer {
    /// The logical address.
    pub(super) bytenr: u64,
    pub(super) generation: u64,
    pub(super) level: u8,
    /// The id of the tree that contains it.
    pub(super) tree: u64,
    /// Its first key, unless it is the root of the tree.
    pub(super) first: Option<Key>,
}

impl Pointer {
    /// Returns the location of the block for an error.
    pub(super) fn place(&self) -> At {
        at(format!("tree {}, block at {}", self.tree as i64, self.bytenr))
    }
}

/// A valid tree block.
#[derive(Debug)]
pub(super) struct Block {
    bytes: Vec<u8>,
    generation: u64,
    owner: u64,
    level: u8,
    count: usize,
}

impl Block {
    /// Parses and validates the block at the logical address `bytenr`: checksum, header, key order and item bounds.
    pub(super) fn parse(
        bytes: Vec<u8>,
        at: &Pointer,
        checksum: Checksum,
        fsid: &[u8; 16],
        sectorsize: u32,
    ) -> Result<Self> {
        let bad = |field, problem: String| Err(at.place().field(field).corrupt(problem));
        if !checksum.is_right(&bytes) {
            return bad("csum", "does not match".to_owned());
        }
        if bytes[32..48] != *fsid {
            return bad("fsid", "is that of another filesystem".to_owned());
        }
        if le64(&bytes, 48) != at.bytenr {
            return bad("bytenr", format!("is {}", le64(&bytes, 48)));
        }
        let count = le32(&bytes, 96) as usize;
        let block =
            Block { generation: le64(&bytes, 80), owner: le64(&bytes, 88), level: bytes[100], count, bytes };
        if block.level >= LEVELS {
            return bad("level", format!("is {}, expected 0 to {}", block.level, LEVELS - 1));
        }
        let each = if block.is_leaf() { ITEM } else { POINTER };
        if count > (block.bytes.len() - HEADER) / each || (count == 0 && !block.is_leaf()) {
            return bad("nritems", format!("is {count}"));
        }
        if let Some(i) = (1..count).find(|i| block.key(i - 1) >= block.key(*i)) {
            return bad("key", format!("{} of item {i} is not above {}", block.key(i), block.key(i - 1)));
        }
        let data = block.bytes.len() - HEADER;
        for i in 0..count {
            if block.is_leaf() {
                let (offset, size) = block.data(i);
                if offset < count * ITEM || offset.checked_add(size).is_none_or(|end| end > data) {
                    return bad("item", format!("{i} has {size} bytes at {offset}, outside of the block"));
                }
            } else if !block.pointer(i).0.is_multiple_of(u64::from(sectorsize)) {
                return bad(
                    "blockptr",
                    format!("{} is not a multiple of the sector size", block.pointer(i).0),
                );
            }
        }
        Ok(block)
    }

    /// Fails unless the block matches what its parent says of it.
    pub(super) fn check(&self, at: &Pointer) -> Result<()> {
        let bad = |field, problem: String| Err(at.place().field(field).corrupt(problem));
        if self.level != at.level {
            return bad("level", format!("is {}, expected {}", self.level, at.level));
        }
        if self.generation != at.generation {
            return bad("generation", format!("is {}, expected {}", self.generation, at.generation));
        }
        // Snapshots share blocks with subvolumes.
        let is_ours = at.tree == self.owner || (is_fs_tree(at.tree) && is_fs_tree(self.owner));
        if !is_ours && at.tree != id::TREE_LOG {
            return bad("owner", format!("is {}", self.owner as i64));
        }
        match at.first {
            Some(first) if self.count == 0 || self.key(0) != first => {
                let found = if self.count == 0 { "missing".to_owned() } else { self.key(0).to_string() };
                bad("key", format!("the first is {found}, expected {first}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn is_leaf(&self) -> bool {
        self.level == 0
    }

    /// Returns the number of items or pointers.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Returns the key of item or pointer `i`.
    pub(super) fn key(&self, i: usize) -> Key {
        let each = if self.is_leaf() { ITEM } else { POINTER };
        Key::parse(&self.bytes[HEADER + i * each..])
    }

    /// Returns the number of keys less than `key`.
    pub(super) fn below(&self, key: &Key) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.key(middle) < *key { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Returns the data of item `i` of a leaf.
    pub(super) fn item(&self, i: usize) -> &[u8] {
        let (offset, size) = self.data(i);
        &self.bytes[HEADER + offset..HEADER + offset + size]
    }

    fn data(&self, i: usize) -> (usize, usize) {
        let at = HEADER + i * ITEM + Key::SIZE;
        (le32(&self.bytes, at) as usize, le32(&self.bytes, at + 4) as usize)
    }

    fn pointer(&self, i: usize) -> (u64, u64) {
        let at = HEADER + i * POINTER + Key::SIZE;
        (le64(&self.bytes, at), le64(&self.bytes, at + 8))
    }

    /// Returns child `i` of a node in the tree `tree`. Its level is lower, so no path through a tree is endless.
    pub(super) fn child(&self, i: usize, tree: u64) -> Pointer {
        let (bytenr, generation) = self.pointer(i);
        Pointer { bytenr, generation, level: self.level.saturating_sub(1), tree, first: Some(self.key(i)) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::fs::btrfs) const FSID: [u8; 16] = *b"0123456789abcdef";

    /// Returns a leaf of 4096 bytes with these items.
    pub(in crate::fs::btrfs) fn leaf(at: &Pointer, items: &[(Key, &[u8])]) -> Vec<u8> {
        let mut bytes = header(at, items.len());
        let mut end = bytes.len() - HEADER;
        for (i, (key, data)) in items.iter().enumerate() {
            end -= data.len();
            let head = HEADER + i * ITEM;
            bytes[head..head + Key::SIZE].copy_from_slice(&key.bytes());
            bytes[head + 17..head + 21].copy_from_slice(&(end as u32).to_le_bytes());
            bytes[head + 21..head + 25].copy_from_slice(&(data.len() as u32).to_le_bytes());
            bytes[HEADER + end..HEADER + end + data.len()].copy_from_slice(data);
        }
        summed(bytes)
    }

    /// Returns a node of 4096 bytes with these children.
    pub(in crate::fs::btrfs) fn node(at: &Pointer, children: &[(Key, u64)]) -> Vec<u8> {
        let mut bytes = header(at, children.len());
        for (i, (key, bytenr)) in children.iter().enumerate() {
            let head = HEADER + i * POINTER;
            bytes[head..head + Key::SIZE].copy_from_slice(&key.bytes());
            bytes[head + 17..head + 25].copy_from_slice(&bytenr.to_le_bytes());
            bytes[head + 25..head + 33].copy_from_slice(&at.generation.to_le_bytes());
        }
        summed(bytes)
    }

    fn header(at: &Pointer, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[32..48].copy_from_slice(&FSID);
        bytes[48..56].copy_from_slice(&at.bytenr.to_le_bytes());
        bytes[80..88].copy_from_slice(&at.generation.to_le_bytes());
        bytes[88..96].copy_from_slice(&at.tree.to_le_bytes());
        bytes[96..100].copy_from_slice(&(count as u32).to_le_bytes());
        bytes[100] = at.level;
        bytes
    }

    fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
        let sum = Checksum::Crc32c.of(&bytes[32..]);
        bytes[..32].copy_from_slice(&sum);
        bytes
    }

    const AT: Pointer = Pointer { bytenr: 8192, generation: 7, level: 0, tree: 5, first: None };

    fn parse(bytes: Vec<u8>, at: &Pointer) -> Result<Block> {
        let block = Block::parse(bytes, at, Checksum::Crc32c, &FSID, 4096)?;
        block.check(at).map(|()| block)
    }

    fn good() -> Vec<u8> {
        leaf(
            &AT,
            &[(Key::new(256, 1, 0), b"inode"), (Key::new(256, 12, 256), b"ref"), (Key::new(257, 1, 0), b"")],
        )
    }

    #[test]
    fn items_of_a_leaf_are_found_by_their_keys() {
        let block = parse(good(), &AT).unwrap();
        assert_eq!(
            (block.count(), block.item(0), block.item(1), block.item(2)),
            (3, &b"inode"[..], &b"ref"[..], &b""[..])
        );
        assert_eq!(block.below(&Key::new(256, 12, 256)), 1);
        assert_eq!((block.below(&Key::MIN), block.below(&Key::MAX)), (0, 3));
    }

    #[test]
    fn each_wrong_field_is_named() {
        type Change = fn(&mut Vec<u8>);
        let cases: [(&str, Change); 9] = [
            ("fsid", |bytes| bytes[40] ^= 1),
            ("bytenr", |bytes| bytes[49] ^= 1),
            ("generation", |bytes| bytes[80] ^= 1),
            ("owner", |bytes| bytes[88] = 2),
            ("nritems", |bytes| bytes[97] = 1),
            ("level", |bytes| bytes[100] = 9),
            ("item", |bytes| bytes[HEADER + 18] = 0x10),
            ("item", |bytes| bytes[HEADER + 17..HEADER + 19].fill(0)),
            ("key", |bytes| bytes[HEADER + ITEM] = 9),
        ];
        for (field, change) in cases {
            let mut bytes = good();
            change(&mut bytes);
            let error = parse(summed(bytes), &AT).unwrap_err().to_string();
            assert!(error.contains(&format!(", {field}: ")), "{field}: {error}");
        }
        let mut bytes = good();
        bytes[4000] ^= 1;
        assert!(parse(bytes, &AT).unwrap_err().to_string().contains("csum"));
    }

    #[test]
    fn a_block_must_be_the_one_its_parent_points_to() {
        let first = |key| Pointer { first: Some(key), ..AT };
        assert!(parse(good(), &first(Key::new(256, 1, 0))).is_ok());
        assert!(parse(good(), &first(Key::new(256, 1, 1))).is_err());
        assert!(parse(leaf(&AT, &[]), &first(Key::MIN)).is_err());
        assert!(parse(good(), &Pointer { level: 1, ..AT }).is_err());
        // A snapshot shares the blocks of a subvolume, but not those of another tree.
        assert!(parse(good(), &Pointer { tree: 300, ..AT }).is_ok());
        assert!(parse(good(), &Pointer { tree: 1, ..AT }).is_err());
    }

    #[test]
    fn an_empty_node_is_refused_and_an_empty_leaf_is_not() {
        assert!(parse(leaf(&AT, &[]), &AT).is_ok());
        let node = Pointer { level: 1, ..AT };
        assert!(parse(summed(header(&node, 0)), &node).is_err());
    }
}
