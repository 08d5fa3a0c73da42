//! Logged changes that have not been written to the file: an ordered map of parts that do not overlap, so that a read
//! examines only the parts within its range, however many the log has.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The bytes to read instead of a file's own.
#[derive(Default)]
pub(super) struct Patches {
    /// Keyed by the start of each part, in bytes of the file.
    parts: BTreeMap<u64, Part>,
}

struct Part {
    /// The end of the part, in bytes of the file.
    end: u64,
    /// Its bytes, and the offset in them where it starts; `None` for zeros.
    bytes: Option<(Arc<[u8]>, usize)>,
}

impl Patches {
    /// Returns true if there are no patches.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Replaces `range` with zeros, over all earlier patches. Does nothing for an empty range.
    pub(super) fn zero(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        if let Some((before, part)) = self.parts.range_mut(..=start).next_back()
            && part.bytes.is_none()
            && part.end >= start
        {
            if part.end >= end {
                return;
            }
            start = *before;
        }
        self.cut(start..end);
        if let Some(after) = self.parts.get(&end).filter(|part| part.bytes.is_none()).map(|part| part.end) {
            self.parts.remove(&end);
            end = after;
        }
        self.parts.insert(start, Part { end, bytes: None });
    }

    /// Writes `bytes` at `start`, over all earlier patches.
    pub(super) fn write(&mut self, start: u64, bytes: &[u8]) {
        let end = start + bytes.len() as u64;
        if start < end {
            self.cut(start..end);
            self.parts.insert(start, Part { end, bytes: Some((bytes.into(), 0)) });
        }
    }

    /// Removes earlier patches from `range`, splitting those that reach beyond it.
    fn cut(&mut self, range: Range<u64>) {
        let mut rest = None;
        if let Some((before, part)) = self.parts.range_mut(..range.start).next_back()
            && part.end > range.start
        {
            if part.end > range.end {
                rest = Some(part.from(*before, range.end));
            }
            part.end = range.start;
        }
        while let Some((&start, _)) = self.parts.range(range.clone()).next() {
            let part = self.parts.remove(&start).expect("just found");
            if part.end > range.end {
                rest = Some(part.from(start, range.end));
            }
        }
        self.parts.extend(rest.map(|rest| (range.end, rest)));
    }

    /// Applies the patches to the bytes that were read from `offset`.
    pub(super) fn apply(&self, offset: u64, buf: &mut [u8]) {
        let end = offset + buf.len() as u64;
        let before = self.parts.range(..offset).next_back();
        for (start, part) in before.into_iter().chain(self.parts.range(offset..end)) {
            let (from, to) = (offset.max(*start), part.end.min(end));
            if from >= to {
                continue;
            }
            let into = &mut buf[(from - offset) as usize..(to - offset) as usize];
            match &part.bytes {
                Some((bytes, at)) => {
                    into.copy_from_slice(&bytes[at + (from - start) as usize..][..into.len()])
                }
                None => into.fill(0),
            }
        }
    }

    /// Returns whether `offset` is patched, and the end of the range that is in the same state; `None` for the end of
    /// the file.
    pub(super) fn at(&self, offset: u64) -> (Patched, Option<u64>) {
        match self.parts.range(..=offset).next_back() {
            Some((_, part)) if part.end > offset => {
                let kind = if part.bytes.is_some() { Patched::Bytes } else { Patched::Zeros };
                (kind, Some(part.end))
            }
            _ => (Patched::No, self.parts.range(offset..).next().map(|(start, _)| *start)),
        }
    }
}

/// The origin of a byte of a patched file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patched {
    /// The file's own.
    No,
    /// A patch's.
    Bytes,
    /// Zeroed by a patch.
    Zeros,
}

impl Part {
    /// Returns the rest from `at` of a part that starts at `start`.
    fn from(&self, start: u64, at: u64) -> Part {
        let bytes = self.bytes.as_ref().map(|(bytes, from)| (bytes.clone(), from + (at - start) as usize));
        Part { end: self.end, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the next pseudo-random number.
    fn next(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *seed >> 33
    }

    #[test]
    fn later_patches_cover_earlier_ones() {
        for seed in 0..200 {
            let mut random = seed;
            let (mut patches, mut expected) = (Patches::default(), vec![0xff; 100]);
            for number in 0..30u8 {
                let start = next(&mut random) % 90;
                let end = (start + next(&mut random) % 20).min(100);
                let range = start as usize..end as usize;
                if next(&mut random).is_multiple_of(2) {
                    patches.zero(start..end);
                    expected[range].fill(0);
                } else {
                    let bytes: Vec<u8> = (0..range.len() as u8).map(|i| number ^ i | 0x40).collect();
                    patches.write(start, &bytes);
                    expected[range].copy_from_slice(&bytes);
                }
            }
            let ends: Vec<(u64, u64)> =
                patches.parts.iter().map(|(start, part)| (*start, part.end)).collect();
            assert!(ends.is_sorted_by(|a, b| a.1 <= b.0), "{seed}: {ends:?}");
            for (from, to) in [(0, 100), (17, 60), (99, 100)] {
                let mut buf = vec![0xff; to - from];
                patches.apply(from as u64, &mut buf);
                assert_eq!(buf, expected[from..to], "{seed}");
            }
            for (offset, byte) in expected.iter().enumerate() {
                let (kind, end) = patches.at(offset as u64);
                let matches = match kind {
                    Patched::No => *byte == 0xff,
                    Patched::Zeros => *byte == 0,
                    Patched::Bytes => *byte != 0xff,
                };
                assert!(matches && end.is_none_or(|end| end > offset as u64), "{seed} {offset}");
            }
        }
    }

    #[test]
    fn zeros_over_zeros_take_no_memory() {
        let mut patches = Patches::default();
        for i in 0..1000u64 {
            patches.zero(4096 * i..4096 * (i + 1));
            patches.zero(0..4096);
        }
        assert_eq!(patches.parts.len(), 1);
        assert_eq!(patches.at(0), (Patched::Zeros, Some(4_096_000)));
    }
}
