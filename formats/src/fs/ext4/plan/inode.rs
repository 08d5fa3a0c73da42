//! Inodes: their numbers, and their encoding.
//!
//! <https://docs.kernel.org/filesystems/ext4/inodes.html>

use std::collections::HashSet;

use super::params::Params;
use crate::error::{Result, at};
use crate::fs::ext4::checksum::crc32c;
use crate::fs::ext4::features::{incompat, ro_compat};
use crate::fs::plan::{Tree, put};
use crate::fs::{FileType, Node, Timestamp};

pub(super) const ROOT: u32 = 2;
pub(super) const RESIZE: u32 = 7;
pub(super) const JOURNAL: u32 = 8;

const SIZE_MIN: usize = 128;

/// Bits of `i_flags`.
pub(super) mod flags {
    pub(in crate::fs::ext4::plan) const INDEX: u32 = 0x1000;
    pub(in crate::fs::ext4::plan) const HUGE_FILE: u32 = 0x4_0000;
    pub(in crate::fs::ext4::plan) const EXTENTS: u32 = 0x8_0000;
    /// The content is the value of an attribute.
    pub(in crate::fs::ext4::plan) const EA_INODE: u32 = 0x20_0000;
    /// The flags that a user may set on a file, and that the kernel keeps: see `chattr(1)`.
    pub(super) const KEPT: u32 = 0x2203_C4FF;
    /// Those of them that only apply to files and directories.
    pub(super) const NOT_SPECIAL: u32 = 0x30;
    /// Flags that change how content is read, which cannot be planned.
    pub(super) const REFUSED: [(u32, &str); 3] = [
        (0x800, "is encrypted"),
        (0x10_0000, "is protected by fs-verity"),
        (0x4000_0000, "is case-insensitive"),
    ];
}

/// Assigns every node a number: its own if that is free, otherwise the lowest free one. Also assigns `more` numbers
/// after them.
pub(super) fn number(tree: &Tree, order: &[u32], more: usize, params: &Params) -> Result<Vec<u32>> {
    let (first, count) = (params.first_ino(), params.inodes());
    let nodes = tree.nodes().len();
    let mut numbers = vec![0; nodes + more];
    numbers[0] = ROOT;
    let mut taken: HashSet<u32> = HashSet::with_capacity(numbers.len());
    for node in order.iter().skip(1) {
        let wanted = tree.nodes()[*node as usize].meta.inode.and_then(|n| u32::try_from(n).ok());
        if let Some(wanted) = wanted.filter(|n| *n >= first && u64::from(*n) <= count)
            && taken.insert(wanted)
        {
            numbers[*node as usize] = wanted;
        }
    }
    let mut next = first;
    for node in order.iter().copied().chain(nodes as u32..(nodes + more) as u32) {
        let number = &mut numbers[node as usize];
        if *number == 0 {
            while taken.contains(&next) {
                next += 1;
            }
            *number = next;
            next += 1;
        }
    }
    if u64::from(next - 1) > count {
        let needed = (order.len() + more) as u64 - 1 + u64::from(first - 1);
        return Err(at("ext plan")
            .limit(format!("no room: the tree needs {needed} inodes, but the volume has {count}")));
    }
    Ok(numbers)
}

/// The fields of an inode besides its node's metadata.
#[derive(Debug)]
pub(super) struct Filling<'a> {
    pub(super) number: u32,
    pub(super) nlink: u16,
    pub(super) size: u64,
    /// The number of filesystem blocks that belong to it.
    pub(super) blocks: u64,
    pub(super) flags: u32,
    /// `i_block`.
    pub(super) block: [u8; 60],
    pub(super) xattr_block: u64,
    pub(super) xattrs: &'a [u8],
    /// `i_version`, which counts the owners of an attribute's value.
    pub(super) version: u32,
}

/// Returns the flags of a node that are kept.
pub(super) fn kept_flags(node: &Node) -> u32 {
    let special = !matches!(node.file_type, FileType::File | FileType::Dir);
    node.flags & flags::KEPT & if special { !flags::NOT_SPECIAL } else { !0 }
}

/// Fails, with the problem, if an inode cannot hold the metadata of `node`.
pub(super) fn check(node: &Node, params: &Params) -> Result<(), String> {
    for (flag, what) in flags::REFUSED {
        if node.flags & flag != 0 {
            return Err(format!("{what}, which mif cannot write"));
        }
    }
    if node.project.unwrap_or(0) != 0 && !params.has_ro_compat(ro_compat::PROJECT) {
        return Err("belongs to a project, but the volume lacks the feature project".to_owned());
    }
    let latest = if params.inode_size > 128 { (3 << 32) + i64::from(i32::MAX) } else { i64::from(i32::MAX) };
    for time in [node.atime, node.mtime, node.ctime, node.crtime].into_iter().flatten() {
        if !(i64::from(i32::MIN)..=latest).contains(&time.secs) {
            return Err(format!(
                "has the time {}, but the latest that its inode can hold is {latest}",
                time.secs
            ));
        }
    }
    Ok(())
}

/// Returns the seed of the checksums that belong to an inode.
pub(super) fn csum_seed(params: &Params, number: u32, generation: u32) -> u32 {
    crc32c(crc32c(params.csum_seed(), &number.to_le_bytes()), &generation.to_le_bytes())
}

/// Writes an inode into its `s_inode_size` bytes of zeros.
pub(super) fn encode(bytes: &mut [u8], node: &Node, filling: &Filling<'_>, params: &Params) {
    let kind = match node.file_type {
        FileType::Fifo => 0x1000,
        FileType::Char => 0x2000,
        FileType::Dir => 0x4000,
        FileType::Block => 0x6000,
        FileType::File => 0x8000,
        FileType::Symlink => 0xA000,
        FileType::Socket => 0xC000,
    };
    put::le16(bytes, 0x0, kind | node.mode.unwrap_or(default_mode(node.file_type)) & 0xFFF);
    put::split16(bytes, 0x2, 0x78, node.uid.unwrap_or(0));
    put::split16(bytes, 0x18, 0x7A, node.gid.unwrap_or(0));
    put::le32(bytes, 0x4, filling.size as u32);
    let size_high = (filling.size >> 32) as u32;
    if node.file_type == FileType::File || params.has_incompat(incompat::LARGEDIR) {
        put::le32(bytes, 0x6C, size_high);
    }
    put::le16(bytes, 0x1A, filling.nlink);
    let sectors = filling.blocks * u64::from(params.block_size / 512);
    let huge = sectors >> 48 != 0;
    let blocks = if huge { filling.blocks } else { sectors };
    put::le32(bytes, 0x1C, blocks as u32);
    put::le16(bytes, 0x74, (blocks >> 32) as u16);
    put::le32(bytes, 0x20, filling.flags | if huge { flags::HUGE_FILE } else { 0 });
    put::le32(bytes, 0x24, filling.version);
    bytes[0x28..0x64].copy_from_slice(&filling.block);
    let generation = node.generation.unwrap_or(0);
    put::le32(bytes, 0x64, generation);
    put::le32(bytes, 0x68, filling.xattr_block as u32);
    put::le16(bytes, 0x76, (filling.xattr_block >> 32) as u16);
    times(bytes, node, params);
    if bytes.len() > SIZE_MIN {
        let extra = params.extra_isize();
        put::le16(bytes, 0x80, extra);
        if extra >= 32 && params.has_ro_compat(ro_compat::PROJECT) {
            put::le32(bytes, 0x9C, node.project.unwrap_or(0));
        }
        let area = SIZE_MIN + usize::from(extra);
        bytes[area..area + filling.xattrs.len()].copy_from_slice(filling.xattrs);
    }
    if params.metadata_csum() {
        let sum = crc32c(csum_seed(params, filling.number, generation), bytes);
        put::le16(bytes, 0x7C, sum as u16);
        if bytes.len() > SIZE_MIN {
            put::le16(bytes, 0x82, (sum >> 16) as u16);
        }
    }
}

fn default_mode(file_type: FileType) -> u16 {
    match file_type {
        FileType::Dir => 0o755,
        FileType::Symlink => 0o777,
        _ => 0o644,
    }
}

fn times(bytes: &mut [u8], node: &Node, params: &Params) {
    let made = Timestamp { secs: params.mkfs_time.into(), nanos: 0 };
    let mtime = node.mtime.unwrap_or(made);
    let mut put_time = |base: usize, extra: usize, time: Timestamp| {
        put::le32(bytes, base, time.secs as u32);
        if bytes.len() > SIZE_MIN {
            // The seconds that the signed lower 32 bits leave over, in steps of 2³².
            let epoch = (time.secs - i64::from(time.secs as i32)) >> 32;
            put::le32(bytes, extra, time.nanos << 2 | (epoch as u32 & 3));
        }
    };
    put_time(0x8, 0x8C, node.atime.unwrap_or(mtime));
    put_time(0xC, 0x84, node.ctime.unwrap_or(mtime));
    put_time(0x10, 0x88, mtime);
    if params.inode_size as usize > SIZE_MIN {
        put_time(0x90, 0x94, node.crtime.unwrap_or(mtime));
    }
}

/// Returns the `i_block` of a device.
pub(super) fn device((major, minor): (u32, u32)) -> [u8; 60] {
    let mut block = [0; 60];
    if major < 256 && minor < 256 {
        put::le32(&mut block, 0, major << 8 | minor);
    } else {
        put::le32(&mut block, 4, minor & 0xFF | (major & 0xFFF) << 8 | (minor & !0xFF) << 12);
    }
    block
}
