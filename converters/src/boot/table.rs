//! The partition table: the sector size that it was made for, and the backup of a GPT.
//!
//! The sector size of a virtual disk is a setting of its machine, like its firmware. A disk made for 4096 bytes is judged
//! as on a machine with such a disk, where the target offers one.

use mif_formats::Source;
use mif_formats::partition::TableKind;

use super::Machine;
use super::finding::{Findings, Subject};
use super::look::Look;
use super::machine::Firmware;

/// The sector size of the disks that targets give their machines, unless they are told otherwise.
const USUAL: u32 = 512;

/// Judges the partition table.
pub(super) fn judge(look: &Look<'_>, machine: &Machine, findings: &mut Findings) {
    let table = look.table;
    let place = "the disk";
    let sector = table.sector_size;
    if sector != USUAL {
        let Machine { hardware, firmware, controller, .. } = machine;
        if !hardware.large_sectors.contains(&controller.name) {
            let reason = format!(
                "it was made for sectors of {sector} bytes, and the target's disks on {} have {USUAL}",
                controller.name
            );
            let finding = findings.bad(Subject::Table, place, reason);
            finding.advise("Export it with --sector-size 512, or choose a disk with such sectors");
            return;
        }
        if *firmware == Firmware::Bios {
            let reason = format!(
                "it was made for sectors of {sector} bytes, and a BIOS starts only disks with {USUAL}"
            );
            let finding = findings.bad(Subject::Table, place, reason);
            finding.advise("Choose UEFI, or export it with --sector-size 512");
            return;
        }
        let reason =
            format!("it was made for sectors of {sector} bytes: the machine's disk must have such sectors");
        if hardware.target == "hyperv" {
            let reason = format!("{reason}, and mif does not know that Hyper-V starts from them");
            findings.unknown(Subject::Table, place, reason);
            return;
        }
        findings.good(Subject::Table, place, reason);
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
            let end = len.checked_sub(u64::from(sector));
            let has_backup = end.is_some_and(|at| look.disk.read_vec(at, 8).is_ok_and(|b| b == *b"EFI PART"));
            let backup = if has_backup {
                ""
            } else {
                "; its backup is not at the end of the disk, where Linux warns of it"
            };
            let first = look.disk.read_vec(u64::from(sector), 8).is_ok_and(|b| b == *b"EFI PART");
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
