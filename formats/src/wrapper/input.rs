//! A range of a source as a stream of bytes, for decoders.

use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::sync::Arc;

use crate::error::Error;
use crate::source::Source;

/// The size of its buffer in bytes.
const BUFFER: usize = 256 << 10;

/// A reader of a range of a source. Errors of the source are carried in the `io::Error` (see [`carried`]).
pub(super) struct Input {
    source: Arc<dyn Source>,
    /// The range of the source that is not in the buffer yet.
    left: Range<u64>,
    buffer: Vec<u8>,
    /// The place in the buffer of the next byte.
    next: usize,
    /// True if a reader was told that there are no more bytes.
    hit_end: bool,
}

impl Input {
    /// Creates a reader of a range, which may extend past the end of the source.
    pub(super) fn new(source: Arc<dyn Source>, range: Range<u64>) -> Self {
        let end = range.end.min(source.len());
        let left = range.start.min(end)..end;
        Input { source, left, buffer: Vec::new(), next: 0, hit_end: false }
    }

    /// Returns the offset of the next byte in the source.
    pub(super) fn position(&self) -> u64 {
        self.left.start - (self.buffer.len() - self.next) as u64
    }

    /// Returns the number of bytes left.
    pub(super) fn remaining(&self) -> u64 {
        self.left.end - self.position()
    }

    /// Returns true if a reader was told that there are no more bytes.
    pub(super) fn hit_end(&self) -> bool {
        self.hit_end
    }

    /// Returns at least `len` of the next bytes, fewer at the end, without taking them. `len` is small.
    pub(super) fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        if self.buffer.len() - self.next < len && !self.left.is_empty() {
            self.buffer.drain(..self.next);
            self.next = 0;
            self.fill()?;
        }
        Ok(&self.buffer[self.next..])
    }

    /// Passes over `len` bytes, or to the end.
    pub(super) fn skip(&mut self, len: u64) {
        let buffered = ((self.buffer.len() - self.next) as u64).min(len);
        self.next += buffered as usize;
        self.left.start = self.left.end.min(self.left.start.saturating_add(len - buffered));
    }

    /// Appends more of the source to the buffer.
    fn fill(&mut self) -> io::Result<()> {
        let len = (self.left.end - self.left.start).min(BUFFER as u64) as usize;
        let there = self.buffer.len();
        self.buffer.resize(there + len, 0);
        if let Err(e) = self.source.read_at(self.left.start, &mut self.buffer[there..]) {
            self.buffer.truncate(there);
            return Err(io::Error::other(e));
        }
        self.left.start += len as u64;
        Ok(())
    }
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let len = there.len().min(buf.len());
        buf[..len].copy_from_slice(&there[..len]);
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.next == self.buffer.len() {
            self.buffer.clear();
            self.next = 0;
            self.fill()?;
            self.hit_end |= self.buffer.is_empty();
        }
        Ok(&self.buffer[self.next..])
    }

    fn consume(&mut self, len: usize) {
        self.next += len;
    }
}

/// Returns the error of the source that an `io::Error` carries, otherwise the `io::Error`.
pub(super) fn carried(error: io::Error) -> Result<Error, io::Error> {
    error.downcast::<Error>()
}
