//! The disk digest: identifies a disk by its bits alone, independent of its container and its reader.
//!
//! The disk is cut into blocks of [`BLOCK`] bytes; the last one may be shorter. The digest is BLAKE3 in its
//! `derive_key` mode, under [`CONTEXT`], of
//!
//! ```text
//! u64 le       size of the disk in bytes
//! for each block that is not all zeros, in ascending order:
//!     u64 le       number of the block
//!     32 bytes     BLAKE3 of its bytes
//! ```
//!
//! Blocks of zeros are left out, so a sparse disk costs only its data, and the blocks can be hashed in any order.

use std::fmt;

use crate::error::Result;
use crate::source::{Source, is_zero};

/// The size of a block in bytes.
pub const BLOCK: u64 = 64 << 10;

/// The key context of the digest.
pub const CONTEXT: &str = "mif disk digest 1";

/// The digest of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DiskDigest(pub [u8; 32]);

impl fmt::Display for DiskDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

/// The digest of one block that is not all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockDigest {
    /// The block's number: its offset on the disk divided by [`BLOCK`].
    pub number: u64,
    /// BLAKE3 of its bytes.
    pub digest: [u8; 32],
}

/// Returns the digests of the blocks in `bytes`, which begin at byte `start` of a disk of `size` bytes.
///
/// `start` is a multiple of [`BLOCK`]. If `bytes` end within a block, the rest of that block is zeros.
#[must_use]
pub fn blocks(start: u64, bytes: &[u8], size: u64) -> Vec<BlockDigest> {
    assert!(start.is_multiple_of(BLOCK), "byte {start} of the disk is not the start of a block");
    let mut digests = Vec::new();
    for (i, block) in bytes.chunks(BLOCK as usize).enumerate() {
        if is_zero(block) {
            continue;
        }
        let number = start / BLOCK + i as u64;
        let whole = BLOCK.min(size.saturating_sub(number * BLOCK)) as usize;
        let mut hasher = blake3::Hasher::new();
        hasher.update(block);
        hasher.update(&vec![0; whole.saturating_sub(block.len())]);
        digests.push(BlockDigest { number, digest: *hasher.finalize().as_bytes() });
    }
    digests
}

/// Returns the digest of a disk of `size` bytes with these blocks, given in any order, each once.
#[must_use]
pub fn of_blocks(size: u64, mut blocks: Vec<BlockDigest>) -> DiskDigest {
    blocks.sort_unstable();
    let mut hasher = Hasher::new(size);
    blocks.iter().for_each(|block| hasher.push(block));
    hasher.finish()
}

/// A hasher that computes a disk's digest from its blocks in ascending order, without keeping them.
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Creates a hasher for a disk of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&size.to_le_bytes());
        Hasher(hasher)
    }

    /// Adds the next block.
    pub fn push(&mut self, block: &BlockDigest) {
        self.0.update(&block.number.to_le_bytes());
        self.0.update(&block.digest);
    }

    /// Returns the digest, after the last block.
    #[must_use]
    pub fn finish(self) -> DiskDigest {
        DiskDigest(*self.0.finalize().as_bytes())
    }
}

/// Computes the digest of a disk by reading it from start to end. Known holes are not read.
///
/// Fails if the disk cannot be read.
pub fn of_source(disk: &dyn Source) -> Result<DiskDigest> {
    /// The number of bytes per read.
    const WINDOW: u64 = 16 * BLOCK;
    let mut digests = Vec::new();
    let mut at = 0;
    while at < disk.len() {
        let extent = disk.extent_at(at)?;
        if extent.is_zero() && extent.range.end / BLOCK > at / BLOCK && at.is_multiple_of(BLOCK) {
            at = extent.range.end / BLOCK * BLOCK;
            continue;
        }
        let end = (at + WINDOW).min(disk.len()).min(extent.range.end.next_multiple_of(BLOCK));
        digests.extend(blocks(at, &disk.read_vec(at, (end - at) as usize)?, disk.len()));
        at = end;
    }
    Ok(of_blocks(disk.len(), digests))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Extent;

    /// Bytes, and whether their runs of zeros are reported as holes.
    struct Sparse(Vec<u8>, bool);

    impl Source for Sparse {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
            buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
            Ok(())
        }
        fn extent_at(&self, offset: u64) -> Result<Extent> {
            let rest = &self.0[offset as usize..];
            let zeros = rest.iter().take_while(|b| **b == 0).count();
            Ok(match self.1 && zeros > 0 {
                true => Extent::zero(offset, zeros as u64),
                false => Extent::data(offset, rest.iter().take_while(|b| **b != 0 || !self.1).count() as u64),
            })
        }
    }

    fn disk() -> Vec<u8> {
        let mut bytes = vec![0; BLOCK as usize * 5 + 100];
        bytes[3] = 1;
        bytes[BLOCK as usize * 3 + 7] = 2;
        *bytes.last_mut().unwrap() = 3;
        bytes
    }

    #[test]
    fn holes_and_the_order_of_blocks_make_no_difference() {
        let bytes = disk();
        let size = bytes.len() as u64;
        let whole = of_blocks(size, blocks(0, &bytes, size));
        assert_eq!(of_source(&Sparse(bytes.clone(), false)).unwrap(), whole);
        assert_eq!(of_source(&Sparse(bytes.clone(), true)).unwrap(), whole);
        let (left, right) = bytes.split_at(BLOCK as usize * 2);
        let mut parts = blocks(2 * BLOCK, right, size);
        parts.extend(blocks(0, &left[..10], size));
        assert_eq!(of_blocks(size, parts), whole);
    }

    #[test]
    fn a_bit_and_the_size_make_a_difference() {
        let bytes = disk();
        let digest = |bytes: Vec<u8>| of_source(&Sparse(bytes, true)).unwrap();
        let mut changed = bytes.clone();
        changed[BLOCK as usize * 4] = 1;
        let mut longer = bytes.clone();
        longer.push(0);
        assert_ne!(digest(changed), digest(bytes.clone()));
        assert_ne!(digest(longer), digest(bytes));
        assert_ne!(digest(vec![0; 512]), digest(vec![0; 1024]));
    }

    #[test]
    fn the_digest_is_what_the_format_says() {
        let mut message = 3u64.to_le_bytes().to_vec();
        message.extend(0u64.to_le_bytes());
        message.extend(blake3::hash(b"abc").as_bytes());
        assert_eq!(
            of_source(&Sparse(b"abc".to_vec(), false)).unwrap().0,
            blake3::derive_key(CONTEXT, &message)
        );
    }
}
