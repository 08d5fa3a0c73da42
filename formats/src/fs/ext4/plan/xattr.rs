//! Extended attributes: as many as fit in the spare space of the inode, the rest in a block of their own; and with
//! `ea_inode`, the values that do not fit there in inodes of their own.
//!
//! <https://docs.kernel.org/filesystems/ext4/attributes.html>

use crate::bytes::{le16, le32};
use crate::fs::Xattr;
use crate::fs::ext4::checksum::crc32c;
use crate::fs::plan::put;

const MAGIC: u32 = 0xEA02_0000;
const BLOCK_HEADER: usize = 32;
const INODE_HEADER: usize = 4;
const ENTRY: usize = 16;
/// The zeros that terminate the entries.
const END: usize = 4;

/// Attributes in stored form.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// The spare space of the inode, filled; empty if it holds none.
    pub(super) in_inode: Vec<u8>,
    /// The block, if one is needed; without its checksum.
    pub(super) block: Option<Vec<u8>>,
    /// The values that each need an inode.
    pub(super) values: Vec<Vec<u8>>,
}

/// The inodes for values that do not fit elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct ValueInodes<'a> {
    /// The inodes, in the order of the values; incomplete while they are not known yet.
    pub(super) numbers: &'a [u32],
    /// The seed of the values' hashes.
    pub(super) csum_seed: u32,
}

/// The largest value that the kernel accepts, in bytes.
const VALUE_MAX: usize = 65_536;

/// An attribute in stored form. The order is that of a block's entries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Raw {
    index: u8,
    name_len: usize,
    name: Vec<u8>,
    value: Vec<u8>,
    /// The inode that holds the value, and the value's hash.
    elsewhere: Option<(u32, u32)>,
}

impl Raw {
    fn new(xattr: &Xattr) -> Result<Self, String> {
        let (index, name) = split_name(&xattr.name);
        let value = if matches!(index, 2 | 3) { stored_acl(&xattr.value)? } else { xattr.value.clone() };
        if name.len() > 255 || name.contains(&0) {
            return Err("the name is longer than 255 bytes or contains a NUL".to_owned());
        }
        if value.len() > VALUE_MAX {
            return Err(format!("the value has {} bytes, over the limit of {VALUE_MAX}", value.len()));
        }
        Ok(Raw { index, name_len: name.len(), name: name.to_vec(), value, elsewhere: None })
    }

    /// Returns the number of bytes that it takes.
    fn len(&self) -> usize {
        self.entry_len() + if self.elsewhere.is_some() { 0 } else { self.value.len().next_multiple_of(4) }
    }

    fn entry_len(&self) -> usize {
        (ENTRY + self.name.len()).next_multiple_of(4)
    }

    /// Returns `e_hash`, the hash of the name and the value.
    fn hash(&self) -> u32 {
        let name = self.name.iter().fold(0u32, |hash, b| hash.rotate_left(5) ^ u32::from(*b));
        if let Some((_, hash)) = self.elsewhere {
            return name.rotate_left(16) ^ hash;
        }
        let mut value = self.value.clone();
        value.resize(value.len().next_multiple_of(4), 0);
        value.chunks(4).fold(name, |hash, word| hash.rotate_left(16) ^ le32(word, 0))
    }
}

/// Returns the hash of a value in an inode of its own.
pub(super) fn value_hash(value: &[u8], csum_seed: u32) -> u32 {
    crc32c(csum_seed, value)
}

/// Stores `xattrs` in `room` bytes of an inode, in a block, and in `inodes` if the volume supports that. The error is
/// the problem, and names the attribute.
pub(super) fn store(
    xattrs: &[Xattr],
    room: usize,
    block_size: usize,
    inodes: Option<ValueInodes<'_>>,
) -> Result<Stored, String> {
    if xattrs.is_empty() {
        return Ok(Stored::default());
    }
    let mut raws = Vec::with_capacity(xattrs.len());
    for xattr in xattrs {
        let named = |problem| format!("attribute {}: {problem}", xattr.name.escape_ascii());
        raws.push(Raw::new(xattr).map_err(named)?);
    }
    raws.sort_unstable();
    let mut left = room.saturating_sub(INODE_HEADER + END);
    let (inside, mut outside): (Vec<Raw>, Vec<Raw>) = raws.into_iter().partition(|raw| {
        let fits = raw.len() <= left;
        left -= if fits { raw.len() } else { 0 };
        fits
    });
    let needed = |outside: &[Raw]| BLOCK_HEADER + END + outside.iter().map(Raw::len).sum::<usize>();
    if let Some(inodes) = inodes {
        // The largest values first, as many as necessary.
        let mut largest: Vec<usize> = (0..outside.len()).collect();
        largest.sort_by_key(|i| std::cmp::Reverse(outside[*i].value.len()));
        let mut count = 0;
        while count < largest.len() && needed(&outside) > block_size {
            outside[largest[count]].elsewhere = Some((0, 0));
            count += 1;
        }
        let moved = outside.iter_mut().filter(|raw| raw.elsewhere.is_some());
        for (i, raw) in moved.enumerate() {
            let number = inodes.numbers.get(i).copied().unwrap_or(0);
            raw.elsewhere = Some((number, value_hash(&raw.value, inodes.csum_seed)));
        }
    }
    let needed = needed(&outside);
    if needed > block_size && !outside.is_empty() {
        return Err(format!(
            "the attributes that do not fit into the inode need {needed} bytes, over the limit of one block of {block_size}"
        ));
    }
    let moved = outside.iter().filter(|raw| raw.elsewhere.is_some());
    let mut stored = Stored { values: moved.map(|raw| raw.value.clone()).collect(), ..Stored::default() };
    if !inside.is_empty() {
        stored.in_inode = vec![0; room];
        put::le32(&mut stored.in_inode, 0, MAGIC);
        put_entries(&mut stored.in_inode[INODE_HEADER..], 0, &inside, false);
    }
    if !outside.is_empty() {
        let mut block = vec![0; block_size];
        put::le32(&mut block, 0, MAGIC);
        put::le32(&mut block, 4, 1); // h_refcount
        put::le32(&mut block, 8, 1); // h_blocks
        let hash = outside.iter().fold(0u32, |hash, raw| hash.rotate_left(16) ^ raw.hash());
        put::le32(&mut block, 12, if outside.iter().any(|raw| raw.hash() == 0) { 0 } else { hash });
        put_entries(&mut block, BLOCK_HEADER, &outside, true);
        stored.block = Some(block);
    }
    Ok(stored)
}

/// Writes the checksum of an attribute block at `place`.
pub(super) fn sum_block(block: &mut [u8], place: u64, csum_seed: u32) {
    let sum = crc32c(crc32c(csum_seed, &place.to_le_bytes()), block);
    put::le32(block, 0x10, sum);
}

/// Writes entries from `first` on, and their values from the end down.
fn put_entries(bytes: &mut [u8], first: usize, raws: &[Raw], hashed: bool) {
    let (mut at, mut end) = (first, bytes.len());
    for raw in raws {
        bytes[at] = raw.name.len() as u8;
        bytes[at + 1] = raw.index;
        if let Some((number, _)) = raw.elsewhere {
            put::le32(bytes, at + 4, number);
        } else if !raw.value.is_empty() {
            end -= raw.value.len().next_multiple_of(4);
            put::le16(bytes, at + 2, end as u16);
            bytes[end..end + raw.value.len()].copy_from_slice(&raw.value);
        }
        put::le32(bytes, at + 8, raw.value.len() as u32);
        put::le32(bytes, at + 12, if hashed { raw.hash() } else { 0 });
        bytes[at + ENTRY..at + ENTRY + raw.name.len()].copy_from_slice(&raw.name);
        at += raw.entry_len();
    }
}

/// Splits a full name into `e_name_index` and the rest, the reverse of the reader.
fn split_name(name: &[u8]) -> (u8, &[u8]) {
    const WHOLE: [(&[u8], u8); 3] =
        [(b"system.posix_acl_access", 2), (b"system.posix_acl_default", 3), (b"system.richacl", 8)];
    const PREFIXES: [(&[u8], u8); 7] = [
        (b"user.", 1),
        (b"trusted.", 4),
        (b"lustre.", 5),
        (b"security.", 6),
        (b"system.", 7),
        (b"encryption.", 9),
        (b"gnu.", 10),
    ];
    if let Some((_, index)) = WHOLE.iter().find(|(whole, _)| *whole == name) {
        return (*index, b"");
    }
    for (prefix, index) in PREFIXES {
        if let Some(rest) = name.strip_prefix(prefix) {
            return (index, rest);
        }
    }
    // `ext4-index-N.`, the reader's name for an unknown index.
    let unknown = name.strip_prefix(b"ext4-index-").and_then(|rest| {
        let dot = rest.iter().position(|b| *b == b'.')?;
        let index = std::str::from_utf8(&rest[..dot]).ok()?.parse().ok()?;
        Some((index, &rest[dot + 1..]))
    });
    unknown.unwrap_or((0, name))
}

/// Converts an access control list from the form of `getxattr` to that of ext4, which leaves out implied fields.
fn stored_acl(list: &[u8]) -> Result<Vec<u8>, String> {
    if list.len() < 4 || le32(list, 0) != 2 || !(list.len() - 4).is_multiple_of(8) {
        return Err("not an access control list of version 2".to_owned());
    }
    let mut stored = 1u32.to_le_bytes().to_vec();
    for entry in list[4..].chunks(8) {
        match le16(entry, 0) {
            0x01 | 0x04 | 0x10 | 0x20 => stored.extend_from_slice(&entry[..4]),
            0x02 | 0x08 => stored.extend_from_slice(entry),
            tag => return Err(format!("the access control list has an entry with the unknown tag {tag:#x}")),
        }
    }
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattr(name: &str, len: usize) -> Xattr {
        Xattr { name: name.into(), value: vec![7; len] }
    }

    #[test]
    fn what_does_not_fit_in_the_inode_goes_to_a_block() {
        let stored = store(&[xattr("user.a", 10), xattr("user.b", 500)], 96, 1024, None).unwrap();
        assert_eq!(stored.in_inode.len(), 96);
        assert!(stored.block.is_some());
        let stored = store(&[xattr("user.a", 10)], 0, 1024, None).unwrap();
        assert!(stored.in_inode.is_empty() && stored.block.is_some());
    }

    #[test]
    fn a_block_is_filled_to_its_last_byte_and_no_further() {
        let most = 1024 - BLOCK_HEADER - END - ENTRY - 4;
        assert!(store(&[xattr("user.a", most)], 0, 1024, None).is_ok());
        let error = store(&[xattr("user.a", most + 1)], 0, 1024, None).unwrap_err();
        assert!(error.contains("need 1028 bytes"), "{error}");
    }

    #[test]
    fn an_acl_takes_the_form_that_ext4_stores() {
        let list = [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 0xE8, 3, 0, 0];
        assert_eq!(stored_acl(&list).unwrap(), [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 7, 0, 0xE8, 3, 0, 0]);
        assert!(stored_acl(&list[..15]).is_err());
    }

    #[test]
    fn names_are_split_as_the_reader_joins_them() {
        assert_eq!(split_name(b"security.capability"), (6, &b"capability"[..]));
        assert_eq!(split_name(b"system.posix_acl_access"), (2, &b""[..]));
        assert_eq!(split_name(b"ext4-index-77.x"), (77, &b"x"[..]));
        assert_eq!(split_name(b"odd"), (0, &b"odd"[..]));
    }
}
