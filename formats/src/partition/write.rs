//! Writes partition tables: a new one, or a disk's own with changed places or names of partitions.
//!
//! The result is a list of positions and bytes. Everything in an existing table that the new one does not set is kept:
//! boot code, slots, types, names, attributes, the place and size of a GPT's array.

use std::collections::BTreeMap;

use super::mbr::{self, OS_TYPE_PROTECTIVE, OS_TYPES_EXTENDED};
use super::{Partition, Table, TableKind, gpt};
use crate::bytes::le32;
use crate::error::{Result, at};
use crate::fs::plan::put;
use crate::source::Source;

/// A position on the disk in bytes, and the bytes to write there.
pub type Patch = (u64, Vec<u8>);

/// The offset of the first of four records in a boot record, and the length of one.
pub(super) const RECORDS: usize = 446;
pub(super) const RECORD: usize = 16;
/// The end of the boot code and the offset of the disk's signature.
const SIGNATURE: usize = 440;

/// Returns the number of bytes at the start of a disk that belong to a new table.
#[must_use]
pub fn head(table: &Table) -> u64 {
    let sector = u64::from(table.sector_size);
    match table.kind {
        TableKind::Gpt => gpt::Whole::empty(sector).first_usable() * sector,
        TableKind::Mbr => sector,
        TableKind::None => 0,
    }
}

/// Returns the number of bytes at the end of a disk that belong to its table: a GPT's backup.
pub fn tail(disk: Option<&dyn Source>, table: &Table) -> Result<u64> {
    let sector = u64::from(table.sector_size);
    match table.kind {
        TableKind::Gpt => Ok(whole_gpt(disk, sector)?.backup_sectors(sector) * sector),
        TableKind::Mbr | TableKind::None => Ok(0),
    }
}

/// Returns the patches that give a disk of `size` bytes the table `table`. If `before` holds the disk and its current
/// table, which must have the same slots, that table is changed; otherwise a new one is made.
///
/// Fails if this kind of table cannot hold `table`.
pub fn write(before: Option<(&dyn Source, &Table)>, table: &Table, size: u64) -> Result<Vec<Patch>> {
    match table.kind {
        TableKind::None => Ok(Vec::new()),
        TableKind::Gpt => write_gpt(before.map(|(disk, _)| disk), table, size),
        TableKind::Mbr => write_mbr(before, table, size),
    }
}

fn whole_gpt(disk: Option<&dyn Source>, sector: u64) -> Result<gpt::Whole> {
    match disk {
        None => Ok(gpt::Whole::empty(sector)),
        Some(disk) => gpt::current(disk, sector)?
            .ok_or_else(|| at("GPT").corrupt("neither copy is intact, so it cannot be changed")),
    }
}

fn write_gpt(disk: Option<&dyn Source>, table: &Table, size: u64) -> Result<Vec<Patch>> {
    let sector = u64::from(table.sector_size);
    let sectors = size / sector;
    let mut whole = whole_gpt(disk, sector)?;
    if let Some(id) = &table.id {
        whole.set_disk_guid(id)?;
    }
    for partition in &table.partitions {
        let (first, len) = in_sectors(partition, sector)?;
        if disk.is_none() {
            let name = partition.name.as_deref().unwrap_or_default();
            whole.describe(partition.slot, &partition.type_id, name, partition.attributes)?;
        }
        whole.set(partition.slot, first, len, partition.id.as_deref())?;
    }
    let mut sector0 = sector0(disk)?;
    let reach = (sectors - 1).min(u32::MAX.into()) as u32;
    let protective = (0..4).map(record).find(|at| sector0[at + 4] == OS_TYPE_PROTECTIVE);
    match protective {
        Some(at) => {
            let others = (0..4).map(record).any(|other| other != at && le32(&sector0, other + 12) != 0);
            // In a hybrid MBR the protective record covers only the space that the other partitions leave.
            if !others {
                put_record(&mut sector0[at..at + RECORD], 1, reach);
            }
        }
        None => {
            sector0[RECORDS + 4] = OS_TYPE_PROTECTIVE;
            put_record(&mut sector0[RECORDS..RECORDS + RECORD], 1, reach);
        }
    }
    let mut patches = vec![(0, sector0)];
    patches.extend(whole.bytes(sectors, sector));
    Ok(patches)
}

fn write_mbr(before: Option<(&dyn Source, &Table)>, table: &Table, size: u64) -> Result<Vec<Patch>> {
    let sector = u64::from(table.sector_size);
    if size.div_ceil(sector) > u64::from(u32::MAX) {
        return Err(at("MBR").unsupported(format!("a disk of {size} bytes needs a GPT")));
    }
    // An extended partition keeps its length, up to the end of the disk: parted opens no disk with one that extends
    // further.
    let room = size / sector;
    let mut sector0 = sector0(before.map(|(disk, _)| disk))?;
    put_signature(&mut sector0, table)?;
    let mut patches = Vec::new();
    let (primary, logical): (Vec<&Partition>, Vec<_>) = table.partitions.iter().partition(|p| p.slot <= 4);
    if let Some((disk, old)) = before
        && !logical.is_empty()
    {
        let container = primary.iter().find(|p| is_extended(p));
        let container =
            container.ok_or_else(|| at("MBR").corrupt("has logical partitions but no extended partition"))?;
        let (start, _) = in_sectors(container, sector)?;
        let record = record(container.slot as usize - 1);
        let least = u64::from(le32(&sector0, record + 12)).min(room.saturating_sub(start));
        let reach = chain(disk, old, &logical, start, least, &mut patches)?;
        put::le32(&mut sector0, record + 12, narrow(reach)?);
    } else if !logical.is_empty() {
        return Err(at("MBR").unsupported("a new MBR has slots 1 to 4; use a GPT for more"));
    }
    for partition in primary {
        let (first, len) = in_sectors(partition, sector)?;
        let at = record(partition.slot as usize - 1);
        let len = match is_extended(partition) {
            true => narrow(u64::from(le32(&sector0, at + 12)).min(room.saturating_sub(first)))?,
            false => narrow(len)?,
        };
        if before.is_none() {
            put_type(&mut sector0[at..at + RECORD], partition)?;
        }
        put_record(&mut sector0[at..at + RECORD], narrow(first)?, len);
    }
    patches.insert(0, (0, sector0));
    Ok(patches)
}

/// Rewrites the chain of extended boot records for `logical` partitions that were elsewhere in `old`. Returns the
/// length in sectors that the extended partition at sector `container` needs, at least `least`. Each record moves with
/// its partition.
fn chain(
    disk: &dyn Source,
    old: &Table,
    logical: &[&Partition],
    container: u64,
    least: u64,
    patches: &mut Vec<Patch>,
) -> Result<u64> {
    let sector = u64::from(old.sector_size);
    let links = mbr::links(disk, old)?;
    let mut placed: BTreeMap<u32, (u64, u64, u64, Vec<u8>)> = BTreeMap::new();
    for partition in logical {
        let (first, len) = in_sectors(partition, sector)?;
        let link = links.get(&partition.slot).ok_or_else(|| {
            at("MBR").unsupported(format!("logical partition {} is not in a plain chain", partition.slot))
        })?;
        let was = link * sector;
        let before = old.partitions.iter().find(|p| p.slot == partition.slot).map_or(was, |p| p.start);
        let bytes = disk.read_vec(was, mbr::SIZE)?;
        placed.insert(partition.slot, (first - (before - was) / sector, first, len, bytes));
    }
    let mut reach = least;
    let mut next: Option<(u64, u64)> = None;
    for (lba, first, len, mut bytes) in placed.into_values().rev() {
        let end = first + len;
        put_record(&mut bytes[RECORDS..RECORDS + RECORD], narrow(first - lba)?, narrow(len)?);
        // Only the last link has no successor, as before.
        if let Some((next_lba, next_end)) = next {
            let record = &mut bytes[RECORDS + RECORD..RECORDS + 2 * RECORD];
            put_record(record, narrow(next_lba - container)?, narrow(next_end - next_lba)?);
        }
        reach = reach.max(end - container);
        next = Some((lba, end));
        patches.push((lba * sector, bytes));
    }
    patches.reverse();
    Ok(reach)
}

pub(super) fn is_extended(partition: &Partition) -> bool {
    OS_TYPES_EXTENDED.iter().any(|os_type| partition.type_id == format!("0x{os_type:02x}"))
}

pub(super) fn record(index: usize) -> usize {
    RECORDS + RECORD * index
}

/// Sets the disk's signature, if the table has one.
pub(super) fn put_signature(sector0: &mut [u8], table: &Table) -> Result<()> {
    if let Some(id) = &table.id {
        let id = u32::from_str_radix(id, 16)
            .map_err(|_| at("MBR").unsupported(format!("\"{id}\" is not a signature of 8 hex digits")))?;
        put::le32(sector0, SIGNATURE, id);
    }
    Ok(())
}

/// Sets the type of a partition, and whether it is active.
pub(super) fn put_type(record: &mut [u8], partition: &Partition) -> Result<()> {
    let Partition { type_id, attributes, .. } = partition;
    let number = u8::from_str_radix(type_id.trim_start_matches("0x"), 16)
        .map_err(|_| at("MBR").unsupported(format!("\"{type_id}\" is not a partition type such as 0x83")))?;
    (record[0], record[4]) = (*attributes as u8, number);
    Ok(())
}

/// Returns sector 0 of the disk, or an empty one.
pub(super) fn sector0(disk: Option<&dyn Source>) -> Result<Vec<u8>> {
    let mut sector = match disk {
        Some(disk) => disk.read_vec(0, mbr::SIZE)?,
        None => vec![0; mbr::SIZE],
    };
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

/// Sets the position of a partition. If it is unchanged, the record keeps its cylinders, heads and sectors.
pub(super) fn put_record(record: &mut [u8], first: u32, sectors: u32) {
    if (le32(record, 8), le32(record, 12)) == (first, sectors) {
        return;
    }
    record[1..4].copy_from_slice(&chs(first));
    record[5..8].copy_from_slice(&chs(first.saturating_add(sectors.max(1) - 1)));
    put::le32(record, 8, first);
    put::le32(record, 12, sectors);
}

/// Returns a sector as cylinder, head and sector for 255 heads and 63 sectors; the maximum if it is out of range.
fn chs(lba: u32) -> [u8; 3] {
    const HEADS: u32 = 255;
    const SECTORS: u32 = 63;
    let cylinder = lba / (HEADS * SECTORS);
    if cylinder > 1023 {
        return [0xfe, 0xff, 0xff];
    }
    let (head, sector) = (lba / SECTORS % HEADS, lba % SECTORS + 1);
    [head as u8, (sector | (cylinder >> 8 << 6)) as u8, cylinder as u8]
}

pub(super) fn narrow(sectors: u64) -> Result<u32> {
    u32::try_from(sectors).map_err(|_| at("MBR").unsupported("a partition past 2 TiB needs a GPT"))
}

/// Returns the position of a partition in sectors: the first sector, and the number of sectors.
pub(super) fn in_sectors(partition: &Partition, sector: u64) -> Result<(u64, u64)> {
    let Partition { slot, start, len, .. } = partition;
    if !start.is_multiple_of(sector) || !len.is_multiple_of(sector) || *len == 0 {
        return Err(at("partition table").unsupported(format!(
            "partition {slot}, {len} bytes at byte {start}, is not aligned to sectors of {sector} bytes"
        )));
    }
    Ok((start / sector, len / sector))
}
