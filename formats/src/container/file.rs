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
use crate::source::{Extent, KnownExtents, Source, check_range};

/// A file that holds a disk or a part of it: the open file, and the path by which it was opened, which may lead to
/// another file by now. For a wrapped disk, it is the wrapper.
#[derive(Debug, Clone)]
pub struct DiskFile {
    file: Arc<File>,
    path: PathBuf,
    member: Option<Arc<str>>,
}

impl DiskFile {
    /// Returns the path by which it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the name of the member of the file that holds the disk, if the file is an archive.
    #[must_use]
    pub fn member(&self) -> Option<&str> {
        self.member.as_deref()
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

/// An open file (or block device): length in bytes, positional reads, holes. Or what is in it, if it is a wrapper.
#[derive(Clone)]
pub struct ImageFile {
    file: Arc<File>,
    /// The path by which it was opened.
    outer: PathBuf,
    /// Its name for people: the path, and the member of the archive that it is.
    path: PathBuf,
    len: u64,
    /// The holes that were found so far.
    extents: Arc<KnownExtents>,
    /// Bytes to read instead of the file's own.
    patches: Arc<Patches>,
    /// What is in the wrapper.
    inner: Option<Arc<dyn Source>>,
    /// The member of the archive, and its number there.
    member: Option<(Arc<str>, u64)>,
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
        let (outer, path) = (path.to_owned(), path.to_owned());
        let (extents, patches) = (Arc::default(), Arc::default());
        Ok(ImageFile { file: Arc::new(file), outer, path, len, extents, patches, inner: None, member: None })
    }

    /// Returns what is in this file, a wrapper.
    pub(super) fn unwrapped(&self, source: Arc<dyn Source>) -> Self {
        ImageFile { len: source.len(), inner: Some(source), ..self.clone() }
    }

    /// Returns true if this is what a compressed file decodes to, and no member of an archive.
    pub(super) fn is_unpacked(&self) -> bool {
        self.inner.is_some() && self.member.is_none()
    }

    /// Returns the member of this file, an archive, with its number there.
    pub(super) fn member(&self, name: &str, number: usize, source: Arc<dyn Source>) -> Self {
        let full = match &self.member {
            Some((outer, _)) => format!("{outer}//{name}"),
            None => name.to_owned(),
        };
        let mut path = self.outer.clone().into_os_string();
        path.push("//");
        path.push(&full);
        let number = self.member.as_ref().map_or(0, |(_, number)| *number) << 21 | (number as u64 + 1);
        ImageFile { path: path.into(), member: Some((full.into(), number)), ..self.unwrapped(source) }
    }

    /// Returns the file's path. For a member of an archive, its name follows after `//`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its name without the directory.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Returns the open file for later inspection.
    pub(super) fn opened(&self) -> DiskFile {
        let member = self.member.as_ref().map(|(name, _)| name.clone());
        DiskFile { file: self.file.clone(), path: self.outer.clone(), member }
    }

    /// Returns another handle to the same open file.
    pub(super) fn again(&self) -> Self {
        self.clone()
    }

    /// Returns the same file with `patches` over its bytes, extended to at least `len` bytes.
    pub(super) fn patched(mut self, patches: Patches, len: u64) -> Self {
        self.patches = Arc::new(patches);
        self.len = self.len.max(len);
        self
    }

    /// Returns the file's unique identity: device and inode. Members of an archive have that of the archive.
    pub fn identity(&self) -> Result<(u64, u64)> {
        let meta = self.file.metadata().map_err(|e| at("").file(&self.path).io(e))?;
        Ok((meta.dev(), meta.ino()))
    }

    /// Returns what changes when the open file is written to: its length and its times.
    pub(super) fn stamp(&self) -> Result<(u64, i64, i64, i64, i64)> {
        let meta = self.file.metadata().map_err(|e| at("").file(&self.path).io(e))?;
        Ok((meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()))
    }

    /// Returns the unique identity of the file, or of the member of an archive.
    pub(super) fn own_identity(&self) -> Result<(u64, u64, u64)> {
        let (device, inode) = self.identity()?;
        Ok((device, inode, self.member.as_ref().map_or(0, |(_, number)| *number)))
    }

    /// Fills `buf` from the file or from what is in it, without patches.
    fn read_own(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match &self.inner {
            Some(inner) => inner.read_at(offset, buf).map_err(|e| e.in_file(&self.path)),
            None => {
                let io = |e| at("").file(&self.path).byte(offset).io(e);
                self.file.read_exact_at(buf, offset).map_err(io)
            }
        }
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
        if self.patches.is_empty() {
            return self.read_own(offset, buf);
        }
        // With patches, the image may be longer than the file.
        let len = match &self.inner {
            Some(inner) => inner.len(),
            None => self.file.metadata().map_err(|e| at("").file(&self.path).byte(offset).io(e))?.len(),
        };
        let there = len.saturating_sub(offset).min(buf.len() as u64) as usize;
        self.read_own(offset, &mut buf[..there])?;
        buf[there..].fill(0);
        self.patches.apply(offset, buf);
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range("file", self.len, offset, 1).map_err(|e| e.in_file(&self.path))?;
        let (patched, end) = self.patches.at(offset);
        let len = end.unwrap_or(self.len).min(self.len) - offset;
        match patched {
            Patched::Zeros => return Ok(Extent::zero(offset, len)),
            Patched::Bytes => return Ok(Extent::data(offset, len)),
            Patched::No => {}
        }
        match &self.inner {
            // Patches may extend past the end of what is in the wrapper.
            Some(inner) if offset >= inner.len() => Ok(Extent::zero(offset, len)),
            Some(inner) => {
                let extent = inner.extent_up_to(offset, len).map_err(|e| e.in_file(&self.path))?;
                Ok(Extent { range: offset..extent.range.end.min(offset + len), kind: extent.kind })
            }
            None => Ok(self.extents.at(&self.file, offset, len)),
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
