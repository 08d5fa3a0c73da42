//! Canonical prefix codes: shorter codes come first, and codes of one length are in the order of their symbols.

use super::bits::Bits;

/// The longest code in bits.
pub(super) const LEN_MAX: usize = 16;
/// Codes of up to this many bits are found in one look-up.
const FAST: u32 = 9;

/// A code for decoding.
pub(super) struct Huffman {
    /// For each value of the next [`FAST`] bits: the symbol and the length of its code, as `symbol << 4 | length`; 0 if the
    /// code is longer or there is none.
    fast: Vec<u16>,
    /// For each length: the first code of that length.
    first: [usize; LEN_MAX + 1],
    /// For each length: the position in `symbols` of its first code.
    start: [usize; LEN_MAX + 2],
    /// The symbols in the order of their codes.
    symbols: Vec<u16>,
    /// The longest code that there is, in bits.
    longest: u32,
}

impl Huffman {
    /// Makes the code that gives each symbol a code of this many bits, at most [`LEN_MAX`]; 0 for none.
    ///
    /// Fails if there are more codes than fit. A code that leaves some bits without meaning is accepted: encoders make
    /// such ones if they have fewer than two symbols.
    pub(super) fn new(lens: &[u8]) -> Result<Self, String> {
        let mut counts = [0; LEN_MAX + 1];
        for len in lens {
            counts[usize::from(*len)] += 1;
        }
        counts[0] = 0;
        let (mut first, mut start) = ([0; LEN_MAX + 1], [0; LEN_MAX + 2]);
        let mut code = 0;
        for len in 1..=LEN_MAX {
            code = (code + counts[len - 1]) << 1;
            first[len] = code;
            start[len + 1] = start[len] + counts[len];
            if code + counts[len] > 1 << len {
                return Err("has a prefix code of too many symbols".to_owned());
            }
        }
        let longest = (1..=LEN_MAX).rev().find(|len| counts[*len] > 0).unwrap_or(0) as u32;
        let mut symbols = vec![0; start[LEN_MAX + 1]];
        let mut fast = vec![0; 1 << FAST];
        let mut next = start;
        for (symbol, len) in lens.iter().enumerate().filter(|(_, len)| **len > 0) {
            let len = usize::from(*len);
            symbols[next[len]] = symbol as u16;
            if len <= FAST as usize {
                let code = first[len] + next[len] - start[len];
                let spare = FAST as usize - len;
                fast[code << spare..(code + 1) << spare].fill((symbol as u16) << 4 | len as u16);
            }
            next[len] += 1;
        }
        Ok(Huffman { fast, first, start, symbols, longest })
    }

    /// Reads a symbol.
    pub(super) fn read(&self, bits: &mut Bits<'_>) -> Result<usize, String> {
        bits.load(LEN_MAX as u32);
        let entry = self.fast[bits.peek(FAST)];
        if entry != 0 {
            bits.skip(u32::from(entry & 0xF))?;
            return Ok(usize::from(entry >> 4));
        }
        for len in FAST + 1..=self.longest {
            let code = bits.peek(len);
            let (first, start) = (self.first[len as usize], self.start[len as usize]);
            let count = self.start[len as usize + 1] - start;
            if code >= first && code - first < count {
                bits.skip(len)?;
                return Ok(usize::from(self.symbols[start + code - first]));
            }
        }
        Err("has bits that are no symbol of its prefix code".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_all_lengths_are_read() {
        // Codes of 1, 2, … 15, 16 and 16 bits.
        let mut lens: Vec<u8> = (1..=16).collect();
        lens.push(16);
        let code = Huffman::new(&lens).unwrap();
        for symbol in 0..17_usize {
            let bits: u32 = if symbol == 16 { 0xFFFF } else { (0xFFFF << (16 - symbol)) & 0xFFFF };
            let stream = (bits as u16).to_le_bytes();
            assert_eq!(code.read(&mut Bits::new(&stream)), Ok(symbol));
        }
    }

    #[test]
    fn codes_that_do_not_fit_are_refused_and_unused_bits_are_no_symbol() {
        assert!(Huffman::new(&[1, 1, 1]).is_err());
        let one = Huffman::new(&[0, 1]).unwrap();
        assert_eq!(one.read(&mut Bits::new(&[0, 0])), Ok(1));
        assert!(one.read(&mut Bits::new(&[0, 0x80])).is_err());
        let none = Huffman::new(&[0; 8]).unwrap();
        assert!(none.read(&mut Bits::new(&[0, 0])).is_err());
    }

    #[test]
    fn bits_past_the_end_are_no_symbol() {
        let code = Huffman::new(&[1, 1]).unwrap();
        let mut bits = Bits::new(&[0, 0]);
        assert!((0..16).all(|_| code.read(&mut bits) == Ok(0)));
        assert_eq!(code.read(&mut bits), Err("ends early".to_owned()));
    }
}
