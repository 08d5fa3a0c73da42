//! Access control lists, converted from XFS's stored form to the kernel's.

use crate::bytes::{be16, be32};

/// Bytes of a stored entry: tag, id, permissions, padding.
const ENTRY: usize = 12;

/// Returns true if an attribute of this full name is an access control list.
pub(super) fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

/// Returns an access control list as `getxattr` returns it, `None` if it has no entries. The error describes the
/// problem.
pub(super) fn convert(stored: &[u8]) -> Result<Option<Vec<u8>>, String> {
    const XATTR_VERSION: u32 = 2;
    if stored.len() < 4 {
        return Err("the access control list has no count".to_owned());
    }
    let count = be32(stored, 0);
    let entries = &stored[4..];
    if count as usize != entries.len() / ENTRY || !entries.len().is_multiple_of(ENTRY) {
        return Err(format!(
            "the access control list has {count} entries, and {} bytes for them",
            entries.len()
        ));
    }
    if count == 0 {
        return Ok(None);
    }
    let mut list = XATTR_VERSION.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(ENTRY) {
        let (tag, id, permissions) = (be32(entry, 0), be32(entry, 4), be16(entry, 8));
        let id = match tag {
            0x01 | 0x04 | 0x10 | 0x20 => u32::MAX, // owner, owning group, mask, others
            0x02 | 0x08 => id,                     // a user, a group
            _ => return Err(format!("the access control list has an entry with the unknown tag {tag:#x}")),
        };
        list.extend((tag as u16).to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    Ok(Some(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_converted_to_the_kernels_form() {
        let mut stored = vec![0, 0, 0, 2];
        stored.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 6, 0, 0]);
        stored.extend([0, 0, 0, 2, 0, 0, 3, 0xE8, 0, 7, 0, 0]);
        let expected =
            [&[2, 0, 0, 0][..], &[1, 0, 6, 0, 255, 255, 255, 255], &[2, 0, 7, 0, 0xE8, 3, 0, 0]].concat();
        assert_eq!(convert(&stored), Ok(Some(expected)));
        assert_eq!(convert(&[0; 4]), Ok(None));
        assert!(convert(&stored[..27]).unwrap_err().contains("has 2 entries, and 23 bytes for them"));
        assert!(convert(&stored[..16]).is_err() && convert(&[]).is_err());
        stored[7] = 3;
        assert!(convert(&stored).unwrap_err().contains("unknown tag 0x3"));
    }
}
