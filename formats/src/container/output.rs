//! The output of a writer: files with temporary names in the target's directory, which are synced and renamed when they
//! are complete; a block device; or standard output.

use std::fs::{File, OpenOptions, Permissions};
use std::io::IoSlice;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::access::Access;
use super::sequence::Sequence;
use crate::error::{Result, at};

/// The most slices per system call (`IOV_MAX`).
const MAX_SLICES: usize = 1024;

/// The number of bytes written between two syncs.
const SYNC_EVERY: u64 = 64 << 20;

/// The name for standard output.
pub const STANDARD_OUTPUT: &str = "-";

/// A container that is being written: one file, or several if the format needs them.
///
/// The files have temporary names until [`Output::commit`]; dropping the output before that removes them. A block
/// device or standard output is written directly.
pub struct Output {
    /// The target with symbolic links resolved: the links stay, and the file they lead to is written.
    target: PathBuf,
    kind: OutputKind,
    force: bool,
    /// The users who may read new files besides their owner.
    access: Access,
    files: Vec<Pending>,
    /// For a container within another file: the byte at which it begins, and its name there.
    member: Option<(u64, String)>,
    /// Syncs files while they are written, so that little is left to do at the end.
    syncer: SyncSender<Arc<File>>,
}

/// The target of an [`Output`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// Files, which appear whole or not at all.
    Files,
    /// A block device.
    Device,
    /// Standard output.
    Stream,
}

struct Pending {
    file: OutputFile,
    /// Its temporary name; `None` for a device or stream.
    temporary: Option<PathBuf>,
    renamed: bool,
}

/// One file of an [`Output`], with positional writes.
pub struct OutputFile {
    sink: Sink,
    /// Its final name, which errors report.
    path: PathBuf,
    /// The byte that offset 0 means.
    base: u64,
}

enum Sink {
    File {
        file: Arc<File>,
        /// Bytes written since the syncer last got the file.
        unsynced: AtomicU64,
        syncer: SyncSender<Arc<File>>,
    },
    Sequence(Mutex<Sequence>),
}

/// Starts the thread that syncs files to which much was written.
fn start_syncer() -> SyncSender<Arc<File>> {
    let (wake, woken) = std::sync::mpsc::sync_channel(1);
    // The thread ends with the last sender. The final sync reports errors again, so these are ignored.
    std::thread::spawn(move || woken.iter().for_each(|file: Arc<File>| drop(file.sync_data())));
    wake
}

impl Output {
    /// Prepares a container at `target`, following symbolic links; [`STANDARD_OUTPUT`] means standard output. An
    /// existing file or block device is refused unless `force`; anything else that exists is always refused.
    pub fn new(target: &Path, force: bool) -> Result<Self> {
        let mut output = Output {
            target: target.to_owned(),
            kind: OutputKind::Stream,
            force,
            access: Access::All,
            files: Vec::new(),
            member: None,
            syncer: start_syncer(),
        };
        if target.as_os_str() == STANDARD_OUTPUT {
            return Ok(output);
        }
        if target.file_name().is_none() {
            return Err(at("").file(target).unsupported("not a file name"));
        }
        // /dev/stdout, for example, may lead to a pipe or a terminal.
        if std::fs::metadata(target)
            .is_ok_and(|m| !m.is_file() && !m.is_dir() && !m.file_type().is_block_device())
        {
            return Err(at("").file(target).unsupported(format!(
                "not a regular file or a block device; pass {STANDARD_OUTPUT} to write to standard output"
            )));
        }
        output.target = resolve(target)?;
        output.kind = match std::fs::metadata(&output.target) {
            Ok(meta) if meta.file_type().is_block_device() => OutputKind::Device,
            _ => OutputKind::Files,
        };
        output.check_free(&output.target)?;
        Ok(output)
    }

    /// Returns the kind of output.
    #[must_use]
    pub fn kind(&self) -> OutputKind {
        self.kind
    }

    /// Writes the container into the main file, such as an archive, which must exist: for the container, offset 0 means
    /// byte `base` of it, and `name` is the container's name.
    pub fn embed(&mut self, base: u64, name: &str) {
        self.member = Some((base, name.to_owned()));
    }

    /// Returns the main file as a whole, which it creates at first.
    pub fn around(&mut self) -> Result<&OutputFile> {
        self.member = None;
        if self.files.is_empty() {
            return self.create();
        }
        self.files[0].file.base = 0;
        Ok(&self.files[0].file)
    }

    /// Returns the name of the container's main file, without directories.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.member {
            Some((_, name)) => Some(name),
            None => self.target.file_name()?.to_str(),
        }
    }

    /// Makes new files no more readable than their source, which has this access. (A replaced file keeps its mode.)
    pub fn limit(&mut self, access: Access) {
        self.access = self.access.and(access);
    }

    /// Returns the final name of the container's main file.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Creates the main file.
    pub fn create(&mut self) -> Result<&OutputFile> {
        if let (Some((base, _)), Some(main)) = (&self.member, self.files.first_mut()) {
            main.file.base = *base;
            return Ok(&self.files[0].file);
        }
        let name = self.target.clone();
        self.add(name)
    }

    /// Creates another file, whose final name is `name` in the directory of the main one.
    pub fn create_beside(&mut self, name: &Path) -> Result<&OutputFile> {
        let path = resolve(&self.target.with_file_name(name))?;
        self.check_free(&path)?;
        self.add(path)
    }

    /// Returns the files created so far, in order.
    pub fn files(&self) -> impl Iterator<Item = &OutputFile> {
        self.files.iter().map(|f| &f.file)
    }

    /// Returns the temporary name of the container if it is a single file, for reading it before it gets its final
    /// name. A container of several files refers to them by their final names.
    #[must_use]
    pub fn temporary(&self) -> Option<&Path> {
        match &self.files[..] {
            [only] => only.temporary.as_deref(),
            _ => None,
        }
    }

    fn check_free(&self, path: &Path) -> Result<()> {
        let place = || at("").file(path);
        match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(place().io(e)),
            Ok(meta) if meta.file_type().is_block_device() && self.kind == OutputKind::Device => {
                match self.force {
                    true => Ok(()),
                    false => Err(place().denied("is a block device; pass --force to overwrite it")),
                }
            }
            Ok(meta) if !meta.is_file() => {
                Err(place().unsupported("already exists, and is not a regular file or a block device"))
            }
            Ok(_) if !self.force => Err(place().denied("already exists; pass --force to replace it")),
            Ok(_) => Ok(()),
        }
    }

    fn add(&mut self, path: PathBuf) -> Result<&OutputFile> {
        let sequence = match self.kind {
            OutputKind::Files => return self.add_file(path),
            OutputKind::Device => Sequence::to_device(&path)?,
            OutputKind::Stream => Sequence::to_standard_output(),
        };
        let file = OutputFile { sink: Sink::Sequence(Mutex::new(sequence)), path, base: 0 };
        self.files.push(Pending { file, temporary: None, renamed: false });
        Ok(&self.files.last().expect("just pushed").file)
    }

    fn add_file(&mut self, path: PathBuf) -> Result<&OutputFile> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let io = |e| at("").file(&path).io(e);
        // A replacement gets the old file's mode at the end; until then only its owner may read it.
        let is_replaced = path.exists();
        let mode = if is_replaced || self.access != Access::All { 0o600 } else { 0o666 };
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let mut name = std::ffi::OsString::from(".");
            name.push(path.file_name().expect("checked"));
            // A long name with the suffix would be too long for the filesystem, so it is replaced.
            if name.len() > 200 {
                name = ".mif".into();
            }
            name.push(format!(".{}-{number}.part", std::process::id()));
            let temporary = path.with_file_name(name);
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(mode);
            match options.open(&temporary) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(io(e)),
                Ok(file) => {
                    // The group is known only now.
                    if !is_replaced && self.access != Access::All {
                        self.access.apply(&file).map_err(io)?;
                    }
                    let (file, syncer) = (Arc::new(file), self.syncer.clone());
                    let sink = Sink::File { file, unsynced: AtomicU64::new(0), syncer };
                    let file = OutputFile { sink, path, base: 0 };
                    self.files.push(Pending { file, temporary: Some(temporary), renamed: false });
                    return Ok(&self.files.last().expect("just pushed").file);
                }
            }
        }
    }

    /// Syncs every file and renames it to its final name, the main one last, so that a container with its final name is
    /// complete. A replacement gets the owner and mode of the old file. Returns the number of bytes that the files take
    /// on their filesystem; 0 for devices and streams.
    pub fn commit(mut self) -> Result<u64> {
        let mut allocated = 0;
        for Pending { file, .. } in &self.files {
            match &file.sink {
                Sink::File { file: synced, .. } => {
                    take_over(&file.path, synced).map_err(|e| file.error(e))?;
                    synced.sync_all().map_err(|e| file.error(e))?;
                    allocated += synced.metadata().map_err(|e| file.error(e))?.blocks() * 512;
                }
                Sink::Sequence(sequence) => file.lock(sequence).finish().map_err(|e| file.error(e))?,
            }
        }
        let (force, target) = (self.force, self.target.clone());
        self.files.sort_by_key(|f| f.file.path == target);
        for pending in &mut self.files {
            let Some(temporary) = &pending.temporary else { continue };
            rename(temporary, &pending.file.path, force)?;
            pending.renamed = true;
        }
        // From here on, dropping must not undo anything.
        self.files.clear();
        if self.kind != OutputKind::Files {
            return Ok(allocated);
        }
        let folder = match self.target.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let synced = File::open(folder).and_then(|f| f.sync_all());
        synced.map_err(|e| at("").file(folder).io(e))?;
        Ok(allocated)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        for pending in &self.files {
            let Some(temporary) = &pending.temporary else { continue };
            // Errors cannot be reported here; the names of leftovers show what they are.
            let _ = match pending.renamed {
                false => std::fs::remove_file(temporary),
                true => std::fs::remove_file(&pending.file.path),
            };
        }
    }
}

/// Resolves symbolic links at `target`. A dangling link resolves to the file to be created.
fn resolve(target: &Path) -> Result<PathBuf> {
    /// The kernel's limit.
    const MAX_LINKS: usize = 40;
    let io = |e| at("").file(target).io(e);
    let mut path = target.to_owned();
    for _ in 0..MAX_LINKS {
        match std::fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => {
                let link = std::fs::read_link(&path).map_err(io)?;
                path = path.parent().unwrap_or(Path::new("")).join(link);
            }
            Ok(_) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(path),
            Err(e) => return Err(io(e)),
        }
    }
    Err(io(Errno::LOOP.into()))
}

/// Gives `new` the owner and mode of the existing file at `path`, if any. If the owner or group cannot be set, drops
/// the permissions that would then apply to someone else.
fn take_over(path: &Path, new: &File) -> std::io::Result<()> {
    let old = match std::fs::metadata(path) {
        Ok(old) => old,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let own = new.metadata()?;
    let mut mode = old.mode() & 0o7777;
    if own.gid() != old.gid() && fchown(new, None, Some(old.gid())).is_err() {
        mode &= 0o707;
    }
    if own.uid() != old.uid() && fchown(new, Some(old.uid()), None).is_err() {
        mode &= 0o777;
    }
    new.set_permissions(Permissions::from_mode(mode))
}

fn rename(from: &Path, to: &Path, force: bool) -> Result<()> {
    let place = || at("").file(to);
    if !force {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {
                return Err(
                    place().denied("another process created this file in the meantime; it was not replaced")
                );
            }
            // The filesystem cannot rename without replacing in one step.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !to.exists() => {}
            Err(e) => return Err(place().io(e.into())),
        }
    }
    std::fs::rename(from, to).map_err(|e| place().io(e))
}

impl OutputFile {
    /// Returns the final name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let offset = self.base + offset;
        match &self.sink {
            Sink::File { file, .. } => file.write_all_at(bytes, offset).map_err(|e| self.error(e))?,
            Sink::Sequence(sequence) => {
                self.lock(sequence).write_at(offset, bytes).map_err(|e| self.error(e))?;
            }
        }
        self.wrote(bytes.len() as u64);
        Ok(())
    }

    /// Writes `slices` one after the other at `offset`, with few system calls.
    pub fn write_slices_at(&self, offset: u64, slices: &mut [IoSlice<'_>]) -> Result<()> {
        let mut offset = self.base + offset;
        let file = match &self.sink {
            Sink::File { file, .. } => file,
            Sink::Sequence(_) => {
                for slice in slices {
                    self.write_at(offset - self.base, slice)?;
                    offset += slice.len() as u64;
                }
                return Ok(());
            }
        };
        let mut left = slices;
        while !left.is_empty() {
            let batch = left.len().min(MAX_SLICES);
            match rustix::io::pwritev(&**file, &left[..batch], offset) {
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

    /// Makes the file `len` bytes long; parts that were not written become holes. Fails if a device is smaller.
    pub fn set_len(&self, len: u64) -> Result<()> {
        let len = self.base + len;
        match &self.sink {
            Sink::File { file, .. } => file.set_len(len).map_err(|e| self.error(e)),
            Sink::Sequence(sequence) => self.lock(sequence).set_len(len, &self.path),
        }
    }

    /// Fills `buf` with what was written at `offset`. Only files can be read.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match &self.sink {
            Sink::File { file, .. } => file.read_exact_at(buf, self.base + offset).map_err(|e| self.error(e)),
            Sink::Sequence(_) => Err(self.error(std::io::ErrorKind::NotSeekable.into())),
        }
    }

    /// Returns the number of bytes of the file from offset 0 on. Only files have a length.
    pub fn length(&self) -> Result<u64> {
        match &self.sink {
            Sink::File { file, .. } => {
                let len = file.metadata().map_err(|e| self.error(e))?.len();
                Ok(len.saturating_sub(self.base))
            }
            Sink::Sequence(_) => Err(self.error(std::io::ErrorKind::NotSeekable.into())),
        }
    }

    fn lock<'s>(&self, sequence: &'s Mutex<Sequence>) -> MutexGuard<'s, Sequence> {
        sequence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wrote(&self, bytes: u64) {
        let Sink::File { file, unsynced, syncer } = &self.sink else { return };
        if unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes >= SYNC_EVERY {
            unsynced.store(0, Ordering::Relaxed);
            // If the syncer is still busy, the next call will do.
            let _ = syncer.try_send(file.clone());
        }
    }

    fn error(&self, error: std::io::Error) -> crate::error::Error {
        at("writing").file(&self.path).io(error)
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
