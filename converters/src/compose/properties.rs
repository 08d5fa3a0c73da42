//! Properties of every splice, tested on random ones against a plain array of the disk: the layout reads as the array,
//! and if everything starts at whole blocks, the layout equals the one that an import of that disk makes.

use std::ops::Range;
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::fs::plan::{Placed, Planned};
use mif_formats::mif::ObjectId;
use mif_formats::mif::layout::{Builder, Layout, Origin};
use mif_formats::source::is_zero;

use super::splice::{Keep, Known, Splicer};
use super::staging::Bench;
use crate::disk::blocks::{BLOCK, RESIDUE_WINDOW, blocks};
use crate::disk::volume::{DiskOffset, VolumeExtent, VolumeOffset, on_disk};
use crate::store::{Memory, Objects, Storage, Store, StoredDisk};
use crate::task::progress::Silent;
use crate::testing::random::{Random, each_seed};
use crate::tree::new_content::{ContentLookup, NewContent, NewContents};

/// Writes may end at each sector.
const SECTOR: u64 = 512;

/// The content of a file.
struct File {
    id: ObjectId,
    bytes: Vec<u8>,
}

/// A disk as a plain array, with its parts that are content: sorted and disjoint, each with its object and the offset
/// in it.
#[derive(Default)]
struct Array {
    bytes: Vec<u8>,
    content: Vec<(Range<u64>, ObjectId, u64)>,
}

/// A part of a disk. If it is content, also its object and the offset in it.
type Piece = (Range<u64>, Option<(ObjectId, u64)>);

impl Array {
    fn zeros(len: u64) -> Self {
        Array { bytes: vec![0; len as usize], content: Vec::new() }
    }

    fn clear(&mut self, range: &Range<u64>) {
        self.put(range.start, &vec![0; (range.end - range.start) as usize]);
    }

    /// Writes bytes that are not content.
    fn put(&mut self, at: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len() as u64;
        self.bytes[at as usize..end as usize].copy_from_slice(bytes);
        let all = std::mem::take(&mut self.content);
        for (range, id, offset) in all {
            for part in [range.start..range.end.min(at), range.start.max(end)..range.end] {
                if part.start < part.end {
                    self.content.push((part.clone(), id, offset + (part.start - range.start)));
                }
            }
        }
    }

    fn put_file(&mut self, at: u64, file: &File, offset: u64, len: u64) {
        if len > 0 {
            self.put(at, &file.bytes[offset as usize..(offset + len) as usize]);
            self.content.push((at..at + len, file.id, offset));
            self.content.sort_by_key(|(range, ..)| range.start);
        }
    }

    /// Copies `to.len()` bytes from another disk.
    fn take(&mut self, other: &Array, from: u64, to: &Range<u64>) {
        let end = from + (to.end - to.start);
        self.put(to.start, &other.bytes[from as usize..end as usize]);
        for (range, id, offset) in &other.content {
            let part = range.start.max(from)..range.end.min(end);
            if part.start < part.end {
                let here = part.start - from + to.start..part.end - from + to.start;
                self.content.push((here, *id, offset + (part.start - range.start)));
            }
        }
        self.content.sort_by_key(|(range, ..)| range.start);
    }

    /// Returns the layout that an import makes of it: content without its zero blocks, and for each window one object
    /// with all other bytes that are not zero.
    fn imported(&self, mut put: impl FnMut(&[u8]) -> ObjectId) -> Layout {
        let len = self.bytes.len() as u64;
        let at = |range: &Range<u64>| &self.bytes[range.start as usize..range.end as usize];
        let mut pieces: Vec<Piece> = Vec::new();
        let mut end = 0;
        for (range, id, offset) in &self.content {
            pieces.extend(blocks(end..range.start).map(|block| (block, None)));
            pieces.extend(blocks(range.clone()).map(|block| {
                let offset = offset + (block.start - range.start);
                (block, Some((*id, offset)))
            }));
            end = range.end;
        }
        pieces.extend(blocks(end..len).map(|block| (block, None)));
        let mut builder = Builder::new();
        for window in pieces.chunk_by(|a, b| a.0.start / RESIDUE_WINDOW == b.0.start / RESIDUE_WINDOW) {
            let is_residue =
                |(range, content): &&(Range<u64>, Option<_>)| content.is_none() && !is_zero(at(range));
            let residue: Vec<u8> =
                window.iter().filter(is_residue).flat_map(|(range, _)| at(range)).copied().collect();
            let object = if residue.is_empty() { None } else { Some(put(&residue)) };
            let mut done = 0;
            for (range, content) in window {
                let len = range.end - range.start;
                match (content, object) {
                    (Some((id, offset)), _) if len < BLOCK || !is_zero(at(range)) => {
                        builder.content(len, *id, *offset);
                    }
                    (None, Some(object)) if !is_zero(at(range)) => {
                        builder.residue(len, object, done);
                        done += len;
                    }
                    _ => builder.zero(len),
                }
            }
        }
        builder.finish()
    }
}

/// A planned volume: its size and what it places.
struct Plan {
    size: u64,
    placed: Vec<(u64, OwnPlaced)>,
}

enum OwnPlaced {
    Bytes(Vec<u8>),
    File { key: u64, offset: u64, len: u64 },
}

impl Planned for Plan {
    fn size(&self) -> u64 {
        self.size
    }

    fn notes(&self) -> &[String] {
        &[]
    }

    fn emit(
        &self,
        place: &mut dyn FnMut(u64, Placed<'_>) -> mif_formats::Result<()>,
    ) -> mif_formats::Result<()> {
        for (at, placed) in &self.placed {
            place(
                *at,
                match placed {
                    OwnPlaced::Bytes(bytes) => Placed::Bytes(bytes),
                    OwnPlaced::File { key, offset, len } => {
                        Placed::File { key: *key, offset: *offset, len: *len }
                    }
                },
            )?;
        }
        Ok(())
    }
}

/// Returns bytes of which some blocks are zero.
fn bytes(random: &mut Random, len: u64) -> Vec<u8> {
    let mut bytes = random.bytes(len);
    for part in bytes.chunks_mut(BLOCK as usize / 2) {
        if random.once_in(3) {
            part.fill(0);
        }
    }
    if random.once_in(10) {
        bytes.fill(0);
    }
    bytes
}

fn file(random: &mut Random) -> File {
    let len = 1 + random.below(6 * BLOCK);
    let bytes = bytes(random, len);
    File { id: ObjectId::of(&bytes), bytes }
}

/// Returns `0..size`, cut at some multiples of `unit`.
fn slots(random: &mut Random, size: u64, unit: u64) -> Vec<Range<u64>> {
    let mut ends: Vec<u64> = (0..random.below(12)).map(|_| random.below(size / unit) * unit).collect();
    ends.extend([0, size]);
    ends.sort_unstable();
    ends.dedup();
    ends.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

/// Returns a disk on which everything starts at a multiple of `unit`.
fn disk(random: &mut Random, files: &[File], unit: u64) -> Array {
    let mut disk = Array::zeros((1 + random.below(3 * RESIDUE_WINDOW / unit)) * unit);
    for slot in slots(random, disk.bytes.len() as u64, unit) {
        let len = slot.end - slot.start;
        match random.below(3) {
            0 => {}
            1 => disk.put(slot.start, &bytes(random, len)),
            _ => {
                let file = random.pick(files);
                let offset = random.below(file.bytes.len() as u64) / unit * unit;
                disk.put_file(slot.start, file, offset, len.min(file.bytes.len() as u64 - offset));
            }
        }
    }
    disk
}

/// Returns a plan of a volume of `size` bytes that places everything at a multiple of `unit`.
fn plan(random: &mut Random, files: &[File], size: u64, unit: u64) -> Plan {
    let (mut at, mut placed, step) = (0, Vec::new(), unit.min(SECTOR));
    while at < size {
        let room = size - at;
        let is_small = random.once_in(2);
        let len = match random.below(4) {
            0 => random.below(room) / unit * unit,
            1 => {
                let key = random.below(files.len() as u64);
                let whole = files[key as usize].bytes.len() as u64;
                let offset = random.below(whole) / unit * unit;
                let len = room.min(whole - offset);
                placed.push((at, OwnPlaced::File { key, offset, len }));
                len
            }
            _ => {
                let len = room.min(if is_small { unit } else { random.below(8 * BLOCK) / step * step });
                placed.push((at, OwnPlaced::Bytes(bytes(random, len))));
                len
            }
        };
        at += len.next_multiple_of(unit).max(unit);
    }
    placed.retain(|(_, placed)| !matches!(placed, OwnPlaced::Bytes(bytes) if bytes.is_empty()));
    Plan { size, placed }
}

/// The result of a splice.
struct Spliced {
    /// Its layout before residue is collected by windows.
    raw: Arc<Layout>,
    layout: Arc<Layout>,
    /// The expected bytes of both layouts.
    expected: Array,
}

/// Splices a random disk on which everything starts at a multiple of `unit`.
fn spliced(random: &mut Random, bench: &Bench<'_>, unit: u64) -> Spliced {
    let files: Vec<File> = (0..6).map(|_| file(random)).collect();
    // The last ones are not in the store yet.
    let (stored, fresh) = files.split_at(4);
    let writer = bench.writer().unwrap();
    for file in stored {
        writer.put(&file.bytes).unwrap();
    }
    let old = disk(random, stored, unit);
    let old_layout = old.imported(|residue| writer.put(residue).unwrap());
    writer.finish().unwrap();
    let new: NewContents =
        fresh.iter().map(|file| (file.id, NewContent::of_bytes(file.bytes.clone()))).collect();

    let mut expected = Array::zeros((1 + random.below(3 * RESIDUE_WINDOW / unit)) * unit);
    let size = expected.bytes.len() as u64;
    let mut keeps = Vec::new();
    for slot in slots(random, size, unit) {
        let room = (old.bytes.len() as u64).checked_sub(slot.end - slot.start);
        let Some(room) = room.filter(|_| !random.once_in(3)) else { continue };
        let from = if random.once_in(2) && slot.start <= room {
            slot.start
        } else {
            random.below(room / unit + 1) * unit
        };
        expected.take(&old, from, &slot);
        keeps.push(Keep { to: slot, from });
    }
    let objects = bench.objects().unwrap();
    let (contents, known) = (ContentLookup { objects: &objects, new: &new }, Known::new(&old_layout));
    let writer = bench.writer().unwrap();
    let mut splicer = Splicer::new(&old_layout, size, keeps, contents, &known, &writer);

    let mut volumes: [Vec<VolumeExtent>; 2] = Default::default();
    let mut all = slots(random, size, unit);
    random.shuffle(&mut all);
    for slot in all {
        match random.below(5) {
            number @ 0..2 => {
                let extents = &mut volumes[number as usize];
                let volume = extents.last().map_or(VolumeOffset(0), |extent| extent.volume + extent.len);
                let disk = DiskOffset(slot.start);
                extents.push(VolumeExtent { volume, disk, len: slot.end - slot.start });
            }
            2 => {
                let step = unit.min(SECTOR);
                let len = (random.below(4 * BLOCK) / step * step).min(slot.end - slot.start);
                // An import takes only whole blocks as content, so a write that ends inside a block of content is
                // extended to its end.
                let (end, block) = (slot.start + len, (slot.start + len).next_multiple_of(unit));
                let is_content =
                    expected.content.iter().any(|(range, ..)| range.start < block && end < range.end);
                let bytes = bytes(random, if is_content { block - slot.start } else { len });
                splicer.bytes(slot.start, &bytes).unwrap();
                expected.put(slot.start, &bytes);
            }
            _ => {}
        }
    }
    let ids: Vec<ObjectId> = files.iter().map(|file| file.id).collect();
    for extents in volumes.iter().filter(|extents| !extents.is_empty()) {
        let room = extents.iter().map(|extent| extent.len).sum::<u64>();
        let len = if random.once_in(2) { room } else { random.below(room) / unit * unit };
        let plan = plan(random, &files, len, unit);
        for (start, len) in on_disk(extents, VolumeOffset(0), plan.size) {
            expected.clear(&(start.0..start.0 + len));
        }
        for (at, placed) in &plan.placed {
            let mut done = 0;
            let len = match placed {
                OwnPlaced::Bytes(bytes) => bytes.len() as u64,
                OwnPlaced::File { len, .. } => *len,
            };
            for (start, len) in on_disk(extents, VolumeOffset(*at), len) {
                match placed {
                    OwnPlaced::Bytes(bytes) => {
                        expected.put(start.0, &bytes[done as usize..(done + len) as usize]);
                    }
                    OwnPlaced::File { key, offset, .. } => {
                        expected.put_file(start.0, &files[*key as usize], offset + done, len);
                    }
                }
                done += len;
            }
        }
        splicer.volume(extents, &plan, &ids).unwrap();
    }
    let mut layout = Arc::new(splicer.finish().unwrap());
    for file in fresh {
        writer.put(&file.bytes).unwrap();
    }
    let raw = layout.clone();
    bench.finish(writer, &objects, [&mut layout]).unwrap();
    Spliced { raw, layout, expected }
}

fn store() -> Store {
    let memory: Arc<dyn Storage> = Arc::new(Memory::new());
    Store::create(memory, &Silent).unwrap()
}

/// Checks that reading `layout`, whole and at random offsets, returns `expected`.
fn check_bytes(random: &mut Random, layout: &Arc<Layout>, objects: &Arc<Objects>, expected: &[u8]) {
    let disk = StoredDisk::new(layout.clone(), objects.clone());
    let len = expected.len() as u64;
    assert_eq!(disk.len(), len);
    let read = disk.read_vec(0, expected.len()).unwrap();
    let differs = read.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "where the first byte differs");
    for _ in 0..20 {
        let start = random.below(len);
        let part = random.below(len - start + 1) as usize;
        let read = disk.read_vec(start, part).unwrap();
        assert!(read == expected[start as usize..][..part], "{part} bytes at {start}");
        let extent = disk.extent_at(start).unwrap();
        let part = &expected[start as usize..extent.range.end as usize];
        assert!(!extent.is_zero() || is_zero(part), "{extent:?} is no hole");
    }
}

/// Checks that no neighbouring segments can be merged, and that objects are numbered in order of first use.
fn check_canonical(layout: &Layout) {
    let mut builder = Builder::new();
    for segment in layout.segments() {
        let len = segment.range.end - segment.range.start;
        let id = |object: u32| layout.objects()[object as usize];
        match segment.origin {
            Origin::Zero => builder.zero(len),
            Origin::Content { object, offset } => builder.content(len, id(object), offset),
            Origin::Residue { object, offset } => builder.residue(len, id(object), offset),
        }
    }
    assert_eq!(builder.finish(), *layout);
}

#[test]
fn a_splice_reads_as_a_plain_array() {
    each_seed(120, |seed| {
        let random = &mut Random(seed);
        let unit = *random.pick(&[1, 512, BLOCK]);
        let store = store();
        let bench = Bench::Store(&store);
        let Spliced { raw, layout, expected } = spliced(random, &bench, unit);
        let objects = bench.objects().unwrap();
        for layout in [raw, layout] {
            check_canonical(&layout);
            check_bytes(random, &layout, &objects, &expected.bytes);
        }
    });
}

#[test]
fn a_splice_of_whole_blocks_has_the_layout_of_an_import() {
    each_seed(130, |seed| {
        let random = &mut Random(seed);
        let store = store();
        let Spliced { layout, expected, .. } = spliced(random, &Bench::Store(&store), BLOCK);
        let expected = expected.imported(ObjectId::of);
        for (ours, expected) in layout.segments().zip(expected.segments()) {
            assert_eq!(ours, expected, "the first segment that differs");
        }
        assert_eq!(*layout, expected);
    });
}

/// Fills a 64 KiB disk with 7s, splices a planned volume of `bytes` into `extents`, and reads the disk back.
fn with_volume(extents: &[VolumeExtent], bytes: Vec<u8>) -> Vec<u8> {
    const SIZE: u64 = 64 << 10;
    let store = store();
    let bench = Bench::Store(&store);
    let writer = bench.writer().unwrap();
    let mut old = Array::zeros(SIZE);
    old.put(0, &[7; SIZE as usize]);
    let old = old.imported(|residue| writer.put(residue).unwrap());
    writer.finish().unwrap();
    let (objects, new, known) = (bench.objects().unwrap(), NewContents::new(), Known::new(&old));
    let contents = ContentLookup { objects: &objects, new: &new };
    let writer = bench.writer().unwrap();
    let mut splicer =
        Splicer::new(&old, SIZE, vec![Keep { to: 0..SIZE, from: 0 }], contents, &known, &writer);
    let plan = Plan { size: bytes.len() as u64, placed: vec![(0, OwnPlaced::Bytes(bytes))] };
    splicer.volume(extents, &plan, &[]).unwrap();
    let mut layout = Arc::new(splicer.finish().unwrap());
    bench.finish(writer, &objects, [&mut layout]).unwrap();
    StoredDisk::new(layout, bench.objects().unwrap()).read_vec(0, SIZE as usize).unwrap()
}

fn extent(volume: u64, disk: u64, len: u64) -> VolumeExtent {
    VolumeExtent { volume: VolumeOffset(volume), disk: DiskOffset(disk), len }
}

/// Like a FAT at sector 63, which has data in its first sector.
#[test]
fn a_volume_may_begin_and_end_within_a_block() {
    let disk = with_volume(&[extent(0, 63 * SECTOR, 3 * SECTOR)], vec![9; 1536]);
    let expected = [vec![7; 63 * 512], vec![9; 1536], vec![7; 65_536 - 66 * 512]].concat();
    assert!(disk == expected);
}

#[test]
fn the_extents_of_a_volume_may_lie_in_any_order() {
    let extents = [extent(0, 2 * BLOCK, BLOCK), extent(BLOCK, 0, BLOCK)];
    let disk = with_volume(&extents, [[8; 4096], [9; 4096]].concat());
    let expected = [vec![9; 4096], vec![7; 4096], vec![8; 4096], vec![7; 65_536 - 3 * 4096]].concat();
    assert!(disk == expected);
}
