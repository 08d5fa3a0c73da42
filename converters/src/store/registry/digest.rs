//! Digests by which a registry names bytes: SHA-256.

use std::io;

use mif_formats::text::hex;
use sha2::{Digest as _, Sha256};

/// Computes a digest of bytes that come in parts.
#[derive(Default)]
pub(super) struct Hasher(Sha256);

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest.
    pub(super) fn finish(self) -> String {
        format!("sha256:{}", hex(&self.0.finalize()))
    }

    /// Fails unless the digest is this one.
    pub(super) fn check(self, digest: &str) -> io::Result<()> {
        match self.finish() == digest {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the registry answers with something else than {digest}"),
            )),
        }
    }
}

fn of(bytes: &[u8]) -> Hasher {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher
}

/// Returns the digest of bytes.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    of(bytes).finish()
}

/// Fails unless bytes have this digest.
pub(super) fn check_digest(digest: &str, bytes: &[u8]) -> io::Result<()> {
    of(bytes).check(digest)
}
