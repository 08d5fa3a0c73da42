//! Inodes: the metadata of a file, and the forks that hold or locate its data and its attributes.

use super::checksum;
use super::superblock::Superblock;
use crate::bytes::{be16, be32, be64};
use crate::error::{At, Result, at};
use crate::fs::{FileType, Timestamp};

const MAGIC: u16 = 0x494E;
/// Bytes before the forks in versions 1 and 2, and in version 3.
pub(super) const CORE_V2: usize = 100;
pub(super) const CORE_V3: usize = 176;
/// Offset of the checksum in version 3.
pub(super) const CRC: usize = 100;

/// Bits of `di_flags`.
pub(super) mod flags {
    pub(in crate::fs::xfs) const REALTIME: u16 = 1;
    pub(super) const IMMUTABLE: u16 = 1 << 3;
    pub(super) const APPEND: u16 = 1 << 4;
    pub(super) const SYNC: u16 = 1 << 5;
    pub(super) const NOATIME: u16 = 1 << 6;
    pub(super) const NODUMP: u16 = 1 << 7;
    pub(super) const PROJINHERIT: u16 = 1 << 9;
}

/// Bits of `di_flags2`.
pub(super) mod flags2 {
    pub(super) const DAX: u64 = 1;
    pub(in crate::fs::xfs) const BIGTIME: u64 = 1 << 3;
    pub(in crate::fs::xfs) const NREXT64: u64 = 1 << 4;
    /// The inode belongs to the metadata directory.
    pub(in crate::fs::xfs) const METADATA: u64 = 1 << 5;
}

/// How a fork stores its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// A device number.
    Dev,
    /// The data itself.
    Local,
    /// Extents.
    Extents,
    /// The root of a tree of extents.
    Btree,
}

impl Format {
    fn parse(format: u8) -> Option<Self> {
        [Format::Dev, Format::Local, Format::Extents, Format::Btree].get(usize::from(format)).copied()
    }
}

/// A fork of an inode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fork<'a> {
    pub(super) format: Format,
    pub(super) bytes: &'a [u8],
    /// Byte offset of `bytes` on the volume.
    pub(super) offset: u64,
    /// Number of extents.
    pub(super) extents: u64,
    pub(super) is_attribute: bool,
    /// True if the blocks are on the realtime device.
    pub(super) is_realtime: bool,
}

impl Fork<'_> {
    /// Returns the name of the field that counts the extents.
    pub(super) fn count_field(&self) -> &'static str {
        if self.is_attribute { "di_anextents" } else { "di_nextents" }
    }
}

/// A validated inode.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) number: u64,
    /// Byte offset on the volume.
    pub(super) offset: u64,
    pub(super) file_type: FileType,
    /// The lower 12 bits of `di_mode`.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    pub(super) project: u32,
    /// Size in bytes.
    pub(super) size: u64,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) crtime: Option<Timestamp>,
    pub(super) flags: u16,
    pub(super) flags2: u64,
    pub(super) generation: u32,
    /// True if blocks of its trees may carry another inode's number as owner.
    pub(super) is_adopted: bool,
    data: Format,
    attributes: Format,
    data_extents: u64,
    attribute_extents: u64,
    /// The bytes after the core: the data fork, then the attribute fork from `fork_at` on.
    literal: Vec<u8>,
    /// Byte offset of `literal` in the inode.
    core: usize,
    /// `None` if there is no attribute fork.
    fork_at: Option<usize>,
}

impl Inode {
    /// Parses the `sb_inodesize` bytes of inode `number`, read from byte `offset` of the volume. Verifies the checksum
    /// if `is_summed`.
    ///
    /// Fails as the kernel does if the checksum does not match, the inode is free or the type is invalid. (A damaged
    /// inode is rejected as a whole: a wrong owner or size is worse than none.)
    pub(super) fn parse(
        bytes: &[u8],
        sb: &Superblock,
        number: u64,
        offset: u64,
        is_summed: bool,
    ) -> Result<Self> {
        let place = |field, field_at: usize| -> At {
            at(format!("inode {number}")).field(field).byte(offset + field_at as u64)
        };
        if be16(bytes, 0) != MAGIC {
            return Err(
                place("di_magic", 0).corrupt(format!("is {:#06x}, expected {MAGIC:#06x}", be16(bytes, 0)))
            );
        }
        let version = bytes[4];
        let is_expected = if sb.features.is_v5() { version == 3 } else { version == 1 || version == 2 };
        if !is_expected {
            return Err(place("di_version", 4).corrupt(format!("is {version}")));
        }
        if version == 3 {
            if is_summed && let Err((found, right)) = checksum::check(bytes, CRC) {
                let problem = format!("is {found:#x}, expected {right:#x}: the inode is damaged");
                return Err(place("di_crc", CRC).corrupt(problem));
            }
            if be64(bytes, 152) != number {
                return Err(
                    place("di_ino", 152).corrupt(format!("is {}, expected {number}", be64(bytes, 152)))
                );
            }
            if bytes[160..176] != sb.meta_uuid {
                return Err(place("di_uuid", 160).corrupt("belongs to another filesystem"));
            }
        }
        let di_mode = be16(bytes, 2);
        if di_mode == 0 {
            return Err(place("di_mode", 2).corrupt("is 0: the inode is free"));
        }
        let Some(file_type) = FileType::of_mode(di_mode) else {
            return Err(
                place("di_mode", 2).corrupt(format!("is {di_mode:#o}, which is not a valid file type"))
            );
        };
        let nlink = if version == 1 { u32::from(be16(bytes, 6)) } else { be32(bytes, 16) };
        if nlink == 0 {
            return Err(place("di_nlink", 16).corrupt("is 0: the inode is deleted"));
        }
        let size = be64(bytes, 56);
        if i64::try_from(size).is_err() {
            return Err(place("di_size", 56).corrupt(format!("is {size}, which is negative to the kernel")));
        }
        let flags2 = if version == 3 { be64(bytes, 120) } else { 0 };
        let (data_extents, attribute_extents) = if flags2 & flags2::NREXT64 != 0 {
            (be64(bytes, 24), u64::from(be32(bytes, 76)))
        } else {
            (u64::from(be32(bytes, 76)), u64::from(be16(bytes, 80)))
        };
        let core = if version == 3 { CORE_V3 } else { CORE_V2 };
        let literal = bytes[core..].to_vec();
        let fork_at = usize::from(bytes[82]) * 8;
        if fork_at >= literal.len() {
            return Err(
                place("di_forkoff", 82).corrupt(format!("is {}, past the end of the inode", bytes[82]))
            );
        }
        let format = |at: usize, field| {
            let bad = || place(field, at).corrupt(format!("is {}, which is not a format", bytes[at]));
            Format::parse(bytes[at]).ok_or_else(bad)
        };
        let data = format(5, "di_format")?;
        let fits = match file_type {
            FileType::File => matches!(data, Format::Extents | Format::Btree),
            FileType::Dir | FileType::Symlink => data != Format::Dev,
            _ => data == Format::Dev,
        };
        if !fits {
            return Err(
                place("di_format", 5).corrupt(format!("is {}, which does not fit the type", bytes[5]))
            );
        }
        let attributes = if fork_at == 0 { Format::Extents } else { format(83, "di_aformat")? };
        let is_big = flags2 & flags2::BIGTIME != 0;
        let time = |at: usize| timestamp(be64(bytes, at), is_big);
        Ok(Inode {
            number,
            offset,
            file_type,
            mode: di_mode & 0xFFF,
            uid: be32(bytes, 8),
            gid: be32(bytes, 12),
            nlink,
            project: if version == 1 {
                0
            } else {
                u32::from(be16(bytes, 22)) << 16 | u32::from(be16(bytes, 20))
            },
            size,
            atime: time(32),
            mtime: time(40),
            ctime: time(48),
            crtime: (version == 3).then(|| time(144)),
            flags: be16(bytes, 90),
            flags2,
            generation: be32(bytes, 92),
            is_adopted: false,
            data,
            attributes,
            data_extents,
            attribute_extents,
            literal,
            core,
            fork_at: (fork_at > 0).then_some(fork_at),
        })
    }

    /// Returns the data fork.
    pub(super) fn data(&self) -> Fork<'_> {
        let is_realtime = self.is_realtime();
        Fork {
            format: self.data,
            bytes: &self.literal[..self.fork_at.unwrap_or(self.literal.len())],
            offset: self.offset + self.core as u64,
            extents: self.data_extents,
            is_attribute: false,
            is_realtime,
        }
    }

    /// Returns the attribute fork, if there is one.
    pub(super) fn attributes(&self) -> Option<Fork<'_>> {
        let fork_at = self.fork_at?;
        Some(Fork {
            format: self.attributes,
            bytes: &self.literal[fork_at..],
            offset: self.offset + (self.core + fork_at) as u64,
            extents: self.attribute_extents,
            is_attribute: true,
            is_realtime: false,
        })
    }

    /// Returns true if the content is on the realtime device.
    pub(super) fn is_realtime(&self) -> bool {
        self.file_type == FileType::File && self.flags & flags::REALTIME != 0
    }

    /// Returns the `size` bytes of data that the inode itself holds.
    pub(super) fn local(&self) -> Result<&[u8]> {
        let fork = self.data();
        usize::try_from(self.size).ok().and_then(|size| fork.bytes.get(..size)).ok_or_else(|| {
            at(format!("inode {}", self.number)).field("di_size").byte(self.offset + 56).corrupt(format!(
                "is {}, but the inode has room for {}",
                self.size,
                fork.bytes.len()
            ))
        })
    }

    /// Returns the major and minor number of a device node, as the kernel does: 9 bits major, 18 bits minor.
    pub(super) fn rdev(&self) -> Option<(u32, u32)> {
        let is_device = matches!(self.file_type, FileType::Char | FileType::Block);
        let bytes = self.literal.get(..4).filter(|_| is_device)?;
        let dev = be32(bytes, 0);
        Some((dev >> 18 & 0x1FF, dev & 0x3_FFFF))
    }

    /// Returns the flags as `FS_IOC_GETFLAGS` does.
    pub(super) fn fs_flags(&self) -> u32 {
        const PAIRS: [(u16, u32); 6] = [
            (flags::SYNC, 0x8),
            (flags::IMMUTABLE, 0x10),
            (flags::APPEND, 0x20),
            (flags::NODUMP, 0x40),
            (flags::NOATIME, 0x80),
            (flags::PROJINHERIT, 0x2000_0000),
        ];
        let dax = if self.flags2 & flags2::DAX != 0 { 0x0200_0000 } else { 0 };
        PAIRS.iter().filter(|(flag, _)| self.flags & flag != 0).fold(dax, |all, (_, flag)| all | flag)
    }
}

/// Decodes a time: 32 bits each of seconds and nanoseconds, or nanoseconds since the earliest such time, in December
/// 1901.
fn timestamp(stored: u64, is_big: bool) -> Timestamp {
    const BILLION: u64 = 1_000_000_000;
    if is_big {
        let secs = (stored / BILLION).cast_signed() - (1 << 31);
        return Timestamp { secs, nanos: (stored % BILLION) as u32 };
    }
    let secs = i64::from(((stored >> 32) as u32).cast_signed());
    Timestamp { secs, nanos: (stored as u32).min(999_999_999) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_reach_from_1901_to_2486() {
        let time = |secs: i32, nanos| timestamp(u64::from(secs.cast_unsigned()) << 32 | nanos, false);
        assert_eq!(time(-1, 5), Timestamp { secs: -1, nanos: 5 });
        assert_eq!(time(i32::MIN, 0).secs, -2_147_483_648);
        assert_eq!(timestamp(0, true), Timestamp { secs: -2_147_483_648, nanos: 0 });
        assert_eq!(timestamp((1 << 31) * 1_000_000_000 + 7, true), Timestamp { secs: 0, nanos: 7 });
        assert_eq!(timestamp(u64::MAX, true).secs, 16_299_260_425); // 2486-07-02
    }
}
