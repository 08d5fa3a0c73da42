//! The chunk map, which translates logical addresses of a volume to bytes of the device.
//!
//! <https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html>, "CHUNK_ITEM".

use std::collections::BTreeMap;
use std::ops::Range;

use super::items::{Key, kind};
use crate::bytes::{le16, le64};
use crate::error::{Error, Result, at};

/// The size in bytes of a chunk item's head and of each stripe.
const HEAD: usize = 48;
const STRIPE: usize = 32;
/// The most warnings about chunks.
const WARNINGS_MAX: usize = 10;

const DUP: u64 = 0x20;
/// The profiles by their bits in `type`.
const PROFILES: [(u64, &str); 8] = [
    (0x8, "raid0"),
    (0x10, "raid1"),
    (DUP, "dup"),
    (0x40, "raid10"),
    (0x80, "raid5"),
    (0x100, "raid6"),
    (0x200, "raid1c3"),
    (0x400, "raid1c4"),
];

/// A range of logical addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chunk {
    start: u64,
    len: u64,
    /// The offsets of its copies on the device; if there are none, `unreadable` has the reason.
    copies: Vec<u64>,
    unreadable: Option<String>,
}

/// The chunks of a volume, sorted by address.
#[derive(Debug, Clone, Default)]
pub(super) struct Chunks(Vec<Chunk>);

impl Chunks {
    /// Parses the chunks in the superblock, which contain the chunk tree.
    pub(super) fn of_superblock(mut bytes: &[u8], devid: u64) -> Result<Self> {
        let short = || at("Btrfs superblock").field("sys_chunk_array").corrupt("ends within a chunk");
        let mut chunks = Chunks::default();
        while !bytes.is_empty() {
            let (key, item) = bytes.split_at_checked(Key::SIZE).ok_or_else(short)?;
            let key = Key::parse(key);
            if key.kind != kind::CHUNK_ITEM || item.len() < HEAD {
                return Err(short());
            }
            let end = HEAD + STRIPE * usize::from(le16(item, 44));
            chunks.add(key, item.get(..end).ok_or_else(short)?, devid)?;
            bytes = &item[end..];
        }
        Ok(chunks)
    }

    /// Adds the chunk in an item of the chunk tree. A chunk already known is not replaced.
    pub(super) fn add(&mut self, key: Key, item: &[u8], devid: u64) -> Result<()> {
        let place = || at(format!("chunk at {}", key.offset));
        if item.len() < HEAD || item.len() < HEAD + STRIPE * usize::from(le16(item, 44)) {
            return Err(place().corrupt(format!("its item of {} bytes is too short", item.len())));
        }
        let (start, len, kinds) = (key.offset, le64(item, 0), le64(item, 24));
        let Some(end) = start.checked_add(len).filter(|end| start < *end) else {
            return Err(place().field("length").corrupt(format!("is {len}")));
        };
        let stripes: Vec<(u64, u64)> =
            item[HEAD..].chunks_exact(STRIPE).map(|stripe| (le64(stripe, 0), le64(stripe, 8))).collect();
        let profile = PROFILES.iter().filter(|(bit, _)| kinds & bit != 0).map(|(_, name)| *name);
        let profile = profile.collect::<Vec<_>>().join(" and ");
        let expected = if kinds & DUP != 0 { 2 } else { 1 };
        let unreadable = if !matches!(&profile[..], "" | "dup") {
            Some(format!("has the profile {profile}, which mif does not read"))
        } else if stripes.len() != expected {
            Some(format!("has {} stripes, expected {expected}", stripes.len()))
        } else if let Some((other, _)) = stripes.iter().find(|(id, _)| *id != devid) {
            Some(format!("lies on the device {other}, and this is the device {devid}"))
        } else {
            None
        };
        let copies =
            if unreadable.is_some() { Vec::new() } else { stripes.iter().map(|(_, at)| *at).collect() };
        let chunk = Chunk { start, len, copies, unreadable };
        let next = self.0.partition_point(|other| other.start < start);
        if self.0.get(next) == Some(&chunk) {
            return Ok(());
        }
        let before = next.checked_sub(1).map(|i| &self.0[i]);
        if before.is_some_and(|before| before.start + before.len > start)
            || self.0.get(next).is_some_and(|after| after.start < end)
        {
            return Err(place().corrupt("overlaps another chunk"));
        }
        self.0.insert(next, chunk);
        Ok(())
    }

    /// Returns the distinct reasons why chunks cannot be read, at most [`WARNINGS_MAX`].
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut reasons: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
        for chunk in &self.0 {
            if let Some(reason) = &chunk.unreadable {
                reasons.entry(reason).or_insert((chunk.start, 0)).1 += 1;
            }
        }
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, (first, _))| *first);
        let warning = |(reason, (first, count)): (&str, (u64, usize))| match count {
            1 => format!("the chunk at {first} {reason}"),
            _ => format!("{count} chunks cannot be read: the one at {first} {reason}"),
        };
        reasons.into_iter().take(WARNINGS_MAX).map(warning).collect()
    }

    fn find(&self, logical: u64) -> Result<&Chunk> {
        let place = || at("chunk map").byte(logical);
        let next = self.0.partition_point(|chunk| chunk.start <= logical);
        let chunk = next.checked_sub(1).map(|i| &self.0[i]);
        let chunk = chunk.filter(|chunk| logical - chunk.start < chunk.len);
        let chunk = chunk.ok_or_else(|| place().corrupt("this logical address lies in no chunk"))?;
        match &chunk.unreadable {
            Some(reason) => Err(at(format!("chunk at {}", chunk.start)).unsupported(reason.clone())),
            None => Ok(chunk),
        }
    }

    /// Returns the device offsets of the copies of `len` bytes at a logical address, which must be within one chunk.
    pub(super) fn copies(&self, logical: u64, len: u64) -> Result<Vec<u64>> {
        let chunk = self.find(logical)?;
        let within = logical - chunk.start;
        if len > chunk.len - within {
            return Err(outside(logical, len));
        }
        chunk
            .copies
            .iter()
            .map(|copy| copy.checked_add(within).ok_or_else(|| outside(logical, len)))
            .collect()
    }

    /// Returns the parts of a range of the device that are in chunks, each with its logical address. Fails if the place of
    /// any chunk is not known.
    pub(super) fn stripes_in(&self, range: &Range<u64>) -> Result<Vec<(Range<u64>, u64)>> {
        let mut stripes = Vec::new();
        for chunk in &self.0 {
            self.find(chunk.start)?;
            for copy in &chunk.copies {
                let end = copy.saturating_add(chunk.len).min(range.end);
                let start = range.start.max(*copy);
                if start < end {
                    stripes.push((start..end, chunk.start + (start - copy)));
                }
            }
        }
        Ok(stripes)
    }

    /// Returns the device ranges that hold the first copy of `len` bytes starting at a logical address.
    pub(super) fn runs(&self, logical: u64, len: u64) -> Result<Vec<Range<u64>>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let (mut logical, mut left) = (logical, len);
        while left > 0 {
            let chunk = self.find(logical)?;
            let within = logical - chunk.start;
            let here = left.min(chunk.len - within);
            let start = chunk.copies[0].checked_add(within).ok_or_else(|| outside(logical, len))?;
            let end = start.checked_add(here).ok_or_else(|| outside(logical, len))?;
            match runs.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => runs.push(start..end),
            }
            logical += here;
            left -= here;
        }
        Ok(runs)
    }
}

fn outside(logical: u64, len: u64) -> Error {
    at("chunk map")
        .byte(logical)
        .corrupt(format!("{len} bytes from this logical address on extend past their chunk"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(len: u64, kinds: u64, stripes: &[(u64, u64)]) -> Vec<u8> {
        let mut item = vec![0; HEAD + STRIPE * stripes.len()];
        item[..8].copy_from_slice(&len.to_le_bytes());
        item[24..32].copy_from_slice(&kinds.to_le_bytes());
        item[44..46].copy_from_slice(&(stripes.len() as u16).to_le_bytes());
        for (i, (devid, offset)) in stripes.iter().enumerate() {
            item[HEAD + STRIPE * i..][..8].copy_from_slice(&devid.to_le_bytes());
            item[HEAD + STRIPE * i + 8..][..8].copy_from_slice(&offset.to_le_bytes());
        }
        item
    }

    fn key(start: u64) -> Key {
        Key::new(256, kind::CHUNK_ITEM, start)
    }

    #[test]
    fn addresses_are_mapped_across_chunks_and_nowhere_else() {
        let mut chunks = Chunks::default();
        chunks.add(key(1000), &item(100, 4 | DUP, &[(1, 5000), (1, 9000)]), 1).unwrap();
        chunks.add(key(1100), &item(100, 1, &[(1, 5100)]), 1).unwrap();
        chunks.add(key(1200), &item(100, 1, &[(1, 300)]), 1).unwrap();
        assert_eq!(chunks.copies(1010, 90).unwrap(), [5010, 9010]);
        assert!(chunks.copies(1010, 91).is_err() && chunks.copies(999, 1).is_err());
        assert_eq!(chunks.runs(1050, 200).unwrap(), [5050..5200, 300..350]);
        assert!(chunks.runs(1250, 51).is_err());
        assert!(chunks.runs(u64::MAX, 1).is_err());
        assert!(chunks.warnings().is_empty());
        assert_eq!(
            chunks.stripes_in(&(250..5150)).unwrap(),
            [(5000..5100, 1000), (5100..5150, 1100), (300..400, 1200)]
        );
    }

    #[test]
    fn other_profiles_and_devices_are_named() {
        let mut chunks = Chunks::default();
        chunks.add(key(0), &item(10, 1 | 0x10, &[(1, 0), (1, 50)]), 1).unwrap();
        chunks.add(key(10), &item(10, 1, &[(2, 0)]), 1).unwrap();
        chunks.add(key(20), &item(10, 1, &[(2, 10)]), 1).unwrap();
        chunks.add(key(30), &item(10, DUP, &[(1, 10)]), 1).unwrap();
        assert_eq!(
            chunks.warnings(),
            [
                "the chunk at 0 has the profile raid1, which mif does not read",
                "2 chunks cannot be read: the one at 10 lies on the device 2, and this is the device 1",
                "the chunk at 30 has 1 stripes, expected 2"
            ]
        );
        assert!(chunks.stripes_in(&(0..1)).is_err());
        let error = chunks.runs(5, 1).unwrap_err();
        assert_eq!(error.to_string(), "chunk at 0: has the profile raid1, which mif does not read");
    }

    #[test]
    fn chunks_that_overlap_or_wrap_are_errors() {
        let mut chunks = Chunks::default();
        let one = item(10, 1, &[(1, 0)]);
        chunks.add(key(100), &one, 1).unwrap();
        chunks.add(key(100), &one, 1).unwrap();
        assert!(chunks.add(key(105), &one, 1).is_err() && chunks.add(key(95), &one, 1).is_err());
        assert!(chunks.add(key(100), &item(10, 1, &[(1, 7)]), 1).is_err());
        assert!(chunks.add(key(u64::MAX - 5), &one, 1).is_err());
        assert!(chunks.add(key(300), &item(0, 1, &[(1, 0)]), 1).is_err());
        assert!(chunks.add(key(300), &one[..50], 1).is_err());
        let array = [&key(100).bytes()[..], &one[..]].concat();
        assert!(Chunks::of_superblock(&array, 1).is_ok());
        assert!((1..array.len()).all(|len| Chunks::of_superblock(&array[..len], 1).is_err()));
    }
}
