//! Decodes pages of optional values of a fixed length, such as digests. The Parquet crate makes a counted reference to the
//! page for each value, which takes most of the time of going through the digests of a large library.
//!
//! Parquet format, Data Pages (version 1): the definition levels, with their length before them, then the values that are
//! not null, in the encoding PLAIN. The levels are in "Run Length Encoding / Bit-Packing Hybrid", one bit each.

use super::varint::Reader;
use crate::bytes::le32;
use crate::error::Result;

/// Appends the `count` values of a page to `values`.
pub(super) fn values<const N: usize>(
    what: &'static str,
    page: &[u8],
    count: usize,
    values: &mut Vec<Option<[u8; N]>>,
) -> Result<()> {
    let mut reader = Reader::new(what, page);
    let len = le32(reader.take("levels", 4)?, 0) as usize;
    let mut levels = Reader::new(what, reader.take("levels", len)?);
    let mut left = count;
    let mut value = |is_there: bool| -> Result<()> {
        let value = is_there.then(|| reader.take("value", N)).transpose()?;
        values.push(value.map(|bytes| bytes.try_into().expect("N bytes")));
        Ok(())
    };
    while left > 0 {
        let head = levels.varint("levels")?;
        let run = usize::try_from(head >> 1).unwrap_or(usize::MAX);
        if head & 1 == 0 {
            let level = levels.take("levels", 1)?[0];
            if run == 0 || level > 1 {
                return Err(levels.corrupt("levels", "has an empty run, or a level over 1"));
            }
            let run = run.min(left);
            (0..run).try_for_each(|_| value(level == 1))?;
            left -= run;
            continue;
        }
        // Eight levels a byte, the first in the lowest bit. The last byte may be padded, but not missing.
        let bytes = levels.take("levels", run.min(left.div_ceil(8)))?;
        if bytes.is_empty() {
            return Err(levels.corrupt("levels", "has an empty run"));
        }
        let run = (bytes.len() * 8).min(left);
        (0..run).try_for_each(|i| value(bytes[i / 8] >> (i % 8) & 1 == 1))?;
        left -= run;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(levels: &[u8], values: &[u8]) -> Vec<u8> {
        [&(levels.len() as u32).to_le_bytes()[..], levels, values].concat()
    }

    fn read(page: &[u8], count: usize) -> Result<Vec<Option<[u8; 2]>>> {
        let mut all = Vec::new();
        values("table", page, count, &mut all).map(|()| all)
    }

    #[test]
    fn runs_and_packed_levels_say_which_values_are_null() {
        // Three values, then two nulls, then a byte of eight levels.
        let page = page(&[3 << 1, 1, 2 << 1, 0, 1 << 1 | 1, 0b0000_0101], b"aabbccddee");
        let expected =
            [Some(*b"aa"), Some(*b"bb"), Some(*b"cc"), None, None, Some(*b"dd"), None, Some(*b"ee")];
        assert_eq!(read(&page, 8).unwrap(), expected);
        assert_eq!(read(&page, 5).unwrap(), expected[..5]);
        assert_eq!(read(&page, 13).unwrap()[8..], [None; 5]);
        assert!(read(&page, 14).is_err());
    }

    #[test]
    fn a_page_that_ends_early_or_claims_too_much_is_refused() {
        let whole = page(&[2 << 1, 1], b"aabb");
        assert_eq!(read(&whole, 2).unwrap().len(), 2);
        for len in 0..whole.len() {
            assert!(read(&whole[..len], 2).is_err(), "{len} bytes");
        }
        assert!(read(&page(&[0, 1], b"aa"), 1).is_err());
        assert!(read(&page(&[1], b"aa"), 1).is_err());
        assert!(read(&page(&[1 << 1, 2], b"aa"), 1).is_err());
        // The largest run, of which only what is asked for counts.
        let endless = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0];
        assert_eq!(read(&page(&endless, b""), 3).unwrap(), [None; 3]);
    }
}
