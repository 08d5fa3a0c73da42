//! Replaces the partition table of a disk by one of another kind, or for another logical sector size.
//!
//! Everything of the old table that the new one can hold is kept: boot code and, from a GPT to a GPT, slots, types, names,
//! attributes and the number of entries. Partitions keep their places in bytes unless the caller moves them. What the old
//! table occupied and the new one does not becomes zero, because a system that finds both may read either.

use std::ops::Range;

use super::mbr::OS_TYPE_PROTECTIVE;
use super::write::{
    Patch, RECORD, RECORDS, in_sectors, is_extended, narrow, put_record, put_signature, put_type, record,
    sector0,
};
use super::{Table, TableKind, gpt, mbr};
use crate::bytes::le32;
use crate::error::{Result, at};
use crate::source::{Source, is_zero};

/// The least first sector of a partition behind an MBR.
const AFTER_MBR: u64 = 1;

/// Returns the number of bytes at the end of the disk that belong to the table `new`.
pub fn tail(disk: &dyn Source, old: &Table, new: &Table) -> Result<u64> {
    let sector = u64::from(new.sector_size);
    match new.kind {
        TableKind::Gpt => Ok(whole(disk, old, new)?.backup_sectors(sector) * sector),
        TableKind::Mbr | TableKind::None => Ok(0),
    }
}

/// Boot code that moves with a table.
#[derive(Debug, Default)]
pub struct BootCode<'a> {
    /// What to write, and where.
    pub placed: Option<&'a Patch>,
    /// Ranges of bytes that are not needed any more.
    pub vacated: &'a [Range<u64>],
}

/// Returns the patches that replace the table `old` of `disk` by `new` on a disk of `size` bytes, with those of the boot
/// code.
///
/// # Errors
///
/// Fails if this kind of table cannot hold the partitions, if one lies where the table goes, or if something else lies
/// there.
pub fn convert(
    disk: &dyn Source,
    old: &Table,
    new: &Table,
    size: u64,
    boot: &BootCode<'_>,
) -> Result<Vec<Patch>> {
    let sector = u64::from(new.sector_size);
    if !size.is_multiple_of(sector) {
        return Err(at("partition table").unsupported(format!(
            "a disk of {size} bytes has no whole number of sectors of {sector} bytes"
        )));
    }
    let mut pieces = match new.kind {
        TableKind::None => Vec::new(),
        TableKind::Gpt => to_gpt(disk, old, new, size)?,
        TableKind::Mbr => vec![(0, to_mbr(disk, old, new, size)?)],
    };
    let mut taken: Vec<Range<u64>> = pieces.iter().map(|(at, bytes)| *at..at + bytes.len() as u64).collect();
    taken.sort_by_key(|range| range.start);
    let partitions = new.partitions.iter().filter(|p| !is_extended(p));
    let partitions: Vec<Range<u64>> = partitions.map(|p| p.start..p.start + p.len).collect();
    let before = match old.kind {
        TableKind::Gpt => gpt::places(disk, u64::from(old.sector_size))?,
        TableKind::Mbr | TableKind::None => Vec::new(),
    };
    let first = partitions.iter().map(|range| range.start).min().unwrap_or(size);
    for range in &taken {
        if let (Some(other), true) =
            (partitions.iter().find(|other| overlaps(other, range)), new.kind != TableKind::None)
        {
            return Err(at("partition table").unsupported(format!(
                "bytes {} to {} are needed for it, but a partition starts at byte {} and ends at {}",
                range.start, range.end, other.start, other.end
            )));
        }
        // Before the first partition there may be boot loaders.
        let head = range.start..range.end.min(first).min(disk.len());
        let rest = without(head, &before);
        let rest = rest.into_iter().flat_map(|range| without(range, boot.vacated));
        for part in rest.filter(|part| part.start >= mbr::SIZE as u64 && part.start < first) {
            let bytes = disk.read_vec(part.start, (part.end - part.start) as usize)?;
            if !is_zero(&bytes) {
                return Err(at("partition table")
                    .byte(part.start)
                    .unsupported("something else lies where the new table goes, perhaps a boot loader"));
            }
        }
    }
    let placed = boot.placed.map(|(at, bytes)| *at..at + bytes.len() as u64);
    if placed.iter().any(|placed| taken.iter().any(|range| overlaps(range, placed))) {
        return Err(at("partition table").unsupported("the boot code has no room beside it"));
    }
    pieces.extend(boot.placed.cloned());
    let keep: Vec<Range<u64>> = taken.into_iter().chain(placed).chain(partitions).collect();
    let vacated = boot.vacated.iter().filter(|range| range.start >= mbr::SIZE as u64).cloned();
    let mut cleared: Vec<Range<u64>> = Vec::new();
    for range in before.into_iter().chain(vacated) {
        cleared.extend(without(range, &cleared));
    }
    for range in cleared {
        for part in without(range.start..range.end.min(size), &keep) {
            pieces.push((part.start, vec![0; (part.end - part.start) as usize]));
        }
    }
    Ok(pieces)
}

/// Returns the GPT to write, with the old one's entries if there is one.
fn whole(disk: &dyn Source, old: &Table, new: &Table) -> Result<gpt::Whole> {
    let (before, sector) = (u64::from(old.sector_size), u64::from(new.sector_size));
    if old.kind != TableKind::Gpt {
        return Ok(gpt::Whole::empty(sector));
    }
    let mut whole = gpt::current(disk, before)?
        .ok_or_else(|| at("GPT").corrupt("neither copy is intact, so it cannot be changed"))?;
    whole.rebase(before, sector);
    Ok(whole)
}

fn to_gpt(disk: &dyn Source, old: &Table, new: &Table, size: u64) -> Result<Vec<Patch>> {
    let sector = u64::from(new.sector_size);
    let mut whole = whole(disk, old, new)?;
    if let Some(id) = &new.id {
        whole.set_disk_guid(id)?;
    }
    whole.retain(|slot| new.partitions.iter().any(|partition| partition.slot == slot));
    let sectors = size / sector;
    let end = sectors.saturating_sub(whole.backup_sectors(sector));
    if end <= whole.first_usable() {
        return Err(at("GPT").limit(format!("a disk of {size} bytes has no room for both copies of it")));
    }
    for partition in &new.partitions {
        let (first, len) = in_sectors(partition, sector)?;
        if first + len > end {
            return Err(at("GPT").limit(format!(
                "partition {} ends at byte {}, where the backup of the table goes",
                partition.slot,
                partition.end()
            )));
        }
        whole.use_from(first, sector);
        if first < whole.first_usable() {
            return Err(at("GPT").unsupported(format!(
                "partition {} starts at byte {}, but a GPT for sectors of {sector} bytes takes the first {} bytes",
                partition.slot,
                partition.start,
                whole.first_usable() * sector
            )));
        }
        let is_new = !old.partitions.iter().any(|it| it.slot == partition.slot);
        if old.kind != TableKind::Gpt || is_new {
            let name = partition.name.as_deref().unwrap_or_default();
            whole.describe(partition.slot, &partition.type_id, name, partition.attributes)?;
        }
        whole.set(partition.slot, first, len, partition.id.as_deref())?;
    }
    let mut head = sector0(Some(disk))?;
    let reach = (sectors - 1).min(u32::MAX.into()) as u32;
    let is_used = |at: usize| head[at + 4] != 0 && le32(&head, at + 12) != 0;
    let protective = (0..4).map(record).find(|at| head[at + 4] == OS_TYPE_PROTECTIVE);
    let at_record = match (old.kind, protective) {
        (TableKind::Gpt, Some(protective)) => {
            if (0..4).map(record).any(|other| other != protective && is_used(other)) {
                return Err(at("MBR").unsupported(
                    "it is a hybrid MBR, which lists partitions besides the GPT: mif does not convert it",
                ));
            }
            protective
        }
        _ => {
            head[RECORDS..RECORDS + 4 * RECORD].fill(0);
            RECORDS
        }
    };
    head[at_record + 4] = OS_TYPE_PROTECTIVE;
    put_record(&mut head[at_record..at_record + RECORD], 1, reach);
    let mut patches = vec![(0, head)];
    patches.extend(whole.bytes(sectors, sector));
    Ok(patches)
}

fn to_mbr(disk: &dyn Source, old: &Table, new: &Table, size: u64) -> Result<Vec<u8>> {
    let sector = u64::from(new.sector_size);
    if size / sector > u64::from(u32::MAX) {
        return Err(at("MBR").unsupported(format!("a disk of {size} bytes needs a GPT")));
    }
    let mut head = sector0(Some(disk))?;
    let before = head[RECORDS..RECORDS + 4 * RECORD].to_vec();
    head[RECORDS..RECORDS + 4 * RECORD].fill(0);
    put_signature(&mut head, new)?;
    for partition in &new.partitions {
        if partition.slot == 0 || partition.slot > 4 || is_extended(partition) {
            return Err(at("MBR").unsupported(
                "it has an extended partition with logical ones, whose chain mif does not convert",
            ));
        }
        let (first, len) = in_sectors(partition, sector)?;
        if first < AFTER_MBR {
            return Err(at("MBR").unsupported(format!("partition {} starts at the table", partition.slot)));
        }
        let index = partition.slot as usize - 1;
        let at_record = record(index);
        if old.kind == TableKind::Mbr {
            head[at_record..at_record + RECORD].copy_from_slice(&before[index * RECORD..][..RECORD]);
        }
        let record = &mut head[at_record..at_record + RECORD];
        put_type(record, partition)?;
        put_record(record, narrow(first)?, narrow(len)?);
    }
    Ok(head)
}

fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Returns the parts of a range that are in none of `others`.
fn without(range: Range<u64>, others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut parts = vec![range];
    for other in others {
        parts = parts
            .into_iter()
            .flat_map(|part| [part.start..part.end.min(other.start), part.start.max(other.end)..part.end])
            .collect();
    }
    parts.retain(|part| part.start < part.end);
    parts
}

#[cfg(test)]
mod tests {
    use super::super::Partition;
    use super::*;
    use crate::source::MemSource;

    /// A disk with a GPT for a sector size: its bytes and its table.
    fn made(sector_size: u32, partitions: &[(u32, u64, u64)]) -> (Vec<u8>, Table) {
        let size = 4 << 20;
        let table = Table {
            kind: TableKind::Gpt,
            sector_size,
            id: Some("6d69662d-6465-6269-616e-000000000001".into()),
            partitions: partitions
                .iter()
                .map(|(slot, start, len)| Partition {
                    slot: *slot,
                    start: *start,
                    len: *len,
                    type_id: super::super::types::LINUX.into(),
                    id: Some(format!("6d69662d-6465-6269-616e-0000000001{slot:02x}")),
                    name: Some(format!("part {slot}")),
                    attributes: 1 << 60,
                })
                .collect(),
            warnings: Vec::new(),
        };
        let mut disk = vec![0; size];
        apply(&mut disk, super::super::write::write(None, &table, size as u64).unwrap());
        (disk, table)
    }

    fn apply(disk: &mut Vec<u8>, patches: Vec<Patch>) {
        let mut ranges: Vec<Range<u64>> =
            patches.iter().map(|(at, bytes)| *at..at + bytes.len() as u64).collect();
        ranges.sort_by_key(|range| range.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:?}");
        for (at, bytes) in patches {
            let end = at as usize + bytes.len();
            disk.resize(disk.len().max(end), 0);
            disk[at as usize..end].copy_from_slice(&bytes);
        }
    }

    fn converted(disk: &[u8], old: &Table, new: &Table, size: u64) -> Result<Vec<u8>> {
        let patches = convert(&MemSource(disk.to_vec()), old, new, size, &BootCode::default())?;
        let mut new = disk.to_vec();
        new.resize(size as usize, 0);
        apply(&mut new, patches);
        Ok(new)
    }

    #[test]
    fn a_gpt_for_another_sector_size_has_the_same_partitions_and_leaves_nothing_of_the_old() {
        let (disk, table) = made(512, &[(1, 1 << 20, 1 << 20), (15, 40_960, 8192)]);
        let large = Table { sector_size: 4096, ..table.clone() };
        let there = converted(&disk, &table, &large, 4 << 20).unwrap();
        let read = super::super::read(&MemSource(there.clone())).unwrap();
        assert_eq!(read, large);
        assert!(gpt::current(&MemSource(there.clone()), 512).unwrap().is_none());
        let back = converted(&there, &large, &table, 4 << 20).unwrap();
        assert!(back == disk);
        // On a larger disk, the old backup goes.
        let larger = converted(&disk, &table, &large, 5 << 20).unwrap();
        assert_eq!(super::super::read(&MemSource(larger.clone())).unwrap(), large);
        assert!(is_zero(&larger[(4 << 20) - 33 * 512..4 << 20]));
    }

    #[test]
    fn a_gpt_that_has_no_room_or_would_overwrite_something_is_refused() {
        let refused = |partitions: &[(u32, u64, u64)], spoil: Option<usize>, size: u64, words: &str| {
            let (mut disk, table) = made(512, partitions);
            spoil.into_iter().for_each(|at| disk[at] = 1);
            let large = Table { sector_size: 4096, ..table.clone() };
            let error = converted(&disk, &table, &large, size).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        refused(&[(1, 17_408, 512 * 30)], None, 4 << 20, "not aligned");
        refused(&[(1, 20_480, 8192)], None, 4 << 20, "takes the first 24576 bytes");
        refused(&[(1, 1 << 20, (3 << 20) - 20_480 + 4096)], None, 4 << 20, "the backup of the table goes");
        refused(&[(1, 1 << 20, 4096)], Some(20_000), 4 << 20, "something else lies");
        refused(&[(1, 1 << 20, 4096)], None, (4 << 20) + 512, "no whole number of sectors");
        refused(&[], None, 40_960, "no room for both copies");
    }

    #[test]
    fn mutants_of_tables_are_converted_or_refused() {
        let (disk, _) = made(512, &[(1, 1 << 20, 1 << 20), (15, 40_960, 8192)]);
        for seed in 0..2000 {
            let mut dice = crate::testing::Dice::new(seed);
            let mut disk = disk.clone();
            dice.mutate(&mut disk, &[446..512, 512..604, 1024..1400, (4 << 20) - 512..(4 << 20) - 420]);
            let Ok(table) = super::super::read(&MemSource(disk.clone())) else { continue };
            for kind in [TableKind::Gpt, TableKind::Mbr] {
                let new = Table { sector_size: 4096, kind, ..table.clone() };
                let _ = converted(&disk, &table, &new, 4 << 20);
            }
        }
    }

    #[test]
    fn what_is_left_of_a_range_is_in_order_and_disjoint() {
        let left = |range: Range<u64>, others: &[(u64, u64)]| -> Vec<(u64, u64)> {
            let others: Vec<Range<u64>> = others.iter().map(|(start, end)| *start..*end).collect();
            without(range, &others).into_iter().map(|part| (part.start, part.end)).collect()
        };
        assert_eq!(left(0..10, &[(3, 5), (8, 20)]), [(0, 3), (5, 8)]);
        assert_eq!(left(0..10, &[(0, 10)]), []);
        assert_eq!(left(5..5, &[]), []);
        assert_eq!(left(0..10, &[(20, 30)]), [(0, 10)]);
        assert_eq!(left(10..20, &[(0, 12), (11, 13), (19, 25)]), [(13, 19)]);
    }
}
