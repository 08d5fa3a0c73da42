//! Names as bytes: decodes the 8.3 characters of a short name.

/// The upper half of code page 437, in which short names are read: the original PC's, and the default of DOS and of
/// Linux. No volume records its code page.
const CP437: [char; 128] = [
    'Ç', 'ü', 'é', 'â', 'ä', 'à', 'å', 'ç', 'ê', 'ë', 'è', 'ï', 'î', 'ì', 'Ä', 'Å', 'É', 'æ', 'Æ', 'ô', 'ö',
    'ò', 'û', 'ù', 'ÿ', 'Ö', 'Ü', '¢', '£', '¥', '₧', 'ƒ', 'á', 'í', 'ó', 'ú', 'ñ', 'Ñ', 'ª', 'º', '¿', '⌐',
    '¬', '½', '¼', '¡', '«', '»', '░', '▒', '▓', '│', '┤', '╡', '╢', '╖', '╕', '╣', '║', '╗', '╝', '╜', '╛',
    '┐', '└', '┴', '┬', '├', '─', '┼', '╞', '╟', '╚', '╔', '╩', '╦', '╠', '═', '╬', '╧', '╨', '╤', '╥', '╙',
    '╘', '╒', '╓', '╫', '╪', '┘', '┌', '█', '▄', '▌', '▐', '▀', 'α', 'ß', 'Γ', 'π', 'Σ', 'σ', 'µ', 'τ', 'Φ',
    'Θ', 'Ω', 'δ', '∞', 'φ', 'ε', '∩', '≡', '±', '≥', '≤', '⌠', '⌡', '÷', '≈', '°', '∙', '·', '√', 'ⁿ', '²',
    '■', '\u{a0}',
];

/// Decodes a byte of a short name.
fn decode(byte: u8) -> char {
    if byte < 0x80 { char::from(byte) } else { CP437[usize::from(byte - 0x80)] }
}

/// Returns the character in lower case, if the code page has it.
fn lower(c: char) -> char {
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(l), None) if l.is_ascii() || CP437.contains(&l) => l,
        _ => c,
    }
}

/// Bits of `DIR_NTRes`: the base name or the extension is shown in lower case.
const LOWER_BASE: u8 = 0x08;
const LOWER_EXT: u8 = 0x10;

/// Returns the readable form of a short name: `README  TXT` is `README.TXT`, or `readme.txt` with both bits of
/// `nt_res`.
pub(super) fn short(name: &[u8; 11], nt_res: u8) -> String {
    let mut name = *name;
    // The byte that marks a deleted entry is also a letter, which is stored as 0x05 at the start.
    if name[0] == 0x05 {
        name[0] = 0xe5;
    }
    let part = |bytes: &[u8], lower_case: bool| -> String {
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        let chars = bytes[..end].iter().map(|b| decode(*b));
        let text: String = if lower_case { chars.map(lower).collect() } else { chars.collect() };
        text.trim_end_matches(' ').to_owned()
    };
    let base = part(&name[..8], nt_res & LOWER_BASE != 0);
    let extension = part(&name[8..], nt_res & LOWER_EXT != 0);
    if extension.is_empty() { base } else { format!("{base}.{extension}") }
}

/// Returns a label without its padding; `None` if nothing is left, or for `NO NAME`, which means none.
pub(super) fn label(label: &[u8; 11]) -> Option<String> {
    let mut label = *label;
    if label[0] == 0x05 {
        label[0] = 0xe5;
    }
    let text: String = label.iter().take_while(|b| **b != 0).map(|b| decode(*b)).collect();
    Some(text.trim_end_matches(' ').to_owned()).filter(|text| !text.is_empty() && text != "NO NAME")
}

/// Returns the checksum of a short name that the entries of its long name contain.
pub(super) fn checksum(name: &[u8; 11]) -> u8 {
    name.iter().fold(0u8, |sum, b| sum.rotate_right(1).wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_trimmed_joined_and_cased_as_their_bits_say() {
        assert_eq!(short(b"README  TXT", 0), "README.TXT");
        assert_eq!(short(b"README  TXT", LOWER_BASE), "readme.TXT");
        assert_eq!(short(b"README  TXT", LOWER_EXT), "README.txt");
        assert_eq!(short(b"README     ", LOWER_BASE | LOWER_EXT), "readme");
        assert_eq!(short(b"A B     C  ", 0), "A B.C");
        assert_eq!(short(b"        TXT", 0), ".TXT");
        assert_eq!(short(b"AB\0CDEFGT\0X", 0), "AB.T");
    }

    #[test]
    fn short_names_are_of_code_page_437() {
        assert_eq!(short(b"\x05\x8e\x99\x9a\xe1   \xe1  ", 0), "σÄÖÜß.ß");
        assert_eq!(short(b"\x8e\x99\x9a\xe4    \xe2  ", LOWER_BASE | LOWER_EXT), "äöüσ.Γ");
    }

    #[test]
    fn labels_lose_their_padding_and_no_name_is_none() {
        assert_eq!(label(b"EFI SYSTEM ").as_deref(), Some("EFI SYSTEM"));
        assert_eq!(label(b"NO NAME    "), None);
        assert_eq!(label(b"           "), None);
    }

    #[test]
    fn the_checksum_is_the_specifications() {
        assert_eq!(checksum(b"           "), {
            let mut sum = 0u8;
            for _ in 0..11 {
                sum = ((sum & 1) << 7).wrapping_add(sum >> 1).wrapping_add(b' ');
            }
            sum
        });
    }
}
