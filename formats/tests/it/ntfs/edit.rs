//! Changing single attributes of a volume.

use std::path::Path;

/// Types of attributes.
pub(super) const LIST: u32 = 0x20;
pub(super) const VOLUME_INFORMATION: u32 = 0x70;
pub(super) const DATA: u32 = 0x80;
pub(super) const INDEX_ALLOCATION: u32 = 0xA0;

/// An image in memory, with records of 1024 bytes.
pub(super) struct Image {
    pub(super) bytes: Vec<u8>,
}

const RECORD: usize = 1024;

impl Image {
    pub(super) fn load(path: &Path) -> Self {
        Image { bytes: std::fs::read(path).unwrap() }
    }

    /// Returns the byte offset of a record that is in use.
    pub(super) fn place(&self, number: u64) -> usize {
        let is = |at: &usize| {
            let record = &self.bytes[*at..*at + RECORD];
            record.starts_with(b"FILE") && record[22] & 1 == 1 && le(record, 44, 4) == number
        };
        // The copies of the first records lie before or after the originals.
        let mft = le(&self.bytes, 0x30, 8) as usize * le(&self.bytes, 0x0D, 1) as usize * 512;
        let in_order = (mft..self.bytes.len() - RECORD + 1).step_by(RECORD).chain((0..mft).step_by(RECORD));
        in_order.into_iter().find(is).unwrap_or_else(|| panic!("no record {number}"))
    }

    /// Changes the unnamed attribute of this type in a record.
    pub(super) fn edit(&mut self, number: u64, kind: u32, change: impl FnOnce(&mut [u8])) {
        let place = self.place(number);
        let record = &mut self.bytes[place..place + RECORD];
        let sequence = le(record, 4, 2) as usize;
        for sector in 1..=2 {
            record.copy_within(sequence + 2 * sector..sequence + 2 * sector + 2, 512 * sector - 2);
        }
        let at = find(record, kind).unwrap_or_else(|| panic!("no attribute {kind:#x} in record {number}"));
        let len = le(record, at + 4, 4) as usize;
        change(&mut record[at..at + len]);
        for sector in 1..=2 {
            record.copy_within(512 * sector - 2..512 * sector, sequence + 2 * sector);
            record.copy_within(sequence..sequence + 2, 512 * sector - 2);
        }
    }

    /// Returns true if a record has an attribute of this type.
    pub(super) fn has(&self, number: u64, kind: u32) -> bool {
        let place = self.place(number);
        find(&self.bytes[place..place + RECORD], kind).is_some()
    }
}

/// Returns a little-endian number.
pub(super) fn le(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

/// Stores a little-endian number of 64 bits.
pub(super) fn put(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

/// Returns where the unnamed attribute of a type begins; an index's has a name.
fn find(record: &[u8], kind: u32) -> Option<usize> {
    let mut at = le(record, 20, 2) as usize;
    while le(record, at, 4) != 0xFFFF_FFFF {
        let is_unnamed = record[at + 9] == 0 || kind == INDEX_ALLOCATION;
        if le(record, at, 4) == u64::from(kind) && is_unnamed {
            return Some(at);
        }
        at += le(record, at + 4, 4) as usize;
    }
    None
}
