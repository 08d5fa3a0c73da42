//! Extent trees, which map a file's blocks to the volume's.
//!
//! <https://docs.kernel.org/filesystems/ext4/ifork.html#extent-tree>

use std::ops::Range;

use super::checksum::crc32c;
use super::mapper::Mapper;
use crate::bytes::{le16, le32};
use crate::checksum::fits;
use crate::error::{At, Result, at};

const MAGIC: u16 = 0xF30A;
/// The maximum depth of a tree: enough for 2³² blocks in blocks of 1 KiB.
const DEPTH_MAX: u16 = 5;
const HEADER: usize = 12;
const ENTRY: usize = 12;
/// Lengths above this mean extents that were allocated but never written.
const WRITTEN_MAX: u16 = 0x8000;

/// A node of a tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// `eh_depth` 0.
    Leaf(Vec<Extent>),
    /// An inner node: its children have a depth one less.
    Index(Vec<Child>),
}

/// `struct ext4_extent`: a run of blocks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// The blocks in the file.
    pub(super) logical: Range<u64>,
    /// The first block on the volume.
    pub(super) physical: u64,
    /// False if the extent is allocated but reads as zeros.
    pub(super) written: bool,
}

/// `struct ext4_extent_idx`: a child node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Child {
    /// The blocks of the file that the child covers.
    pub(super) logical: Range<u64>,
    /// The block of the volume that holds the node.
    pub(super) block: u64,
}

impl Node {
    /// Parses a node, which must have `depth` (any, for the root) and map only blocks in `logical`. `place` describes
    /// its place for errors, and `start` is its position on the volume in bytes.
    pub(super) fn parse(
        bytes: &[u8],
        depth: Option<u16>,
        logical: &Range<u64>,
        place: &dyn Fn() -> At,
        start: u64,
    ) -> Result<(u16, Self)> {
        let bad = |field, field_at: usize, problem: String| {
            Err(place().field(field).byte(start + field_at as u64).corrupt(problem))
        };
        let (magic, entries, max) = (le16(bytes, 0), le16(bytes, 2), le16(bytes, 4));
        let found_depth = le16(bytes, 6);
        if magic != MAGIC {
            return bad("eh_magic", 0, format!("is {magic:#06x}, expected {MAGIC:#06x}"));
        }
        if found_depth > DEPTH_MAX || depth.is_some_and(|depth| depth != found_depth) {
            let expected = depth.map_or_else(|| format!("0 to {DEPTH_MAX}"), |depth| depth.to_string());
            return bad("eh_depth", 6, format!("is {found_depth}, expected {expected}"));
        }
        let room = (bytes.len() - HEADER) / ENTRY;
        if max == 0 || usize::from(max) > room {
            return bad("eh_max", 4, format!("is {max}, expected 1 to {room}"));
        }
        if entries > max || entries == 0 && found_depth > 0 {
            let least = u16::from(found_depth > 0);
            return bad("eh_entries", 2, format!("is {entries}, expected {least} to {max}"));
        }
        let entry_at = |i: usize| HEADER + i * ENTRY;
        let block_of = |i: usize| u64::from(le32(bytes, entry_at(i)));
        let entries = usize::from(entries);
        let mut next = logical.start;
        if found_depth == 0 {
            let mut extents = Vec::with_capacity(entries);
            for i in 0..entries {
                let entry = entry_at(i);
                let first = block_of(i);
                let len = le16(bytes, entry + 4);
                let written = len <= WRITTEN_MAX;
                let len = u64::from(if written { len } else { len - WRITTEN_MAX });
                if first < next || first >= logical.end {
                    let problem = format!("is {first}, expected {next} to {}", logical.end.saturating_sub(1));
                    return bad("ee_block", entry, problem);
                }
                next = first + len;
                if len == 0 || next > logical.end {
                    let problem = format!("is {len}, expected 1 to {}", logical.end - first);
                    return bad("ee_len", entry + 4, problem);
                }
                let physical = u64::from(le32(bytes, entry + 8)) | u64::from(le16(bytes, entry + 6)) << 32;
                extents.push(Extent { logical: first..next, physical, written });
            }
            return Ok((0, Node::Leaf(extents)));
        }
        let mut children = Vec::with_capacity(entries);
        for i in 0..entries {
            let entry = entry_at(i);
            let first = block_of(i);
            let end = if i + 1 < entries { block_of(i + 1) } else { logical.end };
            if first < next || first >= logical.end {
                let problem = format!("is {first}, expected {next} to {}", logical.end.saturating_sub(1));
                return bad("ei_block", entry, problem);
            }
            next = first + 1;
            let block = u64::from(le32(bytes, entry + 4)) | u64::from(le16(bytes, entry + 8)) << 32;
            children.push(Child { logical: first..end.max(next), block });
        }
        Ok((found_depth, Node::Index(children)))
    }
}

/// Passes all extents of the tree with root `root` to `mapper`, in order.
pub(super) fn walk(mapper: &mut Mapper<'_>, root: &[u8]) -> Result<()> {
    let inode = mapper.inode;
    let place = || at(format!("inode {}, root of the extent tree", inode.number));
    let (depth, node) = Node::parse(root, None, &(0..1 << 32), &place, inode.offset + 0x28)?;
    walk_node(mapper, node, depth)
}

fn walk_node(mapper: &mut Mapper<'_>, node: Node, depth: u16) -> Result<()> {
    match node {
        Node::Leaf(extents) => {
            for Extent { logical, physical, written } in extents {
                let len = logical.end - logical.start;
                mapper.run(logical.start, physical..physical.saturating_add(len), written)?;
            }
        }
        Node::Index(children) => {
            for Child { logical, block } in children {
                let number = mapper.inode.number;
                let place = || at(format!("inode {number}, extent tree block {block}"));
                let bytes = mapper.metadata_block("extent tree block", block)?;
                let start = mapper.byte(block);
                let (depth, node) = Node::parse(&bytes, Some(depth - 1), &logical, &place, start)?;
                mapper.check_sum(|seed| {
                    let tail = HEADER + usize::from(le16(&bytes, 4)) * ENTRY;
                    if tail + 4 > bytes.len() {
                        let problem = "leaves no room for the checksum".to_owned();
                        return Err(place().field("eh_max").byte(start + 4).corrupt(problem));
                    }
                    let (found, right) = (le32(&bytes, tail), crc32c(seed, &bytes[..tail]));
                    if fits(found, right) {
                        return Ok(());
                    }
                    Err(place().field("et_checksum").byte(start + tail as u64).corrupt(format!(
                        "is {found:#010x}, expected {right:#010x}: the extent tree is damaged"
                    )))
                })?;
                walk_node(mapper, node, depth)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8], depth: Option<u16>) -> Result<(u16, Node), String> {
        Node::parse(bytes, depth, &(0..1 << 32), &|| at("node"), 0).map_err(|e| e.to_string())
    }

    /// Returns a root with two extents: 3 blocks at 100, and after a hole 2 unwritten ones at 2³² + 7.
    fn leaf() -> Vec<u8> {
        let mut node = vec![0; 60];
        node[..8].copy_from_slice(&[0x0A, 0xF3, 2, 0, 4, 0, 0, 0]);
        node[12..24].copy_from_slice(&[0, 0, 0, 0, 3, 0, 0, 0, 100, 0, 0, 0]);
        node[24..36].copy_from_slice(&[5, 0, 0, 0, 2, 0x80, 1, 0, 7, 0, 0, 0]);
        node
    }

    fn index() -> Vec<u8> {
        let mut node = leaf();
        node[6] = 1;
        node[12..24].copy_from_slice(&[0, 0, 0, 0, 99, 0, 0, 0, 1, 0, 0, 0]);
        node[24..36].copy_from_slice(&[9, 0, 0, 0, 98, 0, 0, 0, 0, 0, 0, 0]);
        node
    }

    #[test]
    fn a_leaf_gives_its_extents() {
        let extents = vec![
            Extent { logical: 0..3, physical: 100, written: true },
            Extent { logical: 5..7, physical: (1 << 32) + 7, written: false },
        ];
        assert_eq!(parse(&leaf(), None), Ok((0, Node::Leaf(extents))));
    }

    #[test]
    fn an_index_gives_its_children() {
        let children =
            vec![Child { logical: 0..9, block: (1 << 32) + 99 }, Child { logical: 9..1 << 32, block: 98 }];
        assert_eq!(parse(&index(), None), Ok((1, Node::Index(children))));
    }

    #[test]
    fn an_extent_of_32768_blocks_is_written() {
        let mut node = leaf();
        node[16..18].copy_from_slice(&[0, 0x80]);
        node[24] = 0;
        node[25] = 0x80;
        let Ok((_, Node::Leaf(extents))) = parse(&node, None) else { panic!() };
        assert_eq!(extents[0], Extent { logical: 0..32768, physical: 100, written: true });
    }

    #[test]
    fn one_wrong_byte_in_a_node_is_named() {
        for (node, byte, value, depth, error) in [
            (leaf(), 0, 0, None, "node, eh_magic, at byte 0: is 0xf300, expected 0xf30a"),
            (leaf(), 2, 5, None, "node, eh_entries, at byte 2: is 5, expected 0 to 4"),
            (index(), 2, 0, None, "node, eh_entries, at byte 2: is 0, expected 1 to 4"),
            (leaf(), 4, 5, None, "node, eh_max, at byte 4: is 5, expected 1 to 4"),
            (leaf(), 4, 0, None, "node, eh_max, at byte 4: is 0, expected 1 to 4"),
            (leaf(), 6, 6, None, "node, eh_depth, at byte 6: is 6, expected 0 to 5"),
            (leaf(), 6, 1, Some(0), "node, eh_depth, at byte 6: is 1, expected 0"),
            (leaf(), 24, 2, None, "node, ee_block, at byte 24: is 2, expected 3 to 4294967295"),
            (leaf(), 16, 0, None, "node, ee_len, at byte 16: is 0, expected 1 to 4294967296"),
            (index(), 24, 0, None, "node, ei_block, at byte 24: is 0, expected 1 to 4294967295"),
        ] {
            let mut node = node;
            node[byte] = value;
            assert_eq!(parse(&node, depth).unwrap_err(), error);
        }
    }
}
