//! A store in a directory.
//!
//! The store may have been made by another user. So everything in it is opened relative to the store's own descriptor,
//! without following symbolic links and without blocking; only regular files are read; and only files with names that
//! this program uses are removed. A user who keeps `packs` on another disk behind a link sets `MIF_STORE_LINKS=1`: then
//! links at the top of the store are followed, but none deeper.
//!
//! The mode of the store's directory (0700 if this program creates it) decides who may read the store: all files in it
//! get the same permissions.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use mif_formats::beneath::Directory;
use mif_formats::container::Access;
use rustix::fs::FileType;

use super::leases::{self, Epoch, Place};
use super::storage::{self, Entries, Lock, Storage, Upload, check_len, is_given};

/// The environment variable that permits symbolic links at the top of a store.
const LINKS: &str = "MIF_STORE_LINKS";

/// The maximum number of files kept open.
const MAX_OPEN: usize = 16;

/// Buffers larger than this, in bytes, are allocated only after checking that there is enough memory.
const LARGE: usize = 16 << 20;

/// A store in a directory.
#[derive(Clone)]
pub struct Folder {
    root: PathBuf,
    /// The store's directory, opened at first use; shared by clones.
    directory: Arc<OnceLock<Directory>>,
    /// Open files by key; shared by clones.
    open: Arc<Mutex<HashMap<String, Arc<File>>>>,
    /// The epoch in which this process entered the store, which goes into names in `tmp`; shared by clones.
    epoch: Arc<AtomicU64>,
    /// True if symbolic links at the top are followed.
    links: bool,
}

impl Folder {
    /// Returns the store in `root`, which need not exist yet.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let links = std::env::var_os(LINKS).is_some_and(|value| value == "1");
        Folder {
            root: root.to_owned(),
            directory: Arc::default(),
            open: Arc::default(),
            epoch: Arc::default(),
            links,
        }
    }

    fn root(&self) -> io::Result<&Directory> {
        if let Some(directory) = self.directory.get() {
            return Ok(directory);
        }
        let directory = Directory::open(&self.root)?;
        Ok(self.directory.get_or_init(|| directory))
    }

    /// Returns the directory that a key is resolved from, if it is not the root, and the rest of the path.
    fn base<'k>(&self, key: &'k str) -> io::Result<(Option<Directory>, &'k Path)> {
        match key.split_once('/') {
            Some((top, rest)) if self.links => {
                Ok((Some(self.root()?.linked_directory(OsStr::new(top))?), Path::new(rest)))
            }
            _ => Ok((None, Path::new(key))),
        }
    }

    /// Calls `work` with the directory that a key is resolved from and the rest of the path.
    fn at<T>(&self, key: &str, work: impl FnOnce(&Directory, &Path) -> io::Result<T>) -> io::Result<T> {
        let (base, path) = self.base(key)?;
        let result = match &base {
            Some(base) => work(base, path),
            None => work(self.root()?, path),
        };
        result.map_err(|e| self.advise(e, key))
    }

    /// Explains how to permit a link at the top, if one caused the error.
    fn advise(&self, error: io::Error, key: &str) -> io::Error {
        let top = key.split('/').next().unwrap_or_default();
        let is_link = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let root = self.root().and_then(|root| root.stat(Path::new(top)));
        if self.links || error.kind() != io::ErrorKind::InvalidInput || !root.is_ok_and(is_link) {
            return error;
        }
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{top} is a symbolic link, which is followed only if {LINKS}=1 is set"),
        )
    }

    /// Opens the directory with this key. The empty key is the root.
    fn directory(&self, key: &str) -> io::Result<Directory> {
        match key {
            "" => self.root()?.directory(Path::new(".")),
            top if self.links && !top.contains('/') => self.root()?.linked_directory(OsStr::new(top)),
            _ => self.at(key, Directory::directory),
        }
    }

    fn file(&self, key: &str) -> io::Result<Arc<File>> {
        if let Some(file) = self.files().get(key) {
            return Ok(file.clone());
        }
        let mut file = self.at(key, Directory::file);
        // If descriptors run out, the cached ones can be closed.
        if file.as_ref().is_err_and(|e| matches!(e.raw_os_error(), Some(23 | 24))) {
            self.files().clear();
            file = self.at(key, Directory::file);
        }
        let file = Arc::new(file?);
        let mut open = self.files();
        if open.len() >= MAX_OPEN {
            open.clear();
        }
        open.insert(key.to_owned(), file.clone());
        Ok(file)
    }

    fn files(&self) -> MutexGuard<'_, HashMap<String, Arc<File>>> {
        self.open.lock().expect("no thread panics while it holds this")
    }

    /// Returns the modes for new files and directories: as private as the store.
    fn modes(&self) -> io::Result<Modes> {
        let mode = self.root()?.own_stat()?.st_mode;
        Ok(Modes { file: mode & 0o666 | 0o600, directory: mode & 0o2777 | 0o700 })
    }

    fn here(&self) -> io::Result<Place<'_>> {
        let (root, modes) = (self.root()?, self.modes()?);
        Ok(Place { root, file_mode: modes.file, directory_mode: modes.directory })
    }

    /// Opens the directory with this key, and creates it if needed.
    fn make_directory(&self, key: &str) -> io::Result<Directory> {
        let modes = self.modes()?;
        let mut at: Option<Directory> = None;
        for part in key.split('/') {
            let within = match &at {
                Some(at) => at,
                None => self.root()?,
            };
            let name = OsStr::new(part);
            let made = within.make_directory(name, modes.directory);
            if made.map_err(|e| self.advise(e, key))? {
                within.sync()?;
            }
            let opened = match self.links && at.is_none() {
                true => within.linked_directory(name),
                false => within.directory(Path::new(name)),
            };
            at = Some(opened.map_err(|e| self.advise(e, key))?);
        }
        Ok(at.expect("a key has a part"))
    }

    /// Opens the parent directory of a key, creating it if needed, and returns it with the key's last part.
    fn parent<'k>(&self, key: &'k str) -> io::Result<(Directory, &'k OsStr)> {
        match key.rsplit_once('/') {
            Some((parent, name)) => Ok((self.make_directory(parent)?, OsStr::new(name))),
            None => Ok((self.directory("")?, OsStr::new(key))),
        }
    }

    /// Renames a finished file or directory to its key, and returns true if it did. If `over` is false, an existing one
    /// stays.
    fn settle(&self, unfinished: Unfinished, key: &str, over: bool) -> io::Result<bool> {
        let mut tries = 0;
        let (to, done) = loop {
            let moved = self.parent(key).and_then(|(to, name)| {
                let done = match over {
                    true => unfinished.directory.rename(&unfinished.name, &to, name).map(|()| true)?,
                    false => unfinished.directory.rename_if_absent(&unfinished.name, &to, name)?,
                };
                Ok((to, done))
            });
            match moved {
                // The directory was empty and another process has just removed it.
                Err(e) if e.kind() == io::ErrorKind::NotFound && tries < 10 => tries += 1,
                other => break other?,
            }
        };
        if done {
            unfinished.moved();
            // Later reads must not use the descriptor of the replaced file.
            self.files().remove(key);
            to.sync()?;
        }
        Ok(done)
    }

    /// Starts a file in `tmp` that will get this key.
    fn start(&self, key: &str) -> io::Result<FolderUpload> {
        let unfinished = self.unfinished(UPLOAD)?;
        let file = unfinished.directory.create(&unfinished.name, self.modes()?.file)?;
        let file = io::BufWriter::with_capacity(1 << 20, file);
        Ok(FolderUpload { folder: self.clone(), key: key.to_owned(), file, unfinished })
    }

    /// Returns a new name in `tmp`, which is inside the store so that finishing takes only a rename.
    fn unfinished(&self, kind: &str) -> io::Result<Unfinished> {
        let (epoch, number) = (self.epoch.load(Ordering::Relaxed), u64::from_le_bytes(storage::random()?));
        let name = format!("{kind}-{epoch}-{number:016x}").into();
        Ok(Unfinished { directory: self.make_directory("tmp")?, name, moved: false })
    }
}

struct Modes {
    file: u32,
    directory: u32,
}

/// Kinds of entries in `tmp`.
const UPLOAD: &str = "upload";
const PUBLISH: &str = "publish";
const DELETE: &str = "delete";

/// Returns the epoch in the name of an entry of `tmp`, if this program uses such names. The process that works on it
/// entered the store in that epoch or in a later one.
#[must_use]
pub(crate) fn unfinished_epoch(name: &str) -> Option<u64> {
    let mut parts = name.splitn(3, '-');
    let (kind, epoch, number) = (parts.next()?, parts.next()?, parts.next()?);
    let is_number = number.len() == 16 && number.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let known = [UPLOAD, PUBLISH, DELETE].contains(&kind) && is_number;
    storage::number(epoch).filter(|_| known)
}

/// An entry in `tmp`, which is removed on drop unless it was moved away.
struct Unfinished {
    directory: Directory,
    name: OsString,
    moved: bool,
}

impl Unfinished {
    fn moved(mut self) {
        self.moved = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.moved {
            // gc removes it if this fails.
            let _ = remove(&self.directory, &self.name);
        }
    }
}

/// Removes a file, or from a directory the files with names that this program uses. Other files stay, and then the
/// directory stays too.
fn remove(within: &Directory, name: &OsStr) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let kind = match within.stat(Path::new(name)) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(e) => return gone(Err(e)),
    };
    match kind {
        FileType::RegularFile => return gone(within.remove_file(name)),
        FileType::Directory => {}
        _ => return Ok(()),
    }
    let directory = within.directory(Path::new(name))?;
    for (name, kind) in directory.entries()? {
        if kind == FileType::RegularFile && name.to_str().is_some_and(is_given) {
            gone(directory.remove_file(&name))?;
        }
    }
    match within.remove_directory(name) {
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        result => gone(result),
    }
}

/// Creates a directory and its parents, and syncs the parent of each.
fn create_folders_durably(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create_folders_durably(parent)?;
    match std::fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    Directory::open(parent)?.sync()
}

impl Storage for Folder {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn access(&self) -> Access {
        // If the mode is unknown, only the owner may read the output.
        let stat = self.root().and_then(Directory::own_stat);
        stat.map_or(Access::Owner, |stat| Access::of_directory(stat.st_mode, stat.st_gid))
    }

    fn read(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let file = self.file(key)?;
        let len = range.end.saturating_sub(range.start);
        if range.end > file.metadata()?.len() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file is shorter than its index says",
            ));
        }
        let mut bytes = zeros(usize::try_from(len).map_err(io::Error::other)?)?;
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    fn read_all(&self, key: &str) -> io::Result<Vec<u8>> {
        let file = self.file(key)?;
        let len = file.metadata()?.len();
        check_len(key, len)?;
        let mut bytes = zeros(usize::try_from(len).map_err(io::Error::other)?)?;
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn len(&self, key: &str) -> io::Result<u64> {
        // By path, which takes one system call instead of three. Only the length is used; reading goes through `file`.
        let stat = rustix::fs::statat(self.root()?, key, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(stat.st_size as u64),
            FileType::Symlink => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "is a symbolic link, which is not followed"))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file")),
        }
    }

    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>> {
        Ok(Box::new(self.start(key)?))
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        let mut upload = self.start(key)?;
        upload.write_all(bytes)?;
        upload.settle(true).map(|_| ())
    }

    fn publish(&self, folder: &str, files: &[(&str, &[u8])]) -> io::Result<bool> {
        let (staging, modes) = (self.unfinished(PUBLISH)?, self.modes()?);
        staging.directory.make_directory(&staging.name, modes.directory)?;
        let directory = staging.directory.directory(Path::new(&staging.name))?;
        for (name, bytes) in files {
            let mut file = directory.create(OsStr::new(name), modes.file)?;
            file.write_all(bytes)?;
            file.sync_all()?;
        }
        directory.sync()?;
        self.settle(staging, folder, false)
    }

    fn entries(&self, folder: &str) -> io::Result<Entries> {
        let directory = match self.directory(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Entries::default()),
            directory => directory?,
        };
        let mut entries = Entries::default();
        for (name, kind) in directory.entries()? {
            match (name.into_string(), kind) {
                (Ok(name), FileType::RegularFile) => entries.files.push(name),
                (Ok(name), FileType::Directory) => entries.folders.push(name),
                (Ok(name), _) => entries.others.push(name),
                (Err(name), _) => entries.others.push(name.to_string_lossy().into_owned()),
            }
        }
        Ok(entries)
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.files().remove(key);
        let (parent, name) = key.rsplit_once('/').unwrap_or(("", key));
        let within = match self.directory(parent) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            directory => directory?,
        };
        let name = OsStr::new(name);
        // A directory that contains only our files is first renamed out of sight in one step and then removed. An empty
        // one must not be renamed: another process may be about to write to it.
        let is_ours = |(name, kind): &(OsString, FileType)| {
            *kind == FileType::RegularFile && name.to_str().is_some_and(is_given)
        };
        if let Ok(directory) = within.directory(Path::new(name))
            && let entries = directory.entries()?
            && !entries.is_empty()
            && entries.iter().all(is_ours)
            && let Ok(grave) = self.unfinished(DELETE)
            && within.rename_if_absent(name, &grave.directory, &grave.name).is_ok_and(|done| done)
        {
            return remove(&grave.directory, &grave.name);
        }
        remove(&within, name)
    }

    fn rename(&self, key: &str, to: &str) -> io::Result<bool> {
        let (from, name) = key.rsplit_once('/').unwrap_or(("", key));
        let from = self.directory(from)?;
        self.files().remove(key);
        let (within, to) = self.parent(to)?;
        let done = from.rename_if_absent(OsStr::new(name), &within, to)?;
        within.sync()?;
        Ok(done)
    }

    fn prepare(&self, group: Option<u32>) -> io::Result<()> {
        use rustix::fs::{Gid, Mode, fchmod, fchown};
        create_folders_durably(&self.root)?;
        let directory = Directory::open(&self.root)?;
        let mode = match group {
            Some(group) => {
                fchown(&directory, None, Some(Gid::from_raw(group)))?;
                0o2770
            }
            None => 0o700,
        };
        match fchmod(&directory, Mode::from_raw_mode(mode)) {
            // The directory belongs to another user, who decides who may read it.
            Err(rustix::io::Errno::PERM) if group.is_none() => Ok(()),
            result => Ok(result?),
        }
    }

    fn clear(&self, with_directory: bool) -> io::Result<()> {
        for name in storage::TOP {
            let path = self.root.join(name);
            match path.symlink_metadata() {
                Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&path)?,
                Ok(_) => std::fs::remove_file(&path)?,
                Err(_) => {}
            }
        }
        if with_directory {
            // It stays if there is something else in it.
            let _ = std::fs::remove_dir(&self.root);
        }
        Ok(())
    }

    fn enter(&self) -> io::Result<Option<Lock>> {
        let Some(Epoch { number, lock }) = leases::enter(&self.here()?)? else { return Ok(None) };
        self.epoch.store(number, Ordering::Relaxed);
        Ok(Some(lock))
    }

    fn epoch(&self) -> io::Result<u64> {
        leases::newest(&self.here()?)
    }

    fn advance(&self) -> io::Result<u64> {
        let epoch = leases::advance(&self.here()?)?;
        self.epoch.store(epoch, Ordering::Relaxed);
        Ok(epoch)
    }

    fn oldest(&self) -> io::Result<u64> {
        leases::oldest(&self.here()?)
    }

    fn lock(&self) -> io::Result<Option<Lock>> {
        let lock = leases::lock(&self.here()?)?;
        if lock.is_some() {
            self.epoch.store(leases::newest(&self.here()?)?, Ordering::Relaxed);
        }
        Ok(lock)
    }

    fn alone(&self) -> io::Result<Option<Lock>> {
        leases::alone(&self.here()?)
    }

    fn hold(&self, key: &str) -> io::Result<Option<Lock>> {
        let mut tries = 0;
        loop {
            let (directory, name) = self.parent(key)?;
            match leases::hold(&self.here()?, directory, name) {
                // The directory was empty and another process has just removed it.
                Err(e) if e.kind() == io::ErrorKind::NotFound && tries < 10 => tries += 1,
                held => return held,
            }
        }
    }
}

/// Returns `len` zeros. Fails instead of aborting if there is not enough memory.
fn zeros(len: usize) -> io::Result<Vec<u8>> {
    if len > LARGE {
        Vec::<u8>::new().try_reserve_exact(len).map_err(|_| {
            io::Error::new(io::ErrorKind::OutOfMemory, format!("cannot allocate {len} bytes"))
        })?;
    }
    Ok(vec![0; len])
}

struct FolderUpload {
    folder: Folder,
    key: String,
    file: io::BufWriter<File>,
    unfinished: Unfinished,
}

impl Write for FolderUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl FolderUpload {
    fn settle(self, over: bool) -> io::Result<bool> {
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        self.folder.settle(self.unfinished, &self.key, over)
    }
}

impl Upload for FolderUpload {
    fn finish(self: Box<Self>) -> io::Result<bool> {
        self.settle(false)
    }
}
