//! A file that an image was read from, and whether it has changed since.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mif_formats::container::DiskFile;
use serde::{Deserialize, Serialize};

/// A file that an image was read from, with what reveals a change without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its absolute path. If it is an archive, the name of the member that is the disk follows after `//`.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its modification time in seconds since 1970.
    pub mtime: i64,
    /// The nanoseconds of the modification time.
    pub mtime_ns: u32,
    /// Its inode number.
    pub inode: u64,
}

impl SourceFile {
    /// Describes the opened file as it is now, even if its path leads to another file by now.
    pub fn of(file: &DiskFile) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let meta = file.metadata()?;
        let outer = std::path::absolute(file.path())?.to_string_lossy().into_owned();
        Ok(SourceFile {
            path: file.member().map_or(outer.clone(), |member| format!("{outer}//{member}")),
            size: meta.len(),
            mtime: meta.mtime(),
            mtime_ns: meta.mtime_nsec() as u32,
            inode: meta.ino(),
        })
    }

    /// Describes a file that is about to be read. If it was changed just now, waits for the next clock tick of its
    /// filesystem, so that any later change also changes its modification time.
    pub(crate) fn before_reading(opened: &DiskFile) -> io::Result<Self> {
        let mut file = Self::of(opened)?;
        for _ in 0..3 {
            // Filesystems with whole or even seconds have no nanoseconds.
            let tick = Duration::from_millis(if file.mtime_ns == 0 { 2000 } else { 20 });
            let changed = UNIX_EPOCH + Duration::new(u64::try_from(file.mtime).unwrap_or(0), file.mtime_ns);
            // A time in the future comes from another clock and says nothing.
            let age = SystemTime::now().duration_since(changed).unwrap_or(tick);
            if age >= tick {
                return Ok(file);
            }
            std::thread::sleep(tick - age);
            file = Self::of(opened)?;
        }
        // The file changes all the time. No file has inode 0, so this one will never be recognised as unchanged.
        Ok(SourceFile { inode: 0, ..file })
    }
}

#[cfg(test)]
mod tests {
    use mif_formats::container::{self, OpenOptions};

    use super::*;

    #[test]
    fn a_file_that_was_changed_just_now_is_looked_at_after_the_clock_has_ticked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, b"one").unwrap();
        let raw = OpenOptions { format: Some("raw".into()), ..OpenOptions::default() };
        let disk = container::open(&path, &raw).unwrap();
        let file = SourceFile::before_reading(&disk.files[0]).unwrap();
        assert_eq!(file, SourceFile::of(&disk.files[0]).unwrap());
        // A file that takes over its path is not the one that is read.
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        std::fs::write(&path, b"other").unwrap();
        assert_eq!(file, SourceFile::of(&disk.files[0]).unwrap());
        std::fs::write(folder.path().join("moved"), b"two").unwrap();
        assert_ne!(file, SourceFile::of(&disk.files[0]).unwrap());
    }
}
