//! A file with positional reads, whose errors name it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::access::Access;
use super::patches::{Patched, Patches};
use crate::beneath;
use crate::error::{Result, at};
use crate::source::{Extent, Source, check_range};

/// A file that holds a disk or a part of it: the open file, and the path by which it was opened, which may lead to
/// another file by now.
#[derive(Debug, Clone)]
pub struct DiskFile {
    file: Arc<File>,
    path: PathBuf,
}

impl DiskFile {
    /// Returns the path by which it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the current metadata of the open file: its length, times, mode and owner.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Returns who may read the file besides its owner.
    pub fn access(&self) -> io::Result<Access> {
        Ok(Access::of_file(&self.file, &self.metadata()?))
    }
}

/// An open file (or block device): length in bytes, positional reads, holes.
pub struct ImageFile {
    file: Arc<File>,
    path: PathBuf,
    len: u64,
    /// Bytes to read instead of the file's own.
    patches: Arc<Patches>,
}

impl ImageFile {
    /// Opens the file or block device at `path`, which the user names, for reading. Anything else, such as a directory
    /// or a pipe, is refused.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(beneath::open_file_or_device(path), path)
    }

    /// Wraps the result of opening `path`.
    pub fn of(opened: io::Result<File>, path: &Path) -> Result<Self> {
        let place = || at("").file(path);
        let file = opened.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => place().not_found("no such file"),
            io::ErrorKind::IsADirectory => place().corrupt("is a directory, not a disk image"),
            io::ErrorKind::InvalidInput => place().corrupt("not a regular file or a block device"),
            _ => place().io(e),
        })?;
        let len = file.metadata().and_then(|meta| match meta.file_type().is_block_device() {
            true => io::Seek::seek(&mut &file, io::SeekFrom::End(0)),
            false => Ok(meta.len()),
        });
        let len = len.map_err(|e| place().io(e))?;
        Ok(ImageFile { file: Arc::new(file), path: path.to_owned(), len, patches: Arc::default() })
    }

    /// Returns the file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the open file for later inspection.
    pub(super) fn opened(&self) -> DiskFile {
        DiskFile { file: self.file.clone(), path: self.path.clone() }
    }

    /// Returns another handle to the same open file.
    pub(super) fn again(&self) -> Self {
        let ImageFile { file, path, len, patches } = self;
        ImageFile { file: file.clone(), path: path.clone(), len: *len, patches: patches.clone() }
    }

    /// Returns the same file with `patches` over its bytes, extended to at least `len` bytes.
    pub(super) fn patched(mut self, patches: Patches, len: u64) -> Self {
        self.patches = Arc::new(patches);
        self.len = self.len.max(len);
        self
    }

    /// Returns the file's unique identity: device and inode.
    pub fn identity(&self) -> Result<(u64, u64)> {
        let meta = self.file.metadata().map_err(|e| at("").file(&self.path).io(e))?;
        Ok((meta.dev(), meta.ino()))
    }

    /// Fills `buf` from `offset`, with zeros past the end of the file. For blocks that may end after their file does;
    /// the caller has checked that they begin before.
    pub(super) fn read_padded(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let there = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        self.read_at(offset, &mut buf[..there])?;
        buf[there..].fill(0);
        Ok(())
    }

    /// Returns the first `len` bytes at `offset`, fewer at the end of the file.
    pub(super) fn read_up_to(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let there = self.len.saturating_sub(offset).min(len as u64);
        self.read_vec(offset.min(self.len), there as usize)
    }
}

impl Source for ImageFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range("file", self.len, offset, buf.len() as u64).map_err(|e| e.in_file(&self.path))?;
        let io = |e| at("").file(&self.path).byte(offset).io(e);
        if self.patches.is_empty() {
            return self.file.read_exact_at(buf, offset).map_err(io);
        }
        // With patches, the image may be longer than the file.
        let len = self.file.metadata().map_err(io)?.len();
        let there = len.saturating_sub(offset).min(buf.len() as u64) as usize;
        self.file.read_exact_at(&mut buf[..there], offset).map_err(io)?;
        buf[there..].fill(0);
        self.patches.apply(offset, buf);
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        use rustix::fs::{SeekFrom, seek};
        use rustix::io::Errno;
        check_range("file", self.len, offset, 1).map_err(|e| e.in_file(&self.path))?;
        let (patched, end) = self.patches.at(offset);
        let len = end.unwrap_or(self.len).min(self.len) - offset;
        match patched {
            Patched::Zeros => return Ok(Extent::zero(offset, len)),
            Patched::Bytes => return Ok(Extent::data(offset, len)),
            Patched::No => {}
        }
        // All reads are positional, so the seeks disturb nothing.
        let end = |found: u64| found.clamp(offset + 1, offset + len);
        match seek(&*self.file, SeekFrom::Data(offset)) {
            Ok(data) if data > offset => Ok(Extent::zero(offset, end(data) - offset)),
            Ok(_) => {
                let hole = seek(&*self.file, SeekFrom::Hole(offset)).unwrap_or(offset + len);
                Ok(Extent::data(offset, end(hole) - offset))
            }
            // No data up to the end.
            Err(Errno::NXIO) => Ok(Extent::zero(offset, len)),
            // The filesystem or device does not report holes.
            Err(_) => Ok(Extent::data(offset, len)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn holes_are_seen_and_errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = File::create(&path).unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(&[1; 4096], 4 << 20).unwrap();
        let file = ImageFile::open(&path).unwrap();
        assert_eq!(file.extent_at(0).unwrap(), Extent::zero(0, 4 << 20));
        assert!(!file.extent_at(4 << 20).unwrap().is_zero());
        let last = file.extent_at((8 << 20) + 5).unwrap();
        assert_eq!((last.is_zero(), last.range.end), (true, 10 << 20));
        let error = file.read_vec(10 << 20, 1).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }

    #[test]
    fn only_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let missing = ImageFile::open(&dir.path().join("missing"));
        assert_eq!(missing.err().unwrap().kind(), ErrorKind::NotFound);
        assert_eq!(ImageFile::open(dir.path()).err().unwrap().kind(), ErrorKind::Corrupt);
        assert!(ImageFile::open(Path::new("/dev/null")).is_err());
        // Opening a FIFO without a writer would block forever, and a socket cannot be opened.
        let fifo = dir.path().join("fifo");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [fifo, socket] {
            assert_eq!(
                ImageFile::open(&path).err().unwrap().kind(),
                ErrorKind::Corrupt,
                "{}",
                path.display()
            );
        }
    }
}
