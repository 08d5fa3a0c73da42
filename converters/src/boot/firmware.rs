//! What firmware starts: the boot code that a BIOS runs, or the program at UEFI's removable path (UEFI specification,
//! 3.5.1), up to the boot loader that it leads to.

use memchr::memmem;
use mif_formats::Source;
use mif_formats::fs::fat::plan::FAT32_FROM;
use mif_formats::partition::TableKind;

use super::finding::{Findings, Subject};
use super::grub::core::{self, Core};
use super::look::Look;
use super::machine::Firmware;
use crate::guest::boot::{active_bit, lacks_code};
use crate::guest::pe::{Program, uefi_machine};
use crate::store::volume_name;

/// The largest UEFI program that is read, in bytes: one may hold a kernel and its initramfs.
pub(super) const MAX_PROGRAM: u64 = 512 << 20;

/// The largest `ldlinux.sys`, in bytes.
const MAX_LDLINUX: u64 = 1 << 20;

/// A boot loader that firmware starts.
#[derive(Debug)]
pub(super) enum Loader {
    /// GRUB, with the volume and the directory that UEFI loaded it from.
    Grub(Core, Option<(String, String)>),
    /// SYSLINUX or EXTLINUX on a volume.
    Syslinux(String),
    /// systemd-boot on an EFI system partition.
    SystemdBoot(String),
    /// A unified kernel image: its row.
    Unified(usize),
}

/// Finds what firmware starts. `None` if it starts nothing, or if that cannot be told; the findings say which.
pub(super) fn start(
    look: &Look<'_>,
    firmware: Firmware,
    machine: &str,
    findings: &mut Findings,
) -> Option<Loader> {
    match firmware {
        Firmware::Bios if !matches!(machine, "x86_64" | "i686") => {
            findings
                .bad(
                    Subject::Firmware,
                    "the programs of the system",
                    format!("the system is for {machine}, and no machine of that kind has a BIOS"),
                )
                .advise("Pass --firmware uefi, and choose UEFI in the machine's settings");
            None
        }
        Firmware::Bios => bios(look, findings),
        Firmware::Uefi => uefi(look, machine, findings),
    }
}

// --- BIOS ---------------------------------------------------------------------------------------------------

/// Reads a boot sector; `None` if a BIOS starts nothing from it, for which a finding is added.
fn boot_sector(look: &Look<'_>, start: u64, place: &str, findings: &mut Findings) -> Option<Vec<u8>> {
    let sector = match look.disk.read_vec(start, 512) {
        Ok(sector) => sector,
        Err(error) => {
            findings.unknown(Subject::Firmware, place, format!("it cannot be read: {error}"));
            return None;
        }
    };
    if let Some(problem) = lacks_code(&sector) {
        findings
            .bad(Subject::Firmware, place, format!("{problem}, so a BIOS starts nothing from it"))
            .advise("Install a boot loader for BIOS, such as grub-pc, or choose UEFI if the image has a program for it");
        return None;
    }
    Some(sector)
}

fn bios(look: &Look<'_>, findings: &mut Findings) -> Option<Loader> {
    let place = "sector 0 of the disk";
    if look.disk.len() < 512 {
        findings.bad(Subject::Firmware, place, "the disk is smaller than a sector");
        return None;
    }
    let sector = boot_sector(look, 0, place, findings)?;
    if core::is_boot_sector(&sector) {
        return grub(look, &sector, place, findings);
    }
    // A master boot record that starts the active partition's boot sector.
    let is_known = [&b"Missing operating system"[..], b"Missing OS", b"Operating system load error"]
        .iter()
        .any(|mark| memmem::find(&sector, mark).is_some());
    if !is_known {
        // A filesystem over the whole disk begins with its own boot sector.
        if look.is(TableKind::None) {
            return volume_code(look, &volume_name(0), &sector, findings);
        }
        findings
            .unknown(Subject::Firmware, place, "the boot sector has code that mif does not know")
            .advise("Boot the image once on a machine like the target to find out");
        return None;
    }
    let active = active_bit(look.table.kind);
    let all: Vec<_> = look.table.partitions.iter().filter(|it| it.attributes & active != 0).collect();
    let [partition] = all[..] else {
        let reason = format!("the boot sector starts the active partition, and {} are active", all.len());
        findings
            .bad(Subject::Firmware, place, reason)
            .advise("Mark the partition with the boot loader as active, and no other");
        return None;
    };
    let volume = volume_name(partition.slot);
    let place = format!("the boot sector of {volume}");
    let sector = boot_sector(look, partition.start, &place, findings)?;
    if core::is_boot_sector(&sector) {
        return grub(look, &sector, &place, findings);
    }
    volume_code(look, &volume, &sector, findings)
}

fn grub(look: &Look<'_>, sector: &[u8], place: &str, findings: &mut Findings) -> Option<Loader> {
    match core::of_disk(&*look.disk, sector) {
        Ok((first, core)) => {
            let reason = format!("GRUB's boot code loads its core image from sector {first}, which is whole");
            findings.good(Subject::Firmware, place, reason);
            Some(Loader::Grub(core, None))
        }
        Err(error) => {
            let reason = format!("GRUB's boot code is there, but {error}");
            findings
                .bad(Subject::Firmware, place, reason)
                .advise("Run grub-install for the disk on a machine that boots it");
            None
        }
    }
}

/// Judges the boot sector of a volume: SYSLINUX's loads the file `ldlinux.sys` by the number of its first sector.
fn volume_code(look: &Look<'_>, volume: &str, sector: &[u8], findings: &mut Findings) -> Option<Loader> {
    let place = format!("the boot sector of {volume}");
    let is_syslinux = [&b"SYSLINUX"[..], b"EXTLINUX"].iter().any(|mark| memmem::find(sector, mark).is_some());
    if !is_syslinux {
        findings
            .unknown(Subject::Firmware, place, "the boot sector has code that mif does not know")
            .advise("Boot the image once on a machine like the target to find out");
        return None;
    }
    let folders = ["/", "/boot/", "/boot/extlinux/", "/extlinux/", "/boot/syslinux/", "/syslinux/"];
    let file = folders.iter().find_map(|folder| look.file(volume, &format!("{folder}ldlinux.sys")));
    let Some(file) = file else {
        let reason = "SYSLINUX's boot code is there, but the file ldlinux.sys that it loads is not";
        findings
            .bad(Subject::Firmware, place, reason)
            .advise("Run extlinux --install on the directory of its configuration");
        return None;
    };
    let start = look.partition(volume).map_or(0, |partition| partition.start);
    let first = look.head(file, MAX_LDLINUX).ok().filter(|bytes| bytes.len() >= 512);
    let Some(first) = first else {
        findings.unknown(Subject::Firmware, look.place(file), "the file cannot be read");
        return None;
    };
    // The number is in the code, at a place that depends on the version.
    let points_to_it = |at: usize| {
        let number = u64::from(u32::from_le_bytes(sector[at..at + 4].try_into().expect("four bytes")));
        // Relative to the partition, or to the disk.
        [start + number * 512, number * 512].into_iter().any(|offset| {
            number > 0
                && offset.checked_add(512).is_some_and(|end| end <= look.disk.len())
                && look.disk.read_vec(offset, 512).is_ok_and(|bytes| bytes == first[..512])
        })
    };
    if (0..=508).any(points_to_it) {
        let reason =
            format!("SYSLINUX's boot code loads {} from the sector that the file is in", look.place(file));
        findings.good(Subject::Firmware, place, reason);
        return Some(Loader::Syslinux(volume.to_owned()));
    }
    let reason =
        format!("SYSLINUX's boot code does not point to {}, which was moved since", look.place(file));
    findings
        .bad(Subject::Firmware, place, reason)
        .advise("Run extlinux --install on the directory of its configuration");
    None
}

// --- UEFI ---------------------------------------------------------------------------------------------------

fn uefi(look: &Look<'_>, machine: &str, findings: &mut Findings) -> Option<Loader> {
    let Some((suffix, number)) = uefi_machine(machine) else {
        findings.unknown(
            Subject::Firmware,
            "the programs of the system",
            format!("mif does not know how UEFI starts {machine}"),
        );
        return None;
    };
    let partitions = &look.table.partitions;
    let esps: Vec<String> =
        partitions.iter().filter(|it| it.is_esp()).map(|it| volume_name(it.slot)).collect();
    if esps.is_empty() {
        let reason = "the disk has no EFI system partition";
        findings.bad(Subject::Firmware, "the partition table", reason).advise(
            "Choose a BIOS for the machine, or make an EFI system partition and install a boot loader on it",
        );
        return None;
    }
    let readable: Vec<&String> = esps.iter().filter(|volume| look.is_fat(volume)).collect();
    if readable.is_empty() {
        let reason = "the EFI system partition has no FAT, which is all that firmware reads";
        findings
            .bad(Subject::Firmware, esps.join(", "), reason)
            .advise("Format it, and install a boot loader on it");
        return None;
    }
    // EDK II (FatPkg, FatOpenDevice) refuses a FAT32 with as few clusters as a FAT16.
    let is_small = |volume: &&&String| {
        let info = look.filesystem(volume);
        info.is_some_and(|info| {
            info.kind == "fat32" && info.size / u64::from(info.block_size.max(1)) < FAT32_FROM
        })
    };
    if let (Some(volume), true) = (readable.first(), readable.iter().all(|volume| is_small(&volume))) {
        let reason = format!("it is a FAT32 with fewer than {FAT32_FROM} clusters, which firmware refuses");
        findings
            .bad(Subject::Firmware, volume.as_str(), reason)
            .advise("Format it as FAT16, or give it 260 MiB");
        return None;
    }
    let path = format!("/EFI/BOOT/{}", removable_name(suffix));
    let found = readable.iter().find_map(|volume| Some((*volume, look.file(volume, &path)?)));
    let Some((volume, row)) = found else {
        let volume = readable[0];
        let finding = findings.bad(
            Subject::Firmware,
            format!("{volume}:{path}"),
            "the program is not there, and firmware without settings of its own looks for no other",
        );
        match installed(look, volume, suffix) {
            Some((folder, files)) => {
                finding.advise(format!("Copy {folder}/{} to {path}", files[0].0));
                finding.mend("mkdir", &[("path", format!("{volume}:/EFI/BOOT").into())]);
                for (from, to) in &files {
                    finding.mend(
                        "copy",
                        &[
                            ("path", format!("{volume}:{folder}/{from}").into()),
                            ("to", format!("{volume}:/EFI/BOOT/{to}").into()),
                        ],
                    );
                }
                // What it would start is judged too, so that one repair mends all.
                let row = look.file(volume, &format!("{folder}/{}", files[0].0))?;
                return match program(look, volume, row, (suffix, number), 0, findings) {
                    // Its configuration is copied with it.
                    Some(Loader::Grub(mut core, home)) if core.prefix.eq_ignore_ascii_case("/EFI/BOOT") => {
                        core.prefix = folder;
                        Some(Loader::Grub(core, home))
                    }
                    other => other,
                };
            }
            None => {
                finding.advise(
                    "Install a boot loader for UEFI, such as grub-efi, or choose a BIOS for the machine",
                );
            }
        }
        return None;
    };
    program(look, volume, row, (suffix, number), 0, findings)
}

/// Returns the directory of a boot loader that is installed under its distribution's name, and the files that belong at
/// the removable path, with their names there.
fn installed(look: &Look<'_>, volume: &str, suffix: &str) -> Option<(String, Vec<(String, String)>)> {
    let folders = look.list(volume, "/EFI");
    let folders = folders.iter().filter(|name| !name.eq_ignore_ascii_case("boot"));
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for name in folders {
        let folder = format!("/EFI/{name}");
        let names = look.list(volume, &folder);
        let mut files = grub_files(&names, suffix);
        if files.is_empty() {
            let systemd_boot = format!("systemd-boot{suffix}.efi");
            let name = names.iter().find(|name| name.eq_ignore_ascii_case(&systemd_boot));
            files.extend(name.map(|name| (name.clone(), removable_name(suffix))));
        }
        if !files.is_empty() {
            found.push((folder, files));
        }
    }
    found.into_iter().next()
}

/// Returns the name of the program that firmware starts in the directory of the removable path (UEFI specification,
/// 3.5.1.1).
pub(crate) fn removable_name(suffix: &str) -> String {
    format!("BOOT{}.EFI", suffix.to_ascii_uppercase())
}

/// Returns the files of GRUB, and of shim before it, in the directory of a distribution, and the name that each has in the
/// directory of the removable path; none if `names`, the files of the directory, lack GRUB. What firmware starts is first.
pub(crate) fn grub_files(names: &[String], suffix: &str) -> Vec<(String, String)> {
    let of = |wanted: &str| names.iter().find(|name| name.eq_ignore_ascii_case(wanted)).cloned();
    let same = |name: String| (name.clone(), name);
    let boot = removable_name(suffix);
    let Some(grub) = of(&format!("grub{suffix}.efi")) else { return Vec::new() };
    let mut files = match of(&format!("shim{suffix}.efi")) {
        Some(shim) => {
            let mut files = vec![(shim, boot), same(grub)];
            files.extend(of(&format!("mm{suffix}.efi")).map(same));
            files
        }
        None => vec![(grub, boot)],
    };
    files.extend(of("grub.cfg").map(same));
    files
}

/// Judges a UEFI program, and what it starts in turn.
fn program(
    look: &Look<'_>,
    volume: &str,
    row: usize,
    machine: (&str, u16),
    depth: u32,
    findings: &mut Findings,
) -> Option<Loader> {
    let place = look.place(row);
    let (_, number) = machine;
    let bytes = match look.head(row, MAX_PROGRAM) {
        Ok(bytes) => bytes,
        Err(error) => {
            findings.unknown(Subject::Firmware, place, format!("it cannot be read: {error}"));
            return None;
        }
    };
    let reinstall = "Install the boot loader anew";
    let parsed = match Program::parse(&bytes) {
        Ok(parsed) => parsed,
        Err(error) => {
            findings
                .bad(Subject::Firmware, place, format!("it is no UEFI program: {error}"))
                .advise(reinstall);
            return None;
        }
    };
    if parsed.machine != number {
        let reason =
            format!("it is for another machine (PE machine {:#06x}, expected {number:#06x})", parsed.machine);
        findings.bad(Subject::Firmware, place, reason).advise(reinstall);
        return None;
    }
    let path = look.row(row).path_text();
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
    if parsed.section(".linux").is_some() {
        findings.good(Subject::Firmware, place, "firmware starts it: a unified kernel image");
        return Some(Loader::Unified(row));
    }
    if parsed.has(b"#### LoaderInfo: systemd-boot") {
        findings.good(Subject::Firmware, place, "firmware starts it: systemd-boot");
        return Some(Loader::SystemdBoot(volume.to_owned()));
    }
    if let Some(core) = core::of_program(&parsed) {
        let through = if depth > 0 { "shim starts it" } else { "firmware starts it" };
        findings.good(Subject::Firmware, place, format!("{through}: GRUB"));
        return Some(Loader::Grub(core, Some((volume.to_owned(), folder))));
    }
    if parsed.has(b"UEFI SHIM\n$Version") && depth < 3 {
        return shim(look, volume, (row, &folder), machine, depth, findings);
    }
    findings
        .unknown(Subject::Firmware, place, "firmware starts it, but mif does not know the program")
        .advise("Boot the image once on a machine like the target to find out");
    None
}

/// Finds what shim starts: at the removable path the fallback program if there is one, which starts the shims that the
/// distributions' lists name; else GRUB beside it.
fn shim(
    look: &Look<'_>,
    volume: &str,
    (row, folder): (usize, &str),
    machine: (&str, u16),
    depth: u32,
    findings: &mut Findings,
) -> Option<Loader> {
    let (suffix, _) = machine;
    let is_removable = folder.eq_ignore_ascii_case("/EFI/BOOT");
    if is_removable && look.file(volume, &format!("{folder}/fb{suffix}.efi")).is_some() {
        let list = format!("BOOT{}.CSV", suffix.to_ascii_uppercase());
        for name in look.list(volume, "/EFI").iter().filter(|name| !name.eq_ignore_ascii_case("boot")) {
            let Some(row) = look.file(volume, &format!("/EFI/{name}/{list}")) else { continue };
            let Ok(bytes) = look.head(row, 64 << 10) else { continue };
            let units: Vec<u16> = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
            let text = String::from_utf16_lossy(&units);
            let first = text.trim_start_matches('\u{feff}').lines().find_map(|line| line.split(',').next());
            let file = first.filter(|file| !file.is_empty());
            if let Some(next) = file.and_then(|file| look.file(volume, &format!("/EFI/{name}/{file}"))) {
                findings.good(
                    Subject::Firmware,
                    look.place(row),
                    "shim's fallback program starts what this list names",
                );
                return program(look, volume, next, machine, depth + 1, findings);
            }
        }
    }
    let next = format!("{folder}/grub{suffix}.efi");
    match look.file(volume, &next) {
        Some(next) => {
            findings.good(
                Subject::Firmware,
                look.place(row),
                "firmware starts it: shim, which Secure Boot needs",
            );
            program(look, volume, next, machine, depth + 1, findings)
        }
        None => {
            let finding = findings.bad(
                Subject::Firmware,
                format!("{volume}:{next}"),
                format!("shim ({}) starts this program, which is not there", look.place(row)),
            );
            let other = look.list(volume, "/EFI").into_iter().find_map(|name| {
                let path = format!("/EFI/{name}/grub{suffix}.efi");
                look.file(volume, &path).map(|_| path)
            });
            match other {
                Some(path) => {
                    finding.advise(format!("Copy {path} there"));
                    finding.mend(
                        "copy",
                        &[
                            ("path", format!("{volume}:{path}").into()),
                            ("to", format!("{volume}:{next}").into()),
                        ],
                    );
                    let row = look.file(volume, &path)?;
                    program(look, volume, row, machine, depth + 1, findings)
                }
                None => {
                    finding.advise("Install GRUB's program for UEFI");
                    None
                }
            }
        }
    }
}
