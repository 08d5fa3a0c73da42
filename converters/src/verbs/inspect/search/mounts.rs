//! The mount points of a stored image's volumes according to its fstab, read from the manifest's columns.

use std::collections::BTreeMap;

use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::columns::{Column, Columns};
use mif_formats::mif::manifest::escape;

use super::file::StoredFile;
use crate::error::{Result, damaged};
use crate::store::{FilesystemRecord, Objects, StoredImage};
use crate::tree::mounts::{self, Devices, MountedOn};

/// How many bytes of an fstab are read at most.
const MAX_FSTAB: u64 = 1 << 20;

/// The directories on which an fstab of the image mounts a volume, by volume. Unmounted volumes have no entry.
pub(super) type Points = BTreeMap<String, Vec<String>>;

/// Returns the mount points of an image. Calls `objects` only if the image has several volumes and an fstab.
pub(super) fn points(
    stored: &StoredImage,
    columns: &Columns<StoredFile>,
    objects: &dyn Fn() -> Result<std::sync::Arc<Objects>>,
) -> Result<Points> {
    let has_files = |content: &FilesystemRecord| matches!(content, FilesystemRecord::Filesystem(_));
    if stored.image.volumes.iter().filter(|volume| has_files(&volume.content)).count() < 2 {
        return Ok(Points::new());
    }
    let devices = Devices { table: &stored.image.table, volumes: &stored.image.volumes };
    let id = stored.image.id();
    let mut points = Points::new();
    for fstab in fstabs(columns).map_err(|e| damaged(&id, &e))? {
        let objects = objects()?;
        let len = objects.len(&fstab)?.min(MAX_FSTAB);
        let mut bytes = vec![0; len as usize];
        objects.read_at(&fstab, 0, &mut bytes)?;
        for mount in mounts::read(&bytes, devices) {
            let MountedOn::Volume(volume) = mount.what else { continue };
            let point = escape(&mount.point);
            let known = points.entry(volume).or_default();
            if !known.contains(&point) {
                known.push(point);
            }
        }
    }
    Ok(points)
}

/// Returns the contents of `/etc/fstab` on each volume that has one.
fn fstabs(columns: &Columns<StoredFile>) -> mif_formats::Result<Vec<ObjectId>> {
    const FSTAB: &[u8] = b"/etc/fstab";
    let mut found = Vec::new();
    for group in columns.groups() {
        if group
            .bounds(Column::Path)
            .is_some_and(|(low, high)| FSTAB < low || FSTAB > high && !FSTAB.starts_with(high))
        {
            continue;
        }
        let (mut rows, mut row) = (Vec::new(), 0);
        group.each_text(Column::Path, |path| {
            if path == FSTAB {
                rows.push(row);
            }
            row += 1;
        })?;
        let digests = group.digests_at::<32>(Column::Blake3, &rows)?;
        found.extend(digests.into_iter().flatten().map(ObjectId::content));
    }
    Ok(found)
}
