//! rpm's database in Berkeley DB: a hash with a package header under each number (Berkeley DB 4.8 and 5.3; the pages
//! are in `dbinc/db_page.h`). All pages are read in order, which does not need the hash.

use std::cell::Cell;

use crate::error::{Error, Result};

const HASH_MAGIC: u32 = 0x0006_1561;
/// The size of a page's header in bytes.
const PAGE_HEADER: usize = 26;
const HASH_UNSORTED: u8 = 2;
const OVERFLOW: u8 = 7;
const HASH: u8 = 13;
/// The types of items on the page itself and on overflow pages.
const KEY_DATA: u8 = 1;
const OFF_PAGE: u8 = 3;

struct Database<'a> {
    bytes: &'a [u8],
    page_size: usize,
    big_endian: bool,
    /// How many bytes of overflow pages may still be read: no page belongs to two headers.
    left: Cell<usize>,
}

/// Returns the package headers in a database.
pub(super) fn blobs(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let wrong = |problem: String| Error::input(format!("rpm database Packages: {problem}"));
    let magic = |big_endian| {
        Database { bytes, page_size: 0, big_endian, left: Cell::new(0) }.u32(12) == Some(HASH_MAGIC)
    };
    let Some(big_endian) = [false, true].into_iter().find(|big_endian| magic(*big_endian)) else {
        return Err(wrong("not a Berkeley DB hash database".into()));
    };
    let mut database = Database { bytes, page_size: 0, big_endian, left: Cell::new(0) };
    let page_size = database.u32(20).unwrap_or(0) as usize;
    if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
        return Err(wrong(format!("the page size is {page_size}, expected 512 to 65536")));
    }
    database.page_size = page_size;
    let mut blobs = Vec::new();
    database.left.set(bytes.len());
    for number in 1..bytes.len() / page_size {
        let page = database.page(number).expect("it lies within the file");
        if matches!(page[25], HASH | HASH_UNSORTED) {
            database.hash_page(number, &mut blobs);
        }
    }
    Ok(blobs)
}

impl<'a> Database<'a> {
    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn u16(&self, at: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(usize::from(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }))
    }

    fn page(&self, number: usize) -> Option<&'a [u8]> {
        let start = number.checked_mul(self.page_size)?;
        self.bytes.get(start..start.checked_add(self.page_size)?)
    }

    /// Adds the package headers of a hash page. Items alternate between numbers and headers; number 0 is the record
    /// count.
    fn hash_page(&self, number: usize, blobs: &mut Vec<Vec<u8>>) {
        let start = number * self.page_size;
        let items = self.u16(start + 20).unwrap_or(0).min((self.page_size - PAGE_HEADER) / 2);
        let offset = |i: usize| self.u16(start + PAGE_HEADER + 2 * i).filter(|at| *at < self.page_size);
        // An item ends where the previous one begins, because they fill the page from its end.
        let item = |i: usize| -> Option<&'a [u8]> {
            let end = if i == 0 { self.page_size } else { offset(i - 1)? };
            self.page(number)?.get(offset(i)?..end)
        };
        for pair in 0..items / 2 {
            let (Some(key), Some(value)) = (item(2 * pair), item(2 * pair + 1)) else { continue };
            if !matches!(key, [KEY_DATA, key @ ..] if key.iter().any(|b| *b != 0)) {
                continue;
            }
            match value {
                [KEY_DATA, blob @ ..] => blobs.push(blob.to_vec()),
                [OFF_PAGE, ..] if value.len() >= 12 => {
                    let at = start + offset(2 * pair + 1).unwrap_or(0);
                    let (first, len) = (self.u32(at + 4), self.u32(at + 8));
                    blobs.extend(self.overflow(first.unwrap_or(0) as usize, len.unwrap_or(0) as usize));
                }
                _ => {}
            }
        }
    }

    /// Reads a chain of overflow pages: exactly `len` bytes, or `None`.
    fn overflow(&self, mut number: usize, len: usize) -> Option<Vec<u8>> {
        // However the chains run, together they cannot hold more than the file.
        self.left.set(self.left.get().checked_sub(len)?);
        let mut blob = Vec::with_capacity(len);
        while blob.len() < len {
            let page = self.page(number).filter(|page| number > 0 && page[25] == OVERFLOW)?;
            let start = number * self.page_size;
            let here = self.u16(start + 22)?.min(len - blob.len());
            if here == 0 {
                return None;
            }
            blob.extend_from_slice(page.get(PAGE_HEADER..PAGE_HEADER + here)?);
            number = self.u32(start + 16)? as usize;
        }
        Some(blob)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_database_is_refused() {
        assert!(blobs(b"").is_err());
        let mut bytes = vec![0; 4096];
        bytes[12..16].copy_from_slice(&HASH_MAGIC.to_le_bytes());
        assert!(blobs(&bytes).is_err());
        bytes[20..24].copy_from_slice(&512u32.to_le_bytes());
        // Pages of garbage contain nothing, and a circular chain ends.
        for (i, byte) in bytes[512..].iter_mut().enumerate() {
            *byte = [HASH, 0, 7, 3, 26][i % 5];
        }
        for page in 1..8 {
            bytes[page * 512 + 25] = HASH;
        }
        let _ = blobs(&bytes).unwrap();
    }

    #[test]
    fn headers_that_share_overflow_pages_are_no_longer_than_the_file_together() {
        // Page 1 contains items that each refer to the same 26 pages from page 2 on.
        const PAGE: usize = 512;
        let mut bytes = vec![0; 28 * PAGE];
        bytes[12..16].copy_from_slice(&HASH_MAGIC.to_le_bytes());
        bytes[20..24].copy_from_slice(&(PAGE as u32).to_le_bytes());
        let len = 26 * (PAGE - PAGE_HEADER);
        for number in 2..28 {
            let page = &mut bytes[number * PAGE..][..PAGE];
            page[16..20].copy_from_slice(&(number as u32 + 1).to_le_bytes());
            page[22..24].copy_from_slice(&((PAGE - PAGE_HEADER) as u16).to_le_bytes());
            page[25] = OVERFLOW;
        }
        let page = &mut bytes[PAGE..2 * PAGE];
        page[25] = HASH;
        let items = 10;
        page[20..22].copy_from_slice(&(2 * items as u16).to_le_bytes());
        for item in 0..items {
            // The key and value of each pair, from the page's end.
            let (key, value) = (PAGE - item * 17 - 5, PAGE - item * 17 - 17);
            page[PAGE_HEADER + item * 4..][..2].copy_from_slice(&(key as u16).to_le_bytes());
            page[PAGE_HEADER + item * 4 + 2..][..2].copy_from_slice(&(value as u16).to_le_bytes());
            page[key] = KEY_DATA;
            page[key + 1..key + 5].copy_from_slice(&(item as u32 + 1).to_le_bytes());
            page[value] = OFF_PAGE;
            page[value + 4..value + 8].copy_from_slice(&2u32.to_le_bytes());
            page[value + 8..value + 12].copy_from_slice(&(len as u32).to_le_bytes());
        }
        let found = blobs(&bytes).unwrap();
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [len]);
    }
}
