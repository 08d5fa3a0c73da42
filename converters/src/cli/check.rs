//! `check`: its arguments, and its reports as text.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use mif::store::Store;
use mif::{
    Affects, BootVerdict, Card, CheckOptions, CheckReport, Controller, Error, Finding, Firmware, FixOptions,
    FixReport, Judgement, Platform, is_path,
};

use super::common::{Open, command_line, open_options};
use super::context::{Answer, Context};
use super::text::printable;

#[derive(Args)]
pub(super) struct Check {
    /// Disk image file, or NAME[@VERSION|@TAG] in the store
    image: String,
    /// Hypervisor or cloud that it is to boot on; `mif export --for list` lists them
    #[arg(long = "for", value_name = "TARGET")]
    target: String,
    /// Firmware that starts the machine [default: the target's]
    #[arg(long, value_name = "FIRMWARE")]
    firmware: Option<FirmwareName>,
    /// Controller of the disk, such as virtio-scsi or nvme [default: the target's]
    #[arg(long, value_name = "NAME")]
    disk: Option<String>,
    /// Network card, such as virtio_net or e1000 [default: the target's]
    #[arg(long, value_name = "NAME")]
    nic: Option<String>,
    /// Make the image NEW in the store, with what edits can mend
    #[arg(long, value_name = "NEW")]
    fix: Option<String>,
    /// With --fix: time of the edits, in seconds since 1970, so that the new image is the same each time [default: now]
    #[arg(long, value_name = "SECONDS", requires = "fix", allow_negative_numbers = true)]
    time: Option<i64>,
    #[command(flatten)]
    open: Open,
}

#[derive(Clone, Copy, ValueEnum)]
enum FirmwareName {
    Bios,
    Uefi,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  mif check web --for azure                  exit 0 if it boots there, 1 if not or if that is unknown
  mif check web --for qemu --disk nvme --firmware uefi
  mif check ./disk.vmdk --for proxmox        a disk image file
  mif check web --for gcp --fix web-gcp      mend what edits can mend, as the image web-gcp
  mif check web --for aws --json             every finding, with the recipe that mends it

Nothing is run. Each line says what was looked at, and why it is good, bad or unknown: partition table, boot code or EFI \
program, boot loader and its default entry, kernel, initramfs and its drivers, root filesystem, fstab, network, console \
and cloud-init. An image boots if everything that its boot depends on is good; what mif cannot follow is unknown. Network \
and access are judged too, but do not change the verdict.

--fix edits a copy, as `mif customize` does: stable names in root= and fstab, an EFI program at the removable path, \
configuration that is bound to a network card, and drivers in the initramfs, from the image's own modules. The recipe is \
printed. docs/targets.md lists the firmware, disks and network cards of each target.

Whether the store is whole is another question: `mif fsck` and `mif verify --all` answer it.";

impl Context {
    pub(super) fn check(&self, arguments: Check) -> Answer {
        let Check { image, target, firmware, disk, nic, fix, time, open } = arguments;
        let firmware = firmware.map(|name| match name {
            FirmwareName::Bios => Firmware::Bios,
            FirmwareName::Uefi => Firmware::Uefi,
        });
        let options = CheckOptions {
            target: Platform::find(&target)?,
            firmware,
            disk: disk.map(|name| Controller::find(&name)).transpose()?,
            nic: nic.map(|name| Card::find(&name)).transpose()?,
        };
        let Some(name) = fix else {
            let image = self.open(&image, &open_options(open)?)?;
            let report = {
                let bar = self.image_bar(&image.label);
                mif::check(&image, &options, &bar)?
            };
            self.report(&report, |report| {
                let mut out = checked(report);
                mendable(report, &mut out);
                out
            })?;
            self.warn(&report.warnings);
            return Ok(report.verdict == BootVerdict::Boots);
        };
        if is_path(&image) {
            return Err(
                Error::usage(format!("{image}: --fix needs an image in the store")).advise("Import it first")
            );
        }
        let store = Store::open(&self.global.store, &self.bar("store"))?;
        let fix = FixOptions { name, time, command: command_line() };
        let report = {
            let bar = self.image_bar(&image);
            mif::check_and_fix(&store, &image.parse()?, &options, &fix, &bar)?
        };
        self.report(&report, fixed)?;
        self.warn(&report.before.warnings);
        Ok(report.verdict() == BootVerdict::Boots)
    }
}

fn word(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Good => "good",
        Judgement::Bad => "bad",
        Judgement::Unknown => "unknown",
    }
}

fn checked(report: &CheckReport) -> String {
    let mut out = String::new();
    let machine = format!("{}: {}, {}, {}", report.target, report.firmware.name(), report.disk, report.nic);
    let _ = writeln!(out, "{}: {} ({machine})", printable(&report.image), report.verdict.name());
    for finding in &report.findings {
        line(finding, &mut out);
    }
    for (what, affects) in [("network", Affects::Network), ("access", Affects::Access)] {
        let judgement = if affects == Affects::Network { report.network } else { report.access };
        if judgement != Judgement::Good && report.findings.iter().any(|it| it.affects == affects) {
            let _ = writeln!(out, "  {what}: {}; the verdict is about the boot alone", word(judgement));
        }
    }
    if let Some(other) = report.other_firmware {
        let _ =
            writeln!(out, "  It boots by {}: pass --firmware, and choose it for the machine.", other.name());
    }
    out
}

fn line(finding: &Finding, out: &mut String) {
    let Finding { subject, verdict, looked_at, reason, advice, .. } = finding;
    let place = printable(looked_at);
    let _ = writeln!(out, "  {:<8} {}: {place}: {}", word(*verdict), subject.name(), printable(reason));
    if let Some(advice) = advice.as_ref().filter(|_| *verdict != Judgement::Good) {
        let _ = writeln!(out, "           {}.", printable(advice));
    }
}

/// Adds the recipe that mends an image.
fn mendable(report: &CheckReport, out: &mut String) {
    if let Some(recipe) = &report.recipe {
        let _ = writeln!(out, "\nThese edits mend what edits can; --fix NEW makes an image with them:\n");
        out.push_str(&text_of(recipe));
    }
}

fn text_of(recipe: &str) -> String {
    recipe.lines().flat_map(|line| [printable(line), "\n".to_owned()]).collect()
}

fn fixed(report: &FixReport) -> String {
    let mut out = checked(&report.before);
    let (Some(made), Some(after)) = (&report.made, &report.after) else {
        let _ = match report.before.verdict {
            BootVerdict::Boots => writeln!(out, "\nNothing has to be mended; no image was made."),
            _ => writeln!(out, "\nEdits mend nothing of this; no image was made."),
        };
        return out;
    };
    let recipe = report.before.recipe.as_deref().unwrap_or_default();
    let _ = writeln!(out, "\nMended by these edits:\n");
    out.push_str(&text_of(recipe));
    let _ = writeln!(out);
    for image in &made.images {
        for note in &image.notes {
            let _ = writeln!(out, "  note: {}", printable(note));
        }
    }
    out.push_str(&checked(after));
    out
}
