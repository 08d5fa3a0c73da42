//! The parameters of a planned ext volume: new ones, or those of an original's superblock.

use std::ops::RangeInclusive;

use super::feature_list::{DROPPED, REFUSED, change};
use super::hash::{HashVersion, Hasher};
use crate::bytes::{le16, le32};
use crate::error::{Error, Result, at};
use crate::fs::ext4::checksum::crc32c;
use crate::fs::ext4::features::{Features, compat, incompat, ro_compat};
use crate::fs::ext4::superblock::{self, Superblock};
use crate::fs::plan::put;
use crate::source::Source;

const SIGNED_HASH: u32 = 1;
const UNSIGNED_HASH: u32 = 2;
const JOURNAL_MIN: u64 = 1024;
/// The limit of the descriptors' 16-bit counts.
const BLOCKS_PER_GROUP_MAX: u32 = 65_528;
/// Inodes below this one belong to the filesystem.
const FIRST_INO: u32 = 11;

/// The parameters of an ext2, ext3 or ext4 volume.
///
/// Everything that no field describes, such as the RAID stride or the owner of the reserved blocks, is kept from the
/// original's superblock.
#[derive(Debug, Clone)]
pub struct Params {
    /// Number of blocks in the filesystem.
    pub blocks: u64,
    /// Bytes per block: 1024 to 65536.
    pub block_size: u32,
    /// Size of an inode in bytes: 128 up to a block.
    pub inode_size: u16,
    /// Blocks per group.
    pub blocks_per_group: u32,
    /// Inodes per group.
    pub inodes_per_group: u32,
    /// The number of groups that keep their inode tables together, as a power of two (`flex_bg`).
    pub log_groups_per_flex: u8,
    /// The first meta group: descriptor blocks before it are stored the old way (`meta_bg`).
    pub first_meta_bg: u32,
    /// Blocks in every group with a superblock that are reserved for more descriptors (`resize_inode`).
    pub reserved_gdt_blocks: u16,
    /// The groups with a copy of the superblock (`sparse_super2`).
    pub backup_bgs: [u32; 2],
    /// Number of blocks in the journal (`has_journal`), at least 1024.
    pub journal_blocks: u32,
    /// Number of blocks that only the superuser may fill.
    pub reserved_blocks: u64,
    /// The volume's UUID.
    pub uuid: [u8; 16],
    /// The label: at most 16 bytes.
    pub label: Vec<u8>,
    /// The last mount point: at most 63 bytes.
    pub last_mounted: Vec<u8>,
    /// The seed of the hash of directory entries.
    pub hash_seed: [u8; 16],
    /// The hash of new directories.
    pub hash_version: HashVersion,
    /// The seed of metadata checksums, with `metadata_csum_seed`.
    pub checksum_seed: u32,
    /// `s_errors`: what to do on errors (1 continue, 2 remount read-only, 3 panic).
    pub errors: u16,
    /// `s_default_mount_opts`.
    pub default_mount_opts: u32,
    /// `s_mount_opts`: at most 63 bytes.
    pub mount_opts: Vec<u8>,
    /// `s_mkfs_time`, in seconds since 1970, like the other times.
    pub mkfs_time: u32,
    /// `s_mtime`: the time of the last mount.
    pub mount_time: u32,
    /// `s_wtime`: the time of the last write.
    pub write_time: u32,
    /// `s_lastcheck`.
    pub last_check: u32,
    /// The first 1024 bytes of the volume: boot code, or empty.
    pub boot: Vec<u8>,
    pub(super) features: Features,
    pub(super) desc_size: u16,
    pub(super) dynamic: bool,
    /// The superblock of the original, for everything that no field describes.
    pub(super) template: Box<[u8; superblock::SIZE]>,
    pub(super) notes: Vec<String>,
}

fn bad(problem: impl Into<String>) -> Error {
    at("ext parameters").unsupported(problem)
}

impl Params {
    /// Returns the parameters that `mke2fs` chooses for a volume of `size` bytes: of `kind` `ext2`, `ext3` or `ext4`,
    /// with `block_size`, one inode for every 16 KiB, and `features` set or (`^`) cleared: `"^has_journal,meta_bg"`.
    /// The UUID, the hash seed and all times are zero.
    pub fn new(kind: &str, size: u64, block_size: u32, features: &str) -> Result<Self> {
        let base = match kind {
            "ext2" => "",
            "ext3" => "has_journal",
            "ext4" => {
                "has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize,metadata_csum_seed"
            }
            _ => return Err(bad(format!("\"{kind}\" is not ext2, ext3 or ext4"))),
        };
        if !block_size.is_power_of_two() || !(1024..=65536).contains(&block_size) {
            return Err(bad(format!(
                "blocks of {block_size} bytes: expected a power of two from 1024 to 65536"
            )));
        }
        let common = "sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr";
        let mut set = Features::default();
        for list in [common, base, features] {
            set = change(set, list)?;
        }
        let mut template = Box::new([0; superblock::SIZE]);
        put::le16(&mut *template, 0x36, u16::MAX); // s_max_mnt_count: never
        put::le32(&mut *template, 0x160, if set.has_compat(compat::DIR_INDEX) { SIGNED_HASH } else { 0 });
        let blocks = size / u64::from(block_size);
        let journal =
            [(32_768, 1024), (262_144, 4096), (524_288, 8192), (4_194_304, 16_384), (8_388_608, 32_768)]
                .into_iter()
                .find_map(|(below, journal)| (blocks < below).then_some(journal))
                .unwrap_or(65_536);
        let mut params = Params {
            blocks,
            block_size,
            inode_size: 256,
            blocks_per_group: (block_size * 8).min(BLOCKS_PER_GROUP_MAX),
            inodes_per_group: 0,
            log_groups_per_flex: 4,
            first_meta_bg: 0,
            reserved_gdt_blocks: 0,
            backup_bgs: [0; 2],
            journal_blocks: journal,
            reserved_blocks: blocks / 20,
            uuid: [0; 16],
            label: Vec::new(),
            last_mounted: Vec::new(),
            hash_seed: [0; 16],
            hash_version: HashVersion::HalfMd4,
            checksum_seed: crc32c(!0, &[0; 16]),
            errors: 1,
            default_mount_opts: 0xC,
            mount_opts: Vec::new(),
            mkfs_time: 0,
            mount_time: 0,
            write_time: 0,
            last_check: 0,
            boot: Vec::new(),
            features: set,
            desc_size: if set.has_incompat(incompat::BIT64) { 64 } else { 32 },
            dynamic: true,
            template,
            notes: Vec::new(),
        };
        params.set_inodes(size / 16_384);
        params.fit_last_group();
        if params.has_compat(compat::RESIZE_INODE) {
            params.reserved_gdt_blocks = params.room_to_grow();
        }
        Ok(params)
    }

    /// Returns the parameters of the volume with this superblock (1024 bytes, from byte 1024 of the volume).
    ///
    /// Fails with `Unsupported` if it uses features that a plan cannot keep. The plan's notes list those that are
    /// dropped.
    pub fn from_superblock(superblock: &[u8]) -> Result<Self> {
        if superblock.len() < superblock::SIZE {
            return Err(at("ext superblock").corrupt(format!("has {} bytes", superblock.len())));
        }
        let bytes = &superblock[..superblock::SIZE];
        let sb = Superblock::parse(bytes, superblock::OFFSET)?;
        let text = |range: RangeInclusive<usize>| {
            bytes[range].split(|b| *b == 0).next().unwrap_or_default().to_vec()
        };
        if le32(bytes, 0x48) == 1 {
            return Err(bad("the volume was made for GNU Hurd, whose inodes differ"));
        }
        let names = sb.features.names();
        let refused: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|n| REFUSED.contains(n) || n.starts_with("FEATURE_"))
            .collect();
        if !refused.is_empty() {
            return Err(bad(format!(
                "the volume has features that mif cannot write: {}",
                refused.join(", ")
            )));
        }
        // With bigalloc it differs, so the features are checked first.
        if sb.first_data_block != u32::from(sb.block_size == 1024) {
            return Err(bad(format!("the first data block of the volume is {}", sb.first_data_block)));
        }
        let mut features = sb.features;
        let mut notes = Vec::new();
        for name in names.iter().filter(|n| DROPPED.contains(&n.as_str())) {
            features = change(features, &format!("^{name}"))?;
            notes.push(format!("the feature {name} was dropped"));
        }
        let has_journal = features.has_compat(compat::HAS_JOURNAL);
        if has_journal && le32(bytes, 0xE0) == 0 {
            return Err(bad("the journal of the volume is on another device"));
        }
        // The size of the journal comes from the copy of its inode, which volumes without a journal lack.
        let journal_bytes = if bytes[0xFD] == 1 { u64::from(le32(bytes, 0x10C + 64)) } else { 0 };
        let journal_blocks = match journal_bytes / u64::from(sb.block_size) {
            ..JOURNAL_MIN if has_journal => {
                notes.push("the size of the journal is unknown; the new journal has 4096 blocks".to_owned());
                4096
            }
            blocks => blocks as u32,
        };
        let hash_version = match bytes[0xFC] {
            0 | 3 => HashVersion::Legacy,
            2 | 5 => HashVersion::Tea,
            _ => HashVersion::HalfMd4,
        };
        let high =
            |at| if features.has_incompat(incompat::BIT64) { u64::from(le32(bytes, at)) << 32 } else { 0 };
        Ok(Params {
            blocks: sb.blocks_count,
            block_size: sb.block_size,
            inode_size: sb.inode_size,
            blocks_per_group: sb.blocks_per_group,
            inodes_per_group: sb.inodes_per_group,
            log_groups_per_flex: bytes[0x174].min(31),
            first_meta_bg: sb.first_meta_bg,
            reserved_gdt_blocks: le16(bytes, 0xCE),
            backup_bgs: sb.backup_bgs,
            journal_blocks,
            reserved_blocks: u64::from(le32(bytes, 0x8)) | high(0x154),
            uuid: sb.uuid,
            label: text(0x78..=0x87),
            last_mounted: text(0x88..=0xC7),
            hash_seed: bytes[0xEC..0xFC].try_into().expect("16 bytes"),
            hash_version,
            checksum_seed: sb.csum_seed,
            errors: le16(bytes, 0x3C),
            default_mount_opts: le32(bytes, 0x100),
            mount_opts: text(0x200..=0x23F),
            mkfs_time: le32(bytes, 0x108),
            mount_time: le32(bytes, 0x2C),
            write_time: le32(bytes, 0x30),
            last_check: le32(bytes, 0x40),
            boot: Vec::new(),
            features,
            desc_size: sb.desc_size,
            // A superblock of revision 0 has no features; some still have flags set, and then the new one has revision
            // 1.
            dynamic: le32(bytes, 0x4C) > 0 || features != Features::default(),
            template: Box::new(bytes.try_into().expect("1024 bytes")),
            notes,
        })
    }

    /// Reads the parameters of a volume: those of its superblock, and its boot block.
    pub fn from_volume(volume: &dyn Source) -> Result<Self> {
        let mut params = Self::from_superblock(&volume.read_vec(superblock::OFFSET, superblock::SIZE)?)?;
        params.boot = volume.read_vec(0, superblock::OFFSET as usize)?;
        Ok(params)
    }

    /// Changes the size, in bytes; dependent numbers keep their share. The number of inodes per group stays.
    pub fn resize(&mut self, size: u64) {
        let (old_blocks, old_descriptors) = (self.blocks, self.desc_blocks());
        self.blocks = size / u64::from(self.block_size);
        self.fit_last_group();
        let share =
            u128::from(self.reserved_blocks) * u128::from(self.blocks) / u128::from(old_blocks.max(1));
        self.reserved_blocks = share as u64;
        if self.has_compat(compat::RESIZE_INODE) {
            let before = old_descriptors + u32::from(self.reserved_gdt_blocks);
            let left = before.saturating_sub(self.desc_blocks()).min(self.block_size / 4);
            self.reserved_gdt_blocks = left as u16;
        }
        self.first_meta_bg = self.first_meta_bg.min(self.desc_blocks());
    }

    /// Sets the number of inodes of the whole volume, rounded up to whole blocks of them in each group.
    pub fn set_inodes(&mut self, inodes: u64) {
        let inodes = inodes.max(u64::from(FIRST_INO) + 5);
        let per_block = u64::from(self.block_size / u32::from(self.inode_size));
        let most = (u64::from(self.block_size) * 8).min(65_536 - per_block);
        let wanted = inodes.div_ceil(u64::from(self.groups())).next_multiple_of(per_block);
        self.inodes_per_group = (wanted.next_multiple_of(8)).min(most / 8 * 8) as u32;
    }

    /// Sets features, or clears those with `^` before their names: `"^has_journal,meta_bg"`.
    pub fn change_features(&mut self, list: &str) -> Result<()> {
        self.features = change(self.features, list)?;
        Ok(())
    }

    /// Returns the size of the filesystem in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blocks * u64::from(self.block_size)
    }

    /// Returns the names of the features, as `dumpe2fs` prints them.
    #[must_use]
    pub fn features(&self) -> Vec<String> {
        self.features.names()
    }

    /// Returns the number of inodes of the whole volume.
    #[must_use]
    pub fn inodes(&self) -> u64 {
        u64::from(self.groups()) * u64::from(self.inodes_per_group)
    }

    pub(super) fn has_compat(&self, flag: u32) -> bool {
        self.features.has_compat(flag)
    }

    pub(super) fn has_incompat(&self, flag: u32) -> bool {
        self.features.has_incompat(flag)
    }

    pub(super) fn has_ro_compat(&self, flag: u32) -> bool {
        self.features.has_ro_compat(flag)
    }

    pub(super) fn metadata_csum(&self) -> bool {
        self.has_ro_compat(ro_compat::METADATA_CSUM)
    }

    /// Returns true if descriptors have checksums, and therefore flags and counts of unused parts.
    pub(super) fn has_desc_csum(&self) -> bool {
        self.metadata_csum() || self.has_ro_compat(ro_compat::GDT_CSUM)
    }

    /// Returns the seed of all metadata checksums.
    pub(super) fn csum_seed(&self) -> u32 {
        if self.has_incompat(incompat::CSUM_SEED) { self.checksum_seed } else { crc32c(!0, &self.uuid) }
    }

    /// Returns the first block of the filesystem.
    pub(super) fn first_data_block(&self) -> u32 {
        u32::from(self.block_size == 1024)
    }

    pub(super) fn groups(&self) -> u32 {
        let blocks = self.blocks.saturating_sub(u64::from(self.first_data_block()));
        u32::try_from(blocks.div_ceil(u64::from(self.blocks_per_group.max(1)))).unwrap_or(u32::MAX)
    }

    pub(super) fn desc_blocks(&self) -> u32 {
        self.groups().div_ceil(self.block_size / u32::from(self.desc_size))
    }

    pub(super) fn first_ino(&self) -> u32 {
        if self.dynamic { le32(&*self.template, 0x54).max(FIRST_INO) } else { FIRST_INO }
    }

    /// Returns the size of the extra fields of an inode, past its first 128 bytes and before the attributes.
    pub(super) fn extra_isize(&self) -> u16 {
        match self.inode_size {
            128 => 0,
            _ => match le16(&*self.template, 0x15E) {
                wanted @ 28..=92 if wanted % 4 == 0 && 128 + wanted <= self.inode_size => wanted,
                _ => 32,
            },
        }
    }

    pub(super) fn hasher(&self) -> Hasher {
        let word = |i: usize| le32(&self.hash_seed, i * 4);
        let flags = le32(&*self.template, 0x160);
        Hasher {
            version: self.hash_version,
            unsigned: flags & UNSIGNED_HASH != 0 && flags & SIGNED_HASH == 0,
            seed: [word(0), word(1), word(2), word(3)],
        }
    }

    /// Drops a last group that has hardly any room beyond its own metadata, as `mke2fs` does.
    fn fit_last_group(&mut self) {
        const LEAST: u64 = 50;
        let first = u64::from(self.first_data_block());
        let rest = self.blocks.saturating_sub(first) % u64::from(self.blocks_per_group);
        let table =
            u64::from(self.inodes_per_group) * u64::from(self.inode_size) / u64::from(self.block_size);
        let descriptors = u64::from(self.desc_blocks()) + u64::from(self.reserved_gdt_blocks);
        if rest > 0 && self.groups() > 1 && rest < 3 + descriptors + table + LEAST {
            self.blocks -= rest;
        }
    }

    /// Returns the number of descriptor blocks for a volume a thousand times as large.
    fn room_to_grow(&self) -> u16 {
        let most = (self.blocks * 1024).min(u64::from(u32::MAX));
        let groups = most.div_ceil(u64::from(self.blocks_per_group));
        let per_block = u64::from(self.block_size) / u64::from(self.desc_size);
        let blocks = groups.div_ceil(per_block).saturating_sub(u64::from(self.desc_blocks()));
        blocks.min(u64::from(self.block_size / 4)) as u16
    }

    /// Fails unless the numbers make a volume.
    pub(super) fn check(&self) -> Result<()> {
        let per_block = self.block_size / u32::from(self.inode_size.max(1));
        let inodes = self.inodes();
        let groups = self.groups();
        let has = |flag| self.has_incompat(flag);
        if self.label.len() > 16 || self.last_mounted.len() > 63 || self.mount_opts.len() > 63 {
            return Err(bad("the label has over 16 bytes, or the mount path or the mount options over 63"));
        }
        if !self.inode_size.is_power_of_two() || self.inode_size < 128 || per_block == 0 {
            return Err(bad(format!("invalid inode size: {} bytes", self.inode_size)));
        }
        if self.blocks >> 32 != 0 && !has(incompat::BIT64) {
            return Err(bad(format!("{} blocks need the feature 64bit", self.blocks)));
        }
        if groups == 0 || self.blocks < 8 {
            return Err(bad(format!("a volume of {} blocks is too small", self.blocks)));
        }
        if self.blocks_per_group < 256
            || self.blocks_per_group > (self.block_size * 8).min(BLOCKS_PER_GROUP_MAX)
            || !self.blocks_per_group.is_multiple_of(8)
        {
            return Err(bad(format!("invalid number of blocks in a group: {}", self.blocks_per_group)));
        }
        if self.inodes_per_group == 0
            || self.inodes_per_group > self.block_size * 8
            || !self.inodes_per_group.is_multiple_of(8)
            || inodes > u64::from(u32::MAX)
        {
            return Err(bad(format!(
                "invalid number of inodes in a group: {} in each of {groups}",
                self.inodes_per_group
            )));
        }
        if self.metadata_csum() && self.has_ro_compat(ro_compat::GDT_CSUM) {
            return Err(bad("metadata_csum and uninit_bg exclude each other"));
        }
        if self.has_compat(compat::RESIZE_INODE) && has(incompat::META_BG) {
            return Err(bad("resize_inode and meta_bg exclude each other"));
        }
        if self.has_compat(compat::HAS_JOURNAL) && u64::from(self.journal_blocks) < JOURNAL_MIN {
            return Err(bad(format!(
                "the journal has {} blocks, but needs at least {JOURNAL_MIN}",
                self.journal_blocks
            )));
        }
        let refused: Vec<String> =
            self.features.names().into_iter().filter(|n| REFUSED.contains(&n.as_str())).collect();
        if !refused.is_empty() {
            return Err(bad(format!("features that mif cannot write: {}", refused.join(", "))));
        }
        Ok(())
    }
}
