//! The kernel: its form, its machine, its release, and the indexes of its modules.

use std::borrow::Cow;

use mif_formats::Source;
use mif_formats::wrapper::{HEAD, Kind};

use super::booting::{Booting, Part};
use super::finding::{Findings, Subject};
use super::look::Look;
use super::modules::{Modules, normal};
use crate::guest::pe;
use crate::guest::probe::kernel_release;
use crate::tree::mounts::Root;

/// The largest index of modules that is read, in bytes.
const MAX_INDEX: u64 = 16 << 20;

/// How much of a kernel contains its header and version.
const HEAD_LEN: u64 = 64 << 10;

/// A kernel.
pub(super) struct Kernel {
    /// Its release, as `uname -r` prints it.
    pub(super) release: String,
    /// The indexes of its modules on the root filesystem.
    pub(super) modules: Modules,
    /// The options that it was built with that are `y`, if the image says so.
    options: Option<Vec<String>>,
}

/// Whether a driver is part of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Builtin {
    Yes,
    No,
    Unknown,
}

/// The options that build a module into the kernel (the Kconfig files of Linux).
const OPTIONS: &[(&str, &str)] = &[
    ("virtio_pci", "VIRTIO_PCI"),
    ("virtio_blk", "VIRTIO_BLK"),
    ("virtio_scsi", "SCSI_VIRTIO"),
    ("virtio_net", "VIRTIO_NET"),
    ("sd_mod", "BLK_DEV_SD"),
    ("nvme", "BLK_DEV_NVME"),
    ("ahci", "SATA_AHCI"),
    ("ata_piix", "ATA_PIIX"),
    ("vmw_pvscsi", "VMWARE_PVSCSI"),
    ("sym53c8xx", "SCSI_SYM53C8XX_2"),
    ("mptspi", "FUSION_SPI"),
    ("mptsas", "FUSION_SAS"),
    ("megaraid_sas", "MEGARAID_SAS"),
    ("hv_vmbus", "HYPERV"),
    ("hv_storvsc", "HYPERV_STORAGE"),
    ("hv_netvsc", "HYPERV_NET"),
    ("xen_blkfront", "XEN_BLKDEV_FRONTEND"),
    ("xen_netfront", "XEN_NETDEV_FRONTEND"),
    ("e1000", "E1000"),
    ("e1000e", "E1000E"),
    ("vmxnet3", "VMXNET3"),
    ("pcnet32", "PCNET32"),
    ("ena", "ENA_ETHERNET"),
    ("gve", "GVE"),
    ("ext4", "EXT4_FS"),
    ("xfs", "XFS_FS"),
    ("btrfs", "BTRFS_FS"),
    ("vfat", "VFAT_FS"),
    ("dm_mod", "BLK_DEV_DM"),
    ("dm_crypt", "DM_CRYPT"),
];

impl Kernel {
    /// Returns whether a module is part of the kernel.
    pub(super) fn builtin(&self, name: &str) -> Builtin {
        let name = normal(name);
        if self.modules.is_builtin(&name) {
            return Builtin::Yes;
        }
        let option = OPTIONS.iter().find(|(module, _)| *module == name).map(|(_, option)| *option);
        if let (Some(options), Some(option)) = (&self.options, option) {
            let has = options.iter().any(|it| it == option);
            return if has { Builtin::Yes } else { Builtin::No };
        }
        if self.modules.knows_builtin { Builtin::No } else { Builtin::Unknown }
    }
}

/// Judges the kernel that is booted. `root` is the root filesystem with its modules.
pub(super) fn judge(
    look: &Look<'_>,
    booting: &Booting,
    root: Option<&Root>,
    machine: &str,
    findings: &mut Findings,
) -> Option<Kernel> {
    let Part { place, content, .. } = &booting.kernel;
    let head = match content.read_vec(0, content.len().min(HEAD_LEN) as usize) {
        Ok(head) => head,
        Err(error) => {
            findings.unknown(Subject::Kernel, place, format!("it cannot be read: {error}"));
            return None;
        }
    };
    let reinstall = "Install the kernel's package anew";
    let form = match Form::of(&head, content.len()) {
        Ok(form) => form,
        Err(problem) => {
            findings.bad(Subject::Kernel, place, problem).advise(reinstall);
            return None;
        }
    };
    if let Some(problem) = form.unfit(machine) {
        findings.bad(Subject::Kernel, place, problem).advise(reinstall);
        return None;
    }
    let Some(release) = kernel_release(&head).or_else(|| release_of_path(look, place, root)) else {
        findings.unknown(Subject::Kernel, place, "its release cannot be told, and so its modules");
        return None;
    };
    let folder = root.and_then(|root| {
        let folders = [format!("/lib/modules/{release}"), format!("/usr/lib/modules/{release}")];
        folders.into_iter().find(|folder| look.in_root(root, folder).is_some())
    });
    let read = |folder: &str, name: &str| -> Option<Cow<'static, [u8]>> {
        let row = look.in_root(root?, &format!("{folder}/{name}"))?;
        Some(look.head(row, MAX_INDEX).ok()?.into())
    };
    let modules = match &folder {
        Some(folder) => Modules::parse(|name| read(folder, name)),
        None => Modules::default(),
    };
    let beside = place.rsplit_once('/').map(|(folder, _)| format!("{folder}/config-{release}"));
    let config = folder
        .as_ref()
        .and_then(|folder| read(folder, "config"))
        .or_else(|| read("/boot", &format!("config-{release}")))
        .or_else(|| {
            let (volume, path) = beside.as_ref()?.split_once(':')?;
            Some(look.text(volume, path)?.into_bytes().into())
        });
    let options = config.map(|bytes| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let set = text.lines().filter_map(|line| line.strip_prefix("CONFIG_")?.strip_suffix("=y"));
        set.map(str::to_owned).collect()
    });
    match (&folder, modules.is_empty()) {
        (Some(folder), false) => {
            let reason = format!("Linux {release} for {}, with its modules in {folder}", form.machine());
            findings.good(Subject::Kernel, place, reason);
        }
        (Some(folder), true) => {
            findings
                .unknown(Subject::Kernel, place, format!("{folder} has no index of modules"))
                .advise(format!("Run depmod {release} in the image"));
        }
        (None, _) => {
            findings
                .unknown(
                    Subject::Kernel,
                    place,
                    format!("the root filesystem has no modules for Linux {release}"),
                )
                .advise(reinstall);
        }
    }
    Some(Kernel { release, modules, options })
}

/// Returns the release that a kernel's path names: `vmlinuz-6.1.0-9`, `/lib/modules/6.1.0-9/vmlinuz`; or that of the only
/// modules.
fn release_of_path(look: &Look<'_>, place: &str, root: Option<&Root>) -> Option<String> {
    let releases = root.map_or_else(Vec::new, |root| look.root_list(root, "/lib/modules"));
    let mut parts = place.rsplit(['/', ':']);
    let name = parts.next()?;
    let of_name = name.split_once('-').map(|(_, release)| release.to_owned());
    let of_folder = parts.next().map(str::to_owned);
    let known = [of_name.clone(), of_folder].into_iter().flatten().find(|it| releases.contains(it));
    known
        .or_else(|| of_name.filter(|it| it.starts_with(|c: char| c.is_ascii_digit()) && it.contains('.')))
        .or_else(|| match &releases[..] {
            [only] => Some(only.clone()),
            _ => None,
        })
}

/// The form of a kernel's file.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    /// An x86 kernel, and whether it is a 64-bit one.
    Bz { is_64: bool },
    /// A UEFI program or an Image for arm64.
    Arm64,
    /// A UEFI program for this machine of PE.
    Program(u16),
    /// Compressed, so that its machine is not told.
    Compressed,
}

impl Form {
    fn of(head: &[u8], len: u64) -> Result<Self, String> {
        if head.get(0x202..0x206) == Some(b"HdrS") {
            // Linux, Documentation/arch/x86/boot.rst: setup_sects, syssize, version, xloadflags.
            let sectors = if head[0x1f1] == 0 { 4 } else { u64::from(head[0x1f1]) };
            let paragraphs =
                u64::from(u32::from_le_bytes(head[0x1f4..0x1f8].try_into().expect("four bytes")));
            let needed = (sectors + 1) * 512 + paragraphs * 16;
            if len + 512 < needed {
                return Err(format!("it has {len} bytes, but its header says {needed}: it is truncated"));
            }
            let version = u16::from_le_bytes([head[0x206], head[0x207]]);
            let flags = head.get(0x236..0x238).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
            // Before 2.12 there are no flags.
            return Ok(Form::Bz { is_64: version < 0x20c || flags & 1 != 0 });
        }
        if head.get(0x38..0x3c) == Some(b"ARM\x64") {
            return Ok(Form::Arm64);
        }
        if head.starts_with(b"MZ") {
            let damaged = || "it is no kernel: its header is damaged".to_owned();
            return pe::machine(head).map(Form::Program).ok_or_else(damaged);
        }
        match Kind::of(&head[..head.len().min(HEAD)], len) {
            Some(Kind::Compressed(_)) => Ok(Form::Compressed),
            _ => Err("it is no kernel: expected a bzImage, an Image, or a UEFI program".into()),
        }
    }

    fn unfit(&self, machine: &str) -> Option<String> {
        let fits = match self {
            Form::Bz { is_64 } => matches!((machine, is_64), ("x86_64", true) | ("i686", _)),
            Form::Arm64 => machine == "aarch64",
            Form::Program(0xaa64) => machine == "aarch64",
            Form::Program(0x8664) => machine == "x86_64",
            Form::Program(0x5064) => machine == "riscv64",
            Form::Program(_) | Form::Compressed => true,
        };
        (!fits).then(|| format!("it is for {}, but the system is for {machine}", self.machine()))
    }

    fn machine(&self) -> &'static str {
        match self {
            Form::Bz { is_64: true } | Form::Program(0x8664) => "x86_64",
            Form::Bz { is_64: false } => "i686",
            Form::Arm64 | Form::Program(0xaa64) => "aarch64",
            Form::Program(0x5064) => "riscv64",
            Form::Program(_) | Form::Compressed => "this machine",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_known_by_its_header() {
        let mut head = vec![0; 0x400];
        head[0x1f1] = 1;
        head[0x1f4] = 64;
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        head[0x236] = 1;
        assert_eq!(Form::of(&head, 4096).unwrap(), Form::Bz { is_64: true });
        assert!(Form::of(&head, 1024).unwrap_err().contains("truncated"));
        assert!(Form::Bz { is_64: false }.unfit("x86_64").is_some());
        assert!(Form::Bz { is_64: true }.unfit("aarch64").unwrap().contains("aarch64"));
        assert_eq!(Form::of(b"\x1f\x8b\x08aaaaaaaaaaaaaaaaaaaaaaaa", 100).unwrap(), Form::Compressed);
        assert!(
            Form::of(b"#!/bin/sh", 9).is_err() && Form::of(b"", 0).is_err() && Form::of(b"MZ", 2).is_err()
        );
    }
}
