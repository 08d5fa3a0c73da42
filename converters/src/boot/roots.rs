//! The root filesystem, as the kernel's command line names it.

use super::booting::Booting;
use super::drivers::{Early, Maker};
use super::finding::{Finding, Findings, Subject};
use super::look::Look;
use super::machine::Controller;
use crate::store::volume_name;

/// Where an edit of `root=` may be needed, besides the configuration that was followed.
const PLACES: &[&str] = &[
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/etc/default/grub",
    "/etc/kernel/cmdline",
    "/etc/update-extlinux.conf",
    "/boot/extlinux/extlinux.conf",
    "/boot/extlinux.conf",
];

/// A device as `root=` or an fstab names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// By what is on it, which is stable: the volume.
    Stable(String),
    /// By such a name that the image has not.
    Missing,
    /// By such a name, which two volumes have.
    Double,
    /// By the name that a disk has on some machines: the slot of its partition, 0 for the whole disk.
    Unstable(u32),
    /// By a name that only a certain machine gives it.
    Foreign,
    /// None of these.
    Other,
}

impl Device {
    /// Finds out what a name means.
    pub(super) fn of(look: &Look<'_>, what: &str) -> Self {
        let stable = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="].iter().any(|tag| what.starts_with(tag))
            || ["uuid", "label", "partuuid", "partlabel"]
                .iter()
                .any(|by| what.starts_with(&format!("/dev/disk/by-{by}/")));
        let is_mapped = what.starts_with("/dev/mapper/")
            || what.strip_prefix("/dev/").is_some_and(|name| name.contains('/'));
        if stable || is_mapped && !what.starts_with("/dev/disk/") {
            return match look.devices().volume_of(what) {
                Some(_) if stable && count(look, what) > 1 => Device::Double,
                Some(volume) => Device::Stable(volume),
                None if is_mapped => Device::Other,
                None => Device::Missing,
            };
        }
        if what.starts_with("/dev/disk/by-id/") || what.starts_with("/dev/disk/by-path/") {
            return Device::Foreign;
        }
        let Some(name) = what.strip_prefix("/dev/") else { return Device::Other };
        // The first disk of a kind, and a number.
        for disk in ["sda", "vda", "xvda", "hda", "nvme0n1", "mmcblk0"] {
            let Some(rest) = name.strip_prefix(disk) else { continue };
            let rest = if disk.ends_with(|c: char| c.is_ascii_digit()) {
                rest.strip_prefix('p').unwrap_or(rest)
            } else {
                rest
            };
            if rest.is_empty() {
                return Device::Unstable(0);
            }
            if let Ok(slot) = rest.parse() {
                return Device::Unstable(slot);
            }
        }
        let is_disk = ["sd", "vd", "xvd", "hd", "nvme"].iter().any(|disk| name.starts_with(disk));
        if is_disk { Device::Foreign } else { Device::Other }
    }
}

/// Judges the devices that an initramfs of dracut waits for, which it noted on the machine that it was made on.
pub(super) fn waits(look: &Look<'_>, early: &Early, place: &str, findings: &mut Findings) {
    let start = "lib/dracut/hooks/initqueue/finished/devexists-";
    for name in early.initramfs.below(start) {
        let Some((_, name)) = name.split_once("devexists-") else { continue };
        // As systemd-escape writes it.
        let device = name.trim_end_matches(".sh").replace("\\x2f", "/").replace("\\x2d", "-");
        if !matches!(Device::of(look, &device), Device::Stable(_)) {
            findings
                .bad(
                    Subject::Initramfs,
                    place,
                    format!("it waits for the device {device}, which the disk does not have"),
                )
                .advise("Run `dracut --no-hostonly --force --regenerate-all` in the image");
            return;
        }
    }
}

/// Returns how many volumes a tag names.
fn count(look: &Look<'_>, what: &str) -> usize {
    let value =
        what.split_once('=').map_or_else(|| what.rsplit('/').next().unwrap_or_default(), |(_, value)| value);
    let value = value.trim_matches('"');
    let names = look.volumes.iter().filter(|record| {
        let info = look.filesystem(&record.volume);
        let partition = look.partition(&record.volume);
        let tags = if what.to_ascii_lowercase().contains("part") {
            [partition.and_then(|it| it.id.clone()), partition.and_then(|it| it.name.clone())]
        } else {
            [info.and_then(|info| info.uuid.clone()), info.and_then(|info| info.label.clone())]
        };
        tags.into_iter().flatten().any(|tag| tag.eq_ignore_ascii_case(value))
    });
    names.count()
}

/// The volume of the root filesystem, before it is judged.
pub(super) fn volume(look: &Look<'_>, booting: &Booting) -> Option<String> {
    match Device::of(look, booting.argument("root")?) {
        Device::Stable(volume) => Some(volume),
        Device::Unstable(slot) => Some(volume_name(slot)).filter(|volume| look.filesystem(volume).is_some()),
        // What the repair names.
        Device::Missing | Device::Foreign => system_volume(look).map(|(volume, _)| volume),
        _ => None,
    }
}

/// Judges `root=` and the filesystem that it names.
pub(super) fn judge(
    look: &Look<'_>,
    booting: &Booting,
    early: Option<&Early>,
    controller: &Controller,
    findings: &mut Findings,
) {
    let place = format!("the command line: {}", booting.command_line);
    let Some(root) = booting.argument("root") else {
        let maker = early.map(|early| early.maker);
        if matches!(maker, Some(Maker::InitramfsTools | Maker::Mkinitfs)) || maker.is_none() {
            findings
                .bad(Subject::Root, place, "there is no argument root=")
                .advise("Add root=UUID=… of the root filesystem to the boot loader's configuration");
        } else {
            findings.unknown(
                Subject::Root,
                place,
                "there is no argument root=, and mif does not follow what the initramfs does then",
            );
        }
        return;
    };
    let encrypted =
        look.volumes.iter().find_map(|record| look.other(&record.volume).filter(|it| it.contains("LUKS")));
    match Device::of(look, root) {
        Device::Stable(volume) => {
            let is_tag = root.starts_with("UUID=") || root.starts_with("LABEL=");
            if early.is_none() && (is_tag || !root.starts_with("PARTUUID=")) {
                findings
                    .bad(
                        Subject::Root,
                        place,
                        format!("without an initramfs the kernel does not know the name {root}"),
                    )
                    .advise("Use root=PARTUUID=…, or an initramfs");
                return;
            }
            mounted(look, booting, root, &volume, findings);
        }
        Device::Double => {
            findings
                .unknown(Subject::Root, place, format!("two volumes of the disk answer to {root}"))
                .advise("Give one of them another name or UUID");
        }
        Device::Missing if encrypted.is_some() => {
            findings.unknown(
                Subject::Root,
                place,
                format!("{root} may be on an encrypted volume, which mif cannot look into"),
            );
        }
        Device::Missing => {
            let finding = findings.bad(Subject::Root, place, format!("the image has no filesystem {root}"));
            name_system(look, root, finding);
        }
        Device::Unstable(slot) => unstable(look, booting, root, slot, controller, findings),
        Device::Foreign => {
            let finding = findings.bad(
                Subject::Root,
                place,
                format!("{root} is the name that another machine gives the disk"),
            );
            name_system(look, root, finding);
        }
        Device::Other => {
            findings.unknown(Subject::Root, place, format!("mif does not know the device {root}"));
        }
    }
}

/// Judges a device name such as `/dev/sda1`, which depends on the controller.
fn unstable(
    look: &Look<'_>,
    booting: &Booting,
    root: &str,
    slot: u32,
    controller: &Controller,
    findings: &mut Findings,
) {
    let volume = volume_name(slot);
    let expected = match slot {
        0 => format!("/dev/{}", controller.device),
        slot => controller.partition(slot),
    };
    let uuid = look.filesystem(&volume).and_then(|info| info.uuid.clone());
    if root == expected && look.filesystem(&volume).is_some() {
        mounted(look, booting, root, &volume, findings);
        return;
    }
    let place = format!("the command line: {}", booting.command_line);
    if look.filesystem(&volume).is_none() {
        findings.bad(Subject::Root, place, format!("{root} means {volume}, which has no filesystem"));
        return;
    }
    let finding = findings.bad(
        Subject::Root,
        place,
        format!("{root} has another name on this machine: a disk on {} is {expected}", controller.name),
    );
    if let Some(uuid) = uuid {
        finding.advise(format!("Use root=UUID={uuid}"));
        rename(look, root, &format!("UUID={uuid}"), finding);
    }
}

/// Advises to name the volume with the system instead of `old`, and adds the edits that do it, if there is only one.
fn name_system(look: &Look<'_>, old: &str, finding: &mut Finding) {
    match system_volume(look) {
        Some((volume, uuid)) => {
            finding.advise(format!("Use root=UUID={uuid}, which is that of {volume}"));
            rename(look, old, &format!("UUID={uuid}"), finding);
        }
        None => _ = finding.advise("Set root= to the UUID of the root filesystem"),
    }
}

/// Returns the volume with the system and its UUID, if there is only one.
fn system_volume(look: &Look<'_>) -> Option<(String, String)> {
    match look.tree.roots() {
        [root] => Some((root.volume().to_owned(), look.filesystem(root.volume())?.uuid.clone()?)),
        _ => None,
    }
}

/// Adds edits that replace `root=OLD` in every configuration of a boot loader.
fn rename(look: &Look<'_>, old: &str, new: &str, finding: &mut Finding) {
    let mut files: Vec<usize> = Vec::new();
    let mut add = |row: Option<usize>| {
        if let Some(row) = row.filter(|row| !files.contains(row)) {
            files.push(row);
        }
    };
    for root in look.tree.roots() {
        PLACES.iter().for_each(|path| add(look.in_root(root, path)));
        for folder in ["/boot/loader/entries", "/etc/default/grub.d"] {
            for name in look.root_list(root, folder) {
                add(look.in_root(root, &format!("{folder}/{name}")));
            }
        }
    }
    for record in look.volumes {
        for path in ["/grub/grub.cfg", "/grub2/grub.cfg", "/extlinux/extlinux.conf", "/extlinux.conf"] {
            add(look.file(&record.volume, path));
        }
        for name in look.list(&record.volume, "/loader/entries") {
            add(look.file(&record.volume, &format!("/loader/entries/{name}")));
        }
    }
    let (old, new) = (format!("root={old}"), format!("root={new}"));
    for row in files {
        let Ok(text) = look.head(row, super::look::MAX_TEXT) else { continue };
        if memchr::memmem::find(&text, old.as_bytes()).is_some() {
            let pattern: String = old
                .chars()
                .flat_map(|c| if c.is_alphanumeric() || "=/-_".contains(c) { vec![c] } else { vec!['\\', c] })
                .collect();
            finding.mend(
                "edit",
                &[
                    ("path", look.place(row).into()),
                    ("script", format!("s,{pattern}([^0-9a-zA-Z]|$),{new}\\1,g").into()),
                ],
            );
        }
    }
}

/// Judges the filesystem that is mounted as the root.
fn mounted(look: &Look<'_>, booting: &Booting, root: &str, volume: &str, findings: &mut Findings) {
    let Some(info) = look.filesystem(volume) else {
        let what = look.other(volume).unwrap_or("nothing that mif knows");
        findings.unknown(
            Subject::Root,
            format!("root={root}"),
            format!("{volume} holds {what}, which mif cannot look into"),
        );
        return;
    };
    let place = format!("root={root}");
    if let Some(kind) = booting.argument("rootfstype")
        && !kind
            .split(',')
            .any(|kind| kind == info.kind || kind == "auto" || kind == "ext4" && info.kind.starts_with("ext"))
    {
        findings
            .bad(Subject::Root, place, format!("rootfstype={kind}, but {volume} has {}", info.kind))
            .advise("Remove rootfstype= from the boot loader's configuration");
        return;
    }
    let mut folder = String::new();
    if let Some(flags) = booting.argument("rootflags") {
        let subvolume = flags.split(',').filter_map(|flag| flag.strip_prefix("subvol=")).next_back();
        if let Some(subvolume) = subvolume {
            folder = format!("/{}", subvolume.trim_matches('/'));
            if !look.has(volume, &folder) {
                findings
                    .bad(
                        Subject::Root,
                        place,
                        format!("rootflags name the subvolume {subvolume}, which {volume} does not have"),
                    )
                    .advise("Name the subvolume with the system");
                return;
            }
        } else if flags.contains("subvolid=") {
            findings.unknown(
                Subject::Root,
                place,
                "rootflags name a subvolume by its number, which mif does not follow",
            );
            return;
        }
    }
    let own = look
        .tree
        .roots()
        .iter()
        .find(|root| root.volume() == volume && (folder.is_empty() || root.place.path_text() == folder));
    let Some(own) = own else {
        findings
            .bad(Subject::Root, place, format!("{volume} has no system"))
            .advise("Name the volume with the system");
        return;
    };
    let init = booting.argument("init");
    let candidates = match init {
        Some(init) => vec![init],
        None => vec!["/sbin/init", "/etc/init", "/bin/init"],
    };
    match candidates.iter().find(|path| look.in_root(own, path).is_some()) {
        Some(path) => {
            let stable = match Device::of(look, root) {
                Device::Unstable(_) => ", by a name that depends on the machine",
                _ => "",
            };
            let text = format!("{volume} has {} and the system, which starts with {path}{stable}", info.kind);
            findings.good(Subject::Root, place, text);
        }
        None => {
            let reason = format!("{volume} has no {}, which the kernel starts", candidates[0]);
            findings.bad(Subject::Root, place, reason).advise("Install an init system in the image");
        }
    }
}
