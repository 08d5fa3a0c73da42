//! File changes that the log requested and that were not finished: what the kernel would do after replay.

use std::collections::HashMap;

use super::extent::Extent;
use crate::fs::Xattr;

/// The changes, by inode number.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    /// The extents of the data.
    pub(super) extents: HashMap<u64, Vec<Extent>>,
    /// The size in bytes.
    pub(super) sizes: HashMap<u64, u64>,
    /// Attributes that are set or removed, in order.
    pub(super) xattrs: HashMap<u64, Vec<Change>>,
}

/// An attribute's full name and its new value, `None` if it is removed.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

impl Overrides {
    /// Applies the changes to the attributes of an inode, which are sorted.
    pub(super) fn change(&self, ino: u64, xattrs: &mut Vec<Xattr>) {
        for (name, value) in self.xattrs.get(&ino).into_iter().flatten() {
            xattrs.retain(|xattr| xattr.name != *name);
            if let Some(value) = value {
                let at = xattrs.partition_point(|xattr| xattr.name < *name);
                xattrs.insert(at, Xattr { name: name.clone(), value: value.clone() });
            }
        }
    }
}
