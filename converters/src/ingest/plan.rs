//! The plan of an import: which files to read, each once, and the rest of the disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use mif_formats::fs::listing::Listing;
use mif_formats::fs::{FileId, FileType};
use mif_formats::mif::manifest::escape;
use mif_formats::{Error, ErrorKind};

use super::ownership;
use super::planned_file::{MAX_HASHED_HOLES, Ownership, PlannedFile, place};
use crate::disk::scan::{Scan, ScannedVolume};
use crate::error::Result;

/// Files that share extents are read up to this multiple of the disk's size in total.
const MOST_CLONED: u64 = 16;

/// All files of a disk.
pub(super) struct ReadPlan {
    /// The listings by volume; `None` if a volume has no filesystem.
    pub listings: Vec<Option<Listing>>,
    /// Each distinct content once, in disk order. Clones with the same extents share one entry.
    pub files: Vec<PlannedFile>,
    /// The index in `files` of each file of a volume.
    pub by_file: FileNumbers,
    /// The number of regular files, including clones and not their streams, and the sum of their sizes in bytes.
    pub totals: (u64, u64),
    /// The disk ranges that are content of exactly one file, sorted. The rest is residue.
    pub content: Vec<Range<u64>>,
    /// Warnings about data that could not be read, as sentences.
    pub complaints: Vec<String>,
}

/// File numbers by volume and by file id in the volume.
#[derive(Default)]
pub(super) struct FileNumbers(Vec<Vec<u32>>);

/// Marks an entry that is not a readable regular file.
const NONE: u32 = u32::MAX;

impl FileNumbers {
    fn set(&mut self, (volume, id): (usize, FileId), file: usize) {
        self.0[volume][id.index()] = u32::try_from(file).expect("a volume has fewer inodes than 2³²");
    }

    /// Returns the number of a regular file. `None` for other types and for unreadable files.
    pub(super) fn get(&self, volume: usize, file: FileId) -> Option<usize> {
        self.0[volume].get(file.index()).filter(|number| **number != NONE).map(|number| *number as usize)
    }
}

impl ReadPlan {
    /// Lists every volume of a disk and determines which ranges are content.
    pub(super) fn new(scan: &Scan) -> Result<Self> {
        let mut plan = ReadPlan {
            listings: Vec::new(),
            files: Vec::new(),
            by_file: FileNumbers::default(),
            totals: (0, 0),
            content: Vec::new(),
            complaints: Vec::new(),
        };
        let mut found = Vec::new();
        for (number, volume) in scan.volumes.iter().enumerate() {
            let listing = plan.list(volume, number, &mut found)?;
            plan.by_file.0.push(vec![NONE; listing.as_ref().map_or(0, |listing| listing.nodes.len())]);
            plan.listings.push(listing);
        }
        // In disk order. Files without bytes on the disk come last.
        found.sort_by_key(|(_, file)| file.start());
        plan.take(found);
        let damaged = ownership::assign(&mut plan.files);
        // Before the content ranges are computed, because a file that is not read owns nothing.
        plan.limit_shared(scan.disk.len());
        ownership::assign_encoded(&mut plan.files);
        plan.content = ownership::owned(&plan.files);
        plan.say_shared(&damaged, scan);
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
        let may_share = fs.capabilities().shares_extents;
        let streams: HashSet<FileId> =
            listing.entries.iter().filter(|entry| entry.stream.is_some()).map(|entry| entry.file).collect();
        let mut unreadable: HashMap<FileId, Error> = HashMap::new();
        for (id, handle, node) in listing.nodes.iter() {
            if node.file_type != FileType::File {
                continue;
            }
            match fs.content(handle) {
                Err(e) if e.kind() != ErrorKind::Io => drop(unreadable.insert(id, e)),
                other => {
                    let content = other?;
                    // Most files have one piece, and there may be millions of files, so avoid spare capacity.
                    let mut pieces = Vec::with_capacity(content.pieces.len());
                    let placed = content.pieces.into_iter().flat_map(|piece| place(volume, piece));
                    pieces.extend(placed.map(|piece| piece.unread(number, handle)));
                    let file = PlannedFile::new(content.size, pieces, may_share);
                    if !streams.contains(&id) {
                        self.totals.0 += 1;
                        self.totals.1 = self.totals.1.saturating_add(file.size);
                    }
                    found.push(((number, id), file));
                }
            }
        }
        say_unreadable(&volume.name, &listing, &mut self.complaints, |file| unreadable.remove(&file));
        Ok(Some(listing))
    }

    /// Adds the files, but each content only once: clones with the same extents are read and hashed once.
    fn take(&mut self, found: Vec<((usize, FileId), PlannedFile)>) {
        let hasher = RandomState::new();
        let mut clones: HashMap<u64, Vec<u32>> = HashMap::new();
        for (node, file) in found {
            let number = self.files.len();
            if file.may_share && !file.is_skipped() && !file.pieces.is_empty() {
                let same = clones.entry(hasher.hash_one(&file.pieces)).or_default();
                let is_same = |other: &&u32| self.files[**other as usize].pieces == file.pieces;
                if let Some(first) = same.iter().find(is_same) {
                    self.by_file.set(node, *first as usize);
                    continue;
                }
                same.push(u32::try_from(number).expect("a volume has fewer inodes than 2³²"));
            }
            self.by_file.set(node, number);
            self.files.push(file);
        }
        self.files.shrink_to_fit();
    }

    /// Adds a complaint for each file that shares bytes with another of the same volume: one of the two has wrong
    /// content. Skips filesystems that support shared blocks, and overlapping partitions.
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

    /// Limits the bytes read from files that share blocks: a hostile volume may claim the same blocks for a million
    /// files. Files that own none of their ranges are read up to the size of the disk, clones and compressed files up
    /// to [`MOST_CLONED`] times that.
    fn limit_shared(&mut self, disk_size: u64) {
        let mut left = [disk_size, disk_size.saturating_mul(MOST_CLONED)];
        for file in &mut self.files {
            let decoded = file.decoded();
            let left = match file.owns {
                Ownership::All if decoded == 0 => continue,
                Ownership::None => &mut left[0],
                _ => &mut left[1],
            };
            let bytes = file.ranges().map(|(_, len)| len).fold(decoded, u64::saturating_add);
            match left.checked_sub(bytes) {
                Some(rest) => *left = rest,
                None => (file.pieces, file.owns) = (Vec::new(), Ownership::None),
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

/// Adds a complaint for each file whose content cannot be read, under its first path: `take` returns the error of a file
/// once. One pass is enough even if every file is unreadable.
pub(super) fn say_unreadable(
    volume: &str,
    listing: &Listing,
    complaints: &mut Vec<String>,
    mut take: impl FnMut(FileId) -> Option<Error>,
) {
    for entry in &listing.entries {
        if let Some(error) = take(entry.file) {
            let mut path = escape(&entry.path);
            if let Some(stream) = &entry.stream {
                path = format!("{path}:{}", escape(stream));
            }
            complaints.push(format!("{volume}:{path}: cannot read its content: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planned_file::DiskPiece;
    use super::*;

    fn plan(files: Vec<Vec<(u64, u64)>>) -> ReadPlan {
        plan_of(false, files)
    }

    fn plan_of(may_share: bool, files: Vec<Vec<(u64, u64)>>) -> ReadPlan {
        let files = files.into_iter().map(|ranges| PlannedFile {
            size: ranges.iter().map(|(_, len)| len).sum(),
            pieces: ranges.into_iter().map(|(offset, len)| DiskPiece::Disk { offset, len }).collect(),
            owns: Ownership::All,
            owns_encoded: Vec::new(),
            may_share,
            hashed: true,
        });
        let mut plan = ReadPlan {
            listings: Vec::new(),
            files: files.collect(),
            by_file: FileNumbers::default(),
            totals: (0, 0),
            content: Vec::new(),
            complaints: Vec::new(),
        };
        ownership::assign(&mut plan.files);
        plan.limit_shared(1000);
        plan.content = ownership::owned(&plan.files);
        plan
    }

    #[test]
    fn blocks_that_two_files_claim_are_no_ones_content() {
        let plan = plan(vec![vec![(0, 10)], vec![(10, 10), (50, 10)], vec![(55, 10)], vec![(70, 5)]]);
        let owners: Vec<bool> = plan.files.iter().map(|f| f.owns == Ownership::All).collect();
        assert_eq!(owners, [true, false, false, true]);
        assert_eq!(plan.content, [0..10, 70..75]);
        assert_eq!(plan.gaps(5..100), [10..70, 75..100]);
        assert_eq!(plan.gaps(0..10), [0..0; 0]);
    }

    #[test]
    fn a_short_claim_inside_a_long_one_is_found_behind_others() {
        let plan = plan(vec![vec![(0, 100)], vec![(10, 5)], vec![(50, 5)]]);
        assert!(plan.files.iter().all(|f| f.owns == Ownership::None));
    }

    #[test]
    fn clones_that_are_too_much_to_read_own_nothing() {
        let plan = plan_of(true, (0..40).map(|i| vec![(i, 900)]).collect());
        let skipped: Vec<&PlannedFile> = plan.files.iter().filter(|file| file.is_skipped()).collect();
        assert!(!skipped.is_empty() && skipped.iter().all(|file| file.owns == Ownership::None));
        assert_eq!(plan.complaints.len(), 1);
    }

    #[test]
    fn clones_of_the_same_extents_are_one_content() {
        let file = |pieces: &[(u64, u64)], may_share| PlannedFile {
            size: 10,
            pieces: pieces
                .iter()
                .map(|(offset, len)| DiskPiece::Disk { offset: *offset, len: *len })
                .collect(),
            owns: Ownership::All,
            owns_encoded: Vec::new(),
            may_share,
            hashed: true,
        };
        let mut plan = plan(Vec::new());
        plan.by_file.0.push(vec![NONE; 5]);
        let files = [
            file(&[(0, 10)], true),
            file(&[(0, 4), (20, 6)], true),
            file(&[(0, 10)], true),
            file(&[(50, 10)], false),
            file(&[(50, 10)], false),
        ];
        plan.take((0..).map(|id| (0, FileId(id))).zip(files).collect());
        let numbers: Vec<_> = (0..5).map(|id| plan.by_file.get(0, FileId(id)).unwrap()).collect();
        assert_eq!(numbers, [0, 1, 0, 2, 3]);
        assert_eq!(plan.files.len(), 4);
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
