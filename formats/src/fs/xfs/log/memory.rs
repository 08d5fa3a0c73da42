//! The sectors changed by a replay in progress.

use std::collections::BTreeMap;

use crate::error::{Result, at};
use crate::fs::xfs::blocks::{SECTOR, Sector, patch};
use crate::source::{Source, check_range};

/// The most sectors that a replay may change. Each takes about 560 bytes of memory.
const SECTORS_MAX: usize = 512 << 10;

/// The volume with the changes replayed so far.
pub(super) struct Memory<'a> {
    volume: &'a dyn Source,
    pub(super) sectors: BTreeMap<u64, Box<Sector>>,
}

impl<'a> Memory<'a> {
    /// Returns the volume without changes.
    pub(super) fn new(volume: &'a dyn Source) -> Self {
        Memory { volume, sectors: BTreeMap::new() }
    }

    /// Returns true if the volume contains these bytes.
    pub(super) fn has(&self, offset: u64, len: u64) -> bool {
        check_range("volume", self.volume.len(), offset, len).is_ok()
    }

    /// Reads bytes, which must be within the volume.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = self.volume.read_vec(offset, len)?;
        patch(&self.sectors, offset, &mut bytes);
        Ok(bytes)
    }

    /// Changes bytes, which must be within the volume.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at_byte = offset + done as u64;
            let (number, start) = (at_byte / SECTOR, (at_byte % SECTOR) as usize);
            let len = (SECTOR as usize - start).min(bytes.len() - done);
            let source = &bytes[done..done + len];
            if let Some(sector) = self.sectors.get_mut(&number) {
                sector[start..start + len].copy_from_slice(source);
            } else {
                if self.sectors.len() == SECTORS_MAX {
                    return Err(at("log").limit(format!("changes more than {SECTORS_MAX} sectors")));
                }
                let mut sector: Box<Sector> = Box::new([0; SECTOR as usize]);
                if len < SECTOR as usize {
                    self.volume.read_at(number * SECTOR, &mut sector[..])?;
                }
                sector[start..start + len].copy_from_slice(source);
                self.sectors.insert(number, sector);
            }
            done += len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemSource;

    #[test]
    fn bytes_that_were_written_are_read_again() {
        let volume = MemSource(vec![1; 2048]);
        let mut memory = Memory::new(&volume);
        memory.write(500, &[2; 600]).unwrap();
        memory.write(510, &[3; 4]).unwrap();
        let bytes = memory.read(490, 700).unwrap();
        let expected = [vec![1; 10], vec![2; 10], vec![3; 4], vec![2; 586], vec![1; 90]].concat();
        assert_eq!(bytes, expected);
        assert_eq!(memory.sectors.len(), 3);
        assert!(memory.has(2047, 1) && !memory.has(2047, 2) && !memory.has(u64::MAX, 1));
    }
}
