//! What a volume is planned from: its parameters, read from where it lies.

use std::sync::Arc;

use mif_formats::Source;
use mif_formats::fs::plan::Planner;
use mif_formats::fs::{self, Driver, Filesystem};

use crate::error::{Error, Result};

/// The parameters of the volume on which `filesystem` was found.
///
/// # Errors
///
/// If the filesystem says that it has more bytes than its volume, as after it was cut off: nobody could hold that size.
pub(crate) fn planner_of(filesystem: &dyn Filesystem, volume: Arc<dyn Source>) -> Result<Box<dyn Planner>> {
    let room = volume.len();
    let planner = driver_of(filesystem)?.planner(volume)?;
    match planner.size() {
        size if size > room => {
            Err(Error::input(format!("the filesystem claims {size} bytes, but its volume has {room}")))
        }
        _ => Ok(planner),
    }
}

/// The driver that plans volumes like this one.
///
/// # Errors
///
/// If such volumes cannot be planned.
pub(crate) fn driver_of(filesystem: &dyn Filesystem) -> Result<&'static dyn Driver> {
    let kind = &filesystem.info().kind;
    let driver = fs::driver(kind).filter(|driver| driver.capabilities().is_planned);
    driver.ok_or_else(|| Error::unsupported(format!("mif cannot write {kind} filesystems")))
}
