//! Indexes: sorted entries in a tree of blocks. Directories are indexes of names, and security descriptors are found by one.

use std::collections::HashSet;

use super::attribute::Attribute;
use super::file::File;
use super::fixup;
use super::mapped::Mapped;
use super::record::kind;
use super::volume::Volume;
use crate::bytes::{le16, le32, le64};
use crate::error::{Error, ErrorKind, Result, at};

/// Bytes of `$INDEX_ROOT` and of a block before the header of their entries.
const ROOT_HEADER: usize = 16;
const BLOCK_HEADER: usize = 24;
/// Bytes of an entry before its key.
const ENTRY: usize = 16;
/// The largest block in bytes.
const BLOCK_MAX: u64 = 64 << 10;
/// The largest root in bytes, which is that of a record.
const ROOT_MAX: usize = 64 << 10;
/// Flags of an entry: another block follows before it; it ends its block and has no key.
const HAS_CHILD: u16 = 1;
const IS_LAST: u16 = 2;
/// The unit of the blocks' numbers if clusters are larger than blocks, in bytes.
const SMALL_UNIT: u64 = 512;

/// An entry.
pub(super) struct Entry<'a> {
    /// All its bytes.
    pub(super) bytes: &'a [u8],
    pub(super) key: &'a [u8],
}

/// Takes an entry. Returns false to stop.
pub(super) type Found<'a> = &'a mut dyn FnMut(Entry<'_>) -> bool;

/// Calls `found` for each entry of the index `name` of `file`, in no order. Calls `complain` for each block that cannot be
/// read.
pub(super) fn walk(
    volume: &Volume,
    file: &File,
    name: &str,
    complain: &mut dyn FnMut(Error),
    found: Found<'_>,
) -> Result<()> {
    let place = || at(format!("MFT record {}, index {name}", file.number));
    let Some(root) = file.named(kind::INDEX_ROOT, name) else {
        return Err(place().corrupt("has no $INDEX_ROOT"));
    };
    let root = root.value(volume, ROOT_MAX)?;
    if root.len() < ROOT_HEADER + ENTRY {
        return Err(place().corrupt(format!("has a root of {} bytes", root.len())));
    }
    let block_size = u64::from(le32(&root, 8));
    let mut walk = Walk { volume, file: file.number, todo: Vec::new(), found };
    match walk.entries(&root, ROOT_HEADER) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(problem) => complain(place().corrupt(problem)),
    }
    if walk.todo.is_empty() {
        return Ok(());
    }
    if !(512..=BLOCK_MAX).contains(&block_size) || !block_size.is_power_of_two() {
        return Err(place().corrupt(format!("has blocks of {block_size} bytes")));
    }
    let blocks = match file.named(kind::INDEX_ALLOCATION, name).map(|blocks| (blocks, blocks.mapped(volume)))
    {
        None => return Err(place().corrupt("has no $INDEX_ALLOCATION, but entries that need it")),
        Some((_, mapped)) => mapped?.ok_or_else(|| place().corrupt("has its blocks in the record"))?,
    };
    let unit = if block_size < volume.cluster_size() { SMALL_UNIT } else { volume.cluster_size() };
    walk.blocks(&blocks, block_size as usize, unit, complain)
}

/// The blocks of an index that are yet to be read.
struct Walk<'a, 'f> {
    volume: &'a Volume,
    file: u64,
    /// Numbers of blocks.
    todo: Vec<u64>,
    found: Found<'f>,
}

impl Walk<'_, '_> {
    fn blocks(
        &mut self,
        blocks: &Mapped,
        size: usize,
        unit: u64,
        complain: &mut dyn FnMut(Error),
    ) -> Result<()> {
        // Where the blocks lie on the volume: none is read twice, which bounds the work.
        let mut seen = HashSet::new();
        let mut block = vec![0; size];
        while let Some(vcn) = self.todo.pop() {
            let from = vcn.saturating_mul(unit);
            let offset = blocks.place_of(from);
            let place = || {
                let place = at(format!("MFT record {}, index block {vcn}", self.file));
                offset.map_or(place.clone(), |offset| place.byte(offset))
            };
            let Some(offset) = offset else {
                complain(place().corrupt("lies in no cluster of the index"));
                continue;
            };
            if !seen.insert(offset) {
                complain(place().corrupt("is in the index twice"));
                continue;
            }
            match blocks.read(self.volume, &place, from, &mut block) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                Err(error) => {
                    complain(error);
                    continue;
                }
            }
            let read = fixup::apply(b"INDX", &mut block).and_then(|()| match le64(&block, 16) {
                own if own != vcn => Err(format!("has the number {own}")),
                _ => self.entries(&block, BLOCK_HEADER),
            });
            match read {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(problem) => {
                    let place = at(format!("MFT record {}, index block {vcn}", self.file)).byte(offset);
                    complain(place.corrupt(problem));
                }
            }
        }
        Ok(())
    }

    /// Reads the entries whose header is at byte `header` of a block. Returns false to stop.
    fn entries(&mut self, block: &[u8], header: usize) -> Result<bool, String> {
        let start = header.saturating_add(le32(block, header) as usize);
        let end = header.saturating_add(le32(block, header + 4) as usize);
        let mut rest = block
            .get(start..end)
            .ok_or_else(|| format!("has entries from byte {start} to {end} of {}", block.len()))?;
        loop {
            let len = if rest.len() < ENTRY { 0 } else { usize::from(le16(rest, 8)) };
            let entry = rest.get(..len).filter(|entry| entry.len() >= ENTRY);
            let entry = entry.ok_or_else(|| {
                format!("has an entry of {len} bytes, {} bytes before the end of its entries", rest.len())
            })?;
            rest = &rest[len..];
            let flags = le16(entry, 12);
            if flags & HAS_CHILD != 0 {
                if len < ENTRY + 8 {
                    return Err("has an entry without room for the number of its block".to_owned());
                }
                self.todo.push(le64(entry, len - 8));
            }
            if flags & IS_LAST != 0 {
                return Ok(true);
            }
            let key = entry.get(ENTRY..ENTRY + usize::from(le16(entry, 10)));
            let key = key.ok_or_else(|| format!("has a key longer than its entry of {len} bytes"))?;
            if !(self.found)(Entry { bytes: entry, key }) {
                return Ok(false);
            }
        }
    }
}

/// Returns the blocks of a directory.
pub(super) fn blocks(file: &File) -> Option<&Attribute> {
    file.named(kind::INDEX_ALLOCATION, NAMES)
}

/// The name of the index of a directory.
pub(super) const NAMES: &str = "$I30";
