//! LZO1X, and its Btrfs framing.
//!
//! An LZO1X stream is a list of instructions: copy literals from the stream, or copy bytes decoded earlier
//! (<https://docs.kernel.org/staging/lzo.html>). The meaning of an instruction depends on how many literals precede it.
//!
//! A Btrfs extent starts with its length (32 bits, little-endian), followed by segments, each with its own length. A
//! segment decodes to at most one sector. A segment's length never crosses a sector boundary of the encoded bytes: if
//! fewer than four bytes are left in a sector, they are skipped.

/// The size of a length field in bytes.
const LEN: usize = 4;

/// Decodes the frame of an extent, up to `out.len()` bytes. Returns the number of bytes decoded.
pub(super) fn decode_extent(encoded: &[u8], sector: usize, out: &mut [u8]) -> Result<usize, String> {
    let total = length(encoded, 0)?;
    // Inline extents have exactly this length; others are padded to a sector.
    let encoded =
        encoded.get(..total).ok_or_else(|| format!("has {} bytes, but says {total}", encoded.len()))?;
    let mut decoded = vec![0; sector];
    let (mut at, mut done) = (LEN, 0);
    while at < total && done < out.len() {
        if sector - at % sector < LEN {
            at = at.next_multiple_of(sector);
            if at >= total {
                break;
            }
        }
        let len = length(encoded, at)?;
        at += LEN;
        let segment = encoded.get(at..at.saturating_add(len));
        let segment = segment.ok_or_else(|| format!("has a segment of {len} bytes at {at} of {total}"))?;
        // The last segment may decode to more bytes than the extent has.
        let here = decode(segment, &mut decoded)?.min(out.len() - done);
        out[done..done + here].copy_from_slice(&decoded[..here]);
        done += here;
        at += len;
    }
    Ok(done)
}

fn length(bytes: &[u8], at: usize) -> Result<usize, String> {
    let bytes = bytes.get(at..at + LEN).ok_or("ends within the length of a segment")?;
    Ok(u32::from_le_bytes(bytes.try_into().expect("sliced to size")) as usize)
}

/// Decodes an LZO1X stream, whose output must fit in `out`. Returns the number of bytes decoded.
pub(super) fn decode(stream: &[u8], out: &mut [u8]) -> Result<usize, String> {
    let mut decoder = Decoder { stream, at: 0, out, done: 0 };
    decoder.run()?;
    Ok(decoder.done)
}

struct Decoder<'a> {
    stream: &'a [u8],
    at: usize,
    out: &'a mut [u8],
    done: usize,
}

/// The number of literals before an instruction is 0, 1 to 3 (copied by the previous instruction), or this for more.
const MANY: usize = 4;

impl Decoder<'_> {
    fn run(&mut self) -> Result<(), String> {
        let mut before = 0;
        // The first byte may be a literal count.
        if let Some(first @ 18..) = self.stream.first().copied() {
            self.at = 1;
            let count = usize::from(first) - 17;
            self.literals(count)?;
            before = count.min(MANY);
        }
        loop {
            let code = usize::from(self.byte()?);
            let (distance, len, literals) = match code {
                0..16 if before == 0 => {
                    let len = self.long(code, 15)? + 3;
                    self.literals(len)?;
                    before = MANY;
                    continue;
                }
                0..16 => {
                    let distance = (code >> 2) + (usize::from(self.byte()?) << 2) + 1;
                    if before == MANY { (distance + 2048, 3, code & 3) } else { (distance, 2, code & 3) }
                }
                16..32 => {
                    let len = self.long(code & 7, 7)? + 2;
                    let word = self.word()?;
                    let distance = ((code & 8) << 11) + (word >> 2);
                    if distance == 0 {
                        return Ok(());
                    }
                    (distance + 0x4000, len, word & 3)
                }
                32..64 => {
                    let len = self.long(code & 31, 31)? + 2;
                    let word = self.word()?;
                    ((word >> 2) + 1, len, word & 3)
                }
                _ => {
                    let distance = ((code >> 2) & 7) + (usize::from(self.byte()?) << 3) + 1;
                    (distance, (code >> 5) + 1, code & 3)
                }
            };
            self.copy(distance, len)?;
            self.literals(literals)?;
            before = literals;
        }
    }

    fn byte(&mut self) -> Result<u8, String> {
        let byte = self.stream.get(self.at).ok_or("ends within an instruction")?;
        self.at += 1;
        Ok(*byte)
    }

    fn word(&mut self) -> Result<usize, String> {
        Ok(usize::from(self.byte()?) | usize::from(self.byte()?) << 8)
    }

    /// Returns `short`, or if it is 0 the length encoded next: `base`, plus 255 for each zero byte, plus the final
    /// byte.
    fn long(&mut self, short: usize, base: usize) -> Result<usize, String> {
        if short != 0 {
            return Ok(short);
        }
        let mut len = base;
        loop {
            match self.byte()? {
                0 => len += 255,
                last => return Ok(len + usize::from(last)),
            }
        }
    }

    fn literals(&mut self, len: usize) -> Result<(), String> {
        let from = self.stream.get(self.at..self.at + len).ok_or("ends within literals")?;
        self.out
            .get_mut(self.done..self.done + len)
            .ok_or("decodes to more than fits")?
            .copy_from_slice(from);
        self.at += len;
        self.done += len;
        Ok(())
    }

    /// Copies `len` bytes from `distance` back. Source and destination may overlap.
    fn copy(&mut self, distance: usize, len: usize) -> Result<(), String> {
        let start = self.done.checked_sub(distance).ok_or("refers to bytes before its beginning")?;
        if len > self.out.len() - self.done {
            return Err("decodes to more than fits".to_owned());
        }
        for i in 0..len {
            self.out[self.done + i] = self.out[start + i];
        }
        self.done += len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(stream: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = vec![0; 4096];
        let len = decode(stream, &mut out)?;
        out.truncate(len);
        Ok(out)
    }

    const END: [u8; 3] = [17, 0, 0];

    /// Tests each instruction, encoded by hand from the kernel's description of the stream.
    #[test]
    fn each_instruction_copies_what_it_says() {
        let stream = |parts: &[&[u8]]| parts.concat();
        // 4 literals in the first byte, then a match of 3 at distance 4 (code 01 0 011 00), high distance byte 0.
        assert_eq!(decoded(&stream(&[&[21], b"abcd", &[0b0100_1100, 0], &END])).unwrap(), b"abcdabc");
        // A run of 3 + 5 literals, then a match of 2 + 4 at distance 2, followed by two literals.
        let long = stream(&[&[5], b"12345678", &[0b0010_0100, 0b0000_0110, 0], b"xy", &END]);
        assert_eq!(decoded(&long).unwrap(), b"12345678787878xy");
        // After these literals, a short code is a match of two at distance 1 + 1.
        let short =
            stream(&[&[5], b"12345678", &[0b0010_0100, 0b0000_0110, 0], b"xy", &[0b0000_0100, 0], &END]);
        assert_eq!(decoded(&short).unwrap(), b"12345678787878xyxy");
        // A run of 15 + 255 + 1 + 3 literals, and a match of 31 + 9 + 2 at distance 1.
        let literals: Vec<u8> = (0..274).map(|i| i as u8).collect();
        let runs = stream(&[&[0, 0, 1], &literals, &[0b0010_0000, 9, 0, 0], &END]);
        let mut expected = literals.clone();
        expected.extend([17; 42]);
        assert_eq!(decoded(&runs).unwrap(), expected);
        // After many literals, a short code is a match of three at distance 2049 + 1.
        let many: Vec<u8> = (0..2060_u32).map(|i| (i / 7) as u8).collect();
        let mut far = vec![0; 1 + (2060 - 18) / 255];
        far.push(((2060 - 18) % 255) as u8);
        let far = stream(&[&far, &many, &[0b0000_0100, 0], &END]);
        assert_eq!(decoded(&far).unwrap(), [&many[..], &many[10..13]].concat());
    }

    #[test]
    fn damage_is_an_error_and_never_a_read_out_of_bounds() {
        for stream in
            [&[][..], &[0], &[21, b'a'], &[0, 0, 0], &[21, b'a', b'b', b'c', b'd', 0x4C, 9, 17, 0, 0]]
        {
            assert!(decoded(stream).is_err(), "{stream:?}");
        }
        // A match of unbounded length.
        assert!(
            decoded(&[
                21,
                1,
                2,
                3,
                4,
                0b0010_0000,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                9,
                0,
                0
            ])
            .is_err()
        );
    }

    fn frame(segments: &[&[u8]], sector: usize) -> Vec<u8> {
        let mut frame = vec![0; LEN];
        for segment in segments {
            if sector - frame.len() % sector < LEN {
                frame.resize(frame.len().next_multiple_of(sector), 0);
            }
            frame.extend((segment.len() as u32).to_le_bytes());
            frame.extend(*segment);
        }
        let len = frame.len() as u32;
        frame[..LEN].copy_from_slice(&len.to_le_bytes());
        frame
    }

    #[test]
    fn the_length_of_a_segment_does_not_cross_a_boundary() {
        // A sector of 32 bytes, of which the first segment leaves varying numbers of bytes.
        for literals in 10..30 {
            let text: Vec<u8> = (0..literals).collect();
            let first = [&[17 + literals][..], &text, &END].concat();
            let second = [&[21][..], b"next", &END].concat();
            let mut encoded = frame(&[&first, &second], 32);
            encoded.extend([0; 40]);
            let mut out = [9; 50];
            let len = decode_extent(&encoded, 32, &mut out).unwrap();
            assert_eq!(out[..len], [&text[..], b"next"].concat(), "{literals}");
        }
    }

    #[test]
    fn a_frame_that_is_cut_is_an_error() {
        let encoded = frame(&[&[21, 1, 2, 3, 4, 17, 0, 0]], 4096);
        let mut out = [0; 4];
        assert_eq!(decode_extent(&encoded, 4096, &mut out), Ok(4));
        assert!((0..encoded.len()).all(|len| decode_extent(&encoded[..len], 4096, &mut out).is_err()));
    }
}
