//! The Btrfs driver.

use std::sync::Arc;

use super::capabilities::CAPABILITIES;
use super::{Btrfs, superblock};
use crate::error::Result;
use crate::fs::capabilities::Capabilities;
use crate::fs::driver::Driver;
use crate::fs::filesystem::Filesystem;
use crate::source::Source;

/// The Btrfs driver.
pub(in crate::fs) struct BtrfsDriver;

impl Driver for BtrfsDriver {
    fn name(&self) -> &'static str {
        "Btrfs"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["btrfs"]
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn probe(&self, head: &[u8]) -> bool {
        let start = superblock::OFFSETS[0] as usize;
        head.get(start..start + superblock::SIZE).is_some_and(superblock::has_magic)
    }

    fn open(&self, volume: Arc<dyn Source>) -> Result<Box<dyn Filesystem>> {
        Ok(Box::new(Btrfs::open(volume)?))
    }

    fn label(&self, text: &str) -> Option<Vec<u8>> {
        let fits = text.len() <= CAPABILITIES.label_max && !text.contains(['\0', '\n']);
        fits.then(|| text.as_bytes().to_vec())
    }
}
