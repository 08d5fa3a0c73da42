//! Writes a qcow2 image from front to back.
//!
//! ```text
//! header │ L1 table │ clusters and L2 tables, in guest order │ refcount blocks │ refcount table
//! ```
//!
//! An L2 table follows the clusters that it describes. The L1 table and the header, which refer to later parts, are
//! written last, so that the clusters can be streamed.

use std::io::IoSlice;
use std::ops::Range;

use super::batch::{Batch, Piece, PieceKind, too_large};
use super::header::{MAGIC, MAX_L1_BYTES, extension, incompatible};
use crate::container::output::OutputFile;
use crate::error::Result;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// The subcluster bitmap of a cluster of zeros.
const ALL_ZERO: u64 = 0xffff_ffff << 32;
/// Reference counts are 16 bits wide in every version.
const REFCOUNT_ORDER: u32 = 4;
/// The limit of cluster offsets in the file.
const MAX_FILE: u64 = 1 << 56;

/// The parameters of the image.
pub(super) struct Layout {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// True for extended L2 entries.
    pub(super) extended: bool,
    /// True if compressed clusters use zstd.
    pub(super) zstd: bool,
    /// The disk's size in bytes.
    pub(super) size: u64,
    /// The name and the format of the backing file.
    pub(super) backing: Option<(String, &'static str)>,
}

impl Layout {
    /// Returns the cluster size in bytes.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns the number of clusters that an L2 table describes.
    fn table_len(&self) -> u64 {
        self.cluster() / if self.extended { 16 } else { 8 }
    }
}

pub(super) struct Writer<'a> {
    file: &'a OutputFile,
    layout: &'a Layout,
    l1: Vec<u64>,
    /// The L2 table being filled: its index, and its words.
    l2_index: u64,
    l2: Vec<u64>,
    /// The first free byte of the file, a multiple of the cluster size.
    end: u64,
    /// The rest of the cluster that is being filled with compressed clusters.
    packed: Range<u64>,
    /// The reference counts up to the last compressed cluster; all later ones are one.
    refcounts: Vec<u16>,
}

/// Slices to be written one after the other from `start`.
struct Pending<'b> {
    start: u64,
    end: u64,
    slices: Vec<IoSlice<'b>>,
}

impl<'b> Pending<'b> {
    /// Adds `bytes` at `offset`; flushes first if they do not continue the pending slices.
    fn add(&mut self, file: &OutputFile, offset: u64, bytes: &'b [u8]) -> Result<()> {
        if self.end != offset {
            self.flush(file)?;
            self.start = offset;
        }
        if !bytes.is_empty() {
            self.slices.push(IoSlice::new(bytes));
        }
        self.end = offset + bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self, file: &OutputFile) -> Result<()> {
        file.write_slices_at(self.start, &mut self.slices)?;
        self.slices.clear();
        Ok(())
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(file: &'a OutputFile, layout: &'a Layout) -> Result<Self> {
        let cluster = layout.cluster();
        let entries = layout.size.div_ceil(cluster * layout.table_len());
        if entries * 8 > MAX_L1_BYTES {
            return Err(too_large("the disk is too large for this cluster_size"));
        }
        let l1 = vec![0; entries.max(1) as usize];
        let end = cluster + (l1.len() as u64 * 8).next_multiple_of(cluster);
        let (l2, refcounts) = (Vec::new(), Vec::new());
        Ok(Writer { file, layout, l1, l2_index: 0, l2, end, packed: end..end, refcounts })
    }

    pub(super) fn write(&mut self, batch: &Batch) -> Result<()> {
        let mut pending = Pending { start: 0, end: 0, slices: Vec::new() };
        for piece in &batch.pieces {
            match &piece.kind {
                PieceKind::Stored(range) => {
                    self.add_stored(piece, &batch.bytes[range.clone()], &mut pending)?;
                }
                PieceKind::Packed(range) => {
                    self.add_packed(piece, &batch.bytes[range.clone()], &mut pending)?;
                }
                PieceKind::Zero if self.layout.extended => {
                    let bitmap = piece.bitmaps.first().copied().unwrap_or(ALL_ZERO);
                    self.set(piece.cluster, 0, bitmap)?;
                }
                PieceKind::Zero => self.set(piece.cluster, ZERO, 0)?,
            }
        }
        if self.end > MAX_FILE {
            return Err(too_large("the image is larger than the format allows"));
        }
        pending.flush(self.file)
    }

    fn add_stored<'b>(&mut self, piece: &Piece, bytes: &'b [u8], pending: &mut Pending<'b>) -> Result<()> {
        let cluster = self.layout.cluster();
        // Clusters are contiguous until a finished L2 table comes between them.
        let (mut start, mut start_offset) = (0, self.end);
        for i in 0..bytes.len().div_ceil(cluster as usize) {
            let (number, position) = (piece.cluster + i as u64, i * cluster as usize);
            self.open_table(number)?;
            if self.end != start_offset + (position - start) as u64 {
                pending.add(self.file, start_offset, &bytes[start..position])?;
                (start, start_offset) = (position, self.end);
            }
            self.set(number, self.end | COPIED, piece.bitmaps.get(i).copied().unwrap_or(0))?;
            self.end += cluster;
        }
        pending.add(self.file, start_offset, &bytes[start..])
    }

    fn add_packed<'b>(&mut self, piece: &Piece, bytes: &'b [u8], pending: &mut Pending<'b>) -> Result<()> {
        self.open_table(piece.cluster)?;
        let offset = self.allocate_packed(bytes.len() as u64);
        let sectors = (offset + bytes.len() as u64 - 1) / 512 - offset / 512;
        let offset_bits = 62 - (self.layout.cluster_bits - 8);
        if offset >> offset_bits.min(56) != 0 {
            return Err(too_large("the image is larger than the format allows"));
        }
        self.set(piece.cluster, COMPRESSED | sectors << offset_bits | offset, 0)?;
        pending.add(self.file, offset, bytes)
    }

    /// Allocates `len` bytes, less than a cluster, directly after the last compressed cluster if possible.
    fn allocate_packed(&mut self, len: u64) -> u64 {
        let cluster = self.layout.cluster();
        let goes_on = self.packed.end == self.end;
        if self.packed.end - self.packed.start < len {
            if !goes_on {
                self.packed = self.end..self.end;
            }
            while self.packed.end - self.packed.start < len {
                self.refcounts.resize((self.packed.end / cluster) as usize, 1);
                self.refcounts.push(0);
                self.packed.end += cluster;
            }
            self.end = self.packed.end;
        }
        let offset = self.packed.start;
        self.packed.start += len;
        for number in offset / cluster..=(offset + len - 1) / cluster {
            self.refcounts[number as usize] += 1;
        }
        offset
    }

    /// Makes the L2 table of cluster `number` the one being filled.
    fn open_table(&mut self, number: u64) -> Result<()> {
        let index = number / self.layout.table_len();
        if index != self.l2_index {
            self.finish_table()?;
            self.l2_index = index;
        }
        self.l2.resize((self.layout.cluster() / 8) as usize, 0);
        Ok(())
    }

    fn set(&mut self, number: u64, entry: u64, bitmap: u64) -> Result<()> {
        self.open_table(number)?;
        let index = (number % self.layout.table_len()) as usize;
        if self.layout.extended {
            self.l2[index * 2] = entry;
            self.l2[index * 2 + 1] = bitmap;
        } else {
            self.l2[index] = entry;
        }
        Ok(())
    }

    fn finish_table(&mut self) -> Result<()> {
        let bytes: Vec<u8> = self.l2.drain(..).flat_map(u64::to_be_bytes).collect();
        if !bytes.is_empty() {
            self.l1[self.l2_index as usize] = self.end | COPIED;
            self.file.write_at(self.end, &bytes)?;
            self.end += bytes.len() as u64;
        }
        Ok(())
    }

    /// Writes the last L2 table, the reference counts, the L1 table and the header.
    pub(super) fn finish(mut self) -> Result<()> {
        self.finish_table()?;
        let cluster = self.layout.cluster();
        let counts_in_block = cluster / 2;
        // The refcount blocks and the table count themselves too.
        let used = self.end / cluster;
        let (mut blocks, mut table) = (0, 0);
        loop {
            let needed = (used + blocks + table).div_ceil(counts_in_block);
            let needed_table = (needed * 8).div_ceil(cluster);
            if (needed, needed_table) == (blocks, table) {
                break;
            }
            (blocks, table) = (needed, needed_table);
        }
        let (blocks_at, table_at) = (self.end, self.end + blocks * cluster);
        let total = used + blocks + table;
        for block in 0..blocks {
            let counted = block * counts_in_block..((block + 1) * counts_in_block).min(total);
            let count = |number: u64| self.refcounts.get(number as usize).copied().unwrap_or(1);
            let mut bytes: Vec<u8> = counted.flat_map(|number| count(number).to_be_bytes()).collect();
            bytes.resize(cluster as usize, 0);
            self.file.write_at(blocks_at + block * cluster, &bytes)?;
        }
        let mut bytes: Vec<u8> = (0..blocks).flat_map(|b| (blocks_at + b * cluster).to_be_bytes()).collect();
        bytes.resize((table * cluster) as usize, 0);
        self.file.write_at(table_at, &bytes)?;
        let l1: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        self.file.write_at(cluster, &l1)?;
        self.file.set_len(total * cluster)?;
        self.file.write_at(0, &self.header(table_at, table)?)
    }

    fn header(&self, refcount_table: u64, refcount_table_clusters: u64) -> Result<Vec<u8>> {
        let layout = self.layout;
        let mut bytes = vec![0; if layout.version == 2 { 72 } else { 112 }];
        let mut features = 0;
        if layout.zstd {
            features |= incompatible::COMPRESSION;
            bytes[104] = 1;
        }
        if layout.extended {
            features |= incompatible::EXTENDED_L2;
        }
        let mut be32 = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        be32(0, u32::from_be_bytes(MAGIC));
        be32(4, layout.version);
        be32(20, layout.cluster_bits);
        be32(36, self.l1.len() as u32);
        be32(56, refcount_table_clusters as u32);
        if layout.version >= 3 {
            be32(96, REFCOUNT_ORDER);
            be32(100, 112);
        }
        let mut be64 = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
        be64(24, layout.size);
        be64(40, layout.cluster());
        be64(48, refcount_table);
        if layout.version >= 3 {
            be64(72, features);
        }
        let mut name = None;
        if let Some((file, format)) = &layout.backing {
            bytes.extend(extension::BACKING_FORMAT.to_be_bytes());
            bytes.extend((format.len() as u32).to_be_bytes());
            bytes.extend(format.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            name = Some(file);
        }
        // The end marker of the extensions.
        bytes.extend([0; 8]);
        if let Some(name) = name {
            let offset = bytes.len() as u64;
            bytes[8..16].copy_from_slice(&offset.to_be_bytes());
            bytes[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
            bytes.extend(name.as_bytes());
        }
        if bytes.len() as u64 > layout.cluster() {
            return Err(too_large("the name of the backing file does not fit into the first cluster"));
        }
        Ok(bytes)
    }
}
