//! Partition tables: MBR with logical partitions, GPT, or none. Read-only and slot-preserving; the table's
//! own bytes are residue.

use crate::{Result, Source};

#[cfg(test)]
pub(crate) mod tools;

/// A disk's partition table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Table {
    /// Which kind of table.
    pub kind: TableKind,
    /// The logical sector size in bytes that the table counts in (512 or 4096).
    pub sector_size: u32,
    /// GPT: the disk's GUID, lower case. MBR: the disk signature, as 8 hex digits, as PARTUUIDs use it.
    pub id: Option<String>,
    /// The partitions, by slot number.
    pub partitions: Vec<Partition>,
    /// What is odd about the table, each a sentence.
    pub warnings: Vec<String>,
}

/// Which kind of partition table.
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

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Partition {
    /// The slot number, as the kernel names it: 1, 14, 15; logical partitions from 5.
    pub slot: u32,
    /// Where it starts on the disk, in bytes.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// GPT: the type GUID, lower case. MBR: the type as `0x83`.
    pub type_id: String,
    /// GPT: the partition's own GUID. MBR: what Linux makes of the signature and slot (`1234abcd-01`).
    pub id: Option<String>,
    /// GPT: the partition's name.
    pub name: Option<String>,
    /// GPT: the attribute bits. MBR: the status byte (0x80 is active).
    pub attributes: u64,
}

/// Reads the partition table of `disk`.
///
/// A disk with none gives [`TableKind::None`] and one partition of slot 0 that spans it. Damage is a warning, not an error; errors are of
/// reading.
pub fn read(disk: &dyn Source) -> Result<Table> {
    Ok(Table {
        kind: TableKind::None,
        sector_size: 512,
        id: None,
        partitions: vec![Partition {
            slot: 0,
            start: 0,
            len: disk.len(),
            type_id: String::new(),
            id: None,
            name: None,
            attributes: 0,
        }],
        warnings: Vec::new(),
    })
}
