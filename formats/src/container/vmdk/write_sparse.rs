//! Writes a hosted sparse extent.
//!
//! ```text
//! header │ descriptor │ directory and tables, twice │ grains, in guest order
//! ```

use super::sparse::{HOSTED_MAGIC, HostedHeader, SECTOR};
use crate::container::output::OutputFile;
use crate::container::pull::{Pull, Window, data_runs};
use crate::error::{Result, at};

/// In sectors: 64 KiB.
pub(super) const GRAIN: u64 = 128;
/// Entries in a grain table.
pub(super) const TABLE: u64 = 512;
/// In sectors.
pub(super) const TABLE_SECTORS: u64 = TABLE * 4 / SECTOR;
/// Offset and size of the embedded descriptor, in sectors.
pub(super) const DESCRIPTOR: (u64, u64) = (1, 20);
/// Sectors are counted in 32 bits.
pub(super) const MAX_SECTORS: u64 = 1 << 32;

/// Writes the whole disk as an extent of `sectors` sectors.
pub(super) fn write_sparse(pull: &Pull<'_>, file: &OutputFile, sectors: u64, descriptor: &str) -> Result<()> {
    let mut writer = SparseWriter::new(file, sectors, descriptor)?;
    let find_runs = |window: Window| {
        let runs = data_runs(&window.bytes, (GRAIN * SECTOR) as usize);
        Ok((window, runs))
    };
    pull.run(find_runs, |(window, runs)| {
        writer.write(&window, &runs)?;
        Ok(Some(window.bytes))
    })?;
    writer.finish()
}

pub(super) fn too_large(file: &OutputFile) -> crate::error::Error {
    at("writing").file(file.path()).limit("a sparse VMDK extent holds less than 2 TiB")
}

/// Returns the header, followed by the descriptor.
pub(super) fn head(file: &OutputFile, header: &HostedHeader, descriptor: &str) -> Result<Vec<u8>> {
    if descriptor.len() as u64 > DESCRIPTOR.1 * SECTOR {
        return Err(at("writing").file(file.path()).limit("the descriptor does not fit"));
    }
    let mut bytes = vec![0; ((DESCRIPTOR.0 + DESCRIPTOR.1) * SECTOR) as usize];
    bytes[..4].copy_from_slice(&HOSTED_MAGIC);
    for (at, value) in [(4, header.version), (8, header.flags), (44, header.num_gtes_per_gt)] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    for (at, value) in [
        (12, header.capacity),
        (20, header.grain_size),
        (28, header.descriptor_offset),
        (36, header.descriptor_size),
        (48, header.rgd_offset),
        (56, header.gd_offset),
        (64, header.overhead),
    ] {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    // Shows whether the file was transferred as text.
    bytes[73..77].copy_from_slice(b"\n \r\n");
    bytes[77] = header.compressed.into();
    bytes[512..512 + descriptor.len()].copy_from_slice(descriptor.as_bytes());
    Ok(bytes)
}

struct SparseWriter<'a> {
    file: &'a OutputFile,
    /// Offsets of the first grain tables (the redundant ones, then the others), in sectors.
    tables_at: [u64; 2],
    /// The grain table being filled: its index, and its entries.
    table_index: u64,
    table: Vec<u32>,
    /// The first free sector.
    end: u64,
}

impl<'a> SparseWriter<'a> {
    /// Writes the header, the descriptor and the directories.
    fn new(file: &'a OutputFile, sectors: u64, descriptor: &str) -> Result<Self> {
        let tables = sectors.div_ceil(GRAIN * TABLE);
        let directory_sectors = (tables * 4).div_ceil(SECTOR);
        let rgd = DESCRIPTOR.0 + DESCRIPTOR.1;
        let gd = rgd + directory_sectors + tables * TABLE_SECTORS;
        let overhead = (gd + directory_sectors + tables * TABLE_SECTORS).next_multiple_of(GRAIN);
        if sectors.saturating_add(overhead) >= MAX_SECTORS {
            return Err(too_large(file));
        }
        let header = HostedHeader {
            version: 1,
            // The newline test is valid, and there is a redundant directory.
            flags: 3,
            capacity: sectors,
            grain_size: GRAIN,
            descriptor_offset: if descriptor.is_empty() { 0 } else { DESCRIPTOR.0 },
            descriptor_size: if descriptor.is_empty() { 0 } else { DESCRIPTOR.1 },
            num_gtes_per_gt: TABLE as u32,
            rgd_offset: rgd,
            gd_offset: gd,
            overhead,
            compressed: false,
            unclean_shutdown: false,
        };
        file.write_at(0, &head(file, &header, descriptor)?)?;
        let tables_at = [rgd, gd].map(|directory| directory + directory_sectors);
        for (directory, first) in [rgd, gd].into_iter().zip(tables_at) {
            let entries: Vec<u8> =
                (0..tables).flat_map(|i| ((first + i * TABLE_SECTORS) as u32).to_le_bytes()).collect();
            file.write_at(directory * SECTOR, &entries)?;
        }
        file.set_len(overhead * SECTOR)?;
        Ok(SparseWriter { file, tables_at, table_index: 0, table: Vec::new(), end: overhead })
    }

    /// Writes runs of whole grains (the disk's last may be short), one after the other.
    fn write(&mut self, window: &Window, runs: &[std::ops::Range<usize>]) -> Result<()> {
        let start = self.end;
        let mut slices = Vec::new();
        for run in runs {
            slices.push(std::io::IoSlice::new(&window.bytes[run.clone()]));
            let first = (window.start + run.start as u64) / (GRAIN * SECTOR);
            for number in first..first + (run.len() as u64).div_ceil(GRAIN * SECTOR) {
                if number / TABLE != self.table_index {
                    self.finish_table()?;
                    self.table_index = number / TABLE;
                }
                self.table.resize(TABLE as usize, 0);
                self.table[(number % TABLE) as usize] = self.end as u32;
                self.end += GRAIN;
            }
        }
        if self.end >= MAX_SECTORS {
            return Err(too_large(self.file));
        }
        self.file.write_slices_at(start * SECTOR, &mut slices)
    }

    fn finish_table(&mut self) -> Result<()> {
        let bytes: Vec<u8> = self.table.drain(..).flat_map(u32::to_le_bytes).collect();
        for first in self.tables_at {
            self.file.write_at(first * SECTOR + self.table_index * TABLE * 4, &bytes)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.finish_table()?;
        // The last grain is whole, even if the disk ends within it.
        self.file.set_len(self.end * SECTOR)
    }
}
