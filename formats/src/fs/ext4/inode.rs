//! Inodes: the metadata of a file, and the root of the map of its blocks.
//!
//! <https://docs.kernel.org/filesystems/ext4/inodes.html>

use super::checksum::crc32c;
use super::features::{incompat, ro_compat};
use super::superblock::Superblock;
use crate::bytes::{le16, le32};
use crate::checksum::fits;
use crate::error::{Result, at};
use crate::fs::{FileType, Timestamp};

/// Flags of `i_flags`.
pub(super) mod flags {
    /// The names in this directory, or the content, are encrypted.
    pub(in crate::fs::ext4) const ENCRYPT: u32 = 0x800;
    /// `i_block` is an extent tree.
    pub(in crate::fs::ext4) const EXTENTS: u32 = 0x8_0000;
    /// The content is the value of an extended attribute.
    pub(in crate::fs::ext4) const EA_INODE: u32 = 0x20_0000;
    /// The content is in the inode.
    pub(in crate::fs::ext4) const INLINE_DATA: u32 = 0x1000_0000;
}

/// Size of an inode of the first revision; `i_extra_isize` describes the rest.
const GOOD_OLD_SIZE: usize = 128;
/// The size assumed for an `i_extra_isize` of 0, where the kernel reads all fields that it knows.
const EXTRA_ISIZE_FULL: usize = 32;

/// The fields that the kernel reads only if `i_extra_isize` covers them.
mod extra {
    pub(super) const CHECKSUM_HI: usize = 0x82;
    pub(super) const CTIME: usize = 0x84;
    pub(super) const MTIME: usize = 0x88;
    pub(super) const ATIME: usize = 0x8C;
    pub(super) const CRTIME: usize = 0x90;
    pub(super) const CRTIME_EXTRA: usize = 0x94;
    pub(super) const PROJID: usize = 0x9C;
}

/// A validated inode.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) number: u32,
    /// Position on the volume, in bytes.
    pub(super) offset: u64,
    pub(super) file_type: FileType,
    /// The lower 12 bits of `i_mode`.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// In bytes.
    pub(super) size: u64,
    pub(super) atime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) crtime: Option<Timestamp>,
    pub(super) links_count: u16,
    /// In units of 512 bytes or of blocks: only whether it is zero matters.
    pub(super) blocks: u64,
    pub(super) flags: u32,
    pub(super) generation: u32,
    /// `i_block`: the block map, a short symlink's target, a device number, or inline data.
    pub(super) block: [u8; 60],
    /// The block of extended attributes, or 0.
    pub(super) file_acl: u64,
    pub(super) project: Option<u32>,
    /// `i_atime` and `i_mtime` as stored; they have other meanings in an inode that holds an attribute.
    pub(super) raw_atime: u32,
    pub(super) raw_mtime: u32,
    /// The bytes after `i_extra_isize`, for extended attributes; empty if there is no space.
    pub(super) xattr_area: Vec<u8>,
    /// The offset of that area in the inode, in bytes.
    pub(super) xattr_at: usize,
}

impl Inode {
    /// Parses the `s_inode_size` bytes of inode `number`, from byte `offset` of the volume. `is_summed` says whether it
    /// has a checksum.
    ///
    /// Fails where the kernel does: if the checksum does not match, the inode is deleted, or the type is invalid. (An
    /// inode that is damaged anywhere is refused as a whole: a wrong owner or size is worse than none.)
    pub(super) fn parse(
        bytes: &[u8],
        sb: &Superblock,
        number: u32,
        offset: u64,
        is_summed: bool,
    ) -> Result<Self> {
        let place = |field, field_at: usize| {
            at(format!("inode {number}")).field(field).byte(offset + field_at as u64)
        };
        let large = bytes.len() > GOOD_OLD_SIZE;
        let extra_isize = if large { usize::from(le16(bytes, 0x80)) } else { 0 };
        if is_summed {
            check(bytes, sb, number, extra_isize).map_err(|(found, right)| {
                place("i_checksum", 0x7C)
                    .corrupt(format!("is {found:#x}, expected {right:#x}: the inode is damaged"))
            })?;
        }
        if GOOD_OLD_SIZE + extra_isize > bytes.len() || !extra_isize.is_multiple_of(4) {
            return Err(place("i_extra_isize", 0x80).corrupt(format!(
                "is {extra_isize}, expected a multiple of 4 up to {}",
                bytes.len() - GOOD_OLD_SIZE
            )));
        }
        let links_count = le16(bytes, 0x1A);
        let i_mode = le16(bytes, 0x0);
        if links_count == 0 {
            return Err(place("i_links_count", 0x1A).corrupt("is 0: the inode is deleted or was never used"));
        }
        let Some(file_type) = FileType::of_mode(i_mode) else {
            return Err(
                place("i_mode", 0x0).corrupt(format!("is {i_mode:#o}, which is not a valid file type"))
            );
        };

        let high_size = file_type == FileType::File || sb.features.has_incompat(incompat::LARGEDIR);
        let size =
            u64::from(le32(bytes, 0x4)) | if high_size { u64::from(le32(bytes, 0x6C)) << 32 } else { 0 };
        if i64::try_from(size).is_err() {
            return Err(place("i_size", 0x4).corrupt(format!("is {size}, which is negative to the kernel")));
        }

        let reach = GOOD_OLD_SIZE + if large && extra_isize == 0 { EXTRA_ISIZE_FULL } else { extra_isize };
        let reach = reach.min(bytes.len());
        let extra = |field_at: usize| (field_at + 4 <= reach).then(|| le32(bytes, field_at));
        let time = |base_at, extra_at| timestamp(le32(bytes, base_at), extra(extra_at));
        let blocks_high = if sb.features.has_ro_compat(ro_compat::HUGE_FILE) { le16(bytes, 0x74) } else { 0 };
        let file_acl_high = if sb.features.has_incompat(incompat::BIT64) { le16(bytes, 0x76) } else { 0 };
        Ok(Inode {
            number,
            offset,
            file_type,
            mode: i_mode & 0xFFF,
            uid: u32::from(le16(bytes, 0x2)) | u32::from(le16(bytes, 0x78)) << 16,
            gid: u32::from(le16(bytes, 0x18)) | u32::from(le16(bytes, 0x7A)) << 16,
            size,
            atime: time(0x8, extra::ATIME),
            ctime: time(0xC, extra::CTIME),
            mtime: time(0x10, extra::MTIME),
            crtime: extra(extra::CRTIME).map(|base| timestamp(base, extra(extra::CRTIME_EXTRA))),
            links_count,
            blocks: u64::from(le32(bytes, 0x1C)) | u64::from(blocks_high) << 32,
            flags: le32(bytes, 0x20),
            generation: le32(bytes, 0x64),
            block: bytes[0x28..0x64].try_into().expect("60 bytes"),
            file_acl: u64::from(le32(bytes, 0x68)) | u64::from(file_acl_high) << 32,
            project: extra(extra::PROJID).filter(|_| sb.features.has_ro_compat(ro_compat::PROJECT)),
            raw_atime: le32(bytes, 0x8),
            raw_mtime: le32(bytes, 0x10),
            xattr_at: GOOD_OLD_SIZE + extra_isize,
            xattr_area: if extra_isize > 0 {
                bytes[GOOD_OLD_SIZE + extra_isize..].to_vec()
            } else {
                Vec::new()
            },
        })
    }

    /// Returns a journal's inode, from the copy of its map and size in the superblock.
    pub(super) fn of_journal(number: u32, copy: &[u8; 68]) -> Self {
        let zero = Timestamp::default();
        Inode {
            number,
            offset: 0,
            file_type: FileType::File,
            mode: 0o600,
            uid: 0,
            gid: 0,
            size: u64::from(le32(copy, 64)) | u64::from(le32(copy, 60)) << 32,
            atime: zero,
            ctime: zero,
            mtime: zero,
            crtime: None,
            links_count: 1,
            blocks: 0,
            flags: if le16(copy, 0) == 0xF30A { flags::EXTENTS } else { 0 },
            generation: 0,
            block: copy[..60].try_into().expect("60 bytes"),
            file_acl: 0,
            project: None,
            raw_atime: 0,
            raw_mtime: 0,
            xattr_area: Vec::new(),
            xattr_at: 0,
        }
    }

    /// Returns true if `i_flags` has `flag`.
    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Returns the checksum seed for the blocks of this inode.
    pub(super) fn csum_seed(&self, sb: &Superblock) -> u32 {
        seed(sb, self.number, self.generation)
    }

    /// Returns true if a symlink's target is in `i_block`, according to the kernel's rule.
    pub(super) fn is_fast_symlink(&self, sb: &Superblock) -> bool {
        if self.has(flags::INLINE_DATA) {
            return false;
        }
        if sb.features.has_incompat(incompat::EA_INODE) {
            // i_blocks also counts attribute blocks in other inodes, so it cannot be used.
            return self.size > 0 && self.size < self.block.len() as u64;
        }
        let cluster = u64::from(sb.block_size) * u64::from(sb.cluster_ratio) / 512;
        self.blocks == if self.file_acl == 0 { 0 } else { cluster }
    }

    /// Returns the major and minor number of a device node.
    pub(super) fn rdev(&self) -> Option<(u32, u32)> {
        if !matches!(self.file_type, FileType::Char | FileType::Block) {
            return None;
        }
        let (old, new) = (le32(&self.block, 0), le32(&self.block, 4));
        Some(if old != 0 {
            (old >> 8 & 0xFF, old & 0xFF)
        } else {
            (new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xF_FF00)
        })
    }
}

fn seed(sb: &Superblock, number: u32, generation: u32) -> u32 {
    crc32c(crc32c(sb.csum_seed, &number.to_le_bytes()), &generation.to_le_bytes())
}

/// Checks `i_checksum_lo` and `i_checksum_hi`: returns (found, expected) if they do not match.
fn check(bytes: &[u8], sb: &Superblock, number: u32, extra_isize: usize) -> Result<(), (u32, u32)> {
    let crc = crc32c(seed(sb, number, le32(bytes, 0x64)), &bytes[..0x7C]);
    let crc = crc32c(crc32c(crc, &[0, 0]), &bytes[0x7E..GOOD_OLD_SIZE]);
    let low = u32::from(le16(bytes, 0x7C));
    let (found, right) = if bytes.len() > GOOD_OLD_SIZE && extra_isize >= 4 {
        let crc = crc32c(crc, &bytes[GOOD_OLD_SIZE..extra::CHECKSUM_HI]);
        let crc = crc32c(crc32c(crc, &[0, 0]), &bytes[extra::CHECKSUM_HI + 2..]);
        (low | u32::from(le16(bytes, extra::CHECKSUM_HI)) << 16, crc)
    } else {
        (low, crc32c(crc, &bytes[GOOD_OLD_SIZE..]) & 0xFFFF)
    };
    if fits(found, right) { Ok(()) } else { Err((found, right)) }
}

/// Decodes a time: 32 signed bits of seconds; in the extra field 2 bits of epoch, and 30 of nanoseconds.
fn timestamp(base: u32, extra: Option<u32>) -> Timestamp {
    let secs = i64::from(base.cast_signed());
    match extra {
        None => Timestamp { secs, nanos: 0 },
        Some(extra) => {
            Timestamp { secs: secs + (i64::from(extra & 3) << 32), nanos: (extra >> 2).min(999_999_999) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_reach_from_1901_to_2446() {
        let secs = |base: i32, extra| timestamp(base.cast_unsigned(), extra).secs;
        assert_eq!(secs(i32::MIN, None), -2_147_483_648); // 1901-12-13
        assert_eq!(secs(i32::MIN, Some(0)), -2_147_483_648);
        assert_eq!(secs(i32::MIN, Some(1)), 2_147_483_648); // 2038-01-19
        assert_eq!(secs(-1, Some(1)), 4_294_967_295);
        assert_eq!(secs(i32::MAX, Some(3)), 15_032_385_535); // 2446-05-10
        assert_eq!(timestamp(5, Some(123 << 2 | 2)), Timestamp { secs: 5 + (2 << 32), nanos: 123 });
    }
}
