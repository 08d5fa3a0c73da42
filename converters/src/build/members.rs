//! A tree to bring in, from a folder or a tar: what is said of each path, and where its bytes are.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::container::ImageFile;
use mif_formats::fs::{FileType, Node, Timestamp, Xattr};

use crate::import::{LooseFile, Parts};
use crate::{Error, Result};

/// A tree: each path from `/` on, with what is there. A folder comes before what it holds.
pub(super) type Members = BTreeMap<TreePath, Member>;

/// A path, in the order in which a folder comes before what it holds: part by part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TreePath(pub(super) Vec<Vec<u8>>);

impl TreePath {
    /// The path that `text` names from the top; none if it goes up.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let parts = text.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b"."));
        let parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
        let good = parts.iter().all(|part| part != b".." && !part.contains(&0));
        good.then_some(TreePath(parts))
    }

    /// As bytes, from `/` on.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match &self.0[..] {
            [] => b"/".to_vec(),
            parts => parts.iter().flat_map(|part| [b"/", &part[..]].concat()).collect(),
        }
    }
}

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

/// Finds where members lie whose paths go through symlinks that came before them, as when tar extracts one member
/// after the other. An absolute target is taken from the root of the tree, so no path leaves it.
#[derive(Default)]
pub(super) struct Follower {
    /// Whether there has been a symlink at all.
    has_symlinks: bool,
    /// The directory that was looked for last, and where it is: most members lie beside the one before.
    last: Option<(TreePath, TreePath)>,
}

impl Follower {
    /// The most symlinks in one path, as in Linux.
    const MAX_SYMLINKS: u32 = 40;
    /// The most parts of a path that goes through symlinks.
    const MAX_PARTS: usize = 4096;

    /// Notes that `member` is about to be at `path`.
    pub(super) fn changes(&mut self, path: &TreePath, members: &Members, member: &Member) {
        let is_symlink = |member: &Member| member.node.file_type == FileType::Symlink;
        if is_symlink(member) || members.get(path).is_some_and(is_symlink) {
            (self.has_symlinks, self.last) = (true, None);
        }
    }

    /// `path` with the symlinks on it followed, but for one at its end. None if there are too many.
    pub(super) fn follow(&mut self, mut path: TreePath, members: &Members) -> Option<TreePath> {
        if !self.has_symlinks {
            return Some(path);
        }
        let Some(name) = path.0.pop() else { return Some(path) };
        if self.last.as_ref().is_none_or(|(asked, _)| *asked != path) {
            let found = Self::resolve(&path, members)?;
            self.last = Some((path, found));
        }
        let mut found = self.last.as_ref()?.1.clone();
        found.0.push(name);
        Some(found)
    }

    fn resolve(folder: &TreePath, members: &Members) -> Option<TreePath> {
        let mut here = TreePath(Vec::new());
        let mut todo: Vec<Vec<u8>> = folder.0.iter().rev().cloned().collect();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                here.0.pop();
                continue;
            }
            here.0.push(part);
            let target = members.get(&here).and_then(|member| member.node.link_target.as_ref());
            let Some(target) = target else { continue };
            here.0.pop();
            if target.first() == Some(&b'/') {
                here.0.clear();
            }
            links += 1;
            let parts = target.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b"."));
            todo.extend(parts.rev().take(Self::MAX_PARTS + 1).map(<[u8]>::to_vec));
            if links > Self::MAX_SYMLINKS || here.0.len() + todo.len() > Self::MAX_PARTS {
                return None;
            }
        }
        Some(here)
    }
}

/// Where the bytes of a regular file are.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// A file of this machine.
    Local(PathBuf),
    /// Parts of the tar: which of the file's, and where in the tar each begins.
    InTar(Parts),
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
                Ok(LooseFile { source: tar.clone(), size, parts: parts.clone() })
            }
            (Content::InTar(_), None) => Err(Error::store("a part of a tar without one: this is a defect")),
        }
    }
}

/// Reads a folder of this machine. Symlinks are members, and are not followed. What may not be read is an error:
/// half a tree makes no disk.
pub(super) fn of_folder(folder: &Path) -> Result<Members> {
    let mut members = Members::new();
    let mut todo = vec![(folder.to_owned(), TreePath(Vec::new()))];
    while let Some((path, name)) = todo.pop() {
        let failed = |e: std::io::Error| Error::io(&path, &e);
        let meta = if name.0.is_empty() { path.metadata() } else { path.symlink_metadata() };
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
        node.xattrs = xattrs_of(&path, name.0.is_empty()).map_err(failed)?;
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
                    let mut below = name.clone();
                    below.0.push(entry.file_name().as_bytes().to_vec());
                    todo.push((entry.path(), below));
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
        members.insert(name, Member { node, content, file, acls: Vec::new() });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    fn tree(items: &[(&str, Option<&str>)]) -> (Members, Follower) {
        let (mut members, mut follower) = (Members::new(), Follower::default());
        for (at, target) in items {
            let mut node = Node::bare(if target.is_some() { FileType::Symlink } else { FileType::Dir });
            node.link_target = target.map(|target| target.as_bytes().to_vec());
            let member = Member { node, content: None, file: None, acls: Vec::new() };
            follower.changes(&path(at), &members, &member);
            members.insert(path(at), member);
        }
        (members, follower)
    }

    #[test]
    fn a_path_below_a_symlink_lies_where_the_symlink_leads_and_never_outside() {
        let items = [
            ("usr/bin", None),
            ("bin", Some("usr/bin")),
            ("a", Some("/bin/../lib")),
            ("up", Some("../../x")),
        ];
        let (members, mut follower) = tree(&items);
        let mut at = |text: &str| follower.follow(path(text), &members).unwrap();
        assert_eq!(at("bin/hello"), path("usr/bin/hello"));
        assert_eq!(at("bin/deep/er"), path("usr/bin/deep/er"));
        assert_eq!(at("a/x"), path("usr/lib/x"));
        assert_eq!(at("up/y"), path("x/y"));
        // The last part stays: a symlink itself, or what takes its place.
        assert_eq!(at("bin"), path("bin"));
    }

    #[test]
    fn a_directory_that_takes_a_symlinks_place_is_followed_no_more() {
        let (mut members, mut follower) = tree(&[("bin", Some("usr/bin"))]);
        assert_eq!(follower.follow(path("bin/a"), &members), Some(path("usr/bin/a")));
        let folder = Member { node: Node::bare(FileType::Dir), content: None, file: None, acls: Vec::new() };
        follower.changes(&path("bin"), &members, &folder);
        members.insert(path("bin"), folder);
        assert_eq!(follower.follow(path("bin/a"), &members), Some(path("bin/a")));
    }

    #[test]
    fn symlinks_in_a_circle_and_targets_without_end_are_refused() {
        let (members, mut follower) = tree(&[("a", Some("b")), ("b", Some("a/a"))]);
        assert_eq!(follower.follow(path("a/x"), &members), None);
        let long = "x/".repeat(1 << 20);
        let (members, mut follower) = tree(&[("a", Some(&long))]);
        assert_eq!(follower.follow(path("a/x"), &members), None);
    }
}
