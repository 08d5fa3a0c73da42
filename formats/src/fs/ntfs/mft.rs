//! The MFT: the file whose content is the records of all files, and which its own first record describes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::attribute::Attribute;
use super::file::{self, File};
use super::mapped::Mapped;
use super::record::{Record, kind};
use super::volume::Volume;
use crate::bytes::le16;
use crate::cache::Cache;
use crate::error::{Error, ErrorKind, Result, at};

/// The size of the cache of records in bytes.
const CACHED: usize = 8 << 20;
/// Bytes of records that are read at once.
const CHUNK: u64 = 64 << 10;
/// The records that `$MFTMirr` has copies of.
const MIRRORED: u64 = 4;

/// The MFT of a volume.
pub(super) struct Mft {
    mapped: Mapped,
    /// Cached chunks, by their number.
    chunks: Cache<Vec<u8>>,
    /// Records whose copies are used instead.
    copies: BTreeMap<u64, Vec<u8>>,
    /// What was wrong, as sentences.
    pub(super) warnings: Vec<String>,
}

impl Mft {
    /// Reads where the records lie.
    pub(super) fn open(volume: &Volume) -> Result<Self> {
        let boot = &volume.boot;
        let mut warnings = Vec::new();
        let mut copies = BTreeMap::new();
        let (offset, copy) = (boot.mft_lcn * boot.cluster_size, boot.mftmirr_lcn * boot.cluster_size);
        let first = match raw(volume, offset).and_then(|bytes| own(bytes, offset)) {
            Ok(record) => record,
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => {
                let bytes = raw(volume, copy).ok();
                let Some(bytes) = bytes.filter(|bytes| own(bytes.clone(), copy).is_ok()) else {
                    return Err(error);
                };
                warnings.push(format!("the copy of MFT record 0 is used: {error}"));
                copies.insert(0, bytes.clone());
                own(bytes, copy)?
            }
        };
        let mut mft = Mft { mapped: map(&first, volume)?, chunks: Cache::new(CACHED), copies, warnings };
        mft.map_extensions(&first, volume)?;
        mft.check(volume, copy);
        Ok(mft)
    }

    /// Adds the parts of the MFT that other records of it describe. Each must lie in the parts before it.
    fn map_extensions(&mut self, first: &Record, volume: &Volume) -> Result<()> {
        let mut list = None;
        first.attributes(&mut |_| (), &mut |raw| {
            if raw.kind == kind::ATTRIBUTE_LIST {
                list = Some(Attribute::new(0, raw));
            }
        });
        let Some(list) = list else { return Ok(()) };
        let mut entries = file::entries(&list, volume)?;
        entries.retain(|entry| entry.kind == kind::DATA && entry.name.is_empty() && entry.lowest > 0);
        entries.sort_by_key(|entry| entry.lowest);
        for entry in entries {
            let record = self.record(volume, entry.record.number())?;
            let raw = file::find(&record, &entry)
                .filter(|_| record.is_used() && entry.record.fits(record.sequence))
                .filter(|_| record.base.number() == 0)
                .ok_or_else(|| record.place().corrupt("has no part of the MFT, as the MFT's list says"))?;
            Attribute::new(0, raw).map_more(&mut self.mapped, volume)?;
        }
        Ok(())
    }

    /// Replaces damaged records that have copies, and warns of what is missing.
    fn check(&mut self, volume: &Volume, copies: u64) {
        let size = volume.boot.record_size as u64;
        for number in 0..MIRRORED.min(self.len(volume)) {
            let Err(error) = self.record(volume, number) else { continue };
            let offset = copies + number * size;
            let copy = raw(volume, offset).ok();
            let copy = copy.filter(|bytes| {
                Record::parse(number, offset, bytes.clone()).is_ok_and(|record| record.is_used())
            });
            if let Some(bytes) = copy {
                self.warnings.push(format!("the copy of MFT record {number} is used: {error}"));
                self.copies.insert(number, bytes);
            }
        }
        if self.mapped.sizes.data > self.mapped.len() {
            self.warnings.push(format!(
                "the MFT has {} bytes, but clusters for {}",
                self.mapped.sizes.data,
                self.mapped.len()
            ));
        }
    }

    /// Returns the number of records.
    pub(super) fn len(&self, volume: &Volume) -> u64 {
        self.mapped.initialized().min(self.mapped.len()) / volume.boot.record_size as u64
    }

    /// Reads a record.
    pub(super) fn record(&self, volume: &Volume, number: u64) -> Result<Record> {
        let size = volume.boot.record_size;
        if number >= self.len(volume) {
            let problem = format!("lies past the end of the MFT, which has {}", self.len(volume));
            return Err(at(format!("MFT record {number}")).corrupt(problem));
        }
        let from = number * size as u64;
        let offset = self.mapped.place_of(from).unwrap_or(0);
        if let Some(copy) = self.copies.get(&number) {
            return Record::parse(number, offset, copy.clone());
        }
        let bytes = match self.chunk(volume, from / CHUNK) {
            Ok(chunk) => {
                let start = (from % CHUNK) as usize;
                chunk.get(start..start + size).map(<[u8]>::to_vec)
            }
            // The volume is truncated, or a part of the MFT unreadable, but this record may still be there.
            Err(_) => None,
        };
        let bytes = bytes.map_or_else(|| self.read(volume, from, size), Ok)?;
        Record::parse(number, offset, bytes)
    }

    /// Returns the sequence numbers of records in ascending order, and whether they are in use. Reads chunks only where they
    /// are used well, because the records of a directory may be anywhere.
    pub(super) fn sequences(&self, volume: &Volume, numbers: &[u64]) -> Vec<Option<(u16, bool)>> {
        /// So many records of a chunk make it worth reading.
        const MANY: usize = 4;
        let size = volume.boot.record_size as u64;
        let mut found = Vec::with_capacity(numbers.len());
        for same in numbers.chunk_by(|a, b| a * size / CHUNK == b * size / CHUNK) {
            let number = same[0] * size / CHUNK;
            let chunk = match self.chunks.peek(number) {
                None if same.len() >= MANY && same[0] < self.len(volume) => self.chunk(volume, number).ok(),
                chunk => chunk,
            };
            for number in same {
                let from = number * size;
                let start = (from % CHUNK) as usize;
                let mut head = [0; 24];
                let is_read = match (self.copies.get(number), &chunk) {
                    (Some(copy), _) => copy.get(..24).map(|bytes| head.copy_from_slice(bytes)).is_some(),
                    (None, Some(chunk)) => {
                        chunk.get(start..start + 24).map(|bytes| head.copy_from_slice(bytes)).is_some()
                    }
                    (None, None) => {
                        *number < self.len(volume)
                            && self.mapped.read(volume, &|| at("MFT"), from, &mut head).is_ok()
                    }
                };
                let is_record = is_read && head.starts_with(b"FILE");
                found.push(is_record.then(|| (le16(&head, 16), le16(&head, 22) & 1 != 0)));
            }
        }
        found
    }

    /// Reads a file.
    pub(super) fn file(&self, volume: &Volume, number: u64) -> Result<File> {
        File::gather(&self.record(volume, number)?, volume, &|number| self.record(volume, number))
    }

    /// Returns a chunk of records.
    fn chunk(&self, volume: &Volume, number: u64) -> Result<Arc<Vec<u8>>> {
        let from = number * CHUNK;
        let len = (self.mapped.len().min(self.mapped.initialized()) - from).min(CHUNK) as usize;
        self.chunks.get(number, CHUNK as usize, || self.read(volume, from, len))
    }

    fn read(&self, volume: &Volume, from: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.mapped.read(volume, &|| at("MFT"), from, &mut bytes)?;
        Ok(bytes)
    }
}

/// Reads the bytes of a record at a place on the volume.
fn raw(volume: &Volume, offset: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; volume.boot.record_size];
    volume.read("MFT", offset, &mut bytes)?;
    Ok(bytes)
}

/// Parses the MFT's own record.
fn own(bytes: Vec<u8>, offset: u64) -> Result<Record> {
    let record = Record::parse(0, offset, bytes)?;
    if !record.is_used() || data(&record).is_none() {
        return Err(record.place().corrupt("is not the MFT's"));
    }
    Ok(record)
}

/// Returns the first part of the content of the MFT.
fn data(first: &Record) -> Option<Attribute> {
    let mut data = None;
    first.attributes(&mut |_| (), &mut |raw| {
        let attribute = Attribute::new(0, raw);
        if attribute.is(kind::DATA) {
            data.get_or_insert(attribute);
        }
    });
    data
}

/// Returns where the first part of the MFT lies.
fn map(first: &Record, volume: &Volume) -> Result<Mapped> {
    let missing = || -> Error { first.place().corrupt("has no records in clusters") };
    data(first).ok_or_else(missing)?.mapped(volume)?.ok_or_else(missing)
}
