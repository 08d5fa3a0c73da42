//! ADC, Apple Data Compression: literals, and matches of two lengths.

use super::matches::copy;

/// Decodes into exactly `out`.
pub(super) fn decode(mut input: &[u8], out: &mut [u8]) -> Result<(), &'static str> {
    let mut done = 0;
    while done < out.len() {
        let (&first, rest) = input.split_first().ok_or("it ends early")?;
        if first & 0x80 != 0 {
            let len = usize::from(first & 0x7f) + 1;
            let literal = rest.get(..len).ok_or("it ends within a literal")?;
            out.get_mut(done..done + len).ok_or("it is too long")?.copy_from_slice(literal);
            done += len;
            input = &rest[len..];
            continue;
        }
        let (len, distance, taken) = match first & 0x40 {
            0 => {
                let low = *rest.first().ok_or("it ends within a match")?;
                (usize::from(first >> 2) + 3, usize::from(first & 3) << 8 | usize::from(low), 1)
            }
            _ => {
                let bytes = rest.get(..2).ok_or("it ends within a match")?;
                (usize::from(first & 0x3f) + 4, usize::from(bytes[0]) << 8 | usize::from(bytes[1]), 2)
            }
        };
        input = &rest[taken..];
        copy(out, done, distance + 1, len)?;
        done += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_both_kinds_of_matches_are_decoded() {
        let mut out = [0; 15];
        // "abc", a short match of 4 from 3 back, a long match of 8 from 1 back.
        decode(&[0x82, b'a', b'b', b'c', 0x04, 0x02, 0x44, 0x00, 0x00], &mut out).unwrap();
        assert_eq!(&out, b"abcabcaaaaaaaaa");
        for bad in
            [&[][..], &[0x82, b'a'], &[0x04, 0x00], &[0x80, b'a', 0x40, 0x00], &[0x80, b'a', 0x04, 0x05]]
        {
            assert!(decode(bad, &mut out).is_err(), "{bad:?}");
        }
        assert!(decode(&[0x8f; 17], &mut out).is_err(), "longer than the chunk");
    }
}
