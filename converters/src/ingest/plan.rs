//! What an import will read: each file once, and the rest of the disk.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use mif_formats::fs::walk::Listing;
use mif_formats::fs::{Encoded, FileId, FileType, Piece};
use mif_formats::mif::manifest::escape;
use mif_formats::{Error, ErrorKind};

use crate::disk::scan::{Scan, ScannedVolume};
use crate::error::Result;

/// How many bytes of holes are hashed for one image. A file that would go over it is stored all the same, but
/// has no digests: zeros from nowhere are not worth minutes.
pub(crate) const MAX_HASHED_HOLES: u64 = 8 << 30;

/// Files that share extents are read up to so many times the disk's size together.
const MOST_CLONED: u64 = 16;

/// All files of a disk.
pub(super) struct ReadPlan {
    /// The listings, by volume; `None` where there is no filesystem.
    pub listings: Vec<Option<Listing>>,
    /// Each content once, in the order in which they lie on the disk. Clones that consist of the same extents share one.
    pub files: Vec<PlannedFile>,
    /// The position in `files` of each file of a volume.
    pub by_file: FileNumbers,
    /// The number of regular files, with clones, and the sum of their sizes in bytes.
    pub totals: (u64, u64),
    /// The disk ranges that are content of exactly one file, sorted. All else is residue.
    pub content: Vec<Range<u64>>,
    /// Warnings about what could not be read, as sentences.
    pub complaints: Vec<String>,
}

/// The numbers of files, by volume and by their ids there.
#[derive(Default)]
pub(super) struct FileNumbers(Vec<Vec<u32>>);

/// Marks a file that is not a regular file.
const NONE: u32 = u32::MAX;

impl FileNumbers {
    fn set(&mut self, (volume, id): (usize, FileId), file: usize) {
        self.0[volume][id.index()] = u32::try_from(file).expect("a volume has fewer inodes than 2³²");
    }

    /// The number of a regular file. `None` for other types, and for a file that cannot be read.
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
    /// Which of its disk ranges become content of this file in the layout.
    pub owns: Ownership,
    /// True if its filesystem lets files share extents.
    pub may_share: bool,
    /// True if its digests are computed.
    pub hashed: bool,
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
    /// The owned ranges among `len` bytes that lie at byte `disk` of the disk and at byte `file` of the file.
    pub(super) fn within(&self, disk: u64, file: u64, len: u64) -> Vec<Range<u64>> {
        match self {
            Ownership::All => vec![disk..disk + len],
            Ownership::None => Vec::new(),
            Ownership::Parts(parts) => {
                let first = parts.partition_point(|part| part.disk.end <= disk);
                let parts = parts[first..].iter().take_while(|part| part.disk.start < disk + len);
                // A file may have a range twice, in two of its places: one of them owns the range.
                let parts = parts.filter(|part| part.file + disk == file + part.disk.start);
                parts.map(|part| part.disk.start.max(disk)..part.disk.end.min(disk + len)).collect()
            }
        }
    }
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum DiskPiece {
    /// `len` bytes at `offset` of the disk.
    Disk { offset: u64, len: u64 },
    /// `len` zeros that are nowhere.
    Zero { len: u64 },
    /// Bytes that are not on the disk as such.
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
    /// A file that is on no disk: its `parts` that are no holes, and where each begins in what holds it.
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

    /// The disk ranges (start, length) that hold its bytes.
    fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.pieces.iter().filter_map(|piece| match piece {
            DiskPiece::Disk { offset, len } => Some((*offset, *len)),
            _ => None,
        })
    }

    /// The disk ranges (start, length) that hold its bytes, each with its place in the file.
    fn places(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let mut position = 0;
        self.pieces.iter().filter_map(move |piece| {
            let at = position;
            position += piece.len();
            match piece {
                DiskPiece::Disk { offset, len } => Some((*offset, *len, at)),
                _ => None,
            }
        })
    }

    /// The ranges of the disk that are its own, in no order.
    pub(super) fn owned(&self) -> Vec<Range<u64>> {
        self.places().flat_map(|(start, len, at)| self.owns.within(start, at, len)).collect()
    }

    /// How many bytes its compressed extents decode to.
    fn decoded(&self) -> u64 {
        let decoded = self.pieces.iter().map(|piece| match piece {
            DiskPiece::Encoded(encoded) => u64::from(encoded.decoded),
            _ => 0,
        });
        decoded.fold(0, u64::saturating_add)
    }

    /// Where on the disk it begins; past any disk for a file that lies nowhere on it.
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
    /// Lists every volume of a disk and decides what of it is content.
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
        // In the order of the disk; what lies nowhere on it comes last.
        found.sort_by_key(|(_, file)| file.start());
        plan.take(found);
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
        let may_share = fs.capabilities().shares_extents;
        let mut unreadable: HashMap<FileId, Error> = HashMap::new();
        for (id, handle, node) in listing.nodes.iter() {
            if node.file_type != FileType::File {
                continue;
            }
            match fs.content(handle) {
                Err(e) if e.kind() != ErrorKind::Io => drop(unreadable.insert(id, e)),
                other => {
                    let content = other?;
                    // Most have one, and there may be millions of files: with no room to spare.
                    let mut pieces = Vec::with_capacity(content.pieces.len());
                    pieces.extend(content.pieces.into_iter().flat_map(|p| place(volume, p)));
                    let file = PlannedFile {
                        size: content.size,
                        pieces,
                        owns: Ownership::All,
                        may_share,
                        hashed: true,
                    };
                    found.push(((number, id), file));
                }
            }
        }
        // By the first path of each, in one pass: there may be as many of them as there are files.
        for entry in &listing.entries {
            if let Some(error) = unreadable.remove(&entry.file) {
                let path = escape(&entry.path);
                self.complaints.push(format!("{}:{path}: cannot read its content: {error}", volume.name));
            }
        }
        Ok(Some(listing))
    }

    /// Takes the files, each content once: clones that consist of the same extents are read and hashed once.
    fn take(&mut self, found: Vec<((usize, FileId), PlannedFile)>) {
        let hasher = RandomState::new();
        let mut clones: HashMap<u64, Vec<u32>> = HashMap::new();
        for (node, file) in found {
            self.totals.0 += 1;
            self.totals.1 = self.totals.1.saturating_add(file.size);
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

    /// Decides which file owns which range of the disk.
    ///
    /// Where a filesystem lets its files share extents, a range belongs to the first of the files that have it. Elsewhere
    /// a range that two files claim, or one file twice, is damage, and neither owns any range. Returns such files, each
    /// with one that claims the same range and lies before it.
    fn decide_ownership(&mut self, disk_size: u64) -> BTreeMap<usize, usize> {
        let mut shared = BTreeMap::new();
        let mut sharing = BTreeSet::new();
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
                if self.files[*file].may_share && self.files[other].may_share {
                    sharing.extend([*file, other]);
                } else {
                    self.files[*file].owns = Ownership::None;
                    self.files[other].owns = Ownership::None;
                    shared.entry(*file).or_insert(other);
                }
            }
            if furthest.is_none_or(|(end, _)| range.end > end) {
                furthest = Some((range.end, *file));
            }
        }
        self.share(&sharing);
        // First, because a file that is not read owns nothing.
        self.limit_shared(disk_size);
        claims.retain(|(_, file)| self.files[*file].owns == Ownership::All);
        self.content = claims.into_iter().map(|(range, _)| range).collect();
        for file in &sharing {
            if let Ownership::Parts(parts) = &self.files[*file].owns {
                self.content.extend(parts.iter().map(|part| part.disk.clone()));
            }
        }
        if !sharing.is_empty() {
            self.content.sort_unstable_by_key(|range| range.start);
        }
        self.content.shrink_to_fit();
        shared
    }

    /// Gives each range of the disk that some of these files share to the first of them.
    fn share(&mut self, sharing: &BTreeSet<usize>) {
        let mut claims: Vec<(Range<u64>, usize, u64)> = Vec::new();
        for &number in sharing.iter().filter(|number| self.files[**number].owns == Ownership::All) {
            let places = self.files[number].places();
            claims.extend(places.map(|(start, len, at)| (start..start + len, number, at)));
        }
        for &number in sharing {
            if self.files[number].owns == Ownership::All {
                self.files[number].owns = Ownership::Parts(Vec::new());
            }
        }
        claims.sort_unstable_by_key(|(range, ..)| range.start);
        let mut edges: Vec<u64> = claims.iter().flat_map(|(range, ..)| [range.start, range.end]).collect();
        edges.sort_unstable();
        edges.dedup();
        // The claims on the range between two edges, the first file's on top; those that have ended leave when they get there.
        let mut open: BinaryHeap<Reverse<(usize, u64, usize)>> = BinaryHeap::new();
        let mut next = 0;
        for edge in edges.windows(2) {
            while let Some((range, file, at)) = claims.get(next).filter(|(range, ..)| range.start == edge[0])
            {
                debug_assert!(range.start < range.end);
                open.push(Reverse((*file, *at, next)));
                next += 1;
            }
            while open.peek().is_some_and(|Reverse((.., claim))| claims[*claim].0.end <= edge[0]) {
                open.pop();
            }
            let Some(Reverse((file, at, claim))) = open.peek() else { continue };
            let at = at + (edge[0] - claims[*claim].0.start);
            let Ownership::Parts(parts) = &mut self.files[*file].owns else { continue };
            match parts.last_mut() {
                Some(last) if last.disk.end == edge[0] && last.file + (edge[0] - last.disk.start) == at => {
                    last.disk.end = edge[1];
                }
                _ => parts.push(OwnedPart { disk: edge[0]..edge[1], file: at }),
            }
        }
    }

    /// Complains of files that share bytes with another of the same volume: one of the two has another's
    /// content. Where the filesystem means it so, or partitions overlap, there is nothing to say of files.
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

    /// A hostile volume may claim the same blocks for a million files. Of files that own none of their ranges no more is
    /// read than the disk has bytes; of clones and compressed files, [`MOST_CLONED`] times that.
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

    /// The parts of `range` that are no file's content, in disk order.
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
        Piece::Volume { offset, len } => {
            volume.on_disk(offset, len).map(|(offset, len)| DiskPiece::Disk { offset, len }).collect()
        }
        Piece::Zero { len } => vec![DiskPiece::Zero { len }],
        Piece::Bytes(bytes) => vec![DiskPiece::Bytes(bytes)],
        Piece::Encoded(mut encoded) => {
            let runs = encoded.runs.iter().flat_map(|run| volume.on_disk(run.start, run.end - run.start));
            encoded.runs = runs.map(|(start, len)| start..start + len).collect();
            vec![DiskPiece::Encoded(encoded)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(files: Vec<Vec<(u64, u64)>>) -> ReadPlan {
        plan_of(false, files)
    }

    fn plan_of(may_share: bool, files: Vec<Vec<(u64, u64)>>) -> ReadPlan {
        let files = files.into_iter().map(|ranges| PlannedFile {
            size: ranges.iter().map(|(_, len)| len).sum(),
            pieces: ranges.into_iter().map(|(offset, len)| DiskPiece::Disk { offset, len }).collect(),
            owns: Ownership::All,
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
        plan.decide_ownership(1000);
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
    fn of_clones_the_first_owns_what_they_share() {
        let parts = |plan: &ReadPlan, file: usize| match &plan.files[file].owns {
            Ownership::Parts(parts) => {
                parts.iter().map(|part| (part.disk.start, part.disk.end, part.file)).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        };
        let files = vec![
            vec![(0, 10)],
            // Shares 20..30 with the next, which has a part of its own in front, and has 25..30 twice itself.
            vec![(20, 20), (25, 5)],
            vec![(18, 2), (20, 10), (50, 5)],
            vec![(60, 5)],
        ];
        let shared = plan_of(true, files.clone());
        assert_eq!(shared.files[0].owns, Ownership::All);
        assert_eq!(parts(&shared, 1), [(20, 40, 0)]);
        assert_eq!(parts(&shared, 2), [(18, 20, 0), (50, 55, 12)]);
        assert_eq!(shared.content, [0..10, 18..20, 20..40, 50..55, 60..65]);
        // The part that the file has a second time is not its content there.
        assert_eq!(shared.files[1].owns.within(20, 0, 20), [20..40]);
        assert_eq!(shared.files[1].owns.within(25, 20, 5), [0..0; 0]);
        assert_eq!(shared.files[2].owns.within(20, 2, 10), [0..0; 0]);
        // Where files do not share, all of this is damage.
        assert_eq!(plan(files).content, [0..10, 60..65]);
    }

    /// Against an array: a byte belongs to the first file that has it, and to the first place of it in the file.
    #[test]
    fn ownership_of_clones_equals_a_table_of_bytes() {
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..2000 {
            let files: Vec<Vec<(u64, u64)>> = (0..1 + random(6))
                .map(|_| (0..1 + random(4)).map(|_| (random(60), 1 + random(20))).collect())
                .collect();
            let plan = plan_of(true, files.clone());
            let mut table = [None; 100];
            for (number, pieces) in files.iter().enumerate() {
                let mut position = 0;
                for (start, len) in pieces {
                    for i in 0..*len {
                        let byte: &mut Option<(usize, u64)> = &mut table[(start + i) as usize];
                        byte.get_or_insert((number, position + i));
                    }
                    position += len;
                }
            }
            let mut found = [None; 100];
            for (number, file) in plan.files.iter().enumerate() {
                for (start, len, at) in file.places() {
                    for range in file.owns.within(start, at, len) {
                        for byte in range {
                            let old = found[byte as usize].replace((number, at + byte - start));
                            assert_eq!(old, None, "{files:?}");
                        }
                    }
                }
            }
            assert_eq!(found, table, "{files:?}");
            let content: Vec<u64> = plan.content.iter().flat_map(Clone::clone).collect();
            let owned: Vec<u64> = (0..100).filter(|byte| table[*byte as usize].is_some()).collect();
            assert_eq!(content, owned, "{files:?}");
        }
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
        assert_eq!((plan.files.len(), plan.totals), (4, (5, 50)));
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
