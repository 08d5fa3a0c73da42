//! Where a writer writes: temporary names in the target's folder, synced and renamed when all is well.

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::{Result, at};

/// How many slices one call to the operating system takes at most (`IOV_MAX`).
const MAX_SLICES: usize = 1024;

/// How many bytes are written between two syncs.
const SYNC_EVERY: u64 = 64 << 20;

/// A container that is being written: one file, or several where the format has several.
///
/// The files have temporary names until [`Output::commit`]; dropped before that, they are removed.
pub struct Output {
    target: PathBuf,
    force: bool,
    files: Vec<Pending>,
    /// Takes files to be synced while they are written, so that little is left to do at the end.
    syncer: SyncSender<Arc<File>>,
}

struct Pending {
    file: OutputFile,
    temporary: PathBuf,
    renamed: bool,
}

/// One file of an [`Output`]: written at positions.
pub struct OutputFile {
    file: Arc<File>,
    /// Bytes written since it was last given to the syncer.
    unsynced: AtomicU64,
    syncer: SyncSender<Arc<File>>,
    /// Its final name, which is the one that errors give.
    path: PathBuf,
}

/// Starts the thread that syncs files that a good deal was written to.
fn start_syncer() -> SyncSender<Arc<File>> {
    let (wake, woken) = std::sync::mpsc::sync_channel(1);
    // It ends with the last sender. Errors show again at the final sync, so these have no say.
    std::thread::spawn(move || woken.iter().for_each(|file: Arc<File>| drop(file.sync_data())));
    wake
}

impl Output {
    /// For a container at `target`. What is there already is refused unless `force`, and then only a file
    /// is replaced.
    pub fn new(target: &Path, force: bool) -> Result<Self> {
        if target.file_name().is_none() {
            return Err(at("").file(target).unsupported("is not the name of a file"));
        }
        let output = Output { target: target.to_owned(), force, files: Vec::new(), syncer: start_syncer() };
        output.check_free(target)?;
        Ok(output)
    }

    /// The final name of the container's main file.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Creates the main file.
    pub fn create(&mut self) -> Result<&OutputFile> {
        let name = self.target.clone();
        self.add(name)
    }

    /// Creates a further file, which will be called `name` and lie beside the main one.
    pub fn create_beside(&mut self, name: &Path) -> Result<&OutputFile> {
        let path = self.target.with_file_name(name);
        self.check_free(&path)?;
        self.add(path)
    }

    /// The files created so far, in order.
    pub fn files(&self) -> impl Iterator<Item = &OutputFile> {
        self.files.iter().map(|f| &f.file)
    }

    fn check_free(&self, path: &Path) -> Result<()> {
        let place = || at("").file(path);
        match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(place().io(e)),
            Ok(meta) if !meta.is_file() && !meta.is_symlink() => {
                Err(place().unsupported("is there already, and is not a file"))
            }
            Ok(_) if !self.force => Err(place().denied("is there already; --force replaces it")),
            Ok(_) => Ok(()),
        }
    }

    fn add(&mut self, path: PathBuf) -> Result<&OutputFile> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let io = |e| at("").file(&path).io(e);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let mut name = std::ffi::OsString::from(".");
            name.push(path.file_name().expect("checked"));
            // A long name plus ours would be too long for the filesystem: ours suffices then.
            if name.len() > 200 {
                name = ".mif".into();
            }
            name.push(format!(".{}-{number}.part", std::process::id()));
            let temporary = path.with_file_name(name);
            match OpenOptions::new().read(true).write(true).create_new(true).open(&temporary) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(io(e)),
                Ok(file) => {
                    let file = Arc::new(file);
                    let syncer = self.syncer.clone();
                    let file = OutputFile { file, unsynced: AtomicU64::new(0), syncer, path };
                    self.files.push(Pending { file, temporary, renamed: false });
                    return Ok(&self.files.last().expect("just pushed").file);
                }
            }
        }
    }

    /// Syncs every file and gives it its final name, the main one last: a name that is there means a
    /// container that is whole.
    pub fn commit(mut self) -> Result<()> {
        for pending in &self.files {
            pending.file.file.sync_all().map_err(|e| pending.file.error(e))?;
        }
        let (force, target) = (self.force, self.target.clone());
        self.files.sort_by_key(|f| f.file.path == target);
        for pending in &mut self.files {
            rename(&pending.temporary, &pending.file.path, force)?;
            pending.renamed = true;
        }
        // From here on dropping must not undo anything.
        self.files.clear();
        let folder = match self.target.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let synced = File::open(folder).and_then(|f| f.sync_all());
        synced.map_err(|e| at("").file(folder).io(e))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        for pending in &self.files {
            // Errors have nobody to go to; what is left has a name that says what it is.
            let _ = match pending.renamed {
                false => std::fs::remove_file(&pending.temporary),
                true => std::fs::remove_file(&pending.file.path),
            };
        }
    }
}

fn rename(from: &Path, to: &Path, force: bool) -> Result<()> {
    let place = || at("").file(to);
    if !force {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => return Err(place().denied("has come to be while it was written")),
            // A filesystem that cannot do it in one step.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !to.exists() => {}
            Err(e) => return Err(place().io(e.into())),
        }
    }
    std::fs::rename(from, to).map_err(|e| place().io(e))
}

impl OutputFile {
    /// Its final name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|e| self.error(e))?;
        self.wrote(bytes.len() as u64);
        Ok(())
    }

    /// Writes `slices` one after the other from `offset`, with few system calls.
    pub fn write_slices_at(&self, mut offset: u64, slices: &mut [IoSlice<'_>]) -> Result<()> {
        let mut left = slices;
        while !left.is_empty() {
            let batch = left.len().min(MAX_SLICES);
            match rustix::io::pwritev(&*self.file, &left[..batch], offset) {
                Ok(0) => return Err(self.error(std::io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    offset += written as u64;
                    self.wrote(written as u64);
                    IoSlice::advance_slices(&mut left, written);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.error(e.into())),
            }
        }
        Ok(())
    }

    /// Makes the file `len` bytes long; what was not written is a hole.
    pub fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(|e| self.error(e))
    }

    fn wrote(&self, bytes: u64) {
        if self.unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes >= SYNC_EVERY {
            self.unsynced.store(0, Ordering::Relaxed);
            // If the syncer is busy still, the next time will do.
            let _ = self.syncer.try_send(self.file.clone());
        }
    }

    fn error(&self, error: std::io::Error) -> crate::Error {
        at("writing").file(&self.path).io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_is_left_without_a_commit() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = Output::new(&dir.path().join("a"), false).unwrap();
        output.create().unwrap().write_at(0, b"x").unwrap();
        output.create_beside(Path::new("a-flat")).unwrap();
        assert_eq!(names(dir.path()).len(), 2);
        drop(output);
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn a_commit_names_all_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = Output::new(&dir.path().join("a"), false).unwrap();
        let mut slices = [IoSlice::new(b"he"), IoSlice::new(b"llo")];
        output.create().unwrap().write_slices_at(1, &mut slices).unwrap();
        output.create_beside(Path::new("a-flat")).unwrap();
        output.commit().unwrap();
        assert_eq!(names(dir.path()), ["a", "a-flat"]);
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"\0hello");
    }

    #[test]
    fn an_existing_file_needs_force_and_a_folder_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "old").unwrap();
        assert_eq!(Output::new(&path, false).err().unwrap().kind(), ErrorKind::Denied);
        assert_eq!(Output::new(dir.path(), true).err().unwrap().kind(), ErrorKind::Unsupported);
        let mut output = Output::new(&path, true).unwrap();
        output.create().unwrap().write_at(0, b"new").unwrap();
        output.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_file_that_appeared_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut output = Output::new(&path, false).unwrap();
        output.create().unwrap();
        output.create_beside(Path::new("b")).unwrap();
        std::fs::write(&path, "other").unwrap();
        assert_eq!(output.commit().unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!(names(dir.path()), ["a"]);
        assert_eq!(std::fs::read(&path).unwrap(), b"other");
    }
}
