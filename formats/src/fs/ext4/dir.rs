//! Directory blocks: a chain of entries. The same chain covers an htree, because its inner blocks look like empty
//! entries.
//!
//! <https://docs.kernel.org/filesystems/ext4/directory.html>

use super::checksum::crc32c;
use crate::bytes::{le16, le32};
use crate::checksum::fits;
use crate::error::{Error, Result, at};

/// The minimum length of an entry: 8 bytes and a name of up to 4.
const ENTRY_MIN: usize = 12;
/// The entry at the end of a block that holds its checksum.
const TAIL: usize = 12;
const TAIL_FILE_TYPE: u8 = 0xDE;

/// An entry in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawEntry<'a> {
    pub(super) inode: u32,
    pub(super) name: &'a [u8],
    /// The position in the block, in bytes.
    pub(super) start: usize,
}

/// The place of a block, for errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockAt {
    /// The inode of the directory.
    pub(super) inode: u32,
    /// The block's position on the volume, in bytes.
    pub(super) offset: u64,
}

impl BlockAt {
    /// Creates an error about the field at byte `field_at` of the block.
    pub(super) fn corrupt(self, field: &'static str, field_at: usize, problem: impl Into<String>) -> Error {
        at(format!("directory inode {}", self.inode))
            .field(field)
            .byte(self.offset + field_at as u64)
            .corrupt(problem)
    }
}

/// Passes the entries in use of a block to `found`, including `.` and `..`. Fails where the chain breaks (after passing
/// the entries before), and at the start if the checksum does not match. `csum_seed` is the seed of this directory's
/// checksums, on a volume with checksums.
pub(super) fn entries<'a>(
    block: &'a [u8],
    csum_seed: Option<u32>,
    place: BlockAt,
    found: &mut dyn FnMut(RawEntry<'a>),
) -> Result<()> {
    if let Some(seed) = csum_seed {
        check_sum(block, seed, place)?;
    }
    chain(block, place, found)
}

/// Walks the chain of entries in `bytes`, a block or a part of an inode.
pub(super) fn chain<'a>(bytes: &'a [u8], place: BlockAt, found: &mut dyn FnMut(RawEntry<'a>)) -> Result<()> {
    let mut start = 0;
    while start < bytes.len() {
        let room = bytes.len() - start;
        if room < 8 {
            return Err(place.corrupt(
                "rec_len",
                start,
                format!("only {room} bytes are left after the previous entry"),
            ));
        }
        let rec_len = rec_len(le16(bytes, start + 4), bytes.len());
        // The byte after it is `file_type`, or without that feature the upper half of `name_len`: either always 0, or
        // left over from a time with the feature. The kernel never includes it.
        let name_len = usize::from(bytes[start + 6]);
        let inode = le32(bytes, start);
        let least = if inode == 0 { 8 } else { (8 + name_len).next_multiple_of(4).max(ENTRY_MIN) };
        if !rec_len.is_multiple_of(4) || rec_len < least || rec_len > room {
            let problem = format!("is {rec_len}, expected a multiple of 4 from {least} to {room}");
            return Err(place.corrupt("rec_len", start + 4, problem));
        }
        if inode != 0 {
            found(RawEntry { inode, name: &bytes[start + 8..start + 8 + name_len], start });
        }
        start += rec_len;
    }
    Ok(())
}

/// Decodes `rec_len`, whose 16 bits are too few for a block of 64 KiB.
fn rec_len(stored: u16, block_size: usize) -> usize {
    match (usize::from(stored), block_size) {
        (0 | 0xFFFF, 0x1_0000) => 0x1_0000,
        (len, 0x1_0000) => len & 0xFFFC | (len & 3) << 16,
        (len, _) => len,
    }
}

fn check_sum(block: &[u8], seed: u32, place: BlockAt) -> Result<()> {
    let tail = block.len() - TAIL;
    let is_leaf = le32(block, tail) == 0
        && le16(block, tail + 4) == TAIL as u16
        && block[tail + 6] == 0
        && block[tail + 7] == TAIL_FILE_TYPE;
    // An inner block may still hold the tail of the leaf that it used to be: the entry that spans the block identifies
    // it.
    let (field, field_at, right) = if let Some((counts, limit, count)) = index_counts(block) {
        let tail = counts + limit * 8;
        let crc = crc32c(crc32c(seed, &block[..counts + count * 8]), &block[tail..tail + 4]);
        ("dt_checksum", tail + 4, crc32c(crc, &[0; 4]))
    } else if is_leaf {
        ("det_checksum", tail + 8, crc32c(seed, &block[..tail]))
    } else {
        return Err(place.corrupt("det_checksum", tail, "the block has no room for its checksum"));
    };
    let found = le32(block, field_at);
    if fits(found, right) {
        return Ok(());
    }
    let problem = format!("is {found:#010x}, expected {right:#010x}: the directory block is damaged");
    Err(place.corrupt(field, field_at, problem))
}

/// Returns for an inner block of an htree the position of `struct dx_countlimit`, and its `limit` and `count`.
fn index_counts(block: &[u8]) -> Option<(usize, usize, usize)> {
    let first = rec_len(le16(block, 4), block.len());
    let counts = if first == block.len() && le16(block, 6) == 0 {
        8
    } else if first == 12
        && rec_len(le16(block, 12 + 4), block.len()) == block.len() - 12
        && le32(block, 24) == 0
        && block[24 + 5] == 8
    {
        32
    } else {
        return None;
    };
    let (limit, count) = (usize::from(le16(block, counts)), usize::from(le16(block, counts + 2)));
    (count <= limit && counts + limit * 8 + 8 <= block.len()).then_some((counts, limit, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: BlockAt = BlockAt { inode: 2, offset: 4096 };

    /// Returns a block with the entries `.`, a deleted one, `name`, and the remaining space.
    fn block() -> Vec<u8> {
        let mut block = vec![0; 1024];
        block[..12].copy_from_slice(&[2, 0, 0, 0, 12, 0, 1, 2, b'.', 0, 0, 0]);
        block[12..24].copy_from_slice(&[0, 0, 0, 0, 12, 0, 1, 2, b'x', 0, 0, 0]);
        block[24..40].copy_from_slice(&[11, 0, 0, 0, 0xE8, 3, 4, 1, b'n', b'a', b'm', b'e', 0, 0, 0, 0]);
        block
    }

    fn names(block: &[u8], csum_seed: Option<u32>) -> Result<Vec<(u32, Vec<u8>)>, String> {
        let mut names = Vec::new();
        let result = entries(block, csum_seed, PLACE, &mut |e| names.push((e.inode, e.name.to_vec())));
        result.map(|()| names).map_err(|e| e.to_string())
    }

    #[test]
    fn entries_in_use_are_found() {
        let expected = vec![(2, b".".to_vec()), (11, b"name".to_vec())];
        assert_eq!(names(&block(), None), Ok(expected));
    }

    #[test]
    fn the_byte_after_the_name_length_is_not_part_of_it() {
        let expected = vec![(2, b".".to_vec()), (11, b"name".to_vec())];
        for file_type in [0, 1, 4, 0xFF] {
            let mut block = block();
            (block[7], block[31]) = (file_type, file_type);
            assert_eq!(names(&block, None).as_ref(), Ok(&expected), "{file_type}");
        }
    }

    #[test]
    fn a_chain_that_breaks_is_named() {
        for (byte, value, problem) in [
            (4, 0, "rec_len, at byte 4100: is 0, expected a multiple of 4 from 12 to 1024"),
            (4, 13, "rec_len, at byte 4100: is 13, expected a multiple of 4 from 12 to 1024"),
            (29, 4, "rec_len, at byte 4124: is 1256, expected a multiple of 4 from 12 to 1000"),
        ] {
            let mut block = block();
            block[byte] = value;
            let error = names(&block, None).unwrap_err();
            assert_eq!(error, format!("directory inode 2, {problem}"));
        }
    }

    #[test]
    fn a_block_of_64_kib_has_its_own_lengths() {
        assert_eq!(rec_len(0, 0x1_0000), 0x1_0000);
        assert_eq!(rec_len(0xFFFF, 0x1_0000), 0x1_0000);
        assert_eq!(rec_len(0xFFF4, 0x1_0000), 0xFFF4);
        assert_eq!(rec_len(0xFFFC, 4096), 0xFFFC);
    }

    #[test]
    fn a_checksum_that_does_not_fit_is_an_error() {
        let seed = Some(5);
        let mut block = block();
        assert!(names(&block, seed).unwrap_err().contains("no room for its checksum"));
        block[28..30].copy_from_slice(&[0xDC, 3]);
        block[1012..1020].copy_from_slice(&[0, 0, 0, 0, 12, 0, 0, 0xDE]);
        let sum = crc32c(5, &block[..1012]);
        block[1020..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(names(&block, seed).unwrap().len(), 2);
        block[30] ^= 1;
        assert!(names(&block, seed).unwrap_err().contains("det_checksum, at byte 5116"));
    }
}
