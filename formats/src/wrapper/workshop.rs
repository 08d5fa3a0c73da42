//! Where compressed files are decoded: sparse files without a name, and a limit for all of them together.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::codec::{Codec, Decoder};
use super::input::{Input, carried};
use super::stream::Stream;
use crate::error::{Error, Result, at};
use crate::source::{Extent, KnownExtents, Source, check_range, is_zero};

/// The most bytes that a file may decode to without the user's leave, whatever its length: 32 GiB.
const SMALL: u64 = 32 << 30;

/// The same as a multiple of the file's length, if that is more.
const RATIO: u64 = 1000;

/// The bytes that are decoded at a time.
const CHUNK: usize = 1 << 20;

/// Zeros become holes in blocks of this size.
const BLOCK: usize = 4096;

/// How files are decoded.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// The directory for scratch files; `None` for the system's directory of temporary files.
    pub scratch: Option<PathBuf>,
    /// The most bytes that a file may decode to, with all layers; `None` for 32 GiB or 1000 times the file's length,
    /// whichever is more.
    pub max_unpacked: Option<u64>,
}

impl Limits {
    /// Returns the most bytes that a file of `len` bytes may decode to.
    #[must_use]
    pub fn of(&self, len: u64) -> u64 {
        self.max_unpacked.unwrap_or_else(|| SMALL.max(len.saturating_mul(RATIO)))
    }
}

/// Tells a decoder whether to stop.
pub trait Watch: Sync {
    /// Returns true if the user wants to stop.
    fn is_stopped(&self) -> bool;
}

/// A place to decode one file, with all its layers.
pub struct Workshop<'a> {
    folder: PathBuf,
    limit: u64,
    left: AtomicU64,
    watch: &'a dyn Watch,
}

/// What a file decodes to.
#[derive(Clone)]
pub struct Unpacked {
    /// The decoded bytes.
    pub source: Arc<dyn Source>,
    /// Bytes after the end of the compressed data, which were ignored.
    pub garbage: u64,
}

impl<'a> Workshop<'a> {
    /// Creates a workshop for a file of `len` bytes.
    #[must_use]
    pub fn new(limits: &Limits, len: u64, watch: &'a dyn Watch) -> Self {
        let limit = limits.of(len);
        let folder = limits.scratch.clone().unwrap_or_else(std::env::temp_dir);
        Workshop { folder, limit, left: AtomicU64::new(limit), watch }
    }

    /// Returns the bytes that may still be decoded.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Decodes a compressed file.
    pub fn unpack(&self, codec: Codec, file: &Arc<dyn Source>) -> Result<Unpacked> {
        self.refuse_claim(codec, file)?;
        let mut stream = Stream::new(codec, file.clone())?;
        let source = self.keep(|buf| stream.read(buf))?;
        if source.is_empty() {
            return Err(at(codec.name()).corrupt("decodes to nothing"));
        }
        Ok(Unpacked { source, garbage: stream.garbage() })
    }

    /// Decodes the deflated bytes in a range of a zip archive: `len` bytes with this checksum.
    pub(super) fn inflate(
        &self,
        archive: &Arc<dyn Source>,
        range: std::ops::Range<u64>,
        len: u64,
        crc: u32,
    ) -> Result<Unpacked> {
        use std::io::Read;
        if len > self.left() {
            return Err(self.too_large(&format!("is {len} bytes unpacked")));
        }
        let input = Input::new(archive.clone(), range);
        let mut decoder = Decoder::Deflate(flate2::bufread::DeflateDecoder::new(input));
        let mut sum = flate2::Crc::new();
        let mut done = 0;
        let source = self.keep(|buf| {
            let read = decoder.read(buf).map_err(|e| {
                carried(e).unwrap_or_else(|e| at("").corrupt(format!("its data cannot be inflated: {e}")))
            })?;
            sum.update(&buf[..read]);
            done += read as u64;
            if done > len {
                return Err(at("").corrupt(format!("inflates to more than its {len} bytes")));
            }
            Ok(read)
        })?;
        if source.len() != len || !crate::checksum::fits(crc, sum.sum()) {
            return Err(at("").corrupt(format!(
                "inflates to {} bytes with the CRC-32 {:08x}; expected {len} bytes with {crc:08x}",
                source.len(),
                sum.sum()
            )));
        }
        Ok(Unpacked { source, garbage: 0 })
    }

    /// Refuses a file whose first frame states a length over the limit, before anything is decoded.
    fn refuse_claim(&self, codec: Codec, file: &Arc<dyn Source>) -> Result<()> {
        let head = file.read_vec(0, file.len().min(64) as usize)?;
        let claimed = match codec {
            Codec::Zstd => zstd::zstd_safe::get_frame_content_size(&head).ok().flatten(),
            Codec::Lzma if head.len() >= 13 => {
                Some(crate::bytes::le64(&head, 5)).filter(|len| *len != u64::MAX)
            }
            _ => None,
        };
        match claimed {
            Some(len) if len > self.left() => {
                Err(self.too_large(&format!("says that it unpacks to {len} bytes")))
            }
            _ => Ok(()),
        }
    }

    fn too_large(&self, what: &str) -> Error {
        at("").limit(format!(
            "{what}, over the limit of {} bytes for unpacked data; pass --max-unpacked SIZE to allow more",
            self.limit
        ))
    }

    /// Keeps all bytes that `read` yields in a sparse file without a name.
    fn keep(&self, mut read: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Arc<dyn Source>> {
        let failed = |e: std::io::Error| self.failed(e);
        let file = tempfile::tempfile_in(&self.folder).map_err(failed)?;
        let mut buf = vec![0; CHUNK];
        let mut len = 0;
        loop {
            let mut there = 0;
            while there < CHUNK {
                if self.watch.is_stopped() {
                    return Err(
                        at("").io(std::io::Error::new(std::io::ErrorKind::Interrupted, "interrupted"))
                    );
                }
                match read(&mut buf[there..])? {
                    0 => break,
                    more => there += more,
                }
            }
            let left = self.left();
            if there as u64 > left {
                return Err(self.too_large("unpacks to more data"));
            }
            self.left.store(left - there as u64, Ordering::Relaxed);
            write_data(&file, len, &buf[..there]).map_err(failed)?;
            len += there as u64;
            if there < CHUNK {
                break;
            }
        }
        file.set_len(len).map_err(failed)?;
        Ok(Arc::new(Scratch { file, len, extents: KnownExtents::default(), folder: self.folder.clone() }))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        let advice = match error.kind() {
            std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::NotFound => "; name another directory with --scratch DIR or TMPDIR",
            _ => "",
        };
        scratch_error(&self.folder, error, advice)
    }
}

fn scratch_error(folder: &Path, error: std::io::Error, advice: &str) -> Error {
    let kind = error.kind();
    let error = match advice {
        "" => error,
        _ => std::io::Error::new(kind, format!("{error}{advice}")),
    };
    at("unpacking into this directory").file(folder).io(error)
}

/// Writes `bytes` at `offset`, a multiple of the block size, without blocks of zeros.
fn write_data(file: &File, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    let mut start = None;
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + BLOCK).min(bytes.len());
        match (is_zero(&bytes[at..end]), start) {
            (true, Some(from)) => {
                file.write_all_at(&bytes[from..at], offset + from as u64)?;
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
        at = end;
    }
    match start {
        Some(from) => file.write_all_at(&bytes[from..], offset + from as u64),
        None => Ok(()),
    }
}

/// A scratch file. It has no name, so it ends with the last descriptor, however the program ends.
struct Scratch {
    file: File,
    len: u64,
    extents: KnownExtents,
    folder: PathBuf,
}

impl Source for Scratch {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range("unpacked data", self.len, offset, buf.len() as u64)?;
        self.file.read_exact_at(buf, offset).map_err(|e| scratch_error(&self.folder, e, ""))
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range("unpacked data", self.len, offset, 1)?;
        Ok(self.extents.at(&self.file, offset, self.len - offset))
    }
}
