//! Keys, and the small items of trees: directory entries, references, roots.
//!
//! <https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html>. Fields have the names used there.

use crate::bytes::{le16, le32, le64};
use crate::error::{Error, Result, at};

/// Tree ids, and reserved object ids.
pub(super) mod id {
    pub(in crate::fs::btrfs) const ROOT_TREE: u64 = 1;
    pub(in crate::fs::btrfs) const EXTENT_TREE: u64 = 2;
    pub(in crate::fs::btrfs) const CHUNK_TREE: u64 = 3;
    pub(in crate::fs::btrfs) const DEV_TREE: u64 = 4;
    pub(in crate::fs::btrfs) const FS_TREE: u64 = 5;
    pub(in crate::fs::btrfs) const ROOT_TREE_DIR: u64 = 6;
    pub(in crate::fs::btrfs) const TREE_LOG: u64 = -6_i64 as u64;
    /// The object id of all devices in the chunk tree.
    pub(in crate::fs::btrfs) const DEV_ITEMS: u64 = 1;
    /// The first and the last id of subvolumes and of inodes.
    pub(in crate::fs::btrfs) const FIRST_FREE: u64 = 256;
    pub(in crate::fs::btrfs) const LAST_FREE: u64 = -256_i64 as u64;
    /// The inode number that the kernel shows for a subvolume that is not at this location.
    pub(in crate::fs::btrfs) const EMPTY_SUBVOL_DIR: u64 = 2;
}

/// Item types (`type` of a key).
pub(super) mod kind {
    pub(in crate::fs::btrfs) const INODE_ITEM: u8 = 1;
    pub(in crate::fs::btrfs) const INODE_REF: u8 = 12;
    pub(in crate::fs::btrfs) const INODE_EXTREF: u8 = 13;
    pub(in crate::fs::btrfs) const XATTR_ITEM: u8 = 24;
    pub(in crate::fs::btrfs) const DIR_LOG_INDEX: u8 = 72;
    pub(in crate::fs::btrfs) const DIR_ITEM: u8 = 84;
    pub(in crate::fs::btrfs) const DIR_INDEX: u8 = 96;
    pub(in crate::fs::btrfs) const EXTENT_DATA: u8 = 108;
    pub(in crate::fs::btrfs) const ROOT_ITEM: u8 = 132;
    pub(in crate::fs::btrfs) const ROOT_REF: u8 = 156;
    pub(in crate::fs::btrfs) const EXTENT_ITEM: u8 = 168;
    pub(in crate::fs::btrfs) const METADATA_ITEM: u8 = 169;
    pub(in crate::fs::btrfs) const DEV_ITEM: u8 = 216;
    pub(in crate::fs::btrfs) const CHUNK_ITEM: u8 = 228;
    pub(in crate::fs::btrfs) const DEV_REPLACE: u8 = 250;
}

/// A key. The items of a tree are sorted by key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) objectid: u64,
    pub(super) kind: u8,
    pub(super) offset: u64,
}

impl Key {
    /// The size of a stored key in bytes.
    pub(super) const SIZE: usize = 17;
    pub(super) const MIN: Key = Key::new(0, 0, 0);
    pub(super) const MAX: Key = Key::new(u64::MAX, u8::MAX, u64::MAX);

    pub(super) const fn new(objectid: u64, kind: u8, offset: u64) -> Self {
        Key { objectid, kind, offset }
    }

    pub(super) fn parse(bytes: &[u8]) -> Self {
        Key::new(le64(bytes, 0), bytes[8], le64(bytes, 9))
    }

    /// Returns the largest key less than this one.
    pub(super) fn before(self) -> Option<Key> {
        let Key { objectid, kind, offset } = self;
        match (objectid, kind, offset) {
            (0, 0, 0) => None,
            (_, 0, 0) => Some(Key::new(objectid - 1, u8::MAX, u64::MAX)),
            (_, _, 0) => Some(Key::new(objectid, kind - 1, u64::MAX)),
            _ => Some(Key::new(objectid, kind, offset - 1)),
        }
    }

    /// Returns the stored form.
    pub(super) fn bytes(self) -> [u8; Key::SIZE] {
        let mut bytes = [0; Key::SIZE];
        bytes[..8].copy_from_slice(&self.objectid.to_le_bytes());
        bytes[8] = self.kind;
        bytes[9..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({} {} {})", self.objectid, self.kind, self.offset)
    }
}

/// Returns true if the tree with this id holds files: the top-level tree or a subvolume.
pub(super) fn is_fs_tree(tree: u64) -> bool {
    // The upper 16 bits would be the level of a quota group.
    tree == id::FS_TREE || (id::FIRST_FREE..1 << 48).contains(&tree)
}

fn short(key: Key, what: &str) -> Error {
    at(format!("item {key}")).corrupt(format!("is too short for {what}"))
}

/// A directory entry or an extended attribute (`btrfs_dir_item`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirItem<'a> {
    /// The key of the inode, or of the subvolume's root item.
    pub(super) location: Key,
    /// The file type (`BTRFS_FT_…`).
    pub(super) file_type: u8,
    pub(super) name: &'a [u8],
    /// The value of an attribute.
    pub(super) data: &'a [u8],
}

impl<'a> DirItem<'a> {
    const HEAD: usize = 30;

    /// Parses all entries of an item.
    pub(super) fn parse_all(key: Key, mut bytes: &'a [u8]) -> Result<Vec<DirItem<'a>>> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            if bytes.len() < Self::HEAD {
                return Err(short(key, "an entry"));
            }
            let (data_len, name_len) = (usize::from(le16(bytes, 25)), usize::from(le16(bytes, 27)));
            let end = Self::HEAD + name_len + data_len;
            if end > bytes.len() {
                return Err(short(key, &format!("a name of {name_len} and a value of {data_len} bytes")));
            }
            let (name, data) = bytes[Self::HEAD..end].split_at(name_len);
            all.push(DirItem { location: Key::parse(bytes), file_type: bytes[29], name, data });
            bytes = &bytes[end..];
        }
        Ok(all)
    }

    /// Returns the stored form of an entry created in transaction `transid`.
    pub(super) fn bytes(&self, transid: u64) -> Vec<u8> {
        let mut bytes = self.location.bytes().to_vec();
        bytes.extend(transid.to_le_bytes());
        bytes.extend((self.data.len() as u16).to_le_bytes());
        bytes.extend((self.name.len() as u16).to_le_bytes());
        bytes.push(self.file_type);
        bytes.extend(self.name);
        bytes.extend(self.data);
        bytes
    }
}

/// A name of an inode (`btrfs_inode_ref`, `btrfs_inode_extref`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InodeRef<'a> {
    /// The inode number of the directory.
    pub(super) parent: u64,
    /// The position in the directory: the key offset of the `DIR_INDEX`.
    pub(super) index: u64,
    pub(super) name: &'a [u8],
}

impl<'a> InodeRef<'a> {
    /// Parses the names in an item of either type.
    pub(super) fn parse_all(key: Key, mut bytes: &'a [u8]) -> Result<Vec<InodeRef<'a>>> {
        let is_extended = key.kind == kind::INODE_EXTREF;
        let head = if is_extended { 18 } else { 10 };
        let mut all = Vec::new();
        while !bytes.is_empty() {
            if bytes.len() < head {
                return Err(short(key, "a reference"));
            }
            let fields = &bytes[head - 10..];
            let (index, len) = (le64(fields, 0), usize::from(le16(fields, 8)));
            let Some(name) = bytes.get(head..head + len) else {
                return Err(short(key, &format!("a name of {len} bytes")));
            };
            let parent = if is_extended { le64(bytes, 0) } else { key.offset };
            all.push(InodeRef { parent, index, name });
            bytes = &bytes[head + len..];
        }
        Ok(all)
    }

    /// Returns the stored form for an item of this type.
    pub(super) fn bytes(&self, kind: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        if kind == kind::INODE_EXTREF {
            bytes.extend(self.parent.to_le_bytes());
        }
        bytes.extend(self.index.to_le_bytes());
        bytes.extend((self.name.len() as u16).to_le_bytes());
        bytes.extend(self.name);
        bytes
    }
}

/// The root of a tree (`btrfs_root_item`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RootItem {
    pub(super) generation: u64,
    /// The inode number of the root directory.
    pub(super) root_dirid: u64,
    pub(super) bytenr: u64,
    /// 0 for a subvolume that is being deleted.
    pub(super) refs: u32,
    pub(super) level: u8,
}

impl RootItem {
    pub(super) fn parse(key: Key, bytes: &[u8]) -> Result<Self> {
        if bytes.len() < 239 {
            return Err(short(key, "the root of a tree"));
        }
        Ok(RootItem {
            generation: le64(bytes, 160),
            root_dirid: le64(bytes, 168),
            bytenr: le64(bytes, 176),
            refs: le32(bytes, 216),
            level: bytes[238],
        })
    }
}

/// The directory entry of a subvolume (`btrfs_root_ref`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RootRef {
    /// The inode number of the directory that contains the entry.
    pub(super) dirid: u64,
    pub(super) name: Vec<u8>,
}

impl RootRef {
    pub(super) fn parse(key: Key, bytes: &[u8]) -> Result<Self> {
        let name = bytes.get(18..).filter(|name| name.len() >= usize::from(le16(bytes, 16)));
        let name = name.ok_or_else(|| short(key, "a subvolume's name"))?;
        Ok(RootRef { dirid: le64(bytes, 0), name: name[..usize::from(le16(bytes, 16))].to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key::new(257, kind::DIR_ITEM, 9);

    #[test]
    fn keys_are_ordered_by_object_then_type_then_offset() {
        let sorted = [Key::MIN, Key::new(1, 2, 3), Key::new(1, 2, 4), Key::new(1, 3, 0), Key::new(2, 0, 0)];
        assert!(sorted.is_sorted());
        let before = [Key::new(1, 1, u64::MAX), Key::new(0, 255, u64::MAX), Key::new(1, 2, 4)];
        let after = [Key::new(1, 2, 0), Key::new(1, 0, 0), Key::new(1, 2, 5)];
        assert!(after.iter().zip(before).all(|(key, before)| key.before() == Some(before)));
        assert_eq!(Key::MIN.before(), None);
        assert_eq!(
            Key::parse(&Key::new(u64::MAX - 5, 7, 1 << 40).bytes()),
            Key::new(u64::MAX - 5, 7, 1 << 40)
        );
    }

    #[test]
    fn entries_come_back_and_a_cut_is_an_error() {
        let one = DirItem { location: Key::new(300, 1, 0), file_type: 1, name: b"name", data: b"" };
        let two = DirItem { name: b"user.x", data: b"value", ..one };
        let bytes = [one.bytes(7), two.bytes(7)].concat();
        assert_eq!(DirItem::parse_all(KEY, &bytes).unwrap(), [one, two]);
        for len in 1..bytes.len() {
            let is_whole = len == one.bytes(7).len();
            assert_eq!(DirItem::parse_all(KEY, &bytes[..len]).is_ok(), is_whole, "{len}");
        }
    }

    #[test]
    fn references_of_both_kinds_come_back() {
        let one = InodeRef { parent: 9, index: 2, name: b"a" };
        let two = InodeRef { parent: 9, index: 3, name: b"bc" };
        for kind in [kind::INODE_REF, kind::INODE_EXTREF] {
            let key = Key { kind, ..KEY };
            let bytes = [one.bytes(kind), two.bytes(kind)].concat();
            assert_eq!(InodeRef::parse_all(key, &bytes).unwrap(), [one, two]);
            assert!(InodeRef::parse_all(key, &bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn short_items_are_errors() {
        assert!(RootItem::parse(KEY, &[0; 238]).is_err() && RootItem::parse(KEY, &[0; 239]).is_ok());
        assert!(RootRef::parse(KEY, &[0; 17]).is_err() && RootRef::parse(KEY, &[0; 18]).is_ok());
        let mut long = [0; 20];
        long[16] = 3;
        assert!(RootRef::parse(KEY, &long).is_err());
    }

    #[test]
    fn trees_with_files_are_the_top_level_and_subvolumes() {
        let of_files = [5, 256, 1 << 30, (1 << 48) - 1];
        assert!(of_files.into_iter().all(is_fs_tree));
        let others = [0, 1, 4, 6, 255, 1 << 48, id::TREE_LOG, -9_i64 as u64];
        assert!(!others.into_iter().any(is_fs_tree));
    }
}
