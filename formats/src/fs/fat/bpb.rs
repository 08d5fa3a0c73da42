//! The boot sector's BIOS parameter block (FAT specification 3), and the geometry derived from it.

use std::ops::Range;

use crate::bytes::{le16, le32};
use crate::error::{At, Result, at};

/// The part of the boot sector that holds it, in bytes.
pub(super) const SIZE: usize = 512;

/// Size of a directory entry in bytes.
pub(super) const ENTRY_SIZE: usize = 32;

/// The number of the first cluster; lower numbers are marks.
pub(super) const FIRST_CLUSTER: u32 = 2;

/// The most clusters of each kind. With more clusters, FAT12 and FAT16 become the next kind.
const MAX_FAT12: u64 = 4084;
const MAX_FAT16: u64 = 65524;
const MAX_FAT32: u64 = 0x0fff_fff5;

/// The kind of FAT: the width of a table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Fat12,
    Fat16,
    Fat32,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Fat12 => "fat12",
            Kind::Fat16 => "fat16",
            Kind::Fat32 => "fat32",
        }
    }

    fn entry_bits(self) -> u64 {
        match self {
            Kind::Fat12 => 12,
            Kind::Fat16 => 16,
            Kind::Fat32 => 32,
        }
    }

    fn max_clusters(self) -> u64 {
        match self {
            Kind::Fat12 => MAX_FAT12,
            Kind::Fat16 => MAX_FAT16,
            Kind::Fat32 => MAX_FAT32,
        }
    }
}

/// The validated boot sector, with positions in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bpb {
    pub(super) kind: Kind,
    pub(super) bytes_per_sector: u32,
    /// In bytes.
    pub(super) cluster_size: u32,
    /// The number of clusters: as many as both the volume and its FAT have room for.
    pub(super) cluster_count: u32,
    /// Position of the first FAT.
    pub(super) fat_start: u64,
    /// Length of one FAT.
    pub(super) fat_len: u64,
    pub(super) num_fats: u8,
    /// FAT12 and FAT16: the root directory.
    pub(super) fixed_root: Range<u64>,
    /// FAT32: the first cluster of the root directory.
    pub(super) root_cluster: u32,
    /// Position of cluster 2.
    pub(super) data_start: u64,
    /// Length of the filesystem.
    pub(super) size: u64,
    /// FAT32: position of the sector with the free counts.
    pub(super) fs_info: Option<u64>,
    /// FAT32: which FAT is active (bits 0 to 3), and whether it is the only one that is updated (bit 7).
    pub(super) ext_flags: u16,
    /// True if the volume was not cleanly unmounted.
    pub(super) dirty: bool,
    /// The serial number, if there is one.
    pub(super) vol_id: Option<u32>,
    /// The label in the boot sector, which the one in the root directory overrides.
    pub(super) vol_lab: Option<[u8; 11]>,
}

impl Bpb {
    /// Parses the first 512 bytes of a volume, with the checks that the Linux kernel makes when mounting.
    pub(super) fn parse(sector: &[u8]) -> Result<Self> {
        let field = |name: &'static str, byte: u64| -> At { at("FAT boot sector").field(name).byte(byte) };
        let bytes_per_sector = u32::from(le16(sector, 11));
        if !bytes_per_sector.is_power_of_two() || !(512..=4096).contains(&bytes_per_sector) {
            return Err(field("BPB_BytsPerSec", 11)
                .corrupt(format!("is {bytes_per_sector}, expected 512, 1024, 2048 or 4096")));
        }
        let sec_per_clus = u32::from(sector[13]);
        if !sec_per_clus.is_power_of_two() {
            return Err(
                field("BPB_SecPerClus", 13).corrupt(format!("is {sec_per_clus}, expected a power of 2"))
            );
        }
        let rsvd_sec_cnt = u64::from(le16(sector, 14));
        if rsvd_sec_cnt == 0 {
            return Err(field("BPB_RsvdSecCnt", 14).corrupt("is 0, expected at least 1"));
        }
        let num_fats = sector[16];
        if num_fats == 0 {
            return Err(field("BPB_NumFATs", 16).corrupt("is 0, expected at least 1"));
        }
        let root_ent_cnt = u64::from(le16(sector, 17));
        let sector_len = u64::from(bytes_per_sector);
        let root_len = root_ent_cnt * ENTRY_SIZE as u64;
        if !root_len.is_multiple_of(sector_len) {
            return Err(field("BPB_RootEntCnt", 17)
                .corrupt(format!("is {root_ent_cnt}, expected whole sectors of {bytes_per_sector} bytes")));
        }
        let media = sector[21];
        if media != 0xf0 && media < 0xf8 {
            return Err(
                field("BPB_Media", 21).corrupt(format!("is {media:#04x}, expected 0xf0, or 0xf8 to 0xff"))
            );
        }
        let (fat_sz16, fat_sz32) = (le16(sector, 22), le32(sector, 36));
        let is_fat32 = fat_sz16 == 0;
        let fat_sz = if is_fat32 { u64::from(fat_sz32) } else { u64::from(fat_sz16) };
        if fat_sz == 0 {
            return Err(field("BPB_FATSz32", 36).corrupt("is 0, and so is BPB_FATSz16"));
        }
        let (tot_sec16, tot_sec32) = (le16(sector, 19), le32(sector, 32));
        let tot_sec = if tot_sec16 == 0 { u64::from(tot_sec32) } else { u64::from(tot_sec16) };

        let fat_start = rsvd_sec_cnt * sector_len;
        let fat_len = fat_sz * sector_len;
        let root_start = fat_start + u64::from(num_fats) * fat_len;
        let data_start = root_start + root_len;
        let size = tot_sec * sector_len;
        let cluster_size = sec_per_clus * bytes_per_sector;
        let in_volume = size.saturating_sub(data_start) / u64::from(cluster_size);
        // The kind follows from the count of clusters, never from a label; but FAT32 is recognised by its empty 16-bit
        // field, because its fields are elsewhere.
        let kind = match in_volume {
            _ if is_fat32 => Kind::Fat32,
            ..=MAX_FAT12 => Kind::Fat12,
            _ => Kind::Fat16,
        };
        let in_fat = (fat_len * 8 / kind.entry_bits()).saturating_sub(u64::from(FIRST_CLUSTER));
        let count = in_volume.min(in_fat);
        if count == 0 || count > kind.max_clusters() {
            let (field_name, byte) = if tot_sec16 == 0 { ("BPB_TotSec32", 32) } else { ("BPB_TotSec16", 19) };
            return Err(field(field_name, byte).corrupt(format!(
                "is {tot_sec}, which leaves {count} clusters, expected 1 to {}",
                kind.max_clusters()
            )));
        }
        // The fields from the drive number on come after FAT32's own fields.
        let tail = if is_fat32 { 64 } else { 36 };
        let boot_sig = sector[tail + 2];
        Ok(Bpb {
            kind,
            bytes_per_sector,
            cluster_size,
            cluster_count: u32::try_from(count).expect("held against the kind's limit"),
            fat_start,
            fat_len,
            num_fats,
            fixed_root: root_start..data_start,
            root_cluster: if is_fat32 { le32(sector, 44) } else { 0 },
            data_start,
            size,
            fs_info: Some(u64::from(le16(sector, 48)) * sector_len).filter(|place| is_fat32 && *place > 0),
            ext_flags: if is_fat32 { le16(sector, 40) } else { 0 },
            dirty: sector[tail + 1] & 1 != 0,
            vol_id: matches!(boot_sig, 0x28 | 0x29).then(|| le32(sector, tail + 3)),
            vol_lab: (boot_sig == 0x29)
                .then(|| sector[tail + 7..tail + 18].try_into().expect("sliced to size")),
        })
    }

    /// Returns true if a cluster with this number exists.
    pub(super) fn has_cluster(&self, cluster: u32) -> bool {
        cluster >= FIRST_CLUSTER && cluster - FIRST_CLUSTER < self.cluster_count
    }

    /// Returns the position of an existing cluster.
    pub(super) fn cluster_place(&self, cluster: u32) -> u64 {
        self.data_start + u64::from(cluster - FIRST_CLUSTER) * u64::from(self.cluster_size)
    }

    /// Returns the position of the active FAT, unless its index is out of range.
    pub(super) fn active_fat(&self) -> Option<u64> {
        let index = if self.is_mirrored() { 0 } else { u64::from(self.ext_flags & 0xf) };
        (index < u64::from(self.num_fats)).then(|| self.fat_start + index * self.fat_len)
    }

    /// Returns how many bytes of a FAT describe existing clusters.
    pub(super) fn fat_used(&self) -> u64 {
        let entries = u64::from(FIRST_CLUSTER) + u64::from(self.cluster_count);
        (entries * self.kind.entry_bits()).div_ceil(8).min(self.fat_len)
    }

    /// Returns true if all FATs are kept identical.
    pub(super) fn is_mirrored(&self) -> bool {
        self.ext_flags & 0x80 == 0
    }
}
