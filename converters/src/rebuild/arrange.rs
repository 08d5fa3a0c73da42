//! Places partitions when some of them are resized: each grows into the free space behind it, and partitions in the way
//! move up. Nothing moves down, and partitions that boot code finds by their sectors do not move.

use mif_formats::partition::types::BIOS_BOOT;
use mif_formats::partition::{Partition, Table, TableKind};

use super::reshape::Size;
use crate::compose::splice::Keep;
use crate::disk::volume::{DiskOffset, VolumeExtent};
use crate::error::{Error, Result};
use crate::store::volume_name;

/// Partitions move by multiples of this many bytes, which preserves their alignment.
const STEP: u64 = 1 << 20;

/// The type of a partition with GRUB's core image on PowerPC.
const PREP: [&str; 2] = ["9e1a2d38-c612-4316-aa26-8b49521e5a8b", "0x41"];

/// The new shape of a disk.
#[derive(Debug, Clone)]
pub(super) struct Arrangement {
    /// The disk's size in bytes.
    pub(super) size: u64,
    /// The table with the new places.
    pub(super) table: Table,
    /// Bytes that are kept of the parent, with their new places.
    pub(super) keeps: Vec<Keep>,
    /// What the user should know, each a sentence.
    pub(super) notes: Vec<String>,
}

impl Arrangement {
    /// Returns the unchanged disk.
    pub(super) fn same(table: &Table, size: u64) -> Self {
        let keeps = vec![Keep { to: 0..size, from: 0 }];
        Arrangement { size, table: table.clone(), keeps, notes: Vec::new() }
    }

    /// Returns the partition of a volume.
    pub(super) fn partition(&self, volume: &str) -> Option<&Partition> {
        self.table.partitions.iter().find(|p| volume_name(p.slot) == volume)
    }

    /// Returns the new places of a volume's extents.
    pub(super) fn moved(&self, extents: &[VolumeExtent]) -> Vec<VolumeExtent> {
        let shift = |extent: &VolumeExtent| {
            let DiskOffset(old) = extent.disk;
            let keep = self.keeps.iter().rfind(|keep| keep.from <= old);
            let new = keep.map_or(old, |keep| keep.to.start + (old - keep.from));
            VolumeExtent { disk: DiskOffset(new), ..*extent }
        };
        extents.iter().map(shift).collect()
    }
}

/// Resizes partitions of a disk of `old_size` bytes. `sizes` contains slots and their new sizes in bytes, `most` is the
/// slot that gets all remaining space. `tail` bytes at the end of the disk belong to the table.
pub(super) fn arrange(
    table: &Table,
    old_size: u64,
    size: Option<Size>,
    sizes: &[(u32, u64)],
    most: Option<u32>,
    tail: u64,
) -> Result<Arrangement> {
    let wanted = match size {
        None | Some(Size::Min) => None,
        Some(Size::To(size)) => Some(size),
        Some(Size::Grow(more)) => Some(old_size.checked_add(more).ok_or_else(too_large)?),
        Some(Size::Shrink(less)) => {
            Some(old_size.checked_sub(less).filter(|size| *size > 0).ok_or_else(|| {
                Error::input(format!("cannot shrink the disk by {less} bytes: it has only {old_size}"))
            })?)
        }
        Some(Size::Max) => return Err(Error::usage("--size max: a disk has no largest size")),
    };
    let sector = u64::from(table.sector_size);
    let wanted = wanted.map(|size| size.next_multiple_of(sector.max(512)));
    let mut parts: Vec<&Partition> = table.partitions.iter().collect();
    parts.sort_by_key(|p| (p.start, p.slot));
    if parts.windows(2).any(|pair| pair[0].start + pair[0].len > pair[1].start) {
        return Err(Error::unsupported("cannot resize partitions that overlap"));
    }
    let first_logical = parts.iter().position(|p| table.kind == TableKind::Mbr && p.slot > 4);
    if let Some(first) = first_logical
        && let Some(behind) = parts[first..].iter().find(|p| p.slot <= 4)
    {
        return Err(Error::unsupported(format!(
            "partition {} comes after logical partitions, and mif cannot change such a table",
            behind.slot
        )));
    }
    let len_of =
        |p: &Partition| sizes.iter().find(|(slot, _)| *slot == p.slot).map_or(p.len, |(_, len)| *len);
    let mut lens: Vec<u64> = parts.iter().map(|p| len_of(p)).collect();
    let mut starts = place(&parts, &lens)?;
    let end = |starts: &[u64], lens: &[u64]| match (starts.last(), lens.last()) {
        (Some(start), Some(len)) => start + len,
        _ => 0,
    };
    if let Some(most) = most {
        let disk = wanted.unwrap_or(old_size);
        let i = parts.iter().position(|p| p.slot == most).ok_or_else(|| Error::input("no such partition"))?;
        let room = disk.saturating_sub(tail);
        if i + 1 == parts.len() {
            let aligned = room / STEP * STEP;
            let end =
                if tail == 0 { room / sector * sector } else { aligned.max(room.min(end(&starts, &lens))) };
            lens[i] = end.saturating_sub(starts[i]);
        } else {
            // Free space behind the partition is used first, which may leave more for it.
            loop {
                let more = room.saturating_sub(end(&starts, &lens)) / STEP * STEP;
                if more == 0 {
                    break;
                }
                lens[i] += more;
                starts = place(&parts, &lens)?;
            }
        }
        if lens[i] == 0 {
            return Err(Error::input(format!("{}: no room left for this partition", volume_name(most))));
        }
    }
    let needed = end(&starts, &lens).checked_add(tail).ok_or_else(too_large)?;
    let least = needed.next_multiple_of(sector.max(512));
    let size = match (size, wanted) {
        (Some(Size::Min), _) => least,
        (_, Some(wanted)) if wanted < least => {
            return Err(Error::input(format!(
                "no room: the disk would have {wanted} bytes, but its partitions need {least}"
            ))
            .advise("Shrink a volume with --resize VOLUME=SIZE or --resize VOLUME=min"));
        }
        (_, Some(wanted)) => wanted,
        _ if least > old_size => least.next_multiple_of(STEP),
        _ => old_size,
    };
    let mut notes = Vec::new();
    let mut new_table = table.clone();
    for ((part, start), len) in parts.iter().zip(&starts).zip(&lens) {
        if *start != part.start {
            let type_id = part.type_id.as_str();
            if type_id == BIOS_BOOT || PREP.contains(&type_id) {
                return Err(Error::unsupported(format!(
                    "partition {} would have to move, but boot code finds it by its sector",
                    part.slot
                ))
                .advise("Grow a volume after it, or grow this one only into the free space after it"));
            }
            notes.push(format!("partition {} moves from byte {} to {start}", part.slot, part.start));
        }
        let new = new_table.partitions.iter_mut().find(|p| p.slot == part.slot).expect("of the same table");
        (new.start, new.len) = (*start, *len);
    }
    if table.kind == TableKind::None {
        new_table.partitions.iter_mut().for_each(|p| p.len = size);
    }
    let keeps = keeps(&parts, &starts, &lens, old_size, size, tail);
    Ok(Arrangement { size, table: new_table, keeps, notes })
}

fn too_large() -> Error {
    Error::input("the disk would be too large")
}

/// Returns the starts of partitions with these lengths: unchanged, or moved up as far as the preceding partition needs.
fn place(parts: &[&Partition], lens: &[u64]) -> Result<Vec<u64>> {
    let mut starts = Vec::new();
    let mut shift = 0;
    for (i, part) in parts.iter().enumerate() {
        if let Some(start) = starts.last() {
            // A logical partition keeps the space before it, which contains its record.
            let before = parts[i - 1].start + parts[i - 1].len;
            let gap = if part.slot > 4 { part.start - before } else { 0 };
            let free = start + lens[i - 1] + if parts[i - 1].len == lens[i - 1] { 0 } else { gap };
            let here = part.start + shift;
            if here < free {
                shift += (free - here).next_multiple_of(STEP);
            }
        }
        starts.push(part.start.checked_add(shift).ok_or_else(too_large)?);
    }
    Ok(starts)
}

/// Returns the ranges of the parent that are kept: everything before the first partition, the remaining part of each
/// partition with the unallocated space before it, and everything after the last partition.
fn keeps(
    parts: &[&Partition],
    starts: &[u64],
    lens: &[u64],
    old_size: u64,
    size: u64,
    tail: u64,
) -> Vec<Keep> {
    let mut keeps: Vec<Keep> = Vec::new();
    let mut add = |to: std::ops::Range<u64>, from: u64| {
        let Some(len) = to.end.checked_sub(to.start).filter(|len| *len > 0) else { return };
        match keeps.last_mut() {
            Some(last) if last.to.end == to.start && last.from + (last.to.end - last.to.start) == from => {
                last.to.end += len;
            }
            _ => keeps.push(Keep { to, from }),
        }
    };
    let mut old_end = 0;
    let mut new_end = 0;
    for ((part, start), len) in parts.iter().zip(starts).zip(lens) {
        // The end of the free space before it, as far as there is space.
        let gap = (part.start - old_end).min(start - new_end);
        add(start - gap..*start, part.start - gap);
        let kept = part.len.min(*len);
        add(*start..start + kept, part.start);
        (old_end, new_end) = (part.start + part.len, start + len);
    }
    let moved = parts.iter().zip(starts).zip(lens).any(|((p, s), l)| p.start != *s || p.len != *l);
    // Everything behind the last partition stays in place, except the table's backup.
    let from = old_end.max(new_end);
    let to = if old_size == size && !moved { old_size } else { (old_size.saturating_sub(tail)).min(size) };
    add(from..to.max(from), from);
    keeps
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Returns a disk of 100 MiB with these partitions: slot, start and length in MiB.
    fn table(kind: TableKind, parts: &[(u32, u64, u64)]) -> Table {
        let part = |(slot, start, len): &(u32, u64, u64)| Partition {
            slot: *slot,
            start: start * MIB,
            len: len * MIB,
            type_id: if *slot == 14 { BIOS_BOOT.into() } else { String::new() },
            id: None,
            name: None,
            attributes: 0,
        };
        Table {
            kind,
            sector_size: 512,
            id: None,
            partitions: parts.iter().map(part).collect(),
            warnings: Vec::new(),
        }
    }

    fn places(arrangement: &Arrangement) -> Vec<(u32, u64, u64)> {
        let parts = arrangement.table.partitions.iter();
        parts.map(|p| (p.slot, p.start / MIB, p.len / MIB)).collect()
    }

    #[test]
    fn a_volume_grows_into_free_room_first_and_then_what_is_behind_it_moves() {
        let table = table(TableKind::Gpt, &[(14, 1, 1), (1, 10, 20), (2, 40, 20)]);
        let arranged = |sizes: &[(u32, u64)], size| {
            arrange(&table, 100 * MIB, size, sizes, None, 16_896).map_err(|e| e.to_string())
        };
        let within = arranged(&[(1, 30 * MIB)], None).unwrap();
        assert_eq!(places(&within), [(14, 1, 1), (1, 10, 30), (2, 40, 20)]);
        assert_eq!(within.size, 100 * MIB);
        let over = arranged(&[(1, 35 * MIB + 512)], None).unwrap();
        assert_eq!(places(&over), [(14, 1, 1), (1, 10, 35), (2, 46, 20)]);
        // It moves with the unallocated space before it, as far as there is room.
        let moved = Keep { to: 45 * MIB + 512..66 * MIB, from: 39 * MIB + 512 };
        assert!(over.keeps.contains(&moved), "{:?}", over.keeps);
        let beyond = arranged(&[(2, 80 * MIB)], None).unwrap();
        assert_eq!(beyond.size, 121 * MIB, "with room for the backup, in whole mebibytes");
        let smaller = arranged(&[(2, 10 * MIB)], Some(Size::Min)).unwrap();
        assert_eq!(smaller.size, 50 * MIB + 16_896);
        let error = arranged(&[], Some(Size::To(50 * MIB))).unwrap_err();
        assert!(error.contains("no room"), "{error}");
    }

    #[test]
    fn what_boot_code_finds_by_its_sector_is_not_moved() {
        let table = table(TableKind::Gpt, &[(1, 1, 20), (14, 21, 1)]);
        let error = arrange(&table, 100 * MIB, None, &[(1, 21 * MIB)], None, 16_896).unwrap_err();
        assert!(error.to_string().contains("boot code"), "{error}");
    }

    #[test]
    fn all_there_is_goes_to_one_volume_wherever_it_lies() {
        let table = table(TableKind::Gpt, &[(1, 1, 20), (2, 30, 20)]);
        let arranged = |most| arrange(&table, 100 * MIB, Some(Size::To(200 * MIB)), &[], Some(most), 16_896);
        assert_eq!(places(&arranged(2).unwrap()), [(1, 1, 20), (2, 30, 169)]);
        assert_eq!(places(&arranged(1).unwrap()), [(1, 1, 178), (2, 179, 20)]);
    }

    #[test]
    fn a_logical_partition_keeps_the_room_of_its_record() {
        // The container's first sector, followed by the partitions, each 1 MiB behind its record.
        let mut table = table(TableKind::Mbr, &[(2, 1, 0), (5, 2, 10), (6, 13, 10)]);
        table.partitions[0].len = 512;
        let grown = arrange(&table, 100 * MIB, None, &[(5, 14 * MIB)], None, 0).unwrap();
        assert_eq!(places(&grown), [(2, 1, 0), (5, 2, 14), (6, 17, 10)]);
        assert!(grown.keeps.contains(&Keep { to: 16 * MIB..27 * MIB, from: 12 * MIB }), "{:?}", grown.keeps);
    }
}
