//! The description of a disk to build, in TOML.

use std::path::{Path, PathBuf};

use mif_formats::fs::{self, Driver};
use mif_formats::partition::types::{BASIC_DATA, BIOS_BOOT, ESP, ESP_IN_MBR, LINUX, SWAP};
use mif_formats::partition::{SECTOR_SIZES, TableKind};
use mif_formats::uuid;
use serde::Deserialize;

use super::path::TreePath;
use crate::error::{Error, Result};
use crate::host::named;
use crate::notation::size_in_bytes;

/// A disk to build.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Description {
    /// `gpt`, `mbr` or `none`.
    pub(super) table: TableKind,
    /// The disk's size. If `None`, as much as the volumes need.
    #[serde(default)]
    pub(super) size: Option<Bytes>,
    /// Partitions begin at multiples of this.
    #[serde(default = "one_mebibyte")]
    pub(super) align: Bytes,
    /// The logical sector size of the disk in bytes: 512 or 4096.
    #[serde(default = "usual_sector")]
    pub(super) sector_size: u32,
    /// GPT: the disk's GUID. MBR: its signature, as 8 hex digits.
    #[serde(default)]
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) boot: Boot,
    #[serde(rename = "volume")]
    pub(super) volumes: Vec<VolumeDescription>,
}

/// Boot code outside the filesystems.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Boot {
    /// A file for the first 440 bytes of the disk.
    #[serde(default)]
    pub(super) mbr: Option<PathBuf>,
    /// A file for the BIOS boot partition, or the gap behind an MBR: GRUB's core image.
    #[serde(default)]
    pub(super) core: Option<PathBuf>,
}

/// A volume of the disk.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct VolumeDescription {
    /// The slot. If `None`, the next free one.
    #[serde(default)]
    pub(super) slot: Option<u32>,
    /// The directory of the tree whose files it contains.
    #[serde(default)]
    pub(super) mount: Option<String>,
    /// The filesystem: `ext4`, `ext3`, `ext2`, `fat`, `fat12`, `fat16`, `fat32`, `swap`; `None` to leave the volume
    /// empty.
    #[serde(default)]
    pub(super) fs: Option<String>,
    #[serde(default)]
    pub(super) size: VolumeSize,
    #[serde(default)]
    pub(super) label: Option<String>,
    /// The filesystem's ID: a UUID, or for FAT ABCD-1234.
    #[serde(default)]
    pub(super) uuid: Option<String>,
    /// ext: features in the syntax of `mke2fs -O`.
    #[serde(default)]
    pub(super) features: String,
    /// ext: the block size in bytes.
    #[serde(default)]
    pub(super) block_size: Option<u32>,
    /// ext: the total number of inodes.
    #[serde(default)]
    pub(super) inodes: Option<u64>,
    /// The partition's type: `linux`, `esp`, `bios`, `swap`, `data`, or a GUID or `0x83`.
    #[serde(default, rename = "type")]
    pub(super) type_id: Option<String>,
    /// GPT: the partition's name.
    #[serde(default)]
    pub(super) name: Option<String>,
    /// GPT: the partition's GUID.
    #[serde(default)]
    pub(super) id: Option<String>,
    /// MBR: true to mark the partition as active.
    #[serde(default)]
    pub(super) active: bool,
}

/// A number of bytes, written with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Bytes(pub(super) u64);

/// The size of a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum VolumeSize {
    /// All remaining space; on a disk without a size, the minimum plus a quarter.
    #[default]
    Rest,
    /// The minimum size, plus this many bytes.
    Least(u64),
    /// This many bytes.
    Bytes(u64),
}

fn one_mebibyte() -> Bytes {
    Bytes(1 << 20)
}

/// The usual logical sector size in bytes.
pub(super) const SECTOR: u32 = 512;

fn usual_sector() -> u32 {
    SECTOR
}

impl TryFrom<String> for Bytes {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        size_in_bytes(&text).map(Bytes)
    }
}

impl TryFrom<String> for VolumeSize {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Ok(match (text.as_str(), text.strip_prefix('+')) {
            ("rest", _) => VolumeSize::Rest,
            ("min", _) => VolumeSize::Least(0),
            (_, Some(more)) => VolumeSize::Least(size_in_bytes(more)?),
            (text, None) => VolumeSize::Bytes(size_in_bytes(text)?),
        })
    }
}

impl Description {
    /// Reads the file at `path`. The files it names are relative to its directory. `sector_size` replaces that of the
    /// description.
    pub(super) fn read(path: &Path, sector_size: Option<u32>) -> Result<Self> {
        let text = named::read_text(path)?;
        let mut description = Self::parse(&text, sector_size).map_err(|e| {
            let message = format!("{}: {}", path.display(), e.message());
            match e.advice() {
                Some(advice) => Error::usage(message).advise(advice),
                None => Error::usage(message),
            }
        })?;
        let beside = path.parent().unwrap_or(Path::new(""));
        for file in [&mut description.boot.mbr, &mut description.boot.core].into_iter().flatten() {
            *file = beside.join(&*file);
        }
        Ok(description)
    }

    fn parse(text: &str, sector_size: Option<u32>) -> Result<Self> {
        let mut description: Description =
            toml::from_str(text).map_err(|e| Error::usage(named::toml_problem(text, &e)))?;
        description.sector_size = sector_size.unwrap_or(description.sector_size);
        description.check()?;
        Ok(description)
    }

    /// Assigns a slot and a type to every volume, and checks the description.
    fn check(&mut self) -> Result<()> {
        let kind = self.table;
        let last = match kind {
            TableKind::None => 0,
            TableKind::Mbr => 4,
            TableKind::Gpt => 128,
        };
        if self.volumes.is_empty() || kind == TableKind::None && self.volumes.len() > 1 {
            return Err(Error::usage("expected at least one [[volume]], or exactly one if table = \"none\""));
        }
        if !self.align.0.is_multiple_of(4096) || self.align.0 == 0 {
            return Err(Error::usage("align must be a multiple of 4096"));
        }
        if !SECTOR_SIZES.contains(&self.sector_size) {
            return Err(Error::usage(format!("sector-size = {}: expected 512 or 4096", self.sector_size)));
        }
        if self.sector_size != SECTOR && (self.boot.mbr.is_some() || self.boot.core.is_some()) {
            return Err(Error::usage(format!(
                "boot.mbr and boot.core are for a BIOS, which starts no disk with sectors of {} bytes",
                self.sector_size
            )));
        }
        let mut taken: Vec<u32> = self.volumes.iter().filter_map(|volume| volume.slot).collect();
        let mut mounts = Vec::new();
        for volume in &mut self.volumes {
            let slot = match volume.slot {
                Some(slot) => slot,
                None if kind == TableKind::None => 0,
                None => (1..).find(|slot| !taken.contains(slot)).expect("numbers do not end"),
            };
            if volume.slot.is_none() {
                taken.push(slot);
            }
            volume.slot = Some(slot);
            let of = format!("volume {slot}");
            if slot > last || (slot == 0) != (kind == TableKind::None) {
                let problem = match kind {
                    TableKind::None => "the only slot of a disk without a table is 0".to_owned(),
                    _ => format!("the slots of this table are 1 to {last}"),
                };
                return Err(Error::usage(format!("{of}: {problem}")));
            }
            if let Some(mount) = &volume.mount {
                let path = TreePath::parse(mount.as_bytes()).filter(|_| mount.starts_with('/'));
                let path =
                    path.ok_or_else(|| Error::usage(format!("{of}: mount must be an absolute path")))?;
                if mounts.contains(&path) {
                    return Err(Error::usage(format!("{of}: another volume is already mounted on {mount}")));
                }
                mounts.push(path);
                if volume.driver().is_none() {
                    return Err(Error::usage(format!(
                        "{of}: mount needs a filesystem, such as fs = \"ext4\""
                    )));
                }
            }
            if let Some(other) = volume.fs.as_deref().filter(|fs| *fs != "swap" && volume.driver().is_none())
            {
                let planned = fs::drivers().into_iter().filter(|driver| driver.capabilities().is_planned);
                let kinds: Vec<&str> = planned.flat_map(fs::Driver::kinds).copied().collect();
                return Err(Error::unsupported(format!("{of}: mif cannot create fs = \"{other}\""))
                    .advise(format!("The filesystems are {} and swap", kinds.join(", "))));
            }
            if volume.fs.is_none() && !matches!(volume.size, VolumeSize::Bytes(_)) {
                return Err(Error::usage(format!(
                    "{of}: a volume without a filesystem needs a size in bytes"
                )));
            }
            if volume.fs.as_deref() == Some("swap") && matches!(volume.size, VolumeSize::Least(_)) {
                return Err(Error::usage(format!("{of}: swap needs a size other than min")));
            }
            volume.type_id = Some(volume.type_for(kind)?);
        }
        taken.sort_unstable();
        if let Some(pair) = taken.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::usage(format!("slot {} is used twice", pair[0])));
        }
        if self.volumes.iter().filter(|volume| volume.size == VolumeSize::Rest).count() > 1 {
            return Err(Error::usage("only one volume can have size = \"rest\""));
        }
        if self.boot.core.is_some() && kind == TableKind::Gpt && self.bios_boot().is_none() {
            return Err(Error::usage("boot.core needs a volume with type = \"bios\" to go into"));
        }
        Ok(())
    }

    /// Returns the slot of the BIOS boot partition.
    pub(super) fn bios_boot(&self) -> Option<u32> {
        let found = self.volumes.iter().find(|volume| volume.type_id.as_deref() == Some(BIOS_BOOT));
        found.and_then(|volume| volume.slot)
    }
}

impl VolumeDescription {
    /// Returns the driver of its filesystem; `None` for swap and for volumes that stay empty.
    pub(super) fn driver(&self) -> Option<&'static dyn Driver> {
        fs::driver(self.fs.as_deref()?).filter(|driver| driver.capabilities().is_planned)
    }

    /// Returns the partition type in the form of the table.
    fn type_for(&self, kind: TableKind) -> Result<String> {
        let named = match self.type_id.as_deref() {
            Some(named) => named.to_ascii_lowercase(),
            None if matches!(self.mount.as_deref(), Some("/boot/efi" | "/efi")) => "esp".into(),
            None if self.fs.as_deref() == Some("swap") => "swap".into(),
            None if self.driver().is_some_and(|driver| !driver.capabilities().is_posix) => "data".into(),
            None => "linux".into(),
        };
        let (guid, byte) = match named.as_str() {
            "linux" => (LINUX, "0x83"),
            "esp" => (ESP, ESP_IN_MBR),
            "bios" if kind == TableKind::Gpt => (BIOS_BOOT, ""),
            "swap" => (SWAP, "0x82"),
            "data" => (BASIC_DATA, "0x0c"),
            other => (other, other),
        };
        let (type_id, good) = match kind {
            TableKind::Gpt => (guid, uuid::bytes(guid).is_some()),
            TableKind::Mbr => {
                let number = byte.strip_prefix("0x").and_then(|hex| u8::from_str_radix(hex, 16).ok());
                (byte, number.is_some_and(|number| number != 0 && !matches!(number, 5 | 0xf | 0x85 | 0xee)))
            }
            TableKind::None => ("", true),
        };
        if !good {
            return Err(Error::usage(format!("unknown type = \"{named}\" for this table"))
                .advise("The types are linux, esp, bios (GPT only), swap and data; or a GUID (GPT) or a number such as 0x83 (MBR)"));
        }
        Ok(type_id.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        let refused = |text: &str, words: &str| {
            let error = Description::parse(text, None).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        };
        refused("table = 'gpt'", "volume");
        refused("table = 'floppy'\n[[volume]]\nfs='ext4'", "floppy");
        refused(
            "table = 'gpt'\n[[volume]]\nfs='ext4'\ncolour='red'",
            "line 4, column 1: unknown field `colour`",
        );
        refused("table = 'gpt'\n[[volume]]\nfs='xfs'", "cannot create");
        refused("table = 'gpt'\n[[volume]]\nfs='ext4'\n[[volume]]\nfs='ext4'", "only one volume");
        refused("table = 'mbr'\n[[volume]]\nslot=5\nfs='ext4'", "slots of this table are 1 to 4");
        refused("table = 'gpt'\n[[volume]]\nslot=2\nfs='ext4'\n[[volume]]\nslot=2\nsize='1M'", "slot 2");
        refused("table = 'gpt'\n[boot]\ncore='x'\n[[volume]]\nfs='ext4'", "type = \"bios\"");
        refused("table = 'gpt'\n[[volume]]\nfs='ext4'\nsize='1X'", "invalid size");
        refused("table = 'mbr'\n[[volume]]\nfs='ext4'\ntype='0x05'", "unknown type");
        refused("table = 'none'\n[[volume]]\nfs='ext4'\nmount='etc'", "must be an absolute path");
        refused("table = 'gpt'\nsector-size=1000\n[[volume]]\nfs='ext4'", "expected 512 or 4096");
        refused("table = 'mbr'\nsector-size=4096\n[boot]\nmbr='x'\n[[volume]]\nfs='ext4'", "for a BIOS");
    }
}
