//! The inode item: the metadata that stat reports.
//!
//! <https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html>, "INODE_ITEM".

use super::items::Key;
use crate::bytes::{le32, le64};
use crate::error::{Result, at};
use crate::fs::{FileType, Timestamp};

/// The size of an inode item in bytes.
pub(super) const SIZE: usize = 160;

/// The flags of an inode item and the corresponding FS_IOC_GETFLAGS flags.
const FLAGS: [(u64, u32); 8] = [
    (1 << 1, 0x80_0000),  // no copy on write
    (1 << 5, 0x8),        // synchronous
    (1 << 6, 0x10),       // immutable
    (1 << 7, 0x20),       // append-only
    (1 << 8, 0x40),       // no dump
    (1 << 9, 0x80),       // no access times
    (1 << 10, 0x1_0000),  // synchronous directory
    (1 << 32, 0x10_0000), // sealed by fs-verity
];
const NOCOMPRESS: u64 = 1 << 3;
const COMPRESS: u64 = 1 << 11;
/// The corresponding FS_IOC_GETFLAGS flags.
const NOCOMP_FL: u32 = 0x400;
const COMPR_FL: u32 = 0x4;

/// An inode item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) file_type: FileType,
    /// The lower 12 bits of `mode`.
    pub(super) mode: u16,
    pub(super) generation: u64,
    pub(super) size: u64,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Major and minor number, for a device node.
    pub(super) rdev: Option<(u32, u32)>,
    /// The flags as FS_IOC_GETFLAGS reports them.
    pub(super) flags: u32,
    pub(super) atime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) mtime: Timestamp,
    /// The creation time. Kernels before 3.19 did not initialize these bytes.
    pub(super) otime: Option<Timestamp>,
}

impl Inode {
    /// Parses the inode item with the given key.
    pub(super) fn parse(key: Key, bytes: &[u8]) -> Result<Self> {
        let bad =
            |field, problem: String| Err(at(format!("inode {}", key.objectid)).field(field).corrupt(problem));
        if bytes.len() < SIZE {
            return bad("inode_item", format!("has {} bytes, expected {SIZE}", bytes.len()));
        }
        let mode = le32(bytes, 52);
        let Some(file_type) = type_of(mode) else {
            return bad("mode", format!("is {mode:#o}, which is no type of file"));
        };
        let size = le64(bytes, 16);
        if i64::try_from(size).is_err() {
            return bad("size", format!("is {size}, over the largest size of a file"));
        }
        let time = |offset: usize| -> Result<Timestamp> {
            let (secs, nanos) = (le64(bytes, offset) as i64, le32(bytes, offset + 8));
            if nanos >= 1_000_000_000 {
                let problem = format!("is {nanos}, over a second");
                return Err(at(format!("inode {}", key.objectid)).field("nsec").corrupt(problem));
            }
            Ok(Timestamp { secs, nanos })
        };
        let stored = le64(bytes, 64);
        let mut flags =
            FLAGS.iter().filter(|(bit, _)| stored & bit != 0).fold(0, |set, (_, flag)| set | flag);
        if stored & NOCOMPRESS != 0 {
            flags |= NOCOMP_FL;
        } else if stored & COMPRESS != 0 {
            flags |= COMPR_FL;
        }
        // Encoded as the kernel does internally.
        let rdev = le64(bytes, 56) as u32;
        let is_device = matches!(file_type, FileType::Char | FileType::Block);
        Ok(Inode {
            file_type,
            mode: (mode & 0xFFF) as u16,
            generation: le64(bytes, 0),
            size,
            nlink: le32(bytes, 40),
            uid: le32(bytes, 44),
            gid: le32(bytes, 48),
            rdev: is_device.then_some((rdev >> 20, rdev & 0xF_FFFF)),
            flags,
            atime: time(112)?,
            ctime: time(124)?,
            mtime: time(136)?,
            otime: time(148).ok(),
        })
    }
}

impl Inode {
    /// Adjusts the flags for the attribute `btrfs.compression` as the kernel does when it reads the inode.
    pub(super) fn apply_compression(&mut self, value: &[u8]) {
        if matches!(value, b"" | b"no" | b"none") {
            self.flags &= !COMPR_FL;
            self.flags |= if value.is_empty() { 0 } else { NOCOMP_FL };
        } else if [&b"zlib"[..], b"lzo", b"zstd"].iter().any(|name| value.starts_with(name)) {
            self.flags = self.flags & !NOCOMP_FL | COMPR_FL;
        }
    }
}

/// Returns the file type in a mode, of which only 16 bits may be set.
pub(super) fn type_of(mode: u32) -> Option<FileType> {
    FileType::of_mode(u16::try_from(mode).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item() -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        bytes[52..56].copy_from_slice(&0o20_640_u32.to_le_bytes());
        bytes[56..64].copy_from_slice(&(0x0FF0_0003_u64).to_le_bytes());
        bytes[112..120].copy_from_slice(&(-1_i64).to_le_bytes());
        bytes[120..124].copy_from_slice(&999_999_999_u32.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Inode> {
        Inode::parse(Key::new(257, 1, 0), bytes)
    }

    #[test]
    fn numbers_of_devices_and_times_are_those_of_stat() {
        let inode = parse(&item()).unwrap();
        assert_eq!((inode.file_type, inode.mode), (FileType::Char, 0o640));
        assert_eq!(inode.rdev, Some((255, 3)));
        assert_eq!(inode.atime, Timestamp { secs: -1, nanos: 999_999_999 });
        assert_eq!(inode.otime, Some(Timestamp::default()));
        let mut bytes = item();
        bytes[159] = 0xFF;
        assert_eq!(parse(&bytes).unwrap().otime, None);
    }

    #[test]
    fn flags_are_those_that_lsattr_shows() {
        let flags = |stored: u64| {
            let mut bytes = item();
            bytes[64..72].copy_from_slice(&stored.to_le_bytes());
            parse(&bytes).unwrap().flags
        };
        assert_eq!(flags(0x1 | 0x2 | 0x40), 0x80_0010);
        // NOCOMPRESS hides COMPRESS.
        assert_eq!((flags(0x808), flags(0x800)), (0x400, 0x4));
        assert_eq!(flags(1 << 32 | 1 << 31), 0x10_0000);
    }

    #[test]
    fn the_property_of_compression_shows_as_a_flag() {
        for (value, flags) in [(&b"zstd:3"[..], 0x4), (b"none", 0x400), (b"", 0), (b"other", 0x4)] {
            let mut bytes = item();
            bytes[65] = 0x8;
            let mut inode = parse(&bytes).unwrap();
            inode.apply_compression(value);
            assert_eq!(inode.flags, flags, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn each_wrong_field_is_an_error() {
        type Change = fn(&mut Vec<u8>);
        let cases: [(&str, Change); 4] = [
            ("inode_item", |bytes| bytes.truncate(SIZE - 1)),
            ("mode", |bytes| bytes[53] = 0x30),
            ("size", |bytes| bytes[23] = 0x80),
            ("nsec", |bytes| bytes[123] = 0x80),
        ];
        for (field, change) in cases {
            let mut bytes = item();
            change(&mut bytes);
            let error = parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
    }
}
