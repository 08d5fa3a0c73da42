//! Files of `lzop`, which older versions of Proxmox VE compress backups with (`.vma.lzo`). Numbers are big-endian.
//!
//! ```text
//! magic │ header │ blocks: decoded length, encoded length, checksums, bytes │ a length of zero
//! ```
//!
//! A block that does not shrink is stored as it is, and then both lengths are the same.

use std::io::{self, BufRead, Read};

use crate::checksum::fits;
use crate::codec::decode_lzo;

/// The first bytes of a file.
pub(super) const MAGIC: &[u8] = b"\x89LZO\0\r\n\x1a\n";

/// The most bytes that a block may have, decoded: lzop's own limit.
const MAX_BLOCK: u32 = 64 << 20;

/// From this version on, the header has the level, and the version that is needed to read the file.
const WITH_LEVEL: u16 = 0x0940;

/// The flags of the header.
mod flag {
    /// Each block has an Adler-32 or a CRC-32 of its decoded bytes, and of its encoded ones.
    pub(super) const ADLER_DECODED: u32 = 1;
    pub(super) const ADLER_ENCODED: u32 = 2;
    pub(super) const CRC_DECODED: u32 = 0x100;
    pub(super) const CRC_ENCODED: u32 = 0x200;
    /// The header is followed by a field of any length.
    pub(super) const EXTRA: u32 = 0x40;
    /// The file is one of several.
    pub(super) const MULTIPART: u32 = 0x400;
    /// The bytes were changed before they were encoded.
    pub(super) const FILTER: u32 = 0x800;
    /// The checksum of the header is a CRC-32.
    pub(super) const HEADER_CRC: u32 = 0x1000;
}

/// A decoder of one file. (`cat` of two is two.)
pub(super) struct LzopDecoder<R> {
    input: R,
    flags: u32,
    /// The bytes of the current block, and how many of them were read.
    block: Vec<u8>,
    done: usize,
    is_ended: bool,
}

impl<R: BufRead> LzopDecoder<R> {
    /// Creates a decoder of the file that `input` is at the start of.
    pub(super) fn new(mut input: R) -> io::Result<Self> {
        let flags = header(&mut input)?;
        Ok(LzopDecoder { input, flags, block: Vec::new(), done: 0, is_ended: false })
    }

    pub(super) fn into_inner(self) -> R {
        self.input
    }

    /// Decodes the next block; returns false at the end.
    fn next_block(&mut self) -> io::Result<bool> {
        let decoded = number(&mut self.input)?;
        if decoded == 0 {
            return Ok(false);
        }
        let encoded = number(&mut self.input)?;
        if decoded > MAX_BLOCK || encoded > decoded {
            return Err(wrong(&format!("a block has {encoded} bytes that decode to {decoded}")));
        }
        let is_stored = encoded == decoded;
        let mut sums = [None; 4];
        let kinds = [flag::ADLER_DECODED, flag::CRC_DECODED, flag::ADLER_ENCODED, flag::CRC_ENCODED];
        for (place, (sum, kind)) in sums.iter_mut().zip(kinds).enumerate() {
            // A stored block has only those of its decoded bytes.
            if self.flags & kind != 0 && (place < 2 || !is_stored) {
                *sum = Some(number(&mut self.input)?);
            }
        }
        let bytes = take(&mut self.input, encoded.into())?;
        check(&bytes, sums[2], sums[3])?;
        self.block = if is_stored { bytes } else { decode(&bytes, decoded as usize)? };
        check(&self.block, sums[0], sums[1])?;
        self.done = 0;
        Ok(true)
    }
}

impl<R: BufRead> Read for LzopDecoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.done == self.block.len() && !self.is_ended {
            self.is_ended = !self.next_block()?;
        }
        if self.is_ended {
            return Ok(0);
        }
        let rest = &self.block[self.done..];
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        self.done += len;
        Ok(len)
    }
}

/// Reads the header; returns its flags.
fn header(input: &mut impl BufRead) -> io::Result<u32> {
    let magic = take(input, MAGIC.len() as u64)?;
    if magic != MAGIC {
        return Err(wrong("it does not begin like a file of lzop"));
    }
    let mut header = Vec::new();
    let mut more = |input: &mut _, len: u64| -> io::Result<Vec<u8>> {
        let bytes = take(input, len)?;
        header.extend_from_slice(&bytes);
        Ok(bytes)
    };
    let version = u16::from_be_bytes(more(input, 2)?.try_into().expect("two bytes"));
    more(input, 2)?;
    if version >= WITH_LEVEL {
        more(input, 2)?;
    }
    let method = more(input, 1)?[0];
    if !(1..=3).contains(&method) {
        return Err(wrong(&format!("its method is {method}, expected LZO1X (1 to 3)")));
    }
    if version >= WITH_LEVEL {
        more(input, 1)?;
    }
    let flags = u32::from_be_bytes(more(input, 4)?.try_into().expect("four bytes"));
    if flags & (flag::FILTER | flag::MULTIPART) != 0 {
        return Err(wrong("it is filtered or one of several parts, which mif does not read"));
    }
    // The mode, and the time, whose upper half came later.
    more(input, if version >= WITH_LEVEL { 12 } else { 8 })?;
    let name = more(input, 1)?[0];
    more(input, name.into())?;
    let sum = number(input)?;
    let computed = match flags & flag::HEADER_CRC {
        0 => libdeflater::adler32(&header),
        _ => libdeflater::crc32(&header),
    };
    if !fits(sum, computed) {
        return Err(wrong("the checksum of its header differs"));
    }
    if flags & flag::EXTRA != 0 {
        let len = number(input)?;
        skip(input, u64::from(len) + 4)?;
    }
    Ok(flags)
}

fn decode(bytes: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let mut block = vec![0; len];
    let done = decode_lzo(bytes, &mut block).map_err(|problem| wrong(&format!("a block {problem}")))?;
    match done == len {
        true => Ok(block),
        false => Err(wrong(&format!("a block decodes to {done} bytes, expected {len}"))),
    }
}

fn check(bytes: &[u8], adler: Option<u32>, crc: Option<u32>) -> io::Result<()> {
    let is_good = adler.is_none_or(|sum| fits(sum, libdeflater::adler32(bytes)))
        && crc.is_none_or(|sum| fits(sum, libdeflater::crc32(bytes)));
    if is_good { Ok(()) } else { Err(wrong("the checksum of a block differs")) }
}

fn wrong(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.to_owned())
}

fn number(input: &mut impl BufRead) -> io::Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

/// Reads `len` bytes. Memory grows with the bytes that there are, and not with `len`.
fn take(input: &mut impl BufRead, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(len).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == len { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn skip(input: &mut impl BufRead, len: u64) -> io::Result<()> {
    let done = io::copy(&mut input.take(len), &mut io::sink())?;
    if done == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Sum = fn(&[u8]) -> u32;

    /// A file with these flags and blocks: the decoded length, and the encoded bytes.
    fn file(flags: u32, blocks: &[(u32, &[u8])], decoded: &[&[u8]]) -> Vec<u8> {
        let mut header = vec![0x10, 0x40, 0x20, 0xa0, 0x09, 0x40, 1, 5];
        header.extend(flags.to_be_bytes());
        header.extend([0; 12]);
        header.extend(b"\x01d");
        let sum = match flags & flag::HEADER_CRC {
            0 => libdeflater::adler32(&header),
            _ => libdeflater::crc32(&header),
        };
        let mut bytes = [MAGIC, &header, &sum.to_be_bytes()].concat();
        for ((len, block), plain) in blocks.iter().zip(decoded) {
            bytes.extend(len.to_be_bytes());
            bytes.extend((block.len() as u32).to_be_bytes());
            let mut sums = Vec::new();
            let kinds: [(u32, Sum, &[u8]); 4] = [
                (flag::ADLER_DECODED, libdeflater::adler32, plain),
                (flag::CRC_DECODED, libdeflater::crc32, plain),
                (flag::ADLER_ENCODED, libdeflater::adler32, block),
                (flag::CRC_ENCODED, libdeflater::crc32, block),
            ];
            for (place, (kind, sum, of)) in kinds.into_iter().enumerate() {
                if flags & kind != 0 && (place < 2 || block.len() as u32 != *len) {
                    sums.extend(sum(of).to_be_bytes());
                }
            }
            bytes.extend(sums);
            bytes.extend(*block);
        }
        bytes.extend([0; 4]);
        bytes
    }

    fn decoded(file: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        LzopDecoder::new(file)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// "abcdabc": four literals, and a match of three.
    const PACKED: &[u8] = &[21, b'a', b'b', b'c', b'd', 0b0100_1100, 0, 17, 0, 0];

    #[test]
    fn blocks_are_decoded_with_every_kind_of_checksum() {
        // A stored block is one that does not shrink.
        let text = b"a block of as many bytes";
        for flags in [0, 1, 3, 0x100, 0x300, 0x303, 0x1001] {
            let file = file(flags, &[(24, text), (7, &PACKED[..6])], &[text, b"abcdabc"]);
            // The second block is too short for its end mark, so it is refused.
            assert!(decoded(&file).is_err(), "{flags:#x}");
        }
        let long: Vec<u8> = std::iter::repeat_n(*b"abcdabc", 4).flatten().collect();
        let packed = [&[45][..], &long, &[17, 0, 0]].concat();
        assert!(packed.len() > long.len());
        for flags in [0, 1, 3, 0x100, 0x300, 0x303, 0x1001] {
            let file = file(flags, &[(28, &long), (28, &long)], &[&long, &long]);
            assert_eq!(decoded(&file).unwrap(), [&long[..], &long].concat(), "{flags:#x}");
            for cut in [3, 20, file.len() - 30, file.len() - 3] {
                assert_eq!(decoded(&file[..cut]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            }
        }
    }

    #[test]
    fn a_hostile_file_is_refused_without_much_memory() {
        let good = file(1, &[(3, b"abc")], &[b"abc"]);
        assert_eq!(decoded(&good).unwrap(), b"abc");
        let changed = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            decoded(&bytes)
        };
        assert!(changed(0, 0).is_err() && changed(15, 9).is_err() && changed(22, 1).is_err());
        assert!(changed(good.len() - 5, b'd').is_err(), "a checksum");
        // A block that claims 4 GiB, and one that claims 64 MiB and has a few bytes.
        for (len, encoded) in [(u32::MAX, u32::MAX), (MAX_BLOCK, MAX_BLOCK), (10, 11)] {
            let mut bytes = file(0, &[], &[]);
            bytes.truncate(bytes.len() - 4);
            bytes.extend(len.to_be_bytes());
            bytes.extend(encoded.to_be_bytes());
            bytes.extend(b"few");
            assert!(decoded(&bytes).is_err());
        }
        for flags in [flag::FILTER, flag::MULTIPART] {
            assert!(decoded(&file(flags, &[], &[])).is_err());
        }
    }
}
