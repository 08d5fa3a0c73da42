//! The NTFS driver.

use std::sync::Arc;

use super::capabilities::CAPABILITIES;
use super::{Ntfs, boot};
use crate::error::Result;
use crate::fs::capabilities::Capabilities;
use crate::fs::driver::Driver;
use crate::fs::filesystem::Filesystem;
use crate::source::Source;

/// The NTFS driver.
pub(in crate::fs) struct NtfsDriver;

/// The longest label in UTF-16 units.
const LABEL_UNITS: usize = 32;

impl Driver for NtfsDriver {
    fn name(&self) -> &'static str {
        "NTFS"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["ntfs"]
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn probe(&self, head: &[u8]) -> bool {
        boot::has_magic(head)
    }

    fn open(&self, volume: Arc<dyn Source>) -> Result<Box<dyn Filesystem>> {
        Ok(Box::new(Ntfs::open(volume)?))
    }

    fn label(&self, text: &str) -> Option<Vec<u8>> {
        let fits = text.encode_utf16().count() <= LABEL_UNITS && !text.contains('\0');
        fits.then(|| text.as_bytes().to_vec())
    }

    /// A serial number: 16 hexadecimal digits, in the first eight bytes.
    fn id(&self, text: &str) -> Option<[u8; 16]> {
        let is_number = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_number)?;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_le_bytes());
        Some(id)
    }

    fn id_text(&self, id: &[u8; 16]) -> String {
        let [a, b, c, d, e, f, g, h, ..] = *id;
        format!("{:016X}", u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }
}
