//! What a BIOS starts: GRUB's boot sector, its core image made of the image's own files, and its modules.

use std::collections::BTreeMap;

use mif_formats::Source;
use mif_formats::fs::FileType;
use mif_formats::mif::manifest::Row;
use mif_formats::source::is_zero;

use super::files::{Content, grub_folder, new_ids, partition_id, write};
use crate::boot::grub::core::is_boot_sector;
use crate::boot::grub::image::Image;
use crate::boot::grub::state::filesystem_module;
use crate::disk::scan::Scan;
use crate::error::{Error, Result};
use crate::guest::boot::BOOT_CODE;
use crate::rebuild::reshape::Reshape;
use crate::rebuild::table::{Converted, SECTOR, grub_name};
use crate::store::volume_name;
use crate::tree::edit::Files;
use crate::tree::path::Place;

/// Where a BIOS's drive number is checked in `boot.img`: two instructions that do nothing take its place.
const GRUB_DRIVE_CHECK: usize = 0x66;

/// The directory of GRUB's files for a BIOS.
const PC: &str = "/usr/lib/grub/i386-pc";

pub(super) fn bios(scan: &Scan, reshape: &Reshape, files: &mut Files, target: &mut Converted) -> Result<()> {
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
    let place = grub_folder(files)?;
    let volume = scan.volumes.iter().find(|volume| volume.name == place.volume);
    let partition = target.table.partitions.iter().find(|p| volume_name(p.slot) == place.volume);
    let (Some(volume), Some(partition)) = (volume, partition) else {
        return Err(Error::unsupported(format!(
            "{}: GRUB's configuration is not on a partition, and mif makes no core image for that",
            place.volume
        )));
    };
    let slot = target.slot(partition.slot);
    let kind = volume.filesystem().map(|fs| fs.info().kind.clone()).unwrap_or_default();
    let reads = filesystem_module(&kind).ok_or_else(|| {
        Error::unsupported(format!("{}: mif does not know GRUB's module for {kind}", place.volume))
    })?;
    let table = grub_name(target.table.kind);
    let mut image = Image::from_files(
        &read(files, "diskboot.img")?,
        &read(files, "lzma_decompress.img")?,
        &read(files, "kernel.img")?,
    )?;
    let needs = dependencies(&String::from_utf8_lossy(&read(files, "moddep.lst")?));
    for module in in_order(&["biosdisk", &format!("part_{table}"), reads], &needs)? {
        let bytes = read(files, &format!("{module}.mod"))?;
        image.add(&module, &bytes)?;
    }
    image.set_prefix(&format!("(,{table}{slot}){}", place.path_text()));
    let ids = new_ids(reshape, target);
    let core_place = target.core_place(scan.disk.len(), |slot| Some(partition_id(&ids, slot)))?;
    if let Some(slot) = core_place.partition.filter(|_| core_place.is_new) {
        target.notes.push(format!("partition {slot} is new: GRUB's core image for a BIOS"));
    }
    let (at, core) = (core_place.at, core_place.encode(&image)?);
    let end = (at + core.len() as u64).min(scan.disk.len());
    let gap = at..if core_place.is_new { end.max(at) } else { at };
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
