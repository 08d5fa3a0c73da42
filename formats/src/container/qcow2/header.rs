//! The qcow2 header, its extensions and the snapshot table (qcow2 specification, "Header", "Header
//! extensions", "Snapshots"). All numbers are big-endian.

use std::ops::Range;

use crate::bytes::{be16, be32, be64};
use crate::error::{Result, at};

pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// The largest L1 table in bytes, qemu's limit.
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;
/// The most snapshots, qemu's limit.
const MAX_SNAPSHOTS: u32 = 65536;
/// The largest snapshot table that is read, in bytes: far larger than real ones.
pub(super) const MAX_SNAPSHOT_TABLE: u64 = 16 << 20;

/// The longest name of a backing file, in bytes (specification: 1023).
const MAX_BACKING_NAME: u32 = 1023;

/// Bits of `incompatible_features`.
pub(super) mod incompatible {
    pub(in crate::container::qcow2) const DIRTY: u64 = 1 << 0;
    pub(in crate::container::qcow2) const CORRUPT: u64 = 1 << 1;
    pub(in crate::container::qcow2) const DATA_FILE: u64 = 1 << 2;
    pub(in crate::container::qcow2) const COMPRESSION: u64 = 1 << 3;
    pub(in crate::container::qcow2) const EXTENDED_L2: u64 = 1 << 4;
    pub(in crate::container::qcow2) const KNOWN: u64 =
        DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Types of header extensions.
pub(super) mod extension {
    pub(in crate::container::qcow2) const END: u32 = 0;
    pub(in crate::container::qcow2) const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub(in crate::container::qcow2) const FEATURE_NAMES: u32 = 0x6803_f857;
    pub(in crate::container::qcow2) const DATA_FILE: u32 = 0x4441_5441;
    pub(in crate::container::qcow2) const ENCRYPTION: u32 = 0x0537_be77;
}

/// The validated header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// 2 or 3.
    pub(super) version: u32,
    /// The backing file's name, as bytes.
    pub(super) backing_file: Option<Vec<u8>>,
    /// The backing file's format.
    pub(super) backing_format: Option<String>,
    /// A cluster is `1 << cluster_bits` bytes: 9 to 21.
    pub(super) cluster_bits: u32,
    /// The disk's size in bytes.
    pub(super) size: u64,
    /// Number of entries in the L1 table.
    pub(super) l1_size: u32,
    /// Offset of the L1 table, in bytes.
    pub(super) l1_table_offset: u64,
    pub(super) nb_snapshots: u32,
    pub(super) snapshots_offset: u64,
    pub(super) incompatible_features: u64,
    /// 0 is zlib (raw deflate), 1 is zstd.
    pub(super) compression_type: u8,
    /// A reference count is `1 << refcount_order` bits wide.
    pub(super) refcount_order: u32,
    /// The name of the external data file, as bytes.
    pub(super) data_file: Option<Vec<u8>>,
    /// True if the disk is encrypted with LUKS.
    is_encrypted: bool,
    /// The place of the LUKS header in the file, in bytes.
    encryption: Option<Range<u64>>,
}

impl Header {
    pub(super) fn has(&self, feature: u64) -> bool {
        self.incompatible_features & feature != 0
    }

    /// Parses the header from the file's first cluster, or from the part of it that exists.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let place = |field, byte| at("qcow2 header").field(field).byte(byte);
        if bytes.len() < 72 {
            return Err(at("qcow2 header").byte(0).corrupt("the file ends within it"));
        }
        if bytes[..4] != MAGIC {
            return Err(place("magic", 0).corrupt("is not QFI\\xfb, so this is not a qcow2 image"));
        }
        let version = be32(bytes, 4);
        match version {
            2 | 3 => {}
            1 => return Err(place("version", 4).unsupported("is 1: mif does not read the old qcow format")),
            _ => return Err(place("version", 4).unsupported(format!("is {version}, expected 2 or 3"))),
        }
        let cluster_bits = be32(bytes, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(place("cluster_bits", 20).corrupt(format!("is {cluster_bits}, expected 9 to 21")));
        }
        match be32(bytes, 32) {
            0 => {}
            1 => return Err(place("crypt_method", 32).unsupported(
                    "the image is encrypted with the old AES of qcow2, which mif does not read; `qemu-img convert` does",
                )),
            2 => {}
            other => {
                let problem = format!("the image is encrypted (unknown method {other})");
                return Err(place("crypt_method", 32).unsupported(problem));
            }
        }
        let mut header = Header {
            version,
            backing_file: None,
            backing_format: None,
            cluster_bits,
            size: be64(bytes, 24),
            l1_size: be32(bytes, 36),
            l1_table_offset: be64(bytes, 40),
            nb_snapshots: be32(bytes, 60),
            snapshots_offset: be64(bytes, 64),
            incompatible_features: 0,
            compression_type: 0,
            refcount_order: 4,
            data_file: None,
            is_encrypted: be32(bytes, 32) == 2,
            encryption: None,
        };
        let mut extensions = 72;
        if version == 3 {
            extensions = header.parse_version_3(bytes)?;
        }
        header.parse_backing_name(bytes)?;
        let end = match be64(bytes, 8) {
            0 => bytes.len(),
            backing => usize::try_from(backing).map_or(bytes.len(), |b| b.min(bytes.len())),
        };
        let feature_names = header.parse_extensions(&bytes[..end], extensions)?;
        header.check_features(&feature_names)?;
        header.check_l1()?;
        if header.nb_snapshots > MAX_SNAPSHOTS {
            let problem = format!("is {}, more than {MAX_SNAPSHOTS}", header.nb_snapshots);
            return Err(place("nb_snapshots", 60).limit(problem));
        }
        Ok(header)
    }

    /// Parses the fields that version 3 adds; returns where the extensions begin.
    fn parse_version_3(&mut self, bytes: &[u8]) -> Result<usize> {
        let place = |field, byte| at("qcow2 header").field(field).byte(byte);
        if bytes.len() < 104 {
            return Err(at("qcow2 header").byte(72).corrupt("the file ends within it"));
        }
        self.incompatible_features = be64(bytes, 72);
        self.refcount_order = be32(bytes, 96);
        if self.refcount_order > 6 {
            let problem = format!("is {}, expected 0 to 6", self.refcount_order);
            return Err(place("refcount_order", 96).corrupt(problem));
        }
        let header_length = be32(bytes, 100);
        let length = header_length as usize;
        if !(104..=bytes.len()).contains(&length) || !length.is_multiple_of(8) {
            let problem =
                format!("is {header_length}, expected a multiple of 8 from 104 within the first cluster");
            return Err(place("header_length", 100).corrupt(problem));
        }
        if length > 104 {
            self.compression_type = bytes[104];
        }
        Ok(length)
    }

    fn parse_backing_name(&mut self, bytes: &[u8]) -> Result<()> {
        let (offset, size) = (be64(bytes, 8), be32(bytes, 16));
        if offset == 0 || size == 0 {
            return Ok(());
        }
        let place = |field, byte| at("qcow2 header").field(field).byte(byte);
        if size > MAX_BACKING_NAME {
            let problem = format!("is {size}, more than {MAX_BACKING_NAME}");
            return Err(place("backing_file_size", 16).limit(problem));
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let name = bytes.get(start..start.saturating_add(size as usize)).ok_or_else(|| {
            let problem = format!("is {offset}: the name extends past the first cluster");
            place("backing_file_offset", 8).corrupt(problem)
        })?;
        self.backing_file = Some(name.to_vec());
        Ok(())
    }

    /// Parses the extensions; returns the feature name table if there is one.
    fn parse_extensions(&mut self, bytes: &[u8], start: usize) -> Result<Vec<u8>> {
        let mut feature_names = Vec::new();
        let mut position = start;
        while position + 8 <= bytes.len() {
            let (kind, len) = (be32(bytes, position), be32(bytes, position + 4) as usize);
            if kind == extension::END {
                break;
            }
            let data = position + 8;
            let Some(data) = data.checked_add(len).and_then(|end| bytes.get(data..end)) else {
                return Err(at("qcow2 header extension").field("length").byte(position as u64 + 4).corrupt(
                    format!("is {len}: the extension extends past the header or the backing file's name"),
                ));
            };
            match kind {
                extension::BACKING_FORMAT => {
                    self.backing_format = Some(String::from_utf8_lossy(data).into_owned());
                }
                extension::DATA_FILE => self.data_file = Some(data.to_vec()),
                extension::ENCRYPTION if self.is_encrypted => {
                    self.encryption = Some(encryption(data, position)?)
                }
                extension::FEATURE_NAMES => feature_names = data.to_vec(),
                _ => {}
            }
            position += 8 + len.next_multiple_of(8);
        }
        Ok(feature_names)
    }

    fn check_features(&self, feature_names: &[u8]) -> Result<()> {
        let place = || at("qcow2 header").field("incompatible_features").byte(72);
        let unknown = self.incompatible_features & !incompatible::KNOWN;
        if unknown != 0 {
            let bit = unknown.trailing_zeros() as u8;
            let named = feature_names.chunks_exact(48).find(|e| e[0] == 0 && e[1] == bit);
            let name = named.map_or_else(
                || format!("bit {bit}"),
                |entry| String::from_utf8_lossy(&entry[2..]).trim_end_matches('\0').to_owned(),
            );
            return Err(place().unsupported(format!("the image needs the unknown feature {name:?}")));
        }
        let place = || at("qcow2 header").field("compression_type").byte(104);
        match (self.has(incompatible::COMPRESSION), self.compression_type) {
            (false, 0) | (true, 1) => {}
            (true, 0) | (false, _) => {
                return Err(place().corrupt(format!(
                    "is {}, which contradicts the compression bit of incompatible_features",
                    self.compression_type
                )));
            }
            (true, other) => {
                return Err(place().unsupported(format!("is {other}, expected 0 (zlib) or 1 (zstd)")));
            }
        }
        if self.has(incompatible::EXTENDED_L2) && self.cluster_bits < 14 {
            return Err(at("qcow2 header").field("cluster_bits").byte(20).corrupt(format!(
                "is {}: extended L2 entries need clusters of 16 KiB at least",
                self.cluster_bits
            )));
        }
        Ok(())
    }

    fn check_l1(&self) -> Result<()> {
        let place = |field, byte| at("qcow2 header").field(field).byte(byte);
        if u64::from(self.l1_size) * 8 > MAX_L1_BYTES {
            let problem = format!("is {}, more than {}", self.l1_size, MAX_L1_BYTES / 8);
            return Err(place("l1_size", 36).limit(problem));
        }
        let needed = self.l1_entries(self.size);
        if u64::from(self.l1_size) < needed {
            let problem = format!(
                "is {}, too few for a disk of {} bytes, which needs {needed}",
                self.l1_size, self.size
            );
            return Err(place("l1_size", 36).corrupt(problem));
        }
        if !self.l1_table_offset.is_multiple_of(self.cluster_size()) {
            let problem = format!("is {}, not a multiple of the cluster size", self.l1_table_offset);
            return Err(place("l1_table_offset", 40).corrupt(problem));
        }
        Ok(())
    }

    /// Returns the place of the LUKS header in the file, if the disk is encrypted.
    pub(super) fn encryption(&self) -> Result<Option<Range<u64>>> {
        match (self.is_encrypted, &self.encryption) {
            (false, _) => Ok(None),
            (true, Some(range)) => Ok(Some(range.clone())),
            (true, None) => Err(at("qcow2 header").field("crypt_method").byte(32).corrupt(
                "the image is encrypted (LUKS), but no header extension tells where its LUKS header is",
            )),
        }
    }

    /// Returns the cluster size in bytes.
    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns the number of clusters per L2 table, as a power of two.
    pub(super) fn l2_bits(&self) -> u32 {
        self.cluster_bits - if self.has(incompatible::EXTENDED_L2) { 4 } else { 3 }
    }

    /// Returns the number of L1 entries that a disk of `size` bytes needs.
    pub(super) fn l1_entries(&self, size: u64) -> u64 {
        size.div_ceil(1 << (self.cluster_bits + self.l2_bits()))
    }
}

/// Parses the extension "Full disk encryption header pointer", which is at `position`.
fn encryption(data: &[u8], position: usize) -> Result<Range<u64>> {
    let place = || at("qcow2 full disk encryption header pointer").byte(position as u64 + 8);
    if data.len() < 16 {
        return Err(place().corrupt(format!("has {} bytes, expected 16", data.len())));
    }
    let (offset, len) = (be64(data, 0), be64(data, 8));
    match offset.checked_add(len) {
        Some(end) => Ok(offset..end),
        None => Err(place().corrupt(format!("{len} bytes at {offset} are past the end of every file"))),
    }
}

/// An internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) l1_table_offset: u64,
    pub(super) l1_size: u32,
    pub(super) id: String,
    pub(super) name: String,
    /// The disk's size in bytes at the time, if the table has it.
    pub(super) disk_size: Option<u64>,
}

impl Snapshot {
    /// Parses the table of `count` snapshots; `bytes` may continue after it.
    pub(super) fn parse_table(bytes: &[u8], count: u32) -> Result<Vec<Self>> {
        let mut snapshots = Vec::new();
        let mut position = 0;
        for number in 0..count {
            let place = || at(format!("qcow2 snapshot table, entry {number}"));
            let cut = || place().corrupt("the entry is truncated or too long");
            let fixed = bytes.get(position..position + 40).ok_or_else(cut)?;
            let (id_size, name_size) = (usize::from(be16(fixed, 12)), usize::from(be16(fixed, 14)));
            let extra_size = be32(fixed, 36) as usize;
            if extra_size > 1024 {
                return Err(place()
                    .field("extra_data_size")
                    .limit(format!("is {extra_size}, more than 1024")));
            }
            position += 40;
            let extra = bytes.get(position..position + extra_size).ok_or_else(cut)?;
            position += extra_size;
            let id = bytes.get(position..position + id_size).ok_or_else(cut)?;
            position += id_size;
            let name = bytes.get(position..position + name_size).ok_or_else(cut)?;
            position = (position + name_size).next_multiple_of(8);
            snapshots.push(Snapshot {
                l1_table_offset: be64(fixed, 0),
                l1_size: be32(fixed, 8),
                id: String::from_utf8_lossy(id).into_owned(),
                name: String::from_utf8_lossy(name).into_owned(),
                disk_size: (extra_size >= 16).then(|| be64(extra, 8)),
            });
        }
        Ok(snapshots)
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
