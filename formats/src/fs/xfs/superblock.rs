//! The superblock: a volume's features and geometry, which maps block and inode numbers to locations.
//!
//! Each allocation group begins with a copy. The first one is authoritative.

use super::checksum;
use super::features::{Features, incompat};
use crate::bytes::{be16, be32, be64};
use crate::error::{Result, at};
use crate::uuid;

/// Bytes of the superblock that are parsed; its sector may be longer.
pub(super) const SIZE: usize = 512;
const MAGIC: &[u8] = b"XFSB";
/// Offset of the checksum.
const CRC: usize = 224;
/// Blocks of the largest allocation group: 1 TiB of the smallest blocks.
const AG_BLOCKS_MAX: u32 = 1 << 31;
/// The inode number that means "none".
pub(super) const NULL_INO: u64 = u64::MAX;

/// A validated superblock.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub(super) features: Features,
    /// Block size in bytes.
    pub(super) block_size: u32,
    /// `sb_dblocks`: number of blocks of the volume.
    pub(super) blocks_count: u64,
    /// Number of blocks of the realtime device.
    pub(super) rt_blocks: u64,
    pub(super) uuid: [u8; 16],
    /// The UUID in metadata headers.
    pub(super) meta_uuid: [u8; 16],
    /// The first block of the log; 0 if it is on another device.
    pub(super) log_start: u64,
    pub(super) log_blocks: u32,
    pub(super) root_ino: u64,
    /// Inodes that hold metadata: bitmaps, quotas, the metadata directory.
    pub(super) own_inos: Vec<u64>,
    pub(super) ag_blocks: u32,
    pub(super) ag_count: u32,
    pub(super) sector_size: u16,
    pub(super) inode_size: u16,
    pub(super) block_log: u8,
    pub(super) inopb_log: u8,
    pub(super) agb_log: u8,
    /// Bytes of a directory block.
    pub(super) dir_block_size: u32,
    pub(super) label: Vec<u8>,
    pub(super) free_blocks: u64,
}

/// Returns true if `head` begins with the magic number.
pub(super) fn has_magic(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// Returns the sector size that a superblock claims, `None` if it is invalid.
pub(super) fn sector_size(bytes: &[u8]) -> Option<usize> {
    let size = usize::from(be16(bytes, 102));
    (size.is_power_of_two() && (512..=32_768).contains(&size)).then_some(size)
}

/// Verifies the checksum of the superblock in `sector`, if it has one.
pub(super) fn check_sum(sector: &[u8], offset: u64) -> Result<()> {
    if be16(sector, 100) & 0xF != 5 {
        return Ok(());
    }
    checksum::check(sector, CRC).map_err(|(found, right)| {
        at("XFS superblock")
            .field("sb_crc")
            .byte(offset + CRC as u64)
            .corrupt(format!("is {found:#010x}, expected {right:#010x}"))
    })
}

impl Superblock {
    /// Parses the superblock in `bytes`, read from byte `offset`.
    pub(super) fn parse(bytes: &[u8], offset: u64) -> Result<Self> {
        let bad = |field, byte: u64, problem: String| {
            Err(at("XFS superblock").field(field).byte(offset + byte).corrupt(problem))
        };
        if !has_magic(bytes) {
            return bad("sb_magicnum", 0, format!("is {:#x}, expected 0x58465342", be32(bytes, 0)));
        }
        let features = Features {
            version: be16(bytes, 100),
            features2: be32(bytes, 200) | be32(bytes, 204),
            ro_compat: be32(bytes, 212),
            incompat: be32(bytes, 216),
            log_incompat: be32(bytes, 220),
        };
        features.check()?;
        let (block_size, block_log) = (be32(bytes, 4), bytes[120]);
        if !block_size.is_power_of_two() || !(512..=65_536).contains(&block_size) {
            return bad(
                "sb_blocksize",
                4,
                format!("is {block_size}, expected a power of two from 512 to 65536"),
            );
        }
        if u32::from(block_log) != block_size.ilog2() {
            return bad("sb_blocklog", 120, format!("is {block_log}, expected {}", block_size.ilog2()));
        }
        let Some(sector_size) = sector_size(bytes) else {
            let found = be16(bytes, 102);
            return bad("sb_sectsize", 102, format!("is {found}, expected a power of two from 512 to 32768"));
        };
        let (inode_size, inopb_log) = (be16(bytes, 104), bytes[123]);
        if !inode_size.is_power_of_two()
            || !(256..=2048).contains(&inode_size)
            || u32::from(inode_size) > block_size
            || (features.is_v5() && inode_size < 512)
        {
            let problem = format!("is {inode_size}, expected a power of two from 256 to 2048 within a block");
            return bad("sb_inodesize", 104, problem);
        }
        let right = block_size.ilog2() - u32::from(inode_size).ilog2();
        if u32::from(inopb_log) != right {
            return bad("sb_inopblog", 123, format!("is {inopb_log}, expected {right}"));
        }
        let (ag_blocks, ag_count, blocks_count) = (be32(bytes, 84), be32(bytes, 88), be64(bytes, 8));
        let most = u64::from(ag_blocks) * u64::from(ag_count);
        if !(16..=AG_BLOCKS_MAX).contains(&ag_blocks)
            || ag_count == 0
            || blocks_count > most
            || blocks_count <= most - u64::from(ag_blocks)
        {
            let problem = format!("is {blocks_count}, but there are {ag_count} groups of {ag_blocks} blocks");
            return bad("sb_dblocks", 8, problem);
        }
        if blocks_count > u64::MAX >> (block_log + 1) {
            return bad("sb_dblocks", 8, format!("is {blocks_count}, more than can be addressed"));
        }
        let (agb_log, right) = (bytes[124], ag_blocks.next_power_of_two().ilog2());
        if u32::from(agb_log) != right {
            return bad("sb_agblklog", 124, format!("is {agb_log}, expected {right}"));
        }
        let dir_log = bytes[192];
        if dir_log > 16 - block_log {
            return bad("sb_dirblklog", 192, format!("is {dir_log}, expected 0 to {}", 16 - block_log));
        }
        let uuid: [u8; 16] = bytes[32..48].try_into().expect("16 bytes");
        let meta_uuid = if features.has_incompat(incompat::META_UUID) {
            bytes[248..264].try_into().expect("16 bytes")
        } else {
            uuid
        };
        let mut own_inos = vec![be64(bytes, 64), be64(bytes, 72), be64(bytes, 160), be64(bytes, 168)];
        if features.is_v5() {
            own_inos.push(be64(bytes, 232));
        }
        if features.has_incompat(incompat::METADIR) {
            own_inos.push(be64(bytes, 264));
        }
        own_inos.retain(|ino| *ino != 0 && *ino != NULL_INO);
        let label = &bytes[108..120];
        let label = label[..label.iter().position(|b| *b == 0).unwrap_or(label.len())].to_vec();
        Ok(Superblock {
            features,
            block_size,
            blocks_count,
            rt_blocks: be64(bytes, 16),
            uuid,
            meta_uuid,
            log_start: be64(bytes, 48),
            log_blocks: be32(bytes, 96),
            root_ino: be64(bytes, 56),
            own_inos,
            ag_blocks,
            ag_count,
            sector_size: sector_size as u16,
            inode_size,
            block_log,
            inopb_log,
            agb_log,
            dir_block_size: block_size << dir_log,
            label,
            free_blocks: be64(bytes, 144),
        })
    }

    /// Returns the size of the filesystem in bytes.
    pub(super) fn size(&self) -> u64 {
        self.bytes(self.blocks_count)
    }

    /// Converts a number of blocks to bytes.
    pub(super) fn bytes(&self, blocks: u64) -> u64 {
        blocks << self.block_log
    }

    /// Returns the UUID as text.
    pub(super) fn uuid_text(&self) -> String {
        uuid::text(&self.uuid)
    }

    /// Returns the number of blocks of an allocation group; the last one may be shorter.
    pub(super) fn ag_len(&self, ag: u32) -> u32 {
        let start = u64::from(ag) * u64::from(self.ag_blocks);
        u32::try_from((self.blocks_count - start).min(u64::from(self.ag_blocks))).expect("within a group")
    }

    /// Converts block number `block` to a block offset from the start of the volume. (The upper bits of a block number
    /// are the allocation group.) `None` unless the `count` blocks are within one group, after its headers.
    pub(super) fn place(&self, block: u64, count: u64) -> Option<u64> {
        let ag = u32::try_from(block >> self.agb_log).ok().filter(|ag| *ag < self.ag_count)?;
        let within = block & ((1 << self.agb_log) - 1);
        // The superblock, AGF, AGI and AGFL take one sector each.
        let headers = (4 * u64::from(self.sector_size)).div_ceil(u64::from(self.block_size));
        let end = within.checked_add(count)?;
        let is_within = within >= headers && end <= u64::from(self.ag_len(ag));
        is_within.then(|| u64::from(ag) * u64::from(self.ag_blocks) + within)
    }

    /// Returns the allocation group of an inode, its block within the group, and its index within the block. `None` if
    /// the number is out of range.
    pub(super) fn place_of_inode(&self, ino: u64) -> Option<InodePlace> {
        let ag =
            u32::try_from(ino >> (self.agb_log + self.inopb_log)).ok().filter(|ag| *ag < self.ag_count)?;
        let block = (ino >> self.inopb_log & ((1 << self.agb_log) - 1)) as u32;
        let index = (ino & ((1 << self.inopb_log) - 1)) as u32;
        (block != 0 && block < self.ag_len(ag)).then_some(InodePlace { ag, block, index })
    }

    /// Returns the byte offset of a block of an allocation group.
    pub(super) fn ag_byte(&self, ag: u32, block: u32) -> u64 {
        self.bytes(u64::from(ag) * u64::from(self.ag_blocks) + u64::from(block))
    }
}

/// The location of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InodePlace {
    /// The allocation group.
    pub(super) ag: u32,
    /// The block within the group.
    pub(super) block: u32,
    /// The index of the inode within the block.
    pub(super) index: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a version 4 superblock with two groups, of 1000 and 900 blocks.
    fn bytes() -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4..8].copy_from_slice(&4096_u32.to_be_bytes());
        bytes[8..16].copy_from_slice(&1900_u64.to_be_bytes());
        bytes[56..64].copy_from_slice(&128_u64.to_be_bytes());
        bytes[84..88].copy_from_slice(&1000_u32.to_be_bytes());
        bytes[88..92].copy_from_slice(&2_u32.to_be_bytes());
        bytes[100..108].copy_from_slice(&[0xB4, 0xA4, 2, 0, 1, 0, 0, 16]);
        bytes[108..113].copy_from_slice(b"label");
        bytes[120..125].copy_from_slice(&[12, 9, 8, 4, 10]);
        bytes
    }

    #[test]
    fn numbers_become_places() {
        let sb = Superblock::parse(&bytes(), 0).unwrap();
        assert_eq!((sb.size(), sb.label.as_slice()), (1900 * 4096, &b"label"[..]));
        assert_eq!(sb.place(5, 10), Some(5));
        assert_eq!(sb.place(1 << 10 | 7, 893), Some(1007));
        for (block, count) in
            [(0, 1), (990, 11), (1000, 1), (1 << 10 | 7, 894), (2 << 10 | 5, 1), (u64::MAX, 1)]
        {
            assert_eq!(sb.place(block, count), None, "{block} {count}");
        }
        assert_eq!(sb.place_of_inode(128), Some(InodePlace { ag: 0, block: 8, index: 0 }));
        assert_eq!(sb.place_of_inode(1 << 14 | 8 << 4 | 3), Some(InodePlace { ag: 1, block: 8, index: 3 }));
        for ino in [0, 15, 2 << 14 | 128, 1000 << 4, 1 << 14 | 900 << 4, u64::MAX] {
            assert_eq!(sb.place_of_inode(ino), None, "{ino}");
        }
    }

    #[test]
    fn one_wrong_field_is_named() {
        for (at, value, problem) in [
            (0, 0, "sb_magicnum, at byte 4096: is 0x465342"),
            (5, 3, "sb_blocksize, at byte 4100: is 200704, expected a power of two"),
            (120, 11, "sb_blocklog, at byte 4216: is 11, expected 12"),
            (102, 3, "sb_sectsize, at byte 4198: is 768"),
            (104, 0, "sb_inodesize, at byte 4200: is 0"),
            (123, 3, "sb_inopblog, at byte 4219: is 3, expected 4"),
            (91, 3, "sb_dblocks, at byte 4104: is 1900, but there are 3 groups of 1000 blocks"),
            (84, 0x80, "sb_dblocks, at byte 4104: is 1900, but there are 2 groups of 2147484648 blocks"),
            (124, 11, "sb_agblklog, at byte 4220: is 11, expected 10"),
            (192, 5, "sb_dirblklog, at byte 4288: is 5, expected 0 to 4"),
        ] {
            let mut bytes = bytes();
            bytes[at] = value;
            let error = Superblock::parse(&bytes, 4096).unwrap_err().to_string();
            assert!(error.starts_with(&format!("XFS superblock, {problem}")), "{error}");
        }
    }
}
