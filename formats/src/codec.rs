//! Codecs of compressed extents, which are decoded when a filesystem is read.
//!
//! Decoding is bounded: input and output are limited to [`MAX`] bytes, and the output to what the caller expects.

mod bits;
mod huffman;
mod lznt1;
mod lzo;
mod lzx;
mod matches;
mod xpress;

/// The largest size of an extent in bytes, both encoded and decoded.
pub const MAX: u32 = 4 << 20;

/// The encoding of an extent's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// A zlib stream (RFC 1950); bytes after its end are ignored.
    Zlib,
    /// A zstd frame (RFC 8878); bytes after its end are ignored.
    Zstd,
    /// The Btrfs framing of LZO1X segments; bytes after its end are ignored.
    BtrfsLzo {
        /// Bytes per sector of the volume, which is the most that a segment decodes to.
        sector: u32,
    },
    /// LZNT1 chunks, as NTFS compresses a unit of a file.
    Lznt1,
    /// One chunk of XPRESS with Huffman codes, of at most 64 KiB.
    Xpress,
    /// One chunk of LZX with a window of 32 KiB, of at most that size.
    Lzx,
}

/// The largest window of a zstd frame, as a power of two: at most [`MAX`] bytes are decoded.
const ZSTD_WINDOW_LOG: u32 = 22;

impl Codec {
    /// Decodes `encoded` into exactly `len` bytes. If a stream of Btrfs or NTFS is shorter, the rest is zeros, as in the
    /// kernel; XPRESS and LZX must have all of them.
    ///
    /// The error is a predicate without a subject: `is not a zlib stream`.
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
            Codec::Lznt1 => {
                let problem = |problem| format!("is not LZNT1: it {problem}");
                lznt1::decode(encoded, &mut bytes).map_err(problem)?;
                bytes.len()
            }
            Codec::Xpress => {
                let problem = |problem| format!("is not XPRESS: it {problem}");
                xpress::decode(encoded, &mut bytes).map_err(problem)?;
                bytes.len()
            }
            Codec::Lzx => {
                let problem = |problem| format!("is not LZX: it {problem}");
                lzx::decode(encoded, &mut bytes).map_err(problem)?;
                bytes.len()
            }
        };
        // Decoders may leave arbitrary bytes after the decoded ones.
        bytes[done..].fill(0);
        Ok(bytes)
    }
}

/// Decodes a zlib stream into `bytes`, truncating it if it is longer. Returns the number of bytes decoded.
fn zlib(encoded: &[u8], bytes: &mut [u8]) -> Result<usize, String> {
    let len = bytes.len();
    let failed = |e| format!("is not a zlib stream of {len} bytes: {e}");
    let mut decoder = libdeflater::Decompressor::new();
    match decoder.zlib_decompress(encoded, bytes) {
        // The stream decodes to more bytes than the extent has.
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

    /// The extents that Linux 6.18 wrote on Btrfs for a file of 9000 bytes; the streams do not contain the rest of its
    /// last sector.
    #[test]
    fn what_the_kernel_encoded_is_decoded() {
        let mut plain: Vec<u8> = (0..9000).map(|i| b"golden vector "[i % 14] ^ (i / 1000) as u8).collect();
        plain.resize(12_288, 0);
        let lzo = "310100007d0000000b676f6c64656e20766563746f722020000000bc34000b21776462756e7321666e6d65646f\
             20000000bc34000b7022656d6e66676c22746761766d20000000bc34000b666d23756660776c7123646c6f6720\
             000000bc34000b706b7624636b6860616a24726167202334000b6167706b7624636b6860616a24721100007d00\
             00000b6167706b7624636b6860616a2472200000005c34000b6961606b25736066716a7725626a20000000bc34\
             000b63657269742661696a626368267020000000bc34000b60686b636269277162647368752720000000bc3400\
             0b287e6d6b7c677a286f67646c6d66208334000b646c6d66287e6d6b7c677a286f67110000270000000b646c6d\
             66287e6d6b7c677a286f67200000ed34000b7a286f67646c6d66287e6d6b7c67110000";
        let zlib = "785eec93c911802014c55a01a13090e53bb28a2ceddb8427e61d73cd2454a275994d677a698c4030810a36fc81\
             2f7b8efc729f93b3050413a860c71feae152f6148f4e7a26104ca0821d7ff0490caf567c848d854030810a76fc\
             a186294db894be65d3f43f7d000000ffffec93cb0d80201404abe153163c107820514463628cb55b8691ec712e\
             7b98cc62137651d6f71f636b8ae826b47c0aca2098400523fec14d1befd2722697e40a82095430e21f4c2a8e58\
             35f23d1d0a0413a860c43fe8a7963b5e7a897eaee17ff4020000ffff1a75f568fc8da65dc2f916000000ffff03\
             0036cc42f2";
        let zstd = "28b52ffd602822150400e2871a1970450f9a28afe8908be826496478faffff1b05fe81e1ff4308fd8f3d02022e\
             703f0024775546336128b96524b2126aec209651951a3a9636dbd4c399c3fc50a31db35c3214273d3e2ee65b4c\
             dfe2fb95e39678def0152123ab873d5478112f8340a34d4a11a0e2173d09440e2dd7c175701d5c07d7c175701d\
             5c07d76306";
        for (codec, text) in
            [(Codec::BtrfsLzo { sector: 4096 }, lzo), (Codec::Zlib, zlib), (Codec::Zstd, zstd)]
        {
            let byte = |i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap();
            let mut encoded: Vec<u8> = (0..text.len() / 2).map(byte).collect();
            encoded.resize(4096, 0);
            assert_eq!(codec.decode(&encoded, 12_288).unwrap(), plain, "{codec:?}");
            encoded[20] ^= 0x55;
            assert_ne!(codec.decode(&encoded, 12_288), Ok(plain.clone()), "{codec:?}");
        }
    }

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
