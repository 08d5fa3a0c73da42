//! Master boot record (UEFI specification 5.2), and the chain of extended boot records inside an extended partition: a
//! linked list of sectors of the same format. The first record is a logical partition, relative to that sector, and the
//! second is the next link, relative to the start of the extended partition.

use std::collections::{BTreeMap, HashSet};

use super::{Builder, Claim, Table};
use crate::bytes::le32;
use crate::error::Result;
use crate::fs::{self, recognize};
use crate::source::Source;

/// Size of a boot record in bytes.
pub(super) const SIZE: usize = 512;

/// The most links of a chain of extended boot records that are followed. The kernel creates at most 255 partitions per
/// disk.
const MAX_LINKS: usize = 512;

/// The first slot of a logical partition.
const FIRST_LOGICAL_SLOT: u32 = 5;

const SIGNATURE: [u8; 2] = [0x55, 0xaa];
pub(super) const OS_TYPE_PROTECTIVE: u8 = 0xee;
/// CHS, LBA, and Linux's own.
pub(super) const OS_TYPES_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// "IBMA" in EBCDIC: the first bytes of an AIX disk, whose sector 0 is something else.
const AIX: [u8; 4] = [0xc9, 0xc2, 0xd4, 0xc1];

/// A master or extended boot record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mbr {
    unique_mbr_disk_signature: u32,
    partition_record: [Record; 4],
}

/// A partition record. Cylinders, heads and sectors are obsolete.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    boot_indicator: u8,
    os_type: u8,
    /// In sectors, from the start of the disk (or of the structure it is relative to).
    starting_lba: u32,
    /// In sectors; zero for an empty slot.
    size_in_lba: u32,
}

impl Record {
    fn parse(bytes: &[u8]) -> Self {
        Record {
            boot_indicator: bytes[0],
            os_type: bytes[4],
            starting_lba: le32(bytes, 8),
            size_in_lba: le32(bytes, 12),
        }
    }

    fn is_extended(&self) -> bool {
        OS_TYPES_EXTENDED.contains(&self.os_type)
    }

    fn is_used(&self) -> bool {
        self.size_in_lba != 0
    }
}

impl Mbr {
    /// Parses a sector; returns `None` if it does not end in 55 AA or is an AIX disk's.
    pub(super) fn parse(sector: &[u8]) -> Option<Self> {
        if sector[510..512] != SIGNATURE || sector[..4] == AIX {
            return None;
        }
        Some(Mbr {
            unique_mbr_disk_signature: le32(sector, 440),
            partition_record: std::array::from_fn(|i| Record::parse(&sector[446 + 16 * i..][..16])),
        })
    }

    /// Returns true if it announces a GPT. The start and the length of the protective record are ignored: both are
    /// wrong on some disks that work.
    pub(super) fn is_protective(&self) -> bool {
        self.partition_record.iter().any(|r| r.os_type == OS_TYPE_PROTECTIVE)
    }

    /// Returns the number of partitions besides the GPT's.
    pub(super) fn hybrid_partitions(&self) -> usize {
        let others = self.partition_record.iter().filter(|r| r.os_type != OS_TYPE_PROTECTIVE);
        others.filter(|r| r.os_type != 0 && r.is_used()).count()
    }

    /// Returns the signature as eight hex digits; `None` if it is zero.
    pub(super) fn id(&self) -> Option<String> {
        let signature = self.unique_mbr_disk_signature;
        (signature != 0).then(|| format!("{signature:08x}"))
    }

    /// Returns true if `sector`, from which this was parsed, is a partition table and not a boot sector. Both end in 55
    /// AA.
    pub(super) fn is_table(&self, sector: &[u8], disk_len: u64, sector_size: u32) -> bool {
        let records = &self.partition_record;
        let status_bytes_are_valid = records.iter().all(|r| matches!(r.boot_indicator, 0 | 0x80));
        let any_used = records.iter().any(Record::is_used);
        // Zeros in place of a table: a boot sector (such as GRUB's or syslinux's), or an empty table, which is
        // equivalent.
        if self.is_protective() || !status_bytes_are_valid || !any_used {
            return false;
        }
        // A FAT boot sector may also hold a table, on sticks made to boot everywhere. The table is used if it could not
        // be anything else.
        !fs::is_filesystem(sector) || self.is_beyond_doubt(disk_len / u64::from(sector_size))
    }

    fn is_beyond_doubt(&self, disk_sectors: u64) -> bool {
        let mut end = 1;
        let mut used: Vec<_> = self.partition_record.iter().filter(|r| r.is_used()).collect();
        used.sort_by_key(|r| r.starting_lba);
        used.iter().all(|r| {
            let start = u64::from(r.starting_lba);
            let fits = r.os_type != 0 && start >= end;
            end = start + u64::from(r.size_in_lba);
            fits && end <= disk_sectors
        })
    }

    /// Returns the sector size in bytes that the table uses, which it does not record. It is the size that the
    /// container records; otherwise 4096 if all partitions then fit the disk and known content begins at one of those
    /// places, but at none of the places for 512; otherwise 512.
    pub(super) fn sector_size(&self, disk: &dyn Source) -> Result<u32> {
        const LARGE: u64 = 4096;
        if let Some(recorded) = disk.sector_size() {
            return Ok(recorded);
        }
        let used = || self.partition_record.iter().filter(|record| record.is_used());
        let end = |r: &Record| (u64::from(r.starting_lba) + u64::from(r.size_in_lba)) * LARGE;
        if !disk.len().is_multiple_of(LARGE) || used().any(|record| end(record) > disk.len()) {
            return Ok(SIZE as u32);
        }
        let known = |sector_size: u64| -> Result<bool> {
            for record in used() {
                if begins_something(disk, record, u64::from(record.starting_lba) * sector_size)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        Ok(if known(LARGE)? && !known(SIZE as u64)? { LARGE as u32 } else { SIZE as u32 })
    }

    fn claim(&self, slot: u32, record: &Record, first_lba: u64, sectors: u64) -> Claim {
        Claim {
            slot,
            first_lba,
            sectors,
            type_id: format!("0x{:02x}", record.os_type),
            id: self.id().map(|id| format!("{id}-{slot:02x}")),
            name: None,
            attributes: u64::from(record.boot_indicator),
        }
    }
}

/// Returns true if known content begins at byte `place`: an extended boot record, or a known filesystem.
fn begins_something(disk: &dyn Source, record: &Record, place: u64) -> Result<bool> {
    let there = disk.len().saturating_sub(place).min(recognize::HEAD as u64) as usize;
    if there < SIZE {
        return Ok(false);
    }
    let head = disk.read_vec(place, there)?;
    if record.is_extended() {
        return Ok(head[510..512] == SIGNATURE);
    }
    Ok(fs::is_known(&head))
}

/// Adds the partitions of `mbr`, following extended ones.
pub(super) fn read(disk: &dyn Source, mbr: &Mbr, builder: &mut Builder) -> Result<()> {
    let mut next_slot = FIRST_LOGICAL_SLOT;
    for (slot, record) in (1..).zip(&mbr.partition_record) {
        if !record.is_used() {
            continue;
        }
        let first_lba = u64::from(record.starting_lba);
        if record.is_extended() {
            builder.add(mbr.claim(slot, record, first_lba, 1));
            read_logical(disk, mbr, record, &mut next_slot, builder)?;
        } else {
            builder.add(mbr.claim(slot, record, first_lba, u64::from(record.size_in_lba)));
        }
    }
    Ok(())
}

/// Follows the chain of the extended partition `container`.
fn read_logical(
    disk: &dyn Source,
    mbr: &Mbr,
    container: &Record,
    next_slot: &mut u32,
    builder: &mut Builder,
) -> Result<()> {
    let container_start = u64::from(container.starting_lba);
    let container_end = container_start + u64::from(container.size_in_lba);
    let mut link = (container_start, u64::from(container.size_in_lba));
    let mut seen = HashSet::new();
    loop {
        let (lba, sectors) = link;
        let place = lba * u64::from(builder.sector_size);
        if !seen.insert(lba) {
            builder.warn(format!(
                "The chain of logical partitions is circular: it returns to byte {place}, where mif stops."
            ));
            return Ok(());
        }
        if seen.len() > MAX_LINKS {
            builder.warn(format!(
                "The chain of logical partitions has over {MAX_LINKS} links; the rest is ignored."
            ));
            return Ok(());
        }
        if disk.len().saturating_sub(place) < SIZE as u64 {
            builder.warn(format!(
                "The chain of logical partitions continues at byte {place}, past the end of the disk at {}.",
                disk.len()
            ));
            return Ok(());
        }
        let Some(ebr) = Mbr::parse(&disk.read_vec(place, SIZE)?) else {
            builder.warn(format!(
                "The chain of logical partitions breaks off at byte {place}, which has no boot record (55 AA)."
            ));
            return Ok(());
        };
        for (i, record) in ebr.partition_record.iter().enumerate() {
            if !record.is_used() || record.is_extended() {
                continue;
            }
            let (relative, size) = (u64::from(record.starting_lba), u64::from(record.size_in_lba));
            let start = lba + relative;
            // OS/2 uses the third and fourth record; elsewhere they may contain anything.
            let fits = relative + size <= sectors && start + size <= container_end;
            if i < 2 || fits {
                builder.add(mbr.claim(*next_slot, record, start, size));
                *next_slot += 1;
            }
        }
        let Some(next) = ebr.partition_record.iter().find(|r| r.is_used() && r.is_extended()) else {
            return Ok(());
        };
        link = (container_start + u64::from(next.starting_lba), u64::from(next.size_in_lba));
    }
}

/// Returns the sectors of the extended boot records of the logical partitions of `table`, by slot. Follows a plain
/// chain, where each record has one partition.
pub(super) fn links(disk: &dyn Source, table: &Table) -> Result<BTreeMap<u32, u64>> {
    let mut links = BTreeMap::new();
    let start = |record: &Record| u64::from(record.starting_lba);
    let Some(mbr) = Mbr::parse(&disk.read_vec(0, SIZE)?) else { return Ok(links) };
    let Some(container) = mbr.partition_record.iter().find(|r| r.is_used() && r.is_extended()) else {
        return Ok(links);
    };
    let mut lba = start(container);
    for slot in FIRST_LOGICAL_SLOT..FIRST_LOGICAL_SLOT + MAX_LINKS as u32 {
        let place = lba * u64::from(table.sector_size);
        if disk.len().saturating_sub(place) < SIZE as u64 {
            break;
        }
        let Some(ebr) = Mbr::parse(&disk.read_vec(place, SIZE)?) else { break };
        let logical = &ebr.partition_record[0];
        let first = (lba + start(logical)) * u64::from(table.sector_size);
        if !logical.is_used() || !table.partitions.iter().any(|p| p.slot == slot && p.start == first) {
            break;
        }
        links.insert(slot, lba);
        let next = &ebr.partition_record[1];
        if !next.is_used() || !next.is_extended() {
            break;
        }
        lba = start(container) + start(next);
    }
    Ok(links)
}
