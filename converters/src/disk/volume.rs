//! A volume as something to read, wherever on the disk its parts lie.

use std::sync::Arc;

use mif_formats::source::check_range;
use mif_formats::{Extent, Source};

use super::scan::VolumeExtent;

/// A volume of a disk, wherever its parts lie.
pub(crate) struct VolumeSource {
    disk: Arc<dyn Source>,
    extents: Vec<VolumeExtent>,
}

impl VolumeSource {
    /// The volume on these `extents` of `disk`, which lie side by side on the volume.
    pub(crate) fn new(disk: Arc<dyn Source>, extents: Vec<VolumeExtent>) -> Self {
        VolumeSource { disk, extents }
    }
}

impl Source for VolumeSource {
    fn len(&self) -> u64 {
        self.extents.last().map_or(0, |extent| extent.volume + extent.len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
        check_range("volume", self.len(), offset, buf.len() as u64)?;
        let end = offset + buf.len() as u64;
        let first = self.extents.partition_point(|e| e.volume + e.len <= offset);
        for extent in self.extents[first..].iter().take_while(|e| e.volume < end) {
            let (from, to) = (extent.volume.max(offset), (extent.volume + extent.len).min(end));
            let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
            self.disk.read_at(extent.disk + (from - extent.volume), part)?;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
        Ok(Extent::data(offset, self.len() - offset))
    }
}
