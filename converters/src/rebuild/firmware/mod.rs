//! Makes a disk start by UEFI or by a BIOS, from what its system has installed: GRUB's own files, and shim.
//!
//! For UEFI: an EFI system partition, if the disk has none; the program at the removable path, because firmware's own
//! settings are no part of an image; its configuration, which leads to the system's; and a line in `/etc/fstab`. For a BIOS:
//! GRUB's boot sector, its core image made of the modules that this disk needs, and the other modules in `/boot/grub`.

mod bios;
mod files;
mod uefi;

use mif_formats::fs::plan::{Tree, TreeNode};
use mif_formats::fs::{FileType, Node, Timestamp};
use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::Row;
use mif_formats::partition::TableKind;

use self::bios::bios;
use self::uefi::{NewEsp, uefi};
use super::reshape::{BootBy, Reshape};
use super::shape::VolumeDraft;
use super::table::Converted;
use crate::disk::scan::Scan;
use crate::error::{Error, Result};
use crate::tree::edit::Files;
use crate::tree::new_content::NewContents;

/// What makes a disk start.
pub(super) struct Firmware {
    /// The rows of the image, with those of new files.
    pub(super) rows: Vec<Row>,
    /// The content of new files.
    pub(super) new: NewContents,
    /// A new EFI system partition, by its volume.
    esp: Option<NewEsp>,
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
    // The time of the edits: no clock, so that the same image gives the same disk.
    let mut files = files(Timestamp { secs: 0, nanos: 0 })?;
    if let Some(time) = files.get("/etc").and_then(|row| row.node.mtime) {
        files.time = time;
    }
    let mut target = converted.take().unwrap_or_else(|| Converted::same(&scan.table));
    let esp = add(boot, scan, reshape, &mut files, &mut target).map_err(|e| e.within("--boot"))?;
    let mut rows: Vec<Row> = files.rows().into_iter().cloned().collect();
    if let Some((rows_of_esp, _)) = &esp {
        rows.extend(rows_of_esp.iter().cloned());
    }
    *converted = Some(target);
    Ok(Some(Firmware { rows, new: std::mem::take(&mut files.new), esp: esp.map(|(_, esp)| esp) }))
}

/// Adds what starts the disk by `boot`; returns a new EFI system partition with its rows, if one is added.
fn add(
    boot: BootBy,
    scan: &Scan,
    reshape: &Reshape,
    files: &mut Files,
    target: &mut Converted,
) -> Result<Option<(Vec<Row>, NewEsp)>> {
    if matches!(boot, BootBy::Bios | BootBy::Both) {
        bios(scan, reshape, files, target)?;
    }
    if boot == BootBy::Bios {
        return Ok(None);
    }
    uefi(scan, reshape, files, target)
}

impl Firmware {
    /// Returns the new volume, if there is one.
    pub(super) fn added_volume(&self) -> Option<&str> {
        self.esp.as_ref().map(|esp| esp.name.as_str())
    }

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
