//! The codecs of compressed files: how they are recognised, and the crates that decode them.

use std::io::{self, BufRead, Read};

use super::lzop::{self, LzopDecoder};
use crate::bytes::le32;

/// The largest dictionary of an xz or LZMA stream, with the decoder's own tables, in bytes. (`xz -9` needs 65 MiB, and
/// the largest dictionary of its own options is 1.5 GiB.)
const XZ_MEMORY: u64 = 1700 << 20;

/// The memory for decoding blocks of an xz stream on several threads. A stream that needs more has one thread.
const XZ_THREADS_MEMORY: u64 = 1 << 30;

/// The largest window of a zstd frame, as a power of two: that of `zstd --long=31`. Its memory is touched only as far as
/// there is data.
const ZSTD_WINDOW_LOG: u32 = 31;

/// A codec of compressed files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// gzip (RFC 1952).
    Gzip,
    /// xz, with any filters.
    Xz,
    /// LZMA alone, as `.lzma` files have it.
    Lzma,
    /// zstd frames (RFC 8878).
    Zstd,
    /// bzip2.
    Bzip2,
    /// LZ4 frames, also of the first version.
    Lz4,
    /// Files of lzop.
    Lzop,
}

impl Codec {
    /// Recognises a compressed file by its first bytes; `len` is its length.
    pub(super) fn of(head: &[u8], len: u64) -> Option<Self> {
        let starts = [Codec::Gzip, Codec::Xz, Codec::Zstd, Codec::Lz4, Codec::Lzop];
        let found =
            starts.into_iter().find(|codec| codec.magics().iter().any(|magic| head.starts_with(magic)));
        // pzstd puts the size of each frame into a frame that is skipped; lz4 knows the same frames.
        found.or_else(|| after_skipped(head)).or_else(|| match () {
            () if is_bzip2(head) => Some(Codec::Bzip2),
            () if is_lzma(head, len) => Some(Codec::Lzma),
            () => None,
        })
    }

    /// Returns the bytes with which a stream of this codec begins; none if they are not fixed.
    pub(super) fn magics(self) -> &'static [&'static [u8]] {
        match self {
            Codec::Gzip => &[b"\x1f\x8b\x08"],
            Codec::Xz => &[b"\xfd7zXZ\0"],
            Codec::Zstd => &[b"\x28\xb5\x2f\xfd"],
            Codec::Bzip2 => &[b"BZh"],
            Codec::Lz4 => &[b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18"],
            Codec::Lzop => &[lzop::MAGIC],
            Codec::Lzma => &[],
        }
    }

    /// Returns its name for people: `gzip data`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Codec::Gzip => "gzip data",
            Codec::Xz => "xz data",
            Codec::Lzma => "LZMA data",
            Codec::Zstd => "zstd data",
            Codec::Bzip2 => "bzip2 data",
            Codec::Lz4 => "LZ4 data",
            Codec::Lzop => "lzop data",
        }
    }

    /// Returns true if frames to skip may stand between its streams.
    pub(super) fn has_skipped_frames(self) -> bool {
        matches!(self, Codec::Zstd | Codec::Lz4)
    }
}

/// Recognises a frame to skip: returns its length with its header.
pub(super) fn skipped_frame(head: &[u8]) -> Option<u64> {
    (head.len() >= 8 && le32(head, 0) & 0xffff_fff0 == 0x184d_2a50).then(|| 8 + u64::from(le32(head, 4)))
}

/// Recognises zstd and LZ4 data after a small frame to skip.
fn after_skipped(head: &[u8]) -> Option<Codec> {
    let rest = head.get(usize::try_from(skipped_frame(head)?).ok()?..)?;
    [Codec::Zstd, Codec::Lz4]
        .into_iter()
        .find(|codec| codec.magics().iter().any(|magic| rest.starts_with(magic)))
}

/// Recognises bzip2: the block size, then the magic number of the first block, or of the end of an empty stream.
#[must_use]
pub fn is_bzip2(head: &[u8]) -> bool {
    head.len() >= 10
        && head.starts_with(b"BZh")
        && head[3].is_ascii_digit()
        && (head[4..10] == *b"\x31\x41\x59\x26\x53\x59" || head[4..10] == *b"\x17\x72\x45\x38\x50\x90")
}

/// Recognises `.lzma`, which has no magic number, by the properties that every encoder writes, a dictionary size that
/// is a power of two, and an unpacked length that is unknown or plausible. `len` is the length of the file.
#[must_use]
pub fn is_lzma(head: &[u8], len: u64) -> bool {
    if head.len() < 14 || head[0] != 0x5d || head[13] != 0 {
        return false;
    }
    let dictionary = le32(head, 1);
    let unpacked = crate::bytes::le64(head, 5);
    let credible = unpacked == u64::MAX || (unpacked >= len / 2 && unpacked < 1 << 48);
    dictionary.is_power_of_two() && dictionary >= 4096 && credible
}

/// A decoder of one stream: a member of a gzip file, a stream of an xz file, a frame of a zstd file.
pub(super) enum Decoder<R: BufRead> {
    Gzip(flate2::bufread::GzDecoder<R>),
    Deflate(flate2::bufread::DeflateDecoder<R>),
    Xz(liblzma::bufread::XzDecoder<R>),
    Zstd(zstd::stream::read::Decoder<'static, R>),
    Bzip2(bzip2::bufread::BzDecoder<R>),
    Lz4(lz4_flex::frame::FrameDecoder<R>),
    Lzop(LzopDecoder<R>),
}

impl<R: BufRead> Decoder<R> {
    /// Creates a decoder of the stream that `input` is at.
    pub(super) fn new(codec: Codec, input: R) -> io::Result<Self> {
        use liblzma::stream::{MtStreamBuilder, Stream};
        Ok(match codec {
            Codec::Gzip => Decoder::Gzip(flate2::bufread::GzDecoder::new(input)),
            Codec::Xz => {
                let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                let stream = MtStreamBuilder::new()
                    .threads(threads.min(64) as u32)
                    .memlimit_threading(XZ_THREADS_MEMORY)
                    .memlimit_stop(XZ_MEMORY)
                    .decoder()?;
                Decoder::Xz(liblzma::bufread::XzDecoder::new_stream(input, stream))
            }
            Codec::Lzma => {
                let stream = Stream::new_lzma_decoder(XZ_MEMORY)?;
                Decoder::Xz(liblzma::bufread::XzDecoder::new_stream(input, stream))
            }
            Codec::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?.single_frame();
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Decoder::Zstd(decoder)
            }
            Codec::Bzip2 => Decoder::Bzip2(bzip2::bufread::BzDecoder::new(input)),
            Codec::Lz4 => Decoder::Lz4(lz4_flex::frame::FrameDecoder::new(input)),
            Codec::Lzop => Decoder::Lzop(LzopDecoder::new(input)?),
        })
    }

    /// Returns the input, which is after the stream if all of it was read.
    pub(super) fn into_inner(self) -> R {
        match self {
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Deflate(decoder) => decoder.into_inner(),
            Decoder::Xz(decoder) => decoder.into_inner(),
            Decoder::Zstd(decoder) => decoder.into_inner(),
            Decoder::Bzip2(decoder) => decoder.into_inner(),
            Decoder::Lz4(decoder) => decoder.into_inner(),
            Decoder::Lzop(decoder) => decoder.into_inner(),
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Gzip(decoder) => decoder.read(buf),
            Decoder::Deflate(decoder) => decoder.read(buf),
            Decoder::Xz(decoder) => decoder.read(buf),
            Decoder::Zstd(decoder) => decoder.read(buf),
            Decoder::Bzip2(decoder) => decoder.read(buf),
            Decoder::Lz4(decoder) => decoder.read(buf),
            Decoder::Lzop(decoder) => decoder.read(buf),
        }
    }
}

/// Encodes bytes as LZMA with `lc` 3, `lp` 0 and `pb` 2, without a header and with a mark at the end, as GRUB has its core
/// image.
pub fn encode_lzma(bytes: &[u8]) -> crate::error::Result<Vec<u8>> {
    /// The properties, the size of the dictionary, and the size of the content.
    const HEADER: usize = 1 + 4 + 8;
    const DICTIONARY: u32 = 1 << 16;
    let failed = |e: liblzma::stream::Error| crate::error::at("LZMA").io(e.into());
    let mut options = liblzma::stream::LzmaOptions::new_preset(9).map_err(failed)?;
    options.dict_size(DICTIONARY).literal_context_bits(3).literal_position_bits(0).position_bits(2);
    let encoder = liblzma::stream::Stream::new_lzma_encoder(&options).map_err(failed)?;
    let mut encoded = Vec::new();
    liblzma::read::XzEncoder::new_stream(bytes, encoder)
        .read_to_end(&mut encoded)
        .map_err(|e| crate::error::at("LZMA").io(e))?;
    Ok(encoded.split_off(HEADER.min(encoded.len())))
}
