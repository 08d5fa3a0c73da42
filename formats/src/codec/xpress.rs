//! XPRESS with Huffman codes ([MS-XCA] 2.2), the encoding of WIM archives and of files that Windows compressed one by one
//! ("compact os").
//!
//! A stream begins with the lengths of 512 codes, 4 bits each. The first 256 symbols are literals; the others are matches:
//! the lower four bits are the match's length, the upper four the number of bits of its distance. More of a long length
//! follows as bytes between the words of bits.

use super::bits::Bits;
use super::huffman::Huffman;
use super::matches::copy;

/// The number of symbols. Each code's length takes four bits.
const SYMBOLS: usize = 512;
/// The number of literals.
const LITERALS: usize = 256;
/// The shortest match.
const MATCH_MIN: usize = 3;
/// The bytes that a single table of codes encodes at most.
pub(super) const BLOCK: usize = 1 << 16;

/// Decodes a stream into all of `out`, which is at most [`BLOCK`] bytes.
pub(super) fn decode(stream: &[u8], out: &mut [u8]) -> Result<(), String> {
    if out.len() > BLOCK {
        return Err(format!("decodes to {} bytes, over the limit of {BLOCK}", out.len()));
    }
    let (table, rest) = stream.split_at_checked(SYMBOLS / 2).ok_or("ends within its table of codes")?;
    let lens: Vec<u8> = table.iter().flat_map(|byte| [byte & 0xF, byte >> 4]).collect();
    let code = Huffman::new(&lens)?;
    let mut bits = Bits::new(rest);
    let mut done = 0;
    while done < out.len() {
        let symbol = code.read(&mut bits)?;
        if symbol < LITERALS {
            out[done] = symbol as u8;
            done += 1;
            continue;
        }
        let (mut len, distance_bits) = (symbol & 0xF, ((symbol - LITERALS) >> 4) as u32);
        // The bytes of a length lie after the words that a reader has loaded which keeps at least 16 bits.
        bits.load(16);
        let distance = 1 << distance_bits | bits.peek(distance_bits);
        bits.skip(distance_bits)?;
        if len == 0xF {
            let more = usize::from(bits.bytes(1)?[0]);
            len = match more {
                0xFF => {
                    let word = bits.bytes(2)?;
                    let word = usize::from(u16::from_le_bytes([word[0], word[1]]));
                    if word < 0xF {
                        return Err(format!("has a long match of length {word}"));
                    }
                    word
                }
                _ => more + 0xF,
            };
        }
        done = copy(out, done, distance, len + MATCH_MIN)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of [MS-XCA] 3.2: 26 letters, and 300 times "abc".
    #[test]
    fn the_specifications_examples_are_decoded() {
        let mut letters = vec![0; 256];
        letters[0x30..0x3E].copy_from_slice(&[
            0x50, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x45, 0x44, 0x04,
        ]);
        letters[0x80] = 0x04;
        letters.extend([
            0xD8, 0x52, 0x3E, 0xD7, 0x94, 0x11, 0x5B, 0xE9, 0x19, 0x5F, 0xF9, 0xD6, 0x7C, 0xDF, 0x8D, 0x04,
            0, 0, 0, 0,
        ]);
        let mut out = [0; 26];
        decode(&letters, &mut out).unwrap();
        assert_eq!(&out, b"abcdefghijklmnopqrstuvwxyz");

        let mut repeated = vec![0; 256];
        (repeated[0x30], repeated[0x31]) = (0x30, 0x23);
        (repeated[0x80], repeated[0x8F]) = (0x02, 0x20);
        repeated.extend([0xA8, 0xDC, 0, 0, 0xFF, 0x26, 0x01]);
        let mut out = [0; 300];
        decode(&repeated, &mut out).unwrap();
        assert_eq!(&out[..], b"abc".repeat(100));
    }

    #[test]
    fn senseless_streams_are_refused() {
        let mut out = [0; 9];
        let mut error = |stream: &[u8]| decode(stream, &mut out).unwrap_err();
        assert!(error(&[0; 255]).contains("table of codes"));
        assert!(error(&[0; 256]).contains("no symbol"));
        assert!(error(&[0x11; 300]).contains("too many symbols"));
        // Symbols 0 and 256: a literal, and a match of three bytes one byte before.
        let mut stream = vec![0; 256];
        (stream[0], stream[128]) = (1, 1);
        stream.extend([0, 0x80, 0, 0]);
        assert!(error(&stream).contains("1 bytes before byte 0"));
        stream.truncate(258);
        stream[257] = 0;
        assert_eq!(decode(&stream, &mut out), Ok(()));
        assert!(decode(&stream, &mut [0; 17]).unwrap_err().contains("ends early"));
    }
}
