//! The sorted digests of a manifest, for finding content among many images without reading their manifests.
//!
//! ```text
//! "MIFDIGS1"   magic and version
//! 32 bytes     BLAKE3 of what follows
//! u64 le       count of BLAKE3 entries
//! u64 le       count of SHA-1 entries
//! the BLAKE3 entries, then the SHA-1 entries, each ascending:
//!     u32 be   the first four bytes of the digest
//!     u32 le   the number of the row in the manifest
//! ```
//!
//! An entry only says where to look: compare the full digest with the row in the manifest. The file can be rebuilt from
//! the manifest at any time.

use std::ops::Range;

use super::manifest::Row;
use crate::bytes::le64;
use crate::error::{Result, at};

const MAGIC: &[u8; 8] = b"MIFDIGS1";
/// Size of the header before the entries in bytes.
pub const HEADER: usize = 56;
const ENTRY: usize = 8;

/// Encodes the file for these rows.
#[must_use]
pub fn encode(rows: &[Row]) -> Vec<u8> {
    let entries = |prefix: &dyn Fn(&Row) -> Option<[u8; 4]>| -> Vec<([u8; 4], u32)> {
        let numbered = rows.iter().enumerate().take(u32::MAX as usize);
        let mut entries: Vec<_> =
            numbered.filter_map(|(i, row)| prefix(row).map(|prefix| (prefix, i as u32))).collect();
        entries.sort_unstable();
        entries
    };
    let first = |digest: &[u8]| -> [u8; 4] { digest[..4].try_into().expect("a digest is longer") };
    let blake3 = entries(&|row| row.blake3().map(|digest| first(&digest)));
    let sha1 = entries(&|row| row.sha1().map(|digest| first(&digest)));
    let mut body = Vec::with_capacity(16 + (blake3.len() + sha1.len()) * ENTRY);
    body.extend_from_slice(&(blake3.len() as u64).to_le_bytes());
    body.extend_from_slice(&(sha1.len() as u64).to_le_bytes());
    for (prefix, row) in blake3.iter().chain(&sha1) {
        body.extend_from_slice(prefix);
        body.extend_from_slice(&row.to_le_bytes());
    }
    [MAGIC, &blake3::hash(&body).as_bytes()[..], &body[..]].concat()
}

/// The sections of the file, in bytes from its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sections {
    /// The BLAKE3 entries.
    pub blake3: Range<u64>,
    /// The SHA-1 entries.
    pub sha1: Range<u64>,
}

/// Reads the header, the first [`HEADER`] bytes of a file of `len` bytes.
pub fn sections(header: &[u8], len: u64) -> Result<Sections> {
    if header.len() != HEADER || &header[..8] != MAGIC {
        return Err(at("digests")
            .field("magic")
            .byte(0)
            .corrupt("is not MIFDIGS1, so this is not a digests file of this version"));
    }
    let end = |start: u64, count: u64| count.checked_mul(ENTRY as u64).and_then(|n| n.checked_add(start));
    let middle = end(HEADER as u64, le64(header, 40));
    let last = middle.and_then(|middle| end(middle, le64(header, 48)));
    match (middle, last) {
        (Some(middle), Some(last)) if last == len => {
            Ok(Sections { blake3: HEADER as u64..middle, sha1: middle..last })
        }
        _ => Err(at("digests").field("count").byte(40).corrupt("does not match the length of the file")),
    }
}

/// Returns the rows whose digest may be `digest`: those with the same first four bytes among `entries`.
pub fn find<'a>(entries: &'a [u8], digest: &[u8]) -> impl Iterator<Item = u32> + 'a {
    let wanted: [u8; 4] = digest[..4].try_into().expect("a digest is longer");
    let entry = move |i: usize| &entries[i * ENTRY..(i + 1) * ENTRY];
    let count = entries.len() / ENTRY;
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if entry(middle)[..4] < wanted[..] { low = middle + 1 } else { high = middle }
    }
    (low..count)
        .map(entry)
        .take_while(move |entry| entry[..4] == wanted)
        .map(|entry| u32::from_le_bytes(entry[4..].try_into().expect("four bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mif::ObjectId;
    use crate::mif::manifest::Body;
    use crate::mif::manifest::tests::row;

    #[test]
    fn every_row_is_found_by_its_digests() {
        let mut rows: Vec<Row> = (0..300u32).map(|i| row(format!("/{i}").as_bytes())).collect();
        for (i, row) in rows.iter_mut().enumerate() {
            let blake3 = ObjectId::of(&(i as u32 / 2).to_le_bytes()).digest;
            let sha1 = ObjectId::of(&[i as u8, 1]).digest[..20].try_into().unwrap();
            row.body = (i % 7 > 0).then_some(Body::Digested { sha1, blake3 });
        }
        let file = encode(&rows);
        let sections = sections(&file[..HEADER], file.len() as u64).unwrap();
        let part = |range: Range<u64>| &file[range.start as usize..range.end as usize];
        for (i, row) in rows.iter().enumerate() {
            if let Some(blake3) = row.blake3() {
                assert!(find(part(sections.blake3.clone()), &blake3).any(|n| n as usize == i));
            }
            if let Some(sha1) = row.sha1() {
                assert!(find(part(sections.sha1.clone()), &sha1).any(|n| n as usize == i));
            }
        }
        assert_eq!(find(part(sections.blake3), &[0xff; 32]).count(), 0);
    }

    #[test]
    fn a_header_that_does_not_fit_the_file_is_refused() {
        let file = encode(&[row(b"/a")]);
        assert!(sections(&file[..HEADER], file.len() as u64 + 1).is_err());
        let mut bad = file.clone();
        bad[47] = 0xff;
        assert!(sections(&bad[..HEADER], bad.len() as u64).is_err());
        assert!(sections(&file[..20], file.len() as u64).is_err());
    }
}
