//! The bytes of a volume.

use std::sync::Arc;

use super::boot::Boot;
use crate::error::{Result, at};
use crate::source::Source;

/// A volume whose geometry is known.
pub(super) struct Volume {
    source: Arc<dyn Source>,
    pub(super) boot: Boot,
    /// The number of readable bytes: those of the filesystem that exist on the volume.
    pub(super) len: u64,
}

impl Volume {
    pub(super) fn new(source: Arc<dyn Source>, boot: Boot) -> Self {
        let len = boot.size().min(source.len());
        Volume { source, boot, len }
    }

    /// Returns the bytes per cluster.
    pub(super) fn cluster_size(&self) -> u64 {
        self.boot.cluster_size
    }

    /// Fails unless the `len` bytes at `offset` can be read.
    pub(super) fn check(&self, what: &str, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(at(what)
                .byte(offset)
                .corrupt(format!("{len} bytes extend past the end of the volume at {}", self.len))),
        }
    }

    /// Reads the bytes at `offset`. `what` is for the error.
    pub(super) fn read(&self, what: &str, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check(what, offset, buf.len() as u64)?;
        self.source.read_at(offset, buf)
    }
}
