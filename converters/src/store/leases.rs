//! Tracks who uses a store in a directory, exactly and without clocks.
//!
//! ```text
//! leases/<n>     epoch n; each user who entered in it holds a shared lock on this file
//! lock           the lock of rm and gc
//! ```
//!
//! Time is divided into epochs. A process that opens a store enters the current epoch, which is the file with the
//! highest number, and holds a shared lock on it (flock, so it ends with the process; read permission is enough).
//! Removal never waits for these locks: it moves files out of sight, begins the next epoch, and deletes the files once
//! nobody holds an earlier epoch, at once or in a later run. The file of an epoch that is not current and that nobody
//! holds is removed.
//!
//! On NFS, flock becomes a byte-range lock, which is exclusive only on a file that is open for writing.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mif_formats::beneath::Directory;
use rustix::fs::{FlockOperation, Gid, Uid, fchown, flock};
use rustix::io::Errno;

use super::storage::{Lock, number};

const LEASES: &str = "leases";
const LOCK: &str = "lock";

/// A store's directory, and the modes of files created in it: as private as the store.
pub(super) struct Place<'a> {
    pub(super) root: &'a Directory,
    pub(super) file_mode: u32,
    pub(super) directory_mode: u32,
}

/// An epoch that this process has entered.
pub(super) struct Epoch {
    pub(super) number: u64,
    /// Held while the store is used. Empty if the filesystem does not support locks, or if the store has no epochs and
    /// they cannot be created.
    pub(super) lock: Lock,
}

/// Returns the epochs that have a file, in ascending order.
fn epochs(directory: &Directory) -> io::Result<Vec<u64>> {
    let entries = directory.entries()?;
    let mut epochs: Vec<u64> = entries.iter().filter_map(|(name, _)| number(name.to_str()?)).collect();
    epochs.sort_unstable();
    Ok(epochs)
}

/// Opens the directory of epochs, and returns it with its epochs, of which there is at least one.
fn directory(place: &Place<'_>) -> io::Result<(Directory, Vec<u64>)> {
    if let Ok(directory) = place.root.directory(Path::new(LEASES)) {
        let epochs = epochs(&directory)?;
        if !epochs.is_empty() {
            return Ok((directory, epochs));
        }
    }
    if place.root.make_directory(OsStr::new(LEASES), place.directory_mode)? {
        place.root.sync()?;
    }
    let directory = place.root.directory(Path::new(LEASES))?;
    begin(place, &directory, 1)?;
    let epochs = epochs(&directory)?;
    Ok((directory, epochs))
}

fn begin(place: &Place<'_>, directory: &Directory, epoch: u64) -> io::Result<()> {
    match create(place, directory, &epoch.to_string()) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        created => created.and_then(|_| directory.sync()),
    }
}

/// Creates an empty file that the store's owner can open, even if root creates it.
fn create(place: &Place<'_>, directory: &Directory, name: &str) -> io::Result<File> {
    let file = directory.create(OsStr::new(name), place.file_mode)?;
    let store = place.root.own_stat()?;
    if store.st_uid != file.metadata()?.uid() {
        let (user, group) = (Uid::from_raw(store.st_uid), Gid::from_raw(store.st_gid));
        // Only root may change a file's owner.
        let _ = fchown(&file, Some(user), Some(group));
    }
    Ok(file)
}

/// Tries to lock an open file. Returns false if another lock prevents it.
fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    loop {
        return match flock(file, operation) {
            Ok(()) => Ok(true),
            Err(Errno::INTR) => continue,
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(other) => Err(other.into()),
        };
    }
}

/// Enters the current epoch. Returns `None` while another process has the store exclusively.
pub(super) fn enter(place: &Place<'_>) -> io::Result<Option<Epoch>> {
    let unprotected = || Ok(Some(Epoch { number: 0, lock: Lock::none() }));
    let (directory, mut present) = match directory(place) {
        Ok((directory, epochs)) => (directory, last(&epochs)),
        // A user who may not write to a store without epochs can still read it.
        Err(e) if is_refused(&e) => return unprotected(),
        Err(e) => return Err(e),
    };
    loop {
        let opened = directory.file(Path::new(&present.to_string()));
        if let Ok(file) = &opened {
            match try_lock(file, FlockOperation::NonBlockingLockShared) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(e) if has_no_locks(&e) => return unprotected(),
                Err(e) => return Err(e),
            }
        }
        // Before the lock was taken, a removal may have begun another epoch and found this one unused.
        let newest = last(&epochs(&directory)?);
        match opened {
            Ok(file) if newest == present && file.metadata()?.nlink() > 0 => {
                return Ok(Some(Epoch { number: present, lock: Lock::new(file) }));
            }
            // The file belongs to another user and is unreadable.
            Err(e) if newest == present && is_refused(&e) => return unprotected(),
            Err(e) if newest == present => return Err(e),
            _ => present = newest,
        }
    }
}

fn last(epochs: &[u64]) -> u64 {
    epochs.last().copied().unwrap_or(1)
}

fn is_refused(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull
    )
}

fn has_no_locks(error: &io::Error) -> bool {
    let codes = [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// Returns the number of the current epoch.
pub(super) fn newest(place: &Place<'_>) -> io::Result<u64> {
    Ok(last(&directory(place)?.1))
}

/// Begins the next epoch and returns its number.
pub(super) fn advance(place: &Place<'_>) -> io::Result<u64> {
    let (directory, epochs) = directory(place)?;
    let next =
        last(&epochs).checked_add(1).ok_or_else(|| io::Error::other("the epoch numbers are used up"))?;
    begin(place, &directory, next)?;
    Ok(next)
}

/// Returns the oldest epoch that is held, or the current one if none is. Removes the files of earlier ones.
pub(super) fn oldest(place: &Place<'_>) -> io::Result<u64> {
    let (directory, epochs) = directory(place)?;
    let (present, earlier) = epochs.split_last().expect("there is one at least");
    for epoch in earlier {
        if take(&directory, *epoch)?.is_none() {
            return Ok(*epoch);
        }
        remove(&directory, *epoch)?;
    }
    Ok(*present)
}

/// Locks an epoch's file exclusively. Returns `None` if it is held.
fn take(directory: &Directory, epoch: u64) -> io::Result<Option<File>> {
    let file = directory.file_to_write(Path::new(&epoch.to_string()))?;
    Ok(try_lock(&file, FlockOperation::NonBlockingLockExclusive)?.then_some(file))
}

fn remove(directory: &Directory, epoch: u64) -> io::Result<()> {
    match directory.remove_file(OsStr::new(&epoch.to_string())) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Locks all epochs, so that nobody can enter. Returns `None` if one is held.
pub(super) fn alone(place: &Place<'_>) -> io::Result<Option<Lock>> {
    let (directory, epochs) = directory(place)?;
    let (present, earlier) = epochs.split_last().expect("there is one at least");
    // The current one first: then nobody can enter any epoch, and those found free stay free.
    let Some(held) = take(&directory, *present)? else { return Ok(None) };
    for epoch in earlier {
        if take(&directory, *epoch)?.is_none() {
            return Ok(None);
        }
        remove(&directory, *epoch)?;
    }
    Ok(Some(Lock::new(held)))
}

/// Takes the removal lock. Returns `None` if another process has it.
pub(super) fn lock(place: &Place<'_>) -> io::Result<Option<Lock>> {
    let file = loop {
        match place.root.file_to_write(Path::new(LOCK)) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => break other?,
        }
        match create(place, place.root, LOCK) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            other => break other?,
        }
    };
    Ok(try_lock(&file, FlockOperation::NonBlockingLockExclusive)?.then(|| Lock::new(file)))
}

/// A file that this process holds, and removes when it gives it up.
struct HeldFile {
    directory: Directory,
    name: OsString,
    /// Unlocked, by being closed, after the file was removed.
    _file: File,
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        // If this fails, the file stays as one that nobody holds.
        let _ = self.directory.remove_file(&self.name);
    }
}

/// Creates a file, or takes an existing one, and locks it. Returns `None` if another process holds it.
pub(super) fn hold(place: &Place<'_>, directory: Directory, name: &OsStr) -> io::Result<Option<Lock>> {
    loop {
        let file = match directory.file_to_write(Path::new(name)) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                match create(place, &directory, &name.to_string_lossy()) {
                    Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                    created => created?,
                }
            }
            opened => opened?,
        };
        match try_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(e) if has_no_locks(&e) => {
                let text = "this filesystem does not support locks; divide the work with --shard instead";
                return Err(io::Error::new(ErrorKind::Unsupported, text));
            }
            Err(e) => return Err(e),
        }
        // Its last holder may have removed it after it was opened here.
        if file.metadata()?.nlink() > 0 {
            let name = name.to_owned();
            return Ok(Some(Lock::new(HeldFile { directory, name, _file: file })));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::store::{Folder, Storage};

    #[test]
    fn no_epoch_follows_the_last_that_a_number_can_name() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Folder::new(folder.path());
        std::fs::create_dir(folder.path().join("leases")).unwrap();
        for name in ["18446744073709551615", "01", "notes"] {
            std::fs::write(folder.path().join("leases").join(name), b"").unwrap();
        }
        let user = storage.enter().unwrap();
        assert!(user.is_some() && storage.epoch().unwrap() == u64::MAX);
        assert!(storage.advance().is_err() && storage.oldest().unwrap() == u64::MAX);
    }
}
