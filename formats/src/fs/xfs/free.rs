//! Which blocks are free: the tree of free extents by block number that each allocation group has ("XFS Algorithms & Data
//! Structures", "AG Free Space B+trees").

use std::ops::Range;

use super::Xfs;
use super::checksum;
use crate::bytes::{be16, be32};
use crate::error::{ErrorKind, Result};
use crate::fs::ranges::push;

const MAGIC_V4: &[u8] = b"ABTB";
const MAGIC_V5: &[u8] = b"AB3B";
const HEADER_V4: usize = 16;
const HEADER_V5: usize = 56;
/// The place of the checksum in a header of version 5.
const CRC: usize = 52;
/// The size of a record, and of a key, which is like a record: the first block and the number of blocks.
const RECORD: usize = 8;
const POINTER: usize = 4;
/// The size of the header of the list of blocks for the trees, in version 5.
const LIST_HEADER_V5: usize = 36;
/// More levels than any valid tree has.
const LEVELS_MAX: u32 = 16;

/// The blocks of an allocation group that are looked for, by their numbers in it.
type Wanted = Range<u32>;

impl Xfs {
    /// Returns the parts of a range of bytes that are in free blocks. `None` if a header or a tree of a group is damaged.
    pub(super) fn free_blocks_in(&self, range: &Range<u64>) -> Result<Option<Vec<Range<u64>>>> {
        let sb = &self.sb;
        let group = sb.bytes(u64::from(sb.ag_blocks));
        let mut free = Vec::new();
        let groups = range.start / group..range.end.div_ceil(group).min(u64::from(sb.ag_count));
        for ag in groups {
            let ag = ag as u32;
            let (start, size) = (sb.ag_byte(ag, 0), u64::from(sb.block_size));
            let block = |byte: u64| byte.saturating_sub(start).min(group);
            let wanted = (block(range.start) / size) as u32..(block(range.end).div_ceil(size)) as u32;
            let wanted = wanted.start..wanted.end.min(sb.ag_len(ag));
            let mut found = Vec::new();
            if !self.free_in_group(ag, &wanted, &mut found)? {
                return Ok(None);
            }
            for blocks in found {
                let bytes = sb.ag_byte(ag, blocks.start)..start + sb.bytes(u64::from(blocks.end));
                push(&mut free, bytes.start.max(range.start)..bytes.end.min(range.end));
            }
        }
        Ok(Some(free))
    }

    /// Adds the free blocks of a group; returns false if that is damaged.
    fn free_in_group(&self, ag: u32, wanted: &Wanted, found: &mut Vec<Range<u32>>) -> Result<bool> {
        let offset = self.sb.ag_byte(ag, 0) + u64::from(self.sb.sector_size);
        let Some(agf) = readable(self.blocks.read("AGF", offset, 64))? else { return Ok(false) };
        // agf_roots and agf_levels of this tree.
        let (root, levels) = (be32(&agf, 16), be32(&agf, 28));
        if !agf.starts_with(b"XAGF") || levels == 0 || levels > LEVELS_MAX {
            return Ok(false);
        }
        let is_whole = self.free_below(ag, (root, levels - 1, None), wanted, found)?
            && self.free_for_trees(ag, &agf, wanted, found)?;
        found.sort_by_key(|blocks| blocks.start);
        Ok(is_whole)
    }

    /// Adds the free blocks that are kept for the trees of a group, from the list in its fourth sector (`xfs_agfl`). Returns
    /// false if that is damaged.
    fn free_for_trees(
        &self,
        ag: u32,
        agf: &[u8],
        wanted: &Wanted,
        found: &mut Vec<Range<u32>>,
    ) -> Result<bool> {
        let (sb, size) = (&self.sb, usize::from(self.sb.sector_size));
        let offset = sb.ag_byte(ag, 0) + 3 * size as u64;
        let Some(list) = readable(self.blocks.read("AGFL", offset, size))? else { return Ok(false) };
        let list = if sb.features.is_v5() { &list[LIST_HEADER_V5..] } else { &list[..] };
        let slots = list.len() / 4;
        // agf_flfirst and agf_flcount: the list is a ring.
        let (first, count) = (be32(agf, 40) as usize, be32(agf, 48) as usize);
        if first >= slots || count > slots {
            return Ok(false);
        }
        let blocks = (first..first + count).map(|slot| be32(list, slot % slots * 4));
        found.extend(blocks.filter(|block| wanted.contains(block)).map(|block| block..block + 1));
        Ok(true)
    }

    /// Adds the free blocks in a subtree: its block, level, and first record as its parent has it.
    ///
    /// The first records of a level ascend, so a walk reads no more blocks of it than there are blocks wanted, and one.
    fn free_below(
        &self,
        ag: u32,
        (block, level, first): (u32, u32, Option<u32>),
        wanted: &Wanted,
        found: &mut Vec<Range<u32>>,
    ) -> Result<bool> {
        let sb = &self.sb;
        if block >= sb.ag_len(ag) {
            return Ok(false);
        }
        let (offset, size) = (sb.ag_byte(ag, block), sb.block_size as usize);
        let Some(bytes) = readable(self.blocks.read("free space", offset, size))? else { return Ok(false) };
        let is_v5 = sb.features.is_v5();
        let (magic, header) = if is_v5 { (MAGIC_V5, HEADER_V5) } else { (MAGIC_V4, HEADER_V4) };
        let is_summed = is_v5 && !self.blocks.is_replayed(offset, size as u64);
        let (count, is_leaf) = (usize::from(be16(&bytes, 6)), level == 0);
        let most = (size - header) / if is_leaf { RECORD } else { RECORD + POINTER };
        if !bytes.starts_with(magic)
            || is_summed && checksum::check(&bytes, CRC).is_err()
            || u32::from(be16(&bytes, 4)) != level
            || count > most
        {
            return Ok(false);
        }
        let record = |i: usize| (be32(&bytes, header + i * RECORD), be32(&bytes, header + i * RECORD + 4));
        if first.is_some_and(|first| count == 0 || record(0).0 != first)
            || (1..count).any(|i| record(i).0 <= record(i - 1).0)
        {
            return Ok(false);
        }
        for i in 0..count {
            let (start, len) = record(i);
            if start >= wanted.end {
                break;
            }
            if is_leaf {
                let Some(end) = start.checked_add(len).filter(|end| *end <= sb.ag_len(ag)) else {
                    return Ok(false);
                };
                let here = start.max(wanted.start)..end.min(wanted.end);
                if here.start < here.end {
                    found.push(here);
                }
            } else if i + 1 == count || record(i + 1).0 > wanted.start {
                let child = be32(&bytes, header + most * RECORD + i * POINTER);
                if !self.free_below(ag, (child, level - 1, Some(start)), wanted, found)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// Returns the bytes unless they are past the end of the volume.
fn readable(bytes: Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match bytes {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::Io => Err(error),
        Err(_) => Ok(None),
    }
}
