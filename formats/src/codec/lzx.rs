//! LZX with a window of 32 KiB, as WIM archives and files that Windows compressed one by one have it.
//!
//! [MS-PATCH] describes LZX for larger windows. Here each chunk is a stream of its own, of at most 32 KiB, and the header of
//! the stream is missing: x86 calls are always translated, as in a file of 12,000,000 bytes. The size of a block is one bit
//! for 32 KiB, or 16 bits after a zero bit.

use super::bits::Bits;
use super::huffman::Huffman;
use super::matches::copy;

/// The bytes that a chunk decodes to at most: the size of the window.
pub(super) const CHUNK: usize = 1 << 15;
/// The number of literals.
const LITERALS: usize = 256;
/// The ranges of distances, each with its own number of further bits.
const SLOTS: usize = 30;
/// The symbols for literals and for matches.
const MAIN: usize = LITERALS + 8 * SLOTS;
/// The symbols for the lengths of long matches.
const LENGTHS: usize = 249;
/// The symbols for the lengths of codes.
const PRE: usize = 20;
/// The symbols for the lower three bits of distances, in some blocks.
const ALIGNED: usize = 8;
/// The shortest match.
const MATCH_MIN: usize = 2;
/// Bit 0 of a match's symbol: lengths from this on continue with another symbol.
const LONG: usize = 7;

/// For each range of distances: the first, plus 2, and the number of further bits.
const POSITIONS: [(usize, u32); SLOTS] = {
    let mut all = [(0, 0); SLOTS];
    let (mut slot, mut first) = (0, 0);
    while slot < SLOTS {
        let bits = if slot < 4 { 0 } else { slot as u32 / 2 - 1 };
        all[slot] = (first, bits);
        first += 1 << bits;
        slot += 1;
    }
    all
};

/// Decodes a chunk into all of `out`, which is at most [`CHUNK`] bytes.
pub(super) fn decode(stream: &[u8], out: &mut [u8]) -> Result<(), String> {
    if out.len() > CHUNK {
        return Err(format!("decodes to {} bytes, over the limit of {CHUNK}", out.len()));
    }
    let mut decoder =
        Decoder { bits: Bits::new(stream), main: [0; MAIN], lengths: [0; LENGTHS], recent: [1; 3] };
    let mut done = 0;
    while done < out.len() {
        done = decoder.block(out, done)?;
    }
    translate_calls(out);
    Ok(())
}

/// What one block leaves to the next.
struct Decoder<'a> {
    bits: Bits<'a>,
    /// The lengths of the codes of literals and matches. A block stores the differences.
    main: [u8; MAIN],
    /// The lengths of the codes of the lengths of long matches.
    lengths: [u8; LENGTHS],
    /// The last three distances, which a match can use again.
    recent: [usize; 3],
}

impl Decoder<'_> {
    /// Decodes a block to byte `done` of `out`. Returns its end there.
    fn block(&mut self, out: &mut [u8], done: usize) -> Result<usize, String> {
        let kind = self.bits.read(3)?;
        let size = if self.bits.read(1)? == 1 { CHUNK } else { self.bits.read(16)? };
        if size == 0 || size > out.len() - done {
            return Err(format!("has a block of {size} bytes at byte {done} of {}", out.len()));
        }
        let end = done + size;
        match kind {
            1 | 2 => {
                let aligned = (kind == 2).then(|| self.aligned()).transpose()?;
                self.codes()?;
                self.compressed(&mut out[..end], done, aligned.as_ref())?;
            }
            3 => self.stored(&mut out[done..end])?,
            _ => return Err(format!("has a block of type {kind}, expected 1 to 3")),
        }
        Ok(end)
    }

    /// Reads the code of the lower bits of distances.
    fn aligned(&mut self) -> Result<Huffman, String> {
        let mut lens = [0; ALIGNED];
        for len in &mut lens {
            *len = self.bits.read(3)? as u8;
        }
        Huffman::new(&lens)
    }

    /// Reads the lengths of the codes of a block.
    fn codes(&mut self) -> Result<(), String> {
        let (literals, matches) = self.main.split_at_mut(LITERALS);
        code_lengths(&mut self.bits, literals)?;
        code_lengths(&mut self.bits, matches)?;
        code_lengths(&mut self.bits, &mut self.lengths)
    }

    /// Decodes the symbols of a block, from byte `done` to the end of `out`.
    fn compressed(
        &mut self,
        out: &mut [u8],
        mut done: usize,
        aligned: Option<&Huffman>,
    ) -> Result<(), String> {
        let (main, lengths) = (Huffman::new(&self.main)?, Huffman::new(&self.lengths)?);
        while done < out.len() {
            let symbol = main.read(&mut self.bits)?;
            if symbol < LITERALS {
                out[done] = symbol as u8;
                done += 1;
                continue;
            }
            let (slot, mut len) = ((symbol - LITERALS) >> 3, (symbol - LITERALS) & LONG);
            if len == LONG {
                len += lengths.read(&mut self.bits)?;
            }
            let distance = match slot {
                0..3 => {
                    self.recent.swap(0, slot);
                    self.recent[0]
                }
                _ => {
                    let (first, bits) = POSITIONS[slot];
                    let more = match aligned {
                        Some(aligned) if bits >= 3 => {
                            let upper = self.bits.read(bits - 3)? << 3;
                            upper | aligned.read(&mut self.bits)?
                        }
                        _ => self.bits.read(bits)?,
                    };
                    self.recent = [first + more - 2, self.recent[0], self.recent[1]];
                    self.recent[0]
                }
            };
            done = copy(out, done, distance, len + MATCH_MIN)?;
        }
        Ok(())
    }

    /// Copies a block that is not compressed.
    fn stored(&mut self, out: &mut [u8]) -> Result<(), String> {
        self.bits.align();
        for recent in &mut self.recent {
            let word = self.bits.bytes(4)?;
            *recent = u32::from_le_bytes(word.try_into().expect("read to size")) as usize;
        }
        out.copy_from_slice(self.bits.bytes(out.len())?);
        if out.len() % 2 == 1 {
            // The padding may be missing at the end of the stream.
            let _ = self.bits.bytes(1);
        }
        Ok(())
    }
}

/// Reads the lengths of codes, which are stored as differences to those of the block before.
fn code_lengths(bits: &mut Bits<'_>, lens: &mut [u8]) -> Result<(), String> {
    let mut pre = [0; PRE];
    for len in &mut pre {
        *len = bits.read(4)? as u8;
    }
    let pre = Huffman::new(&pre)?;
    let changed = |old: u8, symbol: usize| ((usize::from(old) + 17 - symbol) % 17) as u8;
    let mut at = 0;
    while at < lens.len() {
        let symbol = pre.read(bits)?;
        let (count, len) = match symbol {
            17 => (bits.read(4)? + 4, 0),
            18 => (bits.read(5)? + 20, 0),
            19 => {
                let count = bits.read(1)? + 4;
                let symbol = pre.read(bits)?;
                if symbol > 16 {
                    return Err(format!("repeats code length {symbol}, expected 0 to 16"));
                }
                (count, changed(lens[at], symbol))
            }
            _ => (1, changed(lens[at], symbol)),
        };
        let end = at + count;
        lens.get_mut(at..end).ok_or("has the lengths of too many codes")?.fill(len);
        at = end;
    }
    Ok(())
}

/// Translates the targets of x86 calls back: the encoder made them absolute, so that calls of one function are alike.
fn translate_calls(out: &mut [u8]) {
    const FILE_SIZE: i32 = 12_000_000;
    /// The last bytes of a chunk are never translated.
    const TAIL: usize = 10;
    let end = out.len().saturating_sub(TAIL);
    let mut at = 0;
    while at < end {
        if out[at] != 0xE8 {
            at += 1;
            continue;
        }
        let here = at as i32;
        let operand = &mut out[at + 1..at + 5];
        let absolute = i32::from_le_bytes((&*operand).try_into().expect("sliced to size"));
        if (-here..FILE_SIZE).contains(&absolute) {
            let relative = if absolute >= 0 { absolute - here } else { absolute + FILE_SIZE };
            operand.copy_from_slice(&relative.to_le_bytes());
        }
        at += 5;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a stream of the lower `count` bits of numbers.
    fn stream(fields: &[(u32, u32)]) -> Vec<u8> {
        let bits: Vec<u32> =
            fields.iter().flat_map(|(count, bits)| (0..*count).rev().map(move |i| bits >> i & 1)).collect();
        let word = |word: &[u32]| (0..16).fold(0_u16, |all, i| all << 1 | *word.get(i).unwrap_or(&0) as u16);
        bits.chunks(16).flat_map(|chunk| word(chunk).to_le_bytes()).collect()
    }

    fn decoded(stream: &[u8], len: usize) -> Result<Vec<u8>, String> {
        let mut out = vec![0; len];
        decode(stream, &mut out)?;
        Ok(out)
    }

    #[test]
    fn stored_blocks_are_copied_and_padded() {
        let block = |bytes: &[u8]| {
            let mut block = stream(&[(3, 3), (1, 0), (16, bytes.len() as u32)]);
            block.extend([1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
            block.extend(bytes);
            block
        };
        let mut two = block(b"odd");
        two.push(0);
        two.extend(block(b"even"));
        assert_eq!(decoded(&two, 7).unwrap(), b"oddeven");
        assert_eq!(decoded(&block(b"odd"), 3).unwrap(), b"odd");
        assert!(decoded(&two, 8).is_err() && decoded(&two, 6).is_err());
    }

    #[test]
    fn senseless_blocks_are_refused() {
        let error = |fields: &[(u32, u32)], len| decoded(&stream(fields), len).unwrap_err();
        assert!(error(&[(3, 0), (1, 1)], CHUNK).contains("type 0"));
        assert!(error(&[(3, 7), (1, 1)], CHUNK).contains("type 7"));
        assert!(error(&[(3, 1), (1, 1)], 9).contains("32768 bytes"));
        assert!(error(&[(3, 1), (1, 0), (16, 0)], 9).contains("0 bytes"));
        assert!(error(&[(3, 1), (1, 0), (16, 9)], 9).contains("ends early"));
        assert!(decoded(&[], CHUNK + 1).unwrap_err().contains("limit"));
        assert!(decoded(&[], 0).is_ok());
    }

    #[test]
    fn the_last_distances_cover_the_window() {
        let (first, bits) = POSITIONS[SLOTS - 1];
        assert_eq!(first + (1 << bits), CHUNK);
        assert_eq!(POSITIONS[4..7], [(4, 1), (6, 1), (8, 2)]);
    }
}
