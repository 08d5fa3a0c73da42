//! Extended attributes of OS/2, in which the Windows Subsystem for Linux keeps the metadata of Linux ([MS-FSCC] 2.4.15).
//!
//! `$LXUID`, `$LXGID`, `$LXMOD` and `$LXDEV` are the owner, the group, the mode and the device number. Any other attribute
//! NAME is listed as `user.ea.NAME`; ntfs-3g lists none, and returns all of them together as `system.ntfs_ea`.

use crate::bytes::{le16, le32};
use crate::fs::node::{FileType, Node, Xattr};

/// The largest value of the attribute in bytes.
pub(super) const MAX: usize = 64 << 10;
/// Bytes of an entry before its name.
const HEADER: usize = 8;
/// Precedes the names of attributes without a meaning here.
const PREFIX: &[u8] = b"user.ea.";

/// Adds the extended attributes in `bytes` to `node`. The error is a predicate without a subject; what precedes the damage
/// is added.
pub(super) fn add(bytes: &[u8], node: &mut Node) -> Result<(), String> {
    let mut rest = bytes;
    let added = loop {
        if rest.is_empty() {
            break Ok(());
        }
        if rest.len() < HEADER {
            break Err(format!("ends with {} bytes that are no entry", rest.len()));
        }
        let (next, name_len) = (le32(rest, 0) as usize, usize::from(rest[5]));
        let value_len = usize::from(le16(rest, 6));
        // A NUL follows the name.
        let value = HEADER + name_len + 1;
        let (Some(name), Some(value)) =
            (rest.get(HEADER..HEADER + name_len), rest.get(value..value + value_len))
        else {
            break Err(format!("has an entry at byte {} that is cut off", bytes.len() - rest.len()));
        };
        one(name, value, node);
        if next == 0 {
            break Ok(());
        }
        match rest.get(next..).filter(|_| next >= HEADER) {
            Some(later) => rest = later,
            None => break Err(format!("has an entry {next} bytes after another")),
        }
    };
    node.xattrs.sort();
    node.xattrs.dedup_by(|a, b| a.name == b.name);
    added
}

/// Adds an attribute.
fn one(name: &[u8], value: &[u8], node: &mut Node) {
    let number = (value.len() >= 4).then(|| le32(value, 0));
    match (name, number) {
        (b"$LXUID", Some(uid)) => node.uid = Some(uid),
        (b"$LXGID", Some(gid)) => node.gid = Some(gid),
        // The upper bits are the type, which the reparse point has.
        (b"$LXMOD", Some(mode)) => node.mode = Some((mode & 0xFFF) as u16),
        (b"$LXDEV", Some(major)) if value.len() >= 8 => {
            if matches!(node.file_type, FileType::Char | FileType::Block) {
                node.rdev = Some((major, le32(value, 4)));
            }
        }
        ([], _) => {}
        _ if name.contains(&0) => {}
        _ => node.xattrs.push(Xattr { name: [PREFIX, name].concat(), value: value.to_vec() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, value: &[u8], is_last: bool) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        (bytes[5], bytes[6]) = (name.len() as u8, value.len() as u8);
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes[0] = if is_last { 0 } else { bytes.len() as u8 };
        bytes
    }

    #[test]
    fn attributes_of_linux_are_metadata_and_others_are_listed() {
        let bytes = [
            entry("$LXUID", &1000_u32.to_le_bytes(), false),
            entry("$LXMOD", &0o020_640_u32.to_le_bytes(), false),
            entry("$LXDEV", &[8, 0, 0, 0, 1, 0, 0, 0], false),
            entry("ZED", b"z", false),
            entry("A.B", b"value", true),
        ]
        .concat();
        let mut node = Node::bare(FileType::Char);
        add(&bytes, &mut node).unwrap();
        assert_eq!((node.uid, node.gid, node.mode), (Some(1000), None, Some(0o640)));
        assert_eq!(node.rdev, Some((8, 1)));
        let names: Vec<_> = node.xattrs.iter().map(|x| x.name.as_slice()).collect();
        assert_eq!(names, [&b"user.ea.A.B"[..], b"user.ea.ZED"]);
        assert_eq!(node.xattrs[0].value, b"value");
    }

    #[test]
    fn what_precedes_damage_is_kept() {
        let mut bytes = [entry("A", b"1", false), entry("B", b"2", true)].concat();
        let second = bytes[0] as usize;
        bytes[second + 6] = 0xFF;
        let mut node = Node::bare(FileType::File);
        assert!(add(&bytes, &mut node).unwrap_err().contains("cut off"));
        assert_eq!(node.xattrs.len(), 1);
        bytes[0] = 4;
        assert!(add(&bytes, &mut node).unwrap_err().contains("4 bytes after"));
        assert!(add(&bytes[..5], &mut node).is_err());
    }
}
