//! The block map of a fork: extents in the inode, or a B+tree rooted there.

use super::blocks::{Blocks, SECTOR};
use super::checksum;
use super::extent::{Extent, Extents, RECORD};
use super::inode::{Fork, Format, Inode};
use super::superblock::Superblock;
use crate::bytes::{be16, be32, be64};
use crate::error::{At, Result, at};

/// The most extents of one fork. Each takes 32 bytes of memory.
const EXTENTS_MAX: usize = 1 << 22;
/// More levels than any valid tree has.
const LEVELS_MAX: u16 = 16;
const MAGIC_V4: u32 = 0x424D_4150; // BMAP
const MAGIC_V5: u32 = 0x424D_4133; // BMA3
const HEADER_V4: usize = 24;
const HEADER_V5: usize = 72;
/// Bytes of the header of the root, which is in the inode.
const ROOT_HEADER: usize = 4;
/// Bytes of a key; pointers are as long.
const KEY: usize = 8;

/// Returns the extents of a fork of `inode` in ascending order.
pub(super) fn extents(
    blocks: &Blocks,
    sb: &Superblock,
    inode: &Inode,
    fork: &Fork<'_>,
) -> Result<Vec<Extent>> {
    let number = inode.number;
    let place = move || at(format!("inode {number}"));
    let here = if fork.is_realtime { None } else { Some(sb) };
    let mut extents = Extents::new(here, EXTENTS_MAX, &place);
    match fork.format {
        Format::Extents => {
            let records = usize::try_from(fork.extents).ok().and_then(|count| count.checked_mul(RECORD));
            let Some(records) = records.and_then(|len| fork.bytes.get(..len)) else {
                return Err(place().field(fork.count_field()).byte(inode.offset + 76).corrupt(format!(
                    "is {}, but the inode has room for {}",
                    fork.extents,
                    fork.bytes.len() / RECORD
                )));
            };
            extents.add(records, fork.offset)?;
        }
        Format::Btree => Tree { blocks, sb, inode, place: &place, extents: &mut extents }.root(fork)?,
        Format::Local | Format::Dev => return Ok(Vec::new()),
    }
    let found = extents.list.len() as u64;
    if found != fork.extents {
        return Err(place()
            .field(fork.count_field())
            .byte(inode.offset + 76)
            .corrupt(format!("is {}, but the map has {found} extents", fork.extents)));
    }
    Ok(extents.list)
}

/// A walk of a tree.
struct Tree<'a, 'e> {
    blocks: &'a Blocks,
    sb: &'a Superblock,
    inode: &'a Inode,
    place: &'a dyn Fn() -> At,
    extents: &'a mut Extents<'e>,
}

impl Tree<'_, '_> {
    fn root(&mut self, fork: &Fork<'_>) -> Result<()> {
        let bad =
            |problem: String| Err((self.place)().field("bmdr_block").byte(fork.offset).corrupt(problem));
        if fork.bytes.len() < ROOT_HEADER {
            return bad("the fork has no room for the root of a tree".to_owned());
        }
        let (level, count) = (be16(fork.bytes, 0), usize::from(be16(fork.bytes, 2)));
        let most = (fork.bytes.len() - ROOT_HEADER) / (KEY + KEY);
        if level == 0 || level > LEVELS_MAX || count == 0 || count > most {
            return bad(format!("has level {level} and {count} records, expected at most {most} records"));
        }
        self.below(level, pointers(fork.bytes, ROOT_HEADER, most, count))
    }

    /// Walks the blocks named by `pointers`, which are from a block of this level. Keeps the unvisited pointers of each
    /// level on a stack instead of recursing.
    ///
    /// This terminates: each leaf adds extents after all earlier ones, so no block is a leaf twice.
    fn below(&mut self, level: u16, pointers: Vec<u64>) -> Result<()> {
        let mut levels = vec![pointers.into_iter()];
        while let Some(last) = levels.last_mut() {
            let Some(block) = last.next() else {
                levels.pop();
                continue;
            };
            let depth = u16::try_from(levels.len()).expect("at most the levels of the root");
            if let Some(pointers) = self.block(block, level - depth)? {
                levels.push(pointers.into_iter());
            }
        }
        Ok(())
    }

    /// Reads a block of this level: adds the extents of a leaf, returns the pointers of an inner block.
    fn block(&mut self, block: u64, level: u16) -> Result<Option<Vec<u64>>> {
        let sb = self.sb;
        let Some(linear) = sb.place(block, 1) else {
            return Err((self.place)()
                .field("bmbt")
                .corrupt(format!("block {block:#x} lies outside of any allocation group")));
        };
        let offset = sb.bytes(linear);
        let bytes = self.blocks.read("block map", offset, sb.block_size as usize)?;
        let bad = |field, byte: u64, problem: String| {
            Err((self.place)().field(field).byte(offset + byte).corrupt(problem))
        };
        let is_v5 = sb.features.is_v5();
        let (magic, header) = if is_v5 { (MAGIC_V5, HEADER_V5) } else { (MAGIC_V4, HEADER_V4) };
        if be32(&bytes, 0) != magic {
            return bad("bb_magic", 0, format!("is {:#x}, expected {magic:#x}", be32(&bytes, 0)));
        }
        if is_v5 {
            let is_summed = !self.blocks.is_replayed(offset, u64::from(sb.block_size));
            if is_summed && let Err((found, right)) = checksum::check(&bytes, 64) {
                return bad(
                    "bb_crc",
                    64,
                    format!("is {found:#010x}, expected {right:#010x}: the block is damaged"),
                );
            }
            if be64(&bytes, 24) != offset / SECTOR {
                return bad("bb_blkno", 24, format!("is {}, expected {}", be64(&bytes, 24), offset / SECTOR));
            }
            if bytes[40..56] != sb.meta_uuid {
                return bad("bb_uuid", 40, "belongs to another filesystem".to_owned());
            }
            if be64(&bytes, 56) != self.inode.number && !self.inode.is_adopted {
                return bad(
                    "bb_owner",
                    56,
                    format!("is {}, expected {}", be64(&bytes, 56), self.inode.number),
                );
            }
        }
        let (found, count) = (be16(&bytes, 4), usize::from(be16(&bytes, 6)));
        let most = (bytes.len() - header) / (KEY + KEY);
        if found != level {
            return bad("bb_level", 4, format!("is {found}, expected {level}"));
        }
        if count == 0 || count > most {
            return bad("bb_numrecs", 6, format!("is {count}, expected 1 to {most}"));
        }
        if level > 0 {
            return Ok(Some(pointers(&bytes, header, most, count)));
        }
        self.extents.add(&bytes[header..header + count * RECORD], offset + header as u64)?;
        Ok(None)
    }
}

/// Returns the pointers of a block. They start after the space for `most` keys.
fn pointers(bytes: &[u8], header: usize, most: usize, count: usize) -> Vec<u64> {
    (0..count).map(|i| be64(bytes, header + most * KEY + i * KEY)).collect()
}
