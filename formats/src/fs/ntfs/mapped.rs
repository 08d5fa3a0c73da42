//! The bytes of an attribute that lie in clusters.

use super::record::Sizes;
use super::runs::Run;
use super::volume::Volume;
use crate::error::{At, Result};

/// Where the bytes of an attribute lie.
pub(super) struct Mapped {
    /// In order and without gaps.
    pub(super) runs: Vec<Run>,
    pub(super) sizes: Sizes,
    cluster_size: u64,
}

impl Mapped {
    /// Starts without clusters.
    pub(super) fn new(sizes: Sizes, volume: &Volume) -> Self {
        Mapped { runs: Vec::new(), sizes, cluster_size: volume.cluster_size() }
    }

    /// Returns the number of clusters.
    pub(super) fn end(&self) -> u64 {
        self.runs.last().map_or(0, Run::end)
    }

    /// Returns the number of bytes in clusters, with those past the attribute's size.
    pub(super) fn len(&self) -> u64 {
        self.end() * self.cluster_size
    }

    /// Returns the number of bytes that were written.
    pub(super) fn initialized(&self) -> u64 {
        self.sizes.initialized.min(self.sizes.data)
    }

    /// Fails unless there are clusters for all bytes.
    pub(super) fn check_size(&self, place: impl Fn() -> At) -> Result<()> {
        if self.sizes.data > self.len() {
            return Err(place().corrupt(format!(
                "has {} bytes, but clusters for {}",
                self.sizes.data,
                self.len()
            )));
        }
        Ok(())
    }

    /// Calls `found` for each piece of the `len` bytes at `from`, which lie in the clusters: its offset on the volume, or
    /// `None` for a hole, and its length.
    pub(super) fn locate(
        &self,
        from: u64,
        len: u64,
        found: &mut dyn FnMut(Option<u64>, u64) -> Result<()>,
    ) -> Result<()> {
        let (mut next, end) = (from, from + len);
        let first = self.runs.partition_point(|run| run.end() * self.cluster_size <= from);
        for run in &self.runs[first..] {
            if next >= end {
                break;
            }
            let within = next - run.vcn * self.cluster_size;
            let here = (run.end() * self.cluster_size).min(end) - next;
            found(run.lcn.map(|lcn| lcn * self.cluster_size + within), here)?;
            next += here;
        }
        Ok(())
    }

    /// Reads the bytes at `from`. Those in holes and those that were not written are zeros; those past the clusters are an
    /// error.
    pub(super) fn read(
        &self,
        volume: &Volume,
        place: &dyn Fn() -> At,
        from: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        let len = buf.len() as u64;
        if from.checked_add(len).is_none_or(|end| end > self.len()) {
            return Err(place().corrupt(format!(
                "has clusters for {} bytes, but {len} are needed at byte {from}",
                self.len()
            )));
        }
        let mut done = 0;
        buf.fill(0);
        let written = self.initialized().saturating_sub(from).min(len);
        self.locate(from, written, &mut |offset, here| {
            let end = done + here as usize;
            if let Some(offset) = offset {
                volume.read("NTFS metadata", offset, &mut buf[done..end])?;
            }
            done = end;
            Ok(())
        })
    }

    /// Returns where byte `from` lies on the volume, if it does.
    pub(super) fn place_of(&self, from: u64) -> Option<u64> {
        let at = self.runs.partition_point(|run| run.end() * self.cluster_size <= from);
        let run = self.runs.get(at)?;
        Some(run.lcn? * self.cluster_size + (from - run.vcn * self.cluster_size))
    }
}
