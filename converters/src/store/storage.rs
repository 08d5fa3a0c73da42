//! Where a store keeps its files. All access goes through [`Storage`], so that an object store can be used too.

use std::any::Any;
use std::io::{self, Write};
use std::ops::Range;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mif_formats::container::Access;

use crate::error::Error;

/// How long to sleep before trying again to get a lock.
const POLL: Duration = Duration::from_millis(50);

/// The files of an image.
pub(crate) const IMAGE_FILES: [&str; 6] =
    ["image.json", "manifest.parquet", "layout", "digests", "packages.parquet", "packs"];

/// The files and directories in the root of a store.
pub(super) const TOP: [&str; 15] = [
    "store.json",
    "checked.json",
    "lock",
    "leases",
    "packs",
    "index",
    "images",
    "published",
    "disks",
    "removed",
    "tags",
    "catalog",
    "trash",
    "tmp",
    "work",
];

/// Returns true if this program uses such a name in directories that it removes: an image's files, and a tag's values.
pub(super) fn is_given(name: &str) -> bool {
    IMAGE_FILES.contains(&name) || number::<u64>(name).is_some()
}

/// Parses a number in the form in which this program writes it: `01` is not one.
pub(super) fn number<N: FromStr + ToString>(name: &str) -> Option<N> {
    name.parse().ok().filter(|number: &N| number.to_string() == name)
}

/// Returns true if an operation failed because the disk or the quota is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Fails if a file with this key is larger than any of its kind. Call it before reading the file whole.
pub fn check_len(key: &str, len: u64) -> io::Result<()> {
    check_limit(len, max_len(key))
}

/// Fails if a file of `len` bytes is longer than `most`.
pub(super) fn check_limit(len: u64, most: u64) -> io::Result<()> {
    if len > most {
        let text = format!("is {len} bytes long, over the limit of {most} for such a file");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(())
}

/// Returns the bytes that were read of a file, if they are as many as the index says.
pub(super) fn exactly(bytes: Vec<u8>, len: u64) -> io::Result<Vec<u8>> {
    match bytes.len() as u64 == len {
        true => Ok(bytes),
        false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than its index says")),
    }
}

/// Returns unpredictable bytes.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}

/// Returns the maximum size in bytes of the file with this key. Larger files are not read whole.
pub(super) fn max_len(key: &str) -> u64 {
    let (top, name) = (key.split('/').next(), key.rsplit('/').next());
    match (top, name) {
        (Some("store.json"), _) => 1 << 20,
        (Some("tags" | "disks" | "checked.json"), _) => 4 << 10,
        (Some("catalog"), Some(name)) if name == "images.parquet" || name.ends_with(".sums") => 256 << 20,
        (Some("published" | "removed"), _) | (_, Some("image.json")) => 64 << 20,
        _ => 4 << 30,
    }
}

/// A place for immutable files, named by keys such as `packs/ab/abcd.pack`.
pub trait Storage: Send + Sync {
    /// Returns the location for messages.
    fn place(&self) -> String;

    /// Returns what a user names for a new store, for messages.
    fn new_place(&self) -> &'static str {
        "a new directory"
    }

    /// Returns who may read the files here, besides their owner.
    fn access(&self) -> Access;

    /// Returns how many small files are read at a time: several where each read waits for an answer.
    fn reads_at_once(&self) -> usize {
        1
    }

    /// Reads the bytes `range` of a file: exactly these, or fails.
    fn read(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>>;

    /// Returns the length of a file in bytes.
    fn len(&self, key: &str) -> io::Result<u64>;

    /// Reads a whole file atomically: never the length of one version with the bytes of another. Fails if it is larger
    /// than any file of its kind ([`check_len`]).
    fn read_all(&self, key: &str) -> io::Result<Vec<u8>>;

    /// Converts an I/O error of a file. A file that could not be read is not called damaged ([`Error::is_unreadable`]).
    fn error(&self, key: &str, error: &io::Error) -> Error {
        Error::file(&format!("{}/{key}", self.place()), error)
    }

    /// Returns the lengths of files in bytes, in the order of their keys.
    fn lens(&self, keys: &[String]) -> Vec<io::Result<u64>> {
        keys.iter().map(|key| self.len(key)).collect()
    }

    /// Starts the file with this key, which becomes visible when it is finished. If dropped unfinished, it leaves
    /// nothing behind.
    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>>;

    /// Writes a file durably. Returns false, and changes nothing, if the key already exists.
    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> io::Result<bool> {
        let mut upload = self.upload(key)?;
        upload.write_all(bytes)?;
        upload.finish()
    }

    /// Writes a file durably, replacing the one under this key. For damaged files, files named by their own digest, and
    /// the store's header, its last check and the images of its catalog: all others never change.
    fn replace(&self, key: &str, bytes: &[u8]) -> io::Result<()>;

    /// Writes several files of one directory durably and atomically: nobody ever sees only some of them. Returns false,
    /// and changes nothing, if the directory already exists.
    fn publish(&self, folder: &str, files: &[(&str, &[u8])]) -> io::Result<bool>;

    /// Returns the entries of a directory; none if it does not exist.
    fn entries(&self, folder: &str) -> io::Result<Entries>;

    /// Returns the sorted names of the files and directories in a directory; none if it does not exist.
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let Entries { mut files, folders, .. } = self.entries(folder)?;
        files.extend(folders);
        files.sort_unstable();
        Ok(files)
    }

    /// Removes a file, or from a directory the files with names that this program uses. Other files stay, and then the
    /// directory stays too. Succeeds if nothing exists under the key.
    fn delete(&self, key: &str) -> io::Result<()>;

    /// Renames a file unless the new key exists, and returns true if it did. Needs no free space for the content.
    fn rename(&self, key: &str, to: &str) -> io::Result<bool>;

    /// Prepares the place for a new store: private, or open to the group with this ID. Fails if the place cannot keep
    /// what a store relies on.
    fn prepare(&self, group: Option<u32>) -> io::Result<()>;

    /// Removes the store's files and, if `with_directory`, the place itself unless something else is in it. The caller
    /// has the store exclusively.
    fn clear(&self, with_directory: bool) -> io::Result<()>;

    /// Reads everything from the place itself from now on, not from a cache on this machine: for checks.
    fn bypass_caches(&self) {}

    /// Waits until lists show what others have just written, where they may lag. Returns true if it waited: what was
    /// listed before has to be listed again.
    fn settle(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// Returns the size in bytes at which a pack is finished.
    fn pack_size(&self) -> u64 {
        512 << 20
    }

    /// Enters the store, in the current epoch, until the result is dropped or the process ends. Returns `None` while
    /// another process has the store exclusively.
    fn enter(&self) -> io::Result<Option<Lock>>;

    /// Returns the number of the current epoch.
    fn epoch(&self) -> io::Result<u64>;

    /// Begins the next epoch and returns its number. Users who enter from now on enter that one. The caller holds the
    /// lock.
    fn advance(&self) -> io::Result<u64>;

    /// Returns the oldest epoch of those that current users have entered, or the current one if there are no users. The
    /// caller holds the lock.
    fn oldest(&self) -> io::Result<u64>;

    /// Takes the store's removal lock. Returns `None` while another process holds it. Others may use the store
    /// meanwhile.
    fn lock(&self) -> io::Result<Option<Lock>>;

    /// Takes the store exclusively: nobody uses it, and new users wait. Returns `None` while it is in use. The caller
    /// holds the lock.
    fn alone(&self) -> io::Result<Option<Lock>>;

    /// Takes the file with this key, which is created, for this process until the result is dropped or the process
    /// ends. Returns `None` while another process holds it. Keys of other files must not be held.
    fn hold(&self, key: &str) -> io::Result<Option<Lock>> {
        let text = format!("{key}: work cannot be divided among machines through this kind of store");
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    /// Waits before `enter`, `lock`, `alone` or `hold` is tried again.
    fn pause(&self) {
        std::thread::sleep(POLL);
    }

    /// Returns the current time in seconds since 1970.
    fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// Returns true if tags of images can be kept here.
    fn keeps_tags(&self) -> bool {
        true
    }

    /// Tells what is about to be written: a digest of it, which includes how it is divided. Where files are named by
    /// their content, as in a registry, the same content is then written in the same files, and files that an
    /// interrupted command has already sent are not sent again.
    fn expect(&self, _content: [u8; 32]) {}

    /// Returns unpredictable bytes that never repeat.
    fn random(&self) -> io::Result<[u8; 32]> {
        random()
    }
}

/// The entries of a directory. Each list is sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries {
    /// Files.
    pub files: Vec<String>,
    /// Directories.
    pub folders: Vec<String>,
    /// Links, sockets and other special files, and names that are not UTF-8. This program creates none of these.
    pub others: Vec<String>,
}

/// A hold on a store until this is dropped: a lease, the removal lock, or the whole store.
pub struct Lock(Option<Box<dyn Any + Send + Sync>>);

impl Lock {
    /// Returns a lock that is released when `held` is dropped.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Lock(Some(Box::new(held)))
    }

    /// Returns an empty lock: a lease is impossible here, and files may be removed while they are read.
    #[must_use]
    pub fn none() -> Self {
        Lock(None)
    }

    /// Returns true if the lock is not empty.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

/// A file that is being written.
pub trait Upload: Write + Send {
    /// Makes the file durable and visible under its key. Returns false if the key already exists: the existing file
    /// stays.
    fn finish(self: Box<Self>) -> io::Result<bool>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Folder, Memory};

    #[test]
    fn a_key_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Folder::new(&folder.path().join("store"));
        storage.prepare(None).unwrap();
        assert!(storage.put_if_absent("a/b/c", b"first").unwrap());
        assert!(!storage.put_if_absent("a/b/c", b"second").unwrap());
        assert_eq!(storage.read_all("a/b/c").unwrap(), b"first");
        // A file that is open because it was read is reopened once it has been replaced.
        storage.replace("a/b/c", b"mended").unwrap();
        assert_eq!(storage.read_all("a/b/c").unwrap(), b"mended");
        assert_eq!(storage.list("tmp").unwrap(), [""; 0]);
    }

    #[test]
    fn a_file_that_is_replaced_while_it_is_read_is_one_of_the_two() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Folder::new(folder.path());
        let both = [vec![1; 100], vec![2; 5000]];
        writer.replace("a", &both[0]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..400 {
                    writer.replace("a", &both[i % 2]).unwrap();
                }
            });
            for _ in 0..400 {
                // A new instance each time, which has no file open.
                let read = Folder::new(folder.path()).read_all("a").unwrap();
                assert!(both.contains(&read), "{} bytes", read.len());
            }
        });
    }

    #[test]
    fn a_folder_is_published_once_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Folder::new(folder.path());
        assert!(storage.publish("images/x/1", &[("layout", b"1"), ("digests", b"2")]).unwrap());
        assert!(!storage.publish("images/x/1", &[("layout", b"3")]).unwrap());
        assert_eq!(storage.read_all("images/x/1/layout").unwrap(), b"1");
        assert_eq!(storage.list("images/x/1").unwrap(), ["digests", "layout"]);
        storage.delete("images/x/1").unwrap();
        storage.delete("images/x/1").unwrap();
        assert_eq!(storage.list("images/x").unwrap(), [""; 0]);
        // A directory that contains a foreign file stays, with this file.
        assert!(storage.publish("images/x/2", &[("layout", b"1"), ("notes", b"2")]).unwrap());
        storage.delete("images/x/2").unwrap();
        assert_eq!(storage.list("images/x/2").unwrap(), ["notes"]);
        assert_eq!(storage.list("tmp").unwrap(), [""; 0]);
    }

    /// Runs a test on each kind of storage.
    fn with_each(test: impl Fn(&dyn Storage)) {
        let folder = tempfile::tempdir().unwrap();
        test(&Folder::new(folder.path()));
        test(&Memory::new());
    }

    #[test]
    fn an_epoch_has_passed_once_all_who_entered_before_it_have_left() {
        with_each(|storage| {
            let enter = || storage.enter().unwrap().unwrap();
            let first = enter();
            let _lock = storage.lock().unwrap().unwrap();
            let epoch = storage.advance().unwrap();
            let second = enter();
            assert_eq!((storage.epoch().unwrap(), storage.oldest().unwrap()), (epoch, epoch - 1));
            drop(first);
            assert_eq!(storage.oldest().unwrap(), epoch);
            let next = storage.advance().unwrap();
            assert_eq!((next, storage.oldest().unwrap()), (epoch + 1, epoch));
            drop(second);
            assert_eq!(storage.oldest().unwrap(), next);
        });
    }

    #[test]
    fn one_removes_at_a_time_and_who_is_alone_lets_nobody_enter() {
        with_each(|storage| {
            let lock = storage.lock().unwrap().unwrap();
            assert!(storage.lock().unwrap().is_none());
            let user = storage.enter().unwrap();
            assert!(user.is_some() && storage.alone().unwrap().is_none());
            drop(user);
            storage.advance().unwrap();
            let alone = storage.alone().unwrap();
            assert!(alone.is_some() && storage.enter().unwrap().is_none());
            drop((alone, lock));
            assert!(storage.enter().unwrap().is_some() && storage.lock().unwrap().is_some());
        });
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
