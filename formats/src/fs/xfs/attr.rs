//! Extended attributes as stored: a list in the inode, or the leaves of a tree.

use super::blocks::SECTOR;
use super::checksum;
use super::superblock::Superblock;
use crate::bytes::{be16, be32, be64};
use crate::error::{At, Error, Result, at};

const LEAF_V2: u16 = 0xFBEE;
const LEAF_V3: u16 = 0x3BEE;
const NODE_V2: u16 = 0xFEBE;
const NODE_V3: u16 = 0x3EBE;
/// Offset of the checksum in a node or leaf.
const CRC: usize = 12;
const ENTRY: usize = 8;
/// The longest value in bytes.
pub(super) const VALUE_MAX: u32 = 1 << 16;

/// Bits of `flags`.
mod flags {
    /// The value follows the name.
    pub(super) const LOCAL: u8 = 1;
    pub(super) const ROOT: u8 = 2;
    pub(super) const SECURE: u8 = 4;
    /// A parent pointer: one name of the file and the directory that contains it.
    pub(super) const PARENT: u8 = 8;
    /// The attribute is being created or deleted.
    pub(super) const INCOMPLETE: u8 = 0x80;
}

/// An attribute that the kernel exposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) namespace: Namespace,
    /// The name without its prefix.
    pub(super) name: Vec<u8>,
    pub(super) value: Value,
}

/// The namespace of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Namespace {
    User,
    Trusted,
    Security,
}

impl Namespace {
    /// Parses the flags of an entry or an intent. `None` if the attribute is hidden.
    pub(super) fn parse(flags: u8) -> Option<Self> {
        match flags & (flags::ROOT | flags::SECURE | flags::PARENT | flags::INCOMPLETE) {
            0 => Some(Namespace::User),
            flags::ROOT => Some(Namespace::Trusted),
            flags::SECURE => Some(Namespace::Security),
            _ => None,
        }
    }

    fn prefix(self) -> &'static [u8] {
        match self {
            Namespace::User => b"user.",
            Namespace::Trusted => b"trusted.",
            Namespace::Security => b"security.",
        }
    }

    /// Returns the full name of an attribute. Access control lists are stored as trusted attributes.
    pub(super) fn full_name(self, name: &[u8]) -> Vec<u8> {
        match (self, name) {
            (Namespace::Trusted, b"SGI_ACL_FILE") => b"system.posix_acl_access".to_vec(),
            (Namespace::Trusted, b"SGI_ACL_DEFAULT") => b"system.posix_acl_default".to_vec(),
            _ => [self.prefix(), name].concat(),
        }
    }
}

/// The location of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Next to the name.
    Here(Vec<u8>),
    /// In blocks of the attribute fork.
    Remote {
        /// The first block, relative to the fork.
        block: u64,
        /// Length in bytes.
        len: u32,
    },
}

/// Parses the list stored in an inode at byte `offset`. Fails at the first malformed entry, after reporting those
/// before it.
pub(super) fn short(bytes: &[u8], ino: u64, offset: u64, found: &mut dyn FnMut(Stored)) -> Result<()> {
    const HEADER: usize = 4;
    let bad = |field, at_byte: usize, problem: String| {
        let place = at(format!("inode {ino}, extended attributes")).field(field);
        Err(place.byte(offset + at_byte as u64).corrupt(problem))
    };
    if bytes.len() < HEADER {
        return bad("xfs_attr_sf_hdr", 0, format!("the list has {} bytes", bytes.len()));
    }
    let size = usize::from(be16(bytes, 0));
    if size < HEADER || size > bytes.len() {
        return bad("totsize", 0, format!("is {size}, expected {HEADER} to {}", bytes.len()));
    }
    let bytes = &bytes[..size];
    let mut start = HEADER;
    for _ in 0..bytes[2] {
        if start + 3 > size {
            return bad("count", 2, format!("is {}, but there are fewer entries", bytes[2]));
        }
        let (name_len, value_len) = (usize::from(bytes[start]), usize::from(bytes[start + 1]));
        let name_at = start + 3;
        let end = name_at + name_len + value_len;
        if end > size || name_len == 0 {
            let problem =
                format!("is {name_len}, of a value {value_len}, but {} bytes are left", size - start);
            return bad("namelen", start, problem);
        }
        if let Some(namespace) = Namespace::parse(bytes[start + 2]) {
            let name = bytes[name_at..name_at + name_len].to_vec();
            found(Stored { namespace, name, value: Value::Here(bytes[name_at + name_len..end].to_vec()) });
        }
        start = end;
    }
    Ok(())
}

/// A block of the attribute tree.
#[derive(Debug)]
pub(super) enum Block {
    /// An inner node: its level and its first child.
    Node(u16, u32),
    /// A leaf: the block of the next leaf, or 0.
    Leaf(u32),
}

/// The location of a block, for error messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The inode number of the file.
    pub(super) ino: u64,
    /// Byte offset of the block on the volume.
    pub(super) offset: u64,
    /// True if the checksum must match.
    pub(super) is_summed: bool,
}

impl Place {
    fn at(self, field: &'static str, byte: usize) -> At {
        at(format!("inode {}, extended attribute block", self.ino))
            .field(field)
            .byte(self.offset + byte as u64)
    }

    fn corrupt<T>(self, field: &'static str, byte: usize, problem: impl Into<String>) -> Result<T> {
        Err(self.at(field, byte).corrupt(problem))
    }
}

/// Parses a block of the tree and passes the attributes of a leaf to `found`. Damaged ones are skipped and reported.
pub(super) fn block(
    bytes: &[u8],
    sb: &Superblock,
    place: Place,
    found: &mut dyn FnMut(Stored),
    complain: &mut dyn FnMut(Error),
) -> Result<Block> {
    let magic = be16(bytes, 8);
    let is_v5 = sb.features.is_v5();
    let (node, leaf) = if is_v5 { (NODE_V3, LEAF_V3) } else { (NODE_V2, LEAF_V2) };
    if magic != node && magic != leaf {
        return place.corrupt("magic", 8, format!("is {magic:#x}, expected {leaf:#x} or {node:#x}"));
    }
    if is_v5 {
        check_header(bytes, sb, place)?;
    }
    // Offset of the fields after the common part of the header.
    let fields = if is_v5 { 56 } else { 12 };
    let count = usize::from(be16(bytes, fields));
    let entries = match (magic == node, is_v5) {
        (true, true) => 64,
        (true, false) => 16,
        (false, true) => 80,
        (false, false) => 32,
    };
    let room = (bytes.len() - entries) / ENTRY;
    if count > room || (magic == node && count == 0) {
        return place.corrupt("count", fields, format!("is {count}, expected up to {room}"));
    }
    if magic == node {
        return Ok(Block::Node(be16(bytes, fields + 2), be32(bytes, entries + 4)));
    }
    let names = entries + count * ENTRY;
    for i in 0..count {
        let start = entries + i * ENTRY;
        match entry(bytes, start, names, place) {
            Ok(Some(stored)) => found(stored),
            Ok(None) => {}
            Err(error) => complain(error),
        }
    }
    Ok(Block::Leaf(be32(bytes, 0)))
}

fn check_header(bytes: &[u8], sb: &Superblock, place: Place) -> Result<()> {
    if place.is_summed
        && let Err((found, right)) = checksum::check(bytes, CRC)
    {
        return place.corrupt(
            "crc",
            CRC,
            format!("is {found:#010x}, expected {right:#010x}: the block is damaged"),
        );
    }
    if be64(bytes, 16) != place.offset / SECTOR {
        return place.corrupt(
            "blkno",
            16,
            format!("is {}, expected {}", be64(bytes, 16), place.offset / SECTOR),
        );
    }
    if bytes[32..48] != sb.meta_uuid {
        return place.corrupt("uuid", 32, "belongs to another filesystem");
    }
    if be64(bytes, 48) != place.ino {
        return place.corrupt("owner", 48, format!("is {}, expected {}", be64(bytes, 48), place.ino));
    }
    Ok(())
}

/// Returns the attribute of the entry at `start`, `None` if it is hidden. Names and values start at `names` or later.
fn entry(bytes: &[u8], start: usize, names: usize, place: Place) -> Result<Option<Stored>> {
    let (at, flags) = (usize::from(be16(bytes, start + 4)), bytes[start + 6]);
    let Some(namespace) = Namespace::parse(flags) else { return Ok(None) };
    let is_local = flags & flags::LOCAL != 0;
    let header = if is_local { 3 } else { 9 };
    let bad = || {
        place.corrupt("nameidx", start + 4, format!("is {at}, expected within {names} to {}", bytes.len()))
    };
    if at < names || at + header > bytes.len() {
        return bad();
    }
    let name_len = usize::from(bytes[at + header - 1]);
    let value_len = if is_local { usize::from(be16(bytes, at)) } else { 0 };
    let name_at = at + header;
    let value_at = name_at + name_len;
    if value_at + value_len > bytes.len() || name_len == 0 {
        return bad();
    }
    let value = if is_local {
        Value::Here(bytes[value_at..value_at + value_len].to_vec())
    } else {
        let len = be32(bytes, at + 4);
        if len > VALUE_MAX {
            return place.corrupt("valuelen", at + 4, format!("is {len}, more than {VALUE_MAX}"));
        }
        Value::Remote { block: u64::from(be32(bytes, at)), len }
    };
    Ok(Some(Stored { namespace, name: bytes[name_at..value_at].to_vec(), value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Value)>, String> {
        let mut all = Vec::new();
        short(bytes, 131, 1000, &mut |stored| {
            all.push((stored.namespace.full_name(&stored.name), stored.value))
        })
        .map(|()| all)
        .map_err(|e| e.to_string())
    }

    #[test]
    fn a_list_in_an_inode_shows_what_the_kernel_shows() {
        let bytes = [
            &[0, 40, 4, 0][..],
            &[1, 2, 0, b'a', b'v', b'w'],
            &[1, 0, 2, b't'],
            &[12, 0, 2],
            b"SGI_ACL_FILE",
            &[4, 4, 8, b'n', b'a', b'm', b'e', 0, 0, 0, 1],
        ]
        .concat();
        let here = |value: &[u8]| Value::Here(value.to_vec());
        let expected = vec![
            (b"user.a".to_vec(), here(b"vw")),
            (b"trusted.t".to_vec(), here(b"")),
            (b"system.posix_acl_access".to_vec(), here(b"")),
        ];
        assert_eq!(list(&bytes), Ok(expected));
    }

    #[test]
    fn a_list_that_is_cut_off_is_named() {
        let bytes = [0, 10, 2, 0, 1, 2, 0, b'a', b'v', b'w', 9, 9, 9];
        let error = "inode 131, extended attributes, count, at byte 1002: is 2, but there are fewer entries";
        assert_eq!(list(&bytes), Err(error.to_owned()));
        assert!(list(&bytes[..9]).unwrap_err().contains("totsize, at byte 1000: is 10, expected 4 to 9"));
        let mut long = bytes;
        long[5] = 3;
        assert!(
            list(&long)
                .unwrap_err()
                .contains("namelen, at byte 1004: is 1, of a value 3, but 6 bytes are left")
        );
        assert!(list(&[]).is_err());
    }
}
