//! The parameters of a planned FAT volume: new ones, or those of an original.

use std::sync::Arc;

use crate::bytes::{le16, le32};
use crate::error::{Result, at};
use crate::fs::Timestamp;
use crate::fs::fat::bpb::{self, Bpb, Kind};
use crate::fs::fat::dir::Slot;
use crate::fs::fat::{Fat, ROOT};
use crate::fs::plan::put;
use crate::source::Source;

/// The fewest clusters of a FAT16: the kind follows from the number of clusters alone.
pub(super) const FAT16_FROM: u64 = 4085;
/// The fewest clusters of a FAT32. Some systems read one with fewer; UEFI firmware (EDK II, FatOpenDevice) refuses it.
pub const FAT32_FROM: u64 = 65_525;
const FAT32_MAX: u64 = 0x0FFF_FFF5;
/// The largest cluster in bytes.
const CLUSTER_MAX: u32 = 32 << 10;

const LEAD_SIGNATURE: u32 = 0x4161_5252;
const STRUCT_SIGNATURE: u32 = 0x6141_7272;

/// The parameters of a FAT volume.
#[derive(Debug, Clone)]
pub struct Params {
    /// Number of sectors in the filesystem.
    pub sectors: u64,
    /// The serial number.
    pub volume_id: u32,
    /// The label, in the bytes of a short name padded with spaces.
    pub label: Option<[u8; 11]>,
    /// The time at which the label was written.
    pub label_written: Option<Timestamp>,
    /// All sectors before the first FAT: boot code, FSInfo, boot loader data. The boot sector fields that the other
    /// parameters cover are updated.
    pub reserved: Vec<u8>,
    /// Bytes per sector.
    pub bytes_per_sector: u32,
    /// Sectors per cluster.
    pub sectors_per_cluster: u32,
    /// Number of FAT copies.
    pub num_fats: u8,
    /// Capacity of the root directory in entries; 0 on FAT32.
    pub root_entries: u32,
    /// Sectors per FAT.
    pub sectors_per_fat: u32,
    pub(super) kind: Kind,
    pub(super) notes: Vec<String>,
    /// The label that `reserved` contains.
    old_label: Option<[u8; 11]>,
}

/// The positions of the parts of a volume, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) fat_start: u64,
    pub(super) fat_len: u64,
    pub(super) root_start: u64,
    pub(super) data_start: u64,
    pub(super) cluster_size: u64,
    pub(super) clusters: u64,
}

impl Params {
    /// Returns the parameters that `mkfs.fat` chooses for a volume of `size` bytes, of `kind` `fat12`, `fat16` or
    /// `fat32`, without boot code; the serial number is zero.
    pub fn new(kind: &str, size: u64) -> Result<Self> {
        let kind = match kind {
            "fat12" => Kind::Fat12,
            "fat16" => Kind::Fat16,
            "fat32" => Kind::Fat32,
            _ => {
                return Err(
                    at("FAT parameters").unsupported(format!("\"{kind}\" is not fat12, fat16 or fat32"))
                );
            }
        };
        let is_fat32 = kind == Kind::Fat32;
        let mut reserved = vec![0; 512 * if is_fat32 { 32 } else { 1 }];
        reserved[..11].copy_from_slice(if is_fat32 {
            b"\xEB\x58\x90mif     "
        } else {
            b"\xEB\x3C\x90mif     "
        });
        reserved[21] = 0xF8; // BPB_Media
        put::le16(&mut reserved, 24, 63); // BPB_SecPerTrk
        put::le16(&mut reserved, 26, 255); // BPB_NumHeads
        let tail = if is_fat32 { 64 } else { 36 };
        reserved[tail] = 0x80; // BS_DrvNum
        reserved[tail + 2] = 0x29; // BS_BootSig
        reserved[tail + 7..tail + 18].copy_from_slice(b"NO NAME    ");
        reserved[tail + 18..tail + 26].copy_from_slice(match kind {
            Kind::Fat12 => b"FAT12   ",
            Kind::Fat16 => b"FAT16   ",
            Kind::Fat32 => b"FAT32   ",
        });
        reserved[510..512].copy_from_slice(&[0x55, 0xAA]);
        if is_fat32 {
            put::le16(&mut reserved, 48, 1); // BPB_FSInfo
            put::le16(&mut reserved, 50, 6); // BPB_BkBootSec
            let mut info = vec![0; 512];
            put::le32(&mut info, 0, LEAD_SIGNATURE);
            put::le32(&mut info, 484, STRUCT_SIGNATURE);
            put::le32(&mut info, 508, 0xAA55_0000);
            reserved[512..1024].copy_from_slice(&info);
            reserved.copy_within(0..1024, 6 * 512);
        }
        let mut params = Params {
            sectors: size / 512,
            volume_id: 0,
            label: None,
            label_written: None,
            reserved,
            bytes_per_sector: 512,
            sectors_per_cluster: 1,
            num_fats: 2,
            root_entries: if is_fat32 { 0 } else { 512 },
            sectors_per_fat: 0,
            kind,
            notes: Vec::new(),
            old_label: None,
        };
        // Clusters are as small as their number allows, and on a large enough FAT32 at least 4 KiB.
        let clusters_max = match kind {
            Kind::Fat12 => FAT16_FROM - 1,
            Kind::Fat16 => FAT32_FROM - 1,
            Kind::Fat32 => FAT32_FROM * 64,
        };
        if is_fat32 && size > 260 << 20 {
            params.sectors_per_cluster = 8;
        }
        params.fit_fat();
        while params.geometry().clusters > clusters_max && params.sectors_per_cluster < 128 {
            params.sectors_per_cluster *= 2;
            params.fit_fat();
        }
        Ok(params)
    }

    /// Reads the parameters of an original volume.
    pub fn from_volume(volume: Arc<dyn Source>) -> Result<Self> {
        let boot = volume.read_vec(0, bpb::SIZE)?;
        let bpb = Bpb::parse(&boot)?;
        let fat = Fat::open(volume.clone())?;
        let (mut label, mut label_written) = (None, None);
        fat.scan(ROOT, &mut |_, slot| {
            if let (None, Slot::Label(entry)) = (label, slot) {
                (label, label_written) = (Some(entry.dir_name), entry.written);
            }
        })?;
        let mut notes = Vec::new();
        if !bpb.is_mirrored() {
            notes.push("all FATs are kept in sync now; only one was active before".to_owned());
        }
        // At most 65,535 sectors of 4 KiB.
        let reserved = volume.read_vec(0, bpb.fat_start as usize)?;
        Ok(Params {
            sectors: bpb.size / u64::from(bpb.bytes_per_sector),
            volume_id: bpb.vol_id.unwrap_or(0),
            label,
            label_written,
            reserved,
            bytes_per_sector: bpb.bytes_per_sector,
            sectors_per_cluster: bpb.cluster_size / bpb.bytes_per_sector,
            num_fats: bpb.num_fats,
            root_entries: ((bpb.fixed_root.end - bpb.fixed_root.start) / bpb::ENTRY_SIZE as u64) as u32,
            sectors_per_fat: (bpb.fat_len / u64::from(bpb.bytes_per_sector)) as u32,
            kind: bpb.kind,
            notes,
            old_label: label,
        })
    }

    /// Changes the size, in bytes. The cluster size stays, unless there would be more clusters than the kind of FAT can
    /// count.
    pub fn resize(&mut self, size: u64) {
        self.sectors = size / u64::from(self.bytes_per_sector);
        self.fit_fat();
        let clusters_max = match self.kind {
            Kind::Fat12 => FAT16_FROM - 1,
            Kind::Fat16 => FAT32_FROM - 1,
            Kind::Fat32 => FAT32_MAX,
        };
        // Not every system accepts larger clusters.
        let sectors_max = (CLUSTER_MAX / self.bytes_per_sector).max(self.sectors_per_cluster);
        let before = self.sectors_per_cluster;
        while self.clusters_in_volume() > clusters_max && self.sectors_per_cluster < sectors_max {
            self.sectors_per_cluster *= 2;
            self.fit_fat();
        }
        if self.sectors_per_cluster != before {
            let bytes = self.sectors_per_cluster * self.bytes_per_sector;
            self.notes.push(format!("clusters have {bytes} bytes now"));
        }
    }

    /// Returns the size of the filesystem in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.sectors * u64::from(self.bytes_per_sector)
    }

    /// Chooses the smallest FAT that covers all clusters.
    pub(super) fn fit_fat(&mut self) {
        let per_sector = u64::from(self.bytes_per_sector) * 8 / self.entry_bits();
        self.sectors_per_fat = 1;
        loop {
            let needed = (self.clusters_in_volume() + 2).div_ceil(per_sector).max(1) as u32;
            if needed <= self.sectors_per_fat {
                return;
            }
            // A larger FAT leaves fewer clusters: approach the needed size from below.
            self.sectors_per_fat += ((needed - self.sectors_per_fat) / 2).max(1);
        }
    }

    pub(super) fn entry_bits(&self) -> u64 {
        match self.kind {
            Kind::Fat12 => 12,
            Kind::Fat16 => 16,
            Kind::Fat32 => 32,
        }
    }

    pub(super) fn clusters_in_volume(&self) -> u64 {
        let geometry = self.parts();
        self.size().saturating_sub(geometry.data_start) / geometry.cluster_size
    }

    fn parts(&self) -> Geometry {
        let sector = u64::from(self.bytes_per_sector);
        let fat_start = self.reserved.len() as u64;
        let fat_len = u64::from(self.sectors_per_fat) * sector;
        let root_start = fat_start + u64::from(self.num_fats) * fat_len;
        let data_start = root_start + u64::from(self.root_entries) * bpb::ENTRY_SIZE as u64;
        let cluster_size = u64::from(self.sectors_per_cluster) * sector;
        Geometry { fat_start, fat_len, root_start, data_start, cluster_size, clusters: 0 }
    }

    pub(super) fn geometry(&self) -> Geometry {
        let parts = self.parts();
        let in_fat = (parts.fat_len * 8 / self.entry_bits()).saturating_sub(2);
        Geometry { clusters: self.clusters_in_volume().min(in_fat), ..parts }
    }

    /// Fails unless the numbers make a volume of its kind.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |problem: String| Err(at("FAT parameters").limit(problem));
        let in_volume = self.clusters_in_volume();
        let kind = self.kind.name();
        let right = match self.kind {
            Kind::Fat12 => 1..FAT16_FROM,
            Kind::Fat16 => FAT16_FROM..FAT32_FROM,
            Kind::Fat32 => 1..FAT32_MAX + 1,
        };
        if !right.contains(&in_volume) {
            return bad(format!(
                "a volume of {} bytes has {in_volume} clusters, but {kind} needs {} to {}",
                self.size(),
                right.start,
                right.end - 1
            ));
        }
        if self.sectors > u64::from(u32::MAX)
            || (self.kind != Kind::Fat32 && self.sectors_per_fat > u32::from(u16::MAX))
            || !self.reserved.len().is_multiple_of(self.bytes_per_sector as usize)
            || self.reserved.len() < bpb::SIZE
        {
            return bad(format!(
                "too many sectors: {} in all, {} in a FAT",
                self.sectors, self.sectors_per_fat
            ));
        }
        Ok(())
    }

    /// Returns the reserved sectors with updated fields, given how many clusters are in use.
    pub(super) fn reserved_bytes(&self, used: u64) -> Vec<u8> {
        let mut bytes = self.reserved.clone();
        let sector = self.bytes_per_sector as usize;
        self.put_boot_fields(&mut bytes);
        if self.kind != Kind::Fat32 {
            return bytes;
        }
        let (info, backup) = (usize::from(le16(&bytes, 48)), usize::from(le16(&bytes, 50)));
        let whole = |at: usize, bytes: &[u8]| at > 0 && (at + 1) * sector <= bytes.len();
        if backup != 0xFFFF && whole(backup, &bytes) && bytes[backup * sector + 510..][..2] == [0x55, 0xAA] {
            self.put_boot_fields(&mut bytes[backup * sector..]);
        }
        for at in [info, info + backup] {
            if info == 0 || info == 0xFFFF || !whole(at, &bytes) {
                continue;
            }
            let info = &mut bytes[at * sector..];
            if le32(info, 0) == LEAD_SIGNATURE && le32(info, 484) == STRUCT_SIGNATURE {
                put::le32(info, 488, (self.geometry().clusters - used) as u32); // FSI_Free_Count
                put::le32(info, 492, 1 + used.max(1) as u32); // FSI_Nxt_Free: the last one in use
            }
        }
        bytes
    }

    fn put_boot_fields(&self, boot: &mut [u8]) {
        let is_fat32 = self.kind == Kind::Fat32;
        put::le16(boot, 11, self.bytes_per_sector as u16);
        boot[13] = self.sectors_per_cluster as u8;
        put::le16(boot, 14, (self.reserved.len() / self.bytes_per_sector as usize) as u16);
        boot[16] = self.num_fats;
        put::le16(boot, 17, self.root_entries as u16);
        // The 16-bit count is used if it was used before, or if neither count was.
        let before = (le16(boot, 19), le32(boot, 32));
        let short =
            u16::try_from(self.sectors).ok().filter(|_| !is_fat32 && (before.0 != 0 || before.1 == 0));
        put::le16(boot, 19, short.unwrap_or(0));
        put::le32(boot, 32, if short.is_some() { 0 } else { self.sectors as u32 });
        if is_fat32 {
            put::le16(boot, 22, 0);
            put::le32(boot, 36, self.sectors_per_fat);
            let flags = le16(boot, 40);
            put::le16(boot, 40, if flags & 0x80 != 0 { flags & !0x8F } else { flags });
            put::le32(boot, 44, bpb::FIRST_CLUSTER); // BPB_RootClus
        } else {
            put::le16(boot, 22, self.sectors_per_fat as u16);
        }
        let tail = if is_fat32 { 64 } else { 36 };
        boot[tail + 1] &= !3; // neither in use nor to be tested
        if matches!(boot[tail + 2], 0x28 | 0x29) {
            put::le32(boot, tail + 3, self.volume_id);
        }
        if boot[tail + 2] == 0x29 && self.label != self.old_label {
            boot[tail + 7..tail + 18].copy_from_slice(self.label.as_ref().unwrap_or(b"NO NAME    "));
        }
    }

    /// `BPB_Media`.
    pub(super) fn media(&self) -> u8 {
        self.reserved[21]
    }
}
