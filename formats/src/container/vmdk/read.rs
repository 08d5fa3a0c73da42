//! The disk that a VMDK's extents form, one after the other.

use super::descriptor::ExtentLine;
use super::sparse::{Grain, SECTOR, Sparse};
use crate::bytes::le32;
use crate::container::ImageFile;
use crate::container::codec::{Codec, Unpacker};
use crate::container::mapped::{Map, Packed, Place, Run};
use crate::error::{Result, at};
use crate::source::Source;

/// The extents of a disk.
#[derive(Default)]
pub(super) struct Extents {
    extents: Vec<Part>,
    /// In bytes.
    size: u64,
    unpacker: Unpacker,
}

struct Part {
    /// Its start on the disk, in bytes.
    start: u64,
    /// In bytes.
    len: u64,
    storage: Storage,
}

pub(super) enum Storage {
    Zero,
    /// The file, and the offset of the extent in it.
    Flat(ImageFile, u64),
    Sparse(Box<Sparse>),
}

impl Storage {
    /// Returns an extent of plain bytes; `file` must contain the whole extent of `line`.
    pub(super) fn flat(file: ImageFile, line: &ExtentLine) -> Result<Self> {
        let (start, len) = (line.offset * SECTOR, line.sectors * SECTOR);
        match start + len <= file.len() {
            true => Ok(Storage::Flat(file, start)),
            false => Err(at("VMDK flat extent").file(file.path()).corrupt(format!(
                "the file has {} bytes, but the descriptor says {}; is the file truncated?",
                file.len(),
                start + len
            ))),
        }
    }
}

impl Extents {
    /// Adds an extent of `len` bytes at the end of the disk.
    pub(super) fn push(&mut self, len: u64, storage: Storage) {
        if len > 0 {
            self.extents.push(Part { start: self.size, len, storage });
            self.size += len;
        }
    }

    fn index_of(&self, offset: u64) -> usize {
        self.extents.partition_point(|e| e.start <= offset) - 1
    }
}

impl Map for Extents {
    fn len(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, wanted: u64) -> Result<Run> {
        let index = self.index_of(offset);
        let part = &self.extents[index];
        let (within, left) = (offset - part.start, part.start + part.len - offset);
        let sparse = match &part.storage {
            Storage::Zero => return Ok(Run { len: left, place: Place::Zero }),
            Storage::Flat(_, start) => {
                let place = Place::Stored { file: index, offset: start + within };
                return Ok(Run { len: left, place });
            }
            Storage::Sparse(sparse) => sparse,
        };
        if within >= sparse.capacity {
            // The descriptor claims more sectors than the extent itself has.
            return Ok(Run { len: left, place: Place::Zero });
        }
        let (grain, count) = sparse.grains_at(within, wanted)?;
        let in_grain = within % sparse.grain;
        let len = (count * sparse.grain - in_grain).min(left).min(sparse.capacity - within);
        let place = match (grain, sparse.packed) {
            (Grain::Absent, _) => Place::Backing,
            (Grain::Zero, _) => Place::Zero,
            (Grain::At(start), None) => Place::Stored { file: index, offset: start + in_grain },
            (Grain::At(_), Some(_)) => Place::Packed(Packed {
                id: offset - in_grain,
                start: offset - in_grain,
                len: sparse.grain as usize,
            }),
        };
        Ok(Run { len, place })
    }

    fn file(&self, index: usize) -> &ImageFile {
        match &self.extents[index].storage {
            Storage::Flat(file, _) => file,
            Storage::Sparse(sparse) => &sparse.file,
            Storage::Zero => unreachable!("stores nothing"),
        }
    }

    fn unpack(&self, block: &Packed, buf: &mut [u8]) -> Result<()> {
        let part = &self.extents[self.index_of(block.start)];
        let Storage::Sparse(sparse) = &part.storage else { unreachable!("only sparse extents are packed") };
        let within = block.start - part.start;
        let (Grain::At(start), _) = sparse.grains_at(within, 0)? else {
            unreachable!("it was packed before")
        };
        let file = &sparse.file;
        let most = buf.len() * 2 + 4096;
        let (data, len) = match sparse.packed {
            Some(true) => {
                // "Grain marker": the grain's sector (8 bytes), the length of its data (4 bytes), the data.
                let place = || at("VMDK grain marker").file(file.path()).byte(start);
                let marker = file.read_up_to(start, 12)?;
                if marker.len() < 12 {
                    return Err(place().corrupt("the file ends within it; is the file truncated?"));
                }
                let len = le32(&marker, 8) as usize;
                if len == 0 || len > most {
                    let problem = format!("is {len}, expected 1 to {most}");
                    return Err(place().field("size").corrupt(problem));
                }
                if start + 12 + len as u64 > file.len() {
                    return Err(
                        place().corrupt("its data extends past the end of the file; is the file truncated?")
                    );
                }
                (start + 12, len)
            }
            _ => (start, most),
        };
        // The last grain of an extent may be partial.
        let least = (sparse.capacity - within).min(buf.len() as u64) as usize;
        self.unpacker.unpack(Codec::Zlib, file, data, len, buf, least)
    }
}
