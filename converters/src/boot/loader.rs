//! What a boot loader boots by default: a kernel, its command line, and its initramfs, from the loader's configuration.

use std::sync::Arc;

use mif_formats::Source;
use mif_formats::source::MemSource;

use super::booting::{Booting, Part, part};
use super::finding::{Findings, Subject};
use super::firmware::{Loader, MAX_PROGRAM};
use super::grub::bls;
use super::grub::core::Core;
use super::grub::run::End;
use super::grub::state::Grub;
use super::look::Look;
use super::syslinux;
use crate::guest::pe::Program;
use crate::store::volume_name;

/// Finds what a loader boots. `None` if it boots nothing, or if that cannot be told; the findings say which.
pub(super) fn boots(look: &Look<'_>, loader: &Loader, findings: &mut Findings) -> Option<Booting> {
    match loader {
        Loader::Grub(core, home) => grub(look, core, home.as_ref(), findings),
        Loader::SystemdBoot(esp) => systemd_boot(look, esp, findings),
        Loader::Unified(row) => unified(look, *row, findings),
        Loader::Syslinux(volume) => syslinux::boots(look, volume, findings),
    }
}

// --- GRUB ---------------------------------------------------------------------------------------------------

fn grub(
    look: &Look<'_>,
    core: &Core,
    home: Option<&(String, String)>,
    findings: &mut Findings,
) -> Option<Booting> {
    let mut grub = Grub::new(look, core, home.map(|(volume, folder)| (&volume[..], &folder[..])));
    let end = grub.run(core);
    let read = match grub.read.is_empty() {
        true => format!("{}/grub.cfg", core.prefix),
        false => grub.read.join(", "),
    };
    let (loaded, title) = match end {
        End::Boots(loaded, title) => (loaded, title),
        End::Fails(reason) => {
            findings
                .bad(Subject::Loader, read, reason)
                .advise("Run update-grub, or grub2-mkconfig, in the image");
            return None;
        }
        End::Unknown(reason) => {
            findings
                .unknown(Subject::Loader, read, reason)
                .advise("Boot the image once on a machine like the target to find out");
            return None;
        }
    };
    for problem in grub.unreadable(core) {
        findings
            .bad(Subject::Loader, read.clone(), problem)
            .advise("Run grub-install for the disk on a machine that boots it");
    }
    for doubt in grub.uncertain(core) {
        findings.unknown(Subject::Loader, read.clone(), doubt);
    }
    let kernel = part(look, loaded.kernel, findings)?;
    let initrds: Option<Vec<Part>> = loaded.initrds.iter().map(|row| part(look, *row, findings)).collect();
    let entry = title.map_or_else(String::new, |title| format!("the entry \"{title}\" "));
    let with = match loaded.initrds.len() {
        0 => " without an initramfs".to_owned(),
        _ => loaded.initrds.iter().map(|row| format!(", {}", look.place(*row))).collect(),
    };
    let reason = format!("{entry}loads {}{with}", kernel.place);
    findings.good(Subject::Loader, read, reason.trim_start().to_owned());
    Some(Booting { kernel, initrds: initrds?, command_line: loaded.command_line })
}

// --- systemd-boot -------------------------------------------------------------------------------------------

/// The type of an extended boot loader partition, in a GPT and in an MBR (UAPI.1).
const XBOOTLDR: [&str; 2] = ["bc13c2ff-59e6-4262-a352-b275fd6f7172", "0xea"];

/// An entry of systemd-boot's menu.
enum Choice {
    Specified(String, Box<bls::Entry>),
    Unified(usize),
}

fn systemd_boot(look: &Look<'_>, esp: &str, findings: &mut Findings) -> Option<Booting> {
    let config = look.text(esp, "/loader/loader.conf").unwrap_or_default();
    let setting = |key: &str| {
        let lines = config.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
        lines.filter(|(it, _)| *it == key).map(|(_, value)| value.trim().to_owned()).next_back()
    };
    let place = format!("{esp}:/loader/loader.conf");
    if setting("timeout").is_some_and(|timeout| timeout == "menu-force") {
        findings
            .bad(Subject::Loader, place, "`timeout menu-force` makes systemd-boot wait at its menu")
            .advise("Set a number of seconds in loader.conf");
        return None;
    }
    // It reads what the firmware reads.
    let others = look.table.partitions.iter().filter(|it| XBOOTLDR.contains(&&it.type_id[..]));
    let others = others.filter(|it| look.is_fat(&volume_name(it.slot)));
    let volumes: Vec<String> =
        [esp.to_owned()].into_iter().chain(others.map(|it| volume_name(it.slot))).collect();
    let mut choices: Vec<(String, Choice)> = Vec::new();
    for volume in &volumes {
        for entry in bls::entries(look, volume, "/loader/entries") {
            choices.push((format!("{}.conf", entry.id), Choice::Specified(volume.clone(), Box::new(entry))));
        }
        for name in look.list(volume, "/EFI/Linux") {
            if name.to_ascii_lowercase().ends_with(".efi")
                && let Some(row) = look.file(volume, &format!("/EFI/Linux/{name}"))
            {
                choices.push((name, Choice::Unified(row)));
            }
        }
    }
    if choices.is_empty() {
        findings
            .bad(
                Subject::Loader,
                format!("{esp}:/loader/entries, {esp}:/EFI/Linux"),
                "systemd-boot finds no entry",
            )
            .advise("Install a kernel with kernel-install, or bootctl install");
        return None;
    }
    // An entry whose attempts are used up comes last.
    let is_spent = |name: &str| name.contains("+0-") || name.contains("+0.");
    choices.sort_by(|(a, _), (b, _)| {
        is_spent(a).cmp(&is_spent(b)).then_with(|| crate::guest::versions::compare_versions("rpm", b, a))
    });
    let chosen = match setting("default") {
        None => 0,
        Some(pattern) if pattern.starts_with('@') => {
            findings.unknown(
                Subject::Loader,
                place,
                format!("`default {pattern}` depends on settings of the firmware"),
            );
            return None;
        }
        Some(pattern) => {
            let pattern = glob::Pattern::new(&pattern.to_ascii_lowercase()).ok();
            let place_of = |end: &str| {
                let mut names = choices.iter().map(|(name, _)| name.to_ascii_lowercase());
                names.position(|name| {
                    pattern.as_ref().is_some_and(|it| it.matches(name.trim_end_matches(end)))
                })
            };
            match (place_of(""), place_of(".conf")) {
                (Some(found), _) => found,
                // Before systemd 245, the suffix could be left out.
                (None, Some(_)) => {
                    let reason =
                        "its default lacks the suffix .conf, which only some versions of systemd-boot add";
                    findings
                        .unknown(Subject::Loader, place, reason)
                        .advise("Write the full name of the entry's file");
                    return None;
                }
                (None, None) => 0,
            }
        }
    };
    let (name, choice) = choices.swap_remove(chosen);
    let (volume, entry) = match choice {
        Choice::Unified(row) => {
            findings.good(Subject::Loader, place, format!("systemd-boot's default is {}", look.place(row)));
            return unified(look, row, findings);
        }
        Choice::Specified(volume, entry) => (volume, entry),
    };
    let place = format!("{volume}:/loader/entries/{name}");
    if let Some(efi) = &entry.efi {
        let Some(row) = look.file(&volume, efi) else {
            findings.bad(Subject::Loader, place, format!("the entry names {efi}, which is not there"));
            return None;
        };
        findings.good(Subject::Loader, place, format!("the default entry starts {}", look.place(row)));
        return unified(look, row, findings);
    }
    let Some(linux) = &entry.linux else {
        findings.bad(Subject::Loader, place, "the entry names no kernel");
        return None;
    };
    let mut rows = Vec::new();
    for path in [linux].into_iter().chain(&entry.initrd) {
        match look.file(&volume, path) {
            Some(row) => rows.push(row),
            None => {
                findings
                    .bad(
                        Subject::Loader,
                        place,
                        format!("the entry names {path}, which {volume} does not have"),
                    )
                    .advise("Run kernel-install, or bootctl, in the image");
                return None;
            }
        }
    }
    let parts: Option<Vec<Part>> = rows.iter().map(|row| part(look, *row, findings)).collect();
    let mut parts = parts?.into_iter();
    let kernel = parts.next()?;
    findings.good(Subject::Loader, place, format!("the default entry loads {}", kernel.place));
    Some(Booting { kernel, initrds: parts.collect(), command_line: entry.options.join(" ") })
}

/// Reads a unified kernel image (UAPI.5): the kernel, its initramfs and its command line are sections.
fn unified(look: &Look<'_>, row: usize, findings: &mut Findings) -> Option<Booting> {
    let place = look.place(row);
    let bytes = match look.head(row, MAX_PROGRAM) {
        Ok(bytes) => bytes,
        Err(error) => {
            findings.unknown(Subject::Loader, place, format!("it cannot be read: {error}"));
            return None;
        }
    };
    let program = match Program::parse(&bytes) {
        Ok(program) => program,
        Err(error) => {
            findings
                .bad(Subject::Loader, place, format!("{error}"))
                .advise("Build the unified kernel image anew");
            return None;
        }
    };
    let section = |name: &str| {
        let content = program.section(name)?.to_vec();
        let content: Arc<dyn Source> = Arc::new(MemSource(content));
        Some(Part { place: format!("{place} ({name})"), row: None, content })
    };
    let Some(kernel) = section(".linux") else {
        findings.bad(Subject::Loader, place, "the program has no kernel in a section .linux");
        return None;
    };
    let initrds: Vec<Part> = [".ucode", ".initrd"].into_iter().filter_map(section).collect();
    let line = program.section(".cmdline").unwrap_or_default();
    let command_line = String::from_utf8_lossy(line).trim_matches(['\0', '\n', ' ']).to_owned();
    let with = if program.section(".initrd").is_some() { "with" } else { "without" };
    findings.good(Subject::Loader, place, format!("a unified kernel image {with} an initramfs"));
    Some(Booting { kernel, initrds, command_line })
}
