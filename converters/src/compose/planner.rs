//! What a volume is planned from: its parameters, read from where it lies.

use std::sync::Arc;

use mif_formats::fs::plan::Planner;
use mif_formats::fs::{self, Filesystem};
use mif_formats::source::check_range;
use mif_formats::{Extent, Source};

use crate::disk::scan::{Scan, ScannedVolume, VolumeExtent};
use crate::error::{Error, Result};

/// The parameters of the volume on which `filesystem` was found.
///
/// # Errors
///
/// If the filesystem says that it has more bytes than its volume, as after it was cut off: nobody could hold that size.
pub(crate) fn planner_of(filesystem: &dyn Filesystem, volume: Arc<dyn Source>) -> Result<Box<dyn Planner>> {
    let (kind, room) = (&filesystem.info().kind, volume.len());
    let driver = fs::driver(kind).filter(|driver| driver.capabilities().is_planned);
    let driver = driver.ok_or_else(|| Error::unsupported(format!("{kind} cannot be planned")))?;
    let planner = driver.planner(volume)?;
    match planner.size() {
        size if size > room => {
            Err(Error::input(format!("the filesystem has {size} bytes, its volume {room}")))
        }
        _ => Ok(planner),
    }
}

/// A volume of a disk, wherever its parts lie.
pub(crate) struct VolumeSource {
    disk: Arc<dyn Source>,
    extents: Vec<VolumeExtent>,
}

impl VolumeSource {
    pub(crate) fn new(scan: &Scan, volume: &ScannedVolume) -> Self {
        VolumeSource { disk: scan.disk.clone(), extents: volume.extents.clone() }
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
