//! The driver of a filesystem: how to recognise, open and plan it, and the capabilities of its files.

use std::sync::Arc;

use super::capabilities::Capabilities;
use super::filesystem::Filesystem;
use super::plan::Planner;
use crate::error::Result;
use crate::source::Source;

/// A filesystem: one family of kinds that are read and planned by the same code.
pub trait Driver: Sync {
    /// The name of the family in messages: `ext2, ext3 or ext4`.
    fn name(&self) -> &'static str;

    /// The kinds of the family, as [`Info::kind`](super::Info::kind) has them; and further names by which a new volume can be
    /// asked for (`fat`, where its size says which).
    fn kinds(&self) -> &'static [&'static str];

    /// The capabilities of its filesystem.
    fn capabilities(&self) -> &'static Capabilities;

    /// Returns true if a volume that begins with `head` (up to [`recognize::HEAD`](super::recognize::HEAD) bytes) should be
    /// opened as this. False where another filesystem's marks may be older.
    fn probe(&self, head: &[u8]) -> bool;

    /// Returns true if `head` could be nothing else.
    fn is_certain(&self, head: &[u8]) -> bool {
        self.probe(head)
    }

    /// Opens a volume.
    fn open(&self, volume: Arc<dyn Source>) -> Result<Box<dyn Filesystem>>;

    /// The parameters of a volume, to rebuild it.
    fn planner(&self, volume: Arc<dyn Source>) -> Result<Box<dyn Planner>>;

    /// The parameters of a new volume, as the system's own tools would choose them.
    fn new_planner(&self, volume: &NewVolume<'_>) -> Result<Box<dyn Planner>>;

    /// A label as it is stored; none if a volume cannot bear it.
    fn label(&self, text: &str) -> Option<Vec<u8>>;

    /// The identity that `text` names, as [`NewVolume::id`] has it; none if it names none.
    fn id(&self, text: &str) -> Option<[u8; 16]>;

    /// An identity as text, as `blkid` prints it.
    fn id_text(&self, id: &[u8; 16]) -> String;
}

/// A volume to create.
#[derive(Debug, Clone, Copy)]
pub struct NewVolume<'a> {
    /// One of the driver's kinds.
    pub kind: &'a str,
    /// Its size in bytes.
    pub size: u64,
    /// Its identity: a UUID, or as much of it as the filesystem keeps.
    pub id: [u8; 16],
    /// Hash seed, which decides the order of names in hashed directories.
    pub hash_seed: [u8; 16],
    /// Its label, as [`Driver::label`] gives it; empty for none.
    pub label: &'a [u8],
    /// When it is made, in seconds since 1970.
    pub time: u32,
    /// The least number of nodes that it must hold.
    pub nodes: u64,
    /// Bytes in a block, if not the default for its size.
    pub block_size: Option<u32>,
    /// Number of inodes, if not the default for its size.
    pub inodes: Option<u64>,
    /// Features to set and to clear, in the syntax of the filesystem's own tools.
    pub features: &'a str,
}
