//! A volume as the other readers want it: as a device with a position.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use mif_formats::Source;

use crate::disk::scan::VolumeExtent;

/// The bytes of a volume, wherever on the disk they lie.
#[derive(Clone)]
pub(super) struct VolumeSource {
    disk: Arc<dyn Source>,
    extents: Vec<VolumeExtent>,
}

impl VolumeSource {
    pub(super) fn new(disk: Arc<dyn Source>, extents: &[VolumeExtent]) -> Self {
        VolumeSource { disk, extents: extents.to_vec() }
    }

    /// All of a disk.
    pub(super) fn whole(disk: Arc<dyn Source>) -> Self {
        let len = disk.len();
        VolumeSource { disk, extents: vec![VolumeExtent { volume: 0, disk: 0, len }] }
    }

    pub(super) fn len(&self) -> u64 {
        self.extents.last().map_or(0, |extent| extent.volume + extent.len)
    }

    /// Fills `buf` from `offset` on, as far as there are bytes; gives how many.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = self.len().saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let i = self.extents.partition_point(|e| e.volume + e.len <= at);
            let extent = self.extents[i];
            let part = (extent.volume + extent.len - at).min((wanted - done) as u64) as usize;
            let disk = extent.disk + (at - extent.volume);
            self.disk.read_at(disk, &mut buf[done..done + part]).map_err(io::Error::other)?;
            done += part;
        }
        Ok(wanted)
    }
}

/// A position on a volume. Writing is asked for by the readers' types, and refused.
pub(super) struct Device {
    volume: VolumeSource,
    at: u64,
}

impl Device {
    pub(super) fn new(volume: VolumeSource) -> Self {
        Device { volume, at: 0 }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device at {} of {}", self.at, self.volume.len())
    }
}

impl Read for Device {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.volume.read(self.at, buf)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Device {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.volume.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = place.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

impl Write for Device {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::from(io::ErrorKind::PermissionDenied))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
