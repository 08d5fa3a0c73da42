//! Reads the pieces of a file in order, and records where on the disk its bytes are.

use mif_formats::fs::Encoded;
use mif_formats::mif::ObjectId;
use mif_formats::mif::chunks::Decode;
use mif_formats::source::is_zero;
use mif_formats::{ErrorKind, Source};

use super::planned_file::{DiskPiece, PlannedFile};
use crate::disk::blocks::{BLOCK, ZERO_STEP};
use crate::error::Result;
use crate::store::ObjectWriter;

/// A run of disk bytes that belongs to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    /// The offset on the disk, in bytes.
    pub disk: u64,
    /// The number of bytes.
    pub len: u64,
    /// The object that the bytes are part of; `None` for the file's content.
    pub object: Option<ObjectId>,
    /// The offset in the object or in the file, in bytes.
    pub offset: u64,
}

/// Consecutive bytes of a file that are stored alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// The number of bytes.
    pub len: u64,
    /// The stored object that the bytes are decoded from, if they are.
    pub encoded: Option<(ObjectId, Decode)>,
}

/// Reads a file's pieces in order.
pub(super) struct PieceReader<'a> {
    pub file: &'a PlannedFile,
    disk: &'a dyn Source,
    writer: &'a ObjectWriter,
    /// The current piece, and how many of its bytes were read.
    piece: usize,
    used: u64,
    /// The offset in the file.
    pub position: u64,
    /// The locations of the bytes that were read, without zero blocks.
    pub placed: &'a mut Vec<Placed>,
    /// True if the file becomes a decoding list: only then stretches are recorded.
    pub decoding: bool,
    /// The bytes read since this was last taken.
    stretches: Vec<Stretch>,
    /// The extent that was decoded last.
    decoded: Option<Decoded<'a>>,
    /// The first decoding error. The bytes of such an extent are read as zeros.
    pub damage: Option<mif_formats::Error>,
}

/// An extent that was decoded.
struct Decoded<'a> {
    /// The index of the piece that it was decoded for.
    piece: usize,
    extent: &'a Encoded,
    /// The object of its encoded bytes.
    id: ObjectId,
    bytes: Vec<u8>,
}

impl<'a> PieceReader<'a> {
    pub(super) fn new(
        file: &'a PlannedFile,
        disk: &'a dyn Source,
        writer: &'a ObjectWriter,
        placed: &'a mut Vec<Placed>,
    ) -> Self {
        let decoding = file.hashed && file.has_encoded();
        PieceReader {
            file,
            disk,
            writer,
            piece: 0,
            used: 0,
            position: 0,
            placed,
            decoding,
            stretches: Vec::new(),
            decoded: None,
            damage: None,
        }
    }

    /// Fills `buf` with the next bytes. The file must have enough left.
    pub(super) fn read(&mut self, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let piece = &self.file.pieces[self.piece];
            let here = (piece.len() - self.used).min(buf.len() as u64);
            let (part, rest) = buf.split_at_mut(here as usize);
            let mut encoded = None;
            match piece {
                DiskPiece::Zero { .. } => part.fill(0),
                DiskPiece::Bytes(bytes) => {
                    part.copy_from_slice(&bytes[self.used as usize..][..here as usize]);
                }
                DiskPiece::Unread(_) => unreachable!("PlannedFile::with_bytes was called"),
                DiskPiece::Encoded(extent) => {
                    let used = u32::try_from(self.used).expect("an extent decodes to at most 4 MiB");
                    let from = extent.from + used;
                    let Decoded { id, bytes, .. } = self.decode(extent)?;
                    part.copy_from_slice(&bytes[from as usize..][..here as usize]);
                    let decode = Decode { codec: extent.codec, decoded: extent.decoded, from };
                    encoded = Some((*id, decode));
                }
                DiskPiece::Disk { offset, .. } => {
                    let offset = offset + self.used;
                    self.disk.read_at(offset, part)?;
                    for owned in self.file.owns.within(offset, self.position, here) {
                        let skip = owned.start - offset;
                        let bytes = &part[skip as usize..(owned.end - offset) as usize];
                        place(owned.start, None, self.position + skip, bytes, self.placed);
                    }
                }
            }
            self.stretch(here, encoded);
            self.advance(here);
            buf = rest;
        }
        Ok(())
    }

    /// Returns what was read since the last call; nothing if the file does not become a decoding list.
    pub(super) fn take_stretches(&mut self) -> Vec<Stretch> {
        std::mem::take(&mut self.stretches)
    }

    fn stretch(&mut self, len: u64, encoded: Option<(ObjectId, Decode)>) {
        match self.stretches.last_mut() {
            _ if !self.decoding => {}
            Some(Stretch { len: before, encoded: None }) if encoded.is_none() => *before += len,
            _ => self.stretches.push(Stretch { len, encoded }),
        }
    }

    /// Decodes the extent of the current piece. Stores its encoded bytes unless they are stored.
    fn decode(&mut self, extent: &'a Encoded) -> Result<&Decoded<'a>> {
        let piece = self.piece;
        let is_at_hand = |last: &Decoded<'_>| last.piece == piece || last.extent.is_same_extent(extent);
        let is_owned = self.file.owns_encoded.binary_search(&piece).is_ok();
        let last = match self.decoded.take() {
            Some(last) if is_at_hand(&last) && (!is_owned || last.piece == piece) => last,
            _ => self.read_encoded(extent, is_owned)?,
        };
        Ok(self.decoded.insert(last))
    }

    fn read_encoded(&mut self, extent: &'a Encoded, is_owned: bool) -> Result<Decoded<'a>> {
        let decoded = extent.read(self.disk).and_then(|encoded| Ok((extent.decode(&encoded)?, encoded)));
        let (bytes, encoded) = match decoded {
            Ok(decoded) => decoded,
            Err(error) if error.kind() == ErrorKind::Io => return Err(error.into()),
            Err(error) => {
                self.damage.get_or_insert(error);
                (vec![0; extent.decoded as usize], Vec::new())
            }
        };
        let id = ObjectId::of(&encoded);
        if self.damage.is_none() {
            if self.writer.claim(id) {
                self.writer.store_claimed(id, &encoded)?;
            }
            let mut at = 0;
            for run in extent.runs.iter().filter(|_| is_owned) {
                let len = (run.end - run.start) as usize;
                place(run.start, Some(id), at as u64, &encoded[at..at + len], self.placed);
                at += len;
            }
        }
        Ok(Decoded { piece: self.piece, extent, id, bytes })
    }

    fn advance(&mut self, bytes: u64) {
        self.position += bytes;
        self.used += bytes;
        if self.used == self.file.pieces[self.piece].len() {
            self.piece += 1;
            self.used = 0;
        }
    }

    /// Skips the hole at this position in multiples of `ZERO_STEP`. Returns the number of bytes skipped.
    pub(super) fn skip_hole(&mut self) -> u64 {
        if !self.position.is_multiple_of(ZERO_STEP) {
            return 0;
        }
        let Some(DiskPiece::Zero { len }) = self.file.pieces.get(self.piece) else { return 0 };
        let bytes = (len - self.used) / ZERO_STEP * ZERO_STEP;
        if bytes > 0 {
            self.advance(bytes);
        }
        bytes
    }

    /// Returns the number of bytes that are left to read.
    pub(super) fn left(&self) -> u64 {
        self.file.size - self.position
    }
}

/// Records the location of `bytes`, at disk offset `disk` and at `offset` of the object or the file. Omits whole zero
/// blocks, which become zeros in the layout.
fn place(disk: u64, object: Option<ObjectId>, offset: u64, bytes: &[u8], placed: &mut Vec<Placed>) {
    let len = bytes.len() as u64;
    let mut run = |from: u64, to: u64| {
        if from < to {
            placed.push(Placed { disk: disk + from, len: to - from, object, offset: offset + from });
        }
    };
    let mut from = 0;
    let mut at = disk.next_multiple_of(BLOCK) - disk;
    while at + BLOCK <= len {
        if is_zero(&bytes[at as usize..(at + BLOCK) as usize]) {
            run(from, at);
            from = at + BLOCK;
        }
        at += BLOCK;
    }
    run(from, len);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(placed: &[Placed]) -> Vec<(u64, u64, u64)> {
        placed.iter().map(|run| (run.disk, run.len, run.offset)).collect()
    }

    #[test]
    fn zero_blocks_of_the_disk_are_left_out_of_content() {
        let mut bytes = vec![1; 3 * 4096];
        bytes[1024..1024 + 2 * 4096].fill(0);
        let mut placed = Vec::new();
        // The first disk block boundary is 1024 bytes into `bytes`, which contain two whole blocks, both zero.
        place(8192 - 1024, None, 100, &bytes, &mut placed);
        assert_eq!(runs(&placed), [(7168, 1024, 100), (8192 + 8192, 3072, 100 + 1024 + 8192)]);
    }

    #[test]
    fn a_short_run_is_one_piece_even_if_zero() {
        let mut placed = Vec::new();
        place(4096, None, 0, &[0; 4095], &mut placed);
        place(9000, None, 0, &[0; 100], &mut placed);
        assert_eq!(runs(&placed), [(4096, 4095, 0), (9000, 100, 0)]);
    }
}
