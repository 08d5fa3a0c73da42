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

use super::manifest::{Body, Row};
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

/// Returns true if `file` is what [`encode`] returns for rows with these bodies. Sorts nothing: entries in ascending order,
/// each as its row has it, and as many as there are rows with a digest, can only be those.
#[must_use]
pub fn is_of(file: &[u8], bodies: &[Option<Body>]) -> bool {
    let Some(header) = file.get(..HEADER) else { return false };
    let Ok(sections) = sections(header, file.len() as u64) else { return false };
    if header[8..40] != blake3::hash(&file[40..]).as_bytes()[..] {
        return false;
    }
    let are = |section: Range<u64>, prefix: &dyn Fn(&Body) -> Option<[u8; 4]>| {
        let section = &file[section.start as usize..section.end as usize];
        let bodies = &bodies[..bodies.len().min(u32::MAX as usize)];
        let mut last = None;
        let fits = section.chunks_exact(ENTRY).all(|entry| {
            let row = u32::from_le_bytes(entry[4..].try_into().expect("four bytes"));
            let entry: ([u8; 4], u32) = (entry[..4].try_into().expect("four bytes"), row);
            let is_next = last.replace(entry).is_none_or(|last| last < entry);
            let body = bodies.get(row as usize).and_then(Option::as_ref);
            is_next && body.and_then(prefix) == Some(entry.0)
        });
        fits && section.len() / ENTRY == bodies.iter().flatten().filter_map(prefix).count()
    };
    let first = |digest: &[u8]| -> [u8; 4] { digest[..4].try_into().expect("a digest is longer") };
    are(sections.blake3, &|body| body.blake3().map(|digest| first(&digest)))
        && are(sections.sha1, &|body| body.sha1().map(|digest| first(&digest)))
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
    fn a_file_is_of_these_rows_only_if_it_is_what_they_encode_to() {
        let mut rows: Vec<Row> = (0..40u32).map(|i| row(format!("/{i}").as_bytes())).collect();
        for (i, row) in rows.iter_mut().enumerate() {
            let blake3 = ObjectId::of(&[i as u8 / 3]).digest;
            let sha1 = ObjectId::of(&[i as u8, 1]).digest[..20].try_into().unwrap();
            row.body = match i % 7 {
                0 => None,
                1 => Some(Body::Opaque { object: ObjectId::chunk_list(blake3) }),
                _ => Some(Body::Digested { sha1, blake3 }),
            };
        }
        let bodies = |rows: &[Row]| rows.iter().map(|row| row.body).collect::<Vec<_>>();
        let file = encode(&rows);
        assert!(is_of(&file, &bodies(&rows)) && is_of(&encode(&[]), &[]));
        for at in 0..file.len() {
            // Also with a digest that fits: the order, the rows and the counts must be right.
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert!(!is_of(&bad, &bodies(&rows)), "byte {at}");
            let digest = *blake3::hash(&bad[40..]).as_bytes();
            bad[8..40].copy_from_slice(&digest);
            assert_eq!(is_of(&bad, &bodies(&rows)), bad == file, "byte {at}");
        }
        for len in 0..file.len() {
            assert!(!is_of(&file[..len], &bodies(&rows)));
        }
        for i in 0..rows.len() {
            let mut other = rows.clone();
            other[i].body = match rows[i].body {
                None => rows[2].body,
                Some(Body::Opaque { .. }) => continue,
                Some(_) => None,
            };
            assert_eq!(is_of(&file, &bodies(&other)), encode(&other) == file, "row {i}");
        }
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
