//! Finds old identities in texts and in files of any length, and the new ones that replace them.

use std::ops::Range;

use mif_formats::Source;

use super::report::IdChange;
use crate::error::Result;

/// How many bytes of a file are searched at once.
const WINDOW: u64 = 4 << 20;

/// Old identities in lower case with their replacements, in the forms found in text: plain, and with dashes escaped as
/// in names of systemd units (systemd.unit(5)).
pub(super) struct References(Vec<(Vec<u8>, Vec<u8>)>);

/// A reference to an old identity.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// Its offset in the file.
    pub(super) at: u64,
    /// Its length in bytes.
    pub(super) len: usize,
    /// What replaces it.
    pub(super) text: Vec<u8>,
}

impl References {
    pub(super) fn new(changes: &[IdChange]) -> Self {
        let mut pairs = Vec::new();
        for change in changes.iter().filter(|change| change.of != "disk" || change.old.len() > 8) {
            let (old, new) = (change.old.to_ascii_lowercase(), change.new.clone());
            if !old.contains('-') {
                continue;
            }
            let escaped = |text: &str| text.replace('-', "\\x2d").into_bytes();
            pairs.push((escaped(&old), escaped(&new)));
            pairs.push((old.into_bytes(), new.into_bytes()));
        }
        References(pairs)
    }

    /// Returns the references in `bytes`: the range of each and its replacement.
    fn find(&self, bytes: &[u8]) -> Vec<(Range<usize>, Vec<u8>)> {
        let mut found = Vec::new();
        for (old, new) in &self.0 {
            // Search for its last dash or backslash, because few other texts contain them.
            let escaped = old.contains(&b'\\');
            let mark = if escaped { b'\\' } else { b'-' };
            let Some(place) = old.iter().rposition(|b| *b == mark) else { continue };
            for at in memchr::memchr_iter(mark, bytes) {
                let Some(start) = at.checked_sub(place) else { continue };
                let end = start + old.len();
                let Some(here) = bytes.get(start..end) else { continue };
                if !here.eq_ignore_ascii_case(old) {
                    continue;
                }
                // In a unit's name, a dash stands for a slash.
                let is_part =
                    |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'-' && !escaped);
                let before = start.checked_sub(1).and_then(|i| bytes.get(i));
                if is_part(before) || is_part(bytes.get(end)) {
                    continue;
                }
                // The x and d of an escaped dash say nothing about the case.
                let digits: Vec<u8> = String::from_utf8_lossy(here).replace("\\x2d", "").into_bytes();
                let upper = digits.iter().any(u8::is_ascii_uppercase);
                let lower = digits.iter().any(u8::is_ascii_lowercase);
                let mut text = new.clone();
                match (upper, lower) {
                    (true, false) if !escaped => text.make_ascii_uppercase(),
                    (true, false) => {
                        text.make_ascii_uppercase();
                        text = String::from_utf8_lossy(&text).replace("\\X2D", "\\x2d").into_bytes();
                    }
                    (false, true) => text.make_ascii_lowercase(),
                    // Digits alone do not reveal the case, so the form printed by tools is used.
                    _ => {}
                }
                found.push((start..end, text));
            }
        }
        found.sort_by_key(|(range, _)| range.start);
        found
    }

    /// Replaces old identities with new ones, and returns how many were replaced.
    pub(super) fn replace(&self, bytes: &mut Vec<u8>) -> usize {
        let found = self.find(bytes);
        for (range, text) in found.iter().rev() {
            bytes.splice(range.clone(), text.iter().copied());
        }
        found.len()
    }

    /// Returns the references in a file of any length, and true if the file is text, which means that it has no zero
    /// byte.
    pub(super) fn find_in(&self, source: &dyn Source) -> Result<(Vec<Reference>, bool)> {
        /// Longer than any reference with its neighbouring bytes.
        const OVERLAP: u64 = 256;
        let (mut found, mut is_text) = (Vec::new(), true);
        let mut start = 0;
        while start < source.len() {
            let end = (start + WINDOW).min(source.len());
            let from = start.saturating_sub(OVERLAP);
            let to = (end + OVERLAP).min(source.len());
            let bytes = source.read_vec(from, (to - from) as usize)?;
            is_text &= memchr::memchr(0, &bytes).is_none();
            let here = self.find(&bytes).into_iter().map(|(at, text)| Reference {
                at: from + at.start as u64,
                len: at.len(),
                text,
            });
            found.extend(here.filter(|it| (start..end).contains(&it.at)));
            start = end;
        }
        Ok((found, is_text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(pairs: &[(&str, &str)]) -> References {
        let change = |(old, new): &(&str, &str)| IdChange {
            of: "p1".into(),
            old: (*old).to_owned(),
            new: (*new).to_owned(),
        };
        References::new(&pairs.iter().map(change).collect::<Vec<_>>())
    }

    const OLD: &str = "6d69662d-6465-6269-616e-000000000001";
    const NEW: &str = "11111111-2222-4333-8444-abcdefabcdef";

    #[test]
    fn references_are_rewritten_in_the_case_they_have_and_only_whole() {
        let pairs = references(&[("4d49-4603", "AB12-34CD"), (OLD, NEW)]);
        let mut text = b"UUID=4D49-4603 /boot/efi\nroot=UUID=6d69662d-6465-6269-616e-000000000001 ro\n\
            x-4d49-4603 4d49-46030 PARTUUID=6D69662D-6465-6269-616E-000000000001\n"
            .to_vec();
        assert_eq!(pairs.replace(&mut text), 3);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "UUID=AB12-34CD /boot/efi\nroot=UUID=11111111-2222-4333-8444-abcdefabcdef ro\n\
            x-4d49-4603 4d49-46030 PARTUUID=11111111-2222-4333-8444-ABCDEFABCDEF\n"
        );
    }

    #[test]
    fn identities_of_another_kind_of_table_have_another_length() {
        let pairs = references(&[("6d696601-01", NEW), ("6d696601-02", "6d696601-03")]);
        let mut text = b"PARTUUID=6d696601-01 / ext4\nPARTUUID=6D696601-02 none\n16d696601-01".to_vec();
        assert_eq!(pairs.replace(&mut text), 2);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            format!("PARTUUID={NEW} / ext4\nPARTUUID=6D696601-03 none\n16d696601-01")
        );
    }

    #[test]
    fn names_of_units_have_their_dashes_escaped() {
        let pairs = references(&[("4d49-4603", "AB12-34CD"), (OLD, NEW)]);
        let mut name = b"/etc/systemd/system/dev-disk-by\\x2duuid-6d69662d\\x2d6465\\x2d6269\\x2d616e\\x2d000000000001.swap.d/x".to_vec();
        assert_eq!(pairs.replace(&mut name), 1);
        assert_eq!(
            String::from_utf8(name).unwrap(),
            "/etc/systemd/system/dev-disk-by\\x2duuid-11111111\\x2d2222\\x2d4333\\x2d8444\\x2dabcdefabcdef.swap.d/x"
        );
        let mut name = b"dev-disk-by\\x2duuid-4D49\\x2d4603.device".to_vec();
        assert_eq!(pairs.replace(&mut name), 1);
        assert_eq!(name, b"dev-disk-by\\x2duuid-AB12\\x2d34CD.device");
    }

    #[test]
    fn a_reference_across_two_windows_is_found_once() {
        let pairs = references(&[(OLD, NEW)]);
        for before in [WINDOW - 40, WINDOW - 36, WINDOW - 20, WINDOW - 1, WINDOW, 2 * WINDOW - 18] {
            let text = format!("{}{OLD} {}", " ".repeat(before as usize), "x".repeat(300));
            let (found, is_text) = pairs.find_in(&mif_formats::MemSource(text.into_bytes())).unwrap();
            let expected = Reference { at: before, len: OLD.len(), text: NEW.as_bytes().to_vec() };
            assert_eq!(found, [expected], "{before}");
            assert!(is_text);
        }
        let zeros = [OLD.as_bytes(), &[0]].concat();
        assert!(!pairs.find_in(&mif_formats::MemSource(zeros)).unwrap().1);
    }
}
