//! Passphrases and keys: bytes that are never printed, and are overwritten when they are dropped.

use std::fmt;
use std::io::{self, Read};

use zeroize::Zeroizing;

/// A passphrase: all bytes of a key file, or what somebody typed. A line break at its end is a part of it.
#[derive(Clone, Default)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// The longest passphrase in bytes, which is cryptsetup's limit for a key file.
    pub const MOST: u64 = 8 << 20;

    /// Takes the bytes of a passphrase.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Passphrase(Zeroizing::new(bytes))
    }

    /// Reads all bytes of a key file. Fails if there are more than [`Passphrase::MOST`].
    pub fn read(from: impl Read) -> io::Result<Self> {
        // Larger than nearly every key, so that no copy of one stays behind where it grew.
        let mut bytes = Zeroizing::new(Vec::with_capacity(64 << 10));
        from.take(Self::MOST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > Self::MOST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it is longer than {} bytes", Self::MOST),
            ));
        }
        Ok(Passphrase(bytes))
    }

    /// Returns true if it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns true if it ends in a line break, which an editor or `echo` may have added.
    pub(crate) fn ends_in_line_break(&self) -> bool {
        self.0.ends_with(b"\n")
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// The key of a volume, as its key slots hold it.
pub(crate) struct VolumeKey(pub(super) Zeroizing<Vec<u8>>);

impl VolumeKey {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_is_not_printed() {
        let options = vec![Some(Passphrase::new(b"hunter2".to_vec()))];
        let printed = format!("{options:?} {:?}", VolumeKey(Zeroizing::new(b"hunter2".to_vec())));
        assert!(!printed.contains("hunter2") && !printed.contains("104"), "{printed}");
    }
}
