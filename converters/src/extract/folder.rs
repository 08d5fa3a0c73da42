//! Extracts into a directory. Everything is created relative to it through file descriptors that follow no symlinks, so
//! that no path of an image leads out of it.
//!
//! Directories get their mode and times last, deepest first: creating entries changes a directory's time, and its mode
//! may forbid creating any. may forbid to make anything.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use mif_formats::fs::{FileType, Timestamp, Xattr};
use mif_formats::mif::manifest::{Row, escape_apart};
use rustix::fs::{self, AtFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::process::{Gid, Uid};

use super::{ExtractReport, Item, copy, data_parts};
use crate::error::{Error, Result};
use crate::task::progress::Progress;
use crate::tree::view::Tree;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Mode bits that run a program with the rights of the file's owner or group.
const SET_ID: u16 = 0o6000;

/// The reason why an attribute that grants privileges was not set.
const ONLY_PRIVILEGED: &str = "needs --privileged";

/// The FAT flag for a read-only file.
const READ_ONLY: u32 = 1;

pub(super) fn extract(
    tree: &Tree,
    items: &[Item<'_>],
    to: &Path,
    privileged: bool,
    report: &mut ExtractReport,
    progress: &dyn Progress,
) -> Result<()> {
    let failed = |e: io::Error| Error::io(to, &e);
    // A new target is private until it is complete. Then it gets the image's mode.
    let is_root_made = items.first().is_some_and(|item| item.path.is_empty());
    let made = std::fs::DirBuilder::new().mode(if is_root_made { 0o700 } else { 0o777 }).create(to);
    let is_new = made.is_ok();
    match made {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if std::fs::read_dir(to).map_err(failed)?.next().is_some() {
                return Err(Error::input(format!("{}: directory not empty", to.display()))
                    .advise("Extract to a new or empty directory"));
            }
        }
        other => other.map_err(failed)?,
    }
    let root = fs::open(to, FOLDER - OFlags::NOFOLLOW, Mode::empty()).map_err(|e| failed(e.into()))?;
    let is_root = rustix::process::geteuid().is_root();
    let made = vec![false; items.len()];
    let mut work = Work { tree, items, to, root, is_root, privileged, current: None, made };
    for (number, item) in items.iter().enumerate() {
        crate::task::progress::check(progress)?;
        if let Err(problem) = work.make(number, report, progress) {
            match problem {
                Problem::Fatal(error) => return Err(error),
                Problem::Path(reason) => {
                    report.failed.push(format!("{}: {reason}", escape_apart(&item.row.path)));
                }
            }
        }
    }
    for (number, item) in items.iter().enumerate().rev() {
        // A directory that existed before keeps its own mode and owner.
        if item.path.is_empty() && !is_new {
            continue;
        }
        if item.row.node.file_type == FileType::Dir && work.made[number] {
            let fd = work.folder(&item.path).map_err(failed)?;
            work.set_meta(&fd, item, report);
        }
    }
    Ok(())
}

struct Work<'a> {
    tree: &'a Tree,
    items: &'a [Item<'a>],
    to: &'a Path,
    root: OwnedFd,
    is_root: bool,
    privileged: bool,
    /// The most recently used directory.
    current: Option<(Vec<u8>, OwnedFd)>,
    made: Vec<bool>,
}

/// Why a path could not be extracted.
enum Problem {
    /// A problem with this path only.
    Path(String),
    /// A problem with the whole extraction, such as a full disk.
    Fatal(Error),
}

impl Work<'_> {
    /// Opens a directory under the target, component by component.
    fn folder(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut fd = self.root.try_clone()?;
        for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            fd = fs::openat(&fd, OsStr::from_bytes(part), FOLDER, Mode::empty())?;
        }
        Ok(fd)
    }

    fn make(
        &mut self,
        number: usize,
        report: &mut ExtractReport,
        progress: &dyn Progress,
    ) -> Result<(), Problem> {
        let item = &self.items[number];
        if item.path.is_empty() {
            self.made[number] = true;
            report.paths += 1;
            return Ok(());
        }
        let cut = item.path.iter().rposition(|b| *b == b'/');
        let (parent, name) =
            cut.map_or((&b""[..], &item.path[..]), |i| (&item.path[..i], &item.path[i + 1..]));
        if self.current.as_ref().is_none_or(|(path, _)| path != parent) {
            self.current = None;
            let fd =
                self.folder(parent).map_err(|e| Problem::Path(format!("cannot open its directory: {e}")))?;
            self.current = Some((parent.to_vec(), fd));
        }
        let (_, parent) = self.current.as_ref().expect("just opened");
        let name = OsStr::from_bytes(name);
        let problem = |e: io::Error| match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::QuotaExceeded => {
                Problem::Fatal(Error::io(self.to, &e))
            }
            _ => Problem::Path(e.to_string()),
        };
        let row = item.row;
        if let Some(first) = item.link_to {
            if !self.made[first] {
                return Err(Problem::Path("the file that it is a hard link to was not extracted".into()));
            }
            let target = &self.items[first].path;
            let cut = target.iter().rposition(|b| *b == b'/');
            let (folder, old) = cut.map_or((&b""[..], &target[..]), |i| (&target[..i], &target[i + 1..]));
            let folder = self.folder(folder).map_err(problem)?;
            fs::linkat(&folder, OsStr::from_bytes(old), parent, name, AtFlags::empty())
                .map_err(|e| problem(e.into()))?;
            self.made[number] = true;
            report.paths += 1;
            return Ok(());
        }
        let private = Mode::from_raw_mode(0o700);
        match row.node.file_type {
            FileType::Dir => fs::mkdirat(parent, name, private).map_err(|e| problem(e.into()))?,
            FileType::Symlink => {
                let target = OsStr::from_bytes(row.node.link_target.as_deref().unwrap_or_default());
                fs::symlinkat(target, parent, name).map_err(|e| problem(e.into()))?;
                self.set_link_meta(parent, name, item, report);
            }
            FileType::File => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
                    .map_err(|e| problem(e.into()))?;
                let filled = self.fill(&fd, item.number, progress);
                self.set_meta(&fd, item, report);
                report.files += 1;
                report.bytes += row.node.size;
                filled?;
            }
            FileType::Char | FileType::Block | FileType::Fifo | FileType::Socket => {
                if !self.privileged && matches!(row.node.file_type, FileType::Char | FileType::Block) {
                    report.not_set("device", &row.path, ONLY_PRIVILEGED);
                    return Ok(());
                }
                let (major, minor) = row.node.rdev.unwrap_or_default();
                let device = fs::makedev(major, minor);
                match fs::mknodat(
                    parent,
                    name,
                    node_type(row.node.file_type),
                    Mode::from_raw_mode(0o600),
                    device,
                ) {
                    Err(rustix::io::Errno::PERM) => {
                        report.not_set("device", &row.path, "only root can create devices");
                        return Ok(());
                    }
                    other => other.map_err(|e| problem(e.into()))?,
                }
                self.set_link_meta(parent, name, item, report);
            }
        }
        self.made[number] = true;
        report.paths += 1;
        Ok(())
    }

    /// Writes a file's content without its holes.
    fn fill(&self, fd: &OwnedFd, number: usize, progress: &dyn Progress) -> Result<(), Problem> {
        let damaged = |e: Error| Problem::Path(format!("cannot read its content: {e}"));
        let source = self.tree.content(number).map_err(damaged)?;
        let parts = data_parts(&*source).map_err(damaged)?;
        let failed = |e: io::Error| Error::io(self.to, &e);
        fs::ftruncate(fd, source.len()).map_err(|e| Problem::Fatal(failed(e.into())))?;
        // A write error ends the extraction; a read error costs only this file.
        let mut fatal = false;
        let copied = copy(&*source, &parts, progress, |offset, bytes| {
            let mut done = 0;
            while done < bytes.len() {
                let written = rustix::io::pwrite(fd, &bytes[done..], offset + done as u64).map_err(|e| {
                    fatal = true;
                    failed(e.into())
                })?;
                done += written;
            }
            Ok(())
        });
        copied.map_err(|e| if fatal || progress.interrupted() { Problem::Fatal(e) } else { damaged(e) })
    }

    /// Sets the metadata of an open file or directory. The owner comes first, because changing it clears capabilities
    /// and set-ID bits.
    fn set_meta(&self, fd: &OwnedFd, item: &Item<'_>, report: &mut ExtractReport) {
        let row = item.row;
        let owned = self.set_owner(row, report, |uid, gid| fs::fchown(fd, uid, gid));
        for xattr in self.xattrs(row, report) {
            let name = OsStr::from_bytes(&xattr.name);
            let set = fs::fsetxattr(fd, name, &xattr.value, XattrFlags::empty());
            note_xattr(report, row, &xattr.name, set);
        }
        if let Some(mode) = self.mode_of(row, owned, report) {
            note(report, "mode", row, fs::fchmod(fd, mode));
        }
        if let Some(times) = times_of(row) {
            note(report, "times", row, fs::futimens(fd, &times));
        }
    }

    /// Sets the metadata of a node that cannot be opened: a symlink or a device.
    fn set_link_meta(&self, parent: &OwnedFd, name: &OsStr, item: &Item<'_>, report: &mut ExtractReport) {
        let row = item.row;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let node = match made_node(parent, name, row.node.file_type) {
            Ok(node) => node,
            Err(e) => return note(report, "attributes", row, Err(e)),
        };
        let itself = flags | AtFlags::EMPTY_PATH;
        let owned = self.set_owner(row, report, |uid, gid| fs::chownat(&node, "", uid, gid, itself));
        for xattr in self.xattrs(row, report) {
            let mut path = format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd()).into_bytes();
            path.extend_from_slice(name.as_bytes());
            let (path, attribute) = (OsStr::from_bytes(&path), OsStr::from_bytes(&xattr.name));
            let set = fs::lsetxattr(path, attribute, &xattr.value, XattrFlags::empty());
            note_xattr(report, row, &xattr.name, set);
        }
        if row.node.file_type != FileType::Symlink
            && let Some(mode) = self.mode_of(row, owned, report)
        {
            // A node cannot be changed through an O_PATH descriptor, but through the descriptor's name in /proc.
            let path = format!("/proc/self/fd/{}", node.as_raw_fd());
            note(report, "mode", row, fs::chmod(path, mode));
        }
        if let Some(times) = times_of(row) {
            note(report, "times", row, fs::utimensat(parent, name, &times, flags));
        }
    }

    /// Returns the mode to set, if the image has one.
    fn mode_of(&self, row: &Row, owned: bool, report: &mut ExtractReport) -> Option<Mode> {
        let is_folder = row.node.file_type == FileType::Dir;
        let Some(mode) = row.node.mode else {
            let read_only = row.node.flags & READ_ONLY != 0;
            return Some(Mode::from_raw_mode(if is_folder {
                0o755
            } else if read_only {
                0o444
            } else {
                0o644
            }));
        };
        let refused = match mode & SET_ID != 0 {
            true if !self.privileged => Some(ONLY_PRIVILEGED),
            true if !owned && !is_folder => {
                Some("the file has another owner here and would run with that owner's rights")
            }
            _ => None,
        };
        if let Some(why) = refused {
            report.not_set("set-ID bit", &row.path, why);
            return Some(Mode::from_raw_mode((mode & !SET_ID).into()));
        }
        Some(Mode::from_raw_mode(mode.into()))
    }

    /// Returns the attributes to set.
    fn xattrs<'r>(&self, row: &'r Row, report: &mut ExtractReport) -> Vec<&'r Xattr> {
        let (privileged, plain): (Vec<_>, Vec<_>) =
            row.node.xattrs.iter().partition(|xattr| xattr.name.starts_with(b"security."));
        if self.privileged {
            return row.node.xattrs.iter().collect();
        }
        for xattr in privileged {
            let what = format!("xattr {}", escape_apart(&xattr.name));
            report.not_set(&what, &row.path, ONLY_PRIVILEGED);
        }
        plain
    }

    /// Sets the image's owner. Returns true if the file now has it.
    fn set_owner(
        &self,
        row: &Row,
        report: &mut ExtractReport,
        set: impl FnOnce(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
    ) -> bool {
        let (Some(uid), Some(gid)) = (row.node.uid, row.node.gid) else { return true };
        if !self.is_root {
            let (own_uid, own_gid) = (rustix::process::geteuid(), rustix::process::getegid());
            if (uid, gid) == (own_uid.as_raw(), own_gid.as_raw()) {
                return true;
            }
            report.not_set("owner", &row.path, "only root can change the owner of files");
            return false;
        }
        let done = set(Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        note(report, "owner", row, done);
        done.is_ok()
    }
}

fn note(report: &mut ExtractReport, what: &str, row: &Row, done: rustix::io::Result<()>) {
    if let Err(error) = done {
        report.not_set(what, &row.path, &io::Error::from(error).to_string());
    }
}

fn note_xattr(report: &mut ExtractReport, row: &Row, name: &[u8], done: rustix::io::Result<()>) {
    note(report, &format!("xattr {}", escape_apart(name)), row, done);
}

/// Opens the node that was just created as `name`. Fails if it has been replaced by a node of another type, such as a
/// symlink.
fn made_node(parent: &OwnedFd, name: &OsStr, made: FileType) -> rustix::io::Result<OwnedFd> {
    let node = fs::openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let kind = fs::FileType::from_raw_mode(fs::fstat(&node)?.st_mode);
    if kind == node_type(made) { Ok(node) } else { Err(rustix::io::Errno::STALE) }
}

/// Returns the system's file type.
fn node_type(file_type: FileType) -> fs::FileType {
    match file_type {
        FileType::Symlink => fs::FileType::Symlink,
        FileType::Char => fs::FileType::CharacterDevice,
        FileType::Block => fs::FileType::BlockDevice,
        FileType::Fifo => fs::FileType::Fifo,
        FileType::Socket => fs::FileType::Socket,
        FileType::File => fs::FileType::RegularFile,
        FileType::Dir => fs::FileType::Directory,
    }
}

fn times_of(row: &Row) -> Option<Timestamps> {
    let spec = |time: Timestamp| Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() };
    let mtime = row.node.mtime?;
    Some(Timestamps { last_access: spec(row.node.atime.unwrap_or(mtime)), last_modification: spec(mtime) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_the_place_of_a_node_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("secret"), "secret").unwrap();
        std::os::unix::fs::symlink("secret", at("fifo")).unwrap();
        let parent = fs::open(folder.path(), FOLDER, Mode::empty()).unwrap();
        let node = |name: &str, kind| made_node(&parent, OsStr::new(name), kind).map(drop);
        assert_eq!(node("fifo", FileType::Fifo), Err(rustix::io::Errno::STALE));
        assert_eq!(node("secret", FileType::Fifo), Err(rustix::io::Errno::STALE));
        assert_eq!(node("fifo", FileType::Symlink), Ok(()));
    }
}
