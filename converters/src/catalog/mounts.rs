//! The mount points of a stored image's volumes, read from the manifest's columns where these suffice.

use std::collections::BTreeMap;

use mif_formats::fs;
use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::columns::{ChunkReader, Column, Columns};
use mif_formats::mif::manifest::escape;

use crate::error::{Result, damaged};
use crate::image::stored_tree;
use crate::store::{FilesystemRecord, Objects, StoredImage};
use crate::tree::mounts::{Devices, Root};
use crate::tree::view::Tree;
use crate::tree::{discover, fstab};

/// How many bytes of an fstab are read at most.
const MAX_FSTAB: u64 = 1 << 20;

/// For each volume, its directories that a root filesystem shows, with the paths at which it does; both are empty for
/// the topmost directory. Volumes that are not shown elsewhere than in themselves have no entry.
pub(crate) type Points = BTreeMap<String, Vec<(String, String)>>;

/// Returns the mount points of an image. Calls `objects` only if the image has subvolumes, or several volumes and an
/// fstab or partitions that are mounted by their types.
pub(crate) fn points<R: ChunkReader + 'static>(
    stored: &StoredImage,
    columns: &Columns<R>,
    objects: &dyn Fn() -> Result<std::sync::Arc<Objects>>,
) -> Result<Points> {
    let (mut filesystems, mut has_subvolumes) = (0, false);
    for volume in &stored.image.volumes {
        if let FilesystemRecord::Filesystem(info) = &volume.content {
            filesystems += 1;
            has_subvolumes |= fs::driver(&info.kind).is_some_and(|known| known.capabilities().has_subvolumes);
        }
    }
    if filesystems < 2 && !has_subvolumes {
        return Ok(Points::new());
    }
    let devices = Devices { table: &stored.image.table, volumes: &stored.image.volumes };
    let id = stored.image.id();
    let fstabs = fstabs(columns).map_err(|e| damaged(&id, &e))?;
    // Which directories are shown then depends on the rows.
    if has_subvolumes || fstabs.is_empty() && discover::has_places(devices) {
        return Ok(of_tree(&stored_tree(stored.manifest()?, &objects()?, devices)));
    }
    let mut points = Points::new();
    for fstab in fstabs {
        let objects = objects()?;
        let len = objects.len(&fstab)?.min(MAX_FSTAB);
        let mut bytes = vec![0; len as usize];
        objects.read_at(&fstab, 0, &mut bytes)?;
        for line in fstab::parse(&bytes).into_iter().filter(|line| !line.point.is_empty()) {
            let Some(volume) = devices.volume_of(&escape(&line.what)) else { continue };
            add(&mut points, volume, String::new(), escape(&line.point));
        }
    }
    Ok(points)
}

/// Returns the mount points of all root filesystems of a tree.
fn of_tree(tree: &Tree) -> Points {
    let mut points = Points::new();
    for (point, place) in tree.roots().iter().flat_map(Root::shown) {
        let text = |path: &[u8]| if path == b"/" { String::new() } else { escape(path) };
        add(&mut points, place.volume.clone(), text(&place.path), text(point));
    }
    points
}

fn add(points: &mut Points, volume: String, folder: String, point: String) {
    let known = points.entry(volume).or_default();
    let new = (folder, point);
    if !known.contains(&new) {
        known.push(new);
    }
}

/// Returns the contents of `/etc/fstab` on each volume that has one.
fn fstabs<R: ChunkReader + 'static>(columns: &Columns<R>) -> mif_formats::Result<Vec<ObjectId>> {
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
