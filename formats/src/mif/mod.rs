//! MIF's own on-disk formats: the manifest, the layout and the pack.

use std::fmt;
use std::hash::{Hash, Hasher};

pub mod catalog;
pub mod chunks;
mod delta;
pub mod digests;
mod fixed;
pub mod layout;
pub mod manifest;
pub mod pack;
pub mod packages;

#[cfg(test)]
mod mutants;
#[cfg(test)]
mod properties;
mod table;
mod varint;

/// The kind of data an object holds, which decides how its id is derived. Objects of two kinds never have the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// Plain bytes: a file's content, a chunk of it, or a window of residue. Named by its BLAKE3-256, which is also the
    /// digest in the manifest.
    Content = 0,
    /// The chunk list of a file whose content has no digest. Named by a hash of the list's own bytes, keyed with
    /// [`ObjectId::CHUNK_LIST_CONTEXT`].
    ChunkList = 1,
    /// The chunk list of content parts of which are decoded from stored bytes. Named by the BLAKE3-256 of the content:
    /// whoever looks for content finds it under kind 0 or under this kind. Layouts do not refer to it, so that no disk
    /// depends on a decoder.
    Decoded = 2,
}

impl ObjectKind {
    /// Returns the kind that a byte of a file encodes.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        let kinds = [ObjectKind::Content, ObjectKind::ChunkList, ObjectKind::Decoded];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The name of an object: its kind, and a digest that is unique among that kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    /// The kind of the object.
    pub kind: ObjectKind,
    /// The digest that names the object among its kind.
    pub digest: [u8; 32],
}

/// A part of the digest is enough: it takes the effort of breaking a 64-bit hash to find two that collide. Tables of
/// millions of objects are most of the work of `gc` and `stats`.
impl Hash for ObjectId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (part, _) = self.digest.split_first_chunk().expect("a digest has 32 bytes");
        state.write_u64(u64::from_le_bytes(*part) ^ self.kind as u64);
    }
}

impl ObjectId {
    /// The key context (`blake3::derive_key`) for the names of chunk lists.
    pub const CHUNK_LIST_CONTEXT: &str = "mif object chunk list 1";

    /// Returns the id of the content with this BLAKE3-256.
    #[must_use]
    pub const fn content(digest: [u8; 32]) -> Self {
        ObjectId { kind: ObjectKind::Content, digest }
    }

    /// Returns the id of the chunk list with this digest.
    #[must_use]
    pub const fn chunk_list(digest: [u8; 32]) -> Self {
        ObjectId { kind: ObjectKind::ChunkList, digest }
    }

    /// Returns the id of decoded content with this BLAKE3-256.
    #[must_use]
    pub const fn decoded(digest: [u8; 32]) -> Self {
        ObjectId { kind: ObjectKind::Decoded, digest }
    }

    /// Returns the id of content with these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        ObjectId::content(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the id of a chunk list with these stored bytes.
    #[must_use]
    pub fn of_list(stored: &[u8]) -> Self {
        ObjectId::chunk_list(blake3::derive_key(Self::CHUNK_LIST_CONTEXT, stored))
    }

    /// Parses the output of [`Display`](fmt::Display).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("list", hex)) => from_hex(hex).map(ObjectId::chunk_list),
            Some(("decoded", hex)) => from_hex(hex).map(ObjectId::decoded),
            Some(_) => None,
            None => from_hex(text).map(ObjectId::content),
        }
    }
}

/// 64 hex digits, preceded by `list:` for a chunk list and by `decoded:` for decoded content.
impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ObjectKind::Content => "",
            ObjectKind::ChunkList => "list:",
            ObjectKind::Decoded => "decoded:",
        };
        write!(f, "{kind}{}", blake3::Hash::from_bytes(self.digest).to_hex())
    }
}

/// The name of a pack: random, and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId(pub [u8; 32]);

impl PackId {
    /// Parses 64 hex digits.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        from_hex(hex).map(PackId)
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Parses 64 hex digits.
fn from_hex(hex: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(hex).ok().map(|hash| *hash.as_bytes())
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
