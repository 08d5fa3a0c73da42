//! GRUB's names of devices and files: `(hd0,gpt1)/boot/grub`. The machine has one disk.

use mif_formats::partition::TableKind;

use super::super::look::Look;
use crate::store::volume_name;

/// Returns the volume of a device, such as `hd0,gpt1` or `lvm/group-volume`; `None` if the image has none of that name.
pub(super) fn volume_of(look: &Look<'_>, device: &str) -> Option<String> {
    let exists = |name: String| look.volumes.iter().any(|record| record.volume == name).then_some(name);
    if let Some(name) = device.strip_prefix("lvm/") {
        return exists(name.replace("--", "\0").replacen('-', "/", 1).replace('\0', "-"));
    }
    let (disk, partition) = device.split_once(',').unwrap_or((device, ""));
    // The first disk, of whatever driver: hd0, ahci0, ata0.
    if !disk.is_empty() && disk.trim_end_matches(|c: char| c.is_ascii_digit()) == disk
        || disk.strip_prefix("hd").is_some_and(|number| number != "0")
    {
        return None;
    }
    if partition.is_empty() {
        return exists(volume_name(0));
    }
    let kind = [("gpt", TableKind::Gpt), ("msdos", TableKind::Mbr)];
    let slot = match kind.iter().find(|(name, _)| partition.starts_with(name)) {
        Some((name, kind)) if look.is(*kind) => &partition[name.len()..],
        Some(_) => return None,
        None => partition,
    };
    exists(volume_name(slot.parse().ok()?))
}

/// Returns GRUB's name of a volume.
pub(super) fn device_of(look: &Look<'_>, volume: &str) -> String {
    if let Some((group, name)) = volume.split_once('/') {
        return format!("lvm/{}-{}", group.replace('-', "--"), name.replace('-', "--"));
    }
    let slot = volume.trim_start_matches('p');
    match (slot, look.table.kind) {
        ("0", _) | (_, TableKind::None) => "hd0".to_owned(),
        (slot, TableKind::Gpt) => format!("hd0,gpt{slot}"),
        (slot, TableKind::Mbr) => format!("hd0,msdos{slot}"),
    }
}

/// Splits `(DEVICE)/path`; without a device it is that of `root`.
pub(super) fn split<'p>(file: &'p str, root: &'p str) -> (&'p str, &'p str) {
    match file.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((device, path)) => (device, path),
        None => (root, file),
    }
}
