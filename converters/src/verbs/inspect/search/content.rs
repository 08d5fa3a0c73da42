//! Searches by content: the digests to find, and the rows of an image that may have them.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use mif_formats::mif::digests::{HEADER, find, sections};
use mif_formats::mif::manifest::columns::{Column, Group};

use crate::error::{Error, Result};
use crate::host::named::{MAX_CONTENT, open};
use crate::store::Storage;

/// The maximum length of a line of a list of digests, in bytes.
const MAX_LINE: u64 = 1 << 20;

/// Contents to search for, by digest.
#[derive(Debug, Clone, Default)]
pub struct WantedContents {
    blake3: HashSet<[u8; 32]>,
    sha1: HashSet<[u8; 20]>,
}

impl WantedContents {
    /// Adds the content of a local file.
    pub fn add_file(&mut self, path: &Path) -> Result<()> {
        let mut hasher = blake3::Hasher::new();
        let file = open(path, MAX_CONTENT)?;
        hasher.update_reader(file).map_err(|e| Error::io(path, &e))?;
        self.blake3.insert(*hasher.finalize().as_bytes());
        Ok(())
    }

    /// Adds a BLAKE3 in hex.
    pub fn add_blake3(&mut self, hex: &str) -> Result<()> {
        let digest =
            digest(hex).ok_or_else(|| Error::usage(format!("{hex}: not a BLAKE3 digest (64 hex digits)")))?;
        self.blake3.insert(digest);
        Ok(())
    }

    /// Adds a SHA-1 in hex.
    pub fn add_sha1(&mut self, hex: &str) -> Result<()> {
        let digest =
            digest(hex).ok_or_else(|| Error::usage(format!("{hex}: not a SHA-1 (40 hex digits)")))?;
        self.sha1.insert(digest);
        Ok(())
    }

    /// Adds the SHA-1s of a list: the first word of 40 hex digits in each line, as in the output of `sha1sum` and in
    /// hash sets such as NSRL's (including quoted and comma-separated words). Lines without one, such as headings, are
    /// skipped. Fails if the list adds none.
    pub fn add_sha1_list(&mut self, path: &Path) -> Result<()> {
        let mut list = BufReader::new(open(path, MAX_CONTENT)?);
        let before = self.sha1.len();
        let separates = |b: &u8| b.is_ascii_whitespace() || matches!(b, b',' | b';' | b'"' | b'\'');
        let mut line = Vec::new();
        // A line is read whole, so its length is limited: each part of a longer one counts as a line.
        while (&mut list).take(MAX_LINE).read_until(b'\n', &mut line).map_err(|e| Error::io(path, &e))? > 0 {
            let words = line.split(separates).filter_map(|word| std::str::from_utf8(word).ok());
            self.sha1.extend(words.filter_map(digest::<20>).next());
            line.clear();
        }
        if self.sha1.len() == before {
            return Err(Error::input(format!(
                "{}: no SHA-1 found, or only ones that were already given",
                path.display()
            ))
            .advise("Put each SHA-1 on its own line, as 40 hex digits"));
        }
        Ok(())
    }

    /// Returns false if no row of a group of the catalog's digests matches, by the first and the last BLAKE3 and by the
    /// bloom filter of the SHA-1s.
    pub(super) fn may_be_in(&self, group: &Group<'_>) -> bool {
        /// With more, each group has one of them, or seems to.
        const ASKED: usize = 64;
        let is_between =
            |(low, high): (&[u8], &[u8])| self.blake3.iter().any(|d| low <= &d[..] && &d[..] <= high);
        let may_be = !self.blake3.is_empty() && group.bounds(Column::Blake3).is_none_or(is_between);
        may_be
            || self.sha1.len() > ASKED
            || !self.sha1.is_empty() && !group.lacks(Column::Sha1, self.sha1.iter().map(|digest| &digest[..]))
    }

    /// Returns true if the query has BLAKE3 digests.
    pub(super) fn has_blake3(&self) -> bool {
        !self.blake3.is_empty()
    }

    /// Returns true if the query has SHA-1 digests.
    pub(super) fn has_sha1(&self) -> bool {
        !self.sha1.is_empty()
    }

    /// Returns true if a file with these digests matches the query.
    pub(crate) fn contain(&self, blake3: Option<[u8; 32]>, sha1: Option<[u8; 20]>) -> bool {
        blake3.is_some_and(|d| self.blake3.contains(&d)) || sha1.is_some_and(|d| self.sha1.contains(&d))
    }
}

fn digest<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let hex = hex.as_bytes();
    if hex.len() != 2 * N || !hex.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut digest = [0; N];
    for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

/// Returns the rows of the image in `folder` that may have one of `contents`, in ascending order; `None` if the image
/// has no file of digests, so that every row may.
pub(super) fn candidates(
    storage: &dyn Storage,
    folder: &str,
    contents: &WantedContents,
) -> Result<Option<Vec<usize>>> {
    let key = format!("{folder}/digests");
    let failed = |e: std::io::Error| storage.error(&key, &e);
    let len = match storage.len(&key) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let header = storage.read(&key, 0..len.min(HEADER as u64)).map_err(failed)?;
    let sections = sections(&header, len).map_err(|e| crate::error::damaged(&key, &e))?;
    let mut rows: Vec<usize> = Vec::new();
    if !contents.blake3.is_empty() {
        let entries = storage.read(&key, sections.blake3).map_err(failed)?;
        rows.extend(contents.blake3.iter().flat_map(|d| find(&entries, d)).map(|row| row as usize));
    }
    if !contents.sha1.is_empty() {
        let entries = storage.read(&key, sections.sha1).map_err(failed)?;
        rows.extend(contents.sha1.iter().flat_map(|d| find(&entries, d)).map(|row| row as usize));
    }
    rows.sort_unstable();
    rows.dedup();
    Ok(Some(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha1s_are_found_in_lists_of_all_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list");
        let sha1 = |n: u8| format!("{n:02x}").repeat(20);
        let text = format!(
            "\"SHA-1\",\"MD5\"\n\"{}\",\"0123\"\n{}  /etc/passwd\r\n{}\n\n",
            sha1(0xAB).to_uppercase(),
            sha1(2),
            sha1(3)
        );
        std::fs::write(&list, text).unwrap();
        let mut contents = WantedContents::default();
        contents.add_sha1_list(&list).unwrap();
        assert_eq!(contents.sha1.len(), 3);
        assert!(contents.contain(None, Some([0xAB; 20])) && !contents.contain(Some([2; 32]), None));
        std::fs::write(&list, "nothing\n").unwrap();
        assert!(contents.add_sha1_list(&list).is_err());
        assert!(contents.add_blake3("xyz").is_err());
    }
}
