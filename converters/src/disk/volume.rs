//! A volume as a source, independent of the places of its parts on the disk.

use std::ops::{Add, Sub};
use std::sync::Arc;

use mif_formats::partition::Partition;
use mif_formats::source::check_range;
use mif_formats::{Extent, Source};

/// The position of a byte on a disk, counted from the disk's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskOffset(pub u64);

/// The position of a byte on a volume, counted from the volume's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeOffset(pub u64);

macro_rules! offset {
    ($($name:ident)*) => {$(
        impl Add<u64> for $name {
            type Output = Self;

            fn add(self, len: u64) -> Self {
                $name(self.0 + len)
            }
        }

        impl Sub for $name {
            type Output = u64;

            fn sub(self, from: Self) -> u64 {
                self.0 - from.0
            }
        }
    )*};
}

offset!(DiskOffset VolumeOffset);

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
        self.extents.last().map_or(0, |extent| extent.volume.0 + extent.len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
        check_range("volume", self.len(), offset, buf.len() as u64)?;
        read_at(&*self.disk, &self.extents, VolumeOffset(offset), buf)
    }

    fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
        Ok(Extent::data(offset, self.len() - offset))
    }
}

/// A run of bytes of a volume and its place on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeExtent {
    /// The first byte on the volume.
    pub volume: VolumeOffset,
    /// The first byte on the disk.
    pub disk: DiskOffset,
    /// The number of bytes.
    pub len: u64,
}

impl VolumeExtent {
    /// The volume that fills a partition.
    #[must_use]
    pub fn whole(partition: &Partition) -> Self {
        VolumeExtent { volume: VolumeOffset(0), disk: DiskOffset(partition.start), len: partition.len }
    }
}

/// Returns the disk ranges (start, length) of `len` bytes at `offset` of the volume on `extents`, in volume order.
pub(crate) fn on_disk(
    extents: &[VolumeExtent],
    offset: VolumeOffset,
    len: u64,
) -> impl Iterator<Item = (DiskOffset, u64)> + '_ {
    let end = VolumeOffset(offset.0.saturating_add(len));
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
    offset: VolumeOffset,
    buf: &mut [u8],
) -> mif_formats::Result<()> {
    let mut rest = &mut buf[..];
    for (start, len) in on_disk(extents, offset, rest.len() as u64) {
        let part = rest.split_off_mut(..len as usize).expect("parts have as many bytes together");
        disk.read_at(start.0, part)?;
    }
    Ok(())
}
