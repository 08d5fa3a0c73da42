//! Assigns disk ranges to the files that own them. Only an owned range becomes content of its file in the layout.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::ops::Range;

use super::planned_file::{DiskPiece, OwnedPart, Ownership, PlannedFile};

/// Decides which file owns which range of the disk. `files` are in disk order, and each initially owns all its ranges.
///
/// If a filesystem lets files share extents, the first file that has a range owns it. Otherwise a range claimed by two
/// files, or twice by one file, is damage, and none of these files owns any range. Returns the damaged files, each with
/// an earlier one that claims the same bytes.
pub(super) fn assign(files: &mut [PlannedFile]) -> BTreeMap<usize, usize> {
    let mut damaged = BTreeMap::new();
    let mut sharing = BTreeSet::new();
    let mut claims: Vec<(Range<u64>, usize)> = Vec::new();
    for (i, file) in files.iter().enumerate() {
        claims.extend(file.ranges().map(|(start, len)| (start..start + len, i)));
    }
    claims.sort_unstable_by_key(|(range, _)| (range.start, range.end));
    let mut furthest: Option<(u64, usize)> = None;
    for (range, file) in claims {
        if let Some((end, other)) = furthest
            && range.start < end
        {
            if files[file].may_share && files[other].may_share {
                sharing.extend([file, other]);
            } else {
                files[file].owns = Ownership::None;
                files[other].owns = Ownership::None;
                damaged.entry(file).or_insert(other);
            }
        }
        if furthest.is_none_or(|(end, _)| range.end > end) {
            furthest = Some((range.end, file));
        }
    }
    share(files, &sharing);
    damaged
}

/// Assigns each range of the disk to the first of the `sharing` files that has it.
fn share(files: &mut [PlannedFile], sharing: &BTreeSet<usize>) {
    let mut claims: Vec<(Range<u64>, usize, u64)> = Vec::new();
    for &number in sharing.iter().filter(|number| files[**number].owns == Ownership::All) {
        let places = files[number].places();
        claims.extend(places.map(|(start, len, at)| (start..start + len, number, at)));
    }
    for &number in sharing {
        if files[number].owns == Ownership::All {
            files[number].owns = Ownership::Parts(Vec::new());
        }
    }
    claims.sort_unstable_by_key(|(range, ..)| range.start);
    let mut edges: Vec<u64> = claims.iter().flat_map(|(range, ..)| [range.start, range.end]).collect();
    edges.sort_unstable();
    edges.dedup();
    // The claims on the range between two edges, lowest file first. An expired claim is removed once it is on top.
    let mut open: BinaryHeap<Reverse<(usize, u64, usize)>> = BinaryHeap::new();
    let mut next = 0;
    for edge in edges.windows(2) {
        while let Some((range, file, at)) = claims.get(next).filter(|(range, ..)| range.start == edge[0]) {
            debug_assert!(range.start < range.end);
            open.push(Reverse((*file, *at, next)));
            next += 1;
        }
        while open.peek().is_some_and(|Reverse((.., claim))| claims[*claim].0.end <= edge[0]) {
            open.pop();
        }
        let Some(Reverse((file, at, claim))) = open.peek() else { continue };
        let at = at + (edge[0] - claims[*claim].0.start);
        let Ownership::Parts(parts) = &mut files[*file].owns else { continue };
        match parts.last_mut() {
            Some(last) if last.disk.end == edge[0] && last.file + (edge[0] - last.disk.start) == at => {
                last.disk.end = edge[1];
            }
            _ => parts.push(OwnedPart { disk: edge[0]..edge[1], file: at }),
        }
    }
}

/// Decides which file owns which compressed extent: the first that has it. An extent that overlaps another one, or bytes that
/// a file owns, belongs to no file, and its bytes become residue.
pub(super) fn assign_encoded(files: &mut [PlannedFile]) {
    let mut extents: HashMap<&[Range<u64>], usize> = HashMap::new();
    // The first file with each extent and the piece, or `None` if the extent overlaps something.
    let mut owners: Vec<Option<(usize, usize)>> = Vec::new();
    let mut claims: Vec<(Range<u64>, Option<usize>)> = Vec::new();
    for (number, file) in files.iter().enumerate() {
        for (piece, extent) in file.pieces.iter().enumerate() {
            let DiskPiece::Encoded(extent) = extent else { continue };
            extents.entry(&extent.runs[..]).or_insert_with(|| {
                let runs = extent.runs.iter().filter(|run| run.start < run.end);
                claims.extend(runs.map(|run| (run.clone(), Some(owners.len()))));
                owners.push(Some((number, piece)));
                owners.len() - 1
            });
        }
    }
    if owners.is_empty() {
        return;
    }
    claims.extend(owned(files).into_iter().map(|range| (range, None)));
    claims.sort_unstable_by_key(|(range, _)| range.start);
    let mut furthest: Option<(u64, Option<usize>)> = None;
    for (range, extent) in claims {
        if let Some((end, other)) = furthest
            && range.start < end
        {
            extent.into_iter().chain(other).for_each(|extent| owners[extent] = None);
        }
        if furthest.is_none_or(|(end, _)| range.end > end) {
            furthest = Some((range.end, extent));
        }
    }
    for (number, piece) in owners.into_iter().flatten() {
        files[number].owns_encoded.push(piece);
    }
}

/// Returns the disk ranges owned by files, sorted.
pub(super) fn owned(files: &[PlannedFile]) -> Vec<Range<u64>> {
    let mut owned = Vec::new();
    for file in files {
        owned.extend(file.owned_encoded().cloned());
        match &file.owns {
            Ownership::All => owned.extend(file.ranges().map(|(start, len)| start..start + len)),
            Ownership::None => {}
            Ownership::Parts(parts) => owned.extend(parts.iter().map(|part| part.disk.clone())),
        }
    }
    owned.sort_unstable_by_key(|range| range.start);
    owned.shrink_to_fit();
    owned
}

#[cfg(test)]
mod tests {
    use mif_formats::codec::Codec;
    use mif_formats::fs::Encoded;

    use super::*;

    fn plan_of(may_share: bool, files: Vec<Vec<(u64, u64)>>) -> Vec<PlannedFile> {
        let files = files.into_iter().map(|ranges| {
            let size = ranges.iter().map(|(_, len)| len).sum();
            let pieces = ranges.into_iter().map(|(offset, len)| DiskPiece::Disk { offset, len });
            PlannedFile::new(size, pieces.collect(), may_share)
        });
        let mut files = files.collect::<Vec<_>>();
        assign(&mut files);
        files
    }

    #[test]
    fn of_clones_the_first_owns_what_they_share() {
        let parts = |files: &[PlannedFile], file: usize| match &files[file].owns {
            Ownership::Parts(parts) => {
                parts.iter().map(|part| (part.disk.start, part.disk.end, part.file)).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        };
        let files = vec![
            vec![(0, 10)],
            // Shares 20..30 with the next file, which has a part of its own before it, and contains 25..30 twice.
            vec![(20, 20), (25, 5)],
            vec![(18, 2), (20, 10), (50, 5)],
            vec![(60, 5)],
        ];
        let shared = plan_of(true, files.clone());
        assert_eq!(shared[0].owns, Ownership::All);
        assert_eq!(parts(&shared, 1), [(20, 40, 0)]);
        assert_eq!(parts(&shared, 2), [(18, 20, 0), (50, 55, 12)]);
        assert_eq!(owned(&shared), [0..10, 18..20, 20..40, 50..55, 60..65]);
        // The second occurrence of a range in a file is not owned.
        let within = |file: usize, disk, at, len| shared[file].owns.within(disk, at, len).next();
        assert_eq!(within(1, 20, 0, 20), Some(20..40));
        assert_eq!(within(1, 25, 20, 5), None);
        assert_eq!(within(2, 20, 2, 10), None);
        // Without sharing, all of this is damage.
        assert_eq!(owned(&plan_of(false, files)), [0..10, 60..65]);
    }

    #[test]
    fn a_compressed_extent_belongs_to_the_first_file_and_to_none_if_it_overlaps() {
        let extent = |runs: &[Range<u64>], from| {
            let (codec, decoded, runs) = (Codec::Zstd, 4096, runs.to_vec());
            DiskPiece::Encoded(Box::new(Encoded { runs, codec, decoded, from, len: 100 }))
        };
        let plain = |offset, len| DiskPiece::Disk { offset, len };
        let one = |range: Range<u64>, from| extent(&[range], from);
        let files = [
            // Two parts of one extent with a plain piece in between.
            vec![one(0..10, 0), plain(10, 5), one(0..10, 200)],
            vec![one(0..10, 50), extent(&[20..25, 40..42], 0)],
            // Overlaps a plain piece; overlaps another extent; overlaps itself; is empty.
            vec![one(12..20, 0), one(41..50, 0), extent(&[60..65, 64..66], 0), extent(&[], 0)],
            vec![one(30..35, 0), one(35..40, 0)],
        ];
        let mut files = files.map(|pieces| PlannedFile::new(300, pieces, true));
        assign(&mut files);
        assign_encoded(&mut files);
        let owners: Vec<_> = files.iter().map(|file| file.owns_encoded.clone()).collect();
        assert_eq!(owners, [vec![0], vec![], vec![3], vec![0, 1]]);
        assert_eq!(owned(&files), [0..10, 10..15, 30..35, 35..40]);
        assert_eq!(files[0].owned(), [10..15, 0..10]);
        assert_eq!(files[1].start(), 0);
    }

    #[test]
    fn an_empty_piece_owns_nothing() {
        let files = plan_of(true, vec![vec![(20, 10)], vec![(20, 0)], vec![(25, 0)]]);
        assert_eq!(owned(&files), [20..30; 1]);
        assert_eq!(files[0].owns, Ownership::All);
    }

    /// Compares with an array: a byte belongs to the first file that has it, at its first position in that file.
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
            for (number, file) in plan.iter().enumerate() {
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
            let content: Vec<u64> = owned(&plan).into_iter().flatten().collect();
            let owned: Vec<u64> = (0..100).filter(|byte| table[*byte as usize].is_some()).collect();
            assert_eq!(content, owned, "{files:?}");
        }
    }
}
