//! Reads XFS volumes with the crate `rust-fs-xfs`, which replays a log of its own accord.

use std::collections::BTreeSet;
use std::sync::Arc;

use fs_xfs::Filesystem;
use fs_xfs::error::Error;
use mif_formats::Source;
use mif_formats::fs::FileType;

use super::device::{Blocks, read_all};
use super::{OtherNode, Reader};

pub(super) const READER: &str = "rust-fs-xfs 0.14";

pub(super) struct Xfs(Filesystem);

impl Xfs {
    pub(super) fn open(volume: Arc<dyn Source>) -> Result<Self, String> {
        Filesystem::mount(Arc::new(Blocks(volume))).map(Xfs).map_err(words)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
fn words(error: Error) -> String {
    format!("{READER}: {error}")
}

impl Reader for Xfs {
    fn find(&self, at: &[u8]) -> Result<Option<OtherNode>, String> {
        let file = match self.0.open_bytes(at) {
            Ok(file) => file,
            Err(Error::NotFound | Error::NotADirectory) => return Ok(None),
            Err(error) => return Err(words(error)),
        };
        let inode = file.inode();
        let file_type =
            FileType::of_mode(inode.mode).ok_or_else(|| format!("{READER}: a mode without a type"))?;
        let link_target = match file_type {
            FileType::Symlink => Some(file.link_target().map_err(words)?),
            _ => None,
        };
        Ok(Some(OtherNode {
            file_type,
            size: file.len(),
            mode: Some(inode.permissions()),
            owner: Some((inode.uid, inode.gid)),
            mtime: Some(inode.mtime.sec),
            link_target,
        }))
    }

    fn names(&self, folder: &[u8]) -> Result<BTreeSet<Vec<u8>>, String> {
        let entries = self.0.open_bytes(folder).and_then(|folder| folder.entries()).map_err(words)?;
        let names = entries.into_iter().map(|entry| entry.name);
        Ok(names.filter(|name| name != b"." && name != b"..").collect())
    }

    fn name_of(&self, name: &[u8]) -> Vec<u8> {
        name.to_vec()
    }

    fn read(&self, at: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        let file = self.0.open_bytes(at).map_err(words)?;
        read_all(|offset, buf| file.read_at(offset, buf).map_err(words), each)
    }
}
