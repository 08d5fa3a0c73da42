//! A disk with a partition table of another kind: the places, types and identities of its partitions, and GRUB for a BIOS,
//! which finds the disk's partitions by their table.
//!
//! Behind an MBR, GRUB's core image lies in the sectors before the first partition, where a GPT has its entries. On a disk
//! with a GPT it gets a partition of its own there; on the way back it moves into the gap again.

use std::collections::BTreeMap;
use std::ops::Range;

use mif_formats::Source;
use mif_formats::fs::FileType;
use mif_formats::mif::manifest::Row;
use mif_formats::partition::types::{BASIC_DATA, BIOS_BOOT, ESP, LINUX, SWAP};
use mif_formats::partition::write::Patch;
use mif_formats::partition::{Partition, Table, TableKind};
use mif_formats::source::is_zero;
use mif_formats::uuid;

use super::ids::{IdChange, Identities};
use super::reshape::{NewIds, Reshape};
use crate::boot::grub::core::{KERNEL_SECTOR, is_boot_sector, of_program, version};
use crate::boot::grub::image::Image;
use crate::disk::scan::Scan;
use crate::error::{Error, Result};
use crate::guest::boot::{BOOT_CODE, active_bit};
use crate::guest::pe::Program;
use crate::store::volume_name;
use crate::tree::edit::Files;

/// Where the partition of GRUB's core image begins: behind a GPT for sectors of 512 and of 4096 bytes.
const CORE_PARTITION: u64 = 24 << 10;
/// Its slot, as vendors of cloud images choose it, unless it is taken.
const CORE_SLOT: u32 = 14;
/// The most slots of a new GPT.
const GPT_SLOTS: u32 = 128;
/// The most partitions of an MBR without logical ones.
const MBR_SLOTS: usize = 4;

/// Types of partitions in a GPT and in an MBR. The first that fits is taken.
const TYPES: &[(&str, u8)] = &[
    (LINUX, 0x83),
    (SWAP, 0x82),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", 0x8e),
    ("a19d880f-05fc-4d3b-a006-743f0f84911e", 0xfd),
    (ESP, 0xef),
    ("9e1a2d38-c612-4316-aa26-8b49521e5a8b", 0x41),
    ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", 0x27),
    (BASIC_DATA, 0x07),
    (BASIC_DATA, 0x0c),
    (BASIC_DATA, 0x0b),
    (BASIC_DATA, 0x0e),
    (BASIC_DATA, 0x06),
    (BASIC_DATA, 0x04),
    (BASIC_DATA, 0x01),
];

/// A table of another kind.
pub(super) struct Converted {
    /// The table, with the slots of the old one.
    pub(super) table: Table,
    /// New slots, where they differ.
    pub(super) slots: BTreeMap<u32, u32>,
    /// The identities of the disk and its partitions.
    pub(super) changes: Vec<IdChange>,
    /// GRUB's core image at its new place, and where it was.
    pub(super) core: Option<Patch>,
    pub(super) vacated: Vec<Range<u64>>,
    /// New boot code for the first sector.
    pub(super) code: Option<Vec<u8>>,
    /// True if the old table was of another kind.
    pub(super) is_other_kind: bool,
    /// What the user should know, each a sentence.
    pub(super) notes: Vec<String>,
}

impl Converted {
    /// Returns the table as it is.
    pub(super) fn same(table: &Table) -> Self {
        Converted {
            table: table.clone(),
            slots: BTreeMap::new(),
            changes: Vec::new(),
            core: None,
            vacated: Vec::new(),
            code: None,
            is_other_kind: false,
            notes: Vec::new(),
        }
    }

    /// Returns the table with its new slots.
    pub(super) fn renumbered(&self, table: &Table) -> Table {
        let mut table = table.clone();
        for partition in &mut table.partitions {
            partition.slot = self.slot(partition.slot);
        }
        table.partitions.sort_by_key(|partition| partition.slot);
        table
    }

    /// Returns the new slot of a partition, by its slot in the old table.
    pub(super) fn slot(&self, old: u32) -> u32 {
        self.slots.get(&old).copied().unwrap_or(old)
    }

    /// Returns a free slot of the table: `wanted`, if it is free and the table has it.
    pub(super) fn free_slot(&self, wanted: u32) -> Result<u32> {
        let mut partitions = self.table.partitions.iter();
        let taken: Vec<u32> = partitions.by_ref().flat_map(|p| [p.slot, self.slot(p.slot)]).collect();
        let is_free = |slot: &u32| !taken.contains(slot);
        let none = || Error::unsupported("the partition table has no free slot");
        match self.table.kind {
            TableKind::Gpt => {
                [wanted].into_iter().chain((1..=GPT_SLOTS).rev()).find(is_free).ok_or_else(none)
            }
            _ => (1..=MBR_SLOTS as u32)
                .find(is_free)
                .ok_or_else(|| none().advise("Pass --table gpt, which has more")),
        }
    }

    /// Adds a partition.
    pub(super) fn add(&mut self, partition: Partition) {
        self.table.partitions.push(partition);
        self.table.partitions.sort_by_key(|partition| partition.slot);
    }

    /// Returns the place of GRUB's core image for a BIOS, as an offset and a length in bytes: a partition of a GPT, which is
    /// added and named by `id` if there is none, or the sectors behind an MBR.
    pub(super) fn core_place(
        &mut self,
        disk_len: u64,
        id: impl FnOnce(u32) -> Option<String>,
    ) -> Result<CorePlace> {
        let first = self.table.partitions.iter().map(|p| p.start).min().unwrap_or(disk_len);
        if self.table.kind != TableKind::Gpt {
            return Ok(CorePlace {
                at: SECTOR,
                room: first.saturating_sub(SECTOR),
                partition: None,
                is_new: true,
            });
        }
        if let Some(own) = self.table.partitions.iter().find(|p| p.type_id == BIOS_BOOT) {
            return Ok(CorePlace { at: own.start, room: own.len, partition: Some(own.slot), is_new: false });
        }
        let (slot, room) = (self.free_slot(CORE_SLOT)?, first.saturating_sub(CORE_PARTITION));
        self.add(Partition {
            slot,
            start: CORE_PARTITION,
            len: room,
            type_id: BIOS_BOOT.to_owned(),
            id: id(slot),
            name: None,
            attributes: 0,
        });
        Ok(CorePlace { at: CORE_PARTITION, room, partition: Some(slot), is_new: true })
    }

    /// Returns the partition of a volume.
    pub(super) fn partition(&self, volume: &str) -> Option<&Partition> {
        self.table.partitions.iter().find(|partition| volume_name(partition.slot) == volume)
    }

    /// Sets the boot code in the first sector, and the place of GRUB's core image in it.
    pub(super) fn boot_from(&self, sector0: &mut [u8]) {
        if let Some(code) = &self.code {
            sector0[..code.len()].copy_from_slice(code);
        }
        if let Some((at, _)) = &self.core {
            let sector = at / SECTOR;
            sector0[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&sector.to_le_bytes());
        }
    }
}

/// The place of GRUB's core image for a BIOS.
pub(super) struct CorePlace {
    /// Its offset on the disk, in bytes.
    pub(super) at: u64,
    /// How many bytes it has.
    room: u64,
    /// The slot of its partition, if it has one.
    pub(super) partition: Option<u32>,
    /// False if the table already had it.
    pub(super) is_new: bool,
}

impl CorePlace {
    /// Returns the core image for this place.
    pub(super) fn encode(&self, image: &Image) -> Result<Vec<u8>> {
        image.encode(self.at / SECTOR, self.room).map_err(|error| {
            Error::from(error)
                .within("GRUB for a BIOS does not fit before the first partition")
                .advise("Start the first partition at 1 MiB, as tools do today")
        })
    }
}

/// Returns GRUB's name of a kind of table, as in `(hd0,gpt1)` and in the module `part_gpt`.
pub(super) fn grub_name(kind: TableKind) -> &'static str {
    if kind == TableKind::Gpt { "gpt" } else { "msdos" }
}

/// The sector of a BIOS, in bytes.
pub(super) const SECTOR: u64 = 512;

/// Returns the table that `reshape` asks for, or `None` if it is of that kind already. `volumes` are new identities of
/// volumes, `files` the files of the disk.
pub(super) fn converted(
    scan: &Scan,
    reshape: &Reshape,
    volumes: Option<&Identities>,
    files: impl FnOnce() -> Result<Files>,
) -> Result<Option<Converted>> {
    let Some(kind) = reshape.table.filter(|kind| *kind != scan.table.kind) else { return Ok(None) };
    if scan.table.kind == TableKind::None || kind == TableKind::None {
        return Err(Error::unsupported("the disk has no partition table, so it gets none of another kind"));
    }
    // Derived from the old ones, so that the same image gives the same disk.
    let derived = || {
        let seed = format!("table {}", scan.table.id.as_deref().unwrap_or_default());
        NewIds { seed: seed.into_bytes() }
    };
    let ids = reshape.new_ids.clone().unwrap_or_else(derived);
    let mut new = match kind {
        TableKind::Gpt => to_gpt(&scan.table, &ids),
        _ => to_mbr(scan, &ids)?,
    };
    let named = if kind == TableKind::Gpt { "a GPT" } else { "an MBR" };
    new.notes.insert(0, format!("the disk has {named} now"));
    for (old, slot) in &new.slots {
        new.notes.push(format!(
            "partition {old} is partition {slot} now: {} is {}",
            volume_name(*old),
            volume_name(*slot)
        ));
    }
    boot_code(scan, kind, &mut new, volumes, files)?;
    name_all(scan, kind, &mut new, &ids);
    Ok(Some(new))
}

fn to_gpt(old: &Table, ids: &NewIds) -> Converted {
    let mut table = old.clone();
    (table.kind, table.id) = (TableKind::Gpt, Some(uuid::text(&ids.uuid("disk"))));
    table.partitions.retain(|p| !is_extended(p));
    let mut notes = Vec::new();
    for partition in &mut table.partitions {
        let known = TYPES.iter().find(|(_, byte)| number(&partition.type_id) == Some(*byte));
        if known.is_none() {
            notes.push(format!(
                "partition {}: a GPT has no type {}, so it has that of Linux data",
                partition.slot, partition.type_id
            ));
        }
        known.map_or(LINUX, |(guid, _)| guid).clone_into(&mut partition.type_id);
        partition.attributes = active_as(TableKind::Mbr, TableKind::Gpt, partition.attributes);
    }
    Converted { is_other_kind: true, notes, ..Converted::same(&table) }
}

fn to_mbr(scan: &Scan, ids: &NewIds) -> Result<Converted> {
    let mut table = scan.table.clone();
    (table.kind, table.id) = (TableKind::Mbr, Some(format!("{:08x}", ids.id32("disk"))));
    table.partitions.retain(|p| p.type_id != BIOS_BOOT);
    let count = table.partitions.len();
    if count > MBR_SLOTS {
        return Err(Error::unsupported(format!(
            "an MBR has room for {MBR_SLOTS} partitions, and the disk has {count}"
        )));
    }
    let mut notes = Vec::new();
    let mut slots = BTreeMap::new();
    let mut taken: Vec<u32> =
        table.partitions.iter().map(|p| p.slot).filter(|slot| *slot as usize <= MBR_SLOTS).collect();
    for partition in &mut table.partitions {
        let slot = partition.slot;
        if slot as usize > MBR_SLOTS {
            let free = (1..).find(|free| !taken.contains(free)).expect("they are at most four");
            taken.push(free);
            slots.insert(slot, free);
        }
        let known = TYPES.iter().find(|(guid, _)| *guid == partition.type_id).map(|(_, byte)| *byte);
        let byte = match known {
            Some(0x07) if is_fat(scan, slot) => 0x0c,
            Some(byte) => byte,
            None => {
                notes.push(format!(
                    "partition {slot}: an MBR has no type {}, so it has that of Linux; what finds it by its type does \
                     not any more",
                    partition.type_id
                ));
                0x83
            }
        };
        partition.type_id = format!("0x{byte:02x}");
        (partition.id, partition.name) = (None, None);
        partition.attributes = active_as(TableKind::Gpt, TableKind::Mbr, partition.attributes);
    }
    Ok(Converted { slots, is_other_kind: true, notes, ..Converted::same(&table) })
}

/// Returns the attributes of a partition in another kind of table: whether a BIOS starts from it.
fn active_as(from: TableKind, to: TableKind, attributes: u64) -> u64 {
    if attributes & active_bit(from) != 0 { active_bit(to) } else { 0 }
}

/// Returns true for a partition of an MBR that only holds logical ones.
pub(super) fn is_extended(partition: &Partition) -> bool {
    matches!(number(&partition.type_id), Some(0x05 | 0x0f | 0x85))
}

/// Returns the number of an MBR's type of partitions.
fn number(type_id: &str) -> Option<u8> {
    u8::from_str_radix(type_id.strip_prefix("0x")?, 16).ok()
}

fn is_fat(scan: &Scan, slot: u32) -> bool {
    let volume = scan.volumes.iter().find(|volume| volume.name == volume_name(slot));
    let filesystem = volume.and_then(|volume| volume.filesystem());
    filesystem.is_some_and(|filesystem| filesystem.info().kind.starts_with("fat"))
}

/// Gives the partitions their identities, and lists what changes.
fn name_all(scan: &Scan, kind: TableKind, new: &mut Converted, ids: &NewIds) {
    let mut change = |of: String, old: &Option<String>, new_id: &str| {
        if let Some(old) = old {
            new.changes.push(IdChange { of, old: old.clone(), new: new_id.to_owned() });
        }
    };
    let disk = new.table.id.clone().unwrap_or_default();
    change("disk".into(), &scan.table.id, &disk);
    for partition in &mut new.table.partitions {
        let slot = partition.slot;
        let to = new.slots.get(&slot).copied().unwrap_or(slot);
        let id = match kind {
            TableKind::Gpt => uuid::text(&ids.uuid(&format!("partition {slot}"))),
            _ => format!("{disk}-{to:02x}"),
        };
        let old = scan.table.partitions.iter().find(|p| p.slot == slot);
        if let Some(old) = old {
            change(format!("partition {slot}"), &old.id, &id);
        }
        partition.id = Some(id);
    }
}

// --- GRUB for a BIOS ----------------------------------------------------------------------------------------

/// Moves GRUB's core image to where the new table leaves room for it.
fn boot_code(
    scan: &Scan,
    kind: TableKind,
    new: &mut Converted,
    volumes: Option<&Identities>,
    files: impl FnOnce() -> Result<Files>,
) -> Result<()> {
    if scan.disk.len() < SECTOR {
        return Ok(());
    }
    let boot = scan.disk.read_vec(0, SECTOR as usize)?;
    let files = files()?;
    let module = &format!("part_{}", grub_name(kind));
    let is_removable = |row: &&Row| row.path.to_ascii_uppercase().starts_with(b"/EFI/BOOT/BOOT");
    let programs: Vec<&Row> =
        files.volume_names().flat_map(|name| files.volume_rows(name).filter(is_removable)).collect();
    for row in &programs {
        if lacks(&files, row, module) {
            new.notes.push(format!(
                "{}:{}: this GRUB lacks the module {module}, which reads the new table, so it starts nothing by UEFI",
                row.volume,
                row.path_text()
            ));
        }
    }
    if is_zero(&boot[..BOOT_CODE]) {
        return Ok(());
    }
    if !is_boot_sector(&boot) {
        if programs.is_empty() {
            return Err(Error::unsupported(
                "the boot code in the disk's first sector is not GRUB's, and finds its boot loader by the old table",
            )
            .advise("Make the table anew on a machine, and install the boot loader for it"));
        }
        new.notes.push(
            "the boot code in the disk's first sector is for the old table: the disk starts by UEFI only"
                .into(),
        );
        return Ok(());
    }
    let mut image = Image::of_disk(&*scan.disk, &boot)?;
    if !image.has(module) {
        let bytes = module_file(&files, &image, module)?;
        image.add(module, &bytes)?;
    }
    let prefix = grub_text(image.core.prefix.as_bytes(), kind, &new.slots);
    let prefix =
        prefix.map_or_else(|| image.core.prefix.clone(), |text| String::from_utf8_lossy(&text).into_owned());
    image.set_prefix(&prefix);
    image.change_config(|config| grub_text(config, kind, &new.slots));
    image.change_config(|config| volumes.and_then(|volumes| volumes.replaced(config)));
    // It is named with the other partitions.
    let place = new.core_place(scan.disk.len(), |_| None)?;
    let core = place.encode(&image)?;
    if let Some(slot) = place.partition {
        new.notes.push(format!("partition {slot} is new: GRUB's core image for a BIOS moved into it"));
    } else {
        // Some BIOSes start only disks with an active partition.
        let active = prefix_slot(&image.core.prefix).unwrap_or(1);
        let slots = &new.slots;
        for partition in &mut new.table.partitions {
            let slot = slots.get(&partition.slot).copied().unwrap_or(partition.slot);
            partition.attributes = if slot == active { active_bit(kind) } else { 0 };
        }
        new.notes.push("GRUB's core image for a BIOS moved to the sectors behind the MBR".into());
    }
    (new.core, new.vacated) = (Some((place.at, core)), image.places.clone());
    Ok(())
}

/// Returns true if a UEFI program is a GRUB without a module.
fn lacks(files: &Files, row: &Row, module: &str) -> bool {
    /// Larger programs are no GRUB.
    const MAX: u64 = 64 << 20;
    let Some(source) = files.source(row).ok().filter(|source| source.len() <= MAX) else { return false };
    let Ok(bytes) = source.read_vec(0, source.len() as usize) else { return false };
    let Ok(program) = Program::parse(&bytes) else { return false };
    of_program(&program).is_some_and(|core| !core.modules.iter().any(|name| name == module))
}

/// Returns the slot in a prefix such as `(,gpt1)/boot/grub`.
fn prefix_slot(prefix: &str) -> Option<u32> {
    let device = prefix.strip_prefix('(')?.split(')').next()?;
    let partition = device.rsplit(',').next()?;
    partition.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

/// Finds a module of the GRUB whose core image this is.
fn module_file(files: &Files, image: &Image, module: &str) -> Result<Vec<u8>> {
    let folder = image.core.prefix.rsplit(')').next().unwrap_or_default();
    let mut folders = vec![];
    if let Some(slot) = prefix_slot(&image.core.prefix) {
        folders.push(format!("{}:{folder}/i386-pc", volume_name(slot)));
    }
    folders.push("/boot/grub/i386-pc".into());
    folders.push("/boot/grub2/i386-pc".into());
    folders.push("/usr/lib/grub/i386-pc".into());
    for folder in &folders {
        let Ok(Some(bytes)) = files.read(&format!("{folder}/{module}.mod")) else { continue };
        let here =
            files.read(&format!("{folder}/normal.mod")).ok().flatten().and_then(|normal| version(&normal));
        // Modules work only with the kernel that they were built with.
        if image.core.version.is_some() && here.is_some() && image.core.version != here {
            continue;
        }
        return Ok(bytes);
    }
    Err(Error::unsupported(format!(
        "GRUB's core image for a BIOS lacks the module {module}, which reads the new table, and the image has none of its \
         version in {}",
        folders.join(", ")
    ))
    .advise("Install the package that has it: grub-pc-bin (Debian), grub2-pc-modules (Fedora)"))
}

/// Returns a configuration of GRUB in which partitions and modules are named as in a table of this kind; `None` if nothing
/// changes.
fn grub_text(text: &[u8], kind: TableKind, slots: &BTreeMap<u32, u32>) -> Option<Vec<u8>> {
    let other = if kind == TableKind::Gpt { TableKind::Mbr } else { TableKind::Gpt };
    let (from, to) = (grub_name(other), grub_name(kind));
    let (mut new, mut rest, mut changed) = (Vec::with_capacity(text.len()), text, false);
    while let Some(at) = memchr::memmem::find(rest, from.as_bytes()) {
        let (before, after) = rest.split_at(at);
        let after = &after[from.len()..];
        new.extend(before);
        let digits = after.iter().take_while(|b| b.is_ascii_digit()).count();
        let slot = std::str::from_utf8(&after[..digits]).ok().and_then(|digits| digits.parse::<u32>().ok());
        rest = after;
        match slot {
            // A partition: hd0,msdos1 or (,msdos1).
            Some(slot) if before.ends_with(b",") => {
                let slot = slots.get(&slot).copied().unwrap_or(slot);
                new.extend(format!("{to}{slot}").bytes());
                (rest, changed) = (&after[digits..], true);
            }
            None if before.ends_with(b"part_") => {
                new.extend(to.bytes());
                changed = true;
            }
            _ => new.extend(from.bytes()),
        }
    }
    new.extend(rest);
    changed.then_some(new)
}

/// Returns true if a row is a configuration of GRUB.
fn is_grub_config(row: &Row) -> bool {
    /// Longer ones are written by nobody.
    const MAX: u64 = 4 << 20;
    let path = row.path.to_ascii_lowercase();
    let is_place = [&b"/grub/"[..], b"/grub2/", b"/efi/"]
        .iter()
        .any(|place| path.windows(place.len()).any(|window| window == *place));
    row.node.file_type == FileType::File && path.ends_with(b".cfg") && is_place && row.node.size <= MAX
}

impl Converted {
    /// Returns the new content of a row that is a configuration of GRUB, if it changes; `read` reads it.
    pub(super) fn grub_config(
        &self,
        row: &Row,
        read: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>> {
        if !is_grub_config(row) || row.object().is_none() {
            return Ok(None);
        }
        Ok(grub_text(&read()?, self.table.kind, &self.slots))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str, kind: TableKind, slots: &[(u32, u32)]) -> Option<String> {
        let slots = slots.iter().copied().collect();
        grub_text(text.as_bytes(), kind, &slots).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn partitions_and_modules_of_a_configuration_are_named_as_in_the_new_table() {
        let before =
            "insmod part_msdos\nset root='hd0,msdos1'\nsearch --hint-bios=hd0,msdos15 x # msdos, msdos3\n";
        let after = "insmod part_gpt\nset root='hd0,gpt1'\nsearch --hint-bios=hd0,gpt15 x # msdos, msdos3\n";
        assert_eq!(text(before, TableKind::Gpt, &[]).as_deref(), Some(after));
        let back = text("(hd1,gpt15)/x part_gpt ,gpt1", TableKind::Mbr, &[(15, 2)]);
        assert_eq!(back.as_deref(), Some("(hd1,msdos2)/x part_msdos ,msdos1"));
        assert_eq!(text("(,gpt1)/boot/grub", TableKind::Gpt, &[]), None);
        assert_eq!(text("msdos", TableKind::Gpt, &[]), None);
        assert_eq!(text(",msdos99999999999", TableKind::Gpt, &[]), None);
    }

    #[test]
    fn the_slot_of_a_prefix_is_told() {
        for (prefix, slot) in [
            ("(,gpt1)/boot/grub", Some(1)),
            ("(hd0,msdos5)/@/boot/grub", Some(5)),
            ("(hd0,1)/grub", Some(1)),
            ("/boot/grub", None),
            ("(lvm/vg-root)/boot/grub", None),
            ("", None),
        ] {
            assert_eq!(prefix_slot(prefix), slot, "{prefix}");
        }
    }
}
