//! Names that FAT can hold, and the short names that accompany long ones.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use crate::error::Result;
use crate::fs::fat::name;
use crate::fs::plan::{Child, Tree};

/// The most UTF-16 units of a long name.
const UNITS_MAX: usize = 255;

/// Bits of `DIR_NTRes`.
const LOWER_BASE: u8 = 0x08;
const LOWER_EXT: u8 = 0x10;

/// The name of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) short: [u8; 11],
    /// In UTF-16; `None` if the short name is sufficient.
    pub(super) long: Option<Vec<u16>>,
}

/// Names the children of a directory, in their order. Fails for names that FAT cannot hold.
pub(super) fn of_children(tree: &Tree, children: &[Child]) -> Result<Vec<Name>> {
    let mut folded = HashSet::with_capacity(children.len());
    let mut names = Vec::with_capacity(children.len());
    let mut taken = HashSet::with_capacity(children.len());
    for child in children {
        let refuse = |problem: String| tree.named(child.node).unsupported(problem);
        let units = units(&child.name).map_err(&refuse)?;
        if !folded.insert(fold(&units)) {
            return Err(refuse("the name differs from another one only in case".to_owned()));
        }
        let case = (tree.nodes()[child.node as usize].meta.flags >> 8) as u8;
        let plain = plain_short(&child.name, case);
        // Given short names come first: a generated one has to avoid them.
        names.push(match (plain, child.short_name) {
            (Some(short), None) if taken.insert(short) => (Some(short), None),
            (_, Some(short)) if is_valid_short(&short) && taken.insert(short) => (Some(short), Some(units)),
            _ => (None, Some(units)),
        });
    }
    let mut tails = HashMap::new();
    let complete = |((short, long), child): ((Option<[u8; 11]>, _), &Child)| {
        let short = match short {
            Some(short) => short,
            None => {
                let short = generate(&child.name, &taken, &mut tails);
                taken.insert(short);
                short
            }
        };
        Name { short, long }
    };
    Ok(names.into_iter().zip(children).map(complete).collect())
}

/// Returns a name in UTF-16. The error is the reason why FAT cannot hold it.
fn units(name: &[u8]) -> Result<Vec<u16>, String> {
    let units = utf16(name).ok_or("the name is not UTF-8, but FAT names are Unicode")?;
    if units.len() > UNITS_MAX {
        return Err(format!("the name has {} UTF-16 units, over the limit of {UNITS_MAX}", units.len()));
    }
    let forbidden = |b: u8| b < 0x20 || br#""*/:<>?\|"#.contains(&b);
    if let Some(unit) = units.iter().find(|unit| u8::try_from(**unit).is_ok_and(forbidden)) {
        let c = char::from_u32((*unit).into()).unwrap_or('?');
        return Err(format!("the name contains {c:?}, which FAT does not allow"));
    }
    if matches!(name.last(), Some(b'.' | b' ')) {
        return Err("the name ends with a dot or a space, which FAT does not allow".to_owned());
    }
    Ok(units)
}

/// Converts UTF-8, with surrogates in WTF-8, to UTF-16.
fn utf16(bytes: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        if let [0xED, b @ 0xA0..=0xBF, c @ 0x80..=0xBF, tail @ ..] = rest {
            units.push(0xD000 | u16::from(b & 0x3F) << 6 | u16::from(c & 0x3F));
            rest = tail;
            continue;
        }
        let end = rest.windows(2).position(|w| w[0] == 0xED && w[1] >= 0xA0).unwrap_or(rest.len()).max(1);
        units.extend(std::str::from_utf8(&rest[..end]).ok()?.encode_utf16());
        rest = &rest[end..];
    }
    Some(units)
}

/// Returns the case-folded form of a name: to FAT, two names with the same form are the same.
fn fold(units: &[u16]) -> String {
    char::decode_utf16(units.iter().copied())
        .flat_map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER).to_uppercase())
        .collect()
}

/// Returns the short name that reads as `name` by itself, given the bits for its case.
fn plain_short(name: &[u8], case: u8) -> Option<[u8; 11]> {
    let text = std::str::from_utf8(name).ok()?;
    let (base, ext) = text.rsplit_once('.').unwrap_or((text, ""));
    let mut short = [b' '; 11];
    put(&mut short[..8], base, case & LOWER_BASE != 0)?;
    put(&mut short[8..], ext, case & LOWER_EXT != 0)?;
    if short[0] == 0xE5 {
        short[0] = 0x05;
    }
    (is_valid_short(&short) && name::short(&short, case) == text).then_some(short)
}

/// Writes a part of a short name; returns `None` if it is too long, or not in the code page.
fn put(place: &mut [u8], part: &str, lower: bool) -> Option<()> {
    for (at, c) in part.chars().enumerate() {
        let mut upper = c.to_uppercase();
        let c = match (upper.next(), upper.next()) {
            (Some(u), None) if lower && encode(u).is_some() => u,
            _ => c,
        };
        *place.get_mut(at)? = encode(c)?;
    }
    Some(())
}

/// Encodes a character in the code page of short names.
fn encode(c: char) -> Option<u8> {
    if c.is_ascii() {
        return Some(c as u8);
    }
    UPPER_HALF.iter().position(|known| *known == c).map(|i| i as u8 + 0x80)
}

/// The reader's characters for the bytes from 0x80 on.
static UPPER_HALF: LazyLock<Vec<char>> = LazyLock::new(|| {
    let decode = |b| name::short(&[b'A', b, b' ', b' ', b' ', b' ', b' ', b' ', b' ', b' ', b' '], 0);
    (0x80..=0xFF).filter_map(|b| decode(b).chars().nth(1)).collect()
});

/// Returns true if every system accepts a short name: no lower case, no gaps, no forbidden characters.
fn is_valid_short(short: &[u8; 11]) -> bool {
    let valid = |part: &[u8]| {
        let end = part.iter().rposition(|b| *b != b' ').map_or(0, |i| i + 1);
        part[..end].iter().all(|b| is_short_byte(*b))
    };
    let first = if short[0] == 0x05 { 0xE5 } else { short[0] };
    let base = [&[first], &short[1..8]].concat();
    first != b' ' && valid(&base) && valid(&short[8..])
}

fn is_short_byte(b: u8) -> bool {
    b >= 0x80 || b.is_ascii_uppercase() || b.is_ascii_digit() || b"!#$%&'()-@^_`{}~".contains(&b)
}

/// Generates a short name for a long one: `LONGNA~1.TXT`, with the first number that is free.
fn generate(
    name: &[u8],
    taken: &HashSet<[u8; 11]>,
    tails: &mut HashMap<(Vec<u8>, Vec<u8>), u32>,
) -> [u8; 11] {
    let text = String::from_utf8_lossy(name);
    let text = text.trim_start_matches(['.', ' ']);
    let (base, ext) = text.rsplit_once('.').unwrap_or((text, ""));
    let squeeze = |part: &str, most: usize| -> Vec<u8> {
        part.chars()
            .filter(|c| !matches!(c, ' ' | '.'))
            .map(|c| {
                let b = if c.is_ascii() { c.to_ascii_uppercase() as u8 } else { b'_' };
                if is_short_byte(b) { b } else { b'_' }
            })
            .take(most)
            .collect()
    };
    let (base, ext) = (squeeze(base, 6), squeeze(ext, 3));
    let next = tails.entry((base.clone(), ext.clone())).or_insert(1);
    loop {
        let tail = format!("~{next}");
        *next += 1;
        let mut short = [b' '; 11];
        let kept = base.len().min(8 - tail.len());
        short[..kept].copy_from_slice(&base[..kept]);
        short[kept..kept + tail.len()].copy_from_slice(tail.as_bytes());
        short[8..8 + ext.len()].copy_from_slice(&ext);
        if !taken.contains(&short) {
            return short;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_fits_is_short_alone() {
        assert_eq!(plain_short(b"README.TXT", 0), Some(*b"README  TXT"));
        assert_eq!(plain_short(b"readme.txt", 0x18), Some(*b"README  TXT"));
        assert_eq!(plain_short("É".as_bytes(), 0), Some(*b"\x90          "));
        for (name, case) in
            [("readme.txt", 0), ("a b", 0), ("A.B.C", 0), ("NINELONGS", 0), (".X", 0), ("A.", 0)]
        {
            assert_eq!(plain_short(name.as_bytes(), case), None, "{name}");
        }
    }

    #[test]
    fn generated_names_are_unique_and_valid() {
        let (mut taken, mut tails) = (HashSet::new(), HashMap::new());
        let mut next = |name: &str| {
            let short = generate(name.as_bytes(), &taken, &mut tails);
            assert!(is_valid_short(&short) && taken.insert(short), "{name}");
            short
        };
        assert_eq!(next("a long name.text"), *b"ALONGN~1TEX");
        assert_eq!(next("a long name too.text"), *b"ALONGN~2TEX");
        assert_eq!(next("LONGNA~1.TXT"), *b"LONGNA~1TXT");
        assert_eq!(next(".profile"), *b"PROFIL~1   ");
        assert_eq!(next("日本"), *b"__~1       ");
        for i in 0..20_000 {
            next(&format!("a file with a long name, number {i}"));
        }
    }

    #[test]
    fn what_fat_cannot_hold_is_told() {
        let problem = |name: &[u8]| units(name).unwrap_err();
        assert!(problem(b"a:b").contains("':'"));
        assert!(problem(b"\xff").contains("not UTF-8"));
        assert!(problem(b"end.").contains("a dot"));
        assert!(problem(&[b'x'; 256]).contains("256 UTF-16 units"));
        assert!(units("日本".as_bytes()).is_ok() && units("ĺ".as_bytes()).is_ok());
        assert_eq!(utf16(b"a\xED\xA0\x80b"), Some(vec![0x61, 0xD800, 0x62]));
    }
}
