//! What a compressed file decodes to, as a stream: its members one after another, and what may stand between them.

use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::codec::{Codec, Decoder, skipped_frame};
use super::input::{Input, carried};
use crate::error::{Error, Result, at};
use crate::source::{Extent, Source};

/// A stream of decoded bytes.
pub(super) struct Stream {
    codec: Codec,
    /// The decoder of the current member; `None` after the last.
    decoder: Option<Decoder<Input>>,
    /// True if the current member is LZ4 of the first version, which has no mark at its end.
    is_endless: bool,
    /// The number of bytes after the last member that are ignored.
    garbage: u64,
}

impl Stream {
    /// Creates the stream of a compressed file.
    pub(super) fn new(codec: Codec, file: Arc<dyn Source>) -> Result<Self> {
        let len = file.len();
        let mut stream = Stream { codec, decoder: None, is_endless: false, garbage: 0 };
        stream.next_member(Input::new(file, 0..len), true).map_err(|e| failed(codec, len, e))?;
        Ok(stream)
    }

    /// Returns the number of bytes after the last member that were ignored.
    pub(super) fn garbage(&self) -> u64 {
        self.garbage
    }

    /// Fills the beginning of `buf`; returns the number of bytes, 0 only at the end.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            let Some(decoder) = &mut self.decoder else { return Ok(0) };
            let error = match decoder.read(buf) {
                Ok(0) => {
                    let input = self.decoder.take().expect("there is one").into_inner();
                    let position = input.position();
                    match self.next_member(input, false) {
                        Ok(()) => continue,
                        Err(e) => return Err(failed(self.codec, position, e)),
                    }
                }
                Ok(len) => return Ok(len),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => e,
            };
            let position = self.decoder.take().map_or(0, |decoder| decoder.into_inner().position());
            return Err(failed(self.codec, position, error));
        }
    }

    /// Finds the next member, after padding with zeros and frames to skip.
    fn next_member(&mut self, mut input: Input, is_first: bool) -> io::Result<()> {
        // lz4_flex takes the end of the file for the end of the frame.
        if !is_first && self.codec == Codec::Lz4 && !self.is_endless && input.hit_end() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        loop {
            let head = input.peek(16)?;
            let magics = self.codec.magics();
            if magics.iter().any(|magic| head.starts_with(magic)) || is_first && self.codec == Codec::Lzma {
                self.is_endless = head.starts_with(b"\x02\x21\x4c\x18");
                self.decoder = Some(Decoder::new(self.codec, input)?);
                return Ok(());
            }
            if head.is_empty() {
                return Ok(());
            }
            if let Some(frame) = skipped_frame(head).filter(|_| self.codec.has_skipped_frames()) {
                if frame > input.remaining() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                input.skip(frame);
                continue;
            }
            let zeros = head.iter().take_while(|byte| **byte == 0).count();
            if zeros > 0 && !is_first {
                input.consume(zeros);
                continue;
            }
            if magics.iter().any(|magic| magic.starts_with(head)) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.garbage = input.remaining();
            return Ok(());
        }
    }
}

/// One stream in a range of a file, which is followed by something else: the compressed part of an initramfs, the payload
/// of a kernel.
pub struct Single {
    codec: Codec,
    /// `None` after the end.
    decoder: Option<Decoder<Input>>,
    /// The offset in the file after the stream.
    end: u64,
}

impl Single {
    /// Creates a decoder of the stream at the start of a range, which may extend past the end of the file.
    pub fn new(codec: Codec, file: Arc<dyn Source>, range: Range<u64>) -> Result<Self> {
        let start = range.start;
        let decoder = Decoder::new(codec, Input::new(file, range)).map_err(|e| failed(codec, start, e))?;
        Ok(Single { codec, decoder: Some(decoder), end: start })
    }

    /// Fills the beginning of `buf`, which is not empty; returns the number of bytes, 0 only at the end of the stream.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            let Some(decoder) = &mut self.decoder else { return Ok(0) };
            match decoder.read(buf) {
                Ok(0) => {
                    self.end = self.decoder.take().map_or(0, |decoder| decoder.into_inner().position());
                    return Ok(0);
                }
                Ok(len) => return Ok(len),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.end = self.decoder.take().map_or(0, |decoder| decoder.into_inner().position());
                    return Err(failed(self.codec, self.end, e));
                }
            }
        }
    }

    /// Returns the offset in the file after the stream, once all of it was read.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }
}

fn failed(codec: Codec, position: u64, error: io::Error) -> Error {
    let place = || at(codec.name()).byte(position);
    match carried(error) {
        Ok(error) => error,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            place().corrupt("the data ends early: the file is truncated")
        }
        Err(e) if e.kind() == io::ErrorKind::OutOfMemory => {
            place().limit(format!("decoding it takes too much memory: {e}"))
        }
        Err(e) => match e.get_ref().and_then(|e| e.downcast_ref::<liblzma::stream::Error>()) {
            Some(liblzma::stream::Error::MemLimit) => {
                place().limit("its dictionary is over the limit of 1.6 GiB")
            }
            _ => place().corrupt(format!("cannot be decoded: {e}")),
        },
    }
}

/// Returns the first `len` bytes that a compressed file decodes to, or as many as can be decoded.
pub(super) fn head(codec: Codec, file: &Arc<dyn Source>, len: usize) -> Vec<u8> {
    let mut head = vec![0; len];
    let mut done = 0;
    if let Ok(mut stream) = Stream::new(codec, file.clone()) {
        while done < len {
            match stream.read(&mut head[done..]) {
                Ok(0) | Err(_) => break,
                Ok(more) => done += more,
            }
        }
    }
    head.truncate(done);
    head
}

/// Returns the first `len` bytes that a range of deflated bytes decodes to, or as many as can be decoded.
pub(super) fn inflated_head(file: &Arc<dyn Source>, range: Range<u64>, len: usize) -> Vec<u8> {
    let mut head = Vec::new();
    let inflate = flate2::bufread::DeflateDecoder::new(Input::new(file.clone(), range));
    // What was decoded before an error counts.
    let _ = inflate.take(len as u64).read_to_end(&mut head);
    head
}

/// The decoded bytes of a compressed file as a source that can only be read forward, so that nothing is stored. A read
/// of bytes that lie more than 512 KiB before the last ones fails. Its length is not known: it
/// claims the largest one, and a read past the end is an error.
pub struct Forward {
    state: Mutex<State>,
}

struct State {
    stream: Stream,
    /// The last decoded bytes.
    buffer: Vec<u8>,
    /// The offset of the buffer in the decoded bytes.
    start: u64,
    /// The most bytes to decode, in all.
    limit: u64,
}

/// The bytes that a [`Forward`] decodes at a time, and those before them that it keeps.
const WINDOW: usize = 1 << 20;
const HISTORY: usize = 512 << 10;

impl Forward {
    /// Creates a source of what `file` decodes to, and of no more than `limit` bytes of it.
    pub fn new(codec: Codec, file: Arc<dyn Source>, limit: u64) -> Result<Self> {
        let stream = Stream::new(codec, file)?;
        Ok(Forward { state: Mutex::new(State { stream, buffer: Vec::new(), start: 0, limit }) })
    }
}

impl State {
    /// Decodes the next bytes into the buffer; returns false at the end.
    fn advance(&mut self) -> Result<bool> {
        let dropped = self.buffer.len().saturating_sub(HISTORY);
        self.buffer.drain(..dropped);
        self.start += dropped as u64;
        if self.start > self.limit {
            return Err(at("").limit(format!("decodes to more than {} bytes", self.limit)));
        }
        let mut done = self.buffer.len();
        let (before, wanted) = (done, done + WINDOW);
        self.buffer.resize(wanted, 0);
        while done < wanted {
            match self.stream.read(&mut self.buffer[done..]) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(e) => {
                    self.buffer.truncate(before);
                    return Err(e);
                }
            }
        }
        self.buffer.truncate(done);
        Ok(done > before)
    }
}

impl Source for Forward {
    fn len(&self) -> u64 {
        i64::MAX as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < buf.len() {
            let position = offset + done as u64;
            if position < state.start {
                return Err(at("decoded data").byte(position).corrupt("is read backwards"));
            }
            let skip = position - state.start;
            if skip >= state.buffer.len() as u64 {
                if !state.advance()? {
                    return Err(at("").byte(position).corrupt("the data ends early: the file is truncated"));
                }
                continue;
            }
            let there = &state.buffer[skip as usize..];
            let len = there.len().min(buf.len() - done);
            buf[done..done + len].copy_from_slice(&there[..len]);
            done += len;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        Ok(Extent::data(offset, self.len() - offset))
    }
}
