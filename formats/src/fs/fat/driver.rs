//! The driver of FAT.

use std::sync::Arc;

use super::plan::{Params, Plan, minimum_size};
use super::{bpb, is_boot_sector, probe};
use crate::error::Result;
use crate::fs::capabilities::Capabilities;
use crate::fs::driver::{Driver, NewVolume};
use crate::fs::filesystem::Filesystem;
use crate::fs::node::Timestamp;
use crate::fs::plan::{Planned, Planner, Tree};
use crate::source::Source;

/// FAT12, FAT16 and FAT32.
pub(in crate::fs) struct Fat;

/// The capabilities of FAT. Times are from 1980 to the end of 2107, in steps of two seconds.
pub(super) static CAPABILITIES: Capabilities = Capabilities {
    name: "FAT",
    is_posix: false,
    ignores_case: true,
    times: (315_532_800, 4_354_819_198),
    time_step: 2_000_000_000,
    shares_extents: false,
    has_subvolumes: false,
    has_streams: false,
    is_planned: true,
    // Read-only, hidden, system.
    user_flags: 0x7,
    // The archive bit, and the directory bit.
    new_flags: [0x20, 0x10],
    label_max: 11,
    made_with: &[],
};

/// If the kind is open, volumes smaller than the first limit are FAT12, and those smaller than the second FAT16; in
/// bytes.
const FAT16_FROM: u64 = 4 << 20;
const FAT32_FROM: u64 = 512 << 20;

impl Driver for Fat {
    fn name(&self) -> &'static str {
        "FAT"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["fat", "fat12", "fat16", "fat32"]
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn probe(&self, head: &[u8]) -> bool {
        probe(head)
    }

    fn is_certain(&self, head: &[u8]) -> bool {
        head.get(..bpb::SIZE).is_some_and(is_boot_sector)
    }

    fn open(&self, volume: Arc<dyn Source>) -> Result<Box<dyn Filesystem>> {
        Ok(Box::new(super::Fat::open(volume)?))
    }

    fn planner(&self, volume: Arc<dyn Source>) -> Result<Box<dyn Planner>> {
        Ok(Box::new(Params::from_volume(volume)?))
    }

    fn new_planner(&self, volume: &NewVolume<'_>) -> Result<Box<dyn Planner>> {
        let kind = match (volume.kind, volume.size) {
            ("fat", ..FAT16_FROM) => "fat12",
            ("fat", ..FAT32_FROM) => "fat16",
            ("fat", _) => "fat32",
            (kind, _) => kind,
        };
        let mut params = Params::new(kind, volume.size)?;
        Params::set_sector_size(&mut params, volume.sector_size)?;
        params.volume_id = number(&volume.id);
        if !volume.label.is_empty() {
            let mut padded = [b' '; 11];
            padded[..volume.label.len()].copy_from_slice(volume.label);
            params.label = Some(padded);
            params.label_written = Some(Timestamp { secs: volume.time.into(), nanos: 0 });
        }
        Ok(Box::new(params))
    }

    fn label(&self, text: &str) -> Option<Vec<u8>> {
        let bad = |c: char| !c.is_ascii() || c.is_control() || "\"*+,./:;<=>?[\\]|".contains(c);
        let fits = text.len() <= CAPABILITIES.label_max && !text.chars().any(bad);
        fits.then(|| text.to_ascii_uppercase().into_bytes())
    }

    fn id(&self, text: &str) -> Option<[u8; 16]> {
        let digits = text.replace('-', "");
        let number = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 8)?;
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_le_bytes());
        Some(id)
    }

    fn id_text(&self, id: &[u8; 16]) -> String {
        let number = number(id).max(1);
        format!("{:04X}-{:04X}", number >> 16, number & 0xFFFF)
    }
}

/// Returns the serial number for an identity: its first four bytes.
fn number(id: &[u8; 16]) -> u32 {
    u32::from_le_bytes([id[0], id[1], id[2], id[3]])
}

impl Planner for Params {
    fn size(&self) -> u64 {
        Params::size(self)
    }

    fn resize(&mut self, size: u64) {
        Params::resize(self, size);
    }

    fn set_sector_size(&mut self, bytes: u32) -> Result<()> {
        Params::set_sector_size(self, bytes)
    }

    fn set_id(&mut self, id: &[u8; 16]) {
        // Zero means none.
        self.volume_id = number(id).max(1);
    }

    fn plan<'t>(&self, tree: &'t Tree) -> Result<Box<dyn Planned + 't>> {
        Ok(Box::new(Plan::new(tree, self.clone())?))
    }

    fn minimum(&self, tree: &Tree) -> Result<u64> {
        minimum_size(tree, self)
    }
}
