//! Where a store keeps its files. All access goes through [`Storage`], so that an object store can serve too.

use std::any::Any;
use std::io::{self, Write};
use std::ops::Range;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mif_formats::container::Access;

use crate::error::Error;

/// How long somebody who waits for others sleeps before looking again.
const POLL: Duration = Duration::from_millis(50);

/// The files of an image.
pub(crate) const IMAGE_FILES: [&str; 6] =
    ["image.json", "manifest.parquet", "layout", "digests", "packages.parquet", "packs"];

/// Whether this program gives such names to files in folders that it removes: an image's files, and a tag's values.
pub(super) fn is_given(name: &str) -> bool {
    IMAGE_FILES.contains(&name) || number::<u64>(name).is_some()
}

/// The number that a name is, written as this program writes it: `01` is none.
pub(super) fn number<N: FromStr + ToString>(name: &str) -> Option<N> {
    name.parse().ok().filter(|number: &N| number.to_string() == name)
}

/// Returns true if an operation failed because the disk or the quota is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Errs if a file with this key has more bytes than any of its kind; to be asked before it is read whole.
pub fn check_len(key: &str, len: u64) -> io::Result<()> {
    let most = max_len(key);
    if len > most {
        let text = format!("is {len} bytes long; such a file has {most} at most");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(())
}

/// How many bytes the file with this key has at most. What is larger is not read whole.
fn max_len(key: &str) -> u64 {
    let (top, name) = (key.split('/').next(), key.rsplit('/').next());
    match (top, name) {
        (Some("store.json"), _) => 1 << 20,
        (Some("tags" | "disks"), _) => 4 << 10,
        (Some("published" | "removed"), _) | (_, Some("image.json")) => 64 << 20,
        _ => 4 << 30,
    }
}

/// A place for immutable files, named by keys such as `packs/ab/abcd.pack`.
pub trait Storage: Send + Sync {
    /// For messages: where this is.
    fn place(&self) -> String;

    /// Who may read what is here, beside its owner.
    fn access(&self) -> Access;

    /// The bytes `range` of a file: exactly these, or an error.
    fn read(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>>;

    /// The length of a file in bytes.
    fn len(&self, key: &str) -> io::Result<u64>;

    /// Reads a whole file as of one moment: never the length of one version with the bytes of another.
    /// An error if it is larger than any file of its kind ([`check_len`]).
    fn read_all(&self, key: &str) -> io::Result<Vec<u8>>;

    /// The error of the program for one of a file. What could not be read is not said to be damaged
    /// ([`Error::is_unreadable`]).
    fn error(&self, key: &str, error: &io::Error) -> Error {
        Error::file(&format!("{}/{key}", self.place()), error)
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

    /// What is in a folder; nothing if it is not there.
    fn entries(&self, folder: &str) -> io::Result<Entries>;

    /// The names of the files and folders in a folder, sorted; none if it is not there.
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let Entries { mut files, folders, .. } = self.entries(folder)?;
        files.extend(folders);
        files.sort_unstable();
        Ok(files)
    }

    /// Removes a file, or a folder with the files in it whose names this program gives; what else is in it stays,
    /// and then the folder too. What is not there is removed already.
    fn delete(&self, key: &str) -> io::Result<()>;

    /// Gives a file another key, unless that is there; gives whether it did. It takes no room.
    fn rename(&self, key: &str, to: &str) -> io::Result<bool>;

    /// Begins to use the store, in the present epoch, until what this gives is dropped or the process ends. Gives none while
    /// somebody has it alone.
    fn enter(&self) -> io::Result<Option<Lock>>;

    /// The number of the present epoch.
    fn epoch(&self) -> io::Result<u64>;

    /// Begins the next epoch, and gives its number. Whoever enters from now on enters in that one. The caller holds the lock.
    fn advance(&self) -> io::Result<u64>;

    /// The epoch in which the first of those entered who still use the store; the present one if there are none. The
    /// caller holds the lock.
    fn oldest(&self) -> io::Result<u64>;

    /// Takes the store's lock, which is held by whoever removes; gives none while another one holds it. Others use the
    /// store meanwhile.
    fn lock(&self) -> io::Result<Option<Lock>>;

    /// Has the store alone: nobody uses it, and whoever wants to waits. Gives none while somebody uses it. The caller holds the
    /// lock.
    fn alone(&self) -> io::Result<Option<Lock>>;

    /// Waits a while before one of these is asked for again.
    fn pause(&self) {
        std::thread::sleep(POLL);
    }

    /// The time, in seconds since 1970.
    fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// Bytes that nobody can guess and that never come again.
    fn random(&self) -> io::Result<[u8; 32]> {
        let mut bytes = [0; 32];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        Ok(bytes)
    }
}

/// What is in a folder: names, each list sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries {
    /// Files.
    pub files: Vec<String>,
    /// Folders.
    pub folders: Vec<String>,
    /// Links, sockets and the like, and names that are not UTF-8: this program makes none of these.
    pub others: Vec<String>,
}

/// What somebody holds of a store until this is dropped: a lease of its files, its lock, or all of it.
pub struct Lock(Option<Box<dyn Any + Send + Sync>>);

impl Lock {
    /// Is given back when `held` is dropped.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Lock(Some(Box::new(held)))
    }

    /// No lease: it cannot be had here, and what is read may be removed meanwhile.
    #[must_use]
    pub fn none() -> Self {
        Lock(None)
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

/// A file that is being written.
pub trait Upload: Write + Send {
    /// Makes the file durable and visible under `key`. Gives false if the key is there already: what is
    /// there stays.
    fn finish(self: Box<Self>, key: &str) -> io::Result<bool>;

    /// Makes the file durable and visible under `key`, in the place of what is there.
    fn replace(self: Box<Self>, key: &str) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Folder, Memory};

    #[test]
    fn a_key_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Folder::new(&folder.path().join("store"));
        storage.make(None).unwrap();
        assert!(storage.put_if_absent("a/b/c", b"first").unwrap());
        assert!(!storage.put_if_absent("a/b/c", b"second").unwrap());
        assert_eq!(storage.read_all("a/b/c").unwrap(), b"first");
        // A file that is open, for it was read, is not read any more once it was replaced.
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
                // A new one each time, which keeps no file open.
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
        // With something in it that is not ours, it stays, and that in it.
        assert!(storage.publish("images/x/2", &[("layout", b"1"), ("notes", b"2")]).unwrap());
        storage.delete("images/x/2").unwrap();
        assert_eq!(storage.list("images/x/2").unwrap(), ["notes"]);
        assert_eq!(storage.list("tmp").unwrap(), [""; 0]);
    }

    /// All kinds of storage, in one place or the other.
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
