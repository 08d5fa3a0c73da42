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

/// Decodes an LZO1X stream, whose output must fit in `out`. Returns the number of bytes decoded.
///
/// The error is a predicate without a subject.
pub(crate) fn decode_lzo(stream: &[u8], out: &mut [u8]) -> Result<usize, String> {
    lzo::decode(stream, out)
}

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
    /// Returns the number and the parameter that stand for the codec in files. Codecs are numbered from 1.
    #[must_use]
    pub fn number(self) -> (u8, u32) {
        match self {
            Codec::Zlib => (1, 0),
            Codec::Zstd => (2, 0),
            Codec::BtrfsLzo { sector } => (3, sector),
            Codec::Lznt1 => (4, 0),
            Codec::Xpress => (5, 0),
            Codec::Lzx => (6, 0),
        }
    }

    /// Returns the codec with this number and parameter; `None` if there is none.
    #[must_use]
    pub fn of_number(number: u8, parameter: u32) -> Option<Self> {
        let codec = match number {
            1 => Codec::Zlib,
            2 => Codec::Zstd,
            3 => Codec::BtrfsLzo { sector: parameter },
            4 => Codec::Lznt1,
            5 => Codec::Xpress,
            6 => Codec::Lzx,
            _ => return None,
        };
        (codec.number() == (number, parameter)).then_some(codec)
    }

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

    fn bytes(text: &str) -> Vec<u8> {
        let byte = |i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap();
        (0..text.len() / 2).map(byte).collect()
    }

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
            let mut encoded = bytes(text);
            encoded.resize(4096, 0);
            assert_eq!(codec.decode(&encoded, 12_288).unwrap(), plain, "{codec:?}");
            encoded[20] ^= 0x55;
            assert_ne!(codec.decode(&encoded, 12_288), Ok(plain.clone()), "{codec:?}");
        }
    }

    /// The same bytes as ntfs-3g 2022.10 compressed them in a unit, and wimlib 1.13 in a WIM archive.
    #[test]
    fn what_ntfs_3g_and_wimlib_encoded_is_decoded() {
        let plain: Vec<u8> = (0..9000).map(|i| b"golden vector "[i % 14] ^ (i / 1000) as u8).collect();
        let lznt1 = "7eb100676f6c64656e2076406563746f7220d7d32100776462756e732166e06e6d65646f7f03bf01bf01ffbf01\
             bf01bf01bf01bf01bf01bf01bf01ffbf01bf01bf01bf01bf01bf01bf01bf01ffbf01bf01bf01bf01bf01bf01bf\
             01bf0101bf01756e7022656d6e0066676c2274676176fe6dbf01bf01df00df00df00df00df00ffdf00df00df00\
             df00df00df00df00df00ffdf00df00df00df00df00df00df00df00ffdf00df00df00df00df00df00df00df00ff\
             df00df00df00df00df00df00df00df00ffdf00df00df00df00df00df00df00df003fdf00df00df00df00df00df\
             00666d0023756660776c7123f0646c6f67df00df00df00df00ffdf00df00df00df00df00df00df00df00ffdf00\
             df00df00df00df00df00df00df00ffdf00df00df00df00df00df00df00df00ffdf00df00df00df00df00df00df\
             00df00ffdf00df00df00df00df00df00df00df00ffdf00df00df00df00df00df00df00df0007df00df00db0070\
             6b762463006b6860616a2472613e67df00df00df00df00d70084b1006167706b7624636b406860616a247277d3\
             690061606b2573606671e06a7725626a7f037f03bf01ffbf01bf01bf01bf01bf01bf01bf01bf01ffbf01bf01bf\
             01bf01bf01bf01bf01bf01ffbf01bf01bf01bf01bf01bf01bf01bf0101a1016365726974266180696a62636826\
             70bf01ffbf01bf01bf01df00df00df00df00df00ffdf00df00df00df00df00df00df00df00ffdf00df00df00df\
             00df00df00df00df00ffdf00df00df00df00df00df00df00df00ffdf00df00df00df00df00df00df00df00ffdf\
             00df00df00df00df00df00df00df0007df00df00d10060686b6362006927716264736875fe27df00df00df00df\
             00df00df00df00ffdf00df00df00df00df00df00df00df00ffdf00df00df00df00df00df00df00df00ffdf00df\
             00df00df00df00df00df00df00ffdf00df00df00df00df00df00df00df00ffdf00df00df00df00df00df00df00\
             df00ffdf00df00df00df00df00df00df00db0000287e6d6b7c677a28c06f67646c6d66df00df00ffdf00df00df\
             00df00df00df00df00dd0011b000646c6d66287e6d6b407c677a286f6717d30000";
        let xpress = "000000000000000000000000000000006666666606000000000000000000000000000000000000000000000000\
             000000555555455555555556555555000707070000000000000000000000000000000000000000000000000000\
             000000000000000000000000000000000000000000000000000000000000000000000000000007000000000000\
             000000000000000000000000000000000000000000000000400000000000000000000000000000000000000000\
             000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
             000000000000000000000000000000000000000000000000000000000000003d098e0949982aed0368cab5ffd6\
             03780d55d709468744b27bffd7031561f60317b01c106fa8ffd70313759e2f7ce87780c7aeffd703720756c842\
             f1e6808e14ffd703a4e6db544c9ec7d1194dffd7038a6e98c6ebebc4d18e5bffd70377662233bfabbc6307fdff\
             d7030f7d489ef810772800f0ffd7030000";
        let lzx = "322200830000040000234300c62c7f23dbc10e6809b0743afded70fc00000000000330000821f4fbdf67b37e00\
             0000000000230007017ddf4afdd2f76c2cf1eaeaab549ce0ff570115ebf9dcd3ad5993014063ed3765363ef474\
             20f9ba01f6567be4ed1d686401f00fed5c2e4233bb75bc847a00102594bf7d3bbd7d805a6d0d4ee34eb0a99ae1\
             7900b09cd1ad16dd31e74cf13e1e00a55faf0f95f9c81ec0c90003";
        for (codec, text) in [(Codec::Lznt1, lznt1), (Codec::Xpress, xpress), (Codec::Lzx, lzx)] {
            let mut encoded = bytes(text);
            assert_eq!(codec.decode(&encoded, 9000).unwrap(), plain, "{codec:?}");
            let cut = &encoded[..encoded.len() - 20];
            assert_ne!(codec.decode(cut, 9000), Ok(plain.clone()), "{codec:?}");
            // An odd byte, or a chunk header of zero, ends a stream; what is not there is not decoded.
            assert!(codec == Codec::Lznt1 || codec.decode(&encoded, 9001).is_err(), "{codec:?}");
            encoded[20] ^= 0x55;
            assert_ne!(codec.decode(&encoded, 9000), Ok(plain.clone()), "{codec:?}");
        }
    }

    /// Calls of x86 to functions before and after them, as wimlib 1.13 compressed them.
    #[test]
    fn calls_that_lzx_translated_are_translated_back() {
        let call = |i: i32| {
            let target = (5000 - 16 * i).to_le_bytes();
            [&[0xE8][..], &target[..], &[(i % 7) as u8; 11][..]].concat()
        };
        let plain: Vec<u8> = (0..200).flat_map(call).collect();
        let lzx = "c82000000000000044013200e301fd424bfd3af6001900000000810119983c0702058ebef7238ce90000000000\
             008c003504dfa7f57d773d3a96bcf2249e9ed4f564b927d257000000008024";
        assert_eq!(Codec::Lzx.decode(&bytes(lzx), 3200).unwrap(), plain);
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
