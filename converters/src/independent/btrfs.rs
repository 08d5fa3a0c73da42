//! Reads Btrfs volumes with the crate `rust-fs-btrfs`, which replays no log.

use std::collections::BTreeSet;
use std::sync::Arc;

use fs_btrfs::Filesystem;
use fs_btrfs::error::Error;
use fs_btrfs::subvol::{EMPTY_SUBVOL_DIR_OBJECTID, PathTarget};
use mif_formats::Source;
use mif_formats::fs::FileType;

use super::device::{Blocks, read_all};
use super::{OtherNode, Reader};

pub(super) const READER: &str = "rust-fs-btrfs 0.10";

/// The ID of the top-level subvolume, which a volume's paths start from.
const TOP_LEVEL: u64 = 5;

pub(super) struct Btrfs(Filesystem);

impl Btrfs {
    pub(super) fn open(volume: Arc<dyn Source>) -> Result<Self, String> {
        let default = Filesystem::mount(Arc::new(Blocks(volume))).map_err(words)?;
        if default.superblock().log_root != 0 {
            return Err(format!("{READER} does not replay the log of this volume"));
        }
        default.open_subvolume(TOP_LEVEL).map(Btrfs).map_err(words)
    }

    /// Returns the node at a path, with the subvolume that contains it.
    fn resolve(&self, path: &[u8]) -> Result<PathTarget, Error> {
        self.0.resolve_path_bytes(path)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
fn words(error: Error) -> String {
    format!("{READER}: {error}")
}

impl Reader for Btrfs {
    fn find(&self, at: &[u8]) -> Result<Option<OtherNode>, String> {
        let found = match self.resolve(at) {
            Ok(found) => found,
            Err(Error::NotFound | Error::NotADirectory) => return Ok(None),
            Err(error) => return Err(words(error)),
        };
        let inode = &found.inode;
        let file_type =
            FileType::of_mode(inode.mode as u16).ok_or_else(|| format!("{READER}: a mode without a type"))?;
        let link_target = match file_type {
            FileType::Symlink => Some(found.fs(&self.0).read_link(inode.ino).map_err(words)?),
            _ => None,
        };
        // Nothing on the disk describes the empty directory that stands for a subvolume in a snapshot.
        let stored = inode.ino != EMPTY_SUBVOL_DIR_OBJECTID;
        Ok(Some(OtherNode {
            file_type,
            size: inode.size,
            mode: stored.then_some(inode.permissions() as u16),
            owner: stored.then_some((inode.uid, inode.gid)),
            mtime: stored.then_some(inode.mtime.sec),
            link_target,
        }))
    }

    fn names(&self, folder: &[u8]) -> Result<BTreeSet<Vec<u8>>, String> {
        let folder = self.resolve(folder).map_err(words)?;
        if folder.inode.ino == EMPTY_SUBVOL_DIR_OBJECTID {
            return Ok(BTreeSet::new());
        }
        let entries = folder.fs(&self.0).read_dir(folder.inode.ino).map_err(words)?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    }

    fn name_of(&self, name: &[u8]) -> Vec<u8> {
        name.to_vec()
    }

    fn read(&self, at: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        let file = self.resolve(at).map_err(words)?;
        let fs = file.fs(&self.0);
        read_all(|offset, buf| fs.read_at(file.inode.ino, offset, buf).map_err(words), each)
    }
}
