//! Makes a disk start by UEFI or by a BIOS, from what its system has installed: GRUB's own files, and shim.
//!
//! For UEFI: an EFI system partition, if the disk has none; the program at the removable path, because firmware's own
//! settings are no part of an image; its configuration, which leads to the system's; and a line in `/etc/fstab`. For a BIOS:
//! GRUB's boot sector, its core image made of the modules that this disk needs, and the other modules in `/boot/grub`.

use std::collections::BTreeMap;

use mif_formats::Source;
use mif_formats::fs::driver::NewVolume;
use mif_formats::fs::plan::{Planner, Tree, TreeNode};
use mif_formats::fs::{self, FileType, Node, Timestamp};
use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::Row;
use mif_formats::partition::{Partition, Table, TableKind};
use mif_formats::source::is_zero;

use super::arrange::BIOS_BOOT;
use super::reshape::{BootBy, NewIds, Reshape};
use super::shape::VolumeDraft;
use super::table::{CORE_PARTITION, CORE_SLOT, Converted, GPT_SLOTS, MBR_SLOTS, SECTOR};
use crate::boot::grub::core::{is_boot_sector, of_objects};
use crate::boot::grub::image::Image;
use crate::disk::scan::Scan;
use crate::error::{Error, Result};
use crate::guest::pe::{Program, uefi_machine};
use crate::guest::probe::{PROGRAMS, elf_machine};
use crate::store::volume_name;
use crate::tree::edit::{Files, NewNode};
use crate::tree::new_content::{NewContent, NewContents};
use crate::tree::path::Place;

/// The type of an EFI system partition, in a GPT and in an MBR.
const ESP: [&str; 2] = ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef"];
/// The size of a new one in bytes: room for shim, GRUB and their updates.
const ESP_SIZE: u64 = 64 << 20;
/// The same for sectors of 4096 bytes: room for as many clusters as a FAT32 has, because some firmware reads no other FAT.
const LARGE_ESP_SIZE: u64 = 264 << 20;
/// Its slot, as vendors of cloud images choose it, unless it is taken.
const ESP_SLOT: u32 = 15;
/// New partitions begin at multiples of this many bytes.
const ALIGN: u64 = 1 << 20;
/// The largest UEFI program that is read, in bytes.
const MAX_PROGRAM: u64 = 64 << 20;
/// Where a BIOS's drive number is checked in `boot.img`: two instructions that do nothing take its place.
const GRUB_DRIVE_CHECK: usize = 0x66;
/// The end of the boot code in sector 0.
const BOOT_CODE: usize = 440;

/// What makes a disk start.
pub(super) struct Firmware {
    /// The rows of the image, with those of new files.
    pub(super) rows: Vec<Row>,
    /// The content of new files.
    pub(super) new: NewContents,
    /// A new EFI system partition, by its volume.
    pub(super) esp: Option<NewEsp>,
}

/// A new EFI system partition.
pub(super) struct NewEsp {
    name: String,
    id: [u8; 16],
    time: u32,
}

/// Changes the files and, in `converted`, the table of a disk so that it starts as `reshape` asks; `None` if it asks for
/// nothing.
///
/// # Errors
///
/// Fails if the image lacks what that needs, which the error names with the package that has it.
pub(super) fn firmware(
    scan: &Scan,
    reshape: &Reshape,
    converted: &mut Option<Converted>,
    files: impl FnOnce(Timestamp) -> Result<Files>,
) -> Result<Option<Firmware>> {
    let Some(boot) = reshape.boot else { return Ok(None) };
    if scan.table.kind == TableKind::None {
        return Err(Error::unsupported("--boot needs a disk with a partition table"));
    }
    if reshape.new_ids.is_some() {
        return Err(Error::usage("--boot does not go with --new-ids")
            .advise("Give the new disk new identities once it is imported"));
    }
    // The time of the edits: no clock, so that the same image gives the same disk.
    let mut files = files(Timestamp { secs: 0, nanos: 0 })?;
    if let Some(time) = files.get("/etc").and_then(|row| row.node.mtime) {
        files.time = time;
    }
    let mut target = converted.take().unwrap_or_else(|| Converted::same(&scan.table));
    let mut esp = None;
    let done = (|| {
        if matches!(boot, BootBy::Bios | BootBy::Both) {
            bios(scan, reshape, &mut files, &mut target)?;
        }
        if matches!(boot, BootBy::Uefi | BootBy::Both) {
            let is_large = u64::from(reshape.sector_size.unwrap_or(scan.table.sector_size)) > SECTOR;
            let size = if is_large { LARGE_ESP_SIZE } else { ESP_SIZE };
            esp = uefi(scan, &mut files, &mut target, size)?;
        }
        Ok(())
    })();
    done.map_err(|e: Error| e.within("--boot"))?;
    let mut rows: Vec<Row> = files.rows().into_iter().cloned().collect();
    if let Some((rows_of_esp, _)) = &esp {
        rows.extend(rows_of_esp.iter().cloned());
    }
    *converted = Some(target);
    Ok(Some(Firmware { rows, new: std::mem::take(&mut files.new), esp: esp.map(|(_, esp)| esp) }))
}

impl Firmware {
    /// Returns the draft of the new volume `name`, of `size` bytes, if it is new.
    pub(super) fn draft(&self, name: &str, rows: &[&Row], size: u64) -> Result<Option<VolumeDraft>> {
        let Some(esp) = self.esp.as_ref().filter(|esp| esp.name == name) else { return Ok(None) };
        let rows = rows.iter().filter(|row| row.volume == name);
        let mut tree = Tree::new(Node::bare(FileType::Dir));
        let mut contents: Vec<ObjectId> = Vec::new();
        // Directories come before their entries: the rows are in that order.
        for row in rows {
            if row.path == b"/" {
                continue;
            }
            let node = match row.object() {
                Some(object) => {
                    contents.push(object);
                    let all = std::iter::once(0..row.node.size).collect();
                    TreeNode::file(row.node.clone(), contents.len() as u64 - 1, all)
                }
                None => TreeNode::new(row.node.clone()),
            };
            tree.add(&row.path, None, node)?;
        }
        tree.finish()?;
        let params = esp.planner(size)?;
        Ok(Some(VolumeDraft { name: name.to_owned(), tree, contents, params }))
    }
}

impl NewEsp {
    fn planner(&self, size: u64) -> Result<Box<dyn Planner>> {
        let driver = fs::driver("fat").expect("there is a driver of FAT");
        let new = NewVolume {
            kind: "fat32",
            size,
            id: self.id,
            hash_seed: [0; 16],
            label: b"ESP",
            time: self.time,
            nodes: 0,
            block_size: None,
            inodes: None,
            features: "",
        };
        Ok(driver.new_planner(&new)?)
    }
}

// --- UEFI ---------------------------------------------------------------------------------------------------

/// The files that start a system, with their names in the directory of the removable path.
struct Programs {
    files: Vec<(String, String)>,
    /// The directory on the EFI system partition in which GRUB looks for its configuration.
    prefix: String,
}

fn uefi(
    scan: &Scan,
    files: &mut Files,
    target: &mut Converted,
    size: u64,
) -> Result<Option<(Vec<Row>, NewEsp)>> {
    let machine = PROGRAMS.iter().find_map(|path| elf_machine(&head(files, path)?));
    let machine = machine.unwrap_or_else(|| "x86_64".to_owned());
    let (suffix, _) = uefi_machine(&machine)
        .ok_or_else(|| Error::unsupported(format!("mif does not know how UEFI starts {machine}")))?;
    let removable = format!("/EFI/BOOT/BOOT{}.EFI", suffix.to_ascii_uppercase());
    let volumes: Vec<String> = target
        .table
        .partitions
        .iter()
        .filter(|p| ESP.contains(&&p.type_id[..]))
        .map(|p| volume_name(p.slot))
        .filter(|name| {
            let volume = scan.volumes.iter().find(|volume| volume.name == *name);
            volume.and_then(|volume| volume.planned()).is_some_and(|fs| !fs.capabilities().is_posix)
        })
        .collect();
    let has = |files: &Files, volume: &str| files.is_file(&format!("{volume}:{removable}"));
    if let Some(volume) = volumes.iter().find(|volume| has(files, volume)) {
        target.notes.push(format!("{volume}:{removable} is there: nothing was added for UEFI"));
        return Ok(None);
    }
    for volume in &volumes {
        let found = installed(files, volume, suffix);
        if !found.is_empty() {
            for (row, to) in found {
                write(files, volume, &format!("/EFI/BOOT/{to}"), Content::Of(Box::new(row)))?;
            }
            target
                .notes
                .push(format!("{volume}: its boot loader was copied to the removable path, /EFI/BOOT"));
            return Ok(None);
        }
    }
    let programs = programs(files, suffix)?;
    let config = config(files, scan)?;
    let mut new: Vec<(String, Content)> = Vec::new();
    for (from, to) in &programs.files {
        let row = files.get(from).expect("it was found").clone();
        new.push((format!("/EFI/BOOT/{to}"), Content::Of(Box::new(row))));
    }
    // Where GRUB looks, and beside the program, where one that was moved looks.
    let mut folders = vec![programs.prefix.clone(), "/EFI/BOOT".to_owned()];
    folders.dedup_by(|a, b| a.eq_ignore_ascii_case(b));
    for folder in &folders {
        new.push((format!("{folder}/grub.cfg"), Content::New(config.clone())));
    }
    if let Some(volume) = volumes.first() {
        for (path, content) in new {
            write(files, volume, &path, content)?;
        }
        target.notes.push(format!("{volume}: GRUB for UEFI was added"));
        return Ok(None);
    }
    let esp = add_esp(files, target, size)?;
    let mut rows = vec![folder(&esp.name, "/", files.time)];
    for (path, content) in new {
        let mut parents: Vec<&str> = path.match_indices('/').skip(1).map(|(at, _)| &path[..at]).collect();
        parents.retain(|parent| !rows.iter().any(|row| row.path == parent.as_bytes()));
        let parents: Vec<Row> =
            parents.into_iter().map(|parent| folder(&esp.name, parent, files.time)).collect();
        rows.extend(parents);
        let mut node = Node::bare(FileType::File);
        node.mtime = Some(files.time);
        let mut row = Row::new(&esp.name, path.into_bytes(), None, node);
        match content {
            Content::Of(source) => {
                (row.body, row.node.size) = (source.body, source.node.size);
                row.node.mtime = source.node.mtime;
            }
            Content::New(text) => {
                let content = NewContent::of_bytes(text.into_bytes());
                (row.body, row.node.size) = (Some(content.body()), content.source.len());
                files.new.insert(content.id, content);
            }
        }
        rows.push(row);
    }
    mount(files, scan, &esp, target)?;
    Ok(Some((rows, esp)))
}

/// The content of a file that is added.
enum Content {
    /// That of another file.
    Of(Box<Row>),
    New(String),
}

fn head(files: &Files, path: &str) -> Option<Vec<u8>> {
    let source = files.source(files.get(path)?).ok()?;
    source.read_vec(0, source.len().min(64) as usize).ok()
}

fn folder(volume: &str, path: &str, time: Timestamp) -> Row {
    let mut node = Node::bare(FileType::Dir);
    node.mtime = Some(time);
    Row::new(volume, path.as_bytes().to_vec(), None, node)
}

/// Returns the files of a boot loader that is installed on an EFI system partition under its distribution's name, with
/// their names at the removable path; none if there is no such loader.
fn installed(files: &Files, volume: &str, suffix: &str) -> Vec<(Row, String)> {
    let boot = format!("BOOT{}.EFI", suffix.to_ascii_uppercase());
    let (shim, grub) = (format!("shim{suffix}.efi"), format!("grub{suffix}.efi"));
    let others = [format!("mm{suffix}.efi"), "grub.cfg".to_owned()];
    for (name, _) in files.list(&format!("{volume}:/EFI")) {
        let names = files.list(&format!("{volume}:/EFI/{name}"));
        let of = |wanted: &str| {
            let found = names.iter().find(|(name, row)| {
                name.eq_ignore_ascii_case(wanted) && row.node.file_type == FileType::File
            });
            found.map(|(_, row)| (*row).clone())
        };
        let mut found = match (of(&shim), of(&grub)) {
            (Some(first), Some(second)) => vec![(first, boot.clone()), (second, grub.clone())],
            (None, Some(only)) => vec![(only, boot.clone())],
            _ => continue,
        };
        found.extend(others.iter().filter_map(|name| Some((of(name)?, name.clone()))));
        return found;
    }
    Vec::new()
}

/// Finds the programs of UEFI that the system has installed: shim with a signed GRUB, or GRUB alone.
fn programs(files: &Files, suffix: &str) -> Result<Programs> {
    let family = match suffix {
        "x64" => "x86_64",
        "aa64" => "arm64",
        "ia32" => "i386",
        other => other,
    };
    let grubs = [
        format!("/usr/lib/grub/{family}-efi-signed/grub{suffix}.efi.signed"),
        format!("/usr/lib/grub/{family}-efi/monolithic/grub{suffix}.efi"),
    ];
    let Some(grub) = grubs.iter().find(|path| files.is_file(path)) else {
        let (debian, fedora) =
            (format!("grub-efi-{}-bin", debian_name(suffix)), format!("grub2-efi-{suffix}"));
        return Err(Error::unsupported(format!(
            "the image has no GRUB for UEFI: neither {} nor {}",
            grubs[0], grubs[1]
        ))
        .advise(format!("Install the package that has it: {debian} (Debian, Ubuntu), {fedora} (Fedora)")));
    };
    let row = files.get(grub).expect("it was found");
    let bytes = files.source(row)?;
    if bytes.len() > MAX_PROGRAM {
        return Err(Error::unsupported(format!("{grub}: larger than any GRUB")));
    }
    let bytes = bytes.read_vec(0, bytes.len() as usize)?;
    let program = Program::parse(&bytes).map_err(|e| Error::from(e).within(grub))?;
    let core = program.section("mods").and_then(|mods| of_objects(mods, true));
    let core = core.ok_or_else(|| Error::unsupported(format!("{grub}: no GRUB that mif can read")))?;
    if core.prefix.is_empty() || core.prefix.contains('(') {
        return Err(Error::unsupported(format!(
            "{grub}: looks for its configuration in {}, which no EFI system partition has",
            core.prefix
        )));
    }
    let boot = format!("BOOT{}.EFI", suffix.to_ascii_uppercase());
    let shim = format!("/usr/lib/shim/shim{suffix}.efi.signed");
    let mut chosen = Vec::new();
    // Shim starts only a GRUB that is signed.
    if *grub == grubs[0] && files.is_file(&shim) {
        chosen.push((shim, boot));
        chosen.push((grub.clone(), format!("grub{suffix}.efi")));
        let manager = format!("/usr/lib/shim/mm{suffix}.efi.signed");
        if files.is_file(&manager) {
            chosen.push((manager, format!("mm{suffix}.efi")));
        }
    } else {
        chosen.push((grub.clone(), boot));
    }
    Ok(Programs { files: chosen, prefix: core.prefix.trim_end_matches('/').to_owned() })
}

fn debian_name(suffix: &str) -> &str {
    match suffix {
        "x64" => "amd64",
        "aa64" => "arm64",
        other => other,
    }
}

/// The directory with GRUB's configuration, as the system sees it, and its place.
fn grub_folder(files: &Files) -> Result<(&'static str, Place)> {
    for folder in ["/boot/grub", "/boot/grub2"] {
        if files.is_file(&format!("{folder}/grub.cfg")) {
            return Ok((folder, files.place(folder, true)?));
        }
    }
    Err(Error::unsupported("the image has no configuration of GRUB: /boot/grub/grub.cfg is not there")
        .advise("Run update-grub or grub2-mkconfig in it"))
}

/// Returns the configuration on the EFI system partition, which leads to the system's.
fn config(files: &Files, scan: &Scan) -> Result<String> {
    let (_, place) = grub_folder(files)?;
    let volume = scan.volumes.iter().find(|volume| volume.name == place.volume);
    let uuid = volume.and_then(|volume| volume.filesystem()).and_then(|fs| fs.info().uuid.clone());
    let uuid = uuid.ok_or_else(|| {
        Error::unsupported(format!("{}: the filesystem with GRUB's configuration has no UUID", place.volume))
    })?;
    let folder = place.path_text();
    if folder.contains(['\'', '\\', '\n']) {
        return Err(Error::unsupported(format!("{folder}: not a name for a configuration of GRUB")));
    }
    Ok(format!("search.fs_uuid {uuid} root\nset prefix=($root)'{folder}'\nconfigfile $prefix/grub.cfg\n"))
}

/// Writes a file on a volume, with the directories above it.
fn write(files: &mut Files, volume: &str, path: &str, content: Content) -> Result<()> {
    let node = |file_type, mode| NewNode { file_type, mode, uid: 0, gid: 0 };
    for (at, _) in path.match_indices('/').skip(1) {
        let place = files.place(&format!("{volume}:{}", &path[..at]), true)?;
        if files.at(&place).is_none() {
            files.create(&place, &node(FileType::Dir, 0o755))?;
        }
    }
    let place = files.place(&format!("{volume}:{path}"), true)?;
    if files.at(&place).is_none() {
        files.create(&place, &node(FileType::File, 0o644))?;
    }
    match content {
        Content::New(text) => files.fill(&place, NewContent::of_bytes(text.into_bytes())),
        Content::Of(source) => files.change(&place, |row| {
            (row.body, row.node.size) = (source.body, source.node.size);
            row.node.mtime = source.node.mtime;
        }),
    }
}

/// Adds the partition of an EFI system partition behind all others.
fn add_esp(files: &Files, target: &mut Converted, size: u64) -> Result<NewEsp> {
    let slot = free_slot(target, ESP_SLOT)?;
    let ends = target.table.partitions.iter().map(|p| p.start + p.len);
    let start = ends.max().unwrap_or(0).max(ALIGN).next_multiple_of(ALIGN);
    let seed = format!("boot {}", target.table.id.as_deref().unwrap_or_default());
    let ids = NewIds { seed: seed.into_bytes() };
    let is_gpt = target.table.kind == TableKind::Gpt;
    target.table.partitions.push(Partition {
        slot,
        start,
        len: size,
        type_id: ESP[usize::from(!is_gpt)].to_owned(),
        id: is_gpt.then(|| mif_formats::uuid::text(&ids.uuid(&format!("partition {slot}")))),
        name: is_gpt.then(|| "EFI system partition".to_owned()),
        attributes: 0,
    });
    target.table.partitions.sort_by_key(|partition| partition.slot);
    let name = volume_name(slot);
    target.notes.push(format!("{name} is new: an EFI system partition with GRUB"));
    let time = u32::try_from(files.time.secs).unwrap_or(0);
    Ok(NewEsp { id: ids.uuid(&name), name, time })
}

/// Returns a free slot of the table: `wanted`, if it is free and the table has it.
fn free_slot(target: &Converted, wanted: u32) -> Result<u32> {
    let renumbered = target.renumbered(&target.table);
    let is_taken = |slot: &u32| [&target.table, &renumbered].iter().any(|table| has_slot(table, *slot));
    let free = match target.table.kind {
        TableKind::Gpt => [wanted].into_iter().chain((1..=GPT_SLOTS).rev()).find(|slot| !is_taken(slot)),
        _ => (1..=MBR_SLOTS as u32).find(|slot| !is_taken(slot)),
    };
    free.ok_or_else(|| {
        Error::unsupported("the partition table has no free slot").advise("Pass --table gpt, which has more")
    })
}

fn has_slot(table: &Table, slot: u32) -> bool {
    table.partitions.iter().any(|partition| partition.slot == slot)
}

/// Mounts the new EFI system partition in the system's fstab.
fn mount(files: &mut Files, scan: &Scan, esp: &NewEsp, target: &mut Converted) -> Result<()> {
    const POINT: &str = "/boot/efi";
    let Ok(place) = files.place("/etc/fstab", true) else { return Ok(()) };
    let is_written = |volume: &str| {
        let volume = scan.volumes.iter().find(|it| it.name == volume);
        volume.is_some_and(|volume| volume.planned().is_some())
    };
    if !is_written(&place.volume) {
        target.notes.push(format!(
            "{}: /etc/fstab was not changed, because mif cannot write the volume: mount {} on {POINT} yourself",
            place.volume, esp.name
        ));
        return Ok(());
    }
    let before = files.editable("/etc/fstab")?;
    let points = before.lines().filter(|line| !line.trim_start().starts_with('#'));
    if points.filter_map(|line| line.split_whitespace().nth(1)).any(|point| point == POINT) {
        target.notes.push(format!("/etc/fstab already mounts something on {POINT}, and was not changed"));
        return Ok(());
    }
    let point = files.place(POINT, true)?;
    if files.at(&point).is_none() && is_written(&point.volume) {
        files.create(&point, &NewNode { file_type: FileType::Dir, mode: 0o755, uid: 0, gid: 0 })?;
    }
    let driver = fs::driver("fat").expect("there is a driver of FAT");
    let separator = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    // A system whose kernel lacks vfat starts all the same.
    let line = format!("UUID={} {POINT} vfat umask=0077,nofail 0 1\n", driver.id_text(&esp.id));
    let text = format!("{before}{separator}{line}");
    let content = NewContent::of_bytes(text.into_bytes());
    if files.at(&place).is_none() {
        files.create(&place, &NewNode { file_type: FileType::File, mode: 0o644, uid: 0, gid: 0 })?;
    }
    files.fill(&place, content)?;
    target.notes.push(format!("/etc/fstab mounts {} on {POINT}", esp.name));
    Ok(())
}

// --- BIOS ---------------------------------------------------------------------------------------------------

/// The directory of GRUB's files for a BIOS.
const PC: &str = "/usr/lib/grub/i386-pc";

fn bios(scan: &Scan, reshape: &Reshape, files: &mut Files, target: &mut Converted) -> Result<()> {
    let sector_size = reshape.sector_size.unwrap_or(scan.table.sector_size);
    if u64::from(sector_size) != SECTOR {
        return Err(Error::unsupported(format!("a BIOS starts no disk with sectors of {sector_size} bytes")));
    }
    let boot = scan.disk.read_vec(0, SECTOR as usize)?;
    if is_boot_sector(&boot) && Image::of_disk(&*scan.disk, &boot).is_ok() {
        target.notes.push("GRUB for a BIOS is there: nothing was added for it".into());
        return Ok(());
    }
    let is_other = |bytes: &[u8]| !is_boot_sector(&boot) && !is_zero(bytes);
    if is_other(&boot[..BOOT_CODE]) {
        return Err(Error::unsupported("the disk's first sector has boot code of another boot loader"));
    }
    let lacking = |file: &str| {
        Error::unsupported(format!("the image has no GRUB for a BIOS: {PC}/{file} is not there")).advise(
            "Install the package that has it: grub-pc-bin (Debian, Ubuntu), grub2-pc-modules (Fedora)",
        )
    };
    let read = |files: &Files, file: &str| -> Result<Vec<u8>> {
        files.read(&format!("{PC}/{file}"))?.ok_or_else(|| lacking(file))
    };
    let (_, place) = grub_folder(files)?;
    let volume = scan.volumes.iter().find(|volume| volume.name == place.volume);
    let partition = target.table.partitions.iter().find(|p| volume_name(p.slot) == place.volume);
    let (Some(volume), Some(partition)) = (volume, partition) else {
        return Err(Error::unsupported(format!(
            "{}: GRUB's configuration is not on a partition, and mif makes no core image for that",
            place.volume
        )));
    };
    let slot = target.slots.get(&partition.slot).copied().unwrap_or(partition.slot);
    let kind = volume.filesystem().map(|fs| fs.info().kind.clone()).unwrap_or_default();
    let reads = match kind.as_str() {
        "ext2" | "ext3" | "ext4" => "ext2",
        "fat12" | "fat16" | "fat32" => "fat",
        "xfs" => "xfs",
        "btrfs" => "btrfs",
        other => return Err(Error::unsupported(format!("{}: GRUB has no module for {other}", place.volume))),
    };
    let (table_module, table_name) = match target.table.kind {
        TableKind::Gpt => ("part_gpt", "gpt"),
        _ => ("part_msdos", "msdos"),
    };
    let mut image = Image::from_files(
        &read(files, "diskboot.img")?,
        &read(files, "lzma_decompress.img")?,
        &read(files, "kernel.img")?,
    )?;
    let needs = dependencies(&String::from_utf8_lossy(&read(files, "moddep.lst")?));
    for module in in_order(&["biosdisk", table_module, reads], &needs)? {
        let bytes = read(files, &format!("{module}.mod"))?;
        image.add(&module, &bytes)?;
    }
    image.set_prefix(&format!("(,{table_name}{slot}){}", place.path_text()));
    // The place of the core image.
    let first = target.table.partitions.iter().map(|p| p.start).min().unwrap_or(scan.disk.len());
    let own = target.table.partitions.iter().find(|p| p.type_id == BIOS_BOOT).map(|p| (p.start, p.len));
    let (at, room) = match (target.table.kind, own) {
        (TableKind::Gpt, Some(own)) => own,
        (TableKind::Gpt, None) => {
            let len = first.saturating_sub(CORE_PARTITION);
            let slot = free_slot(target, CORE_SLOT)?;
            let seed = format!("boot {}", target.table.id.as_deref().unwrap_or_default());
            let ids = NewIds { seed: seed.into_bytes() };
            target.table.partitions.push(Partition {
                slot,
                start: CORE_PARTITION,
                len,
                type_id: BIOS_BOOT.to_owned(),
                id: Some(mif_formats::uuid::text(&ids.uuid(&format!("partition {slot}")))),
                name: None,
                attributes: 0,
            });
            target.table.partitions.sort_by_key(|p| p.slot);
            target.notes.push(format!("partition {slot} is new: GRUB's core image for a BIOS"));
            (CORE_PARTITION, len)
        }
        _ => (SECTOR, first.saturating_sub(SECTOR)),
    };
    let core = image.encode(at / SECTOR, room).map_err(|error| {
        Error::from(error)
            .within("GRUB for a BIOS does not fit before the first partition")
            .advise("Start the first partition at 1 MiB, as tools do today")
    })?;
    let end = (at + core.len() as u64).min(scan.disk.len());
    let gap = at..if own.is_some() { at } else { end.max(at) };
    if is_other(&scan.disk.read_vec(gap.start, (gap.end - gap.start) as usize)?) {
        return Err(Error::unsupported(format!(
            "something else lies before the first partition, from byte {at} on"
        )));
    }
    let mut code = read(files, "boot.img")?;
    if !is_boot_sector(&code) || code.len() < BOOT_CODE {
        return Err(Error::input(format!("{PC}/boot.img: not GRUB's boot sector")));
    }
    code.truncate(BOOT_CODE);
    code[GRUB_DRIVE_CHECK..GRUB_DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    install_modules(scan, files, &place)?;
    target.core = Some((at, core));
    target.code = Some(code);
    target.notes.push("GRUB for a BIOS was added: its boot sector, its core image and its modules".into());
    Ok(())
}

/// Puts GRUB's modules into the directory of its configuration, where its core image looks for them.
fn install_modules(scan: &Scan, files: &mut Files, folder: &Place) -> Result<()> {
    let names: Vec<(String, Row)> = files
        .list(PC)
        .into_iter()
        .filter(|(name, row)| {
            let is_module = name.ends_with(".mod") || name.ends_with(".lst");
            is_module && row.node.file_type == FileType::File
        })
        .map(|(name, row)| (name, row.clone()))
        .collect();
    let to = folder.join(b"/i386-pc");
    let path = format!("{}:{}", to.volume, to.path_text());
    let has_all = names.iter().all(|(name, row)| {
        files.get_link(&format!("{path}/{name}")).is_some_and(|there| there.object() == row.object())
    });
    if has_all {
        return Ok(());
    }
    let volume = scan.volumes.iter().find(|volume| volume.name == to.volume);
    if volume.is_none_or(|volume| volume.planned().is_none()) {
        return Err(Error::unsupported(format!(
            "{path}: GRUB's modules would have to be copied there, and mif cannot write the volume"
        )));
    }
    for (name, row) in names {
        write(files, &to.volume, &format!("{}/{name}", to.path_text()), Content::Of(Box::new(row)))?;
    }
    Ok(())
}

/// Parses `moddep.lst`: the modules that each module needs.
fn dependencies(list: &str) -> BTreeMap<String, Vec<String>> {
    let lines = list.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(name, needs)| (name.trim().to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
        .collect()
}

/// Returns the modules with those that they need, each after those.
fn in_order(wanted: &[&str], needs: &BTreeMap<String, Vec<String>>) -> Result<Vec<String>> {
    /// More are in no core image.
    const MAX: usize = 128;
    let mut order: Vec<String> = Vec::new();
    let mut stack: Vec<(String, bool)> =
        wanted.iter().rev().map(|name| ((*name).to_owned(), false)).collect();
    let mut steps = 0;
    while let Some((name, is_ready)) = stack.pop() {
        steps += 1;
        if steps > 64 * MAX {
            return Err(Error::input(format!("{PC}/moddep.lst: modules need each other in a circle")));
        }
        if order.contains(&name) {
            continue;
        }
        if is_ready {
            order.push(name);
            continue;
        }
        stack.push((name.clone(), true));
        let needs = needs.get(&name).into_iter().flatten();
        stack.extend(needs.filter(|need| !order.contains(need)).map(|need| (need.clone(), false)));
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_those_that_they_need() {
        let needs = dependencies("ext2: fshelp\nbtrfs: gzio zstd\ngzio: gcry_crc\nbiosdisk:\n");
        let order = in_order(&["biosdisk", "ext2", "btrfs"], &needs).unwrap();
        let at = |name: &str| order.iter().position(|it| it == name).unwrap();
        assert!(at("fshelp") < at("ext2") && at("gcry_crc") < at("gzio") && at("gzio") < at("btrfs"));
        assert_eq!(order.len(), 7);
        let circle = dependencies("a: b\nb: a\n");
        assert!(in_order(&["a"], &circle).unwrap_err().to_string().contains("circle"));
    }
}
