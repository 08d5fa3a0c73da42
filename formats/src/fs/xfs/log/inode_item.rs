//! Inodes in the log: a format, the core in host byte order, and the forks that changed.

use crate::bytes::{be16, be64, le16, le32, le64};
use crate::fs::xfs::inode::{CORE_V2, CORE_V3, flags2};

/// Bits of `ilf_fields`.
pub(super) mod fields {
    pub(super) const DATA_LOCAL: u32 = 2;
    pub(super) const DATA_EXTENTS: u32 = 4;
    pub(super) const DATA_ROOT: u32 = 8;
    pub(super) const DEV: u32 = 0x10;
    pub(super) const ATTR_LOCAL: u32 = 0x40;
    pub(super) const ATTR_EXTENTS: u32 = 0x80;
    pub(super) const ATTR_ROOT: u32 = 0x100;
    /// The blocks of the data tree belonged to another inode.
    pub(in crate::fs::xfs::log) const DATA_OWNER: u32 = 0x200;
    pub(in crate::fs::xfs::log) const ATTR_OWNER: u32 = 0x400;
    pub(super) const DATA: u32 = DATA_LOCAL | DATA_EXTENTS | DATA_ROOT;
    pub(super) const ATTR: u32 = ATTR_LOCAL | ATTR_EXTENTS | ATTR_ROOT;
}

/// Bytes of a version 2 core in the log: it ends before `di_next_unlinked`.
const LOGGED_V2: usize = 96;
/// Bytes of a root's header in an inode.
const ROOT_HEADER: usize = 4;
const POINTER: usize = 8;

/// `struct xfs_inode_log_format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) fields: u32,
    pub(super) ino: u64,
    rdev: u32,
    /// The inode buffer: its first sector and its length in sectors.
    pub(super) sector: u64,
    pub(super) sectors: u32,
    /// Byte offset of the inode in the buffer.
    pub(super) offset: u32,
}

impl Format {
    /// Parses the format, which 32-bit machines write without padding. The error describes the problem.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let after = match bytes.len() {
            56.. => 16,
            52 => 12,
            len => return Err(format!("an inode's format has {len} bytes")),
        };
        Ok(Format {
            fields: le32(bytes, 4),
            ino: le64(bytes, after),
            rdev: le32(bytes, after + 8),
            sector: le64(bytes, after + 24),
            sectors: le32(bytes, after + 32),
            offset: le32(bytes, after + 36),
        })
    }
}

/// Returns true if the inode on the volume is newer than the one in the log.
pub(super) fn is_newer(inode: &[u8], logged: &[u8], lsn: u64, is_v5: bool) -> bool {
    /// `di_flushiter` counts how often an inode was written and wraps after this.
    const LAST: u16 = 0xFFFF;
    if is_v5 {
        let on_volume = be64(inode, 112);
        return on_volume != 0 && on_volume != u64::MAX && on_volume > lsn;
    }
    let (on_volume, logged) = (be16(inode, 30), le16(logged, 30));
    logged < on_volume && !(on_volume == LAST && logged < LAST >> 1)
}

/// Applies an item to an inode. The error describes the problem.
pub(super) fn apply(
    inode: &mut [u8],
    format: &Format,
    regions: &[Vec<u8>],
    lsn: u64,
    is_v5: bool,
) -> Result<(), String> {
    let logged = &regions[1];
    let (core, least) = if is_v5 { (CORE_V3, CORE_V3) } else { (CORE_V2, LOGGED_V2) };
    if logged.len() < least || le16(logged, 0) != 0x494E {
        return Err(format!("inode {} has a core of {} bytes that is none", format.ino, logged.len()));
    }
    core_to_disk(logged, inode, lsn, is_v5);
    let fork_at = usize::from(inode[82]) * 8;
    let literal = &mut inode[core..];
    if fork_at >= literal.len() {
        return Err(format!("inode {} has its attributes past its end", format.ino));
    }
    let (data, attributes) = literal.split_at_mut(if fork_at == 0 { literal.len() } else { fork_at });
    if format.fields & fields::DEV != 0 {
        data[..4].copy_from_slice(&format.rdev.to_be_bytes());
    }
    let mut next = 2;
    for (fork, wanted, root) in
        [(data, fields::DATA, fields::DATA_ROOT), (attributes, fields::ATTR, fields::ATTR_ROOT)]
    {
        let wanted = format.fields & wanted;
        if wanted == 0 {
            continue;
        }
        let Some(region) = regions.get(next) else {
            return Err(format!("inode {} lacks a fork", format.ino));
        };
        next += 1;
        if wanted == root {
            root_to_disk(region, fork, is_v5)
                .map_err(|problem| format!("inode {}: {problem}", format.ino))?;
        } else if region.len() > fork.len() {
            return Err(format!("inode {} has no room for a fork of {} bytes", format.ino, region.len()));
        } else {
            fork[..region.len()].copy_from_slice(region);
        }
    }
    Ok(())
}

/// Converts a core from little-endian to big-endian.
fn core_to_disk(from: &[u8], to: &mut [u8], lsn: u64, is_v5: bool) {
    let is_big = is_v5 && le64(from, 120) & flags2::NREXT64 != 0;
    let has_big_times = is_v5 && le64(from, 120) & flags2::BIGTIME != 0;
    let mut turn = |at: usize, len: usize| {
        to[at..at + len].copy_from_slice(&from[at..at + len]);
        to[at..at + len].reverse();
    };
    // di_magic, di_mode, the halves of di_projid, di_dmstate, di_flags.
    [0, 2, 20, 22, 88, 90].into_iter().for_each(|at| turn(at, 2));
    // di_uid, di_gid, di_nlink, di_extsize, di_nextents, di_dmevmask, di_gen.
    [8, 12, 16, 72, 76, 84, 92].into_iter().for_each(|at| turn(at, 4));
    // di_size, di_nblocks.
    [56, 64].into_iter().for_each(|at| turn(at, 8));
    turn(80, 2);
    let times: &[usize] = if is_v5 { &[32, 40, 48, 144] } else { &[32, 40, 48] };
    for at in times {
        if has_big_times {
            turn(*at, 8);
        } else {
            turn(*at, 4);
            turn(at + 4, 4);
        }
    }
    if is_v5 {
        // di_metatype; di_big_nextents; di_changecount, di_flags2, di_ino; di_cowextsize.
        turn(6, 2);
        turn(24, 8);
        [104, 120, 152].into_iter().for_each(|at| turn(at, 8));
        turn(128, 4);
    }
    // Bytes: di_version and di_format, di_forkoff and di_aformat.
    for range in [4..6, 82..84] {
        to[range.clone()].copy_from_slice(&from[range]);
    }
    if is_v5 {
        if !is_big {
            to[24..32].fill(0);
        }
        to[112..120].copy_from_slice(&lsn.to_be_bytes());
        to[132..144].fill(0);
        to[160..176].copy_from_slice(&from[160..176]);
    } else {
        // di_onlink is only used in version 1; di_flushiter is reset.
        to[6..8].fill(0);
        to[24..32].fill(0);
    }
}

/// Converts the root of a tree from its in-memory form to that of a fork: a shorter header, keys, and pointers after
/// the space for as many keys as fit.
fn root_to_disk(root: &[u8], fork: &mut [u8], is_v5: bool) -> Result<(), String> {
    let header = if is_v5 { 72 } else { 24 };
    if root.len() < header || fork.len() < ROOT_HEADER {
        return Err(format!("the root of a tree has {} bytes, and {} of room", root.len(), fork.len()));
    }
    let count = usize::from(be16(root, 6));
    let room = (root.len() - header) / (2 * POINTER);
    let most = (fork.len() - ROOT_HEADER) / (2 * POINTER);
    if count > room || count > most {
        return Err(format!("the root of a tree has {count} records, expected at most {}", room.min(most)));
    }
    fork[..4].copy_from_slice(&root[4..8]);
    let len = count * POINTER;
    fork[ROOT_HEADER..][..len].copy_from_slice(&root[header..][..len]);
    let (to, from) = (ROOT_HEADER + most * POINTER, header + room * POINTER);
    fork[to..to + len].copy_from_slice(&root[from..from + len]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_that_of_either_size_of_machine() {
        let mut wide = vec![0; 56];
        wide[4..8].copy_from_slice(&0x15_u32.to_le_bytes());
        wide[16..24].copy_from_slice(&131_u64.to_le_bytes());
        wide[24] = 9;
        wide[40..48].copy_from_slice(&64_u64.to_le_bytes());
        wide[48] = 32;
        wide[53] = 6;
        let mut narrow = wide.clone();
        narrow.drain(12..16);
        let expected = Format { fields: 0x15, ino: 131, rdev: 9, sector: 64, sectors: 32, offset: 0x600 };
        assert_eq!(Format::parse(&wide), Ok(expected));
        assert_eq!(Format::parse(&narrow), Ok(expected));
        assert!(Format::parse(&wide[..55]).is_err());
    }

    #[test]
    fn a_root_gets_room_for_other_keys() {
        let mut root = vec![0; 72 + 3 * 16];
        root[5] = 1;
        root[7] = 2;
        root[72..88].copy_from_slice(&[[1; 8], [2; 8]].concat());
        root[96..112].copy_from_slice(&[[3; 8], [4; 8]].concat());
        let mut fork = vec![9; 4 + 2 * 16];
        root_to_disk(&root, &mut fork, true).unwrap();
        assert_eq!(fork, [&[0, 1, 0, 2][..], &[1; 8], &[2; 8], &[3; 8], &[4; 8]].concat());
        assert!(root_to_disk(&root, &mut fork[..35], true).is_err());
        assert!(root_to_disk(&root[..100], &mut fork, true).is_err());
    }
}
