//! Checksums of the blocks of a file of the catalog, in a file beside it: so that a reader of a few parts of it notices damage
//! to these parts. They guard against accidents; who can write the catalog can write them too.
//!
//! ```text
//! "mif sums" · length of the file (u64) · CRC-32C of each block of 16 KiB (u32) · CRC-32C of all that (u32)
//! ```

use crate::bytes::{le32, le64};
use crate::error::{Result, at};

/// The size of a block in bytes. The last one may be shorter.
pub const BLOCK: usize = 16 << 10;

const MAGIC: &[u8; 8] = b"mif sums";
const HEADER: usize = 16;

/// Computes the checksums of a file as it is written.
#[derive(Debug, Clone, Default)]
pub struct Summer {
    len: u64,
    sums: Vec<u32>,
}

impl Summer {
    /// Takes the next bytes of the file.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let filled = (self.len % BLOCK as u64) as usize;
            let (here, rest) = bytes.split_at(bytes.len().min(BLOCK - filled));
            match self.sums.last_mut() {
                Some(sum) if filled > 0 => *sum = crc32c::crc32c_append(*sum, here),
                _ => self.sums.push(crc32c::crc32c(here)),
            }
            self.len += here.len() as u64;
            bytes = rest;
        }
    }

    /// Returns the file of checksums, and the length of the file that they are of.
    #[must_use]
    pub fn finish(self) -> (Vec<u8>, u64) {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.len.to_le_bytes());
        self.sums.iter().for_each(|sum| out.extend_from_slice(&sum.to_le_bytes()));
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        (out, self.len)
    }
}

/// The checksums of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSums {
    /// The length of the file in bytes.
    pub len: u64,
    sums: Vec<u32>,
}

impl BlockSums {
    /// Decodes a file of checksums.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let wrong = |problem: &str| Err(at("checksums").corrupt(problem));
        let Some((body, sum)) = bytes.split_last_chunk::<4>() else { return wrong("is too short") };
        if !body.starts_with(MAGIC) || body.len() < HEADER {
            return wrong("is not a file of checksums");
        }
        if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
            return wrong("does not match its own checksum");
        }
        let len = le64(body, 8);
        let (sums, rest) = body[HEADER..].as_chunks::<4>();
        if !rest.is_empty() || sums.len() as u64 != len.div_ceil(BLOCK as u64) {
            return wrong("has another number of checksums than the file has blocks");
        }
        Ok(BlockSums { len, sums: sums.iter().map(|sum| le32(sum, 0)).collect() })
    }

    /// Returns true if `bytes` are those of the file from the beginning of a block on. They end with a block, or with the
    /// file.
    #[must_use]
    pub fn fit(&self, block: usize, bytes: &[u8]) -> bool {
        let sums = self.sums.get(block..).unwrap_or(&[]);
        bytes.len().div_ceil(BLOCK) <= sums.len()
            && bytes.chunks(BLOCK).zip(sums).all(|(bytes, sum)| crc32c::crc32c(bytes) == *sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_noticed_wherever_it_is() {
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let mut summer = Summer::default();
            bytes.chunks(5000).for_each(|part| summer.update(part));
            let (file, said) = summer.finish();
            assert_eq!(said, len as u64);
            let sums = BlockSums::decode(&file).unwrap();
            assert!(sums.fit(0, &bytes));
            for at in [0, len / 2, len.saturating_sub(1)].into_iter().filter(|at| *at < len) {
                let mut bad = bytes.clone();
                bad[at] ^= 1;
                assert!(!sums.fit(0, &bad), "byte {at} of {len}");
                let start = at / BLOCK * BLOCK;
                assert!(!sums.fit(at / BLOCK, &bad[start..len.min(start + BLOCK)]));
            }
            assert!(!sums.fit(sums.sums.len(), &[1]));
            for at in 0..file.len() {
                let mut bad = file.clone();
                bad[at] ^= 0x10;
                assert!(BlockSums::decode(&bad).is_err(), "byte {at}");
                assert!(BlockSums::decode(&file[..at]).is_err(), "cut at {at}");
            }
        }
    }
}
