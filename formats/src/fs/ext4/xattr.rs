//! Extended attributes: in the spare space of an inode, in a block of their own, or each in an inode of its own.
//!
//! <https://docs.kernel.org/filesystems/ext4/attributes.html>

use std::ops::Range;

use super::checksum::crc32c;
use super::superblock::Superblock;
use crate::bytes::{le16, le32};
use crate::checksum::fits;
use crate::error::{At, Error, Result, at};

const MAGIC: u32 = 0xEA02_0000;
const BLOCK_HEADER: usize = 32;
const INODE_HEADER: usize = 4;
const ENTRY: usize = 16;
/// The most bytes of all values of an inode. (The kernel returns no value of more than 64 KiB.)
pub(super) const VALUES_MAX: usize = 4 << 20;

const INDEX_ACL_ACCESS: u8 = 2;
const INDEX_ACL_DEFAULT: u8 = 3;
const INDEX_SYSTEM: u8 = 7;

/// An attribute in stored form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// `e_name_index`, which stands for a prefix.
    pub(super) index: u8,
    /// The rest of the name.
    pub(super) name: Vec<u8>,
    pub(super) value: Value,
}

/// The place of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// After the entries.
    Here(Vec<u8>),
    /// The content of an inode.
    Inode {
        /// The number of the inode.
        number: u32,
        /// The size in bytes.
        size: u32,
        /// `e_hash`: the hash of the name and the value's hash.
        hash: u32,
    },
}

impl Stored {
    /// Returns true if this is the continuation of inline data, rather than an attribute.
    pub(super) fn is_inline_data(&self) -> bool {
        self.index == INDEX_SYSTEM && self.name == b"data"
    }

    /// Returns the full name. Prefixes that the kernel does not expose are named after its constants.
    pub(super) fn full_name(&self) -> Vec<u8> {
        let unknown;
        let prefix = match self.index {
            0 => "",
            1 => "user.",
            INDEX_ACL_ACCESS => "system.posix_acl_access",
            INDEX_ACL_DEFAULT => "system.posix_acl_default",
            4 => "trusted.",
            5 => "lustre.",
            6 => "security.",
            INDEX_SYSTEM => "system.",
            8 => "system.richacl",
            9 => "encryption.",
            10 => "gnu.",
            index => {
                unknown = format!("ext4-index-{index}.");
                &unknown
            }
        };
        [prefix.as_bytes(), &self.name].concat()
    }

    /// Returns true if the value is an access control list.
    pub(super) fn is_acl(&self) -> bool {
        matches!(self.index, INDEX_ACL_ACCESS | INDEX_ACL_DEFAULT) && self.name.is_empty()
    }

    /// Returns the valid values of `e_hash` for a value in an inode whose own hash is `value_hash`; names were once
    /// hashed as signed bytes, which is also accepted.
    pub(super) fn inode_hashes(&self, value_hash: u32) -> [u32; 2] {
        let add = |hash: u32, shift, more: u32| hash.rotate_left(shift) ^ more;
        let unsigned = self.name.iter().fold(0, |hash, b| add(hash, 5, u32::from(*b)));
        let signed =
            self.name.iter().fold(0, |hash, b| add(hash, 5, i32::from(b.cast_signed()).cast_unsigned()));
        [add(unsigned, 16, value_hash), add(signed, 16, value_hash)]
    }
}

/// Parses the spare space of an inode, which may hold no attributes. `offset` is its position on the volume in bytes.
/// Damaged attributes are left out, with a complaint.
pub(super) fn parse_inode(
    area: &[u8],
    inode: u32,
    offset: u64,
    complain: &mut dyn FnMut(Error),
) -> Vec<Stored> {
    if area.len() < INODE_HEADER || le32(area, 0) != MAGIC {
        return Vec::new();
    }
    let place = || at(format!("inode {inode}, extended attributes"));
    entries(&area[INODE_HEADER..], 0, &place, offset + INODE_HEADER as u64, complain)
}

/// Parses attribute block `block`, from byte `offset` of the volume. Fails if it is not one, or is damaged as a whole;
/// single damaged attributes are left out and complained about.
pub(super) fn parse_block(
    bytes: &[u8],
    sb: &Superblock,
    inode: u32,
    block: u64,
    offset: u64,
    complain: &mut dyn FnMut(Error),
) -> Result<Vec<Stored>> {
    let place = || at(format!("inode {inode}, extended attribute block {block}"));
    let bad = |field, at: u64, problem| Err(place().field(field).byte(offset + at).corrupt(problem));
    if le32(bytes, 0) != MAGIC {
        return bad("h_magic", 0, format!("is {:#010x}, expected {MAGIC:#010x}", le32(bytes, 0)));
    }
    if le32(bytes, 8) != 1 {
        return bad("h_blocks", 8, format!("is {}, expected 1", le32(bytes, 8)));
    }
    if sb.metadata_csum() {
        let crc = crc32c(crc32c(sb.csum_seed, &block.to_le_bytes()), &bytes[..0x10]);
        let right = crc32c(crc32c(crc, &[0; 4]), &bytes[0x14..]);
        let found = le32(bytes, 0x10);
        if !fits(found, right) {
            let problem = format!("is {found:#010x}, expected {right:#010x}: the block is damaged");
            return bad("h_checksum", 0x10, problem);
        }
    }
    Ok(entries(bytes, BLOCK_HEADER, &place, offset, complain))
}

/// Parses the entries from `first` on; values are relative to the start of `bytes`, which is at byte `offset`. If the
/// list of entries has no end, there are no values either.
fn entries(
    bytes: &[u8],
    first: usize,
    place: &dyn Fn() -> At,
    offset: u64,
    complain: &mut dyn FnMut(Error),
) -> Vec<Stored> {
    let bad = |field, field_at: usize, problem: String| -> Error {
        place().field(field).byte(offset + field_at as u64).corrupt(problem)
    };
    let mut heads = Vec::new();
    let mut next = first;
    loop {
        if next + 4 > bytes.len() {
            complain(bad("e_name_len", next, "the list of entries does not end".to_owned()));
            return Vec::new();
        }
        if le32(bytes, next) == 0 {
            break;
        }
        let end = next + ENTRY + usize::from(bytes[next]);
        if end.next_multiple_of(4) >= bytes.len() {
            let room = bytes.len() - next;
            complain(bad("e_name_len", next, format!("is {}, but {room} bytes are left", bytes[next])));
            return Vec::new();
        }
        heads.push(next..end);
        next = end.next_multiple_of(4);
    }
    let values = next + 4..bytes.len();
    let mut found = Vec::new();
    for head in heads {
        match entry(bytes, head, &values, &bad) {
            Ok(stored) => found.push(stored),
            Err(error) => complain(error),
        }
    }
    found
}

fn entry(
    bytes: &[u8],
    head: Range<usize>,
    values: &Range<usize>,
    bad: &dyn Fn(&'static str, usize, String) -> Error,
) -> Result<Stored> {
    let start = head.start;
    let (offs, number) = (usize::from(le16(bytes, start + 2)), le32(bytes, start + 4));
    let (size, hash) = (le32(bytes, start + 8), le32(bytes, start + 12));
    let name = bytes[start + ENTRY..head.end].to_vec();
    if name.contains(&0) {
        return Err(bad("e_name", start + ENTRY, "contains a NUL".to_owned()));
    }
    let value = if number != 0 {
        if size as usize > VALUES_MAX {
            return Err(bad("e_value_size", start + 8, format!("is {size}, more than {VALUES_MAX}")));
        }
        Value::Inode { number, size, hash }
    } else if size == 0 {
        Value::Here(Vec::new())
    } else {
        let end = offs.checked_add(size as usize).filter(|end| end.next_multiple_of(4) <= values.end);
        let Some(end) = end.filter(|_| offs >= values.start) else {
            return Err(bad(
                "e_value_offs",
                start + 2,
                format!("is {offs}, of {size} bytes, expected within {} to {}", values.start, values.end),
            ));
        };
        Value::Here(bytes[offs..end].to_vec())
    };
    Ok(Stored { index: bytes[start + 1], name, value })
}

/// Converts an access control list from ext4's form, which leaves out implied fields, to that of `getxattr`. Returns
/// `None` if it has no entries. The error is the problem.
pub(super) fn acl(stored: &[u8]) -> Result<Option<Vec<u8>>, String> {
    const STORED_VERSION: u32 = 1;
    const XATTR_VERSION: u32 = 2;
    if stored.is_empty() {
        return Ok(None);
    }
    if stored.len() < 4 || le32(stored, 0) != STORED_VERSION {
        return Err("the access control list has an unknown version".to_owned());
    }
    let mut rest = &stored[4..];
    if rest.is_empty() {
        return Ok(None);
    }
    let mut list = XATTR_VERSION.to_le_bytes().to_vec();
    while !rest.is_empty() {
        if rest.len() < 4 {
            return Err("the access control list ends within an entry".to_owned());
        }
        let has_id = match le16(rest, 0) {
            0x01 | 0x04 | 0x10 | 0x20 => false, // owner, owning group, mask, others
            0x02 | 0x08 => true,                // a user, a group
            tag => return Err(format!("the access control list has an entry with the unknown tag {tag:#x}")),
        };
        let len = if has_id { 8 } else { 4 };
        if rest.len() < len {
            return Err("the access control list ends within an entry".to_owned());
        }
        list.extend_from_slice(&rest[..4]);
        list.extend_from_slice(if has_id { &rest[4..8] } else { &[0xFF; 4] });
        rest = &rest[len..];
    }
    Ok(Some(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns spare space of an inode with `user.key` = `value`.
    fn area() -> Vec<u8> {
        let mut area = vec![0; 96];
        area[..4].copy_from_slice(&MAGIC.to_le_bytes());
        area[4..20].copy_from_slice(&[3, 1, 84, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        area[20..23].copy_from_slice(b"key");
        area[88..93].copy_from_slice(b"value");
        area
    }

    #[test]
    fn an_attribute_in_the_inode_is_read() {
        let stored = parse_inode(&area(), 12, 0, &mut |error| panic!("{error}"));
        assert_eq!(stored[0].full_name(), b"user.key");
        assert_eq!(stored[0].value, Value::Here(b"value".to_vec()));
        assert_eq!(parse_inode(&[0; 96], 12, 0, &mut |error| panic!("{error}")), []);
    }

    /// Returns the complaint about an area without readable attributes.
    fn complaint(area: &[u8]) -> String {
        let mut complaints = Vec::new();
        assert_eq!(parse_inode(area, 12, 0, &mut |error| complaints.push(error.to_string())), []);
        assert_eq!(complaints.len(), 1);
        complaints.remove(0)
    }

    #[test]
    fn one_wrong_byte_in_an_attribute_is_named() {
        for (byte, value, problem) in [
            (4, 80, "e_name_len, at byte 4: is 80, but 92 bytes are left"),
            (6, 20, "e_value_offs, at byte 6: is 20, of 5 bytes, expected within 24 to 92"),
            (6, 88, "e_value_offs, at byte 6: is 88, of 5 bytes, expected within 24 to 92"),
            (21, 0, "e_name, at byte 20: contains a NUL"),
            (24, 1, "e_name_len, at byte 24: is 1, but 68 bytes are left"),
        ] {
            let mut area = area();
            area[byte] = value;
            if byte == 24 {
                area[24..].fill(60);
                area[24] = 60;
                area[4 + 4..12].fill(0);
                let error = complaint(&area);
                assert!(error.contains("e_name_len, at byte 24: is 60, but 72 bytes are left"), "{error}");
                continue;
            }
            let error = complaint(&area);
            assert_eq!(error, format!("inode 12, extended attributes, {problem}"));
        }
    }

    #[test]
    fn an_acl_takes_the_form_that_getxattr_gives() {
        let stored = [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 7, 0, 0xE8, 3, 0, 0, 4, 0, 4, 0];
        let list = acl(&stored).unwrap().unwrap();
        assert_eq!(list[..4], [2, 0, 0, 0]);
        assert_eq!(list[4..12], [1, 0, 6, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
        assert_eq!(list[12..20], [2, 0, 7, 0, 0xE8, 3, 0, 0]);
        assert_eq!(list.len(), 28);
        assert!(acl(&stored[..14]).is_err());
        assert!(acl(&[2, 0, 0, 0]).is_err());
        assert_eq!(acl(&stored[..4]), Ok(None));
    }
}
