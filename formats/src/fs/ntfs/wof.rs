//! Files that the Windows Overlay Filter compressed one by one ("compact os").
//!
//! The content is in the stream `WofCompressedData`, in chunks that are compressed alone. A table precedes them: where each
//! chunk but the first begins, in bytes after the table, as numbers of 32 bits, or of 64 for files from 4 GiB on. A chunk
//! that is not smaller than its content is stored as it is.

use super::attribute::{Attribute, Body};
use super::mapped::Mapped;
use super::reparse::Wof;
use super::volume::Volume;
use crate::bytes::{le32, le64};
use crate::error::{Result, at};
use crate::fs::filesystem::{Content, Encoded, Piece};
use crate::fs::pieces::Pieces;

/// The stream of compressed content.
pub(super) const STREAM: &str = "WofCompressedData";
/// The most chunks of a file.
const CHUNKS_MAX: u64 = 1 << 21;

/// Returns the content of a file of `size` bytes whose compressed form is in `stream`.
pub(super) fn content(volume: &Volume, size: u64, stream: &Attribute, wof: Wof) -> Result<Content> {
    let count = size.div_ceil(wof.chunk);
    if count > CHUNKS_MAX {
        let problem = format!("has {count} compressed chunks, over the limit of {CHUNKS_MAX}");
        return Err(at(format!("MFT record {}", stream.file)).limit(problem));
    }
    if stream.is_compressed() {
        return Err(stream.place().unsupported("is itself compressed"));
    }
    let mapped = stream.mapped(volume)?;
    let stored = match (&stream.body, &mapped) {
        (Body::Resident(value), _) => Stored::Here(value),
        (_, Some(mapped)) => {
            mapped.check_size(|| stream.place())?;
            Stored::Clusters(mapped)
        }
        _ => Stored::Here(&[]),
    };
    let mut chunks = Chunks { volume, stream, stored, wof, pieces: Pieces::new(stream.file, size) };
    if count > 0 {
        chunks.add(size, count)?;
    }
    chunks.pieces.finish()
}

/// Where the stream is.
enum Stored<'a> {
    Here(&'a [u8]),
    Clusters(&'a Mapped),
}

impl Stored<'_> {
    fn len(&self) -> u64 {
        match self {
            Stored::Here(value) => value.len() as u64,
            Stored::Clusters(mapped) => mapped.initialized(),
        }
    }
}

struct Chunks<'a> {
    volume: &'a Volume,
    stream: &'a Attribute,
    stored: Stored<'a>,
    wof: Wof,
    pieces: Pieces,
}

impl Chunks<'_> {
    /// Adds all chunks of a file of `size` bytes.
    fn add(&mut self, size: u64, count: u64) -> Result<()> {
        let width = if size > u64::from(u32::MAX) { 8 } else { 4 };
        let table = (count - 1) * width;
        let len = self.stored.len();
        if table > len {
            return Err(self.stream.place().corrupt(format!("has {len} bytes, but a table of {table}")));
        }
        let ends = self.table(table, width)?.into_iter().map(|end| table.saturating_add(end)).chain([len]);
        let mut start = table;
        for (number, end) in (0..count).zip(ends) {
            let plain = (size - number * self.wof.chunk).min(self.wof.chunk);
            if end <= start || end - start > plain || end > len {
                return Err(self.stream.place().corrupt(format!(
                    "has chunk {number} of {plain} bytes stored from byte {start} to {end} of {len}"
                )));
            }
            self.chunk(start, end - start, plain)?;
            start = end;
        }
        Ok(())
    }

    /// Reads the table of `len` bytes, whose entries have `width` bytes.
    fn table(&self, len: u64, width: u64) -> Result<Vec<u64>> {
        let mut bytes = vec![0; len as usize];
        match self.stored {
            Stored::Here(value) => bytes.copy_from_slice(&value[..len as usize]),
            Stored::Clusters(mapped) => mapped.read(self.volume, &|| self.stream.place(), 0, &mut bytes)?,
        }
        let parse = |entry: &[u8]| if width == 8 { le64(entry, 0) } else { u64::from(le32(entry, 0)) };
        Ok(bytes.chunks_exact(width as usize).map(parse).collect())
    }

    /// Adds the chunk of `plain` bytes that is stored in `len` bytes from byte `start` of the stream on.
    fn chunk(&mut self, start: u64, len: u64, plain: u64) -> Result<()> {
        let Wof { codec, .. } = self.wof;
        match self.stored {
            Stored::Here(value) => {
                let bytes = &value[start as usize..(start + len) as usize];
                let bytes = if len == plain {
                    bytes.to_vec()
                } else {
                    codec
                        .decode(bytes, plain as u32)
                        .map_err(|problem| self.stream.place().corrupt(problem))?
                };
                self.pieces.push(Piece::Bytes(bytes))
            }
            Stored::Clusters(mapped) => {
                let mut runs = Vec::new();
                mapped.locate(start, len, &mut |offset, here| {
                    let offset = offset.ok_or_else(|| self.stream.place().corrupt("has a hole"))?;
                    self.volume.check("file", offset, here)?;
                    runs.push(offset..offset + here);
                    Ok(())
                })?;
                if len == plain {
                    return runs.into_iter().try_for_each(|run| {
                        self.pieces.push(Piece::Volume { offset: run.start, len: run.end - run.start })
                    });
                }
                let decoded = plain as u32;
                let encoded = Encoded { runs, codec, decoded, from: 0, len: decoded };
                self.pieces.push(Piece::Encoded(Box::new(encoded)))
            }
        }
    }
}
