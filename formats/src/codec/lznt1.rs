//! LZNT1 ([MS-XCA] 2.5), the encoding of files that NTFS compresses.
//!
//! A stream consists of chunks, each of which decodes to 4096 bytes. A chunk begins with a header of 16 bits: its size less 3
//! with the header, a signature, and whether it is compressed. In a compressed chunk each byte of flags precedes eight
//! items: a literal byte, or a match of 16 bits. The farther a match is from the chunk's start, the more of its bits are the
//! distance and the fewer the length.

/// The bytes that a chunk decodes to.
const CHUNK: usize = 4096;
/// The shortest match.
const MATCH_MIN: usize = 3;

/// Decodes a stream, up to `out.len()` bytes. A chunk that is shorter than others is followed by zeros, as is a stream;
/// `out` must be zeros. A chunk whose header is 0 ends the stream.
pub(super) fn decode(stream: &[u8], out: &mut [u8]) -> Result<(), String> {
    let mut rest = stream;
    for chunk in out.chunks_mut(CHUNK) {
        let header = match rest {
            [] | [0, 0, ..] => return Ok(()),
            [_] => return Err("ends within a chunk's header".to_owned()),
            [low, high, ..] => u16::from_le_bytes([*low, *high]),
        };
        let size = usize::from(header & 0xFFF) + 3;
        if header >> 12 & 7 != 3 {
            return Err(format!("has the chunk header {header:#06x}, whose signature is not 3"));
        }
        let (now, later) = rest.split_at_checked(size).ok_or("ends within a chunk")?;
        rest = later;
        let data = &now[2..];
        if header & 0x8000 == 0 {
            // The end of the last chunk may not be wanted.
            let len = data.len().min(chunk.len());
            chunk[..len].copy_from_slice(&data[..len]);
        } else {
            decode_chunk(data, chunk)?;
        }
    }
    Ok(())
}

/// Decodes the items of a chunk, up to `out.len()` bytes.
fn decode_chunk(mut data: &[u8], out: &mut [u8]) -> Result<(), String> {
    let mut done = 0;
    while let [flags, items @ ..] = data {
        data = items;
        for item in 0..8 {
            if data.is_empty() || done == out.len() {
                break;
            }
            if flags >> item & 1 == 0 {
                out[done] = data[0];
                (data, done) = (&data[1..], done + 1);
                continue;
            }
            let [low, high, later @ ..] = data else { return Err("ends within a match".to_owned()) };
            data = later;
            let word = usize::from(u16::from_le_bytes([*low, *high]));
            if done == 0 {
                return Err("begins with a match".to_owned());
            }
            // Distances need 4 bits for the first 16 bytes, 5 for 32, … 12 for 4096.
            let distance_bits = ((done - 1).max(8).ilog2() + 1).max(4);
            let len_bits = 16 - distance_bits;
            let distance = (word >> len_bits) + 1;
            let len = (word & ((1 << len_bits) - 1)) + MATCH_MIN;
            if distance > done {
                return Err(format!("has a match {distance} bytes before byte {done} of a chunk"));
            }
            // The match may reach past what is wanted, but not past the chunk.
            if done + len > CHUNK {
                return Err(format!("has a match of {len} bytes at byte {done} of a chunk"));
            }
            for _ in 0..len.min(out.len() - done) {
                out[done] = out[done - distance];
                done += 1;
            }
        }
        if done == out.len() {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(stream: &[u8], len: usize) -> Result<Vec<u8>, String> {
        let mut out = vec![0; len];
        decode(stream, &mut out)?;
        Ok(out)
    }

    #[test]
    fn short_chunks_are_followed_by_zeros_and_stored_ones_are_copied() {
        // Four literals; a stored chunk of two bytes; the end.
        let stream = [&[0x04, 0xB0, 0][..], b"abcd", &[0x01, 0x30], b"xy", &[0, 0], b"rest"].concat();
        let mut expected = vec![0; 12_288];
        expected[..4].copy_from_slice(b"abcd");
        expected[4096..4098].copy_from_slice(b"xy");
        assert_eq!(decoded(&stream, 12_288), Ok(expected));
        assert_eq!(decoded(&stream, 3).unwrap(), b"abc");
        assert_eq!(decoded(&[], 2), Ok(vec![0, 0]));
    }

    #[test]
    fn matches_overlap_what_they_make() {
        // "a", and 4095 more of the byte before.
        let stream = [0x03, 0xB0, 2, b'a', 0xFC, 0x0F];
        assert_eq!(decoded(&stream, 4096), Ok(vec![b'a'; 4096]));
        assert_eq!(decoded(&stream, 100), Ok(vec![b'a'; 100]));
    }

    #[test]
    fn senseless_streams_are_refused() {
        let error = |stream: &[u8]| decoded(stream, 4096).unwrap_err();
        assert!(error(&[0x03]).contains("within a chunk's header"));
        assert!(error(&[0x03, 0xA0, 0, 0, 0, 0]).contains("signature"));
        assert!(error(&[0x05, 0xB0, 0, 0]).contains("within a chunk"));
        assert!(error(&[0x02, 0xB0, 1, 0, 0]).contains("begins with a match"));
        assert!(error(&[0x02, 0xB0, 2, b'a', 0]).contains("within a match"));
        assert!(error(&[0x03, 0xB0, 2, b'a', 0, 0x10]).contains("2 bytes before byte 1"));
        assert!(error(&[0x03, 0xB0, 2, b'a', 0xFD, 0x0F]).contains("4096 bytes at byte 1"));
    }
}
