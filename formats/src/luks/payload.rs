//! The payload of a volume, decrypted as it is read.

use std::ops::Range;
use std::sync::Arc;

use super::cipher::{Cipher, Spec};
use crate::cache::Cache;
use crate::error::{Result, at};
use crate::source::{Extent, Source, check_range};

/// The unit of the cache of decrypted bytes, in bytes: the largest sector.
const BLOCK: u64 = 4096;

/// The size of that cache in bytes.
const CACHE: usize = 4 << 20;

/// Where the payload is, and how it is encrypted.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) offset: u64,
    /// Its length in bytes; `None` if it goes to the end of the volume.
    pub(super) len: Option<u64>,
    pub(super) spec: Spec,
    /// The size of a sector in bytes: 512 to 4096.
    pub(super) sector: usize,
    /// The number of the first sector for its vector.
    pub(super) first: u64,
}

impl Payload {
    /// Returns its place on a volume of `len` bytes.
    pub(super) fn on(&self, len: u64) -> Result<Range<u64>> {
        let place = || at("LUKS payload").byte(self.offset);
        let there = len.saturating_sub(self.offset);
        if there < self.sector as u64 {
            return Err(place().corrupt(format!(
                "begins at the end of the volume of {len} bytes or after it: the volume is truncated, or it is only a header \
                 whose payload is elsewhere"
            )));
        }
        let wanted = self.len.unwrap_or(there - there % self.sector as u64);
        if wanted > there {
            return Err(place().corrupt(format!(
                "has {wanted} bytes, but the volume ends after {there} of them; is it truncated?"
            )));
        }
        Ok(self.offset..self.offset + wanted)
    }
}

/// The payload of an opened LUKS volume as plaintext: what `cryptsetup open` shows.
///
/// Sectors that nobody wrote are noise, because ciphertext of zeros is. So no part of it is known to be zero.
pub struct Plaintext {
    volume: Arc<dyn Source>,
    range: Range<u64>,
    sector: usize,
    first: u64,
    cipher: Cipher,
    cache: Cache<Vec<u8>>,
}

impl Plaintext {
    pub(super) fn new(volume: Arc<dyn Source>, range: Range<u64>, payload: &Payload, cipher: Cipher) -> Self {
        let Payload { sector, first, .. } = *payload;
        Plaintext { volume, range, sector, first, cipher, cache: Cache::new(CACHE) }
    }

    /// Reads whole sectors.
    fn read_sectors(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.volume.read_at(self.range.start + offset, buf)?;
        self.cipher.decrypt(buf, self.sector, self.first.wrapping_add(offset / 512));
        Ok(())
    }
}

impl Source for Plaintext {
    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range("LUKS payload", self.len(), offset, buf.len() as u64)?;
        let (mut offset, mut buf) = (offset, buf);
        let sector = self.sector as u64;
        while !buf.is_empty() {
            let whole = (buf.len() as u64 / sector * sector) as usize;
            let done = match offset % sector == 0 && whole > 0 {
                true => {
                    self.read_sectors(offset, &mut buf[..whole])?;
                    whole
                }
                false => {
                    let start = offset / BLOCK * BLOCK;
                    let len = (self.len() - start).min(BLOCK) as usize;
                    let block = self.cache.get(start, len, || {
                        let mut block = vec![0; len];
                        self.read_sectors(start, &mut block)?;
                        Ok(block)
                    })?;
                    let within = (offset - start) as usize;
                    // Up to the next sector, from where whole ones may be read in place.
                    let end = (within / self.sector + 1) * self.sector;
                    let here = (end - within).min(buf.len());
                    buf[..here].copy_from_slice(&block[within..within + here]);
                    here
                }
            };
            (offset, buf) = (offset + done as u64, &mut buf[done..]);
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range("LUKS payload", self.len(), offset, 1)?;
        Ok(Extent::data(offset, self.len() - offset))
    }

    fn sector_size(&self) -> Option<u32> {
        self.volume.sector_size()
    }
}
