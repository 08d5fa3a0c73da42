//! A volume as a source, independent of the places of its parts on the disk.

use std::sync::Arc;

use mif_formats::source::check_range;
use mif_formats::{Extent, Source};

/// A volume of a disk.
pub(crate) struct VolumeSource {
    disk: Arc<dyn Source>,
    extents: Vec<VolumeExtent>,
}

impl VolumeSource {
    /// Returns the volume on these `extents` of `disk`, which are consecutive on the volume.
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
        read_at(&*self.disk, &self.extents, offset, buf)
    }

    fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
        Ok(Extent::data(offset, self.len() - offset))
    }
}

/// A run of bytes of a volume and its place on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeExtent {
    /// The first byte on the volume.
    pub volume: u64,
    /// The first byte on the disk.
    pub disk: u64,
    /// The number of bytes.
    pub len: u64,
}

/// Returns the disk ranges (start, length) of `len` bytes at `offset` of the volume on `extents`, in volume order.
pub(crate) fn on_disk(
    extents: &[VolumeExtent],
    offset: u64,
    len: u64,
) -> impl Iterator<Item = (u64, u64)> + '_ {
    let end = offset.saturating_add(len);
    let first = extents.partition_point(|e| e.volume + e.len <= offset);
    extents[first..].iter().take_while(move |e| e.volume < end).map(move |e| {
        let from = e.volume.max(offset);
        let to = (e.volume + e.len).min(end);
        (e.disk + (from - e.volume), to - from)
    })
}

/// Reads bytes at `offset` of the volume on `extents` of `disk`. The volume must have that many bytes.
pub(crate) fn read_at(
    disk: &dyn Source,
    extents: &[VolumeExtent],
    offset: u64,
    buf: &mut [u8],
) -> mif_formats::Result<()> {
    let mut rest = &mut buf[..];
    for (start, len) in on_disk(extents, offset, rest.len() as u64) {
        let part = rest.split_off_mut(..len as usize).expect("parts have as many bytes together");
        disk.read_at(start, part)?;
    }
    Ok(())
}
