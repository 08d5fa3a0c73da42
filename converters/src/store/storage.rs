//! Where a store keeps its files. All access goes through [`Storage`], so that an object store can serve too.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::NamedTempFile;

/// A place for immutable files, named by keys such as `packs/ab/abcd.pack`.
pub trait Storage: Send + Sync {
    /// For messages: where this is.
    fn place(&self) -> String;

    /// The bytes `range` of a file: exactly these, or an error.
    fn read(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>>;

    /// The length of a file in bytes.
    fn len(&self, key: &str) -> io::Result<u64>;

    /// The whole of a file.
    fn read_all(&self, key: &str) -> io::Result<Vec<u8>> {
        self.read(key, 0..self.len(key)?)
    }

    /// Starts a file whose key is known when it is finished. Dropped unfinished, it leaves nothing.
    fn upload(&self) -> io::Result<Box<dyn Upload>>;

    /// Writes a file, durably. Gives false, and changes nothing, if the key is there already.
    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> io::Result<bool> {
        let mut upload = self.upload()?;
        upload.write_all(bytes)?;
        upload.finish(key)
    }

    /// Writes a file, durably, in the place of what the key names now. For files that are damaged, or are named by
    /// their own digest: all others never change.
    fn replace(&self, key: &str, bytes: &[u8]) -> io::Result<()>;

    /// Writes several files of one folder, all at once and durably: nobody ever sees a part of them. Gives
    /// false, and changes nothing, if the folder is there already.
    fn publish(&self, folder: &str, files: &[(&str, &[u8])]) -> io::Result<bool>;

    /// The names in a folder, sorted; none if it is not there.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Removes a file, or a folder with all in it, at once. What is not there is removed already.
    fn delete(&self, key: &str) -> io::Result<()>;

    /// Takes the store's lock, which is held until what this gives is dropped or the process ends. With `wait`
    /// it waits for those who hold it; without, it gives none if they do.
    fn lock(&self, kind: LockKind, wait: bool) -> io::Result<Option<Lock>>;
}

/// How the store's lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// With others: by whoever reads or adds.
    Shared,
    /// Alone: by whoever removes.
    Exclusive,
}

/// The store's lock, held.
pub struct Lock(#[allow(dead_code)] Option<File>);

/// A file that is being written.
pub trait Upload: Write + Send {
    /// Makes the file durable and visible under `key`. Gives false if the key is there already: what is
    /// there stays.
    fn finish(self: Box<Self>, key: &str) -> io::Result<bool>;

    /// Makes the file durable and visible under `key`, in the place of what is there.
    fn replace(self: Box<Self>, key: &str) -> io::Result<()>;
}

/// A store in a folder.
#[derive(Clone)]
pub struct Folder {
    root: PathBuf,
    /// Files that are kept open, by their keys; shared by clones.
    open: Arc<Mutex<HashMap<String, Arc<File>>>>,
}

/// How many files are kept open.
const MAX_OPEN: usize = 64;

impl Folder {
    /// The store in `root`, which need not be there yet.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Folder { root: root.to_owned(), open: Arc::default() }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    fn file(&self, key: &str) -> io::Result<Arc<File>> {
        if let Some(file) = self.files().get(key) {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(self.path(key))?);
        let mut open = self.files();
        if open.len() >= MAX_OPEN {
            open.clear();
        }
        open.insert(key.to_owned(), file.clone());
        Ok(file)
    }

    fn files(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<File>>> {
        self.open.lock().expect("no thread panics while it holds this")
    }

    /// The folder for what is not finished. In the store, so that a rename is enough to finish it.
    fn temporary(&self) -> io::Result<PathBuf> {
        let folder = self.root.join("tmp");
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn parent(&self, key: &str) -> io::Result<PathBuf> {
        let path = self.path(key);
        let parent = path.parent().expect("a key lies in the root").to_owned();
        create_folders_durably(&parent)?;
        Ok(parent)
    }
}

/// Creates a folder and its parents, each synced into its own parent.
fn create_folders_durably(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent().filter(|p| !p.as_os_str().is_empty()) {
        create_folders_durably(parent)?;
    }
    match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => sync_folder(Path::new(".")),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Renames unless the target is there; gives whether it did.
fn rename_if_absent(from: &Path, to: &Path) -> io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        // A filesystem without RENAME_NOREPLACE (some network ones): the check and the rename are two steps.
        Err(rustix::io::Errno::INVAL) if !to.exists() => fs::rename(from, to).map(|()| true),
        Err(rustix::io::Errno::INVAL) => Ok(false),
        Err(other) => Err(other.into()),
    }
}

impl Storage for Folder {
    fn place(&self) -> String {
        self.root.display().to_string()
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
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    fn len(&self, key: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path(key))?.len())
    }

    fn upload(&self) -> io::Result<Box<dyn Upload>> {
        let file = NamedTempFile::new_in(self.temporary()?)?;
        Ok(Box::new(FolderUpload { folder: self.clone(), file: io::BufWriter::with_capacity(1 << 20, file) }))
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        let mut upload = self.upload()?;
        upload.write_all(bytes)?;
        upload.replace(key)
    }

    fn publish(&self, folder: &str, files: &[(&str, &[u8])]) -> io::Result<bool> {
        let parent = self.parent(folder)?;
        let staging = tempfile::Builder::new().prefix("publish-").tempdir_in(self.temporary()?)?;
        for (name, bytes) in files {
            let mut file = File::create_new(staging.path().join(name))?;
            file.write_all(bytes)?;
            file.sync_all()?;
        }
        set_plain_mode(staging.path(), 0o777)?;
        sync_folder(staging.path())?;
        let done = rename_if_absent(staging.path(), &self.path(folder))?;
        if done {
            let _moved_away = staging.keep();
            sync_folder(&parent)?;
        }
        Ok(done)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(folder)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.files().remove(key);
        let path = self.path(key);
        let gone = |result: io::Result<()>| match result {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        if !path.is_dir() {
            return gone(fs::remove_file(path));
        }
        // Out of sight in one step, then away.
        let grave = tempfile::Builder::new().prefix("delete-").tempdir_in(self.temporary()?)?;
        gone(fs::rename(&path, grave.path().join("it")))?;
        grave.close()
    }

    fn lock(&self, kind: LockKind, wait: bool) -> io::Result<Option<Lock>> {
        use rustix::fs::{FlockOperation, flock};
        use rustix::io::Errno;
        let path = self.path("lock");
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::OpenOptions::new().read(true).append(true).create(true).open(&path)
            }
            other => other,
        };
        let file = match file {
            Ok(file) => file,
            // Who may not write to the store can still read it, as long as nobody removes anything.
            Err(_) if kind == LockKind::Shared => return Ok(Some(Lock(None))),
            Err(e) => return Err(e),
        };
        let operation = match (kind, wait) {
            (LockKind::Shared, true) => FlockOperation::LockShared,
            (LockKind::Shared, false) => FlockOperation::NonBlockingLockShared,
            (LockKind::Exclusive, true) => FlockOperation::LockExclusive,
            (LockKind::Exclusive, false) => FlockOperation::NonBlockingLockExclusive,
        };
        loop {
            return match flock(&file, operation) {
                Ok(()) => Ok(Some(Lock(Some(file)))),
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => Ok(None),
                // A filesystem without locks: no one can take it exclusively there either.
                Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS) if kind == LockKind::Shared => {
                    Ok(Some(Lock(None)))
                }
                Err(other) => Err(other.into()),
            };
        }
    }
}

struct FolderUpload {
    folder: Folder,
    file: io::BufWriter<NamedTempFile>,
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
    /// The file, synced, and the directory that it is to lie in.
    fn synced(self, key: &str) -> io::Result<(Folder, NamedTempFile, PathBuf)> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        set_plain_mode(file.path(), 0o666)?;
        let parent = self.folder.parent(key)?;
        Ok((self.folder, file, parent))
    }
}

impl Upload for FolderUpload {
    fn replace(self: Box<Self>, key: &str) -> io::Result<()> {
        let (folder, file, parent) = self.synced(key)?;
        file.persist(folder.path(key))?;
        // Whoever reads it from now on must not read the file that was there.
        folder.files().remove(key);
        sync_folder(&parent)
    }

    fn finish(self: Box<Self>, key: &str) -> io::Result<bool> {
        let (folder, file, parent) = self.synced(key)?;
        let done = rename_if_absent(file.path(), &folder.path(key))?;
        if done {
            let _moved_away = file.into_temp_path().keep();
            sync_folder(&parent)?;
        }
        Ok(done)
    }
}

/// Temporary files are private; what is finished has the mode that any new file of this user has.
fn set_plain_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode & !umask()))
}

/// The process's umask. It can only be read by setting it: done once, before other threads create files.
fn umask() -> u32 {
    static UMASK: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *UMASK.get_or_init(|| {
        let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        rustix::process::umask(old);
        old.as_raw_mode()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Folder::new(&folder.path().join("store"));
        assert!(storage.put_if_absent("a/b/c", b"first").unwrap());
        assert!(!storage.put_if_absent("a/b/c", b"second").unwrap());
        assert_eq!(storage.read_all("a/b/c").unwrap(), b"first");
        // A file that is open, for it was read, is not read any more once it was replaced.
        storage.replace("a/b/c", b"mended").unwrap();
        assert_eq!(storage.read_all("a/b/c").unwrap(), b"mended");
        assert_eq!(storage.list("tmp").unwrap(), [""; 0]);
    }

    #[test]
    fn a_folder_is_published_once_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Folder::new(folder.path());
        assert!(storage.publish("images/x/1", &[("a", b"1"), ("b", b"2")]).unwrap());
        assert!(!storage.publish("images/x/1", &[("a", b"3")]).unwrap());
        assert_eq!(storage.read_all("images/x/1/a").unwrap(), b"1");
        assert_eq!(storage.list("images/x/1").unwrap(), ["a", "b"]);
        storage.delete("images/x/1").unwrap();
        storage.delete("images/x/1").unwrap();
        assert_eq!(storage.list("images/x").unwrap(), [""; 0]);
        assert_eq!(storage.list("tmp").unwrap(), [""; 0]);
    }

    #[test]
    fn the_lock_is_shared_or_exclusive() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Folder::new(folder.path());
        let take = |kind| storage.lock(kind, false).unwrap();
        let shared = (take(LockKind::Shared), take(LockKind::Shared));
        assert!(shared.0.is_some() && shared.1.is_some());
        assert!(take(LockKind::Exclusive).is_none());
        drop(shared);
        let alone = take(LockKind::Exclusive);
        assert!(alone.is_some() && take(LockKind::Shared).is_none());
        drop(alone);
        assert!(take(LockKind::Shared).is_some());
    }

    #[test]
    fn reading_past_the_end_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Folder::new(folder.path());
        storage.put_if_absent("a", b"12345").unwrap();
        assert_eq!(storage.read("a", 1..3).unwrap(), b"23");
        assert!(storage.read("a", 3..6).is_err());
        assert!(storage.read("a", 0..u64::MAX).is_err());
    }
}
