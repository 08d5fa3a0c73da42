//! Keys (`nk`), and the lists of their subkeys: `li`, `lf` and `lh`, and `ri`, which is a list of such lists.

use super::NONE;
use super::cells::{Cells, name, place, same_name};
use super::value::Value;
use crate::bytes::{le16, le32};
use crate::error::Result;

/// The size of a key without its name.
const LEN: usize = 76;
/// The flag of a name in one byte a character.
const COMP_NAME: u16 = 0x20;

/// A key.
pub struct Key<'h> {
    cells: &'h Cells<'h>,
    data: &'h [u8],
    offset: u32,
}

/// The entries of a list of subkeys: an offset each, and in some lists a hint at the name.
struct List<'h> {
    entries: &'h [u8],
    width: usize,
}

impl<'h> Key<'h> {
    pub(super) fn read(cells: &'h Cells<'h>, offset: u32) -> Result<Self> {
        let data = cells.get(offset, LEN)?;
        if &data[..2] != b"nk" {
            return Err(place(offset).field("signature").corrupt("is not that of a key"));
        }
        if data.len() < LEN + usize::from(le16(data, 72)) {
            return Err(place(offset).field("name_length").corrupt("is more than the cell has"));
        }
        Ok(Key { cells, data, offset })
    }

    /// Returns the key's name.
    #[must_use]
    pub fn name(&self) -> String {
        let len = usize::from(le16(self.data, 72));
        name(&self.data[LEN..LEN + len], le16(self.data, 2) & COMP_NAME != 0)
    }

    /// Returns the subkeys, in the order of their names.
    pub fn subkeys(&self) -> Result<impl Iterator<Item = Result<Key<'h>>> + use<'h>> {
        let cells = self.cells;
        let lists = if le32(self.data, 20) == 0 { Vec::new() } else { self.lists(le32(self.data, 28))? };
        let entries = lists.into_iter().flat_map(|list| list.entries.chunks_exact(list.width));
        Ok(cells.read_all(entries, Key::read))
    }

    /// Returns the subkey with a name, whatever its case. A damaged subkey is an error if no other has the name.
    pub fn subkey(&self, name: &str) -> Result<Option<Key<'h>>> {
        let mut damaged = None;
        for subkey in self.subkeys()? {
            match subkey {
                Ok(subkey) if same_name(&subkey.name(), name) => return Ok(Some(subkey)),
                Ok(_) => {}
                Err(error) => damaged = damaged.or(Some(error)),
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    /// Returns the values, in the order of the hive.
    pub fn values(&self) -> Result<impl Iterator<Item = Result<Value<'h>>> + use<'h>> {
        let (cells, count) = (self.cells, le32(self.data, 36) as usize);
        let list =
            if count == 0 { &[][..] } else { cells.get(le32(self.data, 40), count.saturating_mul(4))? };
        Ok(cells.read_all(list.chunks_exact(4).take(count), Value::read))
    }

    /// Returns the value with a name, whatever its case; the empty name is that of the default value.
    pub fn value(&self, name: &str) -> Result<Option<Value<'h>>> {
        let mut damaged = None;
        for value in self.values()? {
            match value {
                Ok(value) if same_name(&value.name(), name) => return Ok(Some(value)),
                Ok(_) => {}
                Err(error) => damaged = damaged.or(Some(error)),
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    /// Returns a value as text, or `None` if it does not exist or is of another type.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        self.value(name)?.map_or(Ok(None), |value| value.text())
    }

    /// Returns a value as a number, or `None` if it does not exist or is not a 32-bit number.
    pub fn number(&self, name: &str) -> Result<Option<u32>> {
        self.value(name)?.map_or(Ok(None), |value| value.number())
    }

    /// Returns the lists at an offset: one, or those of an `ri`.
    fn lists(&self, offset: u32) -> Result<Vec<List<'h>>> {
        if offset == NONE {
            return Err(place(self.offset).field("subkeys_list_offset").corrupt("is missing"));
        }
        let data = self.cells.get(offset, 4)?;
        if &data[..2] != b"ri" {
            return Ok(vec![self.list(offset)?]);
        }
        let count = usize::from(le16(data, 2));
        let data = self.cells.get(offset, 4 + 4 * count)?;
        let offsets = data[4..4 + 4 * count].chunks_exact(4);
        offsets
            .map(|entry| {
                self.cells.spend()?;
                self.list(le32(entry, 0))
            })
            .collect()
    }

    fn list(&self, offset: u32) -> Result<List<'h>> {
        let data = self.cells.get(offset, 4)?;
        let width = match &data[..2] {
            b"li" => 4,
            b"lf" | b"lh" => 8,
            _ => return Err(place(offset).field("signature").corrupt("is not that of a list of keys")),
        };
        let end = 4 + width * usize::from(le16(data, 2));
        Ok(List { entries: &self.cells.get(offset, end)?[4..end], width })
    }
}
