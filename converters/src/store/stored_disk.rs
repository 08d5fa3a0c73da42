//! A stored disk as a [`Source`], read through its layout.

use std::sync::Arc;

use mif_formats::mif::layout::{Layout, Origin};
use mif_formats::source::check_range;
use mif_formats::{Extent, Result, Source, at};

use super::Objects;

/// A disk in the store.
pub struct StoredDisk {
    layout: Arc<Layout>,
    objects: Arc<Objects>,
    sector_size: Option<u32>,
}

impl StoredDisk {
    /// Returns the disk that `layout` describes, with its bytes from `objects`.
    #[must_use]
    pub fn new(layout: Arc<Layout>, objects: Arc<Objects>) -> Self {
        StoredDisk { layout, objects, sector_size: None }
    }

    /// Returns the layout through which it is read.
    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Sets the size of logical sectors in bytes.
    #[must_use]
    pub fn with_sectors_of(self, bytes: u32) -> Self {
        StoredDisk { sector_size: Some(bytes), ..self }
    }
}

impl Source for StoredDisk {
    fn len(&self) -> u64 {
        self.layout.disk_size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range("stored disk", self.len(), offset, buf.len() as u64)?;
        let end = offset + buf.len() as u64;
        for segment in self.layout.segments_in(offset..end) {
            let from = segment.range.start.max(offset);
            let to = segment.range.end.min(end);
            let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
            match segment.origin {
                Origin::Zero => part.fill(0),
                Origin::Content { object, offset } | Origin::Residue { object, offset } => {
                    let id = self.layout.objects()[object as usize];
                    let place = from - segment.range.start + offset;
                    self.objects.read_at(&id, place, part).map_err(|error| {
                        let error = std::io::Error::other(error.to_string());
                        at("stored disk").byte(from).io(error)
                    })?;
                }
            }
        }
        Ok(())
    }

    fn sector_size(&self) -> Option<u32> {
        self.sector_size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        let mut segments = self.layout.segments_in(offset..self.len());
        let outside = || at("stored disk").byte(offset).corrupt("is past its end");
        let first = segments.next().filter(|s| s.range.contains(&offset)).ok_or_else(outside)?;
        if first.origin == Origin::Zero {
            return Ok(Extent::zero(offset, first.range.end - offset));
        }
        // Limited, so that asking for one extent never walks the whole layout.
        let end = segments
            .take(256)
            .take_while(|segment| segment.origin != Origin::Zero)
            .last()
            .map_or(first.range.end, |segment| segment.range.end);
        Ok(Extent::data(offset, end - offset))
    }
}
