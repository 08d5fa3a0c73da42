//! Opens files beneath a directory, safe against names being exchanged meanwhile.
//!
//! A path that was checked may lead to another file when it is opened. So a file is opened first, beneath a directory that is
//! held open, and its type is checked on the descriptor. No symbolic link is followed on the way, and `..` does not lead
//! out. Opening never blocks, for example on a FIFO without a writer.
//!
//! Linux does this in one call, `openat2(2)` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`; where the kernel, or a
//! sandbox, does not have it, each component is opened relative to the one before.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, fstat, mkdirat, openat,
    openat2, readlinkat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

/// How often an open that a rename disturbed is tried again.
const MAX_TRIES: usize = 64;

/// A directory that is held open: all paths are relative to it and stay beneath it.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// Opens the directory at `path`, which the caller trusts: symbolic links in it are followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Directory(openat(CWD, path, DIRECTORY, Mode::empty())?))
    }

    /// Opens the directory at `path`, which the caller trusts, only to open what lies beneath it: that needs no right to
    /// list it.
    pub fn open_to_search(path: &Path) -> io::Result<Self> {
        Ok(Directory(openat(CWD, path, SEARCH, Mode::empty())?))
    }

    /// Opens the directory at `path` beneath this one.
    pub fn directory(&self, path: &Path) -> io::Result<Self> {
        Ok(Directory(self.open_beneath(path, DIRECTORY, Mode::empty())?))
    }

    /// Opens the directory `name` in this one, wherever a symbolic link of that name leads.
    pub fn linked_directory(&self, name: &OsStr) -> io::Result<Self> {
        Ok(Directory(openat(&self.0, name, DIRECTORY, Mode::empty())?))
    }

    /// Opens the file at `path` beneath this directory for reading. An error if it is not a regular file.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        regular(self.open_beneath(path, READ, Mode::empty())?)
    }

    /// Opens the file at `path` beneath this directory for reading and writing. An error if it is not a regular file.
    pub fn file_to_write(&self, path: &Path) -> io::Result<File> {
        regular(self.open_beneath(path, WRITE, Mode::empty())?)
    }

    /// Opens the file or block device `name` in this directory for reading, wherever a symbolic link of that name leads. An
    /// error if it is anything else.
    pub fn linked_file_or_device(&self, name: &OsStr) -> io::Result<File> {
        file_or_device(openat(&self.0, name, READ, Mode::empty()).map_err(explained)?)
    }

    /// Creates the file `name` in this directory with a mode that no umask changes, for reading and writing. An error
    /// if anything has that name.
    pub fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?);
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        Ok(file)
    }

    /// Makes the directory `name` in this one with a mode that no umask changes; returns false if it already exists.
    pub fn make_directory(&self, name: &OsStr, mode: u32) -> io::Result<bool> {
        match mkdirat(&self.0, name, Mode::RWXU) {
            Ok(()) => {
                rustix::fs::fchmod(self.directory(Path::new(name))?.0, Mode::from_raw_mode(mode))?;
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// The metadata of `path`; a symbolic link is not followed.
    pub fn stat(&self, path: &Path) -> io::Result<Stat> {
        let (folder, name) = self.parent_of(path)?;
        let folder = folder.as_ref().map_or(self.0.as_fd(), |folder| folder.0.as_fd());
        Ok(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Where the symbolic link `name` in this directory points.
    pub fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        Ok(OsString::from_vec(readlinkat(&self.0, name, Vec::new())?.into_bytes()))
    }

    /// The metadata of this directory.
    pub fn own_stat(&self) -> io::Result<Stat> {
        Ok(fstat(&self.0)?)
    }

    /// The names in this directory and what each is, sorted.
    pub fn entries(&self) -> io::Result<Vec<(OsString, FileType)>> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                // Not every filesystem says it in the directory.
                FileType::Unknown => match self.stat(Path::new(name)) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                },
                known => known,
            };
            entries.push((name.to_owned(), kind));
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(entries)
    }

    /// At most `max` of the names in this directory, in no order.
    pub fn some_names(&self, max: usize) -> io::Result<Vec<OsString>> {
        let names = Dir::read_from(&self.0)?
            .map(|entry| entry.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned()));
        let names = names.filter(|name| name.as_ref().map_or(true, |name| name != "." && name != ".."));
        Ok(names.take(max).collect::<Result<_, Errno>>()?)
    }

    /// Renames `from` in this directory to `name` in another, replacing an existing file.
    pub fn rename(&self, from: &OsStr, to: &Directory, name: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.0, from, &to.0, name)?)
    }

    /// Renames `from` in this directory to `name` in another, unless that exists; returns true if it was renamed.
    pub fn rename_if_absent(&self, from: &OsStr, to: &Directory, name: &OsStr) -> io::Result<bool> {
        match renameat_with(&self.0, from, &to.0, name, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            // A filesystem without RENAME_NOREPLACE (some network ones): the check and the rename are two steps.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match to.stat(Path::new(name)) {
                Ok(_) => Ok(false),
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.rename(from, to, name).map(|()| true),
                Err(e) => Err(e),
            },
            Err(e) => Err(e.into()),
        }
    }

    /// Removes the file or symbolic link `name` in this directory.
    pub fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Removes the empty directory `name` in this one.
    pub fn remove_directory(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// Makes the names in this directory durable.
    pub fn sync(&self) -> io::Result<()> {
        File::from(self.0.try_clone()?).sync_all()
    }

    /// The directory beneath this one that holds the last component of `path` (none if it is this one), and that name.
    fn parent_of<'p>(&self, path: &'p Path) -> io::Result<(Option<Directory>, &'p OsStr)> {
        let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => Ok((Some(self.directory(parent)?), name)),
            None => Ok((None, name)),
        }
    }

    fn open_beneath(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..MAX_TRIES {
            match openat2(&self.0, path, flags, mode, how) {
                Ok(fd) => return Ok(fd),
                // Something was renamed meanwhile: the kernel cannot tell whether the path still lies beneath.
                Err(Errno::AGAIN) => {}
                // An older kernel, or a sandbox that does not know the call.
                Err(Errno::NOSYS | Errno::PERM) => return self.open_by_parts(path, flags, mode),
                Err(e) => return Err(explained(e)),
            }
        }
        Err(explained(Errno::AGAIN))
    }

    fn open_by_parts(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let mut folder: Option<OwnedFd> = None;
        let mut parts = path.components().peekable();
        if parts.peek().is_none() {
            return Err(explained(Errno::NOENT));
        }
        while let Some(part) = parts.next() {
            let name = match part {
                Component::Normal(name) => name,
                Component::CurDir => OsStr::new("."),
                _ => return Err(explained(Errno::XDEV)),
            };
            let flags = if parts.peek().is_some() { SEARCH } else { flags } | OFlags::NOFOLLOW;
            let within = folder.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
            let opened = openat(within, name, flags, mode).map_err(|e| match e {
                // With O_DIRECTORY, a symbolic link is only said to be no directory.
                Errno::NOTDIR if is_link(within, name) => explained(Errno::LOOP),
                e => explained(e),
            });
            folder = Some(opened?);
        }
        Ok(folder.expect("there is a component"))
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const SEARCH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const WRITE: OFlags = OFlags::RDWR.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn is_link(within: impl AsFd, name: &OsStr) -> bool {
    statat(within, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

/// Opens the file at `path` for reading, following symbolic links; it never waits, and what was opened is judged.
/// For paths that the user names. An error if it is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    regular(openat(CWD, path, READ, Mode::empty())?)
}

/// Opens the file or block device at `path` for reading, following symbolic links; it never waits, and what was opened is
/// judged. For paths that the user names. An error if it is anything else.
pub fn open_file_or_device(path: &Path) -> io::Result<File> {
    file_or_device(openat(CWD, path, READ, Mode::empty()).map_err(explained)?)
}

/// The open file, if it is a regular one or a block device.
fn file_or_device(fd: OwnedFd) -> io::Result<File> {
    match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
        FileType::BlockDevice => Ok(File::from(fd)),
        _ => regular(fd),
    }
}

/// The open file, if it is a regular one.
fn regular(fd: OwnedFd) -> io::Result<File> {
    match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
        FileType::RegularFile => Ok(File::from(fd)),
        FileType::Directory => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

fn explained(error: Errno) -> io::Error {
    let text = match error {
        Errno::LOOP => "a symbolic link on the path is not followed",
        Errno::XDEV => "the path leads out of its directory",
        // Of a socket.
        Errno::NXIO => "not a regular file",
        _ => return error.into(),
    };
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_beneath_are_opened_and_nothing_else_by_either_way() {
        let work = tempfile::tempdir().unwrap();
        let root = work.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "here").unwrap();
        std::fs::write(work.path().join("secret"), "secret").unwrap();
        symlink("a", root.join("link")).unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink("a/b/file", root.join("in")).unwrap();
        rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let directory = Directory::open(&root).unwrap();
        let by_parts = |path: &Path| regular(directory.open_by_parts(path, READ, Mode::empty())?);
        let by_the_kernel = |path: &Path| directory.file(path);
        for open in [&by_the_kernel as &dyn Fn(&Path) -> io::Result<File>, &by_parts] {
            for path in ["a/b/file", "./a/b/file"] {
                let mut text = String::new();
                open(Path::new(path)).unwrap().read_to_string(&mut text).unwrap();
                assert_eq!(text, "here");
            }
            let absolute = work.path().join("secret").display().to_string();
            for path in [
                "../secret",
                "a/../../secret",
                "out",
                "in",
                "link/b/file",
                "fifo",
                "socket",
                "a",
                "",
                &absolute,
            ] {
                let error = open(Path::new(path)).expect_err(path);
                assert_ne!(error.kind(), io::ErrorKind::PermissionDenied, "{path}: {error}");
            }
            assert_eq!(open(Path::new("a/none")).unwrap_err().kind(), io::ErrorKind::NotFound);
            for path in ["out", "link/b/file"] {
                assert!(open(Path::new(path)).unwrap_err().to_string().contains("symbolic link"), "{path}");
            }
        }
    }

    #[test]
    fn names_are_made_moved_and_removed_in_directories_that_are_held() {
        let work = tempfile::tempdir().unwrap();
        let root = Directory::open(work.path()).unwrap();
        let name = OsStr::new;
        assert!(root.make_directory(name("d"), 0o750).unwrap());
        assert!(!root.make_directory(name("d"), 0o700).unwrap());
        let d = root.directory(Path::new("d")).unwrap();
        assert_eq!(d.own_stat().unwrap().st_mode & 0o7777, 0o750);
        drop(root.create(name("x"), 0o640).unwrap());
        assert_eq!(root.create(name("x"), 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(root.stat(Path::new("x")).unwrap().st_mode & 0o7777, 0o640);
        assert!(root.rename_if_absent(name("x"), &d, name("y")).unwrap());
        drop(root.create(name("x"), 0o600).unwrap());
        assert!(!root.rename_if_absent(name("x"), &d, name("y")).unwrap());
        root.rename(name("x"), &d, name("y")).unwrap();
        let entries = d.entries().unwrap();
        assert_eq!(entries, [(OsString::from("y"), FileType::RegularFile)]);
        assert_eq!(root.stat(Path::new("d/y")).unwrap().st_mode & 0o7777, 0o600);
        d.remove_file(name("y")).unwrap();
        root.remove_directory(name("d")).unwrap();
        assert!(root.entries().unwrap().is_empty());
        root.sync().unwrap();
    }
}
