//! Partition tables: MBR with logical partitions, GPT, or none. Slots are preserved; the table's own bytes are residue.
//! [`mod@write`] makes a new table, or changes one.
//!
//! Tables are recognised as the Linux kernel recognises them (`block/partitions/`), because the guest will do the same:
//! a protective MBR announces a GPT, whose backup is used if the primary is damaged; otherwise sector 0 is an MBR if it
//! ends in 55 AA and its four status bytes are 0 or 0x80, unless it is the boot sector of a FAT. If the kernel refuses
//! a table over a flaw that leaves its meaning clear (a truncated disk, entries of another size than 128 bytes), the
//! table is read with a warning.

use crate::error::Result;
use crate::source::Source;

pub mod convert;
mod gpt;
pub mod lvm;
mod mbr;
pub mod types;
pub mod write;

#[cfg(test)]
mod tests;

/// The logical sector sizes of disks, in bytes.
pub const SECTOR_SIZES: [u32; 2] = [512, 4096];

/// The most warnings that are kept for a table; the rest are counted.
const MAX_WARNINGS: usize = 32;

/// A disk's partition table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Table {
    /// The kind of table.
    pub kind: TableKind,
    /// The logical sector size in bytes that the table uses (512 or 4096).
    pub sector_size: u32,
    /// GPT: the disk's GUID, lower case. MBR: the disk signature as 8 hex digits, as in PARTUUIDs.
    pub id: Option<String>,
    /// The partitions, by slot number.
    pub partitions: Vec<Partition>,
    /// Warnings about the table, as sentences.
    pub warnings: Vec<String>,
}

impl Table {
    /// Returns the table of an unpartitioned disk: no partitions, and sectors of 512 bytes.
    #[must_use]
    pub fn none() -> Self {
        Table {
            kind: TableKind::None,
            sector_size: mbr::SIZE as u32,
            id: None,
            partitions: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// The kind of a partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// No table: the whole disk is one volume.
    None,
    /// Master boot record, with logical partitions.
    Mbr,
    /// GUID partition table (UEFI specification, chapter 5).
    Gpt,
}

/// One partition, which lies within the disk: one that extends past its end is clipped.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Partition {
    /// The slot number, as the kernel names it: 1, 14, 15; logical partitions from 5.
    pub slot: u32,
    /// The partition's start on the disk, in bytes.
    pub start: u64,
    /// The partition's length in bytes. For an extended partition (MBR types 0x05, 0x0f and 0x85) only the first sector
    /// matters, which holds the first link of the chain: the rest belongs to the logical partitions.
    pub len: u64,
    /// GPT: the type GUID, lower case. MBR: the type as `0x83`.
    pub type_id: String,
    /// GPT: the partition's own GUID. MBR: the PARTUUID that Linux derives from the signature and slot (`1234abcd-01`).
    pub id: Option<String>,
    /// GPT: the partition's name.
    pub name: Option<String>,
    /// GPT: the attribute bits. MBR: the status byte (0x80 is active).
    pub attributes: u64,
}

impl Partition {
    /// Returns the first byte after the partition.
    fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// Reads the partition table of `disk`.
///
/// A disk without one gets [`TableKind::None`] and one partition in slot 0 that spans it. Damage is a warning; only a
/// failed read is an error.
pub fn read(disk: &dyn Source) -> Result<Table> {
    let mut builder = Builder::new(disk.len());
    builder.sector_size = disk.sector_size().unwrap_or(builder.sector_size);
    if disk.len() < mbr::SIZE as u64 {
        return Ok(builder.whole_disk());
    }
    let sector0 = disk.read_vec(0, mbr::SIZE)?;
    let mbr = mbr::Mbr::parse(&sector0);
    if let Some(id) = gpt::read(disk, mbr.as_ref(), &mut builder)? {
        return Ok(builder.table(TableKind::Gpt, Some(id)));
    }
    match mbr {
        Some(mbr) if mbr.is_table(&sector0, disk.len(), builder.sector_size) => {
            builder.sector_size = mbr.sector_size(disk)?;
            mbr::read(disk, &mbr, &mut builder)?;
            Ok(builder.table(TableKind::Mbr, mbr.id()))
        }
        _ => Ok(builder.whole_disk()),
    }
}

/// A collector of partitions and warnings, which clips partitions to the disk.
struct Builder {
    disk_len: u64,
    sector_size: u32,
    partitions: Vec<Partition>,
    warnings: Vec<String>,
    more_warnings: usize,
}

/// A partition as its table describes it, in sectors.
struct Claim {
    slot: u32,
    first_lba: u64,
    sectors: u64,
    type_id: String,
    id: Option<String>,
    name: Option<String>,
    attributes: u64,
}

impl Builder {
    fn new(disk_len: u64) -> Self {
        Builder {
            disk_len,
            sector_size: mbr::SIZE as u32,
            partitions: Vec::new(),
            warnings: Vec::new(),
            more_warnings: 0,
        }
    }

    fn warn(&mut self, warning: impl Into<String>) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(warning.into());
        } else {
            self.more_warnings += 1;
        }
    }

    /// Adds a partition, clipped to the disk. One that lies entirely past the end is left out with a warning.
    fn add(&mut self, claim: Claim) {
        let size = u128::from(self.sector_size);
        let start = u128::from(claim.first_lba) * size;
        let end = start + u128::from(claim.sectors) * size;
        let (slot, disk_len) = (claim.slot, self.disk_len);
        if start >= u128::from(disk_len) {
            self.warn(format!(
                "Partition {slot} was left out: it starts at byte {start}, past the end of the disk at {disk_len}."
            ));
            return;
        }
        if end > u128::from(disk_len) {
            self.warn(format!(
                "Partition {slot} was clipped: it ends at byte {end}, past the end of the disk at {disk_len}."
            ));
        }
        let start = u64::try_from(start).expect("below the disk's length");
        let end = u64::try_from(end).unwrap_or(u64::MAX).min(disk_len);
        self.partitions.push(Partition {
            slot,
            start,
            len: end - start,
            type_id: claim.type_id,
            id: claim.id,
            name: claim.name,
            attributes: claim.attributes,
        });
    }

    fn table(mut self, kind: TableKind, id: Option<String>) -> Table {
        self.say_overlaps();
        self.partitions.sort_by_key(|p| p.slot);
        if self.more_warnings > 0 {
            self.warnings.push(format!("{} more warnings were left out.", self.more_warnings));
        }
        Table {
            kind,
            sector_size: self.sector_size,
            id,
            partitions: self.partitions,
            warnings: self.warnings,
        }
    }

    /// Warns about each partition that starts inside an earlier one, naming the one that extends furthest.
    fn say_overlaps(&mut self) {
        self.partitions.sort_by_key(|p| (p.start, p.slot));
        let mut furthest: Option<(u64, u32)> = None;
        let mut sentences = Vec::new();
        for p in &self.partitions {
            if let Some((end, slot)) = furthest
                && p.start < end
            {
                let shared = end.min(p.end()) - p.start;
                sentences.push(format!("Partitions {slot} and {} overlap by {shared} bytes.", p.slot));
            }
            if furthest.is_none_or(|(end, _)| p.end() > end) {
                furthest = Some((p.end(), p.slot));
            }
        }
        for sentence in sentences {
            self.warn(sentence);
        }
    }

    fn whole_disk(mut self) -> Table {
        self.partitions = vec![Partition {
            slot: 0,
            start: 0,
            len: self.disk_len,
            type_id: String::new(),
            id: None,
            name: None,
            attributes: 0,
        }];
        self.table(TableKind::None, None)
    }
}
