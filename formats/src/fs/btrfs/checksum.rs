//! The four checksum types of Btrfs. A checksum is stored at the start of a 32-byte field; numbers are little-endian.

use blake2::Blake2b;
use blake2::digest::consts::U32;
use sha2::{Digest, Sha256};

use crate::checksum::fits;
use crate::error::{Result, at};

/// The size of the checksum field, which precedes the checksummed part of a superblock or a tree block.
pub(super) const FIELD: usize = 32;

/// The checksum type of a volume (`csum_type` of the superblock).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Crc32c,
    Xxhash64,
    Sha256,
    Blake2b,
}

impl Checksum {
    /// Returns the checksum type numbered `csum_type`.
    pub(super) fn of_type(csum_type: u16) -> Result<Self> {
        match csum_type {
            0 => Ok(Checksum::Crc32c),
            1 => Ok(Checksum::Xxhash64),
            2 => Ok(Checksum::Sha256),
            3 => Ok(Checksum::Blake2b),
            _ => Err(at("Btrfs superblock").field("csum_type").unsupported(format!(
                "is {csum_type}; mif knows crc32c, xxhash64, sha256 and blake2b (0 to 3)"
            ))),
        }
    }

    /// Returns the checksum of `bytes`, padded with zeros.
    pub(super) fn of(self, bytes: &[u8]) -> [u8; FIELD] {
        let mut sum = [0; FIELD];
        match self {
            Checksum::Crc32c => sum[..4].copy_from_slice(&crc32c::crc32c(bytes).to_le_bytes()),
            Checksum::Xxhash64 => {
                sum[..8].copy_from_slice(&twox_hash::XxHash64::oneshot(0, bytes).to_le_bytes());
            }
            Checksum::Sha256 => sum.copy_from_slice(&Sha256::digest(bytes)),
            Checksum::Blake2b => sum.copy_from_slice(&Blake2b::<U32>::digest(bytes)),
        }
        sum
    }

    /// Returns how many bytes of the field the checksum occupies.
    fn len(self) -> usize {
        match self {
            Checksum::Crc32c => 4,
            Checksum::Xxhash64 => 8,
            Checksum::Sha256 | Checksum::Blake2b => FIELD,
        }
    }

    /// Returns true if a block begins with the checksum of the bytes after the field.
    pub(super) fn is_right(self, block: &[u8]) -> bool {
        let sum = self.of(&block[FIELD..]);
        fits(&block[..self.len()], &sum[..self.len()])
    }
}

/// Continues a CRC-32C from `seed` without inverting it on entry or exit: the name hash.
fn raw_crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// Returns the key offset of a name's `DIR_ITEM`, or of an attribute's `XATTR_ITEM`.
pub(super) fn name_hash(name: &[u8]) -> u64 {
    u64::from(raw_crc32c(!1, name))
}

/// Returns the key offset of the `INODE_EXTREF` for a name in the directory `parent`.
pub(super) fn extref_hash(parent: u64, name: &[u8]) -> u64 {
    u64::from(raw_crc32c(parent as u32, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::hex;

    #[test]
    fn the_checksums_give_their_published_check_values() {
        let of = |checksum: Checksum| hex(&checksum.of(b"123456789")[..checksum.len()]);
        assert_eq!(of(Checksum::Crc32c), "839206e3");
        // XXH64 of empty input, with seed 0, is 0xef46db3751d8e999.
        assert_eq!(hex(&Checksum::Xxhash64.of(b"")[..8]), "99e9d85137db46ef");
        assert_eq!(of(Checksum::Sha256), "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225");
        assert_eq!(
            hex(&Checksum::Blake2b.of(b"")),
            "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"
        );
        assert!(Checksum::of_type(4).is_err());
    }

    #[test]
    fn names_hash_as_in_a_volume_of_mkfs() {
        // The root tree's item for the default subvolume has this key offset on every volume.
        assert_eq!(name_hash(b"default"), 2_378_154_706);
    }
}
