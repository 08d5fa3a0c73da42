//! Sparse members: GNU's old format, and its pax formats 0.0, 0.1 and 1.0 (GNU tar's manual, "Storing Sparse Files").

use tar::{EntryType, GnuExtSparseHeader, Header};

use super::{BLOCK, Extra, MAX_EXTRA, Reader, number};
use crate::error::{Error, Result};
use crate::ingest::Parts;

impl Reader<'_> {
    /// Returns the size of a regular file, and its parts that are not holes with their offsets in the tar.
    pub(super) fn parts(
        &mut self,
        at: u64,
        header: &Header,
        size: u64,
        extra: &Extra,
    ) -> Result<(u64, Parts)> {
        let start = at + BLOCK;
        let pax = |key: &[u8]| extra.pax.get(key);
        let bad = || self.bad(at, "invalid map of holes");
        if header.entry_type() == EntryType::GNUSparse {
            let gnu = header.as_gnu().ok_or_else(bad)?;
            let real = gnu.real_size().map_err(|_| bad())?;
            let mut map = Vec::new();
            let mut add = |offset: std::io::Result<u64>, len: std::io::Result<u64>| {
                map.push((offset.map_err(|_| bad())?, len.map_err(|_| bad())?));
                Ok::<_, Error>(())
            };
            for part in gnu.sparse.iter().filter(|part| !part.is_empty()) {
                add(part.offset(), part.length())?;
            }
            let mut more = gnu.is_extended();
            let mut data = start;
            while more {
                let mut extended = GnuExtSparseHeader::new();
                if data - start > MAX_EXTRA {
                    return Err(bad());
                }
                self.source.read_at(data, extended.as_mut_bytes())?;
                for part in extended.sparse().iter().filter(|part| !part.is_empty()) {
                    add(part.offset(), part.length())?;
                }
                more = extended.is_extended();
                data += BLOCK;
            }
            // The header's size does not count its extension blocks.
            let next = self.next + (data - start);
            let parts = place(&map, real, data, size).filter(|_| data + size <= self.source.len());
            let parts = parts.ok_or_else(bad)?;
            self.next = next;
            return Ok((real, parts));
        }
        if pax(b"GNU.sparse.major") == Some(b"1") {
            let real = pax(b"GNU.sparse.realsize").and_then(number).ok_or_else(bad)?;
            let bytes = self.source.read_vec(start, size.min(MAX_EXTRA) as usize)?;
            let mut lines = bytes.split(|b| *b == b'\n');
            let mut used = 0;
            let mut next = || {
                let line = lines.next()?;
                used += line.len() + 1;
                number(line)
            };
            let count = next().ok_or_else(bad)?;
            let mut map = Vec::new();
            for _ in 0..count {
                map.push((next().ok_or_else(bad)?, next().ok_or_else(bad)?));
            }
            let used = (used as u64).next_multiple_of(BLOCK);
            let left = size.checked_sub(used).ok_or_else(bad)?;
            return Ok((real, place(&map, real, start + used, left).ok_or_else(bad)?));
        }
        let listed = |map: &[u8]| map.split(|b| *b == b',').map(number).collect::<Option<Vec<u64>>>();
        let map = match pax(b"GNU.sparse.map") {
            Some(map) => Some(listed(map).ok_or_else(bad)?),
            None if pax(b"GNU.sparse.numblocks").is_some() => {
                let keys: [&[u8]; 2] = [b"GNU.sparse.offset", b"GNU.sparse.numbytes"];
                let numbers = extra.pax.own().filter(|(key, _)| keys.contains(key));
                Some(numbers.map(|(_, value)| number(value)).collect::<Option<_>>().ok_or_else(bad)?)
            }
            None => None,
        };
        if let Some(map) = map {
            let real = pax(b"GNU.sparse.size").and_then(number).ok_or_else(bad)?;
            let map: Vec<(u64, u64)> =
                map.chunks(2).map(|pair| (pair[0], *pair.last().expect("one"))).collect();
            return Ok((real, place(&map, real, start, size).ok_or_else(bad)?));
        }
        Ok((size, if size > 0 { vec![(0..size, start)] } else { Vec::new() }))
    }
}

/// Places the parts of a map (offset and length in the file), which are stored consecutively in the tar at `at` in
/// `len` bytes. Returns `None` if they overlap, exceed the file's size `real`, or need more than `len` bytes.
fn place(map: &[(u64, u64)], real: u64, mut at: u64, len: u64) -> Option<Parts> {
    let mut parts = Vec::new();
    let (mut end, mut left) = (0, len);
    for (offset, len) in map.iter().filter(|(_, len)| *len > 0) {
        let stop = offset.checked_add(*len)?;
        if *offset < end || stop > real {
            return None;
        }
        left = left.checked_sub(*len)?;
        parts.push((*offset..stop, at));
        (end, at) = (stop, at + len);
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_of_holes_that_overlaps_or_goes_past_the_end_is_none() {
        assert_eq!(place(&[(0, 10), (20, 5)], 25, 512, 15), Some(vec![(0..10, 512), (20..25, 522)]));
        assert_eq!(place(&[(0, 10), (5, 5)], 25, 512, 15), None);
        assert_eq!(place(&[(0, 10), (20, 6)], 25, 512, 16), None);
        assert_eq!(place(&[(0, 10)], 25, 512, 9), None);
        assert_eq!(place(&[(u64::MAX, 10)], 25, 512, 10), None);
    }
}
