//! LZVN, which LZFSE uses for little data: literals and matches in whole bytes.

use super::matches::copy;

type Result<T> = std::result::Result<T, &'static str>;

/// Decodes to `done` and the bytes after it, which fill `out`. Matches may begin before `done`.
pub(super) fn decode(input: &[u8], out: &mut [u8], mut done: usize) -> Result<()> {
    let (mut at, mut distance) = (0, 0);
    let byte = |at: usize| input.get(at).copied().map(usize::from).ok_or("it ends early");
    loop {
        let code = byte(at)?;
        // The number of literals and the length of the match that follows them.
        let (taken, literals, len) = match code {
            0x06 => break,
            0x0e | 0x16 => (1, 0, 0),
            0x1e | 0x26 | 0x2e | 0x36 | 0x3e | 0x70..=0x7f | 0xd0..=0xdf => {
                return Err("it has an unknown code");
            }
            0xe0 => (2, byte(at + 1)? + 16, 0),
            0xe1..=0xef => (1, code & 15, 0),
            0xf0 => (2, 0, byte(at + 1)? + 16),
            0xf1..=0xff => (1, 0, code & 15),
            0xa0..=0xbf => {
                let (low, high) = (byte(at + 1)?, byte(at + 2)?);
                distance = low >> 2 | high << 6;
                (3, code >> 3 & 3, ((code & 7) << 2 | low & 3) + 3)
            }
            _ => {
                let taken = match code & 7 {
                    6 => 1,
                    7 => {
                        distance = byte(at + 1)? | byte(at + 2)? << 8;
                        3
                    }
                    high => {
                        distance = high << 8 | byte(at + 1)?;
                        2
                    }
                };
                (taken, code >> 6, (code >> 3 & 7) + 3)
            }
        };
        at += taken;
        let from = input.get(at..at + literals).ok_or("it ends within literals")?;
        out.get_mut(done..done + literals).ok_or("it is too long")?.copy_from_slice(from);
        (at, done) = (at + literals, done + literals);
        copy(out, done, distance, len)?;
        done += len;
    }
    if done == out.len() { Ok(()) } else { Err("it is too short") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_is_decoded() {
        // Three literals and a match of 3 from 3 back; a match of 2 from there; 2 literals; a match from 8 back in three
        // bytes; the end.
        let input = [0xc0, 3, b'a', b'b', b'c', 0x0e, 0xf2, 0xe2, b'd', b'e', 0xa0, 8 << 2, 0, 0x06, 9];
        let mut out = [b'-'; 1 + 13];
        decode(&input, &mut out, 1).unwrap();
        assert_eq!(&out, b"-abcabcabdecab");
        // The distance before, a large one, and long runs.
        let mut long = vec![0xe0, 0];
        long.extend(b"0123456789abcdef");
        long.extend([0x07, 16, 0, 0x46, b'x', 0xf0, 1, 0x06]);
        let mut out = vec![0; 16 + 3 + 1 + 3 + 17];
        decode(&long, &mut out, 0).unwrap();
        assert_eq!(&out[..23], b"0123456789abcdef012x456");
        for bad in [&[][..], &[0xe2, b'a'], &[0x06], &[0xf1], &[0x1e], &[0xc0, 1, b'a', b'b', b'c', 0x06]] {
            assert!(decode(bad, &mut [0; 5], 0).is_err(), "{bad:?}");
        }
    }
}
