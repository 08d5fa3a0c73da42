//! Directories: entries in the inode, or in data blocks. The blocks after those index names by hash; listing does not
//! need them.

use super::blocks::SECTOR;
use super::checksum;
use super::superblock::Superblock;
use crate::bytes::{be16, be32, be64};
use crate::error::{Error, Result, at};

/// The end of the data blocks of a directory, in bytes; the name index starts here.
pub(super) const LEAF_OFFSET: u64 = 1 << 35;
const BLOCK_V2: u32 = 0x5844_3242; // XD2B
const DATA_V2: u32 = 0x5844_3244; // XD2D
const BLOCK_V3: u32 = 0x5844_4233; // XDB3
const DATA_V3: u32 = 0x5844_4433; // XDD3
const HEADER_V2: usize = 16;
const HEADER_V3: usize = 64;
const CRC: usize = 4;
/// Marks an unused part of a block.
const FREE_TAG: u16 = 0xFFFF;
/// Alignment of entries.
const ALIGN: usize = 8;
/// Bytes of an entry, and of the tail, of the index at the end of a single-block directory.
const LEAF_ENTRY: usize = 8;
const TAIL: usize = 8;

/// A directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawEntry<'a> {
    pub(super) ino: u64,
    pub(super) name: &'a [u8],
    /// Byte offset in the parsed data.
    pub(super) start: usize,
}

/// A location, for error messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The inode number of the directory.
    pub(super) ino: u64,
    /// Byte offset on the volume.
    pub(super) offset: u64,
    /// True if the checksum must match.
    pub(super) is_summed: bool,
}

impl Place {
    /// Returns an error in the field at byte `field_at`.
    pub(super) fn corrupt(self, field: &'static str, field_at: usize, problem: impl Into<String>) -> Error {
        at(format!("directory inode {}", self.ino))
            .field(field)
            .byte(self.offset + field_at as u64)
            .corrupt(problem)
    }
}

/// Passes the entries of a directory stored in its inode to `found`; there are none for `.` and `..`.
pub(super) fn short<'a>(
    bytes: &'a [u8],
    has_ftype: bool,
    place: Place,
    found: &mut dyn FnMut(RawEntry<'a>),
) -> Result<()> {
    let wide = bytes.get(1).is_some_and(|count| *count != 0);
    let ino_size = if wide { 8 } else { 4 };
    let header = 2 + ino_size;
    if bytes.len() < header {
        return Err(place.corrupt("xfs_dir2_sf_hdr", 0, format!("the directory has {} bytes", bytes.len())));
    }
    let mut start = header;
    for _ in 0..bytes[0] {
        let Some(name_len) = bytes.get(start).map(|len| usize::from(*len)) else {
            return Err(place.corrupt("count", 0, format!("is {}, but there are fewer entries", bytes[0])));
        };
        let name_at = start + 3;
        let ino_at = name_at + name_len + usize::from(has_ftype);
        let end = ino_at + ino_size;
        if end > bytes.len() {
            let problem = format!("is {name_len}, but {} bytes are left", bytes.len() - start);
            return Err(place.corrupt("namelen", start, problem));
        }
        let ino = if wide { be64(bytes, ino_at) } else { u64::from(be32(bytes, ino_at)) };
        found(RawEntry { ino, name: &bytes[name_at..name_at + name_len], start });
        start = end;
    }
    Ok(())
}

/// Passes the entries of a data block to `found`, including `.` and `..`. Fails at once if the block is invalid, or at
/// the first malformed entry, after reporting those before it.
pub(super) fn block<'a>(
    block: &'a [u8],
    sb: &Superblock,
    place: Place,
    found: &mut dyn FnMut(RawEntry<'a>),
) -> Result<()> {
    let magic = be32(block, 0);
    let is_v5 = sb.features.is_v5();
    let (one, data, header) =
        if is_v5 { (BLOCK_V3, DATA_V3, HEADER_V3) } else { (BLOCK_V2, DATA_V2, HEADER_V2) };
    if magic != one && magic != data {
        return Err(place.corrupt("magic", 0, format!("is {magic:#x}, expected {one:#x} or {data:#x}")));
    }
    if is_v5 {
        check_header(block, sb, place)?;
    }
    let mut end = block.len();
    if magic == one {
        let count = be32(block, end - TAIL) as usize;
        let room = (end - TAIL - header) / LEAF_ENTRY;
        if count > room {
            return Err(place.corrupt("count", end - TAIL, format!("is {count}, expected up to {room}")));
        }
        end -= TAIL + count * LEAF_ENTRY;
    }
    chain(&block[..end], header, sb.features.has_ftype(), place, found)
}

fn check_header(block: &[u8], sb: &Superblock, place: Place) -> Result<()> {
    if place.is_summed
        && let Err((found, right)) = checksum::check(block, CRC)
    {
        let problem = format!("is {found:#010x}, expected {right:#010x}: the directory block is damaged");
        return Err(place.corrupt("crc", CRC, problem));
    }
    if be64(block, 8) != place.offset / SECTOR {
        let problem = format!("is {}, expected {}", be64(block, 8), place.offset / SECTOR);
        return Err(place.corrupt("blkno", 8, problem));
    }
    if block[24..40] != sb.meta_uuid {
        return Err(place.corrupt("uuid", 24, "belongs to another filesystem"));
    }
    if be64(block, 40) != place.ino {
        return Err(place.corrupt("owner", 40, format!("is {}, expected {}", be64(block, 40), place.ino)));
    }
    Ok(())
}

/// Walks the chain of entries that starts at byte `start`.
fn chain<'a>(
    bytes: &'a [u8],
    mut start: usize,
    has_ftype: bool,
    place: Place,
    found: &mut dyn FnMut(RawEntry<'a>),
) -> Result<()> {
    while start < bytes.len() {
        let room = bytes.len() - start;
        if room < ALIGN {
            return Err(place.corrupt("length", start, format!("the entry before leaves {room} bytes over")));
        }
        if be16(bytes, start) == FREE_TAG {
            let len = usize::from(be16(bytes, start + 2));
            if len == 0 || !len.is_multiple_of(ALIGN) || len > room {
                let problem = format!("is {len}, expected a multiple of {ALIGN} up to {room}");
                return Err(place.corrupt("length", start + 2, problem));
            }
            start += len;
            continue;
        }
        let Some(name_len) = bytes.get(start + 8).map(|len| usize::from(*len)) else {
            return Err(place.corrupt("namelen", start, format!("the entry has {room} bytes")));
        };
        // Inode number, name length, name, type, and the offset of the entry itself.
        let len = (8 + 1 + name_len + usize::from(has_ftype) + 2).next_multiple_of(ALIGN);
        if len > room {
            let problem = format!("is {name_len}, but {room} bytes are left");
            return Err(place.corrupt("namelen", start + 8, problem));
        }
        let name = &bytes[start + 9..start + 9 + name_len];
        found(RawEntry { ino: be64(bytes, start), name, start });
        start += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { ino: 128, offset: 4096, is_summed: true };

    fn list(
        read: impl FnOnce(&mut dyn FnMut(RawEntry<'_>)) -> Result<()>,
    ) -> Result<Vec<(u64, String)>, String> {
        let mut names = Vec::new();
        read(&mut |e| names.push((e.ino, String::from_utf8_lossy(e.name).into_owned())))
            .map(|()| names)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_short_directory_has_numbers_of_four_or_eight_bytes() {
        let narrow = [&[1, 0, 0, 0, 0, 128, 3, 0, 0x60][..], b"abc", &[1, 0, 0, 0, 131]].concat();
        assert_eq!(list(|found| short(&narrow, true, PLACE, found)), Ok(vec![(131, "abc".to_owned())]));
        let wide =
            [&[1, 1, 0, 0, 0, 0, 0, 0, 0, 128, 1, 0, 0x60][..], b"x", &[0, 0, 0, 1, 0, 0, 0, 131]].concat();
        assert_eq!(
            list(|found| short(&wide, false, PLACE, found)),
            Ok(vec![((1 << 32) + 131, "x".to_owned())])
        );
    }

    #[test]
    fn a_short_directory_that_is_cut_off_is_named() {
        let bytes = [&[2, 0, 0, 0, 0, 128, 3, 0, 0x60][..], b"abc", &[1, 0, 0, 0, 131]].concat();
        let error = list(|found| short(&bytes, true, PLACE, found)).unwrap_err();
        assert_eq!(error, "directory inode 128, count, at byte 4096: is 2, but there are fewer entries");
        let error = list(|found| short(&bytes[..16], true, PLACE, found)).unwrap_err();
        assert_eq!(error, "directory inode 128, namelen, at byte 4102: is 3, but 10 bytes are left");
        assert!(list(|found| short(&bytes[..5], true, PLACE, found)).is_err());
        assert!(list(|found| short(&[], true, PLACE, found)).is_err());
    }

    #[test]
    fn a_chain_skips_what_is_free_and_ends_where_it_breaks() {
        let mut bytes = vec![0; 64];
        bytes[0..4].copy_from_slice(&[0xFF, 0xFF, 0, 16]);
        bytes[23] = 131;
        bytes[24] = 4;
        bytes[25..29].copy_from_slice(b"name");
        bytes[32..36].copy_from_slice(&[0xFF, 0xFF, 0, 32]);
        let names = |bytes: &[u8]| list(|found| chain(bytes, 0, true, PLACE, found));
        assert_eq!(names(&bytes), Ok(vec![(131, "name".to_owned())]));
        bytes[35] = 20;
        assert!(
            names(&bytes)
                .unwrap_err()
                .contains("length, at byte 4130: is 20, expected a multiple of 8 up to 32")
        );
        bytes[35] = 0;
        assert!(names(&bytes).is_err());
        bytes[24] = 40;
        assert!(names(&bytes).unwrap_err().contains("namelen, at byte 4120: is 40, but 48 bytes are left"));
    }
}
