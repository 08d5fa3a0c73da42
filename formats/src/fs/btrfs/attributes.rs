//! Extended attributes: `XATTR_ITEM`s, each holding the attributes whose names share a hash.

use super::items::{DirItem, Key};
use crate::error::{Error, Result, at};
use crate::fs::Xattr;

/// The most bytes of names and values kept for one inode.
const BYTES_MAX: usize = 16 << 20;

/// The attributes of an inode read so far.
#[derive(Default)]
pub(super) struct Attributes {
    all: Vec<Xattr>,
    bytes: usize,
}

impl Attributes {
    /// Adds the attributes in an item. Reports them if they are damaged.
    pub(super) fn add(&mut self, key: Key, bytes: &[u8], complain: &mut dyn FnMut(Error)) {
        if let Err(error) = self.try_add(key, bytes) {
            complain(error);
        }
    }

    fn try_add(&mut self, key: Key, bytes: &[u8]) -> Result<()> {
        let place = || at(format!("inode {}, extended attributes", key.objectid));
        self.bytes += bytes.len();
        if self.bytes > BYTES_MAX {
            return Err(place().limit(format!("have over {BYTES_MAX} bytes")));
        }
        for DirItem { name, data, .. } in DirItem::parse_all(key, bytes)? {
            if name.is_empty() || name.len() > 255 || name.contains(&0) {
                let problem = format!("the name \"{}\" is not valid", name.escape_ascii());
                return Err(place().corrupt(problem));
            }
            self.all.push(Xattr { name: name.to_vec(), value: data.to_vec() });
        }
        Ok(())
    }

    /// Returns the attributes sorted by name.
    pub(super) fn sorted(mut self) -> Vec<Xattr> {
        self.all.sort();
        self.all.shrink_to_fit();
        self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::btrfs::items::kind;

    const KEY: Key = Key::new(300, kind::XATTR_ITEM, 7);

    fn item(name: &[u8], value: &[u8]) -> Vec<u8> {
        DirItem { location: Key::MIN, file_type: 8, name, data: value }.bytes(1)
    }

    #[test]
    fn attributes_of_one_hash_share_an_item() {
        let mut attributes = Attributes::default();
        attributes.add(KEY, &[item(b"user.b", b"2"), item(b"user.a", b"")].concat(), &mut |e| panic!("{e}"));
        let sorted = attributes.sorted();
        assert_eq!(sorted[0], Xattr { name: b"user.a".to_vec(), value: Vec::new() });
        assert_eq!(sorted[1], Xattr { name: b"user.b".to_vec(), value: b"2".to_vec() });
    }

    #[test]
    fn damaged_attributes_are_left_out_and_said() {
        let cases = [
            item(b"", b"x"),
            item(b"a\0b", b"x"),
            item(&[b'n'; 256], b""),
            item(b"user.a", b"value")[..33].to_vec(),
        ];
        for bytes in cases {
            let (mut attributes, mut complaints) = (Attributes::default(), 0);
            attributes.add(KEY, &item(b"user.good", b""), &mut |e| panic!("{e}"));
            attributes.add(KEY, &bytes, &mut |_| complaints += 1);
            assert_eq!((attributes.sorted().len(), complaints), (1, 1));
        }
    }
}
