//! Reads the partition table with the crate `gpt`.

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use mif_formats::partition::TableKind;

use super::PartReport;
use super::device::{Device, read_part};
use crate::disk::scan::Scan;

const READER: &str = "gpt 4.1";

/// The limits of this reader: it panics at entries of another size, and allocates by their number.
const ENTRY_SIZE: u32 = 128;
const MAX_ENTRIES: u32 = 4096;

pub(super) fn compare(scan: &Scan) -> PartReport {
    let mut part = PartReport::new("partition table", None);
    if scan.table.kind != TableKind::Gpt {
        part.skips("everything", "mif has no independent MBR reader");
        return part;
    }
    part.reader = Some(READER);
    match read(scan) {
        Ok(theirs) => compare_partitions(scan, &theirs, &mut part),
        Err(why) => part.skips("everything", why),
    }
    part
}

fn read(scan: &Scan) -> Result<gpt::GptDisk<Device>, String> {
    let disk = scan.disk.clone();
    let sector = u64::from(scan.table.sector_size);
    // Checks both headers, because either may be read. A header without the signature is not read.
    for lba in [1, (disk.len() / sector).saturating_sub(1)] {
        let mut header = [0; 88];
        read_part(&*disk, lba * sector, &mut header).map_err(|e| e.to_string())?;
        if !header.starts_with(b"EFI PART") {
            continue;
        }
        let number = |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
        let (entries, size) = (number(80), number(84));
        if entries > MAX_ENTRIES || size != ENTRY_SIZE {
            return Err(format!(
                "the table has {entries} entries of {size} bytes; {READER} reads up to {MAX_ENTRIES} of {ENTRY_SIZE} bytes"
            ));
        }
    }
    let size = match scan.table.sector_size {
        512 => LogicalBlockSize::Lb512,
        _ => LogicalBlockSize::Lb4096,
    };
    let config = GptConfig::new().writable(false).logical_block_size(size);
    config.open_from_device(Device::new(disk)).map_err(|e| e.to_string())
}

fn compare_partitions(scan: &Scan, theirs: &gpt::GptDisk<Device>, part: &mut PartReport) {
    let sector = u64::from(scan.table.sector_size);
    let disk_len = scan.disk.len();
    if scan.table.id.as_deref() != Some(&theirs.guid().to_string()) {
        part.differs("disk GUID", format!("mif reads {:?}, {READER} reads {}", scan.table.id, theirs.guid()));
    }
    let mut left = theirs.partitions().clone();
    left.retain(|_, partition| partition.is_used());
    for ours in &scan.table.partitions {
        part.compared += 1;
        let what = format!("partition {}", ours.slot);
        let Some(other) = left.remove(&ours.slot) else {
            part.differs(what, format!("mif lists it, {READER} does not"));
            continue;
        };
        // A partition that ends after the disk is clipped.
        let end = other.last_lba.saturating_add(1).saturating_mul(sector).min(disk_len);
        let theirs = (
            other.first_lba.saturating_mul(sector),
            end,
            other.part_type_guid.guid.to_string(),
            Some(other.part_guid.to_string()),
            other.flags,
            other.name,
        );
        let ours = (
            ours.start,
            ours.start + ours.len,
            ours.type_id.clone(),
            ours.id.clone(),
            ours.attributes,
            ours.name.clone().unwrap_or_default(),
        );
        if ours != theirs {
            part.differs(what, format!("mif reads {ours:?}, {READER} reads {theirs:?}"));
        }
    }
    for (slot, theirs) in left {
        let what = format!("partition {slot}");
        let is_nowhere =
            theirs.last_lba < theirs.first_lba || theirs.first_lba.saturating_mul(sector) >= disk_len;
        if is_nowhere {
            part.skips(what, "it is outside the disk, so mif ignores it");
        } else {
            part.differs(what, format!("{READER} lists it, mif does not"));
        }
    }
}
