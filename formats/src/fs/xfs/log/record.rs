//! Log records: a header, extended headers if the record is long, and operations.

use super::ring::{MAGIC, Ring};
use crate::bytes::{be32, be64};
use crate::checksum::fits;
use crate::error::{At, Result, at};
use crate::fs::xfs::blocks::SECTOR;

/// Each header stores the first four bytes of this many sectors, where the cycle number is instead.
const SECTORS_PER_HEADER: u32 = 64;
/// Bytes of the longest record.
const SIZE_MAX: u32 = 256 << 10;
/// `sizeof(struct xlog_rec_header)` on 64-bit and on 32-bit machines; then the size of an extended header.
const HEADER_SIZES: [usize; 2] = [328, 324];
const EXTENDED_SIZE: usize = 260;
const CRC: usize = 32;
const CYCLE_DATA: usize = 44;
const EXTENDED_CYCLE_DATA: usize = 4;
/// `h_fmt` of a little-endian machine.
const FORMAT_LE: u32 = 1;

/// The header of a record, in its first sector.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// `h_lsn`: cycle and sector of the record.
    pub(super) lsn: u64,
    /// `h_tail_lsn`: cycle and sector of the oldest record still needed.
    pub(super) tail_lsn: u64,
    /// Bytes of the operations.
    pub(super) len: u32,
    pub(super) operations: u32,
    pub(super) uuid: [u8; 16],
    format: u32,
    version: u32,
    size: u32,
}

/// Returns the location of an error in a record.
pub(super) fn place(sector: u32) -> At {
    at(format!("log record in sector {sector}"))
}

impl Header {
    /// Parses the first sector of a record. `None` if it has no record header.
    pub(super) fn parse(sector: &[u8]) -> Option<Self> {
        (be32(sector, 0) == MAGIC).then(|| Header {
            version: be32(sector, 8),
            len: be32(sector, 12),
            lsn: be64(sector, 16),
            tail_lsn: be64(sector, 24),
            operations: be32(sector, 40),
            format: be32(sector, 300),
            uuid: sector[304..320].try_into().expect("16 bytes"),
            size: be32(sector, 320),
        })
    }

    /// Returns the number of header sectors.
    pub(super) fn headers(&self, ring: &Ring<'_>) -> u32 {
        let is_long = ring.is_v2 && self.version & 2 != 0;
        // mkfs.xfs once wrote a size smaller than the length.
        let size = self.size.max(if self.operations == 1 { self.len } else { 0 });
        if is_long { size.div_ceil(SECTORS_PER_HEADER * SECTOR as u32).max(1) } else { 1 }
    }

    /// Returns the number of sectors of operations.
    pub(super) fn data(&self) -> u32 {
        self.len.div_ceil(SECTOR as u32)
    }
}

/// A record.
pub(super) struct Record {
    pub(super) header: Header,
    /// The sectors as stored in the log: headers, then operations.
    bytes: Vec<u8>,
    headers: u32,
    sector: u32,
}

/// Reads the record at `sector`, which must end within the next `left` sectors.
pub(super) fn read(ring: &Ring<'_>, sector: u32, left: u32) -> Result<Record> {
    let first = ring.read(sector, 1)?;
    let Some(header) = Header::parse(&first) else {
        return Err(place(sector)
            .field("h_magicno")
            .corrupt(format!("is {:#x}, expected {MAGIC:#x}", be32(&first, 0))));
    };
    if header.version == 0 || header.version > 3 {
        return Err(place(sector)
            .field("h_version")
            .corrupt(format!("is {}, expected 1 or 2", header.version)));
    }
    let headers = header.headers(ring);
    if header.len == 0 || header.len > SIZE_MAX || headers > SIZE_MAX / SECTOR as u32 / SECTORS_PER_HEADER {
        let problem = format!("is {}, expected 1 to {SIZE_MAX}", header.len);
        return Err(place(sector).field("h_len").corrupt(problem));
    }
    let count = headers + header.data();
    if count > left {
        return Err(place(sector)
            .field("h_len")
            .corrupt(format!("is {}, but {left} sectors are left", header.len)));
    }
    let bytes = ring.read(sector, count)?;
    Ok(Record { header, bytes, headers, sector })
}

/// The operations of a record.
pub(super) struct Operations {
    pub(super) lsn: u64,
    /// The sector of the record.
    pub(super) sector: u32,
    pub(super) count: u32,
    pub(super) bytes: Vec<u8>,
}

impl Record {
    /// Returns the number of sectors.
    pub(super) fn sectors(&self) -> u32 {
        self.headers + self.header.data()
    }

    /// Returns true if the checksum matches.
    pub(super) fn fits(&self) -> bool {
        let found = u32::from_le_bytes(self.bytes[CRC..CRC + 4].try_into().expect("four bytes"));
        HEADER_SIZES.iter().any(|size| fits(found, self.sum(*size)))
    }

    /// Returns true if the checksum is present but does not match: the record was not completely written.
    pub(super) fn is_torn(&self) -> bool {
        self.bytes[CRC..CRC + 4] != [0; 4] && !self.fits()
    }

    fn sum(&self, header_size: usize) -> u32 {
        let size = SECTOR as usize;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&self.bytes[..CRC]), &[0; 4]);
        let mut crc = crc32c::crc32c_append(crc, &self.bytes[CRC + 4..header_size]);
        for header in 1..self.headers as usize {
            crc = crc32c::crc32c_append(crc, &self.bytes[header * size..][..EXTENDED_SIZE]);
        }
        crc32c::crc32c_append(crc, &self.bytes[self.headers as usize * size..][..self.header.len as usize])
    }

    /// Fails if the record was written by another filesystem, or by a machine of another byte order.
    pub(super) fn check_writer(&self, ring: &Ring<'_>) -> Result<()> {
        if self.header.format != FORMAT_LE {
            return Err(place(self.sector).field("h_fmt").unsupported(format!(
                "is {}: the log was written by a machine of another byte order",
                self.header.format
            )));
        }
        if self.header.uuid != ring.uuid {
            return Err(place(self.sector).field("h_fs_uuid").corrupt("belongs to another filesystem"));
        }
        Ok(())
    }

    /// Returns the operations, with the bytes restored that the cycle numbers replaced.
    pub(super) fn unpack(&self) -> Operations {
        let size = SECTOR as usize;
        let start = self.headers as usize * size;
        let mut bytes = self.bytes[start..].to_vec();
        for (i, sector) in bytes.chunks_mut(size).enumerate() {
            let (header, index) = (i / SECTORS_PER_HEADER as usize, i % SECTORS_PER_HEADER as usize);
            // A version 1 record has one header, which covers all its sectors.
            if header >= self.headers as usize {
                break;
            }
            let data = if header == 0 { CYCLE_DATA } else { header * size + EXTENDED_CYCLE_DATA };
            sector[..4].copy_from_slice(&self.bytes[data + index * 4..][..4]);
        }
        bytes.truncate(self.header.len as usize);
        Operations { lsn: self.header.lsn, sector: self.sector, count: self.header.operations, bytes }
    }
}
