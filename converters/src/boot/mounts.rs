//! The mounts of `/etc/fstab`: systemd waits for their devices, and stops the boot if one does not come.

use super::finding::{Findings, Subject};
use super::kernel::{Builtin, Kernel};
use super::look::Look;
use super::machine::Controller;
use super::modules::normal;
use super::roots::Device;
use crate::store::volume_name;
use crate::tree::fstab::{Fields, fields};
use crate::tree::mounts::Root;

/// Filesystem types that need no disk of the machine, such as tmpfs and proc.
const OTHERS: &[&str] = &[
    "tmpfs",
    "proc",
    "sysfs",
    "devpts",
    "devtmpfs",
    "overlay",
    "none",
    "cgroup",
    "cgroup2",
    "securityfs",
    "debugfs",
    "tracefs",
    "hugetlbfs",
    "mqueue",
    "efivarfs",
    "binfmt_misc",
    "bpf",
    "fuse",
    "ramfs",
    "configfs",
    "pstore",
    "autofs",
];

/// Types over a network, or shared by the host.
const REMOTE: &[&str] = &["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "glusterfs", "fuse.sshfs"];

/// Judges the mounts of a system.
pub(super) fn judge(
    look: &Look<'_>,
    root: &Root,
    kernel: Option<&Kernel>,
    controller: &Controller,
    findings: &mut Findings,
) {
    let Some(text) = look.root_text(root, "/etc/fstab") else {
        findings.good(Subject::Mounts, "/etc/fstab", "there is no fstab, so nothing else is mounted");
        return;
    };
    let Some(row) = look.in_root(root, "/etc/fstab") else { return };
    let place = look.place(row);
    let is_systemd = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"]
        .iter()
        .any(|path| look.in_root(root, path).is_some());
    encrypted(look, root, findings);
    let before = findings.0.len();
    let mut count = 0;
    for line in fields(text.as_bytes()).take(1000) {
        let mount = Mount::of(&line);
        if mount.is_ignored() {
            continue;
        }
        count += 1;
        one(look, &mount, (&place, is_systemd), kernel, controller, findings);
    }
    if findings.0[before..].iter().all(|it| it.verdict == super::finding::Judgement::Good) {
        findings.good(
            Subject::Mounts,
            place,
            format!("every device that it mounts is on the disk ({count})"),
        );
    }
}

/// Judges `/etc/crypttab`: systemd asks for the passwords of its volumes.
fn encrypted(look: &Look<'_>, root: &Root, findings: &mut Findings) {
    let text = look.root_text(root, "/etc/crypttab").unwrap_or_default();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let asked = lines.find(|line| !line.contains("noauto") && !line.contains("nofail"));
    if let Some(line) = asked {
        let name = line.split_ascii_whitespace().next().unwrap_or_default();
        findings
            .unknown(
                Subject::Mounts,
                "/etc/crypttab",
                format!("the system opens the encrypted volume {name}, with a key that mif does not follow"),
            )
            .advise("Boot the image once on a machine like the target to find out");
    }
}

/// A line of an fstab as text.
struct Mount {
    what: String,
    point: String,
    kind: String,
    options: Vec<String>,
}

impl Mount {
    fn of(line: &Fields) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Mount {
            what: text(&line.what).replace('"', ""),
            point: text(&line.point),
            kind: text(&line.kind),
            options: text(&line.options).split(',').map(str::to_owned).collect(),
        }
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|it| it == option)
    }

    /// Returns true if the boot does not wait for it.
    fn is_ignored(&self) -> bool {
        let is_bind = self.has("bind") || self.has("rbind");
        is_bind
            || self.has("noauto")
            || self.has("nofail")
            || OTHERS.contains(&&self.kind[..])
            || self.what == "none"
            || self.has("x-systemd.automount")
    }

    fn is_swap(&self) -> bool {
        self.kind == "swap"
    }
}

fn one(
    look: &Look<'_>,
    mount: &Mount,
    (place, is_systemd): (&str, bool),
    kernel: Option<&Kernel>,
    controller: &Controller,
    findings: &mut Findings,
) {
    let Mount { what, point, .. } = mount;
    if REMOTE.contains(&&mount.kind[..]) {
        findings
            .unknown(
                Subject::Mounts,
                place,
                format!("{point} is {what}, of which only the machine knows whether it comes"),
            )
            .advise("Add the option nofail if the system is of use without it");
        return;
    }
    let volume = match Device::of(look, what) {
        Device::Stable(volume) => volume,
        Device::Unstable(slot) => {
            let volume = volume_name(slot);
            let expected =
                if slot == 0 { format!("/dev/{}", controller.device) } else { controller.partition(slot) };
            let there = look.volumes.iter().any(|record| record.volume == volume);
            if *what != expected || !there {
                renamed(look, mount, &volume, &expected, place, is_systemd, findings);
                return;
            }
            volume
        }
        Device::Double => {
            findings.unknown(
                Subject::Mounts,
                place,
                format!("two volumes of the disk answer to {what}, for {point}"),
            );
            return;
        }
        Device::Missing | Device::Foreign => {
            missing(mount, place, is_systemd, findings);
            return;
        }
        Device::Other if what.starts_with('/') && !what.starts_with("/dev/") => {
            // A file, such as one for swap.
            if look.tree.roots().iter().all(|root| look.in_root(root, what).is_none()) {
                missing(mount, place, is_systemd, findings);
            }
            return;
        }
        Device::Other => {
            findings.unknown(
                Subject::Mounts,
                place,
                format!("mif does not know the device {what}, for {point}"),
            );
            return;
        }
    };
    let Some(info) = look.filesystem(&volume) else {
        if !mount.is_swap() {
            let reason = format!("{what}, for {point}, is {volume}, which has no filesystem that mif reads");
            findings.unknown(Subject::Mounts, place, reason);
        }
        return;
    };
    let kinds = |kind: &str| -> &'static [&'static str] {
        match kind {
            "ext2" | "ext3" | "ext4" => &["ext2", "ext3", "ext4"],
            "vfat" | "msdos" => &["fat", "vfat"],
            "xfs" => &["xfs"],
            "btrfs" => &["btrfs"],
            "ntfs" | "ntfs3" | "ntfs-3g" => &["ntfs"],
            _ => &[],
        }
    };
    let accepted = kinds(&mount.kind);
    let real = info.kind.to_ascii_lowercase();
    if !accepted.is_empty() && !accepted.iter().any(|it| real.contains(it)) && point != "/" {
        let reason = format!("it mounts {what} as {}, but {volume} has {}", mount.kind, info.kind);
        findings.bad(Subject::Mounts, place, reason).advise("Correct the type in fstab");
        return;
    }
    // The driver is loaded from the root filesystem by now.
    let driver = if real.contains("fat") { "vfat" } else { &real };
    if let Some(kernel) = kernel
        && point != "/"
        && !kernel.modules.is_empty()
        && !(driver == "ext2" || driver == "ext3")
        && kernel.builtin(driver) == Builtin::No
        && kernel.modules.with_dependencies(&normal(driver)).is_err()
    {
        let reason = format!("Linux {} has no driver {driver}, which {point} needs", kernel.release);
        let finding = if is_systemd {
            findings.bad(Subject::Mounts, place, reason)
        } else {
            findings.unknown(Subject::Mounts, place, reason)
        };
        finding.advise("Install a kernel that has it, or add the option nofail");
    }
}

/// Judges a device name that depends on the machine.
fn renamed(
    look: &Look<'_>,
    mount: &Mount,
    volume: &str,
    expected: &str,
    place: &str,
    is_systemd: bool,
    findings: &mut Findings,
) {
    let Mount { what, point, .. } = mount;
    let reason = match look.volumes.iter().any(|record| record.volume == volume) {
        true => format!("{what}, for {point}, has another name on this machine: {expected}"),
        false => format!("{what}, for {point}, means {volume}, which the disk does not have"),
    };
    let uuid = look.filesystem(volume).and_then(|info| info.uuid.clone());
    let finding = match (mount.is_swap(), is_systemd && point != "/") {
        // The boot goes on after a time-out.
        (true, _) => findings.good(
            Subject::Mounts,
            place,
            format!("{reason}; the boot waits for it, and goes on without"),
        ),
        (false, true) => findings.bad(Subject::Mounts, place, reason),
        (false, false) => findings.unknown(Subject::Mounts, place, reason),
    };
    if let Some(uuid) = uuid {
        finding.advise(format!("Use UUID={uuid}"));
        let script = format!("s,^([ \t]*){what}([ \t]),\\1UUID={uuid}\\2,");
        finding.mend("edit", &[("path", place.into()), ("script", script.into())]);
    }
}

/// Judges a device that the disk does not have.
fn missing(mount: &Mount, place: &str, is_systemd: bool, findings: &mut Findings) {
    let Mount { what, point, .. } = mount;
    let reason = format!("it mounts {what} on {point}, which the disk does not have");
    if mount.is_swap() {
        findings
            .good(
                Subject::Mounts,
                place,
                format!(
                    "it has the swap device {what}, which is not there: the boot waits for it, and goes on"
                ),
            )
            .advise("Remove the line");
        return;
    }
    let finding = if is_systemd && point != "/" {
        findings.bad(Subject::Mounts, place, reason)
    } else {
        findings.unknown(Subject::Mounts, place, reason)
    };
    finding.advise("Remove the line, or add the option nofail");
    let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "=/-_.:".contains(c));
    if is_plain(what) && is_plain(point) && point != "/" {
        // The options are the fourth field.
        let script = format!(
            "s,^([ \t]*\"?{}\"?[ \t]+{}[ \t]+[^ \t]+[ \t]+[^ \t]+),\\1\\,nofail,",
            what.replace('.', "\\."),
            point.replace('.', "\\.")
        );
        finding.mend("edit", &[("path", place.into()), ("script", script.into())]);
    }
}
