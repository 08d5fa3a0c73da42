//! Makes an existing raw file or block device equal to a disk by writing only the blocks that differ.
//!
//! The target is changed in place, so it is neither the old disk nor the new one until the end. Doing the same again
//! continues.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::Observer;
use super::pull::{Pull, Window};
use super::sequence::{check_room, open_device};
use crate::error::{Error, Result, at};
use crate::source::{Source, file_extent, is_zero};

/// The unit of comparison, in bytes: the page of the kernel's caches.
const BLOCK: usize = 4096;

/// How many bytes of the target are read at once.
const WINDOW: u64 = 1 << 20;

/// Makes the raw file or block device at `path` equal to `source`, and returns the number of bytes written. A file gets
/// the disk's length; a device must be at least as large, and its rest stays as it is.
pub fn rewrite(source: &dyn Source, path: &Path, observer: &dyn Observer) -> Result<u64> {
    let mut target = Target::open(path, source.len())?;
    let mut position = 0;
    Pull::new(source, observer).run(Ok, |window: Window| {
        target.clear(position..window.start)?;
        target.replace(window.start, &window.bytes)?;
        position = window.start + window.bytes.len() as u64;
        Ok(Some(window.bytes))
    })?;
    target.clear(position..source.len())?;
    target.file.sync_all().map_err(|e| target.error(e))?;
    Ok(target.written)
}

struct Target<'a> {
    file: File,
    path: &'a Path,
    /// What it held, for comparison.
    old: Vec<u8>,
    written: u64,
}

impl<'a> Target<'a> {
    fn open(path: &'a Path, len: u64) -> Result<Self> {
        let place = || at("").file(path);
        let meta = std::fs::metadata(path).map_err(|e| place().io(e))?;
        let is_device = meta.file_type().is_block_device();
        if !is_device && !meta.is_file() {
            return Err(place().unsupported("not a regular file or a block device"));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = if is_device {
            let (device, size) = open_device(path, &mut options)?;
            check_room(path, len, size)?;
            device
        } else {
            let file = options.open(path).map_err(|e| place().io(e))?;
            file.set_len(len).map_err(|e| place().io(e))?;
            file
        };
        Ok(Target { file, path, old: Vec::new(), written: 0 })
    }

    fn error(&self, error: io::Error) -> Error {
        at("").file(self.path).io(error)
    }

    /// Writes the blocks of `new` that the target does not hold at `offset`.
    fn replace(&mut self, offset: u64, new: &[u8]) -> Result<()> {
        self.old.resize(new.len(), 0);
        self.file.read_exact_at(&mut self.old, offset).map_err(|e| self.error(e))?;
        let mut start = 0;
        while start < new.len() {
            let differs = |at: usize| {
                let end = (at + BLOCK).min(new.len());
                new[at..end] != self.old[at..end]
            };
            if !differs(start) {
                start += BLOCK;
                continue;
            }
            let mut end = start + BLOCK;
            while end < new.len() && differs(end) {
                end += BLOCK;
            }
            let end = end.min(new.len());
            let bytes = &new[start..end];
            self.file.write_all_at(bytes, offset + start as u64).map_err(|e| self.error(e))?;
            self.written += bytes.len() as u64;
            start = end;
        }
        Ok(())
    }

    /// Makes a range zero, by a hole if possible. What the filesystem knows to be a hole is not read.
    fn clear(&mut self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let extent = file_extent(&self.file, at, range.end - at);
            if extent.is_zero() {
                at = extent.range.end;
                continue;
            }
            let len = extent.len().min(WINDOW - at % WINDOW);
            self.old.resize(len as usize, 0);
            self.file.read_exact_at(&mut self.old, at).map_err(|e| self.error(e))?;
            if !is_zero(&self.old) {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                if fallocate(&self.file, hole, at, len).is_err() {
                    self.old.fill(0);
                    self.file.write_all_at(&self.old, at).map_err(|e| self.error(e))?;
                }
                self.written += len;
            }
            at += len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemSource;

    #[test]
    fn only_what_differs_is_written_and_the_length_follows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("target");
        let mut disk = vec![0; 5 << 20];
        disk[100..5000].fill(1);
        disk[(3 << 20)..(3 << 20) + 5].fill(2);
        for old in [Vec::new(), vec![9; 6 << 20], vec![0; 5 << 20], disk.clone()] {
            std::fs::write(&path, &old).unwrap();
            let written = rewrite(&MemSource(disk.clone()), &path, &()).unwrap();
            assert!(std::fs::read(&path).unwrap() == disk);
            let expected = match old.len() {
                0 => 3 * 4096,
                len if len > disk.len() => disk.len() as u64,
                _ if old == disk => 0,
                _ => 3 * 4096,
            };
            assert_eq!(written, expected);
        }
        disk[4096] = 7;
        disk.truncate(disk.len() - 100);
        assert_eq!(rewrite(&MemSource(disk.clone()), &path, &()).unwrap(), 4096);
        assert!(std::fs::read(&path).unwrap() == disk);
        let error = rewrite(&MemSource(disk), folder.path(), &()).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
}
