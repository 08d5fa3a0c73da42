//! The superblock: 1024 bytes at byte 1024 of the volume, and a copy in some groups.
//!
//! <https://docs.kernel.org/filesystems/ext4/super.html>

use super::checksum::crc32c;
use super::features::{Features, compat, incompat, ro_compat};
use crate::bytes::{le16, le32};
use crate::checksum::fits;
use crate::error::{Error, Result, at};
use crate::uuid;

/// Position of the superblock on the volume, in bytes.
pub(super) const OFFSET: u64 = 1024;
/// Its size in bytes.
pub(super) const SIZE: usize = 1024;
/// Offset of `s_magic`.
pub(super) const MAGIC_AT: usize = 0x38;
/// `s_magic`.
pub(super) const MAGIC: u16 = 0xEF53;

const LOG_BLOCK_SIZE_MAX: u32 = 6; // 64 KiB
const GOOD_OLD_INODE_SIZE: u16 = 128;
const GOOD_OLD_FIRST_INO: u32 = 11;
const DESC_SIZE_MAX: u16 = 1024;
/// The most block groups of a volume. 16 TiB of 4 KiB blocks are 131,072.
const GROUPS_MAX: u64 = 1 << 22;

/// A validated superblock.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub(super) features: Features,
    /// Bytes per block: 1024 to 65536.
    pub(super) block_size: u32,
    /// Number of blocks in the filesystem.
    pub(super) blocks_count: u64,
    pub(super) free_blocks_count: u64,
    pub(super) first_data_block: u32,
    pub(super) blocks_per_group: u32,
    /// Blocks per cluster; 1 without `bigalloc`.
    pub(super) cluster_ratio: u32,
    pub(super) inodes_count: u32,
    pub(super) inodes_per_group: u32,
    /// Inodes below this one belong to the filesystem, except the root's.
    pub(super) first_ino: u32,
    /// Size of an inode in bytes: 128 up to a block.
    pub(super) inode_size: u16,
    /// Size of a group descriptor in bytes: 32 to 1024.
    pub(super) desc_size: u16,
    pub(super) first_meta_bg: u32,
    pub(super) groups_count: u32,
    pub(super) backup_bgs: [u32; 2],
    pub(super) uuid: [u8; 16],
    /// Up to the first NUL.
    pub(super) volume_name: Vec<u8>,
    /// The journal's inode; 0 if it is not on this volume.
    pub(super) journal_inum: u32,
    /// `s_jnl_blocks`, if it is a copy of the journal inode's `i_block` and size.
    pub(super) jnl_blocks: Option<[u8; 68]>,
    /// The seed of all metadata checksums of the volume.
    pub(super) csum_seed: u32,
    /// `s_state`: 1 cleanly unmounted, 2 errors found, 4 orphans being recovered.
    pub(super) state: u16,
    /// Warnings: problems that do not stop the reader.
    pub(super) warnings: Vec<String>,
}

/// Returns true if the bytes (at least 1024 of them, from byte 1024 of the volume) contain the magic number.
pub(super) fn has_magic(bytes: &[u8]) -> bool {
    le16(bytes, MAGIC_AT) == MAGIC
}

/// Fails if the superblock from byte `offset` should have a checksum and it does not match.
pub(super) fn check_sum(bytes: &[u8], offset: u64) -> Result<()> {
    let (found, right) = (le32(bytes, 0x3FC), crc32c(!0, &bytes[..0x3FC]));
    if le32(bytes, 0x64) & ro_compat::METADATA_CSUM == 0 || fits(found, right) {
        return Ok(());
    }
    let problem = format!("is {found:#010x}, expected {right:#010x}: the superblock is damaged");
    Err(corrupt(offset, "s_checksum", 0x3FC, problem))
}

fn corrupt(offset: u64, field: &'static str, field_at: usize, problem: String) -> Error {
    at("ext superblock").field(field).byte(offset + field_at as u64).corrupt(problem)
}

impl Superblock {
    /// Parses the 1024 bytes of a superblock from byte `offset` of the volume.
    ///
    /// A wrong checksum is only a warning: every count is checked against its limits here, and the structures that it
    /// points to have checksums of their own.
    pub(super) fn parse(bytes: &[u8], offset: u64) -> Result<Self> {
        let bad = |field, field_at, problem| Err(corrupt(offset, field, field_at, problem));
        if le16(bytes, MAGIC_AT) != MAGIC {
            return bad("s_magic", MAGIC_AT, format!("is {:#x}, expected {MAGIC:#x}", le16(bytes, MAGIC_AT)));
        }
        let mut warnings = Vec::new();
        let rev_level = le32(bytes, 0x4C);
        let dynamic = rev_level > 0;
        if rev_level > 1 {
            warnings.push(format!(
                "s_rev_level of the superblock is {rev_level}, newer than the latest known (1)"
            ));
        }
        // The kernel uses the features even on a volume of revision 0.
        let features =
            Features { compat: le32(bytes, 0x5C), incompat: le32(bytes, 0x60), ro_compat: le32(bytes, 0x64) };
        if !dynamic && features != Features::default() {
            warnings.push(format!(
                "s_rev_level of the superblock is 0, which allows no features, but it has some: {}",
                features.names().join(", ")
            ));
        }
        if features.has_incompat(incompat::JOURNAL_DEV) {
            return Err(at("ext superblock")
                .field("s_feature_incompat")
                .byte(offset + 0x60)
                .unsupported("the volume is an external journal, which contains no files"));
        }
        let unreadable = features.unreadable();
        if !unreadable.is_empty() {
            return Err(at("ext superblock").field("s_feature_incompat").byte(offset + 0x60).unsupported(
                format!("the volume uses features that mif does not read: {}", unreadable.join(", ")),
            ));
        }

        let log_block_size = le32(bytes, 0x18);
        if log_block_size > LOG_BLOCK_SIZE_MAX {
            return bad("s_log_block_size", 0x18, format!("is {log_block_size}, expected 0 to 6"));
        }
        let block_size = 1024 << log_block_size;
        let bit64 = features.has_incompat(incompat::BIT64);
        let high = |at| if bit64 { u64::from(le32(bytes, at)) << 32 } else { 0 };
        let blocks_count = u64::from(le32(bytes, 0x4)) | high(0x150);
        let free_blocks_count = u64::from(le32(bytes, 0xC)) | high(0x158);
        let first_data_block = le32(bytes, 0x14);
        if u64::from(first_data_block) >= blocks_count {
            let problem = format!("is {first_data_block}, but the volume has {blocks_count} blocks");
            return bad("s_first_data_block", 0x14, problem);
        }
        if blocks_count.checked_mul(u64::from(block_size)).is_none() {
            return bad("s_blocks_count", 0x4, format!("is {blocks_count} blocks of {block_size} bytes"));
        }

        let bits_in_block = block_size * 8;
        let blocks_per_group = le32(bytes, 0x20);
        let cluster_ratio = if features.has_ro_compat(ro_compat::BIGALLOC) {
            let log = le32(bytes, 0x1C);
            if log < log_block_size || log > 29 {
                return bad("s_log_cluster_size", 0x1C, format!("is {log}, expected {log_block_size} to 29"));
            }
            1 << (log - log_block_size)
        } else {
            1
        };
        let per_group_max = u64::from(bits_in_block) * u64::from(cluster_ratio);
        if blocks_per_group == 0 || u64::from(blocks_per_group) > per_group_max {
            let problem = format!("is {blocks_per_group}, expected 1 to {per_group_max}");
            return bad("s_blocks_per_group", 0x20, problem);
        }
        let groups = (blocks_count - u64::from(first_data_block)).div_ceil(u64::from(blocks_per_group));
        if groups > GROUPS_MAX {
            return Err(at("ext superblock").field("s_blocks_count").byte(offset + 4).limit(format!(
                "{blocks_count} blocks need {groups} block groups, over the limit of {GROUPS_MAX}"
            )));
        }
        let groups_count = u32::try_from(groups).expect("held against a limit");

        let inode_size = if dynamic { le16(bytes, 0x58) } else { GOOD_OLD_INODE_SIZE };
        if inode_size < GOOD_OLD_INODE_SIZE
            || u32::from(inode_size) > block_size
            || !inode_size.is_power_of_two()
        {
            let problem = format!("is {inode_size}, expected a power of two from 128 to {block_size}");
            return bad("s_inode_size", 0x58, problem);
        }
        let inodes_per_group = le32(bytes, 0x28);
        if inodes_per_group == 0 || inodes_per_group > bits_in_block {
            let problem = format!("is {inodes_per_group}, expected 1 to {bits_in_block}");
            return bad("s_inodes_per_group", 0x28, problem);
        }
        let inodes_count = le32(bytes, 0x0);
        if u64::from(inodes_count) > groups * u64::from(inodes_per_group) || inodes_count < 2 {
            let problem = format!(
                "is {inodes_count}, but {groups} groups of {inodes_per_group} inodes have room for fewer"
            );
            return bad("s_inodes_count", 0x0, problem);
        }
        let desc_size = if bit64 { le16(bytes, 0xFE) } else { 32 };
        if bit64 && (!(64..=DESC_SIZE_MAX).contains(&desc_size) || !desc_size.is_power_of_two()) {
            return bad("s_desc_size", 0xFE, format!("is {desc_size}, expected 64 to 1024, a power of two"));
        }

        let uuid: [u8; 16] = bytes[0x68..0x78].try_into().expect("16 bytes");
        let metadata_csum = features.has_ro_compat(ro_compat::METADATA_CSUM);
        if metadata_csum {
            if bytes[0x175] != 1 {
                return Err(at("ext superblock")
                    .field("s_checksum_type")
                    .byte(offset + 0x175)
                    .unsupported(format!("is {}, expected 1 (CRC-32C)", bytes[0x175])));
            }
            if let Err(error) = check_sum(bytes, offset) {
                warnings.push(format!("{error}, so the superblock may be wrong"));
            }
        }
        let csum_seed =
            if features.has_incompat(incompat::CSUM_SEED) { le32(bytes, 0x270) } else { crc32c(!0, &uuid) };
        let name = &bytes[0x78..0x88];
        Ok(Superblock {
            features,
            block_size,
            blocks_count,
            free_blocks_count,
            first_data_block,
            blocks_per_group,
            cluster_ratio,
            inodes_count,
            inodes_per_group,
            first_ino: if dynamic { le32(bytes, 0x54).max(GOOD_OLD_FIRST_INO) } else { GOOD_OLD_FIRST_INO },
            inode_size,
            desc_size,
            first_meta_bg: le32(bytes, 0x104),
            groups_count,
            backup_bgs: [le32(bytes, 0x24C), le32(bytes, 0x250)],
            uuid,
            volume_name: name.split(|b| *b == 0).next().unwrap_or_default().to_vec(),
            journal_inum: le32(bytes, 0xE0),
            jnl_blocks: (bytes[0xFD] == 1).then(|| bytes[0x10C..0x150].try_into().expect("68 bytes")),
            csum_seed,
            state: le16(bytes, 0x3A),
            warnings,
        })
    }

    /// Returns true if structures carry CRC-32C checksums.
    pub(super) fn metadata_csum(&self) -> bool {
        self.features.has_ro_compat(ro_compat::METADATA_CSUM)
    }

    /// Returns true if group descriptors carry the older CRC-16.
    pub(super) fn gdt_csum(&self) -> bool {
        !self.metadata_csum() && self.features.has_ro_compat(ro_compat::GDT_CSUM)
    }

    /// Returns true if the volume has a journal, here or elsewhere.
    pub(super) fn has_journal(&self) -> bool {
        self.features.has_compat(compat::HAS_JOURNAL)
    }

    /// Returns true if the journal must be replayed before the volume is read.
    pub(super) fn needs_recovery(&self) -> bool {
        self.features.has_incompat(incompat::RECOVER)
    }

    /// Returns true if `group` holds a copy of the superblock and of the descriptors.
    pub(super) fn has_super(&self, group: u32) -> bool {
        self.super_groups().take_while(|copy| *copy <= group).any(|copy| copy == group)
    }

    /// Returns the groups that hold copies of the superblock and of the descriptors, ascending: 0 is the first.
    pub(super) fn super_groups(&self) -> impl Iterator<Item = u32> {
        let groups: Box<dyn Iterator<Item = u32>> = if self.features.has_compat(compat::SPARSE_SUPER2) {
            let mut groups = self.backup_bgs;
            groups.sort_unstable();
            Box::new(std::iter::once(0).chain(groups.into_iter().filter(|group| *group != 0)))
        } else if self.features.has_ro_compat(ro_compat::SPARSE_SUPER) {
            // 0, 1, and the powers of 3, 5 and 7.
            let mut groups = vec![0, 1];
            for base in [3, 5, 7_u32] {
                groups.extend(std::iter::successors(Some(base), |power| power.checked_mul(base)));
            }
            groups.sort_unstable();
            Box::new(groups.into_iter())
        } else {
            Box::new(0..)
        };
        let count = self.groups_count;
        groups.take_while(move |group| *group < count)
    }

    /// Returns the first block of `group`.
    pub(super) fn first_block(&self, group: u32) -> u64 {
        u64::from(self.first_data_block) + u64::from(group) * u64::from(self.blocks_per_group)
    }

    /// Returns the filesystem's size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.blocks_count * u64::from(self.block_size)
    }

    /// Returns the UUID as `blkid` prints it, unless it is all zeros.
    pub(super) fn uuid_text(&self) -> Option<String> {
        (self.uuid != [0; 16]).then(|| uuid::text(&self.uuid))
    }
}
