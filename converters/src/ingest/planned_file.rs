//! A regular file to be read: the locations of its bytes, and the disk ranges it owns.

use std::hash::{Hash, Hasher};
use std::ops::Range;

use mif_formats::fs::{Content, Encoded, NodeId, Piece};

use crate::disk::scan::ScannedVolume;
use crate::disk::volume::VolumeOffset;
use crate::error::{Error, Result};

/// The most bytes of holes hashed for one image. Files beyond this limit are stored without digests: hashing zeros that
/// are not stored is not worth minutes.
pub(crate) const MAX_HASHED_HOLES: u64 = 8 << 30;

/// A regular file to be read.
pub(super) struct PlannedFile {
    /// Size in bytes.
    pub size: u64,
    /// The locations of its bytes, in file order, without gaps.
    pub pieces: Vec<DiskPiece>,
    /// The disk ranges that become content of this file in the layout.
    pub owns: Ownership,
    /// The indexes of the pieces, ascending, whose encoded bytes on the disk belong to this file in the layout.
    pub owns_encoded: Vec<usize>,
    /// True if its filesystem lets files share extents.
    pub may_share: bool,
    /// True if its digests are computed.
    pub hashed: bool,
}

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum DiskPiece {
    /// `len` bytes at `offset` of the disk.
    Disk { offset: u64, len: u64 },
    /// `len` zeros that are not on the disk.
    Zero { len: u64 },
    /// Bytes that are not on the disk in this form.
    Bytes(Vec<u8>),
    /// The same, to be read when they are needed ([`PlannedFile::with_bytes`]).
    Unread(Box<Unread>),
    /// Decoded bytes of a compressed extent, whose runs are disk ranges.
    Encoded(Box<Encoded>),
}

/// Bytes of a file that are in its filesystem's metadata. There may be millions of such files, and their bytes would be most
/// of an import's memory. Equal if the bytes are.
#[derive(Debug, Clone)]
pub(super) struct Unread {
    len: u64,
    /// BLAKE3 of the bytes.
    digest: [u8; 32],
    /// The index of the volume.
    volume: usize,
    /// The file there.
    node: NodeId,
}

/// Fewer bytes are kept in memory: an [`Unread`] takes as much.
const KEPT: usize = 64;

impl PartialEq for Unread {
    fn eq(&self, other: &Self) -> bool {
        (self.len, self.digest) == (other.len, other.digest)
    }
}

impl Eq for Unread {}

impl Hash for Unread {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl DiskPiece {
    /// Leaves bytes that are not on the disk to be read later, from a file of the volume with this index.
    pub(super) fn unread(self, volume: usize, node: NodeId) -> Self {
        match self {
            DiskPiece::Bytes(bytes) if bytes.len() > KEPT => DiskPiece::Unread(Box::new(Unread {
                len: bytes.len() as u64,
                digest: *blake3::hash(&bytes).as_bytes(),
                volume,
                node,
            })),
            other => other,
        }
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            DiskPiece::Disk { len, .. } | DiskPiece::Zero { len } => *len,
            DiskPiece::Bytes(bytes) => bytes.len() as u64,
            DiskPiece::Unread(unread) => unread.len,
            DiskPiece::Encoded(encoded) => u64::from(encoded.len),
        }
    }
}

impl PlannedFile {
    /// Returns a file that owns its ranges of the disk, and whose digests are computed.
    pub(super) fn new(size: u64, pieces: Vec<DiskPiece>, may_share: bool) -> Self {
        PlannedFile { size, pieces, owns: Ownership::All, owns_encoded: Vec::new(), may_share, hashed: true }
    }

    /// Returns the same file, ready to be read: with the bytes that are not on the disk. `None` if it is ready.
    pub(super) fn with_bytes(&self, volumes: &[ScannedVolume]) -> Result<Option<Self>> {
        let unread = self.pieces.iter().find_map(|piece| match piece {
            DiskPiece::Unread(unread) => Some(unread),
            _ => None,
        });
        let Some(unread) = unread else { return Ok(None) };
        let volume = &volumes[unread.volume];
        let filesystem = volume.filesystem().expect("a volume with files has a filesystem");
        let Content { pieces, .. } = filesystem.content(unread.node)?;
        let same = PlannedFile {
            size: self.size,
            pieces: pieces.into_iter().flat_map(|piece| place(volume, piece)).collect(),
            owns: self.owns.clone(),
            owns_encoded: self.owns_encoded.clone(),
            may_share: self.may_share,
            hashed: self.hashed,
        };
        if !same.pieces.iter().map(DiskPiece::len).eq(self.pieces.iter().map(DiskPiece::len)) {
            let changed = format!("{}: changed while it was read", volume.name);
            return Err(Error::input(changed).advise("Run the command again"));
        }
        Ok(Some(same))
    }

    /// Returns a file that is not on a disk. `parts` are the parts that are not holes, each with its offset in the
    /// source.
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
        let mut file = PlannedFile::new(size, pieces, false);
        file.owns = Ownership::None;
        file.hashed = file.holes() <= MAX_HASHED_HOLES;
        file
    }

    /// Returns the disk ranges (start, length) that hold its bytes. No range is empty.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.pieces.iter().filter_map(|piece| match piece {
            DiskPiece::Disk { offset, len } if *len > 0 => Some((*offset, *len)),
            _ => None,
        })
    }

    /// Returns the disk ranges that hold its bytes, as (start, length, offset in the file). No range is empty.
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

    /// Returns the disk ranges it owns: plain ones in file order, then those of compressed extents.
    pub(super) fn owned(&self) -> Vec<Range<u64>> {
        let plain = self.places().flat_map(|(start, len, at)| self.owns.within(start, at, len));
        plain.chain(self.owned_encoded().cloned()).collect()
    }

    /// Returns the disk ranges of the compressed extents that it owns.
    pub(super) fn owned_encoded(&self) -> impl Iterator<Item = &Range<u64>> {
        self.owns_encoded.iter().flat_map(|piece| match &self.pieces[*piece] {
            DiskPiece::Encoded(encoded) => &encoded.runs[..],
            _ => &[],
        })
    }

    /// Returns true if it has compressed extents.
    pub(super) fn has_encoded(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, DiskPiece::Encoded(_)))
    }

    /// Returns the total decoded size of its compressed extents in bytes.
    pub(super) fn decoded(&self) -> u64 {
        let decoded = self.pieces.iter().map(|piece| match piece {
            DiskPiece::Encoded(encoded) => u64::from(encoded.decoded),
            _ => 0,
        });
        decoded.fold(0, u64::saturating_add)
    }

    /// Returns the disk offset of its first byte on the disk, or `u64::MAX` if none of it is there.
    pub(super) fn start(&self) -> u64 {
        let start = |piece: &DiskPiece| match piece {
            DiskPiece::Disk { offset, len } if *len > 0 => Some(*offset),
            DiskPiece::Encoded(encoded) => encoded.runs.first().map(|run| run.start),
            _ => None,
        };
        self.pieces.iter().find_map(start).unwrap_or(u64::MAX)
    }

    /// Returns true if the file is not read.
    pub(super) fn is_skipped(&self) -> bool {
        self.pieces.is_empty() && self.size > 0
    }

    pub(super) fn holes(&self) -> u64 {
        self.pieces.iter().map(|p| if let DiskPiece::Zero { len } = p { *len } else { 0 }).sum()
    }
}

/// Returns the pieces of the disk that hold a piece of a volume.
pub(super) fn place(volume: &ScannedVolume, piece: Piece) -> Vec<DiskPiece> {
    match piece {
        Piece::Volume { offset, len } => volume
            .on_disk(VolumeOffset(offset), len)
            .map(|(offset, len)| DiskPiece::Disk { offset: offset.0, len })
            .collect(),
        Piece::Zero { len } => vec![DiskPiece::Zero { len }],
        Piece::Bytes(bytes) => vec![DiskPiece::Bytes(bytes)],
        Piece::Encoded(mut encoded) => {
            let runs = encoded
                .runs
                .iter()
                .flat_map(|run| volume.on_disk(VolumeOffset(run.start), run.end - run.start));
            encoded.runs = runs.map(|(start, len)| start.0..start.0 + len).collect();
            vec![DiskPiece::Encoded(encoded)]
        }
    }
}

/// The disk ranges that a file owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ownership {
    /// All of its ranges.
    All,
    /// None of its ranges.
    None,
    /// These parts, in disk order; other files own the rest.
    Parts(Vec<OwnedPart>),
}

/// A part of a file that shares extents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnedPart {
    /// The disk range.
    pub disk: Range<u64>,
    /// The offset of the range in the file, in bytes.
    pub file: u64,
}

impl Ownership {
    /// Returns the owned ranges within `len` bytes at disk offset `disk` and file offset `file`.
    pub(super) fn within(&self, disk: u64, file: u64, len: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let (whole, parts) = match self {
            Ownership::All => (Some(disk..disk + len), &[][..]),
            Ownership::None => (None, &[][..]),
            Ownership::Parts(parts) => (None, &parts[parts.partition_point(|part| part.disk.end <= disk)..]),
        };
        let parts = parts.iter().take_while(move |part| part.disk.start < disk + len);
        // A file may contain a range twice; only one occurrence owns it.
        let parts = parts.filter(move |part| part.file + disk == file + part.disk.start);
        let parts = parts.map(move |part| part.disk.start.max(disk)..part.disk.end.min(disk + len));
        whole.into_iter().chain(parts)
    }
}
