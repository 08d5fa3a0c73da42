//! The VHD footer and the header of dynamic disks (Microsoft, "Virtual Hard Disk Image Format
//! Specification", version 1.0). All numbers are big-endian.

use crate::bytes::{be16, be32, be64};
use crate::checksum::fits;
use crate::error::{Result, at};

pub(super) const FOOTER: usize = 512;
pub(super) const HEADER: usize = 1024;
pub(super) const COOKIE: [u8; 8] = *b"conectix";
pub(super) const HEADER_COOKIE: [u8; 8] = *b"cxsparse";
pub(super) const SECTOR: u64 = 512;
/// The most sectors: 2040 GiB.
pub(super) const MAX_SECTORS: u64 = 0xff00_0000;
/// The largest geometry, which says nothing about the size.
pub(super) const MAX_GEOMETRY: u64 = 65535 * 16 * 255;
/// Creators whose disks have the size of the geometry: Virtual PC, and QEMU before it wrote `qem2`.
const GEOMETRY_IS_SIZE: [[u8; 4]; 2] = [*b"vpc ", *b"qemu"];
/// The most entries of a block allocation table: 2040 GiB in blocks of 512 KiB.
const MAX_ENTRIES: u32 = 4 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskType {
    Fixed,
    Dynamic,
    Differencing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) disk_type: DiskType,
    /// Offset of the dynamic disk's header, in bytes.
    pub(super) data_offset: u64,
    /// The disk's size in bytes.
    pub(super) size: u64,
    /// `current_size`: the size in the footer, in bytes.
    pub(super) current_size: u64,
    /// `disk_geometry`: cylinders, heads and sectors per track.
    pub(super) geometry: (u16, u8, u8),
    /// `creator_application`.
    pub(super) creator: [u8; 4],
    pub(super) unique_id: [u8; 16],
}

/// Returns the one's complement of the sum of all bytes except the checksum itself, at `at`.
pub(super) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum: u32 = bytes.iter().map(|b| u32::from(*b)).sum();
    !(sum - bytes[at..at + 4].iter().map(|b| u32::from(*b)).sum::<u32>())
}

impl Footer {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let place = |field, byte| at("VHD footer").field(field).byte(byte);
        if bytes.len() < FOOTER || bytes[..8] != COOKIE {
            return Err(place("cookie", 0).corrupt("is not conectix, so this is not a VHD image"));
        }
        let bytes = &bytes[..FOOTER];
        let (expected, found) = (checksum(bytes, 64), be32(bytes, 64));
        if !fits(found, expected) {
            return Err(place("checksum", 64).corrupt(format!("is {found:#x}, expected {expected:#x}")));
        }
        let disk_type = match be32(bytes, 60) {
            2 => DiskType::Fixed,
            3 => DiskType::Dynamic,
            4 => DiskType::Differencing,
            other => return Err(place("disk_type", 60).unsupported(format!("is {other}, expected 2 to 4"))),
        };
        let geometry = (be16(bytes, 56), bytes[58], bytes[59]);
        let current_size = be64(bytes, 48);
        let creator = bytes[28..32].try_into().expect("sliced to size");
        // The specification rounds the geometry down, so it is the size only for the two creators that define it so.
        let by_geometry = GEOMETRY_IS_SIZE.contains(&creator);
        let sectors = match geometry_sectors(geometry) {
            sectors if by_geometry && (1..MAX_GEOMETRY).contains(&sectors) => {
                sectors.min(current_size / SECTOR)
            }
            _ => current_size / SECTOR,
        };
        if sectors > MAX_SECTORS {
            return Err(place("current_size", 48).limit(format!("is {sectors} sectors, more than 2040 GiB")));
        }
        let unique_id = bytes[68..84].try_into().expect("sliced to size");
        Ok(Footer {
            disk_type,
            data_offset: be64(bytes, 16),
            size: sectors * SECTOR,
            current_size,
            geometry,
            creator,
            unique_id,
        })
    }

    /// Returns the size in bytes according to the geometry.
    pub(super) fn geometry_size(&self) -> u64 {
        geometry_sectors(self.geometry) * SECTOR
    }
}

fn geometry_sectors((cylinders, heads, sectors): (u16, u8, u8)) -> u64 {
    u64::from(cylinders) * u64::from(heads) * u64::from(sectors)
}

/// The header of a dynamic or differencing disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Offset of the block allocation table, in bytes.
    pub(super) table_offset: u64,
    pub(super) max_table_entries: u32,
    /// In bytes.
    pub(super) block_size: u32,
    pub(super) parent_unique_id: [u8; 16],
    /// The parent's name as stored in the header: UTF-16, padded with zeros.
    pub(super) parent_name: Vec<u8>,
    pub(super) locators: Vec<Locator>,
}

/// The place of a parent's name in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Locator {
    /// The kind of name: `W2ru` is relative, `W2ku` absolute, both UTF-16.
    pub(super) platform: [u8; 4],
    /// In bytes.
    pub(super) len: u32,
    /// In bytes.
    pub(super) offset: u64,
}

impl Header {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let place = |field, byte| at("VHD dynamic disk header").field(field).byte(byte);
        if bytes.len() < HEADER {
            return Err(at("VHD dynamic disk header").corrupt("the file ends within it"));
        }
        if bytes[..8] != HEADER_COOKIE {
            return Err(place("cookie", 0).corrupt("is not cxsparse"));
        }
        let (expected, found) = (checksum(&bytes[..HEADER], 36), be32(bytes, 36));
        if !fits(found, expected) {
            return Err(place("checksum", 36).corrupt(format!("is {found:#x}, expected {expected:#x}")));
        }
        let (max_table_entries, block_size) = (be32(bytes, 28), be32(bytes, 32));
        if !block_size.is_power_of_two() || !(512..=256 << 20).contains(&block_size) {
            let problem = format!("is {block_size}, expected a power of two from 512 to 256 MiB");
            return Err(place("block_size", 32).corrupt(problem));
        }
        if max_table_entries > MAX_ENTRIES {
            let problem = format!("is {max_table_entries}, more than {MAX_ENTRIES}");
            return Err(place("max_table_entries", 28).limit(problem));
        }
        let locators = bytes[576..768].chunks_exact(24).filter(|l| l[..4] != [0; 4]);
        Ok(Header {
            table_offset: be64(bytes, 16),
            max_table_entries,
            block_size,
            parent_unique_id: bytes[40..56].try_into().expect("sliced to size"),
            parent_name: bytes[64..576].to_vec(),
            locators: locators
                .map(|l| Locator {
                    platform: l[..4].try_into().expect("sliced to size"),
                    len: be32(l, 8),
                    offset: be64(l, 16),
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::vhd::write;
    use crate::error::ErrorKind;

    /// Changes a byte and updates the checksum.
    fn poke(bytes: &[u8], byte: usize, value: u8, sum_at: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes[byte] = value;
        let sum = checksum(&bytes, sum_at);
        bytes[sum_at..sum_at + 4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn each_bad_field_of_the_footer_is_named() {
        let good = write::footer(1 << 30, DiskType::Dynamic, &[0; 16]);
        assert_eq!(Footer::parse(&good).unwrap().size, 1 << 30);
        for (byte, value, kind, field) in [
            (0, 0, ErrorKind::Corrupt, "cookie"),
            (63, 9, ErrorKind::Unsupported, "disk_type"),
            (49, 255, ErrorKind::Limit, "current_size"),
        ] {
            let error = Footer::parse(&poke(&good, byte, value, 64)).expect_err(field);
            assert_eq!((error.kind(), error.to_string().contains(field)), (kind, true), "{error}");
        }
        let mut bytes = good.clone();
        bytes[100] ^= 1;
        assert!(Footer::parse(&bytes).unwrap_err().to_string().contains("checksum"));
        assert!(Footer::parse(&good[..511]).is_err());
    }

    #[test]
    fn only_virtual_pc_and_old_qemu_go_by_the_geometry() {
        let size = |creator: &[u8; 4], geometry: [u8; 4], current_size: u64| {
            let mut bytes = write::footer(current_size, DiskType::Dynamic, &[0; 16]);
            bytes[28..32].copy_from_slice(creator);
            bytes[56..60].copy_from_slice(&geometry);
            Footer::parse(&poke(&bytes, 84, 0, 64)).unwrap().size
        };
        let small = [0, 10, 4, 17];
        for creator in [b"vpc ", b"qemu"] {
            assert_eq!(size(creator, small, 1 << 30), 10 * 4 * 17 * 512);
            // Neither the largest geometry nor an empty one says anything.
            assert_eq!(size(creator, [0xff, 0xff, 16, 255], 1 << 40), 1 << 40);
            assert_eq!(size(creator, [0; 4], 1 << 30), 1 << 30);
            assert_eq!(size(creator, [0xff, 0xff, 16, 63], 1 << 20), 1 << 20, "no more than there is");
        }
        for creator in
            [b"win ", b"wa\0\0", b"vbox", b"vs  ", b"d2v ", b"tap\0", b"CTXS", b"qem2", b"\0\0\0\0"]
        {
            assert_eq!(size(creator, small, 1 << 30), 1 << 30);
        }
    }

    #[test]
    fn each_bad_field_of_the_header_is_named() {
        let good = write::dynamic_header(100);
        assert_eq!(Header::parse(&good).unwrap().max_table_entries, 100);
        for (byte, value, kind, field) in [
            (0, 0, ErrorKind::Corrupt, "cookie"),
            (35, 3, ErrorKind::Corrupt, "block_size"),
            (32, 255, ErrorKind::Corrupt, "block_size"),
            (28, 255, ErrorKind::Limit, "max_table_entries"),
        ] {
            let error = Header::parse(&poke(&good, byte, value, 36)).expect_err(field);
            assert_eq!((error.kind(), error.to_string().contains(field)), (kind, true), "{error}");
        }
        assert!(Header::parse(&good[..1023]).is_err());
    }
}
