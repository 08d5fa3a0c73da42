//! Names in UTF-16, as FAT and NTFS store them.

/// Converts UTF-16 to UTF-8, with unpaired surrogates in WTF-8: three bytes each, which no other name contains.
pub(super) fn wtf8(units: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(units.len());
    for c in char::decode_utf16(units.iter().copied()) {
        match c {
            Ok(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(unpaired) => {
                let unit = unpaired.unpaired_surrogate();
                let bits = |shift: u16, mask: u16| ((unit >> shift) & mask).to_le_bytes()[0];
                bytes.extend([0xe0 | bits(12, 0xf), 0x80 | bits(6, 0x3f), 0x80 | bits(0, 0x3f)]);
            }
        }
    }
    bytes
}

/// Returns true if it can be a component of a path.
pub(super) fn is_valid(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpaired_surrogates_survive_as_wtf8_and_pairs_are_utf8() {
        assert_eq!(wtf8(&[0x41, 0xe4, 0x20ac]), "Aä€".as_bytes());
        assert_eq!(wtf8(&[0xd83d, 0xde00]), "😀".as_bytes());
        assert_eq!(wtf8(&[0x41, 0xd800, 0x42]), b"A\xed\xa0\x80B");
        assert_eq!(wtf8(&[0xdfff, 0xd800]), b"\xed\xbf\xbf\xed\xa0\x80");
    }
}
