//! Applies a [`Reshape`]: the arrangement of the whole disk, and the bytes outside its files.

use mif_formats::fs::plan::Planner;
use mif_formats::fs::plan::Tree;
use mif_formats::mif::ObjectId;
use mif_formats::partition::convert::{self, BootCode};
use mif_formats::partition::{Partition, TableKind, write};

use super::arrange::{Arrangement, arrange};
use super::ids::Identities;
use super::reshape::{Reshape, Size};
use super::sectors::Resectored;
use super::table::Converted;
use crate::disk::scan::{Scan, ScannedVolume};
use crate::disk::volume::{VolumeOffset, on_disk};
use crate::error::{Error, Result};
use crate::store::volume_name;

/// A volume to plan.
pub(super) struct VolumeDraft {
    pub(super) name: String,
    pub(super) tree: Tree,
    /// The object of each file key of the tree.
    pub(super) contents: Vec<ObjectId>,
    pub(super) params: Box<dyn Planner>,
}

/// Returns the volumes that are resized and therefore must be planned.
pub(super) fn resized(scan: &Scan, reshape: &Reshape) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for (name, size) in &reshape.resize {
        let volume = find_volume(scan, name)?;
        if !scan.table.partitions.iter().any(|p| volume_name(p.slot) == *name) {
            return Err(Error::unsupported(format!(
                "{name}: only partitions can be resized, not logical volumes"
            ))
            .advise("Grow the partition, then the logical volume with the guest's own tools"));
        }
        if names.contains(name) {
            return Err(Error::usage(format!("{name}: --resize is given twice")));
        }
        if volume.planned().is_none() && !matches!(size, Size::Grow(_) | Size::Max) {
            return Err(Error::unsupported(format!(
                "{name}: can grow but not shrink: it has no filesystem that mif can write"
            )));
        }
        names.push(name.clone());
    }
    names.retain(|name| find_volume(scan, name).is_ok_and(|volume| volume.planned().is_some()));
    Ok(names)
}

pub(super) fn find_volume<'s>(scan: &'s Scan, name: &str) -> Result<&'s ScannedVolume> {
    scan.volumes.iter().find(|volume| volume.name == name).ok_or_else(|| {
        let names: Vec<&str> = scan.volumes.iter().map(|volume| volume.name.as_str()).collect();
        Error::input(format!("no such volume: {name}"))
            .advise(format!("The volumes are {}", names.join(", ")))
    })
}

/// Bytes to write at offsets of the disk.
pub(super) type Patches = Vec<write::Patch>;

/// Returns the arrangement of the disk, and the bytes of the table and of identities. Resizes the volumes.
pub(super) fn shape(
    scan: &Scan,
    volumes: &mut [VolumeDraft],
    reshape: &Reshape,
    identities: Option<&Identities>,
    resectored: Option<&Resectored>,
    converted: Option<&Converted>,
) -> Result<(Arrangement, Patches)> {
    let old_size = scan.disk.len();
    let mut target = converted.map_or(&scan.table, |new| &new.table).clone();
    if let Some(new) = resectored {
        target.sector_size = new.size;
    }
    let sector = u64::from(target.sector_size);
    let is_converted = resectored.is_some() || converted.is_some();
    let mut arrangement = if reshape.size.is_none() && reshape.resize.is_empty() && !is_converted {
        Arrangement::same(&scan.table, old_size)
    } else {
        let mut most = None;
        let mut sizes = Vec::new();
        for (name, size) in &reshape.resize {
            let partition = scan.table.partitions.iter().find(|p| volume_name(p.slot) == *name);
            let Partition { slot, len, .. } = partition.expect("it was looked for");
            let no_less =
                || Error::input(format!("{name}: cannot shrink this volume of {len} bytes by that much"));
            let wanted = match size {
                Size::Max if most.is_some() => {
                    return Err(Error::usage("only one volume can be resized to max"));
                }
                Size::Max => {
                    most = Some(*slot);
                    continue;
                }
                Size::To(size) => *size,
                Size::Grow(more) => {
                    len.checked_add(*more).ok_or_else(|| Error::input("the size is too large"))?
                }
                Size::Shrink(less) => len.checked_sub(*less).filter(|l| *l > 0).ok_or_else(no_less)?,
                Size::Min => {
                    let draft = volumes.iter().find(|draft| draft.name == *name).ok_or_else(no_less)?;
                    draft.params.minimum(&draft.tree).map_err(|e| Error::from(e).within(name))?
                }
            };
            // Rounded to whole pages, so that no sector and no block is cut.
            sizes.push((*slot, wanted.next_multiple_of(4096)));
        }
        let mut rounded = Vec::new();
        for partition in target.partitions.iter().filter(|_| is_converted && target.kind != TableKind::None) {
            let Partition { slot, len, .. } = partition;
            if !len.is_multiple_of(sector) && !sizes.iter().any(|(known, _)| known == slot) {
                let whole = len.next_multiple_of(sector);
                rounded.push(format!("partition {slot} has {whole} bytes now, which are whole sectors"));
                sizes.push((*slot, whole));
            }
        }
        let tail = match is_converted {
            true => convert::tail(&*scan.disk, &scan.table, &target)?,
            false => write::tail(Some(&*scan.disk), &scan.table)?,
        };
        let size = match (reshape.size, scan.table.kind) {
            // The only volume of a disk without a table is the disk itself.
            (None, TableKind::None) => sizes.first().map(|(_, len)| Size::To(*len)),
            (size, _) => size,
        };
        // Slots above four are those of logical partitions only in an MBR that stays one.
        let kind = target.kind;
        if is_converted && kind == TableKind::Mbr {
            target.kind = TableKind::Gpt;
        }
        let mut arrangement = arrange(&target, old_size, size, &sizes, most, tail)?;
        arrangement.table.kind = kind;
        // New partitions may lie past the end of the parent.
        for keep in &mut arrangement.keeps {
            let len = (keep.to.end - keep.to.start).min(old_size.saturating_sub(keep.from));
            keep.to.end = keep.to.start + len;
        }
        arrangement.keeps.retain(|keep| keep.to.start < keep.to.end);
        arrangement.notes.splice(0..0, rounded);
        arrangement
    };
    let new_notes = resectored.map(|new| &new.notes).into_iter().chain(converted.map(|new| &new.notes));
    arrangement.notes.splice(0..0, new_notes.flatten().cloned());
    if is_converted && arrangement.size != old_size && reshape.size.is_none() {
        let size = arrangement.size;
        arrangement.notes.push(format!("the disk was enlarged from {old_size} to {size} bytes"));
    }
    for (name, _) in &reshape.resize {
        let partition = arrangement.partition(name).expect("it was looked for");
        if let Some(draft) = volumes.iter_mut().find(|draft| draft.name == *name) {
            draft.params.resize(partition.len);
        } else {
            arrangement.notes.push(format!("{name}: the partition grew, but its content did not"));
        }
    }
    if let Some(identities) = identities {
        let table = &mut arrangement.table;
        table.id = identities.table_id.clone().or(table.id.take());
        for partition in &mut table.partitions {
            if let Some(id) = identities.partition_ids.get(&partition.slot) {
                partition.id = Some(id.clone());
            }
        }
    }
    let mut patches = Patches::new();
    if is_converted {
        let table =
            converted.map_or_else(|| arrangement.table.clone(), |new| new.renumbered(&arrangement.table));
        let boot = converted.map_or_else(BootCode::default, |new| BootCode {
            placed: new.core.as_ref(),
            vacated: &new.vacated,
        });
        patches = convert::convert(&*scan.disk, &scan.table, &table, arrangement.size, &boot)?;
        if let (Some(new), Some((0, sector0))) = (converted, patches.first_mut()) {
            new.boot_from(sector0);
        }
    } else if arrangement.table != scan.table || arrangement.size != old_size {
        patches = write::write(Some((&*scan.disk, &scan.table)), &arrangement.table, arrangement.size)?;
    }
    for (volume, offset, bytes) in identities.map_or(&[][..], |identities| &identities.patches) {
        let extents = arrangement.moved(&find_volume(scan, volume)?.extents);
        let (at, _) = on_disk(&extents, VolumeOffset(*offset), 1)
            .next()
            .ok_or_else(|| Error::input(format!("{volume}: the volume is truncated")))?;
        patches.push((at.0, bytes.clone()));
    }
    Ok((arrangement, patches))
}
