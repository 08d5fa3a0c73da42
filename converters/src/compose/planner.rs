//! The parameters of a volume to plan, of whatever filesystem.

use std::sync::Arc;

use mif_formats::fs::plan::{Planned, Tree};
use mif_formats::fs::{Filesystem, ext4, fat};
use mif_formats::source::check_range;
use mif_formats::{Extent, Source};

use crate::disk::scan::{Scan, ScannedVolume, VolumeExtent};
use crate::error::{Error, Result};

/// The parameters of a volume to plan.
#[derive(Clone)]
pub(crate) enum Params {
    Ext(ext4::plan::Params),
    Fat(fat::plan::Params),
}

impl Params {
    /// Those of a volume that is there.
    pub(crate) fn of(filesystem: &dyn Filesystem, volume: Arc<dyn Source>) -> Result<Self> {
        let room = volume.len();
        let params = if filesystem.info().kind.starts_with("ext") {
            Params::Ext(ext4::plan::Params::from_volume(&*volume)?)
        } else {
            Params::Fat(fat::plan::Params::from_volume(volume)?)
        };
        // An original that was cut off says more than it has: it is not planned at a size that nobody can hold.
        match params.size() {
            size if size > room => {
                Err(Error::input(format!("the filesystem has {size} bytes, its volume {room}")))
            }
            _ => Ok(params),
        }
    }

    pub(crate) fn size(&self) -> u64 {
        match self {
            Params::Ext(params) => params.size(),
            Params::Fat(params) => params.size(),
        }
    }

    /// Takes another size, in bytes.
    pub(crate) fn resize(&mut self, size: u64) {
        match self {
            Params::Ext(params) => params.resize(size),
            Params::Fat(params) => params.resize(size),
        }
    }

    /// Plans `tree`, and hands the plan on.
    pub(crate) fn plan(&self, tree: &Tree, then: &mut dyn FnMut(&dyn Planned) -> Result<()>) -> Result<()> {
        match self {
            Params::Ext(params) => then(&ext4::plan::Plan::new(tree, params.clone())?),
            Params::Fat(params) => then(&fat::plan::Plan::new(tree, params.clone())?),
        }
    }

    /// The smallest size in bytes at which `tree` can be planned.
    pub(crate) fn minimum(&self, tree: &Tree) -> Result<u64> {
        match self {
            Params::Ext(params) => Ok(ext4::plan::minimum_size(tree, params)?),
            Params::Fat(params) => Ok(fat::plan::minimum_size(tree, params)?),
        }
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
