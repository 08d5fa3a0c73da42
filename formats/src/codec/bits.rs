//! A stream of bits in 16-bit little-endian words, the highest bit of a word first, as XPRESS and LZX have them.
//! Some bytes lie between the words, and are read as such.

/// The reader of such a stream.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// The next byte that has not been loaded.
    at: usize,
    /// Loaded bits: the lower `count` bits, the next one highest.
    buffer: u64,
    count: u32,
    /// How many of the loaded bits lie past the end of the stream, which are zeros.
    missing: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Bits { bytes, at: 0, buffer: 0, count: 0, missing: 0 }
    }

    /// Loads words until `count` bits, at most 32, are there. Which words are loaded when decides where bytes between
    /// them lie. Past the end of the stream there are zeros, which [`skip`](Self::skip) refuses to consume.
    pub(super) fn load(&mut self, count: u32) {
        while self.count < count {
            let word = match self.bytes.get(self.at..self.at + 2) {
                Some(word) => u64::from(u16::from_le_bytes([word[0], word[1]])),
                None => {
                    self.missing += 16;
                    0
                }
            };
            self.at += 2;
            self.buffer = self.buffer << 16 | word;
            self.count += 16;
        }
    }

    /// Returns the next `count` bits, which are loaded.
    pub(super) fn peek(&self, count: u32) -> usize {
        (self.buffer >> (self.count - count)) as usize & ((1 << count) - 1)
    }

    /// Consumes `count` loaded bits.
    pub(super) fn skip(&mut self, count: u32) -> Result<(), String> {
        self.count -= count;
        if self.count < self.missing { Err("ends early".to_owned()) } else { Ok(()) }
    }

    /// Reads `count` bits, at most 16.
    pub(super) fn read(&mut self, count: u32) -> Result<usize, String> {
        self.load(count);
        let bits = self.peek(count);
        self.skip(count)?;
        Ok(bits)
    }

    /// Skips to the next word, and a whole word if one begins here: one to 16 bits. Words that were loaded and not used
    /// are given back, to be read as bytes.
    pub(super) fn align(&mut self) {
        self.load(1);
        let unused = (self.count - 1) / 16;
        self.at -= 2 * unused as usize;
        (self.buffer, self.count, self.missing) = (0, 0, 0);
    }

    /// Reads `len` bytes after the words that have been loaded.
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.saturating_add(len);
        let bytes = self.bytes.get(self.at..end).ok_or("ends early")?;
        self.at = end;
        Ok(bytes)
    }
}
