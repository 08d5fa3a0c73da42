//! A filesystem that can be read.

use std::ops::{Range, RangeInclusive};

use super::capabilities::Capabilities;
use super::node::{Node, Timestamp};
use crate::codec::{self, Codec};
use crate::error::{At, Error, Result, at};
use crate::source::Source;

/// A filesystem's own handle of a file or directory: the inode number (ext), the byte offset of the short directory entry
/// on the volume (FAT), the subvolume and the inode number (Btrfs), or the number of the MFT record and of the stream
/// (NTFS). Meaningless outside its volume.
pub type NodeId = u64;

/// A filesystem that can be read.
///
/// Every method returns an error for unreadable parts; none panics, loops, or allocates by a number that the volume
/// claims. Bulk reading is the main use: callers ask for nodes in ascending [`NodeId`] order where they can, and
/// readers cache accordingly.
pub trait Filesystem: Send + Sync {
    /// Returns the metadata in the superblock.
    fn info(&self) -> &Info;

    /// Returns the capabilities of the filesystem.
    fn capabilities(&self) -> &'static Capabilities;

    /// Returns the logical sector sizes of disks, in bytes, on which a system uses the volume as it is: the least and the
    /// largest.
    fn sector_sizes(&self) -> RangeInclusive<u32> {
        512..=self.info().block_size
    }

    /// Returns the root directory.
    fn root(&self) -> NodeId;

    /// Returns the metadata of a file or directory. Calls `complain` for each attribute that cannot be read, and
    /// returns the rest.
    fn node(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Node>;

    /// Returns the handle of a listed file, given its metadata; `None` if the metadata does not contain it.
    fn handle(&self, node: &Node) -> Option<NodeId> {
        let _ = node;
        None
    }

    /// Returns the entries of a directory, without `.` and `..`, in the order in which they are stored. Calls
    /// `complain` for each part that cannot be read, and returns the rest.
    fn read_dir(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Vec<DirEntry>>;

    /// Returns the named streams of a file or directory, sorted by name, each with a handle of its own, whose
    /// [`node`](Self::node) is a regular file. Only filesystems with
    /// [`has_streams`](Capabilities::has_streams) have any.
    fn streams(&self, id: NodeId) -> Result<Vec<(Vec<u8>, NodeId)>> {
        let _ = id;
        Ok(Vec::new())
    }

    /// Locates the content of a regular file (for a directory or a symlink: its stored data).
    fn content(&self, id: NodeId) -> Result<Content>;

    /// Returns the fields of the superblock that differ between two volumes that were made alike, besides those in
    /// [`info`](Self::info): times, counters and random numbers.
    fn variable_fields(&self) -> Result<Vec<Field>> {
        Ok(Vec::new())
    }

    /// Returns the parts of a range of bytes of the volume that are free, sorted; `None` if the reader cannot tell.
    fn free_in(&self, range: &Range<u64>) -> Result<Option<Vec<Range<u64>>>> {
        let _ = range;
        Ok(None)
    }
}

/// A field of a superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name in the format's specification.
    pub name: &'static str,
    /// Its value.
    pub value: FieldValue,
}

/// The value of a [`Field`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldValue {
    /// A time.
    Time(Timestamp),
    /// Anything else, as text.
    Text(String),
}

/// The metadata of a volume, from its superblock.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Info {
    /// `ext2`, `ext3`, `ext4`, `fat12`, `fat16`, `fat32`, `xfs`, `btrfs`, `ntfs`.
    pub kind: String,
    /// The volume's label, if it has one.
    pub label: Option<String>,
    /// The UUID as `blkid` prints it (FAT: `ABCD-1234`, NTFS: `0123456789ABCDEF`).
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
    /// Btrfs: the id of the subvolume that is mounted where none is requested, unless it is the top level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_subvolume: Option<u64>,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, in bytes as stored (FAT, NTFS: UTF-8, with unpaired surrogates in WTF-8). Never empty, `.` or `..`; contains
    /// no `/` and no NUL.
    pub name: Vec<u8>,
    /// FAT: the 11 bytes of the short name, if there is a long one too.
    pub short_name: Option<[u8; 11]>,
    /// NTFS: the second name that DOS programs see, if the file has one.
    pub dos_name: Option<Box<str>>,
    /// The file or directory.
    pub node: NodeId,
}

/// The location of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Size in bytes.
    pub size: u64,
    /// The pieces, in file order and without gaps, `size` bytes in total.
    pub pieces: Vec<Piece>,
}

impl Content {
    /// Returns content that has no place on the volume.
    #[must_use]
    pub fn in_memory(bytes: Vec<u8>) -> Self {
        let size = bytes.len() as u64;
        let pieces = if bytes.is_empty() { Vec::new() } else { vec![Piece::Bytes(bytes)] };
        Content { size, pieces }
    }
}

/// A part of a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// `len` bytes at byte `offset` of the volume, unchanged.
    Volume {
        /// The offset on the volume, in bytes.
        offset: u64,
        /// The number of bytes.
        len: u64,
    },
    /// `len` zeros that are not on the volume: a hole, or an extent that was never written.
    Zero {
        /// The number of bytes.
        len: u64,
    },
    /// Bytes that are not on the volume in this form: inline data, or blocks that journal replay changes.
    Bytes(Vec<u8>),
    /// Bytes of a compressed extent.
    Encoded(Box<Encoded>),
}

/// Bytes that a run of the volume decodes to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Encoded {
    /// Where the encoded bytes lie, in their order: ranges of bytes of the volume, of at most
    /// [`codec::MAX`] bytes together.
    pub runs: Vec<Range<u64>>,
    /// How they are encoded.
    pub codec: Codec,
    /// How many bytes they decode to: at most [`codec::MAX`].
    pub decoded: u32,
    /// The first of the decoded bytes that belongs here.
    pub from: u32,
    /// How many bytes belong here; `from + len` is at most `decoded`.
    pub len: u32,
}

impl Encoded {
    /// How many encoded bytes there are.
    #[must_use]
    pub fn encoded_len(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    /// Returns true if both are parts of the same extent.
    #[must_use]
    pub fn is_same_extent(&self, other: &Encoded) -> bool {
        (&self.runs, self.codec, self.decoded) == (&other.runs, other.codec, other.decoded)
    }

    /// Reads the encoded bytes from `source`, which `runs` are offsets in.
    pub fn read(&self, source: &dyn Source) -> Result<Vec<u8>> {
        if self.encoded_len() > u64::from(codec::MAX) {
            return Err(self.place().limit(format!(
                "has {} bytes, over the limit of {}",
                self.encoded_len(),
                codec::MAX
            )));
        }
        let mut bytes = Vec::with_capacity(self.encoded_len() as usize);
        for run in &self.runs {
            bytes.extend(source.read_vec(run.start, (run.end - run.start) as usize)?);
        }
        Ok(bytes)
    }

    /// Decodes the encoded bytes whole: `decoded` bytes.
    pub fn decode(&self, encoded: &[u8]) -> Result<Vec<u8>> {
        self.codec.decode(encoded, self.decoded).map_err(|problem| self.place().corrupt(problem))
    }

    /// Returns the place for errors.
    fn place(&self) -> At {
        at("compressed extent").byte(self.runs.first().map_or(0, |run| run.start))
    }
}

impl Piece {
    /// Returns the length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Piece::Volume { len, .. } | Piece::Zero { len } => *len,
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Encoded(encoded) => u64::from(encoded.len),
        }
    }

    /// Returns true if it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
