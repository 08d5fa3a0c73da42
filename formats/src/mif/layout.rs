//! The layout: where each byte of a disk comes from. An ordered, gap-free list of segments over the disk.
//!
//! On disk, a layout is
//!
//! ```text
//! "MIFLAYT2"   magic and version
//! 32 bytes     the digest: BLAKE3 of the body
//! u64 le       length of the body in bytes
//! the body, as one zstd frame, and maybe a skippable one behind it (see below):
//!     varint   disk size in bytes
//!     varint   count of objects, then for each, in order of first use:
//!         u8           its kind (0 content, 1 chunk list)
//!         32 bytes     the digest that names it among its kind
//!     varint   count of segments, then for each, in disk order:
//!         varint   length in bytes × 4 + kind (0 zero, 1 content, 2 residue)
//!         signed   content and residue: object number, less that of the segment before
//!         varint   content and residue: offset in the object
//! ```
//!
//! A layout is canonical: adjacent segments that could be one are merged, and objects are numbered in the order of
//! their first use. So the same segments have one encoding and one digest.
//!
//! The ratio of a body to its compressed file is limited, so that a few bytes cannot expand to gigabytes in the reader.
//! If a disk really is that repetitive, such as terabytes of 0xFF, the file is padded with a skippable frame (RFC 8878,
//! section 3.1.2).

use std::collections::HashMap;
use std::ops::Range;

use super::varint::{Reader, put, put_signed};
use super::{ObjectId, ObjectKind};
use crate::bytes::le64;
use crate::checksum::fits;
use crate::error::{Result, at};

const MAGIC: &[u8; 8] = b"MIFLAYT2";
/// Size of an object's name in bytes: its kind and digest.
const OBJECT: usize = 33;

/// The largest body that is read: about two hundred million segments.
pub const MAX_BODY: u64 = 4 << 30;

/// A body may have this many bytes for each compressed byte, ...
const MAX_RATIO: u64 = 1024;
/// ... and this many in any case.
const FREE_BODY: u64 = 8 << 20;
const SKIPPABLE: [u8; 4] = 0x184D_2A50_u32.to_le_bytes();

/// The origin of a segment's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Zeros; nothing is stored.
    Zero,
    /// Bytes of a file's content: as they are, or compressed if they are compressed on the disk.
    Content {
        /// Number of the object in [`Layout::objects`].
        object: u32,
        /// The offset in the object, in bytes.
        offset: u64,
    },
    /// Bytes that belong to no file's content.
    Residue {
        /// Number of the object in [`Layout::objects`].
        object: u32,
        /// The offset in the object, in bytes.
        offset: u64,
    },
}

/// A run of bytes of the disk with one origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The position on the disk, in bytes; never empty.
    pub range: Range<u64>,
    /// The origin of the bytes.
    pub origin: Origin,
}

/// A disk as a list of segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    disk_size: u64,
    objects: Vec<ObjectId>,
    /// The start and origin of each segment, which ends where the next one starts.
    segments: Vec<(u64, Origin)>,
}

impl Layout {
    /// Returns the disk's size in bytes.
    #[must_use]
    pub fn disk_size(&self) -> u64 {
        self.disk_size
    }

    /// Returns the objects that the segments refer to, in the order of their numbers.
    #[must_use]
    pub fn objects(&self) -> &[ObjectId] {
        &self.objects
    }

    /// Returns all segments, in disk order.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        (0..self.segments.len()).map(|i| self.segment(i))
    }

    /// Returns the segments that overlap `range`, unclipped and in disk order.
    pub fn segments_in(&self, range: Range<u64>) -> impl Iterator<Item = Segment> + '_ {
        let first = self.segments.partition_point(|(start, _)| *start <= range.start).saturating_sub(1);
        (first..self.segments.len())
            .map(|i| self.segment(i))
            .take_while(move |segment| segment.range.start < range.end)
    }

    fn segment(&self, i: usize) -> Segment {
        let (start, origin) = self.segments[i];
        let end = self.segments.get(i + 1).map_or(self.disk_size, |(next, _)| *next);
        Segment { range: start..end, origin }
    }

    /// Returns the layout as a file, and its digest.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, [u8; 32]) {
        let body = self.encode_body();
        let digest = *blake3::hash(&body).as_bytes();
        let packed = zstd::bulk::compress(&body, 3).expect("compressing into memory");
        let mut file = Vec::with_capacity(48 + packed.len());
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&digest);
        file.extend_from_slice(&(body.len() as u64).to_le_bytes());
        file.extend_from_slice(&packed);
        let padding = padding(body.len() as u64, packed.len() as u64);
        if padding > 0 {
            let padding = u32::try_from(padding).expect("under 4 GiB, as a body is") as usize;
            file.extend_from_slice(&SKIPPABLE);
            file.extend_from_slice(&(padding as u32).to_le_bytes());
            file.resize(file.len() + padding, 0);
        }
        (file, digest)
    }

    pub(super) fn encode_body(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.objects.len() * OBJECT + self.segments.len() * 8 + 32);
        put(&mut out, self.disk_size);
        put(&mut out, self.objects.len() as u64);
        for object in &self.objects {
            out.push(object.kind as u8);
            out.extend_from_slice(&object.digest);
        }
        put(&mut out, self.segments.len() as u64);
        let mut last = 0;
        for Segment { range, origin } in self.segments() {
            let len = range.end - range.start;
            let (kind, reference) = match origin {
                Origin::Zero => (0, None),
                Origin::Content { object, offset } => (1, Some((object, offset))),
                Origin::Residue { object, offset } => (2, Some((object, offset))),
            };
            put(&mut out, len << 2 | kind);
            if let Some((object, offset)) = reference {
                put_signed(&mut out, i64::from(object) - last);
                put(&mut out, offset);
                last = i64::from(object);
            }
        }
        out
    }

    /// Reads a layout file; also returns its digest, which has been checked.
    pub fn decode(file: &[u8]) -> Result<(Self, [u8; 32])> {
        if file.len() < 48 || &file[..8] != MAGIC {
            return Err(at("layout")
                .field("magic")
                .byte(0)
                .corrupt("is not MIFLAYT2, so this is not a layout of this version"));
        }
        let len = le64(file, 40);
        if len > MAX_BODY {
            return Err(at("layout")
                .field("length")
                .byte(40)
                .limit(format!("is {len}, more than {MAX_BODY}")));
        }
        let packed = (file.len() - 48) as u64;
        if padding(len, packed) > 0 {
            return Err(at("layout")
                .field("length")
                .byte(40)
                .limit(format!("is {len}, over {MAX_RATIO} times its compressed size of {packed} bytes")));
        }
        let body = decompress(&file[48..], len)?;
        let digest = *blake3::hash(&body).as_bytes();
        if !fits(&file[8..40], &digest[..]) {
            return Err(at("layout")
                .field("digest")
                .byte(8)
                .corrupt("does not match the body: the file is damaged"));
        }
        Ok((Self::decode_body(&body)?, digest))
    }

    pub(super) fn decode_body(body: &[u8]) -> Result<Self> {
        let mut reader = Reader::new("layout", body);
        let disk_size = reader.varint("disk size")?;
        let count = reader.varint("object count")?;
        if count > (reader.left() / OBJECT) as u64 || count > u64::from(u32::MAX) {
            return Err(reader.corrupt("object count", format!("is {count}, more than the layout can hold")));
        }
        let ids = reader.take("objects", count as usize * OBJECT)?;
        let object = |entry: &[u8]| {
            let kind = ObjectKind::from_byte(entry[0])?;
            Some(ObjectId { kind, digest: entry[1..].try_into().expect("32 bytes") })
        };
        let objects: Option<Vec<_>> = ids.chunks_exact(OBJECT).map(object).collect();
        let objects = objects.filter(|ids| ids.iter().all(|id| id.kind != ObjectKind::Decoded));
        let objects = objects.ok_or_else(|| reader.corrupt("object kind", "is neither 0 nor 1"))?;
        let count = reader.varint("segment count")?;
        if count > reader.left() as u64 {
            return Err(reader.corrupt("segment count", format!("is {count}, more than the layout can hold")));
        }
        let mut layout = Layout { disk_size, objects, segments: Vec::with_capacity(count as usize) };
        let (mut start, mut last) = (0u64, 0i64);
        for _ in 0..count {
            let word = reader.varint("segment length")?;
            let kind = word & 3;
            let mut reference = || -> Result<(u32, u64)> {
                let delta = reader.signed("object number")?;
                let object = last.checked_add(delta).and_then(|n| u32::try_from(n).ok());
                let Some(object) = object.filter(|n| (*n as usize) < layout.objects.len()) else {
                    return Err(reader.corrupt("object number", "is past the last object"));
                };
                last = i64::from(object);
                Ok((object, reader.varint("object offset")?))
            };
            let origin = match kind {
                0 => Origin::Zero,
                1 => reference().map(|(object, offset)| Origin::Content { object, offset })?,
                2 => reference().map(|(object, offset)| Origin::Residue { object, offset })?,
                _ => return Err(reader.corrupt("segment kind", "is 3, expected 0 to 2")),
            };
            if let Origin::Residue { object, .. } = origin
                && layout.objects[object as usize].kind != ObjectKind::Content
            {
                return Err(reader.corrupt("object kind", "is not 0 (content) for residue"));
            }
            layout.segments.push((start, origin));
            start = match start.checked_add(word >> 2) {
                Some(end) if end <= disk_size && end > start => end,
                _ => {
                    return Err(
                        reader.corrupt("segment length", "is zero, or extends past the end of the disk")
                    );
                }
            };
        }
        if start != disk_size || reader.left() > 0 {
            return Err(
                reader.corrupt("segments", format!("end at {start}, but the disk ends at {disk_size}"))
            );
        }
        Ok(layout)
    }
}

/// Returns how many bytes of padding the compressed body needs to stay within [`MAX_RATIO`].
fn padding(len: u64, packed: u64) -> u64 {
    len.saturating_sub(FREE_BODY).div_ceil(MAX_RATIO).saturating_sub(packed)
}

/// Decompresses one frame of `len` bytes, without trusting `len` for the allocation.
fn decompress(frame: &[u8], len: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let corrupt = |e: std::io::Error| {
        at("layout").field("body").byte(48).corrupt(format!("cannot be decompressed: {e}"))
    };
    let mut body = Vec::new();
    let decoder = zstd::Decoder::new(frame).map_err(corrupt)?;
    decoder.take(len + 1).read_to_end(&mut body).map_err(corrupt)?;
    if body.len() as u64 != len {
        return Err(at("layout")
            .field("body")
            .byte(48)
            .corrupt(format!("does not have the {len} bytes that the header gives")));
    }
    Ok(body)
}

/// A builder of a [`Layout`] from segments in disk order.
#[derive(Default)]
pub struct Builder {
    numbers: HashMap<ObjectId, u32>,
    objects: Vec<ObjectId>,
    segments: Vec<(u64, Origin)>,
    end: u64,
}

impl Builder {
    /// Creates an empty builder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns where the next segment starts.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Appends `len` zeros.
    pub fn zero(&mut self, len: u64) {
        self.push(len, Origin::Zero);
    }

    /// Appends `len` bytes of a file's content, from `offset` in `id`.
    pub fn content(&mut self, len: u64, id: ObjectId, offset: u64) {
        if len > 0 {
            let object = self.number(id);
            self.push(len, Origin::Content { object, offset });
        }
    }

    /// Appends `len` bytes of residue, from `offset` in `id`.
    pub fn residue(&mut self, len: u64, id: ObjectId, offset: u64) {
        if len > 0 {
            let object = self.number(id);
            self.push(len, Origin::Residue { object, offset });
        }
    }

    fn number(&mut self, id: ObjectId) -> u32 {
        *self.numbers.entry(id).or_insert_with(|| {
            self.objects.push(id);
            u32::try_from(self.objects.len() - 1).expect("fewer objects than 2³²")
        })
    }

    fn push(&mut self, len: u64, origin: Origin) {
        if len == 0 {
            return;
        }
        let goes_on = self.segments.last().is_some_and(|&(start, last)| match (last, origin) {
            (Origin::Zero, Origin::Zero) => true,
            (Origin::Content { object: a, offset: x }, Origin::Content { object: b, offset: y })
            | (Origin::Residue { object: a, offset: x }, Origin::Residue { object: b, offset: y }) => {
                a == b && x.checked_add(self.end - start) == Some(y)
            }
            _ => false,
        });
        if !goes_on {
            self.segments.push((self.end, origin));
        }
        self.end += len;
    }

    /// Returns the layout of a disk that ends here.
    #[must_use]
    pub fn finish(self) -> Layout {
        Layout { disk_size: self.end, objects: self.objects, segments: self.segments }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Layout {
        let mut builder = Builder::new();
        builder.residue(512, ObjectId::content([1; 32]), 0);
        builder.zero(1024);
        builder.content(4096, ObjectId::content([2; 32]), 0);
        builder.content(4096, ObjectId::content([2; 32]), 4096);
        builder.content(100, ObjectId::content([2; 32]), 65536);
        builder.residue(100, ObjectId::content([1; 32]), 512);
        builder.zero(10);
        builder.zero(10);
        builder.finish()
    }

    #[test]
    fn neighbours_that_go_on_are_one_segment() {
        let layout = sample();
        assert_eq!(layout.segments().count(), 6);
        assert_eq!(layout.objects().len(), 2);
        assert_eq!(layout.disk_size(), 512 + 1024 + 8192 + 100 + 100 + 20);
    }

    #[test]
    fn no_bytes_of_an_object_do_not_number_it() {
        let mut builder = Builder::new();
        builder.content(0, ObjectId::content([3; 32]), 0);
        builder.residue(0, ObjectId::content([2; 32]), 0);
        builder.residue(512, ObjectId::content([1; 32]), 0);
        builder.content(512, ObjectId::content([2; 32]), 0);
        let numbered = [1, 2].map(|byte| ObjectId::content([byte; 32]));
        assert_eq!(builder.finish().objects(), numbered);
    }

    #[test]
    fn encoding_comes_back_with_its_digest() {
        let (file, digest) = sample().encode();
        assert_eq!(Layout::decode(&file).unwrap(), (sample(), digest));
    }

    #[test]
    fn the_kind_of_an_object_is_part_of_the_layout() {
        let layout = |id| {
            let mut builder = Builder::new();
            builder.content(512, id, 0);
            builder.finish()
        };
        let (content, list) =
            (layout(ObjectId::content([1; 32])).encode(), layout(ObjectId::chunk_list([1; 32])).encode());
        assert_ne!(content.1, list.1);
        assert_eq!(Layout::decode(&list.0).unwrap().0.objects(), [ObjectId::chunk_list([1; 32])]);
        let mut residue = Builder::new();
        residue.residue(512, ObjectId::chunk_list([1; 32]), 0);
        let error = Layout::decode(&residue.finish().encode().0).unwrap_err();
        assert!(error.to_string().contains("object kind"), "{error}");
    }

    #[test]
    fn segments_in_gives_just_those_that_meet_the_range() {
        let layout = sample();
        let starts = |range| layout.segments_in(range).map(|s| s.range.start).collect::<Vec<_>>();
        assert_eq!(starts(0..1), [0]);
        assert_eq!(starts(511..513), [0, 512]);
        assert_eq!(starts(512..513), [512]);
        assert_eq!(starts(1535..1537), [512, 1536]);
        assert_eq!(starts(0..10_000).len(), 6);
    }

    #[test]
    fn no_flipped_bit_of_a_file_gives_another_layout() {
        let (file, digest) = sample().encode();
        for bit in 0..file.len() * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // Some bits of a compressed frame have no meaning; only those may go unnoticed.
            if let Ok(read) = Layout::decode(&bad) {
                assert!(bit / 8 >= 48, "bit {bit} of the header");
                assert_eq!(read, (sample(), digest), "bit {bit}");
            }
        }
        for len in 0..file.len() {
            assert!(Layout::decode(&file[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn a_body_over_the_limit_or_not_as_long_as_it_says_is_refused() {
        let (file, _) = sample().encode();
        let claiming = |len: u64| {
            let mut file = file.clone();
            file[40..48].copy_from_slice(&len.to_le_bytes());
            Layout::decode(&file).unwrap_err().kind()
        };
        assert_eq!(claiming(MAX_BODY + 1), crate::error::ErrorKind::Limit);
        assert_eq!(claiming(FREE_BODY), crate::error::ErrorKind::Corrupt);
        assert_eq!(claiming(1), crate::error::ErrorKind::Corrupt);
    }

    #[test]
    fn a_body_much_longer_than_its_file_is_refused() {
        let body = vec![4; FREE_BODY as usize + 64 * MAX_RATIO as usize * 1024];
        let packed = zstd::bulk::compress(&body, 3).unwrap();
        let head = [&MAGIC[..], blake3::hash(&body).as_bytes(), &(body.len() as u64).to_le_bytes()].concat();
        let error = Layout::decode(&[head, packed].concat()).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Limit);
        assert!(error.to_string().contains("length, at byte 40: is 75497472, over 1024 times"), "{error}");
    }

    #[test]
    fn a_disk_that_is_the_same_all_over_comes_back() {
        let mut builder = Builder::new();
        for _ in 0..2 << 20 {
            builder.residue(256 << 10, ObjectId::content([1; 32]), 0);
        }
        let layout = builder.finish();
        let (file, digest) = layout.encode();
        let body = le64(&file, 40);
        assert!(body > FREE_BODY && (file.len() as u64) < body / 1000, "{} for {body}", file.len());
        assert!(Layout::decode(&file).unwrap() == (layout, digest));
        let unpadded = &file[..file.len() - 16];
        assert_eq!(Layout::decode(unpadded).unwrap_err().kind(), crate::error::ErrorKind::Limit);
    }

    #[test]
    fn a_body_that_breaks_a_rule_is_refused() {
        let body = sample().encode_body();
        for (i, byte) in [(0, 0x01), (2, 0x7f)] {
            let mut bad = body.clone();
            bad[i] = byte;
            assert!(Layout::decode_body(&bad).is_err(), "byte {i}");
        }
        let huge = [&[1u8][..], &[0xff, 0xff, 0xff, 0xff, 0x7f]].concat();
        assert!(Layout::decode_body(&huge).unwrap_err().to_string().contains("object count"));
    }
}
