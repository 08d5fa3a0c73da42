//! The parameters from which a volume is planned, read from the existing volume.

use std::sync::Arc;

use mif_formats::Source;
use mif_formats::fs::plan::Planner;
use mif_formats::fs::{self, Driver, Filesystem};

use crate::error::{Error, Result};

/// Returns the parameters of the volume that contains `filesystem`.
///
/// # Errors
///
/// Fails if the filesystem claims more bytes than its volume has, for example because the volume was truncated: a
/// volume of that size would not fit.
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

/// Returns the driver that plans volumes like this one.
///
/// # Errors
///
/// Fails if such volumes cannot be planned.
pub(crate) fn driver_of(filesystem: &dyn Filesystem) -> Result<&'static dyn Driver> {
    let kind = &filesystem.info().kind;
    let driver = fs::driver(kind).filter(|driver| driver.capabilities().is_planned);
    driver.ok_or_else(|| Error::unsupported(format!("mif cannot write {kind} filesystems")))
}
