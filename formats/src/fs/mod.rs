//! Filesystems on a volume: what is in them, and where on the volume each file's bytes lie.
//!
//! A reader implements [`Filesystem`]; [`open`] finds the right one; [`walk`](walk::walk) lists a whole volume.

use std::sync::Arc;

use crate::error::{ErrorKind, Result};
use crate::source::Source;

pub mod ext4;
pub mod fat;
pub mod plan;
pub mod recognize;
pub mod walk;

/// A filesystem's own handle for a file or folder: the inode number (ext), the byte offset of the short
/// directory entry on the volume (FAT). Meaningless outside its volume.
pub type NodeId = u64;

/// A filesystem that can be read.
///
/// Every method returns an error for what cannot be read, and never panics, loops or allocates by a number
/// that the volume claims. Bulk reading is the main use: callers ask for nodes in ascending [`NodeId`] order
/// where they can, and readers cache accordingly.
pub trait Filesystem: Send + Sync {
    /// What the superblock says.
    fn info(&self) -> &Info;

    /// The root folder.
    fn root(&self) -> NodeId;

    /// The metadata of a file or folder. `complain` is told of attributes that cannot be read while the rest is.
    fn node(&self, id: NodeId, complain: &mut dyn FnMut(crate::error::Error)) -> Result<Node>;

    /// The entries of a folder, without `.` and `..`, in the order they are stored. `complain` is told of
    /// parts that cannot be read while the rest is.
    fn read_dir(&self, id: NodeId, complain: &mut dyn FnMut(crate::error::Error)) -> Result<Vec<DirEntry>>;

    /// Where the content of a regular file lies (for a folder or a symlink: what holds its data).
    fn content(&self, id: NodeId) -> Result<Content>;
}

/// What a superblock says of a volume.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Info {
    /// `ext2`, `ext3`, `ext4`, `fat12`, `fat16`, `fat32`.
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
    /// Feature names, as the filesystem's own tools print them (`dumpe2fs -h`).
    pub features: Vec<String>,
    /// What is odd about the volume, each a sentence.
    pub warnings: Vec<String>,
}

/// The type of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum FileType {
    File,
    Dir,
    Symlink,
    Char,
    Block,
    Fifo,
    Socket,
}

/// A point in time: seconds since 1970, and nanoseconds (below 10⁹) after it. FAT times, which know no zone,
/// are kept as if they were UTC.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// Nanoseconds, below 10⁹.
    pub nanos: u32,
}

/// The metadata of a file or folder. `None` where the filesystem has no such thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its type.
    pub file_type: FileType,
    /// The lower 12 bits of the mode: permissions, setuid, setgid, sticky.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Hard links.
    pub nlink: Option<u32>,
    /// The inode number, where the filesystem has such.
    pub inode: Option<u64>,
    /// Size in bytes.
    pub size: u64,
    /// Time of last change of the content.
    pub mtime: Option<Timestamp>,
    /// Time of last access.
    pub atime: Option<Timestamp>,
    /// Time of last change of the metadata.
    pub ctime: Option<Timestamp>,
    /// Time of creation.
    pub crtime: Option<Timestamp>,
    /// Device number (major, minor) of a device node.
    pub rdev: Option<(u32, u32)>,
    /// ext: inode flags (`i_flags`). FAT: the attribute byte, and the NT case byte shifted left by 8.
    pub flags: u32,
    /// ext: the inode's generation.
    pub generation: Option<u32>,
    /// ext: project id.
    pub project: Option<u32>,
    /// Where a symlink points, as stored.
    pub link_target: Option<Vec<u8>>,
    /// Extended attributes, sorted by full name (`security.capability`), as the kernel's listxattr names them;
    /// values as getxattr gives them (ACLs as `system.posix_acl_access` in the kernel's xattr form).
    pub xattrs: Vec<Xattr>,
}

impl Node {
    /// A node of this type of which nothing else is known.
    #[must_use]
    pub fn bare(file_type: FileType) -> Self {
        Node {
            file_type,
            mode: None,
            uid: None,
            gid: None,
            nlink: None,
            inode: None,
            size: 0,
            mtime: None,
            atime: None,
            ctime: None,
            crtime: None,
            rdev: None,
            flags: 0,
            generation: None,
            project: None,
            link_target: None,
            xattrs: Vec::new(),
        }
    }
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Full name, with its prefix.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, in bytes as stored (FAT: UTF-8, with unpaired surrogates as WTF-8). Never empty, `.`, `..`;
    /// holds no `/` and no NUL.
    pub name: Vec<u8>,
    /// FAT: the 11 bytes of the short name, where a long one is there too.
    pub short_name: Option<[u8; 11]>,
    /// The file or folder.
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

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What was found on a volume.
pub enum Volume {
    /// A filesystem that can be read.
    Known(Box<dyn Filesystem>),
    /// Something recognised by name only (`swap`, `LUKS`, `exfat`), or nothing known; with the reason where
    /// a known filesystem cannot be read.
    Other {
        /// What it is, if recognised.
        name: Option<String>,
        /// Why it is not read, each a sentence.
        warnings: Vec<String>,
    },
}

/// Names of what encloses another volume: under these, an older filesystem's marks may still stand.
const ENCLOSING: [&str; 4] = ["crypto_LUKS", "BitLocker", "linux_raid_member", "LVM2_member"];

/// Looks at a volume and opens the filesystem on it. Unknown or unreadable is not an error: only a failing
/// read is.
pub fn open(volume: Arc<dyn Source>) -> Result<Volume> {
    let head = volume.read_vec(0, volume.len().min(recognize::HEAD as u64) as usize)?;
    let name = recognize::name_of(&head);
    if name.is_none_or(|name| !ENCLOSING.contains(&name)) {
        if ext4::probe(&*volume)? {
            return opened(ext4::Ext4::open(volume), "ext2, ext3 or ext4");
        }
        if fat::probe(&head) {
            return opened(fat::Fat::open(volume), "FAT");
        }
    }
    Ok(Volume::Other { name: name.map(str::to_owned), warnings: Vec::new() })
}

/// The filesystem, or why it cannot be read.
fn opened<F: Filesystem + 'static>(filesystem: Result<F>, name: &str) -> Result<Volume> {
    match filesystem {
        Ok(filesystem) => Ok(Volume::Known(Box::new(filesystem))),
        Err(error) if error.kind() == ErrorKind::Io => Err(error),
        Err(error) => {
            Ok(Volume::Other { name: Some(name.to_owned()), warnings: vec![format!("not read: {error}")] })
        }
    }
}
