//! `info --map`: what lies where on a disk, by its partitions and the space between them, in cells of equal size.
//!
//! A stored disk is mapped by its layout. The disk in a file is read, and divided as an import would divide it.

use std::iter::Peekable;
use std::ops::Range;
use std::slice;
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::mif::layout;
use mif_formats::partition::{Partition, Table};
use mif_formats::source::is_zero;
use serde::Serialize;

use crate::disk::blocks::{WINDOW, blocks, data_in};
use crate::disk::scan::{Scan, ScannedVolume};
use crate::error::Result;
use crate::image::{OpenImage, Origin};
use crate::ingest::content_ranges;
use crate::store::{FilesystemRecord, VolumeRecord, volume_name};
use crate::task::progress::{self, Progress};

/// A disk by its parts.
#[derive(Debug, Clone, Serialize)]
pub struct DiskMap {
    /// The file, or `name@version`.
    pub image: String,
    /// The disk's size in bytes.
    pub disk_size: u64,
    /// The size of a cell in bytes. The last cell of a part may be smaller.
    pub cell_bytes: u64,
    /// Partitions and the space around them, in disk order and without gaps.
    pub parts: Vec<MapPart>,
    /// Warnings about what is unusual or could not be read, as sentences.
    pub warnings: Vec<String>,
}

/// A partition, or space outside all partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MapPart {
    /// The volume; `None` outside all partitions.
    pub volume: Option<String>,
    /// The kind of the filesystem, or what else was recognised.
    pub kind: Option<String>,
    /// The filesystem's label, or the partition's name.
    pub label: Option<String>,
    /// Where it starts on the disk, in bytes.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What it holds, in sum.
    pub bytes: MapCell,
    /// What each cell of it holds.
    pub cells: Vec<MapCell>,
}

/// Bytes of a range of the disk, by what they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MapCell {
    /// Bytes of files.
    pub content: u64,
    /// Other bytes that are not zero: tables, metadata, what deleted files left.
    pub residue: u64,
    /// Zeros.
    pub zero: u64,
}

/// The smallest cell in bytes.
const MIN_CELL: u64 = 4096;

/// Maps a disk in about `cells` cells.
pub fn map(image: &OpenImage, cells: u64, progress: &dyn Progress) -> Result<DiskMap> {
    match &image.origin {
        Origin::Stored { stored, .. } => {
            let record = &stored.image;
            let mut map = DiskMap::new(image, record.disk_size, &record.table, &record.volumes, cells);
            for segment in stored.layout()?.segments() {
                match segment.origin {
                    layout::Origin::Zero => {}
                    layout::Origin::Content { .. } => map.add(segment.range, |cell| &mut cell.content),
                    layout::Origin::Residue { .. } => map.add(segment.range, |cell| &mut cell.residue),
                }
            }
            Ok(map)
        }
        Origin::File { container } => {
            progress.stage("scanning", 0);
            let scan = Scan::new(container.source.clone())?;
            let (content, complaints) = content_ranges(&scan)?;
            let volumes: Vec<_> = scan.volumes.iter().map(ScannedVolume::record).collect();
            let mut map = DiskMap::new(image, scan.disk.len(), &scan.table, &volumes, cells);
            map.warnings
                .extend(container.warnings.iter().cloned().chain(scan.warnings.clone()).chain(complaints));
            map.read(&scan.disk, &content, progress)?;
            Ok(map)
        }
    }
}

impl DiskMap {
    fn new(image: &OpenImage, disk_size: u64, table: &Table, volumes: &[VolumeRecord], cells: u64) -> Self {
        let cell_bytes = disk_size.div_ceil(cells.max(1)).max(MIN_CELL);
        let cell_bytes = cell_bytes.checked_next_power_of_two().unwrap_or(cell_bytes);
        let mut map = DiskMap {
            image: image.label.clone(),
            disk_size,
            cell_bytes,
            parts: Vec::new(),
            warnings: Vec::new(),
        };
        let mut partitions: Vec<&Partition> = table.partitions.iter().collect();
        partitions.sort_by_key(|partition| (partition.start, partition.slot));
        let mut at = 0;
        for partition in partitions {
            let end = partition.start.saturating_add(partition.len).min(disk_size);
            let (start, name) = (partition.start.max(at), volume_name(partition.slot));
            // An extended partition only holds others.
            if ["0x05", "0x0f", "0x85"].contains(&partition.type_id.as_str()) {
                continue;
            }
            if start >= end {
                map.warnings.push(format!(
                    "{name}: lies within other partitions or past the end, and is not on the map"
                ));
                continue;
            }
            if at < start {
                map.push(None, at..start);
            }
            let record = volumes.iter().find(|volume| volume.volume == name);
            map.push(Some((name, partition, record)), start..end);
            at = end;
        }
        if at < disk_size {
            map.push(None, at..disk_size);
        }
        map
    }

    fn push(&mut self, of: Option<(String, &Partition, Option<&VolumeRecord>)>, range: Range<u64>) {
        let len = range.end - range.start;
        let (mut volume, mut kind, mut label) = (None, None, None);
        if let Some((name, partition, record)) = of {
            volume = Some(name);
            label = partition.name.clone().filter(|name| !name.is_empty());
            match record.map(|record| &record.content) {
                Some(FilesystemRecord::Filesystem(fs)) => {
                    kind = Some(fs.kind.clone());
                    label = fs.label.clone().filter(|label| !label.is_empty()).or(label);
                }
                Some(FilesystemRecord::Other(name)) => kind = name.clone(),
                None => {}
            }
        }
        let count = len.div_ceil(self.cell_bytes);
        let cell =
            |i: u64| MapCell { zero: self.cell_bytes.min(len - i * self.cell_bytes), ..MapCell::default() };
        let bytes = MapCell { zero: len, ..MapCell::default() };
        let cells = (0..count).map(cell).collect();
        self.parts.push(MapPart { volume, kind, label, start: range.start, len, bytes, cells });
    }

    /// Counts bytes of the disk that had counted as zeros.
    fn add(&mut self, range: Range<u64>, of: impl Fn(&mut MapCell) -> &mut u64) {
        let mut part = self.parts.partition_point(|part| part.start <= range.start).saturating_sub(1);
        let mut at = range.start;
        while at < range.end {
            let Some(MapPart { start, len, bytes, cells, .. }) = self.parts.get_mut(part) else { return };
            let inside = at - *start;
            let cell = inside / self.cell_bytes;
            let end = range.end.min(*start + (*len).min((cell + 1) * self.cell_bytes));
            let moved = end - at;
            for counts in [&mut cells[cell as usize], bytes] {
                counts.zero -= moved;
                *of(counts) += moved;
            }
            at = end;
            if at >= *start + *len {
                part += 1;
            }
        }
    }

    /// Reads a disk, to tell zeros from other bytes.
    fn read(
        &mut self,
        disk: &Arc<dyn Source>,
        content: &[Range<u64>],
        progress: &dyn Progress,
    ) -> Result<()> {
        progress.stage("reading", disk.len());
        let mut content = content.iter().peekable();
        let mut at = 0;
        while at < disk.len() {
            progress::check(progress)?;
            // A hole is left out whole, however large.
            let extent = disk.extent_at(at)?;
            if extent.is_zero() {
                progress.advance(extent.range.end - at);
                at = extent.range.end;
                continue;
            }
            let window = at..disk.len().min((at / WINDOW + 1) * WINDOW);
            for range in data_in(&**disk, window.clone())? {
                let bytes = disk.read_vec(range.start, (range.end - range.start) as usize)?;
                for block in blocks(range.clone()) {
                    let part =
                        &bytes[(block.start - range.start) as usize..(block.end - range.start) as usize];
                    if !is_zero(part) {
                        self.add_block(block.start, part, &mut content);
                    }
                }
            }
            progress.advance(window.end - at);
            at = window.end;
        }
        Ok(())
    }

    /// Counts the bytes of a block: which parts of it are content, and which are not.
    fn add_block(&mut self, start: u64, bytes: &[u8], content: &mut Peekable<slice::Iter<'_, Range<u64>>>) {
        let block_end = start + bytes.len() as u64;
        let mut at = start;
        while at < block_end {
            while content.next_if(|range| range.end <= at).is_some() {}
            let next = content.peek().map_or(block_end..block_end, |range| (*range).clone());
            let is_content = next.start <= at;
            let end = if is_content { next.end } else { next.start }.min(block_end);
            if !is_zero(&bytes[(at - start) as usize..(end - start) as usize]) {
                self.add(at..end, |cell| if is_content { &mut cell.content } else { &mut cell.residue });
            }
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(cell_bytes: u64, parts: &[(u64, u64)]) -> DiskMap {
        let mut map = DiskMap {
            image: String::new(),
            disk_size: parts.iter().map(|(_, len)| len).sum(),
            cell_bytes,
            parts: Vec::new(),
            warnings: Vec::new(),
        };
        parts.iter().for_each(|(start, len)| map.push(None, *start..start + len));
        map
    }

    #[test]
    fn bytes_are_counted_in_the_cells_and_parts_that_they_lie_in() {
        let mut map = empty(100, &[(0, 250), (250, 100)]);
        map.add(50..300, |cell| &mut cell.content);
        map.add(0..10, |cell| &mut cell.residue);
        let content: Vec<Vec<u64>> =
            map.parts.iter().map(|part| part.cells.iter().map(|cell| cell.content).collect()).collect();
        assert_eq!(content, [vec![50, 100, 50], vec![50]]);
        assert_eq!(map.parts[0].bytes, MapCell { content: 200, residue: 10, zero: 40 });
        assert_eq!(map.parts[1].bytes, MapCell { content: 50, residue: 0, zero: 50 });
        assert_eq!(map.parts[0].cells[0], MapCell { content: 50, residue: 10, zero: 40 });
    }

    #[test]
    fn a_block_is_cut_where_content_begins_and_ends() {
        let mut map = empty(4096, &[(0, 8192)]);
        let content = [10..20, 30..5000];
        let mut content = content.iter().peekable();
        map.add_block(0, &[1; 4096], &mut content);
        // The rest of the second block is zero.
        let mut bytes = vec![1; 4096];
        bytes[5000 - 4096..].fill(0);
        map.add_block(4096, &bytes, &mut content);
        assert_eq!(map.parts[0].bytes, MapCell { content: 4980, residue: 20, zero: 3192 });
    }
}
