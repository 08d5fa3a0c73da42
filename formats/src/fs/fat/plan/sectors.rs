//! Changes the parameters of a FAT volume to those of a disk with another logical sector size.
//!
//! A FAT counts in sectors of the disk, and a system reads no FAT whose sectors are smaller than the disk's. The reserved
//! sectors keep their numbers and their first bytes; clusters keep their size, but have at least one sector.

use super::params::{FAT16_FROM, FAT32_FROM, Params};
use crate::bytes::{le16, le32};
use crate::error::{Result, at};
use crate::fs::fat::bpb::{self, Kind};
use crate::fs::plan::put;
use crate::source::is_zero;

/// The usual number of reserved sectors of a FAT32. More are kept only as far as they hold something.
const RESERVED_USUAL: usize = 32;

/// The most sectors of a cluster.
const CLUSTER_SECTORS_MAX: u32 = 128;

/// The offset of `BPB_HiddSec` in the boot sector: the sectors of the disk before the volume.
const HIDDEN: usize = 28;

impl Params {
    /// Changes the sector size to `bytes`, a power of two from 512 to 4096.
    ///
    /// Fails if the volume is too small for a FAT of such sectors.
    pub fn set_sector_size(&mut self, bytes: u32) -> Result<()> {
        if !bytes.is_power_of_two() || !(512..=4096).contains(&bytes) {
            return Err(at("FAT parameters").unsupported(format!("sectors of {bytes} bytes")));
        }
        let (old, new) = (self.bytes_per_sector as usize, bytes as usize);
        if old == new {
            return Ok(());
        }
        let (size, clusters) = (self.size(), self.clusters_in_volume());
        self.move_reserved(old, new);
        let hidden = u64::from(le32(&self.reserved, HIDDEN)) * old as u64;
        if let Ok(hidden) = u32::try_from(hidden / new as u64)
            && u64::from(hidden) * new as u64 == u64::from(le32(&self.reserved, HIDDEN)) * old as u64
        {
            self.put_hidden(new, hidden);
        }
        let cluster = self.sectors_per_cluster * self.bytes_per_sector;
        self.bytes_per_sector = bytes;
        self.sectors_per_cluster = (cluster / bytes).clamp(1, CLUSTER_SECTORS_MAX);
        let per_sector = bytes / bpb::ENTRY_SIZE as u32;
        self.root_entries = self.root_entries.next_multiple_of(per_sector);
        let was_small = self.kind == Kind::Fat32 && clusters < FAT32_FROM;
        let notes = self.notes.len();
        self.resize(size);
        self.notes.truncate(notes);
        if self.sectors_per_cluster * bytes != cluster {
            self.notes.push(format!("clusters have {} bytes now", self.sectors_per_cluster * bytes));
        }
        // UEFI firmware (EDK II, FatOpenDevice) refuses a FAT32 with fewer clusters.
        if self.kind == Kind::Fat32 && !was_small && self.clusters_in_volume() < FAT32_FROM {
            self.become_fat16();
        }
        if self.kind == Kind::Fat16 && self.clusters_in_volume() < FAT16_FROM {
            self.become_fat12();
        }
        self.check()
    }

    /// Puts the reserved sectors at the same numbers of sectors of the new size.
    fn move_reserved(&mut self, old: usize, new: usize) {
        let sectors: Vec<&[u8]> = self.reserved.chunks(old).collect();
        let used = sectors.iter().rposition(|sector| !is_zero(sector)).map_or(0, |last| last + 1);
        let count = sectors.len().min(used.max(RESERVED_USUAL));
        let kept = old.min(new);
        let mut moved = vec![0; count * new];
        for (sector, to) in sectors.iter().zip(moved.chunks_mut(new)) {
            to[..kept].copy_from_slice(&sector[..kept]);
        }
        let is_cut = sectors.iter().any(|sector| !is_zero(&sector[kept..]));
        self.reserved = moved;
        if is_cut {
            self.notes.push(format!("reserved sectors were cut to their first {kept} bytes"));
        }
    }

    /// Sets the sectors before the volume in the boot sector and its copy.
    fn put_hidden(&mut self, sector: usize, hidden: u32) {
        put::le32(&mut self.reserved, HIDDEN, hidden);
        let copy = usize::from(le16(&self.reserved, 50)) * sector;
        let is_copied = self.kind == Kind::Fat32 && copy > 0;
        if let Some(copy) = self.reserved.get_mut(copy..copy + bpb::SIZE).filter(|_| is_copied)
            && copy[510..512] == [0x55, 0xAA]
        {
            put::le32(copy, HIDDEN, hidden);
        }
    }

    /// Makes a FAT32 a FAT16: its root directory gets a place of its own, and the fields of the boot sector move to where a
    /// FAT16 has them. Its boot code, which is for a FAT32, goes.
    fn become_fat16(&mut self) {
        /// The fields from the drive number to the name, in a FAT32 and in a FAT16.
        const TAIL: (usize, usize, usize) = (64, 36, 26);
        let boot = &self.reserved[..bpb::SIZE];
        let mut new = vec![0; self.bytes_per_sector as usize];
        new[..TAIL.1].copy_from_slice(&boot[..TAIL.1]);
        new[TAIL.1..TAIL.1 + TAIL.2].copy_from_slice(&boot[TAIL.0..TAIL.0 + TAIL.2]);
        new[..3].copy_from_slice(b"\xEB\x3C\x90");
        new[54..62].copy_from_slice(b"FAT16   ");
        new[510..512].copy_from_slice(&[0x55, 0xAA]);
        self.reserved = new;
        self.kind = Kind::Fat16;
        self.root_entries = 512;
        self.fit_fat();
        self.notes.push(format!(
            "it is a FAT16 now, because a FAT32 needs {FAT32_FROM} clusters, and UEFI firmware reads none with fewer"
        ));
    }

    /// Makes it the kind of FAT that so few clusters mean.
    fn become_fat12(&mut self) {
        const NAME: std::ops::Range<usize> = 54..62;
        self.kind = Kind::Fat12;
        if self.reserved[NAME] == *b"FAT16   " {
            self.reserved[NAME].copy_from_slice(b"FAT12   ");
        }
        self.fit_fat();
        self.notes.push("it is a FAT12 now, because it has so few clusters".to_owned());
    }
}
