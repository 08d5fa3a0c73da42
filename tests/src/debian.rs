//! Real Debian disks: trees from the Debian archive (`fixtures/debian-tree`, `fixtures/debian-changed`, kept in the
//! cache), disks from `fixtures/debian-disk`, booted by `fixtures/boot`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::{cache, is_root, repo, run, skip, tool};

/// The tools for making, comparing and booting such disks.
pub const TOOLS: &[&str] = &[
    "mmdebstrap",
    "mke2fs",
    "debugfs",
    "sgdisk",
    "sfdisk",
    "mcopy",
    "mkfs.vfat",
    "qemu-img",
    "qemu-system-x86_64",
    "grub-mkimage",
];

/// Returns the tar of a small Debian; `None`, with a loud notice, if the archive cannot be reached.
#[must_use]
pub fn tree() -> Option<PathBuf> {
    static TREE: OnceLock<Option<PathBuf>> = OnceLock::new();
    TREE.get_or_init(|| made(&mut tool(repo().join("fixtures/debian-tree")))).clone()
}

/// Returns the tar of such a tree after running a shell command in it; `None`, with a loud notice, if the archive
/// cannot be reached.
#[must_use]
pub fn changed(tree: &Path, command: &str) -> Option<PathBuf> {
    made(tool(repo().join("fixtures/debian-changed")).arg(tree).arg(command))
}

/// Runs a script that prints the path of a tree.
fn made(script: &mut Command) -> Option<PathBuf> {
    let output = script.env("MIF_CACHE", cache()).output().unwrap();
    match output.status.code() {
        Some(0) => Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())),
        Some(3) => {
            let _ = skip("THE DEBIAN ARCHIVE CANNOT BE REACHED");
            None
        }
        _ => panic!("{script:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// Makes a raw disk from the tree.
pub fn make_disk(tree: &Path, out: &Path, options: &str) {
    // Only root can have the kernel fill the disk.
    let options =
        if is_root() { options.to_owned() } else { options.replace("--fill kernel", "--fill mke2fs") };
    run(tool(repo().join("fixtures/debian-disk")).arg(tree).arg(out).args(options.split_whitespace()));
}

/// Boots a disk until its serial port prints `expect`; returns all that it printed.
pub fn boot(disk: &Path, efi: bool, expect: &str) -> String {
    let log = disk.with_extension("log");
    let mut boot = tool(repo().join("fixtures/boot"));
    boot.arg(disk).args(["--expect", expect, "--log"]).arg(&log);
    if efi {
        boot.arg("--efi");
    }
    run(&mut boot);
    String::from_utf8_lossy(&std::fs::read(log).expect("the log was written")).into_owned()
}

/// Returns the tar of a Debian of these packages; `None`, with a loud notice, if the archive cannot be reached.
#[must_use]
pub fn tree_of(packages: &[&str]) -> Option<PathBuf> {
    made(tool(repo().join("fixtures/debian-tree")).args(packages))
}

/// Boots a disk on a controller, as `mif check --disk` names it; returns true if it comes to a login prompt, or to where
/// one is due: on a loaded machine, systemd gives up waiting for the serial port.
#[must_use]
pub fn boots_on(disk: &Path, efi: bool, controller: &str) -> bool {
    boots_with(disk, efi, controller, 512)
}

/// Like [`boots_on`], on a disk with logical sectors of `sector` bytes.
#[must_use]
pub fn boots_with(disk: &Path, efi: bool, controller: &str, sector: u32) -> bool {
    let log = disk.with_extension(format!("{controller}-{efi}.log"));
    let mut boot = tool(repo().join("fixtures/boot"));
    boot.arg(disk).args(["--disk", controller, "--sector-size", &sector.to_string()]);
    boot.args(["--timeout", "600", "--log"]).arg(&log);
    if efi {
        boot.arg("--efi");
    }
    let output = boot.output().expect("the script runs");
    let printed = std::fs::read(&log).expect("the log was written");
    match output.status.code() {
        Some(0) => true,
        Some(1) => String::from_utf8_lossy(&printed).contains("multi-user.target"),
        _ => panic!("{boot:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}
