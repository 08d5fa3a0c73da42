//! The identity of a container: the UUIDs and content IDs by which programs tell disks apart and a child finds its
//! parent. They are derived from the disk's digest, so the same disk gives the same file and different disks get
//! different identities. The option `seed` gives copies of one disk different identities; `uuid` sets the disk's UUID.

use std::sync::Mutex;

use super::options::Options;
use crate::disk_digest::{BlockDigest, DiskDigest, Hasher, blocks};
use crate::error::Result;

/// The key context from which identities are derived.
const CONTEXT: &str = "mif container identity 1";

/// The options of every format that has an identity.
pub(super) const UUID: &str = "uuid";
pub(super) const SEED: &str = "seed";

/// The identity options from the command line.
pub(super) struct Wanted {
    uuid: Option<[u8; 16]>,
    seed: Vec<u8>,
}

impl Wanted {
    /// Reads the options. Fails on an invalid UUID, before anything is written.
    pub(super) fn new(options: &Options<'_>) -> Result<Self> {
        let parse = |text: &str| {
            let digits = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
            crate::uuid::bytes(digits).filter(|uuid| *uuid != [0; 16])
        };
        let uuid = match options.text(UUID) {
            Some(text) => Some(parse(text).ok_or_else(|| {
                options.bad(UUID, "a UUID such as 6ba7b810-9dad-41d1-80b4-00c04fd430c8, not all zeros")
            })?),
            None => None,
        };
        Ok(Wanted { uuid, seed: options.text(SEED).unwrap_or_default().into() })
    }

    /// Returns the identity of a disk with this digest.
    pub(super) fn identity(&self, digest: &DiskDigest) -> Identity {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&digest.0);
        hasher.update(&(self.seed.len() as u64).to_le_bytes());
        hasher.update(&self.seed);
        hasher.update(&self.uuid.unwrap_or_default());
        Identity { key: *hasher.finalize().as_bytes(), uuid: self.uuid }
    }
}

/// The identity of a container.
pub(super) struct Identity {
    key: [u8; 32],
    uuid: Option<[u8; 16]>,
}

impl Identity {
    /// Returns the disk's UUID, in the byte order of its text form.
    pub(super) fn disk_uuid(&self) -> [u8; 16] {
        self.uuid.unwrap_or_else(|| self.uuid("disk"))
    }

    /// Returns another UUID of the container, in the same byte order and the form of a random (version 4) UUID.
    pub(super) fn uuid(&self, of: &str) -> [u8; 16] {
        crate::uuid::random(self.derive(of)[..16].try_into().expect("sliced to size"))
    }

    /// Returns a 32-bit content ID that avoids the values with a special meaning in VMDK.
    pub(super) fn content_id(&self) -> u32 {
        let bytes = self.derive("content");
        let words = bytes.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().expect("of four")));
        words.into_iter().find(|id| !matches!(id, 0 | 0xffff_fffe | 0xffff_ffff)).unwrap_or(1)
    }

    fn derive(&self, of: &str) -> [u8; 32] {
        *blake3::keyed_hash(&self.key, of.as_bytes()).as_bytes()
    }
}

/// A hasher of a disk while it is pulled: reading threads hash the blocks, and the caller adds them in order.
pub(super) struct Digester {
    size: u64,
    hasher: Mutex<Hasher>,
}

impl Digester {
    /// Creates a digester for a disk of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        Digester { size, hasher: Mutex::new(Hasher::new(size)) }
    }

    /// Returns the digests of the blocks in `bytes`, which begin at byte `start` of the disk.
    pub(super) fn blocks(&self, start: u64, bytes: &[u8]) -> Vec<BlockDigest> {
        blocks(start, bytes, self.size)
    }

    /// Adds blocks, in disk order.
    pub(super) fn push(&self, blocks: &[BlockDigest]) {
        let mut hasher = self.hasher.lock().expect("no panic while locked");
        blocks.iter().for_each(|block| hasher.push(block));
    }

    /// Returns the digest, once the whole disk has been pulled.
    pub(super) fn finish(self) -> DiskDigest {
        self.hasher.into_inner().expect("no panic while locked").finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(options: &[(&str, &str)], digest: u8) -> Result<Identity> {
        let given = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let options = Options::new("f", &[UUID, SEED], &given)?;
        Ok(Wanted::new(&options)?.identity(&DiskDigest([digest; 32])))
    }

    #[test]
    fn the_disk_the_seed_and_the_uuid_make_an_identity() {
        let of = |options: &[(&str, &str)], digest| {
            let identity = identity(options, digest).unwrap();
            (identity.disk_uuid(), identity.uuid("change"), identity.content_id())
        };
        let plain = of(&[], 1);
        assert_eq!(of(&[], 1), plain);
        let text = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
        for other in [of(&[], 2), of(&[("seed", "a")], 1), of(&[("seed", "b")], 1), of(&[("uuid", text)], 1)]
        {
            assert!(other.0 != plain.0 && other.1 != plain.1 && other.2 != plain.2);
        }
        assert_eq!(crate::uuid::text(&of(&[("uuid", text)], 1).0), text);
        assert_eq!(crate::uuid::text(&of(&[("uuid", &format!("{{{text}}}"))], 1).0), text);
        assert_eq!((plain.0[6] >> 4, plain.0[8] >> 6), (4, 2));
        for bad in ["", "x", "00000000-0000-0000-0000-000000000000"] {
            assert!(identity(&[("uuid", bad)], 1).is_err(), "{bad}");
        }
    }
}
