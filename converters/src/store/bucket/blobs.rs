//! What a store in a bucket needs of an object store: five operations, two of them conditional.

use std::io;
use std::ops::Range;
use std::time::Duration;

use crate::store::Upload;
use crate::store::storage::random;

/// How often a put is tried that is refused although there is no object.
const TRIES: usize = 10;

/// The version of an object, by which a later put can tell that nobody has changed it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tag {
    /// Its entity tag.
    pub etag: Option<String>,
    /// Its version or generation, where the service has them.
    pub version: Option<String>,
}

/// An object, or a part of one.
#[derive(Debug, Clone)]
pub struct Blob {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The version that they are of.
    pub tag: Tag,
}

/// An object's length, version and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Length in bytes.
    pub len: u64,
    /// Version.
    pub tag: Tag,
    /// When it was written, in milliseconds since 1970, by the clock of the object store.
    pub modified: u64,
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Key, from the root of the store.
    pub key: String,
    /// Length in bytes.
    pub len: u64,
    /// When it was written, in milliseconds since 1970, by the clock of the object store.
    pub modified: u64,
}

/// The objects below a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Objects.
    pub objects: Vec<Listed>,
    /// If the list is not deep, the keys of the directories, without a slash at the end.
    pub folders: Vec<String>,
}

/// When a put takes effect.
#[derive(Debug, Clone, Copy)]
pub enum Condition<'a> {
    /// Always.
    Always,
    /// If no object has the key.
    Absent,
    /// If the object still has this version.
    Unchanged(&'a Tag),
}

/// An object store, seen from the root of a store. Reads and lists show every put that has been answered.
pub trait Blobs: Send + Sync {
    /// Returns the location for messages, without credentials.
    fn place(&self) -> String;

    /// Returns a text that no other place has: for caches.
    fn identity(&self) -> String {
        self.place()
    }

    /// Reads an object, or a range of its bytes, which ends where the object ends. Fails if more than `most` bytes
    /// would be read.
    fn get(&self, key: &str, range: Option<Range<u64>>, most: u64) -> io::Result<Blob>;

    /// Reads an object unless it still has the version `known`.
    fn get_unless(&self, key: &str, known: &Tag, most: u64) -> io::Result<Option<Blob>> {
        let blob = self.get(key, None, most)?;
        Ok((blob.tag != *known).then_some(blob))
    }

    /// Describes an object.
    fn head(&self, key: &str) -> io::Result<Head>;

    /// Writes an object, and returns its version, or `None` if the condition does not hold. If the reply to a put was
    /// lost and it was sent again, a condition that held at first may not hold any more: the caller has to look.
    fn put(&self, key: &str, bytes: &[u8], condition: Condition<'_>) -> io::Result<Option<Tag>>;

    /// Lists the objects below a directory: all of them if `deep`, else those directly in it.
    fn list(&self, folder: &str, deep: bool) -> io::Result<Listing>;

    /// Removes an object. Succeeds if there is none.
    fn delete(&self, key: &str) -> io::Result<()>;

    /// Starts an object under a key that nobody else uses.
    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>>;

    /// Waits before something is tried again.
    fn pause(&self) {
        std::thread::sleep(Duration::from_millis(400));
    }

    /// Waits as long as lists may lag.
    fn settle(&self) {
        std::thread::sleep(Duration::from_secs(2));
    }

    /// Returns unpredictable bytes that never repeat.
    fn random(&self) -> io::Result<[u8; 32]> {
        random()
    }
}

/// Writes an object unless the key has one, and returns true if the object there is the caller's. An object with the
/// same bytes counts as the caller's, whose put may have succeeded although its reply was lost.
pub(super) fn put_absent(blobs: &dyn Blobs, key: &str, bytes: &[u8]) -> io::Result<Option<Tag>> {
    for _ in 0..TRIES {
        if let Some(tag) = blobs.put(key, bytes, Condition::Absent)? {
            return Ok(Some(tag));
        }
        match blobs.get(key, None, bytes.len() as u64) {
            Ok(found) => return Ok((found.bytes == bytes).then_some(found.tag)),
            Err(e) if e.kind() == io::ErrorKind::FileTooLarge => return Ok(None),
            // S3 also refuses a put while another one is under way, which may fail.
            Err(e) if e.kind() == io::ErrorKind::NotFound => blobs.pause(),
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other("the object store refuses a conditional put, and has no object"))
}

/// Replaces a version of an object. Returns `None` if it has another version, whose bytes are not these.
pub(super) fn put_unchanged(
    blobs: &dyn Blobs,
    key: &str,
    bytes: &[u8],
    tag: &Tag,
) -> io::Result<Option<Tag>> {
    match blobs.put(key, bytes, Condition::Unchanged(tag))? {
        Some(tag) => Ok(Some(tag)),
        None => match blobs.get(key, None, bytes.len() as u64) {
            Ok(found) => Ok((found.bytes == bytes).then_some(found.tag)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge) => Ok(None),
            Err(e) => Err(e),
        },
    }
}
