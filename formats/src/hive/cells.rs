//! Cells: a signed size, negative if the cell is in use, and the data.

use std::cell::Cell;

use super::base;
use crate::bytes::le32;
use crate::error::{At, Result, at};

/// How many entries of lists are read of any hive.
const MIN_BUDGET: u64 = 1 << 20;

/// The cells of a hive, and how often they may still be read.
pub(super) struct Cells<'a> {
    bytes: &'a [u8],
    budget: Cell<u64>,
}

impl<'a> Cells<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cells { bytes, budget: Cell::new(MIN_BUDGET + bytes.len() as u64 / 4) }
    }

    /// Counts an entry of a list that is read. Lists may share cells, so that their sizes do not bound how many entries there are.
    pub(super) fn spend(&self) -> Result<()> {
        let left = self.budget.get().checked_sub(1);
        self.budget.set(left.ok_or_else(|| at("hive").limit("has more entries than its size allows"))?);
        Ok(())
    }

    /// Reads what the entries of a list refer to. Ends with an error when too many entries have been read.
    pub(super) fn read_all<'h, T>(
        &'h self,
        entries: impl Iterator<Item = &'h [u8]>,
        read: fn(&'h Self, u32) -> Result<T>,
    ) -> impl Iterator<Item = Result<T>> {
        let mut ended = false;
        entries.map_while(move |entry| {
            let spent = (!ended).then(|| self.spend())?;
            ended = spent.is_err();
            Some(spent.and_then(|()| read(self, le32(entry, 0))))
        })
    }

    /// Returns the data of the cell at an offset: `len` bytes or more.
    pub(super) fn get(&self, offset: u32, len: usize) -> Result<&'a [u8]> {
        let start = offset as usize;
        let size = self.bytes.get(start..start + 4).filter(|_| start.is_multiple_of(8));
        let size = size.ok_or_else(|| place(offset).corrupt("is not in the hive"))?;
        let size = le32(size, 0).cast_signed();
        if size >= 0 {
            return Err(place(offset).corrupt("is free"));
        }
        let data = self.bytes.get(start + 4..start + size.unsigned_abs() as usize);
        let data =
            data.ok_or_else(|| place(offset).corrupt(format!("has {size} bytes, past the hive's end")))?;
        if data.len() < len {
            let problem = format!("has {} bytes of data, expected {len}", data.len());
            return Err(place(offset).corrupt(problem));
        }
        Ok(data)
    }
}

/// Returns the place of the cell at an offset, for errors.
pub(super) fn place(offset: u32) -> At {
    at("hive cell").byte(u64::from(offset) + base::LEN as u64)
}

/// Converts a name: in one byte a character, or in UTF-16.
pub(super) fn name(bytes: &[u8], one_byte: bool) -> String {
    if one_byte { bytes.iter().copied().map(char::from).collect() } else { utf16(bytes) }
}

/// Converts UTF-16, with replacement characters for unpaired surrogates. An odd byte at the end is ignored.
pub(super) fn utf16(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Returns true if names of keys or values are equal: Windows ignores case.
pub(super) fn same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || (!(a.is_ascii() && b.is_ascii()) && a.to_lowercase() == b.to_lowercase())
}
