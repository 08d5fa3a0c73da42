//! Reads ext volumes with the crate `ext4-view`.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Error, Ext4Read, Path};
use mif_formats::Source;
use mif_formats::fs::FileType;

use super::device::{read_all, read_part};
use super::{OtherNode, Reader};

pub(super) const READER: &str = "ext4-view 1.0";

pub(super) struct Ext(Ext4);

struct VolumeReader(Arc<dyn Source>);

impl Ext4Read for VolumeReader {
    fn read(&mut self, start: u64, buf: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync + 'static>> {
        match read_part(&*self.0, start, buf)? {
            read if read == buf.len() => Ok(()),
            _ => Err(format!("{} bytes at {start} extend past the end of the volume", buf.len()).into()),
        }
    }
}

impl Ext {
    pub(super) fn open(volume: Arc<dyn Source>) -> Result<Self, String> {
        Ext4::load(Box::new(VolumeReader(volume))).map(Ext).map_err(words)
    }
}

fn words(error: Ext4Error) -> String {
    format!("{READER}: {error}")
}

fn path(bytes: &[u8]) -> Result<Path<'_>, String> {
    Path::try_from(bytes).map_err(|error| format!("{READER}: {error}"))
}

impl Reader for Ext {
    fn find(&self, at: &[u8]) -> Result<Option<OtherNode>, String> {
        let at = path(at)?;
        let metadata = match self.0.symlink_metadata(at) {
            Ok(metadata) => metadata,
            Err(Ext4Error::NotFound) => return Ok(None),
            Err(error) => return Err(words(error)),
        };
        let kind = metadata.file_type();
        let file_type = match () {
            () if kind.is_dir() => FileType::Dir,
            () if kind.is_symlink() => FileType::Symlink,
            () if kind.is_char_dev() => FileType::Char,
            () if kind.is_block_dev() => FileType::Block,
            () if kind.is_fifo() => FileType::Fifo,
            () if kind.is_socket() => FileType::Socket,
            () => FileType::File,
        };
        let link_target = match file_type {
            FileType::Symlink => {
                let target = self.0.read_link(at).map_err(words)?;
                Some(target.as_path().as_ref().to_vec())
            }
            _ => None,
        };
        Ok(Some(OtherNode {
            file_type,
            size: metadata.len(),
            mode: Some(metadata.mode()),
            owner: Some((metadata.uid(), metadata.gid())),
            mtime: Some(metadata.modified().seconds()),
            link_target,
        }))
    }

    fn names(&self, folder: &[u8]) -> Result<BTreeSet<Vec<u8>>, String> {
        let mut names = BTreeSet::new();
        for entry in self.0.read_dir(path(folder)?).map_err(words)? {
            let name = entry.map_err(words)?.file_name().as_ref().to_vec();
            if name != b"." && name != b".." {
                names.insert(name);
            }
        }
        Ok(names)
    }

    fn name_of(&self, name: &[u8]) -> Vec<u8> {
        name.to_vec()
    }

    fn read(&self, at: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        let mut file = self.0.open(path(at)?).map_err(words)?;
        read_all(|_, buf| file.read_bytes(buf).map_err(words), each)
    }
}
