//! The checksums of ext4: CRC-32C as the kernel chains it (no final inversion), and the older CRC-16.

pub(super) use crate::checksum::fits;

/// Continues a CRC-32C from `seed`, as `ext4_chksum` does: inverted neither on entry nor on exit.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// Continues a CRC-16 (polynomial 0x8005, reflected), for the descriptors of volumes with `uninit_bg`.
pub(super) fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 })
    })
}

/// Continues a CRC-32 (polynomial 0x04C11DB7, not reflected, not inverted), for the oldest kind of checksums in the
/// journal.
pub(super) fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = (i as u32) << 24;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc >> 31 == 1 { crc << 1 ^ 0x04C1_1DB7 } else { crc << 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    bytes.iter().fold(seed, |crc, byte| crc << 8 ^ TABLE[(crc >> 24) as usize ^ usize::from(*byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksums_give_their_published_check_values() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(crc32c(!0, b"1234"), b"56789"), crc32c(!0, b"123456789"));
        assert_eq!(!crc32_be(!0, b"123456789"), 0xFC89_1918); // CRC-32/BZIP2
        assert_eq!(crc16(0, b"123456789"), 0xBB3D);
    }
}
