//! The driver of a filesystem: how to recognise, open and plan it, and the capabilities of its files.

use std::sync::Arc;

use super::capabilities::Capabilities;
use super::filesystem::Filesystem;
use super::plan::Planner;
use crate::error::{Error, Result, at};
use crate::source::Source;
use crate::uuid;

/// A filesystem: a family of kinds that are read and planned by the same code.
pub trait Driver: Sync {
    /// Returns the name of the family in messages: `ext2, ext3 or ext4`.
    fn name(&self) -> &'static str;

    /// Returns the kinds of the family, as in [`Info::kind`](super::Info::kind), and further names for requesting a new
    /// volume (`fat`, whose size decides the kind).
    fn kinds(&self) -> &'static [&'static str];

    /// Returns the capabilities of the filesystem.
    fn capabilities(&self) -> &'static Capabilities;

    /// Returns true if a volume that begins with `head` (up to [`recognize::HEAD`](super::recognize::HEAD) bytes)
    /// should be opened by this driver. False if the marks may be left over from before another filesystem.
    fn probe(&self, head: &[u8]) -> bool;

    /// Returns true if `head` can be nothing else.
    fn is_certain(&self, head: &[u8]) -> bool {
        self.probe(head)
    }

    /// Opens a volume.
    fn open(&self, volume: Arc<dyn Source>) -> Result<Box<dyn Filesystem>>;

    /// Returns the parameters of an existing volume, for rebuilding it.
    fn planner(&self, volume: Arc<dyn Source>) -> Result<Box<dyn Planner>> {
        let _ = volume;
        Err(read_only(self.name()))
    }

    /// Returns the parameters of a new volume, as the system's own tools would choose them. `Unsupported` if mif only
    /// reads such volumes.
    fn new_planner(&self, volume: &NewVolume<'_>) -> Result<Box<dyn Planner>> {
        let _ = volume;
        Err(read_only(self.name()))
    }

    /// Returns a label in stored form; `None` if a volume cannot hold it.
    fn label(&self, text: &str) -> Option<Vec<u8>> {
        (text.len() <= self.capabilities().label_max && !text.contains('\0'))
            .then(|| text.as_bytes().to_vec())
    }

    /// Parses an identity, in the form of [`NewVolume::id`]; returns `None` if `text` is not one.
    fn id(&self, text: &str) -> Option<[u8; 16]> {
        uuid::bytes(text)
    }

    /// Formats an identity as `blkid` prints it.
    fn id_text(&self, id: &[u8; 16]) -> String {
        uuid::text(id)
    }
}

/// Returns the error of a driver that only reads.
fn read_only(name: &str) -> Error {
    at(name).unsupported("mif reads such volumes but does not write them")
}

/// A volume to create.
#[derive(Debug, Clone, Copy)]
pub struct NewVolume<'a> {
    /// One of the driver's kinds.
    pub kind: &'a str,
    /// Its size in bytes.
    pub size: u64,
    /// Its identity: a UUID, or the part of it that the filesystem stores.
    pub id: [u8; 16],
    /// The hash seed, which decides the order of names in hashed directories.
    pub hash_seed: [u8; 16],
    /// Its label, as returned by [`Driver::label`]; empty for none.
    pub label: &'a [u8],
    /// The time of its creation, in seconds since 1970.
    pub time: u32,
    /// The minimum number of nodes that it must have room for.
    pub nodes: u64,
    /// Bytes per logical sector of the disk: nothing on the volume is smaller.
    pub sector_size: u32,
    /// Bytes per block, if not the default for its size.
    pub block_size: Option<u32>,
    /// Number of inodes, if not the default for its size.
    pub inodes: Option<u64>,
    /// Features to set and to clear, in the syntax of the filesystem's own tools.
    pub features: &'a str,
}
