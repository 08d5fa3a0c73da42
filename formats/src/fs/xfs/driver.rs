//! The XFS driver.

use std::sync::Arc;

use super::{Xfs, superblock};
use crate::error::Result;
use crate::fs::capabilities::Capabilities;
use crate::fs::driver::Driver;
use crate::fs::filesystem::Filesystem;
use crate::source::Source;

/// The XFS driver.
pub(in crate::fs) struct XfsDriver;

/// The capabilities of XFS. Times are those of `bigtime`, from December 1901 to July 2486.
pub(super) static CAPABILITIES: Capabilities = Capabilities {
    name: "XFS",
    is_posix: true,
    ignores_case: false,
    times: (-(1 << 31), 16_299_260_424),
    time_step: 1,
    shares_extents: true,
    has_subvolumes: false,
    has_streams: false,
    is_planned: false,
    // chattr(1): synchronous, immutable, append-only, no dump, no access times; and project inheritance.
    user_flags: 0x2000_00F8,
    new_flags: [0, 0],
    label_max: 12,
    made_with: &[],
};

/// Capabilities of a volume that ignores the case of ASCII letters in names.
pub(super) static IGNORES_CASE: Capabilities = Capabilities { ignores_case: true, ..CAPABILITIES };

impl Driver for XfsDriver {
    fn name(&self) -> &'static str {
        "XFS"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["xfs"]
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn probe(&self, head: &[u8]) -> bool {
        superblock::has_magic(head)
    }

    fn open(&self, volume: Arc<dyn Source>) -> Result<Box<dyn Filesystem>> {
        Ok(Box::new(Xfs::open(volume)?))
    }
}
