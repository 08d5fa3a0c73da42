//! Mounts of a disk without an fstab. Like systemd, derives them from the partition types (systemd-gpt-auto-generator(8),
//! "The Discoverable Partitions Specification").

use mif_formats::partition::types::ESP;
use mif_formats::partition::{Partition, TableKind};

use super::mounts::{Devices, Mount, MountedOn};
use super::path::{Paths, Place};
use super::subvolumes::Subvolumes;
use crate::store::volume_name;

/// The types of partitions with a root filesystem: for x86-64 and for 64-bit ARM.
const ROOT: [&str; 2] = ["4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "b921b045-1df0-41c3-af44-4c6f280d3fae"];
/// The types of partitions that are mounted at one place, with that place.
const PLACES: [(&str, &str); 6] = [
    ("8484680c-9521-48c6-9c11-b0720656f69e", "/usr"),
    ("b0e01050-ee5f-4390-949a-9101b17104e9", "/usr"),
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "/home"),
    ("3b8f8425-20e0-4f3b-907f-1a25a76f98e8", "/srv"),
    ("4d21b016-b534-45c2-a9fb-5c16e091fd2d", "/var"),
    ("7ec6f557-3bc5-4aca-b293-16ef5df639d1", "/var/tmp"),
];
/// The type of the extended boot loader partition.
const XBOOTLDR: &str = "bc13c2ff-59e6-4262-a352-b275fd6f7172";
/// The attribute of partitions that are not mounted by themselves; for the EFI system partition another one says that.
const NO_AUTO: u64 = 1 << 63;
const ESP_IGNORED: u64 = 1 << 1;
/// The name of partitions that a later update will fill (systemd-sysupdate).
const EMPTY: &str = "_empty";

/// Returns the volume of the first partition whose type is of a root filesystem.
pub(super) fn root(devices: Devices<'_>) -> Option<String> {
    first(devices, &ROOT).map(|partition| volume_name(partition.slot))
}

/// Returns true if a partition has a type by which it may be mounted.
pub(crate) fn has_places(devices: Devices<'_>) -> bool {
    let types: Vec<&str> = PLACES.iter().map(|(id, _)| *id).chain([ESP, XBOOTLDR]).collect();
    first(devices, &types).is_some()
}

/// Returns the first partition of one of these types that may be mounted.
fn first<'a>(devices: Devices<'a>, types: &[&str]) -> Option<&'a Partition> {
    let is_gpt = devices.table.kind == TableKind::Gpt;
    let is_mounted = |partition: &Partition| {
        let ignored = if partition.type_id == ESP { ESP_IGNORED } else { NO_AUTO };
        partition.attributes & ignored == 0 && partition.name.as_deref() != Some(EMPTY)
    };
    let mut all = devices.table.partitions.iter().filter(|partition| is_gpt && is_mounted(partition));
    all.find(|partition| types.contains(&&partition.type_id[..]))
}

/// Returns the mounts of a root filesystem without an fstab: of partitions for which it has an empty directory.
pub(super) fn mounts(
    devices: Devices<'_>,
    root: &Place,
    paths: &impl Paths,
    subvolumes: &Subvolumes,
) -> Vec<Mount> {
    let place = |point: &str| root.join(point.as_bytes());
    let is_dir = |point: &str| {
        let Place { volume, path } = place(point);
        paths.row(&volume, &path).is_some_and(|row| row.node.file_type == mif_formats::fs::FileType::Dir)
    };
    let boot = first(devices, &[XBOOTLDR]).map(|_| (XBOOTLDR, "/boot"));
    let esp = if boot.is_none() && is_dir("/boot") { "/boot" } else { "/efi" };
    let mut found: Vec<Mount> = Vec::new();
    for (id, point) in PLACES.into_iter().chain(boot).chain([(ESP, esp)]) {
        let Some(partition) = first(devices, &[id]) else { continue };
        let volume = volume_name(partition.slot);
        let is_known = found.iter().any(|mount| mount.point == point.as_bytes());
        if volume == root.volume || is_known || !is_dir(point) || paths.has_entries(&place(point)) {
            continue;
        }
        let path = subvolumes.default(&volume, devices.default_subvolume(&volume));
        let what = MountedOn::Place(Place { volume, path });
        found.push(Mount { point: point.into(), what });
    }
    found
}
