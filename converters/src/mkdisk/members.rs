//! Reads a tree to build from a local directory.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mif_formats::beneath::Directory;
use mif_formats::fs::{FileType, Node, Timestamp, Xattr};
use rustix::fs::Stat;

use super::limits::Room;
use super::member::{Content, Member, Members};
use super::path::TreePath;
use crate::error::{Error, Result};

/// Reads a local directory. Symlinks become members and are not followed. Unreadable entries are errors, because half a
/// tree makes no disk. Everything is accessed relative to the directory's descriptor, so it does not matter if names
/// are exchanged meanwhile.
pub(super) fn of_folder(folder: &Path) -> Result<Members> {
    let root = Arc::new(Directory::open(folder).map_err(|e| Error::io(folder, &e))?);
    let mut reader = FolderReader { root, folder, members: Members::new(), room: Room::default() };
    let stat = reader.root.own_stat().map_err(|e| Error::io(folder, &e))?;
    let xattrs = xattrs_of(&reader.root, None).map_err(|e| Error::io(folder, &e))?;
    reader.add(TreePath::root(), Path::new(""), &stat, None, xattrs)?;
    let mut todo = vec![(PathBuf::new(), TreePath::root())];
    while let Some((path, name)) = todo.pop() {
        reader.folder(&path, &name, &mut todo)?;
    }
    Ok(reader.members)
}

struct FolderReader<'f> {
    root: Arc<Directory>,
    folder: &'f Path,
    members: Members,
    room: Room,
}

impl FolderReader<'_> {
    /// Reads the directory at `path`, which is `name` in the tree. Adds its subdirectories to `todo`.
    fn folder(&mut self, path: &Path, name: &TreePath, todo: &mut Vec<(PathBuf, TreePath)>) -> Result<()> {
        let failed = |e: std::io::Error, path: &Path| Error::io(&self.folder.join(path), &e);
        let here = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let directory = self.root.directory(here).map_err(|e| failed(e, path))?;
        for (entry, _) in directory.entries().map_err(|e| failed(e, path))? {
            let path = path.join(&entry);
            let stat = directory.stat(Path::new(&entry)).map_err(|e| failed(e, &path))?;
            let is_link = type_of(&stat) == FileType::Symlink;
            let target = is_link.then(|| directory.read_link(&entry)).transpose();
            let target = target.map_err(|e| failed(e, &path))?;
            let xattrs = xattrs_of(&directory, Some(&entry)).map_err(|e| failed(e, &path))?;
            let name = name.child(entry.as_bytes());
            if type_of(&stat) == FileType::Dir {
                todo.push((path.clone(), name.clone()));
            }
            self.add(name, &path, &stat, target, xattrs)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        name: TreePath,
        path: &Path,
        stat: &Stat,
        target: Option<OsString>,
        xattrs: Vec<Xattr>,
    ) -> Result<()> {
        let file_type = type_of(stat);
        let mut node = Node::bare(file_type);
        node.mode = Some((stat.st_mode & 0o7777) as u16);
        (node.uid, node.gid) = (Some(stat.st_uid), Some(stat.st_gid));
        node.mtime = Some(Timestamp { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 });
        node.xattrs = xattrs;
        node.link_target = target.map(OsString::into_vec);
        let mut content = None;
        match file_type {
            FileType::File => {
                node.size = stat.st_size as u64;
                let (root, path) = (self.root.clone(), path.to_owned());
                let shown = self.folder.join(&path);
                content = Some(Content::Local { root, path, shown, identity: (stat.st_dev, stat.st_ino) });
            }
            FileType::Char | FileType::Block => {
                node.rdev = Some((rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)));
            }
            _ => {}
        }
        // By device and inode, because a tree may span filesystems.
        let is_link = file_type != FileType::Dir && stat.st_nlink > 1;
        let file = is_link.then(|| {
            let hash = blake3::hash(&[stat.st_dev.to_le_bytes(), stat.st_ino.to_le_bytes()].concat());
            u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 bytes"))
        });
        let member = Member { node, content, file, acls: Vec::new() };
        self.room
            .take(&name, &member)
            .map_err(|problem| Error::input(format!("{}: {problem}", self.folder.join(path).display())))?;
        self.members.insert(name, member);
        Ok(())
    }
}

fn type_of(stat: &Stat) -> FileType {
    use rustix::fs::FileType as Kind;
    match Kind::from_raw_mode(stat.st_mode) {
        Kind::Directory => FileType::Dir,
        Kind::Symlink => FileType::Symlink,
        Kind::BlockDevice => FileType::Block,
        Kind::CharacterDevice => FileType::Char,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        _ => FileType::File,
    }
}

/// Returns the extended attributes of the entry `name` in a directory (of a symlink itself), or of the directory
/// itself.
fn xattrs_of(directory: &Directory, name: Option<&OsStr>) -> std::io::Result<Vec<Xattr>> {
    use rustix::io::Errno;
    // No system call takes a directory and a name for this; this path leads to exactly this entry.
    let path =
        name.map(|name| Path::new(&format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd())).join(name));
    let list = |buf: &mut [u8]| match &path {
        Some(path) => rustix::fs::llistxattr(path, buf),
        None => rustix::fs::flistxattr(directory, buf),
    };
    let get = |name: &[u8], buf: &mut [u8]| {
        let name = OsStr::from_bytes(name);
        match &path {
            Some(path) => rustix::fs::lgetxattr(path, name, buf),
            None => rustix::fs::fgetxattr(directory, name, buf),
        }
    };
    // The kernel returns at most 64 KiB of either.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_the_place_of_a_file_is_not_read() {
        let work = tempfile::tempdir().unwrap();
        let (folder, secret) = (work.path().join("tree"), work.path().join("secret"));
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::write(folder.join("sub/file"), "text").unwrap();
        std::fs::write(&secret, "secr").unwrap();
        let members = of_folder(&folder).unwrap();
        let content = members[&TreePath::parse(b"/sub/file").unwrap()].content.clone().unwrap();
        assert!(content.open(4, None).is_ok());
        let path = folder.join("sub/file");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&secret, &path).unwrap();
        assert!(content.open(4, None).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&secret, &path).unwrap();
        assert!(content.open(4, None).err().unwrap().message().contains("changed while it was read"));
        // A directory on the way may be replaced, too.
        std::fs::rename(folder.join("sub"), work.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(work.path().join("moved"), folder.join("sub")).unwrap();
        assert!(content.open(4, None).is_err());
    }
}
