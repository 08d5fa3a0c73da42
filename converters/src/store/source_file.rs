//! A file that an image was read from, and whether it is still the same.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mif_formats::container::DiskFile;
use serde::{Deserialize, Serialize};

/// A file that an image was read from. What tells without reading it whether it has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its absolute path.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last changed: seconds since 1970.
    pub mtime: i64,
    /// The nanoseconds of that.
    pub mtime_ns: u32,
    /// Its inode number.
    pub inode: u64,
}

impl SourceFile {
    /// A file as it is now: the one that was opened, whatever its path leads to by now.
    pub fn of(file: &DiskFile) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let meta = file.metadata()?;
        Ok(SourceFile {
            path: std::path::absolute(file.path())?.to_string_lossy().into_owned(),
            size: meta.len(),
            mtime: meta.mtime(),
            mtime_ns: meta.mtime_nsec() as u32,
            inode: meta.ino(),
        })
    }

    /// A file that is about to be read. Waits, if it was changed just now, until the clock of its filesystem has
    /// ticked: so whoever changes it from now on also changes its time.
    pub(crate) fn before_reading(opened: &DiskFile) -> io::Result<Self> {
        let mut file = Self::of(opened)?;
        for _ in 0..3 {
            // Filesystems that count whole or even seconds have no nanoseconds.
            let tick = Duration::from_millis(if file.mtime_ns == 0 { 2000 } else { 20 });
            let changed = UNIX_EPOCH + Duration::new(u64::try_from(file.mtime).unwrap_or(0), file.mtime_ns);
            // A time in the future is somebody else's clock, and tells nothing.
            let age = SystemTime::now().duration_since(changed).unwrap_or(tick);
            if age >= tick {
                return Ok(file);
            }
            std::thread::sleep(tick - age);
            file = Self::of(opened)?;
        }
        // Somebody is writing to it all the time. No file has this number: it will never be known again.
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
        // Another file that takes its name is not the one that is read.
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        std::fs::write(&path, b"other").unwrap();
        assert_eq!(file, SourceFile::of(&disk.files[0]).unwrap());
        std::fs::write(folder.path().join("moved"), b"two").unwrap();
        assert_ne!(file, SourceFile::of(&disk.files[0]).unwrap());
    }
}
