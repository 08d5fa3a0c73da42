//! Unsigned LEB128 integers, and signed ones in zigzag encoding.

use crate::error::{Error, Result, at};

/// Appends `value`.
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed value; small values of either sign are short.
pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// A cursor that takes bytes and integers from a slice.
pub(super) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    len: usize,
}

impl<'a> Reader<'a> {
    /// Creates a reader of `bytes`; error messages call them `what`.
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Reader { what, bytes, len: bytes.len() }
    }

    /// Returns the number of bytes left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len()
    }

    /// Creates an error at the current position.
    pub(super) fn corrupt(&self, field: &'static str, problem: impl Into<String>) -> Error {
        at(self.what).field(field).byte((self.len - self.left()) as u64).corrupt(problem)
    }

    /// Takes the next `n` bytes.
    pub(super) fn take(&mut self, field: &'static str, n: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.bytes.split_at_checked(n) else {
            return Err(self.corrupt(field, format!("needs {n} bytes, but only {} are left", self.left())));
        };
        self.bytes = rest;
        Ok(taken)
    }

    /// Reads the next integer.
    pub(super) fn varint(&mut self, field: &'static str) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(field, 1)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.corrupt(field, "is an integer of more than 64 bits"))
    }

    /// Reads the next signed integer.
    pub(super) fn signed(&mut self, field: &'static str) -> Result<i64> {
        let value = self.varint(field)?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_come_back() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put(&mut out, value);
            put_signed(&mut out, value as i64);
            let mut reader = Reader::new("test", &out);
            assert_eq!(reader.varint("v").unwrap(), value);
            assert_eq!(reader.signed("v").unwrap(), value as i64);
            assert_eq!(reader.left(), 0);
        }
    }

    #[test]
    fn an_endless_or_cut_integer_is_an_error() {
        assert!(Reader::new("test", &[0xff; 11]).varint("v").is_err());
        assert!(Reader::new("test", &[0x80]).varint("v").is_err());
    }
}
