//! Maps a VHDX's blocks ([MS-VHDX], section 2.5).

use super::header::{MIB, Metadata, Region};
use crate::bytes::le64;
use crate::cache::Cache;
use crate::container::ImageFile;
use crate::container::mapped::{Map, Place, Run, entries_to_look_at};
use crate::error::{Result, at};
use crate::source::Source;

/// The size of the cache of sector bitmaps in bytes.
const BITMAP_CACHE: usize = 64 << 20;
/// The most entries of a block allocation table: 64 TiB in blocks of 4 MiB, which takes 128 MiB.
const MAX_ENTRIES: u64 = (16 << 20) + 4096;

/// States of a payload block (section 2.5.1.1).
mod state {
    pub(super) const NOT_PRESENT: u64 = 0;
    pub(super) const UNDEFINED: u64 = 1;
    pub(super) const ZERO: u64 = 2;
    pub(super) const UNMAPPED: u64 = 3;
    /// The value in drafts of the format.
    pub(super) const UNMAPPED_DRAFT: u64 = 5;
    pub(super) const FULLY_PRESENT: u64 = 6;
    pub(super) const PARTIALLY_PRESENT: u64 = 7;
}

pub(super) struct Blocks {
    file: ImageFile,
    /// In bytes.
    size: u64,
    /// In bytes.
    block: u64,
    /// In bytes.
    sector: u64,
    chunk_ratio: u64,
    has_parent: bool,
    /// Entries of the payload blocks, with the entry of the sector bitmap block after each chunk.
    bat: Vec<u64>,
    bitmaps: Cache<Vec<u8>>,
}

impl Blocks {
    pub(super) fn new(file: ImageFile, metadata: &Metadata, bat: Region) -> Result<Self> {
        let (size, block) = (metadata.virtual_disk_size, u64::from(metadata.block_size));
        let (blocks, chunk_ratio) = (size.div_ceil(block), metadata.chunk_ratio());
        let entries = match metadata.has_parent {
            true => blocks.div_ceil(chunk_ratio) * (chunk_ratio + 1),
            // The last chunk's bitmap may be missing.
            false => blocks + blocks.saturating_sub(1) / chunk_ratio,
        };
        let place = || at("VHDX block allocation table").byte(bat.offset);
        if entries > MAX_ENTRIES {
            return Err(place().limit(format!("has {entries} entries, more than {MAX_ENTRIES}")));
        }
        if entries * 8 > u64::from(bat.len) {
            return Err(place().corrupt(format!(
                "has {} bytes, but the disk needs {}",
                bat.len,
                entries * 8
            )));
        }
        if bat.offset.checked_add(entries * 8).is_none_or(|end| end > file.len()) {
            let problem =
                format!("extends past the end of the file at {}; is the file truncated?", file.len());
            return Err(place().corrupt(problem));
        }
        let bytes = file.read_vec(bat.offset, (entries * 8) as usize)?;
        Ok(Blocks {
            file,
            size,
            block,
            sector: metadata.logical_sector_size.into(),
            chunk_ratio,
            has_parent: metadata.has_parent,
            bat: bytes.chunks_exact(8).map(|entry| le64(entry, 0)).collect(),
            bitmaps: Cache::new(BITMAP_CACHE),
        })
    }

    fn entry(&self, block: u64) -> u64 {
        self.bat[(block + block / self.chunk_ratio) as usize]
    }

    /// Returns how many bytes from `offset` on, within its block, are in the same state, and whether they are present.
    fn sectors_at(&self, offset: u64) -> Result<(u64, bool)> {
        let chunk = offset / self.block / self.chunk_ratio;
        let entry = self.bat[(chunk * (self.chunk_ratio + 1) + self.chunk_ratio) as usize];
        let start = entry >> 20 << 20;
        let bitmap = self.bitmaps.get(start, MIB as usize, || {
            let place = at("VHDX sector bitmap").file(self.file.path()).byte(start);
            if entry & 7 != 6 || start.saturating_add(MIB) > self.file.len() {
                return Err(place.corrupt("is missing, although a block is partially present"));
            }
            self.file.read_vec(start, MIB as usize)
        })?;
        let here = |sector: u64| bitmap[(sector / 8) as usize] >> (sector % 8) & 1 == 1;
        // A bitmap covers 2^23 sectors: its chunk.
        let first = offset / self.sector % (1 << 23);
        let end = (offset / self.block + 1) * self.block / self.sector - offset / self.sector + first;
        let same = (first..end).take_while(|s| here(*s) == here(first)).count() as u64;
        Ok((same * self.sector - offset % self.sector, here(first)))
    }
}

impl Map for Blocks {
    fn len(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, wanted: u64) -> Result<Run> {
        let (number, within) = (offset / self.block, offset % self.block);
        let entry = self.entry(number);
        let (state, start) = (entry & 7, entry >> 20 << 20);
        let place = Place::Stored { file: 0, offset: start.saturating_add(within) };
        let place = match state {
            state::NOT_PRESENT => Place::Backing,
            state::UNDEFINED | state::ZERO | state::UNMAPPED | state::UNMAPPED_DRAFT => Place::Zero,
            state::FULLY_PRESENT => place,
            state::PARTIALLY_PRESENT if self.has_parent => place,
            _ => {
                return Err(at("VHDX block allocation table")
                    .file(self.file.path())
                    .corrupt(format!("block {number} has the invalid state {state}")));
            }
        };
        if !matches!(place, Place::Stored { .. }) {
            let blocks = self.size.div_ceil(self.block);
            let alike = |n: &u64| self.entry(*n) & 7 == state;
            let count =
                (number..blocks).take(entries_to_look_at(wanted, self.block)).take_while(alike).count()
                    as u64;
            return Ok(Run { len: count * self.block - within, place });
        }
        let needed = self.block.min(self.size - (offset - within));
        if start.saturating_add(needed) > self.file.len() {
            return Err(at("VHDX block").file(self.file.path()).byte(start).corrupt(format!(
                "extends past the end of the file at {}; is the file truncated?",
                self.file.len()
            )));
        }
        if state == state::FULLY_PRESENT {
            return Ok(Run { len: self.block - within, place });
        }
        let (len, here) = self.sectors_at(offset)?;
        Ok(Run { len, place: if here { place } else { Place::Backing } })
    }

    fn file(&self, _: usize) -> &ImageFile {
        &self.file
    }

    fn sector_size(&self) -> Option<u32> {
        // 512 or 4096: it was read from 32 bits.
        Some(self.sector as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_table_of_more_entries_than_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let kind = |virtual_disk_size| {
            let metadata = Metadata {
                block_size: 1 << 20,
                virtual_disk_size,
                logical_sector_size: 512,
                ..Metadata::default()
            };
            let file = ImageFile::open(&dir.path().join("file")).unwrap();
            Blocks::new(file, &metadata, Region { offset: 0, len: u32::MAX }).err().map(|e| e.kind())
        };
        // An entry for each MiB, and one more for each 4 GiB.
        let most = (MAX_ENTRIES - MAX_ENTRIES / 4097) << 20;
        assert_eq!(kind(most), Some(ErrorKind::Corrupt), "past the end of the file");
        assert_eq!(kind(most + 1), Some(ErrorKind::Limit));
    }
}
