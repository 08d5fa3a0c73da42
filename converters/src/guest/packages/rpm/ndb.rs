//! rpm's own database format, ndb: `Packages.db` (rpm, lib/backend/ndb/rpmpkg.c). SUSE uses it.
//!
//! ```text
//! page of 4 KiB   a header of 32 bytes, then slots of 16 bytes; more pages with slots follow
//! blocks of 16    blobs: a head of 16 bytes, the package header, padding, and a tail of 12 bytes
//! ```
//!
//! Numbers are little-endian.

use crate::error::{Error, Result};

const MAGIC: &[u8] = b"RpmP";
const SLOT: &[u8] = b"Slot";
const BLOB_START: &[u8] = b"BlbS";
const BLOB_END: &[u8] = b"BlbE";
const PAGE: usize = 4096;
/// The size of the header, in which `slotnpages` is at byte 12.
const HEADER: usize = 32;
/// The size of a slot and of the unit in which slots count.
const BLOCK: usize = 16;
const TAIL: usize = 12;

/// Returns the package headers in a database, in the order of their numbers, and how many are damaged.
pub(super) fn blobs(database: &[u8]) -> Result<(Vec<Vec<u8>>, usize)> {
    let wrong = |problem: &str| Error::input(format!("Packages.db: {problem}"));
    if !database.starts_with(MAGIC) || number(database, 4) != Some(0) {
        return Err(wrong("not an ndb database of version 0"));
    }
    let pages = number(database, 12).unwrap_or(0);
    let end = pages.checked_mul(PAGE).filter(|end| (HEADER..=database.len()).contains(end));
    let slots = &database[HEADER..end.ok_or_else(|| wrong("its slots reach past its end"))?];
    let (mut found, mut damaged) = (Vec::new(), 0);
    // Blobs of an intact database do not overlap: together they cannot be longer than it.
    let mut left = database.len();
    for slot in slots.chunks_exact(BLOCK) {
        let Some(package) = number(slot, 4).filter(|package| *package != 0) else { continue };
        match blob(database, slot, package) {
            Some(blob) => {
                left = left.checked_sub(blob.len()).ok_or_else(|| wrong("its entries overlap"))?;
                found.push((package, blob.to_vec()));
            }
            None => damaged += 1,
        }
    }
    found.sort_by_key(|(package, _)| *package);
    Ok((found.into_iter().map(|(_, blob)| blob).collect(), damaged))
}

/// Returns the package header of a slot; `None` if the slot or the blob is damaged.
fn blob<'d>(database: &'d [u8], slot: &[u8], package: usize) -> Option<&'d [u8]> {
    let (offset, count) = (number(slot, 8)?, number(slot, 12)?);
    let start = offset.checked_mul(BLOCK)?;
    let whole = database.get(start..start.checked_add(count.checked_mul(BLOCK)?)?)?;
    let (body, tail) = whole.split_at_checked(whole.len().checked_sub(TAIL)?)?;
    let len = number(whole, 12)?;
    let is_whole = slot.starts_with(SLOT)
        && whole.starts_with(BLOB_START)
        && number(whole, 4) == Some(package)
        && number(tail, 4) == Some(len)
        && tail.ends_with(BLOB_END)
        && number(tail, 0) == Some(adler32(body));
    body.get(BLOCK..BLOCK.checked_add(len)?).filter(|_| is_whole)
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
}

/// Returns the Adler-32 checksum (RFC 1950).
fn adler32(bytes: &[u8]) -> usize {
    const MOD: u32 = 65_521;
    // As many bytes as cannot overflow.
    let (a, b) = bytes.chunks(5552).fold((1, 0), |(a, b), chunk| {
        let (a, b) = chunk
            .iter()
            .fold((a, b), |(a, b): (u32, u32), byte| (a + u32::from(*byte), b + a + u32::from(*byte)));
        (a % MOD, b % MOD)
    });
    (b << 16 | a) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(number: usize) -> [u8; 4] {
        (number as u32).to_le_bytes()
    }

    /// Makes a database with these packages, as rpm lays it out.
    fn database(packages: &[(usize, &[u8])]) -> Vec<u8> {
        let mut out = [MAGIC, &word(0), &word(1), &word(1), &word(9)].concat();
        out.resize(HEADER, 0);
        let mut blobs = Vec::new();
        for (package, content) in packages {
            let mut blob = [BLOB_START, &word(*package), &word(7), &word(content.len()), content].concat();
            blob.resize((blob.len() + TAIL).next_multiple_of(BLOCK) - TAIL, 0);
            let sum = word(adler32(&blob));
            blob.extend([&sum[..], &word(content.len()), BLOB_END].concat());
            let at = (PAGE + blobs.len()) / BLOCK;
            out.extend([SLOT, &word(*package), &word(at), &word(blob.len() / BLOCK)].concat());
            blobs.extend(blob);
        }
        while out.len() < PAGE {
            out.extend([SLOT, &word(0), &word(0), &word(0)].concat());
        }
        [out, blobs].concat()
    }

    #[test]
    fn headers_are_read_in_the_order_of_their_numbers() {
        let made = database(&[(3, b"third"), (1, b"the first package"), (2, b"")]);
        let expected = [&b"the first package"[..], b"", b"third"].map(<[u8]>::to_vec);
        assert_eq!(blobs(&made).unwrap(), (expected.to_vec(), 0));
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
    }

    #[test]
    fn a_damaged_entry_costs_itself_only() {
        let made = database(&[(1, b"one"), (2, b"two")]);
        for at in (HEADER..HEADER + 16).chain(PAGE..PAGE + 32) {
            let mut bad = made.clone();
            bad[at] ^= 0x40;
            let (found, damaged) = blobs(&bad).unwrap();
            // The time in the head is covered by the checksum too.
            assert_eq!((found, damaged), (vec![b"two".to_vec()], 1), "byte {at}");
        }
    }

    #[test]
    fn a_database_that_claims_too_much_is_refused() {
        let made = database(&[(1, b"one")]);
        for (at, value) in [(0, 0), (4, 1), (12, 0), (12, 100), (12, u32::MAX as usize)] {
            let mut bad = made.clone();
            bad[at..at + 4].copy_from_slice(&word(value));
            assert!(blobs(&bad).is_err(), "{at} {value}");
        }
        assert!(blobs(b"").is_err() && blobs(b"RpmP").is_err());
        // Slots of one blob: its copies would be longer than the database.
        let mut shared = database(&[(1, &[7; 9000])]);
        let slot = shared[HEADER..HEADER + 16].to_vec();
        shared[HEADER + 16..HEADER + 32].copy_from_slice(&slot);
        assert!(blobs(&shared).is_err());
    }
}
