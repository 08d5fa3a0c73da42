//! Reading a file's content from a disk: hashing it, storing it if it is new, and recording its location for the
//! layout.

use fastcdc::v2020::FastCDC;
use mif_formats::Source;
use mif_formats::mif::ObjectId;
use mif_formats::mif::chunks::Chunk;
use mif_formats::mif::manifest::Body;
use mif_formats::mif::pack::MAX_WHOLE;
use mif_formats::source::is_zero;
use sha1::{Digest, Sha1};

use super::piece_reader::{PieceReader, Placed, Stretch};
use super::planned_file::PlannedFile;
use crate::disk::blocks::{WINDOW, ZERO_STEP};
use crate::error::Result;
use crate::store::ObjectWriter;
use crate::task::pool::Pool;
use crate::task::progress::{self, Progress};

/// The minimum, average and maximum chunk size of large files, in bytes. Chunks are about as large as whole objects may
/// be, so that they compress and read equally well.
const CHUNK: (usize, usize, usize) = (512 << 10, 1 << 20, MAX_WHOLE as usize);

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
    let mut reader = PieceReader::new(file, disk, writer, placed);
    if file.size > MAX_WHOLE || !file.hashed {
        let body = import_large(&mut reader, writer, pool, progress)?;
        return Ok(reader.damage.map_or(Ok(body), Err));
    }
    let mut bytes = vec![0; file.size as usize];
    reader.read(&mut bytes)?;
    let (decoding, stretches) = (reader.decoding, reader.take_stretches());
    if let Some(damage) = reader.damage {
        return Ok(Err(damage));
    }
    let id = ObjectId::of(&bytes);
    let body = Body::Digested { sha1: Sha1::digest(&bytes).into(), blake3: id.digest };
    if decoding {
        let mut chunks = Chunks::new(writer, pool);
        chunks.encoded(&bytes, &stretches)?;
        finish_decoded(id.digest, &chunks.finish()?, writer, placed)?;
    } else if writer.claim(id) {
        writer.store_claimed(id, &bytes)?;
    }
    Ok(Ok(body))
}

/// Imports a large file window by window: bounded memory, content-defined chunks, holes not stored.
///
/// If extents of a file with digests are compressed, it becomes a decoding list.
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
    let mut chunks = Chunks::new(writer, pool);
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
        let stretches = reader.take_stretches();
        if reader.decoding {
            chunks.encoded(&window[..len], &stretches)?
        } else {
            chunks.plain(&window[..len])?
        }
    }
    let list = chunks.finish()?;
    if !hashed {
        return Ok(Body::Opaque { object: writer.put_list(None, &list)? });
    }
    let blake3 = *hashes.1.finalize().as_bytes();
    if !reader.decoding {
        writer.put_list(Some(ObjectId::content(blake3)), &list)?;
    } else if reader.damage.is_none() {
        finish_decoded(blake3, &list, writer, reader.placed)?;
    }
    Ok(Body::Digested { sha1: hashes.0.finalize().into(), blake3 })
}

/// Stores the decoding list of a file, unless the store has its content as such. The layout refers to the chunks in any
/// case, so that it does not depend on what the store had before.
fn finish_decoded(
    digest: [u8; 32],
    list: &[Chunk],
    writer: &ObjectWriter,
    placed: &mut Vec<Placed>,
) -> Result<()> {
    if !writer.has_content(digest) {
        writer.put_decoded(digest, list)?;
    }
    place_in_chunks(list, placed);
    Ok(())
}

/// Makes the runs of a file that is stored as a decoding list refer to its chunks. Zeros are dropped.
fn place_in_chunks(list: &[Chunk], placed: &mut Vec<Placed>) {
    let mut start = 0;
    let starts = list.iter().map(|chunk| {
        start += chunk.len;
        start - chunk.len
    });
    let starts: Vec<u64> = starts.collect();
    for run in std::mem::take(placed) {
        let (mut at, end) = (run.offset, run.offset + run.len);
        if run.object.is_some() {
            placed.push(run);
            continue;
        }
        let mut number = starts.partition_point(|start| *start <= at).saturating_sub(1);
        while at < end {
            let (start, Chunk { id, len, .. }) = (starts[number], list[number]);
            let here = (start + len).min(end) - at;
            if id.is_some() {
                placed.push(Placed {
                    disk: run.disk + (at - run.offset),
                    len: here,
                    object: id,
                    offset: at - start,
                });
            }
            at += here;
            number += 1;
        }
    }
}

/// Splits a stream into chunks and stores them.
struct Chunks<'a, 'env> {
    writer: &'env ObjectWriter,
    pool: &'a Pool<'env>,
    data: Vec<u8>,
    chunks: Vec<Chunk>,
}

impl<'a, 'env> Chunks<'a, 'env> {
    fn new(writer: &'env ObjectWriter, pool: &'a Pool<'env>) -> Self {
        Chunks { writer, pool, data: Vec::new(), chunks: Vec::new() }
    }

    /// Adds bytes of which some are decoded from stored objects, as `stretches` tell.
    fn encoded(&mut self, mut bytes: &[u8], stretches: &[Stretch]) -> Result<()> {
        for stretch in stretches {
            let (here, rest) = bytes.split_at(stretch.len as usize);
            bytes = rest;
            match stretch.encoded {
                Some((id, decode)) if decode.is_worthwhile(stretch.len) => {
                    self.cut(1)?;
                    self.chunks.push(Chunk { id: Some(id), len: stretch.len, decode: Some(decode) });
                }
                _ => self.plain(here)?,
            }
        }
        Ok(())
    }

    /// Adds bytes that are stored as they are.
    fn plain(&mut self, bytes: &[u8]) -> Result<()> {
        for step in bytes.chunks(ZERO_STEP as usize) {
            if is_zero(step) {
                self.zeros(step.len() as u64)?;
            } else {
                self.data(step)?;
            }
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.data.extend_from_slice(bytes);
        // Buffer enough for several cuts, so that the remainder is rarely moved.
        if self.data.len() >= 4 * CHUNK.2 { self.cut(CHUNK.2) } else { Ok(()) }
    }

    fn zeros(&mut self, len: u64) -> Result<()> {
        self.cut(1)?;
        match self.chunks.last_mut() {
            Some(chunk) if chunk.id.is_none() => chunk.len += len,
            _ => self.chunks.push(Chunk::zeros(len)),
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
            self.chunks.push(Chunk::plain(id, bytes.len() as u64));
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
            import_file(&file, &&stops, &writer, pool, &mut Vec::new(), &stops).map(drop)
        });
        assert_eq!(read.unwrap_err().code(), Code::Interrupted);
        assert!(stops.0.into_inner() < 20 << 20);
    }
}
