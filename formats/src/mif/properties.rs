//! Properties of every layout, tested on random ones: a layout survives encoding and decoding, the same disk has one
//! layout however it is cut into segments, and reading by offset agrees with a plain array of the disk.

use super::ObjectId;
use super::layout::{Builder, Layout, Origin, Segment};
use crate::testing::Dice;
use crate::testing::random::each_seed;

/// A run of bytes of a disk: their origin and number.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Run {
    len: u64,
    from: From,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum From {
    Zero,
    Content(ObjectId, u64),
    Residue(ObjectId, u64),
}

impl From {
    /// Returns the origin of the bytes that are `by` bytes further on.
    fn after(self, by: u64) -> Self {
        match self {
            From::Zero => From::Zero,
            From::Content(id, offset) => From::Content(id, offset.wrapping_add(by)),
            From::Residue(id, offset) => From::Residue(id, offset.wrapping_add(by)),
        }
    }

    /// Returns the byte at this origin, chosen so that any two places in objects are likely to differ.
    fn byte(self) -> u8 {
        let (From::Content(id, offset) | From::Residue(id, offset)) = self else { return 0 };
        let mixed = (u64::from(id.digest[0]) << 40 ^ offset).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 56) as u8
    }
}

/// Returns one of few objects, so that runs often continue the object of the run before; both kinds occur, with the
/// same digests.
fn object(dice: &mut Dice) -> ObjectId {
    let digest = [dice.roll(3) as u8; 32];
    if dice.roll(3) == 0 { ObjectId::chunk_list(digest) } else { ObjectId::content(digest) }
}

/// Returns a number below `most`, of any magnitude.
fn number(dice: &mut Dice, most: u64) -> u64 {
    let most = most >> dice.roll(most.ilog2() as usize + 1);
    (dice.roll(1 << 31) as u64 * dice.roll(1 << 31) as u64) % most
}

/// Returns runs of up to `most` bytes, some of which continue where the one before ends.
fn runs(dice: &mut Dice, most: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for _ in 0..dice.roll(40) {
        let (len, offset) = (1 + number(dice, most), number(dice, most * 4));
        let from = match (dice.roll(4), runs.last()) {
            (0, _) => From::Zero,
            (1, Some(last)) => last.from.after(last.len),
            (2, _) => From::Residue(ObjectId::content([dice.roll(3) as u8; 32]), offset),
            _ => From::Content(object(dice), offset),
        };
        runs.push(Run { len, from });
    }
    runs
}

fn layout(runs: &[Run]) -> Layout {
    let mut builder = Builder::new();
    for Run { len, from } in runs {
        match *from {
            From::Zero => builder.zero(*len),
            From::Content(id, offset) => builder.content(*len, id, offset),
            From::Residue(id, offset) => builder.residue(*len, id, offset),
        }
    }
    assert_eq!(builder.end(), runs.iter().map(|run| run.len).sum::<u64>());
    builder.finish()
}

/// Returns the same runs with some cut into pieces, and some empty pieces among them.
fn cut(dice: &mut Dice, runs: &[Run]) -> Vec<Run> {
    let mut pieces = Vec::new();
    for run in runs {
        let mut at = 0;
        while at < run.len {
            let len =
                if dice.roll(2) == 0 { run.len - at } else { dice.roll((run.len - at) as usize) as u64 };
            pieces.push(Run { len, from: run.from.after(at) });
            at += len;
        }
        if dice.roll(4) == 0 {
            pieces.push(Run { len: 0, from: From::Content(object(dice), dice.roll(100) as u64) });
        }
    }
    pieces
}

/// Returns the origin of each byte of a small disk.
fn origins(runs: &[Run]) -> Vec<From> {
    runs.iter().flat_map(|run| (0..run.len).map(|by| run.from.after(by))).collect()
}

/// Returns the origin of the first byte of a segment.
fn from(layout: &Layout, segment: &Segment) -> From {
    match segment.origin {
        Origin::Zero => From::Zero,
        Origin::Content { object, offset } => From::Content(layout.objects()[object as usize], offset),
        Origin::Residue { object, offset } => From::Residue(layout.objects()[object as usize], offset),
    }
}

#[test]
fn a_layout_comes_back_from_its_bytes() {
    each_seed(2000, |seed| {
        let dice = &mut Dice::new(seed);
        let layout = layout(&runs(dice, 1 << 50));
        let (file, digest) = layout.encode();
        let (back, back_digest) = Layout::decode(&file).unwrap();
        assert_eq!((&back, back_digest), (&layout, digest));
        assert_eq!(back.encode(), (file, digest));
    });
}

#[test]
fn segments_are_whole_and_objects_are_numbered_as_they_are_met() {
    each_seed(1000, |seed| {
        let dice = &mut Dice::new(seed);
        let pieces = runs(dice, 1 << 50);
        let layout = layout(&cut(dice, &pieces));
        let (mut end, mut met) = (0, Vec::new());
        let mut before: Option<Segment> = None;
        for segment in layout.segments() {
            assert!(segment.range.start == end && segment.range.end > end, "{segment:?}");
            if let Some(before) = &before {
                let len = before.range.end - before.range.start;
                assert_ne!(from(&layout, before).after(len), from(&layout, &segment), "{segment:?}");
            }
            if let Origin::Content { object, .. } | Origin::Residue { object, .. } = segment.origin
                && !met.contains(&object)
            {
                met.push(object);
            }
            end = segment.range.end;
            before = Some(segment);
        }
        assert_eq!(end, layout.disk_size());
        assert!(met.iter().copied().eq(0..layout.objects().len() as u32), "{met:?}");
    });
}

#[test]
fn the_same_bytes_have_one_layout_however_they_are_cut() {
    each_seed(1000, |seed| {
        let dice = &mut Dice::new(seed);
        let whole = runs(dice, 200);
        let (one, other) = (layout(&whole), layout(&cut(dice, &whole)));
        assert_eq!(one.encode(), other.encode());
        assert_eq!(one, other);
    });
}

#[test]
fn other_bytes_have_another_digest() {
    each_seed(1000, |seed| {
        let dice = &mut Dice::new(seed);
        let mut runs = runs(dice, 50);
        let (before, (_, digest)) = (origins(&runs), layout(&runs).encode());
        if runs.is_empty() {
            return;
        }
        let at = dice.roll(runs.len());
        match dice.roll(5) {
            0 => runs[at].from = From::Zero,
            1 => runs[at].from = runs[at].from.after(1),
            2 => runs[at].from = From::Content(object(dice), dice.roll(50) as u64),
            3 => runs[at].len += 1,
            _ => drop(runs.remove(at)),
        }
        let is_same = origins(&runs) == before;
        assert_eq!(layout(&runs).encode().1 == digest, is_same);
    });
}

#[test]
fn reading_by_offset_gives_what_an_array_has_there() {
    each_seed(500, |seed| {
        let dice = &mut Dice::new(seed);
        let runs = runs(dice, 200);
        let disk: Vec<u8> = origins(&runs).into_iter().map(From::byte).collect();
        let (layout, _) = Layout::decode(&layout(&runs).encode().0).unwrap();
        assert_eq!(layout.disk_size(), disk.len() as u64);
        for _ in 0..50 {
            let start = dice.roll(disk.len() + 1);
            let end = start + dice.roll(disk.len() + 1 - start);
            let mut read = vec![0xaa; end - start];
            for segment in layout.segments_in(start as u64..end as u64) {
                let origin = from(&layout, &segment);
                assert!(start == end || segment.range.end > start as u64, "{segment:?} ends before {start}");
                for at in segment.range.clone().filter(|at| (start as u64..end as u64).contains(at)) {
                    read[at as usize - start] = origin.after(at - segment.range.start).byte();
                }
            }
            assert!(read == disk[start..end], "{start}..{end}");
        }
    });
}
