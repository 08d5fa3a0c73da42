//! A file of the catalog that is read in parts, each checked against its checksums.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use mif_formats::mif::catalog::{BLOCK, BlockSums, Summer};
use mif_formats::mif::manifest::columns::{ChunkReader, Length, ReadError};

use crate::error::{Error, Result};
use crate::store::{Storage, Upload, catalog_sums_key};

/// How many bytes are read at once where few are needed: whole blocks.
const WINDOW: u64 = 4 * BLOCK as u64;

/// The number of windows that are kept.
const KEPT: usize = 16;

/// A file of the catalog.
#[derive(Clone)]
pub(crate) struct SummedFile(Arc<Inner>);

struct Inner {
    storage: Arc<dyn Storage>,
    key: String,
    sums: BlockSums,
    /// What was read last, by the number of the window.
    recent: Mutex<VecDeque<(u64, Bytes)>>,
}

impl SummedFile {
    /// Opens a file. Fails if it has another length than its checksums say.
    pub(crate) fn open(storage: &Arc<dyn Storage>, key: &str) -> Result<Self> {
        let sums_key = catalog_sums_key(key);
        let sums = storage.read_all(&sums_key).map_err(|e| storage.error(&sums_key, &e))?;
        let sums = BlockSums::decode(&sums).map_err(|e| crate::error::damaged(&sums_key, &e))?;
        let len = storage.len(key).map_err(|e| storage.error(key, &e))?;
        if len != sums.len {
            return Err(Error::store(format!("{key}: has {len} bytes, expected {}", sums.len)));
        }
        let inner = Inner { storage: storage.clone(), key: key.to_owned(), sums, recent: Mutex::default() };
        Ok(SummedFile(Arc::new(inner)))
    }

    /// Fails unless the whole file matches its checksums.
    pub(crate) fn check(&self, check: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        const STEP: u64 = 4 << 20;
        let Inner { storage, key, sums, .. } = &*self.0;
        for start in (0..sums.len).step_by(STEP as usize) {
            let end = sums.len.min(start + STEP);
            self.blocks(start..end).map_err(|e| storage.error(key, &e))?;
            check(end - start)?;
        }
        Ok(())
    }

    /// Reads whole blocks, and checks them.
    fn blocks(&self, range: Range<u64>) -> io::Result<Bytes> {
        let Inner { storage, key, sums, .. } = &*self.0;
        let bytes = storage.read(key, range.clone())?;
        if !sums.fit((range.start / BLOCK as u64) as usize, &bytes) {
            let problem =
                format!("{key}: bytes {} to {} do not match their checksums", range.start, range.end);
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        Ok(bytes.into())
    }

    fn window(&self, number: u64) -> io::Result<Bytes> {
        let recent = || self.0.recent.lock().expect("no thread panics while it holds this");
        if let Some((_, bytes)) = recent().iter().find(|(known, _)| *known == number) {
            return Ok(bytes.clone());
        }
        let start = number * WINDOW;
        let bytes = self.blocks(start..self.0.sums.len.min(start + WINDOW))?;
        let mut recent = recent();
        if recent.len() >= KEPT {
            recent.pop_front();
        }
        recent.push_back((number, bytes.clone()));
        Ok(bytes)
    }

    fn bytes(&self, start: u64, len: u64) -> io::Result<Bytes> {
        let end = start.checked_add(len).filter(|end| *end <= self.0.sums.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let (first, last) = (start / WINDOW, (end - 1) / WINDOW);
        let (bytes, at) = match first == last {
            true => (self.window(first)?, first * WINDOW),
            false => {
                let at = start / BLOCK as u64 * BLOCK as u64;
                let up = end.next_multiple_of(BLOCK as u64).min(self.0.sums.len);
                (self.blocks(at..up)?, at)
            }
        };
        Ok(bytes.slice((start - at) as usize..(end - at) as usize))
    }
}

impl Length for SummedFile {
    fn len(&self) -> u64 {
        self.0.sums.len
    }
}

impl ChunkReader for SummedFile {
    type T = SummedReader;

    fn get_read(&self, start: u64) -> std::result::Result<Self::T, ReadError> {
        Ok(SummedReader { file: self.clone(), at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> std::result::Result<Bytes, ReadError> {
        Ok(self.bytes(start, length as u64)?)
    }
}

/// The bytes of a file from an offset on.
pub(crate) struct SummedReader {
    file: SummedFile,
    at: u64,
}

impl Read for SummedReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.file.len().saturating_sub(self.at).min(WINDOW - self.at % WINDOW);
        let len = left.min(buf.len() as u64);
        buf[..len as usize].copy_from_slice(&self.file.bytes(self.at, len)?);
        self.at += len;
        Ok(len as usize)
    }
}

/// A file of the catalog that is being written.
pub(crate) struct SummedUpload {
    upload: Box<dyn Upload>,
    summer: Summer,
}

impl SummedUpload {
    pub(crate) fn start(storage: &dyn Storage, key: &str) -> io::Result<Self> {
        Ok(SummedUpload { upload: storage.upload(key)?, summer: Summer::default() })
    }

    /// Completes the file and its checksums. Returns its length.
    pub(crate) fn finish(self, storage: &dyn Storage, key: &str) -> io::Result<u64> {
        let (sums, len) = self.summer.finish();
        let is_new = self.upload.finish()? && storage.put_if_absent(&catalog_sums_key(key), &sums)?;
        if is_new { Ok(len) } else { Err(io::ErrorKind::AlreadyExists.into()) }
    }
}

impl Write for SummedUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.upload.write(bytes)?;
        self.summer.update(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.upload.flush()
    }
}
