//! MFT records: each describes a file by its attributes.

use super::fixup;
use crate::bytes::{le16, le32, le64};
use crate::error::{At, Error, Result, at};

/// Types of attributes.
pub(super) mod kind {
    pub(in super::super) const STANDARD_INFORMATION: u32 = 0x10;
    pub(in super::super) const ATTRIBUTE_LIST: u32 = 0x20;
    pub(in super::super) const FILE_NAME: u32 = 0x30;
    pub(in super::super) const SECURITY_DESCRIPTOR: u32 = 0x50;
    pub(in super::super) const VOLUME_NAME: u32 = 0x60;
    pub(in super::super) const VOLUME_INFORMATION: u32 = 0x70;
    pub(in super::super) const DATA: u32 = 0x80;
    pub(in super::super) const INDEX_ROOT: u32 = 0x90;
    pub(in super::super) const INDEX_ALLOCATION: u32 = 0xA0;
    pub(in super::super) const REPARSE_POINT: u32 = 0xC0;
    pub(in super::super) const EA: u32 = 0xE0;
    pub(in super::super) const END: u32 = 0xFFFF_FFFF;

    /// Returns the name of a type.
    pub(in super::super) fn name(kind: u32) -> String {
        match kind {
            STANDARD_INFORMATION => "$STANDARD_INFORMATION",
            ATTRIBUTE_LIST => "$ATTRIBUTE_LIST",
            FILE_NAME => "$FILE_NAME",
            SECURITY_DESCRIPTOR => "$SECURITY_DESCRIPTOR",
            VOLUME_NAME => "$VOLUME_NAME",
            VOLUME_INFORMATION => "$VOLUME_INFORMATION",
            DATA => "$DATA",
            INDEX_ROOT => "$INDEX_ROOT",
            INDEX_ALLOCATION => "$INDEX_ALLOCATION",
            REPARSE_POINT => "$REPARSE_POINT",
            EA => "$EA",
            other => return format!("attribute {other:#x}"),
        }
        .to_owned()
    }
}

/// Flags of records.
const IN_USE: u16 = 1;
const DIRECTORY: u16 = 2;

/// The bytes of a record's header.
const HEADER: usize = 42;

/// A reference to a record: its number in the lower 48 bits, and how often it was used anew in the upper 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Reference(pub(super) u64);

impl Reference {
    /// Returns the record's number.
    pub(super) fn number(self) -> u64 {
        self.0 & 0xFFFF_FFFF_FFFF
    }

    /// Returns true if it means a record of this sequence number. Zero means any.
    pub(super) fn fits(self, sequence: u16) -> bool {
        let expected = (self.0 >> 48) as u16;
        expected == 0 || expected == sequence
    }
}

/// A record.
pub(super) struct Record {
    pub(super) number: u64,
    /// Where it lies on the volume, in bytes.
    pub(super) offset: u64,
    /// How often the record was used anew.
    pub(super) sequence: u16,
    flags: u16,
    /// The file that it extends; 0 if it is a file's first record.
    pub(super) base: Reference,
    bytes: Vec<u8>,
    attributes: usize,
}

/// An attribute as a record has it: whole, or a part.
pub(super) struct RawAttribute<'a> {
    pub(super) kind: u32,
    /// In UTF-16.
    pub(super) name: Vec<u16>,
    pub(super) flags: u16,
    /// Its number, unique in the record.
    pub(super) id: u16,
    pub(super) form: Form<'a>,
}

/// Where the value of an attribute is.
pub(super) enum Form<'a> {
    /// In the record.
    Resident(&'a [u8]),
    /// In clusters.
    Extents {
        /// The first and the last cluster of this part.
        lowest: u64,
        highest: u64,
        /// The encoded runs.
        pairs: &'a [u8],
        /// Only in the first part.
        sizes: Sizes,
    },
}

/// The sizes of an attribute in clusters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    /// The logarithm of the number of clusters that are compressed together; 0 if none are.
    pub(super) unit: u8,
    /// The size in bytes.
    pub(super) data: u64,
    /// The bytes that were written; those after them are zeros.
    pub(super) initialized: u64,
}

impl Record {
    /// Parses a record. `offset` is where it lies on the volume.
    pub(super) fn parse(number: u64, offset: u64, mut bytes: Vec<u8>) -> Result<Self> {
        let place = || at(format!("MFT record {number}")).byte(offset);
        fixup::apply(b"FILE", &mut bytes).map_err(|problem| place().corrupt(problem))?;
        let attributes = usize::from(le16(&bytes, 20));
        let used = le32(&bytes, 24) as usize;
        if attributes < HEADER || attributes + 4 > used || used > bytes.len() {
            return Err(place()
                .field("bytes_in_use")
                .corrupt(format!("is {used} of {}, with attributes at {attributes}", bytes.len())));
        }
        bytes.truncate(used);
        Ok(Record {
            number,
            offset,
            sequence: le16(&bytes, 16),
            flags: le16(&bytes, 22),
            base: Reference(le64(&bytes, 32)),
            bytes,
            attributes,
        })
    }

    /// Returns the number of its bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns true if the record is in use.
    pub(super) fn is_used(&self) -> bool {
        self.flags & IN_USE != 0
    }

    /// Returns true if it is a directory.
    pub(super) fn is_dir(&self) -> bool {
        self.flags & DIRECTORY != 0
    }

    /// Starts the place of an error.
    pub(super) fn place(&self) -> At {
        at(format!("MFT record {}", self.number)).byte(self.offset)
    }

    /// Calls `found` for each attribute. An attribute that cannot be read is lost; if its length cannot be read either, so
    /// are those after it.
    pub(super) fn attributes<'a>(
        &'a self,
        lost: &mut dyn FnMut(Error),
        found: &mut dyn FnMut(RawAttribute<'a>),
    ) {
        let mut start = self.attributes;
        loop {
            let Some(head) = self.bytes.get(start..start + 4) else {
                return lost(self.place().corrupt("has attributes without an end"));
            };
            let kind = le32(head, 0);
            if kind == kind::END {
                return;
            }
            let len = self.bytes.get(start + 4..start + 8).map_or(0, |len| le32(len, 0) as usize);
            let Some(bytes) =
                self.bytes.get(start..start.saturating_add(len)).filter(|bytes| bytes.len() >= 24)
            else {
                let problem = format!("has {} of {len} bytes at byte {start}", kind::name(kind));
                return lost(self.place().corrupt(problem));
            };
            match RawAttribute::parse(bytes) {
                Ok(attribute) => found(attribute),
                Err(problem) => {
                    let problem = format!("has {} at byte {start}, which {problem}", kind::name(kind));
                    lost(self.place().corrupt(problem));
                }
            }
            start += len;
        }
    }
}

impl<'a> RawAttribute<'a> {
    /// Parses an attribute of at least 24 bytes.
    fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let name_at = usize::from(le16(bytes, 10));
        let name = match usize::from(bytes[9]) {
            0 => Vec::new(),
            len => units(bytes.get(name_at..name_at + 2 * len).ok_or("has a name outside of it")?),
        };
        let form = if bytes[8] == 0 {
            let (len, start) = (le32(bytes, 16) as usize, usize::from(le16(bytes, 20)));
            let value = bytes.get(start..start.saturating_add(len));
            Form::Resident(value.ok_or_else(|| format!("has a value of {len} bytes outside of it"))?)
        } else {
            if bytes.len() < 64 {
                return Err(format!("has {} bytes, too few for sizes", bytes.len()));
            }
            let pairs = bytes.get(usize::from(le16(bytes, 32))..).ok_or("has runs outside of it")?;
            let (data, initialized) = (le64(bytes, 48), le64(bytes, 56));
            let lowest = le64(bytes, 16);
            if lowest == 0 && data > i64::MAX as u64 {
                return Err(format!("has {data} bytes"));
            }
            let sizes = Sizes { unit: bytes[34], data, initialized };
            Form::Extents { lowest, highest: le64(bytes, 24), pairs, sizes }
        };
        Ok(RawAttribute { kind: le32(bytes, 0), name, flags: le16(bytes, 12), id: le16(bytes, 14), form })
    }
}

/// Returns the UTF-16 units in `bytes`.
pub(super) fn units(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|unit| le16(unit, 0)).collect()
}
