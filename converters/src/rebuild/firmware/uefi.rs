//! What UEFI starts: an EFI system partition, the programs on it, their configuration, and the line in `/etc/fstab`.

use std::collections::BTreeMap;

use mif_formats::Source;
use mif_formats::fs::driver::NewVolume;
use mif_formats::fs::plan::Planner;
use mif_formats::fs::{self, FileType, Node, Timestamp};
use mif_formats::mif::manifest::Row;
use mif_formats::partition::types::{ESP, ESP_IN_MBR};
use mif_formats::partition::{Partition, TableKind};

use super::files::{Content, grub_folder, head, new_ids, partition_id, write};
use crate::boot::firmware::{grub_files, removable_name};
use crate::boot::grub::core::{cpu, of_program};
use crate::disk::scan::Scan;
use crate::error::{Error, Result};
use crate::guest::pe::{Program, uefi_machine};
use crate::guest::probe::{PROGRAMS, elf_machine};
use crate::rebuild::reshape::Reshape;
use crate::rebuild::table::{Converted, SECTOR};
use crate::store::volume_name;
use crate::tree::edit::{Files, NewNode};
use crate::tree::new_content::NewContent;

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

/// A new EFI system partition.
pub(in crate::rebuild) struct NewEsp {
    pub(super) name: String,
    id: [u8; 16],
    time: u32,
    sector_size: u32,
}

impl NewEsp {
    pub(super) fn planner(&self, size: u64) -> Result<Box<dyn Planner>> {
        let driver = fs::driver("fat").expect("there is a driver of FAT");
        let new = NewVolume {
            kind: "fat32",
            size,
            id: self.id,
            hash_seed: [0; 16],
            label: b"ESP",
            time: self.time,
            nodes: 0,
            sector_size: self.sector_size,
            block_size: None,
            inodes: None,
            features: "",
        };
        Ok(driver.new_planner(&new)?)
    }
}

/// The files that start a system, with their names in the directory of the removable path.
struct Programs {
    files: Vec<(String, String)>,
    /// The directory on the EFI system partition in which GRUB looks for its configuration.
    prefix: String,
}

pub(super) fn uefi(
    scan: &Scan,
    reshape: &Reshape,
    files: &mut Files,
    target: &mut Converted,
) -> Result<Option<(Vec<Row>, NewEsp)>> {
    let machine = PROGRAMS.iter().find_map(|path| elf_machine(&head(files, path)?));
    let machine = machine.unwrap_or_else(|| "x86_64".to_owned());
    let (suffix, _) = uefi_machine(&machine)
        .ok_or_else(|| Error::unsupported(format!("mif does not know how UEFI starts {machine}")))?;
    let removable = format!("/EFI/BOOT/{}", removable_name(suffix));
    let volumes: Vec<String> = target
        .table
        .partitions
        .iter()
        .filter(|p| p.is_esp())
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
    let esp = add_esp(reshape, files, target)?;
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

fn folder(volume: &str, path: &str, time: Timestamp) -> Row {
    let mut node = Node::bare(FileType::Dir);
    node.mtime = Some(time);
    Row::new(volume, path.as_bytes().to_vec(), None, node)
}

/// Returns the files of a GRUB that is installed on an EFI system partition in its distribution's directory, and the name
/// that each has in the directory of the removable path; none if there is no GRUB.
fn installed(files: &Files, volume: &str, suffix: &str) -> Vec<(Row, String)> {
    for (folder, _) in files.list(&format!("{volume}:/EFI")) {
        let rows: BTreeMap<String, &Row> = files
            .list(&format!("{volume}:/EFI/{folder}"))
            .into_iter()
            .filter(|(_, row)| row.node.file_type == FileType::File)
            .collect();
        let names: Vec<String> = rows.keys().cloned().collect();
        let found = grub_files(&names, suffix);
        if !found.is_empty() {
            return found.into_iter().map(|(name, to)| (rows[&name].clone(), to)).collect();
        }
    }
    Vec::new()
}

/// Finds the programs of UEFI that the system has installed: shim with a signed GRUB, or GRUB alone.
fn programs(files: &Files, suffix: &str) -> Result<Programs> {
    let family = cpu(suffix);
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
    let core = of_program(&program)
        .ok_or_else(|| Error::unsupported(format!("{grub}: no GRUB that mif can read")))?;
    if core.prefix.is_empty() || core.prefix.contains('(') {
        return Err(Error::unsupported(format!(
            "{grub}: looks for its configuration in {}, which no EFI system partition has",
            core.prefix
        )));
    }
    let boot = removable_name(suffix);
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

/// Returns the configuration on the EFI system partition, which leads to the system's.
fn config(files: &Files, scan: &Scan) -> Result<String> {
    let place = grub_folder(files)?;
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

/// Adds the partition of an EFI system partition behind all others.
fn add_esp(reshape: &Reshape, files: &Files, target: &mut Converted) -> Result<NewEsp> {
    let sector_size = reshape.sector_size.unwrap_or(target.table.sector_size);
    let size = if u64::from(sector_size) > SECTOR { LARGE_ESP_SIZE } else { ESP_SIZE };
    let slot = target.free_slot(ESP_SLOT)?;
    let ends = target.table.partitions.iter().map(|p| p.start + p.len);
    let start = ends.max().unwrap_or(0).max(ALIGN).next_multiple_of(ALIGN);
    let ids = new_ids(reshape, target);
    let is_gpt = target.table.kind == TableKind::Gpt;
    target.add(Partition {
        slot,
        start,
        len: size,
        type_id: if is_gpt { ESP } else { ESP_IN_MBR }.to_owned(),
        id: is_gpt.then(|| partition_id(&ids, slot)),
        name: is_gpt.then(|| "EFI system partition".to_owned()),
        attributes: 0,
    });
    let name = volume_name(slot);
    target.notes.push(format!("{name} is new: an EFI system partition with GRUB"));
    let time = u32::try_from(files.time.secs).unwrap_or(0);
    Ok(NewEsp { id: ids.uuid(&name), name, time, sector_size })
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
