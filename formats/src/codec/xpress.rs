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
