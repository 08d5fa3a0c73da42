//! The partition table: the sector size that it was made for, and the backup of a GPT.

use mif_formats::Source;
use mif_formats::partition::TableKind;

use super::finding::{Findings, Subject};
use super::look::Look;

/// The sector size of the disks that every target gives its machines.
const SECTOR: u32 = 512;

/// Judges the partition table.
pub(super) fn judge(look: &Look<'_>, findings: &mut Findings) {
    let table = look.table;
    let place = "the disk";
    if table.sector_size != SECTOR {
        let reason = format!(
            "it was made for sectors of {} bytes, and the target's disks have {SECTOR}",
            table.sector_size
        );
        findings
            .bad(Subject::Table, place, reason)
            .advise("Choose a disk with such sectors, where the target offers one");
        return;
    }
    match table.kind {
        TableKind::None => {
            _ = findings.good(Subject::Table, place, "there is none: one volume is the whole disk")
        }
        TableKind::Mbr => {
            findings.good(
                Subject::Table,
                place,
                format!("an MBR with {} partitions", table.partitions.len()),
            );
        }
        TableKind::Gpt => {
            let len = look.disk.len();
            let end = len.checked_sub(u64::from(SECTOR));
            let has_backup = end.is_some_and(|at| look.disk.read_vec(at, 8).is_ok_and(|b| b == *b"EFI PART"));
            let backup = if has_backup {
                ""
            } else {
                "; its backup is not at the end of the disk, where Linux warns of it"
            };
            let first = look.disk.read_vec(u64::from(SECTOR), 8).is_ok_and(|b| b == *b"EFI PART");
            if first {
                let reason = format!("a GPT with {} partitions{backup}", table.partitions.len());
                findings.good(Subject::Table, place, reason);
            } else {
                findings
                    .unknown(
                        Subject::Table,
                        place,
                        "the GPT at the start of the disk is damaged; only its backup is whole",
                    )
                    .advise("Repair it with gdisk or sgdisk");
            }
        }
    }
}
