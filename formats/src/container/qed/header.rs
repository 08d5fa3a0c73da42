//! The header of a QED image.

use super::super::file::ImageFile;
use super::super::{MAX_DISK, human};
use crate::bytes::{le32, le64};
use crate::error::{Result, at};
use crate::source::Source;

pub(super) const MAGIC: [u8; 4] = *b"QED\0";

/// The length of the header in bytes.
pub(super) const LEN: usize = 64;

/// The longest name of a backing file, in bytes.
const MAX_NAME: u32 = 4096;

/// Bits of `features`.
pub(super) mod feature {
    /// The image has a backing file.
    pub(in super::super) const BACKING_FILE: u64 = 1;
    /// The image was not closed properly.
    pub(in super::super) const NEED_CHECK: u64 = 2;
    /// The backing file is raw.
    pub(in super::super) const BACKING_FORMAT_NO_PROBE: u64 = 4;
}

/// The header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// In bytes.
    pub(super) cluster_size: u32,
    /// The size of L1 and L2 tables, in clusters.
    table_size: u32,
    /// In clusters.
    pub(super) header_size: u32,
    features: u64,
    /// In bytes.
    pub(super) l1_table_offset: u64,
    /// In bytes.
    pub(super) image_size: u64,
    /// In bytes from the start of the file.
    backing_filename_offset: u32,
    /// In bytes.
    backing_filename_size: u32,
}

impl Header {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let place = |field, byte| at("QED header").field(field).byte(byte);
        if bytes.len() < LEN {
            return Err(at("QED header").byte(0).corrupt("the file ends within it"));
        }
        if !bytes.starts_with(&MAGIC) {
            return Err(place("magic", 0).corrupt("is wrong, so this is not a QED image"));
        }
        let header = Header {
            cluster_size: le32(bytes, 4),
            table_size: le32(bytes, 8),
            header_size: le32(bytes, 12),
            features: le64(bytes, 16),
            l1_table_offset: le64(bytes, 40),
            image_size: le64(bytes, 48),
            backing_filename_offset: le32(bytes, 56),
            backing_filename_size: le32(bytes, 60),
        };
        let cluster = u64::from(header.cluster_size);
        if !header.cluster_size.is_power_of_two() || !(1 << 12..=1 << 26).contains(&header.cluster_size) {
            let problem = format!("is {cluster}, expected a power of two from 4096 to 67108864");
            return Err(place("cluster_size", 4).corrupt(problem));
        }
        if !header.table_size.is_power_of_two() || !(1..=16).contains(&header.table_size) {
            let problem = format!("is {}, expected a power of two from 1 to 16", header.table_size);
            return Err(place("table_size", 8).corrupt(problem));
        }
        if header.header_size == 0 {
            return Err(place("header_size", 12).corrupt("is 0"));
        }
        let unknown = header.features & !7;
        if unknown != 0 {
            return Err(
                place("features", 16).unsupported(format!("has bits that mif does not know: {unknown:#x}"))
            );
        }
        if !header.l1_table_offset.is_multiple_of(cluster) || header.l1_table_offset == 0 {
            let problem = format!("is {}, which is not the offset of a cluster", header.l1_table_offset);
            return Err(place("l1_table_offset", 40).corrupt(problem));
        }
        if !header.image_size.is_multiple_of(512) {
            return Err(
                place("image_size", 48).corrupt(format!("is {}, not whole sectors", header.image_size))
            );
        }
        if header.image_size > MAX_DISK {
            let problem = format!("is {}, over the limit of {}", header.image_size, human(MAX_DISK));
            return Err(place("image_size", 48).limit(problem));
        }
        let most = header.entries().saturating_mul(header.bytes_per_table());
        if header.image_size > most {
            let problem = format!("is {}, more than its tables can map ({most})", header.image_size);
            return Err(place("image_size", 48).corrupt(problem));
        }
        Ok(header)
    }

    pub(super) fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Returns the number of entries of a table.
    pub(super) fn entries(&self) -> u64 {
        u64::from(self.table_size) * u64::from(self.cluster_size) / 8
    }

    /// Returns the bytes of the disk that an L2 table maps.
    pub(super) fn bytes_per_table(&self) -> u64 {
        self.entries() * u64::from(self.cluster_size)
    }

    /// Reads the name of the backing file.
    pub(super) fn backing_name(&self, file: &ImageFile) -> Result<Vec<u8>> {
        let place = || at("QED header").field("backing_filename_size").byte(60);
        let (offset, len) = (u64::from(self.backing_filename_offset), self.backing_filename_size);
        let header = u64::from(self.header_size) * u64::from(self.cluster_size);
        if len == 0 || len > MAX_NAME {
            return Err(place().corrupt(format!("is {len}, expected 1 to {MAX_NAME}")));
        }
        if offset + u64::from(len) > header.min(file.len()) {
            return Err(place().corrupt(format!("{len} bytes at {offset} extend past the header")));
        }
        file.read_vec(offset, len as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn header() -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        for (at, value) in [(4, 65536_u32), (8, 4), (12, 1)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        for (at, value) in [(40, 65536_u64), (48, 1 << 30)] {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn each_field_is_checked() {
        assert_eq!(Header::parse(&header()).unwrap().bytes_per_table(), 2 << 30);
        let kind = |at: usize, value: &[u8]| {
            let mut bytes = header();
            bytes[at..at + value.len()].copy_from_slice(value);
            Header::parse(&bytes).err().map(|e| e.kind())
        };
        let corrupt = Some(ErrorKind::Corrupt);
        assert_eq!(kind(0, b"QEX"), corrupt);
        assert_eq!(kind(4, &[1]), corrupt);
        assert_eq!(kind(4, &[0, 8, 0, 0]), corrupt);
        assert_eq!(kind(4, &[0, 0, 0, 8]), corrupt);
        assert_eq!(kind(8, &[3]), corrupt);
        assert_eq!(kind(8, &[32]), corrupt);
        assert_eq!(kind(12, &[0]), corrupt);
        assert_eq!(kind(16, &[8]), Some(ErrorKind::Unsupported));
        assert_eq!(kind(16, &[3]), None);
        assert_eq!(kind(40, &[1]), corrupt);
        assert_eq!(kind(40, &[0; 8]), corrupt);
        assert_eq!(kind(48, &[1]), corrupt);
        assert_eq!(kind(48, &[0xff; 8][..7]), corrupt);
        assert_eq!(kind(48, &[0, 0, 0, 0, 0, 0, 1]), corrupt);
        assert_eq!(kind(48, &[0, 0, 0, 0, 0, 0, 8]), Some(ErrorKind::Limit));
        assert!(Header::parse(&header()[..60]).is_err());
    }
}
