//! The codecs of compressed extents, which filesystems decode when they are read.
//!
//! A decoder is bounded: it takes and makes at most [`MAX`] bytes, and no more than its caller expects.

/// The most bytes of an extent, encoded and decoded.
pub const MAX: u32 = 4 << 20;

/// How the bytes of an extent are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// A zlib stream (RFC 1950); bytes after its end are ignored.
    Zlib,
    /// A zstd frame (RFC 8878); bytes after its end are ignored.
    Zstd,
}

impl Codec {
    /// Decodes `encoded` into exactly `len` bytes. What the stream lacks is zeros, as the kernel fills it.
    ///
    /// The error is a sentence without its subject: `is not a zlib stream`.
    pub fn decode(self, encoded: &[u8], len: u32) -> Result<Vec<u8>, String> {
        if len > MAX || encoded.len() > MAX as usize {
            return Err(format!("has {} bytes that decode to {len}, over the limit of {MAX}", encoded.len()));
        }
        let mut bytes = vec![0; len as usize];
        match self {
            Codec::Zlib => {
                let mut decoder = libdeflater::Decompressor::new();
                decoder
                    .zlib_decompress(encoded, &mut bytes)
                    .map_err(|e| format!("is not a zlib stream of {len} bytes: {e}"))?;
            }
            Codec::Zstd => {
                use std::io::Read;
                let failed = |e: std::io::Error| format!("is not a zstd frame: {e}");
                let mut decoder = zstd::Decoder::with_buffer(encoded).map_err(failed)?.single_frame();
                let mut done = 0;
                while done < bytes.len() {
                    match decoder.read(&mut bytes[done..]).map_err(failed)? {
                        0 => break,
                        read => done += read,
                    }
                }
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_stream_is_ignored_and_what_it_lacks_is_zeros() {
        let plain = b"some bytes, some bytes".repeat(10);
        let mut zstd = zstd::bulk::compress(&plain, 3).unwrap();
        zstd.extend([0; 100]);
        let mut zlib = vec![0; 1000];
        let len = libdeflater::Compressor::default().zlib_compress(&plain, &mut zlib).unwrap();
        assert!(len < 1000);
        for (codec, encoded) in [(Codec::Zstd, zstd), (Codec::Zlib, zlib)] {
            let decoded = codec.decode(&encoded, 300).unwrap();
            assert_eq!(decoded[..220], plain[..], "{codec:?}");
            assert_eq!(decoded[220..], [0; 80], "{codec:?}");
            assert!(codec.decode(&encoded[5..], 300).is_err(), "{codec:?}");
            assert!(codec.decode(&encoded, MAX + 1).is_err(), "{codec:?}");
        }
    }
}
