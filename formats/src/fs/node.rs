//! The metadata of a file.

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

impl FileType {
    /// Returns the file type that the upper four bits of a POSIX mode encode, or `None` if they encode none.
    #[must_use]
    pub fn of_mode(mode: u16) -> Option<Self> {
        Some(match mode >> 12 {
            0x1 => FileType::Fifo,
            0x2 => FileType::Char,
            0x4 => FileType::Dir,
            0x6 => FileType::Block,
            0x8 => FileType::File,
            0xA => FileType::Symlink,
            0xC => FileType::Socket,
            _ => return None,
        })
    }

    /// Returns the number of the type in directory entries of ext (`EXT4_FT_…`) and Btrfs (`BTRFS_FT_…`).
    pub(in crate::fs) fn entry_number(self) -> u8 {
        match self {
            FileType::File => 1,
            FileType::Dir => 2,
            FileType::Char => 3,
            FileType::Block => 4,
            FileType::Fifo => 5,
            FileType::Socket => 6,
            FileType::Symlink => 7,
        }
    }
}

/// A point in time: seconds since 1970, and nanoseconds (below 10⁹). FAT times, which have no time zone, are taken as
/// UTC.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// Nanoseconds, below 10⁹.
    pub nanos: u32,
}

/// A file's identity on its volume: paths with the same id are hard links to one file.
///
/// Ids are dense: a volume with n files has the ids from 0 to n − 1. Listing the volume assigns them. They are
/// unrelated to inode numbers, and may differ after the volume has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

impl FileId {
    /// The largest id in a manifest. Larger ones are for files that an edit adds.
    pub const MAX: FileId = FileId(i32::MAX as u32);

    /// Returns the file's index in a list of all files of its volume.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The metadata of a file or directory. A field is `None` if the filesystem does not store it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The type.
    pub file_type: FileType,
    /// The lower 12 bits of the mode: permissions, setuid, setgid, sticky.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// The number of hard links.
    pub nlink: Option<u32>,
    /// The inode number, if the filesystem has inodes. For information only: [`FileId`] identifies files.
    pub inode: Option<u64>,
    /// Btrfs: the id of the subvolume that the inode number belongs to.
    pub subvolume: Option<u64>,
    /// Size in bytes.
    pub size: u64,
    /// The time of the last change of the content.
    pub mtime: Option<Timestamp>,
    /// The time of the last access.
    pub atime: Option<Timestamp>,
    /// The time of the last change of the metadata.
    pub ctime: Option<Timestamp>,
    /// The time of creation.
    pub crtime: Option<Timestamp>,
    /// Device number (major, minor) of a device node.
    pub rdev: Option<(u32, u32)>,
    /// ext: inode flags (`i_flags`). XFS and Btrfs: the same flags, as `FS_IOC_GETFLAGS` reports them. FAT: the attribute byte,
    /// and the NT case byte shifted left by 8. NTFS: Windows' file attributes, with that of directories.
    pub flags: u32,
    /// ext, XFS, Btrfs: the inode's generation. NTFS: the record's sequence number.
    pub generation: Option<u32>,
    /// ext, XFS: project id.
    pub project: Option<u32>,
    /// The target of a symlink, as stored.
    pub link_target: Option<Vec<u8>>,
    /// Extended attributes, sorted by full name (`security.capability`), named as in the kernel's listxattr, with
    /// values as in getxattr (ACLs as `system.posix_acl_access` in the kernel's xattr form).
    pub xattrs: Vec<Xattr>,
    /// Metadata that only NTFS has.
    pub ntfs: Option<Box<NtfsNode>>,
}

/// Metadata that only files on NTFS have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NtfsNode {
    /// The owner's security identifier as text: `S-1-5-32-544`.
    pub owner_sid: Option<String>,
    /// The group's security identifier.
    pub group_sid: Option<String>,
    /// The reparse point as stored: the tag and everything after it ([MS-FSCC] 2.1.2).
    pub reparse: Option<Vec<u8>>,
}

impl Node {
    /// Creates a node of this type with no other metadata.
    #[must_use]
    pub fn bare(file_type: FileType) -> Self {
        Node {
            file_type,
            mode: None,
            uid: None,
            gid: None,
            nlink: None,
            inode: None,
            subvolume: None,
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
            ntfs: None,
        }
    }
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// The full name, with its prefix.
    pub name: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}
