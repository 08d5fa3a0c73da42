//! Checksums of version 5: CRC-32C of a structure, computed with the checksum field zeroed.

use crate::checksum::fits;

/// Verifies the checksum at byte `at`, which is little-endian unlike all other fields. The error is (found, expected).
pub(super) fn check(bytes: &[u8], at: usize) -> Result<(), (u32, u32)> {
    let found = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let right = sum(bytes, at);
    if fits(found, right) { Ok(()) } else { Err((found, right)) }
}

/// Computes the checksum to be stored at byte `at`.
fn sum(bytes: &[u8], at: usize) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..at]), &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[at + 4..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_fits_where_it_was_put_and_nowhere_else() {
        let mut bytes = vec![7; 512];
        let right = sum(&bytes, 100);
        bytes[100..104].copy_from_slice(&right.to_le_bytes());
        assert_eq!(check(&bytes, 100), Ok(()));
        bytes[100] ^= 1;
        assert_eq!(check(&bytes, 100), Err((right ^ 1, right)));
        bytes[100] ^= 1;
        bytes[511] ^= 1;
        assert!(check(&bytes, 100).is_err());
    }
}
