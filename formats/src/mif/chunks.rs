//! Lists of chunks: large content, and content that is decoded from other objects. [`pack`](super::pack) describes the bytes.

use super::ObjectId;
use super::pack::{Encoding, MAX_WHOLE};
use crate::bytes::{le32, le64};
use crate::checksum::fits;
use crate::codec::{self, Codec};
use crate::error::{Result, at};

/// A chunk of an object that is stored as a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The chunk's content, or what it is decoded from; `None` for zeros.
    pub id: Option<ObjectId>,
    /// The chunk's length in bytes.
    pub len: u64,
    /// How the chunk is decoded; `None` if the object is the chunk.
    pub decode: Option<Decode>,
}

impl Chunk {
    /// Returns the chunk that is a whole object of `len` bytes.
    #[must_use]
    pub const fn plain(id: ObjectId, len: u64) -> Self {
        Chunk { id: Some(id), len, decode: None }
    }

    /// Returns a chunk of `len` zeros.
    #[must_use]
    pub const fn zeros(len: u64) -> Self {
        Chunk { id: None, len, decode: None }
    }
}

/// How a chunk is decoded from an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decode {
    /// The encoding of the object's bytes.
    pub codec: Codec,
    /// The number of bytes that the whole object decodes to, at most [`codec::MAX`].
    pub decoded: u32,
    /// The first of these bytes that belongs to the chunk.
    pub from: u32,
}

impl Decode {
    /// Returns true if a chunk of `len` bytes is large enough for what has to be decoded for it. Lists have no others, so
    /// that reading one is work in proportion to its content.
    #[must_use]
    pub fn is_worthwhile(&self, len: u64) -> bool {
        self.decoded <= 64 << 10 || u64::from(self.decoded) <= len.saturating_mul(64)
    }
}

/// Size of an entry of a list in bytes.
const LIST_ENTRY: usize = 40;
/// Size of an entry of a decoding list in bytes.
const DECODING_ENTRY: usize = 56;
/// The key context (`blake3::derive_key`) of the digest of a decoding list, so that no list is a decoding list too.
pub(super) const DECODING_CONTEXT: &str = "mif decoding list 1";

/// Encodes a list of chunks, none of which is decoded, as its stored bytes.
#[must_use]
pub fn encode_list(chunks: &[Chunk]) -> Vec<u8> {
    let mut body = Vec::with_capacity(chunks.len() * LIST_ENTRY);
    for chunk in chunks {
        debug_assert!(chunk.decode.is_none());
        put_chunk(&mut body, chunk);
    }
    [blake3::hash(&body).as_bytes(), &body[..]].concat()
}

/// Encodes a decoding list as its stored bytes.
#[must_use]
pub fn encode_decoding_list(chunks: &[Chunk]) -> Vec<u8> {
    let mut body = Vec::with_capacity(chunks.len() * DECODING_ENTRY);
    for chunk in chunks {
        put_chunk(&mut body, chunk);
        let ((number, parameter), decoded, from) =
            chunk.decode.map_or(((0, 0), 0, 0), |with| (with.codec.number(), with.decoded, with.from));
        for field in [decoded, from, u32::from(number), parameter] {
            body.extend_from_slice(&field.to_le_bytes());
        }
    }
    [&blake3::derive_key(DECODING_CONTEXT, &body)[..], &body].concat()
}

fn put_chunk(body: &mut Vec<u8>, chunk: &Chunk) {
    body.extend_from_slice(&chunk.id.map_or([0; 32], |id| id.digest));
    body.extend_from_slice(&chunk.len.to_le_bytes());
}

/// Reads the list of chunks of an object of `len` bytes with this encoding, one of the two lists.
pub fn decode_list(encoding: Encoding, stored: &[u8], len: u64) -> Result<Vec<Chunk>> {
    let damaged = |problem: &str| at("chunk list").corrupt(problem);
    let (digest, body) = stored.split_at_checked(32).ok_or_else(|| damaged("is too short"))?;
    let (size, expected) = match encoding {
        Encoding::DecodingList => (DECODING_ENTRY, blake3::derive_key(DECODING_CONTEXT, body)),
        _ => (LIST_ENTRY, *blake3::hash(body).as_bytes()),
    };
    if !fits(digest, &expected) || !body.len().is_multiple_of(size) {
        return Err(damaged("does not match its digest"));
    }
    let chunks: Option<Vec<Chunk>> = body.chunks_exact(size).map(chunk).collect();
    let chunks = chunks.ok_or_else(|| damaged("has a chunk that cannot be decoded"))?;
    let total = chunks.iter().try_fold(0u64, |sum, chunk| sum.checked_add(chunk.len));
    if total != Some(len) || chunks.iter().any(|c| c.len == 0 || c.id.is_some() && c.len > MAX_WHOLE) {
        return Err(damaged("has chunks that do not add up to the object's length"));
    }
    Ok(chunks)
}

/// Reads an entry of either list. Returns `None` if its codec is unknown, or it is not within the decoded bytes.
fn chunk(entry: &[u8]) -> Option<Chunk> {
    let digest: [u8; 32] = entry[..32].try_into().expect("32 bytes");
    let (id, len) = ((digest != [0; 32]).then(|| ObjectId::content(digest)), le64(entry, 32));
    if entry.len() == LIST_ENTRY {
        return Some(Chunk { id, len, decode: None });
    }
    let [decoded, from, number, parameter] = [40, 44, 48, 52].map(|at| le32(entry, at));
    if number == 0 {
        return ([decoded, from, parameter] == [0; 3]).then_some(Chunk { id, len, decode: None });
    }
    let codec = Codec::of_number(u8::try_from(number).ok()?, parameter)?;
    let end = u64::from(from).checked_add(len)?;
    let decode = Decode { codec, decoded, from };
    let fits =
        id.is_some() && decoded <= codec::MAX && end <= u64::from(decoded) && decode.is_worthwhile(len);
    fits.then_some(Chunk { id, len, decode: Some(decode) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_and_a_file_with_its_bytes_have_different_ids() {
        let list = encode_list(&[Chunk::zeros(5 << 30)]);
        let ids = [ObjectId::of(&list), ObjectId::of_list(&list)];
        assert_ne!(ids[0].digest, ids[1].digest);
        for id in ids {
            assert_eq!(ObjectId::parse(&id.to_string()), Some(id));
        }
    }

    #[test]
    fn a_list_comes_back_and_damage_is_noticed() {
        let chunks = [Chunk::plain(ObjectId::content([7; 32]), 1 << 20), Chunk::zeros(5 << 30)];
        let stored = encode_list(&chunks);
        let len = (1 << 20) + (5 << 30);
        assert_eq!(decode_list(Encoding::List, &stored, len).unwrap(), chunks);
        assert!(decode_list(Encoding::List, &stored, len + 1).is_err());
        for i in 0..stored.len() {
            let mut bad = stored.clone();
            bad[i] ^= 1;
            assert!(decode_list(Encoding::List, &bad, len).is_err(), "byte {i}");
        }
    }

    #[test]
    fn a_chunk_longer_than_the_limit_is_refused_and_zeros_may_be_longer() {
        let read = |id, len| {
            let list = encode_list(&[Chunk { id, len, decode: None }]);
            decode_list(Encoding::List, &list, len).is_ok()
        };
        assert!(read(Some(ObjectId::content([7; 32])), MAX_WHOLE));
        assert!(!read(Some(ObjectId::content([7; 32])), MAX_WHOLE + 1));
        assert!(read(None, MAX_WHOLE + 1));
    }

    #[test]
    fn a_decoding_list_comes_back_and_damage_is_noticed() {
        let id = ObjectId::content([7; 32]);
        let lzo = Decode { codec: Codec::BtrfsLzo { sector: 4096 }, decoded: 8192, from: 96 };
        let zstd = Decode { codec: Codec::Zstd, decoded: 131_072, from: 0 };
        let chunks = [
            Chunk { id: Some(id), len: 8096, decode: Some(lzo) },
            Chunk::plain(id, 5),
            Chunk::zeros(7),
            Chunk { id: Some(id), len: 131_072, decode: Some(zstd) },
        ];
        let len = chunks.iter().map(|chunk| chunk.len).sum();
        let stored = encode_decoding_list(&chunks);
        assert_eq!(decode_list(Encoding::DecodingList, &stored, len).unwrap(), chunks);
        assert!(decode_list(Encoding::DecodingList, &stored, len - 1).is_err());
        for i in 0..stored.len() {
            let mut bad = stored.clone();
            bad[i] ^= 1;
            assert!(decode_list(Encoding::DecodingList, &bad, len).is_err(), "byte {i}");
        }
        // Seven entries of a list are as long as five of a decoding list; neither is read as the other.
        let seven = [Chunk::plain(id, 1); 7];
        let (list, decoding) = (encode_list(&seven), encode_decoding_list(&seven[..5]));
        assert_eq!(list.len(), decoding.len());
        assert!(decode_list(Encoding::DecodingList, &list, 7).is_err());
        assert!(decode_list(Encoding::List, &decoding, 5).is_err());
    }

    #[test]
    fn a_chunk_outside_of_what_is_decoded_is_refused() {
        let read = |id, len, codec, decoded, from| {
            let chunk = Chunk { id, len, decode: Some(Decode { codec, decoded, from }) };
            decode_list(Encoding::DecodingList, &encode_decoding_list(&[chunk]), len).is_ok()
        };
        let id = Some(ObjectId::content([7; 32]));
        assert!(read(id, 100, Codec::Zlib, 200, 100));
        assert!(!read(id, 101, Codec::Zlib, 200, 100));
        assert!(!read(None, 100, Codec::Zlib, 200, 100));
        assert!(read(id, 1025, Codec::Zlib, 65_537, 0) && !read(id, 1024, Codec::Zlib, 65_537, 0));
        assert!(!read(id, 100, Codec::Zlib, codec::MAX + 1, 100));
        assert_eq!(Codec::of_number(1, 5), None);
        assert_eq!(Codec::of_number(200, 0), None);
    }
}
