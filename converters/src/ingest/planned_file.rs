//! A regular file to be read: where its bytes lie, and which ranges of the disk it owns.

use std::ops::Range;

use mif_formats::fs::Encoded;

/// How many bytes of holes are hashed for one image. A file that would exceed this limit is stored too, but without
/// digests: hashing zeros that are stored nowhere is not worth minutes.
pub(crate) const MAX_HASHED_HOLES: u64 = 8 << 30;

/// A regular file to be read.
pub(super) struct PlannedFile {
    /// Size in bytes.
    pub size: u64,
    /// Where its bytes are, in file order, gap-free.
    pub pieces: Vec<DiskPiece>,
    /// Which of its disk ranges become content of this file in the layout.
    pub owns: Ownership,
    /// True if its filesystem lets files share extents.
    pub may_share: bool,
    /// True if its digests are computed.
    pub hashed: bool,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum DiskPiece {
    /// `len` bytes at `offset` of the disk.
    Disk { offset: u64, len: u64 },
    /// `len` zeros that are not stored.
    Zero { len: u64 },
    /// Bytes that are not on the disk in this form.
    Bytes(Vec<u8>),
    /// Bytes of a compressed extent; its runs are ranges of the disk.
    Encoded(Box<Encoded>),
}

impl DiskPiece {
    pub(super) fn len(&self) -> u64 {
        match self {
            DiskPiece::Disk { len, .. } | DiskPiece::Zero { len } => *len,
            DiskPiece::Bytes(bytes) => bytes.len() as u64,
            DiskPiece::Encoded(encoded) => u64::from(encoded.len),
        }
    }
}

impl PlannedFile {
    /// Returns a file that is not on a disk: its `parts` that are not holes, each with its offset in the source.
    pub(super) fn loose(size: u64, parts: &[(Range<u64>, u64)]) -> Self {
        let mut pieces = Vec::new();
        let mut at = 0;
        let hole = |pieces: &mut Vec<DiskPiece>, at: u64, end: u64| {
            if at < end {
                pieces.push(DiskPiece::Zero { len: end - at });
            }
        };
        for (range, offset) in parts {
            hole(&mut pieces, at, range.start);
            pieces.push(DiskPiece::Disk { offset: *offset, len: range.end - range.start });
            at = range.end;
        }
        hole(&mut pieces, at, size);
        let mut file = PlannedFile { size, pieces, owns: Ownership::None, may_share: false, hashed: true };
        file.hashed = file.holes() <= MAX_HASHED_HOLES;
        file
    }

    /// Returns the disk ranges (start, length) that hold its bytes. None is empty.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.pieces.iter().filter_map(|piece| match piece {
            DiskPiece::Disk { offset, len } if *len > 0 => Some((*offset, *len)),
            _ => None,
        })
    }

    /// Returns the disk ranges (start, length) that hold its bytes, each with its offset in the file. None is empty.
    pub(super) fn places(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let mut position = 0;
        self.pieces.iter().filter_map(move |piece| {
            let at = position;
            position += piece.len();
            match piece {
                DiskPiece::Disk { offset, len } if *len > 0 => Some((*offset, *len, at)),
                _ => None,
            }
        })
    }

    /// Returns the disk ranges that it owns, in file order.
    pub(super) fn owned(&self) -> Vec<Range<u64>> {
        self.places().flat_map(|(start, len, at)| self.owns.within(start, at, len)).collect()
    }

    /// Returns the number of bytes that its compressed extents decode to.
    pub(super) fn decoded(&self) -> u64 {
        let decoded = self.pieces.iter().map(|piece| match piece {
            DiskPiece::Encoded(encoded) => u64::from(encoded.decoded),
            _ => 0,
        });
        decoded.fold(0, u64::saturating_add)
    }

    /// Returns the offset on the disk at which it begins; past any disk if none of it is on the disk.
    pub(super) fn start(&self) -> u64 {
        self.ranges().next().map_or(u64::MAX, |(start, _)| start)
    }

    /// Returns true if it is not read at all.
    pub(super) fn is_skipped(&self) -> bool {
        self.pieces.is_empty() && self.size > 0
    }

    pub(super) fn holes(&self) -> u64 {
        self.pieces.iter().map(|p| if let DiskPiece::Zero { len } = p { *len } else { 0 }).sum()
    }
}

/// The disk ranges of a file that are its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ownership {
    /// All of them.
    All,
    /// None of them.
    None,
    /// These parts, in the order of the disk; the rest belongs to other files.
    Parts(Vec<OwnedPart>),
}

/// A part of a file that shares extents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnedPart {
    /// The range of the disk.
    pub disk: Range<u64>,
    /// Where the range begins in the file, in bytes.
    pub file: u64,
}

impl Ownership {
    /// Returns the owned ranges among `len` bytes that lie at byte `disk` of the disk and at byte `file` of the file.
    pub(super) fn within(&self, disk: u64, file: u64, len: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let (whole, parts) = match self {
            Ownership::All => (Some(disk..disk + len), &[][..]),
            Ownership::None => (None, &[][..]),
            Ownership::Parts(parts) => (None, &parts[parts.partition_point(|part| part.disk.end <= disk)..]),
        };
        let parts = parts.iter().take_while(move |part| part.disk.start < disk + len);
        // A file may have a range twice: only one of its places owns the range.
        let parts = parts.filter(move |part| part.file + disk == file + part.disk.start);
        let parts = parts.map(move |part| part.disk.start.max(disk)..part.disk.end.min(disk + len));
        whole.into_iter().chain(parts)
    }
}
