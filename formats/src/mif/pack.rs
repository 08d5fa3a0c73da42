//! The pack: many objects in one file, with an index at its end.
//!
//! ```text
//! "MIFPACK3"                       magic and version
//! 32 bytes                         the pack's id, which is random
//! the stored bytes of each object, one after the other
//! the index, an entry for each object in ascending order of id:
//!     u8         kind of object (0 content, 1 chunk list, 2 decoded content)
//!     32 bytes   digest that names it among its kind
//!     u8         encoding (0 raw, 1 zstd, 2 list, 3 decoding list)
//!     u64 le     offset of the stored bytes in the pack
//!     u64 le     length of the stored bytes
//!     u64 le     length of the object
//! u64 le                           count of entries
//! 32 bytes                         BLAKE3 of the pack up to its first entry
//! 32 bytes                         BLAKE3 of the index up to here
//! "MIFPEND3"
//! ```
//!
//! An index file equals the pack from its first entry on, so it can be rebuilt from the pack.
//!
//! The id is random, so that a pack has its name before its last byte is known, and no two packs ever share one: after
//! a pack is marked for deletion, nobody writes another one with the same name.
//!
//! A large object is stored as a *list* of chunks, each of which is content itself: 32 bytes of BLAKE3 over the rest of
//! the list, then 40 bytes per chunk: its digest, and its length (u64 le). A run of zeros is a chunk with a digest of
//! 32 zero bytes.
//!
//! A list for content whose digest is known is an object of kind content, named by that digest. A list whose content
//! was not hashed is an object of kind chunk list, named by its own stored bytes.
//!
//! Content that lies compressed on a disk is stored as a *decoding list*, an object of kind decoded content. Some of its
//! chunks are parts of what an object of kind content, the compressed bytes of the disk, decodes to. So these bytes are
//! stored once, although both the disk and the file consist of them.

use std::io::{self, Write};

use super::{ObjectId, ObjectKind, PackId};
use crate::bytes::le64;
use crate::checksum::fits;
use crate::error::{Result, at};

const MAGIC: &[u8; 8] = b"MIFPACK3";
const END: &[u8; 8] = b"MIFPEND3";
/// Size of an index entry in bytes.
pub const ENTRY: usize = 58;
/// Size of the header before the first object in bytes: the magic and the id.
pub const HEAD: usize = 40;
/// Size of the trailer after the index entries in bytes.
pub const TRAILER: usize = 80;

/// The largest object that is stored whole, in bytes. A larger one is stored as a list of chunks of at most this size.
pub const MAX_WHOLE: u64 = 4 << 20;

/// The way an object's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Unchanged.
    Raw,
    /// As one zstd frame.
    Zstd,
    /// As a list of chunks.
    List,
    /// As a list of chunks some of which have to be decoded.
    DecodingList,
}

impl Encoding {
    /// Returns true for both kinds of list.
    #[must_use]
    pub fn is_list(self) -> bool {
        matches!(self, Encoding::List | Encoding::DecodingList)
    }
}

/// The place of an object in its pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The object.
    pub id: ObjectId,
    /// Its encoding.
    pub encoding: Encoding,
    /// Offset of its stored bytes in the pack.
    pub offset: u64,
    /// Number of stored bytes.
    pub stored_len: u64,
    /// Length of the object in bytes.
    pub len: u64,
}

/// The contents of an index file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackContents {
    /// The objects of the pack, sorted by id.
    pub entries: Vec<IndexEntry>,
    /// BLAKE3 of the pack up to its index.
    pub digest: [u8; 32],
}

/// A writer of a pack, which hashes the pack as it goes.
pub struct PackWriter<W> {
    out: W,
    id: PackId,
    hasher: blake3::Hasher,
    offset: u64,
    entries: Vec<IndexEntry>,
}

impl<W: Write> PackWriter<W> {
    /// Starts a pack. `id` must be random: no other pack may ever have it.
    pub fn new(out: W, id: PackId) -> io::Result<Self> {
        let mut pack = PackWriter { out, id, hasher: blake3::Hasher::new(), offset: 0, entries: Vec::new() };
        pack.write(MAGIC)?;
        pack.write(&id.0)?;
        Ok(pack)
    }

    /// Returns the number of bytes written.
    pub fn len(&self) -> u64 {
        self.offset
    }

    /// True if no object has been added.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an object of `len` bytes, stored as `stored`.
    pub fn add(&mut self, id: ObjectId, encoding: Encoding, stored: &[u8], len: u64) -> io::Result<()> {
        let stored_len = stored.len() as u64;
        self.entries.push(IndexEntry { id, encoding, offset: self.offset, stored_len, len });
        self.write(stored)
    }

    /// Writes the index. Returns the output, the pack's id, its index as a separate file, and the entries.
    pub fn finish(mut self) -> io::Result<(W, PackId, Vec<u8>, Vec<IndexEntry>)> {
        self.entries.sort_unstable_by_key(|entry| entry.id);
        let contents = PackContents { entries: self.entries, digest: *self.hasher.finalize().as_bytes() };
        let index = encode_index(&contents);
        self.out.write_all(&index)?;
        self.out.flush()?;
        Ok((self.out, self.id, index, contents.entries))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// Encodes the index file of a pack with these contents.
#[must_use]
pub fn encode_index(contents: &PackContents) -> Vec<u8> {
    let entries = &contents.entries;
    let mut out = Vec::with_capacity(entries.len() * ENTRY + TRAILER);
    for entry in entries {
        out.push(entry.id.kind as u8);
        out.extend_from_slice(&entry.id.digest);
        out.push(match entry.encoding {
            Encoding::Raw => 0,
            Encoding::Zstd => 1,
            Encoding::List => 2,
            Encoding::DecodingList => 3,
        });
        for number in [entry.offset, entry.stored_len, entry.len] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    out.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    out.extend_from_slice(&contents.digest);
    let digest = blake3::hash(&out);
    out.extend_from_slice(digest.as_bytes());
    out.extend_from_slice(END);
    out
}

/// Reads an index file.
pub fn decode_index(file: &[u8]) -> Result<PackContents> {
    let Some(trailer) = file.len().checked_sub(TRAILER) else {
        return Err(at("pack index").corrupt(format!("is too short: {} bytes", file.len())));
    };
    let wrong = |field, problem: &str| at("pack index").field(field).byte(trailer as u64).corrupt(problem);
    let (entries, trailer) = file.split_at(trailer);
    if &trailer[72..] != END {
        return Err(wrong("end", "is missing: the file is truncated, or of another version"));
    }
    if le64(trailer, 0).checked_mul(ENTRY as u64) != Some(entries.len() as u64) {
        return Err(wrong("count", "does not match the length of the file"));
    }
    if !fits(&trailer[40..72], &blake3::hash(&file[..file.len() - 40]).as_bytes()[..]) {
        return Err(wrong("digest", "does not match the entries: the file is damaged"));
    }
    let entries: Vec<IndexEntry> = entries.chunks_exact(ENTRY).map(decode_entry).collect::<Result<_>>()?;
    if !entries.is_sorted_by(|a, b| a.id < b.id) {
        return Err(at("pack index")
            .field("id")
            .corrupt("of an entry is not greater than that of the previous entry"));
    }
    Ok(PackContents { entries, digest: trailer[8..40].try_into().expect("32 bytes") })
}

/// Checks the first [`HEAD`] bytes of a pack that has this id.
pub fn check_head(head: &[u8], id: &PackId) -> Result<()> {
    match head.split_at_checked(MAGIC.len()) {
        Some((magic, own)) if magic == MAGIC && fits(own, &id.0) => Ok(()),
        Some((magic, _)) if magic == MAGIC => {
            Err(at("pack").field("id").corrupt("does not match the file name"))
        }
        _ => Err(at("pack")
            .field("magic")
            .corrupt("is missing: the file is not a pack, or of another version")),
    }
}

fn decode_entry(bytes: &[u8]) -> Result<IndexEntry> {
    let kind = ObjectKind::from_byte(bytes[0])
        .ok_or_else(|| at("pack index").field("kind").corrupt(format!("is {}, expected 0 to 2", bytes[0])))?;
    let encoding = match bytes[33] {
        0 => Encoding::Raw,
        1 => Encoding::Zstd,
        2 => Encoding::List,
        3 => Encoding::DecodingList,
        other => {
            return Err(at("pack index").field("encoding").corrupt(format!("is {other}, expected 0 to 3")));
        }
    };
    let wrong = |problem: &str| Err(at("pack index").field("encoding").corrupt(problem));
    if kind == ObjectKind::ChunkList && encoding != Encoding::List {
        return wrong("is not 2 (list) for a chunk list");
    }
    if (kind == ObjectKind::Decoded) != (encoding == Encoding::DecodingList) {
        return wrong("is 3 (decoding list) for an object that is not decoded content, or the reverse");
    }
    Ok(IndexEntry {
        id: ObjectId { kind, digest: bytes[1..33].try_into().expect("32 bytes") },
        encoding,
        offset: le64(bytes, 34),
        stored_len: le64(bytes, 42),
        len: le64(bytes, 50),
    })
}

/// Returns the length in bytes of the index at the end of a pack, given the pack's last [`TRAILER`] bytes and its
/// length.
pub fn index_len(trailer: &[u8; TRAILER], pack_len: u64) -> Result<u64> {
    let len = le64(trailer, 0).checked_mul(ENTRY as u64).and_then(|n| n.checked_add(TRAILER as u64));
    match len {
        Some(len)
            if &trailer[72..] == END && pack_len.checked_sub(HEAD as u64).is_some_and(|most| len <= most) =>
        {
            Ok(len)
        }
        _ => {
            Err(at("pack").field("index").corrupt("is missing at the end: the file is truncated or damaged"))
        }
    }
}

/// Returns the length in bytes of a pack with these objects.
#[must_use]
pub fn pack_len(entries: &[IndexEntry]) -> u64 {
    let end = |entry: &IndexEntry| entry.offset.saturating_add(entry.stored_len);
    let objects = entries.iter().map(end).max().unwrap_or(HEAD as u64);
    objects.saturating_add((entries.len() * ENTRY + TRAILER) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: PackId = PackId([4; 32]);

    fn sample() -> (Vec<u8>, Vec<u8>, Vec<IndexEntry>) {
        let mut pack = PackWriter::new(Vec::new(), ID).unwrap();
        pack.add(ObjectId::content([9; 32]), Encoding::Raw, b"hello", 5).unwrap();
        pack.add(ObjectId::content([3; 32]), Encoding::Zstd, b"world!", 600).unwrap();
        let (file, id, index, entries) = pack.finish().unwrap();
        assert_eq!(id, ID);
        check_head(&file[..HEAD], &ID).unwrap();
        assert!(check_head(&file[..HEAD], &PackId([5; 32])).is_err());
        (file, index, entries)
    }

    #[test]
    fn an_index_comes_back_from_its_pack() {
        let (file, index, entries) = sample();
        let trailer = file[file.len() - TRAILER..].try_into().unwrap();
        let len = index_len(trailer, file.len() as u64).unwrap() as usize;
        assert_eq!(file[file.len() - len..], index);
        let contents = decode_index(&index).unwrap();
        assert_eq!(contents.entries, entries);
        assert_eq!(contents.digest, *blake3::hash(&file[..file.len() - len]).as_bytes());
        assert_eq!(entries[0].id, ObjectId::content([3; 32]));
        assert_eq!(file[entries[1].offset as usize..][..5], *b"hello");
    }

    #[test]
    fn an_object_of_each_kind_comes_back_and_a_kind_in_another_encoding_does_not() {
        let mut pack = PackWriter::new(Vec::new(), ID).unwrap();
        pack.add(ObjectId::chunk_list([1; 32]), Encoding::List, b"list", 5).unwrap();
        pack.add(ObjectId::content([1; 32]), Encoding::Raw, b"bytes", 5).unwrap();
        let (_, _, index, entries) = pack.finish().unwrap();
        assert_eq!(decode_index(&index).unwrap().entries, entries);
        assert_eq!(entries[0].id, ObjectId::content([1; 32]));
        let mut pack = PackWriter::new(Vec::new(), ID).unwrap();
        pack.add(ObjectId::chunk_list([1; 32]), Encoding::Raw, b"bytes", 5).unwrap();
        let error = decode_index(&pack.finish().unwrap().2).unwrap_err();
        assert!(error.to_string().contains("encoding"), "{error}");
    }

    #[test]
    fn every_flipped_byte_of_an_index_is_noticed() {
        let (_, index, _) = sample();
        for i in 0..index.len() {
            let mut bad = index.clone();
            bad[i] ^= 1;
            assert!(decode_index(&bad).is_err(), "byte {i}");
        }
    }
}
