//! The subvolumes of an image's volumes, and the directory that a mount of one shows.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use mif_formats::fs::FileType;
use mif_formats::mif::manifest::Row;

use super::fstab::Subvolume;
use super::path::{Paths, Place, resolve};

/// The id by which a mount names the top level of a volume, whatever its own id is (btrfs(5), `subvolid=0`).
const TOP: u64 = 0;

/// The subvolumes of the volumes that have some, by volume.
pub(crate) struct Subvolumes(BTreeMap<String, Directories>);

/// The directories of subvolumes.
#[derive(Default)]
struct Directories {
    by_id: BTreeMap<u64, Vec<u8>>,
    all: BTreeSet<Vec<u8>>,
}

impl Subvolumes {
    /// Finds the subvolumes in rows in the order of a manifest: the first path of each is its directory.
    pub(crate) fn of<'r>(rows: impl Iterator<Item = &'r Row>) -> Self {
        let mut found: BTreeMap<String, Directories> = BTreeMap::new();
        let mut known: HashSet<(&str, u64)> = HashSet::new();
        let mut last = None;
        for row in rows {
            let Some(id) = row.node.subvolume else { continue };
            // Usually the row before is of the same one.
            if last == Some((&row.volume[..], id)) {
                continue;
            }
            last = Some((&row.volume[..], id));
            if row.node.file_type == FileType::Dir && known.insert((&row.volume, id)) {
                let directories = found.entry(row.volume.clone()).or_default();
                directories.by_id.insert(id, row.path.clone());
                directories.all.insert(row.path.clone());
            }
        }
        Subvolumes(found)
    }

    /// Returns the path of a row in its own subvolume.
    pub(crate) fn inside<'r>(&self, row: &'r Row) -> &'r [u8] {
        let of = self.0.get(&row.volume).zip(row.node.subvolume);
        let directory = of.and_then(|(of, id)| of.by_id.get(&id)).filter(|directory| *directory != b"/");
        match directory.and_then(|directory| row.path.strip_prefix(&directory[..])) {
            Some([]) => b"/",
            Some(rest) => rest,
            None => &row.path,
        }
    }

    /// Returns the directories of a volume's subvolumes, in the order of their ids; none if the volume has none.
    pub(crate) fn directories(&self, volume: &str) -> impl Iterator<Item = &[u8]> {
        self.0.get(volume).into_iter().flat_map(|of| of.by_id.values().map(Vec::as_slice))
    }

    /// Returns the directory of a volume that is mounted where nothing else is requested. `default` is the id in the
    /// volume's record.
    pub(crate) fn default(&self, volume: &str, default: Option<u64>) -> Vec<u8> {
        let known = self.0.get(volume).zip(default).and_then(|(of, id)| of.by_id.get(&id));
        known.map_or_else(|| b"/".to_vec(), Clone::clone)
    }

    /// Returns the directory of a volume that is visible when a subvolume is mounted, or `None` if the subvolume does not
    /// exist: the kernel refuses such a mount. On filesystems without subvolumes this is `/`.
    pub(crate) fn directory(&self, paths: &impl Paths, volume: &str, wanted: &Subvolume) -> Option<Vec<u8>> {
        let Some(of) = self.0.get(volume) else { return Some(b"/".to_vec()) };
        match wanted {
            Subvolume::Id(TOP) => Some(b"/".to_vec()),
            Subvolume::Id(id) => of.by_id.get(id).cloned(),
            // The kernel refuses an option without a value.
            Subvolume::Path(path) if path.is_empty() => None,
            Subvolume::Path(path) => {
                // The kernel follows symlinks on this path, and `..` does not lead above the top level.
                let Place { path, .. } = resolve(paths, volume, path, true).ok()?;
                of.all.contains(&path).then_some(path)
            }
        }
    }
}
