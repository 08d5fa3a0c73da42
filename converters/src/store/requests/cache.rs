//! A cache on this machine of what a bucket or a registry has and does not change: blocks of packs, indexes, and images' files.
//!
//! ```text
//! <directory>/ab/<digest of place, key and part>
//! u16 le of the length of the entity tag, the tag, the bytes, 32 bytes of the BLAKE3 of all before
//! ```
//!
//! Processes share it: files are written under temporary names and renamed. A file that does not match its digest is
//! deleted and counts as missing, and so does anything that cannot be read: the cache may be deleted at any time. When
//! it has grown beyond its limit, the files that were used longest ago are deleted.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use crate::store::storage::random;

/// The largest file that is kept whole, in bytes.
const MAX_WHOLE: usize = 256 << 20;

/// A cache, or none.
pub(in crate::store) struct Cache {
    /// The directory and its limit in bytes.
    place: Option<(PathBuf, u64)>,
    is_closed: AtomicBool,
    /// Bytes written since the size of the directory was last looked at.
    written: AtomicU64,
}

impl Cache {
    /// Returns a cache that keeps nothing.
    pub(in crate::store) fn none() -> Self {
        Cache { place: None, is_closed: AtomicBool::new(true), written: AtomicU64::new(0) }
    }

    /// Returns the cache in a directory, which need not exist yet.
    #[cfg_attr(not(feature = "remote"), allow(dead_code))]
    pub(in crate::store) fn new(directory: PathBuf, limit: u64) -> Self {
        // The first write looks at the size.
        let written = AtomicU64::new(limit);
        Cache { place: Some((directory, limit)), is_closed: AtomicBool::new(limit == 0), written }
    }

    /// Keeps and returns nothing from now on.
    pub(in crate::store) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// Returns the entity tag of a file's version, and the file.
    pub(in crate::store) fn whole(&self, place: &str, key: &str) -> Option<(String, Vec<u8>)> {
        self.read(&name(place, key, None))
    }

    /// Keeps the version of a file that has this entity tag.
    pub(in crate::store) fn keep_whole(&self, place: &str, key: &str, etag: &str, bytes: &[u8]) {
        if bytes.len() <= MAX_WHOLE {
            self.write(&name(place, key, None), etag, bytes);
        }
    }

    /// Returns a block of a pack.
    pub(in crate::store) fn block(&self, place: &str, key: &str, number: u64) -> Option<Vec<u8>> {
        Some(self.read(&name(place, key, Some(number)))?.1)
    }

    /// Keeps a block of a pack.
    pub(in crate::store) fn keep_block(&self, place: &str, key: &str, number: u64, bytes: &[u8]) {
        self.write(&name(place, key, Some(number)), "", bytes);
    }

    /// Forgets a file.
    pub(in crate::store) fn forget(&self, place: &str, key: &str) {
        if let Some((directory, _)) = &self.place {
            let _was_not_there = fs::remove_file(path(directory, &name(place, key, None)));
        }
    }

    fn read(&self, name: &str) -> Option<(String, Vec<u8>)> {
        let (directory, _) = self.place.as_ref().filter(|_| !self.is_closed.load(Ordering::Relaxed))?;
        let path = path(directory, name);
        let bytes = fs::read(&path).ok()?;
        let decoded = decode(&bytes);
        match decoded {
            // The time of the last use, by which files are deleted.
            Some(_) => drop(File::open(&path).and_then(|file| file.set_modified(SystemTime::now()))),
            None => drop(fs::remove_file(&path)),
        }
        decoded
    }

    /// Keeps bytes. If that fails, they are read again the next time.
    fn write(&self, name: &str, etag: &str, bytes: &[u8]) {
        let Some((directory, limit)) = &self.place else { return };
        if self.is_closed.load(Ordering::Relaxed) || bytes.len() as u64 > *limit / 4 {
            return;
        }
        let added = bytes.len() as u64;
        if self.written.fetch_add(added, Ordering::Relaxed).saturating_add(added) > *limit / 8 {
            self.written.store(0, Ordering::Relaxed);
            shrink(directory, *limit - *limit / 4);
        }
        let _costs_a_request = write(&path(directory, name), etag, bytes);
    }
}

/// Returns the name of a file, or of a block of one.
fn name(place: &str, key: &str, block: Option<u64>) -> String {
    let part = block.map_or_else(String::new, |number| number.to_string());
    blake3::hash(format!("{place}\0{key}\0{part}").as_bytes()).to_hex().to_string()
}

fn path(directory: &Path, name: &str) -> PathBuf {
    directory.join(&name[..2]).join(name)
}

fn decode(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let (body, digest) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(body).as_bytes() != digest {
        return None;
    }
    let (len, rest) = body.split_first_chunk::<2>()?;
    let (etag, bytes) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
    let etag = std::str::from_utf8(etag).ok()?.to_owned();
    Some((etag, bytes.to_vec()))
}

fn write(path: &Path, etag: &str, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    let unfinished = parent.join(format!("{:016x}.new", u64::from_le_bytes(random()?)));
    let written = || {
        let len = u16::try_from(etag.len()).map_err(io::Error::other)?;
        let mut hasher = blake3::Hasher::new();
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        for part in [&len.to_le_bytes()[..], etag.as_bytes(), bytes] {
            hasher.update(part);
            file.write_all(part)?;
        }
        file.write_all(hasher.finalize().as_bytes())?;
        fs::rename(&unfinished, path)
    };
    written().inspect_err(|_| drop(fs::remove_file(&unfinished)))
}

/// Deletes the files that were used longest ago, until the others take at most `most` bytes.
fn shrink(directory: &Path, most: u64) {
    let mut files = Vec::new();
    for folder in fs::read_dir(directory).into_iter().flatten().flatten() {
        for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            if let Ok(meta) = file.metadata()
                && meta.is_file()
            {
                files.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), file.path()));
            }
        }
    }
    files.sort_unstable();
    let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
    for (_, len, path) in files {
        if total <= most {
            break;
        }
        if fs::remove_file(path).is_ok() {
            total -= len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_returned_and_what_is_damaged_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("cache"), 1 << 20);
        cache.keep_whole("s3://b", "index/1.idx", "\"v1\"", b"index");
        cache.keep_block("s3://b", "packs/1", 7, b"block");
        assert_eq!(cache.whole("s3://b", "index/1.idx"), Some(("\"v1\"".to_owned(), b"index".to_vec())));
        assert_eq!(cache.block("s3://b", "packs/1", 7), Some(b"block".to_vec()));
        let other = [cache.block("s3://b", "packs/1", 8), cache.block("s3://c", "packs/1", 7)];
        assert_eq!(other, [None, None]);
        let path = path(&folder.path().join("cache"), &name("s3://b", "packs/1", Some(7)));
        for damage in [&b""[..], b"short", &[7; 100]] {
            fs::write(&path, damage).unwrap();
            assert_eq!(cache.block("s3://b", "packs/1", 7), None);
            assert!(!path.exists());
        }
        cache.forget("s3://b", "index/1.idx");
        assert_eq!(cache.whole("s3://b", "index/1.idx"), None);
    }

    #[test]
    fn the_directory_stays_within_its_limit_and_may_vanish() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned(), 100_000);
        let size = || {
            let folders = fs::read_dir(folder.path()).unwrap().map(|folder| folder.unwrap().path());
            let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap());
            files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
        };
        for number in 0..100 {
            cache.keep_block("s3://b", "packs/1", number, &[7; 5000]);
        }
        assert!(size() <= 100_000 && cache.block("s3://b", "packs/1", 99).is_some(), "{}", size());
        assert!(cache.block("s3://b", "packs/1", 0).is_none());
        fs::remove_dir_all(folder.path()).unwrap();
        assert!(cache.block("s3://b", "packs/1", 99).is_none());
        cache.keep_block("s3://b", "packs/1", 1, b"again");
        assert!(cache.block("s3://b", "packs/1", 1).is_some());
        cache.close();
        assert!(cache.block("s3://b", "packs/1", 1).is_none());
    }
}
