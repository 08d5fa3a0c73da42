//! The base block: the first 4096 bytes of a hive, and the first 512 of a log.

use crate::bytes::le32;
use crate::checksum;
use crate::error::{Result, at};

/// The size of a hive's base block in bytes.
pub(super) const LEN: usize = 4096;
/// How many bytes of it have fields, and are in a log.
pub(super) const FIELDS: usize = 512;
/// The type of logs with entries.
const LOG: u32 = 6;
/// The checksum's offset. It is of the bytes before it.
const CHECKSUM: usize = 508;

/// What a base block says.
pub(super) struct Base {
    /// The sequence numbers, which differ while the hive is being written.
    pub(super) primary: u32,
    pub(super) secondary: u32,
    /// The offset of the root key's cell.
    pub(super) root: u32,
    /// True if the checksum fits.
    sound: bool,
}

impl Base {
    /// Parses the base block of a hive.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let place = || at("hive base block");
        if bytes.len() < LEN {
            return Err(place().corrupt(format!("has {} bytes, expected {LEN}", bytes.len())));
        }
        if &bytes[..4] != b"regf" {
            return Err(place().field("signature").byte(0).corrupt("is not \"regf\""));
        }
        let (major, minor) = (le32(bytes, 20), le32(bytes, 24));
        if major != 1 || !(3..=6).contains(&minor) {
            let problem = format!("is {major}.{minor}, expected 1.3 to 1.6");
            return Err(place().field("version").byte(20).unsupported(problem));
        }
        let (kind, format) = (le32(bytes, 28), le32(bytes, 32));
        if kind != 0 || format != 1 {
            let problem = format!("is {kind} in format {format}, expected 0 in format 1");
            return Err(place().field("file_type").byte(28).corrupt(problem));
        }
        Ok(Base {
            primary: le32(bytes, 4),
            secondary: le32(bytes, 8),
            root: le32(bytes, 36),
            sound: checksum::fits(le32(bytes, CHECKSUM), sum(bytes)),
        })
    }

    /// Returns true if no log has anything to add.
    pub(super) fn is_clean(&self) -> bool {
        self.sound && self.primary == self.secondary
    }
}

/// Returns true if the base block of a log with entries is sound.
pub(super) fn is_log(bytes: &[u8]) -> bool {
    bytes.len() >= FIELDS
        && &bytes[..4] == b"regf"
        && le32(bytes, 28) == LOG
        && checksum::fits(le32(bytes, CHECKSUM), sum(bytes))
}

/// Makes the base block of a hive say that nothing is missing: that its last change is `sequence`, and its size.
pub(super) fn seal(bytes: &mut [u8], sequence: u32, bins: u32) {
    for (at, value) in [(4, sequence), (8, sequence), (40, bins)] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let sum = sum(bytes);
    bytes[CHECKSUM..CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
}

/// Returns the checksum of a base block.
fn sum(bytes: &[u8]) -> u32 {
    match (0..CHECKSUM).step_by(4).fold(0, |sum, at| sum ^ le32(bytes, at)) {
        u32::MAX => u32::MAX - 1,
        0 => 1,
        sum => sum,
    }
}
