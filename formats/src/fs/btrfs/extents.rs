//! The locations of a file's bytes, from its `EXTENT_DATA` items.
//!
//! <https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html>, "EXTENT_DATA".

use std::ops::Range;

use super::chunks::Chunks;
use super::items::Key;
use crate::bytes::{le16, le64};
use crate::codec::{self, Codec};
use crate::error::{At, Error, ErrorKind, Result, at};
use crate::fs::pieces::Pieces;
use crate::fs::{Content, Encoded, Piece};

/// The size of an item's head in bytes; inline data follows it.
pub(super) const HEAD: usize = 21;
/// The size of an item whose extent is not inline.
pub(super) const SIZE: usize = 53;

pub(super) const INLINE: u8 = 0;
pub(super) const PREALLOC: u8 = 2;

/// An extent of a file (`btrfs_file_extent_item`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent<'a> {
    /// The size of the whole extent after decoding, in bytes.
    pub(super) ram_bytes: u64,
    compression: u8,
    pub(super) kind: u8,
    /// The bytes in the item, if the extent is inline.
    inline: &'a [u8],
    /// The logical address and the size of the whole extent on the volume; 0 for a hole.
    pub(super) disk_bytenr: u64,
    disk_num_bytes: u64,
    /// The range of the decoded bytes that this part of the file uses.
    pub(super) offset: u64,
    pub(super) num_bytes: u64,
}

impl<'a> Extent<'a> {
    pub(super) fn parse(key: Key, bytes: &'a [u8]) -> Result<Self> {
        let bad = |field, problem: String| Err(place(key).field(field).corrupt(problem));
        if bytes.len() < HEAD {
            return bad("item", format!("has {} bytes", bytes.len()));
        }
        let kind = bytes[20];
        if kind > PREALLOC || (kind != INLINE && bytes.len() < SIZE) {
            return bad("type", format!("is {kind} of an item of {} bytes", bytes.len()));
        }
        if bytes[17] != 0 || le16(bytes, 18) != 0 {
            return Err(place(key)
                .field("encryption")
                .unsupported("the extent is encrypted, or encoded otherwise"));
        }
        let number = |at: usize| if kind == INLINE { 0 } else { le64(bytes, at) };
        let extent = Extent {
            ram_bytes: le64(bytes, 8),
            compression: bytes[16],
            kind,
            inline: if kind == INLINE { &bytes[HEAD..] } else { &[] },
            disk_bytenr: number(21),
            disk_num_bytes: number(29),
            offset: number(37),
            num_bytes: number(45),
        };
        // Files have at most 2^63 bytes; the check also prevents sums from overflowing.
        if key.offset.max(extent.num_bytes).max(extent.offset).max(extent.ram_bytes) > i64::MAX as u64 {
            return bad("num_bytes", format!("is {} from byte {} on", extent.num_bytes, extent.offset));
        }
        Ok(extent)
    }

    /// Returns the end of the extent as a byte offset in the file, given its key.
    pub(super) fn end(&self, key: Key) -> u64 {
        key.offset.saturating_add(if self.kind == INLINE { self.ram_bytes } else { self.num_bytes })
    }

    fn codec(&self, key: Key, sectorsize: u32) -> Result<Option<Codec>> {
        Ok(match self.compression {
            0 => None,
            1 => Some(Codec::Zlib),
            2 => Some(Codec::BtrfsLzo { sector: sectorsize }),
            3 => Some(Codec::Zstd),
            other => {
                let problem = format!("is {other}; mif knows zlib, lzo and zstd (1 to 3)");
                return Err(place(key).field("compression").unsupported(problem));
            }
        })
    }
}

fn place(key: Key) -> At {
    at(format!("inode {}, extent at byte {}", key.objectid, key.offset))
}

/// The extents of a file, of which its content is assembled.
pub(super) struct Extents<'a> {
    chunks: &'a Chunks,
    volume_len: u64,
    sectorsize: u32,
    pieces: Pieces,
}

impl<'a> Extents<'a> {
    /// Returns an empty list for a file of `size` bytes.
    pub(super) fn new(chunks: &'a Chunks, volume_len: u64, sectorsize: u32, inode: u64, size: u64) -> Self {
        Extents { chunks, volume_len, sectorsize, pieces: Pieces::new(inode, size) }
    }

    /// Adds the extent in an item. A gap before it is a hole. Returns false if the extent starts past the end of the
    /// file.
    pub(super) fn add(&mut self, key: Key, bytes: &[u8]) -> Result<bool> {
        if key.offset >= self.pieces.size() {
            return Ok(false);
        }
        let extent = Extent::parse(key, bytes)?;
        if key.offset < self.pieces.done() {
            return Err(place(key)
                .corrupt(format!("overlaps the extent before it, which ends at {}", self.pieces.done())));
        }
        self.pieces.zero_to(key.offset)?;
        match extent.kind {
            INLINE => self.inline(key, &extent),
            // Allocated but never written, or a hole.
            kind if kind == PREALLOC || extent.disk_bytenr == 0 => {
                self.pieces.push(Piece::Zero { len: extent.num_bytes })
            }
            _ => self.regular(key, &extent),
        }?;
        Ok(true)
    }

    fn inline(&mut self, key: Key, extent: &Extent<'_>) -> Result<()> {
        if key.offset != 0 {
            return Err(place(key).corrupt("is inline, and not at the file's beginning"));
        }
        let bytes = match extent.codec(key, self.sectorsize)? {
            None => extent.inline.to_vec(),
            Some(codec) => {
                // At most a page of the writing machine, which may be larger than a sector.
                let most = u64::from(self.sectorsize).max(64 << 10);
                if extent.ram_bytes > most {
                    let problem =
                        format!("is {}, over the {most} that an inline extent decodes to", extent.ram_bytes);
                    return Err(place(key).field("ram_bytes").corrupt(problem));
                }
                codec
                    .decode(extent.inline, extent.ram_bytes as u32)
                    .map_err(|problem| place(key).corrupt(problem))?
            }
        };
        self.pieces.push(Piece::Bytes(bytes))
    }

    fn regular(&mut self, key: Key, extent: &Extent<'_>) -> Result<()> {
        let Extent { ram_bytes, disk_bytenr, disk_num_bytes, offset, num_bytes, .. } = *extent;
        let codec = extent.codec(key, self.sectorsize)?;
        let whole = if codec.is_some() { ram_bytes } else { disk_num_bytes };
        if offset.checked_add(num_bytes).is_none_or(|end| end > whole) {
            let problem = format!("is {num_bytes} from byte {offset} of an extent of {whole} bytes on");
            return Err(place(key).field("num_bytes").corrupt(problem));
        }
        let Some(codec) = codec else {
            let len = num_bytes.min(self.pieces.size() - self.pieces.done());
            for run in self.runs(key, disk_bytenr.saturating_add(offset), len)? {
                self.pieces.push(Piece::Volume { offset: run.start, len: run.end - run.start })?;
            }
            return Ok(());
        };
        let most = u64::from(codec::MAX);
        if ram_bytes > most || disk_num_bytes > most {
            let problem =
                format!("{disk_num_bytes} bytes that decode to {ram_bytes}, over the limit of {most}");
            return Err(place(key).limit(problem));
        }
        self.pieces.push(Piece::Encoded(Box::new(Encoded {
            runs: self.runs(key, disk_bytenr, disk_num_bytes)?,
            codec,
            decoded: ram_bytes as u32,
            from: offset as u32,
            len: num_bytes as u32,
        })))
    }

    /// Returns the volume ranges of `len` bytes at a logical address.
    fn runs(&self, key: Key, logical: u64, len: u64) -> Result<Vec<Range<u64>>> {
        let runs = self.chunks.runs(logical, len).map_err(|error| within(key, &error))?;
        match runs.iter().find(|run| run.end > self.volume_len) {
            None => Ok(runs),
            Some(run) => Err(place(key)
                .byte(run.start)
                .corrupt(format!("ends at byte {}, but the volume has {}", run.end, self.volume_len))),
        }
    }

    /// Returns the content. A gap at the end is a hole.
    pub(super) fn finish(self) -> Result<Content> {
        self.pieces.finish()
    }
}

/// Converts a chunk map error to an error of the extent.
fn within(key: Key, error: &Error) -> Error {
    match error.kind() {
        ErrorKind::Unsupported => place(key).unsupported(error.to_string()),
        _ => place(key).corrupt(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::btrfs::items::kind;

    const SECTOR: u64 = 4096;
    const REGULAR: u8 = 1;

    /// Returns two chunks of 1 MiB: address 1 MiB at byte 64 KiB, and address 2 MiB at byte 1.5 MiB of a 2 MiB volume.
    fn chunks() -> Chunks {
        let mut chunks = Chunks::default();
        for (start, physical) in [(1 << 20, 64 << 10), (2 << 20, 3 << 19)] {
            let mut item = vec![0; 80];
            item[..8].copy_from_slice(&(1_u64 << 20).to_le_bytes());
            item[24] = 1;
            item[44] = 1;
            item[48] = 1;
            item[56..64].copy_from_slice(&u64::to_le_bytes(physical));
            chunks.add(key_of(256, kind::CHUNK_ITEM, start), &item, 1).unwrap();
        }
        chunks
    }

    fn key_of(objectid: u64, kind: u8, offset: u64) -> Key {
        Key::new(objectid, kind, offset)
    }

    fn key(offset: u64) -> Key {
        key_of(257, kind::EXTENT_DATA, offset)
    }

    fn item(kind: u8, compression: u8, numbers: [u64; 5]) -> Vec<u8> {
        let mut item = vec![0; HEAD];
        item[8..16].copy_from_slice(&numbers[0].to_le_bytes());
        item[16] = compression;
        item[20] = kind;
        for number in &numbers[1..] {
            item.extend(number.to_le_bytes());
        }
        item
    }

    fn inline(compression: u8, ram_bytes: u64, data: &[u8]) -> Vec<u8> {
        let mut item = item(INLINE, compression, [ram_bytes, 0, 0, 0, 0]);
        item.truncate(HEAD);
        item.extend(data);
        item
    }

    fn content(size: u64, items: &[(u64, Vec<u8>)]) -> Result<Content> {
        let chunks = chunks();
        let mut pieces = Extents::new(&chunks, 2 << 20, SECTOR as u32, 257, size);
        for (offset, item) in items {
            pieces.add(key(*offset), item)?;
        }
        pieces.finish()
    }

    fn regular(bytenr: u64, disk: u64, offset: u64, len: u64) -> Vec<u8> {
        item(REGULAR, 0, [disk, bytenr, disk, offset, len])
    }

    #[test]
    fn gaps_and_unwritten_extents_are_holes() {
        let items = [
            (SECTOR, regular(1 << 20, 3 * SECTOR, SECTOR, 2 * SECTOR)),
            (3 * SECTOR, item(PREALLOC, 0, [SECTOR, 1 << 20, SECTOR, 0, SECTOR])),
            (4 * SECTOR, regular(0, 0, 0, SECTOR)),
            (6 * SECTOR, regular(2 << 20, SECTOR, 0, SECTOR)),
            (9 * SECTOR, regular(u64::MAX, SECTOR, 0, SECTOR)),
        ];
        let content = content(6 * SECTOR + 100, &items).unwrap();
        assert_eq!(
            content.pieces,
            [
                Piece::Zero { len: SECTOR },
                Piece::Volume { offset: (64 << 10) + SECTOR, len: 2 * SECTOR },
                Piece::Zero { len: 3 * SECTOR },
                Piece::Volume { offset: 3 << 19, len: 100 },
            ]
        );
    }

    #[test]
    fn an_extent_over_two_chunks_is_two_pieces() {
        let content =
            content(2 * SECTOR, &[(0, regular((2 << 20) - SECTOR, 2 * SECTOR, 0, 2 * SECTOR))]).unwrap();
        let first = (64 << 10) + (1 << 20) - SECTOR;
        assert_eq!(
            content.pieces,
            [Piece::Volume { offset: first, len: SECTOR }, Piece::Volume { offset: 3 << 19, len: SECTOR }]
        );
    }

    #[test]
    fn a_compressed_extent_is_decoded_whole_and_used_in_part() {
        let items = [(0, item(REGULAR, 3, [4 * SECTOR, (2 << 20) - SECTOR, 2 * SECTOR, SECTOR, 2 * SECTOR]))];
        let first = (64 << 10) + (1 << 20) - SECTOR;
        let encoded = Encoded {
            runs: vec![first..first + SECTOR, 3 << 19..(3 << 19) + SECTOR],
            codec: Codec::Zstd,
            decoded: 4 * SECTOR as u32,
            from: SECTOR as u32,
            len: 5000,
        };
        assert_eq!(content(5000, &items).unwrap().pieces, [Piece::Encoded(Box::new(encoded))]);
        let lzo = [(0, item(REGULAR, 2, [SECTOR, 1 << 20, SECTOR, 0, SECTOR]))];
        let content = content(SECTOR, &lzo).unwrap();
        let [Piece::Encoded(encoded)] = &content.pieces[..] else { panic!("{content:?}") };
        assert_eq!(encoded.codec, Codec::BtrfsLzo { sector: 4096 });
    }

    #[test]
    fn inline_data_is_cut_at_the_end_of_the_file_and_filled_up() {
        let items = |len| {
            [(0, inline(0, 5, b"12345")), (SECTOR, regular(1 << 20, SECTOR, 0, SECTOR))][..len].to_vec()
        };
        assert_eq!(content(3, &items(1)).unwrap().pieces, [Piece::Bytes(b"123".to_vec())]);
        assert_eq!(
            content(SECTOR + 1, &items(2)).unwrap().pieces,
            [
                Piece::Bytes(b"12345".to_vec()),
                Piece::Zero { len: SECTOR - 5 },
                Piece::Volume { offset: 64 << 10, len: 1 }
            ]
        );
        let plain = b"text, text, text, text".repeat(20);
        let zstd = zstd::bulk::compress(&plain, 3).unwrap();
        let packed = content(440, &[(0, inline(3, 440, &zstd))]).unwrap();
        assert_eq!(packed.pieces, [Piece::Bytes(plain.clone())]);
        // Newer kernels compress the whole sector, and `ram_bytes` says how much of it is valid
        // (kdave/btrfs-progs#1171).
        let mut sector = plain[..300].to_vec();
        sector.resize(SECTOR as usize, 0);
        let zstd = zstd::bulk::compress(&sector, 3).unwrap();
        let mut zlib = vec![0; 1000];
        let len = libdeflater::Compressor::default().zlib_compress(&sector, &mut zlib).unwrap();
        for (compression, encoded) in [(3, &zstd[..]), (1, &zlib[..len])] {
            let cut = content(300, &[(0, inline(compression, 300, encoded))]).unwrap();
            assert_eq!(cut.pieces, [Piece::Bytes(plain[..300].to_vec())], "{compression}");
        }
    }

    /// Old versions of mkfs.btrfs and btrfs-convert wrote such extents (kdave/btrfs-progs#108).
    #[test]
    fn inline_data_of_more_than_a_sector_is_read() {
        let data = vec![b'x'; 15_000];
        let content = content(15_000, &[(0, inline(0, 15_000, &data))]).unwrap();
        assert_eq!(content.pieces, [Piece::Bytes(data)]);
    }

    /// A reader that trusted `ram_bytes` of inline data panicked (cblichmann/btrfscue#19).
    #[test]
    fn inline_data_of_less_than_it_says_is_filled_up_with_zeros() {
        let content = content(100, &[(0, inline(0, 100, b"12345"))]).unwrap();
        assert_eq!(content.pieces, [Piece::Bytes(b"12345".to_vec()), Piece::Zero { len: 95 }]);
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let cases: [(&str, u64, Vec<u8>); 9] = [
            ("num_bytes", 0, regular(1 << 20, SECTOR, SECTOR, SECTOR)),
            ("num_bytes", 0, item(REGULAR, 1, [SECTOR, 1 << 20, SECTOR, 1, SECTOR])),
            ("no chunk", 0, regular(7 << 20, SECTOR, 0, SECTOR)),
            ("the volume has", 0, regular((2 << 20) + (1 << 19), SECTOR, 0, SECTOR)),
            ("inline", SECTOR, inline(0, 1, b"x")),
            ("type", 0, item(3, 0, [0; 5])),
            ("compression", 0, item(REGULAR, 4, [SECTOR, 1 << 20, SECTOR, 0, SECTOR])),
            ("over the limit", 0, item(REGULAR, 1, [5 << 20, 1 << 20, SECTOR, 0, SECTOR])),
            ("ram_bytes", 0, inline(1, 1 << 17, b"x")),
        ];
        for (problem, offset, item) in cases {
            let error = content(1 << 20, &[(offset, item)]).unwrap_err().to_string();
            assert!(error.contains(problem), "{problem}: {error}");
        }
        let twice =
            [(0, regular(1 << 20, 2 * SECTOR, 0, 2 * SECTOR)), (SECTOR, regular(1 << 20, SECTOR, 0, SECTOR))];
        assert!(content(1 << 20, &twice).unwrap_err().to_string().contains("overlaps"));
    }
}
