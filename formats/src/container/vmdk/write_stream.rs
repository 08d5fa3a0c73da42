//! Writes a streamOptimized VMDK, as used by OVF packages and ESXi's importer, from front to back. (Only the descriptor
//! is rewritten at the end, with the disk's identity.)
//!
//! ```text
//! header │ descriptor │ for each table: packed grains, the table │ directory │ footer │ end of stream
//! ```
//!
//! Everything after the descriptor is preceded by a marker with its type. The header says that the directory is at the
//! end; the footer, a second header, gives its place.

use super::sparse::{GD_AT_END, HostedHeader, SECTOR};
use super::write_sparse::{DESCRIPTOR, GRAIN, MAX_SECTORS, TABLE, TABLE_SECTORS, head, too_large};
use crate::container::codec::{Codec, Packer};
use crate::container::output::OutputFile;
use crate::container::pull::{Pull, Window};
use crate::error::Result;
use crate::source::is_zero;

/// In sectors: one grain.
const OVERHEAD: u64 = 128;

/// Types of markers.
#[derive(Clone, Copy)]
enum Marker {
    EndOfStream = 0,
    GrainTable = 1,
    GrainDirectory = 2,
    Footer = 3,
}

/// The packed grains of a window: the number of each, and its offset in the bytes.
struct Batch {
    bytes: Vec<u8>,
    grains: Vec<(u64, usize)>,
}

/// Writes the whole disk as an extent of `sectors` sectors, packed at libdeflate's `level`.
pub(super) fn write_stream(
    pull: &Pull<'_>,
    file: &OutputFile,
    sectors: u64,
    descriptor: &str,
    level: i32,
) -> Result<()> {
    if sectors >= MAX_SECTORS {
        return Err(too_large(file));
    }
    let packer = Packer::new(Codec::Zlib, level)?;
    let mut header = HostedHeader {
        version: 3,
        // The newline test is valid; grains are compressed; there are markers.
        flags: 0x3_0001,
        capacity: sectors,
        grain_size: GRAIN,
        descriptor_offset: DESCRIPTOR.0,
        descriptor_size: DESCRIPTOR.1,
        num_gtes_per_gt: TABLE as u32,
        rgd_offset: 0,
        gd_offset: GD_AT_END,
        overhead: OVERHEAD,
        compressed: true,
        unclean_shutdown: false,
    };
    file.write_at(0, &head(file, &header, descriptor)?)?;
    let tables = sectors.div_ceil(GRAIN * TABLE);
    let mut stream = Stream {
        file,
        end: OVERHEAD,
        directory: vec![0; tables as usize],
        table_index: 0,
        table: Vec::new(),
    };
    // A window lies within one grain table: both begin at multiples of a MiB.
    pull.run(
        |window| Ok(pack(&packer, &window)),
        |batch| {
            stream.write(&batch)?;
            Ok(Some(batch.bytes))
        },
    )?;
    stream.finish_table()?;
    let directory: Vec<u8> = stream.directory.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    header.gd_offset = stream.write_marked(Marker::GrainDirectory, directory)?;
    let footer = head(file, &header, "")?[..SECTOR as usize].to_vec();
    stream.write_marked(Marker::Footer, footer)?;
    stream.write_marked(Marker::EndOfStream, Vec::new())?;
    Ok(())
}

fn pack(packer: &Packer, window: &Window) -> Batch {
    let grain = (GRAIN * SECTOR) as usize;
    let mut batch = Batch { bytes: Vec::new(), grains: Vec::new() };
    let first = window.start / grain as u64;
    for (i, bytes) in window.bytes.chunks(grain).enumerate() {
        if is_zero(bytes) {
            continue;
        }
        // The disk's last grain may be short; a packed one is always whole.
        let whole;
        let bytes = match bytes.len() == grain {
            true => bytes,
            false => {
                whole = [bytes, &vec![0; grain - bytes.len()]].concat();
                &whole
            }
        };
        let (number, start) = (first + i as u64, batch.bytes.len());
        batch.bytes.extend((number * GRAIN).to_le_bytes());
        batch.bytes.extend([0; 4]);
        // Deflate stores incompressible data, which takes a few bytes more than a grain.
        let len = packer.pack(bytes, &mut batch.bytes, grain + 1024).expect("room for stored blocks");
        batch.bytes[start + 8..start + 12].copy_from_slice(&(len as u32).to_le_bytes());
        let end = batch.bytes.len().next_multiple_of(SECTOR as usize);
        batch.bytes.resize(end, 0);
        batch.grains.push((number, start));
    }
    batch
}

struct Stream<'a> {
    file: &'a OutputFile,
    /// The first free sector.
    end: u64,
    /// Offsets of the grain tables, in sectors; 0 for none.
    directory: Vec<u32>,
    /// The grain table being filled: its index, and its entries.
    table_index: u64,
    table: Vec<u32>,
}

impl Stream<'_> {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        let Some((first, _)) = batch.grains.first() else { return Ok(()) };
        if first / TABLE != self.table_index {
            self.finish_table()?;
            self.table_index = first / TABLE;
        }
        self.table.resize(TABLE as usize, 0);
        for (number, start) in &batch.grains {
            self.table[(number % TABLE) as usize] = (self.end + *start as u64 / SECTOR) as u32;
        }
        self.append(&batch.bytes)
    }

    fn finish_table(&mut self) -> Result<()> {
        if !self.table.is_empty() {
            let bytes: Vec<u8> = self.table.drain(..).flat_map(u32::to_le_bytes).collect();
            debug_assert!(bytes.len() as u64 == TABLE_SECTORS * SECTOR);
            self.directory[self.table_index as usize] = self.write_marked(Marker::GrainTable, bytes)? as u32;
        }
        Ok(())
    }

    /// Writes a marker and then `bytes`; returns the sector where these begin.
    fn write_marked(&mut self, marker: Marker, mut bytes: Vec<u8>) -> Result<u64> {
        bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
        let mut sector = vec![0; SECTOR as usize];
        sector[..8].copy_from_slice(&(bytes.len() as u64 / SECTOR).to_le_bytes());
        sector[12] = marker as u8;
        let start = self.end + 1;
        sector.extend(bytes);
        self.append(&sector)?;
        Ok(start)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_at(self.end * SECTOR, bytes)?;
        self.end += bytes.len() as u64 / SECTOR;
        match self.end < MAX_SECTORS {
            true => Ok(()),
            false => Err(too_large(self.file)),
        }
    }
}
