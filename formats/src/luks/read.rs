//! Reads the header of a volume, of either version.

use super::locked::Header;
use super::{MAGIC, v1, v2};
use crate::bytes::be16;
use crate::error::{Result, at};
use crate::source::Source;

impl Header {
    /// Reads the header of a volume; `None` if it is not LUKS. A header that mif cannot open (another cipher) is returned
    /// all the same: [`Header::open`] says why.
    ///
    /// Fails if the header is damaged (`Corrupt`), or of an unknown version (`Unsupported`).
    pub fn read(volume: &dyn Source) -> Result<Option<Self>> {
        if volume.len() < 512 {
            return Ok(None);
        }
        let head = volume.read_vec(0, 512)?;
        if !head.starts_with(&MAGIC) {
            return Ok(None);
        }
        match be16(&head, 6) {
            1 => v1::read(volume).map(Some),
            2 => v2::read(volume).map(Some),
            other => Err(at("LUKS header")
                .field("version")
                .byte(6)
                .unsupported(format!("is {other}, expected 1 or 2"))),
        }
    }
}
