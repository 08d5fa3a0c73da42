//! The ways to boot a disk: boot code for a BIOS, and programs for UEFI firmware.

use memchr::memmem;
use mif_formats::Source;
use mif_formats::fs::FileType;
use mif_formats::partition::{Table, TableKind};
use serde::Serialize;

use super::pe;
use super::probe::Files;

/// The end of the boot code in sector 0, where the disk's signature and the table begin.
pub(crate) const BOOT_CODE: usize = 440;

/// How many bytes of a UEFI program are searched for its name.
const MAX_PROGRAM: u64 = 8 << 20;

/// The maximum number of UEFI programs that are examined.
const MAX_PROGRAMS: usize = 64;

/// A way to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Boot {
    /// `BIOS` or `UEFI`.
    pub method: &'static str,
    /// The boot loader, if it is a known one.
    pub loader: Option<&'static str>,
    /// The place: `the disk's boot sector`, `the boot sector of p1`, or a program's volume and path.
    pub place: String,
    /// The machine that a UEFI program is for, as `uname -m` names it.
    pub architecture: Option<&'static str>,
}

/// A disk and its partitions.
pub(crate) struct Sectors<'a> {
    pub(crate) disk: &'a dyn Source,
    pub(crate) table: &'a Table,
}

/// Finds all ways to boot.
pub(crate) fn read(files: &mut Files<'_>, sectors: &Sectors<'_>) -> Vec<Boot> {
    let mut found = Vec::new();
    found.extend(bios(sectors));
    uefi(files, &mut found);
    found
}

/// Returns what a BIOS would run: the disk's boot code or, if no boot loader is recognised in it, that of the active
/// partition.
fn bios(sectors: &Sectors<'_>) -> Option<Boot> {
    let code = boot_code(sectors.disk, 0)?;
    let boot = |loader, place| Some(Boot { method: "BIOS", loader, place, architecture: None });
    if let Some(loader) = loader_of(&code) {
        return boot(Some(loader), "the disk's boot sector".to_owned());
    }
    let active = active_bit(sectors.table.kind);
    let active = sectors.table.partitions.iter().find(|p| p.attributes & active != 0);
    if let Some(partition) = active {
        let name = crate::store::volume_name(partition.slot);
        let loader = boot_code(sectors.disk, partition.start).map(|code| loader_of(&code));
        return boot(loader?, format!("the boot sector of {name}"));
    }
    boot(None, "the disk's boot sector".to_owned())
}

/// Returns the bit of a partition's attributes that marks it as active: in an MBR, the status byte; in a GPT, "legacy BIOS
/// bootable" (UEFI specification, table 5.8).
pub(crate) fn active_bit(table: TableKind) -> u64 {
    match table {
        TableKind::Gpt => 1 << 2,
        _ => 0x80,
    }
}

/// Returns why a BIOS starts nothing from a boot sector; `None` if it has code. Zeros are none, and neither is the notice
/// that mkfs.fat writes there.
pub(crate) fn lacks_code(sector: &[u8]) -> Option<&'static str> {
    if sector.get(510..512) != Some(b"\x55\xaa") {
        Some("the boot sector lacks its signature 55 AA")
    } else if sector[..BOOT_CODE].iter().all(|b| *b == 0) {
        Some("the boot sector has no code")
    } else if memmem::find(sector, b"This is not a bootable disk").is_some() {
        Some("the boot sector only says that it is not bootable")
    } else {
        None
    }
}

/// Reads the boot code at `start` of a disk. Returns `None` if there is none.
fn boot_code(disk: &dyn Source, start: u64) -> Option<Vec<u8>> {
    let sector = disk.read_vec(start, disk.len().checked_sub(start)?.min(512) as usize).ok()?;
    lacks_code(&sector).is_none().then_some(sector)
}

/// Recognises the boot loader in a sector by its name or message.
fn loader_of(sector: &[u8]) -> Option<&'static str> {
    let marks: [(&[u8], &str); 6] = [
        (b"GRUB ", "GRUB"),
        (b"SYSLINUX", "SYSLINUX"),
        (b"EXTLINUX", "EXTLINUX"),
        (b"ISOLINUX", "ISOLINUX"),
        (b"LILO", "LILO"),
        (b"BOOTMGR", "Windows Boot Manager"),
    ];
    marks.iter().find(|(mark, _)| memmem::find(sector, mark).is_some()).map(|(_, name)| *name)
}

/// Finds the programs that UEFI firmware can run: those in `/EFI/*/` of any FAT. Firmware runs `/EFI/BOOT/BOOT….EFI` by
/// default (UEFI specification, 3.5.1), and others by its own settings, which are not on the disk.
fn uefi(files: &mut Files<'_>, found: &mut Vec<Boot>) {
    let is_program = |path: &[u8]| {
        let path = path.to_ascii_lowercase();
        let mut parts = path.split(|b| *b == b'/').skip(1);
        parts.next() == Some(b"efi")
            && parts.next().is_some()
            && parts.next().is_some_and(|name| name.ends_with(b".efi"))
            && parts.next().is_none()
    };
    // On the root filesystem, a directory of that name is a mount point. Only a FAT has no modes.
    let rows = files.tree.rows().iter().enumerate();
    let programs: Vec<usize> = rows
        .filter(|(_, row)| {
            row.node.file_type == FileType::File && row.node.mode.is_none() && is_program(&row.path)
        })
        .map(|(i, _)| i)
        .take(MAX_PROGRAMS)
        .collect();
    for i in programs {
        let Some(program) = files.head_of(i, MAX_PROGRAM) else { continue };
        let Some(machine) = pe::machine(&program) else { continue };
        let architecture = pe::machine_name(machine).unwrap_or("another machine");
        let row = &files.tree.rows()[i];
        let place = format!("{}:{}", row.volume, row.path_text());
        let loader = program_of(&row.path, &program);
        found.push(Boot { method: "UEFI", loader, place, architecture: Some(architecture) });
    }
}

/// Recognises a boot loader that is a UEFI program by a mark in it, or else by the file name that its package uses.
fn program_of(path: &[u8], program: &[u8]) -> Option<&'static str> {
    let has = |mark: &[u8]| memmem::find(program, mark).is_some();
    if has(b"#### LoaderInfo: systemd-boot") {
        return Some("systemd-boot");
    }
    if has(b"#### LoaderInfo: systemd-stub") {
        return Some("unified kernel image");
    }
    if has(b"UEFI SHIM\n$Version") {
        return Some("shim");
    }
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or(&[]).to_ascii_lowercase();
    let named = |start: &[u8]| name.starts_with(start);
    if named(b"shim") {
        Some("shim")
    } else if named(b"grub") || has(b"grub_") || has(b"GRUB") {
        Some("GRUB")
    } else if has(b"L\0i\0n\0u\0x\0 \0k\0e\0r\0n\0e\0l") || has(b"HdrS") {
        Some("Linux kernel")
    } else if named(b"bootmgfw") {
        Some("Windows Boot Manager")
    } else if named(b"refind") {
        Some("rEFInd")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use mif_formats::partition::Partition;
    use mif_formats::source::MemSource;

    use super::*;

    fn sector(text: &[u8]) -> Vec<u8> {
        let mut sector = vec![0; 512];
        sector[100..100 + text.len()].copy_from_slice(text);
        sector[510..].copy_from_slice(b"\x55\xaa");
        sector
    }

    fn boots(disk: Vec<u8>, active: bool) -> Option<(Option<&'static str>, String)> {
        let partition = Partition {
            slot: 1,
            start: 512,
            len: 512,
            type_id: "0x83".into(),
            id: None,
            name: None,
            attributes: if active { 0x80 } else { 0 },
        };
        let table = Table {
            kind: TableKind::Mbr,
            sector_size: 512,
            id: None,
            partitions: vec![partition],
            warnings: Vec::new(),
        };
        bios(&Sectors { disk: &MemSource(disk), table: &table }).map(|boot| (boot.loader, boot.place))
    }

    #[test]
    fn a_bios_runs_the_disks_code_or_the_active_partitions() {
        let zero = sector(b"");
        let disk = |a: &[u8], b: &[u8]| [a, b].concat();
        let place = "the disk's boot sector".to_owned();
        assert_eq!(boots(disk(&zero, &sector(b"GRUB ")), true), None);
        assert_eq!(boots(disk(&sector(b"GRUB "), &zero), true), Some((Some("GRUB"), place.clone())));
        let of_p1 = "the boot sector of p1".to_owned();
        let missing = sector(b"Missing operating system");
        assert_eq!(boots(disk(&missing, &sector(b"EXTLINUX")), true), Some((Some("EXTLINUX"), of_p1)));
        assert_eq!(boots(disk(&missing, &zero), true), None);
        assert_eq!(boots(disk(&missing, &zero), false), Some((None, place)));
        assert_eq!(boots(sector(b"This is not a bootable disk"), false), None);
        assert_eq!(boots(vec![1; 300], false), None);
    }

    #[test]
    fn a_uefi_program_is_one_with_a_pe_header() {
        let mut program = vec![0; 0x100];
        program[..2].copy_from_slice(b"MZ");
        program[0x3c] = 0x80;
        program[0x80..0x86].copy_from_slice(b"PE\0\0\x64\x86");
        let machine = |program: &[u8]| pe::machine(program).and_then(pe::machine_name);
        assert_eq!(machine(&program), Some("x86_64"));
        program[0x3c..0x40].fill(0xff);
        assert_eq!(machine(&program), None);
        assert_eq!(machine(b"MZ"), None);
        assert_eq!(program_of(b"/EFI/debian/grubx64.efi", &program), Some("GRUB"));
        assert_eq!(program_of(b"/EFI/x/y.efi", b"#### LoaderInfo: systemd-boot 252"), Some("systemd-boot"));
        assert_eq!(program_of(b"/EFI/x/y.efi", &program), None);
    }
}
