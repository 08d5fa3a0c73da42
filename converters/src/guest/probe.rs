//! The few files of an image that identify its system, read as that system sees them.

use mif_formats::fs::FileType;
use mif_formats::mif::manifest::Row;
use serde::Serialize;

use super::os::Os;
use super::registry::{self, SOFTWARE};
use super::windows;
use crate::error::Result;
use crate::tree::mounts::Root;
use crate::tree::path::Place;
use crate::tree::view::Tree;

/// How many bytes of a text file are read at most.
const MAX_TEXT: u64 = 64 << 10;

/// The minimum size of a kernel file in bytes: notes and scripts beside it are smaller.
const MIN_KERNEL: u64 = 64 << 10;

/// How many bytes of a kernel contain its header and version: the version of an x86 kernel is in its setup code of at
/// most 64 sectors.
const KERNEL_HEAD: u64 = 64 << 10;

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// Its release, as `uname -r` prints it: from the kernel itself if possible, or else from the file's name.
    pub release: Option<String>,
    /// The volume that contains it.
    pub volume: String,
    /// Its path there.
    pub path: String,
    /// True if the root filesystem has a directory of modules for it.
    pub modules: bool,
}

/// Returns the operating system of a root filesystem, if it is named.
pub(crate) fn os_of(tree: &Tree, root: &Root) -> Option<Os> {
    Files { tree, complaints: &mut Vec::new() }.identity(root).os
}

/// What the system of a root filesystem calls itself.
#[derive(Default)]
pub(crate) struct Identity {
    pub(crate) os: Option<Os>,
    pub(crate) architecture: Option<String>,
    pub(crate) hostname: Option<String>,
}

/// Programs that every system has one of, for its architecture.
pub(crate) const PROGRAMS: [&str; 5] =
    ["/sbin/init", "/usr/lib/systemd/systemd", "/bin/sh", "/bin/busybox", "/usr/bin/env"];

/// The files of an image. Read errors become complaints.
pub(crate) struct Files<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) complaints: &'a mut Vec<String>,
}

impl Files<'_> {
    /// Reads the first bytes of a regular file, at most `len`, as the system of a root sees it.
    pub(crate) fn head(&mut self, root: &Root, path: &str, len: u64) -> Option<Vec<u8>> {
        let row = self.tree.find_in(root, path.as_bytes(), true).ok()?;
        self.head_of(row, len)
    }

    /// Returns what a system calls itself: Windows in its registry, others in files of text.
    pub(crate) fn identity(&mut self, root: &Root) -> Identity {
        if let Some(identity) = self.windows(root) {
            return identity;
        }
        let text = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| self.text(root, path));
        let architecture = PROGRAMS.iter().find_map(|path| elf_machine(&self.head(root, path, 64)?));
        Identity { os: text.map(|text| Os::parse(&text)), architecture, hostname: self.hostname(root) }
    }

    /// Returns what Windows calls itself; `None` if the root filesystem is not that of Windows.
    fn windows(&mut self, root: &Root) -> Option<Identity> {
        let mut read = |name: &str| match registry::read(
            name,
            |path| self.tree.find_in(root, path, true).ok(),
            self.tree,
        ) {
            Ok(found) => {
                let (hive, complaint) = found?;
                self.complaints.extend(complaint.map(|sentence| format!("{}: {sentence}", root.volume())));
                Some(hive)
            }
            Err(error) => {
                self.complaints.push(format!("{}: {error}", root.volume()));
                None
            }
        };
        let software = read(SOFTWARE)?;
        let system = read("SYSTEM");
        let mut identity = Identity::default();
        let mut complain =
            |name: &str, error| self.complaints.push(format!("{}: {name}: {error}", root.volume()));
        match windows::os(&software) {
            Ok(os) => identity.os = os,
            Err(error) => complain(SOFTWARE, error),
        }
        match system.map_or(Ok(windows::Machine::default()), |system| windows::machine(&system)) {
            Ok(machine) => {
                (identity.architecture, identity.hostname) = (machine.architecture, machine.hostname)
            }
            Err(error) => complain("SYSTEM", error),
        }
        Some(identity)
    }

    fn hostname(&mut self, root: &Root) -> Option<String> {
        let text = self.text(root, "/etc/hostname")?;
        let mut lines = text.lines().map(str::trim);
        lines.find(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
    }

    /// Reads the first bytes of a row's regular file, at most `len`.
    pub(crate) fn head_of(&mut self, row: usize, len: u64) -> Option<Vec<u8>> {
        if self.tree.rows()[row].node.file_type != FileType::File {
            return None;
        }
        let read = || -> Result<Vec<u8>> {
            let content = self.tree.content(row)?;
            Ok(content.read_vec(0, content.len().min(len) as usize)?)
        };
        match read() {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                let row = &self.tree.rows()[row];
                self.complaints.push(format!("{}:{}: {error}", row.volume, row.path_text()));
                None
            }
        }
    }

    pub(crate) fn text(&mut self, root: &Root, path: &str) -> Option<String> {
        Some(String::from_utf8_lossy(&self.head(root, path, MAX_TEXT)?).into_owned())
    }

    /// Returns the kernels in the directories that boot loaders search. `/boot` may be a volume of its own.
    pub(crate) fn kernels(&mut self, root: Option<&Root>) -> Vec<Kernel> {
        let is_boot_folder = |folder: &[u8]| matches!(folder, b"/" | b"/boot/");
        // The root, or /boot, may be a subvolume.
        let is_in_boot = |row: &Row| {
            let place = Place { volume: row.volume.clone(), path: row.path.clone() };
            let seen = self.tree.roots().iter().find_map(|root| root.path_of(&place));
            seen.is_some_and(|seen| {
                is_boot_folder(&seen[..seen.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1)])
            })
        };
        let is_kernel = |row: &Row| {
            let name = row.path.rsplit(|b| *b == b'/').next().unwrap_or(&[]);
            let named = ["vmlinuz", "vmlinux", "bzImage", "zImage", "Image", "kernel"];
            row.node.file_type == FileType::File
                && row.node.size >= MIN_KERNEL
                && named.iter().any(|start| name.starts_with(start.as_bytes()))
                && (is_boot_folder(&row.path[..row.path.len() - name.len()]) || is_in_boot(row))
        };
        let rows = self.tree.rows();
        let found: Vec<usize> = (0..rows.len()).filter(|i| is_kernel(&rows[*i])).collect();
        let kernels = found.into_iter().filter_map(|i| {
            let head = self.head_of(i, KERNEL_HEAD)?;
            let row = &self.tree.rows()[i];
            let name = row.path.rsplit(|b| *b == b'/').next().unwrap_or(&[]);
            let of_name = || {
                let (_, release) = std::str::from_utf8(name).ok()?.split_once('-')?;
                release.starts_with(|c: char| c.is_ascii_digit()).then(|| release.to_owned())
            };
            let release = kernel_release(&head).or_else(of_name);
            let modules = release.as_ref().zip(root).is_some_and(|(release, root)| {
                ["/lib/modules", "/usr/lib/modules"].iter().any(|folder| {
                    self.tree.find_in(root, format!("{folder}/{release}").as_bytes(), true).is_ok()
                })
            });
            Some(Kernel { release, volume: row.volume.clone(), path: row.path_text(), modules })
        });
        kernels.collect()
    }
}

/// Returns the release to which an x86 kernel's setup header points (Linux, Documentation/arch/x86/boot.rst: `header`
/// at 0x202, `kernel_version` at 0x20e, relative to 0x200).
pub(crate) fn kernel_release(head: &[u8]) -> Option<String> {
    if head.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let at = usize::from(u16::from_le_bytes(head.get(0x20e..0x210)?.try_into().ok()?));
    let text = head.get(0x200 + at..).filter(|_| at != 0)?;
    let end = text.iter().take(128).position(|b| b.is_ascii_whitespace() || *b == 0)?;
    let release = std::str::from_utf8(&text[..end]).ok()?;
    release.starts_with(|c: char| c.is_ascii_digit()).then(|| release.to_owned())
}

/// Returns the machine of an ELF program (ELF, "e_machine"), as `uname -m` names it.
pub(crate) fn elf_machine(head: &[u8]) -> Option<String> {
    if head.get(..4)? != b"\x7fELF" {
        return None;
    }
    let (is_64, big_endian) = (head.get(4)? == &2, head.get(5)? == &2);
    let machine: [u8; 2] = head.get(18..20)?.try_into().ok()?;
    let machine = if big_endian { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
    let name = match (machine, is_64, big_endian) {
        (3, ..) => "i686",
        // x32 programs use 32-bit addresses on a 64-bit machine.
        (62, ..) => "x86_64",
        (40, _, false) => "arm",
        (40, _, true) => "armeb",
        (183, _, false) => "aarch64",
        (183, _, true) => "aarch64_be",
        (8, true, true) => "mips64",
        (8, _, true) => "mips",
        (8, true, false) => "mips64el",
        (8, _, false) => "mipsel",
        (20, ..) => "ppc",
        (21, _, true) => "ppc64",
        (21, _, false) => "ppc64le",
        (22, true, _) => "s390x",
        (22, false, _) => "s390",
        (243, true, _) => "riscv64",
        (243, false, _) => "riscv32",
        (258, true, _) => "loongarch64",
        _ => return Some(format!("ELF machine {machine}")),
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_named_as_uname_does() {
        let elf = |class: u8, data: u8, machine: [u8; 2]| {
            let mut head = b"\x7fELF".to_vec();
            head.extend([class, data]);
            head.resize(18, 0);
            head.extend(machine);
            elf_machine(&head)
        };
        assert_eq!(elf(2, 1, [62, 0]).as_deref(), Some("x86_64"));
        assert_eq!(elf(2, 1, [183, 0]).as_deref(), Some("aarch64"));
        assert_eq!(elf(2, 2, [0, 22]).as_deref(), Some("s390x"));
        assert_eq!(elf(2, 2, [0, 21]).as_deref(), Some("ppc64"));
        assert_eq!(elf(1, 1, [1, 2]).as_deref(), Some("ELF machine 513"));
        assert_eq!(elf_machine(b"#!/bin/sh"), None);
        assert_eq!(elf_machine(b"\x7fELF\x02"), None);
    }

    #[test]
    fn a_kernel_says_its_release() {
        let mut head = vec![0; 0x400];
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        head[0x300..0x310].copy_from_slice(b"6.1.0-9-x (a@b)\0");
        assert_eq!(kernel_release(&head).as_deref(), Some("6.1.0-9-x"));
        head[0x20e..0x210].copy_from_slice(&0xfff0u16.to_le_bytes());
        assert_eq!(kernel_release(&head), None);
        assert_eq!(kernel_release(&head[..0x204]), None);
    }
}
