//! Compresses and decompresses blocks on many threads; the codecs' states are reused.

use std::sync::Mutex;

use libdeflater::{DecompressionError, Decompressor};

use super::file::ImageFile;
use crate::error::{Result, at};
use crate::source::Source;

/// The compression of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// A raw deflate stream (RFC 1951); trailing bytes are ignored.
    Deflate,
    /// A zlib stream (RFC 1950).
    Zlib,
    /// Zstandard frames (RFC 8878); trailing bytes are ignored.
    Zstd,
}

/// A decompressor of blocks in files.
#[derive(Default)]
pub(super) struct Unpacker {
    idle: Mutex<Vec<Scratch>>,
}

struct Scratch {
    packed: Vec<u8>,
    inflate: Decompressor,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Unpacker {
    /// Reads the `len` bytes of `file` at `offset` (fewer at the end of the file) and unpacks them into `block`. They
    /// must fill at least `least` bytes of it; the rest is zeroed.
    pub(super) fn unpack(
        &self,
        codec: Codec,
        file: &ImageFile,
        offset: u64,
        len: usize,
        block: &mut [u8],
        least: usize,
    ) -> Result<()> {
        let idle = self.idle.lock().expect("no panic while locked").pop();
        let mut scratch =
            idle.unwrap_or_else(|| Scratch { packed: Vec::new(), inflate: Decompressor::new(), zstd: None });
        let result = scratch.unpack(codec, file, offset, len, block, least);
        self.idle.lock().expect("no panic while locked").push(scratch);
        result
    }
}

impl Scratch {
    fn unpack(
        &mut self,
        codec: Codec,
        file: &ImageFile,
        offset: u64,
        len: usize,
        block: &mut [u8],
        least: usize,
    ) -> Result<()> {
        let place = || at("compressed block").file(file.path()).byte(offset);
        let there = file.len().saturating_sub(offset).min(len as u64) as usize;
        self.packed.resize(there, 0);
        file.read_at(offset, &mut self.packed)?;
        let unpacked = match codec {
            Codec::Deflate => self.inflate.deflate_decompress(&self.packed, block).map_err(|e| describe(&e)),
            Codec::Zlib => self.inflate.zlib_decompress(&self.packed, block).map_err(|e| describe(&e)),
            Codec::Zstd => self.unzstd(block),
        };
        match unpacked {
            Ok(len) if len >= least => {
                block[len..].fill(0);
                Ok(())
            }
            Ok(len) => Err(place().corrupt(format!("decompresses to {len} bytes, expected {least}"))),
            Err(problem) => Err(place().corrupt(format!("cannot be decompressed: {problem}"))),
        }
    }

    fn unzstd(&mut self, block: &mut [u8]) -> Result<usize, String> {
        let context = match &mut self.zstd {
            Some(context) => context,
            none => none.insert(zstd::bulk::Decompressor::new().map_err(|e| e.to_string())?),
        };
        let (mut packed, mut done) = (self.packed.as_slice(), 0);
        while done < block.len() && !packed.is_empty() {
            let frame = zstd::zstd_safe::find_frame_compressed_size(packed)
                .map_err(|code| zstd::zstd_safe::get_error_name(code).to_owned())?;
            let (frame, rest) = packed.split_at(frame);
            let unpacked = context.decompress_to_buffer(frame, &mut block[done..]);
            done += unpacked.map_err(|e| e.to_string())?;
            packed = rest;
        }
        Ok(done)
    }
}

/// A compressor of blocks.
pub(super) struct Packer {
    codec: Codec,
    level: i32,
    idle: Mutex<Vec<Press>>,
}

enum Press {
    Deflate(libdeflater::Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Packer {
    /// Creates a packer with `level` on the codec's own scale: 1 to 12 of libdeflate, 1 to 19 of zstd.
    pub(super) fn new(codec: Codec, level: i32) -> Result<Self> {
        let packer = Packer { codec, level, idle: Mutex::new(Vec::new()) };
        let first = packer.press()?;
        packer.idle.lock().expect("no panic while locked").push(first);
        Ok(packer)
    }

    fn press(&self) -> Result<Press> {
        match self.codec {
            Codec::Zstd if (1..=19).contains(&self.level) => {
                let press = zstd::bulk::Compressor::new(self.level);
                press.map(Press::Zstd).map_err(|e| at("zstd").io(e))
            }
            Codec::Deflate | Codec::Zlib if (1..=12).contains(&self.level) => {
                let level = libdeflater::CompressionLvl::new(self.level).expect("in its range");
                Ok(Press::Deflate(libdeflater::Compressor::new(level)))
            }
            codec => {
                let most = if codec == Codec::Zstd { 19 } else { 12 };
                let problem = format!("is {}, expected 1 to {most}", self.level);
                Err(at("compression level").unsupported(problem))
            }
        }
    }

    /// Appends `block`, compressed, to `out` if that takes at most `most` bytes; returns the compressed length.
    pub(super) fn pack(&self, block: &[u8], out: &mut Vec<u8>, most: usize) -> Option<usize> {
        let idle = self.idle.lock().expect("no panic while locked").pop();
        // `Packer::new` has tried the level.
        let mut press = idle.or_else(|| self.press().ok())?;
        let start = out.len();
        out.resize(start + most, 0);
        let space = &mut out[start..];
        let packed = match (&mut press, self.codec) {
            (Press::Deflate(press), Codec::Zlib) => press.zlib_compress(block, space).ok(),
            (Press::Deflate(press), _) => press.deflate_compress(block, space).ok(),
            (Press::Zstd(press), _) => press.compress_to_buffer(block, space).ok(),
        };
        out.truncate(start + packed.unwrap_or(0));
        self.idle.lock().expect("no panic while locked").push(press);
        packed
    }
}

fn describe(error: &DecompressionError) -> String {
    let words = match error {
        DecompressionError::BadData => "the compressed data is damaged",
        DecompressionError::InsufficientSpace => "it is larger than a block",
    };
    words.to_owned()
}
