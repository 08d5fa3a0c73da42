//! The new layout: what was planned in its volume, the parent's everywhere else.
//!
//! The result is canonical, as import's is: blocks of zeros inside content are zero, and residue is collected by
//! windows of the disk.

use std::collections::HashMap;
use std::ops::Range;

use mif_formats::fs::plan::{Placed, Planned};
use mif_formats::mif::ObjectId;
use mif_formats::mif::layout::{Builder, Layout, Origin};
use mif_formats::partition::Partition;
use mif_formats::source::is_zero;

use crate::import::{BLOCK, RESIDUE_WINDOW};
use crate::store::{ObjectWriter, Objects};
use crate::{Error, Result};

/// Puts a layout together, from the start of the disk to its end.
pub(super) struct Splicer<'a> {
    old: &'a Layout,
    objects: &'a Objects,
    writer: &'a ObjectWriter,
    builder: Builder,
    known: Known,
}

/// The parts of objects that stand on the parent's disk as content, by where in a disk's block the object would
/// begin, sorted: none of their whole blocks is zero.
struct Known(HashMap<(ObjectId, u64), Vec<(u64, u64)>>);

impl Known {
    fn new(layout: &Layout) -> Self {
        let mut known: HashMap<_, Vec<(u64, u64)>> = HashMap::new();
        for segment in layout.segments() {
            if let Origin::Content { object, offset } = segment.origin {
                let len = segment.range.end - segment.range.start;
                let phase = segment.range.start.wrapping_sub(offset) % BLOCK;
                let id = layout.objects()[object as usize];
                known.entry((id, phase)).or_default().push((offset, offset + len));
            }
        }
        for parts in known.values_mut() {
            parts.sort_unstable();
            parts.dedup();
        }
        Known(known)
    }

    /// Whether the block at `range` of an object is known to hold something.
    fn has_data(&self, object: ObjectId, range: &Range<u64>, phase: u64) -> bool {
        self.0.get(&(object, phase)).is_some_and(|parts| {
            let after = parts.partition_point(|(start, _)| *start <= range.start);
            after > 0 && parts[after - 1].1 >= range.end
        })
    }
}

impl<'a> Splicer<'a> {
    pub(super) fn new(old: &'a Layout, objects: &'a Objects, writer: &'a ObjectWriter) -> Self {
        Splicer { old, objects, writer, builder: Builder::new(), known: Known::new(old) }
    }

    /// Goes on with the parent's bytes up to `end` of the disk.
    fn keep(&mut self, end: u64) {
        let start = self.builder.end();
        for segment in self.old.segments_in(start..end) {
            let from = segment.range.start.max(start);
            let to = segment.range.end.min(end);
            let Some(len) = to.checked_sub(from).filter(|len| *len > 0) else { continue };
            let skip = from - segment.range.start;
            let id = |object: u32| self.old.objects()[object as usize];
            match segment.origin {
                Origin::Zero => self.builder.zero(len),
                Origin::Content { object, offset } => self.builder.content(len, id(object), offset + skip),
                Origin::Residue { object, offset } => self.builder.residue(len, id(object), offset + skip),
            }
        }
    }

    /// Goes on with a volume as planned; what of its partition is past the filesystem stays the parent's.
    pub(super) fn volume(
        &mut self,
        partition: &Partition,
        plan: &dyn Planned,
        contents: &[ObjectId],
    ) -> Result<()> {
        if plan.size() > partition.len {
            return Err(Error::input(format!(
                "the filesystem has {} bytes, its partition {}",
                plan.size(),
                partition.len
            )));
        }
        self.keep(partition.start);
        let end = partition.start + plan.size();
        let mut window = Window { start: partition.start, end, bytes: Vec::new(), content: Vec::new() };
        // An error of the store has to pass through the planner, which knows none such.
        let mut failed = None;
        let emitted = plan.emit(&mut |offset, placed| {
            self.place(&mut window, partition.start + offset, placed, contents).map_err(|error| {
                failed = Some(error);
                mif_formats::at("rebuild").io(std::io::Error::other("the store"))
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
        emitted?;
        self.flush(&mut window)?;
        self.builder.zero(end - self.builder.end());
        Ok(())
    }

    /// The rest of the disk.
    pub(super) fn finish(mut self) -> Result<Layout> {
        self.keep(self.old.disk_size());
        Ok(self.builder.finish())
    }

    fn place(
        &mut self,
        window: &mut Window,
        mut at: u64,
        placed: Placed<'_>,
        contents: &[ObjectId],
    ) -> Result<()> {
        match placed {
            Placed::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    self.advance(window, at)?;
                    let here = (window.limit() - at).min(bytes.len() as u64) as usize;
                    window.put(at, &bytes[..here]);
                    (at, bytes) = (at + here as u64, &bytes[here..]);
                }
            }
            Placed::File { key, mut offset, mut len } => {
                let object = contents[key as usize];
                while len > 0 {
                    self.advance(window, at)?;
                    let here = (window.limit() - at).min(len);
                    window.content.push((at..at + here, object, offset));
                    (at, offset, len) = (at + here, offset + here, len - here);
                }
            }
        }
        Ok(())
    }

    /// Moves the window on until it holds byte `at`.
    fn advance(&mut self, window: &mut Window, at: u64) -> Result<()> {
        if at >= window.limit() {
            self.flush(window)?;
            window.start = at / RESIDUE_WINDOW * RESIDUE_WINDOW;
        }
        Ok(())
    }

    /// Puts a window's segments into the layout: content but for its zero blocks, and as residue what else is
    /// not zero.
    fn flush(&mut self, window: &mut Window) -> Result<()> {
        // Where each run comes from: content, or this far into the window's object.
        let mut runs: Vec<(Range<u64>, Option<ObjectId>, u64)> = Vec::new();
        let mut residue = Vec::new();
        let mut at = window.start;
        let content = std::mem::take(&mut window.content);
        let end = window.start + window.bytes.len() as u64;
        let tail = content.last().map_or(end, |(range, ..)| range.end.max(end));
        let gap = |range: Range<u64>, runs: &mut Vec<_>, residue: &mut Vec<u8>| {
            for block in blocks(range.start..range.end.min(end)) {
                let bytes =
                    &window.bytes[(block.start - window.start) as usize..(block.end - window.start) as usize];
                if !is_zero(bytes) {
                    runs.push((block, None, residue.len() as u64));
                    residue.extend_from_slice(bytes);
                }
            }
        };
        for (range, object, offset) in content {
            gap(at..range.start, &mut runs, &mut residue);
            at = range.end;
            self.content(range, object, offset, &mut runs)?;
        }
        gap(at..tail, &mut runs, &mut residue);
        let id = if residue.is_empty() { None } else { Some(self.writer.put(&residue)?) };
        for (range, object, offset) in runs {
            self.builder.zero(range.start - self.builder.end());
            let len = range.end - range.start;
            match (object, id) {
                (Some(object), _) => self.builder.content(len, object, offset),
                (None, Some(id)) => self.builder.residue(len, id, offset),
                (None, None) => unreachable!("residue has an object"),
            }
        }
        window.bytes.clear();
        Ok(())
    }

    /// The runs of content that are left once its zero blocks are out.
    fn content(
        &self,
        range: Range<u64>,
        object: ObjectId,
        offset: u64,
        runs: &mut Vec<(Range<u64>, Option<ObjectId>, u64)>,
    ) -> Result<()> {
        let mut push = |from: u64, to: u64| {
            if from < to {
                runs.push((from..to, Some(object), offset + (from - range.start)));
            }
        };
        let phase = range.start.wrapping_sub(offset) % BLOCK;
        let mut from = range.start;
        for block in blocks(range.clone()).filter(|block| block.end - block.start == BLOCK) {
            let in_object = offset + (block.start - range.start);
            let in_object = in_object..in_object + BLOCK;
            if self.known.has_data(object, &in_object, phase) {
                continue;
            }
            let mut bytes = [0; BLOCK as usize];
            self.objects.read_at(&object, in_object.start, &mut bytes)?;
            if is_zero(&bytes) {
                push(from, block.start);
                from = block.end;
            }
        }
        push(from, range.end);
        Ok(())
    }
}

/// A window of the disk that is being filled.
struct Window {
    start: u64,
    /// The end of the volume.
    end: u64,
    /// Metadata from `start` on, as far as there is.
    bytes: Vec<u8>,
    content: Vec<(Range<u64>, ObjectId, u64)>,
}

impl Window {
    /// Where the window ends: at a multiple of its size, or with the volume.
    fn limit(&self) -> u64 {
        ((self.start / RESIDUE_WINDOW + 1) * RESIDUE_WINDOW).min(self.end)
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let start = (at - self.start) as usize;
        self.bytes.resize(start.max(self.bytes.len()), 0);
        self.bytes.extend_from_slice(bytes);
    }
}

/// `range` cut at the disk's block boundaries.
fn blocks(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let start = at;
        at = ((start / BLOCK + 1) * BLOCK).min(range.end);
        (start < range.end).then_some(start..at)
    })
}
