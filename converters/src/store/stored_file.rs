//! A file of the store for the Parquet reader, which reads only the parts that it needs.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use bytes::Bytes;
use mif_formats::mif::manifest::columns::{ChunkReader, Length, ReadError};

use super::Storage;

/// How many bytes are read at once by a sequential reader.
const WINDOW: usize = 64 << 10;

/// A file of the store.
pub(crate) struct StoredFile {
    storage: Arc<dyn Storage>,
    key: Arc<str>,
    len: u64,
}

impl StoredFile {
    pub(crate) fn new(storage: Arc<dyn Storage>, key: &str) -> io::Result<Self> {
        let len = storage.len(key)?;
        Ok(StoredFile { storage, key: key.into(), len })
    }
}

impl Length for StoredFile {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for StoredFile {
    type T = BufReader<ReadOn>;

    fn get_read(&self, start: u64) -> Result<Self::T, ReadError> {
        let from = ReadOn { storage: self.storage.clone(), key: self.key.clone(), at: start, end: self.len };
        Ok(BufReader::with_capacity(WINDOW, from))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ReadError> {
        let bytes = self.storage.read(&self.key, start..start.saturating_add(length as u64))?;
        Ok(bytes.into())
    }
}

/// The bytes of a file from an offset on.
pub(crate) struct ReadOn {
    storage: Arc<dyn Storage>,
    key: Arc<str>,
    at: u64,
    end: u64,
}

impl Read for ReadOn {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.end.saturating_sub(self.at).min(buf.len() as u64);
        let bytes = self.storage.read(&self.key, self.at..self.at + len)?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        self.at += len;
        Ok(bytes.len())
    }
}
