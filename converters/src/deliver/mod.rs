//! Delivery: what hypervisors and clouds ask of a disk image file, and the archives that some of them take.
//!
//! `platform.rs` is the table of targets. A target takes one or more forms of file; each form is a container format with
//! fixed options and perhaps an archive around it.

mod appliance;
mod archive;
mod delivery;
mod disk_tar;
mod ovf;
pub(crate) mod platform;
mod settings;
mod stream;
mod vagrant;
mod vma;

use mif_formats::container::{CreateOptions, Output};

pub(crate) use self::delivery::Delivery;
use self::platform::{Form, Wrapper};
use crate::error::Result;
use crate::task::progress::Progress;

/// Writes the disk in this form. `settings` are the options of the archive, as `key=value`.
pub(crate) fn write(
    delivery: &Delivery<'_>,
    form: &Form,
    settings: &CreateOptions,
    output: &mut Output,
    progress: &dyn Progress,
) -> Result<()> {
    match &form.wrapper {
        Wrapper::None => Ok(delivery.format.create(delivery.disk, output, delivery.options, progress)?),
        Wrapper::Appliance(machine) => appliance::write(delivery, machine, settings, output, progress),
        Wrapper::DiskTar => disk_tar::write(delivery.disk, output, progress),
        Wrapper::Vagrant => vagrant::write(delivery, output, progress),
        Wrapper::Backup { is_compressed } => vma::write(delivery, *is_compressed, settings, output, progress),
    }
}
