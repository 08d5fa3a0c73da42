//! Sparse extents: grains found through a directory of tables. Three kinds of header lead to the same
//! tables: hosted ("KDMV"), COWD (old ESX redo logs) and seSparse (ESXi snapshots). All little-endian.

use crate::bytes::{le16, le32, le64};
use crate::cache::Cache;
use crate::container::mapped::entries_to_look_at;
use crate::container::{ImageFile, MAX_DISK};
use crate::error::{Result, at};
use crate::source::Source;

pub(super) const HOSTED_MAGIC: [u8; 4] = *b"KDMV";
pub(super) const COWD_MAGIC: [u8; 4] = *b"COWD";
const SE_MAGIC: u64 = 0xcafe_babe;
const SE_VOLATILE_MAGIC: u64 = 0xcafe_cafe;

pub(super) const SECTOR: u64 = 512;
/// The directory is at the end of the file; a footer has its offset.
pub(super) const GD_AT_END: u64 = u64::MAX;
/// The largest grain in sectors (1 GiB), qemu's limit.
const MAX_GRAIN: u64 = 0x20_0000;
/// The largest compressed grain in sectors, which must fit in memory (16 MiB).
const MAX_PACKED_GRAIN: u64 = 0x8000;
/// The most entries of a grain directory, qemu's limit: 64 TiB with grains of 4 KiB.
const MAX_DIRECTORY: u64 = 4 << 20;
/// The most sectors of an extent.
const MAX_SECTORS: u64 = MAX_DISK / SECTOR;
const TABLE_CACHE: usize = 16 << 20;

/// Bits of a hosted header's `flags`.
mod flag {
    pub(super) const REDUNDANT_DIRECTORY: u32 = 1 << 1;
    pub(super) const ZERO_GRAIN: u32 = 1 << 2;
    pub(super) const COMPRESSED: u32 = 1 << 16;
    pub(super) const MARKERS: u32 = 1 << 17;
}

/// The header of a hosted sparse extent ("SparseExtentHeader").
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostedHeader {
    pub(super) version: u32,
    pub(super) flags: u32,
    /// In sectors.
    pub(super) capacity: u64,
    /// In sectors.
    pub(super) grain_size: u64,
    /// Offset of the embedded descriptor, in sectors; 0 for none.
    pub(super) descriptor_offset: u64,
    /// In sectors.
    pub(super) descriptor_size: u64,
    pub(super) num_gtes_per_gt: u32,
    /// Offset of the redundant grain directory, in sectors; 0 for none.
    pub(super) rgd_offset: u64,
    /// In sectors.
    pub(super) gd_offset: u64,
    /// In sectors.
    pub(super) overhead: u64,
    pub(super) compressed: bool,
    /// Set while the extent is open for writing; still set if it was not closed properly.
    pub(super) unclean_shutdown: bool,
}

impl HostedHeader {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let place = |field, byte| at("VMDK header").field(field).byte(byte);
        if bytes.len() < 512 {
            return Err(at("VMDK header").byte(0).corrupt("the file ends within it"));
        }
        if bytes[..4] != HOSTED_MAGIC {
            return Err(place("magicNumber", 0).corrupt("is not KDMV, so this is not a sparse extent"));
        }
        let version = le32(bytes, 4);
        if !(1..=3).contains(&version) {
            return Err(place("version", 4).unsupported(format!("is {version}, expected 1 to 3")));
        }
        let compress_algorithm = le16(bytes, 77);
        if compress_algorithm > 1 {
            let problem = format!("is {compress_algorithm}, expected 0 (none) or 1 (deflate)");
            return Err(place("compressAlgorithm", 77).unsupported(problem));
        }
        let flags = le32(bytes, 8);
        let header = HostedHeader {
            version,
            flags,
            capacity: le64(bytes, 12),
            grain_size: le64(bytes, 20),
            descriptor_offset: le64(bytes, 28),
            descriptor_size: le64(bytes, 36),
            num_gtes_per_gt: le32(bytes, 44),
            rgd_offset: le64(bytes, 48),
            gd_offset: le64(bytes, 56),
            overhead: le64(bytes, 64),
            compressed: compress_algorithm == 1,
            unclean_shutdown: bytes[72] != 0,
        };
        if flags & flag::COMPRESSED != 0 && !header.compressed {
            return Err(place("compressAlgorithm", 77).corrupt("is 0, but the flags say compressed"));
        }
        if header.capacity == 0 {
            // The data is elsewhere: only the descriptor matters.
            return Ok(header);
        }
        if header.capacity > MAX_SECTORS {
            return Err(
                place("capacity", 12).limit(format!("is {}, more than {MAX_SECTORS}", header.capacity))
            );
        }
        let most = if header.compressed { MAX_PACKED_GRAIN } else { MAX_GRAIN };
        if header.grain_size == 0 {
            return Err(place("grainSize", 20).corrupt("is 0"));
        }
        if header.grain_size > most {
            return Err(place("grainSize", 20).limit(format!("is {}, more than {most}", header.grain_size)));
        }
        if !(1..=512).contains(&header.num_gtes_per_gt) {
            let problem = format!("is {}, expected 1 to 512", header.num_gtes_per_gt);
            return Err(place("numGTEsPerGT", 44).corrupt(problem));
        }
        Ok(header)
    }

    /// Parses the footer's header, which is valid if the directory is at the end of the file. `tail` is the last three
    /// sectors: the footer's marker, the footer, the end-of-stream marker.
    pub(super) fn parse_footer(tail: &[u8]) -> Result<Self> {
        let place = || at("VMDK footer");
        let marker = |sector: &[u8]| (le32(sector, 8), le32(sector, 12));
        if tail.len() != 1536 || marker(tail) != (0, 3) || marker(&tail[1024..]) != (0, 0) {
            return Err(place().corrupt("is not at the end of the file; is the file truncated?"));
        }
        let header = Self::parse(&tail[512..1024])?;
        match header.gd_offset {
            GD_AT_END => Err(place().field("gdOffset").corrupt("is that of a header")),
            _ => Ok(header),
        }
    }

    pub(super) fn has_markers(&self) -> bool {
        self.flags & flag::MARKERS != 0
    }
}

/// The format of grain table entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entries {
    /// 32 bits: the grain's sector. If `zero` is set, 1 means a grain of zeros.
    Hosted { zero: bool },
    /// 64 bits with a type; grains are counted from sector `grains`.
    Se { grains: u64 },
}

/// A sparse extent's tables.
pub(super) struct Sparse {
    pub(super) file: ImageFile,
    /// In bytes.
    pub(super) capacity: u64,
    /// In bytes.
    pub(super) grain: u64,
    /// The compression of grains: `None`, or whether their length is in front.
    pub(super) packed: Option<bool>,
    /// Offsets of the grain tables, in bytes; 0 for none.
    directory: Vec<u64>,
    /// Number of entries per grain table.
    table_len: u64,
    entries: Entries,
    tables: Cache<Vec<u64>>,
}

/// The meaning of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    Absent,
    Zero,
    /// Stored at this byte of the file.
    At(u64),
}

/// The place and shape of a directory; numbers in sectors.
#[derive(Clone, Copy)]
struct Tables {
    capacity: u64,
    grain: u64,
    directory: u64,
    directory_len: u64,
    table_len: u64,
}

impl Sparse {
    /// Opens a hosted extent. If its grain directory is damaged, uses the redundant one, with a warning.
    pub(super) fn hosted(file: ImageFile, header: &HostedHeader, warnings: &mut Vec<String>) -> Result<Self> {
        if header.overhead.saturating_mul(SECTOR) > file.len() {
            return Err(at("VMDK header").file(file.path()).field("overHead").byte(64).corrupt(format!(
                "is {} sectors, but the file has {} bytes; is the file truncated?",
                header.overhead,
                file.len()
            )));
        }
        let covered = header.grain_size * u64::from(header.num_gtes_per_gt);
        let tables = Tables {
            capacity: header.capacity,
            grain: header.grain_size,
            directory: header.gd_offset,
            directory_len: header.capacity.div_ceil(covered),
            table_len: u64::from(header.num_gtes_per_gt),
        };
        let entries = Entries::Hosted { zero: header.flags & flag::ZERO_GRAIN != 0 };
        let packed = header.compressed.then(|| header.has_markers());
        let open = |tables: &Tables| {
            let table_at = |entry: &[u8]| Some(u64::from(le32(entry, 0)) * SECTOR);
            Self::new(file.again(), tables, entries, packed, table_at)
        };
        if matches!(header.rgd_offset, 0 | GD_AT_END) || header.rgd_offset == header.gd_offset {
            return open(&tables);
        }
        match (open(&tables), open(&Tables { directory: header.rgd_offset, ..tables })) {
            (first, Err(_)) => first,
            (Err(damage), Ok(second)) => {
                warnings.push(format!("{damage}; using the redundant grain directory instead"));
                Ok(second)
            }
            (Ok(mut first), Ok(second)) => {
                // Without the flag the redundant directory may hold anything; it is used only if there is no other.
                let is_gone = first.directory.iter().all(|entry| *entry == 0);
                if is_gone || header.flags & flag::REDUNDANT_DIRECTORY != 0 {
                    first.mend_directory(&second, warnings);
                }
                Ok(first)
            }
        }
    }

    /// Replaces entries that lead to no table by those of the redundant directory that do.
    fn mend_directory(&mut self, redundant: &Sparse, warnings: &mut Vec<String>) {
        let table_len = self.table_len * 4;
        let leads = |entry: u64| entry != 0 && entry.saturating_add(table_len) <= self.file.len();
        let mut mended = 0;
        for (entry, other) in self.directory.iter_mut().zip(&redundant.directory) {
            if !leads(*entry) && leads(*other) {
                *entry = *other;
                mended += 1;
            }
        }
        if mended > 0 {
            warnings.push(format!(
                "the grain directory of {} is damaged; using the redundant directory for {mended} of its {} entries",
                self.file.path().display(),
                self.directory.len()
            ));
        }
    }

    /// Opens a COWD extent.
    pub(super) fn cowd(file: ImageFile) -> Result<Self> {
        let bytes = file.read_up_to(0, 512)?;
        let place = |field, byte| at("COWD header").file(file.path()).field(field).byte(byte);
        if bytes.len() < 512 {
            return Err(at("COWD header").file(file.path()).byte(0).corrupt("the file ends within it"));
        }
        let version = le32(&bytes, 4);
        if version != 1 {
            return Err(place("version", 4).unsupported(format!("is {version}, expected 1")));
        }
        let grain = u64::from(le32(&bytes, 16));
        if grain == 0 || grain > MAX_GRAIN {
            return Err(place("grainSize", 16).corrupt(format!("is {grain}, expected 1 to {MAX_GRAIN}")));
        }
        let tables = Tables {
            capacity: u64::from(le32(&bytes, 12)),
            grain,
            directory: u64::from(le32(&bytes, 20)),
            directory_len: u64::from(le32(&bytes, 24)),
            table_len: 4096,
        };
        let entries = Entries::Hosted { zero: false };
        Self::new(file, &tables, entries, None, |entry| Some(u64::from(le32(entry, 0)) * SECTOR))
    }

    /// Opens a seSparse extent.
    pub(super) fn se(file: ImageFile) -> Result<Self> {
        let bytes = file.read_up_to(0, 512)?;
        let place = |field, byte| at("seSparse header").file(file.path()).field(field).byte(byte);
        if bytes.len() < 512 {
            return Err(at("seSparse header").file(file.path()).byte(0).corrupt("the file ends within it"));
        }
        let expect = |field, byte: usize, expected: u64| match le64(&bytes, byte) {
            found if found == expected => Ok(()),
            found => {
                let problem = format!("is {found:#x}, expected {expected:#x}");
                Err(place(field, byte as u64).unsupported(problem))
            }
        };
        expect("magic", 0, SE_MAGIC)?;
        expect("version", 8, 0x2_0000_0001)?;
        expect("grain_size", 24, 8)?;
        expect("grain_table_size", 32, 64)?;
        expect("flags", 40, 0)?;
        let capacity = le64(&bytes, 16);
        if capacity > MAX_SECTORS {
            return Err(place("capacity", 16).limit(format!("is {capacity}, more than {MAX_SECTORS}")));
        }
        let volatile_at = le64(&bytes, 80).saturating_mul(SECTOR);
        let volatile = file.read_up_to(volatile_at, 512)?;
        if volatile.len() < 32 || le64(&volatile, 0) != SE_VOLATILE_MAGIC {
            let problem = "does not lead to a volatile header";
            return Err(place("volatile_header_offset", 80).corrupt(problem));
        }
        if le64(&volatile, 24) != 0 {
            return Err(at("seSparse volatile header")
                .file(file.path())
                .field("replay_journal")
                .byte(volatile_at + 24)
                .unsupported("the extent was not closed properly, and mif does not replay its journal"));
        }
        let (tables_at, grains) = (le64(&bytes, 144), le64(&bytes, 192));
        let tables = Tables {
            capacity,
            grain: 8,
            directory: le64(&bytes, 128),
            directory_len: le64(&bytes, 136).saturating_mul(SECTOR / 8),
            table_len: 4096,
        };
        Self::new(file, &tables, Entries::Se { grains }, None, |entry| match le64(entry, 0) {
            0 => Some(0),
            entry if entry >> 32 == 0x1000_0000 => {
                (entry & 0xffff_ffff).checked_mul(64)?.checked_add(tables_at)?.checked_mul(SECTOR)
            }
            _ => None,
        })
    }

    fn new(
        file: ImageFile,
        tables: &Tables,
        entries: Entries,
        packed: Option<bool>,
        table_at: impl Fn(&[u8]) -> Option<u64>,
    ) -> Result<Self> {
        let offset = tables.directory.saturating_mul(SECTOR);
        let place = || at("VMDK grain directory").file(file.path()).byte(offset);
        let needed = tables.capacity.div_ceil(tables.grain * tables.table_len);
        if needed > MAX_DIRECTORY {
            return Err(place().limit(format!("has {needed} entries, more than {MAX_DIRECTORY}")));
        }
        if needed > tables.directory_len {
            return Err(place()
                .corrupt(format!("has {} entries, but the extent needs {needed}", tables.directory_len)));
        }
        let width = if matches!(entries, Entries::Se { .. }) { 8 } else { 4 };
        if offset.checked_add(needed * width).is_none_or(|end| end > file.len()) {
            let problem =
                format!("extends past the end of the file at {}; is the file truncated?", file.len());
            return Err(place().corrupt(problem));
        }
        let bytes = file.read_vec(offset, (needed * width) as usize)?;
        let directory = bytes
            .chunks_exact(width as usize)
            .map(|entry| table_at(entry).ok_or_else(|| place().corrupt("has an entry of an unknown kind")))
            .collect::<Result<_>>()?;
        Ok(Sparse {
            file,
            capacity: tables.capacity * SECTOR,
            grain: tables.grain * SECTOR,
            packed,
            directory,
            table_len: tables.table_len,
            entries,
            tables: Cache::new(TABLE_CACHE),
        })
    }

    /// Returns the grain that holds byte `offset` of the extent, and for how many grains this state continues, up to
    /// about `wanted` bytes: absent, zeros, or stored one after the other.
    pub(super) fn grains_at(&self, offset: u64, wanted: u64) -> Result<(Grain, u64)> {
        let number = offset / self.grain;
        let (table, index) = ((number / self.table_len) as usize, number % self.table_len);
        if self.directory[table] == 0 {
            let look = entries_to_look_at(wanted, self.grain * self.table_len);
            let absent = self.directory[table..].iter().take(look).take_while(|e| **e == 0).count() as u64;
            return Ok((Grain::Absent, absent * self.table_len - index));
        }
        let entries = self.table(self.directory[table])?;
        let first = self.decode(entries[index as usize])?;
        let most = entries.len() as u64 - index;
        let most = most.min(wanted.div_ceil(self.grain).saturating_add(1));
        let mut same = 1;
        while same < most {
            let Ok(next) = self.decode(entries[(index + same) as usize]) else { break };
            let follows = match (first, next) {
                (Grain::At(first), Grain::At(next)) => {
                    self.packed.is_none() && next == first + same * self.grain && next < self.file.len()
                }
                (first, next) => first == next,
            };
            if !follows {
                break;
            }
            same += 1;
        }
        match first {
            Grain::At(at_byte) if at_byte >= self.file.len() => {
                Err(at("VMDK grain").file(self.file.path()).byte(at_byte).corrupt(format!(
                    "is past the end of the file at {}; is the file truncated?",
                    self.file.len()
                )))
            }
            first => Ok((first, same)),
        }
    }

    fn table(&self, offset: u64) -> Result<std::sync::Arc<Vec<u64>>> {
        let width = if matches!(self.entries, Entries::Se { .. }) { 8 } else { 4 };
        let size = self.table_len * width;
        self.tables.get(offset, self.table_len as usize * 8, || {
            if offset.checked_add(size).is_none_or(|end| end > self.file.len()) {
                return Err(at("VMDK grain table").file(self.file.path()).byte(offset).corrupt(format!(
                    "extends past the end of the file at {}; is the file truncated?",
                    self.file.len()
                )));
            }
            let bytes = self.file.read_vec(offset, size as usize)?;
            Ok(match width {
                8 => bytes.chunks_exact(8).map(|e| le64(e, 0)).collect(),
                _ => bytes.chunks_exact(4).map(|e| u64::from(le32(e, 0))).collect(),
            })
        })
    }

    fn decode(&self, entry: u64) -> Result<Grain> {
        let bad = || {
            at("VMDK grain table").file(self.file.path()).corrupt(format!("has the invalid entry {entry:#x}"))
        };
        match self.entries {
            Entries::Hosted { .. } if entry == 0 => Ok(Grain::Absent),
            Entries::Hosted { zero: true } if entry == 1 => Ok(Grain::Zero),
            Entries::Hosted { .. } => Ok(Grain::At(entry * SECTOR)),
            Entries::Se { grains } => match entry >> 60 {
                0 if entry == 0 => Ok(Grain::Absent),
                // Unmapped, or zeros.
                1 | 2 => Ok(Grain::Zero),
                3 => {
                    let number = ((entry >> 48) & 0xfff) | ((entry & 0xffff_ffff_ffff) << 12);
                    let sector = number.checked_mul(8).and_then(|s| s.checked_add(grains));
                    sector.and_then(|s| s.checked_mul(SECTOR)).map(Grain::At).ok_or_else(bad)
                }
                _ => Err(bad()),
            },
        }
    }
}

#[cfg(test)]
#[path = "sparse_tests.rs"]
mod tests;
