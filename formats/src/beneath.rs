//! Opens files under a directory, safe against concurrent renames.
//!
//! A path that was checked may lead to another file when it is opened. So a file is first opened relative to a
//! directory that is held open, and then its type is checked on the descriptor. No symbolic link on the way is
//! followed, and `..` cannot leave the directory. Opening never blocks, for example on a FIFO without a writer.
//!
//! Linux does this in one call, `openat2(2)` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`; if the kernel or a
//! sandbox does not have it, each component is opened relative to the one before.

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

/// The number of times an open is retried after a concurrent rename.
const MAX_TRIES: usize = 64;

/// A directory that is held open: all paths are relative to it and cannot leave it.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// Opens the directory at `path`, which the caller trusts: symbolic links in it are followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Directory(openat(CWD, path, DIRECTORY, Mode::empty())?))
    }

    /// Opens the directory at `path`, which the caller trusts, only for opening files under it: this needs no
    /// permission to list it.
    pub fn open_to_search(path: &Path) -> io::Result<Self> {
        Ok(Directory(openat(CWD, path, SEARCH, Mode::empty())?))
    }

    /// Opens the directory at `path` under this one.
    pub fn directory(&self, path: &Path) -> io::Result<Self> {
        Ok(Directory(self.open_beneath(path, DIRECTORY, Mode::empty())?))
    }

    /// Opens the directory `name` in this one, following a symbolic link with that name anywhere.
    pub fn linked_directory(&self, name: &OsStr) -> io::Result<Self> {
        Ok(Directory(openat(&self.0, name, DIRECTORY, Mode::empty())?))
    }

    /// Opens the file at `path` under this directory for reading. Fails if it is not a regular file.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        regular(self.open_beneath(path, READ, Mode::empty())?)
    }

    /// Opens the file at `path` under this directory for reading and writing. Fails if it is not a regular file.
    pub fn file_to_write(&self, path: &Path) -> io::Result<File> {
        regular(self.open_beneath(path, WRITE, Mode::empty())?)
    }

    /// Opens the file or block device `name` in this directory for reading, following a symbolic link with that name
    /// anywhere. Fails if it is anything else.
    pub fn linked_file_or_device(&self, name: &OsStr) -> io::Result<File> {
        file_or_device(openat(&self.0, name, READ, Mode::empty()).map_err(explained)?)
    }

    /// Creates the file `name` in this directory for reading and writing, with a mode that the umask does not change.
    /// Fails if the name exists.
    pub fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?);
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        Ok(file)
    }

    /// Creates the directory `name` in this one, with a mode that the umask does not change; returns false if it
    /// already exists.
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

    /// Returns the metadata of `path`; does not follow a symbolic link.
    pub fn stat(&self, path: &Path) -> io::Result<Stat> {
        let (folder, name) = self.parent_of(path)?;
        let folder = folder.as_ref().map_or(self.0.as_fd(), |folder| folder.0.as_fd());
        Ok(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Returns the target of the symbolic link `name` in this directory.
    pub fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        Ok(OsString::from_vec(readlinkat(&self.0, name, Vec::new())?.into_bytes()))
    }

    /// Returns the metadata of this directory.
    pub fn own_stat(&self) -> io::Result<Stat> {
        Ok(fstat(&self.0)?)
    }

    /// Returns the names in this directory with their types, sorted.
    pub fn entries(&self) -> io::Result<Vec<(OsString, FileType)>> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                // Not every filesystem stores the type in the directory.
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

    /// Returns at most `max` of the names in this directory, unordered.
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

    /// Opens the directory under this one that contains the last component of `path` (`None` if it is this one); also
    /// returns that component.
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
                // A concurrent rename: the kernel cannot tell whether the path is still under the directory.
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
                // With O_DIRECTORY, the error for a symbolic link only says that it is not a directory.
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

/// Opens the file at `path`, which the user names, for reading. Follows symbolic links, never blocks, and checks the
/// type of the open file. Fails if it is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    regular(openat(CWD, path, READ, Mode::empty())?)
}

/// Opens the file or block device at `path`, which the user names, for reading. Follows symbolic links, never blocks,
/// and checks the type of the open file. Fails if it is anything else.
pub fn open_file_or_device(path: &Path) -> io::Result<File> {
    file_or_device(openat(CWD, path, READ, Mode::empty()).map_err(explained)?)
}

/// Returns the open file if it is a regular file or a block device.
fn file_or_device(fd: OwnedFd) -> io::Result<File> {
    match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
        FileType::BlockDevice => Ok(File::from(fd)),
        _ => regular(fd),
    }
}

/// Returns the open file if it is a regular file.
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
        // The error for a socket.
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
