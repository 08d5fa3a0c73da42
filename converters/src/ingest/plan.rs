//! What an import will read: each file once, and the rest of the disk.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use mif_formats::fs::walk::Listing;
use mif_formats::fs::{FileId, FileType, Piece};
use mif_formats::mif::manifest::escape;
use mif_formats::{Error, ErrorKind};

use crate::disk::scan::{Scan, ScannedVolume};
use crate::disk::volume::VolumeOffset;
use crate::error::Result;

/// How many bytes of holes are hashed for one image. A file that would exceed this limit is stored too, but without
/// digests: hashing zeros that are stored nowhere is not worth minutes.
pub(crate) const MAX_HASHED_HOLES: u64 = 8 << 30;

/// All files of a disk.
pub(super) struct ReadPlan {
    /// The listings, by volume; `None` where there is no filesystem.
    pub listings: Vec<Option<Listing>>,
    /// Each regular file once, in the order in which they lie on the disk.
    pub files: Vec<PlannedFile>,
    /// The position in `files` of each file of a volume.
    pub by_file: FileNumbers,
    /// The disk ranges that are content of exactly one file, sorted. Everything else is residue.
    pub content: Vec<Range<u64>>,
    /// Warnings about what could not be read, as sentences.
    pub complaints: Vec<String>,
}

/// The numbers of files by volume and by their ids there.
#[derive(Default)]
pub(super) struct FileNumbers(Vec<Vec<u32>>);

/// Marks a file that is not a regular file.
const NONE: u32 = u32::MAX;

impl FileNumbers {
    fn set(&mut self, (volume, id): (usize, FileId), file: usize) {
        self.0[volume][id.index()] = u32::try_from(file).expect("a volume has fewer inodes than 2³²");
    }

    /// Returns the number of a regular file. `None` for other types, and for a file that cannot be read.
    pub(super) fn get(&self, volume: usize, file: FileId) -> Option<usize> {
        self.0[volume].get(file.index()).filter(|number| **number != NONE).map(|number| *number as usize)
    }
}

/// A regular file to be read.
pub(super) struct PlannedFile {
    /// Size in bytes.
    pub size: u64,
    /// Where its bytes are, in file order, gap-free.
    pub pieces: Vec<DiskPiece>,
    /// True if its disk ranges belong to it alone: only then are they content in the layout.
    pub owns_its_ranges: bool,
    /// True if its digests are computed.
    pub hashed: bool,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DiskPiece {
    /// `len` bytes at `offset` of the disk.
    Disk { offset: u64, len: u64 },
    /// `len` zeros that are not stored.
    Zero { len: u64 },
    /// Bytes that are not on the disk in this form.
    Bytes(Vec<u8>),
}

impl DiskPiece {
    pub(super) fn len(&self) -> u64 {
        match self {
            DiskPiece::Disk { len, .. } | DiskPiece::Zero { len } => *len,
            DiskPiece::Bytes(bytes) => bytes.len() as u64,
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
        let mut file = PlannedFile { size, pieces, owns_its_ranges: false, hashed: true };
        file.hashed = file.holes() <= MAX_HASHED_HOLES;
        file
    }

    /// Returns the disk ranges (start, length) that hold its bytes.
    fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.pieces.iter().filter_map(|piece| match piece {
            DiskPiece::Disk { offset, len } => Some((*offset, *len)),
            _ => None,
        })
    }

    /// Returns the offset on the disk at which it begins; past any disk if none of it is on the disk.
    pub(super) fn start(&self) -> u64 {
        self.ranges().next().map_or(u64::MAX, |(start, _)| start)
    }

    /// Returns true if it is not read at all.
    pub(super) fn is_skipped(&self) -> bool {
        self.pieces.is_empty() && self.size > 0
    }

    fn holes(&self) -> u64 {
        self.pieces.iter().map(|p| if let DiskPiece::Zero { len } = p { *len } else { 0 }).sum()
    }
}

impl ReadPlan {
    /// Lists every volume of a disk and determines which ranges are content.
    pub(super) fn new(scan: &Scan) -> Result<Self> {
        let mut plan = ReadPlan {
            listings: Vec::new(),
            files: Vec::new(),
            by_file: FileNumbers::default(),
            content: Vec::new(),
            complaints: Vec::new(),
        };
        let mut found = Vec::new();
        for (number, volume) in scan.volumes.iter().enumerate() {
            let listing = plan.list(volume, number, &mut found)?;
            plan.by_file.0.push(vec![NONE; listing.as_ref().map_or(0, |listing| listing.nodes.len())]);
            plan.listings.push(listing);
        }
        // In disk order. Files that have no bytes on the disk come last.
        found.sort_by_key(|(_, file)| file.start());
        for (i, (node, _)) in found.iter().enumerate() {
            plan.by_file.set(*node, i);
        }
        plan.files = found.into_iter().map(|(_, file)| file).collect();
        plan.files.shrink_to_fit();
        let shared = plan.decide_ownership(scan.disk.len());
        plan.say_shared(&shared, scan);
        plan.limit_holes();
        Ok(plan)
    }

    fn list(
        &mut self,
        volume: &ScannedVolume,
        number: usize,
        found: &mut Vec<((usize, FileId), PlannedFile)>,
    ) -> Result<Option<Listing>> {
        let (Some(fs), Some(listing)) = (volume.filesystem(), volume.list(&mut self.complaints)?) else {
            return Ok(None);
        };
        let mut unreadable: HashMap<FileId, Error> = HashMap::new();
        for (id, handle, node) in listing.nodes.iter() {
            if node.file_type != FileType::File {
                continue;
            }
            match fs.content(handle) {
                Err(e) if e.kind() != ErrorKind::Io => drop(unreadable.insert(id, e)),
                other => {
                    let content = other?;
                    // Most files have one piece, and there may be millions of files: allocate no spare capacity.
                    let mut pieces = Vec::with_capacity(content.pieces.len());
                    pieces.extend(content.pieces.into_iter().flat_map(|p| place(volume, p)));
                    let file =
                        PlannedFile { size: content.size, pieces, owns_its_ranges: true, hashed: true };
                    found.push(((number, id), file));
                }
            }
        }
        // By the first path of each, in one pass, because every file may be unreadable.
        for entry in &listing.entries {
            if let Some(error) = unreadable.remove(&entry.file) {
                let path = escape(&entry.path);
                self.complaints.push(format!("{}:{path}: cannot read its content: {error}", volume.name));
            }
        }
        Ok(Some(listing))
    }

    /// Determines which files own their disk ranges: a range that is claimed twice belongs to no file. Returns the
    /// files with such ranges, each with an earlier file that claims the same bytes.
    fn decide_ownership(&mut self, disk_size: u64) -> BTreeMap<usize, usize> {
        let mut shared = BTreeMap::new();
        let mut claims: Vec<(Range<u64>, usize)> = Vec::new();
        for (i, file) in self.files.iter().enumerate() {
            claims.extend(file.ranges().map(|(start, len)| (start..start + len, i)));
        }
        claims.sort_unstable_by_key(|(range, _)| (range.start, range.end));
        let mut furthest: Option<(u64, usize)> = None;
        for (range, file) in &claims {
            if let Some((end, other)) = furthest
                && range.start < end
            {
                self.files[*file].owns_its_ranges = false;
                self.files[other].owns_its_ranges = false;
                shared.entry(*file).or_insert(other);
            }
            if furthest.is_none_or(|(end, _)| range.end > end) {
                furthest = Some((range.end, *file));
            }
        }
        claims.retain(|(_, file)| self.files[*file].owns_its_ranges);
        self.content = claims.into_iter().map(|(range, _)| range).collect();
        self.content.shrink_to_fit();
        self.limit_shared(disk_size);
        shared
    }

    /// Adds a complaint for each file that shares bytes with another of the same volume: one of the two has wrong
    /// content. Says nothing where the filesystem supports shared blocks, or where partitions overlap.
    fn say_shared(&mut self, shared: &BTreeMap<usize, usize>, scan: &Scan) {
        if shared.is_empty() {
            return;
        }
        let mut paths: HashMap<usize, (usize, &[u8])> = HashMap::new();
        for (number, listing) in self.listings.iter().enumerate() {
            let filesystem = scan.volumes[number].filesystem();
            if filesystem.is_some_and(|filesystem| filesystem.capabilities().shares_extents) {
                continue;
            }
            let Some(listing) = listing else { continue };
            for entry in &listing.entries {
                if let Some(file) = self.by_file.get(number, entry.file) {
                    paths.entry(file).or_insert((number, &entry.path));
                }
            }
        }
        for (file, other) in shared {
            let (Some((number, path)), Some((others, other))) = (paths.get(file), paths.get(other)) else {
                continue;
            };
            if number == others {
                let (path, other) = (escape(path), escape(other));
                self.complaints.push(format!(
                    "{}:{path}: shares blocks with {other}, so the content of at most one of them is right",
                    scan.volumes[*number].name
                ));
            }
        }
    }

    /// Limits the bytes read of files that share blocks to the size of the disk: a hostile volume may claim the same
    /// blocks for a million files.
    fn limit_shared(&mut self, disk_size: u64) {
        let mut left = disk_size;
        for file in self.files.iter_mut().filter(|file| !file.owns_its_ranges) {
            let bytes = file.ranges().map(|(_, len)| len).sum();
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => file.pieces = Vec::new(),
            }
        }
        let skipped = self.files.iter().filter(|file| file.is_skipped()).count();
        if skipped > 0 {
            self.complaints.push(format!(
                "{skipped} files share more blocks with other files than the disk has; they are listed without content"
            ));
        }
    }

    fn limit_holes(&mut self) {
        let mut left = MAX_HASHED_HOLES;
        let mut without: BTreeMap<u64, usize> = BTreeMap::new();
        for (i, file) in self.files.iter_mut().enumerate() {
            match left.checked_sub(file.holes()) {
                Some(rest) => left = rest,
                None => {
                    file.hashed = false;
                    without.insert(file.size, i);
                }
            }
        }
        if let Some((largest, _)) = without.last_key_value() {
            self.complaints.push(format!(
                "files with large holes have no digests (the largest has {largest} bytes): over {MAX_HASHED_HOLES} bytes of holes are not hashed"
            ));
        }
    }

    /// Returns the parts of `range` that are not content of a file, in disk order.
    pub(super) fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        let first = self.content.partition_point(|content| content.end <= range.start);
        for content in self.content[first..].iter().take_while(|content| content.start < range.end) {
            if at < content.start {
                gaps.push(at..content.start);
            }
            at = content.end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }
}

fn place(volume: &ScannedVolume, piece: Piece) -> Vec<DiskPiece> {
    match piece {
        Piece::Volume { offset, len } => volume
            .on_disk(VolumeOffset(offset), len)
            .map(|(offset, len)| DiskPiece::Disk { offset: offset.0, len })
            .collect(),
        Piece::Zero { len } => vec![DiskPiece::Zero { len }],
        Piece::Bytes(bytes) => vec![DiskPiece::Bytes(bytes)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(files: Vec<Vec<(u64, u64)>>) -> ReadPlan {
        let files = files.into_iter().map(|ranges| PlannedFile {
            size: ranges.iter().map(|(_, len)| len).sum(),
            pieces: ranges.into_iter().map(|(offset, len)| DiskPiece::Disk { offset, len }).collect(),
            owns_its_ranges: true,
            hashed: true,
        });
        let mut plan = ReadPlan {
            listings: Vec::new(),
            files: files.collect(),
            by_file: FileNumbers::default(),
            content: Vec::new(),
            complaints: Vec::new(),
        };
        plan.decide_ownership(1000);
        plan
    }

    #[test]
    fn blocks_that_two_files_claim_are_no_ones_content() {
        let plan = plan(vec![vec![(0, 10)], vec![(10, 10), (50, 10)], vec![(55, 10)], vec![(70, 5)]]);
        let owners: Vec<bool> = plan.files.iter().map(|f| f.owns_its_ranges).collect();
        assert_eq!(owners, [true, false, false, true]);
        assert_eq!(plan.content, [0..10, 70..75]);
        assert_eq!(plan.gaps(5..100), [10..70, 75..100]);
        assert_eq!(plan.gaps(0..10), [0..0; 0]);
    }

    #[test]
    fn a_short_claim_inside_a_long_one_is_found_behind_others() {
        let plan = plan(vec![vec![(0, 100)], vec![(10, 5)], vec![(50, 5)]]);
        assert!(plan.files.iter().all(|f| !f.owns_its_ranges));
    }

    #[test]
    fn holes_over_the_limit_are_not_hashed_and_said() {
        let holes = |sizes: &[u64]| {
            let mut plan = plan(vec![Vec::new(); sizes.len()]);
            for (file, len) in plan.files.iter_mut().zip(sizes) {
                (file.size, file.pieces) = (*len, vec![DiskPiece::Zero { len: *len }]);
            }
            plan.limit_holes();
            (plan.files.iter().map(|file| file.hashed).collect::<Vec<_>>(), plan.complaints.len())
        };
        assert_eq!(holes(&[MAX_HASHED_HOLES - 1, 1]), (vec![true, true], 0));
        assert_eq!(holes(&[MAX_HASHED_HOLES, 1, 0]), (vec![true, false, true], 1));
    }

    #[test]
    fn files_that_claim_more_than_the_disk_are_not_read() {
        let plan = plan(vec![vec![(0, 900)]; 5]);
        assert_eq!(plan.files.iter().filter(|f| f.is_skipped()).count(), 4);
        assert_eq!(plan.complaints.len(), 1);
    }
}
