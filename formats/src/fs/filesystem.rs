//! A filesystem that can be read.

use super::capabilities::Capabilities;
use super::node::Node;
use crate::error::{Error, Result};

/// A filesystem's own handle for a file or directory: the inode number (ext), the byte offset of the short directory entry
/// on the volume (FAT). Meaningless outside its volume.
pub type NodeId = u64;

/// A filesystem that can be read.
///
/// Every method returns an error for what cannot be read, and never panics, loops or allocates by a number
/// that the volume claims. Bulk reading is the main use: callers ask for nodes in ascending [`NodeId`] order
/// where they can, and readers cache accordingly.
pub trait Filesystem: Send + Sync {
    /// The metadata in the superblock.
    fn info(&self) -> &Info;

    /// The capabilities of its filesystem.
    fn capabilities(&self) -> &'static Capabilities;

    /// The root directory.
    fn root(&self) -> NodeId;

    /// The metadata of a file or directory. Calls `complain` for each attribute that cannot be read, and returns the rest.
    fn node(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Node>;

    /// The handle of a listed file, by its metadata; none if the metadata does not tell.
    fn handle(&self, node: &Node) -> Option<NodeId> {
        let _ = node;
        None
    }

    /// The entries of a directory, without `.` and `..`, in the order they are stored. Calls `complain` for each part that
    /// cannot be read, and returns the rest.
    fn read_dir(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Vec<DirEntry>>;

    /// Where the content of a regular file lies (for a directory or a symlink: what holds its data).
    fn content(&self, id: NodeId) -> Result<Content>;
}

/// The metadata of a volume in its superblock.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Info {
    /// `ext2`, `ext3`, `ext4`, `fat12`, `fat16`, `fat32`, `xfs`.
    pub kind: String,
    /// The volume's label, if it has one.
    pub label: Option<String>,
    /// The UUID as `blkid` prints it (FAT: `ABCD-1234`).
    pub uuid: Option<String>,
    /// Block (cluster) size in bytes.
    pub block_size: u32,
    /// The filesystem's size in bytes, which may be less than the volume's.
    pub size: u64,
    /// Free bytes, as the filesystem counts them.
    pub free: Option<u64>,
    /// Feature names, as the filesystem's own tools print them (`dumpe2fs -h`, `xfs_info`).
    pub features: Vec<String>,
    /// Warnings about the volume, as sentences.
    pub warnings: Vec<String>,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, in bytes as stored (FAT: UTF-8, with unpaired surrogates as WTF-8). Never empty, `.`, `..`;
    /// holds no `/` and no NUL.
    pub name: Vec<u8>,
    /// FAT: the 11 bytes of the short name, if there is a long one too.
    pub short_name: Option<[u8; 11]>,
    /// The file or directory.
    pub node: NodeId,
}

/// Where a file's bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Size in bytes.
    pub size: u64,
    /// In file order, gap-free, together `size` bytes.
    pub pieces: Vec<Piece>,
}

/// A part of a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// `len` bytes at byte `offset` of the volume, exactly as they stand there.
    Volume {
        /// Where on the volume, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// `len` zeros that are not on the volume: a hole, or an extent that was never written.
    Zero {
        /// How many bytes.
        len: u64,
    },
    /// Bytes that do not lie on the volume as such: inline data, what a journal's replay would change.
    Bytes(Vec<u8>),
}

impl Piece {
    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Piece::Volume { len, .. } | Piece::Zero { len } => *len,
            Piece::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Returns true if it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
