//! Builds the new layout from planned volumes and from bytes that are kept of the parent, at the same or another place.
//!
//! As in an import, blocks of zeros inside content are zero, and residue is collected by windows of the disk. If a
//! window mixes several sources, `canonical` rewrites it afterwards.

use std::collections::HashMap;
use std::ops::Range;

use mif_formats::fs::plan::{Placed, Planned};
use mif_formats::mif::ObjectId;
use mif_formats::mif::layout::{Builder, Layout, Origin};
use mif_formats::source::is_zero;
use mif_formats::{Extent, Source, at};

use super::canonical::append;
use crate::disk::blocks::{BLOCK, RESIDUE_WINDOW, blocks};
use crate::disk::volume::{VolumeExtent, VolumeOffset, on_disk};
use crate::error::{Error, Result};
use crate::ingest;
use crate::store::ObjectWriter;
use crate::task::progress::Silent;
use crate::tree::new_content::ContentLookup;

/// Builds a layout from planned volumes and kept bytes.
pub(crate) struct Splicer<'a> {
    old: &'a Layout,
    /// The size of the new disk in bytes.
    size: u64,
    keeps: Vec<Keep>,
    contents: ContentLookup<'a>,
    known: &'a Known,
    writer: &'a ObjectWriter,
    /// New runs, unordered. Parts of `replaced` that no run covers are zero.
    runs: Vec<NewRun>,
    /// The planned parts of the disk.
    replaced: Vec<Range<u64>>,
}

/// Bytes of the parent that the new disk keeps, possibly at another place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keep {
    /// Their range on the new disk.
    pub(crate) to: Range<u64>,
    /// Their start on the parent's disk.
    pub(crate) from: u64,
}

/// Content of the store.
struct Content<'a> {
    lookup: ContentLookup<'a>,
    id: &'a ObjectId,
    len: u64,
}

impl Source for Content<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
        let failed = |e: Error| at("content").byte(offset).io(std::io::Error::other(e.to_string()));
        self.lookup.read_at(self.id, offset, buf).map_err(failed)
    }

    fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
        Ok(Extent::data(offset, self.len - offset))
    }
}

/// A run of bytes of the disk.
struct NewRun {
    range: Range<u64>,
    is_content: bool,
    object: ObjectId,
    /// The offset in the object.
    offset: u64,
}

/// The parts of objects that are content on the parent's disk, sorted, by object and by the offset in a disk block at
/// which the object would begin: none of their whole blocks is zero.
pub(crate) struct Known(HashMap<(ObjectId, u64), Vec<(u64, u64)>>);

impl Known {
    pub(crate) fn new(layout: &Layout) -> Self {
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

    /// Returns true if the block at `range` of an object is known not to be zero.
    fn has_data(&self, object: ObjectId, range: &Range<u64>, phase: u64) -> bool {
        self.0.get(&(object, phase)).is_some_and(|parts| {
            let after = parts.partition_point(|(start, _)| *start <= range.start);
            after > 0 && parts[after - 1].1 >= range.end
        })
    }
}

impl<'a> Splicer<'a> {
    /// Starts a disk of `size` bytes that keeps the bytes in `keeps` of the disk `old`: these are sorted, disjoint, and
    /// within both disks. Everything else is zero. `known` belongs to `old`.
    pub(crate) fn new(
        old: &'a Layout,
        size: u64,
        keeps: Vec<Keep>,
        contents: ContentLookup<'a>,
        known: &'a Known,
        writer: &'a ObjectWriter,
    ) -> Self {
        Splicer { old, size, keeps, contents, known, writer, runs: Vec::new(), replaced: Vec::new() }
    }

    /// Places a planned volume, which fits into `extents`. Bytes of the extents past the end of the filesystem are
    /// kept.
    pub(crate) fn volume(
        &mut self,
        extents: &[VolumeExtent],
        plan: &dyn Planned,
        contents: &[ObjectId],
    ) -> Result<()> {
        for id in contents {
            self.store_plain(id)?;
        }
        self.replaced.extend(
            on_disk(extents, VolumeOffset(0), plan.size()).map(|(start, len)| start.0..start.0 + len),
        );
        let mut window = Window { start: 0, next: 0, limit: 0, bytes: Vec::new(), content: Vec::new() };
        // The planner cannot return an error of the store, so it is passed around it.
        let mut failed = None;
        let emitted = plan.emit(&mut |offset, placed| {
            self.placed(&mut window, extents, VolumeOffset(offset), placed, contents).map_err(|error| {
                failed = Some(error);
                mif_formats::at("rebuild").io(std::io::Error::other("the store"))
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
        emitted?;
        self.flush(&mut window)
    }

    /// Stores content that the store has only as decoded content: a layout refers to no such object.
    fn store_plain(&self, id: &ObjectId) -> Result<()> {
        let ContentLookup { objects, new } = self.contents;
        if new.get(id).is_none() && objects.is_only_decoded(id) && !self.writer.has_content(id.digest) {
            let content = Content { lookup: self.contents, id, len: objects.len(id)? };
            ingest::store_content(&content, self.writer, &Silent)?;
        }
        Ok(())
    }

    /// Places bytes at byte `at` of the disk, instead of what is kept there.
    pub(crate) fn bytes(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let range = at..at + bytes.len() as u64;
        if bytes.is_empty() {
            return Ok(());
        }
        let mut residue = Vec::new();
        let mut found = Vec::new();
        for block in blocks(range.clone()) {
            let bytes = &bytes[(block.start - at) as usize..(block.end - at) as usize];
            if !is_zero(bytes) {
                found.push((block, residue.len() as u64));
                residue.extend_from_slice(bytes);
            }
        }
        self.replaced.push(range);
        self.residue(&residue, found)
    }

    /// Returns the layout of the whole disk.
    pub(crate) fn finish(mut self) -> Result<Layout> {
        self.runs.sort_unstable_by_key(|run| run.range.start);
        self.replaced.sort_unstable_by_key(|range| range.start);
        if self.replaced.windows(2).any(|pair| pair[0].end > pair[1].start) {
            return Err(Error::unsupported("cannot rebuild volumes that overlap"));
        }
        let mut builder = Builder::new();
        let mut runs = self.runs.iter().peekable();
        for replaced in &self.replaced {
            self.keep(&mut builder, replaced.start);
            while let Some(run) = runs.next_if(|run| run.range.start < replaced.end) {
                builder.zero(run.range.start - builder.end());
                let len = run.range.end - run.range.start;
                if run.is_content {
                    builder.content(len, run.object, run.offset);
                } else {
                    builder.residue(len, run.object, run.offset);
                }
            }
            builder.zero(replaced.end - builder.end());
        }
        self.keep(&mut builder, self.size);
        Ok(builder.finish())
    }

    /// Appends the kept bytes up to `end` of the disk.
    fn keep(&self, builder: &mut Builder, end: u64) {
        let first = self.keeps.partition_point(|keep| keep.to.end <= builder.end());
        for Keep { to, from } in self.keeps[first..].iter().take_while(|keep| keep.to.start < end) {
            builder.zero(to.start.saturating_sub(builder.end()));
            let start = builder.end();
            let old = from + (start - to.start)..from + (to.end.min(end) - to.start);
            append(builder, self.old, old);
        }
        builder.zero(end - builder.end());
    }

    /// Places part of a plan at `offset` of a volume.
    fn placed(
        &mut self,
        window: &mut Window,
        extents: &[VolumeExtent],
        offset: VolumeOffset,
        placed: Placed<'_>,
        contents: &[ObjectId],
    ) -> Result<()> {
        let mut done = 0;
        let whole = match placed {
            Placed::Bytes(bytes) => bytes.len() as u64,
            Placed::File { len, .. } => len,
        };
        for (disk, len) in on_disk(extents, offset, whole) {
            let part = match placed {
                Placed::Bytes(bytes) => Placed::Bytes(&bytes[done as usize..(done + len) as usize]),
                Placed::File { key, offset, .. } => Placed::File { key, offset: offset + done, len },
            };
            self.place(window, disk.0, part, contents)?;
            done += len;
        }
        Ok(())
    }

    /// Places part of a plan at byte `at` of the disk.
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
                    self.move_to(window, at)?;
                    let here = (window.limit - at).min(bytes.len() as u64) as usize;
                    window.put(at, &bytes[..here]);
                    (at, bytes) = (at + here as u64, &bytes[here..]);
                    window.next = at;
                }
            }
            Placed::File { key, mut offset, mut len } => {
                let object = contents[key as usize];
                while len > 0 {
                    self.move_to(window, at)?;
                    let here = (window.limit - at).min(len);
                    window.content.push((at..at + here, object, offset));
                    (at, offset, len) = (at + here, offset + here, len - here);
                    window.next = at;
                }
            }
        }
        Ok(())
    }

    /// Moves to the window of byte `at`. A volume's extents may be in any order on the disk, so this may go backwards.
    fn move_to(&mut self, window: &mut Window, at: u64) -> Result<()> {
        if !(window.next..window.limit).contains(&at) {
            self.flush(window)?;
            window.start = at / RESIDUE_WINDOW * RESIDUE_WINDOW;
            window.limit = window.start + RESIDUE_WINDOW;
        }
        Ok(())
    }

    /// Makes the runs of a window: its content without zero blocks, and the other bytes that are not zero as residue.
    fn flush(&mut self, window: &mut Window) -> Result<()> {
        // Residue is extended with zeros to the end of its block, but not into kept bytes: a volume may begin or end
        // within a block.
        let end = (window.start + window.bytes.len() as u64).next_multiple_of(BLOCK);
        window.bytes.resize((end - window.start) as usize, 0);
        let mut gaps: Vec<Range<u64>> = Vec::new();
        let mut at = window.start;
        for (range, object, offset) in std::mem::take(&mut window.content) {
            gaps.push(at..range.start.min(end));
            at = range.end;
            self.content(range, object, offset)?;
        }
        gaps.push(at..end);
        let near = self.replaced.iter().filter(|range| range.start < end && window.start < range.end);
        let mut near: Vec<Range<u64>> = near.cloned().collect();
        near.sort_unstable_by_key(|range| range.start);
        // Ranges that were replaced twice are merged.
        let mut planned: Vec<Range<u64>> = Vec::new();
        for range in near {
            match planned.last_mut() {
                Some(last) if range.start < last.end => last.end = last.end.max(range.end),
                _ => planned.push(range),
            }
        }
        let of_plan = |gap: &Range<u64>| -> Vec<Range<u64>> {
            planned.iter().map(|range| range.start.max(gap.start)..range.end.min(gap.end)).collect()
        };
        let mut residue = Vec::new();
        let mut found = Vec::new();
        for block in gaps.iter().flat_map(of_plan).flat_map(blocks) {
            let in_window = (block.start - window.start) as usize..(block.end - window.start) as usize;
            let bytes = &window.bytes[in_window];
            if !is_zero(bytes) {
                found.push((block, residue.len() as u64));
                residue.extend_from_slice(bytes);
            }
        }
        window.bytes.clear();
        self.residue(&residue, found)
    }

    /// Stores residue as one object, and makes its runs from `parts`: ranges of the disk, each with its offset in the
    /// object.
    fn residue(&mut self, residue: &[u8], parts: Vec<(Range<u64>, u64)>) -> Result<()> {
        if !residue.is_empty() {
            let object = self.writer.put(residue)?;
            let run = |(range, offset)| NewRun { range, is_content: false, object, offset };
            self.runs.extend(parts.into_iter().map(run));
        }
        Ok(())
    }

    /// Makes runs of content without its zero blocks.
    fn content(&mut self, range: Range<u64>, object: ObjectId, offset: u64) -> Result<()> {
        let phase = range.start.wrapping_sub(offset) % BLOCK;
        let run = |from: u64, to: u64| NewRun {
            range: from..to,
            is_content: true,
            object,
            offset: offset + (from - range.start),
        };
        let mut from = range.start;
        for block in blocks(range.clone()).filter(|block| block.end - block.start == BLOCK) {
            let start = offset + (block.start - range.start);
            if self.known.has_data(object, &(start..start + BLOCK), phase) {
                continue;
            }
            let mut bytes = [0; BLOCK as usize];
            self.contents.read_at(&object, start, &mut bytes)?;
            if is_zero(&bytes) {
                if from < block.start {
                    self.runs.push(run(from, block.start));
                }
                from = block.end;
            }
        }
        if from < range.end {
            self.runs.push(run(from, range.end));
        }
        Ok(())
    }
}

/// The window of the disk that is being filled.
struct Window {
    start: u64,
    /// The lowest place for the next bytes: the end of all bytes so far.
    next: u64,
    limit: u64,
    /// Metadata from `start` on, as far as written.
    bytes: Vec<u8>,
    content: Vec<(Range<u64>, ObjectId, u64)>,
}

impl Window {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        let start = (at - self.start) as usize;
        self.bytes.resize(start.max(self.bytes.len()), 0);
        self.bytes.extend_from_slice(bytes);
    }
}
