//! LZFSE, Apple's compression since 2015: blocks of matches and literals in finite state entropy codes, or of LZVN
//! (`lzvn.rs`). Numbers are little-endian.
//!
//! ```text
//! "bvx2" │ header: sizes, states, frequencies │ literals │ lengths and distances │ … │ "bvx$"
//! ```
//!
//! Both streams of a block are read from their end to their start.

use std::ops::Range;

use super::lzvn;
use super::matches::copy;
use crate::bytes::{le32, le64};

type Result<T> = std::result::Result<T, &'static str>;

/// The number of states of each code: literal lengths, match lengths, distances, literals.
const L_STATES: usize = 64;
const M_STATES: usize = 64;
const D_STATES: usize = 256;
const U_STATES: usize = 1024;
/// The number of symbols of each.
const SYMBOLS: [usize; 4] = [20, 20, 64, 256];
/// The most literals and matches of a block.
const MAX_LITERALS: usize = 40_000;
const MAX_MATCHES: usize = 10_000;
/// The length of a header before its frequencies.
const HEADER: usize = 32;

/// The extra bits of the symbols of literal lengths and of match lengths: none for the first 16.
const L_BITS: [u8; 4] = [2, 3, 5, 8];
const M_BITS: [u8; 4] = [3, 5, 8, 11];

/// Decodes into exactly `out`.
pub(super) fn decode(mut input: &[u8], out: &mut [u8]) -> Result<()> {
    let mut done = 0;
    loop {
        let magic = input.get(..4).ok_or("it ends early")?;
        let field =
            |at: usize| input.get(at..at + 4).map(|bytes| le32(bytes, 0) as usize).ok_or("it ends early");
        let taken = match magic {
            b"bvx$" => break,
            b"bvx-" => {
                let len = field(4)?;
                let bytes =
                    input.get(8..).and_then(|rest| rest.get(..len)).ok_or("it ends within a block")?;
                place(out, done, len)?.copy_from_slice(bytes);
                done += len;
                8 + len
            }
            b"bvxn" => {
                let (len, packed) = (field(4)?, field(8)?);
                let bytes =
                    input.get(12..).and_then(|rest| rest.get(..packed)).ok_or("it ends within a block")?;
                place(out, done, len)?;
                lzvn::decode(bytes, &mut out[..done + len], done)?;
                done += len;
                12 + packed
            }
            b"bvx2" => {
                let block = Block::parse(input)?;
                place(out, done, block.len)?;
                block.decode(input, &mut out[..done + block.len], done)?;
                done += block.len;
                block.lmd.end
            }
            _ => return Err("it has a block of an unknown kind"),
        };
        input = &input[taken..];
    }
    if done == out.len() { Ok(()) } else { Err("it is too short") }
}

/// Returns the place of the next `len` bytes.
fn place(out: &mut [u8], done: usize, len: usize) -> Result<&mut [u8]> {
    let end = done.checked_add(len).ok_or("it is too long")?;
    out.get_mut(done..end).ok_or("it is too long")
}

/// The header of a block.
struct Block {
    /// The number of bytes that it decodes to.
    len: usize,
    literals: usize,
    matches: usize,
    /// The bytes of the literals, and of the lengths and distances.
    literal: Range<usize>,
    lmd: Range<usize>,
    /// How many bits of the last byte of each are used: 0 for all, -7 for one.
    literal_bits: i32,
    lmd_bits: i32,
    literal_states: [usize; 4],
    /// The first states of lengths and distances.
    states: [usize; 3],
    /// The frequencies of all symbols.
    frequencies: Vec<u16>,
}

impl Block {
    fn parse(input: &[u8]) -> Result<Self> {
        let head = input.get(..HEADER).ok_or("it ends within a header")?;
        let fields = [le64(head, 8), le64(head, 16), le64(head, 24)];
        let bits = |field: usize, at: u32, count: u32| (fields[field] >> at & ((1 << count) - 1)) as usize;
        let size = bits(2, 0, 32);
        let codes = input.get(..size).and_then(|head| head.get(HEADER..)).ok_or("it ends within a header")?;
        let literal_end = size + bits(0, 20, 20);
        let lmd_end = literal_end + bits(1, 40, 20);
        if lmd_end > input.len() {
            return Err("it ends within a block");
        }
        let block = Block {
            len: le32(head, 4) as usize,
            literals: bits(0, 0, 20),
            matches: bits(0, 40, 20),
            literal: size..literal_end,
            lmd: literal_end..lmd_end,
            literal_bits: bits(0, 60, 3) as i32 - 7,
            lmd_bits: bits(1, 60, 3) as i32 - 7,
            literal_states: [0, 10, 20, 30].map(|at| bits(1, at, 10)),
            states: [32, 42, 52].map(|at| bits(2, at, 10)),
            frequencies: frequencies(codes)?,
        };
        let is_good = block.literals <= MAX_LITERALS
            && block.literals.is_multiple_of(4)
            && block.matches <= MAX_MATCHES
            && block.states[0] < L_STATES
            && block.states[1] < M_STATES
            && block.states[2] < D_STATES;
        if is_good { Ok(block) } else { Err("a header has impossible numbers") }
    }

    /// Decodes the block to `done` and the bytes after it, which fill `out`.
    fn decode(&self, input: &[u8], out: &mut [u8], mut done: usize) -> Result<()> {
        let (l, rest) = self.frequencies.split_at(SYMBOLS[0]);
        let (m, rest) = rest.split_at(SYMBOLS[1]);
        let (d, u) = rest.split_at(SYMBOLS[2]);
        let literals = self.literals(&input[self.literal.clone()], &table(u, U_STATES, &|_| (0, 0))?)?;
        let short = |bits: [u8; 4]| {
            move |symbol: usize| match symbol {
                0..16 => (0, symbol as u32),
                _ => (bits[symbol - 16], 16 + bits[..symbol - 16].iter().map(|bits| 1 << bits).sum::<u32>()),
            }
        };
        // Four distances have the same number of extra bits.
        let distance = |symbol: usize| {
            let (bits, place) = (symbol as u32 / 4, symbol as u32 % 4);
            (bits as u8, 4 * ((1 << bits) - 1) + (place << bits))
        };
        let tables = [
            table(l, L_STATES, &short(L_BITS))?,
            table(m, M_STATES, &short(M_BITS))?,
            table(d, D_STATES, &distance)?,
        ];
        let mut bits = Bits::new(&input[self.lmd.clone()], self.lmd_bits)?;
        let (mut states, mut literal, mut last) = (self.states, 0, 0);
        for _ in 0..self.matches {
            let mut values = [0; 3];
            for ((value, state), table) in values.iter_mut().zip(&mut states).zip(&tables) {
                let entry = table.get(*state).ok_or("a state is impossible")?;
                let taken = bits.take(u32::from(entry.bits) + u32::from(entry.extra))?;
                *state = (i64::from(entry.delta) + (taken >> entry.extra) as i64) as usize;
                *value = (u64::from(entry.value) + (taken & ((1 << entry.extra) - 1))) as usize;
            }
            let [count, len, distance] = values;
            last = if distance == 0 { last } else { distance };
            let from = literals.get(literal..literal + count).ok_or("it has too few literals")?;
            place(out, done, count)?.copy_from_slice(from);
            (literal, done) = (literal + count, done + count);
            copy(out, done, last, len)?;
            done += len;
        }
        // The literals after the last match belong to a match of no bytes.
        if done == out.len() { Ok(()) } else { Err("a block is too short") }
    }

    fn literals(&self, bytes: &[u8], table: &[Entry]) -> Result<Vec<u8>> {
        let mut bits = Bits::new(bytes, self.literal_bits)?;
        let (mut states, mut literals) = (self.literal_states, Vec::with_capacity(self.literals));
        while literals.len() < self.literals {
            for state in &mut states {
                let entry = table.get(*state).ok_or("a state is impossible")?;
                literals.push(entry.symbol);
                *state = (i64::from(entry.delta) + bits.take(entry.bits.into())? as i64) as usize;
            }
        }
        Ok(literals)
    }
}

/// Decodes the frequencies of all symbols, in codes of 2 to 14 bits, the lowest bits first.
fn frequencies(codes: &[u8]) -> Result<Vec<u16>> {
    let (mut bits, mut count, mut next) = (0_u32, 0, codes.iter());
    let mut found = Vec::new();
    let all: usize = SYMBOLS.iter().sum();
    if codes.is_empty() {
        return Ok(vec![0; all]);
    }
    while found.len() < all {
        while count < 14 {
            let Some(byte) = next.next() else { break };
            bits |= u32::from(*byte) << count;
            count += 8;
        }
        let (len, value) = match bits & 0xf {
            0b0000 | 0b0100 | 0b1000 | 0b1100 => (2, 0),
            0b0010 | 0b0110 | 0b1010 | 0b1110 => (2, 1),
            0b0001 | 0b1001 => (3, 2),
            0b0101 | 0b1101 => (3, 3),
            0b0011 | 0b1011 => (5, 4 + (bits >> 3 & 3)),
            0b0111 => (8, 8 + (bits >> 4 & 0xf)),
            _ => (14, 24 + (bits >> 4 & 0x3ff)),
        };
        if len > count {
            return Err("it ends within a header");
        }
        found.push(value as u16);
        bits >>= len;
        count -= len;
    }
    // Fewer than eight bits fill the last byte.
    if count >= 8 || next.next().is_some() { Err("a header is longer than it says") } else { Ok(found) }
}

/// An entry of a decoder's table: the symbol, the bits to take, and what to add to them for the next state. For lengths and
/// distances also the extra bits after them, and what to add to those.
#[derive(Clone, Copy)]
struct Entry {
    symbol: u8,
    bits: u8,
    delta: i16,
    extra: u8,
    value: u32,
}

/// Returns the table of a code with these frequencies, which fill at most all states. `value` returns the extra bits and the
/// least value of a symbol.
fn table(frequencies: &[u16], states: usize, value: &dyn Fn(usize) -> (u8, u32)) -> Result<Vec<Entry>> {
    let mut table = Vec::with_capacity(states);
    for (symbol, frequency) in frequencies.iter().enumerate().filter(|(_, frequency)| **frequency > 0) {
        let frequency = usize::from(*frequency);
        if table.len() + frequency > states {
            return Err("a table has too many symbols");
        }
        let (extra, value) = value(symbol);
        let bits = states.ilog2() - frequency.ilog2();
        let wide = ((2 * states) >> bits) - frequency;
        for place in 0..frequency {
            let (bits, delta) = match place < wide {
                true => (bits, ((frequency + place) << bits) as i64 - states as i64),
                false => (bits - 1, ((place - wide) << (bits - 1)) as i64),
            };
            table.push(Entry { symbol: symbol as u8, bits: bits as u8, delta: delta as i16, extra, value });
        }
    }
    Ok(table)
}

/// The bits of a stream, from its last byte to its first.
struct Bits<'a> {
    bytes: &'a [u8],
    /// The next bits, the first of them on top.
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// Creates a reader of a stream whose last byte has `8 + last` bits.
    fn new(bytes: &'a [u8], last: i32) -> Result<Self> {
        let mut bits = Bits { bytes, held: 0, count: 0 };
        if last != 0 {
            let (end, rest) = bytes.split_last().ok_or("a stream is empty")?;
            let count = (8 + last) as u32;
            if u32::from(*end) >> count != 0 {
                return Err("a stream has wrong bits at its end");
            }
            bits = Bits { bytes: rest, held: u64::from(*end), count };
        }
        Ok(bits)
    }

    /// Takes up to 32 bits.
    fn take(&mut self, count: u32) -> Result<u64> {
        while self.count < count {
            let (last, rest) = self.bytes.split_last().ok_or("a stream ends early")?;
            (self.held, self.count, self.bytes) = (self.held << 8 | u64::from(*last), self.count + 8, rest);
        }
        self.count -= count;
        let taken = self.held >> self.count;
        self.held &= (1 << self.count) - 1;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunks::base64;
    use super::*;
    use crate::testing::Dice;

    #[test]
    fn a_table_has_each_symbol_as_often_as_its_frequency() {
        let table = table(&[3, 0, 5], 8, &|_| (0, 0)).unwrap();
        let symbols: Vec<u8> = table.iter().map(|entry| entry.symbol).collect();
        assert_eq!(symbols, [0, 0, 0, 2, 2, 2, 2, 2]);
        // Each state follows from states and bits in exactly one way.
        for symbol in [0, 2] {
            let mut reached = vec![0; 8];
            for entry in table.iter().filter(|entry| entry.symbol == symbol) {
                (0..1 << entry.bits).for_each(|bits| reached[(entry.delta + bits) as usize] += 1);
            }
            assert_eq!(reached, [1; 8]);
        }
        assert!(super::table(&[9], 8, &|_| (0, 0)).is_err());
    }

    #[test]
    fn bits_come_from_the_end() {
        let mut bits = Bits::new(&[0xaa, 0b1100_0011, 0b101], -5).unwrap();
        assert_eq!([bits.take(2), bits.take(3), bits.take(0), bits.take(6)], [Ok(2), Ok(7), Ok(0), Ok(3)]);
        assert!(bits.take(8).is_ok() && bits.take(1).is_err());
        assert!(Bits::new(&[0b1000], -5).is_err() && Bits::new(&[], -1).is_err());
    }

    /// Text that Apple's encoder made the following of.
    fn text(len: usize) -> Vec<u8> {
        let (mut text, mut x) = (String::new(), 1_u32);
        while text.len() < len {
            x = x.wrapping_mul(1_103_515_245).wrapping_add(12_345) & 0x7fff_ffff;
            let letter = char::from(b'A' + ((x >> 16) % 26) as u8);
            text += &format!("{} the quick brown fox {} jumps over {letter}\n", x >> 20, x >> 27);
        }
        text.truncate(len);
        text.into_bytes()
    }

    /// 300 bytes of it, and 4200.
    const SHORT: &str = "\
        YnZ4biwBAAB+AAAA4BsxMDUyIHRoZSBxdWljayBicm93biBmb3ggOCBqdW1wcyBvdmVyIFEKMzU5OCf7bjL05E0KNjM4TvxuNPTmWgoxMDk0OH\
        bwCOZSCjE5NDA4KPuYKTE19kCfSG4x8ArmTAoxNDM4OFD8bjH05UEKNDYz+vfhZgYAAAAAAAAAYnZ4JA==";
    const LONG: &str = "\
        YnZ4MmgQAACsAdAPALwAMCOhA+FhmAFwsgAAAD+MsADXR11XOwAAgAgEAOjV6gdwBCcCAACfAHDOITdHB+P0cNwenhwcjpO9FgIAAAAAAGwAAJ\
        4UAAAAAABuAQAAgK/gwXgNvoKv4Dt4Df6Dr+ArAAD20ck+2dknJ2f7JCdZax2tk732EQCwwgpJQrKTlawkAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
        AAAAAAAAAAAAAAAAAAAAABAFqkcfEEKjvAMqLx0QIdvno+jEd3q1g9U8HAUWa4zltl+Bb6MTq8VF9KiKf4JJu638yIySFOU/WHSrkcSUdniunm\
        irWfDcyAyLF+FG99q0aX+njVc6UjB7v28ueD3VYCAmDq1XXxkdjgP+9WI0WFm7a5gNJVL7rdJLfG9ed5sct6Bl3prDKKdd7RNYA/D1HohwJj8v\
        hATZt97x/b5PrNIQP/M6ENeEcNreMnXWmCbFr8CRMg1UzV5Gd/N2wmd4m3687vjgl63fsXKZDnM7NsPHHPmg5Hht7dL+Ilnp+8c/5ac+1/609f\
        wfTz0E78PDT/7k3mDnX/9ASwcAAAAAAAAAAAAAS0mLuPKzhTvHD3HZbd0fcJm1ZeB0JqICap1sLMJvJd+B1X5yj37WNQK60yxd/lwX7hLaUmBi\
        bn3DRDojjoJ9PK4B7NCi6usvHPEJszfUP3dMzJI4w73H+6PI2qW02nqsR3ksl6jP5lnCbYP3Z2Uyn2kzyYwMeMEY5K9870uU3jBZ9bdiObR+4r\
        8+Fw12KYR78JaLK0jhXLXJmNTBmYH4F4WV2R0qs4FKeSVGJCKgxc47XqY7v9paYgPPHSJkPeaCIn0EiynEHtRNGxyVF53ntvYRtbguvKTmLcbX\
        u2s5qiAr+hwBgvkvW0Stwf6NxZa0Trkop6zm4lU/571OFNaDF6PfagrfcB70Jj/kYUhY897MWaXVVQHhqvwbmAlwtTzGiH3gs5Hc++PBrEhQT7\
        jfiMNZLc5aDMjWlx6rKsKhsTlvk4pnAq29kbWfb1MbPMwo4UBWyE2b8tQQf8Anmgrs1s/pG0wm9MMGhNlMWbW2qeWk7jrIAHFMQ3yjG6I5HqfW\
        FbVsB2U1P1GLHBxa+l1idngk";

    #[test]
    fn what_apples_encoder_made_is_decoded() {
        for (packed, len) in [(SHORT, 300), (LONG, 4200)] {
            let packed = base64(packed).unwrap();
            let mut out = vec![0; len];
            decode(&packed, &mut out).unwrap();
            assert!(out == text(len), "{len}");
            for other in [len - 1, len + 1] {
                assert!(decode(&packed, &mut vec![0; other]).is_err());
            }
            // Whatever is wrong with it, it ends.
            let mut dice = Dice::new(len as u64);
            for _ in 0..2000 {
                let mut mutant = packed.clone();
                dice.mutate(&mut mutant, &[0..64.min(packed.len()), 0..packed.len()]);
                let _ = decode(&mutant, &mut out);
            }
        }
    }

    #[test]
    fn raw_blocks_are_copied_and_bad_ones_refused() {
        let mut out = [0; 5];
        decode(b"bvx-\x02\0\0\0abbvx-\x03\0\0\0cdebvx$", &mut out).unwrap();
        assert_eq!(&out, b"abcde");
        for bad in [
            &b""[..],
            b"bvx$",
            b"bvx-\x05\0\0\0abcd",
            b"bvx-\x06\0\0\0abcdefbvx$",
            b"bvx-\xff\xff\xff\xff",
            b"bvx2\x05\0\0\0",
            b"bvxn\x05\0\0\0\xff\xff\xff\xff",
            b"bvx1",
        ] {
            assert!(decode(bad, &mut out).is_err(), "{}", bad.escape_ascii());
        }
    }
}
