//! The structures of a VHDX file (Microsoft, [MS-VHDX]). All numbers are little-endian.

use crate::bytes::{le16, le32, le64};
use crate::checksum::fits;
use crate::error::{Result, at};

pub(super) const FILE_SIGNATURE: [u8; 8] = *b"vhdxfile";
/// Offsets and lengths of the two headers and the two region tables, in bytes.
pub(super) const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
pub(super) const HEADER: usize = 4096;
pub(super) const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
pub(super) const REGION_TABLE: usize = 64 << 10;
pub(super) const METADATA_TABLE: usize = 64 << 10;
pub(super) const MIB: u64 = 1 << 20;

/// A GUID in stored form.
pub(super) type Guid = [u8; 16];

/// Converts a GUID from its written form.
pub(super) const fn guid(value: u128) -> Guid {
    let b = value.to_be_bytes();
    // The first three groups are little-endian numbers.
    [b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]
}

pub(super) const BAT_REGION: Guid = guid(0x2DC27766_F623_4200_9D64_115E9BFD4A08);
pub(super) const METADATA_REGION: Guid = guid(0x8B7CA206_4790_4B9A_B8FE_575F050F886E);
pub(super) const FILE_PARAMETERS: Guid = guid(0xCAA16737_FA36_4D43_B3B6_33F0AA44E76B);
pub(super) const VIRTUAL_DISK_SIZE: Guid = guid(0x2FA54224_CD1B_4876_B211_5DBED83BF4B8);
pub(super) const VIRTUAL_DISK_ID: Guid = guid(0xBECA12AB_B2E6_4523_93EF_C309E000C746);
pub(super) const LOGICAL_SECTOR_SIZE: Guid = guid(0x8141BF1D_A96F_4709_BA47_F233A8FAAB5F);
pub(super) const PHYSICAL_SECTOR_SIZE: Guid = guid(0xCDA348C7_445D_4471_9CC9_E9885251C556);
pub(super) const PARENT_LOCATOR: Guid = guid(0xA8D35F2D_B30B_454D_ABF7_D3D84834AB0C);
const VHDX_LOCATOR_TYPE: Guid = guid(0xB04AEFB7_D19E_4A81_B789_25B8E9445913);

fn take_guid(bytes: &[u8], at: usize) -> Guid {
    bytes[at..at + 16].try_into().expect("sliced to size")
}

/// Returns the CRC-32C of `bytes` with the four bytes of the checksum itself, at `at`, as zeros.
pub(super) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..at]), &[0; 4]);
    crc32c::crc32c_append(sum, &bytes[at + 4..])
}

/// The header (section 2.2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence_number: u64,
    pub(super) data_write_guid: Guid,
    /// All zeros if the log is empty.
    pub(super) log_guid: Guid,
    pub(super) log_length: u32,
    pub(super) log_offset: u64,
}

impl Header {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let place = |field, byte| at("VHDX header").field(field).byte(byte);
        if bytes.len() < HEADER || bytes[..4] != *b"head" {
            return Err(place("Signature", 0).corrupt("is not head"));
        }
        let (expected, found) = (checksum(&bytes[..HEADER], 4), le32(bytes, 4));
        if !fits(found, expected) {
            return Err(place("Checksum", 4).corrupt(format!("is {found:#x}, expected {expected:#x}")));
        }
        let (log_version, version) = (le16(bytes, 64), le16(bytes, 66));
        if version != 1 {
            return Err(place("Version", 66).unsupported(format!("is {version}, expected 1")));
        }
        let header = Header {
            sequence_number: le64(bytes, 8),
            data_write_guid: take_guid(bytes, 32),
            log_guid: take_guid(bytes, 48),
            log_length: le32(bytes, 68),
            log_offset: le64(bytes, 72),
        };
        if log_version != 0 && header.log_guid != Guid::default() {
            return Err(place("LogVersion", 64).unsupported(format!("is {log_version}, expected 0")));
        }
        Ok(header)
    }
}

/// The place of a region, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// Parses the region table (section 2.2.3): the places of the block allocation table and the metadata.
pub(super) fn parse_regions(bytes: &[u8]) -> Result<(Region, Region)> {
    let place = |field, byte: usize| at("VHDX region table").field(field).byte(byte as u64);
    if bytes.len() < REGION_TABLE || bytes[..4] != *b"regi" {
        return Err(place("Signature", 0).corrupt("is not regi"));
    }
    let (expected, found) = (checksum(&bytes[..REGION_TABLE], 4), le32(bytes, 4));
    if !fits(found, expected) {
        return Err(place("Checksum", 4).corrupt(format!("is {found:#x}, expected {expected:#x}")));
    }
    let count = le32(bytes, 8);
    if count > 2047 {
        return Err(place("EntryCount", 8).corrupt(format!("is {count}, more than 2047")));
    }
    let (mut bat, mut metadata) = (None, None);
    for entry in 0..count as usize {
        let byte = 16 + entry * 32;
        let kind = take_guid(bytes, byte);
        let region = Region { offset: le64(bytes, byte + 16), len: le32(bytes, byte + 24) };
        let required = le32(bytes, byte + 28) & 1 != 0;
        match kind {
            BAT_REGION if bat.replace(region).is_none() => {}
            METADATA_REGION if metadata.replace(region).is_none() => {}
            BAT_REGION | METADATA_REGION => {
                return Err(place("Guid", byte).corrupt("the region is listed twice"));
            }
            _ if required => {
                return Err(place("Guid", byte).unsupported("an unknown region is marked as required"));
            }
            _ => {}
        }
    }
    match (bat, metadata) {
        (Some(bat), Some(metadata)) => Ok((bat, metadata)),
        _ => Err(at("VHDX region table").corrupt("has no block allocation table or no metadata")),
    }
}

/// The metadata (section 2.6).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Metadata {
    /// In bytes.
    pub(super) block_size: u32,
    pub(super) has_parent: bool,
    /// In bytes.
    pub(super) virtual_disk_size: u64,
    /// In bytes.
    pub(super) logical_sector_size: u32,
    /// Keys and values of the parent locator.
    pub(super) parent: Vec<(String, String)>,
}

impl Metadata {
    /// Parses the table. `item` returns the bytes of an item, given its offset in the region and the length that the
    /// table claims, at most 64 KiB.
    pub(super) fn parse(table: &[u8], item: impl Fn(u32, u32) -> Result<Vec<u8>>) -> Result<Self> {
        let place = |field, byte: usize| at("VHDX metadata table").field(field).byte(byte as u64);
        if table.len() < METADATA_TABLE || table[..8] != *b"metadata" {
            return Err(place("Signature", 0).corrupt("is not metadata"));
        }
        let count = le16(table, 10);
        if count > 2047 {
            return Err(place("EntryCount", 10).corrupt(format!("is {count}, more than 2047")));
        }
        let mut metadata = Metadata::default();
        for entry in 0..usize::from(count) {
            let byte = 32 + entry * 32;
            let (kind, offset, len) =
                (take_guid(table, byte), le32(table, byte + 16), le32(table, byte + 20));
            let flags = le32(table, byte + 24);
            let least = match kind {
                FILE_PARAMETERS | VIRTUAL_DISK_SIZE => 8,
                LOGICAL_SECTOR_SIZE | PHYSICAL_SECTOR_SIZE => 4,
                VIRTUAL_DISK_ID => 16,
                PARENT_LOCATOR => 20,
                _ if flags & 4 != 0 => {
                    return Err(
                        place("ItemId", byte).unsupported("an unknown metadata item is marked as required")
                    );
                }
                _ => continue,
            };
            if !(least..=64 << 10).contains(&len) {
                return Err(place("Length", byte + 20).corrupt(format!("is {len}, expected {least} or more")));
            }
            let bytes = item(offset, len)?;
            match kind {
                FILE_PARAMETERS => {
                    metadata.block_size = le32(&bytes, 0);
                    metadata.has_parent = le32(&bytes, 4) & 2 != 0;
                }
                VIRTUAL_DISK_SIZE => metadata.virtual_disk_size = le64(&bytes, 0),
                LOGICAL_SECTOR_SIZE => metadata.logical_sector_size = le32(&bytes, 0),
                PARENT_LOCATOR => metadata.parent = parse_locator(&bytes)?,
                _ => {}
            }
        }
        metadata.check()?;
        Ok(metadata)
    }

    fn check(&self) -> Result<()> {
        let place = |field| at("VHDX metadata").field(field);
        if !self.block_size.is_power_of_two() || !(1 << 20..=256 << 20).contains(&self.block_size) {
            let problem = format!("is {}, expected a power of two from 1 to 256 MiB", self.block_size);
            return Err(place("BlockSize").corrupt(problem));
        }
        if !matches!(self.logical_sector_size, 512 | 4096) {
            let problem = format!("is {}, expected 512 or 4096", self.logical_sector_size);
            return Err(place("LogicalSectorSize").corrupt(problem));
        }
        let (size, most) = (self.virtual_disk_size, 64u64 << 40);
        if size > most {
            return Err(place("VirtualDiskSize").limit(format!("is {size}, more than 64 TiB")));
        }
        if size % u64::from(self.logical_sector_size) != 0 {
            return Err(
                place("VirtualDiskSize").corrupt(format!("is {size}, not a multiple of the sector size"))
            );
        }
        Ok(())
    }

    /// Returns the value of a key of the parent locator.
    pub(super) fn locate(&self, key: &str) -> Option<&str> {
        self.parent.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Returns how many payload blocks a sector bitmap block covers (section 2.5).
    pub(super) fn chunk_ratio(&self) -> u64 {
        (u64::from(self.logical_sector_size) << 23) / u64::from(self.block_size)
    }
}

fn parse_locator(bytes: &[u8]) -> Result<Vec<(String, String)>> {
    let place = |field, byte: usize| at("VHDX parent locator").field(field).byte(byte as u64);
    if take_guid(bytes, 0) != VHDX_LOCATOR_TYPE {
        return Err(place("LocatorType", 0).unsupported("is not the type for VHDX files"));
    }
    let text = |offset: u32, len: u16| {
        let units = bytes.get(offset as usize..(offset as usize).checked_add(usize::from(len))?)?;
        let units = units.chunks_exact(2).map(|u| u16::from_le_bytes([u[0], u[1]]));
        Some(char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect::<String>())
    };
    let mut pairs = Vec::new();
    for entry in 0..usize::from(le16(bytes, 18)) {
        let byte = 20 + entry * 12;
        let pair = bytes
            .get(byte..byte + 12)
            .and_then(|e| Some((text(le32(e, 0), le16(e, 8))?, text(le32(e, 4), le16(e, 10))?)));
        pairs.push(pair.ok_or_else(|| place("Entry", byte).corrupt("extends past the locator"))?);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn header() -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..4].copy_from_slice(b"head");
        bytes[66] = 1;
        bytes
    }

    fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
        let sum = checksum(&bytes, 4);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn bad_headers_are_refused() {
        Header::parse(&summed(header())).unwrap();
        assert!(Header::parse(&header()).is_err());
        let mut bytes = header();
        bytes[66] = 2;
        assert_eq!(Header::parse(&summed(bytes)).unwrap_err().kind(), ErrorKind::Unsupported);
        let mut bytes = header();
        (bytes[48], bytes[64]) = (1, 1);
        assert_eq!(Header::parse(&summed(bytes)).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn bad_region_tables_are_refused() {
        let mut table = vec![0; REGION_TABLE];
        table[..4].copy_from_slice(b"regi");
        assert!(parse_regions(&summed(table.clone())).unwrap_err().to_string().contains("no block"));
        table[8] = 2;
        table[16..32].copy_from_slice(&BAT_REGION);
        table[48..64].copy_from_slice(&METADATA_REGION);
        parse_regions(&summed(table.clone())).unwrap();
        let mut twice = table.clone();
        twice[48..64].copy_from_slice(&BAT_REGION);
        assert!(parse_regions(&summed(twice)).unwrap_err().to_string().contains("twice"));
        let mut unknown = table.clone();
        (unknown[8], unknown[80], unknown[108]) = (3, 7, 1);
        assert_eq!(parse_regions(&summed(unknown)).unwrap_err().kind(), ErrorKind::Unsupported);
        (table[8], table[9]) = (0, 8);
        assert!(parse_regions(&summed(table)).unwrap_err().to_string().contains("EntryCount"));
    }

    #[test]
    fn guids_are_stored_mixed_endian() {
        assert_eq!(BAT_REGION[..8], [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42]);
    }
}
