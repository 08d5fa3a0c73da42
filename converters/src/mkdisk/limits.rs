//! Limits for trees that `build` reads, whether from a directory, a tar or a description.
//!
//! Paths have the limits of the volume readers ([`MAX_PATH`], [`MAX_ALL_PATHS`]), attributes those of Linux. A few
//! bytes of a tar can expand to much more: a global pax record to an attribute of every member, a deep path to
//! thousands of directories, a hard link to a copy of everything stored for its file. So everything is counted as often
//! as it is stored.

use mif_formats::fs::listing::MAX_PATH;
use mif_formats::fs::walk::MAX_ALL_PATHS;

use super::member::Member;
use super::path::TreePath;

/// The maximum length of an attribute's name and value, in bytes (Linux: `XATTR_NAME_MAX`, `XATTR_SIZE_MAX`).
const MAX_XATTR_NAME: usize = 255;
const MAX_XATTR_VALUE: usize = 64 << 10;
/// The maximum length of all attribute names of a file, each with a zero after it, in bytes (Linux: `XATTR_LIST_MAX`).
const MAX_XATTR_NAMES: usize = 64 << 10;
/// The maximum length of all attribute values of a file, in bytes, as in the ext reader.
const MAX_XATTR_VALUES: usize = 4 << 20;
/// The maximum length of the attributes of all files, in bytes.
const MAX_ALL_XATTRS: usize = 256 << 20;
/// The maximum length, in bytes, of all paths of directories that no member names and that are created for their
/// entries.
const MAX_IMPLIED_PATHS: usize = 32 << 20;

/// The totals so far.
#[derive(Debug, Default)]
pub(super) struct Room {
    paths: usize,
    xattrs: usize,
    implied: usize,
}

impl Room {
    /// Counts a member against the limits. Fails with the limit that it exceeds.
    pub(super) fn take(&mut self, path: &TreePath, member: &Member) -> Result<(), String> {
        let target = member.node.link_target.as_ref().map_or(0, Vec::len);
        if target > MAX_PATH {
            return Err(format!(
                "the target of the symlink has {target} bytes, over the limit of {MAX_PATH}"
            ));
        }
        self.take_path(path, target)?;
        let (mut names, mut values) = (0, 0);
        let xattrs = member.node.xattrs.iter().map(|xattr| (xattr.name.len(), xattr.value.len()));
        let acls = member.acls.iter().map(|(name, text)| (name.len(), text.len()));
        for (name, value) in xattrs.chain(acls) {
            if name > MAX_XATTR_NAME {
                return Err(format!(
                    "the name of an attribute has {name} bytes, over the limit of {MAX_XATTR_NAME}"
                ));
            }
            if value > MAX_XATTR_VALUE {
                return Err(format!("an attribute has {value} bytes, over the limit of {MAX_XATTR_VALUE}"));
            }
            (names, values) = (names + name + 1, values + value);
        }
        if names > MAX_XATTR_NAMES || values > MAX_XATTR_VALUES {
            return Err(format!(
                "the attributes have {names} bytes of names and {values} bytes of values, over the limits of \
                 {MAX_XATTR_NAMES} and {MAX_XATTR_VALUES}"
            ));
        }
        self.xattrs += names + values;
        if self.xattrs > MAX_ALL_XATTRS {
            return Err(format!(
                "the attributes of all members up to this one exceed {MAX_ALL_XATTRS} bytes"
            ));
        }
        Ok(())
    }

    /// Counts a directory that no member names against the limits.
    pub(super) fn take_implied(&mut self, path: &TreePath) -> Result<(), String> {
        self.take_path(path, 0)?;
        self.implied += path.len();
        if self.implied > MAX_IMPLIED_PATHS {
            return Err(format!(
                "the paths of directories that no member names exceed {MAX_IMPLIED_PATHS} bytes up to this one"
            ));
        }
        Ok(())
    }

    fn take_path(&mut self, path: &TreePath, more: usize) -> Result<(), String> {
        if path.len() > MAX_PATH {
            return Err(format!("the path has {} bytes, over the limit of {MAX_PATH}", path.len()));
        }
        self.paths += path.len() + more;
        if self.paths > MAX_ALL_PATHS {
            return Err(format!("the paths of all members up to this one exceed {MAX_ALL_PATHS} bytes"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mif_formats::fs::{FileType, Node, Xattr};

    use super::*;

    fn with(xattrs: &[(usize, usize)]) -> Member {
        let mut node = Node::bare(FileType::File);
        let xattrs =
            xattrs.iter().map(|(name, value)| Xattr { name: vec![b'n'; *name], value: vec![0; *value] });
        node.xattrs = xattrs.collect();
        Member { node, content: None, file: None, acls: Vec::new() }
    }

    fn path(len: usize) -> TreePath {
        TreePath::parse("d/".repeat(len / 2).as_bytes()).unwrap()
    }

    #[test]
    fn paths_and_attributes_are_taken_up_to_the_readers_limits_and_no_further() {
        let take = |len: usize, xattrs: &[(usize, usize)]| Room::default().take(&path(len), &with(xattrs));
        assert_eq!(take(MAX_PATH, &[(255, 64 << 10)]), Ok(()));
        assert!(take(MAX_PATH + 2, &[]).unwrap_err().contains("path has"));
        assert!(take(2, &[(256, 0)]).unwrap_err().contains("name of an attribute has 256"));
        assert!(take(2, &[(8, (64 << 10) + 1)]).unwrap_err().contains("65537"));
        assert_eq!(take(2, &[(8, 64 << 10); 64]), Ok(()));
        assert!(take(2, &[(8, 64 << 10); 65]).is_err());
        assert!(take(2, &[(255, 0); 257]).is_err());
    }

    #[test]
    fn what_is_kept_for_every_member_counts_for_every_member() {
        let (mut room, member) = (Room::default(), with(&[(8, 64 << 10); 64]));
        let taken = (0..1000).take_while(|_| room.take(&path(2), &member).is_ok()).count();
        assert_eq!(taken, 63);
        let mut room = Room::default();
        let taken = (0..1 << 20).take_while(|_| room.take_implied(&path(MAX_PATH)).is_ok()).count();
        assert_eq!(taken, MAX_IMPLIED_PATHS / MAX_PATH);
    }
}
