//! UUIDs as text (RFC 9562, section 4): 32 hex digits in groups of 8, 4, 4, 4 and 12.

use crate::text::hex;

/// Returns the text of a UUID, in lower case.
#[must_use]
pub fn text(uuid: &[u8; 16]) -> String {
    let hex = hex(uuid);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Turns these bytes into a random UUID: version 4, of the variant of RFC 9562 (sections 4.1, 4.2 and 5.4).
#[must_use]
pub fn random(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

/// Parses the output of [`text`], in upper or lower case; returns `None` if it is not a UUID.
#[must_use]
pub fn bytes(text: &str) -> Option<[u8; 16]> {
    let groups = text.split('-').map(str::len);
    let digits = text.replace('-', "");
    if groups.ne([8, 4, 4, 4, 12]) || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 16];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Converts a UUID to Microsoft's stored form (a GUID) and back: the first three groups are little-endian numbers.
#[must_use]
pub fn swapped(mut bytes: [u8; 16]) -> [u8; 16] {
    for group in [0..4, 4..6, 6..8] {
        bytes[group].reverse();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_and_nothing_else_is_taken() {
        let uuid = *b"0123456789abcdef";
        assert_eq!(bytes(&text(&uuid)), Some(uuid));
        assert_eq!(bytes(&text(&uuid).to_uppercase()), Some(uuid));
        for bad in ["", "30313233-3435-3637-3839-6162636465", "+0313233-3435-3637-3839-616263646566"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
