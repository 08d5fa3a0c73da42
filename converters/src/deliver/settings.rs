//! The machine that an archive describes beside its disk, as the user wants it.

use mif_formats::container::CreateOptions;

use crate::error::{Error, Result};
use crate::guest::system::System;
use crate::notation::size_in_bytes;

const MIB: u64 = 1 << 20;
/// The limits of VMware's hardware version, and what a small server has.
const MAX_CPUS: u64 = 128;
const MAX_MEMORY: u64 = 6 << 40;
const MEMORY: u64 = 2 << 30;

/// The settings of a machine.
#[derive(Debug)]
pub(super) struct Settings {
    /// The number of processors.
    pub(super) cpus: u64,
    /// Its memory in MiB.
    pub(super) memory: u64,
    /// True if it starts by EFI instead of a BIOS.
    pub(super) is_efi: bool,
}

impl Settings {
    /// Reads the options. The firmware is by default a BIOS if the disk boots from one, or else EFI if it has a program
    /// for it.
    pub(super) fn new(options: &CreateOptions, system: &System) -> Result<Self> {
        let text = |key| options.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
        let bad =
            |key: &str, value: &str, wanted: &str| Error::usage(format!("{key}={value}: expected {wanted}"));
        let cpus = match text("cpus") {
            None => 1,
            Some(value) => value
                .parse()
                .ok()
                .filter(|cpus| (1..=MAX_CPUS).contains(cpus))
                .ok_or_else(|| bad("cpus", value, &format!("a number from 1 to {MAX_CPUS}")))?,
        };
        let memory = match text("memory") {
            None => MEMORY,
            Some(value) => size_in_bytes(value)
                .ok()
                .filter(|bytes| (4 * MIB..=MAX_MEMORY).contains(bytes) && bytes.is_multiple_of(4 * MIB))
                .ok_or_else(|| bad("memory", value, "a multiple of 4M, such as 2G"))?,
        };
        let boots = |method| system.boot.iter().any(|boot| boot.method == method);
        let is_efi = match text("firmware") {
            None => boots("UEFI") && !boots("BIOS"),
            Some("bios") => false,
            Some("efi" | "uefi") => true,
            Some(value) => return Err(bad("firmware", value, "bios or efi")),
        };
        Ok(Settings { cpus, memory: memory / MIB, is_efi })
    }
}
