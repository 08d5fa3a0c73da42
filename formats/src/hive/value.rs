//! Values (`vk`) and their data: in the value itself, in a cell, or in the segments of a `db`.

use std::borrow::Cow;

use super::cells::{Cells, name, place, utf16};
use crate::bytes::{le16, le32};
use crate::error::Result;

/// The size of a value without its name.
const LEN: usize = 20;
/// The flag of a name in one byte a character.
const COMP_NAME: u16 = 1;
/// The bit of a size that says that the data is in the field of its offset.
const INLINE: u32 = 1 << 31;
/// The longest data in one cell; a segment of a `db` has so many bytes.
const SEGMENT: usize = 16_344;
/// The most bytes of data that are read.
const MAX_DATA: usize = 16 << 20;

/// The types of values that are understood here.
const SZ: u32 = 1;
const EXPAND_SZ: u32 = 2;
const DWORD: u32 = 4;

/// A value.
pub struct Value<'h> {
    cells: &'h Cells<'h>,
    vk: &'h [u8],
    offset: u32,
}

impl<'h> Value<'h> {
    pub(super) fn read(cells: &'h Cells<'h>, offset: u32) -> Result<Self> {
        let vk = cells.get(offset, LEN)?;
        if &vk[..2] != b"vk" {
            return Err(place(offset).field("signature").corrupt("is not that of a value"));
        }
        if vk.len() < LEN + usize::from(le16(vk, 2)) {
            return Err(place(offset).field("name_length").corrupt("is more than the cell has"));
        }
        Ok(Value { cells, vk, offset })
    }

    /// Returns the value's name, which is empty for the default value of a key.
    #[must_use]
    pub fn name(&self) -> String {
        let len = usize::from(le16(self.vk, 2));
        name(&self.vk[LEN..LEN + len], le16(self.vk, 16) & COMP_NAME != 0)
    }

    /// Returns the number of the value's type: 1 for `REG_SZ`, and so on.
    #[must_use]
    pub fn kind(&self) -> u32 {
        le32(self.vk, 12)
    }

    /// Returns the size of the data in bytes.
    #[must_use]
    pub fn size(&self) -> u32 {
        le32(self.vk, 4) & !INLINE
    }

    /// Returns the data.
    ///
    /// # Errors
    /// `Limit` if it has more than 16 MiB.
    pub fn data(&self) -> Result<Cow<'h, [u8]>> {
        let (len, offset) = (self.size() as usize, le32(self.vk, 8));
        let problem = |problem: String| place(self.offset).field("data_size").corrupt(problem);
        if le32(self.vk, 4) & INLINE != 0 {
            let data = self.vk[8..12].get(..len);
            let data =
                data.ok_or_else(|| problem(format!("is {len} for data in the value, expected 0 to 4")))?;
            return Ok(Cow::Borrowed(data));
        }
        if len > MAX_DATA {
            let problem = format!("is {len}, more than {MAX_DATA}");
            return Err(place(self.offset).field("data_size").limit(problem));
        }
        if len == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        let cell = self.cells.get(offset, 0)?;
        // Version 1.3 has no segments, and one cell for data of any length.
        if len > SEGMENT && cell.len() < len && cell.starts_with(b"db") {
            return self.segments(offset, len).map(Cow::Owned);
        }
        let have = cell.len();
        let data =
            cell.get(..len).ok_or_else(|| problem(format!("is {len}, but the cell has {have} bytes")))?;
        Ok(Cow::Borrowed(data))
    }

    /// Returns the text of a `REG_SZ` or `REG_EXPAND_SZ`, up to the first NUL; `None` if the value is neither.
    pub fn text(&self) -> Result<Option<String>> {
        if !matches!(self.kind(), SZ | EXPAND_SZ) {
            return Ok(None);
        }
        let mut text = utf16(&self.data()?);
        text.truncate(text.find('\0').unwrap_or(text.len()));
        Ok(Some(text))
    }

    /// Returns the number of a `REG_DWORD`; `None` if the value is none.
    pub fn number(&self) -> Result<Option<u32>> {
        if self.kind() != DWORD || self.size() != 4 {
            return Ok(None);
        }
        Ok(Some(le32(&self.data()?, 0)))
    }

    /// Reads data in segments, all of which but the last are full.
    fn segments(&self, offset: u32, len: usize) -> Result<Vec<u8>> {
        let list = le32(self.cells.get(offset, 8)?, 4);
        let count = len.div_ceil(SEGMENT);
        let list = self.cells.get(list, 4 * count)?;
        let mut data = Vec::with_capacity(len);
        for entry in list[..4 * count].chunks_exact(4) {
            self.cells.spend()?;
            let wanted = (len - data.len()).min(SEGMENT);
            data.extend(&self.cells.get(le32(entry, 0), wanted)?[..wanted]);
        }
        Ok(data)
    }
}
