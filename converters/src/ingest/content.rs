//! Reading a file's content from a disk: hashing it, storing it if it is new, and recording its location for the
//! layout.

use fastcdc::v2020::FastCDC;
use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::Body;
use mif_formats::mif::pack::{Chunk, MAX_WHOLE};
use mif_formats::source::is_zero;
use mif_formats::{ErrorKind, Source};
use sha1::{Digest, Sha1};

use super::planned_file::{DiskPiece, PlannedFile};
use crate::disk::blocks::{BLOCK, WINDOW, ZERO_STEP};
use crate::error::Result;
use crate::store::ObjectWriter;
use crate::task::pool::Pool;
use crate::task::progress::{self, Progress};

/// The minimum, average and maximum chunk size of large files, in bytes. Chunks are about as large as whole objects may
/// be, so that they compress and read equally well.
const CHUNK: (usize, usize, usize) = (512 << 10, 1 << 20, MAX_WHOLE as usize);

/// A run of disk bytes that belongs to a file: disk offset, length, file offset.
pub(super) type Placed = (u64, u64, u64);

/// Imports a file from `disk`. Adds the disk ranges of its parts to `placed`, without zero blocks.
///
/// If a compressed extent cannot be decoded, returns the damage as the inner error; `placed` is then meaningless.
pub(super) fn import_file<'env>(
    file: &PlannedFile,
    disk: &dyn Source,
    writer: &'env ObjectWriter,
    pool: &Pool<'env>,
    placed: &mut Vec<Placed>,
    progress: &dyn Progress,
) -> Result<std::result::Result<Body, mif_formats::Error>> {
    let mut reader =
        PieceReader { file, disk, piece: 0, used: 0, position: 0, placed, decoded: None, damage: None };
    if file.size > MAX_WHOLE || !file.hashed {
        let body = import_large(&mut reader, writer, pool, progress)?;
        return Ok(reader.damage.map_or(Ok(body), Err));
    }
    let mut bytes = vec![0; file.size as usize];
    reader.read(&mut bytes)?;
    if let Some(damage) = reader.damage {
        return Ok(Err(damage));
    }
    let id = ObjectId::of(&bytes);
    if writer.claim(id) {
        writer.store_claimed(id, &bytes)?;
    }
    Ok(Ok(Body::Digested { sha1: Sha1::digest(&bytes).into(), blake3: id.digest }))
}

/// Reads a file's pieces in order.
struct PieceReader<'a> {
    file: &'a PlannedFile,
    disk: &'a dyn Source,
    /// The current piece, and how many of its bytes were read.
    piece: usize,
    used: u64,
    /// The offset in the file.
    position: u64,
    placed: &'a mut Vec<Placed>,
    /// The most recently decoded extent and the index of its piece.
    decoded: Option<(usize, Vec<u8>)>,
    /// The first decoding error. The bytes of such an extent are read as zeros.
    damage: Option<mif_formats::Error>,
}

impl PieceReader<'_> {
    /// Fills `buf` with the next bytes. The file must have enough left.
    fn read(&mut self, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let piece = &self.file.pieces[self.piece];
            let here = (piece.len() - self.used).min(buf.len() as u64);
            let (part, rest) = buf.split_at_mut(here as usize);
            match piece {
                DiskPiece::Zero { .. } => part.fill(0),
                DiskPiece::Bytes(bytes) => {
                    part.copy_from_slice(&bytes[self.used as usize..][..here as usize]);
                }
                DiskPiece::Encoded(encoded) => {
                    if self.decoded.as_ref().is_none_or(|(piece, _)| *piece != self.piece) {
                        let bytes = encoded.decode(self.disk).or_else(|error| {
                            if error.kind() == ErrorKind::Io {
                                return Err(error);
                            }
                            self.damage.get_or_insert(error);
                            Ok(vec![0; encoded.decoded as usize])
                        });
                        self.decoded = Some((self.piece, bytes?));
                    }
                    let (_, bytes) = self.decoded.as_ref().expect("just set");
                    let from = encoded.from as usize + self.used as usize;
                    part.copy_from_slice(&bytes[from..from + here as usize]);
                }
                DiskPiece::Disk { offset, .. } => {
                    let offset = offset + self.used;
                    self.disk.read_at(offset, part)?;
                    for owned in self.file.owns.within(offset, self.position, here) {
                        let skip = owned.start - offset;
                        let bytes = &part[skip as usize..(owned.end - offset) as usize];
                        place(owned.start, self.position + skip, bytes, self.placed);
                    }
                }
            }
            self.advance(here);
            buf = rest;
        }
        Ok(())
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
    fn skip_hole(&mut self) -> u64 {
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

    fn left(&self) -> u64 {
        self.file.size - self.position
    }
}

/// Records the location of `bytes`, at disk offset `disk` and file offset `file`. Omits whole zero blocks, which become
/// zeros in the layout.
fn place(disk: u64, file: u64, bytes: &[u8], placed: &mut Vec<Placed>) {
    let len = bytes.len() as u64;
    let mut from = 0;
    let mut at = disk.next_multiple_of(BLOCK) - disk;
    while at + BLOCK <= len {
        let zero = is_zero(&bytes[at as usize..(at + BLOCK) as usize]);
        if zero {
            if from < at {
                placed.push((disk + from, at - from, file + from));
            }
            from = at + BLOCK;
        }
        at += BLOCK;
    }
    if from < len {
        placed.push((disk + from, len - from, file + from));
    }
}

/// Imports a large file window by window: bounded memory, content-defined chunks, holes not stored.
fn import_large<'env>(
    reader: &mut PieceReader<'_>,
    writer: &'env ObjectWriter,
    pool: &Pool<'env>,
    progress: &dyn Progress,
) -> Result<Body> {
    let hashed = reader.file.hashed;
    let mut hashes = (Sha1::new(), blake3::Hasher::new());
    let mut hash = |bytes: &[u8]| {
        if hashed {
            hashes.0.update(bytes);
            hashes.1.update(bytes);
        }
    };
    let mut chunks = Chunks { writer, pool, data: Vec::new(), chunks: Vec::new() };
    let mut window = vec![0; WINDOW as usize];
    while reader.left() > 0 && reader.damage.is_none() {
        progress::check(progress)?;
        let hole = reader.skip_hole();
        if hole > 0 {
            chunks.zeros(hole)?;
            if hashed {
                window.fill(0);
                let mut left = hole;
                while left > 0 {
                    progress::check(progress)?;
                    let here = left.min(WINDOW);
                    hash(&window[..here as usize]);
                    left -= here;
                }
            }
            continue;
        }
        let len = reader.left().min(WINDOW - reader.position % WINDOW) as usize;
        reader.read(&mut window[..len])?;
        hash(&window[..len]);
        for step in window[..len].chunks(ZERO_STEP as usize) {
            if is_zero(step) {
                chunks.zeros(step.len() as u64)?;
            } else {
                chunks.data(step)?;
            }
        }
    }
    let list = chunks.finish()?;
    if !hashed {
        return Ok(Body::Opaque { object: writer.put_list(None, &list)? });
    }
    let body = Body::Digested { sha1: hashes.0.finalize().into(), blake3: *hashes.1.finalize().as_bytes() };
    writer.put_list(Some(body.object()), &list)?;
    Ok(body)
}

/// Splits a stream into chunks and stores them.
struct Chunks<'a, 'env> {
    writer: &'env ObjectWriter,
    pool: &'a Pool<'env>,
    data: Vec<u8>,
    chunks: Vec<Chunk>,
}

impl Chunks<'_, '_> {
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.data.extend_from_slice(bytes);
        // Buffer enough for several cuts, so that the remainder is rarely moved.
        if self.data.len() >= 4 * CHUNK.2 { self.cut(CHUNK.2) } else { Ok(()) }
    }

    fn zeros(&mut self, len: u64) -> Result<()> {
        self.cut(1)?;
        match self.chunks.last_mut() {
            Some(chunk) if chunk.id.is_none() => chunk.len += len,
            _ => self.chunks.push(Chunk { id: None, len }),
        }
        Ok(())
    }

    /// Cuts chunks off the front while at least `least` bytes are left. If `least` is the maximum chunk size, no cut
    /// depends on where the buffer happens to end.
    fn cut(&mut self, least: usize) -> Result<()> {
        let mut start = 0;
        while self.data.len() - start >= least {
            let (_, end) =
                FastCDC::new(&self.data, CHUNK.0, CHUNK.1, CHUNK.2).cut(start, self.data.len() - start);
            let bytes = &self.data[start..end];
            let id = ObjectId::of(bytes);
            self.chunks.push(Chunk { id: Some(id), len: bytes.len() as u64 });
            if self.writer.claim(id) {
                let (writer, bytes) = (self.writer, bytes.to_vec());
                self.pool.leave(move || writer.store_claimed(id, &bytes))?;
            }
            start = end;
        }
        self.data.drain(..start);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Chunk>> {
        self.cut(1)?;
        Ok(self.chunks)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::error::Code;
    use crate::store::{Memory, Storage, Store};
    use crate::task::pool;
    use crate::task::progress::Silent;

    /// A progress that requests an interrupt after this many bytes were read.
    struct Stops(AtomicU64);

    impl mif_formats::container::Observer for Stops {
        fn advance(&self, _: u64) {}
        fn interrupted(&self) -> bool {
            self.0.load(Ordering::Relaxed) > 10 << 20
        }
    }

    impl Progress for Stops {
        fn stage(&self, _: &str, _: u64) {}
    }

    impl Source for &Stops {
        fn len(&self) -> u64 {
            1 << 40
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
            buf.fill(1 + (offset >> 20) as u8 % 200);
            self.0.fetch_add(buf.len() as u64, Ordering::Relaxed);
            Ok(())
        }
        fn extent_at(&self, offset: u64) -> mif_formats::Result<mif_formats::Extent> {
            Ok(mif_formats::Extent::data(offset, self.len() - offset))
        }
    }

    #[test]
    fn a_large_file_ends_when_the_user_asks_for_the_end() {
        let storage: std::sync::Arc<dyn Storage> = std::sync::Arc::new(Memory::new());
        let store = Store::create(storage, &Silent).unwrap();
        let writer = ObjectWriter::new(&store).unwrap();
        let stops = Stops(AtomicU64::new(0));
        let file = PlannedFile::loose(1 << 40, &[(0..1 << 40, 0)]);
        let read = pool::run(1, 1, |_, pool| {
            import_file(&file, &&stops, &writer, pool, &mut Vec::new(), &stops).map(|_| ())
        });
        assert_eq!(read.unwrap_err().code(), Code::Interrupted);
        assert!(stops.0.into_inner() < 20 << 20);
    }

    #[test]
    fn zero_blocks_of_the_disk_are_left_out_of_content() {
        let mut bytes = vec![1; 3 * 4096];
        bytes[1024..1024 + 2 * 4096].fill(0);
        let mut placed = Vec::new();
        // The first disk block boundary is 1024 bytes into `bytes`, which contain two whole blocks, both zero.
        place(8192 - 1024, 100, &bytes, &mut placed);
        assert_eq!(placed, [(7168, 1024, 100), (8192 + 8192, 3072, 100 + 1024 + 8192)]);
    }

    #[test]
    fn a_short_run_is_one_piece_even_if_zero() {
        let mut placed = Vec::new();
        place(4096, 0, &[0; 4095], &mut placed);
        place(9000, 0, &[0; 100], &mut placed);
        assert_eq!(placed, [(4096, 4095, 0), (9000, 100, 0)]);
    }
}
