//! The boot sector: the geometry of a volume.

use crate::bytes::{le16, le64};
use crate::error::{Result, at};

/// The bytes of a boot sector that are read.
pub(super) const SIZE: usize = 512;
/// Offset and text of `oem_id`.
const OEM_ID: (usize, &[u8]) = (3, b"NTFS    ");
/// The largest cluster in bytes.
const CLUSTER_MAX: u64 = 2 << 20;
/// The largest record and the largest index block in bytes.
const RECORD_MAX: u64 = 64 << 10;

/// The boot sector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Boot {
    /// Bytes per sector: 512 to 4096.
    pub(super) sector_size: u64,
    /// Bytes per cluster: 512 to 2 MiB.
    pub(super) cluster_size: u64,
    /// The number of sectors, without the copy of the boot sector at the end.
    pub(super) sectors: u64,
    /// The first cluster of the MFT, and of the copy of its first records.
    pub(super) mft_lcn: u64,
    pub(super) mftmirr_lcn: u64,
    /// Bytes per MFT record.
    pub(super) record_size: usize,
    /// The volume's serial number.
    pub(super) serial: u64,
}

/// Returns true if a volume that begins with `head` bears the mark of NTFS.
pub(super) fn has_magic(head: &[u8]) -> bool {
    head.get(OEM_ID.0..).is_some_and(|rest| rest.starts_with(OEM_ID.1))
}

impl Boot {
    /// Parses the boot sector at byte `offset` of a volume.
    pub(super) fn parse(bytes: &[u8; SIZE], offset: u64) -> Result<Self> {
        let place = |field, byte| at("NTFS boot sector").field(field).byte(offset + byte);
        if !has_magic(bytes) {
            return Err(place("oem_id", 3).corrupt("is not \"NTFS\""));
        }
        let sector_size = u64::from(le16(bytes, 0x0B));
        if !(512..=4096).contains(&sector_size) || !sector_size.is_power_of_two() {
            return Err(place("bytes_per_sector", 0x0B)
                .corrupt(format!("is {sector_size}, expected a power of two from 512 to 4096")));
        }
        // Up to 64 KiB the number of sectors, for larger clusters its negative logarithm.
        let sectors_per_cluster = match bytes[0x0D] {
            count @ 0..=0x80 => u64::from(count),
            log => 1_u64.checked_shl(256 - u32::from(log)).unwrap_or(0),
        };
        let cluster_size = sector_size.saturating_mul(sectors_per_cluster);
        if !cluster_size.is_power_of_two() || cluster_size > CLUSTER_MAX {
            return Err(place("sectors_per_cluster", 0x0D)
                .corrupt(format!("is {:#04x}, which makes clusters of {cluster_size} bytes", bytes[0x0D])));
        }
        let sectors = le64(bytes, 0x28);
        if sectors == 0 || sectors.checked_mul(sector_size).is_none_or(|size| size > i64::MAX as u64) {
            return Err(place("number_of_sectors", 0x28).corrupt(format!("is {sectors}")));
        }
        let clusters = sectors / (cluster_size / sector_size);
        let lcn = |field, byte: u64| match le64(bytes, byte as usize) {
            lcn if lcn < clusters => Ok(lcn),
            lcn => {
                Err(place(field, byte).corrupt(format!("is {lcn}, but the volume has {clusters} clusters")))
            }
        };
        let record_size = size(bytes[0x40], cluster_size)
            .filter(|size| (512..=RECORD_MAX).contains(size) && size.is_power_of_two())
            .ok_or_else(|| {
                place("clusters_per_mft_record", 0x40)
                    .corrupt(format!("is {:#04x}, expected 512 bytes to {RECORD_MAX}", bytes[0x40]))
            })?;
        Ok(Boot {
            sector_size,
            cluster_size,
            sectors,
            mft_lcn: lcn("mft_lcn", 0x30)?,
            // A volume is readable without the copy.
            mftmirr_lcn: lcn("mftmirr_lcn", 0x38).unwrap_or(0),
            record_size: record_size as usize,
            serial: le64(bytes, 0x48),
        })
    }

    /// Returns the number of clusters.
    pub(super) fn clusters(&self) -> u64 {
        self.sectors / (self.cluster_size / self.sector_size)
    }

    /// Returns the size of the volume in bytes, with the copy of the boot sector in the sector after the last.
    pub(super) fn size(&self) -> u64 {
        (self.sectors + 1) * self.sector_size
    }
}

/// Returns the bytes of a record: a number of clusters, or the negative logarithm of the number of bytes.
fn size(count: u8, cluster_size: u64) -> Option<u64> {
    match count as i8 {
        clusters @ 1.. => u64::from(clusters.unsigned_abs()).checked_mul(cluster_size),
        log => 1_u64.checked_shl(u32::from(log.unsigned_abs())).filter(|size| *size > 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector() -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[3..11].copy_from_slice(b"NTFS    ");
        (bytes[0x0C], bytes[0x0D]) = (2, 8);
        bytes[0x28..0x30].copy_from_slice(&79_999_u64.to_le_bytes());
        (bytes[0x30], bytes[0x38]) = (4, 2);
        (bytes[0x40], bytes[0x44], bytes[0x48]) = (0xF6, 1, 0x99);
        bytes
    }

    fn with(changes: &[(usize, u8)]) -> Result<Boot> {
        let mut bytes = sector();
        changes.iter().for_each(|(at, new)| bytes[*at] = *new);
        Boot::parse(&bytes, 0)
    }

    #[test]
    fn a_boot_sector_is_read() {
        let boot = Boot::parse(&sector(), 0).unwrap();
        assert_eq!((boot.sector_size, boot.cluster_size, boot.record_size), (512, 4096, 1024));
        assert_eq!((boot.clusters(), boot.size()), (9999, 80_000 * 512));
        assert_eq!((boot.mft_lcn, boot.mftmirr_lcn, boot.serial), (4, 2, 0x99));
    }

    #[test]
    fn sizes_are_numbers_or_negative_logarithms() {
        let cluster = |byte| with(&[(0x0D, byte)]).map(|boot| boot.cluster_size).ok();
        assert_eq!(
            [1, 0x80, 0xF8, 0xF4, 0xF3, 3, 0].map(cluster),
            [Some(512), Some(64 << 10), Some(128 << 10), Some(2 << 20), None, None, None]
        );
        let record = |byte| with(&[(0x40, byte)]).map(|boot| boot.record_size).ok();
        assert_eq!(
            [1, 2, 0xF6, 0xF4, 0xF0, 0xEF, 0, 0x7F].map(record),
            [Some(4096), Some(8192), Some(1024), Some(4096), Some(65_536), None, None, None]
        );
        assert_eq!(with(&[(0x0C, 16), (0x0D, 1)]).unwrap().sector_size, 4096);
    }

    #[test]
    fn fields_that_make_no_sense_are_named() {
        let error = |changes: &[(usize, u8)]| with(changes).unwrap_err().to_string();
        assert_eq!(error(&[(4, b'X')]), "NTFS boot sector, oem_id, at byte 3: is not \"NTFS\"");
        assert!(error(&[(0x0C, 3)]).contains("bytes_per_sector, at byte 11: is 768"));
        assert!(error(&[(0x2F, 0x80)]).contains("number_of_sectors, at byte 40"));
        assert!(
            error(&[(0x32, 1)]).contains("mft_lcn, at byte 48: is 65540, but the volume has 9999 clusters")
        );
        assert!(with(&[(0x3A, 1)]).is_ok_and(|boot| boot.mftmirr_lcn == 0));
    }
}
