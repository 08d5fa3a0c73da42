//! A tree to bring in, from a folder or a tar: what is said of each path, and where its bytes are.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::container::ImageFile;
use mif_formats::fs::{FileType, Node, Timestamp, Xattr};

use super::limits::Room;
use super::path::TreePath;
use crate::import::{LooseFile, Parts};
use crate::{Error, Result};

/// A tree: each path from `/` on, with what is there. A folder comes before what it holds.
pub(super) type Members = BTreeMap<TreePath, Member>;

/// What is at a path.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) node: Node,
    pub(super) content: Option<Content>,
    /// Members with one number are one file.
    pub(super) file: Option<u64>,
    /// ACLs that are still text: the attribute of each, and its text.
    pub(super) acls: Vec<(&'static str, Vec<u8>)>,
}

/// Where the bytes of a regular file are.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// A file of this machine.
    Local(PathBuf),
    /// Parts of the tar: which of the file's, and where in the tar each begins.
    InTar(Arc<Parts>),
}

impl Content {
    /// Opens it; `tar` is what the tree came from.
    pub(super) fn open(&self, size: u64, tar: Option<&Arc<dyn Source>>) -> Result<LooseFile> {
        match (self, tar) {
            (Content::Local(path), _) => {
                let source = Arc::new(ImageFile::open(path)?);
                if source.len() != size {
                    return Err(Error::input(format!("{}: changes while it is read", path.display())));
                }
                let mut parts = Vec::new();
                let mut at = 0;
                while at < size {
                    let extent = source.extent_at(at)?;
                    let end = extent.range.end.min(size);
                    if !extent.is_zero() {
                        parts.push((at..end, at));
                    }
                    at = end;
                }
                Ok(LooseFile { source, size, parts })
            }
            (Content::InTar(parts), Some(tar)) => {
                Ok(LooseFile { source: tar.clone(), size, parts: Parts::clone(parts) })
            }
            (Content::InTar(_), None) => Err(Error::store("a part of a tar without one: this is a defect")),
        }
    }
}

/// Reads a folder of this machine. Symlinks are members, and are not followed. What may not be read is an error:
/// half a tree makes no disk.
pub(super) fn of_folder(folder: &Path) -> Result<Members> {
    let mut members = Members::new();
    let mut room = Room::default();
    let mut todo = vec![(folder.to_owned(), TreePath::root())];
    while let Some((path, name)) = todo.pop() {
        let failed = |e: std::io::Error| Error::io(&path, &e);
        let meta = if name.is_root() { path.metadata() } else { path.symlink_metadata() };
        let meta = meta.map_err(failed)?;
        let kind = meta.file_type();
        let file_type = match () {
            () if kind.is_dir() => FileType::Dir,
            () if kind.is_symlink() => FileType::Symlink,
            () if kind.is_block_device() => FileType::Block,
            () if kind.is_char_device() => FileType::Char,
            () if kind.is_fifo() => FileType::Fifo,
            () if kind.is_socket() => FileType::Socket,
            () => FileType::File,
        };
        let time = |secs: i64, nanos: i64| Some(Timestamp { secs, nanos: nanos as u32 });
        let mut node = Node::bare(file_type);
        node.mode = Some((meta.mode() & 0o7777) as u16);
        (node.uid, node.gid) = (Some(meta.uid()), Some(meta.gid()));
        node.mtime = time(meta.mtime(), meta.mtime_nsec());
        node.xattrs = xattrs_of(&path, name.is_root()).map_err(failed)?;
        let mut content = None;
        match file_type {
            FileType::File => {
                node.size = meta.len();
                content = Some(Content::Local(path.clone()));
            }
            FileType::Symlink => {
                let target = std::fs::read_link(&path).map_err(failed)?;
                node.link_target = Some(target.as_os_str().as_bytes().to_vec());
            }
            FileType::Char | FileType::Block => {
                let device = meta.rdev();
                node.rdev = Some((rustix::fs::major(device), rustix::fs::minor(device)));
            }
            FileType::Dir => {
                for entry in std::fs::read_dir(&path).map_err(failed)? {
                    let entry = entry.map_err(failed)?;
                    todo.push((entry.path(), name.child(entry.file_name().as_bytes())));
                }
            }
            FileType::Fifo | FileType::Socket => {}
        }
        let is_link = file_type != FileType::Dir && meta.nlink() > 1;
        // Device and inode: a tree may span filesystems.
        let file = is_link.then(|| {
            let hash = blake3::hash(&[meta.dev().to_le_bytes(), meta.ino().to_le_bytes()].concat());
            u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 bytes"))
        });
        let member = Member { node, content, file, acls: Vec::new() };
        room.take(&name, &member)
            .map_err(|problem| Error::input(format!("{}: {problem}", path.display())))?;
        members.insert(name, member);
    }
    Ok(members)
}

/// The extended attributes of a file, of what a symlink at the top points to, else of the symlink itself.
fn xattrs_of(path: &Path, follow: bool) -> std::io::Result<Vec<Xattr>> {
    use rustix::io::Errno;
    let list = |buf: &mut [u8]| {
        if follow { rustix::fs::listxattr(path, buf) } else { rustix::fs::llistxattr(path, buf) }
    };
    let get = |name: &[u8], buf: &mut [u8]| {
        let name = std::ffi::OsStr::from_bytes(name);
        if follow { rustix::fs::getxattr(path, name, buf) } else { rustix::fs::lgetxattr(path, name, buf) }
    };
    // The kernel gives no more than 64 KiB of either.
    let mut names = vec![0; 64 << 10];
    let len = match list(&mut names) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut xattrs = Vec::new();
    let mut value = Vec::new();
    for name in names[..len].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        value.resize(64 << 10, 0);
        let len = match get(name, &mut value) {
            Ok(len) => len,
            Err(Errno::NODATA) => continue,
            Err(e) => return Err(e.into()),
        };
        xattrs.push(Xattr { name: name.to_vec(), value: value[..len].to_vec() });
    }
    xattrs.sort();
    Ok(xattrs)
}
