//! What a volume is planned from: its parameters, read from where it lies.

use std::sync::Arc;

use mif_formats::Source;
use mif_formats::fs::plan::Planner;
use mif_formats::fs::{self, Filesystem};

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
