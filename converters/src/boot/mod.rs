//! Whether an image boots on a machine: what its firmware starts, what that loads, whether the kernel then reaches the root
//! filesystem, and what the system waits for.
//!
//! ```text
//! machine.rs (what a target gives a machine)
//! table.rs → firmware.rs (boot code, UEFI programs) → loader.rs (GRUB in grub/, systemd-boot, syslinux.rs)
//!     → kernel.rs (with modules.rs) → drivers.rs (with initramfs.rs, cpio.rs) → roots.rs → mounts.rs
//!     → network.rs, access.rs
//! ```
//!
//! Each adds findings (`finding.rs`): good, bad or unknown, with what was looked at. Nothing is assumed: what cannot be
//! followed is unknown. `segment.rs` makes the archive of modules that `customize` appends to an initramfs.

mod access;
mod booting;
mod cpio;
mod drivers;
mod finding;
pub(crate) mod firmware;
pub(crate) mod grub;
mod initramfs;
mod kernel;
mod loader;
mod look;
pub(crate) mod machine;
mod modules;
mod mounts;
mod network;
mod roots;
pub(crate) mod segment;
mod syslinux;
mod table;

pub(crate) use self::finding::Findings;
pub use self::finding::{Affects, Finding, Judgement, Subject};
pub(crate) use self::look::Look;
use self::machine::{Card, Controller, Firmware, Hardware};
use crate::guest::probe::{PROGRAMS, elf_machine};
use crate::tree::mounts::Root;

/// The machine that an image is to boot on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    pub(crate) hardware: &'static Hardware,
    pub(crate) firmware: Firmware,
    pub(crate) controller: &'static Controller,
    pub(crate) card: &'static Card,
}

/// Judges an image.
pub(crate) fn judge(look: &Look<'_>, machine: &Machine) -> Findings {
    let mut findings = Findings::default();
    let first = look.tree.roots().first();
    let architecture = first.and_then(|root| architecture(look, root)).unwrap_or_else(|| "x86_64".to_owned());
    table::judge(look, machine, &mut findings);
    let Machine { hardware, firmware, controller, card } = *machine;
    if firmware == Firmware::Uefi {
        let (on, target) = (format!("a disk on {}", controller.name), hardware.target);
        if hardware.not_by_uefi.contains(&controller.name) {
            findings
                .bad(Subject::Firmware, on, format!("the UEFI firmware of {target} has no driver of it"))
                .advise("Choose another controller (`--disk`), or `--firmware bios` where there is one.");
        } else if hardware.unsure_by_uefi.contains(&controller.name) {
            let reason = format!("not every UEFI firmware of {target} has a driver of it");
            findings.unknown(Subject::Firmware, on, reason);
        }
    }
    let loader = firmware::start(look, firmware, &architecture, &mut findings);
    let booting = loader.and_then(|loader| loader::boots(look, &loader, &mut findings));
    let volume = booting.as_ref().and_then(|booting| roots::volume(look, booting));
    let root = match &volume {
        Some(volume) => look.root_on(volume),
        None => first,
    };
    let mut kernel = None;
    if let Some(booting) = &booting {
        kernel = kernel::judge(look, booting, root, &architecture, &mut findings);
        if let Ok(early) = drivers::early(booting, &mut findings) {
            if let Some(kernel) = &kernel {
                let kind =
                    volume.as_ref().and_then(|volume| look.filesystem(volume)).map(|info| info.kind.as_str());
                let is_mapped = volume.as_ref().is_some_and(|volume| volume.contains('/'));
                drivers::judge(booting, kernel, early.as_ref(), controller, (kind, is_mapped), &mut findings);
            }
            if let (Some(early), Some(last)) = (&early, booting.initrds.last()) {
                roots::waits(look, early, &last.place, &mut findings);
            }
            roots::judge(look, booting, early.as_ref(), controller, &mut findings);
        }
    }
    if let Some(root) = root {
        mounts::judge(look, root, kernel.as_ref(), controller, &mut findings);
        network::judge(look, root, kernel.as_ref().zip(booting.as_ref()), card, &mut findings);
        access::judge(look, root, booting.as_ref(), hardware, &mut findings);
    }
    findings
}

/// Returns the machine that a system's programs are for.
fn architecture(look: &Look<'_>, root: &Root) -> Option<String> {
    PROGRAMS.iter().find_map(|path| elf_machine(&look.head(look.in_root(root, path)?, 64).ok()?))
}
