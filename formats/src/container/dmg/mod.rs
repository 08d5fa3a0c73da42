//! DMG: Apple's disk images in the Universal Disk Image Format (UDIF), read-only. Numbers are big-endian.
//!
//! ```text
//! data: chunks, mostly compressed │ property list with the tables of chunks │ trailer ("koly")
//! ```
//!
//! There is no specification; this follows QEMU's reader and the published descriptions of the format.

mod adc;
mod chunks;
mod lzfse;
mod lzvn;
mod matches;
mod trailer;

use std::sync::Arc;

use self::chunks::{Chunk, Kind};
use self::trailer::{MAGIC, Trailer};
use super::mapped::{Map, Mapped, Packed, Place, Run};
use super::{CreateOptions, Disk, Format, ImageFile, Observer, Opener, Output};
use crate::error::{Result, at};
use crate::source::Source;

pub(super) struct Dmg;

impl Format for Dmg {
    fn name(&self) -> &'static str {
        "dmg"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &[]
    }

    fn probe(&self, _: &[u8], tail: &[u8], len: u64) -> bool {
        let trailer = tail.len().checked_sub(trailer::LEN).map(|at| &tail[at..]);
        len >= trailer::LEN as u64 && trailer.is_some_and(|trailer| trailer.starts_with(&MAGIC))
    }

    fn open(&self, file: ImageFile, _: &Opener<'_>) -> Result<Disk> {
        let start = file.len().checked_sub(trailer::LEN as u64);
        let start = start.ok_or_else(|| at("DMG trailer").corrupt("the file is too short"))?;
        let trailer =
            Trailer::parse(&file.read_vec(start, trailer::LEN)?).map_err(|e| e.in_file(file.path()))?;
        if trailer.xml.checked_add(trailer.xml_len).is_none_or(|end| end > start) {
            return Err(at("DMG trailer").byte(start + 216).corrupt("the property list is not in the file"));
        }
        let xml = file.read_vec(trailer.xml, trailer.xml_len as usize)?;
        let chunks = chunks::of_property_list(&xml, trailer.data_fork)?;
        let end = chunks.last().map_or(0, |chunk| chunk.start + chunk.len);
        let len = end.max(trailer.sectors.saturating_mul(512));
        let mut kinds: Vec<&str> = chunks.iter().filter_map(|chunk| chunk.kind.name()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let details =
            vec![("compression".to_owned(), if kinds.is_empty() { "none".into() } else { kinds.join(", ") })];
        let files = vec![file.opened()];
        let source = Arc::new(Mapped::new(Chunks { file, chunks, len }, None));
        Ok(Disk {
            source,
            format: "dmg",
            details,
            files,
            own_files: 1,
            warnings: Vec::new(),
            decrypted: Vec::new(),
        })
    }

    fn create(&self, _: &dyn Source, output: &mut Output, _: &CreateOptions, _: &dyn Observer) -> Result<()> {
        Err(at("").file(output.target()).unsupported("mif reads DMG images but does not write them"))
    }
}

/// The chunks of a disk, in its order.
struct Chunks {
    file: ImageFile,
    chunks: Vec<Chunk>,
    len: u64,
}

impl Map for Chunks {
    fn len(&self) -> u64 {
        self.len
    }

    fn run_at(&self, offset: u64, _: u64) -> Result<Run> {
        let next = self.chunks.partition_point(|chunk| chunk.start + chunk.len <= offset);
        let Some(chunk) = self.chunks.get(next).filter(|chunk| chunk.start <= offset) else {
            // Between chunks.
            let end = self.chunks.get(next).map_or(self.len, |chunk| chunk.start);
            return Ok(Run { len: end - offset, place: Place::Zero });
        };
        let within = offset - chunk.start;
        let len = chunk.len - within;
        let place = match chunk.kind {
            Kind::Zero => Place::Zero,
            Kind::Raw => {
                self.check(chunk, chunk.len)?;
                Place::Stored { file: 0, offset: chunk.at + within }
            }
            Kind::Unsupported(kind) => {
                let place = at("DMG chunk").file(self.file.path()).byte(chunk.at);
                return Err(place.unsupported(format!("is of the kind {kind:#x}, which mif does not read")));
            }
            _ => Place::Packed(Packed { id: next as u64, start: chunk.start, len: chunk.len as usize }),
        };
        Ok(Run { len, place })
    }

    fn file(&self, _: usize) -> &ImageFile {
        &self.file
    }

    fn unpack(&self, block: &Packed, buf: &mut [u8]) -> Result<()> {
        let chunk = &self.chunks[block.id as usize];
        self.check(chunk, chunk.packed)?;
        let packed = self.file.read_vec(chunk.at, chunk.packed as usize)?;
        chunk.kind.unpack(&packed, buf).map_err(|problem| {
            at("DMG chunk")
                .file(self.file.path())
                .byte(chunk.at)
                .corrupt(format!("cannot be decompressed: {problem}"))
        })
    }
}

impl Chunks {
    /// Fails unless the file has `len` bytes of a chunk.
    fn check(&self, chunk: &Chunk, len: u64) -> Result<()> {
        match chunk.at.checked_add(len) {
            Some(end) if end <= self.file.len() => Ok(()),
            _ => Err(at("DMG chunk")
                .file(self.file.path())
                .byte(chunk.at)
                .corrupt(format!("{len} bytes extend past the end of the file at {}", self.file.len()))),
        }
    }
}
