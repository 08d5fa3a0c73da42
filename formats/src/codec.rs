//! The codecs of compressed extents, which filesystems decode when they are read.
//!
//! A decoder is bounded: it takes and makes at most [`MAX`] bytes, and no more than its caller expects.

mod lzo;

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
    /// Btrfs's frame of segments of LZO1X; bytes after its end are ignored.
    BtrfsLzo {
        /// Bytes per sector of the volume: the most that a segment decodes to.
        sector: u32,
    },
}

/// The largest window of a zstd frame, as a power of two: no more than [`MAX`] is decoded.
const ZSTD_WINDOW_LOG: u32 = 22;

impl Codec {
    /// Decodes `encoded` into exactly `len` bytes. What the stream lacks is zeros, as the kernel fills it.
    ///
    /// The error is a sentence without its subject: `is not a zlib stream`.
    pub fn decode(self, encoded: &[u8], len: u32) -> Result<Vec<u8>, String> {
        if len > MAX || encoded.len() > MAX as usize {
            return Err(format!("has {} bytes that decode to {len}, over the limit of {MAX}", encoded.len()));
        }
        let mut bytes = vec![0; len as usize];
        let done = match self {
            Codec::Zlib => zlib(encoded, &mut bytes)?,
            Codec::Zstd => {
                use std::io::Read;
                let failed = |e: std::io::Error| format!("is not a zstd frame: {e}");
                let mut decoder = zstd::Decoder::with_buffer(encoded).map_err(failed)?.single_frame();
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(failed)?;
                let mut done = 0;
                while done < bytes.len() {
                    match decoder.read(&mut bytes[done..]).map_err(failed)? {
                        0 => break,
                        read => done += read,
                    }
                }
                done
            }
            Codec::BtrfsLzo { sector } => {
                let problem = |problem| format!("is not LZO in Btrfs's frame: it {problem}");
                if sector < 8 {
                    return Err(format!("has sectors of {sector} bytes"));
                }
                lzo::decode_extent(encoded, sector as usize, &mut bytes).map_err(problem)?
            }
        };
        // Decoders may leave anything after what they have decoded.
        bytes[done..].fill(0);
        Ok(bytes)
    }
}

/// Decodes a zlib stream into `bytes`, which may be shorter or longer than what it decodes to. Returns how many it has.
fn zlib(encoded: &[u8], bytes: &mut [u8]) -> Result<usize, String> {
    let len = bytes.len();
    let failed = |e| format!("is not a zlib stream of {len} bytes: {e}");
    let mut decoder = libdeflater::Decompressor::new();
    match decoder.zlib_decompress(encoded, bytes) {
        // The stream holds more than belongs to the extent.
        Err(libdeflater::DecompressionError::InsufficientSpace) => {
            let mut whole = vec![0; MAX as usize];
            decoder.zlib_decompress(encoded, &mut whole).map_err(failed)?;
            bytes.copy_from_slice(&whole[..len]);
            Ok(len)
        }
        other => other.map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_holds_more_than_is_wanted_is_cut() {
        let plain = b"some bytes, some bytes".repeat(10);
        let zstd = zstd::bulk::compress(&plain, 3).unwrap();
        let mut zlib = vec![0; 1000];
        let len = libdeflater::Compressor::default().zlib_compress(&plain, &mut zlib).unwrap();
        for (codec, encoded) in [(Codec::Zstd, &zstd[..]), (Codec::Zlib, &zlib[..len])] {
            assert_eq!(codec.decode(encoded, 100).unwrap(), plain[..100], "{codec:?}");
        }
    }

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
