//! A disk with another logical sector size: which volumes can be used on it as they are, which are planned anew, and which
//! cannot be used.

use mif_formats::Source;
use mif_formats::partition::types::BIOS_BOOT;
use mif_formats::partition::{SECTOR_SIZES, Table, TableKind};

use super::reshape::Reshape;
use super::table::is_extended;
use crate::compose::planner::planner_of;
use crate::disk::scan::{Scan, ScannedVolume};
use crate::error::{Error, Result};
use crate::guest::boot::BOOT_CODE;
use crate::store::{FilesystemRecord, volume_name};

/// How many bytes of a volume that has no readable filesystem are examined.
const HEAD: u64 = 64 << 10;

/// The effects of another sector size on the volumes of a disk.
#[derive(Debug, Default)]
pub(super) struct Resectored {
    /// The new sector size in bytes.
    pub(super) size: u32,
    /// Volumes that are planned anew.
    pub(super) planned: Vec<String>,
    /// What the user should know, each a sentence.
    pub(super) notes: Vec<String>,
}

/// Returns the effects of the sector size in `reshape`, or `None` if it is unchanged.
///
/// # Errors
///
/// Fails if a volume cannot be used on a disk with such sectors, and names all of them.
pub(super) fn resectored(scan: &Scan, reshape: &Reshape) -> Result<Option<Resectored>> {
    let Some(size) = reshape.sector_size else { return Ok(None) };
    if !SECTOR_SIZES.contains(&size) {
        return Err(Error::usage(format!("--sector-size {size}: expected 512 or 4096")));
    }
    if size == scan.table.sector_size {
        return Ok(None);
    }
    let mut new = Resectored { size, ..Resectored::default() };
    let mut refused = Vec::new();
    let of_extended = |volume: &&ScannedVolume| {
        let mut partitions = scan.table.partitions.iter().filter(|p| is_extended(p));
        partitions.any(|p| volume_name(p.slot) == volume.name)
    };
    for volume in scan.volumes.iter().filter(|volume| !of_extended(volume)) {
        match judge(scan, volume, size)? {
            Use::AsItIs => {}
            Use::Planned => new.planned.push(volume.name.clone()),
            Use::Unknown(why) => new.notes.push(format!("{}: {why}", volume.name)),
            Use::Refused(why) => refused.push(format!("{}: {why}", volume.name)),
        }
    }
    let mut advice = Vec::new();
    if !refused.is_empty() {
        advice.push(format!(
            "copy the files of such a volume to a new filesystem: `mif extract IMAGE -o files.tar`, then `mif build` with \
             --sector-size {size}"
        ));
    }
    let has_logical = scan.table.kind == TableKind::Mbr && scan.table.partitions.iter().any(|p| p.slot > 4);
    if has_logical && reshape.table != Some(TableKind::Gpt) {
        refused.push("its MBR has logical partitions, whose chain counts in sectors".to_owned());
        advice.push("pass --table gpt, in which they are partitions like others".to_owned());
    }
    refused.extend(unaligned(&scan.table, size));
    if !refused.is_empty() {
        let problem = format!("the disk cannot have sectors of {size} bytes: {}", refused.join("; "));
        let error = Error::unsupported(problem);
        return Err(match advice.is_empty() {
            true => error,
            false => error.advise(capitalized(&advice.join("; "))),
        });
    }
    let table = match scan.table.kind {
        TableKind::None => "the disk is",
        TableKind::Mbr | TableKind::Gpt => "the partition table is",
    };
    new.notes
        .insert(0, format!("{table} for sectors of {size} bytes now; it was for {}", scan.table.sector_size));
    if size > 512 && has_boot_code(&*scan.disk)? {
        new.notes.push(format!(
            "it starts by UEFI only: boot code for a BIOS finds nothing on a disk with sectors of {size} bytes"
        ));
    }
    Ok(Some(new))
}

/// What becomes of a volume.
enum Use {
    AsItIs,
    Planned,
    /// It is kept as it is, and this should be known.
    Unknown(String),
    Refused(String),
}

fn judge(scan: &Scan, volume: &ScannedVolume, size: u32) -> Result<Use> {
    if let Some(filesystem) = volume.filesystem() {
        let sizes = filesystem.sector_sizes();
        if sizes.contains(&size) {
            return Ok(Use::AsItIs);
        }
        if volume.planned().is_some() {
            let mut planner = planner_of(filesystem, std::sync::Arc::new(scan.volume(volume)))
                .map_err(|e| e.within(&volume.name))?;
            match planner.set_sector_size(size) {
                Ok(()) => return Ok(Use::Planned),
                Err(error) if sizes.start() == sizes.end() => return Ok(Use::Refused(error.to_string())),
                Err(_) => {}
            }
        }
        let kind = &filesystem.info().kind;
        return Ok(Use::Refused(match size < *sizes.start() {
            true => {
                format!("{kind} was made for sectors of {} bytes and works with no others", sizes.start())
            }
            false => {
                format!("{kind} has blocks or sectors of {} bytes, and needs whole sectors", sizes.end())
            }
        }));
    }
    // GRUB's core image, which only a BIOS uses.
    if scan.table.partitions.iter().any(|p| p.type_id == BIOS_BOOT && volume_name(p.slot) == volume.name) {
        return Ok(Use::AsItIs);
    }
    let FilesystemRecord::Other(name) = volume.record().content else { return Ok(Use::AsItIs) };
    let source = scan.volume(volume);
    let head = source.read_vec(0, source.len().min(HEAD) as usize)?;
    Ok(other(name.as_deref(), &head, size))
}

/// Judges a volume without a readable filesystem by its first bytes.
fn other(name: Option<&str>, head: &[u8], size: u32) -> Use {
    match name {
        // Swap counts in pages. Logical volumes are judged on their own.
        Some("swap" | "LVM2_member" | "squashfs") => Use::AsItIs,
        Some("crypto_LUKS") => match luks_sector(head) {
            Some(sector) if sector >= size => Use::AsItIs,
            Some(sector) => Use::Refused(format!(
                "LUKS has sectors of {sector} bytes, so the filesystem in it may need such sectors"
            )),
            None => Use::Refused("its LUKS header does not tell its sector size".into()),
        },
        Some("erofs") => match head.get(1024 + 12) {
            Some(log @ 9..=16) if 1_u32 << log >= size => Use::AsItIs,
            _ => Use::Refused("erofs has smaller blocks".into()),
        },
        Some(name) => Use::Refused(format!("mif does not know whether {name} works with such sectors")),
        None if mif_formats::source::is_zero(head) => Use::AsItIs,
        None => Use::Unknown("its content is not known, and stays as it is".into()),
    }
}

/// Returns the least sector size in bytes of the segments of a LUKS volume: that of its `dm-crypt` device.
fn luks_sector(head: &[u8]) -> Option<u32> {
    match head.get(6..8)? {
        [0, 1] => Some(512),
        [0, 2] => {
            // Each copy of the JSON area follows a binary header of 4096 bytes (LUKS2 On-Disk Format, 2.1).
            let json = head.get(4096..)?;
            let json = &json[..json.iter().position(|b| *b == 0)?];
            let area: serde_json::Value = serde_json::from_slice(json).ok()?;
            let segments = area.get("segments")?.as_object()?;
            let sizes = segments.values().filter(|it| it.get("type").is_some_and(|kind| kind == "crypt"));
            let sizes: Option<Vec<u64>> = sizes.map(|it| it.get("sector_size")?.as_u64()).collect();
            u32::try_from(sizes?.into_iter().min()?).ok()
        }
        _ => None,
    }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Returns the partitions of a table that do not begin at whole sectors of `size` bytes, each as a sentence. (An extended
/// partition only holds others.)
fn unaligned(table: &Table, size: u32) -> Vec<String> {
    if table.kind == TableKind::None {
        return Vec::new();
    }
    let parts = table.partitions.iter().filter(|p| !is_extended(p) && !p.start.is_multiple_of(size.into()));
    let say = |slot, start| {
        format!("{} begins at byte {start}, which is no whole number of such sectors", volume_name(slot))
    };
    parts.map(|p| say(p.slot, p.start)).collect()
}

fn has_boot_code(disk: &dyn Source) -> Result<bool> {
    if disk.len() < 512 {
        return Ok(false);
    }
    Ok(!mif_formats::source::is_zero(&disk.read_vec(0, BOOT_CODE)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn luks2(json: &str) -> Vec<u8> {
        let mut head = vec![0; 16 << 10];
        head[..8].copy_from_slice(b"LUKS\xba\xbe\0\x02");
        head[4096..4096 + json.len()].copy_from_slice(json.as_bytes());
        head
    }

    #[test]
    fn a_luks_volume_tells_its_sectors() {
        assert_eq!(luks_sector(b"LUKS\xba\xbe\0\x01"), Some(512));
        let sector = |json: &str| luks_sector(&luks2(json));
        assert_eq!(sector(r#"{"segments":{"0":{"type":"crypt","sector_size":4096}}}"#), Some(4096));
        let two = r#"{"segments":{"0":{"type":"crypt","sector_size":4096},"1":{"type":"crypt","sector_size":512}}}"#;
        assert_eq!(sector(two), Some(512));
        for bad in
            ["", "{", "[]", r#"{"segments":{}}"#, r#"{"segments":{"0":{"type":"crypt","sector_size":-1}}}"#]
        {
            assert_eq!(sector(bad), None, "{bad}");
        }
        assert_eq!(luks_sector(b"LUKS"), None);
        assert_eq!(luks_sector(b"LUKS\xba\xbe\0\x02"), None);
    }

    #[test]
    fn what_no_filesystem_tells_is_kept_only_if_it_is_known_to_work() {
        let is_kept = |name, head: &[u8]| matches!(other(name, head, 4096), Use::AsItIs);
        assert!(is_kept(Some("swap"), &[1]) && is_kept(Some("LVM2_member"), &[1]) && is_kept(None, &[0; 64]));
        assert!(
            !is_kept(Some("iso9660"), &[1]) && !is_kept(Some("zfs_member"), &[1]) && !is_kept(None, &[1])
        );
        let mut erofs = vec![0; 2048];
        assert!(!is_kept(Some("erofs"), &erofs));
        erofs[1036] = 12;
        assert!(is_kept(Some("erofs"), &erofs));
        assert!(!is_kept(Some("erofs"), &[]));
    }
}
