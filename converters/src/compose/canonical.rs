//! Rewrites windows of the disk whose residue comes from several sources, as an import would store them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::mif::layout::{Builder, Layout, Origin, Segment};
use mif_formats::source::is_zero;

use crate::disk::blocks::{BLOCK, RESIDUE_WINDOW, blocks};
use crate::error::Result;
use crate::store::{ObjectWriter, Objects, StoredDisk};

/// Returns `layout` with all residue of each window in one object, or `None` if it is so already, which is determined
/// from the layout alone. `objects` contains all objects of the layout; new ones go to `writer`.
pub(crate) fn canonical(
    layout: &Arc<Layout>,
    objects: &Arc<Objects>,
    writer: &ObjectWriter,
) -> Result<Option<Layout>> {
    let mixed = mixed_windows(layout, objects)?;
    if mixed.is_empty() {
        return Ok(None);
    }
    let disk = StoredDisk::new(layout.clone(), objects.clone());
    let mut builder = Builder::new();
    for window in mixed {
        copy(&mut builder, layout, window.start);
        let parts: Vec<Segment> = layout.segments_in(window.clone()).map(|s| clip(s, &window)).collect();
        let content: Vec<&Segment> =
            parts.iter().filter(|part| matches!(part.origin, Origin::Content { .. })).collect();
        let mut residue = Vec::new();
        let mut found: Vec<(Range<u64>, u64)> = Vec::new();
        let mut gap = window.start;
        for (stop, next) in
            content.iter().map(|c| (c.range.start, c.range.end)).chain([(window.end, window.end)])
        {
            for block in blocks(gap..stop) {
                let bytes = disk.read_vec(block.start, (block.end - block.start) as usize)?;
                if !is_zero(&bytes) {
                    found.push((block, residue.len() as u64));
                    residue.extend_from_slice(&bytes);
                }
            }
            gap = next;
        }
        let object = writer.put(&residue)?;
        let mut found = found.into_iter().peekable();
        let mut put_until = |builder: &mut Builder, end: u64| {
            while let Some((block, offset)) = found.next_if(|(block, _)| block.start < end) {
                builder.zero(block.start - builder.end());
                builder.residue(block.end - block.start, object, offset);
            }
            builder.zero(end - builder.end());
        };
        for part in content {
            put_until(&mut builder, part.range.start);
            copy(&mut builder, layout, part.range.end);
        }
        put_until(&mut builder, window.end);
    }
    copy(&mut builder, layout, layout.disk_size());
    Ok(Some(builder.finish()))
}

/// Returns the windows whose residue is not exactly one object, complete and in order.
fn mixed_windows(layout: &Layout, objects: &Objects) -> Result<Vec<Range<u64>>> {
    let mut mixed = BTreeSet::new();
    // The window, its object, and how many bytes of the object were seen.
    let mut current: Option<(u64, u32, u64)> = None;
    let is_whole = |object: u32, met: u64| -> Result<bool> {
        Ok(objects.len(&layout.objects()[object as usize])? == met)
    };
    let mut segments = layout.segments().peekable();
    let mut is_after_zero = false;
    while let Some(Segment { range, origin }) = segments.next() {
        let follows_zero = std::mem::replace(&mut is_after_zero, origin == Origin::Zero);
        let Origin::Residue { object, offset } = origin else { continue };
        // An import stores whole blocks, including their zeros.
        let is_before_zero = segments.peek().is_some_and(|next| next.origin == Origin::Zero);
        for (edge, is_beside_zero) in [(range.start, follows_zero), (range.end, is_before_zero)] {
            if is_beside_zero && edge % BLOCK != 0 {
                mixed.insert(edge / RESIDUE_WINDOW * RESIDUE_WINDOW);
            }
        }
        let (window, len) = (range.start / RESIDUE_WINDOW * RESIDUE_WINDOW, range.end - range.start);
        if range.end > window + RESIDUE_WINDOW {
            // No import makes such a segment, but shifting a disk may. Then all windows it touches are mixed.
            for window in (window..range.end).step_by(RESIDUE_WINDOW as usize) {
                mixed.insert(window);
            }
        }
        match current {
            Some((known, only, met)) if known == window => {
                if only != object || offset != met {
                    mixed.insert(window);
                }
                current = Some((window, only, met + len));
            }
            _ => {
                if let Some((known, only, met)) = current
                    && !is_whole(only, met)?
                {
                    mixed.insert(known);
                }
                if offset != 0 {
                    mixed.insert(window);
                }
                current = Some((window, object, len));
            }
        }
    }
    if let Some((known, only, met)) = current
        && !is_whole(only, met)?
    {
        mixed.insert(known);
    }
    let range = |start: u64| start..(start + RESIDUE_WINDOW).min(layout.disk_size());
    Ok(mixed.into_iter().map(range).collect())
}

/// Appends the bytes of `layout` up to `end`, at the same place.
fn copy(builder: &mut Builder, layout: &Layout, end: u64) {
    append(builder, layout, builder.end()..end);
}

/// Appends the bytes at `wanted` of `layout`.
pub(crate) fn append(builder: &mut Builder, layout: &Layout, wanted: Range<u64>) {
    for segment in layout.segments_in(wanted.clone()).filter(|s| s.range.end > wanted.start) {
        let Segment { range, origin } = clip(segment, &wanted);
        let len = range.end - range.start;
        let id = |object: u32| layout.objects()[object as usize];
        match origin {
            Origin::Zero => builder.zero(len),
            Origin::Content { object, offset } => builder.content(len, id(object), offset),
            Origin::Residue { object, offset } => builder.residue(len, id(object), offset),
        }
    }
}

/// Returns the part of a segment that is in `wanted`.
fn clip(segment: Segment, wanted: &Range<u64>) -> Segment {
    let range = segment.range.start.max(wanted.start)..segment.range.end.min(wanted.end);
    let skip = range.start - segment.range.start;
    let origin = match segment.origin {
        Origin::Zero => Origin::Zero,
        Origin::Content { object, offset } => Origin::Content { object, offset: offset + skip },
        Origin::Residue { object, offset } => Origin::Residue { object, offset: offset + skip },
    };
    Segment { range, origin }
}
