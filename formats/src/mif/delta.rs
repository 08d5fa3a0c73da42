//! Decodes pages of texts in the DELTA_BYTE_ARRAY encoding, reusing one buffer. The Parquet crate allocates each text
//! separately, which takes most of the time of a search over millions of paths.
//!
//! Parquet format, Encodings: "Delta Strings", and "Delta Encoding" for the lengths. A page holds the lengths of the
//! prefixes that each text shares with the one before, then the lengths of the suffixes, then the bytes of the
//! suffixes.

use super::varint::Reader;
use crate::error::{Result, at};

/// Calls `each` for each of the `count` texts of a page, in order, and says whether it is the text before. Their total length is limited to `limit` bytes,
/// because a few bytes of a page can expand to a long text again and again.
pub(super) fn each_text(
    what: &'static str,
    page: &[u8],
    count: usize,
    limit: usize,
    mut each: impl FnMut(&[u8], bool),
) -> Result<()> {
    let mut reader = Reader::new(what, page);
    let prefixes = lengths(&mut reader, count)?;
    let suffixes = lengths(&mut reader, count)?;
    let mut text: Vec<u8> = Vec::new();
    let (mut sum, mut is_first) = (0, true);
    for (prefix, suffix) in prefixes.into_iter().zip(suffixes) {
        if prefix > text.len() {
            let problem = format!("shares {prefix} bytes with the previous text, which has {}", text.len());
            return Err(reader.corrupt("text", problem));
        }
        let again = !std::mem::take(&mut is_first) && suffix == 0 && prefix == text.len();
        text.truncate(prefix);
        text.extend_from_slice(reader.take("text", suffix)?);
        sum += text.len();
        if sum > limit {
            return Err(at(what).field("text").limit(format!("the texts have over {limit} bytes")));
        }
        each(&text, again);
    }
    Ok(())
}

/// Reads `count` lengths: bit-packed differences in blocks, whose miniblocks each have one bit width.
fn lengths(reader: &mut Reader<'_>, count: usize) -> Result<Vec<usize>> {
    let block_size = reader.varint("block size")?;
    let miniblocks = reader.varint("miniblocks")?;
    let there = reader.varint("value count")?;
    let mut value = reader.signed("first value")?;
    // The specification's conditions, within this program's limits: writers use 128 values in four miniblocks.
    let in_range = (128..=1 << 16).contains(&block_size) && (1..=512).contains(&miniblocks);
    if !in_range || block_size % (miniblocks * 32) != 0 {
        let problem =
            format!("is {block_size} values in {miniblocks} miniblocks, expected 32 or more in each");
        return Err(reader.corrupt("block size", problem));
    }
    if there != count as u64 {
        return Err(reader.corrupt("value count", format!("is {there}, expected {count}")));
    }
    let per_miniblock = (block_size / miniblocks) as usize;
    let mut lengths = Vec::with_capacity(count);
    if count > 0 {
        lengths.push(length(reader, value)?);
    }
    while lengths.len() < count {
        let least = reader.signed("least difference")?;
        let widths = reader.take("bit widths", miniblocks as usize)?;
        for &width in widths {
            if lengths.len() == count {
                break;
            }
            if width > 32 {
                return Err(reader.corrupt("bit widths", format!("has {width}, expected at most 32")));
            }
            let width = usize::from(width);
            let bits = reader.take("differences", per_miniblock / 8 * width)?;
            for i in 0..per_miniblock.min(count - lengths.len()) {
                value = value.wrapping_add(least).wrapping_add(unpack(bits, i, width) as i64);
                lengths.push(length(reader, value)?);
            }
        }
    }
    Ok(lengths)
}

fn length(reader: &Reader<'_>, value: i64) -> Result<usize> {
    let length = i32::try_from(value).ok().and_then(|value| usize::try_from(value).ok());
    length.ok_or_else(|| reader.corrupt("length", format!("is {value}, expected 0 to {}", i32::MAX)))
}

/// Returns number `i` of a little-endian array of `width`-bit numbers, `width` at most 32.
fn unpack(bits: &[u8], i: usize, width: usize) -> u64 {
    let (byte, shift) = (i * width / 8, i * width % 8);
    let word = match bits.get(byte..byte + 8) {
        Some(word) => u64::from_le_bytes(word.try_into().expect("eight bytes")),
        None => bits.get(byte..).unwrap_or(&[]).iter().rev().fold(0, |word, b| word << 8 | u64::from(*b)),
    };
    (word >> shift) & ((1 << width) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mif::varint::{put, put_signed};

    fn texts(page: &[u8], count: usize, limit: usize) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        each_text("manifest", page, count, limit, |text, _| all.push(text.to_vec())).map(|()| all)
    }

    /// Encodes lengths in blocks of 128 in 4 miniblocks, each difference in 32 bits.
    fn packed(lengths: &[i64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [128, 4, lengths.len() as u64] {
            put(&mut bytes, number);
        }
        put_signed(&mut bytes, lengths[0]);
        let differences: Vec<i64> = lengths.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for block in differences.chunks(128) {
            let least = *block.iter().min().unwrap();
            put_signed(&mut bytes, least);
            bytes.extend([32; 4]);
            for miniblock in block.chunks(32) {
                let mut bits: Vec<u8> =
                    miniblock.iter().flat_map(|n| ((n - least) as u32).to_le_bytes()).collect();
                bits.resize(32 * 4, 0);
                bytes.extend(bits);
            }
        }
        bytes
    }

    /// Returns a page with `/etc`, `/etc/a` and `/usr`, worked out by hand from the specification's bit packing.
    fn by_hand() -> Vec<u8> {
        let mut page = Vec::new();
        // 0, 4, 1: the differences 4 and -3 are stored as 7 and 0, relative to -3, in three bits each.
        page.extend([0x80, 1, 4, 3, 0, 5, 3, 0, 0, 0, 0b000_111, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        // 4, 2, 3: the differences -2 and 1 are stored as 0 and 3, relative to -2, in two bits each.
        page.extend([0x80, 1, 4, 3, 8, 3, 2, 0, 0, 0, 0b11_00, 0, 0, 0, 0, 0, 0, 0]);
        page.extend(b"/etc/ausr");
        page
    }

    #[test]
    fn a_page_made_by_hand_reads_as_the_specification_says() {
        let page = by_hand();
        assert_eq!(texts(&page, 3, 14).unwrap(), [&b"/etc"[..], b"/etc/a", b"/usr"]);
        for cut in 0..page.len() {
            assert!(texts(&page[..cut], 3, 14).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn pages_of_several_blocks_read() {
        let names: Vec<String> = (0..1000).map(|i| "x".repeat(i * 7 % 31)).collect();
        let lengths: Vec<i64> = names.iter().map(|name| name.len() as i64).collect();
        let page = [packed(&vec![0; names.len()]), packed(&lengths), names.concat().into_bytes()].concat();
        let expected: Vec<Vec<u8>> = names.into_iter().map(String::into_bytes).collect();
        assert_eq!(texts(&page, 1000, usize::MAX).unwrap(), expected);
    }

    #[test]
    fn what_breaks_the_rules_is_an_error() {
        let error = |page: &[u8], count| texts(page, count, 100).unwrap_err().to_string();
        let page = |prefixes: &[i64], suffixes: &[i64], bytes: &[u8]| {
            [&packed(prefixes)[..], &packed(suffixes), bytes].concat()
        };
        assert!(error(&page(&[0, 2], &[1, 1], b"ab"), 2).contains("shares 2 bytes"));
        assert!(error(&page(&[0, -1], &[1, 1], b"ab"), 2).contains("is -1"));
        assert!(error(&page(&[0, 0], &[1, 2], b"ab"), 2).contains("needs 2 bytes"));
        assert!(error(&by_hand(), 4).contains("value count"));
        // Found by fuzzing: 32 values in each of so many miniblocks overflow 64 bits.
        let mut endless = by_hand();
        endless.splice(2..3, [[0xff; 9].as_slice(), &[1]].concat());
        assert!(error(&endless, 3).contains("block size"));
        for (at, value, field) in [(0, 0x81, "block size"), (2, 0, "block size"), (6, 33, "bit widths")] {
            let mut bytes = by_hand();
            bytes[at] = value;
            assert!(error(&bytes, 3).contains(field), "byte {at}");
        }
    }

    #[test]
    fn texts_that_unfold_beyond_the_limit_are_refused() {
        let mut prefixes = [50; 100];
        prefixes[0] = 0;
        let mut suffixes = [0; 100];
        suffixes[0] = 50;
        let page = [&packed(&prefixes)[..], &packed(&suffixes), &[b'x'; 50]].concat();
        assert_eq!(texts(&page, 100, 5000).unwrap().len(), 100);
        assert_eq!(texts(&page, 100, 4999).unwrap_err().kind(), crate::error::ErrorKind::Limit);
    }
}
