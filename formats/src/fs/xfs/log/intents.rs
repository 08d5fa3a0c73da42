//! Intents: operations that the log announces and later transactions carry out. Those not carried out are collected.
//!
//! Only intents that change the visible state of files matter here: block maps, attributes and exchanges.

use std::collections::HashMap;

use crate::bytes::{le32, le64};
use crate::error::{Result, at};
use crate::fs::xfs::attr::Namespace;
use crate::fs::xfs::extent::Extent;

/// The type of an item.
mod kind {
    pub(super) const MAP: u16 = 0x1244;
    pub(super) const MAP_DONE: u16 = 0x1245;
    pub(super) const ATTRIBUTE: u16 = 0x1246;
    pub(super) const ATTRIBUTE_DONE: u16 = 0x1247;
    pub(super) const EXCHANGE: u16 = 0x1248;
    pub(super) const EXCHANGE_DONE: u16 = 0x1249;
}

/// A pending operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fs::xfs) enum Intent {
    /// Maps these blocks into a file.
    Map { ino: u64, extent: Extent },
    /// Removes the blocks of this extent from a file.
    Unmap { ino: u64, extent: Extent },
    /// Sets an attribute, or removes it.
    Attribute { ino: u64, namespace: Namespace, name: Vec<u8>, value: Option<Vec<u8>> },
    /// Exchanges blocks between two files.
    Exchange(Exchange),
    /// An operation that is not carried out here, described in words.
    Other(&'static str),
}

/// An exchange of blocks between two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs::xfs) struct Exchange {
    pub(in crate::fs::xfs) inos: [u64; 2],
    /// The first block in each file.
    pub(in crate::fs::xfs) starts: [u64; 2],
    /// Number of blocks.
    pub(in crate::fs::xfs) count: u64,
    /// The new file sizes, if they change.
    pub(in crate::fs::xfs) sizes: Option<[u64; 2]>,
    /// True if only blocks written in the first file are exchanged.
    pub(in crate::fs::xfs) only_written: bool,
}

/// The intents, in order.
#[derive(Debug, Default)]
pub(in crate::fs::xfs) struct Intents {
    /// Each entry becomes `None` once it is done.
    list: Vec<Option<Intent>>,
    /// The index in the list of the latest intent of each type and id.
    places: HashMap<(u16, u64), usize>,
}

impl Intents {
    /// Adds an item of this type: an intent or its completion.
    pub(super) fn add(&mut self, kind: u16, regions: &[Vec<u8>]) -> Result<()> {
        let format = &regions[0];
        if format.len() < 16 {
            return Err(at("log item").corrupt(format!("an intent has {} bytes", format.len())));
        }
        let id = le64(format, 8);
        let intents = match kind {
            kind::MAP_DONE | kind::ATTRIBUTE_DONE | kind::EXCHANGE_DONE => {
                if let Some(place) = self.places.remove(&(kind - 1, id)) {
                    self.list[place] = None;
                }
                return Ok(());
            }
            kind::MAP => map(format),
            kind::ATTRIBUTE => attribute(format, &regions[1..]),
            kind::EXCHANGE => exchange(format),
            _ => None,
        };
        let Some(intent) = intents else {
            return Err(at("log item").corrupt(format!("an intent of type {kind:#x} makes no sense")));
        };
        if let Some(intent) = intent {
            self.places.insert((kind, id), self.list.len());
            self.list.push(Some(intent));
        }
        Ok(())
    }

    /// Returns the intents that were not done.
    pub(in crate::fs::xfs) fn left(self) -> impl Iterator<Item = Intent> {
        self.list.into_iter().flatten()
    }
}

/// A parsed intent. The inner `None` is one without visible effect, the outer `None` one that is invalid.
type Parsed = Option<Option<Intent>>;

/// Parses `struct xfs_bui_log_format`.
fn map(format: &[u8]) -> Parsed {
    const ATTR_FORK: u32 = 1 << 31;
    const UNWRITTEN: u32 = 1 << 30;
    const REALTIME: u32 = 1 << 29;
    let map = format.get(16..48).filter(|_| le32(format, 4) == 1)?;
    let flags = le32(map, 28);
    let ino = le64(map, 0);
    let extent = Extent {
        logical: le64(map, 16),
        block: le64(map, 8),
        count: u64::from(le32(map, 24)),
        unwritten: flags & UNWRITTEN != 0,
    };
    if extent.count == 0 || extent.logical >= 1 << 54 {
        return None;
    }
    Some(Some(match flags & 0xFF {
        _ if flags & ATTR_FORK != 0 => Intent::Other("a change to where attributes lie"),
        _ if flags & REALTIME != 0 => Intent::Other("a change to a file on the realtime device"),
        1 => Intent::Map { ino, extent },
        2 => Intent::Unmap { ino, extent },
        _ => return None,
    }))
}

/// Parses `struct xfs_attri_log_format`, followed by the name and the value.
fn attribute(format: &[u8], regions: &[Vec<u8>]) -> Parsed {
    const SET: u32 = 1;
    const REMOVE: u32 = 2;
    const REPLACE: u32 = 3;
    const INCOMPLETE: u32 = 0x80;
    if format.len() < 40 {
        return None;
    }
    let (ino, operation) = (le64(format, 16), le32(format, 24) & 0xFF);
    let filter = le32(format, 36) & !INCOMPLETE & 0xFF;
    let Some(namespace) = Namespace::parse(filter as u8) else { return Some(None) };
    if !matches!(operation, SET | REMOVE | REPLACE) {
        // Parent pointers, which are hidden.
        return if operation <= 6 { Some(None) } else { None };
    }
    let name = regions.first()?.get(..le32(format, 28) as usize)?.to_vec();
    let len = le32(format, 32) as usize;
    let value = match operation {
        REMOVE => None,
        _ if len == 0 => Some(Vec::new()),
        _ => Some(regions.get(1)?.get(..len)?.to_vec()),
    };
    (!name.is_empty()).then_some(Some(Intent::Attribute { ino, namespace, name, value }))
}

/// Parses `struct xfs_xmi_log_format`.
fn exchange(format: &[u8]) -> Parsed {
    const ATTR_FORK: u64 = 1;
    const SET_SIZES: u64 = 2;
    const ONLY_WRITTEN: u64 = 4;
    if format.len() < 88 {
        return None;
    }
    let number = |at_byte| le64(format, at_byte);
    let flags = number(64);
    if flags & ATTR_FORK != 0 {
        return Some(Some(Intent::Other("an exchange of attributes")));
    }
    let (starts, count) = ([number(40), number(48)], number(56));
    if count >= 1 << 54 || starts.iter().any(|start| *start >= 1 << 54) {
        return None;
    }
    Some(Some(Intent::Exchange(Exchange {
        inos: [number(16), number(24)],
        starts,
        count,
        sizes: (flags & SET_SIZES != 0).then(|| [number(72), number(80)]),
        only_written: flags & ONLY_WRITTEN != 0,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a map intent for inode 131.
    fn map_format(id: u64, flags: u32) -> Vec<u8> {
        let mut format = vec![0x44, 0x12, 1, 0, 1, 0, 0, 0];
        for number in [id, 131, 500, 7] {
            format.extend(number.to_le_bytes());
        }
        format.extend(9_u32.to_le_bytes());
        format.extend(flags.to_le_bytes());
        format
    }

    #[test]
    fn what_was_done_is_not_left() {
        let mut intents = Intents::default();
        for (id, flags) in [(1, 1), (2, 2), (3, 1 << 30 | 1)] {
            let format = map_format(id, flags);
            intents.add(kind::MAP, &[format]).unwrap();
        }
        let done = [&[0x45, 0x12, 1, 0, 0, 0, 0, 0][..], &1_u64.to_le_bytes()].concat();
        intents.add(kind::MAP_DONE, &[done]).unwrap();
        let extent = Extent { logical: 7, block: 500, count: 9, unwritten: false };
        let expected = [
            Intent::Unmap { ino: 131, extent },
            Intent::Map { ino: 131, extent: Extent { unwritten: true, ..extent } },
        ];
        assert_eq!(intents.left().collect::<Vec<_>>(), expected);
        assert!(Intents::default().add(kind::MAP, &[map_format(1, 3)]).is_err());
        assert!(Intents::default().add(kind::MAP, &[map_format(1, 1)[..40].to_vec()]).is_err());
    }

    #[test]
    fn attributes_are_set_and_removed_and_parent_pointers_hidden() {
        let format = |operation: u32, filter: u32| {
            let mut format = vec![0x46, 0x12, 3, 0, 0, 0, 0, 0];
            format.extend(1_u64.to_le_bytes());
            format.extend(131_u64.to_le_bytes());
            for number in [operation, 3, 2, filter] {
                format.extend(number.to_le_bytes());
            }
            format
        };
        let left = |operation, filter| {
            let mut intents = Intents::default();
            let regions = [format(operation, filter), b"key\0".to_vec(), b"ok\0\0".to_vec()];
            intents.add(kind::ATTRIBUTE, &regions).unwrap();
            intents.left().next()
        };
        let attribute = |namespace, value: Option<&[u8]>| {
            let value = value.map(<[u8]>::to_vec);
            Some(Intent::Attribute { ino: 131, namespace, name: b"key".to_vec(), value })
        };
        assert_eq!(left(1, 0), attribute(Namespace::User, Some(b"ok")));
        assert_eq!(left(3, 0x82), attribute(Namespace::Trusted, Some(b"ok")));
        assert_eq!(left(2, 4), attribute(Namespace::Security, None));
        assert_eq!(left(4, 8), None);
        assert!(Intents::default().add(kind::ATTRIBUTE, &[format(1, 0), b"ke".to_vec()]).is_err());
    }
}
